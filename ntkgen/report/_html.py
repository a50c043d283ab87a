"""The report as one HTML file that needs nothing else: no network, no foreign scripts. Its own only sorts tables."""

import itertools
import json
from pathlib import Path
from typing import NamedTuple

import jinja2
from markupsafe import Markup

from ntkgen import io
from ntkgen.report import _pictures, _protocol, _verdicts, _writing
from ntkgen.report._contents import Claim, Contents, Figure, Run
from ntkgen.report._quality import number
from ntkgen.report._shown import LONG, Shown, brief, interval, shown, whole

MOST_PICTURES = 1_150_000  # bytes of all figures in the page
MOST_TABLES = 12_500  # cells of all tables in the page
MOST_CELLS = 900  # of a table
RAW_CELLS = 300  # of a table that other tables sum up
MARKS = {
    "seen": "●", "not seen": "○", "undecided": "◐", "stated": "◆",
    "within": "●", "outside": "✕", "not comparable": "◐", "missing": "○",
}  # fmt: skip


class Drawn(NamedTuple):
    """A figure in the page; `markup` is empty where it was left out."""

    figure: Figure
    alt: str
    markup: Markup


class Bar(NamedTuple):
    """An interval as a drawing of width 100: its ends, its middle, and where "no effect" is."""

    low: float
    high: float
    middle: float
    nothing: float


def html(contents: Contents, path: str | Path) -> Path:
    """Write the report as one self-contained HTML file, and return its path.

    Example:
      >>> import tempfile
      >>> from ntkgen import records, report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with records.open_run(folder, "double_descent", "digits", {"epochs": 1}) as run:
      ...         path = run.write_table("runs.csv", [{"seed": 0, "test_acc": 97.0}])
      ...     report.html(report.collect(folder), f"{folder}/report.html").name
      'report.html'

    Args:
      contents: of `collect`.
      path: the file; its folder is made.

    Raises:
      ReportError: the file cannot be written.
    """
    path = _writing.file(path)
    with _writing.errors(path):
        io.atomic_write(path, page(contents).encode())
    return path


def page(contents: Contents) -> str:
    """Return the report as HTML; the same contents give the same text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("ntkgen.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    counter = itertools.count(1)
    environment.filters |= {"brief": brief, "whole": whole, "kind": _verdicts.kind, "mark": MARKS.get}
    environment.globals |= {
        "about": _protocol.about,
        "bar": bar,
        "chips": _chips,
        "record": _record,
        "interval": interval,
        "name_of": lambda run: f"run-{run.name.replace('/', '-')}",
        "unique": lambda: f"n{next(counter)}",
        "file": lambda name: Markup(environment.loader.get_source(environment, name)[0]),  # type: ignore[union-attr]
    }
    order = sorted(contents.runs, key=lambda run: contents.studies()[run.study].index(run))  # the newest ones first
    return environment.get_template("report.html").render(
        contents=contents,
        claims=_headlines(contents),
        counts={name: sum(row.status == name for row in contents.published) for name in list(MARKS)[4:]},
        drawn=_draw(order),
        tables=_tables(contents, order),
    )


def _headlines(contents: Contents) -> list[tuple[str, str, list[Claim], int]]:
    """Return what the report begins with: heading, study, claims, number of claims that are left to its section."""
    if contents.claims:
        return [("Hypotheses and research questions", "reproduce", list(contents.claims), 0)]
    found = []
    for study, runs in contents.studies().items():
        claims = list(runs[0].claims)
        if claims:
            found.append((_protocol.about(study).title, study, claims[:6], max(0, len(claims) - 6)))
    return found


def _draw(runs: list[Run]) -> dict[str, list[Drawn]]:
    """Return run -> its figures; those that would make the page too large are left out."""
    found: dict[str, list[Drawn]] = {}
    left = MOST_PICTURES
    for index, run in enumerate(runs):
        found[run.name] = []
        for place, figure in enumerate(run.figures):
            words = _pictures.alt(run, figure)
            markup = _pictures.picture(figure, words, f"f{index}-{place}-")
            if len(markup) > left:
                markup = Markup("")
            left -= len(markup)
            found[run.name].append(Drawn(figure, words, markup))
    return found


def _tables(contents: Contents, runs: list[Run]) -> dict[str, list[Shown]]:
    """Return run -> its tables as they are printed; the longer the report, the fewer rows of each."""
    found: dict[str, list[Shown]] = {}
    left = MOST_TABLES
    for run in runs:
        found[run.name] = []
        for table in contents.own_tables(run):
            most = RAW_CELLS if table.name in LONG else MOST_CELLS
            found[run.name].append(shown(table, most_cells=min(most, max(0, left))))
            left -= len(found[run.name][-1].rows) * len(found[run.name][-1].columns)
    return found


def bar(claim: Claim) -> Bar | None:
    """Return the interval of a claim as a drawing, None if it has none; ratios have no effect at 1, others at 0."""
    value, low, high = map(number, (claim.effect, claim.low, claim.high))
    if value is None or low is None or high is None:
        return None
    nothing = 1.0 if "ratio" in claim.unit else 0.0
    ends = min(low, value, nothing), max(high, value, nothing)
    span = (ends[1] - ends[0]) or 1.0
    at = [round(6 + 88 * (each - ends[0]) / span, 1) for each in (low, high, value, nothing)]
    return Bar(*at)


def _chips(run: Run) -> list[str]:
    """Return in short what a run was made with."""
    device = run.about.get("device")
    device = device if isinstance(device, dict) else {}
    kind, count = device.get("kind") or device.get("platform") or "unknown device", device.get("count") or 1
    versions = run.about["versions"]
    return [
        "finished" if run.finished else "not finished",
        f"{kind} × {count}" if count != 1 else str(kind),
        *(f"{name} {versions.get(name, 'unknown')}" for name in ("ntkgen", "jax")),
        f"commit {str(run.about.get('commit') or 'unknown')[:12]}",
    ]


def _record(run: Run) -> str:
    """Return config.json, but for what stands elsewhere."""
    found = {name: value for name, value in run.about.items() if name not in ("study", "dataset", "command")}
    return json.dumps(found, indent=1, sort_keys=True)
