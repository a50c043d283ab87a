"""Curvature of a mean loss as products with a vector: Hessian, Gauss-Newton, Fisher, gradient covariance.

Use `*_matvec` to fix everything but the vector, and give what it returns to `ntkgen.spectrum`. Use `*_vp` for a single
product. `hvp` takes any scalar function of the parameters.
"""

from ntkgen.curvature._products import (
    FORWARD,
    REVERSE,
    derivative_mode,
    fisher_matvec,
    fisher_vp,
    ggn_matvec,
    ggn_vp,
    gradient_covariance_matvec,
    gradient_covariance_vp,
    hessian_matvec,
    hessian_vp,
    highest_precision,
    hvp,
    stability_threshold,
)

__all__ = [
    "FORWARD",
    "REVERSE",
    "derivative_mode",
    "fisher_matvec",
    "fisher_vp",
    "ggn_matvec",
    "ggn_vp",
    "gradient_covariance_matvec",
    "gradient_covariance_vp",
    "hessian_matvec",
    "hessian_vp",
    "highest_precision",
    "hvp",
    "stability_threshold",
]
