"""Figures of sharpness and generalization. Nothing is computed here."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ntkgen.plotting._style import COLOURS, STYLE, Curve, band, subplots

SHARP = "#D55E00"  # Okabe and Ito's vermilion
FORMS = ("#D55E00", "#009E73", "#CC79A7")  # as trained, at matched loss, at matched temperature
MARKERS = "DsP^v<>X*hdp8H"
SHORT = "training accuracy below 99.9%"
POINTS = ("#009E73", "#CC79A7", "#56B4E9", "#7F7F7F", "#000000", "#E69F00")


def against_batch(
    sweeps: dict[str, tuple[Curve, Curve]],
    others: dict[str, tuple[Curve, Curve]],
    published: dict[int, float],
    title: str,
    unfinished: Mapping[str, Sequence[float]],
) -> Figure:
    """Draw test accuracy (percent) and sharpness against batch size, other configurations as points beside.

    Example:
      >>> from ntkgen.plotting import Curve, implicit_regularization
      >>> sgd, gd = Curve([32, 64], [97.0, 96.0], [96.0, 95.0], [98.0, 97.0]), Curve([128], [95.0], [94.0], [96.0])
      >>> figure = implicit_regularization.against_batch({"SGD": (sgd, sgd)}, {"GD": (gd, gd)}, {32: 97.5}, "Batch", {})
      >>> len(figure.axes)
      2

    Args:
      sweeps: name -> (accuracy, sharpness) against batch size, one or two; sharpness is positive.
      others: name -> (accuracy, sharpness) of one point each, x its batch size.
      published: batch size -> accuracy in percent.
      title: of the figure.
      unfinished: name of a sweep or of another -> batch sizes short of interpolation; their sharpness is hollow.

    Returns:
      The figure: two panels over one axis.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = subplots(2, 1, figsize=(7.6, 6.8), sharex=True)
        for (name, pair), line, marker in zip(sweeps.items(), ("-", "--"), "os", strict=False):
            for ax, one, colour in zip(axes, pair, (COLOURS["test"], SHARP), strict=True):
                band(ax, one, colour, f"SGD, {name}", marker)
                ax.lines[-1].set_linestyle(line)
            _hollow(axes[1], pair[1], unfinished.get(name, ()), SHARP, marker)
        if published:
            axes[0].plot(
                list(published), list(published.values()), "o", markersize=8, markerfacecolor="none",
                color=COLOURS["published"], label="published test accuracy", zorder=4,
            )  # fmt: skip
        shift = _shifts([pair[0].x[0] for pair in others.values()])
        floor = _accuracy_axis(
            axes[0], [pair[0] for pair in sweeps.values()], [float(pair[0].mean[0]) for pair in others.values()]
        )
        for index, (name, pair) in enumerate(others.items()):
            for ax, one in zip(axes, pair, strict=True):
                below = ax is axes[0] and one.mean[0] < floor
                hollow = ax is axes[1] and bool(unfinished.get(name))
                _point(ax, one, shift[index], name, index, floor if below else None, hollow)
        if any(unfinished.values()):
            axes[1].plot([], [], "o", color="#555555", markerfacecolor="white", label=SHORT)
        axes[0].set_ylabel("test accuracy (%)")
        axes[1].set_ylabel("top Hessian eigenvalue (nats / weight²)")
        axes[1].set_yscale("log")
        sizes = sorted({x for pair in (*sweeps.values(), *others.values()) for x in pair[0].x})
        _batch_axis(axes[1], sizes)
        axes[0].set_title(title)
        for ax in axes:
            ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        return figure


