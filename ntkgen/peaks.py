"""The double-descent curve: where training error interpolates, and whether test error peaks there.

Errors have shape (seeds, sizes), sizes ascending; NaN marks a run that gave no number, and its seed is left out and
counted in ``num_nan``. An infinity is refused. The order of seeds does not matter. Results carry the unit of their
input; p-values and levels are fractions.
"""

import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntkgen.stats import ROUNDING, TestResult, check, interval, mean_std, paired, seed_rows


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

    With seed means m and seed variances v per size, ``t_ji = (m_j - m_i) / sqrt(v_j + v_i)``. For each j in the window,
    rise_j is the largest t_ji over smaller sizes i and fall_j is t against the largest size; the statistic is max_j
    min(rise_j, fall_j), reached at ``location``. Its null is the permutation distribution of the largest of *all* these
    rises and falls, residuals permuted over sizes within each seed, so that p pays for choosing the place (max-T,
    Westfall & Young 1993). Without any variance p is 1 / (1 + B) for a peak and 1 for none.

    Args:
        error: Test error, sizes ascending, shape (seeds, k), k >= 3. A seed with a NaN is dropped and counted.
        window: Sizes near the threshold, a boolean mask (k,) or indices; the first and last size cannot be peaks and
            are ignored. Choose it from *training* error, not from the curve that is tested.
        num_permutations: Permutations B; no p is below 1 / (1 + B).
        seed: Seed of the permutations.

    Returns:
        PeakTest; ``rise`` is the mean error at location minus the smallest before it, ``fall`` minus the last.

    Raises:
        ValueError: On fewer than 2 seeds, 3 sizes or 1 permutation, or a window without an interior size.
    """
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    error, num_nan = seed_rows(error, "error", at_least=2)
    n, k = error.shape
    check(k >= 3, f"error: needs at least 3 sizes, got {k}")
    window = _interior(window, k)
    error = error[np.lexsort(error.T)]  # draws go to rows: with their order fixed, p does not depend on it
    mean = error.mean(axis=0)
    # Three choices keep the level on every truth without a peak, not on flat ones alone. (1) Residuals are
    # permuted, not errors: a steep early fall would drown a later peak in the null. (2) The null takes the
    # largest contrast where the statistic takes the lesser of two: a truth with one step down at the end has
    # its fall for free, and against the permuted minimum it fires on 20-30 %. (3) Contrasts are studentised:
    # seeds differ more at small sizes and at the threshold, and there a common scale fires on up to 13 %.
    residual = _residual(error)
    if np.abs(residual).max() <= ROUNDING * np.abs(error).max():
        mean = error[0]  # the same curve for every seed: averaging it would only add rounding
        rise, fall = _contrasts(mean, np.zeros(k), window)
        null = np.zeros(num_permutations)
    else:
        variance = _seed_variance(residual)
        rise, fall = _contrasts(mean, variance, window)
        standardised = np.broadcast_to(residual / np.sqrt(variance), (num_permutations, n, k))
        draws = np.random.default_rng(seed).permuted(standardised, axis=-1) * np.sqrt(variance)
        null_rise, null_fall = _contrasts(draws.mean(axis=-2), _seed_variance(_residual(draws)), window)
        null = np.maximum(null_rise, null_fall).max(axis=-1)
    both = np.minimum(rise, fall)
    best = int(both.argmax())
    location = int(window[best])
    pvalue = (1 + int((null >= both[best]).sum())) / (1 + num_permutations)
    lift, drop = mean[location] - mean[:location].min(), mean[location] - mean[-1]
    return PeakTest(pvalue, location, float(lift), float(drop), float(both[best]), n, num_nan)


def falls_beyond(error: ArrayLike, index: int) -> TestResult:
    """Paired test of one contrast fixed beforehand: error at ``index`` minus error at the largest size.

    Two-tailed; a positive ``mean_difference`` means that the error falls beyond the index.

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


def _residual(error: np.ndarray) -> np.ndarray:
    """What the size means and the seeds' own levels leave of error, both of shape (..., seeds, k)."""
    rows = error - error.mean(axis=-1, keepdims=True)
    return rows - rows.mean(axis=-2, keepdims=True)


def _seed_variance(residual: np.ndarray) -> np.ndarray:
    """Variance between seeds per size, (..., seeds, k) -> (..., k): half its own, half a geometric trend.

    Three seeds know little of their own spread (2 degrees of freedom), and a trend alone misses a spread that is
    largest at the threshold; with equal weights the test keeps its level in both cases and most of its power.
    """
    n, k = residual.shape[-2:]
    own = (residual**2).sum(axis=-2) * k / ((n - 1) * (k - 1))
    steps = np.arange(k) - (k - 1) / 2
    # Medians, since one small network that trains badly now and then has a thousand times the variance of the others
    # and would hide their peak. Seeds may agree exactly at one size, or at most of them: a floor for the logarithm.
    floor = 1e-3 * np.median(own, axis=-1, keepdims=True) + 1e-6 * own.mean(axis=-1, keepdims=True)
    slope = np.log(own + floor) @ steps / (steps @ steps)
    trend = np.exp(slope[..., None] * steps)
    trend *= np.median(own / trend, axis=-1, keepdims=True)
    return 0.5 * own + 0.5 * trend


def _contrasts(mean: np.ndarray, variance: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Studentised rises to and falls from the sizes in window, (..., k) -> two arrays (..., len(window))."""
    difference = mean[..., window, None] - mean[..., None, :]
    scale = np.sqrt(variance[..., window, None] + variance[..., None, :])
    with np.errstate(divide="ignore"):  # without variance any difference is +-inf standard errors
        t = np.where(difference == 0, 0.0, difference / np.where(difference == 0, 1.0, scale))
    earlier = np.arange(mean.shape[-1]) < window[:, None]
    return np.where(earlier, t, -np.inf).max(axis=-1), t[..., -1]
