"""Settings: what each check takes and refuses, as text and as Python values, and how a mistake is named."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen.studies import options
from ntkgen.studies.options import Choice, Choices, Number, Numbers

COUNTS, NAME, NAMES = options.COUNTS, Choice(("mlp", "cnn")), Choices(("a", "b", "c"))
REALS = Numbers(options.POSITIVE, descending=True)
ARRAY = np.arange(3)


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (options.COUNT, "12", 12), (options.COUNT, 12, 12), (options.COUNT, np.int64(12), 12),
        (options.COUNT, np.uint8(12), 12), (options.COUNT, 12.0, 12), (options.COUNT, np.float32(12), 12),
        (options.COUNT, jnp.asarray(12), 12), (options.COUNT, 10**9, 10**9), (options.SEED, "0", 0),
        (options.POSITIVE, "1e-3", 1e-3), (options.POSITIVE, 1, 1.0), (options.POSITIVE, np.float64(0.1), 0.1),
        (options.POSITIVE, "5", 5.0), (options.PROBABILITY, 0, 0.0), (options.NOT_NEGATIVE, "-0.0", 0.0),
        (COUNTS, "8,4", (4, 8)), (COUNTS, [8, 4], (4, 8)), (COUNTS, (4,), (4,)), (COUNTS, 4, (4,)), (COUNTS, "4", (4,)),
        (COUNTS, np.array([8, 4]), (4, 8)), (COUNTS, np.int64(4), (4,)), (COUNTS, range(2, 4), (2, 3)),
        (COUNTS, {8, 4}, (4, 8)), (COUNTS, ("8", 4.0), (4, 8)),
        (REALS, "0.1,0.5", (0.5, 0.1)), (REALS, 0.5, (0.5,)), (REALS, np.float32(0.5), (0.5,)),
        (NAME, "mlp", "mlp"), (NAME, np.str_("cnn"), "cnn"),
        (NAMES, "b,a", ("a", "b")), (NAMES, ["c"], ("c",)), (NAMES, "none", ()), (NAMES, ["none"], ()), (NAMES, [], ()),
        (options.SWITCH, True, True), (options.SWITCH, "false", False), (options.SWITCH, "1", True),
        (options.SWITCH, 0, False), (options.SWITCH, np.True_, True), (options.SWITCH, "True", True),
    ],
)  # fmt: skip
def test_a_check_takes(check, value, expected):
    found = check.parse(value)
    assert found == expected and type(found) is type(expected)
    if isinstance(found, tuple):
        assert [type(item) for item in found] == [type(item) for item in expected]


@pytest.mark.parametrize(
    ("check", "value"),
    [
        *((options.COUNT, value) for value in (0, -1, "0", "many", "", 1.5, "1.5", np.float64(1.5), float("nan"), "nan",
                                               float("inf"), True, False, np.True_, None, [3], ARRAY, 10**9 + 1,
                                               "9" * 400, "9" * 5000, 3j, b"3", {}, object())),
        *((options.POSITIVE, value) for value in (0, 0.0, "0", -1, "nan", float("nan"), np.nan, "inf", 10**400, True,
                                                  "", np.True_, 1j, None, (1.0,))),
        (options.PROBABILITY, 1), (options.PROBABILITY, -1e-9), (options.FRACTION, 0), (options.FRACTION, 1),
        (options.NOT_NEGATIVE, -1), (options.DEPTH, 1), (options.DEPTH, 101), (options.SEED, 2**32),
        (options.EPOCHS, 10**6 + 1), (options.SEEDS, 10_001),
        *((COUNTS, value) for value in ("", ",", "4,,8", "4,4", [4, 4], [4, "4"], [], (), "4,0", [4, 1.5], True, [True],
                                        None, object(), [[4]], np.ones((2, 2)), "none", "4;8", 1.5)),
        (REALS, "0.1,nan"), (REALS, [float("nan")]), (REALS, "0.1,0.10"),
        *((NAME, value) for value in ("MLP", "", None, 3, ["mlp"], ("mlp", "cnn"), ARRAY, "mlp,cnn", b"mlp", True)),
        *((NAMES, value) for value in ("a,a", ["a", "a"], "d", "a,d", "", "a,", "a,none", 3, None, [["a"]], ARRAY, [1],
                                       True)),
        *((options.SWITCH, value) for value in ("yes", "", 2, None, 1.5, [True])),
    ],
)  # fmt: skip
def test_a_check_refuses_with_what_it_expects(check, value):
    with pytest.raises(ValueError, match=r"^expected ") as caught:
        check.parse(value)
    assert str(caught.value) == f"expected {check.expected}" and "\n" not in check.expected


def test_every_check_says_its_kind():
    kinds = [check.kind for check in (options.COUNT, options.POSITIVE, COUNTS, REALS, NAME, NAMES, options.SWITCH)]
    assert kinds == ["int", "float", "comma-separated ints", "comma-separated floats", "name", "comma-separated names",
                     "boolean"]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    widths: tuple = options.setting(COUNTS, "Widths.", unit="units", group="network")
    model: str = options.setting(NAME, "Network.", default="mlp", group="network")
    lr: float = options.setting(options.POSITIVE, "Rate.", default=0.1)


def test_settings_are_read_from_a_config():
    found = options.settings(Config)
    assert list(found) == ["widths", "model", "lr"]
    assert (found["widths"].unit, found["widths"].group, found["lr"].group) == ("units", "network", "training")
    assert (found["lr"].help, found["lr"].check) == ("Rate.", options.POSITIVE)
    assert Config() == Config(None, "mlp", 0.1)
    with pytest.raises(ValueError, match="group: expected one of data, network, training, measurement, output, got 'x"):
        options.setting(NAME, "Help.", group="x")


def test_checked_gives_what_was_given_and_none_is_not_given():
    assert options.checked(Config, {"widths": "8,4", "model": None, "lr": np.float64(1)}) == {"widths": (4, 8), "lr": 1}
    assert options.checked(Config, {}) == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr": -1}, "lr: expected a positive number, got -1"),
        ({"lr": "fast"}, "lr: expected a positive number, got 'fast'"),
        ({"model": "mlpp"}, "model: expected one of mlp, cnn, got 'mlpp'; did you mean mlp?"),
        ({"model": "resnet"}, "model: expected one of mlp, cnn, got 'resnet'"),
        ({"wdiths": (4,)}, "wdiths: expected a setting of this study, got (4,); did you mean widths?"),
        ({"wdiths": None}, "wdiths: expected a setting of this study, got None; did you mean widths?"),
        ({"outdir": "x"}, "outdir: expected a setting of this study, got 'x'; did you mean out_dir?"),
        ({"zzz": 1}, "zzz: expected a setting of this study, got 1"),
        ({"widths": [0] * 999}, f"widths: expected {COUNTS.expected}, got [{'0, ' * 25}0..."),
    ],
)
def test_a_mistake_is_one_line_that_begins_with_the_setting(given, message):
    with pytest.raises(ValueError) as caught:
        options.checked(Config, given, ["out_dir"])
    assert str(caught.value) == message


def test_a_foreign_setting_is_refused_only_if_it_was_given():
    options.refuse({"lr": 0.1}, {"widths": "--model=cnn"})
    with pytest.raises(ValueError, match=r"^widths: expected no such setting with --model=cnn, got \(4, 8\)$"):
        options.refuse({"widths": (4, 8)}, {"widths": "--model=cnn"})


def test_a_range_of_ones_own():
    even = Number(int, "an even number", lambda value: value % 2 == 0)
    assert even.parse("4") == 4 and Numbers(even).expected.endswith("each an even number")
    with pytest.raises(ValueError, match="expected an even number"):
        even.parse(3)
