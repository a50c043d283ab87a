"""The figure of the reproduction: published numbers against ours. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.lines
import numpy as np
from matplotlib.figure import Figure

from ntkgen.plotting._page import known, page, pt
from ntkgen.plotting._ticks import log_axis

# Status -> colour, marker, filled: told apart by shape as well. Okabe and Ito's colours.
STATUSES = {
    "within": ("#0072B2", "o", True),
    "outside": ("#D55E00", "D", True),
    "not comparable": ("#7F7F7F", "s", False),
}


class Against(NamedTuple):
    """One number of ours against the published one.

    Attributes:
      label: what it is.
      value: ours - published, or ours / published.
      low: lower end of its interval; may be NaN.
      high: upper end.
      status: a key of `STATUSES`.
    """

    label: str
    value: float
    low: float
    high: float
    status: str


def against_published(
    differences: Mapping[str, Sequence[Against]],
    ratios: Mapping[str, Sequence[Against]],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw differences on the left and ratios on the right, rows grouped by table.

    Example:
      >>> from ntkgen.plotting import reproduce
      >>> status = next(iter(reproduce.STATUSES))
      >>> difference = reproduce.Against("width 64", 0.1, -0.2, 0.4, status)
      >>> ratio = reproduce.Against("width 64", 1.1, 0.9, 1.3, status)
      >>> figure = reproduce.against_published({"table 1": [difference]}, {"table 2": [ratio]}, "Ours and theirs")
      >>> len(figure.axes)
      2

    Args:
      differences: table -> numbers, ours - published in points.
      ratios: table -> numbers, ours / published, on a logarithmic axis.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Raises:
      ValueError: a status that is not in `STATUSES`.
    """
    every = [row.status for groups in (differences, ratios) for rows in groups.values() for row in rows]
    known(every, STATUSES, "differences, ratios")
    sides = [(differences, 0.0, "ours - published (points)"), (ratios, 1.0, "ours / published")]
    shown = [side for side in sides if any(side[0].values())] or sides[:1]
    longest = max(sum(len(rows) + 1 for rows in groups.values()) for groups, _, _ in shown)
    count, high = len(shown), 1.3 + 0.13 * longest
    with page(width, axes_grid=False) as sheet:
        figure, axes = sheet.subplots(
            (1, count, 5.6 * count, 1.8 + 0.19 * longest), (count, 1, high * count), (1, count, high)
        )
        used: set[str] = set()
        for ax, (groups, none, label) in zip(axes.ravel(), shown, strict=True):
            place, ticks, names = 0, [], []
            for group, rows in groups.items():
                if not rows:
                    continue
                ax.text(
                    0.0, place, group, transform=ax.get_yaxis_transform(), fontsize=pt(8.5), weight="bold", va="center"
                )
                place += 1
                for row in rows:
                    colour, marker, filled = STATUSES[row.status]
                    used.add(row.status)
                    ends = np.array([[row.value - row.low], [row.high - row.value]])
                    error = np.clip(ends, 0, None) if np.isfinite(ends).all() else None
                    ax.errorbar(
                        [row.value], [place], xerr=error, fmt=marker, markersize=pt(5), color=colour, capsize=pt(2),
                        zorder=3, markerfacecolor=colour if filled else "white",
                    )  # fmt: skip
                    ticks.append(place)
                    names.append(row.label)
                    place += 1
            ax.axvline(none, color="black", linewidth=1, zorder=1)
            ax.set_yticks(ticks, names, fontsize=6.5 if sheet.paper else 8)
            ax.set_ylim(max(longest, 1) - 0.4, -0.7)  # rows as high on both sides
            ax.grid(axis="x", alpha=0.3)
            ax.set_xlabel(label)
            if none:
                log_axis(ax.xaxis)
            if not place:
                ax.text(0.5, 0.5, "nothing to compare", transform=ax.transAxes, ha="center", va="center")
        handles = [
            matplotlib.lines.Line2D(
                [], [], linestyle="none", marker=marker, color=colour, markerfacecolor=colour if filled else "white",
                label=status, markersize=pt(6),
            )
            for status, (colour, marker, filled) in STATUSES.items()
            if status in used
        ]  # fmt: skip
        sheet.letter(list(axes.ravel()))
        sheet.legend(figure, (handles, [str(handle.get_label()) for handle in handles]))
        sheet.title(figure, title)
        return figure
