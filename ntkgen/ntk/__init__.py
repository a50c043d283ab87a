"""Exact empirical tangent kernels of any network, within a memory budget.

Use `empirical_ntk` for one network and `empirical_ntk_seeds` for an ensemble. `plan` says beforehand what either will
do. Use `ntk_vp` for products with a kernel that is too large to hold.
"""

from ntkgen.ntk._kernel import METHODS, empirical_ntk, empirical_ntk_seeds, ntk_vp, plan
from ntkgen.ntk._plan import Plan

__all__ = [
    "METHODS",
    "Plan",
    "empirical_ntk",
    "empirical_ntk_seeds",
    "ntk_vp",
    "plan",
]
