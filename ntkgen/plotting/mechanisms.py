"""Figures of the joint study. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ntkgen.plotting._page import page, pt
from ntkgen.plotting._style import COLOURS, OTHERS, Curve, band


def answer(
    measures: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[tuple[float, bool]]],
    bold: int,
    title: str,
    *,
    width: str | None = None,
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
      width: "screen", "column" or "double". Default: that of `at_width`.
    """
    values = np.array([[value for value, _ in row] for row in cells], float).reshape(len(measures), len(columns))
    rows, count = len(measures), len(columns)
    with page(width, axes_grid=False) as sheet:
        size = (2.9 + 0.78 * count, 1.7 + 0.3 * rows)
        figure, grid = sheet.subplots((1, 1, *size), (1, 1, 1.2 + 0.15 * rows), (1, 1, 1.1 + 0.17 * rows))
        ax = grid[0, 0]
        narrow = sheet.name == "column"  # too narrow for numbers
        image = ax.imshow(values, cmap="PuOr", vmin=-1, vmax=1, aspect="auto")
        for i, row in enumerate(cells):
            for j, (value, significant) in enumerate(row):
                if np.isfinite(value):
                    dark = abs(value) > 0.65
                    colour = "white" if dark else ("black" if significant else "#777777")
                    weight = "bold" if significant else "normal"
                    words = ("•" if significant else "") if narrow else f"{value:+.2f}"
                    points = 6.5 if sheet.paper else 8
                    ax.text(j, i, words, ha="center", va="center", fontsize=points, color=colour, weight=weight)
        ax.set_yticks(range(len(measures)), measures)
        slope: Any = {"rotation": 60 if sheet.paper else 35, "ha": "left", "rotation_mode": "anchor"}
        ax.set_xticks(range(count), [" ".join(name.split()) if sheet.paper else name for name in columns], **slope)
        ax.xaxis.tick_top()
        ax.tick_params(length=0)
        ax.axvline(bold + 0.5, color="white", linewidth=pt(4))
        for spine in ax.spines.values():
            spine.set_visible(False)
        place: Any = {"location": "bottom", "aspect": 40} if sheet.paper else {"shrink": 0.5}
        ticks = {-1: "−1, opposite", -0.5: "−0.5", 0: "0", 0.5: "0.5", 1: "1, as claimed"}
        shown = {at: words for at, words in ticks.items() if abs(at) != 0.5 or not sheet.paper}
        bar = figure.colorbar(image, ax=ax, ticks=list(shown), **place)
        bar.set_ticklabels(list(shown.values()))
        mark = "dot" if narrow else "bold"
        sheet.title(figure, f"{title}\n{mark}: significant (5 % false discoveries in a column)")
        return figure


def calibration(rates: Mapping[str, Curve], level: float, title: str, *, width: str | None = None) -> Figure:
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
      width: "screen", "column" or "double". Default: that of `at_width`.
    """
    with page(width) as sheet:
        figure, grid = sheet.subplots((1, 1, 5.4, 3.8), (1, 1, 2.7), (1, 1, 3.0))
        ax = grid[0, 0]
        for (name, curve), colour, marker in zip(rates.items(), OTHERS, "osD^v<", strict=False):
            band(ax, curve, colour, name, marker=marker)
        ax.axhline(level, color=COLOURS["threshold"], linestyle="--", label=f"{level:g} %")
        ax.set_ylim(0, 102)
        ax.set_xlabel("planted correlation of normal scores")
        ax.set_ylabel("significant at 5 % (%)")
        sheet.legend(figure, ax.get_legend_handles_labels(), most=2)
        sheet.title(figure, title, ax)
        return figure


def over_noise(panels: Mapping[str, Curve], title: str, *, width: str | None = None) -> Figure:
    """Draw measures against label noise, a small panel each.

    Example:
      >>> from ntkgen.plotting import Curve, mechanisms
      >>> curve = Curve([0.0, 50.0, 100.0], [1.0, 2.0, 4.0], [0.5, 1.5, 3.0], [1.5, 2.5, 5.0])
      >>> len(mechanisms.over_noise({"gap (points)": curve, "distance": curve}, "Random labels").axes)
      2

    Args:
      panels: measure -> its mean and interval against the wrong training labels in percent.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.
    """
    count = len(panels)
    columns, half = min(4, count), min(2, count)
    rows, narrow = -(-count // columns), -(-count // half)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (rows, columns, 2.9 * columns, 2.3 * rows + 0.6), (narrow, half, 1.3 * narrow + 0.3),
            (rows, columns, 1.45 * rows + 0.3), count=count, sharex=True,
        )  # fmt: skip
        axes = list(grid.ravel())[:count]
        for ax, (name, curve) in zip(axes, panels.items(), strict=True):
            band(ax, curve, OTHERS[0], name)
        for ax in axes[-grid.shape[1] :]:
            ax.tick_params(labelbottom=True)
        sheet.letter(axes, list(panels))
        figure.supxlabel("wrong training labels (%)", fontsize=8 if sheet.paper else 10)
        sheet.title(figure, title)
        return figure
