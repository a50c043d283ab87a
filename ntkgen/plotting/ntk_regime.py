"""Figures of the tangent-kernel study. Nothing is computed here; one quantity has one colour in all of them."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ntkgen.plotting._page import known, page, pt
from ntkgen.plotting._style import COLOURS, Curve, band
from ntkgen.plotting._ticks import log_axis

# Okabe and Ito's colours, as in `plotting`.
BLUE, ORANGE, GREEN, PURPLE, SKY, RED = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00"
QUANTITIES = {
    "relative movement": (BLUE, "o"),
    "absolute movement": (RED, "s"),
    "initial norm": (COLOURS["threshold"], "^"),
    "kernel drift": (GREEN, "D"),
    "1 - centred alignment": (PURPLE, "v"),
    "network": (BLUE, "o"),
    "network, these images": (BLUE, "o"),
    "network, given rate": (BLUE, "o"),
    "network, tuned rate": (SKY, "P"),
    "linearised network": (ORANGE, "s"),
    "initial kernel": (GREEN, "D"),
    "final kernel": (RED, "^"),
    "infinite-width kernel": (COLOURS["threshold"], "v"),
}
LOSS_COLOURS = {"cross_entropy": BLUE, "mse": RED}
LOSS_NAMES = {"cross_entropy": "cross-entropy, at matched loss", "mse": "squared loss, after all epochs"}
LINE_STYLES = ("--", ":", "-.")
LAYER_COLOURS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, "#F0E442", COLOURS["threshold"])


class Line(NamedTuple):
    """A straight line in a log-log plot: ends x (k,) and y (k,), and what it is."""

    x: Sequence[float]
    y: Sequence[float]
    label: str


class Dot(NamedTuple):
    """An exponent with its interval (NaN: none), the widths that it was fitted over, and whether it fits poorly."""

    arm: str
    loss: str
    value: float
    low: float
    high: float
    widths: str
    poor: bool = False


def _points(ax: Axes, name: str, curve: Curve, label: str) -> None:
    colour, marker = QUANTITIES[name]
    ax.plot(curve.x, curve.mean, marker=marker, markersize=pt(5), linestyle="none", color=colour, label=label, zorder=3)
    for x, low, high in zip(curve.x, curve.low, curve.high, strict=True):
        ax.plot([x, x], [low, high], color=colour, linewidth=pt(1.5), zorder=3)


def _widths_axis(ax: Axes, widths: Sequence[float]) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(widths), [f"{width:g}" for width in widths], rotation=45 if len(widths) > 5 else 0)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("width")


def _log_panel(ax: Axes, curves: Mapping[str, Curve], fits: Mapping[str, Line], nulls: Sequence[Line]) -> None:
    for name, curve in curves.items():
        fit = fits.get(name)
        _points(ax, name, curve, name if fit is None else f"{name}: {fit.label}")
        if fit is not None:
            ax.plot(fit.x, fit.y, color=QUANTITIES[name][0], linewidth=pt(1), zorder=2)
    for null, style in zip(nulls, LINE_STYLES, strict=False):
        ax.plot(
            null.x, null.y, color=COLOURS["published"], linestyle=style, linewidth=pt(1.2), label=null.label, zorder=1
        )
    log_axis(ax.yaxis)
    _widths_axis(ax, next(iter(curves.values())).x)


def _published(ax: Axes, points: tuple[Sequence[float], Sequence[float]], label: str) -> None:
    """Draw published values as rings that ours show through; nothing where there are none."""
    if len(points[0]):
        look: dict[str, Any] = {"marker": "o", "markersize": pt(10), "markerfacecolor": "none", "linestyle": "none"}
        ax.plot(*points, color=COLOURS["published"], label=label, zorder=4, **look)


def _entries(axes: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Return the legend entries of all panels, each once: a quantity looks the same in all of them."""
    found: dict[str, Any] = {}
    for ax in axes:
        found |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
    return list(found.values()), list(found)


