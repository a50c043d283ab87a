"""Statistics for a handful of seeds: intervals, tests, fits and the double-descent peak.

* The axis *seeds* holds one independent run per entry. NaN marks a run that gave no number: it is left out
  and counted in ``num_nan``. An infinity is refused. The order of seeds does not matter; ``seed`` fixes all
  draws.
* Results carry the unit of their input (points in, points out); p-values and levels are fractions.
* Values equal to rounding have zero variance: intervals have zero width, equal means give statistic 0 and p =
  1, different means an infinite statistic and p = 0.
"""

import operator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

_ROUNDING = 16 * np.finfo(float).eps  # a spread below this times the largest magnitude is rounding


class Summary(NamedTuple):
    """Mean and sample standard deviation; ``std`` is NaN exactly when ``n`` is 1."""

    mean: float
    std: float
    n: int
    num_nan: int


class Interval(NamedTuple):
    """Confidence interval of a mean; its ends are NaN only with ``on_too_few="nan"`` and n = 1."""

    low: float
    high: float
    method: str
    level: float
    n: int
    num_nan: int


class TestResult(NamedTuple):
    """A two-tailed t-test of mean(a) - mean(b), with the 95 % interval [low, high] of that difference."""

    statistic: float
    pvalue: float
    df: float
    mean_difference: float
    low: float
    high: float
    n_a: int
    n_b: int
    num_nan: int


class Equivalence(NamedTuple):
    """Two one-sided tests against +-margin; [low, high] is the 1 - 2 alpha interval of mean(a) - mean(b).

    ``detectable``: what "no difference found" could at best have meant, that is `minimum_detectable_effect`
    with the observed spread, at alpha and 80 % power.
    """

    pvalue: float
    equivalent: bool
    mean_difference: float
    low: float
    high: float
    margin: float
    alpha: float
    detectable: float
    df: float
    n_a: int
    n_b: int
    num_nan: int


class PowerLaw(NamedTuple):
    """``y = prefactor * x**exponent``; [low, high] is the exponent's t-interval and ``method`` its source."""

    exponent: float
    low: float
    high: float
    prefactor: float
    r2: float
    per_seed: np.ndarray
    method: str
    n: int
    num_nan: int


class Threshold(NamedTuple):
    """Interpolation threshold in units of size; ``per_seed`` is NaN for the censored seeds."""

    value: float
    low: float
    high: float
    per_seed: np.ndarray
    index: int | None
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


class _Difference(NamedTuple):
    value: float
    se: float
    df: float
    n_a: int
    n_b: int
    num_nan: int


def mean_std(x: ArrayLike) -> Summary:
    """Mean and sample standard deviation (divisor n - 1) of x, shape (seeds,).

    Raises:
        ValueError: If x is not one-dimensional, has an infinity, or has only NaNs.
    """
    values, num_nan = _values(x, "x")
    return Summary(*_moments(values), len(values), num_nan)


def interval(
    x: ArrayLike,
    method: str = "bootstrap",
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
    on_too_few: str = "raise",
) -> Interval:
    """Confidence interval of the mean of x.

    ``"bootstrap"`` is the paper's percentile bootstrap with 1,000 resamples (Efron & Tibshirani 1993, ch.
    13). Its nominal 95 % interval of five normal values covers the mean only about 83.5 % of the time
    (simulated in the tests), so print ``"t"`` beside it: Student's ``mean +- t s / sqrt(n)`` does cover 95 %.

    Args:
        x: Values, shape (seeds,).
        method: "bootstrap" or "t".
        level: Nominal coverage, between 0 and 1.
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
        on_too_few: "raise" refuses a single value; "nan" gives it NaN ends, for scripts that print one-seed
            runs.

    Raises:
        ValueError: On an unknown option, on x as in `mean_std`, or on fewer than 2 values (see
            ``on_too_few``).
    """
    _check(method in ("bootstrap", "t"), f"method: expected 'bootstrap' or 't', got {method!r}")
    _check(on_too_few in ("raise", "nan"), f"on_too_few: expected 'raise' or 'nan', got {on_too_few!r}")
    _check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    _check(num_resamples >= 1, f"num_resamples: expected at least 1, got {num_resamples}")
    values, num_nan = _values(x, "x", at_least=2 if on_too_few == "raise" else 1)
    n = len(values)
    mean, std = _moments(values)
    if n < 2:
        low = high = float("nan")
    elif std == 0:
        low = high = mean
    elif method == "t":
        low, high = _t_ends(mean, std / np.sqrt(n), n - 1, level)
    else:
        picks = np.random.default_rng(seed).integers(n, size=(num_resamples, n))
        low, high = np.quantile(values[picks].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high), method, level, n, num_nan)


