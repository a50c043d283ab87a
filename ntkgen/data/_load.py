"""The two ways to a data set: `load` one by name or path, or make one `from_arrays`.

After `dataset = load("mnist", num_train=10_000, label_noise=0.1)`, `dataset.train.x` is (10000, 28, 28, 1)
float32 and `dataset.train.y` (10000,) int32.
"""

import os
from typing import Any, Literal

import numpy as np

from ntkgen.data import _arrays, _npz
from ntkgen.data._dataset import Dataset, Draw, assemble, integer
from ntkgen.data._npz import NpzFile
from ntkgen.data._raw import DataError, Raw, decoding
from ntkgen.data._sources import SOURCES


def load(
    name: str | os.PathLike,
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
      name: "mnist", "fashion_mnist", "cifar10", "cifar100" (in a folder), "digits", "mnist1d" (no files), or the path
        of an .npz file with x_train, y_train, x_test, y_test, or x, y, x_test, y_test; labels are integers from 0.
      data_dir: the folder, with prepared TFDS data sets (array_record) or the files that each data set is published in
        (IDX, Keras's .npz, python or binary batches); by default $NTKGEN_DATA_DIR, then $TFDS_DATA_DIR, then
        ~/tensorflow_datasets.
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
    draw = Draw.of(num_train, label_noise, seed, subset)
    if isinstance(name, NpzFile | os.PathLike) or (isinstance(name, str) and name.endswith(".npz")):
        file = NpzFile(name)
        raw, num_classes = _from_file(file)
        scale = _arrays.scale(raw.train_x)
        return assemble(raw, draw, name=str(file), version="npz", scale=scale, num_classes=num_classes)
    if name not in SOURCES:
        raise ValueError(f"dataset: expected one of {', '.join(SOURCES)}, or the path of an .npz file, got {name!r}")
    source = SOURCES[name]
    raw, version = source.read(data_dir)
    return assemble(raw, draw, name=name, version=version, scale=source.scale, num_classes=source.num_classes)


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    name: str = "arrays",
    num_classes: int | None = None,
    standardize: bool = True,
    num_train: int | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
    subset: Literal["random", "first"] = "random",
) -> Dataset:
    """Make a data set of arrays.

    Examples keep their shape. Integer y are class labels; floating y are real targets, for regression.

    Example:
      >>> import numpy as np
      >>> from ntkgen import data
      >>> x = np.random.default_rng(0).normal(size=(30, 2))
      >>> data.from_arrays(x[:20], x[:20, 0] > 0, x[20:], x[20:, 0] > 0)
      Dataset(arrays: train x (20, 2) float32, y (20,) int32; test x (10, 2) float32, y (10,) int32; 2 classes)
      >>> data.from_arrays(x[:20], x[:20].sum(1), x[20:], x[20:].sum(1)).num_classes
      0

    Args:
      x: training examples (n, ...), such as features (n, d) or images (n, h, w, c); anything NumPy takes.
      y: labels 0 ... k - 1, integers (n,) or (n, 1), or real targets (n,) or (n, k), which become float32.
      x_test: test examples, of the same shape and kind.
      y_test: their labels or targets.
      name: what records and figures call the data set.
      num_classes: number of classes; by default the largest label plus one, at least 2.
      standardize: subtract the mean of the training set and divide by its standard deviation: of each channel, which is
        the last axis, and of all numbers together for images (n, h, w). Bytes count as pixels from 0 to 255. Without,
        floats become float32 and integers, such as tokens, int32, with the same values.
      num_train: number of training examples; None for all of them, in order.
      label_noise: as in `load`.
      seed: of the random subset and of the label noise; at least 0.
      subset: as in `load`.

    Returns:
      The data set, on the default device.

    Raises:
      ValueError: lengths, shapes, dtypes or labels do not fit, or a number is not finite; one line that begins with the
        argument.
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"name: expected text, got {name!r}")
    if not isinstance(standardize, bool | np.bool_):
        raise ValueError(f"standardize: expected True or False, got {standardize!r}")
    if num_classes is not None:
        num_classes = integer("num_classes", num_classes, low=2)
    draw = Draw.of(num_train, label_noise, seed, subset)
    raw, num_classes = _arrays.checked((x, y, x_test, y_test), ("x", "y", "x_test", "y_test"), num_classes)
    if not num_classes and draw.label_noise:
        raise ValueError(f"label_noise: expected 0 with real targets, got {draw.label_noise:g}")
    return assemble(
        raw, draw, name=name, version="arrays", scale=_arrays.scale(raw.train_x), num_classes=num_classes,
        standardize=bool(standardize),
    )  # fmt: skip


def _from_file(file: NpzFile) -> tuple[Raw, int]:
    """Return the arrays of an .npz file and the number of classes, images (n, h, w) with one channel.

    Raises:
      DataError: they are no data set for classification.
    """
    with decoding("dataset", file.path):
        arrays = _npz.arrays(file.path)
    x, y, x_test, y_test = arrays
    arrays = [x[..., None] if x.ndim == 3 else x, y, x_test[..., None] if x_test.ndim == 3 else x_test, y_test]
    try:
        raw, num_classes = _arrays.checked(arrays, ("x_train", "y_train", "x_test", "y_test"), None)
        if not num_classes:
            raise ValueError(f"y_train: expected class labels, integers (n,), got {y.dtype} of shape {y.shape}")
        if raw.train_x.ndim not in (2, 4):
            raise ValueError(f"x_train: expected (n, d), (n, h, w) or (n, h, w, c), got shape {x.shape}")
    except ValueError as error:
        raise DataError(f"dataset: {file.path}: {error}") from None
    return raw, num_classes
