"""Trained networks by content: no network is trained twice, in whichever study, and what is measured on it stays.

A network is `<out_dir>/networks/<hash>/`: `network.json` says what made it, `training/` has its checkpoints, `values/`
what was measured on it. The hash covers network, data, training, seeds (those trained together: they share rounding),
the code that trains, versions, device and numerics. A change of a study or of a measurement leaves it as it is.
"""

import contextlib
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ntkgen import io
from ntkgen.records import _values
from ntkgen.records._identity import describe, source
from ntkgen.records._provenance import device, numerics, versions

TRAINING = "ntkgen.ensemble"  # what trains, with all that it imports


def identity(model: Any, dataset: Any, config: Any, seeds: Sequence[int], options: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a trained network what it is, as JSON types.

    Args:
      model: the network.
      dataset: what it learns.
      config: how.
      seeds: of the networks that are trained together.
      options: other arguments of `ensemble.fit` that change the result.

    Raises:
      TypeError: a part has no description that another process would repeat (a function that closes over an object).
    """
    arrays = {f"{s}.{a}": np.asarray(getattr(getattr(dataset, s), a)) for s in ("train", "test") for a in "xy"}
    return {
        "network": describe(model),
        "data": io.digest(arrays),  # not the data set's own digest, which `dataclasses.replace` leaves as it was
        "training": describe(config),
        "seeds": list(seeds),
        "options": {name: describe(value) for name, value in sorted(options.items()) if value is not None},
        "device": {key: value for key, value in device().items() if key != "kind"},
        "numerics": describe(numerics()),
        "versions": versions(),
        "code": source(TRAINING),
    }


class Network:
    """One entry of the store.

    Attributes:
      folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        """Name an entry; nothing is read or written."""
        self.folder = folder

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
        said = False
        while True:
            try:
                with io.lock(self.folder):
                    yield
                return
            except io.HeldError as error:
                if not said:
                    warnings.warn(f"waiting for the same network to be trained: {error}", stacklevel=3)
                said = True
                time.sleep(1.0)


class Networks:
    """The store of trained networks of one results folder."""

    def __init__(self, out_dir: Path, *, retrain: bool = False) -> None:
        """Open the store.

        Args:
          out_dir: the results folder; the store is `networks` in it.
          retrain: train every network once more in this process.
        """
        self.folder = Path(out_dir) / "networks"
        self._fresh: set[Path] | None = set() if retrain else None  # entries that were trained anew, if all are to be

    def find(self, made_by: dict[str, Any]) -> Network:
        """Return the entry of an `identity`, made if need be."""
        network = Network(self.folder / io.config_hash(made_by))
        network.folder.mkdir(parents=True, exist_ok=True)
        about = network.folder / "network.json"
        if not about.exists():
            io.atomic_write(about, (io.canonical_json(made_by) + "\n").encode())
        if self._fresh is not None and network.folder not in self._fresh:
            self._fresh.add(network.folder)
            shutil.rmtree(network.training, ignore_errors=True)
        return network
