"""The tables of the lottery-ticket study: final numbers with intervals, tests between arms, the published relations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tables

from ntkgen import stats

ALPHA = 0.05
MARGIN = 0.5  # points of accuracy that matter; fixed beforehand
LOSS_MARGIN = 1.2  # points that a tenth of the weights may lose: the paper's 1.15, rounded; fixed beforehand
METRICS = ("train_acc", "test_acc", "gap", "epochs_to_loss")
MEASURED = (
    "sample_loss", "eigenvalue", "eigenvalue_residual", "sharpness", "sharpness_se", "barrier", "excess",
    "child_test_acc",
)  # fmt: skip
PRUNED = ("ticket", "rewound", "one_shot")  # whose levels are compared with the whole network
CONTROLS = ("reinit", "random_layer", "random", "rewound", "one_shot")  # with which each ticket is compared


def finals(
    runs: Sequence[Mapping[str, str]], measures: Sequence[Mapping[str, str]], threshold: float
) -> list[dict[str, Any]]:
    """Reduce runs.csv to a row for each arm, level and seed, with what was measured beside.

    `epochs_to_loss` is the first measured epoch whose training loss is at most the threshold, None where there is none;
    the true one lies behind `epochs_to_loss_after`, the measured epoch before. Accuracies of a diverged seed are NaN.
    """
    grouped: dict[tuple, list[Mapping[str, str]]] = {}
    for row in runs:
        grouped.setdefault((row["arm"], _percent(row["keep_percent"]), int(row["seed"])), []).append(row)
    beside = {(row["arm"], _percent(row["keep_percent"]), int(row["seed"])): row for row in measures}
    found = []
    for (arm, keep, seed), rows in grouped.items():
        last, lost = rows[-1], any(row["diverged"] == "1" for row in rows)
        train_acc, test_acc = (np.nan if lost else float(last[f"{split}_acc"]) for split in ("train", "test"))
        reached = [i for i, row in enumerate(rows) if not lost and float(row["train_loss"]) <= threshold]
        first = reached[0] if reached else None
        row: dict[str, Any] = {"arm": arm, "keep_percent": keep, "seed": seed, "diverged": int(lost)}
        row |= {"train_acc": train_acc, "test_acc": test_acc, "gap": train_acc - test_acc}
        row["epochs_to_loss"] = None if first is None else int(rows[first]["epoch"])
        row["epochs_to_loss_after"] = int(rows[first - 1]["epoch"]) if first else None
        measured = beside.get((arm, keep, seed), {})
        row |= {name: measured.get(name) for name in MEASURED}
        row["unconverged"] = int(measured.get("eigenvalue_converged", "nan") == "0.0")
        if row["unconverged"]:
            row["eigenvalue"] = None  # measures.csv has it, with its residual
        found.append(row)
    return found


def _percent(text: str) -> float:
    value = float(text)
    return int(value) if value == int(value) else value


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make summary.csv: for each arm and level the metrics over seeds, and how many diverged or reached the loss."""
    found = tables.summarise(rows, ("arm", "keep_percent"), (*METRICS, *MEASURED))
    for row in found:
        own = [each for each in rows if (each["arm"], each["keep_percent"]) == (row["arm"], row["keep_percent"])]
        row["num_diverged"] = sum(each["diverged"] for each in own)
        row["num_unconverged"] = sum(each["unconverged"] for each in own)  # eigenvalues left out
        row["num_reached_loss"] = sum(each["epochs_to_loss"] is not None for each in own)
    return found


