"""Claims from the verdicts of studies, whose shapes differ, and published numbers from their comparisons."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ntkgen.report._contents import Claim, Published, Table

SEEN, NOT_SEEN, UNDECIDED = "seen", "not seen", "undecided"
DECISIONS = ("decision", "answer", "verdict")
CLAIMS = ("claim", "relation", "question", "about")
CONTEXT = (
    "loss",
    "limit",
    "at",
    "metric",
    "smallest",
    "largest",
    "changes",
    "keep_percent",
)  # of claims that are made for several series
EFFECTS = ("effect", "difference", "value", "rise", "fall", "highest")
# In the order in which they decide; the words name the test.
TESTS = {
    "paired_adjusted": "paired t-test by seed, adjusted for false discoveries",
    "adjusted_for": "one-sided t-test by seed, adjusted for false discoveries",
    "adjusted": "adjusted for false discoveries",
    "p": "test by seed",
    "pvalue": "test by seed",
}
EQUIVALENCE = ("equivalence_adjusted", "equivalence_p")
SKIPPED = {"words", "low", "high", "unit", "test", "control", "id", "reason"}


def kind(decision: str) -> str:
    """Return "seen", "not seen", "undecided", or "stated" for a decision in other words."""
    words = decision.strip().lower()
    return next((each for each in (NOT_SEEN, SEEN, UNDECIDED) if words.startswith(each)), "stated")


def text(value: Any) -> str:
    """Return a JSON value as a cell: empty for None, lists with commas between."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(text, value))
    if isinstance(value, dict):
        return "; ".join(f"{name.replace('_', ' ')} {text(each)}" for name, each in value.items() if each is not None)
    return repr(value) if isinstance(value, float) else str(value)


def claims(verdict: Any, run: str, question: str) -> tuple[Claim, ...]:
    """Return what a verdict.json decides: every entry with a decision in it, but for one around all others.

    Args:
      verdict: what the file holds.
      run: its name.
      question: of the study; stands for the claim where an entry does not name its own.
    """
    return tuple(_claim(entry, path, run, question) for entry, path in _entries(verdict, ""))


def facts(verdict: Any) -> tuple[tuple[str, str], ...]:
    """Return the entries of a verdict.json that decide nothing: numbers, words and lists of them, by name.

    In a list they are those of its items that only sum up decisions within; several are told apart by a number.
    """
    if isinstance(verdict, list):
        found = [
            facts(item) if any(True for value in item.values() for _ in _entries(value, "")) else ()
            for item in verdict
            if isinstance(item, dict)
        ]
        return tuple(
            (f"{name}, {index}" if len(found) > 1 else name, words)
            for index, each in enumerate(found, 1)
            for name, words in each
        )
    if not isinstance(verdict, dict):
        return ()
    plain = {
        name: value
        for name, value in verdict.items()
        if name not in DECISIONS and not any(True for _ in _entries(value, ""))
    }
    return tuple((name.replace("_", " "), words) for name, value in plain.items() if (words := text(value)))


def _entries(value: Any, path: str) -> Iterator[tuple[dict[str, Any], str]]:
    if isinstance(value, list):
        for item in value:
            yield from _entries(item, path)
    elif isinstance(value, dict):
        inner = [found for name, item in value.items() for found in _entries(item, name)]
        # The outermost decision only repeats those within.
        if any(isinstance(value.get(name), str) for name in DECISIONS) and (path or not inner):
            yield value, path
        yield from inner


def _claim(entry: Mapping[str, Any], path: str, run: str, question: str) -> Claim:
    named = next(name for name in DECISIONS if isinstance(entry.get(name), str))
    said = next((name for name in CLAIMS if entry.get(name)), "")
    effect = next((name for name in EFFECTS if isinstance(entry.get(name), int | float)), "")
    test = next((name for name in TESTS if entry.get(name) is not None), "")
    same = next((name for name in EQUIVALENCE if entry.get(name) is not None), "")
    words = str(entry.get("words") or entry[named])
    used = {named, said, effect, test, same, *SKIPPED}
    context = {name: text(entry[name]) for name in CONTEXT if entry.get(name) not in (None, "")}
    where = ", ".join(
        value if name in ("loss", "limit") else f"{name.replace('_', ' ')} {value}" for name, value in context.items()
    )
    title = str(entry.get(said, "")) or path.replace("_", " ") or question
    if isinstance(entry.get("first"), str) and isinstance(entry.get("second"), str):
        title += f": {entry['first']} against {entry['second']}"
        used |= {"first", "second"}
    used |= set(context)
    rest = tuple((name.replace("_", " "), text(each)) for name, each in entry.items() if name not in used)
    id_ = path if path[:1] in ("H", "R") and path[-1:].isdigit() else ""
    return Claim(
        id=id_,
        claim=f"{title} ({where})" if where else title,
        decision=words if kind(words) != "stated" or named != "answer" else str(entry[named]),
        effect=text(entry.get(effect)),
        unit=text(entry.get("unit")),
        low=text(entry.get("low")),
        high=text(entry.get("high")),
        test=text(entry.get("test")) or TESTS.get(test, ""),
        p=text(entry.get(test)),
        equivalence_p=text(entry.get(same)),
        control=text(entry.get("control")),
        run=run,
        details=tuple((name, words) for name, words in rest if words) + _reason(entry),
    )


def _reason(entry: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return (("reason", str(entry["reason"])),) if entry.get("reason") else ()


def compared(table: Table, run: str, source: str) -> tuple[Published, ...]:
    """Return the rows of a study's comparison.csv that have a published number, graded by our interval."""
    known = ("metric", "published", "ours", "low", "high", "difference", "inside")
    found = []
    for row in table.dicts():
        if not row.get("published"):
            continue
        where = ", ".join(
            cell if name == "setting" else f"{name.replace('_', ' ')} {cell}"
            for name, cell in row.items()
            if name not in known and cell
        )
        status, why = grade(row)
        numbers = {name: row.get(name, "") for name in ("metric", "published", "ours", "low", "high")}
        found.append(Published(source=source, setting=where, **numbers, status=status, why=why, run=run))
    return tuple(found)


def grade(row: Mapping[str, str]) -> tuple[str, str]:
    """Return the status of a compared row, and why."""
    if not row.get("ours"):
        return "missing", "this run has no such number"
    inside = row.get("inside", "")
    if inside == "":
        return "not comparable", "one seed has no interval"
    return ("within", "") if inside in ("True", "1", "true") else ("outside", "")


def rows_of(table: Table | None, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a table with just these columns; a column that is not there is empty."""
    return [{name: row.get(name, "") for name in names} for row in table.dicts()] if table else []
