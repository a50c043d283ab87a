"""Figures inside the page: SVG made safe and free of names that others use, or PNG of few colours."""

import base64
import re
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup

from ntkgen import plotting
from ntkgen.report import _protocol
from ntkgen.report._contents import Figure, Run

MOST_SVG = 150_000  # bytes; beyond that a PNG is smaller, and quicker to draw
DRAWS = {
    "svg", "g", "defs", "use", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan",
    "image", "clipPath", "pattern", "linearGradient", "radialGradient", "stop", "marker", "symbol", "mask",
}  # fmt: skip
# Lengths are points on a page: two decimals are finer than a printer. Glyphs are scaled by `transform`, which stays.
PLACES = ("d", "points", "x", "y", "cx", "cy", "x1", "y1", "x2", "y2")
LONG = re.compile(r"(\d+\.\d\d)\d+")
FONTS = re.compile(r"(font-family: )[^;]*")  # matplotlib names eleven, at every text
OWN = re.compile(r"url\(\s*['\"]?#([^)'\"]+)['\"]?\s*\)")


def alt(run: Run, figure: Figure) -> str:
    """Return what a figure shows, in words: study, data, name and title."""
    what = f"{_protocol.about(run.study).title} on {run.dataset}, {figure.name.replace('_', ' ')}"
    return f"{what}: {figure.title}" if figure.title else what


def picture(figure: Figure, words: str, prefix: str) -> Markup:
    """Return a figure as HTML: inline SVG where there is a small one, else a PNG as data; empty if there is neither.

    Args:
      figure: its files.
      words: what it shows, for those who do not see it.
      prefix: begins every name in it; unique in the page.
    """
    if "svg" in figure.files and figure.files["svg"].stat().st_size <= MOST_SVG:
        found = _svg(figure.files["svg"], words, prefix)
        if found is not None:
            return found
    if "png" not in figure.files:
        return Markup("")
    try:
        data = plotting.smaller(figure.files["png"].read_bytes())
    except ValueError:
        return Markup("")
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(words, base64.b64encode(data).decode())


def _svg(path: Path, words: str, prefix: str) -> Markup | None:
    """Return an SVG file as an element of the page, None if it is damaged or declares entities."""
    content = path.read_bytes()
    if b"<!ENTITY" in content:
        return None
    try:
        root = ElementTree.fromstring(content)
    except ElementTree.ParseError:
        return None
    if _local(root.tag) != "svg" or not root.get("viewBox"):
        return None
    _clean(root, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name, None)
    # Matplotlib says this in a style sheet, which would hold for the whole page.
    root.attrib |= {"style": "stroke-linejoin:round;stroke-linecap:butt", "role": "img"}
    root.attrib |= {"aria-labelledby": f"{prefix}title", "focusable": "false"}
    title = ElementTree.Element("title", {"id": f"{prefix}title"})
    title.text = words
    root.insert(0, title)
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(tag: object) -> str:
    return str(tag).rpartition("}")[2]


def _clean(element: ElementTree.Element, prefix: str) -> None:
    """Keep what draws, and let every name begin with the prefix; nothing outside the file is referred to."""
    element.tag = _local(element.tag)
    kept = {}
    for name, value in element.attrib.items():
        name = _local(name)
        if name == "href":
            value = f"#{prefix}{value[1:]}" if value.startswith("#") else value
            if not value.startswith(("#", "data:image/png;base64,")):
                continue
        elif name == "id":
            value = prefix + value
        elif name.startswith("on") or name in ("space", "version", "base"):
            continue
        if "url(" in value:
            if OWN.sub("", value).count("url("):
                continue
            value = OWN.sub(rf"url(#{prefix}\1)", value)
        if name in PLACES:
            value = " ".join(LONG.sub(r"\1", value).split())
        kept[name] = FONTS.sub(r"\1'DejaVu Sans', sans-serif", value) if name == "style" else value
    element.attrib.clear()
    element.attrib.update(kept)
    if element.text and not element.text.strip():
        element.text = None
    for child in list(element):
        if child.tail and not child.tail.strip():
            child.tail = None
        if _local(child.tag) in DRAWS:
            _clean(child, prefix)
        else:
            element.remove(child)
