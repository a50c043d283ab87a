"""Exact empirical tangent kernels of any network, within a memory budget.

Use `empirical_ntk` for one network and `empirical_ntk_seeds` for an ensemble. `plan` says beforehand what either will
do. Use `ntk_vp` for products with a kernel that is too large to hold.
"""

from ntkgen.ntk._checks import METHODS
from ntkgen.ntk._kernel import empirical_ntk, plan
from ntkgen.ntk._plan import Plan
from ntkgen.ntk._products import ntk_vp
from ntkgen.ntk._seeds import empirical_ntk_seeds

__all__ = [
    "METHODS",
    "Plan",
    "empirical_ntk",
    "empirical_ntk_seeds",
    "ntk_vp",
    "plan",
]
