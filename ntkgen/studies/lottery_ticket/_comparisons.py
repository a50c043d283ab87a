"""The tests of the lottery-ticket study: what is compared, and what each comparison gives."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats as scipy_stats

from ntkgen import stats
from ntkgen.studies import tables
from ntkgen.studies.base import Rows
from ntkgen.studies.lottery_ticket._controls import COMPARISONS, WHOLE, ArmAtLevel
from ntkgen.studies.lottery_ticket._tables import by_arm
from ntkgen.studies.relations import Relation

ALPHA = 0.05
POWER = 0.8
MARGIN = stats.ACCURACY
PRUNED = ("ticket", "rewound", "one_shot")  # whose levels are compared with the whole network
CONTROLS = ("reinit", "random_layer", "random", "rewound", "one_shot")  # with which each ticket is compared
AGAINST_CONTROLS = "ticket against controls"
EPOCHS = "epochs_to_loss"
# Eigenvalues and sharpness differ by factors: compared as logarithms, a difference of 1 is a factor of 10.
LEVELS = ("eigenvalue", "sharpness")
AS_TRAINED = {f"log10 {metric}": metric for metric in LEVELS}
MATCHED = {f"log10 matched_{metric}": metric for metric in LEVELS}

Pair = tuple[ArmAtLevel, ArmAtLevel]
Tested = dict[Relation, dict[str, Any]]  # rows of tests.csv by what they test


def tests(rows: Sequence[Mapping[str, Any]]) -> Tested:
    """Make the rows of tests.csv: paired and Welch tests of all pairs that were measured.

    Each question is a family; false discovery rates are controlled in each. Where a seed never reaches the loss, epochs
    are compared by ranks (`method`), in which never is last, and no difference is given. `detectable` is what the
    paired test of so many seeds finds with 80 % power at `detectable_alpha`, the strictest level that the adjustment
    may ask for: alpha over the tests of the family.

    At matched temperature there are differences with intervals, and no tests: networks are matched at one loss alone,
    and another one may order them otherwise.

    Args:
      rows: of `finals`.
    """
    levels = sorted({row["keep_percent"] for row in rows}, reverse=True)
    known: dict[str, dict[str, np.ndarray]] = {}
    tested = {}
    for relation in _all_relations(levels):
        if relation.metric not in known:
            known[relation.metric] = _by_label(rows, relation.metric)
        values = known[relation.metric]
        if relation.first in values and relation.second in values:
            tested[relation] = _test(relation, values)
    return dict(zip(tested, _finish(list(tested.values())), strict=True))


# What is compared


def _all_relations(levels: Sequence[float]) -> list[Relation]:
    """Return every comparison that could be made at these levels, family by family."""
    pruned = [(ArmAtLevel(arm, keep), WHOLE) for arm in PRUNED for keep in levels if keep < 100]
    pairs = [(ArmAtLevel("ticket", keep), ArmAtLevel(arm, keep)) for keep in levels for arm in CONTROLS]
    whole, controls = "against the whole network", AGAINST_CONTROLS
    found = [pruned_less_whole(at) for at, _ in pruned]
    found += [ticket_less_control(pair[1]) for pair in pairs]
    found += _relations(f"gap, {controls}", "gap", pairs, MARGIN)
    found += _relations(f"epochs to the loss, {controls}", EPOCHS, pairs)
    for metric in LEVELS:
        unequal = f"{metric} as trained, at unequal loss, {controls}"
        found += _relations(unequal, f"log10 {metric}", pairs, stats.SHARPNESS)
        for about, chosen in ((controls, pairs), (f"pruned {whole}", pruned)):
            found += _relations(f"{metric} at matched temperature, {about}", f"log10 matched_{metric}", chosen)
    found += _relations(f"training loss of the sample, {controls}", "log10 sample_loss", pairs)
    for change in COMPARISONS:
        alone = [(change, pair) for keep in levels for pair in alone_at(change, keep)]
        own = [pair for _, pair in alone]
        found += [changed_alone(*each) for each in alone]
        found += _relations(f"epochs to the loss, {change} alone", EPOCHS, own)
        for metric in LEVELS:
            found += _relations(f"{metric} at matched temperature, {change} alone", f"log10 matched_{metric}", own)
    found += [mask_less_values(*pair) for keep in levels for pair in effects_at(keep)]
    for about, chosen in ((controls, pairs), (f"pruned {whole}", pruned)):
        found += _relations(f"error barrier, {about}", "excess", chosen)
    return found


def _relations(family: str, metric: str, pairs: Iterable[Pair], margin: float | None = None) -> list[Relation]:
    return [_relation(family, metric, first.label, second.label, margin) for first, second in pairs]


def _relation(family: str, metric: str, first: str, second: str, margin: float | None = MARGIN) -> Relation:
    return Relation(f"{first} and {second} differ", family, metric, first, second, margin=margin)


def pruned_less_whole(at: ArmAtLevel) -> Relation:
    """Return the comparison of a pruned network's test accuracy with the whole one's."""
    return _relation("pruned against the whole network", "test_acc", at.label, WHOLE.label)


def ticket_less_control(control: ArmAtLevel) -> Relation:
    """Return the comparison of the ticket's test accuracy with a control's at its level."""
    return _relation(AGAINST_CONTROLS, "test_acc", ArmAtLevel("ticket", control.keep).label, control.label)


def changed_alone(change: str, pair: Pair) -> Relation:
    """Return the comparison of the test accuracy of two arms that differ in one thing alone."""
    return _relation(f"{change} alone", "test_acc", pair[0].label, pair[1].label)


def mask_alone(keep: float) -> Relation:
    """Return the comparison of the ticket's mask with a random one of its layer counts, the values the same."""
    return changed_alone("mask", alone_at("mask", keep)[0])


