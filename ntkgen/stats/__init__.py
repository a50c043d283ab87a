"""Statistics for a handful of seeds: intervals, tests, power, fits.

Use `interval` for the mean of one arm, `paired` to compare two arms that share seeds, `welch` for independent runs and
`equivalence` to show that a difference is small. `minimum_detectable_effect` says what a test could have found.
`rank_sum` and `signed_rank` are for values such as "never". Use `association` for a relation over arms, `peak_test` and
`threshold` for double descent, `false_discovery` over all p-values of one question, and `decide` for the word: seen,
not seen or undecided. Seeds are the first axis; NaN
marks a lost run.
"""

from ntkgen.stats._association import LEAST_ARMS, Association, association
from ntkgen.stats._crossed import Crossed, crossed
from ntkgen.stats._decisions import NOT_SEEN, SEEN, UNDECIDED, Decision, decide, decide_equal
from ntkgen.stats._equal_loss import LEAST, OverTargets, over_targets
from ntkgen.stats._margins import ACCURACY, SHARPNESS, above, beyond, equivalence_power, largest_equivalent, within
from ntkgen.stats._peaks import PeakTest, Threshold, falls_beyond, peak_test, threshold
from ntkgen.stats._ranks import rank_sum, signed_rank
from ntkgen.stats._tests import (
    Equivalence,
    Interval,
    PowerLaw,
    Summary,
    TestResult,
    equivalence,
    false_discovery,
    interval,
    mean_std,
    minimum_detectable_effect,
    paired,
    power_law_fit,
    welch,
)

__all__ = [
    "ACCURACY",
    "LEAST",
    "LEAST_ARMS",
    "NOT_SEEN",
    "SEEN",
    "SHARPNESS",
    "UNDECIDED",
    "Association",
    "Crossed",
    "Decision",
    "Equivalence",
    "Interval",
    "OverTargets",
    "PeakTest",
    "PowerLaw",
    "Summary",
    "TestResult",
    "Threshold",
    "above",
    "association",
    "beyond",
    "crossed",
    "decide",
    "decide_equal",
    "equivalence",
    "equivalence_power",
    "falls_beyond",
    "false_discovery",
    "interval",
    "largest_equivalent",
    "mean_std",
    "minimum_detectable_effect",
    "over_targets",
    "paired",
    "peak_test",
    "power_law_fit",
    "rank_sum",
    "signed_rank",
    "threshold",
    "welch",
    "within",
]