def _shifts(x: Sequence[float]) -> list[float]:
    """Return factors that set points at one place side by side."""
    seen: dict[float, int] = {}
    factors = []
    for value in x:
        count = seen[value] = seen.get(value, 0) + 1
        factors.append(1.09 ** ((count + 1) // 2 * (1 if count % 2 else -1)))
    return factors


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


def _hollow(ax: Axes, one: Curve, where: Sequence[float], colour: str, marker: str) -> None:
    """Empty the markers at some places."""
    some = [(x, y) for x, y in zip(one.x, one.mean, strict=True) if x in where and np.isfinite(y)]
    if some:
        ax.plot(*zip(*some, strict=True), marker, color=colour, markerfacecolor="white", zorder=5)


def _point(
    ax: Axes, one: Curve, shift: float, label: str, index: int, floor: float | None = None, hollow: bool = False
) -> None:
    """Draw one configuration; one below the floor stands on it, with its value."""
    mean, low, high = (float(ends[0]) for ends in one[1:])
    if floor is not None:
        ax.annotate(f"{mean:.1f} ↓", (one.x[0] * shift, floor), xytext=(0, 7), textcoords="offset points", ha="center")
        mean = low = high = floor
    bars = np.array([[mean - low], [high - mean]]) if np.isfinite([low, high]).all() else None
    ax.errorbar(
        [one.x[0] * shift], [mean], bars, fmt=MARKERS[index % len(MARKERS)], markersize=6, capsize=2, linewidth=1,
        color=POINTS[index % len(POINTS)], markerfacecolor="white" if hollow else POINTS[index % len(POINTS)],
        markeredgecolor=POINTS[index % len(POINTS)] if hollow else "#000000", markeredgewidth=1.2 if hollow else 0.5,
        label=label, zorder=5, clip_on=floor is None,
    )  # fmt: skip


def _batch_axis(ax: Axes, sizes: Sequence[float]) -> None:
    ax.set_xscale("log")
    chosen: list[float] = []
    for size in sizes:  # close neighbours' labels would collide
        if not chosen or size / chosen[-1] > 1.5:
            chosen.append(size)
    ax.set_xticks(chosen, [f"{size:g}" for size in chosen])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("batch size")


def confounds(panels: dict[str, dict[str, Curve]], title: str, unfinished: Sequence[float]) -> Figure:
    """Draw each kind of sharpness against batch size: as trained, at matched loss, at matched temperature.

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

    Returns:
      The figure, a panel for each kind.
    """
    with matplotlib.rc_context(STYLE):
        width = 1.2 + 3.4 * len(panels)
        figure, axes = subplots(1, len(panels), figsize=(width, 4.2), squeeze=False)
        for ax, (kind, forms) in zip(axes[0], panels.items(), strict=True):
            for (label, one), colour, marker in zip(forms.items(), FORMS, "osD", strict=True):
                band(ax, one, colour, label, marker)
            _hollow(ax, next(iter(forms.values())), unfinished, FORMS[0], "o")
            if unfinished:
                ax.plot([], [], "o", color=FORMS[0], markerfacecolor="white", label=SHORT)
            ax.set_yscale("log")
            ax.set_title(kind)
            _batch_axis(ax, list(one.x))
            ax.tick_params(axis="x", labelrotation=45)
        axes[0, 0].set_ylabel("sharpness (nats; eigenvalue: nats / weight²)")
        figure.suptitle(title, fontsize=10.5)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        return figure


def over_losses(panels: dict[str, dict[str, Curve]], margin: float, title: str) -> Figure:
    """Draw the ratio of two arms' sharpness against the training loss at which it is compared.

    Example:
      >>> from ntkgen.plotting import Curve, implicit_regularization
      >>> ratio = Curve([0.1, 0.01], [1.2, 1.5], [1.0, 1.2], [1.4, 1.9])
      >>> panels = {"eigenvalue": {"at matched loss": ratio}}
      >>> figure = implicit_regularization.over_losses(panels, margin=1.25, title="Equal loss")
      >>> len(figure.axes)
      1

    Args:
      panels: kind -> {form: ratio against loss}; every panel has the same forms.
      margin: factor within which ratios are called equal, a grey band.
      title: of the figure.

    Returns:
      The figure, a panel for each kind.
    """
    with matplotlib.rc_context(STYLE):
        width = 1.2 + 3.4 * len(panels)
        figure, axes = subplots(1, len(panels), figsize=(width, 4.0), squeeze=False)
        for ax, (kind, forms) in zip(axes[0], panels.items(), strict=True):
            ax.axhspan(1 / margin, margin, color=COLOURS["threshold"], alpha=0.2, linewidth=0, label="equal")
            for (label, one), colour, marker in zip(forms.items(), FORMS[1:], "sD", strict=False):
                band(ax, one, colour, label, marker)
            ax.set_xscale("log")
            ax.set_yscale("log")
            losses = [x for one in forms.values() for x in one.x]
            ax.set_xlim(min(losses) / 1.3, max(losses) * 1.3)  # also where no loss was reached
            ax.set_title(kind)
            ax.set_xlabel("training loss (nats)")
        axes[0, 0].set_ylabel("ratio of sharpness")
        figure.suptitle(title, fontsize=10.5)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure


def along_training(tracks: dict[str, tuple[Curve, Any, Any]], title: str) -> Figure:
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

    Returns:
      The figure, a panel for each arm.
    """
    with matplotlib.rc_context(STYLE):
        width = 1.2 + 2.8 * len(tracks)
        figure, axes = subplots(1, len(tracks), figsize=(width, 4.0), squeeze=False, sharey=True)
        for ax, (name, (one, plain, momentum)) in zip(axes[0], tracks.items(), strict=True):
            band(ax, one, SHARP, "top Hessian eigenvalue")
            ax.plot(one.x, plain, "--", color=COLOURS["threshold"], label="2 / learning rate")
            ax.plot(one.x, momentum, ":", color=COLOURS["published"], label="(2 + 2 momentum) / learning rate")
            ax.set_yscale("log")
            first = 10.0 ** np.ceil(np.log10(one.x[1])) if len(one.x) > 1 else 1.0  # no label between it and 0
            ax.set_xscale("symlog", linthresh=first, linscale=0.7)
            ax.set_xlim(left=-0.1 * first)
            decades = np.arange(np.log10(first), np.log10(max(one.x[-1], first)) + 1e-9)
            ax.set_xticks([0.0, *10.0**decades])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_title(name)
            ax.set_xlabel("updates")
        # The bounds of a decaying rate end at infinity; where they begin is what the eigenvalue can meet.
        met = np.array([value for one, *bounds in tracks.values() for value in (*one.high, *(b[0] for b in bounds))])
        if np.isfinite(met).any():
            axes[0, 0].set_ylim(top=10 * float(met[np.isfinite(met)].max()))
        axes[0, 0].set_ylabel("sharpness, bounds (nats / weight²)")
        figure.suptitle(title, fontsize=10.5)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        return figure
