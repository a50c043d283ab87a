"""Batch normalisation, ReLU and max pooling of a convolution's output in few passes over memory.

On CPU the arithmetic of a small CNN is cheap and its traffic is not. Autodiff of the plain formula walks seven times
over arrays of the size of the activations; the derivative written here walks three times, because the normalised
input is known wherever the ReLU let it through.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from ntkgen.typing import Array

EPSILON = 1e-5  # torch.nn.BatchNorm2d's


def spread(v: Array, y: Array) -> Array:
    """Reshape a vector (c,) so that it meets the last axis of y."""
    return v.reshape((1,) * (y.ndim - 1) + v.shape)


def statistics(y: Array) -> tuple[Array, Array]:
    """Return mean and biased variance over all but the last axis, in one pass.

    From the sum and the sum of squares, whose difference loses a factor (mean / deviation)^2 of precision: nothing for
    convolution outputs, whose means are of the order of their deviations, but the third digit in float32 where the
    mean is 300 deviations.
    """
    axes = tuple(range(y.ndim - 1))
    mean = jnp.mean(y, axes)
    return mean, jnp.maximum(jnp.mean(y * y, axes) - mean * mean, 0.0)


@jax.custom_jvp
def max_pool(x: Array) -> Array:
    """Take the maximum of 2x2 windows of x (n, h, w, c); odd rows and columns are dropped, as in PyTorch.

    A reshape and a maximum: on CPU the gradient of `reduce_window` is an order of magnitude slower. The gradient goes
    to the first of equal maxima, as in PyTorch.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import models
      >>> models.max_pool(jnp.arange(4.0).reshape(1, 2, 2, 1)).tolist()
      [[[[3.0]]]]
    """
    return _windows(x).max((2, 4))


def _windows(x: Array) -> Array:
    n, h, w, c = x.shape
    return x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)


@max_pool.defjvp
def _max_pool_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # Autodiff of a maximum asks which entry *equals* it. Compiled, the input may be computed twice with different
    # rounding, so that none does and the gradient is lost. Comparing entries with each other always finds one.
    z, dz = _windows(primals[0]), _windows(tangents[0])
    left = z[:, :, :, :, 0] >= z[:, :, :, :, 1]
    rows = jnp.where(left, z[:, :, :, :, 0], z[:, :, :, :, 1])
    top = rows[:, :, 0] >= rows[:, :, 1]
    first = jnp.arange(2) == 0
    chosen = (left[:, :, :, :, None] == first.reshape(1, 1, 1, 1, 2, 1)) & (
        top[:, :, None, :, None] == first.reshape(1, 1, 2, 1, 1, 1)
    )
    return max_pool(primals[0]), jnp.sum(jnp.where(chosen, dz, 0.0), (2, 4))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def norm_relu(y: Array, pool: bool = False) -> tuple[Array, Array, Array]:
    """Normalise y (n, h, w, c) by its own batch statistics, take the ReLU, and with `pool` the 2x2 maximum.

    Forward and reverse mode both work, also one over the other.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import models
      >>> activations, mean, variance = models.norm_relu(jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1))
      >>> activations.ravel().round(3).tolist(), mean.tolist(), variance.tolist()
      ([0.0, 1.0], [1.0], [1.0])

    Args:
      y: outputs of a convolution.
      pool: whether to pool; pooling and ReLU commute, so the ReLU sees a quarter of the numbers.

    Returns:
      (activations, mean, biased variance); the statistics are (c,).
    """
    mean, var = statistics(y)
    return _activate(_normalise(y, mean, var), pool), mean, var


def _normalise(y: Array, mean: Array, var: Array) -> Array:
    return (y - spread(mean, y)) * spread(lax.rsqrt(var + EPSILON), y)


def _activate(z: Array, pool: bool) -> Array:
    return jax.nn.relu(max_pool(z) if pool else z)


@norm_relu.defjvp
def _norm_relu_jvp(pool: bool, primals: tuple[Array], tangents: tuple[Array]) -> tuple:
    (y,), (dy,) = primals, tangents
    axes = tuple(range(y.ndim - 1))
    mean, var = statistics(y)
    scale = lax.rsqrt(var + EPSILON)
    z = _normalise(y, mean, var)
    dmean = jnp.mean(dy, axes)
    slope = jnp.mean(z * dy, axes)
    dz = (dy - spread(dmean, y) - z * spread(slope, y)) * spread(scale, y)
    if pool:
        z, dz = jax.jvp(max_pool, (z,), (dz,))
    activations = jax.nn.relu(z)
    tangent = jnp.where(activations > 0, dz, 0.0)
    return (activations, mean, var), (tangent, dmean, 2.0 * slope / scale)
