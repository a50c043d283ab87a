"""The report as LaTeX: tables with booktabs, one file each, and a document that pdflatex compiles with the figures."""

import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2

from ntkgen import io
from ntkgen.report import _pictures, _protocol, _writing
from ntkgen.report._contents import Claim, Contents, Run
from ntkgen.report._shown import LONG, Shown, brief, interval, shown

MOST_ROWS = 60
WIDTH = 105  # letters that fit into a line of a table
SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"$<$", ">": r"$>$", "|": r"$|$", '"': "''",
    "−": "$-$", "–": "--", "—": "---", "…": r"\dots{}", "×": r"$\times$", "·": r"$\cdot$", "±": r"$\pm$",
    "≤": r"$\leq$", "≥": r"$\geq$", "→": r"$\to$", "∞": r"$\infty$", "√": r"$\surd$", "≈": r"$\approx$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\varepsilon$", "θ": r"$\theta$",
    "κ": r"$\kappa$", "λ": r"$\lambda$", "μ": r"$\mu$", "π": r"$\pi$", "ρ": r"$\rho$", "σ": r"$\sigma$",
    "τ": r"$\tau$", "ψ": r"$\psi$", "Ψ": r"$\Psi$", "Θ": r"$\Theta$", "Δ": r"$\Delta$", "“": "``", "”": "''",
    "‘": "`", "’": "'",
}  # fmt: skip


class Grid(NamedTuple):
    """A table as LaTeX sees it: caption, column types, headings, rows of escaped cells, and a note below."""

    name: str
    caption: str
    types: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


class Picture(NamedTuple):
    """A figure file beside the document, and its caption."""

    file: str
    caption: str


class Part(NamedTuple):
    """A run in the document."""

    run: Run
    tables: list[str]
    pictures: list[Picture]


