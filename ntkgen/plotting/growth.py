"""Figures of how cost grows: seconds and peak memory of a computation against its size. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ntkgen.plotting._page import page, pt
from ntkgen.plotting._style import COLOURS, OTHERS, Curve, band
from ntkgen.plotting._ticks import log_axis

LOOKS = ((COLOURS["test"], "o"), (OTHERS[1], "s"), (OTHERS[0], "D"), (OTHERS[2], "^"))


class Cost(NamedTuple):
    """The cost of one computation at k sizes.

    Attributes:
      seconds: sizes, medians and ranges of the seconds.
      first: seconds of the first call (k,), compilation included.
      arithmetic: seconds (k,) that the counted operations would take at the speed of a large matrix product.
      memory: peak memory in GiB (k,).
      slopes: slope between neighbouring sizes, log-log (k - 1,).
      before: GiB that the process holds before it begins.
    """

    seconds: Curve
    first: Sequence[float]
    arithmetic: Sequence[float]
    memory: Sequence[float]
    slopes: Sequence[float]
    before: float


def cost(costs: Mapping[str, Cost], x_label: str, title: str, *, width: str | None = None) -> Figure:
    """Draw seconds (left) and peak memory (right) against size, log-log, with the slopes between neighbours.

    Example:
      >>> from ntkgen.plotting import Curve, growth
      >>> curve = Curve([1, 2], [0.1, 0.2], [0.09, 0.19], [0.12, 0.21])
      >>> one = growth.Cost(curve, [1.1, 1.2], [0.05, 0.1], [0.4, 0.5], [1.0], 0.3)
      >>> [text.get_text() for text in growth.cost({"MLP": one}, "seeds", "Growth").axes[0].texts]
      ['1.0']

    Args:
      costs: legend text -> its cost, at most four.
      x_label: of the horizontal axes.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.
    """
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 2, 11, 5), (2, 1, 5.4), (1, 2, 3.3))
        left, right = grid.ravel()
        handles = []
        for index, ((name, own), (colour, marker)) in enumerate(zip(costs.items(), LOOKS, strict=False)):
            x = own.seconds.x
            band(left, own.seconds, colour, name, marker)
            left.plot(
                x, own.first, color=colour, linestyle="none", marker=marker, markersize=pt(4), markerfacecolor="white"
            )
            left.plot(x, own.arithmetic, color=colour, linestyle=":", linewidth=pt(1.2), zorder=1)
            right.plot(x, own.memory, color=colour, marker=marker, markersize=pt(4), zorder=3)
            _slopes(left, own, colour, above=index % 2 == 1)
            handles.append(Line2D([], [], color=colour, marker=marker, markersize=pt(4), label=name))
        before = max(own.before for own in costs.values())
        right.axhline(before, color=COLOURS["threshold"], linestyle="--", linewidth=pt(1.2), zorder=1)
        gray: Any = {"color": COLOURS["threshold"]}
        handles += [
            Line2D([], [], **gray, linestyle="none", marker="o", markersize=pt(4), markerfacecolor="white",
                   label="hollow: first call, with compilation"),
            Line2D([], [], **gray, linestyle=":", label="counted operations at the speed of a large matrix product"),
            Line2D([], [], **gray, linestyle="--", label="memory before the computation"),
        ]  # fmt: skip
        sizes = sorted({value for own in costs.values() for value in own.seconds.x})
        for ax, label in ((left, "seconds (numbers: local slopes)"), (right, "peak memory (GiB)")):
            log_axis(ax.yaxis)
            _sizes_axis(ax, sizes, x_label)
            ax.set_ylabel(label)
        sheet.letter([left, right])
        sheet.legend(figure, (handles, [str(handle.get_label()) for handle in handles]), most=3)
        sheet.title(figure, title)
        return figure


def _slopes(ax: Axes, own: Cost, colour: Any, above: bool) -> None:
    """Write the slope of each piece of a curve at its middle."""
    x, y = np.asarray(own.seconds.x, float), np.asarray(own.seconds.mean, float)
    for index, slope in enumerate(own.slopes):
        middle = (x[index] * x[index + 1]) ** 0.5, (y[index] * y[index + 1]) ** 0.5
        ax.annotate(
            f"{slope:.1f}", middle, xytext=(-pt(5), pt(5)) if above else (pt(6), -pt(6)), textcoords="offset points",
            ha="right" if above else "left", va="bottom" if above else "top", fontsize=pt(9), color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}, zorder=2,
        )  # fmt: skip


def _sizes_axis(ax: Axes, sizes: Sequence[float], label: str) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(sizes), [f"{size:g}" for size in sizes])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)
