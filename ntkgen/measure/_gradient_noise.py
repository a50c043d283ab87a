"""How noisy the gradients of single examples are against their mean."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntkgen import curvature, functions, tree
from ntkgen.functions import jvp
from ntkgen.typing import Array, Loss, PyTree


class NoiseScale(NamedTuple):
    """Gradient noise of single examples against the mean gradient.

    Attributes:
      value: () trace of the examples' gradient covariance over the squared mean gradient, in examples: at this batch
        size noise and signal are equal. NaN where the squared gradient's estimate is not positive.
      standard_error: () by the jackknife over examples.
      covariance_trace: () unbiased estimate of the numerator.
      covariance_trace_error: () its standard error.
      squared_gradient: () unbiased estimate of the denominator; may be negative.
      squared_gradient_error: () its standard error.
      resolved: () whether the squared gradient is at least two standard errors above zero.
    """

    value: Array
    standard_error: Array
    covariance_trace: Array
    covariance_trace_error: Array
    squared_gradient: Array
    squared_gradient_error: Array
    resolved: Array


@curvature.highest_precision
def noise_scale(f: Callable, params: PyTree, x: PyTree, y: PyTree, *, loss: Loss, chunk: int = 20) -> NoiseScale:
    """Estimate the simple gradient noise scale from a sample of examples (McCandlish et al. 2018, arXiv:1812.06162).

    With g_i the gradients of n examples and g their mean: trace C = sum |g_i - g|^2 / (n - 1), and |g|^2 is reduced
    by trace C / n, which is what the sample's own noise adds to it. At interpolation the mean gradient vanishes while
    those of the examples do not, so the scale grows beyond what n examples can resolve: `resolved` says so.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> w, x, y = jnp.zeros((1, 1)), jnp.ones((4, 1)), jnp.array([[1.0], [2.0], [3.0], [4.0]])  # gradients -y
      >>> found = measure.noise_scale(lambda w, x: x @ w, w, x, y, loss=train.squared_error)
      >>> round(float(found.covariance_trace), 3), round(float(found.value), 3)
      (1.667, 0.286)

    Args:
      f: the network.
      params: its params.
      x: inputs (n, ...), n at least 3; an array or a tree.
      y: targets (n,).
      loss: per example.
      chunk: examples whose gradients are held at once.

    Returns:
      The scale and its parts.

    Raises:
      ValueError: fewer than 3 examples, f's outputs depend on other examples, or as `curvature.hessian_matvec`.
    """
    n = len(jax.tree.leaves(y)[0])
    if n < 3:
        raise ValueError(f"x: expected at least 3 examples for a standard error, got {n}")
    forward = curvature.derivative_mode(f, loss, params, x, y) == curvature.FORWARD
    if not functions.is_traced(f, params, x):
        functions.require_independence(functions.freeze(f, params, x), params, x)

    def losses(params: PyTree, x: PyTree, y: PyTree) -> Array:
        return loss(f(params, x), y)

    def of_example(args: tuple[Array, Array]) -> Array:
        alone, target = jax.tree.map(lambda leaf: leaf[None], args)
        own = jax.grad(lambda p: losses(p, alone, target)[0])(params)
        return tree.dot(own, own)

    squares = lax.map(of_example, (x, y), batch_size=min(chunk, n))  # |g_i|^2 (n,)
    mean = jax.grad(lambda p: jnp.mean(losses(p, x, y)))(params)
    slopes = jvp(lambda p: losses(p, x, y), params, mean, forward)[1]  # g_i . g (n,)

    def parts(sum_of_squares: Array, squared_mean: Array, m: int) -> tuple[Array, Array]:
        trace = (sum_of_squares - m * squared_mean) / (m - 1)
        return trace, squared_mean - trace / m

    def scale(trace: Array, squared: Array) -> Array:
        return jnp.where(squared > 0, trace / jnp.where(squared > 0, squared, 1.0), jnp.nan)

    squared_mean = tree.dot(mean, mean)
    trace, squared = parts(jnp.sum(squares), squared_mean, n)
    # Without example i the mean gradient is (n g - g_i) / (n - 1).
    others = (n**2 * squared_mean - 2 * n * slopes + squares) / (n - 1) ** 2
    traces, squareds = parts(jnp.sum(squares) - squares, others, n - 1)

    def error(values: Array) -> Array:
        return jnp.sqrt((n - 1) / n * jnp.sum((values - jnp.mean(values)) ** 2))

    squared_error = error(squareds)
    return NoiseScale(
        scale(trace, squared),
        error(scale(traces, squareds)),
        trace,
        error(traces),
        squared,
        squared_error,
        squared > 2 * squared_error,
    )
