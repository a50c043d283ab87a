"""The published relations of the lottery-ticket study (section V-F), and their tests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ntkgen import paper, stats
from ntkgen.studies.base import Rows
from ntkgen.studies.lottery_ticket._comparisons import (
    ALPHA,
    MARGIN,
    POWER,
    alone_at,
    changed_alone,
    mask_alone,
    spread,
)
from ntkgen.studies.lottery_ticket._controls import WHOLE, ArmAtLevel
from ntkgen.studies.lottery_ticket._tables import by_arm
from ntkgen.studies.relations import Relation

PUBLISHED_FOR = "CNN on CIFAR-10"
LOSS_MARGIN = 1.2  # points that a tenth of the weights may lose: the paper's 1.15, rounded; fixed beforehand


def published_difference(first: ArmAtLevel, second: ArmAtLevel = WHOLE) -> float:
    """Return the published difference of two accuracies, in points."""
    ours, theirs = (paper.LOTTERY_TICKET[at.arm][int(at.keep)]["test_acc"] for at in (first, second))
    assert ours is not None and theirs is not None
    return round(ours - theirs, 2)


class RelationTest(NamedTuple):
    """How a relation between two arms is tested, by one test for it and one against it.

    Attributes:
      pvalues: (first, second, margin) -> p-values by what they would show: "for" the relation, "against" it, and, where
        asked, that the first is "better". Both arms are (seeds,), paired.
      finds: (spread of the differences, number of pairs, margin, alpha) -> which true differences they find, in words.
      control: the comparison that could overturn the relation.
    """

    pvalues: Callable[[np.ndarray, np.ndarray, float], dict[str, float]]
    finds: Callable[[float, int, float, float], str]
    control: Relation


def _not_worse(a: np.ndarray, b: np.ndarray, margin: float) -> dict[str, float]:
    """For: mean difference above -margin; against: below that (both one-sided)."""
    return {"for": stats.above(a, b, -margin), "against": stats.above(b, a, margin)}


def _not_worse_finds(std: float, count: int, margin: float, alpha: float) -> str:
    each = _detectable(std, count, alpha)
    high, low = each - margin, -each - margin
    return f"see it at a true difference of {high:+.2f} points or more, and see it fail at {low:+.2f} or less"


def _equal(a: np.ndarray, b: np.ndarray, margin: float) -> dict[str, float]:
    """For: equivalent within the margin (two one-sided tests); against: a difference beyond it."""
    return {"for": stats.equivalence(a, b, margin).pvalue, "against": stats.beyond(a, b, margin)}


def _equal_finds(std: float, count: int, margin: float, alpha: float) -> str:
    same = stats.largest_equivalent(std, count, margin, alpha, POWER)
    called = "not even call equal means equivalent"
    if same is not None:
        called = f"call a true difference of up to {same:.2f} points equivalent"
    return f"{called}, and find one of {margin + _detectable(std, count, alpha):.2f} or more to be beyond the margin"


def _better(a: np.ndarray, b: np.ndarray, margin: float) -> dict[str, float]:
    """For: the first is better (above 0); against: by less than the margin (one-sided). "For" goes first."""
    return {"for": stats.above(a, b), "against": stats.above(b, a, -margin)}


def _better_finds(std: float, count: int, margin: float, alpha: float) -> str:
    each = _detectable(std, count, alpha)
    return f"find a true advantage of {each:.2f} points or more, and see one of {margin - each:+.2f} or less as none"


def _detectable(std: float, count: int, alpha: float) -> float:
    """Return the difference that a one-sided test finds."""
    return stats.minimum_detectable_effect(std, count, alpha, POWER, one_sided=True)


def _not_worse_or_better(a: np.ndarray, b: np.ndarray, margin: float) -> dict[str, float]:
    return _not_worse(a, b, margin) | {"better": stats.above(a, b)}


def _relation(claim: str, first: ArmAtLevel, second: ArmAtLevel = WHOLE, **more: Any) -> Relation:
    return Relation(claim, "published relations", "test_acc", first.label, second.label, **{"margin": MARGIN} | more)


TENTH, REINIT = ArmAtLevel("ticket", 10), ArmAtLevel("reinit", 10)
# A random mask that does as well at equal values makes no ticket. Weights drawn anew differ from the original ones in
# values and scale, shuffled ones in values alone.
RELATIONS: dict[Relation, RelationTest] = {
    _relation(
        f"70 % of the weights do at least as well as all, within {MARGIN:g} points", ArmAtLevel("ticket", 70)
    ): RelationTest(_not_worse_or_better, _not_worse_finds, mask_alone(70)),
    _relation(f"30 % do as well as all, within {MARGIN:g} points", ArmAtLevel("ticket", 30)): RelationTest(
        _equal, _equal_finds, mask_alone(30)
    ),
    _relation(
        f"10 % lose less than {LOSS_MARGIN:g} points", TENTH, margin=LOSS_MARGIN, published=published_difference(TENTH)
    ): RelationTest(_not_worse, _not_worse_finds, mask_alone(10)),
    _relation(
        "at 10 % weights drawn anew do worse than the original ones", TENTH, REINIT,
        published=published_difference(TENTH, REINIT),
    ): RelationTest(_better, _better_finds, changed_alone("values", *alone_at("values", 10))),
}  # fmt: skip


def test_published(rows: Sequence[Mapping[str, Any]]) -> dict[Relation, dict[str, Any]]:
    """Test the published relations, each seen, not seen or undecided.

    Every relation has a test for it and one against it, all paired by seed; their p-values and that of the note are one
    family.

    Args:
      rows: of `finals`.

    Returns:
      A row for each: difference with its 95 % interval, adjusted p-values, Welch's p beside, the verdict, and in
      `could_find` what so many seeds with the observed spread would find in four studies of five, at the strictest
      level that the adjustment may ask for (`test_alpha`: alpha over the tests of the family).
    """
    accuracy = {at.label: each for at, each in by_arm(rows, "test_acc").items()}
    found = {relation: _test(relation, accuracy) for relation in RELATIONS}
    tested = [(row, side) for row in found.values() for side in ("for", "against", "better") if f"p_{side}" in row]
    if tested:
        _, adjusted = stats.false_discovery([row[f"p_{side}"] for row, side in tested])
        for (row, side), value in zip(tested, adjusted, strict=True):
            row[f"adjusted_{side}"] = float(value)
    for relation, row in found.items():
        if "p_for" in row:
            row["test_alpha"] = ALPHA / len(tested)
            row["could_find"] = could_find(relation, spread(row), row["num_pairs"], row["test_alpha"])
            row["verdict"] = _words(row)
        if "adjusted_better" in row:
            row["note"] = "the ticket is better" if row["adjusted_better"] <= ALPHA else "not shown to be better"
    return found


def could_find(relation: Relation, std: float, count: int, alpha: float) -> str:
    """Return which true differences a relation's tests would find, from the spread of `count` paired differences."""
    assert relation.margin is not None
    finds = RELATIONS[relation].finds(std, count, relation.margin, alpha)
    return f"with the observed spread {count} seeds would, in four studies of five, {finds}"


