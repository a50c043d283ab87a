"""MNIST and Fashion-MNIST from their original IDX files, gzipped or not, or from Keras's .npz file.

Both formats have the order in which the data set was published. The same images in TFDS are shuffled.
"""

import gzip
import math
import os
from pathlib import Path

import numpy as np

from ntkgen.data import _npz
from ntkgen.data._raw import DataError, Format, Kind, Raw, decoding

# Where people keep them: the data set's own folder, torchvision's (with raw in it), Keras's, or the folder itself.
FOLDERS = {
    "mnist": ("mnist", "MNIST", ""),
    "fashion_mnist": ("fashion_mnist", "FashionMNIST", "fashion-mnist", "Fashion-MNIST", ""),
}
SPLITS = ("train", "t10k")
IMAGES, LABELS = 2051, 2049  # magic numbers: unsigned bytes of three axes, and of one
# The files of both data sets have the same names and sizes. Their first training labels tell them apart.
FIRST_LABELS = {"mnist": [5, 0, 4, 1, 9, 2, 1, 3, 1, 4], "fashion_mnist": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]}


def find(kind: Kind, root: Path) -> Path | None:
    """Return the first folder with one of the four files."""
    for name in FOLDERS[kind.name]:
        for folder in (root / name, root / name / "raw"):
            if any(_file(folder, split, part) for split in SPLITS for part in ("images-idx3", "labels-idx1")):
                return folder
    return None


def read(kind: Kind, folder: Path) -> tuple[Raw, str]:
    """Return the data set and "idx"."""
    found: list[np.ndarray] = []
    for split, count in zip(SPLITS, kind.counts, strict=True):
        paths = [_file(folder, split, part) for part in ("images-idx3", "labels-idx1")]
        for path, part in zip(paths, ("images-idx3", "labels-idx1"), strict=True):
            if path is None:
                raise DataError(f"{kind.name}: there is no {split}-{part}-ubyte, or with .gz, in {folder}")
        images = _array(kind, paths[0], IMAGES, (count, *kind.shape[:2]))
        labels = _array(kind, paths[1], LABELS, (count,))
        found += kind.check(images[..., None], labels, count, folder)
    return not_another(kind, Raw(*found), folder), "idx"


def find_npz(kind: Kind, root: Path) -> Path | None:
    """Return Keras's file."""
    paths = [folder / f"{kind.name}.npz" for folder in (root, root / kind.name)]
    return next((path for path in paths if os.path.isfile(path)), None)


def read_npz(kind: Kind, path: Path) -> tuple[Raw, str]:
    """Return the data set and "npz"."""
    with decoding(kind.name, path):
        arrays = _npz.arrays(path)
    found: list[np.ndarray] = []
    for (x, y), count in zip((arrays[:2], arrays[2:]), kind.counts, strict=True):
        images = x[..., None] if x.ndim == 3 else x
        found += kind.check(images, y.reshape(-1) if y.shape[1:] == (1,) else y, count, path)
    return not_another(kind, Raw(*found), path), "npz"


IDX, NPZ = Format(find, read), Format(find_npz, read_npz)


def not_another(kind: Kind, raw: Raw, path: Path) -> Raw:
    """Return the data set unless its first labels are those of another one.

    Raises:
      DataError: they are.
    """
    first = raw.train_y[:10].tolist()
    for name, labels in FIRST_LABELS.items():
        if name != kind.name and first == labels:
            raise DataError(f"{kind.name}: {path} holds {name}, by its first labels; expected {kind.name}")
    return raw


def _file(folder: Path, split: str, part: str) -> Path | None:
    """Return a file of a split, the unpacked one first; some tools write a dot before idx."""
    names = [f"{split}-{stem}-ubyte{end}" for end in ("", ".gz") for stem in (part, part.replace("-", "."))]
    return next((folder / name for name in names if os.path.isfile(folder / name)), None)


def _array(kind: Kind, path: Path | None, magic: int, shape: tuple[int, ...]) -> np.ndarray:
    """Return the bytes of an IDX file as an array, after its header was held against what is expected.

    Raises:
      DataError: the file has another magic number, another shape, or is cut or too long.
    """
    header, size = 4 + 4 * len(shape), math.prod(shape)
    with decoding(kind.name, path):
        assert path is not None
        with open(path, "rb") as opened:
            packed = opened.read(2) == b"\x1f\x8b"  # by content: unpacked files keep their .gz now and then
        with gzip.open(path) if packed else open(path, "rb") as file:
            content = file.read(header + size + 1)
    numbers = np.frombuffer(content[: len(content[:header]) // 4 * 4], ">i4").tolist()
    if numbers[:1] != [magic]:
        what = f"{magic} (IDX {'images' if magic == IMAGES else 'labels'})"
        got = numbers[0] if numbers else f"{len(content)} bytes"
        raise DataError(f"{kind.name}: {path}: expected the magic number {what}, got {got}")
    if tuple(numbers[1:]) != shape:
        raise DataError(f"{kind.name}: {path}: expected the shape {shape}, got {tuple(numbers[1:])}")
    if len(content) != header + size:
        got = f"{len(content)}" if len(content) < header + size else "more"
        raise DataError(f"{kind.name}: {path}: expected {header + size} bytes, got {got}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
