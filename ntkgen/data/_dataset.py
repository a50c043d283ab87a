"""What a data set is, and how decoded arrays become one: subset, label noise, standardisation, digest."""

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import io
from ntkgen.data._raw import Raw

# Independent streams of one seed: what the noise draws cannot move the subset.
_SUBSET_STREAM, _NOISE_STREAM = 0, 1


class Split(NamedTuple):
    """Images x (n, h, w, c) float32, standardised, and labels y (n,) int32, on the default device.

    Other arrays (`from_arrays`) have examples of any shape, int32 where integers are not standardised, and real targets
    y (n,) or (n, k) float32.
    """

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
      num_classes: number of classes; 0 for real targets.
      version: version of the source: that of TFDS or of a package, or the format of the files ("idx", "npz", "python",
        "binary"), whose order of the images is not that of TFDS; "arrays" for `from_arrays`.
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

    def __repr__(self) -> str:
        """Return name, shapes, dtypes and classes in one line, and no arrays."""
        splits = "; ".join(
            f"{name} x {tuple(x.shape)} {x.dtype}, y {tuple(y.shape)} {y.dtype}"
            for name, (x, y) in (("train", self.train), ("test", self.test))
        )
        kind = f"{self.num_classes} classes" if self.num_classes else "real targets"
        noise = f"; label noise {self.label_noise:g}" if self.label_noise else ""
        return f"Dataset({self.name}: {splits}; {kind}{noise})"


class Draw(NamedTuple):
    """Which training examples are used, and with which labels; arguments of `load`, checked.

    Attributes:
      num_train: number of training examples; None for all.
      label_noise: probability with which a training label is replaced.
      seed: of subset and noise.
      subset: "random" or "first".
    """

    num_train: int | None
    label_noise: float
    seed: int
    subset: str

    @classmethod
    def of(cls, num_train: Any, label_noise: Any, seed: Any, subset: Any) -> "Draw":
        """Return the arguments as plain values.

        Raises:
          ValueError: one is not as `load` describes it.
        """
        seed = integer("seed", seed, low=0)
        label_noise = _probability("label_noise", label_noise)
        if subset not in ("random", "first"):
            raise ValueError(f"subset: expected 'random' or 'first', got {subset!r}")
        return cls(None if num_train is None else integer("num_train", num_train, low=1), label_noise, seed, subset)


def assemble(
    raw: Raw, draw: Draw, *, name: str, version: str, scale: float, num_classes: int, standardize: bool = True
) -> Dataset:
    """Return the data set of decoded arrays.

    Args:
      raw: examples (n, ...), and labels (n,) int64 or real targets float32.
      draw: what is used of them.
      name: of the data set.
      version: of the source.
      scale: pixels / scale are what mean and std refer to.
      num_classes: number of classes; 0 for real targets.
      standardize: whether examples are standardised; otherwise they are float32 or int32 as they are.

    Raises:
      ValueError: more training examples are asked for than there are.
    """
    total = len(raw.train_y)
    used_subset: str = draw.subset
    rows: Any
    if draw.num_train is None:
        used_subset, rows = "all", slice(None)  # a view: CIFAR-10 twice in memory would be a waste
    elif draw.num_train > total:
        raise ValueError(f"num_train: expected at most {total}, all of {name}, got {draw.num_train}")
    elif draw.subset == "first":
        rows = slice(draw.num_train)
    else:
        rows = _generator(draw.seed, _SUBSET_STREAM).permutation(total)[: draw.num_train]

    noisy = _flip_labels(raw.train_y, draw.label_noise, num_classes, draw.seed) if num_classes else raw.train_y
    train_x, train_y = raw.train_x[rows], noisy[rows]
    channels = raw.train_x.shape[-1] if raw.train_x.ndim != 3 else 1
    mean, std = np.zeros(channels, np.float32), np.ones(channels, np.float32)
    if standardize:
        mean, std = _channel_stats(raw.train_x if raw.train_x.ndim != 3 else raw.train_x[..., None], scale)
    used = {"train_x": train_x, "train_y": train_y, "test_x": raw.test_x, "test_y": raw.test_y}
    make = (lambda x, y: _split(x, y, scale, mean, std)) if standardize else _as_given
    return Dataset(
        train=make(train_x, train_y),
        test=make(raw.test_x, raw.test_y),
        mean=mean,
        std=std,
        name=name,
        num_classes=num_classes,
        version=version,
        subset=used_subset,
        num_train=len(train_y),
        label_noise=draw.label_noise,
        num_flipped=int(np.sum(train_y != raw.train_y[rows])),
        seed=draw.seed,
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
    shape = (1,) * (x.ndim - 1) + (-1,)
    per_channel = mean.reshape(shape), std.reshape(shape)
    return Split(_standardise(x, np.float32(scale), *per_channel), _targets(y))


def _as_given(x: np.ndarray, y: np.ndarray) -> Split:
    return Split(jnp.asarray(x, jnp.float32 if x.dtype.kind == "f" else jnp.int32), _targets(y))


def _targets(y: np.ndarray) -> jax.Array:
    return jnp.asarray(y, jnp.float32 if y.dtype.kind == "f" else jnp.int32)


@jax.jit
def _standardise(x: jax.Array, scale: jax.Array, mean: jax.Array, std: jax.Array) -> jax.Array:
    return (x.astype(jnp.float32) / scale - mean) / std


def _generator(seed: int, stream: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream,)))


def integer(name: str, value: Any, low: int) -> int:
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
