"""Walks one study from its settings to tables, verdict and figures, in a run folder that goes on after a kill."""

import contextlib
import dataclasses
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntkgen.studies import base, datasets, options
from ntkgen.studies.base import Derived, Prepared, Rows, Study

if TYPE_CHECKING:  # what opens, works and draws imports it: the command line is checked before JAX is imported
    from ntkgen import records


class Table(list):
    """Rows of one table, each a dict of column -> cell; cells of measured tables are text, as in the CSV file.

    Example:
      >>> from ntkgen.studies.runner import Table
      >>> table = Table([{"seed": "0", "test_acc": "97.0", "arm": "sgd", "published": ""}])
      >>> table
      Table(1 row: seed, test_acc, arm, published)
      >>> table.to_rows()
      [{'seed': 0, 'test_acc': 97.0, 'arm': 'sgd', 'published': None}]
    """

    def __repr__(self) -> str:
        """Name the columns, in one line."""
        columns = ", ".join(dict.fromkeys(name for row in self for name in row))
        return f"Table({len(self)} row{'' if len(self) == 1 else 's'}: {columns})"

    def to_rows(self) -> Rows:
        """Return the rows with numbers as numbers, and None for empty cells."""
        return [{name: _value(cell) for name, cell in row.items()} for row in self]

    def to_frame(self) -> Any:
        """Return the rows as a pandas DataFrame.

        Raises:
          ImportError: pandas is not installed.
        """
        import pandas

        return pandas.DataFrame(self.to_rows())


