"""Compare networks at equal loss: along training where the loss passes a level, or at a temperature of the outputs.

Curvature at interpolation falls with the training loss itself, so an arm that merely trained longer looks flatter.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from ntkgen import train
from ntkgen.typing import Array, PyTree

STEPS = 60  # of a bisection: past float32's resolution
RANGE = 30.0  # temperatures between 2^-30 and 2^30


def tempered(f: Callable, temperature: Any) -> Partial:
    """Divide a network's outputs by a temperature, which stays an argument of compiled programs.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure
      >>> measure.tempered(lambda w, x: w * x, 2.0)(jnp.array(3.0), jnp.array([2.0])).tolist()
      [3.0]
    """
    return Partial(_divide, f if isinstance(f, Partial) else Partial(f), jnp.asarray(temperature))


def _divide(f: Callable, temperature: Array, params: PyTree, x: Any) -> Array:
    return f(params, x) / temperature


def matching_temperature(f: Callable, params: PyTree, x: Any, y: Array, *, target: float) -> Array:
    """Find the temperature of a network's outputs; as `outputs_temperature` of f(params, x) with x (n, ...).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> x, y = jnp.array([[4.0, 0.0], [0.0, 4.0]]), jnp.array([0, 1])
      >>> found = measure.matching_temperature(lambda w, x: w * x, jnp.array(1.0), x, y, target=0.1)
      >>> round(float(train.cross_entropy(x / found, y).mean()), 3)
      0.1
    """
    with jax.default_matmul_precision("highest"):
        return outputs_temperature(f(params, x), y, target=target)


@partial(jax.jit, static_argnames="target")
def outputs_temperature(outputs: Array, y: Array, *, target: float) -> Array:
    """Find the temperature T at which the mean cross-entropy of outputs / T is `target`.

    In b = 1 / T the loss is convex and begins at log k. While f is right more often than chance it falls first, to a
    lowest value that is 0 only if every example is classified right; T is sought on that falling branch.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> outputs, y = jnp.array([[4.0, 0.0], [0.0, 4.0]]), jnp.array([0, 1])
      >>> found = measure.outputs_temperature(outputs, y, target=0.1)
      >>> round(float(train.cross_entropy(outputs / found, y).mean()), 3)
      0.1

    Args:
      outputs: logits (n, k).
      y: labels (n,).
      target: nats.

    Returns:
      T (), between 2^-30 and 2^30; NaN where no temperature reaches the target.
    """

    def value(log_b: Array) -> Array:
        return jnp.mean(train.cross_entropy(outputs * 2.0**log_b, y))

    lowest = _bisect(lambda log_b: jax.grad(value)(log_b) < 0, jnp.asarray(-RANGE), jnp.asarray(RANGE))
    reached = (value(lowest) <= target) & (value(jnp.asarray(-RANGE)) > target)
    found = _bisect(lambda log_b: value(log_b) > target, jnp.asarray(-RANGE), lowest)
    return jnp.where(reached, 2.0**-found, jnp.nan)


def _bisect(below: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """Find where below(x) turns from True to False."""

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = 0.5 * (ends[0] + ends[1])
        left = below(middle)
        return jnp.where(left, middle, ends[0]), jnp.where(left, ends[1], middle)

    return 0.5 * sum(lax.fori_loop(0, STEPS, halve, (low, high)))


class Passage(NamedTuple):
    """Where a loss first passed a level: the snapshots around it, and how far between them, in log loss.

    before is -1 where the first snapshot is below already, after too where none is. share is in [0, 1], NaN where there
    is no pair or a loss of it has no logarithm.
    """

    before: int
    after: int
    share: float


def passage(losses: Sequence[float], target: float) -> Passage:
    """Find where the losses (s,) at snapshots along training first fall to the target.

    Example:
      >>> from ntkgen import measure
      >>> found = measure.passage([1.0, 0.1, 0.001], target=0.01)
      >>> found.before, found.after, round(found.share, 3)
      (1, 2, 0.5)
    """
    at = np.asarray(losses, float)
    below = np.flatnonzero(at <= target)
    after = int(below[0]) if below.size else -1
    if after < 1:
        return Passage(-1, after, float("nan"))
    pair = at[after - 1 : after + 1]
    share = float("nan")
    if (np.isfinite(pair) & (pair > 0)).all():
        one, two = np.log(pair)
        share = float((one - np.log(target)) / (one - two))
    return Passage(after - 1, after, share)


class Matched(NamedTuple):
    """A quantity where the loss first passed a level: its value (NaN if never), and the snapshots around it."""

    value: float
    before: int
    after: int


def at_loss(losses: Sequence[float], values: Sequence[float], target: float) -> Matched:
    """Interpolate log value against log loss, where the loss first falls to the target.

    Example:
      >>> from ntkgen import measure
      >>> round(measure.at_loss([1.0, 0.1, 0.001], [2.0, 4.0, 16.0], target=0.01).value, 3)
      8.0

    Args:
      losses: (s,) at snapshots along training.
      values: (s,) the quantity there.
      target: the level.

    Returns:
      The value and its two snapshots; NaN and -1 where the loss starts below the target or never reaches it, NaN
      where a value beside the passage is not positive.
    """
    of = np.asarray(values, float)
    before, after, share = passage(losses, target)
    if before < 0:
        return Matched(float("nan"), -1, -1)
    if np.isnan(share) or not (of[before : after + 1] > 0).all():
        return Matched(float("nan"), before, after)
    first, last = np.log(of[before : after + 1])
    return Matched(float(np.exp(first + share * (last - first))), before, after)