def welch(a: ArrayLike, b: ArrayLike) -> TestResult:
    """Welch's two-tailed t-test for independent runs a (seeds_a,) and b (seeds_b,): the paper's test.

    ``df`` is Welch-Satterthwaite's (n_a + n_b - 2 at zero variance).

    Raises:
        ValueError: If a or b has an infinity or fewer than 2 values that are not NaN.
    """
    return _two_tailed(_difference(a, b, is_paired=False))


def paired(a: ArrayLike, b: ArrayLike) -> TestResult:
    """Two-tailed t-test of a - b, both (seeds,) in the same order: the primary test.

    Runs with one seed share data order and initialisation, and that seed's own effect cancels in a - b. A
    pair with a NaN on either side is dropped and counted.

    Raises:
        ValueError: If the lengths differ, a value is infinite, or fewer than 2 pairs are left.
    """
    return _two_tailed(_difference(a, b, is_paired=True))


def equivalence(
    a: ArrayLike, b: ArrayLike, margin: float, paired: bool = True, alpha: float = 0.05
) -> Equivalence:
    """Test that mean(a) and mean(b) differ by less than a margin fixed beforehand (TOST, Schuirmann 1987).

    At zero variance p is 0 if the difference is inside the margin and 1 if not, and ``detectable`` is 0.

    Args:
        a: Values, shape (seeds,).
        b: Values, shape (seeds,), or (seeds_b,) if not paired.
        margin: Smallest difference that matters, in the unit of a; positive.
        paired: Whether a[i] and b[i] share a seed; if not, Welch's standard error is used.
        alpha: Level of each one-sided test, between 0 and 0.5.

    Raises:
        ValueError: On a margin or alpha out of range, and on a and b as in `paired` or `welch`.
    """
    _check(np.isfinite(margin) and margin > 0, f"margin: expected a positive number, got {margin}")
    _check(0 < alpha < 0.5, f"alpha: expected a number between 0 and 0.5, got {alpha}")
    d = _difference(a, b, is_paired=paired)
    if d.se == 0:
        pvalue = float(abs(d.value) >= margin)
    else:  # the larger of the two one-sided p-values
        pvalue = float(stats.t.sf((margin - abs(d.value)) / d.se, d.df))
    low, high = _t_ends(d.value, d.se, d.df, 1 - 2 * alpha)
    detectable = _detectable(d.se, d.df, alpha, power=0.8)
    return Equivalence(pvalue, pvalue <= alpha, d.value, low, high, margin, alpha, detectable, *d[2:])


def minimum_detectable_effect(
    std: float, n: int, alpha: float = 0.05, power: float = 0.8, paired: bool = True
) -> float:
    """Smallest true difference that a two-tailed t-test finds, with the right sign, at the given power.

    From the noncentral t distribution, in the unit of std.

    Args:
        std: Standard deviation of the paired differences, or within each group if not paired.
        n: Pairs, or runs in each of the two groups.
        alpha: Level of the test.
        power: Wanted probability of finding it, between alpha and 1.
        paired: Which of the two designs.

    Raises:
        ValueError: If std is negative or not finite, n < 2, or not 0 < alpha < power < 1.
    """
    _check(np.isfinite(std) and std >= 0, f"std: expected a finite number >= 0, got {std}")
    _check(n >= 2, f"n: needs at least 2 seeds, got {n}")
    _check(0 < alpha < power < 1, f"alpha, power: expected 0 < alpha < power < 1, got {alpha}, {power}")
    se, df = (std / np.sqrt(n), n - 1) if paired else (std * np.sqrt(2 / n), 2 * n - 2)
    return _detectable(se, df, alpha, power)


