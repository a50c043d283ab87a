"""Means of arms from runs of shape (arms, replicates) or (arms, replicates, seeds), where NaN marks a lost run."""

import numpy as np
from numpy.typing import ArrayLike

from ntkgen.stats._check import check

SWEEPS = 50  # of alternating means; the error shrinks at least by the share of lost runs each time
BITS = 40  # of a mean; closer means are ties, because summing in another order changes the last bits


def runs(x: ArrayLike, name: str, num_arms: int | None = None) -> np.ndarray:
    """Return x as an array of floats, shape (arms, replicates, seeds); missing axes get length 1."""
    values = np.asarray(x, float)
    shaped = 1 <= values.ndim <= 3 and values.size > 0 and num_arms in (None, len(values))
    check(shaped, f"{name}: expected shape ({num_arms or 'arms'}, replicates[, seeds]), got {values.shape}")
    check(not np.isinf(values).any(), f"{name}: expected finite numbers, or NaN for a lost run, got an infinity")
    return values.reshape(values.shape + (1,) * (3 - values.ndim))


def joint(measure: ArrayLike, outcome: ArrayLike, num_arms: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return both as in `runs`, each NaN where the other one is."""
    first, second = runs(measure, "measure", num_arms), runs(outcome, "outcome", num_arms)
    check(first.shape == second.shape, f"outcome: expected the shape of measure, {first.shape}, got {second.shape}")
    lost = np.isnan(first + second)
    return np.where(lost, np.nan, first), np.where(lost, np.nan, second)


def replicate_means(values: np.ndarray) -> np.ndarray:
    """Return the mean over the seeds that are left, shape (arms, replicates), NaN where none is."""
    return _mean(values, 2)


def arm_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each arm, shape (arms,), NaN where no run is left.

    Replicates weigh the same. If an arm lost all runs of a replicate, the means are those of least squares in the
    two-way layout arm + replicate: an arm does not look better because it lost a difficult data set. This corrects
    for what replicates have in common, and not for runs that were lost because they were bad.
    """
    table = replicate_means(values)
    means = _mean(table, 1)
    there = ~np.isnan(table)
    if not there[there.any(1)].all():
        for _ in range(SWEEPS):
            shift = _mean(table - means[:, None], 0)
            means = _mean(table - (shift - np.nanmean(shift)), 1)
    mantissa, exponent = np.frexp(means)
    return np.ldexp(np.round(np.ldexp(mantissa, BITS)), exponent - BITS)


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    there = ~np.isnan(values)
    count = there.sum(axis)
    total = np.where(there, values, 0.0).sum(axis)
    return np.where(count, total / np.maximum(count, 1), np.nan)