def mask_less_values(mask_alone: Pair, values_alone: Pair) -> Relation:
    """Return the comparison of the two effects on test accuracy, of the mask alone and of the values alone."""
    return _relation("the mask against the values", "test_acc", _effect(mask_alone), _effect(values_alone))


def alone_at(change: str, keep: float) -> list[Pair]:
    """Return the pairs that differ in one thing alone, at one level."""
    return [(ArmAtLevel(first, keep), ArmAtLevel(second, keep)) for first, second in COMPARISONS[change]]


def effects_at(keep: float) -> list[tuple[Pair, Pair]]:
    """Return each comparison of the mask alone beside that of the values alone, at one level."""
    (values_alone,) = alone_at("values", keep)
    return [(mask_alone, values_alone) for mask_alone in alone_at("mask", keep)]


def _effect(pair: Pair) -> str:
    """Return the name of the difference of two arms of one level."""
    return f"{pair[0].arm} - {pair[1].label}"


# What a comparison gives


def _by_label(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[str, np.ndarray]:
    """Return label -> the metric of every seed, of arms that were measured at all; of accuracy its differences too."""
    if metric == EPOCHS:
        return {at.label: each for at, each in by_arm(rows, metric, missing=np.inf).items()}
    known = by_arm(rows, metric.removeprefix("log10 "))
    known = {at: each for at, each in known.items() if np.isfinite(each).any()}
    if metric.startswith("log10 "):
        known = {at: np.log10(each, where=each > 0, out=np.full(each.shape, np.nan)) for at, each in known.items()}
    found = {at.label: each for at, each in known.items()}
    if metric == "test_acc":
        for keep in {at.keep for at in known}:
            for first, second in (pair for pairs in effects_at(keep) for pair in pairs):
                if first in known and second in known:
                    found[_effect((first, second))] = known[first] - known[second]
    return found


def _test(relation: Relation, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Make the row of one comparison, not yet adjusted."""
    pair = relation.first, relation.second
    (row,) = tables.paired_tests(relation.family, relation.metric, values, [pair], relation.margin)
    row = {"method": "t", "reached": ""} | row
    if relation.metric in MATCHED:  # no p-values, nor what could have been found by them
        row |= dict.fromkeys(("paired_p", "welch_p", "detectable"))
        row["undecided"] = row["undecided"] or "matched at one loss alone: not tested"
    return row | _ranks(*(values[label] for label in pair)) if relation.metric == EPOCHS else row


def _ranks(a: np.ndarray, b: np.ndarray) -> dict[str, Any]:
    """Return what the row of a comparison of epochs has of its own; by ranks where some seeds never get there."""
    reached = np.isfinite([a, b])
    row: dict[str, Any] = {"reached": f"{reached[0].sum()} and {reached[1].sum()} of {len(a)}"}
    if not reached.any():
        row["undecided"] = "no seed of either reached the loss"
    elif not reached.all() and len(a) > 1:
        row |= dict.fromkeys(("difference", "low", "high", "detectable"))
        row |= {"method": "rank", "num_pairs": len(a), "undecided": ""}
        row |= {"paired_p": stats.signed_rank(a, b), "welch_p": stats.rank_sum(a, b)}
    return row


def _finish(rows: Rows) -> Rows:
    """Adjust within families, and say what could have been found at the level that this may ask for."""
    rows = tables.adjust_equivalence(tables.adjust(rows))
    for row in rows:
        count = sum(other["family"] == row["family"] and other["paired_p"] is not None for other in rows)
        row["detectable_alpha"] = None
        if row["detectable"] is not None:
            row["detectable_alpha"] = ALPHA / count
            row["detectable"] = stats.minimum_detectable_effect(spread(row), row["num_pairs"], ALPHA / count)
    return rows


def spread(row: Mapping[str, Any]) -> float:
    """Read the standard deviation of paired differences off their 95 % interval."""
    n = row["num_pairs"]
    return float((row["high"] - row["low"]) / 2 / scipy_stats.t.ppf(0.975, n - 1) * np.sqrt(n))


def overlap_tests(rows: Sequence[Mapping[str, str]]) -> Rows:
    """Compare tickets of two batch orders with chance, layer by layer; seeds are independent there.

    Pairs of initialisations share seeds, and are not tested.
    """
    grouped: dict[tuple[str, str, str], list[Mapping[str, str]]] = {}
    for row in rows:
        if row["seed"] == row["other_seed"]:
            grouped.setdefault((row["kind"], row["keep_percent"], row["layer"]), []).append(row)
    found: Rows = []
    for kind in dict.fromkeys(kind for kind, *_ in grouped):
        for (_, keep, layer), members in ((key, own) for key, own in grouped.items() if key[0] == kind):
            jaccard, chance = ([float(row[name]) for row in members] for name in ("jaccard", "chance"))
            name = f"{layer} {float(keep):g}%"
            (row,) = tables.paired_tests(
                f"overlap, {kind}", "jaccard", {name: jaccard, "chance": chance}, [(name, "chance")]
            )
            found.append({"method": "t", "reached": ""} | row)
    return _finish(found)
