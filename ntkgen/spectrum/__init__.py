"""Eigenvalues, spectral density and trace of a symmetric operator from its products with vectors.

Use `lanczos` for top eigenpairs, `density` for the whole spectrum and `trace` for its sum. Each result says how good it
is. `power_iteration` is the paper's method; it is slower than `lanczos`.
"""

from ntkgen.spectrum._estimates import (
    METHODS,
    TOLERANCE,
    WHICH,
    Density,
    Eigen,
    Estimate,
    density,
    interval,
    lanczos,
    power_iteration,
    smooth,
    trace,
)

__all__ = [
    "METHODS",
    "TOLERANCE",
    "WHICH",
    "Density",
    "Eigen",
    "Estimate",
    "density",
    "interval",
    "lanczos",
    "power_iteration",
    "smooth",
    "trace",
]
