"""Tables as people read them: a mean with its interval in one column, numbers in few digits, long tables cut."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from ntkgen.report._contents import Table
from ntkgen.report._quality import number

MOST_ROWS, MOST_CELLS, MOST_LETTERS = 120, 2_400, 60
# Tables as measured, which other tables sum up.
LONG = (
    "runs",
    "correct",
    "networks",
    "matched",
    "perturbation",
    "density",
    "plane",
    "lines",
    "tracking",
    "eigenvalues",
)
# A table's plain columns "low" and "high" belong to the first of these that it has.
OWNERS = ("ours", "effect", "difference", "value", "rate", "estimate", "mean", "psi")


class Shown(NamedTuple):
    """A table to print.

    Attributes:
      name: of the CSV file, without its suffix.
      columns: headings.
      numeric: whether a column holds numbers.
      rows: cells as text.
      total: rows of the whole table.
      left: columns that the CSV has and this table has not.
    """

    name: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    total: int
    left: tuple[str, ...]


class Column(NamedTuple):
    heading: str
    parts: tuple[int, ...]  # the value; or value, low, high


def shown(table: Table, most_rows: int = MOST_ROWS, most_cells: int = MOST_CELLS) -> Shown:
    """Return a table as it is printed."""
    columns, left = fold(table.columns)
    filled = [column for column in columns if any(row[column.parts[0]] for row in table.rows)] or columns
    left += tuple(column.heading for column in columns if column not in filled)
    columns = filled
    count = min(len(table.rows), most_rows, max(5, most_cells // max(1, len(columns))))
    rows = tuple(tuple(_cell([row[i] for i in column.parts]) for column in columns) for row in table.rows[:count])
    numeric = tuple(numeric_column([row[column.parts[0]] for row in table.rows[:count]]) for column in columns)
    return Shown(table.name, tuple(column.heading for column in columns), numeric, rows, len(table.rows), left)


def numeric_column(cells: Sequence[str]) -> bool:
    known = [cell for cell in cells if cell not in ("", "nan", "inf", "-inf")]
    if set(known) & {"True", "False"}:
        return False
    return bool(known) and all(number(cell) is not None for cell in known)


def fold(names: Sequence[str]) -> tuple[list[Column], tuple[str, ...]]:
    """Return the columns to print and the names that are left out."""
    at = {name: index for index, name in enumerate(names)}
    taken: dict[str, tuple[str, str]] = {}
    left: list[str] = []
    for name in names:
        stem = name.removesuffix("_mean")
        pairs = [(f"{stem}_t_low", f"{stem}_t_high"), (f"{stem}_low", f"{stem}_high")]
        ends = next(((low, high) for low, high in pairs if low in at and high in at), None)
        if ends:
            taken[name] = ends
            if name.endswith("_mean"):
                left += [f"{stem}_{end}" for end in ("std", "boot_low", "boot_high") if f"{stem}_{end}" in at]
    owner = next((name for name in OWNERS if name in at), None)
    if owner and "low" in at and "high" in at and owner not in taken:
        taken[owner] = ("low", "high")
    gone = {end for ends in taken.values() for end in ends} | set(left)
    columns = []
    for name in names:
        if name in gone:
            continue
        heading = name.removesuffix("_mean") if name in taken else name
        parts = (at[name], *(at[end] for end in taken.get(name, ())))
        columns.append(Column(heading.replace("_", " "), parts))
    return columns, tuple(left)


def _cell(parts: Sequence[str]) -> str:
    value, *ends = map(brief, parts)
    return interval(value, *ends) if ends else value


def interval(value: str, low: str, high: str) -> str:
    """Return `value [low, high]`, or the value alone where it has no interval."""
    known = number(low) is not None and number(high) is not None
    return f"{value} [{low}, {high}]" if value and known else value


def brief(cell: str) -> str:
    """Return a cell in few digits: whole numbers as they are, others with four; long text is cut."""
    value = number(cell)
    if cell in ("True", "False"):
        return {"True": "yes", "False": "no"}[cell]
    if value is None or cell.lstrip("+-").isdigit():
        return cell if len(cell) <= MOST_LETTERS else cell[: MOST_LETTERS - 1] + "…"
    if value and (abs(value) < 1e-4 or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.4g}" if abs(value) < 1e3 else f"{value:.{max(0, 4 - math.ceil(math.log10(abs(value))))}f}"


def whole(text: str) -> str:
    """Return a text that is not cut, its numbers in few digits."""
    return re.sub(r"-?\d+\.\d{5,}(e[-+]?\d+)?", lambda found: brief(found[0]), text)
