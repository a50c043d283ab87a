"""Statistics for a handful of seeds: intervals, tests and fits.

* The axis *seeds* holds one independent run per entry. NaN marks a run that gave no number: it is left out and counted
  in ``num_nan``. An infinity is refused. The order of seeds does not matter; ``seed`` fixes all draws.
* Results carry the unit of their input (points in, points out); p-values and levels are fractions.
* Values equal to rounding have zero variance: intervals have zero width, equal means give statistic 0 and p = 1,
  different means an infinite statistic and p = 0.

A little over 350 lines, a third of them result tuples and docstrings: one convention for missing seeds holds for all.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ntkgen.stats._association import Association, association  # noqa: F401  (public here)
from ntkgen.stats._check import check
from ntkgen.stats._crossed import Crossed, crossed  # noqa: F401  (public here)

ROUNDING = 16 * np.finfo(float).eps  # a spread below this times the largest magnitude is rounding


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

    ``detectable``: what "no difference found" could at best have meant, that is `minimum_detectable_effect` with the
    observed spread, at alpha and 80 % power.
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


class _Difference(NamedTuple):
    value: float
    se: float
    df: float
    n_a: int
    n_b: int
    num_nan: int


def mean_std(x: ArrayLike) -> Summary:
    """Mean and sample standard deviation (divisor n - 1) of x, shape (seeds,).

    Example:
      >>> from ntkgen import stats
      >>> stats.mean_std([1.0, 2.0, 3.0, float("nan")])
      Summary(mean=2.0, std=1.0, n=3, num_nan=1)

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

    ``"bootstrap"`` is the paper's percentile bootstrap with 1,000 resamples (Efron & Tibshirani 1993, ch. 13). Its
    nominal 95 % interval of five normal values covers the mean only about 83.5 % of the time (simulated in the tests),
    so print ``"t"`` beside it: Student's ``mean +- t s / sqrt(n)`` does cover 95 %.

    Example:
      >>> from ntkgen import stats
      >>> found = stats.interval([1.0, 2.0, 3.0], method="t")
      >>> round(found.low, 2), round(found.high, 2)
      (-0.48, 4.48)

    Args:
        x: Values, shape (seeds,).
        method: "bootstrap" or "t".
        level: Nominal coverage, between 0 and 1.
        num_resamples: Resamples of the bootstrap.
        seed: Seed of the bootstrap.
        on_too_few: "raise" refuses a single value; "nan" gives it NaN ends, for scripts that print one-seed runs.

    Raises:
        ValueError: On an unknown option, on x as in `mean_std`, or on fewer than 2 values (see ``on_too_few``).
    """
    check(method in ("bootstrap", "t"), f"method: expected 'bootstrap' or 't', got {method!r}")
    check(on_too_few in ("raise", "nan"), f"on_too_few: expected 'raise' or 'nan', got {on_too_few!r}")
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    check(num_resamples >= 1, f"num_resamples: expected at least 1, got {num_resamples}")
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

    Example:
      >>> from ntkgen import stats
      >>> found = stats.welch([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])
      >>> found.mean_difference, round(found.pvalue, 3)
      (-3.0, 0.021)

    Raises:
        ValueError: If a or b has an infinity or fewer than 2 values that are not NaN.
    """
    return _two_tailed(_difference(a, b, is_paired=False))


def paired(a: ArrayLike, b: ArrayLike) -> TestResult:
    """Two-tailed t-test of a - b, both (seeds,) in the same order: the primary test.

    Runs with one seed share data order and initialisation, and that seed's own effect cancels in a - b. A pair with a
    NaN on either side is dropped and counted.

    Example:
      >>> from ntkgen import stats
      >>> found = stats.paired([1.0, 2.0, 3.0], [2.0, 3.1, 3.9])
      >>> round(found.mean_difference, 3), round(found.pvalue, 3), found.n_a
      (-1.0, 0.003, 3)

    Raises:
        ValueError: If the lengths differ, a value is infinite, or fewer than 2 pairs are left.
    """
    return _two_tailed(_difference(a, b, is_paired=True))


