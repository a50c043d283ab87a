"""How a network of any kind is called: its inputs, its training switch, and the axes that it reduces over."""

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

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
    """Return the network itself, or a `Pinned` one if Python cannot hash it.

    Example:
      >>> from ntkgen import functions, models
      >>> model = models.MLP(4)
      >>> functions.hashable(model) is model
      True
    """
    try:
        hash(model)
    except (TypeError, ValueError):
        return Pinned(model)
    return model


def bare(model: Any) -> Any:
    """Return the network that a `Pinned` one holds; any other network is returned as it is.

    Example:
      >>> from ntkgen import functions
      >>> class Listed:  # cannot be hashed
      ...     __hash__ = None
      >>> model = Listed()
      >>> functions.bare(functions.hashable(model)) is model
      True
    """
    return model.model if isinstance(model, Pinned) else model


def parameters(model: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments of the network's call, without `self`; of its `apply` where it cannot be called.

    Example:
      >>> from flax import linen as nn
      >>> from ntkgen import functions
      >>> list(functions.parameters(nn.Dense(2)))
      ['inputs']
    """
    model = bare(model)
    call = model.__call__ if callable(model) else model.apply
    return dict(inspect.signature(call).parameters)


def switches(model: Any, train: bool) -> dict[str, bool]:
    """Return the keywords that put a network's call into training or evaluation mode.

    `SWITCHES` lists the names that are recognised; all that the call has are set. One that the constructor has fixed
    (`nn.BatchNorm(use_running_average=True)`) is left alone: Flax refuses to set it twice.

    Example:
      >>> from flax import linen as nn
      >>> from ntkgen import functions
      >>> functions.switches(nn.BatchNorm(), train=True), functions.switches(nn.Dropout(0.5), train=True)
      ({'use_running_average': False}, {'deterministic': False})
    """
    known = parameters(model)
    fields = getattr(bare(model), "__dataclass_fields__", {})
    by_keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)

    def can_be_set(name: str) -> bool:
        return known[name].kind in by_keyword and (name not in fields or getattr(bare(model), name) is None)

    return {name: on == train for name, on in SWITCHES.items() if name in known and can_be_set(name)}


def needed(call: Mapping[str, inspect.Parameter], given: Collection[str] = ()) -> list[str]:
    """Return the arguments that a call cannot do without, but for training switches and those given otherwise.

    Example:
      >>> from ntkgen import functions, models
      >>> functions.needed(functions.parameters(models.MLP(4)))
      ['x']
    """
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [
        name
        for name, parameter in call.items()
        if parameter.default is parameter.empty and parameter.kind not in kinds and name not in {*SWITCHES, *given}
    ]


def spread(
    call: Mapping[str, inspect.Parameter], x: Any, given: Collection[str] = ()
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as positional arguments and keywords of a call.

    A tuple is spread over a call that needs several arguments. A dict of several inputs is spread where its keys are
    names of arguments, all that are needed among them. Anything else is one argument.

    Example:
      >>> import inspect
      >>> from ntkgen import functions
      >>> def several(tokens, lengths, mask=None, train=False):
      ...     return tokens
      >>> call = inspect.signature(several).parameters
      >>> functions.spread(call, (1, 2)), functions.spread(call, {"lengths": 2, "tokens": 1})
      (((1, 2), {}), ((), {'lengths': 2, 'tokens': 1}))
      >>> functions.spread(inspect.signature(lambda x: x).parameters, (1, 2))
      (((1, 2),), {})

    Args:
      call: its arguments by name.
      x: an array, or a dict or tuple of arrays.
      given: names of arguments that are no inputs, beside the training switches.
    """
    own = needed(call, given)
    if isinstance(x, Mapping) and len(x) > 1 and set(own) <= set(x) <= set(call):
        return (), dict(x)
    if isinstance(x, tuple) and 1 < len(own) <= len(x):
        return x, {}
    return (x,), {}


def inputs(model: Any, x: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return inputs as a Linen module's call takes them; other networks spread their inputs themselves."""
    return spread(parameters(model), x) if isinstance(bare(model), nn.Module) else ((x,), {})


def applied(model: Any, variables: Any, x: Any, train: bool, **options: Any) -> Any:
    """Return what a network's `apply` returns in training or evaluation mode.

    A network may reduce over an axis by its name, as batch norm with an `axis_name` does over devices. Where nobody
    has given the axis a size, it has size one: one device has the whole batch.

    Args:
      model: the network.
      variables: its collections.
      x: inputs (n, ...), spread over the arguments of a Linen module's call.
      train: which mode.
      **options: of `apply`, such as `mutable` and `rngs`.
    """
    positional, named = inputs(model, x)
    call: Callable[[], Any] = functools.partial(
        model.apply, variables, *positional, **named, **options, **switches(model, train)
    )
    names: list[str] = []
    while True:
        try:
            return functools.reduce(_alone_on_axis, names, call)()
        except NameError as error:
            missing = re.search(r"unbound axis name: (\w+)", str(error))  # JAX has no other way to say what is missing
            if missing is None or missing[1] in names:
                raise
            names.append(missing[1])


def _alone_on_axis(call: Callable[[], Any], name: str) -> Callable[[], Any]:
    each = jax.vmap(lambda _: call(), axis_name=name)
    return lambda: jax.tree.map(lambda leaf: leaf[0], each(jnp.zeros(1)))
