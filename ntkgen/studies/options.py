"""Settings of a study: what a value must be, its help, and the check that turns text or a Python value into it.

A check has `kind` and `expected` for `--help`, and `parse(value)`, which returns the value or raises a ValueError
"expected ...". The command line and Python callers go through the same checks.

Longer than 350 lines for its docstrings and examples, 39 % of it.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

GROUPS = ("data", "network", "training", "measurement", "output")


class Check(Protocol):
    """Says what a setting may be."""

    @property
    def kind(self) -> str:
        """Return the type, in words."""

    @property
    def expected(self) -> str:
        """Return what is expected, in words."""

    def parse(self, value: Any) -> Any:
        """Return the checked value.

        Raises:
          ValueError: "expected ...", without the setting's name.
        """


@dataclass(frozen=True)
class Number:
    """A whole or real number within a range.

    Example:
      >>> from ntkgen.studies import options
      >>> half = options.Number(float, "a number below 0.5", lambda value: value < 0.5)
      >>> half.parse("0.25"), half.kind
      (0.25, 'float')
      >>> half.parse(0.75)
      Traceback (most recent call last):
          ...
      ValueError: expected a number below 0.5

    Attributes:
      type: int or float.
      expected: the range in words.
      ok: whether a number lies in the range.
    """

    type: type
    expected: str
    ok: Callable[[Any], bool]

    @property
    def kind(self) -> str:
        """Return the name of the type."""
        return self.type.__name__

    def parse(self, value: Any) -> Any:
        """Return the number; text and NumPy numbers are converted, booleans and fractions of counts refused."""
        try:
            if isinstance(value, bool | np.bool_):
                raise ValueError
            number = self.type(value)
            exact = isinstance(value, str) or number == value
        except (ValueError, TypeError, OverflowError):
            raise ValueError(f"expected {self.expected}") from None
        finite = self.type is int or math.isfinite(number)
        if not exact or not finite or not self.ok(number):
            raise ValueError(f"expected {self.expected}")
        return number


@dataclass(frozen=True)
class Numbers:
    """Distinct numbers, in ascending order (`descending`: the other way): a list, or text with commas.

    Example:
      >>> from ntkgen.studies import options
      >>> options.Numbers(options.COUNT).parse("8,4")
      (4, 8)
    """

    item: Number
    descending: bool = False

    @property
    def kind(self) -> str:
        """Return what a list holds."""
        return f"comma-separated {self.item.kind}s"

    @property
    def expected(self) -> str:
        """Return what is expected, in words."""
        return f"distinct numbers with commas between, each {self.item.expected}"

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Return the numbers as a tuple."""
        if isinstance(value, numbers.Number):
            value = (value,)
        try:
            found = [self.item.parse(part) for part in _parts(value)]
        except (TypeError, ValueError):
            raise ValueError(f"expected {self.expected}") from None
        if not found or len(set(found)) < len(found):
            raise ValueError(f"expected {self.expected}")
        return tuple(sorted(found, reverse=self.descending))


@dataclass(frozen=True)
class Choice:
    """One of some names.

    Example:
      >>> from ntkgen.studies import options
      >>> options.Choice(("mlp", "cnn")).parse("cnn")
      'cnn'
    """

    choices: tuple[str, ...]
    kind: str = "name"

    @property
    def expected(self) -> str:
        """Return the choices, in words."""
        return f"one of {', '.join(self.choices)}"

    def parse(self, value: Any) -> str:
        """Return the name."""
        if not isinstance(value, str) or value not in self.choices:
            raise ValueError(f"expected {self.expected}")
        return str(value)


@dataclass(frozen=True)
class Choices:
    """Some of a set of names, as a list or text with commas, in the order of the set; "none" is the empty list.

    Example:
      >>> from ntkgen.studies import options
      >>> names = options.Choices(("loss", "kernel"))
      >>> names.parse("kernel,loss"), names.parse("none")
      (('loss', 'kernel'), ())
    """

    choices: tuple[str, ...]
    kind: str = "comma-separated names"

    @property
    def expected(self) -> str:
        """Return what is expected, in words."""
        return f"a comma-separated list of {', '.join(self.choices)}, or none"

    def parse(self, value: Any) -> tuple[str, ...]:
        """Return the names as a tuple."""
        try:
            parts = _parts(value)
            if parts == ["none"]:
                return ()
            wrong = len(set(parts)) < len(parts) or not set(parts) <= set(self.choices)
        except (TypeError, ValueError):  # no list, or one of lists
            wrong = True
        if wrong:
            raise ValueError(f"expected {self.expected}")
        return tuple(name for name in self.choices if name in parts)


@dataclass(frozen=True)
class AtLeastOne(Choices):
    """Some of a set of names, and not none.

    Example:
      >>> from ntkgen.studies import options
      >>> options.AtLeastOne(("loss", "kernel")).parse("loss")
      ('loss',)
    """

    @property
    def expected(self) -> str:
        """Return what is expected, in words."""
        return f"a comma-separated list of {', '.join(self.choices)}"

    def parse(self, value: Any) -> tuple[str, ...]:
        """Return the names as a tuple."""
        try:
            found = super().parse(value)
        except ValueError:
            found = ()
        if not found:
            raise ValueError(f"expected {self.expected}")
        return found


