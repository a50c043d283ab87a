"""A reader of pickles that makes plain values and arrays of whole numbers, and calls nothing else.

The python batches of CIFAR are pickles, and a pickle may name any function to be called. Here the few names that an
array needs stand for parts written below; every other name is refused. NumPy's own reconstruction is not used: it
trusts what it is given.
"""

import io as bytesio
import math
import pickle
import re
from typing import Any

import numpy as np

from ntkgen.data._raw import DataError


def restricted_load(content: bytes) -> Any:
    """Return what a pickle holds: plain values, and a dict's arrays of whole numbers; text of Python 2 as bytes.

    Raises:
      DataError: the pickle is damaged, or asks for anything else.
    """
    try:
        found = _Unpickler(bytesio.BytesIO(content), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle fails in a dozen ways
        raise DataError(f"cannot read the pickle: {type(error).__name__}: {error}"[:200]) from None
    if isinstance(found, dict):
        return {name: value.value if isinstance(value, _Array) else value for name, value in found.items()}
    return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name."""
        found = _STAND_INS.get((module.replace("numpy._core", "numpy.core"), name))
        if found is None:
            raise DataError(f"expected plain values and arrays in the pickle, got a call of {module}.{name}")
        return found()


class _StandIn:
    """A stand-in for a name; a pickle cannot give it attributes."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise DataError("expected plain values and arrays in the pickle, got a change of a function")


class _ArrayType(_StandIn):
    """Stands for numpy.ndarray, which is named but not called."""

    __slots__ = ()


class _Dtype:
    """A dtype of whole numbers, as a pickle makes it: its code ("u1"), then its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: Any) -> None:
        self.code, self.order = _text(code), "|"

    def __setstate__(self, state: Any) -> None:
        self.order = _text(state[1])

    def dtype(self) -> np.dtype:
        if not re.fullmatch(r"[iu][1248]", self.code) or self.order not in ("|", "<", ">"):
            raise DataError(f"expected arrays of whole numbers in the pickle, got {self.order}{self.code}"[:150])
        return np.dtype(self.order.replace("|", "") + self.code)


class _Array:
    """An array that is filled later."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, by_column, content = state
        self.fill(content, dtype, shape, "F" if by_column else "C")

    def fill(self, content: Any, dtype: Any, shape: Any, order: Any) -> "_Array":
        """Take the numbers, which must be as many as the shape says."""
        whole = type(shape) is tuple and all(type(size) is int and size >= 0 for size in shape)
        if not whole or type(dtype) is not _Dtype or not isinstance(content, bytes | bytearray):
            raise DataError("expected shape, dtype and bytes of an array in the pickle")
        kind = dtype.dtype()
        if math.prod(shape) * kind.itemsize != len(content):
            raise DataError(f"expected an array of shape {shape} in the pickle, got {len(content)} bytes"[:150])
        self.value = np.frombuffer(content, kind).reshape(shape, order="F" if _text(order) == "F" else "C")
        return self


class _Reconstruct(_StandIn):
    """Stands for numpy.core.multiarray._reconstruct: returns an array that is filled later."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        return _Array()


class _FromBuffer(_StandIn):
    """Stands for numpy.core.numeric._frombuffer, by which newer pickles make arrays."""

    __slots__ = ()

    def __call__(self, content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        return _Array().fill(content, dtype, shape, order)


class _MakeDtype(_StandIn):
    """Stands for numpy.dtype."""

    __slots__ = ()

    def __call__(self, code: Any, align: Any = False, copy: Any = False) -> _Dtype:
        return _Dtype(code)


class _Encode(_StandIn):
    """Stands for _codecs.encode, by which Python 3 writes bytes into old pickles."""

    __slots__ = ()

    def __call__(self, text: Any, codec: Any) -> bytes:
        if _text(codec) != "latin1" or not isinstance(text, str):
            raise DataError(f"expected text in latin1 in the pickle, got {codec!r}"[:150])
        return text.encode("latin1")


_STAND_INS: dict[tuple[str, str], type[_StandIn]] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _MakeDtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
    ("numpy.core.numeric", "_frombuffer"): _FromBuffer,
    ("_codecs", "encode"): _Encode,
}


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
