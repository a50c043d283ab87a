"""Losses and metrics, one number per example; callers reduce.

Targets are class labels (integers, one for each vector of outputs) or real numbers of the outputs' own shape. With
several labels an example (tokens, pixels) its loss and its accuracy are the means over them.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen.typing import Array, Loss


def is_integer(x: Any) -> bool:
    """Say whether an array, or its shape, holds integers: class labels or tokens.

    Example:
      >>> import numpy as np
      >>> from ntkgen import train
      >>> train.is_integer(np.array([3, 1])), train.is_integer(np.array([0.5]))
      (True, False)
    """
    return jnp.issubdtype(x.dtype, jnp.integer)


def cross_entropy(logits: Array, labels: Array) -> Array:
    """Return the softmax cross-entropy in nats, (n,).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import train
      >>> [round(float(loss), 3) for loss in train.cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3]))]  # log 4
      [1.386, 1.386]

    Args:
      logits: (n, ..., k).
      labels: integers (n, ...) from 0 to k - 1, or probabilities (n, ..., k).
    """
    return _cross_entropy(logits, labels, None)


def _cross_entropy(logits: Array, labels: Array, weights: Array | None) -> Array:
    # Not optax's logsumexp - logit: at interpolation that difference of large numbers keeps none of the loss's digits.
    log_p = jax.nn.log_softmax(logits)
    if weights is not None:
        log_p *= jnp.broadcast_to(weights, log_p.shape)
    if is_integer(labels):
        _check_shape(labels, logits.shape[:-1])
        return _mean_over_labels(-jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0])
    _check_shape(labels, logits.shape)
    return _mean_over_labels(-jnp.sum(labels * log_p, -1))


@dataclass(frozen=True)
class WeightedCrossEntropy:
    """The cross-entropy with a weight for each class: -sum over c of w_c y_c log p_c, in nats.

    The mean over a batch is not divided by its weights, unlike PyTorch's `CrossEntropyLoss(weight)`: weights of mean 1
    over the examples, as `balanced` gives them, keep the size of the loss.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import train
      >>> loss = train.WeightedCrossEntropy((0.5, 2.0))
      >>> [round(float(value), 3) for value in loss(jnp.zeros((2, 2)), jnp.array([0, 1]))]  # log 2, weighted
      [0.347, 1.386]
      >>> config = train.Config(epochs=1, loss=train.WeightedCrossEntropy.balanced([0, 0, 0, 1]))
      >>> [round(weight, 3) for weight in config.loss.weights]
      [0.667, 2.0]

    Attributes:
      weights: one for each class, at least 0.

    Raises:
      ValueError: fewer than two weights, one that is negative or not finite, none above zero; at a call: outputs of
        another number of classes.
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the weights."""
        try:
            weights = tuple(float(weight) for weight in self.weights)
        except (TypeError, ValueError):
            raise ValueError(f"weights: expected a number for each class, got {self.weights!r}") from None
        if len(weights) < 2 or not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f"weights: expected a number of at least 0 for each class, got {self.weights!r}")
        object.__setattr__(self, "weights", weights)

    @classmethod
    def balanced(cls, labels: Any) -> "WeightedCrossEntropy":
        """Return the loss in which all classes weigh the same: w_c = n / (k n_c) for n labels of k classes."""
        given = np.asarray(labels).reshape(-1)
        if not given.size or given.dtype.kind not in "iu" or given.min() < 0:
            raise ValueError(f"labels: expected class labels 0, 1, ..., got {given.dtype} of shape {given.shape}")
        counts = np.bincount(given)
        if not counts.all():
            raise ValueError(f"labels: expected examples of every class 0 ... {len(counts) - 1}, got {counts.tolist()}")
        return cls(tuple(counts.sum() / (len(counts) * counts)))

    def __call__(self, logits: Array, labels: Array) -> Array:
        """Return the loss of each example (n,); logits (n, ..., k), labels as in `cross_entropy`."""
        if logits.shape[-1] != len(self.weights):
            raise ValueError(f"weights: expected {logits.shape[-1]}, one for each output, got {len(self.weights)}")
        return _cross_entropy(logits, labels, jnp.asarray(self.weights, logits.dtype))


def squared_error(outputs: Array, targets: Array) -> Array:
    """Return half the squared distance to the targets, (n,).

    The half makes the residual the gradient, so that gradient flow has the closed form of the NTK papers.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import train
      >>> outputs = jnp.array([[1.0, 0.0], [1.0, 0.0]])
      >>> train.squared_error(outputs, jnp.array([0, 1])).tolist()
      [0.0, 1.0]

    Args:
      outputs: (n, ...).
      targets: real numbers of the same shape, or labels: integers (n, ...) without the last axis of the outputs (n,
        ..., k), which stand for one-hot vectors. One number an example may be (n,) or (n, 1) on either side.
    """
    if is_integer(targets):
        _check_shape(targets, outputs.shape[:-1])
        target = jax.nn.one_hot(targets, outputs.shape[-1], dtype=outputs.dtype)
        return _mean_over_labels(0.5 * jnp.sum((outputs - target) ** 2, -1))
    if targets.size == outputs.size == len(outputs):
        targets = targets.reshape(outputs.shape)
    _check_shape(targets, outputs.shape)
    return 0.5 * jnp.sum((outputs - targets) ** 2, tuple(range(1, outputs.ndim)))


def correct(outputs: Any, targets: Any) -> Array:
    """Return the fraction of an example's labels that have the largest output, (n,).

    NaN where there is no such thing: targets that are no labels 0 ... k - 1 of outputs (n, ..., k) with k of at least
    2. Non-finite outputs count as NaN too: the argmax of NaNs is class 0, which would read as ten percent accuracy.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import train
      >>> train.correct(jnp.array([[2.0, 1.0], [2.0, 1.0], [jnp.nan, 1.0]]), jnp.array([0, 1, 0])).tolist()
      [1.0, 0.0, nan]

    Args:
      outputs: an array, or whatever the network returns.
      targets: an array, or whatever the loss takes.
    """
    n = len(jax.tree.leaves(targets)[0])
    if not is_classification(outputs, targets):
        return jnp.full(n, jnp.nan)
    hit = (jnp.argmax(outputs, -1) == targets).astype(outputs.dtype)
    known = (targets >= 0) & (targets < outputs.shape[-1]) & jnp.all(jnp.isfinite(outputs), -1)
    return _mean_over_labels(jnp.where(known, hit, jnp.nan))


def is_classification(outputs: Any, targets: Any) -> bool:
    """Say whether targets are integers, one for each vector of at least two outputs; arrays or their shapes.

    Example:
      >>> import numpy as np
      >>> from ntkgen import train
      >>> outputs = np.zeros((2, 4))
      >>> train.is_classification(outputs, np.array([0, 3])), train.is_classification(outputs, outputs)
      (True, False)
    """
    arrays = all(hasattr(leaf, "dtype") for leaf in (outputs, targets))
    return arrays and is_integer(targets) and targets.shape == outputs.shape[:-1] and outputs.shape[-1:] > (1,)


def _mean_over_labels(values: Array) -> Array:
    return values if values.ndim == 1 else jnp.mean(values, tuple(range(1, values.ndim)))


def _check_shape(targets: Array, shape: tuple[int, ...]) -> None:
    if targets.shape != shape:
        kind = "labels" if is_integer(targets) else "targets"
        raise ValueError(f"{kind}: expected shape {shape} for these outputs, got {targets.shape}")


LOSSES: dict[str, Loss] = {
    "cross_entropy": cross_entropy,
    "mse": squared_error,
}


def per_example(loss: str | Loss) -> Loss:
    """Return the loss of that name; a function is returned as it is.

    Example:
      >>> from ntkgen import train
      >>> train.per_example("mse") is train.squared_error, train.per_example(train.correct) is train.correct
      (True, True)
    """
    return LOSSES[loss] if isinstance(loss, str) else loss
