"""Products with tangent kernels that are too large to hold."""

from collections.abc import Callable

import jax

from ntkgen import functions
from ntkgen.functions import jvp
from ntkgen.ntk._checks import checked
from ntkgen.typing import Apply, Array, PyTree


def ntk_vp(f: Apply, params: PyTree, x1: PyTree, x2: PyTree | None = None) -> Callable[[Array], Array]:
    """Make the product of the tangent kernel with a vector, for kernels too big to hold.

    J(x1) J(x2)^T v: one `vjp` at x2, one `jvp` at x1 (reverse mode twice where f has no forward mode).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> matvec = ntk.ntk_vp(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.array([[1.0, 0.0], [1.0, 2.0]]))
      >>> matvec(jnp.array([[1.0], [0.0]])).tolist()  # the first column of X X^T
      [[1.0], [1.0]]

    Args:
      f: function (params, x) -> outputs (n, K).
      params: parameters.
      x1: inputs (n1, ...).
      x2: inputs (n2, ...), or None for x1.

    Returns:
      matvec: v (n2, K) -> (n1, K), safe under jit, vmap and grad.

    Raises:
      ValueError: as in `empirical_ntk`.
    """
    f, x1, x2, _ = checked(f, params, x1, x2)
    forward = functions.has_forward_mode(f)

    def matvec(v: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            _, pullback = jax.vjp(lambda p: f(p, x1 if x2 is None else x2), params)
            return jvp(lambda p: f(p, x1), params, pullback(v)[0], forward)[1]

    return matvec
