"""Train many seeds of a network in one call with `fit`; `sam` and `injected_noise` replace its gradient.

`choose_strategy` and `plan` decide how a program walks the seed axis: batched, one seed after another, over devices.
"""

from ntkgen.ensemble import programs
from ntkgen.ensemble._fit import METRICS, Checkpoint, Context, OnHost, Result, fit
from ntkgen.ensemble._gradients import injected_noise, noise_weights, sam, zero_sum_normals
from ntkgen.ensemble._layout import STRATEGIES, Plan, check_fits, choose_strategy, place, plan, seeds_per_chunk

__all__ = [
    "METRICS",
    "STRATEGIES",
    "Checkpoint",
    "Context",
    "OnHost",
    "Plan",
    "Result",
    "check_fits",
    "choose_strategy",
    "fit",
    "injected_noise",
    "noise_weights",
    "place",
    "plan",
    "programs",
    "sam",
    "seeds_per_chunk",
    "zero_sum_normals",
]
