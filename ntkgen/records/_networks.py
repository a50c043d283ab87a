"""Trained networks by content: no network is trained twice, in whichever study, and what is measured on it stays.

A network is `<out_dir>/networks/<hash>/`: `network.json` says what made it, `training/` has its checkpoints, `values/`
what was measured on it. The hash covers network, data, training, seeds (those trained together: they share rounding),
the code that trains, versions, device and numerics. A change of a study or of a measurement leaves it as it is.
"""

import contextlib
import operator
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ntkgen import io
from ntkgen.records import _values
from ntkgen.records._identity import describe, source
from ntkgen.records._provenance import device, numerics, versions

TRAINING = "ntkgen.ensemble"  # what trains, with all that it imports
WAIT_SECONDS = 1.0  # between two looks at a network that another process trains


def identity(
    model: Any, dataset: Any, config: Any, seeds: int | Sequence[int], options: dict[str, Any]
) -> dict[str, Any]:
    """Return what makes a trained network what it is, as JSON types.

    Args:
      model: the network.
      dataset: what it learns.
      config: how.
      seeds: of the networks that are trained together, or how many.
      options: other arguments of `ensemble.fit` that change the result.

    Raises:
      TypeError: a part has no description that another process would repeat (a function that closes over an object).
    """
    # Not the digest that a dataset carries: `dataclasses.replace(dataset, train=...)` keeps that of other images.
    splits = dataset.train, dataset.test
    return {
        "network": describe(model),
        "data": [describe((split.x, split.y)) for split in splits],
        "training": describe(config),
        "seeds": [operator.index(seed) for seed in (range(seeds) if isinstance(seeds, int) else seeds)],
        "options": {name: describe(value) for name, value in sorted(options.items()) if value is not None},
        "device": {key: value for key, value in device().items() if key != "kind"},
        "numerics": describe(numerics()),
        "versions": versions(),
        "code": source(TRAINING),
    }


class StoredNetwork:
    """One entry of the store.

    Attributes:
      folder: where it lies.
    """

    def __init__(self, folder: Path, made_by: dict[str, Any] | None = None, *, retrain: bool = False) -> None:
        """Name an entry; nothing is read or written.

        Args:
          folder: where it lies.
          made_by: its `identity`, which `held` writes down.
          retrain: `held` removes, once, what was trained and measured.
        """
        self.folder = folder
        self._made_by, self._retrain = made_by, retrain

    @property
    def training(self) -> Path:
        """Return the folder of its checkpoints."""
        return self.folder / "training"

    def kept(self, name: str, measure: Callable[[], Any], *, code: str, **options: Any) -> Any:
        """Return what was measured on this network, or measure and keep it.

        Args:
          name: of the measurement.
          measure: returns numbers (NaN included), text, None, in lists and dicts with string keys.
          code: the module that measures, such as `measure.__module__`; its code and all that it imports of this
            package belong to the value.
          **options: what the measurement depends on: settings, and arrays by their digest.

        Returns:
          The value as it is read back: tuples are lists. A damaged one is set aside with a warning, and made anew.
        """
        about = {"name": name, "code": source(code), "options": describe(options)}
        return _values.kept(self.folder / "values" / f"{name}-{io.config_hash(about)}.json", name, measure)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the entry for this process; wait for another that trains the same network.

        Raises:
          ntkgen.io.LockedError: the lock is no file of its own.
        """
        with contextlib.ExitStack() as stack:
            said = False
            while True:
                try:
                    stack.enter_context(io.lock(self.folder))
                    break
                except io.HeldError as error:
                    if not said:
                        warnings.warn(f"waiting for the same network to be trained: {error}", stacklevel=4)
                    said = True
                    time.sleep(WAIT_SECONDS)
            self._begin()
            yield

    def _begin(self) -> None:
        for unfinished in self.folder.glob(".*.tmp"):  # of an atomic write that was killed
            unfinished.unlink()
        if self._retrain:
            for old in (self.training, self.folder / "values"):
                if old.exists():
                    shutil.rmtree(old)
            self._retrain = False
        about = self.folder / "network.json"
        if self._made_by is not None and not about.exists():
            io.atomic_write(about, (io.canonical_json(self._made_by) + "\n").encode())


class Networks:
    """The store of trained networks of one results folder.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     network = records.Networks(Path(folder)).find({"width": 4, "seeds": [0, 1]})
      ...     with network.held():
      ...         first = network.kept("trace", lambda: 3.0, code="ntkgen.spectrum")
      ...         again = network.kept("trace", lambda: 1 / 0, code="ntkgen.spectrum")  # read, not measured
      >>> first, again
      (3.0, 3.0)
    """

    def __init__(self, out_dir: Path, *, retrain: bool = False) -> None:
        """Open the store.

        Args:
          out_dir: the results folder; the store is `networks` in it.
          retrain: train every network once more in this process.
        """
        self.folder = Path(out_dir) / "networks"
        self._fresh: set[Path] | None = set() if retrain else None  # entries that were trained anew, if all are to be

    def find(self, made_by: dict[str, Any]) -> StoredNetwork:
        """Return the entry of an `identity`; nothing is read or written before it is `held`."""
        folder = self.folder / io.config_hash(made_by)
        retrain = self._fresh is not None and folder not in self._fresh
        if self._fresh is not None:
            self._fresh.add(folder)
        return StoredNetwork(folder, made_by, retrain=retrain)

    def begun(self, made_by: dict[str, Any]) -> bool:
        """Return whether training of an `identity` has been stored, and will be used."""
        folder = self.folder / io.config_hash(made_by)
        return (folder / "training").exists() and (self._fresh is None or folder in self._fresh)
