"""Probes: functions of the networks that `fit` evaluates along training."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkgen import functions
from ntkgen.ensemble._layout import Layout, over_seeds
from ntkgen.typing import Array, PyTree


class Context(NamedTuple):
    """What a probe may want beside params.

    Attributes:
      model_state: the seed's other collections (batch statistics).
      initial: the seed's initial params.
      epoch: epochs done, scalar integer.
      rate: learning rate of the last epoch, scalar (the first epoch's at epoch 0).
    """

    model_state: dict[str, Any]
    initial: PyTree
    epoch: Array
    rate: Array


@dataclass(frozen=True)
class OnHost:
    """A probe for what cannot be traced, such as a tangent kernel: it runs as plain Python between epochs.

    Example:
      >>> import jax, numpy as np
      >>> from ntkgen import data, ensemble, models, train
      >>> def largest_bias(params, context):
      ...     return np.abs(params["dense0"]["bias"]).max(1)
      >>> probe = ensemble.OnHost(largest_bias, like=jax.ShapeDtypeStruct((), np.float32))
      >>> digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
      >>> result = ensemble.fit(models.MLP(4, depth=2), digits, config, seeds=2, probes=([0, 1], probe))
      >>> result.probes.shape  # seeds, epochs
      (2, 2)

    Attributes:
      fn: fn(params, context) -> pytree of arrays (S, ...), where every leaf of params, of context.model_state and of
        context.initial leads with the axis of the S seeds that are trained together.
      like: the pytree that fn returns, as shapes and dtypes of one seed, without that axis.
    """

    fn: Callable[[PyTree, Context], PyTree]
    like: PyTree

    def __call__(self, params: PyTree, context: Context) -> PyTree:
        """Measure."""
        return self.fn(params, context)


@dataclass(frozen=True)
class Traced:
    """A probe that is compiled: equal where it reads the same values from outside, which `code` tells."""

    fn: Callable
    code: Any

    @classmethod
    def of(cls, fn: Callable, shapes: PyTree) -> "Traced":
        """Trace a probe of one seed's variables."""
        rest, params = {k: v for k, v in shapes.items() if k != "params"}, shapes["params"]
        call = cls(fn, None)
        return cls(fn, functions.fingerprint(call, params, Context(rest, params, jnp.asarray(0), jnp.asarray(0.0))))

    def __call__(self, params: PyTree, context: Context) -> PyTree:
        """Measure one seed."""
        return self.fn(params, context) if _num_arguments(self.fn) > 1 else self.fn(params)


def read(probes: Any, start: int, epochs: int) -> tuple[bool, tuple[tuple[tuple[int, ...], Callable], ...]]:
    """Return whether one pair was given, and the pairs (epochs, fn).

    Raises:
      ValueError: epochs that repeat, or are not trained.
    """
    single = len(probes) == 2 and callable(probes[1])
    pairs = tuple((tuple(int(epoch) for epoch in when), fn) for when, fn in ([probes] if single else probes))
    for when, _ in pairs:
        if any(not start <= epoch <= epochs for epoch in when) or len(set(when)) < len(when):
            raise ValueError(f"probes: expected distinct epochs in {start} ... {epochs}, got {list(when)}")
    return single, pairs


@functools.partial(jax.jit, static_argnums=(0, 1))
def compiled(
    layout: Layout, fn: Callable, params: PyTree, state: PyTree, initial: PyTree, epoch: Array, rate: Array
) -> PyTree:
    """Evaluate a probe for every seed; every array leads with the seed axis (S,)."""

    def one(params: PyTree, state: PyTree, initial: PyTree, epoch: Array, rate: Array) -> PyTree:
        return fn(params, Context(state, initial, epoch, rate))

    return over_seeds(layout, one, (0, 0, 0, None, None))(params, state, initial, epoch, rate)


def _num_arguments(fn: Callable) -> int:
    """Count the positional arguments that a function accepts, up to two."""
    parameters = inspect.signature(fn).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
