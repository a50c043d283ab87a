"""Short answers for a terminal of 80 columns: what is decided, with the number behind it; the report has the rest."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED

WIDTH = 79


def listed(head: str, names: Sequence[str], separator: str = ", ", width: int = WIDTH) -> str:
    """Return `head: name, name, ...` in one line; the names that do not fit are counted."""
    line = f"{head}: {separator.join(names) or 'none'}"
    kept = list(names)
    while len(line) > width and len(kept) > 1:
        kept.pop()
        line = f"{head}: {separator.join(kept)}{separator}{len(names) - len(kept)} more"
    return line


def by_word(statements: Iterable[tuple[str, str]], indent: str = "") -> list[str]:
    """Return a line for each of seen, not seen and undecided, with what is; statements are (what, decision)."""
    groups: dict[str, list[str]] = {SEEN: [], NOT_SEEN: [], UNDECIDED: []}
    for what, decision in statements:
        word = next((word for word in (NOT_SEEN, UNDECIDED, SEEN) if decision.startswith(word)), None)
        if word is not None:
            groups[word].append(what)
    return [listed(f"{indent}{word} ({len(whats)})", whats, "; ") for word, whats in groups.items() if whats]


def diverged(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line that says how many networks diverged, by the column `num_diverged`, or none."""
    count = sum(int(row["num_diverged"] or 0) for row in rows)
    return [f"diverged and left out: {count} networks"] if count else []


def first_clause(words: str) -> str:
    """Return a decision without its reason, which follows a colon or a bracket."""
    return words.partition(":")[0].partition(" (")[0]
