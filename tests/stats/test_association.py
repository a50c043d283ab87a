"""Association over arms: scipy's exact test of arm means, and false positives where arms share effects by chance."""

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats


def arms(seed, num_seeds, num_arms, spread=0.0, associated=False):
    """Accuracy and sharpness (seeds, arms): effects of arms times spread, and noise of the seeds."""
    rng = np.random.default_rng(seed)
    effects = spread * rng.normal(size=(2, num_arms))
    if associated:
        effects[1] = -effects[0]
    return effects[:, None] + rng.normal(size=(2, num_seeds, num_arms))


@pytest.mark.parametrize("num_arms", [5, 6, 7])
def test_it_is_kendalls_exact_test_of_arm_means(num_arms):
    for seed in range(5):
        a, b = arms(seed, 4, num_arms)
        known = scipy.stats.kendalltau(a.mean(0), b.mean(0), method="exact")
        found = stats.association(a, b)
        assert (found.tau, found.pvalue) == pytest.approx((known.statistic, known.pvalue))
        assert found.num_permutations == {5: 120, 6: 720, 7: 5040}[num_arms] and found.n == 4


def test_many_arms_are_permuted_at_random():
    a, b = arms(3, 3, 12)
    known = scipy.stats.kendalltau(a.mean(0), b.mean(0), method="exact").pvalue
    found = stats.association(a, b, num_permutations=4000)
    assert found.pvalue == pytest.approx(known, abs=4 * np.sqrt(known * (1 - known) / 4000))
    assert found == stats.association(a, b, num_permutations=4000)
    top = stats.association([range(10)], [range(10)], num_permutations=99)
    assert top.tau == 1 and top.pvalue == 0.01  # no order of the 99 is as good: (1 + 0) / (1 + 99)


def test_ties_are_shared_and_constants_show_nothing():
    a = [[1.0, 1, 2, 3, 4]]
    found = stats.association(a, [[1.0, 2, 3, 4, 5]])
    assert found.tau == pytest.approx(scipy.stats.kendalltau(a[0], range(5)).statistic)
    assert found.pvalue == pytest.approx(4 / 120)  # 9 of 10 pairs agree: two orders do, two more do backwards
    assert stats.association(a, [[7.0] * 5])[:2] == (0, 1)


@pytest.mark.parametrize("num_arms", [2, 3, 4])
def test_fewer_than_five_arms_have_no_p_value(num_arms):
    found = stats.association([range(num_arms)] * 5, [range(num_arms)] * 5)
    assert found.tau == 1 and np.isnan(found.pvalue) and found.undecided == f"{num_arms} arms; needs five"


def test_lost_runs_and_arms_are_left_out():
    a, b = arms(1, 3, 7)
    holed_a, holed_b = np.vstack([a, np.full(7, 1.0)]), np.vstack([b, np.full(7, 1.0)])
    holed_a[3, 2] = np.nan
    wide = [np.hstack([x, np.full((4, 1), np.nan)]) for x in (holed_a, holed_b)]
    expected = stats.association(a, b)
    assert stats.association(holed_a, holed_b) == expected._replace(num_nan=1)
    assert stats.association(*wide) == expected._replace(num_nan=1, num_lost_arms=1)
    order = [2, 0, 1]
    assert stats.association(a[order], b[order]) == expected
    assert stats.association(-a, b).pvalue == expected.pvalue


@pytest.mark.parametrize("num_arms", [5, 7])
@pytest.mark.parametrize("spread", [0.0, 2.0, 10.0])
def test_it_keeps_its_level_at_every_spread_of_arms(num_arms, spread):
    """A test with seeds as replicates rejects in a third of such data at a spread of 2."""
    count = 500
    fired = sum(stats.association(*arms((4, i), 5, num_arms, spread)).pvalue <= 0.05 for i in range(count))
    assert scipy.stats.binomtest(fired, count, 0.05, alternative="greater").pvalue > 0.001
    if spread:
        found = sum(stats.association(*arms((5, i), 5, num_arms, spread, True)).pvalue <= 0.05 for i in range(100))
        assert found > 40


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("accuracy: expected shape", lambda: stats.association([1, 2], [1, 2])),
        ("measure: expected the shape", lambda: stats.association([[1, 2]], [[1, 2, 3]])),
        ("measure: expected finite", lambda: stats.association([[1, 2]], [[1, np.inf]])),
        ("accuracy, measure: expected a seed", lambda: stats.association([[np.nan, 2], [1, np.nan]], [[1, 2]] * 2)),
        ("num_permutations", lambda: stats.association([[1, 2]], [[1, 2]], num_permutations=0)),
    ],
)
def test_bad_arguments_are_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
