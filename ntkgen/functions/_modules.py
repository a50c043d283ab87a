"""What a network computes in training and in evaluation mode: its random keys, and the collections it carries.

A network is a Flax Linen module, or any object with `init(key, x)` and `apply(variables, x)`. `models` has the public
names (`init`, `apply_fn`, `forward_train`, `refit_statistics`).
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from ntkgen.functions._calls import applied, inputs, switches
from ntkgen.functions._networks import check_network
from ntkgen.typing import Array


def init(model: Any, key: Array, x: Array) -> dict[str, Any]:
    """Draw a network's variables in evaluation mode.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from ntkgen import functions
      >>> functions.init(nn.Dense(2), jax.random.key(0), jnp.ones((1, 3)))["params"]["kernel"].shape
      (3, 2)

    Args:
      model: the network.
      key: where all its randomness comes from.
      x: inputs (b, ...) as it will see them: real ones, of their true dtype.

    Returns:
      Its collections, without the boxes of `nn.with_partitioning`. Those that only record what is sown during a call
      are left out.

    Raises:
      ValueError: no network; see `check_network`.
    """
    check_network(model)
    known = inspect.signature(model.init).parameters
    free = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in known.values())
    off = {name: value for name, value in switches(model, False).items() if free or name in known}
    positional, named = inputs(model, x)
    variables = nn.meta.unbox(dict(model.init(key, *positional, **named, **off)))
    return {name: value for name, value in variables.items() if not _is_sown(model, variables, name, x)}


def _is_sown(model: Any, variables: dict[str, Any], name: str, x: Array) -> bool:
    """Say whether a collection grows with each call, while the call works without it."""
    if name in ("params", "batch_stats", "anchor"):
        return False
    rest = {other: value for other, value in variables.items() if other != name}

    def grown() -> Any:
        return applied(model, variables, x, False, mutable=[name])[1].get(name)

    try:
        if str(jax.tree.structure(jax.eval_shape(grown))) == str(jax.tree.structure(variables[name])):
            return False
        jax.eval_shape(lambda: applied(model, rest, x, False))
    except Exception:  # whatever is wrong with this network, `ensemble.fit` says so by name
        return False
    return True


def forward_train(
    model: Any, variables: dict[str, Any], x: Array, rngs: Mapping[str, Array] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Apply the network in training mode.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import functions, models
      >>> norm, x = models.BatchNormRelu(), jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1)
      >>> outputs, updated = functions.forward_train(norm, functions.init(norm, jax.random.key(0), x), x)
      >>> round(float(updated["batch_stats"]["mean"][0]), 3)  # a tenth of the way to the mean of the batch
      0.1

    Args:
      model: the network.
      variables: its collections.
      x: inputs (n, ...).
      rngs: a key for each name that it draws from, such as "dropout"; see `trace_training`.

    Returns:
      Its outputs, and the updated collections other than `params`.
    """
    state = [name for name in variables if name != "params"]
    outputs, new_state = applied(model, variables, x, True, mutable=state, **({"rngs": dict(rngs)} if rngs else {}))
    return outputs, dict(new_state)


def trace_training(model: Any, variables: Any, x: Any) -> tuple[tuple[str, ...], Any, dict[str, Any]]:
    """Trace the network in training mode; nothing is computed.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from ntkgen import functions
      >>> names, outputs, state = functions.trace_training(nn.Dropout(0.5), {}, jnp.ones((2, 3)))
      >>> names, outputs.shape
      (('dropout',), (2, 3))

    Args:
      model: the network.
      variables: its collections, arrays or shapes.
      x: inputs (n, ...), an array or its shape.

    Returns:
      The names of the keys that it draws from ("dropout", for example), and shapes of its outputs and of its updated
      collections other than `params`.
    """
    names: tuple[str, ...] = ()
    while True:
        keys = {name: jax.random.key(0) for name in names}
        try:
            return names, *jax.eval_shape(lambda v, x, k: forward_train(model, v, x, k), variables, x, keys)
        except flax.errors.InvalidRngError as error:
            missing = re.search(r'PRNG for "(\w+)"', str(error))  # Flax has no other way to say what is missing
            if missing is None or missing[1] in names:
                raise
            names += (missing[1],)


def step_rngs(names: tuple[str, ...], key: Array) -> dict[str, Array]:
    """Return a key of its own for each name.

    Example:
      >>> import jax
      >>> from ntkgen import functions
      >>> list(functions.step_rngs(("dropout",), jax.random.key(0)))
      ['dropout']
    """
    return {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}


