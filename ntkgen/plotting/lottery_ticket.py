"""Figures of the lottery-ticket study: nothing is computed here; an arm has one colour in all of them.

The arms are those of the study, keys of `ARMS`, "whole" among them. Other names are refused.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntkgen.plotting._page import known, page, pt
from ntkgen.plotting._style import COLOURS, Curve
from ntkgen.plotting._ticket_rows import paler, rows_of, values
from ntkgen.plotting._ticks import log_axis, logarithmic

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
    *,
    width: str | None = None,
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
      curves: {arm of `ARMS`: accuracy against percent remaining}, intervals as bands; empty where
        every network diverged.
      differences: {arm: accuracy less that of the whole network, points}.
      groups: {title of a column: {arm: name in its legend}}; an arm may be in several.
      title: of the figure.
      close_up: lowest and highest difference shown: networks that do not train at all would flatten the others.
      margin: differences that do not matter, a grey band.
      published: accuracies and differences, drawn as open markers.
      published_for: what the published values belong to.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure: a row of accuracies, a row of differences, and on a screen a row of legends.

    Raises:
      ValueError: an arm that is not in `ARMS`.
    """
    known([*curves, *differences, *(arm for labels in groups.values() for arm in labels)], ARMS, "curves")
    count = len(groups)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (3, count, 1.2 + 4.6 * count, 8.4), (2, count, 5.6), (2, count, 5.2),
            height_ratios=(1, 1) if sheet.paper else (1, 1, 0.3), sharey="row",
        )  # fmt: skip
        entries: dict[str, tuple[Any, str]] = {}
        for (upper, lower, *below), labels in zip(grid.T, groups.values(), strict=True):
            own, apart = ({arm: each[arm] for arm in labels} for each in (curves, differences))
            percents = sorted({percent for curve in own.values() for percent in curve.x}, reverse=True)
            for index, (arm, curve) in enumerate(own.items()):
                _arm(upper, arm, curve, labels[arm], 10 - index)
            _bars(lower, apart, labels, 1.03)
            label = f"margin, {margin:g} points"
            lower.axhspan(-margin, margin, color=COLOURS["threshold"], alpha=0.2, linewidth=0, zorder=0, label=label)
            for ax, points in zip((upper, lower), published, strict=True):
                _published(ax, {arm: known for arm, known in points.items() if arm in labels}, published_for)
                _remaining(ax, percents, {"screen": 0.06, "double": 0.09, "column": 0.22}[sheet.name])
            if not percents:
                upper.text(0.5, 0.5, "every network diverged", transform=upper.transAxes, ha="center")
            lower.set_xlim(upper.get_xlim())
            handles = _handles((upper, lower))
            named = {name: arm for arm, name in labels.items()}
            for name, handle in handles.items():
                entries.setdefault(named.get(name, name), (handle, name))  # an arm in two columns has one entry
            for ax in below:
                ax.axis("off")
                ax.legend(list(handles.values()), list(handles), loc="upper center", ncols=2, fontsize=8.5)
        if sheet.paper:
            words = [name.replace(" (", "\n(") for _, name in entries.values()]
            sheet.legend(figure, ([handle for handle, _ in entries.values()], words))
        if sheet.name == "column":
            for ax in grid.ravel():
                ax.set_xlabel("weights kept (%)")
        grid[0, 0].set_ylabel("test accuracy (%)")
        low, high = grid[0, 0].get_ylim()
        grid[0, 0].set_ylim(max(low, -3), min(high, 103))  # an interval may leave 0 ... 100 %
        grid[1, 0].set_ylabel("difference to the whole network,\npaired by seed (points)")
        grid[1, 0].set_ylim(close_up)
        sheet.letter(list(grid[:2].ravel()), [*groups, *([""] * count)])
        sheet.title(figure, title)
        return figure


def _published(ax: Axes, points: Points, published_for: str) -> None:
    """Draw published values as open markers in the colours of their arms, with one entry in the legend."""
    for index, (arm, points_of) in enumerate(points.items()):
        colour, marker, _ = ARMS[arm]
        ax.plot(
            *points_of, color=colour, marker=marker, linestyle="none", markersize=pt(10), markeredgewidth=pt(1.6),
            zorder=20, markerfacecolor="none", label="_" if index else f"open: published ({published_for})",
        )  # fmt: skip


