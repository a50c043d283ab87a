"""What all studies share: flags, opening a run, and one line for every mistake of the user and error of the moment."""

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from ntkgen import records

PRESETS = ("quick", "small", "paper")
EMBEDDED = ("digits", "mnist1d")

flags.disclaim_key_flags()  # flags defined through this module belong to the study, whose --help then lists them


class _Number(flags.ArgumentParser):
    """Parses a number and checks it; absl puts the flag and what came before the message."""

    def __init__(self, kind: type, expected: str, ok: Callable[[Any], bool]) -> None:
        self.kind, self.expected, self.ok = kind, expected, ok
        self.syntactic_help = expected

    def parse(self, argument: Any) -> Any:
        try:
            value = self.kind(argument)
        except (ValueError, TypeError):
            raise ValueError(f"expected {self.expected}") from None
        if (self.kind is float and not math.isfinite(value)) or not self.ok(value):
            raise ValueError(f"expected {self.expected}")
        return value

    def flag_type(self) -> str:
        return self.kind.__name__


class _List(flags.ArgumentParser):
    """Parses a comma-separated list of distinct numbers into an ascending tuple."""

    def __init__(self, item: _Number) -> None:
        self.item = item
        self.syntactic_help = f"a comma-separated list, each {item.expected}"

    def parse(self, argument: Any) -> tuple:
        parts = argument.split(",") if isinstance(argument, str) else argument
        values = tuple(sorted(self.item.parse(part) for part in parts))
        if len(set(values)) < len(values):
            raise ValueError("expected distinct numbers")
        return values

    def flag_type(self) -> str:
        return f"comma-separated {self.item.flag_type()}s"


class Names(flags.ArgumentParser):
    """Parses a comma-separated list of distinct names into a tuple; "none" is the empty list."""

    def __init__(self, *choices: str) -> None:
        self.choices = choices
        self.syntactic_help = f"a comma-separated list of {', '.join(choices)}, or none"

    def parse(self, argument: Any) -> tuple:
        parts = argument.split(",") if isinstance(argument, str) else list(argument)
        if parts == ["none"]:
            return ()
        if len(set(parts)) < len(parts) or not set(parts) <= set(self.choices):
            raise ValueError(f"expected {self.syntactic_help}")
        return tuple(parts)

    def flag_type(self) -> str:
        return "comma-separated names"


# A billion: seeds are 32-bit numbers on the device, and larger counts are typing errors.
COUNT = _Number(int, "a whole number from 1 to 1000000000", lambda value: 1 <= value <= 10**9)
SEED = _Number(int, "a whole number from 0 to 1000000000", lambda value: 0 <= value <= 10**9)
POSITIVE = _Number(float, "a positive number", lambda value: value > 0)
NOISE = _Number(float, "a number in [0, 1)", lambda value: 0 <= value < 1)
FRACTION = _Number(float, "a number between 0 and 1", lambda value: 0 < value < 1)
MOMENTUM = NOISE
NOT_NEGATIVE = _Number(float, "a number of at least 0", lambda value: value >= 0)
COUNTS = _List(COUNT)
POSITIVES = _List(POSITIVE)
EPOCHS = _Number(int, "a whole number from 1 to 1000000", lambda value: 1 <= value <= 1_000_000)
# More seeds than anybody trains: their numbers alone would fill the memory.
SEEDS = _Number(int, "a whole number from 1 to 10000", lambda value: 1 <= value <= 10_000)
POINTS = _Number(int, "a whole number from 1 to 10000", lambda value: 1 <= value <= 10_000)
MOST_EPOCHS = 10**8  # of all seeds of a network; a number is kept for each
DEPTH = _Number(int, "a whole number from 2 to 100", lambda value: 2 <= value <= 100)


def define(parser: flags.ArgumentParser, name: str, default: Any, text: str) -> None:
    """Define a flag with one of the parsers above; a default of None leaves it to the preset."""
    flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def define_shared(datasets: tuple[str, ...], num_train: flags.ArgumentParser = COUNT) -> None:
    """Define the flags of every study."""
    flags.DEFINE_enum("dataset", None, datasets, "What to train on. Default: mnist; digits with --preset=quick.")
    flags.DEFINE_string(
        "data_dir", None, "Prepared TFDS folder. Default: $NTKGEN_DATA_DIR, then the usual TFDS folder."
    )
    define(num_train, "num_train", None, "Training examples, a seeded random subset. Default: the preset's.")
    define(SEEDS, "num_seeds", None, "Seeds of every network. Default: the preset's.")
    define(SEED, "seed", 0, "First seed of the runs: initialisation, batch order, measurements.")
    define(SEED, "data_seed", 0, "Seed of the data: the training subset, the label noise, draws of test images.")
    define(EPOCHS, "epochs", None, "Passes over the training set. Default: the preset's.")
    flags.DEFINE_enum(
        "preset",
        "paper",
        PRESETS,
        "quick: embedded data, about a minute on two cores. small: real data, reduced. paper: the published protocol.",
    )
    flags.DEFINE_string("out_dir", "results", "Where run folders go.")
    flags.DEFINE_string("figures_dir", None, "Where figures go, with the table behind them. Default: the run folder.")
    define(
        NOISE,
        "label_noise",
        None,
        "Probability that a training label is replaced by a wrong one. Default: the preset's.",
    )
    flags.DEFINE_boolean("force", False, "Do a run anew that is finished or begun.")


