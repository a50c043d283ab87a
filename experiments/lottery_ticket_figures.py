"""The figures of the lottery-ticket study, from its tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from lottery_ticket_config import same_protocol
from lottery_ticket_controls import ARMS
from lottery_ticket_report import PUBLISHED_FOR, published_losses
from lottery_ticket_tables import MARGIN, WHOLE, summarise_overlaps, values

from ntkgen import paper, plotting, records
from ntkgen.studies import tables

# Column of the tables, title, label of the axis; as trained above, at equal loss below.
MEASURES = (
    ("eigenvalue", "as trained (unequal loss)", "top Hessian eigenvalue (kept weights)"),
    ("sharpness", "as trained (unequal loss)", "adaptive sharpness (nats)"),
    ("sample_loss", "as trained", "training loss of the sample (nats)"),
    (
        "matched_eigenvalue",
        "logits matched to {} nats, if reached",
        "top Hessian eigenvalue (kept weights)",
    ),
    ("matched_sharpness", "logits matched to {} nats, if reached", "adaptive sharpness (nats)"),
    ("excess", "between two batch orders", "error barrier (points)"),
)
LINEAR = ("excess",)
MOST = 8.0  # points of the close-up, either side


def draw(folder: Path, prefix: str, config: dict[str, Any], rows: list[dict[str, Any]], run: records.Run) -> list[Path]:
    """Draw accuracy, overlap and profile, and what was measured."""
    network = f"width {config['width']}" if config["model"] == "mlp" else f"{config['channels']} channels"
    about = (
        f"{config['model'].upper()} ({network}) on {config['dataset']}, {config['num_train']:,} examples, "
        f"{config['num_seeds']} seeds"
    )
    labels = {arm: each.label for arm, each in ARMS.items()}
    lost_seeds = tables.diverged(rows, lambda row: f"{labels[row['arm']]} at {row['keep_percent']:g} %", most=2)
    intervals = f"{about}, 95% t-intervals{lost_seeds}"
    drawn = [arm for arm in config["arms"] if arm != "other_order"]
    accuracy = {arm: arm_curve(rows, "test_acc", arm) for arm in drawn}
    losses = {arm: difference_curve(rows, arm) for arm in drawn}
    known = {
        arm: ([k for k in points if points[k]["test_acc"]], [p["test_acc"] for p in points.values() if p["test_acc"]])
        for arm, points in paper.LOTTERY_TICKET.items()
        if same_protocol(config) and arm in drawn
    }
    lost = {arm: points for arm, points in published_losses().items() if arm in drawn}
    # From all networks with a tenth of the weights or more, intervals included, and the published ones.
    near = [0.0, *(value for _, points in lost.values() for value in points)]
    near += [
        float(np.clip(end, -MOST, MOST))
        for curve in losses.values()
        for percent, *ends in zip(curve.x, curve.low, curve.high, strict=True)
        for end in ends
        if percent >= 10 and np.isfinite(end)
    ]
    figure = plotting.lottery_ticket.accuracy(
        accuracy,
        losses,
        groups(drawn),
        intervals,
        (min(near) - 0.5, max(near) + 0.5),
        MARGIN,
        (known, lost),
        PUBLISHED_FOR,
    )
    paths = [plotting.save(figure, folder / f"{prefix}accuracy.png")]
    if (run.folder / "overlaps.csv").exists():
        figure = plotting.lottery_ticket.overlap(
            *overlap_panels(run), f"{about}; bands: lowest and highest pair{lost_seeds}"
        )
        paths.append(plotting.save(figure, folder / f"{prefix}overlap.png"))
    panels = []
    for metric, heading, axis in MEASURES:
        measured = {arm: arm_curve(rows, metric, arm, whole=False) for arm in drawn}
        measured = {"whole": arm_curve(rows, metric, "whole"), **measured}
        if measured := {arm: each for arm, each in measured.items() if len(each.x)}:
            panels.append(
                plotting.lottery_ticket.Panel(
                    heading.format(config["matched_loss"]), axis, measured, metric not in LINEAR
                )
            )
    if panels:
        figure = plotting.lottery_ticket.measures(panels, {"whole": "whole network", **labels}, intervals)
        paths.append(plotting.save(figure, folder / f"{prefix}measures.png"))
    return paths


def groups(drawn: Sequence[str]) -> dict[str, dict[str, str]]:
    """Arrange the arms in columns, each with the ticket: those with its mask or one of their own, and random masks."""
    own: dict[str, str] = {}
    random: dict[str, str] = {}
    for arm in drawn:
        label = ARMS[arm].label
        if label.startswith("random mask"):
            random[arm] = label.removeprefix("random mask, ")
        else:
            own[arm] = label.removeprefix("ticket's mask, ")
    found = {"tickets and their mask": own}
    return found | {"random masks": {"ticket": "ticket, for comparison", **random}} if random else found


def difference_curve(rows: list[dict[str, Any]], arm: str) -> plotting.Curve:
    """Give an arm's test accuracy less the whole network's of the same seed, with the intervals of the pairs."""
    found = values(rows, "test_acc")
    levels = sorted((keep for name, keep in found if name == arm and keep < 100), reverse=True)
    return tables.curve(levels, np.stack([found[arm, keep] - found[WHOLE] for keep in levels]) if levels else [])


def arm_curve(rows: list[dict[str, Any]], metric: str, arm: str, whole: bool = True) -> plotting.Curve:
    """Give a metric of one arm against percent, with the whole network's before it or without levels not measured."""
    found = values(rows, metric)
    own = {keep: each for (name, keep), each in found.items() if name == arm and keep < 100}
    if whole:
        own[100] = found["ticket", 100]
    if measured := [keep for keep in sorted(own, reverse=True) if whole or np.isfinite(own[keep]).any()]:
        return tables.curve(measured, np.stack([own[keep] for keep in measured]))
    return plotting.Curve([], [], [], [])


def overlap_panels(run: records.Run) -> tuple[dict[str, Any], dict[str, plotting.Curve]]:
    """Arrange the tables for the overlap figure."""
    panels: dict[str, dict[str, Any]] = {}
    for row in summarise_overlaps(records.read_table(run.folder / "overlaps.csv")):
        panels.setdefault(row["kind"], {}).setdefault(row["layer"], []).append(row)
    curves = {
        kind: {
            layer: (
                plotting.Curve(
                    *(
                        [tables.number(row[name]) for row in rows]
                        for name in ("keep_percent", "jaccard", "lowest", "highest")
                    )
                ),
                [tables.number(row["chance"]) for row in rows],
            )
            for layer, rows in layers.items()
        }
        for kind, layers in panels.items()
    }
    kept: dict[str, dict[float, list[float]]] = {}
    for row in records.read_table(run.folder / "sparsity.csv"):
        if row["arm"] == "ticket":
            own = kept.setdefault(row["layer"], {}).setdefault(float(row["keep_percent"]), [])
            own.append(float(row["kept_percent"]))
    profile = {layer: tables.curve(list(own), np.stack(list(own.values()))) for layer, own in kept.items()}
    return curves, profile
