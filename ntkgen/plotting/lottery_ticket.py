"""Figures of the lottery-ticket study: nothing is computed here; an arm has one colour in all of them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ntkgen.plotting._style import COLOURS, STYLE, Curve, logarithmic, subplots

# Okabe and Ito's colours; markers and lines differ too, for readers without colour. A colour says where the values come
# from, a marker and a line which mask: the ticket's, a random one with its counts in each layer, or a random one.
_SHUFFLED, _DENSE, _FAN_IN = "#CC79A7", "#D55E00", "#009E73"
ARMS = {
    "whole": ("#000000", "o", "-"),
    "ticket": ("#0072B2", "o", "-"),
    "rewound": ("#56B4E9", "s", "-"),
    "one_shot": ("#E69F00", "D", "-"),
    "shuffled": (_SHUFFLED, "^", "-"),
    "reinit": (_DENSE, "^", "-"),
    "reinit_std": ("#7F7F7F", "^", "-"),
    "reinit_fan_in": (_FAN_IN, "^", "-"),
    "random_layer": (_DENSE, "v", "-"),
    "random_layer_shuffled": (_SHUFFLED, "v", "-"),
    "random_layer_fan_in": (_FAN_IN, "v", "-"),
    "random": (_DENSE, "P", "--"),
    "random_shuffled": (_SHUFFLED, "P", "--"),
    "random_fan_in": (_FAN_IN, "P", "--"),
    "other_order": ("#7F7F7F", "X", "-"),
}


Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # arm -> (percents, values)


class Panel(NamedTuple):
    """One quantity of the arms: title, label of the vertical axis, {arm, or "whole": curve}, and its scale."""

    title: str
    axis: str
    arms: Mapping[str, Curve]
    logarithmic: bool


def accuracy(
    curves: Mapping[str, Curve],
    differences: Mapping[str, Curve],
    groups: Mapping[str, Mapping[str, str]],
    title: str,
    close_up: tuple[float, float],
    margin: float,
    published: tuple[Points, Points] = ({}, {}),
    published_for: str = "",
) -> Figure:
    """Draw test accuracy (percent) against the percent of weights remaining, 100 at the left, a line for each arm.

    Each group of arms has a column of its own. Below are the differences to the whole network, whose intervals pairs of
    seeds make narrow. Columns share their vertical axes.

    Example:
      >>> from ntkgen.plotting import Curve, lottery_ticket
      >>> curve, less = Curve([100, 50], [97.0, 96.5], [96.0, 96.0], [98.0, 97.0]), Curve([50], [-0.5], [-0.8], [-0.2])
      >>> groups = {"Tickets": {"ticket": "winning ticket"}}
      >>> figure = lottery_ticket.accuracy({"ticket": curve}, {"ticket": less}, groups, "Tickets", (-2.0, 1.0), 0.5)
      >>> len(figure.axes)
      3

    Args:
      curves: {arm: accuracy against percent remaining}, intervals as bands; empty where every network diverged.
      differences: {arm: accuracy less that of the whole network, points}.
      groups: {title of a column: {arm: name in its legend}}; an arm may be in several.
      title: of the figure.
      close_up: lowest and highest difference shown: networks that do not train at all would flatten the others.
      margin: differences that do not matter, a grey band.
      published: accuracies and differences, drawn as open markers.
      published_for: what the published values belong to.

    Returns:
      The figure: a row of accuracies, a row of differences, a row of legends.
    """
    with matplotlib.rc_context(STYLE):
        figure, grid = subplots(
            3, len(groups), figsize=(1.2 + 4.6 * len(groups), 8.4), height_ratios=(1, 1, 0.3), sharey="row",
            squeeze=False,
        )  # fmt: skip
        figure.suptitle(title, fontsize=10.5)
        for (upper, lower, below), (heading, labels) in zip(grid.T, groups.items(), strict=True):
            own, apart = ({arm: each[arm] for arm in labels} for each in (curves, differences))
            percents = sorted({percent for curve in own.values() for percent in curve.x}, reverse=True)
            for index, (arm, curve) in enumerate(own.items()):
                _arm(upper, arm, curve, labels[arm], 10 - index)
            _bars(lower, apart, labels, 1.03)
            label = f"margin, {margin:g} points"
            lower.axhspan(-margin, margin, color=COLOURS["threshold"], alpha=0.2, linewidth=0, zorder=0, label=label)
            for ax, points in zip((upper, lower), published, strict=True):
                _published(ax, {arm: known for arm, known in points.items() if arm in labels}, published_for)
                _remaining(ax, percents, 0.06)
            if not percents:
                upper.text(0.5, 0.5, "every network diverged", transform=upper.transAxes, ha="center")
            upper.set_title(heading)
            lower.set_xlim(upper.get_xlim())
            below.axis("off")
            handles = _handles((upper, lower))
            below.legend(list(handles.values()), list(handles), loc="upper center", ncols=2, fontsize=8.5)
        grid[0, 0].set_ylabel("test accuracy (%)")
        low, high = grid[0, 0].get_ylim()
        grid[0, 0].set_ylim(max(low, -3), min(high, 103))  # an interval may leave 0 ... 100 %
        grid[1, 0].set_ylabel("difference to the whole network,\npaired by seed (points)")
        grid[1, 0].set_ylim(close_up)
        return figure


def _published(ax: Axes, points: Points, published_for: str) -> None:
    """Draw published values as open markers in the colours of their arms, with one entry in the legend."""
    for index, (arm, known) in enumerate(points.items()):
        colour, marker, _ = ARMS[arm]
        ax.plot(
            *known, color=colour, marker=marker, linestyle="none", markersize=10, markeredgewidth=1.6, zorder=20,
            markerfacecolor="none", label="_" if index else f"open: published ({published_for})",
        )  # fmt: skip


def overlap(
    panels: Mapping[str, Mapping[str, tuple[Curve, Sequence[float]]]],
    profile: Mapping[str, Curve],
    title: str,
) -> Figure:
    """Draw the overlap of tickets against the percent of weights remaining, and the share that each layer keeps.

    Example:
      >>> from ntkgen.plotting import Curve, lottery_ticket
      >>> index = Curve([50, 25], [0.5, 0.3], [0.4, 0.2], [0.6, 0.4])
      >>> panels = {"other seeds": {"dense0": (index, [0.33, 0.14])}}
      >>> len(lottery_ticket.overlap(panels, {"dense0": index}, "Overlap").axes)
      2

    Args:
      panels: {kind of pair: {layer: (Jaccard index against percent, chance level at the same percents)}}; the ends of
        a curve are the lowest and highest pair.
      profile: {layer: percent of its weights kept against percent of all}.
      title: of the figure.

    Returns:
      The figure, a panel for each kind and one for the profile.
    """
    with matplotlib.rc_context(STYLE):
        columns = -(-(len(panels) + 1) // 2)
        figure, grid = subplots(2, columns, figsize=(3.5 * columns, 6.4), squeeze=False)
        axes = list(grid.ravel())
        colours = dict(
            zip(
                profile,
                matplotlib.colormaps["viridis"]([i / max(len(profile) - 1, 1) * 0.9 for i in range(len(profile))]),
                strict=True,
            )
        )
        for ax, (kind, layers) in zip(axes, panels.items(), strict=False):
            for layer, (curve, chance) in layers.items():
                ax.plot(curve.x, curve.mean, color=colours[layer], marker="o", markersize=3.5, zorder=3)
                ax.fill_between(curve.x, curve.low, curve.high, color=colours[layer], alpha=0.2, linewidth=0)
                ax.plot(curve.x, chance, color=colours[layer], linestyle=":", zorder=2)
            _remaining(ax, next(iter(layers.values()))[0].x)
            ax.set_ylim(0, 1)
            ax.set_ylabel("Jaccard index")
            ax.set_title(kind)
        ax = axes[len(panels)]
        for layer, curve in profile.items():
            ax.plot(curve.x, curve.mean, color=colours[layer], marker="o", markersize=3.5, label=layer)
        ends = sorted(next(iter(profile.values())).x)
        ax.plot(ends, ends, color=COLOURS["threshold"], linestyle="--", label="the same in all")
        _remaining(ax, ends[::-1])
        ax.set_yscale("log", nonpositive="mask")  # a layer may lose all
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_ylabel("weights kept in the layer (%)")
        ax.set_title("profile of the tickets")
        for empty in axes[len(panels) + 1 :]:
            empty.set_visible(False)
        figure.suptitle(title, fontsize=10.5)
        axes[0].plot([], [], color=COLOURS["threshold"], linestyle=":", label="chance")
        figure.legend(loc="outside lower center", ncols=min(6, len(profile) + 2))
        return figure


def measures(panels: Sequence[Panel], labels: Mapping[str, str], title: str) -> Figure:
    """Draw what was measured at chosen levels, with t-intervals as bars, a panel for each quantity, two rows.

    Example:
      >>> from ntkgen.plotting import Curve, lottery_ticket
      >>> sharpness = {"ticket": Curve([50], [3.0], [2.0], [4.0])}
      >>> panel = lottery_ticket.Panel("Sharpness", "eigenvalue", sharpness, logarithmic=True)
      >>> figure = lottery_ticket.measures([panel, panel], {"ticket": "winning ticket"}, "Measures")
      >>> figure.axes[0].get_ylabel()
      'eigenvalue'

    Args:
      panels: row by row; what reaches below zero leaves a logarithmic axis.
      labels: {arm: name in the legend}.
      title: of the figure.

    Returns:
      The figure.
    """
    with matplotlib.rc_context(STYLE):
        rows = 1 if len(panels) == 1 else 2
        columns = -(-len(panels) // rows)
        figure, grid = subplots(rows, columns, figsize=(3.7 * columns, 3.4 * rows + 1), squeeze=False)
        axes = list(grid.ravel())
        for ax, panel in zip(axes, panels, strict=False):
            _bars(ax, panel.arms, labels)
            _remaining(ax, sorted({percent for curve in panel.arms.values() for percent in curve.x}, reverse=True))
            ax.margins(x=0.1)
            if panel.logarithmic:
                ax.set_yscale("log", nonpositive="clip")
                low, high = ax.get_ylim()
                # Fewer than two decades want ticks between the powers of ten.
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
                ax.yaxis.set_minor_formatter(NullFormatter())
                ax.yaxis.set_major_formatter("{x:g}")
            ax.set_ylabel(panel.axis)
            ax.set_title(panel.title)
        for empty in axes[len(panels) :]:
            empty.set_visible(False)
        figure.suptitle(title, fontsize=10.5)
        handles = _handles(axes)
        size = 8.5 if max(map(len, handles)) > 40 else None  # columns are as wide as their longest entry
        figure.legend(
            list(handles.values()), list(handles), loc="outside lower center", ncols=min(columns, 3), fontsize=size
        )
        return figure


def _handles(axes: Sequence[Axes]) -> dict[str, Any]:
    """Return the legend entries of all axes, each once."""
    handles: dict[str, Any] = {}
    for ax in axes:
        handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    return handles


def _bars(ax: Axes, arms: Mapping[str, Curve], labels: Mapping[str, str], step: float = 1.06) -> None:
    """Draw arms with their intervals as bars, a factor `step` side by side, or they would hide each other."""
    beside = [arm for arm in arms if arm != "whole"]
    for arm, curve in arms.items():
        colour, marker, line = ARMS[arm]
        shift = (len(beside) - 1) / 2 - beside.index(arm) if arm in beside else 0
        x = [percent * step**shift for percent in curve.x]
        below, above = (
            [abs(end - mean) for end, mean in zip(ends, curve.mean, strict=True)] for ends in (curve.low, curve.high)
        )
        ax.errorbar(
            x, curve.mean, (below, above), color=colour, marker=marker, linestyle=line, markersize=4, capsize=2,
            linewidth=1, label=labels[arm],
        )  # fmt: skip


def _arm(ax: Axes, arm: str, curve: Curve, label: str, order: float) -> None:
    """Draw one arm; those of higher order lie above the others."""
    colour, marker, line = ARMS[arm]
    style: Any = {"color": colour, "marker": marker, "linestyle": line, "markersize": 4.5}
    ax.plot(curve.x, curve.mean, **style, label=label, zorder=2 + order)
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0, zorder=2)


def _remaining(ax: Axes, percents: Sequence[float], room: float = 0.1) -> None:
    """Make the horizontal axis logarithmic from 100 % down to the right, with a tick at each level.

    A level that is nearer to the last labelled one than `room`, a share of the axis, goes without a label.
    """
    ax.set_xlabel("weights remaining (%)")
    if not len(percents):
        return
    logarithmic(ax, percents)
    names: list[str] = []
    last, span = math.inf, math.log(max(percents) / min(percents))
    for percent in percents:
        shown = math.log(last / percent) >= room * span
        names.append(f"{percent:g}" if shown else "")
        last = percent if shown else last
    ax.set_xticks(list(percents), names)
    ax.minorticks_off()
    ax.invert_xaxis()
