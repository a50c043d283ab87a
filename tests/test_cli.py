"""How a study ends when the machine, the user or a reader stops it, and what its flags become."""

import dataclasses
import errno
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ntkgen import cli
from ntkgen.studies import base, double_descent, options

ROOT = Path(__file__).resolve().parent.parent

# A program that does what the first argument says.
PROGRAM = r"""
import os, sys, warnings
from ntkgen import cli

acts = {
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "disk": lambda: (_ for _ in ()).throw(OSError(28, "No space left on device", "runs.csv")),
    "memory": lambda: (_ for _ in ()).throw(MemoryError("8 GiB")),
    "device": lambda: (_ for _ in ()).throw(RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")),
    "bug": lambda: [][0],
    "print": lambda: [print("x" * 1000) for _ in range(1000)],
    "letters": lambda: print("\u00e9 and \udcff"),
    "warn": lambda: warnings.warn("something is damaged", stacklevel=1),
}

with cli.guarded():
    acts[sys.argv[1]]()
    print("the end", file=sys.stderr)
"""


@pytest.fixture
def program(forks):
    """Run PROGRAM: program(act), in a fork, or with more settings in a process of its own."""

    def run(act, **more):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **more.pop("environment", {})}
        if not more and "PYTHONIOENCODING" not in environment:
            return forks.run("-c", PROGRAM, act, env=environment)
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | more
        return subprocess.run([sys.executable, "-c", PROGRAM, act], env=environment, **options)

    return run


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        ("interrupt", 130, "interrupted; the same command goes on"),
        ("disk", 1, "runs.csv: No space left on device; the same command goes on"),
        ("memory", 1, "out of memory (8 GiB); the same command goes on"),
        ("device", 1, "out of memory (RESOURCE_EXHAUSTED"),
    ],
)
def test_what_stops_the_work_is_said_in_one_line(program, act, code, words):
    done = program(act)
    assert done.returncode == code and done.stderr.startswith("error: ") and words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_bug_keeps_its_stack_trace(program):
    done = program("bug")
    assert done.returncode == 1 and "Traceback" in done.stderr and "IndexError" in done.stderr


def test_a_reader_that_leaves_does_not_stop_the_work(program):
    read, write = os.pipe()
    os.close(read)
    done = program("print", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "the end\n")


