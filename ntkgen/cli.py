"""The command line: flags made from a study's settings, one line for every mistake, the console command `ntkgen`.

Longer than 350 lines for its docstrings and examples, 35 % of it.
"""

import _thread
import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags, logging

from ntkgen import memory, studies
from ntkgen.studies import base, options, runner

flags.disclaim_key_flags()  # flags defined through this module belong to its caller, whose --help then lists them

SHARED = ("preset", "out_dir", "figures_dir", "data_dir", "force", "format", "figure_width", "compilation_cache")


class _Parser(flags.ArgumentParser):
    """Parses a flag by a setting's check; absl puts the flag and what came before the message."""

    def __init__(self, check: options.Check) -> None:
        self.check, self.syntactic_help = check, check.expected

    def parse(self, argument: Any) -> Any:
        try:
            return self.check.parse(argument)
        except ValueError as error:
            hint = options.did_you_mean(argument, getattr(self.check, "choices", ()))
            raise ValueError(f"{error}{hint}") from None

    def flag_type(self) -> str:
        return self.check.kind


class _Serializer(flags.ArgumentSerializer):
    """Writes a value as it is typed: a list with commas between, the empty one as "none"."""

    def serialize(self, value: Any) -> str:
        return (",".join(map(str, value)) or "none") if isinstance(value, tuple) else str(value)


def define(study: base.Study, values: flags.FlagValues) -> None:
    """Define the flags of a study: the shared ones and a flag for each of its settings, in groups.

    Example:
      >>> from absl import flags
      >>> from ntkgen import cli, studies
      >>> values = flags.FlagValues()
      >>> cli.define(studies.double_descent.STUDY, values)
      >>> cli.parse(values, ["double_descent.py", "--widths=8,4", "--preset=quick"])
      ['double_descent.py']
      >>> values.widths, values.preset
      ((4, 8), 'quick')
    """
    define_flag(
        "preset", options.Choice(base.PRESETS), "paper",
        "quick: embedded data, about a minute on two cores. small: real data, reduced. paper: the published protocol.",
        values, "output",
    )  # fmt: skip
    flags.DEFINE_string("out_dir", "results", "Where run folders go.", values, module_name="output")
    flags.DEFINE_string(
        "figures_dir", None, "Where figures go, with the tables behind them. Default: the run folder.", values,
        module_name="output",
    )  # fmt: skip
    flags.DEFINE_string(
        "data_dir", None,
        "Folder of the data, prepared by TFDS or in their original files. Default: $NTKGEN_DATA_DIR, then TFDS's own.",
        values, module_name="data",
    )  # fmt: skip
    define_flag("force", options.SWITCH, False, "Repeat a run that is finished or begun.", values, "output")
    words = "Formats of the figures; tex adds the summary and comparison tables for LaTeX (booktabs)."
    define_flag("format", options.FORMATS, "png", words, values, "output")
    words = (
        "Widths of the figures: a screen's, or a column (3.3 in) or both columns (6.9 in) of a paper, without titles."
    )
    define_flag("figure_width", options.WIDTHS, "screen", words, values, "output")
    words = "Keep compiled programs in the cache folder, and load what earlier calls kept. Numbers are the same."
    define_flag("compilation_cache", options.SWITCH, True, words, values, "output")
    words = "Print the whole report (report.txt in the run folder), each figure's path, and what was compiled."
    define_flag("verbose", options.SWITCH, False, words, values, "output")
    defaults = study.config()
    for name, setting in options.settings(study.config).items():
        default = getattr(defaults, name)
        words = f"{setting.help}{f' In {setting.unit}.' if setting.unit else ''}"
        define_flag(name, setting.check, default, words, values, setting.group)


def define_flag(
    name: str,
    check: options.Check,
    default: Any,
    words: str,
    values: flags.FlagValues = flags.FLAGS,
    group: str | None = None,
) -> None:
    """Define one flag; a script that is no study has its own.

    Example:
      >>> from absl import flags
      >>> from ntkgen import cli
      >>> from ntkgen.studies import options
      >>> values = flags.FlagValues()
      >>> cli.define_flag("epochs", options.EPOCHS, 3, "Passes over the training set.", values, "training")
      >>> cli.parse(values, ["script.py", "--epochs=5"]), values.epochs
      (['script.py'], 5)

    Args:
      name: of the flag.
      check: what its value must be, such as `options.COUNT`.
      default: its value where it is not given.
      words: its help.
      values: where it goes.
      group: under which `--help` lists it. Default: the caller's module.
    """
    if isinstance(check, options.Switch):
        flag: flags.Flag = flags.BooleanFlag(name, default, words)  # which --noNAME turns off
        flag.parser = _Parser(check)
    else:
        flag = flags.Flag(_Parser(check), _Serializer(), name, default, words)
    flags.DEFINE_flag(flag, values, module_name=group)


