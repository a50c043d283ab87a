"""Files of figures: the same bytes for the same figure, as PNG, SVG or PDF, with the figure's title inside."""

import io as bytesio
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from ntkgen import io

FORMATS = ("png", "svg", "pdf")
# Names of parts of an SVG come from this text instead of a random one. Its letters are text: half the size of shapes.
# Fonts of a PDF are TrueType: publishers refuse Type 3.
DRAWN: dict = {"svg.hashsalt": "ntkgen", "svg.fonttype": "none", "pdf.fonttype": 42}
# What would tell two files apart: when, and with which version, they were written.
UNSAID: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure in the format that the suffix names, and return the path.

    Two runs write the same bytes: neither time nor version is in the file. The figure's title is (`title_of`). Axes
    without a finite value (all networks diverged, or nothing was reached) say so.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import plotting
      >>> figure, axes = plotting.subplots(1, 1, figsize=(1, 1))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plotting.save(figure, Path(folder) / "empty.png").name
      'empty.png'

    Args:
      figure: what to write.
      path: ends in `.png`, `.svg` or `.pdf`; its folder is made.

    Raises:
      ValueError: another suffix.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise ValueError(f"path: expected a name in {', '.join(f'.{each}' for each in FORMATS)}, got {path.name!r}")
    for ax in figure.axes:
        _say_if_empty(ax)
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = bytesio.BytesIO()
    with matplotlib.rc_context(DRAWN):
        figure.savefig(buffer, format=kind, metadata={**UNSAID[kind], "Title": title(figure)})
    io.atomic_write(path, buffer.getvalue())
    return path


def title(figure: Figure) -> str:
    """Return the title of a figure in one line, also of one for a paper; without one, the titles of its axes."""
    own = getattr(figure, "about", "") or figure.get_suptitle()
    words = own or "; ".join(dict.fromkeys(text for ax in figure.axes if (text := ax.get_title())))
    return " ".join(words.replace("$", "").split())


def title_of(png: bytes) -> str:
    """Return the title that `save` wrote into a PNG file; empty if there is none, or this is no PNG.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import plotting
      >>> figure, axes = plotting.subplots(1, 1, figsize=(1, 1))
      >>> title = figure.suptitle("Nothing")
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     plotting.title_of(plotting.save(figure, Path(folder) / "empty.png").read_bytes())
      'Nothing'
    """
    try:
        with Image.open(bytesio.BytesIO(png), formats=("PNG",)) as image:
            return str(image.info.get("Title", ""))
    except (OSError, ValueError, SyntaxError):
        return ""


def smaller(png: bytes, colours: int = 48) -> bytes:
    """Return a PNG of so few colours that it takes about a third of the bytes; the same file where that does not help.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import plotting
      >>> figure, axes = plotting.subplots(1, 1, figsize=(3, 3))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     png = plotting.save(figure, Path(folder) / "empty.png").read_bytes()
      >>> len(plotting.smaller(png)) <= len(png)
      True

    Raises:
      ValueError: this is no PNG.
    """
    try:
        with Image.open(bytesio.BytesIO(png), formats=("PNG",)) as image:
            flat = Image.new("RGB", image.size, "white")
            flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"png: {error}") from None
    buffer = bytesio.BytesIO()
    flat.quantize(colours, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return min(buffer.getvalue(), png, key=len)


def _say_if_empty(ax: Axes) -> None:
    """Write into axes whose curves have nothing to show that there is nothing; else they would look like a mistake."""
    curves = [line for line in ax.lines if line.get_transform() == ax.transData]  # not axhline and the like
    lowest = 0.0 if ax.get_yscale() == "log" else -np.inf
    values = [np.asarray(line.get_ydata(), float) for line in curves]
    if curves and not any((np.isfinite(y) & (y > lowest)).any() for y in values):
        ax.text(0.5, 0.5, "no finite values", transform=ax.transAxes, ha="center", va="center")
        # Matplotlib finds no ticks for the limits that nothing leaves on a logarithmic axis.
        if ax.get_yscale() == "log":
            ax.set_ylim(0.1, 1)
        if ax.get_xscale() == "log" and min(ax.get_xlim()) <= 0:
            x = np.concatenate([np.asarray(line.get_xdata(), float) for line in curves])
            ax.set_xlim(*((x.min() / 1.1, 1.1 * x.max()) if x.size else (0.1, 1)))
