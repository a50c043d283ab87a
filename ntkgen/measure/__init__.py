"""Measurements of trained networks over a leading seed axis, as trained and at equal loss.

Use `flatness` for the sharpness of trained networks and `track` along training. Use `at_loss` or
`matching_temperature` to compare networks at equal loss, and `noise_scale` for gradient noise. `each_seed` lifts a
measurement of one network over all seeds.
"""

from ntkgen.measure._equal_loss import (
    Matched,
    Passage,
    at_loss,
    matching_temperature,
    outputs_temperature,
    passage,
    tempered,
)
from ntkgen.measure._gradient_noise import NoiseScale, noise_scale
from ntkgen.measure._seeds import correct, each_seed
from ntkgen.measure._sharpness import (
    Flatness,
    Spectral,
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

__all__ = [
    "Flatness",
    "Matched",
    "NoiseScale",
    "Passage",
    "Spectral",
    "Track",
    "at_loss",
    "correct",
    "distance",
    "each_seed",
    "flatness",
    "matching_temperature",
    "mean_loss",
    "noise_scale",
    "outputs_temperature",
    "passage",
    "power",
    "random_start",
    "spectral",
    "tempered",
    "track",
    "warm_start",
]