def regime(
    movement: Mapping[str, Curve],
    kernel: Mapping[str, Curve],
    fits: Mapping[str, Line],
    nulls: Sequence[Line],
    published: tuple[Sequence[float], Sequence[float]],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw movement (left) and kernel drift (right) against width, log-log, with their power laws.

    Example:
      >>> from ntkgen.plotting import Curve, ntk_regime
      >>> curve = Curve([64, 256], [0.2, 0.1], [0.18, 0.09], [0.22, 0.11])
      >>> fit = ntk_regime.Line([64, 256], [0.2, 0.1], "exponent -0.5")
      >>> movement, kernel, fits = {"relative movement": curve}, {"kernel drift": curve}, {"relative movement": fit}
      >>> figure = ntk_regime.regime(movement, kernel, fits, [fit], ([], []), "Regime")
      >>> len(figure.axes)
      2

    Args:
      movement: name in `QUANTITIES` -> curve against width.
      kernel: likewise.
      fits: name -> the fitted line; its label gives the exponent with its interval.
      nulls: lines of theory, for relative movement.
      published: (widths, relative movements), may be empty.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: a name that is not in `QUANTITIES`.
    """
    known([*movement, *kernel], QUANTITIES, "movement, kernel")
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 2, 10, 5.6), (2, 1, 5.9), (1, 2, 3.7))
        left, right = grid.ravel()
        _log_panel(left, movement, fits, nulls)
        _log_panel(right, kernel, fits, ())
        _published(left, published, "published relative movement")
        left.set_ylabel("distance from the start,\nand norm there")
        right.set_ylabel("change of the tangent kernel")
        sheet.letter([left, right])
        sheet.legend(figure, _entries([left, right]), most=2)
        sheet.title(figure, title)
        return figure


def layers(
    absolute: Mapping[str, Curve], relative: Mapping[str, Curve], title: str, *, width: str | None = None
) -> Figure:
    """Draw how far each layer moved against width, log-log: absolutely (left) and relative to its start (right).

    Example:
      >>> from ntkgen.plotting import Curve, ntk_regime
      >>> curve = Curve([64, 256], [0.2, 0.1], [0.18, 0.09], [0.22, 0.11])
      >>> len(ntk_regime.layers({"dense0": curve}, {"dense0": curve}, "Layers").axes)
      2

    Args:
      absolute: layer -> curve against width, at most eight.
      relative: likewise.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.
    """
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 2, 9, 4.4), (2, 1, 4.6), (1, 2, 2.9))
        axes = list(grid.ravel())
        for ax, curves in zip(axes, (absolute, relative), strict=True):
            for (name, one), colour, marker in zip(curves.items(), LAYER_COLOURS, "os^Dv<>p", strict=False):
                band(ax, one, colour, name, marker)
            log_axis(ax.yaxis)
            _widths_axis(ax, next(iter(curves.values())).x)
        axes[0].set_ylabel("distance from the start")
        axes[1].set_ylabel("distance / initial norm")
        sheet.letter(axes)
        sheet.legend(figure, axes[0].get_legend_handles_labels(), most=4)
        sheet.title(figure, title)
        return figure


def accuracy(
    panels: Mapping[str, Mapping[str, Curve]],
    published: tuple[Sequence[float], Sequence[float]],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw test accuracy (percent) of network, linearised network and kernel regressions against width.

    Example:
      >>> from ntkgen.plotting import Curve, ntk_regime
      >>> curve = Curve([64, 256], [96.0, 97.0], [95.0, 96.5], [97.0, 97.5])
      >>> len(ntk_regime.accuracy({"MNIST": {"network": curve}}, ([], []), "Accuracy").axes)
      1

    Args:
      panels: title of a panel -> {name in `QUANTITIES`: curve against width, NaN where it was not measured}.
      published: (widths, accuracies) of the first panel's network, may be empty.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: a name that is not in `QUANTITIES`.
    """
    known([name for curves in panels.values() for name in curves], QUANTITIES, "panels")
    count = len(panels)
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, count, 1 + 4.5 * count, 5), (count, 1, 0.5 + 2.3 * count), (1, count, 3.0))
        axes = list(grid.ravel())
        for ax, curves in zip(axes, panels.values(), strict=True):
            for name, curve in curves.items():
                colour, marker = QUANTITIES[name]
                band(ax, curve, colour, name, marker)
            if ax is axes[0]:
                _published(ax, published, "published, network")
            _widths_axis(ax, max((curve.x for curve in curves.values()), key=len))
            ax.set_ylabel("test accuracy (%)")
            ax.set_ylim(top=min(ax.get_ylim()[1], 100.5))  # t-intervals of few seeds know nothing of 100 %
        sheet.letter(axes, list(panels))
        sheet.legend(figure, _entries(axes), most=4)
        sheet.title(figure, title)
        return figure