def overlap(
    panels: Mapping[str, Mapping[str, tuple[Curve, Sequence[float]]]],
    profile: Mapping[str, Curve],
    title: str,
    *,
    width: str | None = None,
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
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure, a panel for each kind and one for the profile.
    """
    count = len(panels) + 1
    half = -(-count // 2)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (2, half, 3.5 * half, 6.4), (half, 2, 0.6 + 1.5 * half), (2, half, 3.9), count=count
        )
        axes = list(grid.ravel())[:count]
        room = 0.18 if sheet.paper else 0.1
        colours = dict(
            zip(
                profile,
                matplotlib.colormaps["viridis"]([i / max(len(profile) - 1, 1) * 0.9 for i in range(len(profile))]),
                strict=True,
            )
        )
        for ax, layers in zip(axes, panels.values(), strict=False):
            for layer, (curve, chance) in layers.items():
                ax.plot(curve.x, curve.mean, color=colours[layer], marker="o", markersize=pt(3.5), zorder=3)
                ax.fill_between(curve.x, curve.low, curve.high, color=colours[layer], alpha=0.2, linewidth=0)
                ax.plot(curve.x, chance, color=colours[layer], linestyle=":", zorder=2)
            _remaining(ax, next(iter(layers.values()))[0].x, room)
            ax.set_ylim(0, 1)
            ax.set_ylabel("Jaccard index")
        ax = axes[len(panels)]
        for layer, curve in profile.items():
            ax.plot(curve.x, curve.mean, color=colours[layer], marker="o", markersize=pt(3.5), label=layer)
        ends = sorted(next(iter(profile.values())).x)
        ax.plot(ends, ends, color=COLOURS["threshold"], linestyle="--", label="the same in all")
        _remaining(ax, ends[::-1], room)
        log_axis(ax.yaxis, plain=True)
        ax.set_yscale("log", nonpositive="mask")  # a layer may lose all
        log_axis(ax.yaxis, plain=True)
        ax.set_ylabel("kept in the layer (%)")
        axes[0].plot([], [], color=COLOURS["threshold"], linestyle=":", label="chance")
        if sheet.name == "column":
            for ax in axes:
                ax.set_xlabel("weights kept (%)")
        sheet.letter(axes, [*panels, "profile of the tickets"])
        handles = _handles(axes)
        sheet.legend(figure, (list(handles.values()), list(handles)), most=6)
        sheet.title(figure, title)
        return figure


def measures(panels: Sequence[Panel], labels: Mapping[str, str], title: str, *, width: str | None = None) -> Figure:
    """Draw what was measured at chosen levels, with t-intervals as bars: a panel for each quantity, a row for each arm.

    Rows have the names of their arms; in one column of a paper they have numbers, and the names stand below. Arms
    whose names begin alike stand under what they have in common. A marker is the paler the fewer weights remain.

    Example:
      >>> from ntkgen.plotting import Curve, lottery_ticket
      >>> sharpness = {"ticket": Curve([50], [3.0], [2.0], [4.0])}
      >>> panel = lottery_ticket.Panel("Sharpness", "eigenvalue", sharpness, logarithmic=True)
      >>> figure = lottery_ticket.measures([panel, panel], {"ticket": "winning ticket"}, "Measures")
      >>> figure.axes[0].get_xlabel()
      'eigenvalue'

    Args:
      panels: row by row, of arms in `ARMS`; an interval that reaches below zero leaves a logarithmic axis by an arrow.
      labels: {arm: name of its row}.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: an arm that is not in `ARMS`.
    """
    known([arm for panel in panels for arm in panel.arms], ARMS, "panels")
    places, names = rows_of({arm: name for arm, name in labels.items() if any(arm in panel.arms for panel in panels)})
    levels = sorted({x for panel in panels for curve in panel.arms.values() for x in curve.x if x < 100})[::-1]
    count, high = len(panels), 0.75 + max(0.12 * len(names), 0.75)
    columns = min(count, 3)
    rows = -(-count // columns)
    narrow = -(-count // 2)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (rows, columns, 3 + 3.0 * columns, (0.8 + 0.2 * len(names)) * rows + 0.6),
            (narrow, min(count, 2), (0.95 + max(0.095 * len(names), 0.6)) * narrow + 0.06 * len(names) + 0.7),
            (rows, columns, high * rows + 0.3), count=count, sharey=True,
        )  # fmt: skip
        axes = list(grid.ravel())[:count]
        left = False
        for ax, panel in zip(axes, panels, strict=True):
            left |= values(ax, panel.arms, panel.logarithmic, ARMS, places, levels)
            ax.set_xlabel(sheet.wrapped(panel.axis, grid.shape[1], 0.2))
            ax.grid(visible=False, axis="y")
        numbers = {row: str(1 + index) for index, row in enumerate(places.values())}
        shown = [numbers.get(row, "") for row in range(len(names))] if sheet.name == "column" else names
        axes[0].set_yticks(range(len(names)), shown)
        for ax in grid[:, 0]:
            ax.tick_params(axis="y", labelsize=6.5 if sheet.paper else 8.5)
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        sheet.letter(axes, [panel.title for panel in panels])
        marker: Any = {"linestyle": "none", "marker": "o", "color": "#555555", "markersize": pt(5)}
        handles = [
            Line2D([], [], markerfacecolor=paler("#555555", i, len(levels)), **marker) for i in range(len(levels))
        ]
        remain = "remain" if sheet.name == "column" else "of the weights remain"
        words = [f"{level:g} % {remain}" for level in levels]
        if "whole" in places:
            handles.append(Line2D([], [], color=COLOURS["threshold"], linestyle="--"))
            words.append("whole network")
        if left:
            handles.append(Line2D([], [], linestyle="none", marker="<", color="#555555", markersize=pt(4)))
            words.append("the interval reaches below zero")
        if sheet.name == "column":  # too narrow for names: rows have numbers, and the names stand below
            for row, name in enumerate(names):
                arm = next((arm for arm, place in places.items() if place == row), None)
                look: Any = {} if arm is None else {"color": ARMS[arm][0], "marker": ARMS[arm][1], "markersize": pt(5)}
                handles.append(Line2D([], [], linestyle="none", **look))
                words.append(name if arm is None else f"{numbers[row]}  {name}")
        sheet.legend(figure, (handles, words), most=4, lines=sheet.name != "column")
        sheet.title(figure, title)
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
            x, curve.mean, (below, above), color=colour, marker=marker, linestyle=line, markersize=pt(4),
            capsize=pt(2), linewidth=pt(1), label=labels[arm],
        )  # fmt: skip


def _arm(ax: Axes, arm: str, curve: Curve, label: str, order: float) -> None:
    """Draw one arm; those of higher order lie above the others."""
    colour, marker, line = ARMS[arm]
    style: Any = {"color": colour, "marker": marker, "linestyle": line, "markersize": pt(4.5)}
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
