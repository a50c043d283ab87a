"""Figures of the joint study. Nothing is computed here."""

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from ntkgen.plotting._style import OTHERS, STYLE, Curve, band, subplots


def answer(
    measures: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[tuple[float, bool]]],
    bold: int,
    title: str,
) -> Figure:
    """Draw a table of associations, coloured by sign and strength.

    Example:
      >>> from ntkgen.plotting import mechanisms
      >>> cells = [[(0.6, True), (-0.2, False)]]
      >>> figure = mechanisms.answer(["sharpness"], ["all", "width"], cells, bold=1, title="Answer")
      >>> len(figure.axes) > 0
      True

    Args:
      measures: names of the rows.
      columns: names of the columns.
      cells: for each row and column the association, positive where it is as claimed (NaN: none), and whether it is
        significant.
      bold: columns on the left that summarise all hyperparameters; a line separates them from the others.
      title: of the figure.
    """
    values = np.array([[value for value, _ in row] for row in cells], float).reshape(len(measures), len(columns))
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, ax = subplots(1, 1, figsize=(2.9 + 0.78 * len(columns), 1.7 + 0.3 * len(measures)))
        image = ax.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for i, row in enumerate(cells):
            for j, (value, significant) in enumerate(row):
                if np.isfinite(value):
                    dark = abs(value) > 0.65
                    colour = "white" if dark else ("black" if significant else "#777777")
                    weight = "bold" if significant else "normal"
                    ax.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=colour, weight=weight)
        ax.set_yticks(range(len(measures)), measures)
        ax.set_xticks(range(len(columns)), columns, rotation=35, ha="left", rotation_mode="anchor")
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.axvline(bold + 0.5, color="white", linewidth=4)
        for spine in ax.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=ax, shrink=0.5, ticks=[-1, -0.5, 0, 0.5, 1])
        bar.ax.set_yticklabels(["-1, opposite", "-0.5", "0", "0.5", "1, as claimed"])
        figure.suptitle(f"{title}\nbold: significant (5 % false discoveries in a column)", fontsize=10)
        return figure


def calibration(rates: Mapping[str, Curve], level: float, title: str) -> Figure:
    """Draw how often a test rejects (percent) against the strength of a planted association; 0 is none.

    Example:
      >>> from ntkgen.plotting import Curve, mechanisms
      >>> rates = Curve([0.0, 1.0], [4.8, 90.0], [4.0, 88.0], [5.6, 92.0])
      >>> len(mechanisms.calibration({"tau": rates}, level=5.0, title="Calibration").axes)
      1

    Args:
      rates: test -> rates with intervals.
      level: nominal level in percent.
      title: of the figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, ax = subplots(1, 1, figsize=(5.4, 3.8))
        for (name, curve), colour, marker in zip(rates.items(), OTHERS, "osD^v<", strict=False):
            band(ax, curve, colour, name, marker=marker)
        ax.axhline(level, color="#7F7F7F", linestyle="--", label=f"{level:g} %")
        ax.set_ylim(0, 102)
        ax.set_xlabel("planted correlation of normal scores")
        ax.set_ylabel("significant at 5 % (%)")
        ax.set_title(title)
        figure.legend(loc="outside lower center", ncols=2)
        return figure


def over_noise(panels: Mapping[str, Curve], title: str) -> Figure:
    """Draw measures against label noise, a small panel each.

    Example:
      >>> from ntkgen.plotting import Curve, mechanisms
      >>> curve = Curve([0.0, 50.0, 100.0], [1.0, 2.0, 4.0], [0.5, 1.5, 3.0], [1.5, 2.5, 5.0])
      >>> len(mechanisms.over_noise({"gap (points)": curve, "distance": curve}, "Random labels").axes)
      2

    Args:
      panels: measure -> its mean and interval against the random labels in percent.
      title: of the figure.
    """
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(rows, columns, figsize=(2.9 * columns, 2.3 * rows + 0.6), squeeze=False, sharex=True)
        for ax, (name, curve) in zip(axes.flat, panels.items(), strict=False):
            band(ax, curve, OTHERS[0], name)
            ax.set_title(name, fontsize=9)
        for ax in list(axes.flat)[max(0, len(panels) - columns) : len(panels)]:
            ax.tick_params(labelbottom=True)
        for ax in list(axes.flat)[len(panels) :]:
            ax.remove()
        figure.supxlabel("random labels (%)", fontsize=10)
        figure.suptitle(title, fontsize=10.5)
        return figure