def _test(relation: Relation, accuracy: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Make the row of one relation, not yet adjusted; `verdict` says why where there is no test."""
    row: dict[str, Any] = {"claim": relation.claim, "unit": "points", "published": relation.published}
    row["alpha"] = ALPHA
    sides = relation.first, relation.second
    if missing := [label.replace(" ", " at ").replace("%", " %") for label in sides if label not in accuracy]:
        was = "was" if len(missing) == 1 else "were"
        return row | {"verdict": f"{stats.UNDECIDED}: {' and '.join(missing)} {was} not trained"}
    assert relation.margin is not None
    a, b = (accuracy[label] for label in sides)
    if (count := int(np.isfinite(a - b).sum())) < 2:
        return row | {"verdict": f"{stats.UNDECIDED}: {count} pairs of seeds; a test needs two"}
    paired = stats.paired(a, b)
    row |= {"difference": paired.mean_difference, "low": paired.low, "high": paired.high, "num_pairs": count}
    row |= {"paired_p": paired.pvalue, "welch_p": stats.welch(a, b).pvalue}
    return row | {f"p_{side}": value for side, value in RELATIONS[relation].pvalues(a, b, relation.margin).items()}


def _words(row: Mapping[str, Any]) -> str:
    if row["adjusted_for"] <= ALPHA:
        return stats.SEEN
    if row["adjusted_against"] <= ALPHA:
        return stats.NOT_SEEN
    return f"{stats.UNDECIDED}: {row['could_find']}"


def compare_with_paper(
    arms: Sequence[str],
    summary: Sequence[Mapping[str, Any]],
    found: Mapping[Relation, Mapping[str, Any]],
    same: bool,
) -> Rows:
    """Make comparison.csv: published accuracies (by the same protocol) and differences beside ours.

    Args:
      arms: that were trained.
      summary: of `summarise`.
      found: of `test_published`.
      same: whether the run follows the published protocol. Only then we ask whether our interval holds the published
        value, which is of `published_for`.
    """
    rows = []
    for arm in arms:
        ours = {
            row["keep_percent"]: {"test_acc": tuple(row[f"test_acc_{end}"] for end in ("mean", "t_low", "t_high"))}
            for row in summary
            if row["arm"] == arm
        }
        known = paper.LOTTERY_TICKET.get(arm, {}) if same else {}
        rows += [{"arm": arm, **row} for row in paper.compare({k: known.get(k, {}) for k in ours}, ours)]
    for relation, row in found.items():
        theirs = relation.published
        mean, low, high = (row.get(name) for name in ("difference", "low", "high"))
        one: dict[str, Any] = {"arm": f"{relation.first} - {relation.second}", "setting": "difference"}
        one |= {"metric": "test_acc", "published": theirs, "ours": mean, "low": low, "high": high}
        one |= {"difference": None, "inside": None}
        if theirs is not None and mean is not None:
            one |= {"difference": mean - theirs, "inside": row["low"] <= theirs <= row["high"] if same else None}
        rows.append(one)
    for row in rows:
        row["published_for"] = "" if row["published"] is None else PUBLISHED_FOR
    return rows
