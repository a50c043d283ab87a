"""Whether a network's outputs for a sample depend on that sample alone.

Per-sample quantities (kernels, products in chunks) are not defined otherwise: batch norm in training mode, dropout.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkgen.functions._quick import quick_jit
from ntkgen.typing import Array, PyTree

# Roundings by which derivatives may differ in other company, since sums may be ordered differently; and at most so much
# of them, or in half precision nothing would be too much.
INDEPENDENCE, APART = 1000, 0.1

_passed: set[tuple] = set()  # fingerprints and shapes


def require_independence(f: Partial, params: PyTree, x: PyTree) -> None:
    """Refuse a network whose derivatives for a sample change with the other samples in the batch.

    What was found for a network and shapes is remembered. Nothing is said where outputs or derivatives are not finite.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> x, w = jnp.arange(6.0).reshape(3, 2), jnp.ones((2, 1))
      >>> functions.require_independence(functions.freeze(lambda w, x: x @ w, w, x), w, x)  # says nothing: they do not

    Args:
      f: from `functions.freeze`.
      params: its parameters.
      x: inputs, an array (n, ...) or a tree of such.

    Raises:
      ValueError: naming f.
    """
    shapes = [(jnp.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves((f, params, x))]
    key = (f.func.fingerprint, str(jax.tree.structure((params, x))), tuple(shapes))  # type: ignore[attr-defined]
    if key not in _passed:
        found = dependence(f, params, x)
        if found == "":
            _passed.add(key)
        elif found == DEPENDENT:
            raise ValueError(found)


DEPENDENT = (
    "f: expected outputs that depend on their own sample alone, got other derivatives in other company "
    "(batch norm in training mode? dropout?); use the evaluation mode"
)


def dependence(f: Partial, params: PyTree, x: PyTree, others: PyTree = None) -> str:
    """Compare a sample's derivatives alone and in batches with other samples, in other places.

    Outputs may stay where derivatives do not: those of a last layer that begins with zeros.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> x, w = jnp.arange(6.0).reshape(3, 2), jnp.ones((2, 1))
      >>> alone = functions.freeze(lambda w, x: x @ w, w, x)
      >>> centred = functions.freeze(lambda w, x: (x - x.mean(0, keepdims=True)) @ w, w, x)
      >>> functions.dependence(alone, w, x), functions.dependence(centred, w, x) != ""
      ('', True)

    Args:
      f: from `functions.freeze`.
      params: its parameters.
      x: inputs, an array (n, ...) or a tree of such.
      others: more samples like x that f is known to take.

    Returns:
      What is wrong, as an error's text; empty where nothing is.
    """
    # Rows are put together by numpy: each operation of JAX's outside a program would be compiled on its own.
    rows, treedef = jax.tree.flatten(jax.tree.map(np.asarray, x))
    more = jax.tree.leaves(jax.tree.map(np.asarray, others))
    if more:
        rows = [np.concatenate(pair) for pair in zip(rows, more, strict=True)]
    three = [np.concatenate([leaf[:1], company]) for leaf, company in zip(rows, _company(rows), strict=True)]
    alone = jax.tree.unflatten(treedef, [leaf[:1] for leaf in three])
    batches = [
        jax.tree.unflatten(treedef, [leaf[order] for leaf in three]) for order in ([0, 1, 2], [1, 0, 2], [1, 2, 0])
    ]
    with jax.default_matmul_precision("highest"):
        found = _difference(f, params, alone, batches)
        if found != DEPENDENT:
            return found
        # Where rounding alone has moved a unit over its kink, that is over with other parameters.
        draw = np.random.default_rng(0).standard_normal
        moved = jax.tree.map(lambda leaf: jnp.asarray(leaf * (1 + 0.01 * draw(leaf.shape)), leaf.dtype), params)
        return _difference(f, moved, alone, batches)


def rounding_tolerance(f: Partial, roundings: float, most: float) -> float:
    """Return a number of roundings of the narrowest dtype that f computes in, relative, and at most `most`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> f = functions.freeze(lambda w: 2 * w, jnp.ones(2))
      >>> f"{functions.rounding_tolerance(f, roundings=100, most=0.05):.1e}"
      '1.2e-05'
    """
    function: Any = f.func
    dtypes = [function.dtype, *(leaf.dtype for leaf in jax.tree.leaves(function.out))]
    return min(roundings * max(float(jnp.finfo(dtype).eps) for dtype in dtypes if dtype is not None), most)


def _difference(f: Partial, params: PyTree, own: PyTree, batches: list[PyTree]) -> str:
    expected = (1, *jax.eval_shape(_one_array, f.func.out).shape[1:])  # type: ignore[attr-defined]
    out, alone = _slope(f, params, own, 0)
    if out.shape != expected:
        return f"f: expected outputs {expected} of one sample, got shape {out.shape}"
    scale = float(_apart(alone, alone, 0.0))
    outs, apart = [out], []
    for i, x in enumerate(batches):
        out, company = _slope(f, params, x, i)
        outs.append(out)
        # Without a derivative alone, there is only the one in company to look at.
        apart.append(_apart(company, alone, 1.0) if np.isfinite(scale) else _apart(company, company, 0.0))
    largest = np.array([float(value) for value in apart])
    if not np.isfinite(scale) and np.isfinite(largest).all():
        return DEPENDENT  # a statistic of one sample alone, such as a standard deviation, has no derivative
    if not all(np.isfinite(np.asarray(each)).all() for each in outs):
        return "params, x1, x2: expected finite outputs, got infinities or NaN"
    if not np.isfinite(scale):
        return "params, x1: expected finite derivatives, got infinities or NaN"
    return "" if (largest <= rounding_tolerance(f, INDEPENDENCE, APART) * scale).all() else DEPENDENT


def _company(rows: list[np.ndarray]) -> list[np.ndarray]:
    """Choose two samples beside the first: others of the caller's, which are known to be valid, if there are."""
    differ = np.flatnonzero(np.any([(leaf != leaf[:1]).reshape(len(leaf), -1).any(1) for leaf in rows], axis=0))
    if len(differ):
        return [leaf[differ[[0, -1]]] for leaf in rows]
    return [_made_up(leaf[0]) for leaf in rows]


