"""Conditional information and the robust sign-error against naive loops over pairs."""

import collections
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats

PLAN = [{"a": a, "b": b, "c": c} for a in range(3) for b in range(2) for c in range(2)]


def naive(settings, a, b, names):
    """I(V; W | U) / H(W | U) with all ordered pairs counted one by one."""
    counts = collections.Counter()
    for i, j in itertools.permutations(range(len(a)), 2):
        if a[i] != a[j] and b[i] != b[j]:
            given = tuple((settings[i][name], settings[j][name]) for name in names)
            counts[given, a[i] > a[j], b[i] > b[j]] += 1
    total = sum(counts.values())

    def entropy(*axes):
        sums = collections.Counter()
        for key, count in counts.items():
            sums[tuple(key[axis] for axis in axes)] += count
        return -sum(count / total * math.log(count / total) for count in sums.values())

    own = entropy(0, 2) - entropy(0)
    return (entropy(0, 1) + entropy(0, 2) - entropy(0, 1, 2) - entropy(0)) / own if own > 1e-9 else math.nan


@pytest.mark.parametrize("ties", [False, True])
def test_the_information_is_that_of_counting_pairs(ties):
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 6, (2, 12)).astype(float) if ties else rng.normal(size=(2, 12))
    found = stats.conditional_information(PLAN, a, b, num_permutations=9)
    assert len(found.by_set) == 7
    for names, value in found.by_set.items():
        assert value == pytest.approx(naive(PLAN, a, b, names), abs=1e-5, nan_ok=True)
    assert found.value == pytest.approx(min(found.by_set.values())) == found.by_set[found.conditioned_on]
    assert found.excess == pytest.approx(found.value - found.null_mean)


def test_the_null_mean_is_positive_and_the_same_measure_has_all_information():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 12))
    found = stats.conditional_information(PLAN, a, b, num_permutations=99)
    assert found.null_mean > 0.001 and 0.01 <= found.pvalue <= 1
    same = stats.conditional_information(PLAN, a, -a)
    assert same.value == pytest.approx(1, abs=1e-5) and same.pvalue == 1 / 200


def test_information_edges():
    constant = stats.conditional_information(PLAN, np.ones(12), np.arange(12), num_permutations=9)
    assert constant.value == 0 and constant.pvalue == 1 and constant.num_pairs == 0
    few = stats.conditional_information(PLAN, [1.0, 2, 3, 4] + [np.nan] * 8, np.arange(12.0), num_permutations=9)
    assert few.undecided == "4 arms; needs five" and np.isnan(few.pvalue)
    with pytest.raises(ValueError, match="most"):
        stats.conditional_information(PLAN, np.ones(12), np.ones(12), most=3)


SIGN_PLAN = [{"a": a, "b": b} for b in range(14) for a in (0, 1)]


def test_the_sign_error_counts_wrong_orders():
    outcome = np.arange(28.0)
    measure = outcome.copy()
    measure[[0, 1]] = measure[[1, 0]]
    measure[3] = measure[2]  # a tie counts half
    found = stats.robust_sign_error(SIGN_PLAN, measure, outcome)
    worst = found.worst
    assert (worst.hyperparameter, worst.values, worst.num_pairs) == ("a", (0, 1), 14)
    assert found.robust == found.mean == pytest.approx(1.5 / 14) and found.noise == "nothing"
    assert found.pvalue == pytest.approx(scipy.stats.binom.cdf(1, 13, 0.5))
    assert len(found.left_out) == 14 * 13 // 2  # pairs of values of b: two pairs of arms each


def test_pairs_within_noise_weigh_nothing():
    rng = np.random.default_rng(2)
    outcome = np.arange(28.0)[:, None] + 0.05 * rng.normal(size=(28, 3))
    measure = np.broadcast_to(outcome.mean(1, keepdims=True), (28, 3)).copy()
    outcome[1] = outcome[0] + [5.0, -4.0, -0.5]  # unclear
    measure[1] = measure[0] - 1
    found = stats.robust_sign_error(SIGN_PLAN, measure, outcome)
    assert found.noise == "replicates" and found.robust == 0 and found.worst.num_kept == 13
    seeds = stats.robust_sign_error(SIGN_PLAN, measure[:, None], outcome[:, None])
    assert seeds.noise == "seeds" and seeds.robust == 0


def test_test_examples_weigh_as_in_the_paper():
    outcome = np.arange(28.0)
    wrong = outcome.copy()
    wrong[1] = -1
    n, d = 100, 0.01  # all distances within pairs are one point: no confidence
    assert max(1 - 2 * math.exp(-n * d**2 / 2), 0) == 0
    assert np.isnan(stats.robust_sign_error(SIGN_PLAN, wrong, outcome, test_size=100).robust)
    found = stats.robust_sign_error(SIGN_PLAN, wrong, outcome, test_size=100_000)
    assert found.robust == pytest.approx(1 / 14) and found.noise == "test examples"
    with pytest.raises(ValueError, match="test_size"):
        stats.robust_sign_error(SIGN_PLAN, wrong, outcome, test_size=0)


def test_the_robust_error_sees_one_bad_environment():
    plan = [{"a": a, "b": b, "c": c} for b in range(13) for a in range(3) for c in (0, 1)]
    arms = stats.design(plan)
    outcome = arms.factor("a").codes * 10 + arms.factor("b").codes * 100 + arms.factor("c").codes
    measure = outcome - 2 * arms.factor("c").codes  # wrong when c changes, and only then
    found = stats.robust_sign_error(plan, measure, outcome)
    assert found.robust == 1 and found.worst.hyperparameter == "c" and found.mean < 0.3 and found.pvalue == 1