def test_letters_that_the_stream_does_not_have_are_escaped(program):
    done = program("letters", environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xe9 and \\udcff\n", "the end\n")


def test_a_warning_takes_one_line(program):
    assert program("warn").stderr == "UserWarning: something is damaged\nthe end\n"


INTERRUPTED = r"""
import gc, os, signal, sys
from importlib.abc import MetaPathFinder

def interrupt(*_, **__):
    os.kill(os.getpid(), signal.SIGINT)

def once(*_):
    gc.callbacks.remove(once)
    interrupt()

class AtImport(MetaPathFinder):
    def __init__(self, name):
        self.name = name
    def find_spec(self, name, *_):
        if name == self.name:
            interrupt()

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
when, *arguments = sys.argv[1:]
if when in ("absl.app", "jax", "flax"):
    sys.meta_path.insert(0, AtImport(when))
elif when == "compilation":
    from jax import monitoring
    monitoring.register_event_duration_secs_listener(lambda name, *_, **__: "to_mlir" in name and interrupt())
else:  # into a callback, whose errors Python forgets; JAX has such a one
    from jax import monitoring
    monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: "to_mlir" in name and once not in gc.callbacks and gc.callbacks.append(once))
sys.argv = ["ntkgen", *arguments]
from ntkgen.__main__ import main
main()
"""


def slow(name: str):
    return pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("when", [slow("absl.app"), "jax", "compilation", slow("garbage collection")])
def test_an_interrupt_is_one_line_whenever_it_comes(when, tmp_path):
    command = [sys.executable, "-c", INTERRUPTED, when, "double_descent", "--preset=quick", f"--out_dir={tmp_path}"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    assert done.stderr.startswith("error: interrupted; ") and done.stderr.count("\n") == 1, done.stderr
    assert done.returncode in (130, -signal.SIGINT) and done.stdout == ""


def test_a_platform_that_jax_does_not_have_is_said_in_one_line(tmp_path):
    command = [sys.executable, "-m", "ntkgen", "double_descent", "--preset=quick", f"--out_dir={tmp_path / 'out'}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "nothing"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "JAX_PLATFORMS" in done.stderr and done.stderr.count("\n") <= 2, done.stderr
    assert not (tmp_path / "out").exists()


def test_output_passes_other_errors_on():
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cli._Output(SimpleNamespace(write=fail)).write("x")


# Flags


@dataclasses.dataclass(frozen=True)
class Config(base.Config):
    sizes: tuple[int, ...] | None = options.setting(options.COUNTS, "Sizes.", unit="units", group="network")
    parts: tuple[str, ...] = options.setting(options.Choices(("a", "b")), "Parts.", default=("a",), group="measurement")
    wide: bool = options.setting(options.SWITCH, "Wide.", default=True, group="network")


@dataclasses.dataclass(frozen=True)
class Lists(base.Config):
    sizes: tuple[int, ...] = options.setting(options.COUNTS, "Sizes.", default=(4, 8))
    parts: tuple[str, ...] = options.setting(options.Choices(("a", "b")), "Parts.", default=("a", "b"))
    empty: tuple[str, ...] = options.setting(options.Choices(("a", "b")), "Empty.", default=())


def study(resolve) -> base.Study:
    return dataclasses.replace(double_descent.STUDY, name="made_up", question="Is it?", config=Config, resolve=resolve)


class Stop(Exception):
    pass


def given(*arguments: str) -> tuple[str, dict]:
    """What a command line gives a study."""
    found = []

    def resolve(preset, values):
        found.append((preset, values))
        raise Stop

    with pytest.raises(Stop):
        cli.run_study(study(resolve), ["made_up", *arguments])
    return found[0]


def test_only_what_is_on_the_command_line_is_given():
    assert given() == ("paper", {})
    assert given("--preset=quick", "--sizes=8,4", "--parts=none", "--nowide", "--seed", "3", "--label_noise=0") == (
        "quick", {"sizes": (4, 8), "parts": (), "wide": False, "seed": 3, "label_noise": 0.0})  # fmt: skip
    assert given("--wide")[1] == {"wide": True} and given("--wide=false")[1] == {"wide": False}
    assert given("--parts=b,a", "--seed=0")[1] == {"parts": ("a", "b"), "seed": 0}  # a default that is said is said


def refusal(capsys, resolve, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        cli.run_study(study(resolve), ["made_up", *arguments])
    out, err = capsys.readouterr()
    assert caught.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1, err
    return err.removeprefix("error: ").rstrip("\n")


def test_an_error_of_a_relation_names_its_flag(capsys):
    def resolve(preset, values):
        raise ValueError("sizes: expected two\nsizes, got 1" if values["sizes"] == (1,) else "none of: them")

    assert refusal(capsys, resolve, "--sizes=1") == "--sizes: expected two sizes, got 1"
    assert refusal(capsys, resolve, "--sizes=2") == "none of: them"
    assert refusal(capsys, resolve, "--siezs=2") == "Unknown command line flag 'siezs'. Did you mean: sizes ?"
    assert refusal(capsys, resolve, "--dataset=minst").endswith(".npz file; did you mean mnist?")


def test_a_bug_in_the_work_keeps_its_stack_trace(tmp_path):
    def measure(run, prepared):
        raise ValueError("sizes: of a bug")

    made_up = dataclasses.replace(study(lambda *_: Config("digits")), prepare=lambda *_: ({}, None), measure=measure)
    with pytest.raises(ValueError, match="of a bug"):
        cli.run_study(made_up, ["made_up", f"--out_dir={tmp_path}"])


def test_help_says_what_is_expected_and_ends_well(capsys):
    for word in ("--help", "-h", "-help"):
        with pytest.raises(SystemExit) as caught:
            cli.run_study(study(None), ["made_up", "--sizes=nonsense", word])
        out, err = capsys.readouterr()
        assert caught.value.code == 0 and err == "" and out.startswith("Is it?\n")
        assert (
            "(default: 'a')" in out
            and "--sizes: Sizes. In units." in out
            and "--[no]wide: Wide." in out
            and "--[no]force" in out
        )
        assert "comma-separated list of a, b, or none" in " ".join(out.split())


def test_help_shows_a_default_as_it_is_typed(capsys):
    with pytest.raises(SystemExit):
        cli.run_study(dataclasses.replace(study(None), config=Lists), ["made_up", "--help"])
    out = capsys.readouterr().out
    assert "(default: '4,8')" in out and "(default: 'a,b')" in out and "(default: 'none')" in out


SCRIPT = r"""
import warnings
from absl import flags
from ntkgen import cli
from ntkgen.studies import options

cli.define_flag("count", options.COUNT, 3, "How many.")
cli.define_flag("loud", options.SWITCH, True, "Whether.")

def work():
    with cli.user_errors(flags.FLAGS):
        if flags.FLAGS.count == 7:
            raise ValueError("count: expected another number, got 7")
    if flags.FLAGS.count == 9:
        raise ValueError("count: of a bug")
    warnings.warn("something is damaged", stacklevel=1)
    print(flags.FLAGS.count, flags.FLAGS.loud)

cli.script(work)
"""


@pytest.mark.parametrize(
    ("flag", "code", "out", "err"),
    [
        ("--count=5", 0, "5 True\n", "UserWarning: something is damaged\n"),
        ("--noloud", 0, "3 False\n", "UserWarning: something is damaged\n"),
        ("--count=0", 2, "", "error: flag --count=0: expected a whole number from 1 to 1000000000\n"),
        ("--count=7", 2, "", "error: --count: expected another number, got 7\n"),
        ("count", 2, "", "error: expected flags only, got 'count'\n"),
    ],
)
def test_a_script_that_is_no_study(forks, flag, code, out, err):
    done = forks.run("-c", SCRIPT, flag)
    assert (done.returncode, done.stdout, done.stderr) == (code, out, err)


def test_a_bug_in_a_script_keeps_its_stack_trace(forks):
    done = forks.run("-c", SCRIPT, "--count=9")
    assert done.returncode == 1 and "Traceback" in done.stderr and "of a bug" in done.stderr and done.stdout == ""


def test_a_study_runs_without_standard_streams(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with cli.guarded():
        pass


def test_a_walk_over_all_modules_runs_nothing(capsys):
    importlib.import_module("ntkgen.__main__")
    assert capsys.readouterr() == ("", "")