def run_study(study: base.Study, argv: Sequence[str]) -> None:
    """Parse the command line of a study and run it.

    Exits with code 2 and one line on a mistake of the user, before anything is written; with code 1 where a part of the
    study failed, after everything else is written.

    Example:
      >>> import contextlib, io
      >>> from ntkgen import cli, studies
      >>> said = io.StringIO()
      >>> with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
      ...     cli.run_study(studies.double_descent.STUDY, ["double_descent.py", "--epochs=many"])
      >>> print(said.getvalue().strip())
      error: flag --epochs=many: expected a whole number from 1 to 1000000
    """
    values = flags.FlagValues()
    define(study, values)
    if any(argument in ("-h", "--h", "-help", "--help") for argument in argv[1:]):
        print(f"{study.question}\n{values.get_help()}")
        sys.exit(0)
    parse(values, argv)
    given: dict[str, Any] = {name: values[name].value for name in SHARED}
    given |= {name: values[name].value for name in options.settings(study.config) if values[name].present}
    with contextlib.ExitStack() as stack:
        with user_errors(values):
            opened = stack.enter_context(runner.opened(study, **given))
        failed = runner.work(opened, verbose=bool(values["verbose"].value)).failed
    if failed:
        fail(failed, 1)


def parse(values: flags.FlagValues, argv: Sequence[str]) -> list[str]:
    """Parse a command line of flags only; exits with code 2 and one line on a mistake. Returns the program's name.

    Example:
      >>> from absl import flags
      >>> from ntkgen import cli
      >>> from ntkgen.studies import options
      >>> values = flags.FlagValues()
      >>> cli.define_flag("epochs", options.EPOCHS, 3, "Passes over the training set.", values, "training")
      >>> cli.parse(values, ["script.py", "--epochs=5"]), values.epochs
      (['script.py'], 5)
    """
    logging.set_verbosity(logging.WARNING)  # JAX tells at length which accelerators it did not find
    try:
        rest = values(list(argv), known_only=False)
    except (flags.Error, ValueError) as error:  # absl raises the latter for --noforce=1
        fail(str(error))
    if rest[1:]:
        fail(f"expected flags only, got {rest[1]!r}")
    return rest


@contextlib.contextmanager
def user_errors(values: flags.FlagValues) -> Iterator[None]:
    """Turn a ValueError of the preparations into one line and exit code 2.

    Only preparations belong inside: a ValueError of the work itself is a bug and keeps its stack trace.

    Example:
      >>> import contextlib, io
      >>> from absl import flags
      >>> from ntkgen import cli
      >>> with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
      ...     with cli.user_errors(flags.FlagValues()):
      ...         raise ValueError("epochs: expected a whole number, got 1.5")
      >>> print(said.getvalue().strip())
      error: epochs: expected a whole number, got 1.5
    """
    try:
        yield
    except ValueError as error:
        name, colon, rest = str(error).partition(": ")
        fail(f"--{name}{colon}{rest}" if name in values else str(error))


def fail(message: str, code: int = 2) -> None:
    """Print one line and exit.

    Example:
      >>> import contextlib, io
      >>> from ntkgen import cli
      >>> with contextlib.redirect_stderr(io.StringIO()) as said:
      ...     try:
      ...         cli.fail("no data")
      ...     except SystemExit as ended:
      ...         print(said.getvalue().strip(), ended.code)
      error: no data 2
    """
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


class _Output:
    """A standard stream whose reader may leave: what is written after that is dropped."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._unless_left(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._unless_left(self._stream.flush)

    def _unless_left(self, act: Callable[[], Any]) -> None:
        try:
            act()
        except BrokenPipeError:
            with open(os.devnull, "w") as nowhere:  # takes what the buffer still holds, too
                os.dup2(nowhere.fileno(), self._stream.fileno())


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Make standard output bear a reader that leaves and characters that it cannot write; warnings take one line."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (("stdout", contextlib.redirect_stdout), ("stderr", contextlib.redirect_stderr)):
            stream = getattr(sys, name)
            if stream is not None:
                if hasattr(stream, "reconfigure"):
                    stream.reconfigure(errors="backslashreplace")
                stack.enter_context(redirect(_Output(stream)))
        stack.enter_context(warnings.catch_warnings())
        warnings.showwarning = lambda message, category, *_: print(f"{category.__name__}: {message}", file=sys.stderr)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()


@contextlib.contextmanager
def _errors_of_the_moment() -> Iterator[None]:
    """End with one line where the machine or the user stops the work; nothing that is stored is lost."""
    on = "the same command goes on from what is stored"
    try:
        yield
    except KeyboardInterrupt:
        fail(f"interrupted; {on}", 130)
    except MemoryError as error:
        fail(f"out of memory ({error}); {on}", 1)
    except OSError as error:
        named = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        fail(f"{named}; {on}", 1)
    except RuntimeError as error:  # JAX has no types for these: only the text tells them apart
        words = str(error)
        if "RESOURCE_EXHAUSTED" in words:
            fail(f"out of memory ({words[:200]}); {on}", 1)
        if "nable to initialize backend" not in words:
            raise
        fail(f"JAX_PLATFORMS: {words[:200]}", 1)


@contextlib.contextmanager
def _no_interrupt_is_lost() -> Iterator[None]:
    """Raise an interrupt again that fell into a callback, whose errors Python prints and forgets.

    JAX has one after every garbage collection, and those during compilation take long.
    """
    before = sys.unraisablehook

    def again(lost: Any) -> None:
        if lost.exc_type is KeyboardInterrupt:
            later = threading.Timer(0.01, _thread.interrupt_main)  # not at once: the callback has not ended
            later.daemon = True
            later.start()
        else:
            before(lost)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Run what a script does with one line for every error of the moment, on streams that bear a reader that leaves.

    Example:
      >>> import contextlib, io
      >>> from ntkgen import cli
      >>> with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
      ...     with cli.guarded():
      ...         raise MemoryError("4 GiB")
      >>> print(said.getvalue().strip())
      error: out of memory (4 GiB); the same command goes on from what is stored
    """
    memory.keep_freed()
    with _errors_of_the_moment(), _no_interrupt_is_lost(), _streams():
        yield


