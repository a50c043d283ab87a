"""Measurements of trained networks over a leading seed axis, as trained and at equal loss.

Use `take_all` to measure everything that the package knows on the same networks, `take` for one of `MEASUREMENTS`.
`rescaled` makes other weights of the same function, to see which measures depend on them. Use `flatness` for the
sharpness of trained networks and `track` along training. Use `at_loss` or `matching_temperature` to compare networks at
equal loss, and `noise_scale` for gradient noise. `each_seed` lifts a measurement of one network over all seeds.
"""

from ntkgen.measure._battery import MEASUREMENTS, take_all
from ntkgen.measure._equal_loss import (
    Matched,
    Passage,
    at_loss,
    matching_temperature,
    outputs_temperature,
    passage,
    tempered,
)
from ntkgen.measure._flat import perturbation_at
from ntkgen.measure._flat_at_loss import sharpness_at
from ntkgen.measure._gradient_noise import NoiseScale, noise_scale
from ntkgen.measure._representation import linear_cka, prunability_at
from ntkgen.measure._seeds import correct, each_seed
from ntkgen.measure._sharpness import (
    Flatness,
    FlatnessOptions,
    Spectral,
    SpectralOptions,
    Track,
    distance,
    flatness,
    mean_loss,
    power,
    random_start,
    spectral,
    track,
    warm_start,
)
from ntkgen.measure._take import Examples, Measurement, Network, Trained, take
from ntkgen.models import rescaled

__all__ = [
    "MEASUREMENTS",
    "Examples",
    "Flatness",
    "FlatnessOptions",
    "Matched",
    "Measurement",
    "Network",
    "NoiseScale",
    "Passage",
    "Spectral",
    "SpectralOptions",
    "Track",
    "Trained",
    "at_loss",
    "correct",
    "distance",
    "each_seed",
    "flatness",
    "linear_cka",
    "matching_temperature",
    "mean_loss",
    "noise_scale",
    "outputs_temperature",
    "passage",
    "perturbation_at",
    "power",
    "prunability_at",
    "random_start",
    "rescaled",
    "sharpness_at",
    "spectral",
    "take",
    "take_all",
    "tempered",
    "track",
    "warm_start",
]
