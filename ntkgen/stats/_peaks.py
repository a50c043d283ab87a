"""The double-descent curve: where training error interpolates, and whether test error peaks there.

Errors have shape (seeds, sizes), sizes ascending; NaN marks a run that gave no number, and its seed is left out and
counted in ``num_nan``. An infinity is refused. The order of seeds does not matter. Results carry the unit of their
input; p-values and levels are fractions.
"""

import functools
import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntkgen.stats._tests import ROUNDING, TestResult, check, interval, mean_std, paired, seed_rows


class Threshold(NamedTuple):
    """Interpolation threshold in units of size; ``per_seed`` is NaN for the censored seeds."""

    value: float
    low: float
    high: float
    per_seed: np.ndarray
    index: int | None  # type: ignore[assignment]  # shadows tuple.index, which nobody calls here
    num_never: int
    num_at_smallest: int
    criterion: float
    num_nan: int


class PeakTest(NamedTuple):
    """A peak of the seed-mean error at index ``location``; ``rise`` and ``fall`` are in units of error."""

    pvalue: float
    location: int
    rise: float
    fall: float
    statistic: float
    n: int
    num_nan: int


def threshold(size: ArrayLike, error: ArrayLike, criterion: float, level: float = 0.95) -> Threshold:
    """Interpolation threshold: the size at which training error first comes down to the criterion.

    Per seed it is the first crossing, even if the error rises again later; between the two sizes that bracket it, log
    size is interpolated linearly in error. ``value`` is the geometric mean over the seeds that cross (NaN if none),
    [low, high] Student's interval in log size (NaN with fewer than 2). Seeds that never get there, or are there at the
    smallest size, are censored: they enter the counts alone, and with many of them ``value`` describes only the others,
    so widen the range of sizes. ``index`` is the first size whose mean error is at or below the criterion (None if
    there is none).

    Example:
      >>> from ntkgen import stats
      >>> found = stats.threshold([1.0, 4.0, 16.0], [[0.5, 0.2, 0.0], [0.4, 0.2, 0.0]], criterion=0.1)
      >>> round(found.value, 3), found.index
      (8.0, 2)

    Args:
        size: Parameter counts (or widths), positive and strictly ascending, shape (k,), k >= 2.
        error: Training error as a fraction, shape (seeds, k). A seed with a NaN is dropped and counted.
        criterion: Error that counts as interpolating, a fraction in [0, 1).
        level: Nominal coverage of the interval.

    Raises:
        ValueError: On shapes that do not match, unordered sizes, or errors or a criterion out of range.
    """
    check(0 <= criterion < 1, f"criterion: expected a fraction in [0, 1), got {criterion}")
    size = np.asarray(size, float)
    check(size.ndim == 1 and size.size >= 2, f"size: needs at least 2 values, got shape {size.shape}")
    ascending = bool(np.all(np.isfinite(size)) and size[0] > 0 and np.all(np.diff(size) > 0))
    check(ascending, f"size: expected positive, strictly ascending numbers, got {size}")
    error, num_nan = seed_rows(error, "error", num_sizes=size.size)
    low, high = error.min(), error.max()
    check(low >= 0 and high <= 1, f"error: expected fractions in [0, 1], got {low} to {high}")
    reached = error <= criterion
    at_smallest, never = reached[:, 0], ~reached.any(axis=1)
    rows = np.flatnonzero(~at_smallest & ~never)
    after = reached[rows].argmax(axis=1)
    above, below = error[rows, after - 1], error[rows, after]
    fraction = (above - criterion) / (above - below)
    log_size = np.log(size)
    crossing = (1 - fraction) * log_size[after - 1] + fraction * log_size[after]
    per_seed = np.full(len(error), np.nan)
    per_seed[rows] = np.exp(crossing)
    value = low = high = float("nan")
    if rows.size:
        value = float(np.exp(mean_std(crossing).mean))
        low, high = (float(np.exp(end)) for end in interval(crossing, "t", level, on_too_few="nan")[:2])
    mean_reached = error.mean(axis=0) <= criterion
    index = int(mean_reached.argmax()) if mean_reached.any() else None
    counts = int(never.sum()), int(at_smallest.sum())
    return Threshold(value, low, high, per_seed, index, *counts, criterion, num_nan)


