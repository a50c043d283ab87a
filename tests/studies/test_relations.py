"""Claims find their own test, and a decision has three words."""

import dataclasses

import numpy as np
import pytest

from ntkgen import stats
from ntkgen.studies import relations, tables
from ntkgen.studies.relations import Relation

ALPHA = 0.05


@pytest.mark.parametrize(
    ("difference", "pvalue", "sign", "more", "word", "why"),
    [
        (0.4, 0.01, +1, {}, "seen", ""),
        (-0.4, 0.05, -1, {}, "seen", ""),  # at the level itself the test rejects
        (-0.4, 0.01, +1, {}, "not seen", "the opposite is"),
        (0.4, 0.01, -1, {}, "not seen", "the opposite is"),
        (0.4, 0.01, +1, {"equivalence_p": 0.001, "margin": 1.0}, "seen", ""),
        (0.1, 0.2, +1, {"equivalence_p": 0.05, "margin": 0.5}, "not seen", "equal within 0.5"),
        (0.1, 0.2, +1, {"equivalence_p": 0.06, "margin": 0.5}, "undecided", ""),
        (0.4, 0.051, +1, {}, "undecided", ""),
        (0.4, 0.2, +1, {"detectable": 0.714}, "undecided", "detectable effect 0.71"),
        (np.nan, np.nan, +1, {}, "undecided", ""),
        (0.0, np.nan, +1, {"equivalence_p": np.nan, "margin": 1.0, "detectable": 0.0}, "undecided",
         "detectable effect 0"),
    ],
)  # fmt: skip
def test_each_word(difference, pvalue, sign, more, word, why):
    found = stats.decide(difference, pvalue, sign=sign, alpha=ALPHA, **more)
    assert found == (word, why) and word in (stats.SEEN, stats.NOT_SEEN, stats.UNDECIDED)
    assert str(found) == (f"{word} ({why})" if why else word)


@pytest.mark.parametrize(
    ("difference", "pvalue", "equivalence_p", "word"),
    [(0.1, 0.3, 0.01, "seen"), (0.1, 0.01, 0.01, "seen"), (0.9, 0.01, 0.8, "not seen"), (-0.9, 0.01, 0.8, "not seen"),
     (0.4, 0.01, 0.2, "undecided"), (0.9, 0.2, 0.8, "undecided"), (np.nan, np.nan, np.nan, "undecided")],
)  # fmt: skip
def test_each_word_of_equality(difference, pvalue, equivalence_p, word):
    found = stats.decide_equal(difference, pvalue, equivalence_p, margin=0.5, alpha=ALPHA, detectable=0.25)
    assert found == (word, "detectable effect 0.25" if word == "undecided" else "")


CLAIMS = [
    Relation("a is higher than b", "accuracy", "acc", "a", "b", +1, 0.5),
    Relation("b is higher than a", "accuracy", "acc", "b", "a", +1, 0.5),
    Relation("a is lower than c", "accuracy", "acc", "a", "c", -1, 0.5, published=-3.0),
    Relation("c is lost", "accuracy", "acc", "a", "lost", +1),
    Relation("a is higher than b", "loss", "loss", "a", "b", +1),
]
VALUES = {
    "acc": {"a": [10, 11, 12, 13.0], "b": [6, 7.2, 8, 9.1], "c": [10.01, 11, 12.01, 13], "lost": [np.nan] * 3 + [1.0]},
    "loss": {"a": [1, 2, 3, 4.0], "b": [2, 1, 4, 3.5]},
}


def test_a_claim_finds_its_own_row():
    found = relations.test(CLAIMS, VALUES)
    assert list(found) == CLAIMS
    for claim, row in found.items():
        assert (row["family"], row["metric"], row["first"], row["second"]) == (
            claim.family, claim.metric, claim.first, claim.second)  # fmt: skip
        a, b = (np.asarray(VALUES[claim.metric][arm], float) for arm in (claim.first, claim.second))
        if not row["undecided"]:
            assert row["difference"] == pytest.approx(np.mean(a - b)) and row["margin"] == claim.margin
    # By an equal object too, and not by one that differs in anything.
    assert found[dataclasses.replace(CLAIMS[0])] is found[CLAIMS[0]]
    assert dataclasses.replace(CLAIMS[0], published=1.0) not in found
    # Neither the order of the claims nor one that comes twice makes a difference to a row.
    assert relations.test(CLAIMS[::-1], VALUES) == found == relations.test([*CLAIMS, CLAIMS[0]], VALUES)


def test_p_values_are_adjusted_within_each_family():
    found = relations.test(CLAIMS, VALUES)
    own = [found[claim] for claim in CLAIMS[:3]]
    _, adjusted = stats.false_discovery([row["paired_p"] for row in own])
    assert [row["paired_adjusted"] for row in own] == pytest.approx(list(adjusted))
    _, adjusted = stats.false_discovery([row["equivalence_p"] for row in own])
    assert [row["equivalence_adjusted"] for row in own] == pytest.approx(list(adjusted))
    alone = found[CLAIMS[4]]
    assert alone["paired_adjusted"] == alone["paired_p"] and alone["equivalence_adjusted"] is None


def test_each_claim_is_decided_by_its_row():
    found = relations.test(CLAIMS, VALUES)
    decided = [relations.decide(claim, found[claim], ALPHA) for claim in CLAIMS]
    assert [one.word for one in decided] == ["seen", "not seen", "not seen", "undecided", "undecided"]
    assert [one.why for one in decided[:4]] == ["", "the opposite is", "equal within 0.5", "1 pairs; a test needs two"]
    assert decided[4].why.startswith("detectable effect ")


def test_titles_name_the_arms_that_diverged():
    rows = [{"arm": arm, "seed": seed, "diverged": int(arm == "a" or (arm == "b" and seed == 0))}
            for arm in "abc" for seed in range(2)]  # fmt: skip
    assert tables.diverged(rows, lambda row: row["arm"]) == "\ndiverged: a (2 of 2 seeds), b (1 of 2 seeds)"
    assert tables.diverged(rows, lambda row: row["arm"], most=1) == "\ndiverged: a (2 of 2 seeds) and 1 more"
    assert tables.diverged(rows[4:], lambda row: row["arm"]) == ""
