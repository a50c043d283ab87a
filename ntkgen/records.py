"""Run folders: the full config, tidy tables, checkpoints, and going on after a kill.

A run lives in `<out_dir>/<study>/<dataset>-<hash of the resolved config>/`. Two runs share a folder only if every
resolved setting is equal. Files are whole or absent; nothing in them depends on when, or how often interrupted, the
run was. A little over 350 lines: the folder and its checkpoints share checksums, and are damaged and mended together.
"""

import contextlib
import csv
import importlib.metadata
import io as text
import json
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

import ntkgen
from ntkgen import io

PyTree = Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
FINISHED = "finished.json"
SUMS = "sha256.json"


class RecordError(ValueError):
    """A run folder cannot be used; the message is one line that says why."""


def versions() -> dict[str, str]:
    """Return the versions that a number may depend on."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"ntkgen": ntkgen.__version__, "python": platform.python_version(), **found}


def device() -> dict[str, Any]:
    """Return backend, kind and number of the devices that a run uses."""
    devices = jax.local_devices()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}


def source() -> str:
    """Return a digest of the package's code: two states of a checkout may share a commit, but not this."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return io.config_hash({path.name: io.sha256_bytes(path.read_bytes()) for path in files})


def commit() -> str | None:
    """Return the checkout's commit, with `-dirty` if tracked files differ from it; None outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


class Run:
    """An open run folder. Make it with `open_run`.

    Attributes:
      folder: where everything is written.
      finished: True if an earlier call completed the run.
    """

    def __init__(self, folder: Path, finished: bool) -> None:
        """Wrap a folder that `open_run` prepared."""
        self.folder, self.finished = folder, finished

    def write_table(self, name: str, rows: Sequence[dict[str, Any]]) -> Path:
        """Write rows of equal keys as CSV: floats in full precision, None as an empty cell, NaN as nan."""
        return write_table(self.folder / name, rows)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as indented JSON."""
        path = self.folder / name
        text_form = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
        io.atomic_write(path, text_form.encode())
        return path

    def checkpointer(self, name: str, every_seconds: float = 20.0) -> "Checkpointer":
        """Return the checkpoints of one part of the run."""
        return Checkpointer(self.folder / "checkpoints" / name, every_seconds)

    def finish(self) -> None:
        """Mark the run as complete: the same command will not do it again."""
        names = sorted(p.name for p in self.folder.iterdir() if p.is_file() and not p.name.startswith("."))
        sums = {name: io.sha256_bytes((self.folder / name).read_bytes()) for name in names if name != FINISHED}
        self.write_json(FINISHED, sums)
        self.finished = True


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows of equal keys as CSV: floats in full precision, None as an empty cell, NaN as nan."""
    if not rows:
        raise ValueError(f"{path.name}: expected at least one row, got none")
    buffer = text.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    io.atomic_write(path, buffer.getvalue().encode())
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV table that `write_table` wrote; every cell is text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _cell(value: Any) -> Any:
    return repr(float(value)) if isinstance(value, float | np.floating) else value


@contextlib.contextmanager
def open_run(
    out_dir: str | os.PathLike, study: str, dataset: str, config: dict[str, Any], *, force: bool = False
) -> Iterator[Run]:
    """Open the folder of a run, new or begun, and hold it.

    Args:
      out_dir: root of all results.
      study: name of the study.
      dataset: name of the dataset.
      config: the complete resolved config, JSON types only. The device's platform and count, on which rounding
        depends, are added to it.
      force: delete what an earlier call left, and begin anew.

    Yields:
      The run.

    Raises:
      RecordError: the folder cannot be written, is in use, or holds a run of another config or version.
    """
    resolved = {**config, "device": {key: value for key, value in device().items() if key != "kind"}}
    folder = Path(out_dir) / study / f"{dataset}-{io.config_hash(resolved)}"
    check_writable(folder, "out_dir")
    try:
        with io.lock(folder):
            if force:
                _clear(folder)
            for unfinished in folder.glob(".*.tmp"):  # of an atomic write that was killed
                unfinished.unlink()
            _check_same(folder, resolved)
            finished = _is_finished(folder)
            _check_source(folder, finished)
            run = Run(folder, finished)
            if not (folder / "config.json").exists():
                run.write_json(
                    "config.json",
                    {
                        "study": study,
                        "dataset": dataset,
                        "config": resolved,
                        "versions": versions(),
                        "device": device(),
                        "commit": commit(),
                        "source": source(),
                    },
                )
            yield run
    except io.LockedError as error:
        raise RecordError(f"out_dir: {error}") from None


def check_writable(folder: str | os.PathLike, name: str) -> None:
    """Try to write where a folder is or will be, and leave nothing behind.

    Args:
      folder: the folder.
      name: what the user calls it.

    Raises:
      RecordError: nothing can be written there.
    """
    existing = folder = Path(folder)
    try:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise RecordError(f"{name}: cannot write in {existing}: {error.strerror}") from None


def _check_same(folder: Path, resolved: dict[str, Any]) -> None:
    path = folder / "config.json"
    if not path.exists():
        return
    try:
        found = json.loads(path.read_text())
        differing = {
            "config": (found["config"], json.loads(io.canonical_json(resolved))),
            **{name: (found["versions"].get(name), version) for name, version in versions().items()},
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RecordError(f"out_dir: {path} is damaged; --force begins the run anew") from None
    for name, (theirs, ours) in differing.items():
        if theirs != ours:
            detail = "another config" if name == "config" else f"{name} {theirs}, this is {ours}"
            raise RecordError(f"out_dir: {folder} holds a run of {detail}; --force begins it anew, or choose another")


def _check_source(folder: Path, finished: bool) -> None:
    """Refuse to go on with a run that other code began: half of its numbers would be another program's."""
    path = folder / "config.json"
    if not path.exists():
        return
    found = json.loads(path.read_text())
    if found.get("source") == source():
        return
    if not finished:
        raise RecordError(
            f"out_dir: {folder} holds a run that another version of the code began; --force begins it anew, or choose "
            "another"
        )
    warnings.warn(f"{folder} was made by another version of the code, commit {found.get('commit')}", stacklevel=2)


