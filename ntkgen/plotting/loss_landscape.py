"""Figures of the loss landscape: eigenvalues and density, perturbation, lines, surfaces. Nothing is computed here.

The arms are those of the study, keys of `ARMS`: "small_batch" and "large_batch". Other names are refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ntkgen.plotting._page import known, page, pt
from ntkgen.plotting._style import COLOURS, Curve
from ntkgen.plotting._ticks import log_axis, number

# Okabe and Ito's, beside those of training and test.
ARMS = {"small_batch": "#009E73", "large_batch": "#D55E00"}
SPLITS: dict[str, Any] = {"train": "-", "test": "--"}
OPEN: Any = {"markerfacecolor": "none", "color": "black"}  # published values
SPLIT_NAMES = {"train": "training", "test": "test"}


def eigenvalues(
    points: Mapping[str, Mapping[str, tuple[np.ndarray, Curve]]],
    densities: Mapping[str, Curve],
    labels: Mapping[str, str],
    title: str,
    published: Mapping[str, float] | None = None,
    *,
    width: str | None = None,
) -> Figure:
    """Draw top eigenvalues of every seed (left) and the spectral density (right).

    Example:
      >>> import numpy as np
      >>> from ntkgen.plotting import Curve, loss_landscape
      >>> point = (np.array([9.0, 11.0]), Curve([0], [10.0], [8.0], [12.0]))
      >>> points = {"small_batch": point, "large_batch": point}
      >>> density = Curve([0.1, 1.0], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> labels = {"small_batch": "small batches", "large_batch": "large batches"}
      >>> figure = loss_landscape.eigenvalues({"Hessian": points}, {"small_batch": density}, labels, "Spectrum")
      >>> len(figure.axes)
      2

    Args:
      points: {what: {arm: (values (seeds,), one point with its interval)}}.
      densities: {arm: density against eigenvalue}.
      labels: {arm of `ARMS`: its name}.
      title: of the figure.
      published: {arm: eigenvalue}, drawn beside the first of `points`.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: an arm that is not in `ARMS`.
    """
    known([*labels, *densities, *(arm for by_arm in points.values() for arm in by_arm)], ARMS, "points")
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, 2, 10.4, 4.3), (2, 1, 4.6), (1, 2, 2.8),
            width_ratios=(1,) if sheet.name == "column" else (1.15, 1),
        )  # fmt: skip
        left, right = grid.ravel()
        for place, by_arm in enumerate(points.values()):
            for side, (arm, (values, mean)) in zip((-0.15, 0.15), by_arm.items(), strict=True):
                colour = ARMS[arm]
                spread = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else np.zeros(1)
                left.plot(place + side + spread, values, "o", markersize=pt(4), color=colour, alpha=0.55, zorder=3)
                ends = np.array([np.asarray(mean.mean) - mean.low, np.asarray(mean.high) - mean.mean])
                x = [place + side]
                left.errorbar(x, mean.mean, ends, fmt="_", markersize=pt(16), capsize=pt(3), color=colour, zorder=4)
                if published and place == 0:
                    left.plot(x, [published[arm]], "D", markersize=pt(7), **OPEN, zorder=5)
        log_axis(left.yaxis)
        slope: Any = {"fontsize": 6.5, "rotation": 45, "ha": "right", "rotation_mode": "anchor"}
        left.set_xticks(range(len(points)), list(points), **(slope if sheet.paper else {"fontsize": 8.5}))
        left.set_xlim(-0.5, len(points) - 0.5)
        left.grid(axis="x", visible=False)
        left.set_ylabel("top Hessian eigenvalue\n(nats / weight²)")
        for arm, curve in densities.items():
            _band(right, curve, ARMS[arm], "-")
        log_axis(right.yaxis)
        heights = np.concatenate([np.asarray(curve.mean, float) for curve in densities.values()])
        if heights[np.isfinite(heights)].any():
            top = float(heights[np.isfinite(heights)].max())
            right.set_ylim(1e-6 * top, 3 * top)
        right.set_xlabel("Hessian eigenvalue (nats / weight²)")
        right.set_ylabel("spectral density")
        handles = [Line2D([], [], color=ARMS[arm], marker="o", markersize=pt(5)) for arm in labels]
        names = list(labels.values())
        if published:
            handles.append(Line2D([], [], linestyle="none", marker="D", markersize=pt(7), **OPEN))
            names.append("published")
        sheet.letter([left, right])
        sheet.legend(figure, (handles, names))
        sheet.title(figure, title)
        return figure


def perturbation(
    panels: Mapping[str, Mapping[str, tuple[Curve, Curve]]],
    labels: Mapping[str, str],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw the training loss under random perturbation, a panel for each kind of noise.

    Example:
      >>> from ntkgen.plotting import Curve, loss_landscape
      >>> loss = Curve([0.01, 0.1], [0.2, 0.5], [0.1, 0.4], [0.3, 0.6])
      >>> labels = {"small_batch": "small batches", "large_batch": "large batches"}
      >>> figure = loss_landscape.perturbation({"sigma": {"small_batch": (loss, loss)}}, labels, "Perturbation")
      >>> len(figure.axes)
      1

    Args:
      panels: {label of the strength: {arm: (loss against strength, loss without perturbation at the same points)}}.
      labels: {arm of `ARMS`: its name}.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: an arm that is not in `ARMS`.
    """
    known([*labels, *(arm for by_arm in panels.values() for arm in by_arm)], ARMS, "panels")
    count = len(panels)
    with page(width) as sheet:
        figure, grid = sheet.subplots(
            (1, count, 9, 4), (count, 1, 0.5 + 1.9 * count), (1, count, 2.8),
            sharey=sheet.name != "column",
        )  # fmt: skip
        axes = list(grid.ravel())
        for ax, (name, by_arm) in zip(axes, panels.items(), strict=True):
            for arm, (curve, baseline) in by_arm.items():
                _band(ax, curve, ARMS[arm], "-", marker="o")
                _band(ax, baseline, ARMS[arm], ":")
            log_axis(ax.xaxis)
            log_axis(ax.yaxis)
            ax.set_xlabel(name)
        for ax in grid[:, 0]:
            ax.set_ylabel("training loss (nats)")
        handles = [Line2D([], [], color=ARMS[arm], marker="o", markersize=pt(5)) for arm in labels]
        handles.append(Line2D([], [], color="black", linestyle=":"))
        sheet.letter(axes)
        sheet.legend(figure, (handles, [*labels.values(), "unperturbed"]))
        sheet.title(figure, title)
        return figure


def lines(
    between: Mapping[str, tuple[Curve, Curve]],
    around: Mapping[str, Mapping[str, tuple[Curve, Curve]]],
    labels: Mapping[str, str],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw loss (above) and error (below) between two solutions (left) and along a direction from each (right).

    Example:
      >>> from ntkgen.plotting import Curve, loss_landscape
      >>> pair = (Curve([0, 1], [0.2, 0.5], [0.1, 0.4], [0.3, 0.6]), Curve([0, 1], [3.0, 4.0], [2.0, 3.0], [4.0, 5.0]))
      >>> both = {"train": pair, "test": pair}
      >>> labels = {"small_batch": "small batches", "large_batch": "large batches"}
      >>> figure = loss_landscape.lines(both, {"small_batch": both, "large_batch": both}, labels, "Lines")
      >>> len(figure.axes)
      4

    Args:
      between: {"train" or "test": (loss, error in percent)} against the position, 0 the first arm, 1 the second.
      around: {arm: {"train" or "test": (loss, error)}} against the step.
      labels: {arm of `ARMS`: its name}.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: an arm that is not in `ARMS`.
    """
    known([*labels, *around], ARMS, "around")
    with page(width) as sheet:
        figure, axes = sheet.subplots((2, 2, 9.6, 6.2), (2, 2, 3.9), (2, 2, 4.4), sharex="col", sharey="row")
        for row in range(2):
            for split, curves in between.items():
                _band(axes[row, 0], curves[row], COLOURS[split], SPLITS[split])
            for arm, by_split in around.items():
                for split, curves in by_split.items():
                    _band(axes[row, 1], curves[row], ARMS[arm], SPLITS[split])
        for position in (0, 1):
            for ax in axes[:, 0]:
                ax.axvline(position, color=COLOURS["threshold"], linewidth=pt(1), zorder=1)
        log_axis(axes[0, 0].yaxis)
        axes[0, 0].set_ylabel("loss (nats)")
        axes[1, 0].set_ylabel("error (%)")
        axes[1, 0].set_ylim(0, min(100.0, axes[1, 0].get_ylim()[1]))
        names = list(labels.values())
        narrow = sheet.name == "column"
        way = "position\n" if narrow else "position on the way "
        axes[1, 0].set_xlabel(
            f"{way}from {names[0]} (0) to {names[1]} (1)" if not narrow else f"{way}0: {names[0]}, 1: {names[1]}"
        )
        axes[1, 1].set_xlabel(
            "step along a filter-\nnormalised direction" if narrow else "step along a filter-normalised direction"
        )
        handles = [Line2D([], [], color=COLOURS[split], linestyle=style) for split, style in SPLITS.items()]
        words = [f"{SPLIT_NAMES[split]}, between" for split in SPLITS]
        handles += [Line2D([], [], color=ARMS[arm], linestyle=style) for arm in labels for style in SPLITS.values()]
        words += [f"{SPLIT_NAMES[split]}, {name}" for name in names for split in SPLITS]
        sheet.letter(list(axes.ravel()))
        sheet.legend(figure, (handles, words))
        sheet.title(figure, title)
        return figure


def surfaces(
    surfaces: Mapping[str, tuple[Sequence[float], np.ndarray]],
    labels: Mapping[str, str],
    title: str,
    *,
    width: str | None = None,
) -> Figure:
    """Draw the loss over planes around two solutions side by side, on one logarithmic scale of colours.

    Example:
      >>> import numpy as np
      >>> from ntkgen.plotting import loss_landscape
      >>> surface = ([-1.0, 0.0, 1.0], np.array([[3.0, 2.0, 3.0], [2.0, 0.1, 2.0], [3.0, 2.0, 3.0]]))
      >>> labels = {"small_batch": "small batches", "large_batch": "large batches"}
      >>> figure = loss_landscape.surfaces({"small_batch": surface, "large_batch": surface}, labels, "Planes")
      >>> len(figure.axes)  # two planes and the colour bar
      3

    Args:
      surfaces: {arm: (steps (k,), loss (k, k) in nats, first direction down)}.
      labels: {arm of `ARMS`: its name}.
      title: of the figure.
      width: "screen", "column" or "double". Default: that of `at_width`.

    Returns:
      The figure.

    Raises:
      ValueError: an arm that is not in `ARMS`.
    """
    known([*labels, *surfaces], ARMS, "surfaces")
    finite = np.concatenate([values[np.isfinite(values) & (values > 0)] for _, values in surfaces.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.1, 1.0)
    levels = np.geomspace(low, max(high, 1.01 * low), 13)
    with page(width, axes_grid=False) as sheet:
        figure, grid = sheet.subplots((1, 2, 9.4, 4.2), (2, 1, 5.2), (1, 2, 3.1), sharex=True, sharey=True)
        axes = list(grid.ravel())
        norm = LogNorm(levels[0], levels[-1])
        for ax, (steps, values) in zip(axes, surfaces.values(), strict=True):
            if np.isfinite(values).any():
                shown = np.clip(np.ma.masked_invalid(values), levels[0], levels[-1])
                ax.contourf(steps, steps, shown.T, levels=levels, norm=norm, cmap="viridis")
                ax.contour(steps, steps, shown.T, levels=levels, norm=norm, colors="white", linewidths=0.4)
                ax.plot([0], [0], "+", color="white", markersize=pt(9))
            else:
                ax.plot(steps, np.full(len(steps), np.nan))
            ax.set_aspect("equal")
        for ax in grid[-1]:
            ax.set_xlabel("first direction (filter norms)")
        for ax in grid[:, 0]:
            ax.set_ylabel("second direction (filter norms)")
        colours = ScalarMappable(norm, "viridis")
        bar = figure.colorbar(colours, ax=axes, ticks=levels[::3], label="training loss (nats)")
        bar.ax.yaxis.set_major_formatter(lambda x, _: number(float(f"{x:.2g}")))
        bar.minorticks_off()
        sheet.letter(axes, [labels[arm] for arm in surfaces])
        sheet.title(figure, title)
        return figure


def _band(ax: Axes, curve: Curve, colour: Any, style: str, marker: str | None = None) -> None:
    ax.plot(curve.x, curve.mean, color=colour, linestyle=style, marker=marker, markersize=pt(4), zorder=3)
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0, zorder=2)
