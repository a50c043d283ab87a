"""What a tangent kernel asks of its arguments, each with one clear error."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen.ntk_layers import Network

Array = jax.Array
PyTree = Any

# Roundings by which derivatives may differ in other company, since sums may be ordered differently; and at most so much
# of them, or in half precision nothing would be too much.
INDEPENDENCE, APART = 1000, 0.1


def checked(f: Network, params: PyTree, x1: Any, x2: Any | None) -> tuple[Network, Array, Array | None, Any]:
    """Check everything that can be checked before the work.

    Args:
      f: function (params, x) -> outputs (n, k).
      params: its parameters.
      x1: inputs (n1, ...).
      x2: inputs (n2, ...) or None.

    Returns:
      (f in a form that compiled parts can be found by, x1, x2, shape and dtype of the outputs at x1).

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
    if x2 is not None and (x2.shape[1:] != x1.shape[1:] or x2.dtype != x1.dtype):
        raise ValueError(f"x2: expected {x1.dtype} samples {x1.shape[1:]} as in x1, got {x2.dtype} {x2.shape[1:]}")
    if not finite(leaves):
        raise ValueError("params: expected finite numbers, got infinities or NaN")
    if not isinstance(f, Hashable):
        f = functools.partial(f)  # hashed by identity
    out = _output_shape(f, params, x1)
    _check_independence(f, params, x1, x2, out.shape[1])
    return f, x1, x2, out


def _inputs(name: str, x: Any) -> Array:
    x = jnp.asarray(x)
    if x.ndim < 1 or x.size == 0:
        raise ValueError(f"{name}: expected samples (n, ...), at least one and none empty, got shape {x.shape}")
    if not finite([x]):
        raise ValueError(f"{name}: expected finite numbers, got infinities or NaN")
    return x


def _output_shape(f: Network, params: PyTree, x: Array) -> Any:
    try:
        out = jax.eval_shape(f, params, x)
    except Exception as error:  # whatever a network raises on inputs that it cannot take
        message = (str(error).splitlines() or [""])[0]
        raise ValueError(f"x1: f does not take inputs of shape {x.shape}: {message}") from error
    shape = getattr(out, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != x.shape[0] or not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(f"f: expected floating outputs ({x.shape[0]}, k) at x1 of shape {x.shape}, got {out}")
    return out


def _check_independence(f: Network, params: PyTree, x1: Array, x2: Array | None, num_outputs: int) -> None:
    """Put a sample in other company, in other places, and alone: its derivatives must stay, all a kernel is made of.

    Outputs may stay where derivatives do not: those of a last layer that begins with zeros.
    """
    # Rows are put together by numpy: each operation of JAX's outside a program would be compiled on its own.
    own, others = np.asarray(x1)[:1], _company(x1, x2)
    companies = [(own, *others[:, None]), (others[:1], own, others[1:]), (*others[:, None], own)]
    with jax.default_matmul_precision("highest"):
        if _stays(f, params, own, companies, num_outputs):
            return
        # Where rounding alone has moved a unit over its kink, that is over with other parameters.
        draw = np.random.default_rng(0).standard_normal
        moved = jax.tree.map(lambda leaf: jnp.asarray(leaf * (1 + 0.01 * draw(leaf.shape)), leaf.dtype), params)
        if _stays(f, moved, own, companies, num_outputs):
            return
    raise ValueError(
        "f: expected outputs that depend on their own sample alone, got other derivatives in other company "
        "(batch norm in training mode? dropout?); use the evaluation mode"
    )


def _stays(f: Network, params: PyTree, own: np.ndarray, companies: list, num_outputs: int) -> bool:
    out, alone = _slope(f, params, own, 0)
    if out.shape != (1, num_outputs):
        raise ValueError(f"f: expected outputs (1, {num_outputs}) of one sample, got shape {out.shape}")
    scale = float(_largest(alone))
    rows = [np.concatenate(company) for company in companies]
    found = [_apart(f, params, x, i, alone) for i, x in enumerate(rows)]
    if not all(np.isfinite(np.asarray(each)).all() for each in (out, *(others for others, _ in found))):
        raise ValueError("params, x1, x2: expected finite outputs, got infinities or NaN")
    if not np.isfinite(scale):
        raise ValueError("params, x1: expected finite derivatives, got infinities or NaN")
    allowed = min(INDEPENDENCE * float(jnp.finfo(out.dtype).eps), APART)
    return all(float(apart) <= allowed * scale for _, apart in found)


def _company(x1: Array, x2: Array | None) -> np.ndarray:
    """Choose two samples beside the first of x1: others of the caller's, which are known to be valid, if there are."""
    rows = np.concatenate([np.asarray(x1), *([] if x2 is None else [np.asarray(x2)])])
    own = rows[0]
    differ = np.flatnonzero((rows != own).reshape(len(rows), -1).any(1))
    if len(differ):
        return rows[differ[[0, -1]]]
    # Its own values, and then some of about their size, are likely to be valid.
    if not jnp.issubdtype(rows.dtype, jnp.floating) or own.min() < own.max():
        return np.stack([np.full_like(own, own.min()), np.full_like(own, own.max())])
    if own.any():
        return np.stack([1.1 * own, 0.9 * own]).astype(own.dtype)
    return np.random.default_rng(0).standard_normal((2, *own.shape)).astype(own.dtype)


@functools.partial(jax.jit, static_argnums=0)
def _slope(f: Callable, params: PyTree, x: Array, i: int) -> tuple[Array, PyTree]:
    """Give all outputs, and the gradient of a sum of sample i's with unequal weights."""

    def weighed(p: PyTree) -> tuple[Array, Array]:
        out = f(p, x)
        return jnp.sum(out[i] * jnp.cos(jnp.arange(out.shape[-1])).astype(out.dtype)), out

    gradient, out = jax.grad(weighed, has_aux=True)(params)
    return out, gradient


@functools.partial(jax.jit, static_argnums=0)
def _apart(f: Callable, params: PyTree, x: Array, i: int, alone: PyTree) -> tuple[Array, Array]:
    out, gradient = _slope(f, params, x, i)
    return out, _largest(jax.tree.map(lambda a, b: a - b, gradient, alone))


@jax.jit
def _largest(gradient: PyTree) -> Array:
    return jnp.max(jnp.stack([jnp.abs(leaf).max().astype(float) for leaf in jax.tree.leaves(gradient)]))


def finite(leaves: list[Any]) -> bool:
    """Say whether all numbers of some arrays are finite."""
    # By numpy, on the host: a program for every shape would take longer to compile. NaN goes through min and max.
    arrays = [np.asarray(leaf) for leaf in leaves if jnp.size(leaf)]
    return all(np.isfinite(array.min()) and np.isfinite(array.max()) for array in arrays)
