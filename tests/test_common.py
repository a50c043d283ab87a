"""What studies that are scripts share; it goes when `experiments/common.py` does. Packaged ones: `test_cli.py`."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parent.parent
EXPERIMENTS = ROOT / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

import common  # noqa: E402

# A program whose main does what the first argument says.
PROGRAM = r"""
import os, sys, warnings
import common

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

def main():
    acts[common.flags.FLAGS.act]()
    print("the end", file=sys.stderr)

common.flags.DEFINE_string("act", None, "What to do.")
common.run(main)
"""


def program(act, **more):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{EXPERIMENTS}", **more.pop("environment", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | more
    return subprocess.run([sys.executable, "-c", PROGRAM, f"--act={act}"], env=environment, **options)


@pytest.mark.parametrize(
    ("act", "code", "words"),
    [
        ("interrupt", 130, "interrupted; the same command goes on"),
        ("disk", 1, "runs.csv: No space left on device; the same command goes on"),
        ("memory", 1, "out of memory (8 GiB); the same command goes on"),
        ("device", 1, "out of memory (RESOURCE_EXHAUSTED"),
    ],
)
def test_what_stops_the_work_is_said_in_one_line(act, code, words):
    done = program(act)
    assert done.returncode == code and done.stderr.startswith("error: ") and words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_a_bug_keeps_its_stack_trace():
    done = program("bug")
    assert done.returncode == 1 and "Traceback" in done.stderr and "IndexError" in done.stderr


def test_a_reader_that_leaves_does_not_stop_the_work():
    read, write = os.pipe()
    os.close(read)
    done = program("print", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "the end\n")


def test_letters_that_the_stream_does_not_have_are_escaped():
    done = program("letters", environment={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "\\xe9 and \\udcff\n", "the end\n")


def test_a_warning_takes_one_line():
    assert program("warn").stderr == "UserWarning: something is damaged\nthe end\n"


def test_output_passes_other_errors_on():
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        common._Output(SimpleNamespace(write=fail)).write("x")


def test_figures_of_two_configurations_have_two_names():
    one, two = (SimpleNamespace(folder=Path(f"digits-{name}")) for name in ("0123456789ab", "1123456789ab"))
    assert common.figure_name(one, "study_digits_lr0.1") == "study_digits_lr0.1_01234567"
    assert common.figure_name(two, "study_digits_lr0.1") == "study_digits_lr0.1_11234567"
    assert len(common.figure_name(one, "keep" * 100)) < 200  # names of files have an end
