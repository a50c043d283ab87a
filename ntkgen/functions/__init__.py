"""A network as a function: how any module is called, and what compiled programs need to know of it.

The other packages build on these. Use `freeze` before you give a function to a compiled program, so that the program
never returns values of an earlier call. Use `restrict` to measure one layer alone, `jvp` for a directional derivative
of any network, `switches` to call a module in training or evaluation mode, and `require_independence` where a sample's
outputs must not depend on other samples.
"""

from ntkgen.functions._calls import SWITCHES, bare, hashable, needed, parameters, spread, switches
from ntkgen.functions._directional import jvp
from ntkgen.functions._frozen import (
    Function,
    fingerprint,
    freeze,
    has_forward_mode,
    is_traced,
    programs,
    refuse_replaced,
)
from ntkgen.functions._independence import dependence, require_independence, rounding_tolerance
from ntkgen.functions._modules import (
    Evaluation,
    forward_train,
    init,
    refit_statistics,
    short,
    step_rngs,
    trace_training,
    whole,
)
from ntkgen.functions._networks import check_network
from ntkgen.functions._quick import quick_jit
from ntkgen.functions._restrict import restrict

__all__ = [
    "SWITCHES",
    "Evaluation",
    "Function",
    "bare",
    "check_network",
    "dependence",
    "fingerprint",
    "forward_train",
    "freeze",
    "has_forward_mode",
    "hashable",
    "init",
    "is_traced",
    "jvp",
    "needed",
    "parameters",
    "programs",
    "quick_jit",
    "refit_statistics",
    "refuse_replaced",
    "require_independence",
    "restrict",
    "rounding_tolerance",
    "short",
    "spread",
    "step_rngs",
    "switches",
    "trace_training",
    "whole",
]
