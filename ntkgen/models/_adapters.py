"""Networks of other kinds in Flax Linen's form: NNX modules and plain functions.

Each adapter has `init(key, x)` and `apply(variables, x, train, rngs)`. Only its adapter's own methods know where a
network keeps its numbers; everything else sees collections of nested dicts, as Linen has them.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import flax.errors
import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from ntkgen import functions
from ntkgen.typing import Array

STREAM = "dropout"  # the name of the key that a network draws from in training


class Model(Protocol):
    """What a network needs to be trained and measured; `adapt` says whether an object has it.

    Example:
      >>> from ntkgen import models
      >>> model: models.Model = models.MLP(4)
      >>> models.adapt(model) is model
      True
    """

    def init(self, key: Array, x: Any) -> Mapping[str, Any]:
        """Draw the variables: collections, "params" among them."""

    def apply(self, variables: Mapping[str, Any], x: Any, **options: Any) -> Any:
        """Return the outputs (n, ...), and with `mutable` the changed collections too."""


def adapt(model: Any) -> Model:
    """Return a network in the form that everything here takes.

    Flax Linen modules, what the `from_` functions made, and any other object with `init(key, x)` and
    `apply(variables, x)` are returned as they are.

    Example:
      >>> import jax
      >>> from ntkgen import models
      >>> models.adapt(models.MLP(4))
      MLP(
          # attributes
          width = 4
          depth = 4
          num_classes = 10
          parametrization = 'standard'
      )
      >>> models.adapt(jax.nn.relu)
      Traceback (most recent call last):
          ...
      ValueError: model: expected a Flax Linen module; make one with models.from_functions(init, apply), got ...

    Raises:
      ValueError: another object; the message names the adapter that makes a network of it.
    """
    functions.check_network(model)
    return model


def outputs_of(outputs: Any, state: dict[str, Any], mutable: Any) -> Any:
    """Return what Flax's `apply` returns: with `mutable` those collections, too."""
    if mutable is False:
        return outputs
    names = list(state) if mutable is True else [mutable] if isinstance(mutable, str) else list(mutable)
    return outputs, {name: state[name] for name in names if name in state}


def training_key(rngs: Mapping[str, Array] | None) -> Array:
    """Return the key that a network draws from in training; Flax's error where none is given."""
    if not rngs or STREAM not in rngs:
        raise flax.errors.InvalidRngError(f'the network needs PRNG for "{STREAM}"')
    return rngs[STREAM]