def values(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[tuple[str, float], np.ndarray]:
    """Give (arm, percent) -> the metric of every seed, in the order of seeds, NaN where lost or not measured."""
    arms: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        arms.setdefault((row["arm"], row["keep_percent"]), {})[row["seed"]] = tables.number(row[metric])
    return {arm: np.array([seeds[seed] for seed in sorted(seeds)]) for arm, seeds in arms.items()}


def tests(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make tests.csv: paired and Welch tests, a family for each question, false discovery rates controlled in each."""
    found: list[dict[str, Any]] = []
    levels = sorted({row["keep_percent"] for row in rows}, reverse=True)
    own = [(arm, keep) for arm in PRUNED for keep in levels if keep < 100]
    found += _compare(rows, "pruned against the whole network", "test_acc", [(a, ("ticket", 100)) for a in own], MARGIN)
    pairs = [(("ticket", keep), (arm, keep)) for keep in levels for arm in CONTROLS]
    for family, metric, margin in (
        ("ticket against controls", "test_acc", MARGIN),
        ("gap, ticket against controls", "gap", MARGIN),
        ("epochs to the loss, ticket against controls", "epochs_to_loss", None),
    ):
        found += _compare(rows, family, metric, pairs, margin)
    # Eigenvalues and sharpness differ by factors: compared as logarithms, a difference of 1 is a factor of 10.
    for metric in ("eigenvalue", "sharpness", "sample_loss"):
        found += _compare(rows, f"{metric}, ticket against controls", metric, pairs, None, log=True)
    found += _compare(rows, "error barrier, ticket against controls", "excess", pairs, None)
    return tables.adjust(found)


def _compare(
    rows: Sequence[Mapping[str, Any]],
    family: str,
    metric: str,
    pairs: Sequence[tuple],
    margin: float | None,
    log: bool = False,
) -> list[dict[str, Any]]:
    """Compare the pairs of which both sides were measured at all."""
    known = {arm: each for arm, each in values(rows, metric).items() if np.isfinite(each).any()}
    if log:
        known = {arm: np.log10(np.where(each > 0, each, np.nan)) for arm, each in known.items()}
    named = {f"{arm} {keep:g}%": each for (arm, keep), each in known.items()}
    present = [tuple(f"{arm} {keep:g}%" for arm, keep in pair) for pair in pairs if all(side in known for side in pair)]
    return tables.compare(family, f"log10 {metric}" if log else metric, named, present, margin)


# The published relations

RELATIONS = {
    "70 % of the weights do at least as well as all": (("ticket", 70), ("ticket", 100)),
    f"30 % do as well as all, within {MARGIN:g} points": (("ticket", 30), ("ticket", 100)),
    f"10 % lose less than {LOSS_MARGIN:g} points": (("ticket", 10), ("ticket", 100)),
    "at 10 % weights drawn anew do worse than the original ones": (("ticket", 10), ("reinit", 10)),
}


def relations(rows: Sequence[Mapping[str, Any]], published: Mapping[int, float]) -> list[dict[str, Any]]:
    """Test the four published relations (section V-F), each seen, not seen or undecided.

    Every relation has a test for it and one against it, all paired by seed, and all eight p-values are one family:

    1. for: mean difference above 0; against: below 0 (one-sided).
    2. for: equivalence within the margin of 0.5 points; against: a two-sided difference, unless equivalent.
    3. for: loss below 1.2 points; against: above (one-sided).
    4. for: the ticket is better (above 0); against: by less than 0.5 points (one-sided); for goes first.

    Args:
      rows: of `finals`.
      published: index of a relation -> the published difference in points, where the text has it.

    Returns:
      A row for each: difference with its 95 % interval, both adjusted p-values, Welch's p beside, the smallest
      difference that so many seeds would find in four studies of five, and the verdict.
    """
    accuracy = values(rows, "test_acc")
    found = []
    for index, (claim, (first, second)) in enumerate(RELATIONS.items()):
        row: dict[str, Any] = {"claim": claim, "published": published.get(index), "alpha": ALPHA}
        found.append(row)
        missing = [f"{arm} at {keep} %" for arm, keep in (first, second) if (arm, keep) not in accuracy]
        if missing:
            row["verdict"] = f"undecided: {' and '.join(missing)} was not trained"
            continue
        a, b = accuracy[first], accuracy[second]
        if (count := int(np.isfinite(a - b).sum())) < 2:
            row["verdict"] = f"undecided: {count} pairs of seeds; a test needs two"
            continue
        paired, same = stats.paired(a, b), stats.equivalence(a, b, MARGIN)
        row |= {"difference": paired.mean_difference, "low": paired.low, "high": paired.high, "num_pairs": count}
        row |= {"detectable": same.detectable, "paired_p": paired.pvalue, "welch_p": stats.welch(a, b).pvalue}
        row["p_for"], row["p_against"] = (
            (above(a, b), above(b, a)),
            (same.pvalue, paired.pvalue),
            (above(a, b, -LOSS_MARGIN), above(b, a, LOSS_MARGIN)),
            (above(a, b), above(b, a, -MARGIN)),
        )[index]
    tested = [(row, side) for row in found for side in ("for", "against") if f"p_{side}" in row]
    if tested:
        _, adjusted = stats.false_discovery([row[f"p_{side}"] for row, side in tested])
        for (row, side), value in zip(tested, adjusted, strict=True):
            row[f"adjusted_{side}"] = float(value)
    for row in found:
        if "verdict" not in row:
            row["verdict"] = _words(row)
    return found


def above(a: np.ndarray, b: np.ndarray, shift: float = 0.0) -> float:
    """One-sided paired p-value of mean(a - b) > shift."""
    test = stats.paired(np.asarray(a) - shift, b)
    return test.pvalue / 2 if test.statistic > 0 else 1 - test.pvalue / 2


def _words(row: Mapping[str, Any]) -> str:
    if row["adjusted_for"] <= ALPHA:
        return "seen"
    if row["adjusted_against"] <= ALPHA:
        return "not seen"
    return f"undecided: {row['num_pairs']} seeds would find a difference of {row['detectable']:.2f} points"


# The overlap of tickets


def summarise_overlaps(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Make overlap_summary.csv: mean Jaccard index and chance level by kind, level and layer, and their range."""
    grouped: dict[tuple, list[Mapping[str, str]]] = {}
    for row in rows:
        grouped.setdefault((row["kind"], _percent(row["keep_percent"]), row["layer"]), []).append(row)
    found = []
    for (kind, keep, layer), members in grouped.items():
        jaccard, chance = (np.array([float(row[name]) for row in members]) for name in ("jaccard", "chance"))
        row = {"kind": kind, "keep_percent": keep, "layer": layer, "num_pairs": len(members)}
        row |= {"jaccard": jaccard.mean(), "lowest": jaccard.min(), "highest": jaccard.max(), "chance": chance.mean()}
        found.append({name: float(v) if isinstance(v, np.floating) else v for name, v in row.items()})
    return found


def overlap_tests(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Compare tickets of two batch orders with chance, layer by layer; seeds are independent there.

    Pairs of initialisations share seeds, and are not tested.
    """
    found: list[dict[str, Any]] = []
    for kind in dict.fromkeys(row["kind"] for row in rows if row["seed"] == row["other_seed"]):
        own = [row for row in rows if row["kind"] == kind]
        for keep, layer in dict.fromkeys((row["keep_percent"], row["layer"]) for row in own):
            members = [row for row in own if (row["keep_percent"], row["layer"]) == (keep, layer)]
            jaccard, chance = ([float(row[name]) for row in members] for name in ("jaccard", "chance"))
            label = f"{layer} {float(keep):g}%"
            found += tables.compare(
                f"overlap, {kind}", "jaccard", {label: jaccard, "chance": chance}, [(label, "chance")]
            )
    return tables.adjust(found)
