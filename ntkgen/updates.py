r"""Replacements of the gradient for `ensemble.fit(update=...)`: sharpness-aware steps and injected gradient noise.

An update is called as update(loss, params, batch, key) -> (gradient, model state) with
loss(params, batch, weights=None) -> (mean loss, model state); see `train.train_step`. Two updates made with the same
numbers are equal, so that a second fit compiles nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ntkgen import tree
from ntkgen.train import Update

Array = jax.Array
PyTree = Any


def sam(rho: float) -> Update:
    """Take the gradient where the loss is highest nearby, to first order: g(w + rho g(w) / |g(w)|).

    Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412); the same step as `optax.contrib.sam` with a
    normalised gradient step of size rho as its adversary. Batch statistics are those of the first of its two passes:
    the second is at weights that the network never has.

    Args:
      rho: distance of the second gradient, in units of the params' Euclidean norm; 0 is the plain gradient.

    Raises:
      ValueError: rho is negative or not finite.
    """
    if not (math.isfinite(rho) and rho >= 0):
        raise ValueError(f"rho: expected a finite number of at least 0, got {rho!r}")
    return _Sam(float(rho))


@dataclass(frozen=True)
class _Sam:
    rho: float

    def __call__(self, loss: Callable, params: PyTree, batch: Any, key: Any) -> tuple[PyTree, PyTree]:
        slope = jax.grad(loss, has_aux=True)
        gradient, state = slope(params, batch)
        length = tree.norm(gradient)
        step = jnp.where(length > 0, self.rho / jnp.where(length > 0, length, 1.0), 0.0)
        return slope(tree.axpy(step, gradient, params), batch)[0], state


def injected_noise(target_batch: int) -> Update:
    r"""Give a batch's gradient the noise that batches of `target_batch` examples have: same covariance, same mean.

    Examples are weighted at random, w_i = 1 + s (e_i - mean e), e_i standard normal (compare Wu et al. 2020,
    arXiv:1906.07405). Weights average to 1 and have mean 1, so the gradient's mean is the plain gradient's, whatever
    the batch. Its covariance, with g_i the examples' gradients, B the batch, S = sum (g_i - g)(g_i - g)^T / (N - 1)
    over all N examples, and S_B the same over the batch (divisor B - 1, so that E S_B = S):

    * given the batch, the noise (1/B) sum_i s (e_i - mean e) g_i has covariance s^2 (B - 1) / B^2 S_B;
    * the plain gradient of B examples drawn without replacement has (1/B - 1/N) S, that of b has (1/b - 1/N) S.

    The difference is (1/b - 1/B) S, so s^2 = B / (B - 1) (B / b - 1), exactly, and for every N: the full batch
    (B = N) too gets (1/b - 1/N) S. Drawn with replacement the terms in 1/N are missing on both sides, and s is the
    same. Normal weights make the noise Gaussian given the batch; that of a batch of b is not. In networks with batch
    norm the statistics, and through them g_i, are those of the large batch.

    Args:
      target_batch: b, examples of the batches whose noise is imitated.

    Returns:
      The update; called on a batch of B <= b examples it raises a ValueError (noise can be added, not taken away).

    Raises:
      ValueError: target_batch is below 1.
    """
    if isinstance(target_batch, bool) or target_batch < 1:
        raise ValueError(f"target_batch: expected a whole number of at least 1, got {target_batch!r}")
    return _InjectedNoise(int(target_batch))


@dataclass(frozen=True)
class _InjectedNoise:
    target_batch: int

    def __call__(self, loss: Callable, params: PyTree, batch: Any, key: Array) -> tuple[PyTree, PyTree]:
        weights = noise_weights(key, len(jax.tree.leaves(batch)[0]), self.target_batch)
        return jax.grad(loss, has_aux=True)(params, batch, weights)


def noise_weights(key: Array, batch: int, target_batch: int) -> Array:
    """Draw the weights (batch,) of `injected_noise`, which average to 1.

    Raises:
      ValueError: the batch is not larger than target_batch.
    """
    if batch <= target_batch:
        raise ValueError(f"batch: expected more than the {target_batch} examples to imitate, got {batch}")
    scale = math.sqrt(batch / (batch - 1) * (batch / target_batch - 1))
    draw = jax.random.normal(key, (batch,))
    return 1.0 + scale * (draw - jnp.mean(draw))