def false_discovery(pvalues: ArrayLike, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Control the false discovery rate of one family of tests (Benjamini & Hochberg 1995).

    Args:
        pvalues: p-values, shape (m,), m >= 1.
        alpha: Wanted false discovery rate.

    Returns:
        ``(rejected, adjusted)``, both (m,): adjusted <= alpha, and the adjusted p-values.

    Raises:
        ValueError: If pvalues is empty, not one-dimensional, or has a NaN or a value outside [0, 1].
    """
    _check(0 < alpha < 1, f"alpha: expected a number between 0 and 1, got {alpha}")
    p = np.asarray(pvalues, float)
    _check(p.ndim == 1 and p.size > 0, f"pvalues: expected shape (m,) with m >= 1, got {p.shape}")
    _check(bool(np.all((p >= 0) & (p <= 1))), f"pvalues: expected numbers in [0, 1], not NaN, got {p}")
    adjusted = stats.false_discovery_control(p)
    return adjusted <= alpha, adjusted


def power_law_fit(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> PowerLaw:
    """Fit y = c x^b by least squares of log y on log x.

    With two or more seeds the fit is made per seed and the interval is Student's over the seeds' exponents
    (``method="seeds"``): the points of one seed share its luck, so residuals of a pooled fit are not
    independent. With one seed it is the regression's, with k - 2 degrees of freedom
    (``method="regression"``). ``exponent``, ``prefactor`` and ``r2`` belong to the fit of the seed-mean log
    y, whose exponent is the mean of ``per_seed``. A constant y is met exactly and has r2 = 1.

    Args:
        x: Positive sizes, shape (k,), k >= 3, at least two of them distinct.
        y: Positive values, shape (k,) or (seeds, k). A seed with a NaN is dropped and counted.
        level: Nominal coverage of the interval.

    Raises:
        ValueError: On shapes that do not match, too few x, values not positive and finite, or no seed left.
    """
    _check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    x, y = np.asarray(x, float), np.asarray(y, float)
    _check(x.ndim == 1 and x.size >= 3, f"x: needs at least 3 values in one dimension, got shape {x.shape}")
    _check(bool(np.all(np.isfinite(x) & (x > 0))), f"x: expected positive finite numbers, got {x}")
    _check(np.ptp(x) > 0, f"x: needs at least 2 distinct values, got only {x[0]}")
    y, num_nan = _seeds(y[None] if y.ndim == 1 else y, "y", num_sizes=x.size)
    _check(y.min() > 0, f"y: expected positive numbers, got {y.min()}")
    log_x, log_y = np.log(x), np.log(y)
    log_x_centred = log_x - log_x.mean()
    sum_of_squares = log_x_centred @ log_x_centred
    per_seed = log_y @ log_x_centred / sum_of_squares
    exponent = float(per_seed.mean())
    total = log_y.mean(axis=0) - log_y.mean()
    residual = total - exponent * log_x_centred
    r2 = 1.0 if np.all(np.ptp(y, axis=1) == 0) else float(1 - residual @ residual / (total @ total))
    if len(y) > 1:
        method, (low, high) = "seeds", interval(per_seed, "t", level)[:2]
    else:
        se = np.sqrt(residual @ residual / (x.size - 2) / sum_of_squares)
        method, (low, high) = "regression", _t_ends(exponent, se, x.size - 2, level)
    prefactor = float(np.exp(log_y.mean() - exponent * log_x.mean()))
    return PowerLaw(exponent, low, high, prefactor, r2, per_seed, method, len(y), num_nan)


def threshold(size: ArrayLike, error: ArrayLike, criterion: float, level: float = 0.95) -> Threshold:
    """Interpolation threshold: the size at which training error first comes down to the criterion.

    Per seed it is the first crossing, even if the error rises again later; between the two sizes that bracket
    it, log size is interpolated linearly in error. ``value`` is the geometric mean over the seeds that cross
    (NaN if none), [low, high] Student's interval in log size (NaN with fewer than 2). Seeds that never get
    there, or are there at the smallest size, are censored: they enter the counts alone, and with many of them
    ``value`` describes only the others, so widen the range of sizes. ``index`` is the first size whose mean
    error is at or below the criterion (None if there is none).

    Args:
        size: Parameter counts (or widths), positive and strictly ascending, shape (k,), k >= 2.
        error: Training error as a fraction, shape (seeds, k). A seed with a NaN is dropped and counted.
        criterion: Error that counts as interpolating, a fraction in [0, 1).
        level: Nominal coverage of the interval.

    Raises:
        ValueError: On shapes that do not match, unordered sizes, or errors or a criterion out of range.
    """
    _check(0 <= criterion < 1, f"criterion: expected a fraction in [0, 1), got {criterion}")
    size = np.asarray(size, float)
    _check(size.ndim == 1 and size.size >= 2, f"size: needs at least 2 values, got shape {size.shape}")
    ascending = bool(np.all(np.isfinite(size)) and size[0] > 0 and np.all(np.diff(size) > 0))
    _check(ascending, f"size: expected positive, strictly ascending numbers, got {size}")
    error, num_nan = _seeds(error, "error", num_sizes=size.size)
    low, high = error.min(), error.max()
    _check(low >= 0 and high <= 1, f"error: expected fractions in [0, 1], got {low} to {high}")
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

    With seed means m and seed variances v per size, ``t_ji = (m_j - m_i) / sqrt(v_j + v_i)``. For each j in
    the window, rise_j is the largest t_ji over smaller sizes i and fall_j is t against the largest size; the
    statistic is max_j min(rise_j, fall_j), reached at ``location``. Its null is the permutation distribution
    of the largest of *all* these rises and falls, residuals permuted over sizes within each seed, so that p
    pays for choosing the place (max-T, Westfall & Young 1993). Without any variance p is 1 / (1 + B) for a
    peak and 1 for none.

    Args:
        error: Test error, sizes ascending, shape (seeds, k), k >= 3. A seed with a NaN is dropped and
            counted.
        window: Sizes near the threshold, a boolean mask (k,) or indices; the first and last size cannot be
            peaks and are ignored. Choose it from *training* error, not from the curve that is tested.
        num_permutations: Permutations B; no p is below 1 / (1 + B).
        seed: Seed of the permutations.

    Returns:
        PeakTest; ``rise`` is the mean error at location minus the smallest before it, ``fall`` minus the
        last.

    Raises:
        ValueError: On fewer than 2 seeds, 3 sizes or 1 permutation, or a window without an interior size.
    """
    _check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    error, num_nan = _seeds(error, "error", at_least=2)
    n, k = error.shape
    _check(k >= 3, f"error: needs at least 3 sizes, got {k}")
    window = _interior(window, k)
    error = error[np.lexsort(error.T)]  # draws go to rows: with their order fixed, p does not depend on it
    mean = error.mean(axis=0)
    # Three choices keep the level on every truth without a peak, not on flat ones alone. (1) Residuals are
    # permuted, not errors: a steep early fall would drown a later peak in the null. (2) The null takes the
    # largest contrast where the statistic takes the lesser of two: a truth with one step down at the end has
    # its fall for free, and against the permuted minimum it fires on 20-30 %. (3) Contrasts are studentised:
    # seeds differ more at small sizes and at the threshold, and there a common scale fires on up to 13 %.
    residual = _residual(error)
    if np.abs(residual).max() <= _ROUNDING * np.abs(error).max():
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
    error, num_nan = _seeds(error, "error", at_least=2)
    last = error.shape[1] - 1
    try:
        index = operator.index(index)
    except TypeError:
        raise ValueError(f"index: expected an integer, got {index!r} (does no size interpolate?)") from None
    _check(0 <= index < last, f"index: expected 0 <= index < {last}, the largest size, got {index}")
    return paired(error[:, index], error[:, last])._replace(num_nan=num_nan)


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _values(x: ArrayLike, name: str, at_least: int = 1) -> tuple[np.ndarray, int]:
    """Values that are not NaN, sorted so that no sum depends on the order of seeds, and the NaN count."""
    x = np.asarray(x, float)
    _check(x.ndim == 1, f"{name}: expected shape (seeds,), got {x.shape}")
    _check(not np.isinf(x).any(), f"{name}: expected finite numbers, or NaN for a lost run, got an infinity")
    kept = np.sort(x[~np.isnan(x)])
    found = f"got {kept.size} and {x.size - kept.size} NaN"
    _check(kept.size >= at_least, f"{name}: needs at least {at_least} value(s), {found}")
    return kept, x.size - kept.size


def _seeds(
    x: ArrayLike, name: str, num_sizes: int | None = None, at_least: int = 1
) -> tuple[np.ndarray, int]:
    """Rows (seeds) without a NaN, and how many had one."""
    x = np.asarray(x, float)
    shape_ok = x.ndim == 2 and x.shape[1] > 0 and num_sizes in (None, x.shape[1])
    _check(shape_ok, f"{name}: expected shape (seeds, {num_sizes or 'sizes'}), got {x.shape}")
    _check(not np.isinf(x).any(), f"{name}: expected finite numbers, or NaN for a lost run, got an infinity")
    kept = x[~np.isnan(x).any(axis=1)]
    found = f"got {len(kept)} and {len(x) - len(kept)} with a NaN"
    _check(len(kept) >= at_least, f"{name}: needs at least {at_least} seed(s), {found}")
    return kept, len(x) - len(kept)


def _moments(values: np.ndarray) -> tuple[float, float]:
    """Mean and sample standard deviation; equal values give exactly (value, 0), where summing may round."""
    if len(values) == 1:
        return float(values[0]), float("nan")
    if np.ptp(values) == 0:
        return float(values[0]), 0.0
    return float(values.mean()), float(values.std(ddof=1))


def _difference(a: ArrayLike, b: ArrayLike, is_paired: bool) -> _Difference:
    """The difference of means with its standard error, each exactly 0 where it is rounding."""
    if is_paired:
        a, b = np.asarray(a, float), np.asarray(b, float)
        _check(a.shape == b.shape, f"a, b: expected equal lengths to pair, got {a.shape} and {b.shape}")
        for name, x in (("a", a), ("b", b)):  # here, for inf - inf would pass as a NaN
            _values(x, name)
        differences, num_nan = _values(a - b, "a - b", at_least=2)
        value, std = _moments(differences)
        n_a = n_b = len(differences)
        rounding = _ROUNDING * max(np.nanmax(np.abs(a)), np.nanmax(np.abs(b)))
        se, df = (std / np.sqrt(n_a) if std > rounding else 0.0), n_a - 1
    else:
        (a, nan_a), (b, nan_b) = _values(a, "a", at_least=2), _values(b, "b", at_least=2)
        n_a, n_b, num_nan = len(a), len(b), nan_a + nan_b
        (mean_a, std_a), (mean_b, std_b) = _moments(a), _moments(b)
        value = mean_a - mean_b
        rounding = _ROUNDING * max(np.abs(a).max(), np.abs(b).max())
        se, df = 0.0, n_a + n_b - 2
        if max(std_a, std_b) > rounding:
            se = np.hypot(std_a / np.sqrt(n_a), std_b / np.sqrt(n_b))
            share_a, share_b = (
                (std_a / se) ** 2 / n_a,
                (std_b / se) ** 2 / n_b,
            )  # of se**2
            df = 1 / (share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1))
    if se == 0 and abs(value) <= rounding:
        value = 0.0
    return _Difference(value, float(se), float(df), n_a, n_b, num_nan)


