"""Data sets in .npz files of the user: four arrays, and a name that a run folder can carry."""

import functools
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ntkgen.data._raw import DataError, decoding

KEYS = (("x_train", "y_train", "x_test", "y_test"), ("x", "y", "x_test", "y_test"))


class NpzFile(str):
    """The name of a data set in an .npz file: text, the file's stem, that knows its path.

    Characters that folders should not have become "_", and a stem that is the name of a known data set gets "_npz".
    `load` takes it, and a study's `dataset` too.

    Example:
      >>> from ntkgen import data
      >>> name = data.NpzFile("folder/two moons.npz")
      >>> str(name), name.path.as_posix()
      ('two_moons', 'folder/two moons.npz')

    Attributes:
      path: of the file.
    """

    path: Path

    def __new__(cls, path: str | os.PathLike) -> "NpzFile":
        """Make the name; the file is not looked at."""
        if isinstance(path, NpzFile):
            path = path.path
        stem = re.sub(r"[^A-Za-z0-9._-]+", "_", Path(path).stem).strip("._-")[:60] or "data"
        name = super().__new__(cls, f"{stem}_npz" if stem in _known() else stem)
        name.path = Path(os.path.expanduser(path))
        return name

    def __getnewargs__(self) -> tuple[str]:
        """Return what a copy is made of."""
        return (os.fspath(self.path),)

    @functools.cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of train_x, train_y, test_x and test_y, of which the file's headers tell.

        Raises:
          DataError: the file is missing or damaged, or lacks an array.
        """
        with decoding("dataset", self.path), zipfile.ZipFile(self.path) as archive:
            found = [_shape(archive, key) for key in _keys(self.path, _names(archive))]
        return dict(zip(("train_x", "train_y", "test_x", "test_y"), found, strict=True))

    def check(self) -> None:
        """Hold the headers of the file against each other.

        Raises:
          DataError: the file is missing or damaged, or its shapes are no data set's.
        """
        x, y, x_test, y_test = self.shapes.values()
        if len(x) not in (2, 3, 4) or 0 in x:
            raise DataError(f"dataset: {self.path}: expected examples (n, d), (n, h, w) or (n, h, w, c), got shape {x}")
        if x_test[1:] != x[1:]:
            raise DataError(f"dataset: {self.path}: expected test examples of shape {x[1:]}, got {x_test[1:]}")
        for which, examples, labels in (("training", x, y), ("test", x_test, y_test)):
            if labels[:1] != examples[:1]:
                raise DataError(
                    f"dataset: {self.path}: expected a label for each {which} example, got {examples[0]} examples and "
                    f"labels of shape {labels}"
                )

    @property
    def num_train(self) -> int:
        """Return the number of training examples."""
        return self.shapes["train_x"][0] if self.shapes["train_x"] else 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of an example as `load` makes it: images (h, w) have one channel."""
        shape = self.shapes["train_x"][1:]
        return (*shape, 1) if len(shape) == 2 else shape


def arrays(path: Path) -> list[np.ndarray]:
    """Return train_x, train_y, test_x and test_y of a file.

    Raises:
      DataError: an array is missing.
      Exception: what NumPy raises for a file that it cannot read.
    """
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        if not hasattr(file, "files"):
            raise DataError(f"dataset: {path}: expected an .npz file, got one array")
        return [file[key] for key in _keys(path, file.files)]


def _known() -> set[str]:
    from ntkgen.data._sources import SOURCES  # which imports this module

    return {*SOURCES, "published"}  # which stands for the published data sets in `studies.reproduce`


def _keys(path: Path, names: Any) -> tuple[str, ...]:
    for keys in KEYS:
        if set(keys) <= set(names):
            return keys
    got = ", ".join(sorted(names)) or "none"
    raise DataError(f"dataset: {path}: expected arrays x_train, y_train, x_test, y_test, got {got:.200}")


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _shape(archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    form = np.lib.format
    with archive.open(f"{key}.npy") as file:
        version = form.read_magic(file)
        header = form.read_array_header_1_0 if version == (1, 0) else form.read_array_header_2_0
        return header(file)[0]