def equivalence(a: ArrayLike, b: ArrayLike, margin: float, paired: bool = True, alpha: float = 0.05) -> Equivalence:
    """Test that mean(a) and mean(b) differ by less than a margin fixed beforehand (TOST, Schuirmann 1987).

    At zero variance p is 0 if the difference is inside the margin and 1 if not, and ``detectable`` is 0.

    Example:
      >>> from ntkgen import stats
      >>> found = stats.equivalence([1.0, 2.0, 3.0], [1.1, 1.9, 3.1], margin=0.5)
      >>> found.equivalent, round(found.pvalue, 3)
      (True, 0.01)

    Args:
        a: Values, shape (seeds,).
        b: Values, shape (seeds,), or (seeds_b,) if not paired.
        margin: Smallest difference that matters, in the unit of a; positive.
        paired: Whether a[i] and b[i] share a seed; if not, Welch's standard error is used.
        alpha: Level of each one-sided test, between 0 and 0.5.

    Raises:
        ValueError: On a margin or alpha out of range, and on a and b as in `paired` or `welch`.
    """
    check(np.isfinite(margin) and margin > 0, f"margin: expected a positive number, got {margin}")
    check(0 < alpha < 0.5, f"alpha: expected a number between 0 and 0.5, got {alpha}")
    d = _difference(a, b, is_paired=paired)
    if d.se == 0:
        pvalue = float(abs(d.value) >= margin)
    else:  # the larger of the two one-sided p-values
        pvalue = float(stats.t.sf((margin - abs(d.value)) / d.se, d.df))
    low, high = _t_ends(d.value, d.se, d.df, 1 - 2 * alpha)
    detectable = _detectable(d.se, d.df, alpha, power=0.8)
    return Equivalence(pvalue, pvalue <= alpha, d.value, low, high, margin, alpha, detectable, *d[2:])


def minimum_detectable_effect(
    std: float, n: int, alpha: float = 0.05, power: float = 0.8, paired: bool = True, one_sided: bool = False
) -> float:
    """Smallest true difference that a t-test finds, with the right sign, at the given power.

    From the noncentral t distribution, in the unit of std.

    Example:
      >>> from ntkgen import stats
      >>> round(stats.minimum_detectable_effect(std=1.0, n=5), 2)
      1.68

    Args:
        std: Standard deviation of the paired differences, or within each group if not paired.
        n: Pairs, or runs in each of the two groups.
        alpha: Level of the test.
        power: Wanted probability of finding it, between alpha and 1.
        paired: Which of the two designs.
        one_sided: Whether alpha is all in one tail. Against a margin, the difference counts from there.

    Raises:
        ValueError: If std is negative or not finite, n < 2, or not 0 < alpha < power < 1.
    """
    check(np.isfinite(std) and std >= 0, f"std: expected a finite number >= 0, got {std}")
    check(n >= 2, f"n: needs at least 2 seeds, got {n}")
    check(0 < alpha < power < 1, f"alpha, power: expected 0 < alpha < power < 1, got {alpha}, {power}")
    se, df = (std / np.sqrt(n), n - 1) if paired else (std * np.sqrt(2 / n), 2 * n - 2)
    return _detectable(se, df, 2 * alpha if one_sided else alpha, power)


