"""What a tangent kernel asks of its arguments, each with one clear error."""

from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkgen import functions, memory
from ntkgen.typing import Apply, PyTree

METHODS = ("auto", "jacobian", "layerwise")


class KernelOptions(TypedDict, total=False):
    """The options of `empirical_ntk`, for what passes them on."""

    method: str
    trace: bool
    tile: int | None
    memory_budget: int | None


class Task(NamedTuple):
    """The checked arguments of one kernel computation.

    Attributes:
      f: the network, as `functions.freeze` returns it.
      params: its parameters, at least as precise as its outputs.
      x1: inputs (n1, ...), an array or a dict or tuple of such.
      x2: inputs (n2, ...), or None for the symmetric kernel.
      dtype: of the kernel.
      num_outputs: K.
      names: of the leaves of params.
      sizes: entries of each leaf.
      method: one of `METHODS`.
      trace: whether the kernel is averaged over outputs.
      tile: samples in a tile, or None to choose.
      budget: bytes.
    """

    f: Partial
    params: PyTree
    x1: PyTree
    x2: PyTree | None
    dtype: Any
    num_outputs: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    method: str
    trace: bool
    tile: int | None
    budget: int


def prepare(
    f: Apply,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None,
    *,
    method: str = "auto",
    trace: bool = False,
    tile: int | None = None,
    memory_budget: int | None = None,
) -> Task:
    """Return the checked arguments of `empirical_ntk`; arguments and errors are its own."""
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    for name, value, unit in (("tile", tile, "sample"), ("memory_budget", memory_budget, "byte")):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ValueError(f"{name}: expected at least 1 {unit}, a whole number, got {value!r}")
    f, x1, x2, out = checked(f, params, x1, x2)
    # Inputs of a higher precision: derivatives of narrower parameters would be rounded on their way.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), out.dtype)), params)
    names = tuple(jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params))
    sizes = tuple(int(jnp.size(leaf)) for leaf in jax.tree.leaves(params))
    budget = memory.budget() if memory_budget is None else memory_budget
    return Task(f, params, x1, x2, out.dtype, out.shape[1], names, sizes, method, trace, tile, budget)


def checked(f: Apply, params: PyTree, x1: PyTree, x2: PyTree | None) -> tuple[Partial, Any, Any | None, Any]:
    """Check everything that can be checked before the work.

    Args:
      f: function (params, x) -> outputs (n, k).
      params: its parameters.
      x1: inputs (n1, ...).
      x2: inputs (n2, ...) or None.

    Returns:
      (f as `functions.freeze` gives it, x1, x2, shape and dtype of the outputs at x1).

    Raises:
      ValueError: the message names the argument, what was expected, and what came.
    """
    if not callable(f):
        raise ValueError(f"f: expected a function (params, x) -> outputs (n, k), got {type(f).__name__}")
    leaves = jax.tree.leaves(params)
    if not leaves or not all(jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in leaves):
        raise ValueError(f"params: expected floating arrays, got {[str(jnp.result_type(leaf)) for leaf in leaves]}")
    if not all(jnp.size(leaf) for leaf in leaves):
        raise ValueError(f"params: expected arrays with entries, got shapes {[jnp.shape(leaf) for leaf in leaves]}")
    x1 = _inputs("x1", x1)
    x2 = None if x2 is None else _inputs("x2", x2)
    if x2 is not None and _samples(x2) != _samples(x1):
        raise ValueError(f"x2: expected {_samples(x1)} as in x1, got {_samples(x2)}")
    if not finite(leaves):
        raise ValueError("params: expected finite numbers, got infinities or NaN")
    network = _frozen(f, params, x1)
    wrong = functions.dependence(network, params, x1, x2)
    if wrong:
        raise ValueError(wrong)
    return network, x1, x2, network.func.out  # type: ignore[attr-defined]


def length(x: PyTree) -> int:
    """Return the number of samples n of inputs (n, ...), an array or a tree of arrays."""
    return int(jax.tree.leaves(x)[0].shape[0])


def _samples(x: PyTree) -> Any:
    """Return dtype and shape of one sample, in words."""
    return jax.tree.map(lambda leaf: f"{leaf.dtype} samples {leaf.shape[1:]}", x)


def _inputs(name: str, x: PyTree) -> Any:
    if (not isinstance(x, dict | tuple) and len(jax.tree.leaves(x)) != 1) or not jax.tree.leaves(x):
        raise ValueError(f"{name}: expected an array of samples (n, ...), got {type(x).__name__}")
    x = jax.tree.map(jnp.asarray, x)
    for leaf in jax.tree.leaves(x):
        if leaf.ndim < 1 or leaf.size == 0:
            raise ValueError(f"{name}: expected samples (n, ...), at least one and none empty, got shape {leaf.shape}")
        if len(leaf) != length(x):
            raise ValueError(f"{name}: expected {length(x)} samples in every array, got shape {leaf.shape}")
    if not finite(jax.tree.leaves(x)):
        raise ValueError(f"{name}: expected finite numbers, got infinities or NaN")
    return x


def _frozen(f: Apply, params: PyTree, x: PyTree) -> Partial:
    shapes, n = jax.tree.map(lambda leaf: leaf.shape, x), length(x)
    try:
        network = functions.freeze(f, params, x)
    except Exception as error:  # whatever a network raises on inputs that it cannot take
        message = (str(error).splitlines() or [""])[0]
        raise ValueError(f"x1: f does not take inputs of shape {shapes}: {message}") from error
    out = network.func.out  # type: ignore[attr-defined]
    shape, got = getattr(out, "shape", None), getattr(out, "dtype", type(out).__name__)
    if shape is None or len(shape) != 2 or shape[0] != n or not jnp.issubdtype(out.dtype, jnp.floating):
        got = f"{got} {shape}" if shape is not None else got
        raise ValueError(f"f: expected floating outputs ({n}, k) at x1 of shape {shapes}, got {got}")
    return network


def finite(leaves: list[Any]) -> bool:
    """Return whether all numbers of some arrays are finite."""
    # By numpy, on the host: a program for every shape would take longer to compile. NaN goes through min and max.
    arrays = [np.asarray(leaf) for leaf in leaves if jnp.size(leaf)]
    return all(np.isfinite(array.min()) and np.isfinite(array.max()) for array in arrays)
