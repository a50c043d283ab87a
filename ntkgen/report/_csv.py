"""The report as flat CSV tables."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ntkgen import records
from ntkgen.report import _writing
from ntkgen.report._contents import Contents


def csv(contents: Contents, folder: str | Path) -> list[Path]:
    """Write a table for each part of the report that has rows, and return the files.

    Example:
      >>> import tempfile
      >>> from ntkgen import records, report
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with records.open_run(folder, "double_descent", "digits", {"epochs": 1}) as run:
      ...         path = run.write_table("runs.csv", [{"seed": 0, "test_acc": 97.0}])
      ...     sorted(path.suffix for path in report.csv(report.collect(folder), f"{folder}/tables"))[0]
      '.csv'

    Args:
      contents: of `collect`.
      folder: where they go; it is made.

    Raises:
      ReportError: the folder cannot be written.
    """
    folder = _writing.folder(folder)
    with _writing.errors(folder):
        return [records.write_table(folder / f"{name}.csv", rows) for name, rows in _tables(contents).items() if rows]


def _tables(contents: Contents) -> dict[str, list[dict[str, Any]]]:
    decided = [*contents.claims, *(claim for run in contents.runs for claim in run.claims)]
    gaps = [{"run": run.name, "gap": gap} for run in contents.runs for gap in run.gaps]
    gaps += [{"run": study, "gap": "no run of this study"} for study in contents.missing]
    gaps += [{"run": "", "gap": f"runs differ in {words}"} for words in contents.mixed]
    return {
        "claims": [
            {**asdict(claim), "details": "; ".join(f"{name} {value}" for name, value in claim.details)}
            for claim in decided
        ],
        "published": [asdict(row) for row in contents.published],
        "statements": [asdict(row) for row in contents.statements],
        "runs": [
            {
                "run": run.name,
                "study": run.study,
                "dataset": run.dataset,
                "finished": int(run.finished),
                "commit": run.about.get("commit"),
                "ntkgen": run.about["versions"].get("ntkgen"),
                "jax": run.about["versions"].get("jax"),
                "tables": len(run.tables),
                "figures": len(run.figures),
                "command": run.command,
                "command_is_exact": int(run.exact),
            }
            for run in contents.runs
        ],
        "figures": [
            {
                "run": run.name,
                "figure": figure.name,
                "title": figure.title,
                "formats": " ".join(figure.files),
                "command": run.command,
            }
            for run in contents.runs
            for figure in run.figures
        ],
        "protocol": [{"run": run.name, **asdict(setting)} for run in contents.runs for setting in run.settings],
        "quality": [{"run": run.name, **asdict(found)} for run in contents.runs for found in run.quality],
        "gaps": gaps,
    }
