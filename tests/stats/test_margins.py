"""Tests against a margin and what they could find: against scipy, at their edges, and by simulation."""

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats


def pairs(draws, n, difference, std, seed=0):
    return np.random.default_rng(seed).normal(difference, std, (draws, n))


def test_above_is_scipys_one_sided_test():
    a, b = np.random.default_rng(0).normal(84, 1, (2, 5))
    for shift in (-1.2, 0.0, 0.7):
        expected = scipy.stats.ttest_rel(a, b + shift, alternative="greater").pvalue
        assert stats.above(a, b, shift) == pytest.approx(expected, rel=1e-9)
    assert stats.above([1, 1, 1], [0, 0, 0], 0.5) == 0 and stats.above([1, 1, 1], [0, 0, 0], 2) == 1


def test_beyond_is_students_test_at_no_margin_and_one_sided_at_a_wide_one():
    a, b = np.random.default_rng(1).normal(84, 1, (2, 5))
    assert stats.beyond(a, b, 0) == pytest.approx(stats.paired(a, b).pvalue)
    assert stats.beyond(a, b + 200, 199) == pytest.approx(stats.above(b + 200, a, 199), rel=1e-4)
    assert stats.beyond(a, b, 0.3) == stats.beyond(b, a, 0.3) > stats.beyond(a, b, 0.1)
    assert (stats.beyond([2, 2], [1, 1], 0.5), stats.beyond([2, 2], [1, 1], 1.0)) == (0, 1)


def test_within_is_the_test_of_equivalence():
    a, b = np.random.default_rng(1).normal(84, 1, (2, 5))
    for margin in (0.1, 1.0, 5.0):
        assert stats.within(a, b, margin) == pytest.approx(stats.equivalence(a, b, margin).pvalue, rel=1e-9)
    assert (stats.within([1, 1], [1, 1], 0.5), stats.within([2, 2], [1, 1], 1.0)) == (0, 1)


@pytest.mark.parametrize("std", [0.1, 0.5, 3.0])
def test_a_difference_of_the_margin_is_rarely_called_beyond_it(std):
    draws = 4000
    found = [stats.beyond(row, np.zeros(5), 0.5) <= 0.05 for row in pairs(draws, 5, 0.5, std)]
    assert np.mean(found) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    assert np.mean([stats.beyond(row, np.zeros(5), 0.5) <= 0.05 for row in pairs(500, 5, 9 * std + 1, std)]) > 0.9


@pytest.mark.parametrize(("std", "n", "alpha"), [(0.2, 5, 0.05), (0.15, 3, 0.05), (0.15, 5, 0.0125)])
def test_the_largest_difference_called_equivalent_has_the_stated_power_in_simulation(std, n, alpha):
    largest = stats.largest_equivalent(std, n, 0.5, alpha)
    assert 0 < largest < 0.5
    draws = 20_000
    x = pairs(draws, n, largest, std, seed=2)
    mean, half = x.mean(1), scipy.stats.t.ppf(1 - alpha, n - 1) * x.std(1, ddof=1) / np.sqrt(n)
    inside = (mean + half <= 0.5) & (mean - half >= -0.5)
    assert np.mean(inside) == pytest.approx(0.8, abs=3 * 0.0029)
    for row, same in zip(x[:50], inside[:50], strict=True):  # that is the test which the study makes
        assert stats.equivalence(row, np.zeros(n), 0.5, alpha=alpha).equivalent == same


def test_too_much_spread_calls_nothing_equivalent():
    assert stats.largest_equivalent(2.0, 5, 0.5) is None and stats.equivalence_power(0, 2.0, 5, 0.5) < 0.2
    assert stats.largest_equivalent(0.0, 5, 0.5) == 0.5


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (5, 0.05 / 9)])
def test_a_one_sided_test_finds_the_detectable_effect_as_often_as_it_says(n, alpha):
    effect = stats.minimum_detectable_effect(1.0, n, alpha, one_sided=True)
    assert effect < stats.minimum_detectable_effect(1.0, n, alpha)
    test = scipy.stats.ttest_1samp(pairs(20_000, n, effect, 1.0, seed=3), 0, axis=1, alternative="greater")
    assert np.mean(test.pvalue <= alpha) == pytest.approx(0.8, abs=3 * 0.0029)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("margin", lambda: stats.beyond([1, 2], [1, 3], -1)),
        ("margin", lambda: stats.largest_equivalent(1.0, 5, 0)),
        ("std", lambda: stats.largest_equivalent(np.nan, 5, 1)),
        ("n", lambda: stats.largest_equivalent(1.0, 1, 1)),
        ("alpha", lambda: stats.largest_equivalent(1.0, 5, 1, alpha=0.5)),
        ("power", lambda: stats.largest_equivalent(1.0, 5, 1, power=0.01)),
    ],
)
def test_bad_arguments_are_named(name, call):
    with pytest.raises(ValueError, match=rf"^{name}: .*, got|^{name}: needs"):
        call()
