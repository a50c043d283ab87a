"""Checks of arrays that a user brings."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntkgen.data._raw import Raw

MOST_CLASSES = 100_000  # more are no labels but identifiers


def checked(arrays: Sequence[Any], names: Sequence[str], num_classes: int | None) -> tuple[Raw, int]:
    """Return the arrays as examples and targets, and the number of classes, 0 for real targets.

    Args:
      arrays: x, y, x_test, y_test.
      names: what their owner calls them.
      num_classes: number of classes; None for the largest label plus one.

    Returns:
      Examples: floats as float32, bytes as they are, other integers as int64. Labels (n,) int64, or targets float32.

    Raises:
      ValueError: they do not fit each other; one line that begins with a name.
    """
    x, x_test = (_examples(names[i], arrays[i]) for i in (0, 2))
    if x_test.shape[1:] != x.shape[1:]:
        raise ValueError(f"{names[2]}: expected examples of shape {x.shape[1:]}, got {x_test.shape[1:]}")
    if x_test.dtype != x.dtype:
        raise ValueError(f"{names[2]}: expected {x.dtype} as in {names[0]}, got {x_test.dtype}")
    y, y_test = (_targets(names[i + 1], arrays[i + 1], len(split)) for i, split in ((0, x), (2, x_test)))
    if y_test.dtype != y.dtype or y_test.shape[1:] != y.shape[1:]:
        expected, got = (f"{_kind(each)} of shape {_each(each)}" for each in (y, y_test))
        raise ValueError(f"{names[3]}: expected {expected}, as in {names[1]}, got {got}")
    raw = Raw(x, y, x_test, y_test)
    if y.dtype.kind == "f":
        if num_classes is not None:
            raise ValueError(f"{names[1]}: expected integer labels with num_classes={num_classes}, got real targets")
        return raw, 0
    return raw, _classes(names, y, y_test, num_classes)


def scale(x: np.ndarray) -> float:
    """Return what examples are divided by: 255 for bytes, else 1."""
    return 255.0 if x.dtype == np.uint8 else 1.0


def _classes(names: Sequence[str], y: np.ndarray, y_test: np.ndarray, num_classes: int | None) -> int:
    most = num_classes or max(int(y.max()), int(y_test.max()), 1) + 1
    for name, labels in ((names[1], y), (names[3], y_test)):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= most:
            expected = f"labels from 0 to {most - 1}" if num_classes else "labels 0, 1, 2, ..."
            raise ValueError(f"{name}: expected {expected}, got {low} ... {high}")
    if num_classes is None and int(y_test.max()) > max(int(y.max()), 1):
        raise ValueError(
            f"{names[3]}: expected classes of {names[1]}, 0 to {y.max()}, got {y_test.max()}; num_classes says how many"
        )
    if most > MOST_CLASSES:
        raise ValueError(f"{names[1]}: expected at most {MOST_CLASSES} classes, got labels up to {most - 1}")
    return most


def _numbers(name: str, value: Any, of_words: str = "") -> np.ndarray:
    """Return an array of finite numbers; `of_words` is what to do with text."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors that cannot be converted
        raise ValueError(f"{name}: expected an array of numbers, got {type(value).__name__}: {error}"[:300]) from None
    if array.dtype == bool:
        return array.astype(np.int64)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind != "f" and str(array.dtype) not in ("bfloat16",):
        hint = of_words if array.dtype.kind in "US" else ""
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}{hint}")
    with np.errstate(over="ignore"):
        single = array.astype(np.float32, copy=False)
    # The extremes tell, NaN wins in both, and no mask of the data's size is made.
    if single.size and not (np.isfinite(single.min()) and np.isfinite(single.max())):
        finite = bool(np.isfinite(array).all())
        got = "a larger one" if finite else "NaN or infinity"
        raise ValueError(f"{name}: expected finite numbers{' that float32 holds' if finite else ''}, got {got}")
    return single


def _examples(name: str, value: Any) -> np.ndarray:
    array = _numbers(name, value)
    if array.ndim < 2 or not array.size:
        hint = f"; {name}[:, None] has one feature each" if array.ndim == 1 and array.size else ""
        expected = "at least one example along the first axis, such as (n, d) or (n, h, w, c)"
        raise ValueError(f"{name}: expected {expected}, got shape {array.shape}{hint}")
    if array.dtype.kind in "iu" and array.dtype != np.uint8:
        if int(array.min()) < -(2**31) or int(array.max()) >= 2**31:
            raise ValueError(f"{name}: expected integers of 32 bits, got {array.min()} ... {array.max()}")
        return array.astype(np.int64)
    return array


def _targets(name: str, value: Any, count: int) -> np.ndarray:
    array = _numbers(name, value, "; for words give np.unique(words, return_inverse=True)[1]")
    if array.shape[:1] != (count,):
        raise ValueError(f"{name}: expected one target for each of {count} examples, got shape {array.shape}")
    if array.dtype.kind == "f":
        if array.ndim > 2 or not array.size:
            raise ValueError(f"{name}: expected real targets (n,) or (n, k), got shape {array.shape}")
        return array
    if array.shape[1:] == (1,):
        array = array[:, 0]
    if array.ndim != 1:
        hint = "; for one-hot rows give y.argmax(1), for real targets y.astype(float)"
        raise ValueError(f"{name}: expected class labels (n,), got {array.dtype} of shape {array.shape}{hint}")
    if array.dtype == np.uint64 and int(array.max()) >= 2**63:
        raise ValueError(f"{name}: expected labels 0, 1, 2, ..., got {array.max()}")
    return array.astype(np.int64)


def _kind(y: np.ndarray) -> str:
    return "real targets" if y.dtype.kind == "f" else "class labels"


def _each(y: np.ndarray) -> str:
    return "(" + ", ".join(["n", *map(str, y.shape[1:])]) + ("," if y.ndim == 1 else "") + ")"
