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

INDEPENDENCE = 1000  # roundings by which an output may differ in other company: sums may be ordered differently


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
    x1 = _inputs("x1", x1)
    x2 = None if x2 is None else _inputs("x2", x2)
    if x2 is not None and (x2.shape[1:] != x1.shape[1:] or x2.dtype != x1.dtype):
        raise ValueError(f"x2: expected {x1.dtype} samples {x1.shape[1:]} as in x1, got {x2.dtype} {x2.shape[1:]}")
    if not finite(leaves):
        raise ValueError("params: expected finite numbers, got infinities or NaN")
    if not isinstance(f, Hashable):
        f = functools.partial(f)  # hashed by identity
    out = _output_shape(f, params, x1)
    _check_independence(f, params, x1, x2)
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


def _check_independence(f: Network, params: PyTree, x1: Array, x2: Array | None) -> None:
    """Put a sample in other company, in other places, and alone: its outputs must stay."""
    # Rows are put together by numpy: each operation of JAX's outside a program would be compiled on its own.
    own = np.asarray(x1)[:1]
    if jnp.issubdtype(x1.dtype, jnp.floating):
        noise = np.random.default_rng(0).standard_normal((2, *x1.shape[1:]))
        others = (own + (1 + np.abs(own).max()) * noise).astype(x1.dtype)
    else:  # indices: only what occurs is known to be valid
        others = np.concatenate([np.asarray(x1)[-1:], np.asarray(x1 if x2 is None else x2)[-1:]])
    companies = [(own, *others[:, None]), (*others[:, None], own), (own, own, own), (own,)]
    with jax.default_matmul_precision("highest"):
        outputs = [np.asarray(_apply(f, params, np.concatenate(rows))) for rows in companies]
    values = np.stack([outputs[0][0], outputs[1][2], *outputs[2], *outputs[3]])
    if not np.isfinite(values).all():
        raise ValueError("params, x1: expected finite outputs, got infinities or NaN")
    scale = np.abs(outputs[0]).max()
    if not np.abs(values - values[:1]).max() <= INDEPENDENCE * jnp.finfo(values.dtype).eps * scale:
        raise ValueError(
            "f: expected outputs that depend on their own sample alone, got others in other company "
            "(batch norm in training mode? dropout?); use the evaluation mode"
        )


@functools.partial(jax.jit, static_argnums=0)
def _apply(f: Callable, params: PyTree, x: Array) -> Array:
    return f(params, x)


def finite(leaves: list[Any]) -> bool:
    """Say whether all numbers of some arrays are finite."""
    # By numpy, on the host: a program for every shape would take longer to compile. NaN goes through min and max.
    arrays = [np.asarray(leaf) for leaf in leaves if jnp.size(leaf)]
    return all(np.isfinite(array.min()) and np.isfinite(array.max()) for array in arrays)