def latex(contents: Contents, folder: str | Path) -> Path:
    """Write report.tex, its tables and its figures into a folder, and return report.tex.

    `pdflatex report.tex`, run twice in that folder, makes the document. Figures are PDF where a run has them, else PNG.

    Example:
      >>> import tempfile
      >>> from ntkgen import records, report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with records.open_run(folder, "double_descent", "digits", {"epochs": 1}) as run:
      ...         path = run.write_table("runs.csv", [{"seed": 0, "test_acc": 97.0}])
      ...     report.latex(report.collect(folder), f"{folder}/paper").name
      'report.tex'

    Args:
      contents: of `collect`.
      folder: where it goes; it is made.

    Raises:
      ReportError: the folder cannot be written.
    """
    folder = _writing.folder(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ntkgen.report", "templates"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"tex": escape}
    environment.globals |= {"about": _protocol.about}
    with _writing.errors(folder):
        for name in ("tables", "figures"):
            (folder / name).mkdir(exist_ok=True)

        def write(grid: Grid) -> str:
            text = environment.get_template("table.tex").render(grid=grid)
            io.atomic_write(folder / "tables" / f"{grid.name}.tex", text.encode())
            return grid.name

        fronts = [write(grid) for grid in _fronts(contents) if grid.rows]
        parts = [
            Part(run, [write(grid) for grid in _of_run(run, contents)], _copy_pictures(run, folder / "figures"))
            for run in contents.runs
        ]
        text = environment.get_template("report.tex").render(contents=contents, fronts=fronts, parts=parts)
        io.atomic_write(folder / "report.tex", text.encode())
    return folder / "report.tex"


def escape(value: object) -> str:
    """Return text that LaTeX prints as it is; signs that it has no name for become their nearest letters."""
    found = []
    for letter in " ".join(str(value).split()):
        if letter in SPECIAL:
            found.append(SPECIAL[letter])
        elif letter.isascii():
            found.append(letter)
        else:
            plain = unicodedata.normalize("NFKD", letter).encode("ascii", "ignore").decode()
            found.append("".join(SPECIAL.get(each, each) for each in plain) or "?")
    return "".join(found)


def _file(*parts: str) -> str:
    """Return a name of a file that needs no escaping."""
    return re.sub("[^a-zA-Z0-9]+", "-", "-".join(parts))


def _number(cell: str) -> str:
    """Return a cell in math mode where it begins with a number."""
    words = escape(cell)
    return (
        f"${words.replace(' ', '~')}$" if re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?( \[[-+\d.e, ]+\])?", cell) else words
    )


def _fronts(contents: Contents) -> list[Grid]:
    claims = contents.claims or tuple(claim for runs in contents.studies().values() for claim in runs[0].claims[:6])
    decided = [
        (
            claim.id,
            claim.claim,
            claim.decision,
            f"{interval(brief(claim.effect), brief(claim.low), brief(claim.high))} {claim.unit}".strip(),
            _test(claim),
            claim.control,
        )
        for claim in claims
    ]
    numbers = [
        (
            row.setting,
            row.metric,
            brief(row.published),
            interval(brief(row.ours), brief(row.low), brief(row.high)),
            row.status,
            row.why,
        )
        for row in contents.published
    ]
    said = [(row.source, row.statement, row.tables_say, row.ours) for row in contents.statements]
    return [
        _grid("claims", "Verdicts: what each claim comes to.", "lp{32mm}p{30mm}p{27mm}p{25mm}p{28mm}",
              ("", "claim", "decision", "effect", "test", "control"), decided),
        _grid("published", "Published numbers beside ours, with 95 \\% intervals.", "p{35mm}lrrlp{35mm}",
              ("setting", "metric", "published", "ours", "status", "why"), numbers),
        _grid("statements", "Statements of the paper, its own tables, and our runs.", "p{25mm}p{45mm}p{45mm}p{40mm}",
              ("source", "statement", "its tables", "ours"), said),
    ]  # fmt: skip


def _test(claim: Claim) -> str:
    alike = f"; equivalence: p = {brief(claim.equivalence_p)}" if claim.equivalence_p else ""
    return f"{claim.test}{f', p = {brief(claim.p)}' if claim.p else ''}{alike}"


def _grid(name: str, caption: str, types: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Grid:
    types = types.replace("p{", ">{\\raggedright\\arraybackslash}p{")
    cells = tuple(tuple(_number(cell) for cell in row) for row in rows)
    return Grid(name, caption, types, tuple(map(escape, heads)), cells, "")


def _of_run(run: Run, contents: Contents) -> list[Grid]:
    """Return the tables of a run that sum up others; wide ones in parts that repeat their first column."""
    grids = []
    for table in contents.own_tables(run):
        if table.name in LONG:
            continue
        printed = shown(table, MOST_ROWS, 10**6)
        pieces = list(_pieces(printed))
        for index, columns in enumerate(pieces):
            part = f" (part {index + 1} of {len(pieces)})" if len(pieces) > 1 else ""
            caption = f"{table.name.replace('_', ' ').capitalize()}, {run.name}{part}."
            cut = f"The first {len(printed.rows)} of {printed.total} rows." if len(printed.rows) < printed.total else ""
            types = "".join("r" if printed.numeric[i] else "l" for i in columns)
            rows = tuple(tuple(_number(row[i]) for i in columns) for row in printed.rows)
            heads = tuple(escape(printed.columns[i]) for i in columns)
            name = _file(run.study, run.folder.name, table.name, str(index + 1))
            grids.append(Grid(name, escape(caption), types, heads, rows, cut))
    return grids


def _pieces(printed: Shown) -> list[list[int]]:
    """Return the columns of each part of a table, as many as a line holds; the first column is in all parts."""
    widths = [
        2 + max([len(head), *(len(row[i]) for row in printed.rows)]) for i, head in enumerate(printed.columns)
    ]  # fmt: skip
    pieces: list[list[int]] = [[0]]
    for index in range(1, len(widths)):
        if len(pieces[-1]) > 1 and sum(widths[i] for i in pieces[-1]) + widths[index] > WIDTH:
            pieces.append([0])
        pieces[-1].append(index)
    return pieces


def _copy_pictures(run: Run, folder: Path) -> list[Picture]:
    found = []
    for figure in run.figures:
        kind = next((kind for kind in ("pdf", "png") if kind in figure.files), None)
        if kind is not None:
            name = f"{_file(run.study, run.folder.name, figure.name)}.{kind}"
            shutil.copyfile(figure.files[kind], folder / name)
            found.append(Picture(name, escape(_pictures.alt(run, figure))))
    return found
