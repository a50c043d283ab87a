"""Paired tests against a margin fixed beforehand, and what they could have found; beside `stats.equivalence`.

Differences are a - b of seeds (seeds,) in the same order; results carry the unit of their input. What "could have been
found" takes the observed spread for the true one.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

from ntkgen.stats._tests import TestResult, check, paired

NODES = 400  # of the average over the spread that a study may observe; 1e-4 of power from the limit


def above(a: ArrayLike, b: ArrayLike, shift: float = 0.0) -> float:
    """Return the one-sided p-value of mean(a - b) > shift, by Student's test of the pairs.

    With shift -margin this is the test of non-inferiority: a is worse by less than the margin.

    Example:
      >>> from ntkgen import stats
      >>> round(stats.above([2.0, 3.1, 3.9], [1.0, 2.0, 3.0]), 3)
      0.002

    Raises:
      ValueError: as `stats.paired`.
    """
    test = paired(np.asarray(a, float) - shift, b)
    return test.pvalue / 2 if test.statistic > 0 else 1 - test.pvalue / 2


def beyond(a: ArrayLike, b: ArrayLike, margin: float) -> float:
    """Return the p-value of |mean(a - b)| > margin: the difference matters, rather than merely being there.

    The chance of a difference as far from zero, on either side, if the true one were the margin: Student's two-sided
    test for margin 0, and the one-sided one for a margin of many standard errors.

    Example:
      >>> from ntkgen import stats
      >>> round(stats.beyond([2.0, 3.1, 3.9], [1.0, 2.0, 3.0], margin=0.5), 3)
      0.007

    Raises:
      ValueError: a margin below 0, and as `stats.paired`.
    """
    check(np.isfinite(margin) and margin >= 0, f"margin: expected a number of at least 0, got {margin}")
    test = paired(a, b)
    distance, se = abs(test.mean_difference), _standard_error(test)
    if se == 0:
        return float(distance <= margin)
    near, far = ((distance - margin) / se, (distance + margin) / se)
    return float(min(1.0, stats.t.sf(near, test.df) + stats.t.sf(far, test.df)))


def within(a: ArrayLike, b: ArrayLike, margin: float) -> float:
    """Return the p-value of |mean(a - b)| < margin: that of `stats.equivalence`, pairs, and nothing beside it.

    Example:
      >>> from ntkgen import stats
      >>> round(stats.within([1.0, 2.0, 3.0], [1.1, 1.9, 3.1], margin=0.5), 3)
      0.01

    Raises:
      ValueError: a margin that is not positive, and as `stats.paired`.
    """
    check(np.isfinite(margin) and margin > 0, f"margin: expected a positive number, got {margin}")
    test = paired(a, b)
    room, se = margin - abs(test.mean_difference), _standard_error(test)
    return float(room <= 0) if se == 0 else float(stats.t.sf(room / se, test.df))


def equivalence_power(difference: float, std: float, n: int, margin: float, alpha: float = 0.05) -> float:
    """Return the probability that n pairs are called equivalent (TOST) at a true difference.

    Given the observed standard deviation s the mean must lie within margin - t s / sqrt(n); that is averaged over s.

    Example:
      >>> from ntkgen import stats
      >>> [round(stats.equivalence_power(0.0, std=1.0, n=n, margin=1.0), 2) for n in (5, 20)]
      [0.29, 0.99]

    Args:
      difference: the true one.
      std: of the paired differences, above 0.
      n: pairs.
      margin: of the equivalence.
      alpha: level of each one-sided test.
    """
    _check(std, n, margin, alpha)
    se = std / np.sqrt(n)
    spread = np.sqrt(stats.chi2.ppf((np.arange(NODES) + 0.5) / NODES, n - 1) / (n - 1))
    room = margin - stats.t.ppf(1 - alpha, n - 1) * se * spread
    inside = stats.norm.cdf((room - difference) / se) - stats.norm.cdf((-room - difference) / se)
    return float(np.mean(np.where(room > 0, inside, 0.0)))


def largest_equivalent(std: float, n: int, margin: float, alpha: float = 0.05, power: float = 0.8) -> float | None:
    """Find the largest true difference that n pairs would still call equivalent (TOST) with the given power.

    Example:
      >>> from ntkgen import stats
      >>> round(stats.largest_equivalent(std=1.0, n=20, margin=1.0), 2)
      0.42
      >>> print(stats.largest_equivalent(std=1.0, n=5, margin=1.0))
      None

    Args:
      std: of the paired differences.
      n: pairs, at least 2.
      margin: of the equivalence.
      alpha: level of each one-sided test.
      power: wanted probability.

    Returns:
      The difference, from 0 to the margin; None where not even equal means would be called equivalent.

    Raises:
      ValueError: an argument out of its range.
    """
    _check(std, n, margin, alpha)
    check(alpha < power < 1, f"power: expected a number between alpha and 1, got {power}")
    if std == 0:
        return margin

    def excess(difference: float) -> float:
        return equivalence_power(difference, std, n, margin, alpha) - power

    return None if excess(0.0) < 0 else float(optimize.brentq(excess, 0.0, margin))


def _check(std: float, n: int, margin: float, alpha: float) -> None:
    check(np.isfinite(std) and std >= 0, f"std: expected a finite number >= 0, got {std}")
    check(n >= 2, f"n: needs at least 2 pairs, got {n}")
    check(np.isfinite(margin) and margin > 0, f"margin: expected a positive number, got {margin}")
    check(0 < alpha < 0.5, f"alpha: expected a number between 0 and 0.5, got {alpha}")


def _standard_error(test: TestResult) -> float:
    """Read the standard error off the 95 % interval."""
    return float((test.high - test.low) / 2 / stats.t.ppf(0.975, test.df))
