"""Figures of the lottery-ticket study: nothing is computed here; an arm has one colour in all of them."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkgen.plotting import COLOURS, STYLE, Curve

# Okabe and Ito's colours; markers differ too, for readers without colour.
ARMS = {
    "whole": ("#000000", "o"),
    "ticket": ("#0072B2", "o"),
    "rewound": ("#56B4E9", "s"),
    "one_shot": ("#009E73", "D"),
    "reinit": ("#D55E00", "^"),
    "random_layer": ("#CC79A7", "v"),
    "random": ("#E69F00", "P"),
    "other_order": ("#7F7F7F", "X"),
}


def accuracy(
    curves: Mapping[str, Curve],
    labels: Mapping[str, str],
    title: str,
    close_up: tuple[float, float],
    published: Mapping[str, tuple[Sequence[float], Sequence[float]]] | None = None,
) -> Figure:
    """Draw test accuracy (percent) against the percent of weights remaining, 100 at the left, a line for each arm.

    Networks that do not train at all would flatten everything else: the right half is a close-up of the others.

    Args:
      curves: {arm: accuracy against percent remaining}, intervals as bands.
      labels: {arm: name in the legend}.
      title: of the figure.
      close_up: lowest and highest accuracy of the right half.
      published: {arm: (percents, accuracies)}.

    Returns:
      The figure.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.8), layout="constrained")
        for ax in axes:
            for index, (arm, curve) in enumerate(curves.items()):
                _arm(ax, arm, curve, labels[arm], 10 - index, 0.18 if ax is axes[0] else 0.1)
            for arm, points in (published or {}).items():
                style: Any = {"linestyle": "none", "markersize": 9, "markerfacecolor": "none", "zorder": 20}
                colour, label = COLOURS["published"], f"published, {labels[arm]}"
                ax.plot(*points, marker=ARMS[arm][1], color=colour, label=label, **style)
            _remaining(ax, next(iter(curves.values())).x)
        axes[0].set_ylabel("test accuracy (%)")
        axes[1].set_ylim(close_up)
        axes[1].set_title("close-up", fontsize=10)
        figure.suptitle(title, fontsize=10.5)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure


def overlap(
    panels: Mapping[str, Mapping[str, tuple[Curve, Sequence[float]]]],
    profile: Mapping[str, Curve],
    title: str,
) -> Figure:
    """Draw the overlap of tickets against the percent of weights remaining, and the share that each layer keeps.

    Args:
      panels: {kind of pair: {layer: (Jaccard index against percent, chance level at the same percents)}}; the ends of
        a curve are the lowest and highest pair.
      profile: {layer: percent of its weights kept against percent of all}.
      title: of the figure.

    Returns:
      The figure, a panel for each kind and one for the profile.
    """
    with plt.rc_context(STYLE):
        columns = -(-(len(panels) + 1) // 2)
        figure, grid = plt.subplots(2, columns, figsize=(3.5 * columns, 6.4), layout="constrained", squeeze=False)
        axes = list(grid.ravel())
        colours = dict(
            zip(
                profile,
                plt.get_cmap("viridis")([i / max(len(profile) - 1, 1) * 0.9 for i in range(len(profile))]),
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
            ax.set_ylabel("Jaccard index (dotted: chance)")
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
        figure.legend(loc="outside lower center", ncols=min(5, len(profile) + 1))
        return figure


def measures(
    panels: Mapping[str, Mapping[str, Curve]], logarithmic: Collection[str], labels: Mapping[str, str], title: str
) -> Figure:
    """Draw what was measured at chosen levels, with t-intervals as bars, a panel for each quantity.

    Args:
      panels: {label of the vertical axis: {arm, or "whole": quantity against percent remaining}}.
      logarithmic: labels of the axes that are; what reaches below zero leaves the axes there.
      labels: {arm: name in the legend}.
      title: of the figure.

    Returns:
      The figure.
    """
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            1, len(panels), figsize=(3.7 * len(panels), 4.4), layout="constrained", squeeze=False
        )
        for ax, (name, arms) in zip(grid[0], panels.items(), strict=True):
            beside = [arm for arm in arms if arm != "whole"]  # or their bars would hide each other
            for arm, curve in arms.items():
                colour, marker = ARMS[arm]
                shift = (len(beside) - 1) / 2 - beside.index(arm) if arm in beside else 0
                x = [percent * 1.06**shift for percent in curve.x]
                below, above = (
                    [abs(end - mean) for end, mean in zip(ends, curve.mean, strict=True)]
                    for ends in (curve.low, curve.high)
                )
                ax.errorbar(
                    x, curve.mean, (below, above), color=colour, marker=marker, markersize=4, capsize=2,
                    linewidth=1, label=labels[arm],
                )  # fmt: skip
            _remaining(ax, sorted({percent for curve in arms.values() for percent in curve.x}, reverse=True))
            ax.margins(x=0.1)
            if name in logarithmic:
                ax.set_yscale("log", nonpositive="clip")
            ax.set_ylabel(name)
        figure.suptitle(title, fontsize=10.5)
        handles: dict[str, Any] = {}
        for ax in grid[0]:
            handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)
        return figure


def _arm(ax: Axes, arm: str, curve: Curve, label: str, order: float, shade: float) -> None:
    """Draw one arm; those of higher order lie above the others."""
    colour, marker = ARMS[arm]
    ax.plot(curve.x, curve.mean, color=colour, marker=marker, markersize=4.5, label=label, zorder=2 + order)
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=shade, linewidth=0, zorder=2)


def _remaining(ax: Axes, percents: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic from 100 % down to the right, with a tick at each level."""
    ax.set_xscale("log")
    ax.set_xticks(list(percents), [f"{percent:g}" for percent in percents])
    ax.minorticks_off()
    ax.invert_xaxis()
    ax.set_xlabel("weights remaining (%)")
