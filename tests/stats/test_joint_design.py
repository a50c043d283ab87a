"""Designs: levels, groups and pairs by hand; arm means with lost runs."""

import itertools

import numpy as np
import pytest

from ntkgen import stats
from ntkgen.stats import _arms


def test_groups_and_pairs_are_those_found_by_looking_at_every_pair():
    rng = np.random.default_rng(0)
    full = [dict(zip("abc", values, strict=True)) for values in itertools.product([3, 1, 2], ["x", "w"], [0.1, 0.2])]
    settings = [full[k] for k in rng.permutation(len(full))[:9]]
    plan = stats.design(settings)
    assert plan.names == ("a", "b", "c") and plan.factor("a").levels == (1, 2, 3)
    assert plan.factor("b").levels == tuple(dict.fromkeys(setting["b"] for setting in settings))
    for factor in plan.factors:
        pairs = {
            (i, j)
            for i, j in itertools.permutations(range(9), 2)
            if [name for name in "abc" if settings[i][name] != settings[j][name]] == [factor.name]
            and factor.levels.index(settings[i][factor.name]) < factor.levels.index(settings[j][factor.name])
        }
        assert set(zip(factor.first.tolist(), factor.second.tolist(), strict=True)) == pairs
        assert (factor.groups[factor.first] == factor.groups[factor.second]).all()
        assert set(np.flatnonzero(factor.groups < 0)) == set(range(9)) - {arm for pair in pairs for arm in pair}


def test_a_design_is_taken_as_it_is_and_constants_are_left_out():
    plan = stats.design([{"a": 1, "b": None}, {"a": 2, "b": None}])
    assert stats.design(plan) is plan and plan.names == ("a",)
    with pytest.raises(ValueError, match="hyperparameter: expected one of"):
        plan.factor("b")


def test_dummies_span_the_model():
    plan = stats.design([{"a": a, "b": b} for a in range(3) for b in range(4)])
    assert plan.dummies(1).shape == (12, 6) and np.linalg.matrix_rank(plan.dummies(2)) == 12


@pytest.mark.parametrize(
    ("message", "settings"),
    [
        ("at least one arm", []),
        ("in every arm", [{"a": 1}, {"b": 1}]),
        ("the same in arms 0 and 2", [{"a": 1}, {"a": 2}, {"a": 1}]),
    ],
)
def test_bad_settings_are_named(message, settings):
    with pytest.raises(ValueError, match=message):
        stats.design(settings)


def test_an_arm_does_not_gain_by_losing_a_difficult_replicate():
    arms, replicates = np.array([1.0, 2, 3, 4]), np.array([0.0, 10, -4])
    values = (arms[:, None] + replicates)[:, :, None] + np.array([-1.0, 1])
    holed = values.copy()
    holed[0, 1] = holed[3, 2] = np.nan  # all seeds
    found = _arms.arm_means(holed)
    np.testing.assert_allclose(np.diff(found), np.diff(arms), atol=1e-9)
    np.testing.assert_allclose(_arms.arm_means(values), values.mean((1, 2)), rtol=1e-11)
    holed[1] = np.nan
    assert np.isnan(_arms.arm_means(holed)).tolist() == [False, True, False, False]


def test_means_that_differ_by_rounding_are_ties():
    values = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.3, 0.1, 0.2]]) * 1e-9
    assert len(set(_arms.arm_means(values[:, :, None]).tolist())) == 1


def test_a_run_lost_on_one_side_is_lost_on_both():
    first, second = _arms.joint([[1.0, np.nan], [2, 3]], [[1.0, 2], [np.nan, 3]])
    assert (np.isnan(first) == np.isnan(second)).all() and np.isnan(first).sum() == 2
    with pytest.raises(ValueError, match="outcome: expected the shape"):
        _arms.joint([[1.0, 2]], [[1.0]])
    with pytest.raises(ValueError, match="measure: expected finite"):
        _arms.joint([[np.inf]], [[1.0]])
