"""Rows of the tickets' measures: an arm in each, under what its name has in common with others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from ntkgen.plotting._page import pt
from ntkgen.plotting._style import COLOURS, Curve
from ntkgen.plotting._ticks import log_axis


def rows_of(labels: Mapping[str, str]) -> tuple[dict[str, int], list[str]]:
    """Return the row of each arm, and the names of all rows: what names have in common has a row above theirs."""
    begin = [name.partition(", ")[0] for name in labels.values()]
    places: dict[str, int] = {}
    names: list[str] = []
    last = ""
    for (arm, name), start in zip(labels.items(), begin, strict=True):
        if begin.count(start) > 1:
            if start != last:
                names.append(f"{start}:")
            name = name.removeprefix(f"{start}, ")
        last = start
        places[arm] = len(names)
        names.append(name)
    return places, names


def values(
    ax: Axes,
    arms: Mapping[str, Curve],
    logarithmic: bool,
    looks: Mapping[str, tuple[str, str, str]],
    places: Mapping[str, int],
    levels: Sequence[float],
) -> bool:
    """Draw one quantity of all arms; return whether an interval leaves the axis."""
    ends = np.array([end for curve in arms.values() for side in curve[1:] for end in side], float)
    ends = ends[np.isfinite(ends) & ((ends > 0) | (not logarithmic))]
    if logarithmic:
        log_axis(ax.xaxis)
    if ends.size:
        low, high = float(ends.min()), float(ends.max())
        pad = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        ax.set_xlim(*((low / 1.15, high * 1.15) if logarithmic else (low - pad, high + pad)))
    edge, left = ax.get_xlim()[0], False
    for arm, curve in arms.items():
        colour, marker, _ = looks[arm]
        for percent, mean, low, high in zip(*curve, strict=True):
            index = levels.index(percent) if percent in levels else 0
            y = places[arm] + (0.3 * (index - (len(levels) - 1) / 2) if percent in levels and len(levels) > 1 else 0)
            below = logarithmic and low <= 0 < mean
            left |= below
            ax.plot([edge if below else low, high], [y, y], color=colour, linewidth=pt(1.1), zorder=3)
            if below:
                ax.plot([edge], [y], "<", color=colour, markersize=pt(4), clip_on=False, zorder=3)
            ax.plot(
                [mean], [y], color=colour, marker=marker, markersize=pt(5), linestyle="none", zorder=4,
                markerfacecolor=paler(colour, index, len(levels)),
            )  # fmt: skip
    if "whole" in arms and len(arms["whole"].mean):
        ax.axvline(arms["whole"].mean[0], color=COLOURS["threshold"], linestyle="--", linewidth=pt(1), zorder=1)
    return left


def paler(colour: str, index: int, count: int) -> Any:
    """Return a colour, the nearer to white the higher its index."""
    share = index / (count - 1) if count > 1 else 0.0
    return tuple(share + (1 - share) * part for part in to_rgb(colour))