def exponents(
    panels: Mapping[str, Sequence[Dot]],
    lines: Mapping[str, Mapping[str, float]],
    expected: Mapping[str, Mapping[tuple[str, str], float]],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw fitted exponents of the width with their intervals: a panel for each quantity, a row for each limit.

    Example:
      >>> from ntkgen.plotting import ntk_regime
      >>> dot = ntk_regime.Dot("standard", "mse", -0.5, -0.6, -0.4, "64-256")
      >>> lines, expected = {"movement": {"lazy": -0.5}}, {"movement": {}}
      >>> figure = ntk_regime.exponents({"movement": [dot]}, lines, expected, "Exponents")
      >>> len(figure.axes)
      1

    Args:
      panels: quantity -> dots; all panels name the same arms.
      lines: quantity -> {what it is: exponent}, drawn as vertical lines.
      expected: quantity -> {(arm, loss): exponent of the lazy prediction at these widths and this time}.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: a loss that is not in `LOSS_COLOURS`.
    """
    known([dot.loss for dots in panels.values() for dot in dots], LOSS_COLOURS, "panels")
    count = len(panels)
    half = -(-count // 2)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, count, 3.2 * count, 4.4), (half, min(count, 2), 0.9 + 1.9 * half), (1, count, 2.7), count=count,
            sharey=True,
        )  # fmt: skip
        axes = list(grid.ravel())[:count]
        arms = list(dict.fromkeys(dot.arm for dots in panels.values() for dot in dots))
        height = {arm: len(arms) - i for i, arm in enumerate(arms)}
        losses = list(dict.fromkeys(dot.loss for dots in panels.values() for dot in dots))
        offset = {loss: 0.28 * ((len(losses) - 1) / 2 - i) for i, loss in enumerate(losses)}
        spans = [dot.widths for dots in panels.values() for dot in dots]
        usual = max(spans, key=spans.count)
        handles = {}
        for ax, (name, dots) in zip(axes, panels.items(), strict=True):
            for (what, value), style in zip(lines.get(name, {}).items(), LINE_STYLES, strict=False):
                handles[what] = ax.axvline(
                    value, color=COLOURS["published"], linestyle=style, linewidth=pt(1.2), label=what, zorder=1
                )
            drawn = {(dot.arm, dot.loss) for dot in dots}
            for (arm, loss), value in expected.get(name, {}).items():
                if (arm, loss) not in drawn:
                    continue
                y = height[arm] + offset[loss]
                handles["lazy prediction"] = ax.plot(
                    value, y, marker="|", markersize=pt(16), markeredgewidth=pt(2), linestyle="none",
                    color=ORANGE, label="lazy prediction at these widths, for this time or loss", zorder=2,
                )[0]  # fmt: skip
            for dot in dots:
                y, colour = height[dot.arm] + offset[dot.loss], LOSS_COLOURS[dot.loss]
                ax.plot([dot.low, dot.high], [y, y], color=colour, linewidth=pt(2), zorder=3)
                marker = "os"[losses.index(dot.loss) % 2]
                look: dict[str, Any] = {"marker": marker, "markersize": pt(6), "linestyle": "none", "color": colour}
                ax.plot(dot.value, y, markerfacecolor="white" if dot.poor else colour, zorder=4, **look)
                handles[dot.loss] = Line2D([], [], label=LOSS_NAMES[dot.loss], **look)
                if dot.poor:
                    handles["poor"] = Line2D(
                        [], [], **(look | {"color": COLOURS["threshold"]}), markerfacecolor="white",
                        label="hollow: no power law (r² below 0.5)",
                    )  # fmt: skip
                if dot.widths != usual:
                    ax.annotate(f"widths {dot.widths}", (dot.value, y), xytext=(0, 5), textcoords="offset points",
                                ha="center", fontsize=pt(8))  # fmt: skip
            ax.set_xlabel(f"exponent\n(widths {usual})" if sheet.paper else f"exponent of the width ({usual})")
            ax.set_ylim(0.5, len(arms) + 0.5)
            ax.grid(visible=False, axis="y")
        axes[0].set_yticks(list(height.values()), list(height))
        sheet.letter(axes, list(panels))
        sheet.legend(figure, (list(handles.values()), [str(handle.get_label()) for handle in handles.values()]))
        sheet.title(figure, title)
        return figure
