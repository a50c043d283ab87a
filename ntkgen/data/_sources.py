"""Where images come from: prepared TFDS folders, and two data sets that need no files.

A source returns decoded arrays as it has them; `ntkgen.data` makes data sets of them. Slow sources are
decoded once and kept in a cache.
"""

import contextlib
import importlib.metadata
import io as bytesio
import json
import logging
import os
import random
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntkgen import io


class DataError(ValueError):
    """A data set cannot be had; the message is one line that says why and what to do.

    Example:
      >>> from ntkgen import data
      >>> try:
      ...     data.load("mnist", data_dir="/nowhere")
      ... except data.DataError as error:
      ...     print(error)
      mnist: there is no folder /nowhere (data_dir); prepare it with ...
    """


class Raw(NamedTuple):
    """A decoded data set in the source's order: images (n, h, w, c) as stored, labels (n,) int64."""

    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray


class Source(NamedTuple):
    """How to get one data set: `read(data_dir)` returns (Raw, version); pixels / `scale` lie in [0, 1]."""

    read: Callable[[Any], tuple[Raw, str]]
    scale: float
    num_classes: int = 10


def _digits(data_dir: Any) -> tuple[Raw, str]:
    """scikit-learn's 1,797 digits of 8 x 8; the test set is the first 500 of a permutation fixed for ever."""
    del data_dir  # embedded
    with _needs("digits", "scikit-learn"):
        from sklearn.datasets import load_digits
    bunch = load_digits()
    # The source has no split, and other people wrote its end than its beginning, so it is shuffled.
    # RandomState, since its stream is frozen (NEP 19); default_rng's is not.
    order = np.random.RandomState(0).permutation(len(bunch.target))
    x, y = bunch.images.astype(np.uint8)[order, :, :, None], bunch.target[order]
    return Raw(x[500:], y[500:], x[:500], y[:500]), "sklearn-" + importlib.metadata.version("scikit-learn")


def _mnist1d(data_dir: Any) -> tuple[Raw, str]:
    """MNIST-1D (Greydanus and Kobak 2024) with its authors' defaults: 4,000 + 1,000 signals of length 40."""
    del data_dir  # embedded
    with _needs("mnist1d", "mnist1d"):
        version = importlib.metadata.version("mnist1d")

    def generate() -> Raw:
        with _needs("mnist1d", "mnist1d"):
            from mnist1d.data import make_dataset
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            made = make_dataset()  # seeds the global generators, which belong to the caller
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
        x, x_test = (made[k].astype(np.float32)[:, :, None, None] for k in ("x", "x_test"))
        return Raw(x, made["y"].astype(np.int64), x_test, made["y_test"].astype(np.int64))

    return _cached(f"mnist1d-{version}", generate), version


