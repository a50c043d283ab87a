"""Data sets as standardised arrays on the device, with seeded subsets and seeded label noise.

After `dataset = load("mnist", num_train=10_000, label_noise=0.1)`, `dataset.train.x` is (10000, 28, 28, 1)
float32 and `dataset.train.y` (10000,) int32.
"""

import math
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import io
from ntkgen.data._sources import SOURCES, DataError

__all__ = ["DataError", "Dataset", "Split", "load"]

# Independent streams of one seed: what the noise draws cannot move the subset.
_SUBSET_STREAM, _NOISE_STREAM = 0, 1


class Split(NamedTuple):
    """Images x (n, h, w, c) float32, standardised, and labels y (n,) int32, on the default device."""

    x: jax.Array
    y: jax.Array


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set ready for training, and what a record needs to say about it.

    Attributes:
      train: the training images used, with noisy labels if asked for.
      test: the whole test set, with its true labels.
      mean: (c,) float32, channel means of the full training set, of pixels in [0, 1].
      std: (c,) float32, the standard deviations; 1 where a channel is constant.
      name: the name it was loaded by.
      num_classes: number of classes.
      version: version of the source.
      subset: "all", "random" or "first".
      num_train: number of training images used.
      label_noise: probability with which a training label was replaced.
      num_flipped: how many of the labels used were.
      seed: of subset and noise.
      digest: SHA-256 over the decoded images and labels used, before standardisation, and over mean and std.
    """

    train: Split
    test: Split
    mean: np.ndarray
    std: np.ndarray
    name: str
    num_classes: int
    version: str
    subset: str
    num_train: int
    label_noise: float
    num_flipped: int
    seed: int
    digest: str


def load(
    name: str,
    *,
    data_dir: str | os.PathLike | None = None,
    num_train: int | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
    subset: Literal["random", "first"] = "random",
) -> Dataset:
    """Load a data set, standardised by the channel statistics of its full training set.

    A random subset is the beginning of one permutation per seed, and the noise is drawn per image of the
    full training set. So with one seed, a larger subset begins with the smaller one, noisy labels included,
    and a higher noise level flips all labels that a lower one flips, to the same wrong classes.

    Example:
      >>> from ntkgen import data
      >>> digits = data.load("digits", num_train=100, label_noise=0.2)
      >>> digits.train.x.shape, digits.num_flipped > 0, digits.num_classes
      ((100, 8, 8, 1), True, 10)

    Args:
      name: "mnist", "fashion_mnist", "cifar10" (a prepared TFDS folder), "digits" or "mnist1d" (no files).
      data_dir: the TFDS folder; by default $NTKGEN_DATA_DIR, then $TFDS_DATA_DIR, then ~/tensorflow_datasets.
      num_train: number of training images; None for all of them, in the source's order.
      label_noise: probability in [0, 1) that a training label is replaced by one of the other classes, all
        equally likely; drawn once, not per epoch (Nakkiran et al. 2020, arXiv:1912.02292).
      seed: of the random subset and of the label noise; at least 0.
      subset: which `num_train` images: "random", or the "first" in the source's order.

    Returns:
      The data set, on the default device.

    Raises:
      DataError: the data cannot be had; one line says what was looked for, where, and what to do.
      ValueError: an argument is not as described.
    """
    if name not in SOURCES:
        raise ValueError(f"dataset: expected one of {', '.join(SOURCES)}, got {name!r}")
    seed = _integer("seed", seed, low=0)
    label_noise = _probability("label_noise", label_noise)
    if subset not in ("random", "first"):
        raise ValueError(f"subset: expected 'random' or 'first', got {subset!r}")
    if num_train is not None:
        num_train = _integer("num_train", num_train, low=1)

    source = SOURCES[name]
    raw, version = source.read(data_dir)
    total = len(raw.train_y)
    used_subset: str = subset
    rows: Any
    if num_train is None:
        used_subset, rows = "all", slice(None)  # a view: CIFAR-10 twice in memory would be a waste
    elif num_train > total:
        raise ValueError(f"num_train: expected at most {total}, all of {name}, got {num_train}")
    elif subset == "first":
        rows = slice(num_train)
    else:
        rows = _generator(seed, _SUBSET_STREAM).permutation(total)[:num_train]

    noisy = _flip_labels(raw.train_y, label_noise, source.num_classes, seed)
    train_x, train_y = raw.train_x[rows], noisy[rows]
    mean, std = _channel_stats(raw.train_x, source.scale)
    used = {"train_x": train_x, "train_y": train_y, "test_x": raw.test_x, "test_y": raw.test_y}
    return Dataset(
        train=_split(train_x, train_y, source.scale, mean, std),
        test=_split(raw.test_x, raw.test_y, source.scale, mean, std),
        mean=mean,
        std=std,
        name=name,
        num_classes=source.num_classes,
        version=version,
        subset=used_subset,
        num_train=len(train_y),
        label_noise=label_noise,
        num_flipped=int(np.sum(train_y != raw.train_y[rows])),
        seed=seed,
        digest=io.digest(used | {"mean": mean, "std": std}),
    )


def _flip_labels(y: np.ndarray, probability: float, num_classes: int, seed: int) -> np.ndarray:
    """Replace each label with the given probability by one of the others, all equally likely."""
    rng = _generator(seed, _NOISE_STREAM)
    # Both are drawn for every label, flipped or not, so that neither depends on the probability.
    flipped = rng.random(len(y)) < probability
    shift = rng.integers(1, num_classes, len(y))  # never 0: the true class stays out
    return np.where(flipped, (y + shift) % num_classes, y)


def _channel_stats(x: np.ndarray, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation (c,) of x / scale, in float64, a block of images at a time."""
    # Images as rows of h*w*c, the mean repeated to match: NumPy is slow along a last axis of three.
    channels = x.shape[-1]
    blocks = np.array_split(x.reshape(len(x), -1), math.ceil(len(x) / 1000))

    def channel_means(rows: Iterable[np.ndarray]) -> np.ndarray:
        total: Any = sum(np.sum(row, axis=0, dtype=np.float64) for row in rows)
        return total.reshape(-1, channels).sum(axis=0) / (x.size // channels)

    mean = channel_means(blocks)
    mean_image = np.tile(mean, blocks[0].shape[1] // channels)
    std = np.sqrt(channel_means((block - mean_image) ** 2 for block in blocks)) / scale
    return (mean / scale).astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _split(x: np.ndarray, y: np.ndarray, scale: float, mean: np.ndarray, std: np.ndarray) -> Split:
    # Bytes travel to the device and become floats there: a quarter of the traffic, no float copy on the host.
    per_channel = mean[None, None, None], std[None, None, None]
    return Split(_standardise(x, np.float32(scale), *per_channel), jnp.asarray(y, jnp.int32))


@jax.jit
def _standardise(x: jax.Array, scale: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) / scale - mean) / std


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def _integer(name: str, value: Any, low: int) -> int:
    try:
        if not isinstance(value, bool | np.bool_) and operator.index(value) >= low:
            return operator.index(value)
    except TypeError:
        pass
    raise ValueError(f"{name}: expected an integer of at least {low}, got {value!r}")


def _probability(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool | np.bool_ | str | bytes) and 0 <= float(value) < 1:
            return float(value)
    except (TypeError, ValueError):
        pass
    raise ValueError(f"{name}: expected a number in [0, 1), got {value!r}")
