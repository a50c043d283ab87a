"""One answer from several losses: the largest of the targets' p-values, and none from a single target."""

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats


def sides(seed, differences, sd=0.05):
    """Values (targets, seeds) of two sides whose true differences at the targets are given."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, sd, (2, len(differences), 5))
    return a + np.asarray(differences)[:, None], b


def test_p_values_are_the_largest_of_the_targets():
    a, b = sides(0, [0.3, 0.4, 0.5])
    found = stats.over_targets(a, b, 0.1)
    tests = [stats.paired(x, y) for x, y in zip(a, b, strict=True)]
    assert found.pvalue == max(test.pvalue for test in tests) and found.sign == 1 and found.num_targets == 3
    np.testing.assert_allclose(found.difference, [test.mean_difference for test in tests])
    np.testing.assert_allclose([found.low, found.high], np.transpose([(test.low, test.high) for test in tests]))
    same = max(stats.equivalence(x, y, 0.1).pvalue for x, y in zip(a, b, strict=True))
    assert found.equivalence_p == pytest.approx(same, rel=1e-9)
    assert stats.over_targets(b, a, 0.1).sign == -1


def test_a_difference_that_turns_round_is_none():
    found = stats.over_targets(*sides(1, [1.0, -1.0]), 0.1)
    assert found.sign == 0 and found.pvalue == 1 and found.equivalence_p > 0.9


def test_targets_that_a_seed_misses_do_not_count_and_one_is_too_few():
    a, b = sides(2, [0.3, 0.4, -5.0])
    b[2, 4] = np.nan
    found = stats.over_targets(a, b, 0.1)
    assert found.num_targets == 2 and found.sign == 1 and np.isnan(found.difference[2])
    assert found[4:7] == stats.over_targets(a[:2], b[:2], 0.1)[4:7]
    a[0, 0] = np.nan
    lone = stats.over_targets(a, b, 0.1)
    assert np.isnan(lone.pvalue) and np.isnan(lone.equivalence_p)
    assert lone.undecided == "1 of 3 losses reached by every seed of both; needs two"
    assert stats.over_targets(a[:, :1], b[:, :1], 0.1).undecided == "1 pairs; a test needs two"


@pytest.mark.parametrize("others", [0.0, 0.1, 3.0])
def test_equal_at_one_loss_is_rarely_called_a_difference(others):
    """No difference at one target, whatever there is at the two others; and a difference of the margin at one."""
    count = 200
    fired = [stats.over_targets(*sides((3, i), [0.0, others, others]), 0.1).pvalue <= 0.05 for i in range(count)]
    same = [stats.over_targets(*sides((4, i), [0.1, 0.0, 0.0]), 0.1).equivalence_p <= 0.05 for i in range(count)]
    for hits in (sum(fired), sum(same)):
        assert scipy.stats.binomtest(hits, count, 0.05, alternative="greater").pvalue > 0.001


def test_bad_arguments_are_named():
    for message, args in (
        ("a: expected shape", ([1, 2], [1, 2], 1)),
        ("b: expected the shape", ([[1, 2]], [[1, 2, 3]], 1)),
        ("margin: expected", ([[1, 2]], [[1, 2]], 0)),
    ):
        with pytest.raises(ValueError, match=message):
            stats.over_targets(*args)
