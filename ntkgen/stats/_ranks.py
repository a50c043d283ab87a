"""Exact rank tests for a handful of seeds, in which an infinity is a value: "never reached" is later than any epoch.

Both p-values are two-sided and conditional on the ties, whose ranks are shared; all assignments of signs or groups are
counted, by convolution, so that they are exact at any number of seeds.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._tests import check


def signed_rank(a: ArrayLike, b: ArrayLike) -> float:
    """Return the p-value of Wilcoxon's signed-rank test of the pairs a, b, both (seeds,) in the same order.

    Equal pairs (two infinities too) say nothing and are left out (Wilcoxon 1945). Of n pairs the smallest possible
    p-value is 2^(1-n): 0.0625 with five.

    Example:
      >>> from ntkgen import stats
      >>> round(stats.signed_rank([2.0, 3.1, 3.9, 5.0, 6.2], [1.0, 2.0, 3.0, 4.2, 5.0]), 4)
      0.0625

    Raises:
      ValueError: lengths that differ, or a NaN.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    check(a.shape == b.shape, f"a, b: expected equal lengths to pair, got {a.shape} and {b.shape}")
    apart = a != b
    differences = a[apart] - b[apart]
    if not differences.size:
        return 1.0
    doubled = _doubled_ranks(np.abs(differences))
    counts = np.ones(1)  # by the doubled sum of the positive ranks
    for rank in doubled:
        with_it = np.concatenate([np.zeros(rank), counts])
        counts = with_it + np.concatenate([counts, np.zeros(rank)])
    return _two_sided(counts, int(doubled[differences > 0].sum()))


def rank_sum(a: ArrayLike, b: ArrayLike) -> float:
    """Return the p-value of Wilcoxon's rank-sum test of independent a (seeds_a,) and b (seeds_b,).

    Example:
      >>> from ntkgen import stats
      >>> round(stats.rank_sum([1.0, 2.0, 3.0], [4.0, 5.0, 6.0]), 3)
      0.1

    Raises:
      ValueError: a side without values, or a NaN.
    """
    a, b = _checked(a, "a"), _checked(b, "b")
    check(a.size > 0 and b.size > 0, f"a, b: expected at least one value each, got {a.size} and {b.size}")
    doubled = _doubled_ranks(np.concatenate([a, b]))
    counts = np.zeros((a.size + 1, doubled.sum() + 1))  # by the size of a group and its doubled sum of ranks
    counts[0, 0] = 1
    for rank in doubled:
        counts[1:, rank:] += counts[:-1, : counts.shape[1] - rank].copy()
    return _two_sided(counts[-1], int(doubled[: a.size].sum()))


def _checked(x: ArrayLike, name: str) -> np.ndarray:
    x = np.asarray(x, float)
    check(x.ndim == 1 and not np.isnan(x).any(), f"{name}: expected shape (seeds,) without NaN, got {x}")
    return x


def _doubled_ranks(values: np.ndarray) -> np.ndarray:
    """Return twice the ranks, which ties share: whole numbers."""
    return np.rint(2 * stats.rankdata(values)).astype(int)


def _two_sided(counts: np.ndarray, found: int) -> float:
    """Return the share of assignments whose statistic is at least as far from its mean as the one found."""
    sums = np.arange(len(counts))
    mean = counts @ sums / counts.sum()
    far = np.abs(sums - mean) >= abs(found - mean) - 1e-9
    return float(counts[far].sum() / counts.sum())
