"""Losses and metrics, one number per example; callers reduce."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Array = jax.Array


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Softmax cross-entropy in nats: logits (n, k), integer labels (n,) -> (n,)."""
    # Not optax's logsumexp - logit: at interpolation that difference of large numbers keeps none of the loss's digits.
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]


def squared_error(logits: Array, labels: Array) -> Array:
    """Half the squared distance to the one-hot target: logits (n, k), integer labels (n,) -> (n,).

    The half makes the residual the gradient, so that gradient flow has the closed form of the NTK papers.
    """
    target = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return 0.5 * jnp.sum((logits - target) ** 2, -1)


def correct(logits: Array, labels: Array) -> Array:
    """One where the largest output is the label's: logits (n, k), labels (n,) -> (n,) in logits' dtype.

    Non-finite outputs count as NaN: the argmax of NaNs is class 0, which would read as ten percent accuracy.
    """
    hit = (jnp.argmax(logits, -1) == labels).astype(logits.dtype)
    return jnp.where(jnp.all(jnp.isfinite(logits), -1), hit, jnp.nan)


LOSSES: dict[str, Callable[[Array, Array], Array]] = {
    "cross_entropy": cross_entropy,
    "mse": squared_error,
}
