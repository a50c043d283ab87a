"""CIFAR-10 and CIFAR-100 from their original files: python or binary batches, in a folder or in the .tar.gz.

Both have the order in which the data set was published. The same images in TFDS are shuffled. Archives are read in
memory, and nothing is unpacked on disk.
"""

import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ntkgen.data._pickle import restricted_load
from ntkgen.data._raw import DataError, Format, Kind, Raw, decoding


class Batches(NamedTuple):
    """One layout of files.

    Attributes:
      version: what a record calls it.
      folder: of the unpacked archive.
      archive: its name.
      splits: file names of training set and test set, in order.
      marker: a file that shows that a folder of another name holds them.
      parse: (content of a file) -> images (n, 3, 32, 32) and labels (n,).
    """

    version: str
    folder: str
    archive: str
    splits: tuple[tuple[str, ...], tuple[str, ...]]
    marker: str
    parse: Callable[[bytes], tuple[np.ndarray, np.ndarray]]


def _python(key: str) -> Callable[[bytes], tuple[np.ndarray, np.ndarray]]:
    """Return the parser of a pickled dict whose labels have this key."""

    def parse(content: bytes) -> tuple[np.ndarray, np.ndarray]:
        batch = restricted_load(content)
        if not isinstance(batch, dict):
            raise DataError(f"expected a pickled dict, got {type(batch).__name__}")
        named = {name.decode() if isinstance(name, bytes) else name: value for name, value in batch.items()}
        missing = [name for name in ("data", key) if name not in named]
        if missing:
            raise DataError(f"expected data and {key}, got no {missing[0]}")
        images, labels = named["data"], named[key]
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.shape[1:] != (3072,):
            raise DataError(f"expected data (n, 3072) uint8, got {_kind(images)}")
        if isinstance(labels, list) and all(type(label) is int and abs(label) < 2**31 for label in labels):
            labels = np.array(labels, np.int64)
        if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu" or labels.ndim != 1:
            raise DataError(f"expected a list of whole numbers as {key}, got {_kind(labels)}")
        if len(labels) != len(images):
            raise DataError(f"expected a label for each image, got {len(images)} images, {len(labels)} labels")
        return images.reshape(-1, 3, 32, 32), labels

    return parse


def _kind(value: object) -> str:
    shape = f" {value.shape} {value.dtype}" if isinstance(value, np.ndarray) else ""
    return f"{type(value).__name__}{shape}"


def _binary(num_labels: int) -> Callable[[bytes], tuple[np.ndarray, np.ndarray]]:
    """Return the parser of records of so many labels, a byte each, and an image; the last label counts."""
    size = num_labels + 3072

    def parse(content: bytes) -> tuple[np.ndarray, np.ndarray]:
        if not content or len(content) % size:
            raise DataError(f"expected records of {size} bytes, got {len(content)} bytes")
        rows = np.frombuffer(content, np.uint8).reshape(-1, size)
        return rows[:, num_labels:].reshape(-1, 3, 32, 32), rows[:, num_labels - 1]

    return parse


FIVE = tuple(f"data_batch_{number}" for number in range(1, 6))
LAYOUTS = {
    "cifar10": (
        Batches("python", "cifar-10-batches-py", "cifar-10-python.tar.gz", (FIVE, ("test_batch",)), FIVE[0],
                _python("labels")),
        Batches("binary", "cifar-10-batches-bin", "cifar-10-binary.tar.gz",
                (tuple(f"{name}.bin" for name in FIVE), ("test_batch.bin",)), f"{FIVE[0]}.bin", _binary(1)),
    ),
    "cifar100": (
        Batches("python", "cifar-100-python", "cifar-100-python.tar.gz", (("train",), ("test",)), "meta",
                _python("fine_labels")),
        Batches("binary", "cifar-100-binary", "cifar-100-binary.tar.gz", (("train.bin",), ("test.bin",)),
                "fine_label_names.txt", _binary(2)),
    ),
}  # fmt: skip
SPELLINGS = {"cifar10": ("", "cifar10", "cifar-10"), "cifar100": ("", "cifar100", "cifar-100")}
MOST_BYTES = 2**28  # of one file: those of CIFAR-100 have 155 MB; a damaged archive may promise more


def find(kind: Kind, root: Path) -> Path | None:
    """Return the first folder or archive of any layout."""
    for layout in LAYOUTS[kind.name]:
        for parent in (root / name for name in SPELLINGS[kind.name]):
            unpacked = parent / layout.folder
            if any(os.path.isfile(unpacked / name) for names in layout.splits for name in names):
                return unpacked
            for archive in (layout.archive, layout.archive.removesuffix(".gz")):
                if os.path.isfile(parent / archive):
                    return parent / archive
            if os.path.isfile(parent / layout.marker):
                return parent
    return None


def read(kind: Kind, path: Path) -> tuple[Raw, str]:
    """Return the data set, and "python" or "binary"."""
    layout = _layout(kind, path)
    contents = _from_folder if path.is_dir() else _from_archive
    found: list[np.ndarray] = []
    for names, count in zip(layout.splits, kind.counts, strict=True):
        parts = []
        for name, content in zip(names, contents(kind, path, names), strict=True):
            with decoding(kind.name, path / name):
                try:
                    parts.append(layout.parse(content))
                except DataError as error:
                    raise DataError(f"{kind.name}: {path / name}: {error}") from None
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        found += kind.check(images.transpose(0, 2, 3, 1), labels, count, path)
    return Raw(*found), layout.version


CIFAR = Format(find, read)


def _layout(kind: Kind, path: Path) -> Batches:
    """Return the layout of a place that `find` returned."""
    layouts = LAYOUTS[kind.name]
    for layout in layouts:
        if path.name in (layout.folder, layout.archive, layout.archive.removesuffix(".gz")):
            return layout
    return next(layout for layout in layouts if os.path.isfile(path / layout.marker))


def _from_folder(kind: Kind, folder: Path, names: tuple[str, ...]) -> list[bytes]:
    found = []
    for name in names:
        with decoding(kind.name, folder / name), open(folder / name, "rb") as file:
            found.append(file.read(MOST_BYTES))
    return found


def _from_archive(kind: Kind, path: Path, names: tuple[str, ...]) -> list[bytes]:
    found: dict[str, bytes] = {}
    with decoding(kind.name, path), tarfile.open(path) as archive:
        for member in archive:
            name = os.path.basename(member.name)
            if name in names and member.isfile():
                if member.size > MOST_BYTES:
                    raise DataError(f"{kind.name}: {path}: expected {name} below {MOST_BYTES} bytes, got {member.size}")
                file = archive.extractfile(member)
                assert file is not None  # it is a file
                found[name] = file.read()
            if len(found) == len(names):
                break
    if missing := [name for name in names if name not in found]:
        raise DataError(f"{kind.name}: there is no {missing[0]} in {path}")
    return [found[name] for name in names]
