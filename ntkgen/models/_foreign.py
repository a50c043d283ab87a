"""Networks of Equinox and Haiku in Flax Linen's form. Both are imported only when used; neither need be installed."""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.errors
import jax
import jax.numpy as jnp
from flax import traverse_util

from ntkgen import functions
from ntkgen.models._adapters import leaf_at, outputs_of, training_key
from ntkgen.roles import tree_name
from ntkgen.typing import Array


def _library(name: str, function: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ImportError(f"{function}: expected {name} to be installed, got none; pip install {name}") from None


# --- Equinox


@dataclass(frozen=True)
class Equinox:
    """A network of Equinox; see `from_equinox`.

    Attributes:
      factory: key -> module, or (module, state).
    """

    factory: Callable[[Array], Any]

    @functools.cached_property
    def _template(self) -> tuple[Any, list[str], list[tuple[str, ...]]]:
        """Return the module as shapes, and for each of its leaves the collection that holds it ("" for none), a path.

        Equinox's state is a collection of its own, `state`; arrays of integers are `constants`.
        """
        eqx = _library("equinox", "from_equinox")
        with jax.ensure_compile_time_eval():
            made = eqx.filter_eval_shape(self.factory, jax.random.key(0))
        kinds, paths = [], []
        for path, leaf in jax.tree.leaves_with_path(made):
            parts = tuple(tree_name(path).split("/"))
            kind = ""
            if isinstance(leaf, jax.ShapeDtypeStruct):
                kind = "params" if jnp.issubdtype(leaf.dtype, jnp.inexact) else "constants"
                if isinstance(made, tuple) and parts[0] == "1":
                    kind = "state"
            kinds.append(kind)
            paths.append(parts[1:] if isinstance(made, tuple) else parts)
        return made, kinds, paths

    def _collections(self, made: Any) -> dict[str, Any]:
        _, kinds, paths = self._template
        leaves = jax.tree.leaves(made)
        found: dict[str, Any] = {"params": {}}
        for name in dict.fromkeys(kind for kind in kinds if kind):
            own = [(path, leaf) for path, kind, leaf in zip(paths, kinds, leaves, strict=True) if kind == name]
            found[name] = traverse_util.unflatten_dict(dict(own))
        return found

    def init(self, key: Array, x: Any) -> dict[str, Any]:
        """Draw the variables; `x` is not looked at, an Equinox module knows the shape of its inputs."""
        del x
        return self._collections(self.factory(key))

    def apply(
        self, variables: Mapping[str, Any], x: Any, train: bool = False, rngs: Any = None, mutable: Any = False
    ) -> Any:
        """Return the outputs, and with `mutable` the changed collections."""
        eqx = _library("equinox", "from_equinox")
        template, kinds, paths = self._template
        structure: Any
        own, structure = jax.tree.flatten(template)
        leaves = [
            leaf_at(variables[kind], path) if kind else leaf for kind, path, leaf in zip(kinds, paths, own, strict=True)
        ]
        made = structure.unflatten(leaves)
        has_state = isinstance(made, tuple)
        module = eqx.nn.inference_mode(made[0] if has_state else made, value=not train)
        known = inspect.signature(module.__call__).parameters
        keyed = "key" in known and train
        keys = jax.random.split(training_key(rngs), len(jax.tree.leaves(x)[0])) if keyed else None

        def one(x: Any, state: Any, key: Any) -> Any:
            positional, options = functions.spread(known, x, given=["key", "state"])
            if keyed:
                options["key"] = key
            if has_state and "state" in known:
                options["state"] = state
            elif has_state:
                positional += (state,)
            found = module(*positional, **options)
            return found if has_state else (found, None)

        # Equinox's modules take one example; batch norm knows the others by the name of the axis.
        each = jax.vmap(one, (0, None, 0 if keyed else None), (0, None), axis_name="batch")
        outputs, state = each(x, made[1] if has_state else None, keys)
        changed = self._collections((made[0], state) if has_state else made)
        return outputs_of(outputs, changed, mutable)


def from_equinox(factory: Callable[[Array], Any]) -> Equinox:
    """Make a network of a function that makes an Equinox module.

    The module takes one example, as Equinox's do, and is mapped over the batch; the axis is called "batch". In
    evaluation mode it is in `inference_mode`; in training each example has a key of its own if the call takes `key`.

    Example:
      >>> from ntkgen import models
      >>> def factory(key):
      ...     import equinox as eqx
      ...     return eqx.nn.MLP(3, 2, 8, 1, key=key)
      >>> models.from_equinox(factory).factory is factory
      True

    Args:
      factory: factory(key) -> module, or (module, state) of `eqx.nn.make_with_state`.

    Returns:
      The network: floating arrays are params, as nested dicts by the names of attributes; Equinox's state is `state`.

    Raises:
      ValueError: no function.
      ImportError: when used: Equinox is not installed.
    """
    return Equinox(_factory(factory, "key -> module, such as lambda key: Network(key=key)"))


def _factory(value: Any, expected: str) -> Any:
    if not (inspect.isroutine(value) or isinstance(value, functools.partial)):
        raise ValueError(f"factory: expected a function {expected}, got {type(value).__name__}")
    return value


# --- Haiku


@dataclass(frozen=True)
class Haiku:
    """A network of Haiku; see `from_haiku`.

    Attributes:
      function: x -> outputs, before `hk.transform`.
    """

    function: Callable[..., Any]

    @functools.cached_property
    def _transformed(self) -> Any:
        return _library("haiku", "from_haiku").transform_with_state(self.function)

    def _arguments(self, x: Any, train: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        known = inspect.signature(self.function).parameters
        positional, named = functions.spread(known, x)
        return positional, named | {name: on == train for name, on in functions.SWITCHES.items() if name in known}

    def init(self, key: Array, x: Any) -> dict[str, Any]:
        """Draw the variables."""
        # Some of Haiku's layers draw in evaluation mode, or start their state in training mode alone.
        positional, named = self._arguments(x, True)
        params, state = self._transformed.init(key, *positional, **named)
        return {"params": params, **({"batch_stats": state} if state else {})}

    def apply(
        self, variables: Mapping[str, Any], x: Any, train: bool = False, rngs: Any = None, mutable: Any = False
    ) -> Any:
        """Return the outputs, and with `mutable` the changed state."""
        key = training_key(rngs) if train and rngs else None
        positional, named = self._arguments(x, train)
        try:
            outputs, state = self._transformed.apply(
                variables["params"], variables.get("batch_stats", {}), key, *positional, **named
            )
        except ValueError as error:
            if key is None and "RNG" in str(error).upper():
                raise flax.errors.InvalidRngError('the network needs PRNG for "dropout"') from error
            raise
        return outputs_of(outputs, {"batch_stats": state} if state else {}, mutable)


def from_haiku(function: Callable[..., Any]) -> Haiku:
    """Make a network of a function of Haiku modules, before `hk.transform`.

    Example:
      >>> from ntkgen import models
      >>> def network(x, is_training):
      ...     import haiku as hk
      ...     return hk.nets.MLP([8, 2])(x)
      >>> models.from_haiku(network).function is network
      True

    Args:
      function: function(x) -> outputs (n, ...); a training switch such as `is_training` is given if it has one.

    Returns:
      The network: Haiku's params, and its state as `batch_stats`.

    Raises:
      ValueError: no function, or one that was transformed.
      ImportError: when used: Haiku is not installed.
    """
    return Haiku(_factory(function, "x -> outputs, before hk.transform"))
