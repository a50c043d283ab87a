"""Claims about two arms, each an object that holds its sides, margin and published value, and finds its own test.

`test` tests many claims; a verdict looks its row up by the claim itself, never by a label put together from its parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntkgen import stats
from ntkgen.studies import tables

NO_CONTROL = "none"  # begins the sentence of a claim without a control


@dataclass(frozen=True)
class Relation:
    """The claim that a metric differs between two arms, in one direction.

    Example:
      >>> from ntkgen.studies.relations import Relation
      >>> claim = Relation("SGD beats GD", "accuracy", "test_acc", first="sgd", second="gd", margin=0.5)
      >>> claim.sign
      1

    Attributes:
      claim: in words.
      family: the tests within which false discoveries are controlled.
      metric: what is compared.
      first: one arm.
      second: the other; differences are first - second.
      sign: +1 where the claim says that first is higher, else -1.
      margin: differences within it do not matter; fixed beforehand, in the metric's unit.
      published: the published difference.
    """

    claim: str
    family: str
    metric: str
    first: str
    second: str
    sign: int = +1
    margin: float | None = None
    published: float | None = None


def test(relations: Sequence[Relation], values: Mapping[str, Mapping[str, Any]]) -> dict[Relation, dict[str, Any]]:
    """Test each claim by seeds; p-values are adjusted within each family.

    Example:
      >>> from ntkgen.studies import relations
      >>> claim = relations.Relation("SGD beats GD", "accuracy", "test_acc", first="sgd", second="gd", margin=0.5)
      >>> found = relations.test([claim], {"test_acc": {"sgd": [97.0, 97.2, 97.1], "gd": [95.0, 95.1, 95.2]}})
      >>> round(found[claim]["difference"], 3), found[claim]["paired_adjusted"] < 0.05
      (2.0, True)

    Args:
      relations: the claims; one that comes twice is tested once, and counts once in its family.
      values: metric -> arm -> (seeds,), NaN for a lost seed.

    Returns:
      For each claim the row of `tables.paired_tests`, adjusted.
    """
    distinct, rows = list(dict.fromkeys(relations)), []
    for one in distinct:
        rows += tables.paired_tests(one.family, one.metric, values[one.metric], [(one.first, one.second)], one.margin)
    return dict(zip(distinct, tables.adjust_equivalence(tables.adjust(rows)), strict=True))


def control(
    changed: str,
    decision: str,
    effect: float | None = None,
    low: float | None = None,
    high: float | None = None,
    unit: str = "",
    p: float | None = None,
) -> str:
    """Return the sentence on the control of a claim: what it changes, and what it gave.

    An entry of a verdict has it under "control". It stands for the arm or test that changes one thing and could have
    overturned the claim; `NO_CONTROL` begins the sentence where there is none.

    Example:
      >>> from ntkgen.studies import relations
      >>> relations.control("equal updates", "undecided (3 pairs)", 0.2, -0.5, 0.9, "points", p=0.31)
      'equal updates: undecided (0.2 [-0.5, 0.9] points, adjusted p 0.31, 3 pairs)'

    Args:
      changed: what the control changes, or what it asks.
      decision: a word, and in brackets why.
      effect: of the control.
      low: end of its interval.
      high: the other end.
      unit: of all three.
      p: adjusted p-value of its test.
    """
    word, _, why = decision.partition(" (")
    size = [] if effect is None else [f"{effect:.3g}"]
    if low is not None and high is not None:
        size.append(f"[{low:.3g}, {high:.3g}]")
    if size and unit:
        size.append(unit)
    parts = (" ".join(size), "" if p is None else f"adjusted p {p:.2g}", why.removesuffix(")"))
    words = ", ".join(filter(None, parts))
    return f"{changed}: {word}" + (f" ({words})" if words else "")


def decide(relation: Relation, row: Mapping[str, Any], alpha: float) -> stats.Decision:
    """Return what the test of a claim decides.

    Example:
      >>> from ntkgen.studies import relations
      >>> claim = relations.Relation("SGD beats GD", "accuracy", "test_acc", first="sgd", second="gd", margin=0.5)
      >>> found = relations.test([claim], {"test_acc": {"sgd": [97.0, 97.2, 97.1], "gd": [95.0, 95.1, 95.2]}})
      >>> relations.decide(claim, found[claim], alpha=0.05).word
      'seen'
    """
    if row["undecided"]:
        return stats.Decision(stats.UNDECIDED, row["undecided"])
    return stats.decide(
        row["difference"], row["paired_adjusted"], sign=relation.sign, alpha=alpha,
        equivalence_p=row["equivalence_adjusted"], margin=row["margin"], detectable=row["detectable"],
    )  # fmt: skip
