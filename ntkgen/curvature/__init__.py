"""Curvature of a mean loss as products with a vector: Hessian, Gauss-Newton, Fisher, gradient covariance.

Use `hessian_matvec` and its kin to fix all but the vector, and give what they return to `ntkgen.spectrum`.
"""

from ntkgen.curvature._products import (
    FORWARD,
    derivative_mode,
    ggn_vp,
    hessian_matvec,
    highest_precision,
    hvp,
    stability_threshold,
)

__all__ = [
    "FORWARD",
    "derivative_mode",
    "ggn_vp",
    "hessian_matvec",
    "highest_precision",
    "hvp",
    "stability_threshold",
]