def _is_finished(folder: Path) -> bool:
    """Say whether the run is complete and its tables are what it wrote; figures are drawn anew anyway."""
    path = folder / FINISHED
    if not path.exists():
        return False
    try:
        sums = json.loads(path.read_text())
        tables = [name for name in sums if name.endswith((".csv", ".json"))]
        damaged = [name for name in tables if io.sha256_bytes((folder / name).read_bytes()) != sums[name]]
    except (OSError, ValueError, TypeError) as error:
        damaged = [str(error)]
    if damaged:
        warnings.warn(f"{folder} is not as the run left it ({', '.join(damaged)}); finishing it anew", stacklevel=2)
    return not damaged


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


class Checkpointer:
    """Keeps the latest two states of an ensemble's training with Orbax; only the last once it is final.

    Orbax makes each checkpoint appear whole, by renaming. The checksums of its files are stored beside them, so that
    damage done later is found before Orbax stumbles over it, and a digest over all arrays within, so that what comes
    back is what went in.
    """

    def __init__(self, folder: Path, every_seconds: float = 20.0) -> None:
        """Keep checkpoints below `folder`, one every so many seconds at most."""
        self.folder, self.every_seconds = folder, every_seconds
        self._last = time.monotonic()
        logging.getLogger("absl").addFilter(_not_orbax)

    def scope(self, name: str) -> "Checkpointer":
        """Return the checkpoints of a part of this run."""
        return Checkpointer(self.folder / name, self.every_seconds)

    def save(self, epoch: int, tree: PyTree, *, final: bool) -> None:
        """Keep the state of an epoch, unless the last one is fresh; a final one always."""
        if not final and time.monotonic() - self._last < self.every_seconds:
            return
        leaves = _named(tree)
        digest = np.frombuffer(bytes.fromhex(_digest(epoch, leaves)), np.uint8)
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.size} | {"digest": digest}
        path = self.folder / str(epoch)
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save(path.absolute(), args=ocp.args.StandardSave(leaves), force=True)
        io.atomic_write(path / SUMS, json.dumps({"final": final, "files": _file_sums(path)}).encode())
        self._prune(final)
        self._last = time.monotonic()

    def _prune(self, final: bool) -> None:
        """Delete what newer checkpoints replace; a run killed before this did not, so `restore` does it too."""
        for old in self._epochs()[: -1 if final else -2]:
            shutil.rmtree(self.folder / str(old))
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a save that was killed
            shutil.rmtree(unfinished)

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Return the last intact (epoch, tree of numpy arrays), or None; damaged ones are set aside with a warning."""
        for epoch in reversed(self._epochs()):
            path = self.folder / str(epoch)
            try:
                tree, final = self._load(path, epoch, like)
                self._prune(final)
                return epoch, tree
            except Exception as error:  # a damaged checkpoint fails in as many ways as there are bytes
                aside = path.with_name(f"damaged-{epoch}")
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
                reason = " ".join(str(error).split())[:200]
                warnings.warn(f"checkpoint {path} is damaged ({reason}); set aside as {aside.name}", stacklevel=2)
        return None

    def _epochs(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    @staticmethod
    def _load(path: Path, epoch: int, like: PyTree) -> tuple[PyTree, bool]:
        sums = json.loads((path / SUMS).read_text())
        if sums["files"] != _file_sums(path):
            raise ValueError("its files' checksums do not match")
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            target = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in _named(like).items()}
            target["digest"] = np.zeros(32, np.uint8)
            filled = {name: leaf for name, leaf in target.items() if leaf.size}  # Orbax refuses empty arrays
            leaves = target | reader.restore(path.absolute(), args=ocp.args.StandardRestore(filled))
        stored = np.asarray(leaves.pop("digest")).tobytes().hex()
        if stored != _digest(epoch, leaves):
            raise ValueError("the checksum of its arrays does not match")
        for name, leaf in _named(like).items():
            if leaves[name].shape != leaf.shape:
                raise ValueError(f"expected {name} of shape {leaf.shape}, got {leaves[name].shape}")
        arrays = [np.array(leaves[name]) for name in _named(like)]
        return jax.tree.unflatten(jax.tree.structure(like), arrays), sums["final"]


def _not_orbax(record: logging.LogRecord) -> bool:
    """Drop Orbax's running commentary, which would tear the progress bar apart; keep its warnings."""
    return record.levelno >= logging.WARNING or "orbax" not in record.pathname


def _file_sums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != SUMS)
    return {str(path.relative_to(folder)): io.sha256_bytes(path.read_bytes()) for path in files}


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    return {f"leaf{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _digest(epoch: int, leaves: dict[str, np.ndarray]) -> str:
    return io.digest({**leaves, "epoch": np.asarray(epoch, np.int64)})
