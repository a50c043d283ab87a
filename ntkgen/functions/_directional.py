"""Directional derivatives, by forward mode or, where a network has none, by reverse mode twice."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from ntkgen.typing import PyTree


def jvp(function: Callable, primal: PyTree, tangent: PyTree, forward: bool = True) -> tuple[PyTree, PyTree]:
    """Return function(primal) and its derivative along `tangent`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> value, slope = functions.jvp(lambda x: x**2, jnp.array(3.0), jnp.array(1.0), forward=False)
      >>> float(value), float(slope)
      (9.0, 6.0)

    Args:
      function: one tree -> another.
      primal: where to differentiate.
      tangent: a tree like primal.
      forward: by `jax.jvp`. Otherwise by transposing the pullback c -> J^T c, which is linear: its own pullback is
        t -> J t. This takes reverse mode alone and about twice the time.
    """
    if forward:
        return jax.jvp(function, (primal,), (tangent,))
    value, pullback = jax.vjp(function, primal)
    _, transpose = jax.vjp(lambda cotangent: pullback(cotangent)[0], jax.tree.map(jnp.zeros_like, value))
    return value, transpose(tangent)[0]
