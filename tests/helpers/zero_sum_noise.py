"""The zero-sum noise of `ntkgen.ensemble` as numpy draws, one number a run: what an accumulated sum makes of it."""

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import ensemble


def noise(rng, runs, steps):
    """Draw (runs, steps), every entry of variance 1, every row of sum zero."""
    key = jax.random.key(int(rng.integers(2**31)))
    return np.asarray(_rows(key, runs, steps)).T


def _draw(key, runs, steps):
    return jax.vmap(lambda index: ensemble.zero_sum_normals(key, index, steps, runs))(jnp.arange(steps))


_rows = jax.jit(_draw, static_argnums=(1, 2))
