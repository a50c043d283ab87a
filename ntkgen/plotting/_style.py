"""Tables to figures. Nothing is computed here; one quantity has one colour in all figures."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = {"test": "#0072B2", "train": "#E69F00", "published": "#000000", "threshold": "#7F7F7F"}
OTHERS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")  # of the same palette
STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "figure.dpi": 150,
    "savefig.dpi": 150,
}


def subplots(rows: int, columns: int, *, figsize: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Return a new figure and its axes, like `pyplot.subplots`; neither pyplot nor its backend know of it.

    So figures can be drawn where there is no display, and a notebook keeps the backend that its user has chosen.

    Example:
      >>> from ntkgen import plotting
      >>> figure, axes = plotting.subplots(1, 2, figsize=(6, 3))
      >>> axes.shape
      (2,)

    Args:
      rows: number of rows.
      columns: number of columns.
      figsize: width and height in inches.
      **options: those of `Figure.subplots`.
    """
    figure = Figure(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


class Curve(NamedTuple):
    """A mean with its interval: x, mean, low and high, each (k,); low and high may be NaN.

    Example:
      >>> from ntkgen import plotting
      >>> plotting.Curve([8, 16], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5]).mean
      [3.0, 2.0]
    """

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def band(ax: Axes, curve: Curve, colour: Any, label: str, marker: str = "o") -> None:
    """Draw a mean as a line with markers, its interval as a band.

    Example:
      >>> from ntkgen import plotting
      >>> figure, ax = plotting.subplots(1, 1, figsize=(3, 3))
      >>> plotting.band(ax, plotting.Curve([8, 16], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5]), "black", "test")
      >>> len(ax.lines), len(ax.collections)
      (1, 1)
    """
    ax.plot(curve.x, curve.mean, marker=marker, markersize=4, color=colour, label=label, zorder=3)
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.25, linewidth=0, zorder=2)


def logarithmic(ax: Axes, x: Sequence[float]) -> None:
    """Make the horizontal axis logarithmic; it covers all of x, also where every mean is NaN."""
    ax.update_datalim([(value, 0.0) for value in x], updatey=False)
    ax.set_xscale("log")


def _sizes_axis(ax: Axes, params: Sequence[float], names: Sequence[int], size_name: str) -> None:
    """Label a logarithmic parameter axis, with the sizes themselves along the top where they do not collide."""
    logarithmic(ax, params)
    ax.set_xlabel("parameters")
    top = ax.secondary_xaxis("top")
    chosen: list[int] = []
    span = np.log(params[-1] / params[0]) if len(params) > 1 else 1.0
    for i in range(len(params)):
        if not chosen or np.log(params[i] / params[chosen[-1]]) > 0.05 * span:
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

    Returns:
      The figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, ax = subplots(1, 1, figsize=(6.4, 4.6))
        band(ax, test, COLOURS["test"], "test error")
        band(ax, train, COLOURS["train"], "training error", marker="s")
        for name, marker in (("test", "o"), ("train", "s")):
            if published and published.get(name, ([], []))[0]:
                kind = "training" if name == "train" else name
                ax.plot(
                    *published[name],
                    linestyle="none",
                    marker=marker,
                    markersize=8,
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
        _sizes_axis(ax, test.x, sizes, size_name)
        ax.set_ylabel("error (%)")
        ax.set_ylim(bottom=0)
        ax.set_title(title, pad=8)
        figure.legend(loc="outside lower center", ncols=3)  # no corner of the axes is sure to be free
        return figure


def epoch_wise(curves: dict[str, tuple[Curve, Curve]], title: str, legend_title: str) -> Figure:
    """Draw test error (left) and training error (right), in percent, against epochs, a line for each size.

    The axis ends a third above the highest mean of the last nine tenths of training: the first epochs' errors would
    flatten everything else.

    Example:
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([1, 2], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> figure = plotting.epoch_wise({"8": (curve, curve)}, "Along training", "width")
      >>> len(figure.axes)
      2

    Args:
      curves: {label: (test, train)} against epochs, in order of size; more than six are hard to tell apart.
      title: of the figure.
      legend_title: what the labels are.

    Returns:
      The figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, 2, figsize=(9, 3.8), sharex=True)
        for side, (ax, name) in enumerate(zip(axes, ("test error (%)", "training error (%)"), strict=True)):
            top = 0.0
            for (label, pair), colour in zip(curves.items(), _shades(len(curves)), strict=True):
                curve = pair[side]
                ax.plot(curve.x, curve.mean, color=colour, label=label, linewidth=1.5)
                ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
                top = max(top, np.nanmax(np.asarray(curve.mean)[len(curve.mean) // 10 :], initial=0.0))
                logarithmic(ax, curve.x)
            ax.set_ylim(0, min(100, 1.33 * top) or 1)
            ax.xaxis.set_major_formatter("{x:g}")
            ax.set_xlabel("epochs")
            ax.set_ylabel(name)
        figure.suptitle(title, fontsize=10.5)
        figure.legend(*axes[0].get_legend_handles_labels(), title=legend_title, loc="outside right center")
        return figure


def _shades(count: int) -> Any:
    """Colours of ordered things, dark to light, readable in greyscale too."""
    return matplotlib.colormaps["viridis"](np.linspace(0, 0.88, count))


def sample_wise(curves: dict[str, Curve], title: str, legend_title: str) -> Figure:
    """Draw test error (percent) against the number of training examples, a line for each size.

    Example:
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([100, 200], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> len(plotting.sample_wise({"8": curve}, "More examples", "width").axes)
      1
    """
    with matplotlib.rc_context(STYLE):
        figure, ax = subplots(1, 1, figsize=(6.4, 4.6))
        for (label, curve), colour in zip(curves.items(), _shades(len(curves)), strict=True):
            band(ax, curve, colour, label)
            logarithmic(ax, curve.x)
        ax.set_xlabel("training examples")
        ax.set_ylabel("test error (%)")
        figure.suptitle(title, fontsize=10.5)
        figure.legend(*ax.get_legend_handles_labels(), title=legend_title, loc="outside right upper")
        return figure


def panels(
    curves: dict[str, dict[str, Curve]], x_label: str, title: str, log: Sequence[str] = (), linear: bool = False
) -> Figure:
    """Draw panels side by side over one horizontal axis, logarithmic unless `linear`.

    Example:
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([0.1, 1.0], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> parts = {"accuracy (%)": {"test": curve}, "loss": {"test": curve}}
      >>> figure = plotting.panels(parts, "rate", "Rates", log=["loss"])
      >>> [ax.get_ylabel() for ax in figure.axes]
      ['accuracy (%)', 'loss']

    Args:
      curves: label of the vertical axis -> name -> curve; the same name has the same colour in every panel.
      x_label: of the horizontal axis.
      title: of the figure.
      log: labels of the vertical axes that are logarithmic.
      linear: a horizontal axis that is not logarithmic.
    """
    names = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    own = {"test": COLOURS["test"], "training": COLOURS["train"]}
    colours = own | dict(zip([name for name in names if name not in own], OTHERS, strict=False))
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, len(curves), figsize=(4.5 * len(curves), 3.8), squeeze=False)
        for ax, (label, panel) in zip(axes[0], curves.items(), strict=True):
            for name, curve in panel.items():
                band(ax, curve, colours[name], name)
                if not linear:
                    logarithmic(ax, curve.x)
            ax.set_xlabel(x_label)
            ax.set_ylabel(label)
            if label in log:
                ax.set_yscale("log")
            if len(panel) > 1:
                ax.legend()
        figure.suptitle(title, fontsize=10.5)
        return figure