def chosen(preset: dict[str, Any]) -> dict[str, Any]:
    """Overlay a preset's values with the flags of the same names that the user gave."""
    given = {name: flags.FLAGS[name].value for name in preset if name in flags.FLAGS}
    found = {name: value if given.get(name) is None else given[name] for name, value in preset.items()}
    most = MOST_EPOCHS // found["epochs"]
    if found["num_seeds"] > most:
        raise ValueError(
            f"--num_seeds: expected at most {most} with {found['epochs']} epochs, got {found['num_seeds']}"
        )
    return found


def dataset() -> str:
    """Give the data set of --dataset, or the preset's; --preset=quick needs embedded data."""
    quick = flags.FLAGS.preset == "quick"
    name = flags.FLAGS.dataset or ("digits" if quick else "mnist")
    if quick and name not in EMBEDDED:
        raise ValueError(f"--preset=quick: expected embedded data ({', '.join(EMBEDDED)}), got --dataset={name}")
    return name


def own_size(name: str) -> bool:
    """Say whether a preset's number of images is for other data: embedded sets are small and taken whole."""
    return name in EMBEDDED and flags.FLAGS.preset != "quick"


def refuse(foreign: dict[str, str]) -> None:
    """Refuse flags that the user gave and that mean nothing here: flag -> what it does not go with."""
    for name, reason in foreign.items():
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name}: expected no such flag with {reason}, got {flags.FLAGS[name].value}")


def foreign_to_optimizer() -> dict[str, str]:
    """Name the flags that mean nothing to --optimizer, for `refuse`."""
    return {"adam": {"momentum": "--optimizer=adam"}, "gd": {"batch_size": "--optimizer=gd"}}.get(
        flags.FLAGS.optimizer, {}
    )


def check_folders() -> None:
    """Refuse --out_dir and --figures_dir where nothing can be written, before any work is done."""
    for name in ("out_dir", "figures_dir"):
        if flags.FLAGS[name].value is not None:
            records.check_writable(flags.FLAGS[name].value, name)


def open_run(study: str, config: dict[str, Any], tables: Sequence[str]) -> contextlib.AbstractContextManager:
    """Open the run folder of a study; see `records.open_run`.

    Args:
      study: name of the study.
      config: the complete resolved config.
      tables: files that a finished run has.
    """
    # The modules of all studies: they share some, and a run of half an hour is no place to find out which.
    code = [path for path in sorted(Path(__file__).parent.glob("*.py")) if not path.name.startswith("bench_")]
    out, dataset = flags.FLAGS.out_dir, config["dataset"]
    return records.open_run(out, study, dataset, config, force=flags.FLAGS.force, code=code, tables=tables)


def figure_name(run: records.Run, stem: str) -> str:
    """Name the figures of a run in --figures_dir: what a reader wants to tell apart, then the hash of its config."""
    return f"{stem[:120]}_{run.folder.name.rpartition('-')[2][:8]}"


FLAG_OF = {"learning_rate": "lr"}  # argument of the library -> the flag that it comes from


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn a ValueError of the preparations into one line and exit code 2.

    Only preparations belong inside: a ValueError of the work itself is a bug and keeps its stack trace.
    """
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(": ")
        flag = FLAG_OF.get(name)
        fail(f"--{flag}: {rest} as {name}" if flag in flags.FLAGS else str(error))


def fail(message: str, code: int = 2) -> None:
    """Print one line and exit."""
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
    except RuntimeError as error:  # JAX has no types of its own for these
        words = str(error)
        if "RESOURCE_EXHAUSTED" in words:
            fail(f"out of memory ({words[:200]}); {on}", 1)
        if "nable to initialize backend" not in words:
            raise
        fail(f"JAX_PLATFORMS: {words[:200]}", 1)


def run(main: Callable[[], None]) -> None:
    """Parse the command line and call main()."""

    def parse(argv: list[str]) -> list[str]:
        logging.set_verbosity(logging.WARNING)  # JAX tells at length which accelerators it did not find
        try:
            rest = flags.FLAGS(argv)
        except (flags.Error, ValueError) as error:  # absl raises the latter for --noforce=1
            fail(str(error))
        if rest[1:]:
            fail(f"expected flags only, got {rest[1]!r}")
        return rest

    with _errors_of_the_moment(), _streams():
        app.run(lambda _: main(), flags_parser=parse)