def leaf_at(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the leaf of nested dicts at a path."""
    for part in path:
        tree = tree[part]
    return tree


# --- Plain functions


@dataclass(frozen=True)
class Functions:
    """A network made of two functions; see `from_functions`.

    Attributes:
      start: init.
      call: apply.
      has_state: whether both carry state beside the params.
    """

    start: Callable[..., Any]
    call: Callable[..., Any]
    has_state: bool = False

    def init(self, key: Array, x: Any) -> dict[str, Any]:
        """Draw the variables."""
        known = inspect.signature(self.start).parameters
        positional, named = functions.spread(known, x, given=list(known)[:1])
        made = self.start(key, *positional, **named)
        if not self.has_state:
            return {"params": made}
        params, state = made
        return {"params": params, "state": state}

    def apply(
        self, variables: Mapping[str, Any], x: Any, train: bool = False, rngs: Any = None, mutable: Any = False
    ) -> Any:
        """Return the outputs, and with `mutable` the changed state."""
        known = inspect.signature(self.call).parameters
        options: dict[str, Any] = {name: on == train for name, on in functions.SWITCHES.items() if name in known}
        if "key" in known:
            options["key"] = training_key(rngs) if train else None
        kept = [variables[name] for name in (("params", "state") if self.has_state else ("params",))]
        positional, named = functions.spread(known, x, given=[*list(known)[: len(kept)], "key"])
        found = self.call(*kept, *positional, **named, **options)
        if not self.has_state:
            return outputs_of(found, {}, mutable)
        outputs, state = found
        return outputs_of(outputs, {"state": state}, mutable)


def from_functions(init: Callable[..., Any], apply: Callable[..., Any], *, state: bool = False) -> Functions:
    """Make a network of two functions.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models
      >>> def init(key, x):
      ...     return {"kernel": jax.random.normal(key, (x.shape[-1], 2))}
      >>> def apply(params, x):
      ...     return x @ params["kernel"]
      >>> models.num_params(models.from_functions(init, apply), (3,))
      6

    Args:
      init: init(key, x) -> params, a pytree of arrays; with `state` (params, state).
      apply: apply(params, x) -> outputs (n, ...); with `state` apply(params, state, x) -> (outputs, new state). A
        training switch (`train`, `deterministic` ..., see `functions.SWITCHES`) and `key` are given if it has them;
        `key` is None in evaluation mode. Both may take several inputs in the place of x, as in `functions.spread`.
      state: whether the network carries state that training changes, such as running means.

    Returns:
      The network. Two of the same functions are equal, so that compiled programs serve both.

    Raises:
      ValueError: an argument cannot be called.
    """
    for name, value in (("init", init), ("apply", apply)):
        if not callable(value):
            raise ValueError(f"{name}: expected a function, got {functions.short(value)}")
    return Functions(init, apply, state)


# --- NNX


@dataclass(frozen=True)
class NNX:
    """A network of Flax NNX; see `from_nnx`.

    Attributes:
      factory: rngs -> module.
    """

    factory: Callable[[nnx.Rngs], nnx.Module]

    @functools.cached_property
    def _template(self) -> tuple[Any, list[tuple[tuple[Any, ...], Any]], dict[str, inspect.Parameter]]:
        """Return the module's structure, its variables by path, as shapes, and the arguments of its call."""
        with jax.ensure_compile_time_eval():
            module = nnx.eval_shape(lambda: self.factory(nnx.Rngs(0)))
            graph, state = nnx.split(module)
        known = dict(inspect.signature(module.__call__).parameters)
        return graph, [(path, leaf) for path, leaf in nnx.to_flat_state(state)], known

    def init(self, key: Array, x: Any) -> dict[str, Any]:
        """Draw the variables; `x` is not looked at, an NNX module knows the shape of its inputs."""
        del x
        return self._collections(nnx.state(self.factory(nnx.Rngs(key))))

    def _collections(self, state: Any) -> dict[str, Any]:
        by_name: dict[str, list[tuple[tuple[str, ...], Any]]] = {"params": []}
        for path, leaf in nnx.to_flat_state(state):
            if not issubclass(leaf.type, nnx.RngState):
                by_name.setdefault(_collection(leaf.type), []).append((tuple(map(str, path)), leaf.get_value()))
        return {name: traverse_util.unflatten_dict(dict(leaves)) for name, leaves in by_name.items()}

    def apply(
        self, variables: Mapping[str, Any], x: Any, train: bool = False, rngs: Any = None, mutable: Any = False
    ) -> Any:
        """Return the outputs, and with `mutable` the changed collections."""
        graph, template, known = self._template
        draws = "rngs" in known or any(issubclass(leaf.type, nnx.RngKey) for _, leaf in template)
        key = training_key(rngs) if draws and train else jax.random.key(0)
        leaves, counts = [], {}
        for index, (path, leaf) in enumerate(template):
            if issubclass(leaf.type, nnx.RngKey):
                value = jax.random.fold_in(key, index)
            elif issubclass(leaf.type, nnx.RngState):
                value = counts[path] = jnp.zeros((), jnp.uint32)
            else:
                value = leaf_at(variables[_collection(leaf.type)], tuple(map(str, path)))
            leaves.append((path, leaf.replace(value)))
        module = nnx.merge(graph, nnx.from_flat_state(leaves))
        (module.train if train else module.eval)()
        options: dict[str, Any] = {name: on == train for name, on in functions.SWITCHES.items() if name in known}
        if "rngs" in known:
            options["rngs"] = nnx.Rngs(jax.random.fold_in(key, len(template))) if train else None
        positional, named = functions.spread(known, x, given=["rngs"])
        outputs = module(*positional, **named, **options)
        if draws and not train:
            self._check_no_draws(module, counts)
        return outputs_of(outputs, self._collections(nnx.state(module)), mutable)

    def _check_no_draws(self, module: Any, before: dict[Any, Any]) -> None:
        """Refuse a network that has drawn random numbers in evaluation mode."""
        for path, leaf in nnx.to_flat_state(nnx.state(module)):
            if issubclass(leaf.type, nnx.RngCount) and leaf.get_value() is not before[path]:
                raise flax.errors.InvalidRngError("the network draws random numbers in evaluation mode")


def _collection(kind: type) -> str:
    """Return the collection of a kind of variable, by Linen's names where there is one."""
    if issubclass(kind, nnx.Param):
        return "params"
    return "batch_stats" if issubclass(kind, nnx.BatchStat) else kind.__name__.lower()


def from_nnx(factory: Callable[[nnx.Rngs], nnx.Module]) -> NNX:
    """Make a network of a function that makes a Flax NNX module.

    A function, not a module: each seed has a module of its own. In training the module is in `train()` mode, else in
    `eval()` mode; batch norm, dropout and the training switches of its call follow. A call that takes `rngs` is given
    `nnx.Rngs` in training and None in evaluation mode.

    Example:
      >>> from flax import nnx, traverse_util
      >>> from ntkgen import models
      >>> model = models.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> models.num_params(model, (3,))
      8

    Args:
      factory: factory(rngs) -> module that maps x (n, ...) to outputs (n, ...). A call of several inputs takes them
        as in `functions.spread`.

    Returns:
      The network: params as nested dicts by the names of attributes, batch statistics as `batch_stats`.

    Raises:
      ValueError: a module in the place of a function that makes one.
    """
    if isinstance(factory, nnx.Module) or not callable(factory):
        raise ValueError(
            "factory: expected a function rngs -> module, such as lambda rngs: Network(rngs=rngs), got "
            f"{type(factory).__name__}"
        )
    return NNX(factory)
