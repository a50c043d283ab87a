"""Granulated correlation against loops over groups and over all permutations of small groups."""

import itertools

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats


def brute(plan, name, a, b):
    """psi and its exact p-value, by every joint permutation within the groups."""
    factor = plan.factor(name)
    groups = [np.flatnonzero(factor.groups == g) for g in range(factor.groups.max() + 1)]
    taus = [{order: tau(a[g], b[g][list(order)]) for order in itertools.permutations(range(len(g)))} for g in groups]
    found = np.mean([own[tuple(range(len(g)))] for own, g in zip(taus, groups, strict=True)])
    null = np.array([np.mean(values) for values in itertools.product(*(list(own.values()) for own in taus))])
    return found, np.mean(np.abs(null) >= abs(found) - 1e-9)


def tau(a, b):
    pairs = list(itertools.combinations(range(len(a)), 2))
    return sum(np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs) / len(pairs)


def test_psi_and_its_p_value_are_those_of_all_permutations():
    rng = np.random.default_rng(0)
    full = [{"a": a, "b": b} for a in range(3) for b in range(4)]
    settings = [full[k] for k in range(12) if k not in (2, 7)]  # groups of 2, 3 and 4
    plan = stats.design(settings)
    for _ in range(5):
        a, b = rng.integers(0, 5, (2, 10)).astype(float)  # with ties
        found = stats.granulated(plan, a, b)
        for name in "ab":
            psi, pvalue = brute(plan, name, a, b)
            part = found.parts[name]
            assert part.psi == pytest.approx(psi) and part.exact
            if not part.undecided:
                assert part.pvalue == pytest.approx(pvalue)
        assert found.psi == pytest.approx(np.mean([found.parts[name].psi for name in "ab"]))


def test_pairs_are_sign_flips():
    plan = [{"a": a, "b": b} for b in range(9) for a in (0, 1)]
    b = np.arange(18.0)
    a = b.copy()
    a[[0, 1]] = a[[1, 0]]
    part = stats.granulated(plan, a, b).parts["a"]
    assert part.psi == pytest.approx(7 / 9) and part.pvalue == pytest.approx(scipy.stats.binomtest(8, 9).pvalue)


def test_large_groups_are_permuted_at_random():
    rng = np.random.default_rng(1)
    plan = [{"a": a, "b": b} for a in range(9) for b in range(3)]
    a, b = rng.normal(size=(2, 27))
    part = stats.granulated(plan, a, b, num_permutations=3000).parts["a"]
    groups = stats.design(plan).factor("a").groups
    null = scipy.stats.norm.sf  # the sum of three taus of nine is nearly normal
    sd = np.sqrt(2 * (2 * 9 + 5) / (9 * 9 * 8) / 3)
    assert not part.exact and part.pvalue == pytest.approx(2 * null(abs(part.psi) / sd), abs=0.06)
    assert part.psi == pytest.approx(np.mean([tau(a[groups == g], b[groups == g]) for g in range(3)]))


def test_too_few_groups_decide_nothing_and_lost_arms_shrink_groups():
    plan = [{"a": a, "b": b} for a in (0, 1) for b in range(6)]
    values = np.arange(12.0)
    found = stats.granulated(plan, values, values)
    assert found.parts["a"].pvalue == 2**-5 and found.psi == pytest.approx(1)
    values[0] = np.nan
    part = stats.granulated(plan, values, values).parts["a"]
    assert np.isnan(part.pvalue) and part.undecided == "5 groups, 5 pairs; the smallest p is 0.062"
    lone = stats.granulated([{"a": 1, "b": 1}, {"a": 2, "b": 2}], [1.0, 2], [1.0, 2])
    assert np.isnan(lone.psi) and lone.parts == {}


def test_all_concordant_groups_do_not_show_that_psi_is_one():
    plan = [{"a": a, "b": b} for b in range(10) for a in (0, 1)]
    part = stats.granulated(plan, np.arange(20), np.arange(20)).parts["a"]
    assert part.psi == 1 and 0 < part.low < 0.5
