"""What the lottery-ticket study decides: the published relations, every level trained, and curvature at equal loss."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lottery_ticket_controls import COMPARISONS
from lottery_ticket_tables import (
    ALPHA,
    EFFECTS,
    LEVELS,
    MARGIN,
    WHOLE,
    Arm,
    effect_label,
    effects_at,
    family,
    label,
    spread,
    values,
)

from ntkgen import stats

LOSS_MARGIN = 1.2  # points that a tenth of the weights may lose: the paper's 1.15, rounded; fixed beforehand
REINIT = ("reinit", 10)
RELATIONS: dict[str, tuple[Arm, Arm]] = {
    f"70 % of the weights do at least as well as all, within {MARGIN:g} points": (("ticket", 70), WHOLE),
    f"30 % do as well as all, within {MARGIN:g} points": (("ticket", 30), WHOLE),
    f"10 % lose less than {LOSS_MARGIN:g} points": (("ticket", 10), WHOLE),
    "at 10 % weights drawn anew do worse than the original ones": (("ticket", 10), REINIT),
}
RAW_NOTE = "at unequal training loss, with which curvature falls: this does not compare minima"
POWER = 0.8


def relations(rows: Sequence[Mapping[str, Any]], published: Mapping[int, float]) -> list[dict[str, Any]]:
    """Test the four published relations (section V-F), each seen, not seen or undecided.

    Every relation has a test for it and one against it, all paired by seed; their p-values and that of the note are one
    family:

    1. for: not inferior, mean difference above -0.5 points; against: below that (both one-sided). A note says whether
       the ticket is better.
    2. for: equivalent within 0.5 points (two one-sided tests); against: a difference beyond them.
    3. for: loss below 1.2 points; against: above (both one-sided).
    4. for: the ticket is better (above 0); against: by less than 0.5 points (one-sided); for goes first. This pair
       differs in values and scale; `one_change` has the pairs that tell them apart.

    Args:
      rows: of `finals`.
      published: index of a relation -> the published difference in points, where the text has it.

    Returns:
      A row for each: difference with its 95 % interval, adjusted p-values, Welch's p beside, the verdict, and in
      `could_find` what so many seeds with the observed spread would find in four studies of five, at the strictest
      level that the adjustment may ask for (`test_alpha`: alpha over the tests of the family).
    """
    accuracy = values(rows, "test_acc")
    found = []
    for index, (claim, (first, second)) in enumerate(RELATIONS.items()):
        row: dict[str, Any] = {"claim": claim, "published": published.get(index), "alpha": ALPHA}
        found.append(row)
        missing = [f"{arm} at {keep} %" for arm, keep in (first, second) if (arm, keep) not in accuracy]
        if missing:
            row["verdict"] = f"undecided: {' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not trained"
            continue
        a, b = accuracy[first], accuracy[second]
        if (count := int(np.isfinite(a - b).sum())) < 2:
            row["verdict"] = f"undecided: {count} pairs of seeds; a test needs two"
            continue
        paired = stats.paired(a, b)
        row |= {"difference": paired.mean_difference, "low": paired.low, "high": paired.high, "num_pairs": count}
        row |= {"paired_p": paired.pvalue, "welch_p": stats.welch(a, b).pvalue}
        row["p_for"], row["p_against"] = (
            (stats.above(a, b, -MARGIN), stats.above(b, a, MARGIN)),
            (stats.equivalence(a, b, MARGIN).pvalue, stats.beyond(a, b, MARGIN)),
            (stats.above(a, b, -LOSS_MARGIN), stats.above(b, a, LOSS_MARGIN)),
            (stats.above(a, b), stats.above(b, a, -MARGIN)),
        )[index]
        if index == 0:
            row["p_better"] = stats.above(a, b)
    tested = [(row, side) for row in found for side in ("for", "against", "better") if f"p_{side}" in row]
    if tested:
        _, adjusted = stats.false_discovery([row[f"p_{side}"] for row, side in tested])
        for (row, side), value in zip(tested, adjusted, strict=True):
            row[f"adjusted_{side}"] = float(value)
    for index, row in enumerate(found):
        if "p_for" in row:
            row["test_alpha"] = ALPHA / len(tested)
            row["could_find"] = _could_find(index, spread(row), row["num_pairs"], row["test_alpha"])
            row["verdict"] = _words(row)
        if "adjusted_better" in row:
            row["note"] = "the ticket is better" if row["adjusted_better"] <= ALPHA else "not shown to be better"
    return found


def _could_find(index: int, std: float, count: int, alpha: float) -> str:
    """Say which true differences a relation's tests would find, each by its own kind of test."""
    each = stats.minimum_detectable_effect(std, count, alpha, POWER, one_sided=True)
    seeds = f"with the observed spread {count} seeds would, in four studies of five, "
    if index == 1:
        same = stats.largest_equivalent(std, count, MARGIN, alpha, POWER)
        called = "not even call equal means equivalent"
        if same is not None:
            called = f"call a true difference of up to {same:.2f} points equivalent"
        return f"{seeds}{called}, and find one of {MARGIN + each:.2f} or more to be beyond the margin"
    if index == 3:
        least = MARGIN - each
        return f"{seeds}find a true advantage of {each:.2f} points or more, and see one of {least:+.2f} or less as none"
    margin = MARGIN if index == 0 else LOSS_MARGIN
    high, low = each - margin, -each - margin
    return f"{seeds}see it at a true difference of {high:+.2f} points or more, and see it fail at {low:+.2f} or less"


