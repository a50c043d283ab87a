"""Settings of the documentation site; `sphinx-build -W .docs .docs/_build/html` makes it, without a network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from numpy.typing import ArrayLike
from sphinx.application import Sphinx
from sphinx.util.typing import stringify_annotation

import ntkgen

project = "ntkgen"
author = "the authors of ntkgen"
release = version = ntkgen.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "**/.ipynb_checkpoints"]
default_role = "code"  # docstrings write `name` for code

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # the notebooks keep their outputs; tests/test_docs.py executes them

autodoc_typehints_format = "short"
autodoc_member_order = "groupwise"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False  # the signature has the types

html_theme = "furo"
html_title = "ntkgen"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_math_renderer = "mathml"

CODE = re.compile(r"(``.+?``|`[^`]+`|\*\*[^*\s][^*]*\*\*)")  # and what is bold
BULLET = re.compile(r"\s*\* ")


def escape(line: str) -> str:
    """Return a line of a docstring in which stars, bars and trailing underscores stand for themselves."""
    bullet = found.group() if (found := BULLET.match(line)) else ""
    parts = CODE.split(line.removeprefix(bullet))
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"([*|]|(?<=\w)_(?!\w))", r"\\\1", parts[number])
        if number and re.match(r"\w", parts[number]):
            parts[number] = r"\ " + parts[number]  # a word may follow code at once
    return bullet + "".join(parts)


def plain_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Escape what is no markup in the docstrings of ntkgen; examples stay as they are."""
    example = False
    for number, line in enumerate(lines):
        example = line.lstrip().startswith(">>>") or (example and bool(line.strip()))
        if not example:
            lines[number] = escape(line)


def skip_fields(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples: the class's own docstring says what they are."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def short_signature(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Write ArrayLike by its name, where Python gives all that it stands for."""
    long = stringify_annotation(ArrayLike, "smart")
    return signature and signature.replace(long, "ArrayLike"), returned and returned.replace(long, "ArrayLike")


def math_inline(writer: Any, node: nodes.math) -> None:
    """Write a formula as MathML, which browsers show without scripts or a network."""
    writer.body.append(str(tex2mathml(node.astext())))
    raise nodes.SkipNode


def math_block(writer: Any, node: nodes.math_block) -> None:
    """Write a formula on lines of its own."""
    writer.body.append(f'<div class="math-block">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.add_html_math_renderer("mathml", (math_inline, None), (math_block, None))
    app.connect("autodoc-process-docstring", plain_docstring, priority=400)  # before napoleon
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("autodoc-process-signature", short_signature)