def _two_tailed(d: _Difference) -> TestResult:
    if d.se == 0:
        statistic = 0.0 if d.value == 0 else float(np.copysign(np.inf, d.value))
    else:
        statistic = d.value / d.se
    pvalue = float(2 * stats.t.sf(abs(statistic), d.df))
    return TestResult(statistic, pvalue, d.df, d.value, *_t_ends(d.value, d.se, d.df, 0.95), *d[3:])


def _t_ends(centre: float, se: float, df: float, level: float) -> tuple[float, float]:
    half = se * stats.t.ppf((1 + level) / 2, df)
    return float(centre - half), float(centre + half)


def _detectable(se: float, df: float, alpha: float, power: float) -> float:
    """Difference that the two-tailed t-test with this standard error and df finds with the wanted power."""
    critical = stats.t.ppf(1 - alpha / 2, df)

    def excess(
        shift: float,
    ) -> float:  # one tail: a rejection with the wrong sign has not found the difference
        return stats.nct.sf(critical, df, shift) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(se * optimize.brentq(excess, 0.0, high))


def _interior(window: ArrayLike, k: int) -> np.ndarray:
    """Indices of the window without the first and last size, ascending."""
    window = np.asarray(window)
    if window.dtype == bool:
        _check(window.shape == (k,), f"window: expected a mask of shape ({k},), got {window.shape}")
        window = np.flatnonzero(window)
    integers = window.ndim == 1 and window.size > 0 and np.issubdtype(window.dtype, np.integer)
    _check(integers, f"window: expected a mask with a True or a list of indices, got {window!r}")
    _check(0 <= window.min() and window.max() < k, f"window: expected indices in [0, {k}), got {window}")
    inside = np.unique(window[(window > 0) & (window < k - 1)])
    _check(inside.size > 0, f"window: needs a size that is neither first nor last of {k}, got {window}")
    return inside


