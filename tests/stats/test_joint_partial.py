"""Partial association and effects against least squares and paired tests."""

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats

PLAN = [{"a": a, "b": b, "c": c} for a in range(4) for b in range(3) for c in range(3)]


@pytest.mark.parametrize(("order", "df"), [(1, 28), (2, 12)])
def test_the_correlation_is_that_of_residual_ranks(order, df):
    a, b = np.random.default_rng(0).normal(size=(2, 36))
    columns = stats.design(PLAN).dummies(order)
    ranks = [scipy.stats.rankdata(x) for x in (a, b)]
    rests = [x - columns @ np.linalg.lstsq(columns, x, rcond=None)[0] for x in ranks]
    found = stats.partial_association(PLAN, a, b, order=order, num_permutations=99)
    assert found.correlation == pytest.approx(np.corrcoef(*rests)[0, 1])
    assert (found.df, found.num_arms) == (df, 36) and found.low < found.correlation < found.high


def test_within_groups_other_hyperparameters_do_nothing():
    a, b = np.random.default_rng(1).normal(size=(2, 36))
    plan = stats.design(PLAN)
    groups = plan.factor("a").groups
    shift = 1000 * groups**2  # any function of the others
    ranks = [scipy.stats.rankdata(x + shift) for x in (a, b)]
    means = [np.array([x[groups == g].mean() for g in range(9)])[groups] for x in ranks]
    found = stats.partial_association(plan, a + shift, b + shift, within="a", num_permutations=99)
    assert found.correlation == pytest.approx(np.corrcoef(ranks[0] - means[0], ranks[1] - means[1])[0, 1])
    assert found.df == 27 and found.adjusted_for == "groups that differ in a"


def test_partial_edges():
    a, b = np.random.default_rng(2).normal(size=(2, 36))
    codes = stats.design(PLAN).factor("a").codes
    flat = stats.partial_association(PLAN, codes, b, num_permutations=9)
    assert (flat.correlation, flat.pvalue) == (0, 1)
    few = stats.partial_association(PLAN[:9], a[:9], b[:9], num_permutations=9)
    assert few.undecided == "4 residual degrees of freedom; needs five" and np.isnan(few.pvalue)
    a[5] = np.nan
    assert stats.partial_association(PLAN, a, b, num_permutations=9).num_arms == 35
    with pytest.raises(ValueError, match="order"):
        stats.partial_association(PLAN, b, b, order=3)


def test_effects_of_one_replicate_are_paired_tests():
    values = np.random.default_rng(3).normal(size=36)
    found = stats.effects(PLAN, values)
    assert [effect.hyperparameter for effect in found] == ["a"] * 3 + ["b"] * 2 + ["c"] * 2
    codes = stats.design(PLAN).factor("b").codes
    known = stats.paired(values[codes == 1], values[codes == 0])
    effect = found[3]
    assert effect.levels == (0, 1) and effect.num_groups == 12
    numbers = (effect.mean, effect.low, effect.high, effect.pvalue)
    assert numbers == pytest.approx((known.mean_difference, known.low, known.high, known.pvalue))


def test_flips_are_exact():
    plan = [{"a": a, "b": b} for b in range(6) for a in (0, 1)]
    effect = next(e for e in stats.effects(plan, np.arange(12) ** 2) if e.hyperparameter == "a")
    assert effect.pvalue_flips == 2 / 64 and effect.mean == 11


def test_replicates_that_act_on_the_difference_widen_the_interval():
    rng = np.random.default_rng(4)
    plan = [{"a": a, "b": b} for b in range(20) for a in (0, 1)]
    codes = stats.design(plan).factor("a").codes[:, None]
    values = 0.1 * rng.normal(size=(40, 3))
    shared = values + codes * np.array([3.0, -3, 0])
    alone, wide = (stats.effects(plan, x)[0] for x in (values, shared))
    assert wide.se == pytest.approx(np.sqrt(alone.se**2 + 3), rel=0.05) and wide.df < 2.1


def test_effects_edges():
    plan = [{"a": a, "b": b} for b in range(3) for a in (0, 1)]
    same = stats.effects(plan, np.array([0.0, 1, 4, 5, 7, 8]))[0]
    assert (same.mean, same.low, same.high, same.pvalue) == (1, 1, 1, 0) and np.isnan(same.pvalue_flips)
    lost = stats.effects(plan, [0.0, 1, 4, np.nan, np.nan, 8])[0]
    assert lost.num_groups == 1 and lost.num_lost_groups == 2 and lost.undecided == "1 groups; needs two"
    assert lost.mean == 1 and np.isnan(lost.low)
