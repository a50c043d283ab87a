"""Reads a results folder: `<study>/<dataset>-<hash>/` with config.json, tables, verdict and figures."""

import csv
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ntkgen import io, plotting
from ntkgen.report import _protocol, _verdicts
from ntkgen.report._commands import command
from ntkgen.report._contents import Claim, Contents, Figure, Published, ReportError, Run, Statement, Table
from ntkgen.report._quality import quality
from ntkgen.report._shown import LONG

STORE = "networks"  # trained networks, no study
FIRST = ("answer", "summary", "comparison", "tests", "associations", "effects", "equal_loss")  # of a run's tables
CLAIM = ("id", "claim", "decision", "effect", "unit", "low", "high", "test", "p", "control", "run")
PUBLISHED = ("source", "setting", "metric", "published", "ours", "low", "high", "status", "why", "run")
STATEMENT = ("source", "statement", "tables_say", "ours")


def collect(folder: str | os.PathLike) -> Contents:
    """Return what a results folder holds; what is missing or damaged in a run is named in its gaps.

    Example:
      >>> import tempfile
      >>> from ntkgen import records, report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with records.open_run(folder, "double_descent", "digits", {"epochs": 1}) as run:
      ...         path = run.write_table("runs.csv", [{"seed": 0, "test_acc": 97.0}])
      ...     contents = report.collect(folder)
      >>> [(run.study, run.finished, run.tables[0].name) for run in contents.runs]
      [('double_descent', False, 'runs')]

    Args:
      folder: the results folder, `--out_dir` of the studies.

    Raises:
      ReportError: the folder does not exist, is empty, holds no run, or a config.json in it is damaged.
    """
    folder = Path(folder)
    try:
        if not folder.is_dir():
            raise ReportError(f"{folder} is a file; expected a results folder" if folder.exists() else _absent(folder))
        if not any(folder.iterdir()):
            raise ReportError(f"{folder} is empty; expected a results folder")
        if (folder / "config.json").is_file():
            raise ReportError(f"{folder} is a single run; expected the results folder that it lies in")
        runs = sorted((_run(each, folder) for each in _run_folders(folder)), key=_order)
    except OSError as error:
        raise ReportError(f"{error.filename or folder}: {error.strerror or error}") from None
    if not runs:
        raise ReportError(f"{folder} is no results folder: expected runs in it, as <study>/<data>-<hash>/config.json")
    study = {run.study for run in runs}
    whole = next((run for run in runs if run.study == "reproduce" and run.table("claims")), None)
    return Contents(
        folder=folder,
        runs=tuple(runs),
        missing=tuple(name for name in _protocol.EXPECTED if name not in study),
        claims=_claims(whole),
        published=_published(runs),
        statements=_statements(runs),
        plan=next((table for run in runs if run.study == "reproduce" and (table := run.table("plan"))), None),
        mixed=_mixed(runs),
    )


def _absent(folder: Path) -> str:
    return f"{folder} does not exist; expected a results folder"


def _run_folders(folder: Path) -> Iterator[Path]:
    for study in sorted(path for path in folder.iterdir() if path.is_dir() and path.name != STORE):
        yield from sorted(path.parent for path in study.glob("*/config.json"))


def _order(run: Run) -> tuple[int, str, float, str]:
    """Order runs by study, then by age, newest first."""
    known = list(_protocol.STUDIES)
    place = known.index(run.study) if run.study in known[1:] else (len(known) + (run.study == "reproduce"))
    written = run.folder / ("finished.json" if run.finished else "config.json")
    return place, run.study, -written.stat().st_mtime, run.name


def _run(folder: Path, root: Path) -> Run:
    about = _about(folder / "config.json")
    sums, gaps = _sums(folder), []
    if sums is None:
        gaps.append("This run is not finished: the same command goes on with it.")
    tables = []
    for path in sorted(folder.glob("*.csv"), key=lambda path: (_place(path.stem), path.stem)):
        table = _table(path)
        if isinstance(table, str):
            gaps.append(table)
        else:
            tables.append(table)
    verdict = _json(folder / "verdict.json")
    if isinstance(verdict, ReportError):
        gaps.append(str(verdict))
        verdict = None
    for name, expected in sorted((sums or {}).items()):
        path = folder / name
        if not path.is_file():
            gaps.append(f"{name} is missing: the run wrote it.")
        elif io.sha256_bytes(path.read_bytes()) != expected and path.suffix in (".csv", ".json"):
            gaps.append(f"{name} is not as the run left it.")
    figures = _figures(folder)
    if not figures:
        gaps.append("There are no figures in this run's folder.")
    name = f"{about['study']}/{folder.name}"
    line, exact = command(about, {kind for figure in figures for kind in figure.files}, root)
    return Run(
        study=about["study"],
        dataset=about["dataset"],
        name=name,
        folder=folder,
        about=about,
        finished=sums is not None,
        command=line,
        exact=exact,
        tables=tuple(tables),
        figures=figures,
        claims=_verdicts.claims(verdict, name, _protocol.about(about["study"]).question),
        facts=_verdicts.facts(verdict),
        settings=_protocol.settings(about["study"], about["config"]),
        quality=tuple(found for table in tables for found in quality(table)),
        gaps=tuple(gaps),
    )


