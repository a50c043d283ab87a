"""What all figures share: colours, curves with their bands, and panels of anything. Nothing is computed here."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ntkgen.plotting._page import page, pt
from ntkgen.plotting._ticks import log_axis, logarithmic

# One quantity has one colour in all figures. Okabe and Ito's colours, distinguishable with any colour vision.
COLOURS = {
    "test": "#0072B2",
    "train": "#E69F00",
    "eigenvalue": "#D55E00",
    "published": "#000000",
    "threshold": "#7F7F7F",
}
OTHERS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")  # of the same palette
NAMED = {
    "test": COLOURS["test"],
    "training": COLOURS["train"],
    "top Hessian eigenvalue": COLOURS["eigenvalue"],
    "2 / learning rate": COLOURS["threshold"],
    "bound": COLOURS["threshold"],
}


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
    ax.plot(curve.x, curve.mean, marker=marker, markersize=pt(4), color=colour, label=label, zorder=3)
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.25, linewidth=0, zorder=2)


def bars(
    ax: Axes, curve: Curve, colour: Any, label: str, marker: str = "o", shift: float = 1.0, line: str = "-"
) -> None:
    """Draw a mean as markers, its interval as bars, x multiplied by `shift`: so intervals do not hide each other."""
    x = [shift * value for value in curve.x]
    ends = [[abs(end - mean) for end, mean in zip(side, curve.mean, strict=True)] for side in (curve.low, curve.high)]
    ax.errorbar(
        x, curve.mean, ends, color=colour, marker=marker, linestyle=line, markersize=pt(4.5), capsize=pt(2.5),
        linewidth=pt(1.2), elinewidth=pt(1.2), label=label, zorder=3,
    )  # fmt: skip


def panels(
    curves: dict[str, dict[str, Curve]],
    x_label: str,
    title: str,
    log: Sequence[str] = (),
    linear: bool = False,
    *,
    width: str | None = None,
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
      width: "screen", "column" or "double". Default: that of `at_width`.
    """
    names = list(dict.fromkeys(name for panel in curves.values() for name in panel))
    free = [colour for colour in OTHERS if colour not in NAMED.values()]
    colours = NAMED | dict(zip([name for name in names if name not in NAMED], free, strict=False))
    count = len(curves)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, count, 4.5 * count, 4.2), (count, 1, 0.5 + 1.9 * count), (1, count, 2.6 if count < 3 else 2.2)
        )
        axes = list(grid.ravel())
        handles: dict[str, Any] = {}
        for ax, (label, panel) in zip(axes, curves.items(), strict=True):
            for name, curve in panel.items():
                band(ax, curve, colours[name], name)
                if not linear:
                    logarithmic(ax, curve.x)
            ax.set_xlabel(x_label)
            ax.set_ylabel(label)
            if label in log:
                log_axis(ax.yaxis)
            handles |= dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True))
        sheet.letter(axes)
        if len(handles) > 1:
            sheet.legend(figure, (list(handles.values()), list(handles)), most=4)
        sheet.title(figure, title)
        return figure
