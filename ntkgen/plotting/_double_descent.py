"""Figures of double descent: errors against size, epochs and examples. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkgen.plotting._page import Page, page, pt
from ntkgen.plotting._style import COLOURS, Curve, band
from ntkgen.plotting._ticks import logarithmic

TRAINING = "training error"
ON_NOISY_LABELS = "training error on noisy labels"  # which a network that fits the clean ones does not bring to zero
SEEDS_AS_LINES = 5  # up to so many seeds have a line each


def _sizes_axis(sheet: Page, ax: Axes, params: Sequence[float], names: Sequence[int], size_name: str) -> None:
    """Label a logarithmic parameter axis, with the sizes themselves along the top where they do not collide."""
    logarithmic(ax, params)
    ax.set_xlabel("parameters")
    top = ax.secondary_xaxis("top")
    chosen: list[int] = []
    span = np.log(params[-1] / params[0]) if len(params) > 1 else 1.0
    room = 0.1 if sheet.name == "column" else 0.05  # as a share of the axis
    for i in range(len(params)):
        if not chosen or np.log(params[i] / params[chosen[-1]]) > room * span:
            chosen.append(i)
    top.set_xticks([params[i] for i in chosen], [str(names[i]) for i in chosen])
    top.minorticks_off()
    top.set_xlabel(size_name)


def model_wise(
    test: Curve,
    train: Curve,
    sizes: Sequence[int],
    size_name: str,
    title: str,
    threshold: tuple[float, float, float] | None = None,
    published: dict[str, tuple[list[float], list[float]]] | None = None,
    *,
    noisy_labels: bool = False,
    width: str | None = None,
) -> Figure:
    """Draw test and training error (percent) against parameters, the threshold with its interval, published points.

    Example:
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([100, 200], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> figure = plotting.model_wise(curve, curve, [8, 16], "width", "Double descent", threshold=(150, 120, 180))
      >>> figure.axes[0].get_title()
      'Double descent'

    Args:
      test: test error against parameters.
      train: training error against parameters.
      sizes: width or channels of each point.
      size_name: what `sizes` are.
      title: of the figure.
      threshold: (value, low, high) in parameters; the ends may be NaN.
      published: {"test" or "train": (parameters, errors)}.
      noisy_labels: whether the training error is that of labels with noise, which the legend then says.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.
    """
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 1, 6.4, 4.6), (1, 1, 2.7), (1, 1, 3.4))
        ax = grid[0, 0]
        band(ax, test, COLOURS["test"], "test error")
        band(ax, train, COLOURS["train"], ON_NOISY_LABELS if noisy_labels else TRAINING, marker="s")
        for name, marker in (("test", "o"), ("train", "s")):
            if published and published.get(name, ([], []))[0]:
                kind = "training" if name == "train" else name
                ax.plot(
                    *published[name],
                    linestyle="none",
                    marker=marker,
                    markersize=pt(8),
                    markerfacecolor="none",
                    color=COLOURS["published"],
                    clip_on=False,
                    label=f"published {kind} error",
                    zorder=4,
                )
        if threshold is not None:
            value, low, high = threshold
            ax.axvline(value, color=COLOURS["threshold"], linestyle="--", label="interpolation threshold", zorder=1)
            if np.isfinite(low):
                ax.axvspan(low, high, color=COLOURS["threshold"], alpha=0.15, linewidth=0, zorder=0)
        _sizes_axis(sheet, ax, test.x, sizes, size_name)
        ax.set_ylabel("error (%)")
        ax.set_ylim(bottom=0)
        sheet.title(figure, title, ax)
        sheet.legend(figure, ax.get_legend_handles_labels())  # no corner of the axes is sure to be free
        return figure


def epoch_wise(
    curves: dict[str, tuple[Curve, Curve]],
    title: str,
    legend_title: str,
    *,
    seeds: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    noisy_labels: bool = False,
    width: str | None = None,
) -> Figure:
    """Draw test error (left) and training error (right), in percent, against epochs, a line for each size.

    The axis ends a third above the highest mean of the last nine tenths of training: the first epochs' errors would
    flatten everything else. Intervals of three seeds would hide each other; then give the seeds instead.

    Example:
      >>> import numpy as np
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([1, 2], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> figure = plotting.epoch_wise({"8": (curve, curve)}, "Along training", "width")
      >>> len(figure.axes)
      2
      >>> seeds = {"8": (np.array([[2.0, 1.0], [4.0, 3.0]]), np.array([[2.0, 1.0], [4.0, 3.0]]))}
      >>> figure = plotting.epoch_wise({"8": (curve, curve)}, "Along training", "width", seeds=seeds)
      >>> len(figure.axes[0].lines), len(figure.axes[0].collections)
      (3, 0)

    Args:
      curves: {label: (test, train)} against epochs, in order of size; more than six are hard to tell apart.
      title: of the figure.
      legend_title: what the labels are.
      seeds: {label: (test, train)}, each (seeds, epochs): thin lines in place of the band.
      noisy_labels: whether the training error is that of labels with noise, which the axis then says.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.
    """
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 2, 9, 3.8), (2, 1, 4.3), (1, 2, 2.7), sharex=True)
        axes = list(grid.ravel())
        names = ("test error (%)", f"{ON_NOISY_LABELS if noisy_labels else TRAINING} (%)")
        for side, (ax, name) in enumerate(zip(axes, names, strict=True)):
            top = 0.0
            for (label, pair), colour in zip(curves.items(), _shades(len(curves)), strict=True):
                curve = pair[side]
                ax.plot(curve.x, curve.mean, color=colour, label=label, linewidth=pt(1.5), zorder=3)
                if seeds is None:
                    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0, zorder=1)
                else:
                    for errors in seeds[label][side]:
                        ax.plot(curve.x, errors, color=colour, linewidth=pt(0.5), alpha=0.45, zorder=2)
                top = max(top, np.nanmax(np.asarray(curve.mean)[len(curve.mean) // 10 :], initial=0.0))
                logarithmic(ax, curve.x, plain=True)
            ax.set_ylim(0, min(100, 1.33 * top) or 1)
            if ax is axes[-1] or grid.shape[1] > 1:
                ax.set_xlabel("epochs")
            ax.set_ylabel(name)
        sheet.letter(axes)
        sheet.title(figure, title)
        handles, labels = axes[0].get_legend_handles_labels()
        if sheet.paper:
            sheet.legend(figure, (handles, labels), most=6, title=legend_title)
        else:
            figure.legend(handles, labels, title=legend_title, loc="outside right center")
        return figure


def _shades(count: int) -> Any:
    """Colours of ordered things, dark to light, readable in greyscale too."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))


def sample_wise(curves: dict[str, Curve], title: str, legend_title: str, *, width: str | None = None) -> Figure:
    """Draw test error (percent) against the number of training examples, a line for each size.

    Example:
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([100, 200], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> len(plotting.sample_wise({"8": curve}, "More examples", "width").axes)
      1

    Args:
      curves: {label: test error against the number of examples}, in order of size.
      title: of the figure.
      legend_title: what the labels are.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.
    """
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 1, 6.4, 4.6), (1, 1, 2.7), (1, 1, 3.4))
        ax = grid[0, 0]
        for (label, curve), colour in zip(curves.items(), _shades(len(curves)), strict=True):
            band(ax, curve, colour, label)
            logarithmic(ax, curve.x)
        ax.set_xlabel("training examples")
        ax.set_ylabel("test error (%)")
        ax.set_ylim(bottom=0)
        sheet.title(figure, title, ax)
        sheet.legend(figure, ax.get_legend_handles_labels(), most=6, title=legend_title)
        return figure