@dataclass(frozen=True)
class Switch:
    """True or False.

    Example:
      >>> from ntkgen.studies import options
      >>> options.Switch().parse("true")
      True
    """

    kind: str = "boolean"
    expected: str = "true or false"

    def parse(self, value: Any) -> bool:
        """Return the truth value."""
        found = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}.get(str(value).lower())
        if found is None:
            raise ValueError(f"expected {self.expected}")
        return found


def _parts(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value)


# A billion: larger counts are typing errors. Seeds are 32-bit numbers on the device.
COUNT = Number(int, "a whole number from 1 to 1000000000", lambda value: 1 <= value <= 10**9)
SEED = Number(int, "a whole number from 0 to 1000000000", lambda value: 0 <= value <= 10**9)
SEEDS = Number(int, "a whole number from 1 to 10000", lambda value: 1 <= value <= 10_000)
POINTS = SEEDS
EPOCHS = Number(int, "a whole number from 1 to 1000000", lambda value: 1 <= value <= 1_000_000)
DEPTH = Number(int, "a whole number from 2 to 100", lambda value: 2 <= value <= 100)
POSITIVE = Number(float, "a positive number", lambda value: value > 0)
NOT_NEGATIVE = Number(float, "a number of at least 0", lambda value: value >= 0)
PROBABILITY = Number(float, "a number in [0, 1)", lambda value: 0 <= value < 1)
FRACTION = Number(float, "a number between 0 and 1", lambda value: 0 < value < 1)
COUNTS = Numbers(COUNT)
SWITCH = Switch()
# Of figures, and "tex" for tables beside them; code that measures does not import `plotting`.
FORMATS = AtLeastOne(("png", "svg", "pdf", "tex"))
WIDTHS = AtLeastOne(("screen", "column", "double"))  # of figures: keys of `plotting.WIDTHS`


@dataclass(frozen=True)
class Setting:
    """What is known of a field of a config: its check, help, unit ("" if it has none) and group in `--help`.

    `identifies` is False where runs that differ in it share a folder, because the complete run's tables do not differ.
    """

    check: Check
    help: str
    unit: str
    group: str
    identifies: bool = True


def setting(
    check: Check, help: str, *, default: Any = None, unit: str = "", group: str = "training", identifies: bool = True
) -> Any:
    """Return a dataclass field of a study's config. A default of None leaves the value to the preset.

    Example:
      >>> from dataclasses import dataclass
      >>> from ntkgen.studies import options
      >>> @dataclass(frozen=True)
      ... class Config:
      ...     width: int = options.setting(options.COUNT, "Hidden width.", default=8, unit="units")
      >>> Config().width, options.settings(Config)["width"].unit
      (8, 'units')
    """
    if group not in GROUPS:
        raise ValueError(f"group: expected one of {', '.join(GROUPS)}, got {group!r}")
    return dataclasses.field(default=default, metadata={"setting": Setting(check, help, unit, group, identifies)})


def settings(config: type) -> dict[str, Setting]:
    """Return name -> setting of every field of a config, in order.

    Example:
      >>> from ntkgen.studies import base, options
      >>> options.settings(base.Config)["epochs"].unit
      'epochs'
    """
    return {field.name: field.metadata["setting"] for field in dataclasses.fields(config)}


def checked(config: type, given: Mapping[str, Any], others: Iterable[str] = ()) -> dict[str, Any]:
    """Return what a user gave, each value checked; None stands for "not given".

    Example:
      >>> from ntkgen.studies import base, options
      >>> options.checked(base.Config, {"epochs": "3", "num_seeds": None})
      {'epochs': 3}
      >>> options.checked(base.Config, {"epoch": 3})
      Traceback (most recent call last):
          ...
      ValueError: epoch: expected a setting of this study, got 3; did you mean epochs?

    Args:
      config: class of the study's config.
      given: name -> value, as Python values or text.
      others: names that may have been meant instead of an unknown one.

    Raises:
      ValueError: `name: expected ..., got ...`, for an unknown name or a value that its check refuses.
    """
    known, found = settings(config), {}
    for name, value in given.items():
        if name not in known:
            hint = did_you_mean(name, [*known, *others])
            raise ValueError(f"{name}: expected a setting of this study, got {_short(value)}{hint}")
        if value is None:
            continue
        try:
            found[name] = known[name].check.parse(value)
        except ValueError as error:
            hint = did_you_mean(value, getattr(known[name].check, "choices", ()))
            raise ValueError(f"{name}: {error}, got {_short(value)}{hint}") from None
    return found


def refuse(given: Mapping[str, Any], foreign: Mapping[str, str]) -> None:
    """Refuse settings that mean nothing here: name -> what it does not go with.

    Example:
      >>> from ntkgen.studies import options
      >>> options.refuse({"momentum": 0.9}, {"momentum": "--optimizer=adam"})
      Traceback (most recent call last):
          ...
      ValueError: momentum: expected no such setting with --optimizer=adam, got 0.9

    Raises:
      ValueError: one of them was given.
    """
    for name, reason in foreign.items():
        if name in given:
            raise ValueError(f"{name}: expected no such setting with {reason}, got {_short(given[name])}")


def did_you_mean(name: Any, known: Any) -> str:
    """Return `; did you mean ...?` for a name that resembles a known one, else an empty text.

    Example:
      >>> from ntkgen.studies import options
      >>> options.did_you_mean("epoch", ["epochs", "seed"]), options.did_you_mean("xyz", ["epochs", "seed"])
      ('; did you mean epochs?', '')
    """
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _short(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 80 else words[:77] + "..."
