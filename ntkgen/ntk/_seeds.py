"""Tangent kernels of an ensemble: one kernel for each seed, with the same compiled parts."""

from typing import Unpack

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntkgen import functions
from ntkgen.ntk._checks import KernelOptions, length
from ntkgen.ntk._kernel import empirical_ntk
from ntkgen.typing import Apply, Array, PyTree


def empirical_ntk_seeds(
    f: Apply,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
    *,
    f_has_seeds: bool | None = None,
    **options: Unpack[KernelOptions],
) -> Array:
    """Compute the kernels of several seeds, one after another with the same compiled parts.

    A loop and not `vmap`: one seed's products fill the machine already, and the memory budget holds for each.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> x, params = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.ones((3, 2, 1))  # three seeds
      >>> ntk.empirical_ntk_seeds(lambda w, x: x @ w, params, x).shape
      (3, 2, 2, 1, 1)

    Args:
      f: as in `empirical_ntk`. The arrays of a `jax.tree_util.Partial` may lead with the seed axis, too, all of them.
      params: as there, with a leading seed axis (S,) on every leaf.
      x1: as there.
      x2: as there.
      f_has_seeds: whether the arrays of f lead with the seed axis. None finds out by their shapes: f is traced with
        the arrays of one seed, and with all of them.
      **options: as there.

    Returns:
      The kernels, with a leading axis (S,).

    Raises:
      ValueError: the leaves have no seed axis, an empty one, or unequal ones; f can be read either way and f_has_seeds
        does not say which; and as there.
    """
    axes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if len(axes) != 1 or not all(axis and axis[0] for axis in axes):
        raise ValueError(f"params: expected one leading seed axis (S,) in all leaves, got {sorted(axes)}")
    num_seeds = axes.pop()[0]
    if f_has_seeds is None:
        f_has_seeds = _has_seeds(f, params, x1, num_seeds)
    seeded = (f, params) if f_has_seeds else (None, params)
    rows = [jax.tree.map(lambda leaf, s=s: leaf[s], seeded) for s in range(num_seeds)]
    return jnp.stack([empirical_ntk(own or f, row, x1, x2, **options) for own, row in rows])


def _has_seeds(f: Apply, params: PyTree, x: PyTree, num_seeds: int) -> bool:
    """Return whether the arrays of f lead with the seed axis, which tracing shows."""
    arrays = jax.tree.leaves(f) if isinstance(f, Partial) else []
    if not arrays or any(jnp.shape(leaf)[:1] != (num_seeds,) for leaf in arrays):
        return False
    one = jax.tree.map(lambda leaf: leaf[0], params)
    own = jax.tree.map(lambda leaf: leaf[0], f)
    seeded, shared = (_fits(each, one, x) for each in (own, f))
    if seeded and shared:
        raise ValueError(
            f"f: its arrays lead with {num_seeds} as the seeds do, and it runs with one of them as with all; "
            "say which is meant by f_has_seeds"
        )
    return seeded


def _fits(f: Apply, params: PyTree, x: PyTree) -> bool:
    try:
        out = functions.freeze(f, params, x).func.out  # type: ignore[attr-defined]
    except (TypeError, ValueError):  # shapes that do not fit
        return False
    return len(getattr(out, "shape", ())) == 2 and out.shape[0] == length(x)