@dataclass(frozen=True)
class _Tfds:
    """Reader of a prepared TFDS folder, `<data_dir>/<name>/<version>/*.array_record*`, without TensorFlow."""

    name: str
    shape: tuple[int, int, int]
    num_train: int
    num_test: int
    num_classes: int = 10

    def __call__(self, data_dir: Any) -> tuple[Raw, str]:
        """Return the decoded data set and its version."""
        folder = self._find(data_dir)
        try:
            files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(folder.iterdir())]
        except OSError as error:
            raise DataError(f"{self.name}: cannot read {folder}: {error.strerror}") from None
        # The path too: unpacked archives and container layers often carry the same rounded time everywhere.
        fingerprint = io.config_hash({"folder": str(folder.resolve()), "files": files})
        return _cached(f"{self.name}-{folder.name}-{fingerprint}", lambda: self._decode(folder)), folder.name

    def _find(self, data_dir: Any) -> Path:
        """Return the folder of the newest version."""
        candidates = {
            "data_dir": data_dir,
            "$NTKGEN_DATA_DIR": os.environ.get("NTKGEN_DATA_DIR"),
            "$TFDS_DATA_DIR": os.environ.get("TFDS_DATA_DIR"),
            "the default TFDS folder": "~/tensorflow_datasets",
        }
        origin, given = next((origin, given) for origin, given in candidates.items() if given)
        root = Path(os.path.expanduser(given))
        version = re.compile(r"\d+\.\d+\.\d+")  # not the `.incomplete` folder of an interrupted preparation
        try:
            found = [v for v in (root / self.name).iterdir() if version.fullmatch(v.name) and v.is_dir()]
        except (FileNotFoundError, NotADirectoryError):
            found = []
        except OSError as error:
            raise DataError(f"{self.name}: cannot read {root / self.name}: {error.strerror}") from None
        if not found:
            what = f"no {self.name}/<version> in" if root.is_dir() else "there is no folder"
            raise DataError(f"{self.name}: {what} {root} ({origin}); {self._advice(root)}")
        return max(found, key=lambda v: [int(part) for part in v.name.split(".")])

    def _advice(self, root: Path) -> str:
        return (
            f"prepare it with `tfds build {self.name} --file_format=array_record --data_dir={root}`, "
            "or use --dataset=digits, which needs nothing"
        )

    def _decode(self, folder: Path) -> Raw:
        """Decode both splits; any file that is not as it should be ends in one line that names it."""
        self._check_info(folder)
        with _quiet_tfds():
            with _needs(self.name, "tensorflow-datasets array_record"):
                import array_record.python.array_record_data_source  # noqa: F401  (_records uses it)
                import tensorflow_datasets as tfds
            with self._blaming(folder):
                info = tfds.builder_from_directory(folder).info
                train, test = (
                    list(zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True))
                    for split in ("train", "test")
                )
            decode = info.features.deserialize_example_np
            train_x, train_y = self._decode_split(train, self.num_train, decode)
            return Raw(train_x, train_y, *self._decode_split(test, self.num_test, decode))

    def _decode_split(self, shards: Any, count: int, decode: Callable) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((count, *self.shape), np.uint8)
        labels = np.empty(count, np.int64)
        row = 0
        for path, length in shards:
            with self._blaming(path):
                for record in _records(path, length):
                    example = decode(record)
                    self._check_example(example)
                    images[row], labels[row] = example["image"], example["label"]
                    row += 1
        return images, labels

    @contextlib.contextmanager
    def _blaming(self, path: os.PathLike) -> Iterator[None]:
        """Turn any failure (tfds, array_record and Pillow know many kinds) into one line about a path."""
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            kind = "" if isinstance(error, DataError) else f"{type(error).__name__}: "
            reason = " ".join(str(error).split())
            raise DataError(f"{self.name}: cannot decode {os.fspath(path)}: {kind}{reason:.300}") from None

    def _check_info(self, folder: Path) -> None:
        """Refuse a folder whose own description is not this data set's, before tfds is even imported."""
        path = folder / "dataset_info.json"
        try:
            info = json.loads(path.read_bytes())
            counts = {s["name"]: sum(map(int, s["shardLengths"])) for s in info["splits"]}
            got = {
                "name": info["name"],
                "fileFormat": info.get("fileFormat", "tfrecord"),
                "training images": counts.get("train", 0),
                "test images": counts.get("test", 0),
            }
        except OSError as error:
            raise DataError(f"{self.name}: cannot read {path}: {error.strerror}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(f"{self.name}: {path} is not the description of a TFDS data set") from None
        expected = (self.name, "array_record", self.num_train, self.num_test)
        for (key, value), wanted in zip(got.items(), expected, strict=True):
            if value != wanted:
                advice = self._advice(folder.parent.parent)
                raise DataError(f"{self.name}: {path}: expected {key} {wanted}, got {value}; {advice}")

    def _check_example(self, example: dict) -> None:
        # Explicitly, since assignment would broadcast an image of 1 x 28 and wrap one of 16 bits.
        image, label = example["image"], example["label"]
        if image.shape != self.shape or image.dtype != np.uint8:
            raise DataError(f"expected images {self.shape} uint8, got {image.shape} {image.dtype}")
        if not 0 <= label < self.num_classes:
            raise DataError(f"expected labels 0 to {self.num_classes - 1}, got {label}")


# A further source is a line here: a function of data_dir that returns (Raw, version).
SOURCES: dict[str, Source] = {
    "mnist": Source(_Tfds("mnist", (28, 28, 1), num_train=60_000, num_test=10_000), scale=255),
    "fashion_mnist": Source(_Tfds("fashion_mnist", (28, 28, 1), num_train=60_000, num_test=10_000), scale=255),
    "cifar10": Source(_Tfds("cifar10", (32, 32, 3), num_train=50_000, num_test=10_000), scale=255),
    "digits": Source(_digits, scale=16),
    "mnist1d": Source(_mnist1d, scale=1),
}


def _cached(key: str, make: Callable[[], Raw]) -> Raw:
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


def _records(path: os.PathLike, expected: int) -> Iterator[bytes]:
    """Yield the records of an ArrayRecord file, which must be as many as the data set's description says."""
    from array_record.python.array_record_data_source import ArrayRecordDataSource

    if not os.path.isfile(path):  # array_record would wait for ever on a pipe
        raise DataError("there is no such file")
    with ArrayRecordDataSource(os.fspath(path)) as records:
        if len(records) != expected:
            raise DataError(f"expected {expected} records, got {len(records)}")
        for start in range(0, expected, 1000):  # in one call each: twice as fast as record by record
            yield from records.__getitems__(range(start, min(start + 1000, expected)))


@contextlib.contextmanager
def _needs(name: str, packages: str) -> Iterator[None]:
    """Turn the failed import of an optional dependency into the line that says how to get it."""
    try:
        yield
    except ImportError as error:
        raise DataError(f"{name}: a package is missing ({error}): pip install {packages}") from None


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Keep to itself what tfds tells about its own dependencies: deprecations, and a wish for OpenCV."""

    def other(record: logging.LogRecord) -> bool:
        return "OpenCV" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(other)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.removeFilter(other)
