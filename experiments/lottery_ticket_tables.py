"""The tables of the lottery-ticket study: final numbers with intervals, and tests between arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lottery_ticket_controls import COMPARISONS
from scipy import stats as scipy_stats

from ntkgen import measure, stats
from ntkgen.studies import tables

ALPHA = 0.05
MARGIN = stats.ACCURACY
METRICS = ("train_acc", "test_acc", "gap", "epochs_to_loss")
LEVELS = ("eigenvalue", "sharpness")  # of the curvature, in both forms
MEASURED = (
    "sample_loss", "eigenvalue", "eigenvalue_residual", "sharpness", "sharpness_se", "temperature",
    "matched_sample_loss", "matched_eigenvalue", "matched_eigenvalue_residual", "matched_sharpness",
    "matched_sharpness_se", "barrier", "excess", "child_test_acc",
)  # fmt: skip
PRUNED = ("ticket", "rewound", "one_shot")  # whose levels are compared with the whole network
CONTROLS = ("reinit", "random_layer", "random", "rewound", "one_shot")  # with which each ticket is compared
WHOLE = ("ticket", 100)
EFFECTS = "the mask against the values"

Arm = tuple[str, float]  # name and percent of the weights kept


def finals(
    runs: Sequence[Mapping[str, str]], measures: Sequence[Mapping[str, str]], threshold: float
) -> list[dict[str, Any]]:
    """Reduce runs.csv to a row for each arm, level and seed, with what was measured beside.

    `epochs_to_loss` is where the training loss first falls to the threshold, interpolated in log loss between the
    measured epochs around it, the later of which is `epochs_to_loss_by`; the first measured one if that is low enough.
    None where the loss is never reached. Accuracies of a diverged seed are NaN, and it reaches no loss. What
    was measured of it is left out. An eigenvalue that did not converge is None: measures.csv has it, with its residual.
    """
    grouped: dict[tuple, list[Mapping[str, str]]] = {}
    for row in runs:
        grouped.setdefault((row["arm"], percent(row["keep_percent"]), int(row["seed"])), []).append(row)
    beside = {(row["arm"], percent(row["keep_percent"]), int(row["seed"])): row for row in measures}
    found = []
    for (arm, keep, seed), rows in grouped.items():
        last, lost = rows[-1], any(row["diverged"] == "1" for row in rows)
        train_acc, test_acc = (np.nan if lost else float(last[f"{split}_acc"]) for split in ("train", "test"))
        row: dict[str, Any] = {"arm": arm, "keep_percent": keep, "seed": seed, "diverged": int(lost)}
        row |= {"train_acc": train_acc, "test_acc": test_acc, "gap": train_acc - test_acc}
        row |= {"epochs_to_loss": None, "epochs_to_loss_by": None} if lost else _epochs_to_loss(rows, threshold)
        measured = {} if lost else beside.get((arm, keep, seed), {})
        row |= {name: measured.get(name) for name in MEASURED}
        for prefix, mark in (("", "unconverged"), ("matched_", "matched_unconverged")):
            row[mark] = int(measured.get(f"{prefix}eigenvalue_converged", "nan") == "0.0")
            if row[mark]:
                row[f"{prefix}eigenvalue"] = None
        row["unmatched"] = int(bool(measured) and not np.isfinite(tables.number(measured["temperature"])))
        found.append(row)
    return found


def _epochs_to_loss(rows: Sequence[Mapping[str, str]], threshold: float) -> dict[str, float | None]:
    epochs = [int(row["epoch"]) for row in rows]
    before, after, share = measure.passage([float(row["train_loss"]) for row in rows], threshold)
    if after < 0:
        return {"epochs_to_loss": None, "epochs_to_loss_by": None}
    by = epochs[after]
    # Without a logarithm to interpolate (a loss of exactly zero) the later epoch stands.
    at = by if np.isnan(share) else epochs[before] + share * (by - epochs[before])
    return {"epochs_to_loss": float(at), "epochs_to_loss_by": by}


def percent(text: str) -> float:
    """Read a percent; whole ones as integers."""
    value = float(text)
    return int(value) if value == int(value) else value


def summarise(rows: Sequence[Mapping[str, Any]], sparsity: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Make summary.csv: for each arm and level the metrics over seeds, and what was lost on the way.

    The mean of `epochs_to_loss` is over the `num_reached_loss` seeds alone; `layers_emptied` names the layers that a
    mask has emptied, with the number of seeds.
    """
    found = tables.summarise(rows, ("arm", "keep_percent"), (*METRICS, *MEASURED))
    for row in found:
        arm = (row["arm"], row["keep_percent"])
        own = [each for each in rows if (each["arm"], each["keep_percent"]) == arm]
        for mark in ("diverged", "unconverged", "matched_unconverged", "unmatched"):
            row[f"num_{mark}"] = sum(each[mark] for each in own)
        row["num_reached_loss"] = sum(each["epochs_to_loss"] is not None for each in own)
        empty = [
            each["layer"]
            for each in sparsity
            if (each["arm"], percent(each["keep_percent"])) == arm and each["kept"] == "0"
        ]
        row["layers_emptied"] = "; ".join(
            f"{layer} ({empty.count(layer)} of {row['num_seeds']} seeds)" for layer in dict.fromkeys(empty)
        )
    return found


