"""Params without an effect on the function that a network computes.

A convolution bias before batch norm is one: the mean of the batch cancels it. So is the bias of attention's keys, which
the softmax cancels. Their size means nothing, and a measure in units of each weight's size must leave them alone.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import tree
from ntkgen.roles import tree_name

Array = jax.Array
PyTree = Any

POINTS = 3  # the given params, and draws around them: a derivative that is zero by chance is not zero again
NOISE_OF_ZEROS = 0.1  # standard deviation of the noise on a leaf of zeros
# Gradients below this share of the largest leaf's are rounding: some thousand units in float32's last place. Measured on
# the studies' CNN: 2e-7 for the biases that batch norm cancels, 0.01 for the smallest of all others.
ROUNDING = 1e-4


def without_effect(f: Callable[[PyTree, Any], Array], params: PyTree, x: Any, key: Array | None = None) -> list[str]:
    """Return the names of the leaves that no derivative of the outputs depends on.

    Measured: the gradient of a random combination of all outputs is zero to rounding in every entry of the leaf, at
    the params given and at draws around them.

    Args:
      f: f(params, x) -> outputs, as the network is trained: batch norm by the batch's statistics. Under frozen
        statistics such a bias does act, but a network whose statistics are estimated anew is the same function.
      params: params of one network, also untrained ones: what is without effect for all params depends on the network
        alone. Around trained ones a dead layer counts, too.
      x: real inputs, a few dozen.
      key: of the draws.

    Returns:
      Names such as "conv0_0/bias", in the order of the tree; a value for `unmoved` of `landscape`'s functions.

    Raises:
      ValueError: the params are not floating or not finite, or the outputs depend on none.
    """
    tree.check_floating("params", params)
    tree.check_finite("params", params)
    largest = np.asarray(_largest(f, params, x, jax.random.key(0) if key is None else key))
    top = largest.max(1)
    if not (np.isfinite(top) & (top > 0)).all():
        raise ValueError(f"f: expected finite outputs that depend on params, got gradients of at most {top.tolist()}")
    none = (largest <= ROUNDING * top[:, None]).all(0)
    names = [tree_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    return [name for name, without in zip(names, none, strict=True) if without]


@partial(jax.jit, static_argnums=0)
def _largest(f: Callable, params: PyTree, x: Any, key: Array) -> Array:
    """Return the largest gradient entry of each leaf at each point, in units of the leaf's size, (points, leaves)."""

    def size(leaf: Array) -> Array:
        rms = jnp.sqrt(jnp.mean(leaf**2))
        return jnp.where(rms > 0, rms, NOISE_OF_ZEROS)

    def one(args: tuple[Array, Array]) -> Array:
        strength, key = args
        noise_key, output_key = jax.random.split(key)
        noise = tree.random_like(noise_key, params)
        moved = jax.tree.map(lambda w, e: w + strength * size(w) * e, params, noise)

        def combined(params: PyTree) -> Array:
            outputs = f(params, x)
            return jnp.sum(outputs * jax.random.normal(output_key, outputs.shape, outputs.dtype))

        slopes = jax.tree.map(
            lambda w, g: size(w) * jnp.max(jnp.abs(g), initial=0.0), params, jax.grad(combined)(moved)
        )
        return jnp.stack(jax.tree.leaves(slopes))

    return jax.lax.map(one, (jnp.arange(POINTS) > 0, jax.random.split(key, POINTS)))
