"""The figures of the lottery-ticket study, from its tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import paper, plotting
from ntkgen.studies import curves, tables
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.lottery_ticket._comparisons import MARGIN
from ntkgen.studies.lottery_ticket._controls import ARMS, LAYER_COUNTS, TOTAL, WHOLE, ArmAtLevel
from ntkgen.studies.lottery_ticket._published import PUBLISHED_FOR, published_difference
from ntkgen.studies.lottery_ticket._report import same_protocol
from ntkgen.studies.lottery_ticket._tables import by_arm, finals

# Column of the tables, title, label of the axis; as trained above, at equal loss below.
MEASURES = (
    ("eigenvalue", "as trained (unequal loss)", "top Hessian eigenvalue\n(kept weights, nats / weight²)"),
    ("sharpness", "as trained (unequal loss)", "adaptive sharpness (nats)"),
    ("sample_loss", "as trained", "training loss (nats)"),
    (
        "matched_eigenvalue",
        "logits matched to {} nats, if reached",
        "top Hessian eigenvalue\n(kept weights, nats / weight²)",
    ),
    ("matched_sharpness", "logits matched to {} nats, if reached", "adaptive sharpness (nats)"),
    ("excess", "between two batch orders", "error barrier (points)"),
)
LINEAR = ("excess",)
MOST = 8.0  # points of the close-up, either side


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw accuracy, overlap and profile, and what was measured."""
    config, num_train = prepared.config, prepared.facts["num_train"]
    rows = finals(found["runs"], found["measures"], config.loss_threshold)
    network = f"{config.channels} channels" if config.model == "cnn" else f"width {config.width}"
    about = f"{config.network_name} ({network}) on {curves.called(config.dataset)}, {num_train:,} examples"
    about += f", {config.num_seeds} seeds"
    labels = {arm: recipe.label for arm, recipe in ARMS.items()}
    lost_seeds = tables.diverged(rows, lambda row: f"{labels[row['arm']]} at {row['keep_percent']:g} %", most=2)
    intervals = f"{about}, 95% t-intervals{lost_seeds}"
    drawn = [arm for arm in config.arms if arm != "other_order"]
    differences = {arm: difference_curve(rows, arm) for arm in drawn}
    known = {
        arm: ([k for k in points if points[k]["test_acc"]], [p["test_acc"] for p in points.values() if p["test_acc"]])
        for arm, points in paper.LOTTERY_TICKET.items()
        if same_protocol(config, num_train) and arm in drawn
    }
    lost = {arm: ([10.0], [published_difference(ArmAtLevel(arm, 10))]) for arm in ("ticket", "reinit") if arm in drawn}
    yield (
        "accuracy",
        plotting.lottery_ticket.accuracy(
            {arm: arm_curve(rows, "test_acc", arm) for arm in drawn},
            differences,
            groups(drawn),
            intervals,
            close_up(differences, lost),
            MARGIN,
            (known, lost),
            PUBLISHED_FOR,
        ),
    )
    if overlap_summary := derived.tables["overlap_summary"]:
        yield (
            "overlap",
            plotting.lottery_ticket.overlap(
                overlap_curves(overlap_summary), profile(found["sparsity"]),
                f"{about}; bands: lowest and highest pair{lost_seeds}",
            ),
        )  # fmt: skip
    panels = []
    for metric, heading, axis in MEASURES:
        measured = {arm: arm_curve(rows, metric, arm, whole=False) for arm in drawn}
        measured = {"whole": arm_curve(rows, metric, "whole"), **measured}
        if measured := {arm: each for arm, each in measured.items() if len(each.x)}:
            title = heading.format(config.matched_loss)
            panels.append(plotting.lottery_ticket.Panel(title, axis, measured, metric not in LINEAR))
    if panels:
        yield "measures", plotting.lottery_ticket.measures(panels, {"whole": "whole network", **labels}, intervals)


def close_up(
    curves: Mapping[str, plotting.Curve], published: Mapping[str, tuple[list[float], list[float]]]
) -> tuple[float, float]:
    """Return lowest and highest difference to show, in points.

    From all networks with a tenth of the weights or more, intervals included, and the published ones.
    """
    near = [0.0, *(value for _, points in published.values() for value in points)]
    near += [
        float(np.clip(end, -MOST, MOST))
        for curve in curves.values()
        for percent, *ends in zip(curve.x, curve.low, curve.high, strict=True)
        for end in ends
        if percent >= 10 and np.isfinite(end)
    ]
    return min(near) - 0.5, max(near) + 0.5


def groups(drawn: Sequence[str]) -> dict[str, dict[str, str]]:
    """Arrange the arms in columns, each with the ticket: those with its mask or one of their own, and random masks."""
    own: dict[str, str] = {}
    random: dict[str, str] = {}
    for arm in drawn:
        label = ARMS[arm].label
        if ARMS[arm].mask in (LAYER_COUNTS, TOTAL):
            random[arm] = label.removeprefix("random mask, ")
        else:
            own[arm] = label.removeprefix("ticket's mask, ")
    found = {"tickets and their mask": own}
    return found | {"random masks": {"ticket": "ticket, for comparison", **random}} if random else found


def difference_curve(rows: Rows, arm: str) -> plotting.Curve:
    """Return an arm's test accuracy less the whole network's of the same seed, with the intervals of the pairs."""
    found = by_arm(rows, "test_acc")
    own = sorted((at for at in found if at.arm == arm and at.keep < 100), key=lambda at: -at.keep)
    return curves.curve([at.keep for at in own], np.array([found[at] - found[WHOLE] for at in own]))


def arm_curve(rows: Rows, metric: str, arm: str, whole: bool = True) -> plotting.Curve:
    """Return a metric of one arm against percent, with the whole network's before it or without levels not measured."""
    found = by_arm(rows, metric)
    own = {keep: each for (name, keep), each in found.items() if name == arm and keep < 100}
    if whole:
        own[100] = found[WHOLE]
    if measured := [keep for keep in sorted(own, reverse=True) if whole or np.isfinite(own[keep]).any()]:
        return curves.curve(measured, np.stack([own[keep] for keep in measured]))
    return plotting.Curve([], [], [], [])


def overlap_curves(summary: Rows) -> dict[str, dict[str, tuple[plotting.Curve, list[float]]]]:
    """Return kind -> layer -> (overlap against percent with the lowest and highest pair, chance level)."""
    grouped: dict[str, dict[str, Rows]] = {}
    for row in summary:
        grouped.setdefault(row["kind"], {}).setdefault(row["layer"], []).append(row)
    return {
        kind: {layer: (_overlap_curve(rows), _column(rows, "chance")) for layer, rows in layers.items()}
        for kind, layers in grouped.items()
    }


def _overlap_curve(rows: Rows) -> plotting.Curve:
    return plotting.Curve(*(_column(rows, name) for name in ("keep_percent", "jaccard", "lowest", "highest")))


def _column(rows: Rows, name: str) -> list[float]:
    return [tables.number(row[name]) for row in rows]


def profile(sparsity: Sequence[Mapping[str, str]]) -> dict[str, plotting.Curve]:
    """Return layer -> percent of its weights that tickets keep, against percent of all."""
    kept: dict[str, dict[float, list[float]]] = {}
    for row in sparsity:
        if row["arm"] == "ticket":
            own = kept.setdefault(row["layer"], {}).setdefault(float(row["keep_percent"]), [])
            own.append(float(row["kept_percent"]))
    return {layer: curves.curve(list(own), np.stack(list(own.values()))) for layer, own in kept.items()}
