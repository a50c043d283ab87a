"""Exact rank tests: against scipy where it is exact too, by counting, and with infinities."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats

INF = np.inf


def test_without_ties_they_are_scipys_exact_tests():
    rng = np.random.default_rng(0)
    for n in (3, 5, 9):
        a, b = rng.normal(size=n), rng.normal(0.8, size=n)
        assert stats.signed_rank(a, b) == pytest.approx(scipy.stats.wilcoxon(a, b, method="exact").pvalue)
        other = b[:-1]
        expected = scipy.stats.mannwhitneyu(a, other, method="exact").pvalue
        assert stats.rank_sum(a, other) == pytest.approx(expected)


def test_with_ties_they_count_all_assignments():
    a, b = np.array([1.0, 2, 2, 5, INF]), np.array([2.0, 2, 4, INF, INF])
    d = [-1, -2, -INF]  # the pairs that differ
    rank = scipy.stats.rankdata(np.abs(d))
    sums = [rank[list(signs)].sum() for k in range(4) for signs in itertools.combinations(range(3), k)]
    assert stats.signed_rank(a, b) == np.mean([abs(s - 3) >= 3 for s in sums]) == 0.25
    rank = scipy.stats.rankdata([*a, *b])
    sums = np.array([rank[list(group)].sum() for group in itertools.combinations(range(10), 5)])
    far = np.abs(sums - sums.mean()) >= abs(rank[:5].sum() - sums.mean()) - 1e-9
    assert stats.rank_sum(a, b) == pytest.approx(far.mean())


def test_never_is_worse_than_late():
    reached, never = [3.0, 4, 5, 6, 7], [INF] * 5
    assert stats.signed_rank(reached, never) == 2 / 2**5 and stats.rank_sum(reached, never) == pytest.approx(2 / 252)
    assert stats.signed_rank(never, never) == 1 and stats.rank_sum(never, never) == 1
    assert stats.rank_sum(reached, never) == stats.rank_sum(never, reached)


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"^a: expected shape \(seeds,\) without NaN, got"):
        stats.signed_rank([1, np.nan], [1, 2])
    with pytest.raises(ValueError, match=r"^a, b: expected equal lengths to pair, got"):
        stats.signed_rank([1.0], [1, 2])
    with pytest.raises(ValueError, match=r"^a, b: expected at least one value each, got"):
        stats.rank_sum([], [1, 2])
