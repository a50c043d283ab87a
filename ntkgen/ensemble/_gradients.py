r"""Replacements of the gradient for `ensemble.fit(update=...)`: sharpness-aware steps and injected gradient noise.

An update is called as update(loss, params, batch, key) -> (gradient, model state) with
loss(params, batch, weights=None) -> (mean loss, model state); see `train.train_step`. Two updates made with the same
numbers are equal, so that a second fit compiles nothing. An update may have two methods more:

* check_batch_size(batch_size) raises a ValueError before the first epoch if the update cannot work with such batches;
* epoch_draws(key, epoch, num_train, batch_size) -> (num_train, ...) gives one number an example for a whole epoch, from
  a key that is the same in all epochs. Each step then calls update(loss, params, batch, key, draws) with the numbers of
  its own examples, (b, ...). Randomness can so be tied over several epochs although nothing is carried between them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ntkgen import tree
from ntkgen.train import Update
from ntkgen.typing import Array, PyTree


def sam(rho: float) -> Update:
    """Take the gradient where the loss is highest nearby, to first order: g(w + rho g(w) / |g(w)|).

    Sharpness-aware minimisation (Foret et al. 2021, arXiv:2010.01412); the same step as `optax.contrib.sam` with a
    normalised gradient step of size rho as its adversary. Batch statistics are those of the first of its two passes:
    the second is at weights that the network never has.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ensemble
      >>> def loss(w, batch):  # its gradient is w
      ...     return w**2 / 2, {}
      >>> gradient, state = ensemble.sam(rho=0.5)(loss, jnp.array(3.0), batch=None, key=None)
      >>> float(gradient)  # of the loss at 3 + rho; pass the update on as ensemble.fit(..., update=ensemble.sam(0.5))
      3.5

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


def injected_noise(target_batch: int, zero_sum: bool = False) -> Update:
    r"""Return a batch's gradient the noise that batches of `target_batch` examples have: same covariance, same mean.

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

    **Several steps.** With fresh e_i at every step the noise of different steps is independent. Batches of b without
    replacement are not: their errors sum to zero over the N / b steps of an epoch, so that any two of them have the
    covariance -S / N. Where curvature is low the weights sum noise over many epochs, and independent noise diffuses
    further there (Kunin et al. 2023, arXiv:2306.05300). `zero_sum` imitates this too. An imitated epoch is r passes,
    r = B / b rounded up (the full batch makes a pass a step). In pass p example i has

        e_pi = (z_pi - mean_p z_pi) / sqrt(1 - 1 / r),   z standard normal,

    of variance 1 and with sum_p e_pi = 0; see `zero_sum_normals`. The covariance of one step is that above. Of two
    steps, if b divides B and B divides N:

    * full batch: -S / N, which is SGD's. The noise sums to zero over the r steps, exactly;
    * batches of B: -S / N within a pass (their own sampling), -(1 - 1 / B) S / (N - 1) between passes. Centring
      within other batches in each pass is what keeps this from being exact: the sum of the injected noise over the
      passes has (N / B - 1) / (N - 1) times, less than 1 / B times, the covariance that it has if drawn afresh.

    If b does not divide B, the imitated epoch has the r passes all the same, each with the noise of batches of b.

    **The last batch of an epoch** may be smaller. One of B' > b examples has s for B'. One of b examples or fewer has
    at least the noise of a batch of b already: its gradient is the plain one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import ensemble, train
      >>> def loss(w, batch, weights=None):
      ...     losses = w * batch.x
      ...     return jnp.mean(losses if weights is None else weights * losses), {}
      >>> batch, key = train.Batch(jnp.ones(8), jnp.zeros(8)), jax.random.key(0)
      >>> gradient, state = ensemble.injected_noise(target_batch=2)(loss, jnp.array(3.0), batch, key)
      >>> round(float(gradient), 3)  # no noise: the examples' gradients are equal
      1.0

    Args:
      target_batch: b, examples of the batches whose noise is imitated.
      zero_sum: whether the noise sums to zero over each epoch of the imitated batches.

    Returns:
      The update. `train.Program.of`, and with it `ensemble.fit`, raises a ValueError if batch_size is not above b.

    Raises:
      ValueError: target_batch is below 1.
    """
    if isinstance(target_batch, bool) or target_batch < 1:
        raise ValueError(f"target_batch: expected a whole number of at least 1, got {target_batch!r}")
    return (_ZeroSumNoise if zero_sum else _InjectedNoise)(int(target_batch))


