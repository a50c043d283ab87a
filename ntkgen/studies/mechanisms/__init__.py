"""Which measure predicts generalization? All mechanisms on one population of trained networks; RQ1 to RQ6 together.

Trains a grid of hyperparameters to one training loss, measures everything of `measure.MEASUREMENTS` on every network,
and tests which measure goes with the generalization gap: over all arms, and with all other hyperparameters held fixed.
"""

import functools

from ntkgen.studies import base, runner
from ntkgen.studies.mechanisms import _config, _measure, _population, _report
from ntkgen.studies.mechanisms._analysis import OVERALL, PARTIAL, PSI
from ntkgen.studies.mechanisms._config import Config

__all__ = ["OVERALL", "PARTIAL", "PSI", "STUDY", "Config", "run"]


STUDY = base.Study(
    name="mechanisms",
    question="Which measure predicts generalization when the other hyperparameters are held fixed?",
    config=Config,
    resolve=_config.resolve,
    prepare=_population.prepare,
    measure=_measure.measure,
    derive=_report.derive,
    figures=_report.figures,
    tables=("networks", "rescaling", "associations", "effects", "calibration"),
)
run = functools.partial(runner.run, STUDY)
