"""Which measure predicts generalization? All mechanisms on one population of trained networks; RQ1 to RQ6 together.

Trains a grid of hyperparameters to one training loss, measures everything of `measure.MEASUREMENTS` on every network,
and tests which measure goes with the generalization gap: over all arms, and with all other hyperparameters held fixed.
"""

import functools

from ntkgen import records
from ntkgen.studies import base, runner
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.mechanisms import _analysis, _config, _population, _report
from ntkgen.studies.mechanisms._analysis import OVERALL, PARTIAL, PSI
from ntkgen.studies.mechanisms._config import Config

__all__ = ["OVERALL", "PARTIAL", "PSI", "STUDY", "Config", "run"]


def measure(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Train, measure and analyse the population."""
    networks = _population.measure_all(run, prepared)
    measured = _analysis.Measured(networks)
    return {
        "networks": networks,
        "rescaling": _population.rescaled(run, prepared),
        "associations": run.kept("associations", lambda: _analysis.associations(measured)),
        "effects": run.kept("effects", lambda: _analysis.effects(measured)),
        "calibration": run.kept("calibration", lambda: _analysis.calibrate(measured, prepared.config.calibrations)),
    }


STUDY = base.Study(
    name="mechanisms",
    question="Which measure predicts generalization when the other hyperparameters are held fixed?",
    config=Config,
    resolve=_config.resolve,
    prepare=_population.prepare,
    measure=measure,
    derive=_report.derive,
    figures=_report.figures,
    tables=("networks", "rescaling", "associations", "effects", "calibration"),
)
run = functools.partial(runner.run, STUDY)
