"""The measurements that are taken of every network, in a fixed order."""

from ntkgen.measure import _bounds, _flat, _flat_at_loss, _norms, _plain, _representation
from ntkgen.measure._take import Measurement

MEASUREMENTS: dict[str, Measurement] = {
    each.name: each
    for each in (
        _plain.FIT,
        _flat.SHARPNESS,
        _flat.ADAPTIVE,
        _flat.PERTURBATION,
        _flat_at_loss.AT_LOSS,
        _flat.NOISE,
        _plain.MOVEMENT,
        _representation.KERNEL,
        _representation.FEATURES,
        _norms.NORMS,
        _norms.MARGINS,
        _bounds.PAC_BAYES,
        _bounds.CAPACITY,
        _representation.PRUNABILITY,
    )
}
