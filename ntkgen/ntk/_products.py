"""Products with tangent kernels that are too large to hold, and linear systems in them."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntkgen import functions
from ntkgen.functions import jvp
from ntkgen.ntk._checks import checked
from ntkgen.typing import Apply, Array, PyTree


class Solve(NamedTuple):
    """Solution of a linear system: value, |b - A value| / |b|, steps taken, and whether twice the tolerance was met."""

    value: Array
    residual: Array
    num_iters: Array
    converged: Array


def ntk_vp(f: Apply, params: PyTree, x1: Array, x2: Array | None = None) -> Callable[[Array], Array]:
    """Make the product of the tangent kernel with a vector, for kernels too big to hold.

    J(x1) J(x2)^T v: one `vjp` at x2, one `jvp` at x1 (reverse mode twice where f has no forward mode).

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


def solve(
    matvec: Callable[[Array], Array], b: Array, *, ridge: float = 0.0, tol: float = 1e-5, max_iters: int = 1000
) -> Solve:
    """Solve (A + ridge I) x = b by conjugate gradients (Hestenes and Stiefel 1952).

    Args:
      matvec: product with a symmetric positive semidefinite A, such as `ntk_vp(f, params, x)`.
      b: right-hand side, any shape that matvec takes.
      ridge: added to the diagonal.
      tol: stop when |b - A x| / |b| is at most this.
      max_iters: stop after so many products anyway.

    Returns:
      The solution. The residual is recomputed from its definition; the recurrence's own one drifts.
    """

    def product(x: Array) -> Array:
        return matvec(x) + ridge * x

    def unfinished(state: tuple) -> Array:
        _, r, _, squared, i = state
        return (squared > (tol * scale) ** 2) & (i < max_iters) & jnp.all(jnp.isfinite(r))

    def step(state: tuple) -> tuple:
        x, r, p, squared, i = state
        ap = product(p)
        alpha = squared / jnp.vdot(p, ap)
        x, r = x + alpha * p, r - alpha * ap
        now = jnp.vdot(r, r)
        return x, r, r + now / squared * p, now, i + 1

    largest = jnp.max(jnp.abs(b))
    unit = b / jnp.where(largest > 0, largest, 1.0)  # squares of what is small would vanish
    scale, start = jnp.linalg.norm(unit), (jnp.zeros_like(b), unit, unit, jnp.vdot(unit, unit), jnp.asarray(0))
    x, _, _, _, num_iters = lax.while_loop(unfinished, step, start)
    residual = jnp.linalg.norm(unit - product(x)) / jnp.where(scale > 0, scale, 1.0)
    return Solve(x * largest, residual, num_iters, residual <= 2 * tol)