def _value(cell: Any) -> Any:
    """Return a cell's number where it is one; text like "True" or a list of batches stays text."""
    if not isinstance(cell, str):
        return cell
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(cell)
    return cell or None


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study found.

    Attributes:
      folder: the run folder.
      tables: name -> table, measured and derived ones.
      verdict: what is decided.
      text: the whole report in words, as in report.txt.
      answer: the same in five to ten lines, as a terminal shows it.
      figures: name -> file, in the first of the formats and widths asked for.
      failed: in one line, what went wrong in a part of the study; "" for nothing.
    """

    folder: Path
    tables: dict[str, Table]
    verdict: Any
    text: str
    figures: dict[str, Path]
    failed: str = ""
    answer: str = ""

    def __repr__(self) -> str:
        """Name the folder and what there is, in one line."""
        return f"Results({str(self.folder)!r}, tables: {', '.join(self.tables)}; figures: {', '.join(self.figures)})"


@dataclasses.dataclass(frozen=True)
class Opened:
    """A study that may begin: everything the user can have got wrong was checked, and the run folder is held."""

    study: Study
    prepared: Prepared
    run: "records.Run"
    figures_dir: Path | None
    formats: tuple[str, ...] = ("png",)
    widths: tuple[str, ...] = ("screen",)


@contextlib.contextmanager
def opened(
    study: Study,
    preset: str = "paper",
    *,
    out_dir: str | os.PathLike = "results",
    figures_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    force: bool = False,
    format: Any = ("png",),
    figure_width: Any = ("screen",),
    compilation_cache: bool = True,
    **given: Any,
) -> Iterator[Opened]:
    """Check the settings, load the data and hold the run folder; arguments and errors as in `run`.

    Example:
      >>> import tempfile
      >>> from ntkgen import studies
      >>> from ntkgen.studies import runner
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with runner.opened(studies.learning_rate.STUDY, "quick", out_dir=folder, rates=(0.1,)) as ready:
      ...         ready.prepared.config.rates, ready.run.finished
      ((0.1,), False)
    """
    from ntkgen import records

    if preset not in base.PRESETS:
        hint = options.did_you_mean(preset, base.PRESETS)
        raise ValueError(f"preset: expected one of {', '.join(base.PRESETS)}, got {preset!r}{hint}")
    values = options.checked(
        study.config,
        given,
        (
            "preset",
            "out_dir",
            "figures_dir",
            "data_dir",
            "force",
            "format",
            "figure_width",
            "compilation_cache",
            "verbose",
            "say",
        ),
    )
    formats = _parsed(options.FORMATS, "format", format)
    widths = _parsed(options.WIDTHS, "figure_width", figure_width)
    config = study.resolve(preset, values)
    for name, folder in (("out_dir", out_dir), ("figures_dir", figures_dir)):
        if folder is not None:
            records.check_writable(folder, name)
    with records.compilation_cache(on=compilation_cache):
        facts, more = study.prepare(config, data_dir)
        prepared = Prepared(config, facts, preset, values, more)
        written = [f"{name}.csv" for name in study.tables]
        known = options.settings(study.config)
        typed = {name: value for name, value in values.items() if known[name].identifies}
        if datasets.is_file(config.dataset):
            typed["dataset"] = os.fspath(config.dataset.path)
        with records.open_run(
            out_dir, study.name, config.dataset, prepared.record(), force=force, code=study.code, tables=written,
            command={"preset": preset, "given": typed},
        ) as run:  # fmt: skip
            figures = None if figures_dir is None else Path(figures_dir)
            yield Opened(study, prepared, run, figures, formats, widths)


def _parsed(check: options.Check, name: str, value: Any) -> tuple[str, ...]:
    try:
        return check.parse(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}, got {value!r}") from None


def work(opened: Opened, say: Callable[[str], None] = print, verbose: bool = False) -> Results:
    """Measure what is not there yet, derive, draw, and write everything.

    Tables and figures that follow from the measured tables by arithmetic are made anew for a finished run too.
    """
    from ntkgen import records

    study, prepared, run = opened.study, opened.prepared, opened.run
    with records.Compilations() as compiled:
        if run.finished:
            print(f"{run.folder} is finished; --force repeats it", file=sys.stderr)
        else:
            for name, rows in study.measure(run, prepared).items():
                run.write_table(f"{name}.csv", rows)
    tables = {
        name: records.read_table(path) if (path := run.folder / f"{name}.csv").exists() else []
        for name in (*study.tables, *study.optional)
    }
    derived = study.derive(prepared, tables)
    if verbose and compiled.programs:
        print(f"compiled: {compiled}", file=sys.stderr)
    answer = derived.answer or derived.text
    say(derived.text if verbose else fitted(answer))
    run.write_text("report.txt", derived.text)
    figures = draw(opened, tables, derived) if derived.complete else {}
    # Last, and at once: a finished run whose files are changed without their checksums no longer is one.
    for name, rows in derived.tables.items():
        if rows:
            run.write_table(f"{name}.csv", rows)
    if derived.complete:
        run.write_json("verdict.json", derived.verdict)
    if derived.complete and not derived.failed:
        run.finish()
    found = {name: Table(rows) for name, rows in {**tables, **derived.tables}.items()}
    say("\n" + "\n".join(map(str, (run.folder, *figures.values())) if verbose else where(run.folder, figures)))
    return Results(run.folder, found, derived.verdict, derived.text, figures, derived.failed, answer)


def where(folder: Path, figures: Mapping[str, Path]) -> list[str]:
    """Return lines that say in which folders everything is.

    Example:
      >>> from pathlib import Path
      >>> from ntkgen.studies import runner
      >>> runner.where(Path("results/run"), {"rates": Path("figures/rates.png")})
      ['tables and report.txt: results/run', 'figures: figures']
    """
    folders = dict.fromkeys(path.parent for path in figures.values())
    if list(folders) == [folder]:
        return [f"tables, figures and report.txt: {folder}"]
    return [f"tables and report.txt: {folder}", *(f"figures: {own}" for own in folders)]


def fitted(text: str, width: int | None = None) -> str:
    """Return text whose lines fit the terminal, or 80 columns where its width is not known.

    Example:
      >>> from ntkgen.studies import runner
      >>> print(runner.fitted("verdict: test error falls beyond the threshold", 30))
      verdict: test error falls
          beyond the threshold
    """
    columns = width or shutil.get_terminal_size((80, 24)).columns
    lines = []
    for line in text.strip("\n").splitlines():
        indent = line[: len(line) - len(line.lstrip())]
        lines += textwrap.wrap(
            line, columns, subsequent_indent=f"{indent}    ", break_on_hyphens=False, break_long_words=False
        ) or [""]
    return "\n".join(lines)


def draw(opened: Opened, tables: base.Tables, derived: Derived) -> dict[str, Path]:
    """Draw the figures into the run folder, or into the figures folder with the derived tables beside them.

    A figure that is there in another format or width too is drawn anew in that as well, so that no file is older than
    the tables. Figures for a paper have names that end in their width.
    """
    from ntkgen import plotting, records

    folder, prefix = opened.run.folder, ""
    if opened.figures_dir is not None:
        folder, prefix = opened.figures_dir, f"{stem(opened)}_"
        folder.mkdir(parents=True, exist_ok=True)
        for name, rows in derived.tables.items():
            if rows:
                records.write_table(folder / f"{prefix}{name}.csv", rows)
    if "tex" in opened.formats:
        _write_tex(opened, derived, folder, prefix)
    drawn: dict[str, Path] = {}
    # Those asked for come first: they tell the names of the figures that may be there in other widths.
    for width in sorted(plotting.WIDTHS, key=lambda each: each not in opened.widths):
        end = "" if width == "screen" else f"_{width}"
        formats = tuple(kind for kind in opened.formats if kind != "tex") or ("png",)
        if width not in opened.widths:
            formats = ()
            there = [folder / f"{prefix}{name}{end}.{kind}" for name in drawn for kind in plotting.FORMATS]
            if not any(path.exists() for path in there):
                continue
        with plotting.at_width(width):
            for name, figure in opened.study.figures(opened.prepared, tables, derived):
                path = _save(figure, folder, f"{prefix}{name}{end}", formats)
                drawn.setdefault(name, path)
    return drawn


def _save(figure: Any, folder: Path, name: str, formats: tuple[str, ...]) -> Path:
    from ntkgen import plotting

    for kind in plotting.FORMATS:  # always in this order: the layout of a figure may depend on what was drawn before
        path = folder / f"{name}.{kind}"
        if kind in formats or path.exists():
            plotting.save(figure, path)
    return folder / f"{name}.{formats[0] if formats else plotting.FORMATS[0]}"


def _write_tex(opened: Opened, derived: Derived, folder: Path, prefix: str) -> None:
    """Write the tables that sum up a study for LaTeX, beside their CSV files."""
    from ntkgen import io, report

    for name in report.SUMMARIES:
        if rows := derived.tables.get(name):
            caption = f"{name.replace('_', ' ').capitalize()} of {opened.study.name}, run {opened.run.folder.name}."
            text = report.booktabs(rows, caption, f"tab:{opened.run.folder.name}-{name}")
            io.atomic_write(folder / f"{prefix}{name}.tex", text.encode())


def stem(opened: Opened) -> str:
    """Name the figures of a run: what a reader wants to tell apart, then the hash of its config.

    Example:
      >>> import tempfile
      >>> from ntkgen import studies
      >>> from ntkgen.studies import runner
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with runner.opened(studies.learning_rate.STUDY, "quick", out_dir=folder, rates=(0.1,)) as ready:
      ...         runner.stem(ready).rpartition("_")[0]
      'learning_rate_digits_quick_rates0.1'
    """
    prepared = opened.prepared
    parts = [opened.study.name, prepared.config.dataset, *([prepared.preset] if prepared.preset != "paper" else [])]
    for name, value in prepared.given.items():
        if name not in ("dataset",):
            parts.append(f"{name}{_short(value)}")
    # Letters that a file's name cannot have, such as those of a path, become hyphens.
    words = re.sub(r"[^\w.+-]+", "-", "_".join(parts))[:120]
    return f"{words}_{opened.run.folder.name.rpartition('-')[2][:8]}"


def _short(value: Any) -> str:
    items = value if isinstance(value, tuple) else [value]
    return "-".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)


def of(study: Study) -> Callable[..., Results]:
    """Return `run` for one study, whose help lists its settings.

    Example:
      >>> from ntkgen import studies
      >>> print(studies.double_descent.run.__doc__.splitlines()[0])
      Run the study: does test error fall again beyond the interpolation threshold?
    """

    def of_study(
        preset: str = "paper", *, say: Callable[[str], None] = print, verbose: bool = False, **given: Any
    ) -> Results:
        return run(study, preset, say=say, verbose=verbose, **given)

    known = options.settings(study.config).items()
    lines = [f"  {name}: {each.help} {each.check.kind}, {each.check.expected}." for name, each in known]
    question = study.question[:1].lower() + study.question[1:]
    example = f"Example:\n  >>> from ntkgen import studies\n  >>> found = studies.{study.name}.run(preset='quick')"
    about = f"Run the study: {question}\n\nArguments and results are those of `studies.runner.run`.\n\n{example}"
    of_study.__doc__ = f"{about}\n\nSettings:\n" + "\n".join(lines)
    of_study.__name__ = of_study.__qualname__ = "run"
    return of_study


def run(
    study: Study, preset: str = "paper", *, say: Callable[[str], None] = print, verbose: bool = False, **given: Any
) -> Results:
    """Run a study from Python, in a notebook too; a finished run is read, not repeated.

    Example:
      >>> import tempfile
      >>> from ntkgen import studies
      >>> from ntkgen.studies import runner
      >>> few = {"rates": (0.1,), "width": 4, "num_train": 128, "epochs": 1, "num_seeds": 2}
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     results = runner.run(studies.learning_rate.STUDY, "quick", out_dir=folder, say=lambda text: None, **few)
      >>> len(results.tables["runs"]), list(results.figures)
      (2, ['rates'])

    Args:
      study: what to run, such as `studies.double_descent.STUDY`.
      preset: "quick" (embedded data), "small" or "paper" (the published protocol).
      say: receives the answer as text, and then where everything is.
      verbose: the whole report is said, with the path of each figure and what was compiled.
      **given: settings of the study by name, such as `widths=(4, 8)`, and `out_dir`, `figures_dir`, `data_dir`,
        `force`, `format`, `figure_width`, `compilation_cache` as on the command line.

    Returns:
      Tables, verdict and figures.

    Raises:
      ValueError: a setting is unknown or out of range; the message is one line that begins with its name.
      ntkgen.records.RecordError: the run folder cannot be used.
    """
    with opened(study, preset, **given) as ready:
        return work(ready, say, verbose)
