"""Which measure predicts generalization? All mechanisms on one population of trained networks; RQ1 to RQ6 together.

Trains a grid of hyperparameters to one training loss, measures everything of `measure.MEASUREMENTS` on every network,
and tests which measure goes with the generalization gap: over all arms, and with all other hyperparameters held fixed.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.mechanisms import _config
from ntkgen.studies.mechanisms._config import OVERALL, PARTIAL, PSI, Config

__all__ = ["OVERALL", "PARTIAL", "PSI", "STUDY", "Config", "run"]


STUDY = base.Study(
    name="mechanisms",
    question="Which measure predicts generalization when the other hyperparameters are held fixed?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.mechanisms._population", "prepare"),
    measure=base.later("ntkgen.studies.mechanisms._measure", "measure"),
    derive=base.later("ntkgen.studies.mechanisms._report", "derive"),
    figures=base.later("ntkgen.studies.mechanisms._report", "figures"),
    tables=("networks", "rescaling", "associations", "effects", "calibration"),
)
run = runner.of(STUDY)
