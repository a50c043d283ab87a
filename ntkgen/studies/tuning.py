"""Choose a setting on held-out training images, so that the test images are looked at once."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ntkgen import data, io

HELD_OUT = 5  # one training image of so many is held out
STREAMS = (7, 2)  # of the data's seed, apart from those of subsets, label noise and draws of test images


def hold_out(dataset: data.Dataset) -> data.Dataset:
    """Return the training images alone: a fifth, drawn by the data's own seed, as `test`, and the rest as `train`.

    Example:
      >>> from ntkgen import data
      >>> from ntkgen.studies import tuning
      >>> held = tuning.hold_out(data.load("digits", num_train=100))
      >>> len(held.train.y), len(held.test.y)
      (80, 20)

    Args:
      dataset: whose training images are split; label noise stays as it is in both parts.

    Raises:
      ValueError: there are fewer than five training images.
    """
    count = dataset.num_train // HELD_OUT
    if count < 1:
        raise ValueError(f"num_train: expected at least {HELD_OUT} images for tuning, got {dataset.num_train}")
    generator = np.random.default_rng(np.random.SeedSequence(dataset.seed, spawn_key=STREAMS))
    order = generator.permutation(dataset.num_train)
    held, rest = (
        data.Split(dataset.train.x[rows], dataset.train.y[rows])
        for rows in (np.sort(order[:count]), np.sort(order[count:]))
    )
    # The digest names the networks in the store: with the whole data set's these would pass for others.
    arrays = {f"{i}.{a}": np.asarray(getattr(part, a)) for i, part in enumerate((rest, held)) for a in "xy"}
    return dataclasses.replace(dataset, train=rest, test=held, num_train=len(rest.y), digest=io.digest(arrays))


def choose(candidates: Sequence[float], accuracies: np.ndarray) -> float | None:
    """Return the candidate with the highest mean accuracy, the smallest one of equals.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import tuning
      >>> tuning.choose([0.1, 0.2, 0.4], np.array([[90.0, 92.0, 95.0], [91.0, 92.0, np.nan]]))
      0.2

    Args:
      candidates: ascending.
      accuracies: (seeds, candidates), NaN where a network diverged or a kernel was not positive definite.

    Returns:
      The chosen one. A candidate that lost a seed is not chosen; None if all did.
    """
    means = np.round(accuracies.mean(0), 6)  # equal accuracies in another order of seeds differ by a rounding error
    return None if np.isnan(means).all() else candidates[int(np.nanargmax(means))]
