"""What the joint study trains, measures and analyses, part by part."""

from ntkgen import records
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.mechanisms import _analysis, _population


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
