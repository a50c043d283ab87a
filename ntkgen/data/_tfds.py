"""Prepared TFDS folders in the array_record format, read without TensorFlow."""

import contextlib
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ntkgen import io
from ntkgen.data._raw import DataError, Format, Kind, Raw, announce, cached, needs


def find(kind: Kind, root: Path) -> Path | None:
    """Return the folder of the newest version, `<root>/<name>/<version>`."""
    version = re.compile(r"\d+\.\d+\.\d+")  # not the `.incomplete` folder of an interrupted preparation
    try:
        found = [v for v in (root / kind.name).iterdir() if version.fullmatch(v.name) and v.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{kind.name}: cannot read {root / kind.name}: {error.strerror}") from None
    return max(found, key=lambda v: [int(part) for part in v.name.split(".")], default=None)


def read(kind: Kind, folder: Path) -> tuple[Raw, str]:
    """Return the decoded data set and its version, from the cache if it was decoded before."""
    try:
        files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in sorted(folder.iterdir())]
    except OSError as error:
        raise DataError(f"{kind.name}: cannot read {folder}: {error.strerror}") from None
    # The path too: unpacked archives and container layers often carry the same rounded time everywhere.
    fingerprint = io.config_hash({"folder": str(folder.resolve()), "files": files})
    return cached(f"{kind.name}-{folder.name}-{fingerprint}", lambda: _Decoder(kind).decode(folder)), folder.name


TFDS = Format(find, read)


@dataclass(frozen=True)
class _Decoder:
    """Decodes one prepared folder, `<name>/<version>/*.array_record*`."""

    kind: Kind

    @property
    def name(self) -> str:
        """Return the data set's name."""
        return self.kind.name

    def decode(self, folder: Path) -> Raw:
        """Decode both splits; any file that is not as it should be ends in one line that names it."""
        self._check_info(folder)
        with _quiet_tfds():
            with needs(self.name, "tensorflow-datasets array_record"):
                import array_record.python.array_record_data_source  # noqa: F401  (_records uses it)
                import tensorflow_datasets as tfds
            with self._blaming(folder):
                info = tfds.builder_from_directory(folder).info
                train, test = (
                    list(zip(info.splits[split].filepaths, info.splits[split].shard_lengths, strict=True))
                    for split in ("train", "test")
                )
            decode = info.features.deserialize_example_np
            train_x, train_y = self._decode_split(train, self.kind.num_train, decode, first=True)
            return Raw(train_x, train_y, *self._decode_split(test, self.kind.num_test, decode))

    def _decode_split(
        self, shards: Any, count: int, decode: Callable, first: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((count, *self.kind.shape), np.uint8)
        labels = np.empty(count, np.int64)
        row = 0
        for path, length in shards:
            with self._blaming(path):
                for record in _records(path, length):
                    example = decode(record)
                    self._check_example(example)
                    images[row], labels[row] = example["image"], example["label"]
                    row += 1
                    if first and row == 1:  # not before: a folder of something else gets one line, the error's
                        announce(self.name, sum(self.kind.counts))
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
        expected = (self.name, "array_record", self.kind.num_train, self.kind.num_test)
        for (key, value), wanted in zip(got.items(), expected, strict=True):
            if value != wanted:
                advice = f"`tfds build {self.name} --file_format=array_record` (with TensorFlow) prepares it"
                raise DataError(
                    f"{self.name}: {path}: expected {key} {wanted}, got {value}; {advice}, or put its original files "
                    f"into {folder.parent.parent} instead of this folder"
                )

    def _check_example(self, example: dict) -> None:
        # Explicitly, since assignment would broadcast an image of 1 x 28 and wrap one of 16 bits.
        image, label = example["image"], example["label"]
        if image.shape != self.kind.shape or image.dtype != np.uint8:
            raise DataError(f"expected images {self.kind.shape} uint8, got {image.shape} {image.dtype}")
        if not 0 <= label < self.kind.num_classes:
            raise DataError(f"expected labels 0 to {self.kind.num_classes - 1}, got {label}")


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
