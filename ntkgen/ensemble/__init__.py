"""Train many seeds of a network in one call.

Use `fit`; `fit_widths` trains several widths in one program, and `precompile` compiles what a fit will run. The
argument `update` takes `sam` or `injected_noise`, which replace the gradient; `options` takes `Options`: which seeds
run together and which epochs are measured.
`choose_strategy` and `plan` decide how the seed axis is walked: batched, one seed after another, or over devices;
`fit` calls them for you.
`programs` has what `fit` compiles, for benchmarks.
"""

from ntkgen.ensemble import programs
from ntkgen.ensemble._fit import METRICS, Checkpoint, Result, fit
from ntkgen.ensemble._gradients import injected_noise, noise_weights, sam, zero_sum_normals
from ntkgen.ensemble._layout import STRATEGIES, Layout, check_fits, choose_strategy, place, plan, seeds_per_chunk
from ntkgen.ensemble._options import Options
from ntkgen.ensemble._precompile import precompile
from ntkgen.ensemble._probes import Context, OnHost
from ntkgen.ensemble._widths import Padded, fit_widths, width_groups

__all__ = [
    "METRICS",
    "STRATEGIES",
    "Checkpoint",
    "Context",
    "Layout",
    "OnHost",
    "Options",
    "Padded",
    "Result",
    "check_fits",
    "choose_strategy",
    "fit",
    "fit_widths",
    "injected_noise",
    "noise_weights",
    "place",
    "plan",
    "precompile",
    "programs",
    "sam",
    "seeds_per_chunk",
    "width_groups",
    "zero_sum_normals",
]
