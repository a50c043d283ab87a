"""The environment of neural-tangents 0.6.5, which does not import on this project's JAX.

`ntk.py` and `run.py` share the two flags that are defined here.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from absl import flags

from ntkgen import cli, io
from ntkgen.studies import options

WAY = "neural-tangents"  # its name on the command line, in tables, and in the cache folder
VARIABLE = "NTKGEN_NT_PYTHON"
ABSENT = "not installed: --build_peers makes its environment"
# The last release, and the last JAX that it works on. It imports TensorFlow.
PINS = (
    "neural-tangents==0.6.5", "jax==0.4.25", "jaxlib==0.4.25", "numpy==1.26.4", "scipy==1.12.0", "ml_dtypes==0.5.4",
    "opt_einsum==3.4.0", "frozendict==2.5.1", "tf2jax==0.3.6", "tensorflow==2.21.0",
)  # fmt: skip
VERSION = f"import importlib.metadata, neural_tangents; print(importlib.metadata.version({WAY!r}))"
SETTING = {"JAX_PLATFORMS": "cpu"}  # it has JAX for CPUs alone


class Peer(NamedTuple):
    """A Python that imports neural-tangents, and the version of that."""

    python: str
    version: str


def define_flags(values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flags that `find` takes."""
    words = f"Make an environment with {PINS[0]} in the cache folder, by venv and pip. One that is there is used."
    cli.define_flag("build_peers", options.SWITCH, False, words, values)
    words = f"Python of an environment that has {WAY}. Default: ${VARIABLE}, then what --build_peers made."
    flags.DEFINE_string("nt_python", None, words, values)


def find(given: str | None, build: bool) -> Peer | None:
    """Return the Python that has neural-tangents; None where nobody named or made one.

    Args:
      given: --nt_python.
      build: --build_peers.

    Raises:
      ValueError: the Python that --nt_python or $NTKGEN_NT_PYTHON names does not import it, or pip fails.
    """
    if given is not None and build:
        raise ValueError("nt_python: expected a Python, or --build_peers, not both")
    named = {"nt_python": given} if given is not None else {} if build else {VARIABLE: os.environ.get(VARIABLE) or None}
    for name, python in named.items():
        if python is not None:
            python = os.path.expanduser(python)
            try:
                return Peer(python, version(python))
            except ValueError as error:
                expected = f"expected the Python of an environment that has {WAY}"
                raise ValueError(f"{name}: {expected}, got {python!r}: {error}") from None
    try:
        folder = io.cache_dir() / WAY
    except RuntimeError as error:  # a user without a home folder
        if build:
            raise ValueError(f"build_peers: expected a cache folder ($NTKGEN_CACHE_DIR): {error}") from None
        return None
    python = str(folder / "bin" / "python")
    try:
        return Peer(python, version(python))
    except ValueError:  # not made, or not to its end
        if not build:
            return None
    make(folder, python)
    try:
        return Peer(python, version(python))
    except ValueError as error:
        raise ValueError(f"build_peers: {WAY} does not import in {folder}: {error}") from None


def make(folder: Path, python: str) -> None:
    """Make the environment anew.

    Raises:
      ValueError: venv or pip fails; the folder is then gone.
    """
    print(f"making an environment with {PINS[0]} in {folder}: some minutes, 2.5 GB", flush=True)
    venv = [sys.executable, "-m", "venv", "--clear", str(folder)]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS]
    for command in (venv, pip):
        try:
            output(command)
        except ValueError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise ValueError(f"build_peers: {command[2]} failed: {error}") from None


def version(python: str) -> str:
    """Return the version of neural-tangents that a Python imports.

    Raises:
      ValueError: it does not import it.
    """
    found = output([python, "-E", "-c", VERSION]).strip()
    if not found:
        raise ValueError("it says no version")
    return found


def output(command: list[str]) -> str:
    """Return what a program prints.

    Raises:
      ValueError: it does not start, or fails; with the last line that it says.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, **SETTING}
        )
    except OSError as error:
        raise ValueError(error.strerror) from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ValueError(said[-1] if said else f"exit code {done.returncode}")
    return done.stdout
