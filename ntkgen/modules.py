"""How a network of any kind is called: its training switch, its random keys, and the collections it carries.

A network is a Flax Linen module, or any object with `init(key, x)` and `apply(variables, x)`. `models` has the public
names (`init`, `apply_fn`, `forward_train`).
"""

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.errors
import jax

Array = jax.Array

# Arguments of a call that choose between training and evaluation, and their value in training.
SWITCHES = {"train": True, "training": True, "is_training": True, "deterministic": False, "use_running_average": False}


@dataclass(frozen=True, eq=False)
class Pinned:
    """A network that Python cannot hash (an array or a list as attribute), equal to itself alone.

    JAX takes it as a static argument. Each one is new to `jit`, so that no program outlives a changed attribute.

    Attributes:
      model: the network.
    """

    model: Any

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Draw the network's variables."""
        return self.model.init(*args, **kwargs)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Apply the network."""
        return self.model.apply(*args, **kwargs)


def hashable(model: Any) -> Any:
    """Return the network itself, or a `Pinned` one if Python cannot hash it."""
    try:
        hash(model)
    except (TypeError, ValueError):
        return Pinned(model)
    return model


def bare(model: Any) -> Any:
    """Return the network that a `Pinned` one holds; any other network is returned as it is."""
    return model.model if isinstance(model, Pinned) else model


def parameters(model: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments of the network's call, without `self`; of its `apply` where it cannot be called."""
    model = bare(model)
    call = model.__call__ if callable(model) else model.apply
    return dict(inspect.signature(call).parameters)


def switches(model: Any, train: bool) -> dict[str, bool]:
    """Return the keywords that put a network's call into training or evaluation mode.

    `SWITCHES` lists the names that are recognised; all that the call has are set. One that the constructor has fixed
    (`nn.BatchNorm(use_running_average=True)`) is left alone: Flax refuses to set it twice.
    """
    known = parameters(model)
    fields = getattr(bare(model), "__dataclass_fields__", {})
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

    def can_be_set(name: str) -> bool:
        return known[name].kind in by_keyword and (name not in fields or getattr(bare(model), name) is None)

    return {name: on == train for name, on in SWITCHES.items() if name in known and can_be_set(name)}


def init(model: Any, key: Array, x: Array) -> dict[str, Any]:
    """Draw a network's variables in evaluation mode.

    Args:
      model: the network.
      key: where all its randomness comes from.
      x: inputs (b, ...) as it will see them: real ones, of their true dtype.

    Returns:
      Its collections. Those that only record what is sown during a call are left out.
    """
    variables = dict(model.init(key, x, **switches(model, False)))
    return {name: value for name, value in variables.items() if not _is_sown(model, variables, name, x)}


def _is_sown(model: Any, variables: dict[str, Any], name: str, x: Array) -> bool:
    """Say whether a collection grows with each call, while the call works without it."""
    if name in ("params", "batch_stats", "anchor"):
        return False
    rest = {other: value for other, value in variables.items() if other != name}

    def grown() -> Any:
        return model.apply(variables, x, mutable=[name], **switches(model, False))[1].get(name)

    try:
        if jax.tree.structure(jax.eval_shape(grown)) == jax.tree.structure(variables[name]):
            return False
        jax.eval_shape(lambda: model.apply(rest, x, **switches(model, False)))
    except Exception:  # whatever is wrong with this network, `checks.network` says so by name
        return False
    return True


def forward_train(
    model: Any, variables: dict[str, Any], x: Array, rngs: Mapping[str, Array] | None = None
) -> tuple[Any, dict[str, Any]]:
    """Apply the network in training mode.

    Args:
      model: the network.
      variables: its collections.
      x: inputs (n, ...).
      rngs: a key for each name that it draws from, such as "dropout"; see `rng_names`.

    Returns:
      Its outputs, and the updated collections other than `params`.
    """
    kwargs: dict[str, Any] = switches(model, True) | ({"rngs": dict(rngs)} if rngs else {})
    state = [name for name in variables if name != "params"]
    outputs, new_state = model.apply(variables, x, mutable=state, **kwargs)
    return outputs, dict(new_state)


def rng_names(model: Any, variables: Any, x: Any) -> tuple[str, ...]:
    """Return the names of the keys that the network draws from in training mode, "dropout" for example.

    Args:
      model: the network.
      variables: its collections, arrays or shapes.
      x: inputs (n, ...), an array or its shape. Nothing is computed.
    """
    names: tuple[str, ...] = ()
    while True:
        keys = {name: jax.random.key(0) for name in names}
        try:
            jax.eval_shape(lambda v, x, keys: forward_train(model, v, x, keys), variables, x, keys)
        except flax.errors.InvalidRngError as error:
            missing = re.search(r'PRNG for "(\w+)"', str(error))  # Flax has no other way to say what is missing
            if missing is None or missing[1] in names:
                raise
            names += (missing[1],)
        else:
            return names


def step_rngs(names: tuple[str, ...], key: Array) -> dict[str, Array]:
    """Return a key of its own for each name."""
    return {name: jax.random.fold_in(key, i) for i, name in enumerate(names)}


@dataclass(frozen=True)
class Apply:
    """The static half of `models.apply_fn`: equal for equal networks, so that one compiled program serves them all."""

    model: Any

    def __call__(self, frozen: dict[str, Any], params: Any, x: Array) -> Any:
        """Apply the network in evaluation mode."""
        return self.model.apply({"params": params, **frozen}, x, **switches(self.model, False))


def whole(name: str, value: Any, high: int | None = None) -> int:
    """Return a whole number of at least 1 (at most `high`) as an int.

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
    """Return a value's repr, cut to what fits into one line of an error."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an int of thousands of digits
        return f"{type(value).__name__} beyond all bounds"
    return text if len(text) <= 80 else f"{text[:60]}... ({type(value).__name__})"
