"""Decoded data sets, the error when one cannot be had, and the cache of those that are slow to decode."""

import contextlib
import io as bytesio
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntkgen import io

# Versions of data sets that were read from original files, or from a file of the user.
FILE_FORMATS = ("idx", "npz", "python", "binary")


class DataError(ValueError):
    """A data set cannot be had; the message is one line that says why and what to do.

    Example:
      >>> from ntkgen import data
      >>> try:
      ...     data.load("mnist", data_dir="/nowhere")
      ... except data.DataError as error:
      ...     print(error)
      mnist: there is no folder /nowhere (data_dir); put one of these there, ...
    """


class Raw(NamedTuple):
    """A decoded data set in the source's order: examples (n, ...) as stored, labels (n,) int64 or real targets."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


@dataclass(frozen=True)
class Kind:
    """What a published data set of images consists of, whatever the format of its files.

    Attributes:
      name: by which it is loaded.
      shape: of an image (h, w, c).
      num_train: training images.
      num_test: test images.
      num_classes: number of classes.
    """

    name: str
    shape: tuple[int, int, int]
    num_train: int
    num_test: int
    num_classes: int = 10

    @property
    def counts(self) -> tuple[int, int]:
        """Return how many images each split has."""
        return self.num_train, self.num_test

    def check(self, images: np.ndarray, labels: np.ndarray, count: int, path: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return images and labels (int64) of one split, held against what the data set is.

        Raises:
          DataError: another number or shape of images, another number or range of labels; the line names the path.
        """
        if images.dtype != np.uint8 or images.shape[1:] != self.shape:
            raise DataError(
                f"{self.name}: {path}: expected images {self.shape} uint8, got {images.shape[1:]} {images.dtype}"
            )
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise DataError(f"{self.name}: {path}: expected labels (n,), got {labels.shape} {labels.dtype}")
        if (len(images), len(labels)) != (count, count):
            got = f"{len(images)} images, {len(labels)} labels"
            raise DataError(f"{self.name}: {path}: expected {count} images and labels, got {got}")
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise DataError(f"{self.name}: {path}: expected labels 0 to {self.num_classes - 1}, got {wrong}")
        return np.ascontiguousarray(images), labels.astype(np.int64)


class Format(NamedTuple):
    """One format of files.

    Attributes:
      find: (kind, folder) -> where its files are in the folder, or None.
      read: (kind, path) -> (Raw, version).
    """

    find: Callable[[Kind, Path], Path | None]
    read: Callable[[Kind, Path], tuple[Raw, str]]


@contextlib.contextmanager
def decoding(name: str, path: Any) -> Iterator[None]:
    """Turn any failure to decode a file (libraries know many kinds) into one line that names the file."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: there is no file {path}") from None
    except Exception as error:
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())
        raise DataError(f"{name}: cannot decode {path}: {type(error).__name__}: {reason:.200}") from None


def announce(name: str, count: int) -> None:
    """Say on standard error that a data set is decoded, which takes a while and happens once."""
    folder = str(io.cache_dir())
    home = os.path.expanduser("~")
    shown = f"~{folder[len(home) :]}" if folder.startswith(f"{home}{os.sep}") else folder
    print(f"decoding {name} ({count:,} images), once; kept in {shown}", file=sys.stderr)


def cached(key: str, make: Callable[[], Raw]) -> Raw:
    """Return the arrays kept under `key`, or make and keep them. No state of the cache makes this fail."""
    try:
        return _read_cache(io.cache_dir() / f"{key}.npz")
    except (FileNotFoundError, NotADirectoryError):
        pass
    except Exception as error:  # a damaged zip file fails in a dozen ways, and none of them matters
        warnings.warn(f"the cached {key} is damaged and will be built anew: {error}", stacklevel=2)
    raw = make()
    buffer = bytesio.BytesIO()
    np.savez(buffer, sha256=io.digest(raw._asdict()), **raw._asdict())
    try:
        io.cache_dir().mkdir(parents=True, exist_ok=True)
        io.atomic_write(io.cache_dir() / f"{key}.npz", buffer.getbuffer())
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        warnings.warn(f"cannot keep the decoded {key} for the next time: {error}", stacklevel=2)
    return raw


def _read_cache(path: Path) -> Raw:
    # Opened here, since np.load forgets to close a file that turns out to be damaged.
    with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
        raw = Raw(*(file[name] for name in Raw._fields))
        if str(file["sha256"]) != io.digest(raw._asdict()):
            raise ValueError("its checksum does not match")
    return raw


@contextlib.contextmanager
def needs(name: str, packages: str) -> Iterator[None]:
    """Turn the failed import of an optional dependency into the line that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise DataError(f"{name}: a package is missing ({error}): pip install {packages}") from None
