"""Widths of figures: a screen's, a column's and a page's of a paper, and what follows from them.

A figure for a paper has no title of its own (its caption has one), text of 7 and 8 points, letters at its panels, and
its legend outside the axes. `save` writes the title into the file all the same.
"""

import contextlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# In inches; a screen's figure is as wide as its panels need.
WIDTHS: dict[str, float | None] = {"screen": None, "column": 3.3, "double": 6.9}
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
PAPER: Any = {
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "figure.dpi": 300,
    "savefig.dpi": 300,
}
LETTER, BESIDE = 0.065, 0.45  # inches: width of a letter of 8 points on average; of the labels beside a panel
_width: ContextVar[str] = ContextVar("width", default="screen")


class Drawing(Figure):
    """A figure that is drawn in the style it was made in: matplotlib makes some ticks only while it draws."""

    style: Any = None  # rc parameters
    about: str = ""

    def draw(self, renderer: RendererBase) -> None:
        """Draw in the own style."""
        with matplotlib.rc_context(self.style):
            super().draw(renderer)


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
    figure = Drawing(figsize=figsize, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, **options)


@contextlib.contextmanager
def at_width(width: str) -> Iterator[None]:
    """Draw every figure inside at a width: "screen", "column" (3.3 inches) or "double" (6.9 inches).

    Example:
      >>> from ntkgen import plotting
      >>> curve = plotting.Curve([100, 200], [3.0, 2.0], [2.5, 1.5], [3.5, 2.5])
      >>> with plotting.at_width("column"):
      ...     figure = plotting.sample_wise({"8": curve}, "More examples", "width")
      >>> float(figure.get_figwidth())
      3.3

    Raises:
      ValueError: another width.
    """
    token = _width.set(_checked(width))
    try:
        yield
    finally:
        _width.reset(token)


def _checked(width: str) -> str:
    if width not in WIDTHS:
        raise ValueError(f"width: expected one of {', '.join(WIDTHS)}, got {width!r}")
    return width


def known(arms: Any, allowed: Mapping[str, Any], name: str) -> None:
    """Refuse arms that a figure has no colour and marker for.

    Raises:
      ValueError: one line that names the argument, what was expected and what came.
    """
    strange = [arm for arm in arms if arm not in allowed]
    if strange:
        raise ValueError(f"{name}: expected arms among {', '.join(allowed)}, got {strange[0]!r}")


def pt(size: float) -> float:
    """Return a size in points for the letters in use; it is meant for letters of 10 points."""
    return size * float(matplotlib.rcParams["font.size"]) / 10


@dataclass(frozen=True)
class Page:
    """What a drawing function asks of its width.

    Attributes:
      name: a key of `WIDTHS`.
      style: rc parameters in use.
    """

    name: str
    style: Any = field(default_factory=dict)

    @property
    def paper(self) -> bool:
        """Whether the figure is for a paper."""
        return WIDTHS[self.name] is not None

    def subplots(
        self,
        screen: tuple[int, int, float, float],
        column: tuple[int, int, float],
        double: tuple[int, int, float],
        count: int | None = None,
        **options: Any,
    ) -> tuple[Drawing, np.ndarray]:
        """Return a figure of this width and its axes (rows, columns).

        Args:
          screen: rows, columns, width and height in inches.
          column: rows, columns, height in inches.
          double: likewise.
          count: number of axes that are used; the others are hidden. Default: all.
          **options: those of `Figure.subplots`.
        """
        width = WIDTHS[self.name]
        if width is None:
            rows, columns, width, height = screen
        else:
            rows, columns, height = column if self.name == "column" else double
        figure, axes = subplots(rows, columns, figsize=(width, height), squeeze=False, **options)
        assert isinstance(figure, Drawing)
        figure.style = self.style
        for unused in axes.ravel()[rows * columns if count is None else count :]:
            unused.set_visible(False)
        return figure, axes

    def title(self, figure: Drawing, words: str, ax: Axes | None = None) -> None:
        """Give a figure its title: above the figure or one of its axes; for a paper in the file alone."""
        figure.about = words
        if self.paper or not words:
            return
        if ax is None:
            figure.suptitle(words, fontsize=10.5)
        else:
            ax.set_title(words, pad=8)

    def wrapped(self, words: str, columns: int, beside: float = BESIDE) -> str:
        """Return words in lines that a panel of a paper's figure is wide enough for; a screen's stay as they are."""
        width = WIDTHS[self.name]
        if width is None:
            return words
        letters = int((width / columns - beside) / LETTER)
        return "\n".join(textwrap.fill(line, letters) for line in words.split("\n"))

    def letter(self, axes: Sequence[Axes], names: Sequence[str] = ()) -> None:
        """Name the panels of a figure; those for a paper get the letters (a), (b) ... to be cited by."""
        for index, ax in enumerate(axes):
            name = names[index] if names else ""
            if not self.paper:
                if name:
                    ax.set_title(name)
            elif len(axes) > 1:
                grid = ax.get_gridspec()
                words = self.wrapped(f"({chr(97 + index)}) {name}".strip(), grid.ncols if grid else 1)
                ax.set_title(words, loc="left")

    def legend(
        self,
        figure: Figure,
        entries: tuple[Sequence[Any], Sequence[str]],
        most: int = 3,
        title: str | None = None,
        lines: bool = True,
    ) -> Any:
        """Put a legend of (handles, labels) below the axes, in as many columns as fit, at most so many.

        Without lines, its markers take less room.
        """
        handles, labels = entries
        if not handles:
            return None
        tight: Any = {"columnspacing": 0.8, "handlelength": 1.5} if self.paper else {}
        if self.paper and not lines:
            tight |= {"handlelength": 0.9, "handletextpad": 0.5}
        for columns in range(min(most, len(handles)), 0, -1):
            legend = figure.legend(
                list(handles), list(labels), loc="outside lower center", ncols=columns, title=title, **tight
            )
            # Its size is that of its box: its place is known only after the layout.
            wide = legend._legend_box.get_window_extent(figure.canvas.get_renderer()).width  # type: ignore[attr-defined]
            if columns == 1 or wide <= figure.bbox.width:
                break
            legend.remove()
        return legend


@contextlib.contextmanager
def page(width: str | None, **style: Any) -> Iterator[Page]:
    """Set the style of a width (default: that of `at_width`, else a screen's) and return the page to draw on.

    Args:
      width: a key of `WIDTHS`.
      **style: more rc parameters, with _ for their first dot.

    Raises:
      ValueError: another width.
    """
    name = _width.get() if width is None else _checked(width)
    own = {key.replace("_", ".", 1): value for key, value in style.items()}
    used = {**STYLE, **({} if WIDTHS[name] is None else PAPER), **own}
    with matplotlib.rc_context(used), at_width(name):
        yield Page(name, used)
