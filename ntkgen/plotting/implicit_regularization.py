"""Figures of sharpness and generalization. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from ntkgen.plotting._page import page, pt
from ntkgen.plotting._style import COLOURS, Curve, band, bars
from ntkgen.plotting._ticks import log_axis

SHARP = COLOURS["eigenvalue"]
GREY = "#555555"
LINES: Any = ("-", "--", ":", "-.")
UNITS = dict.fromkeys(
    ("top Hessian eigenvalue", "Hessian trace"), "nats / weight²"
)  # of other kinds of sharpness: nats
FORMS = ("#D55E00", "#009E73", "#CC79A7")  # as trained, at matched loss, at matched temperature
SHORT = "training accuracy below 99.9%"


def against_batch(
    sweeps: dict[str, tuple[Curve, Curve]],
    others: dict[str, tuple[Curve, Curve]],
    published: dict[int, float],
    title: str,
    unfinished: Mapping[str, Sequence[float]],
    *,
    width: str | None = None,
) -> Figure:
    """Draw test accuracy (percent) and sharpness against batch size, other configurations by name beside.

    Example:
      >>> from ntkgen.plotting import Curve, implicit_regularization
      >>> sgd, gd = Curve([32, 64], [97.0, 96.0], [96.0, 95.0], [98.0, 97.0]), Curve([128], [95.0], [94.0], [96.0])
      >>> figure = implicit_regularization.against_batch({"SGD": (sgd, sgd)}, {"GD": (gd, gd)}, {32: 97.5}, "Batch", {})
      >>> len(figure.axes)
      4

    Args:
      sweeps: name -> (accuracy, sharpness) against batch size, at most four; sharpness is positive.
      others: name -> (accuracy, sharpness) of one point each.
      published: batch size -> accuracy in percent.
      title: of the figure.
      unfinished: name of a sweep or of another -> batch sizes short of interpolation; their sharpness is hollow.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure: accuracy above, sharpness below; the sweeps on the left, the others on the right.
    """
    with page(width) as sheet:
        columns = 2 if others else 1
        ratios = (1.45, 0.25 + 0.14 * len(others))[:columns]
        figure, grid = sheet.subplots(
            (2, columns, 7.6, 7.2),
            (2, columns, 4.4),
            (2, columns, 4.6),
            sharex="col",
            sharey="row",
            width_ratios=ratios,
        )
        axes = grid[:, 0]
        for (name, pair), line, marker in zip(sweeps.items(), LINES, "os^v", strict=False):
            for ax, one, colour in zip(axes, pair, (COLOURS["test"], SHARP), strict=True):
                band(ax, one, colour, name, marker)
                ax.lines[-1].set_linestyle(line)
            _hollow(axes[1], pair[1], unfinished.get(name, ()), SHARP, marker)
        if published:
            axes[0].plot(
                list(published), list(published.values()), "o", markersize=pt(8), markerfacecolor="none",
                color=COLOURS["published"], label="published", zorder=4,
            )  # fmt: skip
        floor = _accuracy_axis(
            axes[0], [pair[0] for pair in sweeps.values()], [float(pair[0].mean[0]) for pair in others.values()]
        )
        if others:
            _beside(list(grid[:, 1]), others, unfinished, floor)
        axes[0].set_ylabel("test accuracy (%)")
        axes[1].set_ylabel("top Hessian eigenvalue\n(nats / weight²)")
        log_axis(axes[1].yaxis)
        _batch_axis(axes[1], sorted({x for pair in sweeps.values() for x in pair[0].x}), sheet.name == "column")
        sheet.letter(list(grid.ravel()))
        looks: Any = zip(LINES, "os^v", strict=True)
        handles: list[Any] = [
            Line2D([], [], color=GREY, linestyle=line, marker=marker, markersize=pt(4))
            for _, (line, marker) in zip(sweeps, looks, strict=False)
        ]
        labels = [f"SGD, {name}" for name in sweeps]
        if published:
            handles.append(axes[0].get_legend_handles_labels()[0][-1])
            labels.append("published")
        if any(unfinished.values()):
            handles.append(Line2D([], [], color=GREY, linestyle="none", marker="o", markerfacecolor="white"))
            labels.append(SHORT)
        sheet.legend(figure, (handles, labels))
        sheet.title(figure, title)
        return figure


def _beside(
    axes: Sequence[Axes],
    others: Mapping[str, tuple[Curve, Curve]],
    unfinished: Mapping[str, Sequence[float]],
    floor: float,
) -> None:
    """Draw other configurations side by side, each above its name; one below the floor stands on it, with its value."""
    for place, (name, pair) in enumerate(others.items()):
        for ax, one, colour in zip(axes, pair, (COLOURS["test"], SHARP), strict=True):
            mean, low, high = (float(ends[0]) for ends in one[1:])
            below = ax is axes[0] and mean < floor
            if below:
                words = f"{mean:.1f} ↓"
                ax.annotate(
                    words, (place, floor), xytext=(0, pt(7)), textcoords="offset points", ha="center", fontsize=pt(9)
                )
                mean = low = high = floor
            ends = np.array([[mean - low], [high - mean]]) if np.isfinite([low, high]).all() else None
            hollow = ax is axes[1] and bool(unfinished.get(name))
            ax.errorbar(
                [place], [mean], ends, fmt="D", markersize=pt(5.5), capsize=pt(2.5), linewidth=pt(1.2), color=colour,
                markerfacecolor="white" if hollow else colour, zorder=5, clip_on=not below,
            )  # fmt: skip
    axes[1].set_xticks(range(len(others)), list(others), rotation=90)
    for ax in axes:
        ax.set_xlim(-0.7, len(others) - 0.3)


def _accuracy_axis(ax: Axes, sweeps: Sequence[Curve], others: Sequence[float]) -> float:
    """Set limits so that neither very wide intervals nor a failed run flatten the sweep; return the floor."""
    means = np.concatenate([np.asarray(sweep.mean, float) for sweep in sweeps])
    means = means[np.isfinite(means)]
    if not means.size:
        return 0.0
    span = max(float(np.ptp(means)), 1.0)
    near = [value for value in others if np.isfinite(value) and value > means.min() - 3 * span]
    low, high = min([*near, means.min()]), max([*near, means.max()])
    ends = np.concatenate([np.asarray([sweep.low, sweep.high], float).ravel() for sweep in sweeps])
    ends = ends[np.abs(ends - means.mean()) < 2 * span]  # NaN is not
    low, high = min([low, *ends]), max([high, *ends])
    pad = 0.1 * (high - low) + 0.2
    ax.set_ylim(max(0.0, low - pad), min(100.5, high + pad))
    return max(0.0, low - pad)


def _hollow(ax: Axes, one: Curve, where: Sequence[float], colour: str, marker: str, shift: float = 1.0) -> None:
    """Empty the markers at some places."""
    some = [(shift * x, y) for x, y in zip(one.x, one.mean, strict=True) if x in where and np.isfinite(y)]
    if some:
        ax.plot(*zip(*some, strict=True), marker, color=colour, markersize=pt(5), markerfacecolor="white", zorder=5)


def _batch_axis(ax: Axes, sizes: Sequence[float], narrow: bool = False) -> None:
    ax.set_xscale("log")
    chosen: list[float] = []
    for size in sizes:  # close neighbours' labels would collide
        if not chosen or size / chosen[-1] > (3 if narrow else 1.5):
            chosen.append(size)
    ax.set_xticks(chosen, [f"{size:g}" for size in chosen])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("batch size")


def confounds(
    panels: dict[str, dict[str, Curve]], title: str, unfinished: Sequence[float], *, width: str | None = None
) -> Figure:
    """Draw each kind of sharpness against batch size: as trained, at matched loss, at matched temperature.

    Intervals are bars side by side: bands would hide each other.

    Example:
      >>> from ntkgen.plotting import Curve, implicit_regularization
      >>> curve = Curve([32, 64], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> forms = dict.fromkeys(["as trained", "at matched loss", "at matched temperature"], curve)
      >>> figure = implicit_regularization.confounds({"eigenvalue": forms, "trace": forms}, "Sharpness", [64])
      >>> len(figure.axes)
      2

    Args:
      panels: kind -> {form: curve against batch size}; every panel has the same forms, the first as trained.
      title: of the figure.
      unfinished: batch sizes short of interpolation; their sharpness as trained is hollow.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure, a panel for each kind.
    """
    count = len(panels)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, count, 1.2 + 3.4 * count, 4.2), (count, 1, 0.8 + 1.75 * count), (1, count, 2.6),
            sharex=sheet.name == "column",
        )  # fmt: skip
        axes = list(grid.ravel())
        for ax, (kind, forms) in zip(axes, panels.items(), strict=True):
            for index, ((label, one), colour, marker) in enumerate(zip(forms.items(), FORMS, "osD", strict=True)):
                bars(ax, one, colour, label, marker, 1.09 ** (index - 1))
            if unfinished:
                _hollow(ax, next(iter(forms.values())), unfinished, FORMS[0], "o", 1 / 1.09)
                ax.plot([], [], "o", color=FORMS[0], markerfacecolor="white", label=SHORT)
            log_axis(ax.yaxis)
            ax.set_ylabel(f"{kind}\n({UNITS.get(kind, 'nats')})")
            _batch_axis(ax, list(one.x), sheet.name == "double")
            if sheet.name == "screen":
                ax.tick_params(axis="x", labelrotation=45)
            elif sheet.name == "column" and ax is not axes[-1]:
                ax.set_xlabel("")
        sheet.letter(axes)
        handles, labels = axes[0].get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: [*next(iter(panels.values())), SHORT].index(labels[i]))
        sheet.legend(figure, ([handles[i] for i in order], [labels[i] for i in order]), most=4)
        sheet.title(figure, title)
        return figure


def over_losses(panels: dict[str, dict[str, Curve]], margin: float, title: str, *, width: str | None = None) -> Figure:
    """Draw the ratio of two arms' sharpness against the training loss at which it is compared.

    Intervals are bars side by side: bands would hide each other.

    Example:
      >>> from ntkgen.plotting import Curve, implicit_regularization
      >>> ratio = Curve([0.1, 0.01], [1.2, 1.5], [1.1, 1.2], [1.4, 1.9])
      >>> forms = {"along training": ratio, "by temperature": ratio}
      >>> figure = implicit_regularization.over_losses({"eigenvalue": forms}, margin=1.26, title="Ratio")
      >>> len(figure.axes)
      1

    Args:
      panels: kind -> {how the loss is matched: ratio against loss}; every panel has the same forms.
      margin: factor within which ratios are called equal, a grey band.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure, a panel for each kind.
    """
    count = len(panels)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, count, 1.2 + 3.4 * count, 4.0), (count, 1, 0.6 + 1.8 * count), (1, count, 2.5), sharex=True
        )
        axes = list(grid.ravel())
        for ax, forms in zip(axes, panels.values(), strict=True):
            ax.axhspan(1 / margin, margin, color=COLOURS["threshold"], alpha=0.2, linewidth=0, label="equal")
            for index, ((label, one), colour, marker) in enumerate(zip(forms.items(), FORMS[1:], "sD", strict=False)):
                bars(ax, one, colour, label, marker, 1.04 ** (2 * index - 1))
            log_axis(ax.xaxis, plain=True)
            log_axis(ax.yaxis)
            losses = [x for one in forms.values() for x in one.x]
            ax.set_xlim(min(losses) / 1.3, max(losses) * 1.3)  # also where no loss was reached
            if sheet.name != "column" or ax is axes[-1]:
                ax.set_xlabel("training loss (nats)")
            if sheet.name != "screen" or ax is axes[0]:
                ax.set_ylabel("ratio of sharpness")
        sheet.letter(axes, list(panels))
        sheet.legend(figure, axes[0].get_legend_handles_labels())
        sheet.title(figure, title)
        return figure


def along_training(tracks: dict[str, tuple[Curve, Any, Any]], title: str, *, width: str | None = None) -> Figure:
    """Draw the top eigenvalue along training against the stability bounds of the current rate.

    Example:
      >>> from ntkgen.plotting import Curve, implicit_regularization
      >>> eigenvalue = Curve([1, 10], [3.0, 20.0], [2.5, 19.0], [3.5, 21.0])
      >>> tracks = {"GD": (eigenvalue, [20.0, 20.0], [38.0, 38.0])}
      >>> figure = implicit_regularization.along_training(tracks, "Edge of stability")
      >>> len(figure.axes)
      1

    Args:
      tracks: arm -> (eigenvalue against updates, 2 / rate, (2 + 2 momentum) / rate).
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure, a panel for each arm.
    """
    count = len(tracks)
    half = -(-count // 2)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, count, 1.2 + 2.8 * count, 4.0), (half, min(count, 2), 0.8 + 1.6 * half), (1, count, 2.4), count=count,
            sharey=True,
        )  # fmt: skip
        axes = list(grid.ravel())[:count]
        for ax, (one, plain, momentum) in zip(axes, tracks.values(), strict=True):
            band(ax, one, SHARP, "top Hessian eigenvalue")
            ax.plot(one.x, plain, "--", color=COLOURS["threshold"], label="2 / learning rate")
            ax.plot(one.x, momentum, ":", color=COLOURS["published"], label="(2 + 2 momentum) / learning rate")
            log_axis(ax.yaxis)
            first = 10.0 ** np.ceil(np.log10(one.x[1])) if len(one.x) > 1 else 1.0  # no label between it and 0
            ax.set_xscale("symlog", linthresh=first, linscale=0.7)
            ax.set_xlim(left=-0.1 * first)
            decades = np.arange(np.log10(first), np.log10(max(one.x[-1], first)) + 1e-9)
            ax.set_xticks([0.0, *10.0**decades])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xlabel("updates")
        # The bounds of a decaying rate end at infinity; where they begin is what the eigenvalue can meet.
        met = np.array([value for one, *bounds in tracks.values() for value in (*one.high, *(b[0] for b in bounds))])
        if np.isfinite(met).any():
            axes[0].set_ylim(top=10 * float(met[np.isfinite(met)].max()))
        for ax in grid[:, 0]:
            ax.set_ylabel("eigenvalue and bounds\n(nats / weight²)")
        sheet.letter(axes, list(tracks))
        sheet.legend(figure, axes[0].get_legend_handles_labels())
        sheet.title(figure, title)
        return figure