def values(rows: Sequence[Mapping[str, Any]], metric: str, missing: float = np.nan) -> dict[Arm, np.ndarray]:
    """Give arm -> the metric of every seed, in the order of seeds; `missing` where there is none."""
    arms: dict[Arm, dict[int, float]] = {}
    for row in rows:
        value = tables.number(row[metric])
        arms.setdefault((row["arm"], row["keep_percent"]), {})[row["seed"]] = missing if np.isnan(value) else value
    return {arm: np.array([seeds[seed] for seed in sorted(seeds)]) for arm, seeds in arms.items()}


def tests(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make tests.csv: paired and Welch tests, a family for each question, false discovery rates controlled in each.

    Where a seed never reaches the loss, epochs are compared by ranks (`method`), in which never is last, and no
    difference is given. `detectable` is what the paired test of so many seeds finds with 80 % power at
    `detectable_alpha`, the strictest level that the adjustment may ask for: alpha over the tests of the family.

    At matched temperature there are differences with intervals, and no tests: networks are matched at one loss alone,
    and another one may order them otherwise.
    """
    levels = sorted({row["keep_percent"] for row in rows}, reverse=True)
    against_whole = [((arm, keep), WHOLE) for arm in PRUNED for keep in levels if keep < 100]
    pairs: list[tuple[Arm, Arm]] = [(("ticket", keep), (arm, keep)) for keep in levels for arm in CONTROLS]
    whole, controls = "against the whole network", "ticket against controls"
    found = _compare(rows, f"pruned {whole}", "test_acc", against_whole, MARGIN)
    found += _compare(rows, controls, "test_acc", pairs, MARGIN)
    found += _compare(rows, f"gap, {controls}", "gap", pairs, MARGIN)
    found += _compare_epochs(rows, f"epochs to the loss, {controls}", pairs)
    # Eigenvalues and sharpness differ by factors: compared as logarithms, a difference of 1 is a factor of 10.
    for metric in LEVELS:
        margin = stats.SHARPNESS
        found += _compare(rows, f"{metric} as trained, at unequal loss, {controls}", metric, pairs, margin, log=True)
        for about, chosen in ((controls, pairs), (f"pruned {whole}", against_whole)):
            at_loss = f"{metric} at matched temperature, {about}"
            found += _untested(_compare(rows, at_loss, f"matched_{metric}", chosen, log=True))
    found += _compare(rows, f"training loss of the sample, {controls}", "sample_loss", pairs, log=True)
    for change in COMPARISONS:
        alone = [pair for keep in levels for pair in alone_at(change, keep)]
        found += _compare(rows, family(change), "test_acc", alone, MARGIN)
        found += _compare_epochs(rows, f"epochs to the loss, {family(change)}", alone)
        for metric in LEVELS:
            about = f"{metric} at matched temperature, {family(change)}"
            found += _untested(_compare(rows, about, f"matched_{metric}", alone, log=True))
    found += _compare_effects(rows, levels)
    for about, chosen in ((controls, pairs), (f"pruned {whole}", against_whole)):
        found += _compare(rows, f"error barrier, {about}", "excess", chosen)
    return _finish(found)


def family(change: str) -> str:
    """Name the tests of pairs that differ in one thing alone."""
    return f"{change} alone"


def alone_at(change: str, keep: float) -> list[tuple[Arm, Arm]]:
    """Give the pairs that differ in one thing alone, at one level."""
    return [((first, keep), (second, keep)) for first, second in COMPARISONS[change]]


def effects_at(keep: float) -> list[tuple[tuple[Arm, Arm], tuple[Arm, Arm]]]:
    """Give each comparison of the mask alone beside that of the values alone, at one level."""
    (values_alone,) = alone_at("values", keep)
    return [(mask_alone, values_alone) for mask_alone in alone_at("mask", keep)]


def effect_label(pair: tuple[Arm, Arm]) -> str:
    """Name the difference of two arms of one level."""
    return f"{pair[0][0]} - {label(pair[1])}"


def _compare_effects(rows: Sequence[Mapping[str, Any]], levels: Sequence[float]) -> list[dict[str, Any]]:
    """Test, seed by seed, whether the mask alone makes more of a difference than the values alone."""
    known = _measured(rows, "test_acc")
    found: dict[str, np.ndarray] = {}
    pairs = []
    for mask_alone, values_alone in (pair for keep in levels for pair in effects_at(keep)):
        if not {*mask_alone, *values_alone} <= set(known):
            continue
        for first, second in (mask_alone, values_alone):
            found[effect_label((first, second))] = known[first] - known[second]
        pairs.append((effect_label(mask_alone), effect_label(values_alone)))
    return tables.compare(EFFECTS, "test_acc", found, pairs, MARGIN)


def _measured(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[Arm, np.ndarray]:
    return {arm: each for arm, each in values(rows, metric).items() if np.isfinite(each).any()}


def _compare(
    rows: Sequence[Mapping[str, Any]],
    family: str,
    metric: str,
    pairs: Sequence[tuple[Arm, Arm]],
    margin: float | None = None,
    log: bool = False,
) -> list[dict[str, Any]]:
    """Compare the pairs of which both sides were measured at all."""
    known = _measured(rows, metric)
    if log:
        known = {arm: np.log10(each, where=each > 0, out=np.full(each.shape, np.nan)) for arm, each in known.items()}
    named = {label(arm): each for arm, each in known.items()}
    return tables.compare(family, f"log10 {metric}" if log else metric, named, _labels(pairs, known), margin)


def _untested(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take the p-values from rows of `tables.compare`, and what could have been found by them."""
    for row in rows:
        row |= dict.fromkeys(("paired_p", "welch_p", "detectable"))
        row["undecided"] = row["undecided"] or "matched at one loss alone: not tested"
    return rows


def _compare_epochs(
    rows: Sequence[Mapping[str, Any]], family: str, pairs: Sequence[tuple[Arm, Arm]]
) -> list[dict[str, Any]]:
    known = {label(arm): each for arm, each in values(rows, "epochs_to_loss", missing=np.inf).items()}
    found = []
    for row in tables.compare(family, "epochs_to_loss", known, _labels(pairs, values(rows, "epochs_to_loss"))):
        a, b = known[row["first"]], known[row["second"]]
        reached = np.isfinite([a, b])
        row["reached"] = f"{reached[0].sum()} and {reached[1].sum()} of {len(a)}"
        if not reached.any():
            row["undecided"] = "no seed of either reached the loss"
        elif not reached.all() and len(a) > 1:
            row |= dict.fromkeys(("difference", "low", "high", "detectable"))
            row |= {"method": "rank", "num_pairs": len(a), "undecided": ""}
            row |= {"paired_p": stats.signed_rank(a, b), "welch_p": stats.rank_sum(a, b)}
        found.append(row)
    return found


def label(arm: Arm) -> str:
    """Name an arm at a level in the tables."""
    return f"{arm[0]} {arm[1]:g}%"


def _labels(pairs: Sequence[tuple[Arm, Arm]], known: Mapping[Arm, Any]) -> list[tuple[str, str]]:
    return [(label(first), label(second)) for first, second in pairs if first in known and second in known]


def _finish(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjust within families, and say what could have been found at the level that this may ask for."""
    rows = [{"method": "t", "reached": ""} | row for row in rows]
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


# The overlap of tickets


def summarise_overlaps(rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Make overlap_summary.csv: mean Jaccard index and chance level by kind, level and layer, and their range.

    Over the pairs of which one at least keeps a weight of the layer; they are counted.
    """
    grouped: dict[tuple, list[Mapping[str, str]]] = {}
    for row in rows:
        grouped.setdefault((row["kind"], percent(row["keep_percent"]), row["layer"]), []).append(row)
    found = []
    for (kind, keep, layer), members in grouped.items():
        values = np.array([[tables.number(row[name]) for name in ("jaccard", "chance")] for row in members])
        jaccard, chance = values[np.isfinite(values).all(1)].T
        row = {"kind": kind, "keep_percent": keep, "layer": layer, "num_pairs": len(jaccard)}
        if not len(jaccard):
            found.append(row | dict.fromkeys(("jaccard", "lowest", "highest", "chance")))
            continue
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
            name = f"{layer} {float(keep):g}%"
            found += tables.compare(
                f"overlap, {kind}", "jaccard", {name: jaccard, "chance": chance}, [(name, "chance")]
            )
    return _finish(found)
