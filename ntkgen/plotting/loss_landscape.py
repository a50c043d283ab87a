"""Figures of the loss landscape: eigenvalues and density, perturbation, lines, surfaces. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ntkgen.plotting._style import COLOURS, STYLE, Curve, subplots

# Okabe and Ito's, beside those of training and test.
ARMS = {"small_batch": "#009E73", "large_batch": "#D55E00"}
SPLITS: dict[str, Any] = {"train": "-", "test": "--"}
SPLIT_NAMES = {"train": "training", "test": "test"}


def eigenvalues(
    points: Mapping[str, Mapping[str, tuple[np.ndarray, Curve]]],
    densities: Mapping[str, Curve],
    labels: Mapping[str, str],
    title: str,
    published: Mapping[str, float] | None = None,
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
      labels: {arm: its name}.
      title: of the figure.
      published: {arm: eigenvalue}, drawn beside the first of `points`.

    Returns:
      The figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = subplots(1, 2, figsize=(10.4, 4.3), width_ratios=(1.15, 1))
        for place, by_arm in enumerate(points.values()):
            for side, (arm, (values, mean)) in zip((-0.15, 0.15), by_arm.items(), strict=True):
                colour = ARMS[arm]
                spread = np.linspace(-0.05, 0.05, len(values)) if len(values) > 1 else np.zeros(1)
                left.plot(place + side + spread, values, "o", markersize=4, color=colour, alpha=0.55, zorder=3)
                ends = np.array([np.asarray(mean.mean) - mean.low, np.asarray(mean.high) - mean.mean])
                x = [place + side]
                left.errorbar(x, mean.mean, ends, fmt="_", markersize=16, capsize=3, color=colour, zorder=4)
                if published and place == 0:
                    left.plot(x, [published[arm]], "D", markersize=7, markerfacecolor="none", color="black", zorder=5)
        left.set_yscale("log")
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
        left.set_xticks(range(len(points)), list(points), fontsize=8.5)
        left.set_xlim(-0.5, len(points) - 0.5)
        left.grid(axis="x", visible=False)
        left.set_ylabel("top eigenvalue of the Hessian")
        for arm, curve in densities.items():
            _band(right, curve, ARMS[arm], "-")
        right.set_yscale("log")
        heights = np.concatenate([np.asarray(curve.mean, float) for curve in densities.values()])
        if heights[np.isfinite(heights)].any():
            top = float(heights[np.isfinite(heights)].max())
            right.set_ylim(1e-6 * top, 3 * top)
        right.set_xlabel("eigenvalue of the Hessian")
        right.set_ylabel("spectral density")
        handles = [Line2D([], [], color=ARMS[arm], marker="o", label=name) for arm, name in labels.items()]
        if published:
            mark: Any = dict(linestyle="none", marker="D", markersize=7, markerfacecolor="none", color="black")
            handles.append(Line2D([], [], label="published", **mark))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.suptitle(title, fontsize=10.5)
        return figure


def perturbation(
    panels: Mapping[str, Mapping[str, tuple[Curve, Curve]]], labels: Mapping[str, str], title: str
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
      labels: {arm: its name}.
      title: of the figure.

    Returns:
      The figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(1, len(panels), figsize=(9, 4), sharey=True, squeeze=False)
        for ax, (name, by_arm) in zip(axes[0], panels.items(), strict=True):
            for arm, (curve, baseline) in by_arm.items():
                _band(ax, curve, ARMS[arm], "-", marker="o")
                _band(ax, baseline, ARMS[arm], ":")
            ax.set_xscale("log")
            ax.set_yscale("log")
            ax.set_xlabel(name)
        axes[0, 0].set_ylabel("training loss (nats)")
        handles = [Line2D([], [], color=ARMS[arm], marker="o", label=name) for arm, name in labels.items()]
        handles.append(Line2D([], [], color="black", linestyle=":", label="unperturbed"))
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.suptitle(title, fontsize=10.5)
        return figure


def lines(
    between: Mapping[str, tuple[Curve, Curve]],
    around: Mapping[str, Mapping[str, tuple[Curve, Curve]]],
    labels: Mapping[str, str],
    title: str,
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
      labels: {arm: its name}.
      title: of the figure.

    Returns:
      The figure.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(2, 2, figsize=(9.6, 6.2), sharex="col", sharey="row")
        for row in range(2):
            for split, curves in between.items():
                _band(axes[row, 0], curves[row], COLOURS[split], SPLITS[split])
            for arm, by_split in around.items():
                for split, curves in by_split.items():
                    _band(axes[row, 1], curves[row], ARMS[arm], SPLITS[split])
        for position in (0, 1):
            for ax in axes[:, 0]:
                ax.axvline(position, color=COLOURS["threshold"], linewidth=1, zorder=1)
        axes[0, 0].set_yscale("log")
        axes[0, 0].set_ylabel("loss (nats)")
        axes[1, 0].set_ylabel("error (%)")
        axes[1, 0].set_ylim(0, min(100.0, axes[1, 0].get_ylim()[1]))
        names = list(labels.values())
        axes[1, 0].set_xlabel(f"position on the way from {names[0]} (0) to {names[1]} (1)")
        axes[1, 1].set_xlabel("step along a filter-normalised direction")
        handles = [
            Line2D([], [], color=COLOURS[split], linestyle=style, label=f"{SPLIT_NAMES[split]}, between")
            for split, style in SPLITS.items()
        ]
        handles += [
            Line2D([], [], color=ARMS[arm], linestyle=style, label=f"{SPLIT_NAMES[split]}, {name}")
            for arm, name in labels.items()
            for split, style in SPLITS.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3)
        figure.suptitle(title, fontsize=10.5)
        return figure


def surfaces(
    surfaces: Mapping[str, tuple[Sequence[float], np.ndarray]], labels: Mapping[str, str], title: str
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
      labels: {arm: its name}.
      title: of the figure.

    Returns:
      The figure.
    """
    finite = np.concatenate([values[np.isfinite(values) & (values > 0)] for _, values in surfaces.values()])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.1, 1.0)
    levels = np.geomspace(low, max(high, 1.01 * low), 13)
    with matplotlib.rc_context({**STYLE, "axes.grid": False}):
        figure, axes = subplots(1, 2, figsize=(9.4, 4.2), sharex=True, sharey=True)
        norm = LogNorm(levels[0], levels[-1])
        for ax, (arm, (steps, values)) in zip(axes, surfaces.items(), strict=True):
            if np.isfinite(values).any():
                shown = np.clip(np.ma.masked_invalid(values), levels[0], levels[-1])
                ax.contourf(steps, steps, shown.T, levels=levels, norm=norm, cmap="viridis")
                ax.contour(steps, steps, shown.T, levels=levels, norm=norm, colors="white", linewidths=0.4)
                ax.plot([0], [0], "+", color="white", markersize=9)
            else:
                ax.plot(steps, np.full(len(steps), np.nan))
            ax.set_title(labels[arm])
            ax.set_aspect("equal")
            ax.set_xlabel("first direction (filter norms)")
        axes[0].set_ylabel("second direction (filter norms)")
        colours = ScalarMappable(norm, "viridis")
        bar = figure.colorbar(colours, ax=axes, ticks=levels[::3], format="%.2g", label="training loss (nats)")
        bar.minorticks_off()
        figure.suptitle(title, fontsize=10.5)
        return figure


def _band(ax: Axes, curve: Curve, colour: Any, style: str, marker: str | None = None) -> None:
    ax.plot(curve.x, curve.mean, color=colour, linestyle=style, marker=marker, markersize=4, linewidth=1.5, zorder=3)
    ax.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0, zorder=2)
