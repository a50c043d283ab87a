"""How good measured numbers are, from the columns that say so: convergence, residuals, errors, counts."""

import math
import re
import statistics

from ntkgen.report._contents import Quality, Table

SHARES = re.compile(r"(^|_)(converged|diverged|reached|interpolates|comparable|holds)(_|$)")
SIZES = re.compile(r"(residual|stderr|standard_error)")
COUNTS = re.compile(r"^num_(seeds|pairs|groups|arms)$")
MOST = 12  # columns of a table that are named


def quality(table: Table) -> list[Quality]:
    """Return what the columns of a table say about the quality of its numbers."""
    found = []
    for index, column in enumerate(table.columns):
        kind = next((kind for kind in (SHARES, SIZES, COUNTS) if kind.search(column)), None)
        values = [value for row in table.rows if (value := number(row[index])) is not None]
        if kind is None or not values or (kind is SHARES and not set(values) <= {0.0, 1.0}):
            continue
        if kind is SHARES:
            words = f"{sum(map(int, values))} of {len(values)} are {column.replace('_', ' ')}"
        elif kind is SIZES:
            words = f"median {statistics.median(values):.2g}, largest {max(values):.2g}"
        else:
            low, high = min(values), max(values)
            words = f"{low:g}" if low == high else f"{low:g} to {high:g}"
        found.append(Quality(table.name, column, len(values), words))
    return found[:MOST]


def number(cell: str) -> float | None:
    """Return a cell as a finite number; True and False count as 1 and 0, anything else as None."""
    try:
        value = {"True": 1.0, "False": 0.0}.get(cell, None)
        value = float(cell) if value is None else value
    except ValueError:
        return None
    return value if math.isfinite(value) else None