@dataclass(frozen=True)
class _InjectedNoise:
    target_batch: int

    def check_batch_size(self, batch_size: int) -> None:
        if batch_size <= self.target_batch:
            expected = f"more than the {self.target_batch} examples of the batches whose noise is injected"
            raise ValueError(f"batch_size: expected {expected}, got {batch_size}")

    def __call__(
        self, loss: Callable, params: PyTree, batch: Any, key: Array, draws: Array | None = None
    ) -> tuple[PyTree, PyTree]:
        size, weights = len(jax.tree.leaves(batch)[0]), None
        if size > self.target_batch:
            weights = noise_weights(key, size, self.target_batch, draws)
        return jax.grad(loss, has_aux=True)(params, batch, weights)


@dataclass(frozen=True)
class _ZeroSumNoise(_InjectedNoise):
    def epoch_draws(self, key: Array, epoch: Array, num_train: int, batch_size: int) -> Array:
        passes = math.ceil(batch_size / self.target_batch)
        return zero_sum_normals(jax.random.fold_in(key, epoch // passes), epoch % passes, passes, num_train)


def noise_weights(key: Array, batch: int, target_batch: int, draws: Array | None = None) -> Array:
    """Draw the weights (batch,) of `injected_noise`, which average to 1.

    Example:
      >>> import jax
      >>> from ntkgen import ensemble
      >>> weights = ensemble.noise_weights(jax.random.key(0), batch=32, target_batch=8)
      >>> weights.shape, round(float(weights.mean()), 3)
      ((32,), 1.0)

    Args:
      key: of the draws.
      batch: examples of the batch.
      target_batch: examples of the batches whose noise is imitated.
      draws: (batch,) of variance 1, instead of standard normal draws from the key.

    Raises:
      ValueError: the batch is not larger than target_batch.
    """
    if batch <= target_batch:
        raise ValueError(f"batch: expected more than the {target_batch} examples to imitate, got {batch}")
    scale = math.sqrt(batch / (batch - 1) * (batch / target_batch - 1))
    draw = jax.random.normal(key, (batch,)) if draws is None else draws
    return 1.0 + scale * (draw - jnp.mean(draw))


def zero_sum_normals(key: Array, index: int | Array, steps: int, count: int) -> Array:
    r"""Draw row `index` of a (steps, count) array of normals whose columns sum to zero.

    Every entry has variance 1, entries of a column have correlation -1 / (steps - 1), columns are independent: the law
    of (z - mean z) / sqrt(1 - 1 / steps) with z standard normal. That is the law of `steps` normals under the
    condition that their sum is zero. It is drawn by bisection, as a Brownian bridge: if n normals sum to s, the first
    m of them sum to s m / n + sqrt(m (n - m) / n) times a standard normal. Halving the steps until `index` is left
    alone takes log2(steps) draws for the row, and no other row. The key of a draw is its place of division, so that
    all rows agree about it.

    Example:
      >>> import jax, numpy as np
      >>> from ntkgen import ensemble
      >>> rows = [ensemble.zero_sum_normals(jax.random.key(0), index, steps=4, count=3) for index in range(4)]
      >>> bool((abs(np.sum(rows, axis=0)) < 1e-5).all())
      True

    Args:
      key: the same for all rows.
      index: 0 ... steps - 1, may be traced.
      steps: rows, at least 2.
      count: columns.

    Returns:
      The row (count,); rows of one key sum to zero up to rounding.

    Raises:
      ValueError: steps is below 2.
    """
    if steps < 2:
        raise ValueError(f"steps: expected at least 2, got {steps}")
    # The part of the steps that holds `index`: its first step, its length, its sum.
    start, length, total = jnp.asarray(0), jnp.asarray(steps), jnp.zeros(count)
    for _ in range((steps - 1).bit_length()):
        half = length // 2  # 0 once the part is a single step: then nothing changes
        spread = jnp.sqrt(half * (length - half) / length)
        first = total * (half / length) + spread * jax.random.normal(jax.random.fold_in(key, start + half), (count,))
        in_first = index < start + half
        total = jnp.where(in_first, first, total - first)
        start = jnp.where(in_first, start, start + half)
        length = jnp.where(in_first, half, length - half)
    return total / math.sqrt(1 - 1 / steps)
