"""Ticks of logarithmic axes: powers of ten on long axes, plain numbers on those shorter than two decades."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import Formatter, Locator, LogLocator, MaxNLocator, NullFormatter, NullLocator

LONG = 2.0  # decades from which labels are powers of ten
# Multiples of powers of ten with a tick; the first of these that gives three ticks is taken.
MULTIPLES: tuple[tuple[float, ...], ...] = (
    (1,), (1, 2, 5), (1, 2, 3, 5, 7), (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
)  # fmt: skip
FEW = 3
MOST = 7


class LogTicks(Locator):
    """Places of at most seven ticks on a logarithmic axis of any length, as many as its letters leave room for."""

    def __call__(self) -> Any:
        """Return the ticks inside the limits in use."""
        axis: Any = self.axis
        ticks = self.tick_values(*axis.get_view_interval())
        room = max(2, int(axis.get_tick_space() * (0.8 if axis.axis_name == "x" else 1.0)))
        return ticks[:: -(-len(ticks) // min(room, MOST))]

    def tick_values(self, vmin: float, vmax: float) -> Any:
        """Return the ticks between two limits."""
        low, high = sorted((float(vmin), float(vmax)))
        if not (0 < low < high < np.inf):
            return np.array([1.0])
        powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
        edge = (high / low) ** 1e-6  # a tick on the limit is inside
        for multiples in MULTIPLES:
            ticks = (10.0 ** powers[:, None] * np.array(multiples)).ravel()
            inside = ticks[(ticks >= low / edge) & (ticks <= high * edge)]
            if len(inside) >= FEW:
                return inside
        found = MaxNLocator(4).tick_values(low, high)
        return found[(found >= low / edge) & (found <= high * edge)]


class LogNumbers(Formatter):
    """Labels of such ticks: 10^k in mathtext on long axes, 0.006 and not 6 x 10^-3 on short ones."""

    def __init__(self, plain: bool) -> None:
        self.plain = plain

    def __call__(self, x: float, pos: int | None = None) -> str:
        """Return one label."""
        axis: Any = self.axis
        exponents = np.log10([each for each in axis.get_majorticklocs() if each > 0])
        # Never 5 beside 10^1: an axis has powers of ten alone, or plain numbers.
        powers = len(exponents) > 0 and np.ptp(exponents) >= LONG - 1e-6 and np.allclose(exponents, np.round(exponents))
        return number(x, powers=powers and not self.plain)


def number(x: float, powers: bool = False) -> str:
    """Return a number as a tick says it: plain, or in powers of ten (also where it would have many zeros)."""
    if x <= 0 or not np.isfinite(x):
        return f"{x:g}"
    exponent = int(np.floor(np.log10(x) + 1e-9))
    factor = x / 10.0**exponent
    if powers and abs(factor - 1) < 1e-6:
        return f"$10^{{{exponent}}}$"
    if -4 <= exponent < 5:
        return np.format_float_positional(float(f"{x:.6g}"), trim="-")
    return f"${factor:.3g}\\times10^{{{exponent}}}$"


def log_axis(axis: Axis, *, plain: bool = False, minor: bool = True) -> None:
    """Make an axis logarithmic, with ticks that a reader can read at any length.

    Args:
      axis: `ax.xaxis` or `ax.yaxis`.
      plain: whether long axes have plain numbers too, such as epochs.
      minor: whether there are small ticks without labels.
    """
    scale = axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale  # type: ignore[attr-defined]
    scale("log")
    axis.set_major_locator(LogTicks())
    axis.set_major_formatter(LogNumbers(plain))
    axis.set_minor_locator(LogLocator(subs=tuple(range(2, 10)), numticks=15) if minor else NullLocator())
    axis.set_minor_formatter(NullFormatter())


def logarithmic(ax: Axes, x: Sequence[float], *, plain: bool = False) -> None:
    """Make the horizontal axis logarithmic; it covers all of x, also where every mean is NaN."""
    ax.update_datalim([(value, 0.0) for value in x], updatey=False)
    log_axis(ax.xaxis, plain=plain)