def _words(row: Mapping[str, Any]) -> str:
    if row["adjusted_for"] <= ALPHA:
        return "seen"
    if row["adjusted_against"] <= ALPHA:
        return "not seen"
    return f"undecided: {row['could_find']}"


def by_level(tested: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Say for every trained level of ticket and rewound ticket how it compares with the whole network.

    Args:
      tested: of `tests`.

    Returns:
      A row for each: difference in points with interval, adjusted p-values, what could have been found (two-sided) or
      called equivalent at the level of the tests, and the verdict.
    """
    return [
        _judge(test)
        for test in tested
        if test["family"] == "pruned against the whole network" and test["first"].split()[0] in ("ticket", "rewound")
    ]


def _judge(test: Mapping[str, Any]) -> dict[str, Any]:
    """Say how one pair of arms compares, and what could have been found."""
    names = ("first", "second", "difference", "low", "high", "num_pairs", "paired_adjusted", "equivalence_adjusted")
    row = {name: test[name] for name in (*names, "detectable", "detectable_alpha")} | {"margin": MARGIN}
    if test["paired_p"] is None:
        return row | {"called_equivalent_up_to": None, "verdict": f"undecided: {test['undecided']}"}
    same = stats.largest_equivalent(spread(test), test["num_pairs"], MARGIN, test["detectable_alpha"], POWER)
    equal = test["equivalence_adjusted"] <= ALPHA
    side = {1: "higher", -1: "lower", 0: ""}[_side(test)]
    words = [side] if side else []
    words += [f"equivalent within {MARGIN:g} points"] if equal else []
    return row | {"called_equivalent_up_to": same, "verdict": ", yet ".join(words) if words else "undecided"}


def _side(test: Mapping[str, Any]) -> int:
    """Give the sign of a difference that was found, 0 if none was."""
    found = test["paired_p"] is not None and test["paired_adjusted"] <= ALPHA
    return int(np.sign(test["difference"])) if found else 0


def one_change(
    rows: Sequence[Mapping[str, Any]], tested: Sequence[Mapping[str, Any]], levels: Sequence[float]
) -> list[dict[str, Any]]:
    """Say how every trained pair of arms compares that differs in one thing alone.

    Args:
      rows: of `finals`.
      tested: of `tests`.
      levels: percents of the weights kept.

    Returns:
      A row for each pair and level as of `by_level`, with what `changes`, and the mean accuracy of both (percent): two
      arms that train nothing are equivalent.
    """
    known, accuracy = _by_pair(tested), values(rows, "test_acc")
    found = []
    for change, pairs in COMPARISONS.items():
        for first, second in pairs:
            for keep in levels:
                arms = (first, keep), (second, keep)
                test = known.get((family(change), *map(label, arms)))
                if test is not None:
                    means = (float(np.nanmean(accuracy[arm])) for arm in arms)
                    row = dict(zip(("first_acc", "second_acc"), means, strict=True))
                    found.append({"changes": change, **row, **_judge(test)})
    return found


def _by_pair(tested: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {(test["family"], test["first"], test["second"]): test for test in tested}


def mask_or_values(tested: Sequence[Mapping[str, Any]], levels: Sequence[float]) -> list[dict[str, Any]]:
    """Say at every level whether the ticket's mask is worth more than which value stands where.

    The mask is compared at equal scale, in two ways: with the ticket's values shuffled, and with weights drawn anew for
    the kept fan-in. One side is worth more if both ways show it: its own effect is above zero, and above the other's.

    Args:
      tested: of `tests`.
      levels: percents of the weights kept.

    Returns:
      A row for each level below 100 at which an arm of these comparisons was trained: the effects in points (mask less
      values, with intervals and adjusted p-values) and the verdict.
    """
    known = _by_pair(tested)
    found = []
    for keep in levels:
        forms = []
        for mask_alone, values_alone in effects_at(keep):
            against = known.get((EFFECTS, effect_label(mask_alone), effect_label(values_alone)))
            if against is not None:
                own = [
                    known[family(change), label(pair[0]), label(pair[1])]
                    for change, pair in (("mask", mask_alone), ("values", values_alone))
                ]
                forms.append((against, *own))
        if forms:
            found.append(
                {
                    "keep_percent": keep,
                    "forms": [_judge(against) for against, *_ in forms],
                    "verdict": _worth(forms, len(effects_at(keep))),
                }
            )
    return found


def _worth(forms: Sequence[tuple[Mapping[str, Any], ...]], wanted: int) -> str:
    """Put the comparisons of mask and values in words; each form is (difference of the effects, mask's, values')."""
    if len(forms) < wanted:
        return "undecided: the mask was not compared in both ways"
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
    return f"worth the same within {MARGIN:g} points" if equal else "undecided"


def curvature(
    rows: Sequence[Mapping[str, Any]], tested: Sequence[Mapping[str, Any]], matched_loss: float
) -> dict[str, Any]:
    """Put the ticket's curvature at unequal loss beside that at matched temperature, against controls and whole.

    Args:
      rows: of `finals`.
      tested: of `tests`.
      matched_loss: of the sample at the matched temperature, nats.

    Returns:
      What the forms mean, and a row for each comparison: its factor (first over second) with interval, None where not
      measured in two pairs; in the raw form with adjusted p and both mean losses of the sample.
    """
    losses = {label(arm): each for arm, each in values(rows, "sample_loss").items()}
    found = []
    for test in tested:
        metric = test["metric"].removeprefix("log10 ").removeprefix("matched_")
        if metric not in LEVELS or test["metric"] == metric:
            continue
        matched = "matched_" in test["metric"]
        row = {"metric": metric, "form": "matched" if matched else "as trained"}
        row |= {name: test[name] for name in ("first", "second", "num_pairs")}
        row |= dict.fromkeys(("factor", "low", "high", "adjusted_p", "equivalence_p"))
        if test["difference"] is not None:
            row |= {
                "factor" if name == "difference" else name: 10 ** test[name] for name in ("difference", "low", "high")
            }
            row["adjusted_p"], row["equivalence_p"] = test["paired_adjusted"], test["equivalence_adjusted"]
        for side in ("first", "second"):
            finite = losses[test[side]][np.isfinite(losses[test[side]])]
            row[f"{side}_loss"] = matched_loss if matched else float(finite.mean()) if finite.size else None
        found.append(row)
    forms = {
        "as trained": RAW_NOTE,
        "matched": f"logits at the temperature that brings the sample to {matched_loss:g} nats: numbers at this one "
        "loss, no test and no verdict on curvature at equal loss",
    }
    return {"forms": forms, "comparisons": found}
