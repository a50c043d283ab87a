"""Kendall's tau over all arms: scipy's numbers, the jackknife one by one, and coverage."""

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats


def population(rng, num_arms, num_replicates=3, rho=0.0):
    common = rng.normal(size=(num_arms, 1))
    other = rho * common + np.sqrt(1 - rho**2) * rng.normal(size=(num_arms, 1))
    noise = 0.5 * rng.normal(size=(2, num_arms, num_replicates))
    return common + noise[0], other + noise[1]


@pytest.mark.parametrize("num_arms", [6, 12, 40])
def test_it_is_scipys_tau_of_arm_means(num_arms):
    rng = np.random.default_rng(num_arms)
    a, b = population(rng, num_arms, rho=0.5)
    a, b = np.round(a), np.round(b)  # with ties
    known = scipy.stats.kendalltau(a.mean(1), b.mean(1))
    assert stats.kendall_overall(a, b, num_permutations=9).tau == pytest.approx(known.statistic)


@pytest.mark.parametrize("num_arms", [8, 12, 40])
def test_its_p_value_is_scipys_exact_one_without_ties(num_arms):
    a, b = population(np.random.default_rng([1, num_arms]), num_arms, rho=0.3)
    known = scipy.stats.kendalltau(a.mean(1), b.mean(1), method="exact").pvalue
    found = stats.kendall_overall(a, b, num_permutations=4000).pvalue
    assert found == pytest.approx(known, abs=4 * np.sqrt(known * (1 - known) / 4000) + 1 / 4000)


def test_small_designs_have_the_p_value_of_association():
    a, b = population(np.random.default_rng(1), 7)
    known = stats.association(a.T, b.T)
    assert stats.kendall_overall(a, b)[:2] == pytest.approx((known.tau, known.pvalue))


def test_the_jackknife_is_that_of_leaving_out_arms_and_replicates_one_by_one():
    a, b = population(np.random.default_rng(2), 9, 4, rho=0.5)
    tau = lambda a, b: scipy.stats.kendalltau(a.mean(1), b.mean(1)).statistic  # noqa: E731
    arms = [tau(np.delete(a, i, 0), np.delete(b, i, 0)) for i in range(9)]
    found = stats.kendall_overall(a, b)
    assert found.se_arms == pytest.approx(np.sqrt(8 * np.var(arms)))
    whole = 3 * np.var([tau(np.delete(a, r, 1), np.delete(b, r, 1)) for r in range(4)])
    cells = np.zeros((9, 4))
    for i in range(9):
        for r in range(4):
            c, d = a.copy(), b.copy()
            c[i, r] = d[i, r] = np.nan
            cells[i, r] = scipy.stats.kendalltau(np.nanmean(c, 1), np.nanmean(d, 1)).statistic
    expected = max(whole - 3 * cells.var(1).sum(), 0)
    assert found.se_replicates == pytest.approx(np.sqrt(expected), abs=1e-9)


def test_edges():
    few = stats.kendall_overall([[1.0], [2], [3]], [[1.0], [2], [3]])
    assert few.tau == 1 and np.isnan(few.pvalue) and few.undecided == "3 arms; needs five"
    constant = stats.kendall_overall([[1.0]] * 6, [[float(k)] for k in range(6)])
    assert constant.tau == 0 and constant.pvalue == 1
    perfect = stats.kendall_overall(np.arange(12.0), np.arange(12.0))
    assert (perfect.tau, perfect.low, perfect.high) == (1, 1, 1) and perfect.pvalue == 1 / 2000
    a, b = population(np.random.default_rng(3), 10)
    wide = [np.vstack([x, np.full((1, 3), np.nan)]) for x in (a, b)]
    assert stats.kendall_overall(*wide) == stats.kendall_overall(a, b)._replace(num_lost_arms=1)
    with pytest.raises(ValueError, match="level"):
        stats.kendall_overall(a, b, level=1)


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_the_interval_covers(rho):
    target = 2 / np.pi * np.arcsin(rho / (1 + 0.25 / 3))  # of normal arm means with this noise
    count, hits = 200, 0
    for k in range(count):
        found = stats.kendall_overall(*population(np.random.default_rng([4, k]), 30, rho=rho), num_permutations=1)
        hits += found.low <= target <= found.high
    assert scipy.stats.binomtest(hits, count, 0.95).pvalue > 0.001
