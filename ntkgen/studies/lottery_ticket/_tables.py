"""The tables of the lottery-ticket study: final numbers of every seed, and their means with intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import measure
from ntkgen.studies import tables
from ntkgen.studies.base import Rows
from ntkgen.studies.lottery_ticket._controls import ArmAtLevel

METRICS = ("train_acc", "test_acc", "gap", "epochs_to_loss")
MEASURED = (
    "sample_loss", "eigenvalue", "eigenvalue_residual", "sharpness", "sharpness_se", "temperature",
    "matched_sample_loss", "matched_eigenvalue", "matched_eigenvalue_residual", "matched_sharpness",
    "matched_sharpness_se", "barrier", "excess", "child_test_acc",
)  # fmt: skip


def finals(runs: Sequence[Mapping[str, str]], measures: Sequence[Mapping[str, str]], threshold: float) -> Rows:
    """Reduce runs.csv to a row for each arm, level and seed, with what was measured beside.

    `epochs_to_loss` is where the training loss first falls to the threshold, interpolated in log loss between the
    measured epochs around it, the later of which is `epochs_to_loss_by`; the first measured one if that is low enough.
    None where the loss is never reached. Accuracies of a diverged seed are NaN, and it reaches no loss. What
    was measured of it is left out. An eigenvalue that did not converge is None: measures.csv has it, with its residual.
    """
    grouped: dict[tuple[ArmAtLevel, int], list[Mapping[str, str]]] = {}
    for each in runs:
        grouped.setdefault(_network(each), []).append(each)
    beside = {_network(row): row for row in measures}
    found = []
    for (at, seed), rows in grouped.items():
        last, lost = rows[-1], any(row["diverged"] == "1" for row in rows)
        train_acc, test_acc = (np.nan if lost else float(last[f"{split}_acc"]) for split in ("train", "test"))
        row: dict[str, Any] = {"arm": at.arm, "keep_percent": at.keep, "seed": seed, "diverged": int(lost)}
        row |= {"train_acc": train_acc, "test_acc": test_acc, "gap": train_acc - test_acc}
        row |= {"epochs_to_loss": None, "epochs_to_loss_by": None} if lost else _epochs_to_loss(rows, threshold)
        measured = {} if lost else beside.get((at, seed), {})
        row |= {name: measured.get(name) for name in MEASURED}
        for prefix, mark in (("", "unconverged"), ("matched_", "matched_unconverged")):
            row[mark] = int(measured.get(f"{prefix}eigenvalue_converged", "nan") == "0.0")
            if row[mark]:
                row[f"{prefix}eigenvalue"] = None
        row["unmatched"] = int(bool(measured) and not np.isfinite(tables.number(measured["temperature"])))
        found.append(row)
    return found


def _network(row: Mapping[str, str]) -> tuple[ArmAtLevel, int]:
    return at_of(row), int(row["seed"])


def at_of(row: Mapping[str, Any]) -> ArmAtLevel:
    """Return the arm and level of a row of a tidy table."""
    return ArmAtLevel(row["arm"], percent(row["keep_percent"]))


def percent(cell: Any) -> float:
    """Read a percent; whole ones as integers."""
    value = float(cell)
    return int(value) if value == int(value) else value


def _epochs_to_loss(rows: Sequence[Mapping[str, str]], threshold: float) -> dict[str, float | None]:
    epochs = [int(row["epoch"]) for row in rows]
    before, after, share = measure.passage([float(row["train_loss"]) for row in rows], threshold)
    if after < 0:
        return {"epochs_to_loss": None, "epochs_to_loss_by": None}
    by = epochs[after]
    # Without a logarithm to interpolate (a loss of exactly zero) the later epoch stands.
    at = by if np.isnan(share) else epochs[before] + share * (by - epochs[before])
    return {"epochs_to_loss": float(at), "epochs_to_loss_by": by}


def summarise(rows: Sequence[Mapping[str, Any]], sparsity: Sequence[Mapping[str, str]]) -> Rows:
    """Make summary.csv: for each arm and level the metrics over seeds, and what was lost on the way.

    The mean of `epochs_to_loss` is over the `num_reached_loss` seeds alone; `layers_emptied` names the layers that a
    mask has emptied, with the number of seeds.
    """
    found = tables.summarise(rows, ("arm", "keep_percent"), (*METRICS, *MEASURED))
    for row in found:
        own = [each for each in rows if at_of(each) == at_of(row)]
        for mark in ("diverged", "unconverged", "matched_unconverged", "unmatched"):
            row[f"num_{mark}"] = sum(each[mark] for each in own)
        row["num_reached_loss"] = sum(each["epochs_to_loss"] is not None for each in own)
        empty = [each["layer"] for each in sparsity if each["kept"] == "0" and at_of(each) == at_of(row)]
        row["layers_emptied"] = "; ".join(
            f"{layer} ({empty.count(layer)} of {row['num_seeds']} seeds)" for layer in dict.fromkeys(empty)
        )
    return found


def by_arm(rows: Sequence[Mapping[str, Any]], metric: str, missing: float = np.nan) -> dict[ArmAtLevel, np.ndarray]:
    """Return arm at level -> the metric of every seed, in the order of seeds; `missing` where there is none."""
    arms: dict[ArmAtLevel, dict[int, float]] = {}
    for row in rows:
        value = tables.number(row[metric])
        arms.setdefault(at_of(row), {})[row["seed"]] = missing if np.isnan(value) else value
    return {at: np.array([seeds[seed] for seed in sorted(seeds)]) for at, seeds in arms.items()}


def summarise_overlaps(rows: Sequence[Mapping[str, str]]) -> Rows:
    """Make overlap_summary.csv: mean Jaccard index and chance level by kind, level and layer, and their range.

    Over the pairs of which one at least keeps a weight of the layer; they are counted.
    """
    grouped: dict[tuple, list[Mapping[str, str]]] = {}
    for each in rows:
        grouped.setdefault((each["kind"], percent(each["keep_percent"]), each["layer"]), []).append(each)
    found = []
    for (kind, keep, layer), members in grouped.items():
        both = np.array([[tables.number(row[name]) for name in ("jaccard", "chance")] for row in members])
        jaccard, chance = both[np.isfinite(both).all(1)].T
        row: dict[str, Any] = {"kind": kind, "keep_percent": keep, "layer": layer, "num_pairs": len(jaccard)}
        if not len(jaccard):
            found.append(row | dict.fromkeys(("jaccard", "lowest", "highest", "chance")))
            continue
        row |= {"jaccard": jaccard.mean(), "lowest": jaccard.min(), "highest": jaccard.max(), "chance": chance.mean()}
        found.append({name: float(v) if isinstance(v, np.floating) else v for name, v in row.items()})
    return found