def _made_up(own: np.ndarray) -> np.ndarray:
    # Its own values, and then some of about their size, are likely to be valid.
    if not jnp.issubdtype(own.dtype, jnp.floating) or own.min() < own.max():
        return np.stack([np.full_like(own, own.min()), np.full_like(own, own.max())])
    if own.any():
        return np.stack([1.1 * own, 0.9 * own]).astype(own.dtype)
    return np.random.default_rng(0).standard_normal((2, *own.shape)).astype(own.dtype)


def _one_array(out: PyTree) -> Array:
    """Return outputs (n, ...); several of them side by side, (n, k)."""
    leaves = jax.tree.leaves(out)
    return leaves[0] if len(leaves) == 1 else jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], 1)


@quick_jit
def _slope(f: Partial, params: PyTree, x: PyTree, i: int) -> tuple[Array, PyTree]:
    """Give all outputs, and the gradient of a sum of sample i's with unequal weights."""
    out, pullback = jax.vjp(lambda p: _one_array(f(p, x)), params)
    weights = np.cos(np.arange(out[0].size)).reshape(out.shape[1:]).astype(out.dtype)
    return out, pullback(jax.lax.dynamic_update_index_in_dim(jnp.zeros_like(out), weights, i, 0))[0]


@quick_jit
def _apart(gradient: PyTree, other: PyTree, weight: float) -> Array:
    """Give the largest entry of gradient - weight * other."""
    apart = jax.tree.map(lambda a, b: jnp.abs(a - weight * b).max().astype(float), gradient, other)
    return jnp.max(jnp.stack(jax.tree.leaves(apart)))