def refit_statistics(model: Any, variables: dict[str, Any], x: Array, batch_size: int) -> dict[str, Any]:
    """Estimate the batch statistics anew for these params, in training mode: interpolated weights invalidate the old.

    A running statistic moves as new = a old + (1 - a) batch, whatever the network calls its momentum. Its derivative
    by the old value is a, and a step from zero gives (1 - a) batch, so that both are measured on the network itself.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import functions, models
      >>> norm, x = models.BatchNormRelu(affine=True), jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1)
      >>> variables = functions.init(norm, jax.random.key(0), x)
      >>> functions.refit_statistics(norm, variables, x, batch_size=2)["batch_stats"]["mean"].round(3).tolist()
      [1.0]

    Args:
      model: any network; batch norms of any momentum, Flax's (fed by the biased variance) or `models.BatchNormRelu`.
      variables: its variables; without `batch_stats` they are returned as they are.
      x: examples (n, ...), n at least the batch size; what is left of the last batch is not used.
      batch_size: examples of one batch.

    Returns:
      The variables with the plain mean of the batches' statistics (PyTorch's `momentum=None`). Collections other than
      `batch_stats`, and numbers that a step does not change, stay as they are. Dropout draws from fixed keys.

    Raises:
      ValueError: not even one batch, or a statistic that is no running average (where traced: NaN instead).
    """
    num = len(jax.tree.leaves(x)[0])
    if not 1 <= batch_size <= num:
        raise ValueError(f"x: expected at least one batch of {batch_size} examples, got {num}")
    params, state = variables["params"], {name: value for name, value in variables.items() if name != "params"}
    if "batch_stats" not in state:
        return variables
    leaves: list[Array]
    structure: Any
    leaves, structure = jax.tree.flatten(state["batch_stats"])
    floats = [i for i, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    whole = num // batch_size * batch_size
    batches = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, batch_size, *leaf.shape[1:]), x)
    names, _, _ = trace_training(model, variables, jax.tree.map(lambda leaf: leaf[0], batches))

    def one(numbered: tuple[Array, Array]) -> Any:
        index, batch = numbered
        rngs = step_rngs(names, jax.random.fold_in(jax.random.key(0), index))

        def step(values: list[Array]) -> list[Array]:
            given = dict(zip(floats, values, strict=True))
            old = structure.unflatten([given.get(i, leaf) for i, leaf in enumerate(leaves)])
            _, new = forward_train(model, {"params": params, **state, "batch_stats": old}, batch, rngs)
            new_leaves = jax.tree.leaves(new["batch_stats"])
            return [new_leaves[i] for i in floats]

        old = [leaves[i] for i in floats]
        return jax.jvp(step, (jax.tree.map(jnp.zeros_like, old),), (jax.tree.map(jnp.ones_like, old),))

    fed, kept = jax.lax.map(one, (jnp.arange(num // batch_size), batches))
    for i, total, keep in zip(floats, fed, kept, strict=True):
        averaged = jnp.all((keep >= 0) & (keep <= 1) & (keep == keep[:1]))
        if not isinstance(averaged, jax.core.Tracer) and not averaged:
            where, _ = jax.tree.leaves_with_path(state["batch_stats"])[i]
            path = jax.tree_util.keystr(where, simple=True, separator="/")
            raise ValueError(f"model: expected running averages as batch statistics, got {path}, which is none")
        weight = _weight_of_new(keep[0])
        batch_mean = jnp.mean(total, 0) / jnp.where(weight > 0, weight, 1.0)
        leaves[i] = jnp.where(averaged, jnp.where(weight > 0, batch_mean, leaves[i]), jnp.nan)
    return {**variables, "batch_stats": structure.unflatten(leaves)}


def _weight_of_new(kept: Array) -> Array:
    """Return 1 - kept, in which rounding of `kept` is undone: momenta are given with six decimals at most."""
    weight = 1.0 - kept
    decimal = jnp.round(weight, 6)
    return jnp.where(jnp.abs(weight - decimal) <= jnp.finfo(kept.dtype).eps, decimal, weight)


@dataclass(frozen=True)
class Evaluation:
    """The static half of `models.apply_fn`: equal for equal networks, so that one compiled program serves them all.

    Example:
      >>> from ntkgen import functions, models
      >>> one, same, other = (functions.Evaluation(models.MLP(width)) for width in (4, 4, 8))
      >>> one == same, one == other
      (True, False)
    """

    model: Any

    def __call__(self, frozen: dict[str, Any], params: Any, x: Array) -> Any:
        """Apply the network in evaluation mode."""
        return applied(self.model, {"params": params, **frozen}, x, False)


def whole(name: str, value: Any, high: int | None = None) -> int:
    """Return a whole number of at least 1 (at most `high`) as an int.

    Example:
      >>> from ntkgen import functions
      >>> functions.whole("width", 4)
      4
      >>> functions.whole("width", 2.5)
      Traceback (most recent call last):
          ...
      ValueError: width: expected a whole number of at least 1, got 2.5

    Raises:
      ValueError: it is none; the message begins with `name`.
    """
    ok = not isinstance(value, bool) and _is_index(value) and 1 <= int(value) and (high is None or int(value) <= high)
    if not ok:
        most = "of at least 1" if high is None else f"from 1 to {high:,}"
        raise ValueError(f"{name}: expected a whole number {most}, got {short(value)}")
    return int(value)


def _is_index(value: Any) -> bool:
    return hasattr(value, "__index__") and not hasattr(value, "__len__")


def short(value: Any) -> str:
    """Return a value's repr, cut to what fits into one line of an error.

    Example:
      >>> from ntkgen import functions
      >>> len(functions.short("a" * 1000)) < 100
      True
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an int of thousands of digits
        return f"{type(value).__name__} beyond all bounds"
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"
