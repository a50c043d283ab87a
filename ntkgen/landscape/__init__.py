"""The loss around a solution: perturbations, adaptive sharpness, lines and planes, barriers.

Use `average_adaptive_sharpness` or `worst_adaptive_sharpness` to compare networks whose weights differ in scale,
`perturbation` for the paper's measure, `line` and `plane` for pictures, and `error_barrier` for the path between two
solutions.
"""

from ntkgen.landscape._barriers import Barrier, error_barrier
from ntkgen.landscape._neighbourhood import (
    NORMS,
    SAMPLES,
    SIGMAS,
    Sensitivity,
    Sharpness,
    average_adaptive_sharpness,
    filter_direction,
    interpolate,
    line,
    perturbation,
    plane,
    worst_adaptive_sharpness,
)

__all__ = [
    "NORMS",
    "SAMPLES",
    "SIGMAS",
    "Barrier",
    "Sensitivity",
    "Sharpness",
    "average_adaptive_sharpness",
    "error_barrier",
    "filter_direction",
    "interpolate",
    "line",
    "perturbation",
    "plane",
    "worst_adaptive_sharpness",
]