def false_discovery(pvalues: ArrayLike, alpha: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Control the false discovery rate of one family of tests (Benjamini & Hochberg 1995).

    Example:
      >>> from ntkgen import stats
      >>> rejected, adjusted = stats.false_discovery([0.01, 0.04, 0.5])
      >>> rejected.tolist(), adjusted.round(3).tolist()
      ([True, False, False], [0.03, 0.06, 0.5])

    Args:
        pvalues: p-values, shape (m,), m >= 1.
        alpha: Wanted false discovery rate.

    Returns:
        ``(rejected, adjusted)``, both (m,): adjusted <= alpha, and the adjusted p-values.

    Raises:
        ValueError: If pvalues is empty, not one-dimensional, or has a NaN or a value outside [0, 1].
    """
    check(0 < alpha < 1, f"alpha: expected a number between 0 and 1, got {alpha}")
    p = np.asarray(pvalues, float)
    check(p.ndim == 1 and p.size > 0, f"pvalues: expected shape (m,) with m >= 1, got {p.shape}")
    check(bool(np.all((p >= 0) & (p <= 1))), f"pvalues: expected numbers in [0, 1], not NaN, got {p}")
    adjusted = stats.false_discovery_control(p)
    return adjusted <= alpha, adjusted


def power_law_fit(x: ArrayLike, y: ArrayLike, level: float = 0.95) -> PowerLaw:
    """Fit y = c x^b by least squares of log y on log x.

    With two or more seeds the fit is made per seed and the interval is Student's over the seeds' exponents
    (``method="seeds"``): the points of one seed share its luck, so residuals of a pooled fit are not independent. With
    one seed it is the regression's, with k - 2 degrees of freedom (``method="regression"``). ``exponent``,
    ``prefactor`` and ``r2`` belong to the fit of the seed-mean log y, whose exponent is the mean of ``per_seed``. A
    constant y is met exactly and has r2 = 1.

    Example:
      >>> from ntkgen import stats
      >>> found = stats.power_law_fit([1.0, 4.0, 16.0], [[2.0, 1.0, 0.5], [4.0, 2.0, 1.0]])
      >>> round(found.exponent, 3), round(found.r2, 3), found.method
      (-0.5, 1.0, 'seeds')

    Args:
        x: Positive sizes, shape (k,), k >= 3, at least two of them distinct.
        y: Positive values, shape (k,) or (seeds, k). A seed with a NaN is dropped and counted.
        level: Nominal coverage of the interval.

    Raises:
        ValueError: On shapes that do not match, too few x, values not positive and finite, or no seed left.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    x, y = np.asarray(x, float), np.asarray(y, float)
    check(x.ndim == 1 and x.size >= 3, f"x: needs at least 3 values in one dimension, got shape {x.shape}")
    check(bool(np.all(np.isfinite(x) & (x > 0))), f"x: expected positive finite numbers, got {x}")
    check(np.ptp(x) > 0, f"x: needs at least 2 distinct values, got only {x[0]}")
    y, num_nan = seed_rows(y[None] if y.ndim == 1 else y, "y", num_sizes=x.size)
    check(y.min() > 0, f"y: expected positive numbers, got {y.min()}")
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


def _values(x: ArrayLike, name: str, at_least: int = 1) -> tuple[np.ndarray, int]:
    """Values that are not NaN, sorted so that no sum depends on the order of seeds, and the NaN count."""
    x = np.asarray(x, float)
    check(x.ndim == 1, f"{name}: expected shape (seeds,), got {x.shape}")
    check(not np.isinf(x).any(), f"{name}: expected finite numbers, or NaN for a lost run, got an infinity")
    kept = np.sort(x[~np.isnan(x)])
    found = f"got {kept.size} and {x.size - kept.size} NaN"
    check(kept.size >= at_least, f"{name}: needs at least {at_least} value(s), {found}")
    return kept, x.size - kept.size


def seed_rows(x: ArrayLike, name: str, num_sizes: int | None = None, at_least: int = 1) -> tuple[np.ndarray, int]:
    """Rows (seeds) without a NaN, and how many had one."""
    x = np.asarray(x, float)
    shape_ok = x.ndim == 2 and x.shape[1] > 0 and num_sizes in (None, x.shape[1])
    check(shape_ok, f"{name}: expected shape (seeds, {num_sizes or 'sizes'}), got {x.shape}")
    check(not np.isinf(x).any(), f"{name}: expected finite numbers, or NaN for a lost run, got an infinity")
    kept = x[~np.isnan(x).any(axis=1)]
    found = f"got {len(kept)} and {len(x) - len(kept)} with a NaN"
    check(len(kept) >= at_least, f"{name}: needs at least {at_least} seed(s), {found}")
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
        check(a.shape == b.shape, f"a, b: expected equal lengths to pair, got {a.shape} and {b.shape}")
        for name, x in (("a", a), ("b", b)):  # here, for inf - inf would pass as a NaN
            _values(x, name)
        differences, num_nan = _values(a - b, "a - b", at_least=2)
        value, std = _moments(differences)
        n_a = n_b = len(differences)
        rounding = ROUNDING * max(np.nanmax(np.abs(a)), np.nanmax(np.abs(b)))
        se, df = (std / np.sqrt(n_a) if std > rounding else 0.0), n_a - 1
    else:
        (a, nan_a), (b, nan_b) = _values(a, "a", at_least=2), _values(b, "b", at_least=2)
        n_a, n_b, num_nan = len(a), len(b), nan_a + nan_b
        (mean_a, std_a), (mean_b, std_b) = _moments(a), _moments(b)
        value = mean_a - mean_b
        rounding = ROUNDING * max(np.abs(a).max(), np.abs(b).max())
        se, df = 0.0, n_a + n_b - 2
        if max(std_a, std_b) > rounding:
            se = np.hypot(std_a / np.sqrt(n_a), std_b / np.sqrt(n_b))
            share_a, share_b = (std_a / se) ** 2 / n_a, (std_b / se) ** 2 / n_b  # of se**2
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

    def excess(shift: float) -> float:  # one tail: a rejection with the wrong sign has not found the difference
        return stats.nct.sf(critical, df, shift) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(se * optimize.brentq(excess, 0.0, high))
