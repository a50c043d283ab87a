"""What follows from a kernel: regression, alignment, drift, gradient flow, and kernels in expectation.

Use `regression` to predict, `drift` and `alignment` to compare two kernels, `infinite_mlp` for the kernel of our
initialisation, and `movement_to_loss` for what a network linear in its parameters would do.
"""

from ntkgen.kernels._linear_flow import Arrival, arrival, movement_to_loss
from ntkgen.kernels._regression import (
    Flow,
    InfiniteWidth,
    Spectrum,
    alignment,
    as_matrix,
    drift,
    effective_rank,
    flow_movement,
    gradient_flow,
    infinite_mlp,
    regression,
    spectrum,
    symmetric,
    target_alignment,
)

__all__ = [
    "Arrival",
    "Flow",
    "InfiniteWidth",
    "Spectrum",
    "alignment",
    "arrival",
    "as_matrix",
    "drift",
    "effective_rank",
    "flow_movement",
    "gradient_flow",
    "infinite_mlp",
    "movement_to_loss",
    "regression",
    "spectrum",
    "symmetric",
    "target_alignment",
]
