"""What a report says, as plain values. Numbers are the text of the tables that hold them; an empty text is "none"."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class ReportError(ValueError):
    """A folder cannot be reported, or a report cannot be written; the message is one line that says why.

    Example:
      >>> import tempfile
      >>> from ntkgen import report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     try:
      ...         report.collect(folder)
      ...     except report.ReportError:
      ...         print("no results")
      no results
    """


@dataclass(frozen=True)
class Claim:
    """A claim and what was decided about it.

    Attributes:
      id: such as H1 or RQ3; empty where the claim has none.
      claim: in words.
      decision: in words; begins with "seen", "not seen" or "undecided" where a test decided.
      effect: size of the effect.
      unit: of the effect.
      low: lower end of its interval.
      high: upper end.
      test: which test decided.
      p: its p-value: of the test of a difference, where there is one of equivalence too.
      equivalence_p: p-value of the test of equivalence; a claim that two arms are alike rests on it.
      control: what could have overturned the decision.
      run: the run behind it, `<study>/<folder>`.
      details: other facts, in order.
    """

    id: str
    claim: str
    decision: str
    effect: str = ""
    unit: str = ""
    low: str = ""
    high: str = ""
    test: str = ""
    p: str = ""
    equivalence_p: str = ""
    control: str = ""
    run: str = ""
    details: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Published:
    """A published number beside ours; `status` is within, outside, not comparable or missing."""

    source: str
    setting: str
    metric: str
    published: str
    ours: str
    low: str
    high: str
    status: str
    why: str
    run: str


@dataclass(frozen=True)
class Statement:
    """A statement of the paper's text, what its own tables say, and what our runs say."""

    source: str
    statement: str
    tables_say: str
    ours: str


@dataclass(frozen=True)
class Table:
    """A CSV table of a run: every cell is text, rows are as long as `columns`.

    Example:
      >>> from ntkgen import report
      >>> report.Table("summary", ("width", "acc"), (("4", "97.0"),)).dicts()
      [{'width': '4', 'acc': '97.0'}]
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def dicts(self) -> list[dict[str, str]]:
        """Return the rows as column -> cell."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A figure of a run: its title, and its files by suffix ("png", "svg", "pdf")."""

    name: str
    title: str
    files: Mapping[str, Path]


@dataclass(frozen=True)
class Quality:
    """How good the numbers in a column are: `found` says it in words, over `count` rows."""

    table: str
    column: str
    count: int
    found: str


@dataclass(frozen=True)
class Setting:
    """A setting of a run beside the published protocol; `same` is None where the paper gives no value."""

    name: str
    published: str
    ours: str
    same: bool | None
    note: str = ""


@dataclass(frozen=True)
class Run:
    """A run folder.

    Attributes:
      study: its name.
      dataset: its data.
      name: `<study>/<folder>`, unique in the report.
      folder: where it is.
      about: config.json.
      finished: whether the run is complete.
      command: the command that makes it, up to `--out_dir`; its figures too.
      exact: whether the command repeats what was typed; else it is put together from all settings.
      tables: those that could be read, the derived ones first.
      figures: in order of their names.
      claims: what its verdict decides.
      facts: other entries of the verdict.
      settings: the protocol beside the published one.
      quality: of its measurements.
      gaps: what is missing or damaged, in words.
    """

    study: str
    dataset: str
    name: str
    folder: Path
    about: Mapping[str, Any]
    finished: bool
    command: str
    exact: bool
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()
    claims: tuple[Claim, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    settings: tuple[Setting, ...] = ()
    quality: tuple[Quality, ...] = ()
    gaps: tuple[str, ...] = ()

    def table(self, name: str) -> Table | None:
        """Return the table of a name, None if there is none."""
        return next((table for table in self.tables if table.name == name), None)


@dataclass(frozen=True)
class Contents:
    """Everything a report says.

    Attributes:
      folder: the results folder.
      runs: study by study in a fixed order, newest first within a study.
      missing: studies of the package without a run.
      claims: verdicts on hypotheses and research questions, from the newest finished run of `reproduce`.
      published: every published number that a run can be compared with.
      statements: what the paper's text says against its own tables.
      plan: what `reproduce` estimated and took, by study.
      mixed: what differs between runs that should agree: versions and commits, in words.
    """

    folder: Path
    runs: tuple[Run, ...]
    missing: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    published: tuple[Published, ...] = ()
    statements: tuple[Statement, ...] = ()
    plan: Table | None = None
    mixed: tuple[str, ...] = ()

    def studies(self) -> dict[str, list[Run]]:
        """Return study -> its runs, newest first."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            found.setdefault(run.study, []).append(run)
        return found

    def own_tables(self, run: Run) -> list[Table]:
        """Return the tables of a run that its own section shows; those of `reproduce` that begin the report do not."""
        quoted = ("claims", "published", "statements") if run is self.studies().get("reproduce", [None])[0] else ()
        return [table for table in run.tables if table.name not in quoted]