def script(work: Callable[[], None]) -> None:
    """Run a script that is no study: parse its flags (`define_flag`, or absl's own) and call work()."""
    with guarded():
        app.run(lambda _: work(), flags_parser=lambda argv: parse(flags.FLAGS, argv))


def main(study: base.Study) -> None:
    """Run a study as a script.

    Example:
      >>> import contextlib, io, sys
      >>> from unittest import mock
      >>> from ntkgen import cli, studies
      >>> with mock.patch.object(sys, "argv", ["double_descent.py", "--help"]), contextlib.suppress(SystemExit):
      ...     with contextlib.redirect_stdout(io.StringIO()) as said:
      ...         cli.main(studies.double_descent.STUDY)
      >>> said.getvalue().splitlines()[0]
      'Does test error fall again beyond the interpolation threshold?'
    """
    with guarded():
        run_study(study, sys.argv)


REPORTS = {"html": "report.html", "latex": "report_latex", "csv": "report_csv"}  # what is written for each format


def run_report(argv: Sequence[str]) -> None:
    """Write the report of a results folder: `ntkgen report FOLDER [--format=html|latex|csv] [--out=PATH]`.

    Prints what was written. Exits with code 2 and one line on a mistake, or where the folder holds no results.

    Example:
      >>> import contextlib, io
      >>> from ntkgen import cli
      >>> with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.suppress(SystemExit):
      ...     cli.run_report(["report"])
      >>> print(said.getvalue().strip())
      error: expected one results folder, got none
    """
    values = flags.FlagValues()
    words = f"What to write: {', '.join(REPORTS)}. LaTeX compiles with pdflatex."
    define_flag("format", options.Choice(tuple(REPORTS)), "html", words, values, "output")
    words = f"File (html) or folder. Default: {', '.join(REPORTS.values())} in the results folder."
    flags.DEFINE_string("out", None, words, values, module_name="output")
    if any(argument in ("-h", "--h", "-help", "--help") for argument in argv[1:]):
        print(f"usage: ntkgen report FOLDER [flags]\n\nWrites the report of a results folder.\n{values.get_help()}")
        sys.exit(0)
    try:
        rest = values(list(argv), known_only=False)[1:]
    except flags.Error as error:
        fail(str(error))
    if len(rest) != 1:
        fail(f"expected one results folder, got {' '.join(map(repr, rest)) or 'none'}")
    from ntkgen import report

    try:
        contents = report.collect(rest[0])
        if contents.mixed:
            print(f"warning: mixed versions; {'; '.join(contents.mixed)}", file=sys.stderr)
        kind, out = str(values["format"].value), values["out"].value
        write: Callable[..., Any] = {"html": report.html, "latex": report.latex, "csv": report.csv}[kind]
        written = write(contents, os.path.join(rest[0], REPORTS[kind]) if out is None else out)
    except report.ReportError as error:
        fail(f"--{error}" if str(error).startswith("out: ") else str(error))
    print("\n".join(map(str, written if isinstance(written, list) else [written])))


def command() -> None:
    """Run the console command `ntkgen <study> [flags]`, or `ntkgen report FOLDER [flags]`.

    Example:
      >>> import contextlib, sys
      >>> from unittest import mock
      >>> from ntkgen import cli
      >>> with mock.patch.object(sys, "argv", ["ntkgen", "--help"]), contextlib.suppress(SystemExit):
      ...     cli.command()
      usage: ntkgen STUDY [flags]; ntkgen STUDY --help lists them
      studies: ...
    """
    with guarded():
        if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help"):
            print("usage: ntkgen STUDY [flags]; ntkgen STUDY --help lists them\n\nstudies:")
            for name in studies.NAMES:
                print(f"  {name:{max(map(len, studies.NAMES))}}  {getattr(studies, name).STUDY.question}")
            print("\nntkgen report FOLDER [flags] writes the report of a results folder")
            sys.exit(0)
        name = sys.argv[1]
        if name == "report":
            run_report(sys.argv[1:])
            return
        if name not in studies.NAMES:
            close = options.did_you_mean(name, studies.NAMES)
            fail(f"expected a study, one of {', '.join(studies.NAMES)}, got {name!r}{close}")
        run_study(getattr(studies, name).STUDY, sys.argv[1:])