def peak_test(error: ArrayLike, window: ArrayLike, num_permutations: int = 2000, seed: int = 0) -> PeakTest:
    """Test whether mean error peaks in the window: higher than at a smaller size and than at the largest.

    For sizes i and j, t_ji is the mean of the n seeds' differences e_j - e_i over its standard error. For each j in the
    window, rise_j is the largest t_ji over smaller sizes i, and fall_j is t_jk against the largest size k. The
    statistic is max_j min(rise_j, fall_j), reached at ``location`` (intersection-union, Berger 1982).

    A few seeds know little of the spread at one size. The squared standard error is therefore the largest of three,
    over n: the variance of the pair's own differences; its mean over all pairs of sizes from i to j; and its mean over
    all pairs in the window and the size on either side. Seeds may also differ much more at some sizes than at others,
    above all near the threshold. The null distribution is that of normal errors under the least favourable spreads of
    a family: equal ones, a hundredfold one at any single size, at a size of the window and at one or both ends, and
    spreads that rise or fall steadily over one or two decades. In a curve without a peak the sizes up to some place
    have no true rise, and those beyond it no true fall; p is the largest over these places and spreads, and pays for
    choosing the pair of sizes (max-T, Westfall & Young 1993). It is 1 where the mean curve has no peak in the window,
    and 1 / (1 + B) for a peak where all seeds have the same differences.

    Example:
      >>> from ntkgen import stats
      >>> error = [[0.20, 0.30, 0.10], [0.21, 0.32, 0.11], [0.19, 0.31, 0.12], [0.20, 0.29, 0.09], [0.22, 0.33, 0.11]]
      >>> found = stats.peak_test(error, window=[1], num_permutations=200)
      >>> found.location, round(found.rise, 3), round(found.fall, 3), found.pvalue < 0.05
      (1, 0.106, 0.204, True)

    Args:
        error: Test error, sizes ascending, shape (seeds, k), k >= 3. A seed with a NaN is dropped and counted.
        window: Sizes near the threshold, a boolean mask (k,) or indices; the first and last size cannot be peaks and
            are ignored. Choose it from *training* error, not from the curve that is tested.
        num_permutations: Curves B that are drawn without a peak, for each of the spreads; no p is below 1 / (1 + B).
        seed: Seed of these draws.

    Returns:
        PeakTest; ``rise`` is the mean error at location minus the smallest before it, ``fall`` minus the last.

    Raises:
        ValueError: On fewer than 2 seeds, 3 sizes or 1 permutation, or a window without an interior size.
    """
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    error, num_nan = seed_rows(error, "error", at_least=2)
    n, k = error.shape
    check(k >= 3, f"error: needs at least 3 sizes, got {k}")
    places = tuple(_interior(window, k).tolist())
    error = error[np.lexsort(error.T)]  # sums do not depend on the order of seeds
    mean, covariance = error.mean(axis=0), np.cov(error.T)
    rounding = ROUNDING * np.abs(error).max()
    rises, falls = _contrasts(mean[None], covariance[None], n, k, places, rounding)
    both = np.minimum(rises, falls)[0]
    best = int(both.argmax())
    location = places[best]
    hits = (_null(n, k, places, num_permutations, seed) >= both[best]).sum(axis=-1)
    pvalue = (1 + int(hits.max())) / (1 + num_permutations) if both[best] > 0 else 1.0
    lift, drop = mean[location] - mean[:location].min(), mean[location] - mean[-1]
    return PeakTest(pvalue, location, float(lift), float(drop), float(both[best]), n, num_nan)


def falls_beyond(error: ArrayLike, index: int) -> TestResult:
    """Paired test of one contrast fixed beforehand: error at ``index`` minus error at the largest size.

    Two-tailed; a positive ``mean_difference`` means that the error falls beyond the index.

    Example:
      >>> from ntkgen import stats
      >>> found = stats.falls_beyond([[0.20, 0.30, 0.10], [0.21, 0.32, 0.11], [0.19, 0.31, 0.12]], index=1)
      >>> round(found.mean_difference, 3), round(found.pvalue, 3)
      (0.2, 0.001)

    Args:
        error: Test error, sizes ascending, shape (seeds, k). A seed with a NaN is dropped and counted.
        index: `Threshold.index`, from *training* error; 0 <= index < k - 1.

    Raises:
        ValueError: If index is None, not an integer or out of range, or fewer than 2 seeds are left.
    """
    error, num_nan = seed_rows(error, "error", at_least=2)
    last = error.shape[1] - 1
    try:
        index = operator.index(index)
    except TypeError:
        raise ValueError(f"index: expected an integer, got {index!r} (does no size interpolate?)") from None
    check(0 <= index < last, f"index: expected 0 <= index < {last}, the largest size, got {index}")
    return paired(error[:, index], error[:, last])._replace(num_nan=num_nan)


