"""False positives where there is no link, and power where there is one.

The truths: measure and outcome independent; both driven by the same hyperparameters without any other link; heavy
tails; both with more spread in the same arms.
"""

import itertools

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats

PLAN = stats.design(
    [
        dict(zip(("batch", "rate", "width", "depth"), values, strict=True))
        for values in itertools.product(range(4), range(3), range(2), range(3))
    ]
)  # 72 arms
COUNT = 150


def driven(rng, *names):
    return sum(rng.normal(0, 2, len(f.levels))[f.codes][:, None] for f in PLAN.factors if f.name in names)


def noise(rng, kind):
    draw = (lambda *size: rng.standard_t(2, size)) if kind == "heavy" else (lambda *size: rng.normal(size=size))
    spread = np.exp(0.7 * PLAN.factor("batch").codes)[:, None] if kind == "spread" else 1.0
    return spread * (draw(72, 1) + 0.5 * draw(72, 3))


def too_many(pvalues):
    hits = int((np.array(pvalues) <= 0.05).sum())
    return scipy.stats.binomtest(hits, len(pvalues), 0.05, alternative="greater").pvalue < 0.001


def pvalues(test, kind, *names):
    found = []
    for k in range(COUNT):
        rng = np.random.default_rng([len(kind), k])
        found.append(test(driven(rng, *names) + noise(rng, kind), driven(rng, *names) + noise(rng, kind), k))
    return found


def partial(order):
    return lambda a, b, k: stats.partial_association(PLAN, a, b, order=order, num_permutations=199, seed=k).pvalue


def psi(name):
    return lambda a, b, _: stats.granulated(PLAN, a, b).parts[name].pvalue


ALL = ("batch", "rate", "width", "depth")


@pytest.mark.parametrize("kind", ["normal", "heavy", "spread"])
@pytest.mark.parametrize("order", [1, 2])
def test_partial_association_keeps_its_level_where_all_hyperparameters_drive_both(order, kind):
    assert not too_many(pvalues(partial(order), kind, *ALL))


@pytest.mark.parametrize("kind", ["normal", "heavy", "spread"])
def test_within_groups_the_level_holds_where_the_others_drive_both(kind):
    def within(a, b, k):
        return stats.partial_association(PLAN, a, b, within="rate", num_permutations=199, seed=k).pvalue

    assert not too_many(pvalues(within, kind, "batch", "width", "depth"))


@pytest.mark.parametrize("kind", ["normal", "heavy", "spread"])
def test_psi_keeps_its_level_where_other_hyperparameters_drive_both(kind):
    assert not too_many(pvalues(psi("rate"), kind, "batch", "width", "depth"))


def test_psi_finds_that_its_own_hyperparameter_drives_both():
    """This is no false positive: within these groups measure and outcome do go together."""
    found = pvalues(psi("rate"), "normal", "rate")
    assert np.mean(np.array(found) <= 0.05) > 0.4


@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_independent_populations(kind):
    def overall(a, b, k):
        return stats.kendall_overall(a, b, num_permutations=199, seed=k).pvalue

    def information(a, b, k):
        return stats.conditional_information(PLAN, a, b, num_permutations=39, seed=k).pvalue

    for test in (overall, information, lambda a, b, k: stats.granulated(PLAN, a, b).pvalue):
        assert not too_many(pvalues(test, kind))


def test_the_null_mean_is_the_mean_of_independent_populations():
    found = []
    for k in range(40):
        rng = np.random.default_rng([9, k])
        one = stats.conditional_information(PLAN, noise(rng, "normal"), noise(rng, "normal"), num_permutations=39)
        found.append(one.excess)
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(40)


@pytest.mark.parametrize("kind", ["normal", "heavy"])
def test_effects_keep_their_level(kind):
    found = []
    for k in range(COUNT):
        rng = np.random.default_rng([5, k])
        shared = 0.5 * rng.normal(size=(1, 3)) * PLAN.factor("width").codes[:, None]
        values = noise(rng, kind) + driven(rng, "batch", "rate", "depth") + shared
        effect = next(e for e in stats.effects(PLAN, values, num_flips=19) if e.hyperparameter == "width")
        found.append(effect.pvalue)
    assert np.mean(np.array(found) <= 0.05) < 0.15  # three replicates that act on the effect: two degrees of freedom


def test_a_planted_link_is_found_behind_the_hyperparameters():
    """Residual correlation 0.6 of the arm means."""
    hits = np.zeros(2)
    for k in range(60):
        rng = np.random.default_rng([6, k])
        a, other = noise(rng, "normal"), noise(rng, "normal")
        b = 0.6 * a.mean(1, keepdims=True) + 0.8 * other
        a, b = a + driven(rng, *ALL), b + driven(rng, *ALL)
        hits += [partial(1)(a, b, k) <= 0.05, partial(2)(a, b, k) <= 0.05]
    assert hits[0] > 45 and hits[1] > 30


def test_a_planted_link_is_found_by_the_others():
    hits = np.zeros(3)
    for k in range(40):
        rng = np.random.default_rng([7, k])
        a = noise(rng, "normal")
        b = 0.6 * a.mean(1, keepdims=True) + 0.8 * noise(rng, "normal")
        pvalues = (
            stats.kendall_overall(a, b, num_permutations=199).pvalue,
            stats.granulated(PLAN, a, b).pvalue,
            stats.conditional_information(PLAN, a, b, num_permutations=39).pvalue,
        )
        hits += np.array(pvalues) <= 0.05
    assert (hits > 34).all()
