"""One table as LaTeX for a paper: booktabs, numbers rounded to their error, as many parts as a page is wide."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ntkgen.report._contents import Table
from ntkgen.report._latex import MOST_ROWS, WIDTH, escape
from ntkgen.report._quality import number
from ntkgen.report._shown import Column, brief, fold, numeric_column

# Derived tables that sum up a study.
SUMMARIES = ("summary", "comparison", "tests", "answer", "equal_loss")
ONE_COLUMN = 55  # letters that fit into one column of a paper
# Columns as people write them.
NAMES = {
    "train acc": "training accuracy (%)",
    "test acc": "test accuracy (%)",
    "gap": "gap (points)",
    "train loss": "training loss (nats)",
    "test loss": "test loss (nats)",
    "eigenvalue": "top Hessian eigenvalue",
    "num params": "parameters",
    "params per example": "parameters per example",
    "num seeds": "seeds",
    "num diverged": "diverged",
    "num train": "training examples",
    "keep percent": "weights kept (%)",
    "paired p": "$p$, paired",
    "welch p": "$p$, Welch",
}


def booktabs(rows: Sequence[Mapping[str, Any]], caption: str = "", label: str = "") -> str:
    r"""Return a table as LaTeX source; it needs the package booktabs alone.

    A mean and its interval share a cell: `97.12 ± 0.13` where the interval is symmetric, else `1.9 [1.2, 3.4]`; the
    error has two significant digits. Wide tables come in parts that repeat their first column; the first 60 rows are
    printed.

    Example:
      >>> from ntkgen import report
      >>> row = {"width": 64, "test_acc_mean": 97.1234, "test_acc_t_low": 96.9934, "test_acc_t_high": 97.2534}
      >>> print(report.booktabs([row], "Accuracy."))
      % Needs \usepackage{booktabs}.
      \begin{table}[t]
      \centering\small
      \caption{Accuracy. Intervals: 95 \%.}
      \begin{tabular}{@{}rr@{}}
      \toprule
      width & test accuracy (\%) \\
      \midrule
      $64$ & $97.12 \pm 0.13$ \\
      \bottomrule
      \end{tabular}
      \end{table}
      <BLANKLINE>

    Args:
      rows: cells by column, as in a study's tables: numbers, text, None for nothing.
      caption: of the table; a sentence.
      label: for \ref; empty for none.

    Raises:
      ValueError: no row.
    """
    if not rows:
        raise ValueError("rows: expected at least one row, got none")
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    table = Table("", names, tuple(tuple(_text(row.get(name)) for name in names) for row in rows))
    columns = [column for column in fold(names)[0] if any(row[column.parts[0]] for row in table.rows)]
    if not columns:
        raise ValueError("rows: expected at least one cell that is not empty, got none")
    printed = table.rows[:MOST_ROWS]
    cells = [[_cell([row[i] for i in column.parts]) for row in printed] for column in columns]
    words = [caption] if caption else []
    if any(len(column.parts) > 1 for column in columns):
        words.append("Intervals: 95 %.")
    if len(printed) < len(rows):
        words.append(f"The first {len(printed)} of {len(rows)} rows.")
    source = ["% Needs \\usepackage{booktabs}."]
    pieces = _pieces(columns, cells)
    for index, piece in enumerate(pieces):
        part = [f"Part {index + 1} of {len(pieces)}."] if len(pieces) > 1 else []
        wide = sum(_wide(columns[i], cells[i]) for i in piece) > ONE_COLUMN
        environment = "table*" if wide else "table"
        types = "".join("r" if numeric_column([row[columns[i].parts[0]] for row in printed]) else "l" for i in piece)
        source += [f"\\begin{{{environment}}}[t]", "\\centering\\small"]
        if said := " ".join([*words, *part]):
            source.append(f"\\caption{{{escape(said)}}}")
        if label:
            source.append(f"\\label{{{_label(label)}{f'-{index + 1}' if index else ''}}}")
        source += [f"\\begin{{tabular}}{{@{{}}{types}@{{}}}}", "\\toprule"]
        source += [" & ".join(_heading(columns[i]) for i in piece) + r" \\", "\\midrule"]
        source += [" & ".join(cells[i][row] for i in piece) + r" \\" for row in range(len(printed))]
        source += ["\\bottomrule", "\\end{tabular}", f"\\end{{{environment}}}"]
    return "\n".join(source) + "\n"


def rounded(value: float, low: float, high: float) -> str:
    """Return a number with its interval as LaTeX without $, rounded so that the error has two significant digits."""
    half = (high - low) / 2
    if not (half > 0 and math.isfinite(half)):
        return _plain(value)
    size = max(abs(value), abs(low), abs(high))
    exponent = math.floor(math.log10(size))
    scale = exponent if exponent < -3 or exponent >= 6 else 0
    digits = 1 - math.floor(math.log10(float(f"{half / 10.0**scale:.1e}")))  # 0.0996 rounds to 0.10
    number, below, above, error = (_fixed(each / 10.0**scale, digits) for each in (value, low, high, half))
    symmetric = abs((high - value) - (value - low)) <= 0.1 * half
    power = f" \\times 10^{{{scale}}}" if scale else ""
    if symmetric:
        return f"({number} \\pm {error}){power}" if scale else f"{number} \\pm {error}"
    return f"{number}\\ [{below}, {above}]{power}"


def _fixed(value: float, digits: int) -> str:
    found = f"{round(value, digits):.{max(digits, 0)}f}"
    return found.removeprefix("-") if float(found) == 0 else found


def _plain(value: float) -> str:
    mantissa, _, power = brief(repr(value)).partition("e")
    return f"{mantissa} \\times 10^{{{int(power)}}}" if power else mantissa


def _text(cell: Any) -> str:
    return "" if cell is None or (isinstance(cell, float) and math.isnan(cell)) else str(cell)


def _cell(parts: Sequence[str]) -> str:
    """Return a cell as LaTeX; the parts are the value, or value, low and high."""
    value = number(parts[0])
    if value is None or parts[0] in ("True", "False") or not math.isfinite(value):
        return escape(brief(parts[0]))
    if re.fullmatch(r"[-+]?\d+", parts[0]):
        return f"${parts[0]}$"
    ends = [number(part) for part in parts[1:]]
    if len(ends) == 2 and ends[0] is not None and ends[1] is not None:
        return f"${rounded(value, ends[0], ends[1])}$"
    return f"${_plain(value)}$"


def _heading(column: Column) -> str:
    words = NAMES.get(column.heading, column.heading)
    return words if words.startswith("$") else escape(words)


def _label(label: str) -> str:
    return re.sub(r"[^a-zA-Z0-9:.-]+", "-", label)


def _wide(column: Column, cells: Sequence[str]) -> int:
    """Return about how many letters wide a column is printed."""
    shown = [re.sub(r"\\[a-z]+|[{}$\\]", "", cell) for cell in [_heading(column), *cells]]
    return 2 + max(map(len, shown))


def _pieces(columns: Sequence[Column], cells: Sequence[Sequence[str]]) -> list[list[int]]:
    """Return the columns of each part, as many as a line holds; the first column is in all parts."""
    wide = [_wide(column, own) for column, own in zip(columns, cells, strict=True)]
    pieces: list[list[int]] = [[0]]
    for index in range(1, len(columns)):
        if len(pieces[-1]) > 1 and sum(wide[i] for i in pieces[-1]) + wide[index] > WIDTH:
            pieces.append([0])
        pieces[-1].append(index)
    return pieces
