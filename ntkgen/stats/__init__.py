"""Statistics for a handful of seeds: intervals, tests, power, fits.

Use `interval` for the mean of one arm, `paired` to compare two arms that share seeds, `welch` for independent runs and
`equivalence` to show that a difference is small. `minimum_detectable_effect` says what a test could have found.
`rank_sum` and `signed_rank` are for values such as "never". Use `association` for a relation over arms, `peak_test` and
`threshold` for double descent, `false_discovery` over all p-values of one question, and `decide` for the word: seen,
not seen or undecided. Seeds are the first axis; NaN
marks a lost run.

A population of arms has a `design`: the arms, and which of them differ in one hyperparameter alone. Values then have
the shape (arms, replicates[, seeds]). Use `kendall_overall` for the relation over all arms, `granulated` with one
hyperparameter varied at a time, `conditional_information` and `robust_sign_error` as in the literature on measures of
generalization, `partial_association` for what is left once the hyperparameters are taken out, `effects` for what each
hyperparameter does, and `mediation` for a path through a measure. `false_discovery` is left to the caller.
"""

from ntkgen.choices import ACCURACY, SHARPNESS
from ntkgen.stats._association import LEAST_ARMS, Association, association
from ntkgen.stats._crossed import Crossed, crossed
from ntkgen.stats._decisions import NOT_SEEN, SEEN, UNDECIDED, Decision, decide, decide_equal
from ntkgen.stats._design import Design, Factor, design
from ntkgen.stats._effects import Effect, effects
from ntkgen.stats._equal_loss import LEAST, OverTargets, over_targets
from ntkgen.stats._granulated import Granulated, Granule, granulated
from ntkgen.stats._information import Information, conditional_information
from ntkgen.stats._margins import above, beyond, equivalence_power, largest_equivalent, within
from ntkgen.stats._mediation import Mediation, Path, mediation
from ntkgen.stats._overall import Overall, kendall_overall
from ntkgen.stats._partial import Partial, partial_association
from ntkgen.stats._peaks import PeakTest, Threshold, falls_beyond, peak_test, threshold
from ntkgen.stats._ranks import rank_sum, signed_rank
from ntkgen.stats._sign_error import Environment, SignError, robust_sign_error
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
    "Design",
    "Effect",
    "Environment",
    "Equivalence",
    "Factor",
    "Granulated",
    "Granule",
    "Information",
    "Interval",
    "Mediation",
    "OverTargets",
    "Overall",
    "Partial",
    "Path",
    "PeakTest",
    "PowerLaw",
    "SignError",
    "Summary",
    "TestResult",
    "Threshold",
    "above",
    "association",
    "beyond",
    "conditional_information",
    "crossed",
    "decide",
    "decide_equal",
    "design",
    "effects",
    "equivalence",
    "equivalence_power",
    "falls_beyond",
    "false_discovery",
    "granulated",
    "interval",
    "kendall_overall",
    "largest_equivalent",
    "mean_std",
    "mediation",
    "minimum_detectable_effect",
    "over_targets",
    "paired",
    "partial_association",
    "peak_test",
    "power_law_fit",
    "rank_sum",
    "robust_sign_error",
    "signed_rank",
    "threshold",
    "welch",
    "within",
]
