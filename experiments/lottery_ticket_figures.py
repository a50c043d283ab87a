"""The figures of the lottery-ticket study, from its tables."""

from pathlib import Path
from typing import Any

import numpy as np
import tables
from lottery_ticket_arms import ARMS
from lottery_ticket_config import same_protocol
from lottery_ticket_tables import PRUNED, summarise_overlaps, values

from ntkgen import paper, plotting, plotting_tickets, records

# Label of the axis -> column of the tables.
MEASURES = {
    "top Hessian eigenvalue, kept weights": "eigenvalue",
    "adaptive sharpness (nats)": "sharpness",
    "training loss of the sample (nats)": "sample_loss",
    "error barrier (points)": "excess",
}
LOGARITHMIC = tuple(MEASURES)[:3]


def draw(folder: Path, prefix: str, config: dict[str, Any], rows: list[dict[str, Any]], run: records.Run) -> list[Path]:
    """Draw accuracy, overlap and profile, and what was measured."""
    network = f"width {config['width']}" if config["model"] == "mlp" else f"{config['channels']} channels"
    about = (
        f"{config['model'].upper()} ({network}) on {config['dataset']}, {config['num_train']:,} examples, "
        f"{config['num_seeds']} seeds"
    )
    intervals = f"{about}, 95% t-intervals"
    labels = dict(ARMS)
    drawn = [arm for arm in config["arms"] if arm != "other_order"]
    accuracy = {arm: arm_curve(rows, "test_acc", arm) for arm in drawn}
    known = {
        arm: ([k for k in points if points[k]["test_acc"]], [p["test_acc"] for p in points.values() if p["test_acc"]])
        for arm, points in paper.LOTTERY_TICKET.items()
        if same_protocol(config)
    }
    # From the pruned networks with a tenth of the weights or more.
    near = [
        mean
        for arm in PRUNED
        if arm in accuracy
        for percent, mean in zip(accuracy[arm].x, accuracy[arm].mean, strict=True)
        if percent >= 10 and np.isfinite(mean)
    ]
    close_up = (min(near) - 1, max(near) + 1) if near else (0.0, 100.0)
    figure = plotting_tickets.accuracy(accuracy, labels, intervals, close_up, known)
    paths = [plotting.save(figure, folder / f"{prefix}accuracy.png")]
    if (run.folder / "overlaps.csv").exists():
        figure = plotting_tickets.overlap(*overlap_panels(run), f"{about}; bands: lowest and highest pair")
        paths.append(plotting.save(figure, folder / f"{prefix}overlap.png"))
    panels = {}
    for label, metric in MEASURES.items():
        measured = {arm: arm_curve(rows, metric, arm, whole=False) for arm in drawn}
        measured = {"whole": arm_curve(rows, metric, "whole"), **measured}
        if measured := {arm: each for arm, each in measured.items() if len(each.x)}:
            panels[label] = measured
    if panels:
        figure = plotting_tickets.measures(panels, LOGARITHMIC, {"whole": "whole network", **labels}, intervals)
        paths.append(plotting.save(figure, folder / f"{prefix}measures.png"))
    return paths


def arm_curve(rows: list[dict[str, Any]], metric: str, arm: str, whole: bool = True) -> plotting.Curve:
    """Give a metric of one arm against percent, the whole network's before; levels not measured are left out."""
    found = values(rows, metric)
    own = {keep: each for (name, keep), each in found.items() if name == arm and keep < 100}
    if whole:
        own[100] = found["ticket", 100]
    if measured := [keep for keep in sorted(own, reverse=True) if np.isfinite(own[keep]).any()]:
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
                    *([row[name] for row in rows] for name in ("keep_percent", "jaccard", "lowest", "highest"))
                ),
                [row["chance"] for row in rows],
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
