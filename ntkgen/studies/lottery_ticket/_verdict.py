"""What the lottery-ticket study decides: every level, arms that differ in one thing alone, curvature at equal loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import stats
from ntkgen.studies import relations
from ntkgen.studies.base import Rows
from ntkgen.studies.lottery_ticket._comparisons import (
    ALPHA,
    AS_TRAINED,
    MARGIN,
    MATCHED,
    POWER,
    Tested,
    alone_at,
    changed_alone,
    effects_at,
    mask_alone,
    mask_less_values,
    pruned_less_whole,
    spread,
    ticket_less_control,
)
from ntkgen.studies.lottery_ticket._controls import COMPARISONS, ArmAtLevel
from ntkgen.studies.lottery_ticket._tables import by_arm
from ntkgen.studies.relations import NO_CONTROL, Relation

RAW_NOTE = "at unequal training loss, with which curvature falls: this does not compare minima"


def by_level(tested: Tested, levels: Sequence[float]) -> Rows:
    """Return for every trained level of ticket and rewound ticket how it compares with the whole network.

    Args:
      tested: of `tests`.
      levels: percents of the weights kept.

    Returns:
      A row for each: difference in points with interval, adjusted p-values, what could have been found (two-sided) or
      called equivalent at the level of the tests, and the verdict.
    """
    found = []
    for arm in ("ticket", "rewound"):
        for keep in levels:
            relation = pruned_less_whole(ArmAtLevel(arm, keep))
            # A random mask that does as well makes no ticket; a ticket that does as well needs no rewinding.
            control = mask_alone(keep) if arm == "ticket" else ticket_less_control(ArmAtLevel(arm, keep))
            if relation in tested:
                found.append(_judge(tested[relation]) | {"control": gave(control, tested)})
    return found


def gave(relation: Relation, tested: Tested) -> str:
    """Return what a comparison that serves as a control gave, in words."""
    asked = f"{relation.first} less {relation.second}"
    if relation not in tested:
        return f"{NO_CONTROL} in this run: {asked} was not trained"
    row = _judge(tested[relation])
    effect, low, high = (row[name] for name in ("difference", "low", "high"))
    decision = row["verdict"].replace(": ", " (", 1)
    return relations.control(asked, decision, effect, low, high, "points", row["paired_adjusted"])


def _judge(test: Mapping[str, Any]) -> dict[str, Any]:
    """Return how one pair of arms compares, and what could have been found."""
    names = ("first", "second", "difference", "low", "high", "num_pairs", "paired_adjusted", "equivalence_adjusted")
    row = {name: test[name] for name in (*names, "detectable", "detectable_alpha")} | {
        "margin": MARGIN,
        "unit": "points",
    }
    if test["paired_p"] is None:
        return row | {"called_equivalent_up_to": None, "verdict": f"{stats.UNDECIDED}: {test['undecided']}"}
    same = stats.largest_equivalent(spread(test), test["num_pairs"], MARGIN, test["detectable_alpha"], POWER)
    equal = test["equivalence_adjusted"] <= ALPHA
    side = {1: "higher", -1: "lower", 0: ""}[_side(test)]
    words = [side] if side else []
    words += [f"equivalent within {MARGIN:g} points"] if equal else []
    return row | {"called_equivalent_up_to": same, "verdict": ", yet ".join(words) if words else stats.UNDECIDED}


def _side(test: Mapping[str, Any]) -> int:
    """Return the sign of a difference that was found, 0 if none was."""
    found = test["paired_p"] is not None and test["paired_adjusted"] <= ALPHA
    return int(np.sign(test["difference"])) if found else 0


def one_change(rows: Sequence[Mapping[str, Any]], tested: Tested, levels: Sequence[float]) -> Rows:
    """Return how every trained pair of arms compares that differs in one thing alone.

    Args:
      rows: of `finals`.
      tested: of `tests`.
      levels: percents of the weights kept.

    Returns:
      A row for each pair and level as of `by_level`, with what `changes`, and the mean accuracy of both (percent): two
      arms that train nothing are equivalent.
    """
    accuracy = by_arm(rows, "test_acc")
    found = []
    for change in COMPARISONS:
        for of_pair in zip(*(alone_at(change, keep) for keep in levels), strict=True):
            for pair in of_pair:
                test = tested.get(changed_alone(change, pair))
                if test is not None:
                    first, second = (float(np.nanmean(accuracy[at])) for at in pair)
                    row = {"changes": change, "first_acc": first, "second_acc": second, **_judge(test)}
                    again = [changed_alone(change, each) for each in alone_at(change, pair[0].keep) if each != pair]
                    control = "; ".join(gave(relation, tested) for relation in again if relation in tested)
                    found.append(row | {"control": control or f"{NO_CONTROL}: no second pair differs in this alone"})
    return found


def mask_or_values(tested: Tested, levels: Sequence[float]) -> Rows:
    """Return at every level whether the ticket's mask is worth more than which value stands where.

    The mask is compared at equal scale, in two ways: with the ticket's values shuffled, and with weights drawn anew for
    the kept fan-in. One side is worth more if both ways show it: its own effect is above zero, and above the other's.

    Args:
      tested: of `tests`.
      levels: percents of the weights kept.

    Returns:
      A row for each level below 100 at which an arm of these comparisons was trained: the effects in points (mask less
      values, with intervals and adjusted p-values) and the verdict.
    """
    found = []
    for keep in levels:
        known = [
            (mask_less_values(mask, values), changed_alone("mask", mask), changed_alone("values", values))
            for mask, values in effects_at(keep)
        ]
        asked = [form for form in known if form[0] in tested]
        if asked:
            each = {form: gave(form[0], tested) for form in asked}
            one_way = f"{NO_CONTROL}: the mask was compared in one way alone"
            forms = [
                _judge(tested[form[0]]) | {"control": "; ".join(each[o] for o in asked if o != form) or one_way}
                for form in asked
            ]
            verdict = _worth([tuple(tested[relation] for relation in form) for form in asked], len(known))
            row = {"keep_percent": keep, "forms": forms, "verdict": verdict}
            found.append(row | {"control": f"both ways must agree: {'; '.join(each.values())}"})
    return found


def _worth(forms: Sequence[tuple[Mapping[str, Any], ...]], wanted: int) -> str:
    """Put the comparisons of mask and values in words; each form is (difference of the effects, mask's, values')."""
    if len(forms) < wanted:
        return f"{stats.UNDECIDED}: the mask was not compared in both ways"
    sides = []
    for against, mask, own_values in forms:
        side = _side(against)
        # More than an effect that hurts is not yet worth something.
        sides.append(side if _side(mask if side > 0 else own_values) > 0 else 0)
    if sides == [1, 1]:
        return "the mask is worth more"
    if sides == [-1, -1]:
        return "the values are worth more"
    if sorted(sides) == [-1, 1]:
        return "it depends on the scale"
    equal = all(
        against["equivalence_p"] is not None and against["equivalence_adjusted"] <= ALPHA for against, *_ in forms
    )
    return f"worth the same within {MARGIN:g} points" if equal else stats.UNDECIDED


def curvature(rows: Sequence[Mapping[str, Any]], tested: Tested, matched_loss: float) -> dict[str, Any]:
    """Put the ticket's curvature at unequal loss beside that at matched temperature, against controls and whole.

    Args:
      rows: of `finals`.
      tested: of `tests`.
      matched_loss: of the sample at the matched temperature, nats.

    Returns:
      What the forms mean, and a row for each comparison: its factor (first over second) with interval, None where not
      measured in two pairs; in the raw form with adjusted p and both mean losses of the sample.
    """
    losses = {at.label: each[np.isfinite(each)] for at, each in by_arm(rows, "sample_loss").items()}
    found = []
    for relation, test in tested.items():
        if relation.metric not in AS_TRAINED | MATCHED:
            continue
        matched = relation.metric in MATCHED
        row: dict[str, Any] = {
            "metric": (AS_TRAINED | MATCHED)[relation.metric],
            "form": "matched" if matched else "as trained",
        }
        row |= {name: test[name] for name in ("first", "second", "num_pairs")}
        row |= dict.fromkeys(("factor", "low", "high", "adjusted_p", "equivalence_p"))
        if test["difference"] is not None:
            row |= {
                "factor" if name == "difference" else name: 10 ** test[name] for name in ("difference", "low", "high")
            }
            row["adjusted_p"], row["equivalence_p"] = test["paired_adjusted"], test["equivalence_adjusted"]
        for side in ("first", "second"):
            own = losses[test[side]]
            row[f"{side}_loss"] = matched_loss if matched else float(own.mean()) if own.size else None
        found.append(row)
    forms = {
        "as trained": RAW_NOTE,
        "matched": f"logits at the temperature that brings the sample to {matched_loss:g} nats: numbers at this one "
        "loss, no test and no verdict on curvature at equal loss",
    }
    return {"forms": forms, "comparisons": found}
