"""Optimizers without a learning rate, schedules by the epoch, and batch-size scaling of the rate."""

import functools
import math
from collections.abc import Callable
from typing import Any

import optax

from ntkgen.choices import OPTIMIZERS, SCALINGS, SCHEDULES
from ntkgen.choices import RATE_OF_BATCH as TABLE


def make(optimizer: str, momentum: float, weight_decay: float) -> optax.GradientTransformation:
    """Build the direction u of the step params - rate * u; PyTorch's conventions throughout.

    The rate is left out so that it can be traced: a schedule or a sweep of rates compiles nothing new.

    Args:
      optimizer: "sgd" (heavy ball, `buf = momentum * buf + g`), "gd" (the same on the full batch) or
        "adam" (betas 0.9 and 0.999, eps 1e-8; appendix A).
      momentum: of sgd and gd; 0 keeps no buffer.
      weight_decay: L2 coefficient added to the gradient, as `torch.optim` does for all three.

    Returns:
      An optax gradient transformation.

    Raises:
      ValueError: the optimizer is unknown.
    """
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    if optimizer == "adam":
        direction = optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)
    else:
        direction = optax.trace(decay=momentum) if momentum else optax.identity()
    if weight_decay:
        return optax.chain(optax.add_decayed_weights(weight_decay), direction)
    return direction


def is_transformation(optimizer: Any) -> bool:
    """Return whether an optimizer is an optax object, which has a rate of its own, rather than a name."""
    return isinstance(optimizer, optax.GradientTransformation)


@functools.cache  # one object for equal settings: compiled programs are found by it
def with_schedule(
    optimizer: str, momentum: float, weight_decay: float, schedule: Callable[[Any], Any]
) -> optax.GradientTransformation:
    """Return a named optimizer with a rate for each step: what it gives is added to the params."""
    return optax.chain(make(optimizer, momentum, weight_decay), optax.scale_by_learning_rate(schedule))


def learning_rate_at(epoch: int, *, base: float, epochs: int, schedule: str) -> float:
    """Give the rate of epoch 0 ... epochs - 1: `CosineAnnealingLR(T_max=epochs)` stepped once an epoch, or constant.

    Example:
      >>> from ntkgen import train
      >>> [round(train.learning_rate_at(epoch, base=0.1, epochs=4, schedule="cosine"), 3) for epoch in range(4)]
      [0.1, 0.085, 0.05, 0.015]

    Raises:
      ValueError: the schedule is unknown.
    """
    if schedule == "cosine":
        return 0.5 * base * (1.0 + math.cos(math.pi * epoch / epochs))
    if schedule == "constant":
        return base
    raise ValueError(f"schedule: expected one of {', '.join(SCHEDULES)}, got {schedule!r}")


def scaled_learning_rate(
    batch_size: int, *, base: float = 0.01, base_batch: int = 128, scaling: str = "table"
) -> float:
    """Give the rate for a batch size under a scaling rule.

    Example:
      >>> from ntkgen import train
      >>> [train.scaled_learning_rate(512, scaling=rule) for rule in ("linear", "sqrt", "fixed")]
      [0.04, 0.02, 0.01]

    Args:
      batch_size: examples in a step.
      base: rate at `base_batch` (appendix A); the table ignores it.
      base_batch: batch size at which `base` holds.
      scaling: "table" (section V-B), "linear", "sqrt" or "fixed".

    Returns:
      The learning rate.

    Raises:
      ValueError: unknown scaling, or a batch size that the table does not have.
    """
    if scaling == "table":
        if batch_size not in TABLE:
            raise ValueError(f"batch_size: the published table has {', '.join(map(str, TABLE))}, got {batch_size}")
        return TABLE[batch_size]
    if scaling not in SCALINGS:
        raise ValueError(f"scaling: expected one of {', '.join(SCALINGS)}, got {scaling!r}")
    power = {"linear": 1.0, "sqrt": 0.5, "fixed": 0.0}[scaling]
    return base * (batch_size / base_batch) ** power
