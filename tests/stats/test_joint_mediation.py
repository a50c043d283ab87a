"""Mediation: least squares with dummies for groups, what refutes a path, and the chain."""

import numpy as np
import pytest

from ntkgen import stats


def slopes(y, groups, *columns):
    table = np.column_stack([*columns, groups[:, None] == np.unique(groups)])
    return np.linalg.lstsq(table, y, rcond=None)[0][: len(columns)]


def made(seed, a=1.0, b=1.0, num_groups=20):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_groups), 3)
    x = np.tile([0.0, 1, 2], num_groups)
    shared = 3 * rng.normal(size=(3, num_groups))[:, groups]
    m = a * x + shared[0] + 0.3 * rng.normal(size=len(x))
    n = m + shared[1] + 0.3 * rng.normal(size=len(x))
    return x, m, n, b * n + shared[2] + 0.3 * rng.normal(size=len(x)), groups


def test_the_slopes_are_those_of_least_squares_with_a_dummy_for_each_group():
    x, m, n, y, groups = made(0)
    one = stats.mediation(x, m, y, groups)
    assert one.steps[0].value == pytest.approx(slopes(m, groups, x)[0])
    assert [one.steps[1].value, one.direct.value] == pytest.approx(slopes(y, groups, m, x), abs=1e-6)
    assert one.total.value == pytest.approx(slopes(y, groups, x)[0])
    assert one.indirect.value + one.direct.value == pytest.approx(one.total.value)
    two = stats.mediation(x, [m, n], y, groups)
    known = [slopes(m, groups, x)[0], slopes(n, groups, m, x)[0], slopes(y, groups, n, m, x)[0]]
    assert [step.value for step in two.steps] == pytest.approx(known, abs=1e-6)
    assert two.indirect.value == pytest.approx(np.prod(known)) and two.refuted == ()
    assert two.proportion.value == pytest.approx(np.prod(known) / two.total.value)
    assert 0 < two.indirect.low < two.indirect.value < two.indirect.high


def test_a_path_is_refuted_by_a_step_without_effect():
    claimed = [0, 0]
    for seed in range(60):
        x, m, _, y, groups = made((1, seed), a=0.0)
        reasons = stats.mediation(x, m, y, groups, num_resamples=199).refuted
        claimed[0] += not reasons
        assert not reasons or "holds zero" in reasons[0] or "opposite" in reasons[0]
        x, m, n, y, groups = made((2, seed), b=0.0)
        reasons = stats.mediation(x, [m, n], y, groups, num_resamples=199).refuted
        claimed[1] += not reasons
        assert not [reason for reason in reasons if reason.startswith(("step 1", "step 2"))]
    assert max(claimed) <= 12  # of 60; the percentile bootstrap of 20 groups errs in some 7 %


def test_a_path_is_refuted_by_the_opposite_sign():
    x, m, _, _, groups = made(3)
    y = m - 5 * x + 0.1 * np.random.default_rng(3).normal(size=len(x))
    found = stats.mediation(x, m, y, groups)
    assert len(found.refuted) == 1 and "opposite sign" in found.refuted[0]


def test_mediation_edges():
    x, m, _, y, groups = made(4, num_groups=8)
    same = stats.mediation(x, [m], y, groups)
    assert same == stats.mediation(x, m, y, groups) and same.undecided == ""
    assert stats.mediation(x, m.tolist(), y, groups) == same
    few = stats.mediation(x[:9], m[:9], y[:9], groups[:9])
    assert few.undecided == "3 groups; needs 8" and np.isnan(few.indirect.low) and few.refuted == ()
    m[0] = m[3] = m[4] = np.nan
    lost = stats.mediation(x, m, y, np.where(groups == 7, -1, groups))
    assert (lost.num_arms, lost.num_groups) == (17, 6)
    with pytest.raises(ValueError, match="two arms"):
        stats.mediation(x, m, y, np.arange(24))
    with pytest.raises(ValueError, match="mediator 2: expected shape"):
        stats.mediation(x, [m, m[:3]], y, groups)
