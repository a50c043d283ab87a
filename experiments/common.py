"""Flags that all studies share, and one line with exit code 2 for every mistake of the user."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

from absl import app, flags, logging

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
    define(COUNT, "num_seeds", None, "Seeds of every network. Default: the preset's.")
    define(SEED, "seed", 0, "First seed; also of the training subset and the label noise.")
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
    return {name: value if given.get(name) is None else given[name] for name, value in preset.items()}


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


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Turn a ValueError of the preparations into one line and exit code 2.

    Only preparations belong inside: a ValueError of the work itself is a bug and keeps its stack trace.
    """
    try:
        yield
    except ValueError as error:
        fail(str(error))


def fail(message: str) -> None:
    """Print one line and exit with code 2."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)


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

    app.run(lambda _: main(), flags_parser=parse)