def _residual(error: np.ndarray) -> np.ndarray:
    """What the size means and the seeds' own levels leave of error, both of shape (..., seeds, k)."""
    rows = error - error.mean(axis=-1, keepdims=True)
    return rows - rows.mean(axis=-2, keepdims=True)


def _seed_variance(residual: np.ndarray) -> np.ndarray:
    """Variance between seeds per size, (..., seeds, k) -> (..., k): half its own, half a geometric trend.

    Three seeds know little of their own spread (2 degrees of freedom), and a trend alone misses a spread that
    is largest at the threshold; with equal weights the test keeps its level in both cases and most of its
    power.
    """
    n, k = residual.shape[-2:]
    own = (residual**2).sum(axis=-2) * k / ((n - 1) * (k - 1))
    steps = np.arange(k) - (k - 1) / 2
    floor = 1e-3 * own.mean(axis=-1, keepdims=True)  # seeds may agree exactly at one size
    slope = np.log(own + floor) @ steps / (steps @ steps)
    trend = np.exp(slope[..., None] * steps)
    trend *= (own / trend).mean(axis=-1, keepdims=True)
    return 0.5 * own + 0.5 * trend


def _contrasts(mean: np.ndarray, variance: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Studentised rises to and falls from the sizes in window, (..., k) -> two arrays (..., len(window))."""
    difference = mean[..., window, None] - mean[..., None, :]
    scale = np.sqrt(variance[..., window, None] + variance[..., None, :])
    with np.errstate(divide="ignore"):  # without variance any difference is +-inf standard errors
        t = np.where(difference == 0, 0.0, difference / np.where(difference == 0, 1.0, scale))
    earlier = np.arange(mean.shape[-1]) < window[:, None]
    return np.where(earlier, t, -np.inf).max(axis=-1), t[..., -1]