def _about(path: Path) -> dict[str, Any]:
    found = _json(path)
    kinds = {"study": str, "dataset": str, "config": dict, "versions": dict}
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in kinds.items()):
        raise ReportError(f"{path} is damaged; --force of the study begins the run anew")
    return found


def _json(path: Path) -> Any:
    """Return what a JSON file holds, None if there is none, and an error as a value if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValueError, RecursionError):
        return ReportError(f"{path.name} is damaged.")


def _sums(folder: Path) -> dict[str, Any] | None:
    found = _json(folder / "finished.json")
    return found if isinstance(found, dict) else None


def _place(name: str) -> int:
    return FIRST.index(name) if name in FIRST else len(FIRST) + (100 + LONG.index(name) if name in LONG else 0)


def _table(path: Path) -> Table | str:
    """Return a table, or what is wrong with it."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [tuple(row) for row in csv.reader(file)]
    except (OSError, ValueError, csv.Error):
        return f"{path.name} cannot be read."
    if not rows or any(len(row) != len(rows[0]) for row in rows) or len(set(rows[0])) < len(rows[0]):
        return f"{path.name} is damaged: its rows differ in length, or its columns have no names of their own."
    return Table(path.stem, rows[0], tuple(rows[1:]))


def _figures(folder: Path) -> tuple[Figure, ...]:
    files: dict[str, dict[str, Path]] = {}
    for kind in plotting.FORMATS:
        for path in sorted(folder.glob(f"*.{kind}")):
            files.setdefault(path.stem, {})[kind] = path
    # A figure drawn for a paper too is shown once, as for a screen: that one has a title.
    ends = [f"_{width}" for width in plotting.WIDTHS if width != "screen"]
    twice = [name for name in files for end in ends if name.endswith(end) and name.removesuffix(end) in files]
    return tuple(Figure(name, _title(files[name]), files[name]) for name in sorted(files) if name not in twice)


def _title(files: dict[str, Path]) -> str:
    if "png" in files and (found := plotting.title_of(files["png"].read_bytes())):
        return found
    if "svg" in files:
        named = re.search("<dc:title>(.*?)</dc:title>", files["svg"].read_text("utf-8", errors="replace"), re.DOTALL)
        if named:
            return " ".join(named[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&").split())
    return ""


def _claims(whole: Run | None) -> tuple[Claim, ...]:
    table = whole.table("claims") if whole else None
    if table is None:
        return ()
    more = [tuple(item for item in row.items() if item[0] not in CLAIM and item[1]) for row in table.dicts()]
    rows = _verdicts.rows_of(table, CLAIM)
    return tuple(Claim(**row, equivalence_p="", details=each) for row, each in zip(rows, more, strict=True))


def _published(runs: list[Run]) -> tuple[Published, ...]:
    """Return what `reproduce` graded, or else the comparisons of the newest run of each study and data set."""
    for run in runs:
        if run.study == "reproduce" and (table := run.table("published")):
            graded = _verdicts.rows_of(table, PUBLISHED)
            if "study" in table.columns:  # a setting says little without it
                named = (row["study"] for row in table.dicts())
                graded = [
                    {**row, "setting": ", ".join(filter(None, (study, row["setting"])))}
                    for row, study in zip(graded, named, strict=True)
                ]
            return tuple(Published(**row) for row in graded)
    found: dict[tuple[str, str], tuple[Published, ...]] = {}
    for run in runs:
        table = run.table("comparison")
        rows = _verdicts.compared(table, run.name, _protocol.about(run.study).section) if table else ()
        if rows:
            found.setdefault((run.study, run.dataset), rows)
    return tuple(row for rows in found.values() for row in rows)


def _statements(runs: list[Run]) -> tuple[Statement, ...]:
    tables = (run.table("statements") for run in runs if run.study == "reproduce")
    found = next((table for table in tables if table), None)
    return tuple(Statement(**row) for row in _verdicts.rows_of(found, STATEMENT))


def _mixed(runs: list[Run]) -> tuple[str, ...]:
    """Return the versions and commits of which there are several among the runs."""
    found = []
    packages = dict.fromkeys(name for run in runs for name in run.about["versions"])
    for name in ("commit", *packages):
        counts: dict[str, int] = {}
        for run in runs:
            value = str((run.about if name == "commit" else run.about["versions"]).get(name) or "unknown")
            value = value[:12] + "-dirty" * value.endswith("-dirty") if name == "commit" else value
            counts[value] = counts.get(value, 0) + 1
        if len(counts) > 1:
            each = (f"{value} ({count} run{'s' * (count > 1)})" for value, count in sorted(counts.items()))
            found.append(f"{name}: {', '.join(each)}")
    return tuple(found)