def _interior(window: ArrayLike, k: int) -> np.ndarray:
    """Indices of the window without the first and last size, ascending."""
    window = np.asarray(window)
    if window.dtype == bool:
        check(window.shape == (k,), f"window: expected a mask of shape ({k},), got {window.shape}")
        window = np.flatnonzero(window)
    integers = window.ndim == 1 and window.size > 0 and np.issubdtype(window.dtype, np.integer)
    check(integers, f"window: expected a mask with a True or a list of indices, got {window!r}")
    check(0 <= window.min() and window.max() < k, f"window: expected indices in [0, {k}), got {window}")
    inside = np.unique(window[(window > 0) & (window < k - 1)])
    check(inside.size > 0, f"window: needs a size that is neither first nor last of {k}, got {window}")
    return inside


def _contrasts(
    mean: np.ndarray, covariance: np.ndarray, n: int, k: int, places: tuple[int, ...], rounding: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the largest studentised rise to, and the fall from, each place: (..., k) -> two of (..., places)."""
    first, second, averages, starts = _design(k, places)
    own = np.diagonal(covariance, axis1=-2, axis2=-1)
    variance = own[..., :, None] + own[..., None, :] - 2 * covariance  # of the seeds' differences e_j - e_i
    variance = np.where(variance > rounding**2, variance, 0.0)
    pooled = variance.reshape(*mean.shape[:-1], k * k) @ averages  # between the two sizes; last, around the window
    scale = np.sqrt(np.maximum(np.maximum(variance[..., first, second], pooled[..., :-1]), pooled[..., -1:]) / n)
    difference = mean[..., first] - mean[..., second]
    difference = np.where(np.abs(difference) > rounding, difference, 0.0)
    with np.errstate(divide="ignore"):  # without variance any difference is +-inf standard errors
        t = np.where(difference == 0, 0.0, difference / np.where(difference == 0, 1.0, scale))
    count = len(places)
    return np.maximum.reduceat(t[..., :-count], starts, axis=-1), t[..., -count:]


@functools.cache
def _design(k: int, places: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return the pairs that are compared, the averages of variances that bound theirs, and where a place's begin.

    Pairs (j, i): for every place j all smaller i, in order, then (j, k - 1) for every place. The averages are the
    columns of a (k * k, pairs + 1) matrix.
    """
    pairs = [(j, i) for j in places for i in range(j)] + [(j, k - 1) for j in places]
    ranges = [(min(pair), max(pair)) for pair in pairs] + [(max(places[0] - 1, 0), min(places[-1] + 1, k - 1))]
    averages = np.zeros((len(ranges), k, k))
    for average, (low, high) in zip(averages, ranges, strict=True):
        count = high - low + 1
        average[low : high + 1, low : high + 1] = 1 / (count * (count - 1))  # a size's own difference is zero
    starts = np.cumsum([0, *places[:-1]])
    return *np.array(pairs).T, averages.reshape(len(ranges), k * k).T, starts


@functools.cache
def _spreads(k: int, places: tuple[int, ...]) -> np.ndarray:
    """Return the standard deviations (spreads, k) under which `peak_test` finds its null distribution."""
    wide = {(), *((i,) for i in range(k)), *(((j, *ends)) for j in places for ends in ((0,), (k - 1,), (0, k - 1)))}
    spreads = np.ones((len(wide), k))
    for spread, sizes in zip(spreads, sorted(wide), strict=True):
        spread[list(sizes)] = 100.0
    steady = [np.geomspace(1, last, k) for last in (0.1, 0.01, 10.0, 100.0)]
    return np.vstack([spreads, *steady])


@functools.lru_cache(maxsize=4)
def _null(n: int, k: int, places: tuple[int, ...], count: int, seed: int) -> np.ndarray:
    """Return the largest contrast of curves without a peak: (spreads * (places + 1), count).

    One row for each spread and each place from which on the falls, not the rises, are false.
    """
    rng = np.random.default_rng(seed)
    curves = rng.standard_normal((count, n, k))
    mean = curves.mean(axis=1)
    centred = curves - mean[:, None]
    covariance = np.swapaxes(centred, 1, 2) @ centred / (n - 1)
    rows = []
    for spread in _spreads(k, places):
        rises, falls = _contrasts(spread * mean, np.outer(spread, spread) * covariance, n, k, places, 0.0)
        before = np.pad(np.maximum.accumulate(rises, axis=1), ((0, 0), (1, 0)), constant_values=-np.inf)
        after = np.maximum.accumulate(falls[:, ::-1], axis=1)[:, ::-1]
        after = np.pad(after, ((0, 0), (0, 1)), constant_values=-np.inf)
        rows.append(np.maximum(before, after).T)
    return np.concatenate(rows)
