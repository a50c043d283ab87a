"""Train many seeds of a network in one call with `fit`; `sam` and `injected_noise` replace its gradient.

`choose_strategy` and `plan` decide how a program walks the seed axis: batched, one seed after another, over devices.
"""

from ntkgen.ensemble._fit import Context, OnHost, Result, fit
from ntkgen.ensemble._gradients import injected_noise, sam
from ntkgen.ensemble._layout import STRATEGIES, Plan, check_fits, choose_strategy, place, plan

__all__ = [
    "STRATEGIES",
    "Context",
    "OnHost",
    "Plan",
    "Result",
    "check_fits",
    "choose_strategy",
    "fit",
    "injected_noise",
    "place",
    "plan",
    "sam",
]
