"""Checkpoints of an ensemble's training, checked when they are read; a damaged one is set aside, never believed."""

import itertools
import json
import logging
import os
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from ntkgen import io
from ntkgen.typing import PyTree

SUMS = "sha256.json"
MADE_BY = "made_by.json"


class DamagedError(ValueError):
    """Something stored is not what was stored."""


class StorageError(OSError):
    """An intact file could not be read, or a file not be written: an error of the moment, which ends a run."""


def set_aside(path: Path, reason: str) -> None:
    """Rename something damaged to a name that is free, with a warning of one line."""
    names = itertools.chain([f"damaged-{path.name}"], (f"damaged-{path.name}-{i}" for i in itertools.count(2)))
    aside = next(aside for aside in map(path.with_name, names) if not os.path.lexists(aside))
    path.rename(aside)
    warnings.warn(f"{path} is damaged ({' '.join(reason.split())[:200]}); set aside as {aside.name}", stacklevel=3)


class Checkpointer:
    """Keeps the latest two states of an ensemble's training with Orbax; only the last once it is final.

    Orbax makes each checkpoint appear whole, by renaming. The checksums of its files are stored beside them, with
    shape and dtype of every array, and a digest over all arrays within. So damage and another form are found before
    Orbax reads anything. What fails after that is an error of the moment.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     kept = records.Checkpointer(Path(folder))
      ...     kept.save(1, {"bias": np.ones(2)}, final=True)
      ...     epoch, tree = kept.restore({"bias": np.zeros(2)})
      >>> epoch, tree["bias"].tolist()
      (1, [1.0, 1.0])
    """

    def __init__(self, folder: str | os.PathLike, every_seconds: float = 20.0) -> None:
        """Keep checkpoints below `folder`, one every so many seconds at most."""
        self.folder, self.every_seconds = Path(folder), every_seconds
        self._last = time.monotonic()
        logging.getLogger("absl").addFilter(_not_orbax)

    def scope(self, name: str) -> "Checkpointer":
        """Return the checkpoints of a part of this run."""
        return Checkpointer(self.folder / name, self.every_seconds)

    def claim(self, made_by: Callable[[], Mapping[str, str]]) -> None:
        """Keep a note of what makes these checkpoints, name -> words, beside them.

        Raises:
          ValueError: what is there was made by other arguments; the line names the first that differs.
          StorageError: the note cannot be written.
        """
        path, ours = self.folder / MADE_BY, dict(made_by())
        try:
            before = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            before = None
        if isinstance(before, dict) and self._epochs():
            for name in sorted(before.keys() | ours.keys()):
                there, here = before.get(name), ours.get(name)
                if there != here:
                    told = f"{name} {there}, got {here}" if len(f"{there}{here}") < 100 else f"another {name}"
                    raise ValueError(f"checkpoint: expected a folder of this run, {self.folder} holds one with {told}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            io.atomic_write(path, json.dumps(ours, indent=1, sort_keys=True).encode())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {_first_line(error)}") from error

    def save(self, epoch: int, tree: PyTree, *, final: bool) -> None:
        """Keep the state of an epoch, unless the last one is fresh; a final one always.

        Raises:
          StorageError: the disk does not take it.
        """
        if not final and time.monotonic() - self._last < self.every_seconds:
            return
        leaves = _named(tree)
        form = _form(leaves)
        digest = np.frombuffer(bytes.fromhex(_digest(epoch, leaves)), np.uint8)
        leaves = {name: leaf for name, leaf in leaves.items() if leaf.size} | {"digest": digest}
        path = self.folder / str(epoch)
        try:
            with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
                writer.save(path.absolute(), args=ocp.args.StandardSave(leaves), force=True)
        except Exception as error:  # Orbax passes on what its storage says, in exceptions of many types
            raise StorageError(f"cannot write the checkpoint {path}: {_first_line(error)}") from error
        sums = {"final": final, "form": form, "files": _file_sums(path)}
        io.atomic_write(path / SUMS, json.dumps(sums).encode())
        self._prune(final)
        self._last = time.monotonic()

    def _prune(self, final: bool) -> None:
        """Delete what newer checkpoints replace; a run killed before this did not, so `restore` does it too."""
        for old in self._epochs()[: -1 if final else -2]:
            shutil.rmtree(self.folder / str(old))
        for unfinished in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a save that was killed
            shutil.rmtree(unfinished)

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Return the last intact (epoch, tree of numpy arrays), or None; damaged ones are set aside with a warning.

        Raises:
          OSError: a checkpoint cannot be read at this moment (too many open files, no memory, a failing disk); it
            stays where it is.
        """
        for epoch in reversed(self._epochs()):
            path = self.folder / str(epoch)
            try:
                tree, final = _load(path, epoch, like)
            except DamagedError as error:
                set_aside(path, str(error))
                continue
            self._prune(final)
            return epoch, tree
        return None

    def _epochs(self) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(self.folder) if name.isdecimal())
        except FileNotFoundError:
            return []


def _load(path: Path, epoch: int, like: PyTree) -> tuple[PyTree, bool]:
    wanted = _named(like)
    final = _check_files(path, _form(wanted))
    target = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in wanted.items()}
    target["digest"] = np.zeros(32, np.uint8)
    filled = {name: leaf for name, leaf in target.items() if leaf.size}  # Orbax refuses empty arrays
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            leaves = target | reader.restore(path.absolute(), args=ocp.args.StandardRestore(filled))
    except Exception as error:  # the files are intact and of this form: it is not the checkpoint
        raise StorageError(f"cannot read the intact checkpoint {path}: {_first_line(error)}") from error
    stored = np.asarray(leaves.pop("digest")).tobytes().hex()
    if stored != _digest(epoch, leaves):
        raise DamagedError("the checksum of its arrays does not match")
    return jax.tree.unflatten(jax.tree.structure(like), [np.array(leaves[name]) for name in wanted]), final


def _check_files(path: Path, form: dict[str, Any]) -> bool:
    """Hold a checkpoint's files against their checksums and its arrays against a form; say whether it is final."""
    try:
        sums = json.loads((path / SUMS).read_bytes())
        final, files, stored = bool(sums["final"]), sums["files"], sums["form"]
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"no checksums: {error}") from None
    if files != _file_sums(path):
        raise DamagedError("its files' checksums do not match")
    if stored != form:
        differing = [name for name in form.keys() | stored.keys() if form.get(name) != stored.get(name)]
        name = min(differing)
        raise DamagedError(f"expected {name} as {form.get(name)}, got {stored.get(name)}")
    return final


def _file_sums(folder: Path) -> dict[str, str]:
    def stop(error: OSError) -> None:
        raise error

    # Not rglob, which passes over folders that it cannot open.
    files = [Path(root, name) for root, _, names in os.walk(folder, onerror=stop) for name in names]
    return {str(path.relative_to(folder)): io.sha256_bytes(path.read_bytes()) for path in files if path.name != SUMS}


def _first_line(error: BaseException) -> str:
    """Return what an error says in one line; of a group, what its first member says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return (" ".join(str(error).split()) or type(error).__name__)[:300]


def _not_orbax(record: logging.LogRecord) -> bool:
    """Keep of what Orbax logs the warnings: its commentary would tear the progress bar apart, its errors are raised."""
    return record.levelno == logging.WARNING or "orbax" not in record.pathname


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    return {f"leaf{i:04d}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}


def _form(leaves: dict[str, np.ndarray]) -> dict[str, Any]:
    return {name: [str(leaf.dtype), *leaf.shape] for name, leaf in leaves.items()}


def _digest(epoch: int, leaves: dict[str, np.ndarray]) -> str:
    return io.digest({**leaves, "epoch": np.asarray(epoch, np.int64)})
