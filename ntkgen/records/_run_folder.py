"""Run folders: the full config, tidy tables, checkpoints, and going on after a kill.

A run lives in `<out_dir>/<study>/<dataset>-<hash of the resolved config>/`. Two runs share a folder only if every
resolved setting is equal. Files are whole or absent; nothing in them depends on when, or how often interrupted, the
run was. Whatever a run reads back carries a checksum. Something damaged is set aside and made anew. An error of the
moment (too many open files, no memory, a failing disk) is an `OSError` or `MemoryError`, and changes nothing.

Longer than 350 lines for its docstrings and examples, 34 % of it.
"""

import contextlib
import csv
import dataclasses
import io as text
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntkgen import ensemble, io
from ntkgen.records import _values
from ntkgen.records._ahead import Ahead
from ntkgen.records._checkpoints import Checkpointer
from ntkgen.records._identity import source
from ntkgen.records._networks import Networks, StoredNetwork, identity
from ntkgen.records._provenance import commit, device, numerics, versions

FINISHED = "finished.json"
EVERY_SECONDS = 20.0  # between two checkpoints
MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)  # no errors of the moment


class RecordError(ValueError):
    """A run folder cannot be used; the message is one line that says why.

    Example:
      >>> from ntkgen import records
      >>> try:
      ...     records.check_writable("", "out_dir")
      ... except records.RecordError as error:
      ...     print(error)
      out_dir: expected the name of a folder, got ''
    """


class Run:
    """An open run folder. Make it with `open_run`.

    Attributes:
      folder: where everything is written.
      finished: True if an earlier call completed the run.
      networks: name -> what is kept of the networks that `fit` returned: an entry in the store or, of a network that
        is the run's own, a folder below `own`.
    """

    def __init__(self, folder: Path, finished: bool, store: Networks | None = None) -> None:
        """Wrap a folder that `open_run` prepared; without a store, networks are kept in the folder itself."""
        self.folder, self.finished = folder, finished
        self.networks: dict[str, StoredNetwork] = {}
        self._store = Networks(folder) if store is None else store
        self._ahead = Ahead()

    def write_table(self, name: str, rows: Sequence[dict[str, Any]]) -> Path:
        """Write rows of equal keys as CSV: floats in full precision, None as an empty cell, NaN as nan."""
        return write_table(self.folder / name, rows)

    def write_json(self, name: str, value: Any) -> Path:
        """Write a value as indented JSON; a file that holds it already stays as it is."""
        path = self.folder / name
        text_form = json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n"
        _write(path, text_form.encode())
        return path

    def write_text(self, name: str, words: str) -> Path:
        """Write lines of text; a file that holds them already stays as it is."""
        _write(self.folder / name, f"{words.strip()}\n".encode(errors="backslashreplace"))
        return self.folder / name

    def kept(self, name: str, work: Callable[[], Any]) -> Any:
        """Return a value of the run: what `parts/<name>.json` holds, or else what `work` computes, which is kept there.

        Args:
          name: of the part, unique in the run.
          work: makes the value: numbers (NaN included), strings, None, in lists and dicts with string keys.

        Returns:
          The value as it is read back: tuples are lists. A damaged one is set aside with a warning, and made anew.

        Raises:
          OSError: the file cannot be read or written at this moment.
        """
        return _values.kept(self.folder / "parts" / f"{name}.json", name, work)

    def fit(self, name: str, model: Any, dataset: Any, config: Any, seeds: int | Sequence[int], **given: Any) -> Any:
        """Return trained networks from the store, or train them; arguments and result as of `ensemble.fit`.

        `checkpoints/<name>` in the run folder links to the network in the store. It is a folder of the run's own where
        an argument cannot be described for other processes to find, or where the link was replaced by a copy.

        Args:
          name: of this network in the run.
          model: the network.
          dataset: what it learns.
          config: how.
          seeds: the seeds, or how many.
          **given: more of `ensemble.fit`, but for `checkpoint`. The fields of its `options` are part of what the
            network is: any of them changes rounding, or what is measured.
        """
        self._ahead.wait(name)
        link = self.folder / "checkpoints" / name
        try:
            if link.is_dir() and not link.is_symlink():
                raise TypeError("the run has its own copy")
            made_by = identity(model, dataset, config, seeds, _that_count(**given))
        except TypeError:
            if link.is_symlink():  # to another network
                link.unlink()
            self.networks[name] = StoredNetwork(self.folder / "own" / name)
            return ensemble.fit(model, dataset, config, seeds, checkpoint=self.checkpointer(name), **given)
        network = self.networks[name] = self._store.find(made_by)
        with network.held():
            _link(link, network.training)
            checkpoint = _Named(network.training, EVERY_SECONDS)
            return ensemble.fit(model, dataset, config, seeds, checkpoint=checkpoint, **given)

    def ahead(self, name: str, model: Any, dataset: Any, config: Any, seeds: int | Sequence[int], **given: Any) -> None:
        """Begin to compile, in a thread, what a later `fit` with the same arguments runs; that fit waits for it.

        Nothing is done for a network that the store has begun, nor for one that another process could not find there.
        Any number of networks may wait; they are compiled one after another.

        Args:
          name: as in `fit`, as are all that follow; `progress` may be left out.
          model: the network.
          dataset: what it learns.
          config: how.
          seeds: the seeds, or how many.
          **given: more of `ensemble.fit`.
        """
        given.pop("progress", None)

        def work() -> None:
            with contextlib.suppress(TypeError):  # no description: the network is the run's own
                if self._store.begun(identity(model, dataset, config, seeds, _that_count(**given))):
                    return
                ensemble.precompile(model, dataset, config, seeds, **given)

        self._ahead.submit(name, work)

    def close(self) -> None:
        """Compile nothing more ahead."""
        self._ahead.close()

    def checkpointer(self, name: str, every_seconds: float = EVERY_SECONDS) -> "Checkpointer":
        """Return the checkpoints of one part of the run."""
        return _Named(self.folder / "checkpoints" / name, every_seconds)

    def finish(self) -> None:
        """Mark the run as complete: the same command will not do it again."""
        names = sorted(p.name for p in self.folder.iterdir() if p.is_file() and not p.name.startswith("."))
        sums = {name: io.sha256_bytes((self.folder / name).read_bytes()) for name in names if name != FINISHED}
        self.write_json(FINISHED, sums)
        self.finished = True


class _Named(Checkpointer):
    """Checkpoints in the store or in a run, whose folder is named by all that made them."""

    def claim(self, made_by: Callable[[], Mapping[str, str]]) -> None:
        """Do nothing, and digest nothing: the folder's name has seen to it."""

    def scope(self, name: str) -> "_Named":
        """Return the checkpoints of a part of this run."""
        return _Named(self.folder / name, self.every_seconds)


def _that_count(*, options: ensemble.Options | None = None, progress: Any = None, **given: Any) -> dict[str, Any]:
    """Return the arguments of a fit that change its result, the fields of its options among them."""
    return given | dataclasses.asdict(ensemble.Options() if options is None else options)


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Write rows of equal keys as CSV: floats in full precision, None as an empty cell, NaN as nan.

    A file that holds these rows already stays as it is.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     rows = [{"seed": 0, "loss": 0.1}, {"seed": 1, "loss": None}]
      ...     path = records.write_table(Path(folder) / "runs.csv", rows)
      ...     print(path.read_text())
      seed,loss
      0,0.1
      1,
    """
    if not rows:
        raise ValueError(f"{path.name}: expected at least one row, got none")
    buffer = text.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    _write(path, buffer.getvalue().encode())
    return path


def read_table(path: Path) -> list[dict[str, str]]:
    """Read a CSV table that `write_table` wrote; every cell is text.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     rows = [{"seed": 0, "loss": 0.1}, {"seed": 1, "loss": None}]
      ...     path = records.write_table(Path(folder) / "runs.csv", rows)
      ...     records.read_table(path)
      [{'seed': '0', 'loss': '0.1'}, {'seed': '1', 'loss': ''}]
    """
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path: Path, content: bytes) -> None:
    try:
        if path.read_bytes() == content:
            return
    except MISSING:
        pass
    io.atomic_write(path, content)


def _cell(value: Any) -> Any:
    return repr(float(value)) if isinstance(value, float | np.floating) else value


@contextlib.contextmanager
def open_run(
    out_dir: str | os.PathLike,
    study: str,
    dataset: str,
    config: dict[str, Any],
    *,
    force: bool = False,
    code: Sequence[str | Path] = ("ntkgen.ensemble", "ntkgen.measure"),
    tables: Sequence[str] = (),
    command: dict[str, Any] | None = None,
) -> Iterator[Run]:
    """Open the folder of a run, new or begun, and hold it.

    Example:
      >>> import tempfile
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with records.open_run(folder, "my_study", "digits", {"epochs": 1}) as run:
      ...         value = run.kept("answer", lambda: 42)
      ...         run.finish()
      ...     with records.open_run(folder, "my_study", "digits", {"epochs": 1}) as run:
      ...         again = run.finished
      >>> value, again
      (42, True)

    Args:
      out_dir: root of all results.
      study: name of the study.
      dataset: name of the dataset.
      config: the complete resolved config, JSON types only. What rounding and random draws depend on is added to it:
        the device's platform and count, and the numerics of JAX and XLA.
      force: delete what an earlier call left, and begin anew.
      code: modules and files whose code makes the numbers. They belong to the run's identity, with all of this
        package that they import.
      tables: files without which the run is not finished.
      command: what began the run, JSON types, kept beside the config; it is no part of the run's identity.

    Yields:
      The run.

    Raises:
      RecordError: the folder cannot be written, is in use, or holds a run of another config, version or code.
      OSError: a file cannot be read or written at this moment.
    """
    resolved = {
        **config,
        "device": {key: value for key, value in device().items() if key != "kind"},
        "numerics": numerics(),
    }
    check_writable(out_dir, "out_dir")
    folder = Path(out_dir) / study / f"{dataset}-{io.config_hash(resolved)}"
    check_writable(folder, "out_dir")
    try:
        with io.lock(folder):
            if force:
                _clear(folder)
            for unfinished in folder.glob(".*.tmp"):  # of an atomic write that was killed
                unfinished.unlink()
            found = _read_config(folder)
            if found is not None:
                _check_same(folder, found, resolved)
            finished = _is_finished(folder, tables)
            if found is not None:
                _check_source(folder, found, source(*code), finished)
            run = Run(folder, finished, Networks(Path(out_dir), retrain=force))
            if found is None:
                run.write_json(
                    "config.json",
                    {
                        "study": study,
                        "dataset": dataset,
                        "config": resolved,
                        "versions": versions(),
                        "device": device(),
                        "numerics": numerics(),
                        "commit": commit(),
                        "source": source(*code),
                        **({} if command is None else {"command": command}),
                    },
                )
            with contextlib.closing(run):
                yield run
    except io.LockedError as error:
        raise RecordError(f"out_dir: {error}") from None


def check_writable(folder: str | os.PathLike, name: str) -> None:
    """Try to write where a folder is or will be, and leave nothing behind.

    Example:
      >>> import tempfile
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     records.check_writable(f"{folder}/results", "out_dir")  # says nothing: it can be made

    Args:
      folder: the folder.
      name: what the user calls it.

    Raises:
      RecordError: nothing can be written there, or the name is none that files can have.
    """
    if not os.fspath(folder):
        raise RecordError(f"{name}: expected the name of a folder, got ''")
    existing = folder = Path(folder)
    try:
        str(folder).encode()  # Orbax's files have names in UTF-8
        for existing in (folder, *folder.parents):
            if existing.exists():
                break
            if existing.is_symlink():
                raise RecordError(f"{name}: {existing} is a link to {os.readlink(existing)}, which does not exist")
        with tempfile.TemporaryFile(dir=existing):
            pass
    except UnicodeEncodeError:
        raise RecordError(f"{name}: expected a name in UTF-8, got {os.fsencode(folder)!r}") from None
    except OSError as error:
        raise RecordError(f"{name}: cannot write in {existing}: {error.strerror}") from None


def _read_config(folder: Path) -> dict[str, Any] | None:
    path = folder / "config.json"
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found["config"], dict) or not isinstance(found["versions"], dict):
            raise ValueError("not a config")
    except FileNotFoundError:
        return None
    except (IsADirectoryError, ValueError, KeyError, TypeError):
        raise RecordError(f"out_dir: {path} is damaged; --force begins the run anew") from None
    return found


def _check_same(folder: Path, found: dict[str, Any], resolved: dict[str, Any]) -> None:
    differing = {
        "config": (found["config"], json.loads(io.canonical_json(resolved))),
        **{name: (found["versions"].get(name), version) for name, version in versions().items()},
    }
    for name, (theirs, ours) in differing.items():
        if theirs != ours:
            detail = "another config" if name == "config" else f"{name} {theirs}, this is {ours}"
            raise RecordError(f"out_dir: {folder} holds a run of {detail}; --force begins it anew, or choose another")


def _check_source(folder: Path, found: dict[str, Any], ours: str, finished: bool) -> None:
    """Refuse to go on with a run that other code began: half of its numbers would be another program's."""
    if found.get("source") == ours:
        return
    if not finished:
        raise RecordError(
            f"out_dir: {folder} holds a run that another version of the code began; --force begins it anew, or choose "
            "another"
        )
    warnings.warn(f"{folder} was made by another version of the code, commit {found.get('commit')}", stacklevel=2)


def _is_finished(folder: Path, tables: Sequence[str]) -> bool:
    """Return whether the run is complete and its tables are what it wrote; figures are drawn anew anyway."""
    try:
        content = (folder / FINISHED).read_bytes()
    except FileNotFoundError:
        return False
    except IsADirectoryError:
        content = b""
    try:
        sums = json.loads(content)
        damaged = sorted({"config.json", *tables} - set(sums))
        damaged += [
            name for name in sums if name.endswith((".csv", ".json")) and not _has_sum(folder / name, sums[name])
        ]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        damaged = [f"{FINISHED}: {error}"]
    if damaged:
        warnings.warn(f"{folder} is not as the run left it ({', '.join(damaged)}); finishing it anew", stacklevel=2)
    return not damaged


def _has_sum(path: Path, expected: str) -> bool:
    try:
        return io.sha256_bytes(path.read_bytes()) == expected
    except MISSING:
        return False


def _link(link: Path, target: Path) -> None:
    """Let a name in the run folder lead to a network in the store, by a relative link."""
    if not link.is_symlink() or link.resolve() != target.resolve():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        # The kernel follows a relative link from where its folder really lies.
        link.symlink_to(os.path.relpath(target.resolve(), link.parent.resolve()))


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == ".lock":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
