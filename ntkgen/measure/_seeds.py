"""Measurements over a leading seed axis, compiled once for all ensembles of the same shapes.

What is measured on one seed is a function of (f, params, ..., data). f is a `jax.tree_util.Partial` whose arrays (batch
statistics) lead with the seed axis like the params; `models.apply_fn` makes one from an ensemble's variables.

How the axis is walked is `ensemble.choose_strategy`'s decision, except that eigenvalues and traces on CPU go seed by
seed, driven from the host around one compiled product: XLA:CPU runs loops around convolution gradients slowly, and for
dense layers too the batched loop took 1.7 to 2.8 times as long (BUILD_NOTES.md), since it lasts until the last seed is
done.
"""

import dataclasses
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkgen import ensemble, functions
from ntkgen.typing import PyTree

PACKAGE = "ntkgen."


def each_seed(
    function: Callable,
    seeded: tuple,
    shared: tuple = (),
    options: dict[str, Any] | None = None,
    *,
    host_driven: bool = False,
    strategy: str = "auto",
) -> PyTree:
    """Evaluate function(*own, *shared, **options) for every seed.

    A seed with a number that is not finite in what it is given is not measured: its results are NaN, False and 0.
    The function is traced at each call, so that arrays that it or its options close over may be replaced: the values
    are those of this call. That costs a compilation.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure
      >>> def output(w, x):
      ...     return (w * x).sum()
      >>> measure.each_seed(output, (jnp.array([[1.0], [2.0], [jnp.nan]]),), (jnp.array([3.0]),)).tolist()
      [3.0, 6.0, nan]

    Args:
      function: measures one seed; a function of a module, since compiled programs are found by it.
      seeded: trees whose leaves lead with the seed axis, such as (f, params).
      shared: trees that all seeds are given, such as (x, y).
      options: hashable settings.
      host_driven: where seeds go one by one, run the function as it is, because it compiles its parts itself and
        loops on the host (`spectrum`); otherwise it is compiled as a whole.
      strategy: "auto" (by the shapes in seeded), "vmap" or "sequential".

    Returns:
      The function's results as numpy arrays with a leading seed axis.

    Raises:
      ValueError: the strategy is unknown, or the axes differ in length.
    """
    lengths = {leaf.shape[0] for leaf in jax.tree.leaves(seeded)}
    if len(lengths) != 1:
        raise ValueError(f"seeded: expected one length of the seed axis, got {sorted(lengths)}")
    if strategy not in ensemble.STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(ensemble.STRATEGIES)}, got {strategy!r}")
    settings = tuple(sorted((options or {}).items()))
    alive = alive_seeds(seeded)
    if not alive.any():
        shapes = jax.eval_shape(partial(_vmapped, function, settings, None), seeded, shared)
        return jax.tree.map(lambda s: _lost(np.zeros(s.shape, s.dtype), alive), shapes)
    # A lost seed's place is taken by one that lives, so that shapes, and with them compiled programs, stay.
    rows = np.where(alive, np.arange(len(alive)), int(np.argmax(alive)))
    if strategy == "auto" and host_driven and jax.default_backend() == "cpu":
        strategy = "sequential"
    elif strategy == "auto":
        strategy = ensemble.choose_strategy({"params": jax.tree.map(lambda leaf: leaf[0], seeded)})
    identity = None if strategy == "sequential" and host_driven else _identity(function, settings, seeded, shared)
    if strategy == "vmap":
        living = jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], seeded)
        values = _vmapped(function, settings, identity, living, shared)
        return jax.tree.map(lambda leaf: _lost(np.array(leaf), alive), values)
    found: dict[int, PyTree] = {}
    for row in sorted(set(rows.tolist())):
        own = jax.tree.map(lambda leaf, row=row: jnp.asarray(leaf[row]), seeded)
        if host_driven:
            value = function(*own, *shared, **dict(settings))
        else:
            value = _single(function, settings, identity, own, shared)
        found[row] = jax.tree.map(np.asarray, value)
    return jax.tree.map(lambda *leaves: _lost(np.stack(leaves), alive), *(found[row] for row in rows.tolist()))


def correct(f: Callable, params: PyTree, x: Any, y: Any, *, chunk: int = 1000) -> np.ndarray:
    """Return for every seed whether each example is classified right, booleans (seeds, examples).

    Example:
      >>> import jax.numpy as jnp
      >>> from jax.tree_util import Partial
      >>> from ntkgen import measure
      >>> x, params = jnp.array([[2.0, 1.0]]), jnp.array([[[1.0, 1.0]], [[1.0, 3.0]]])  # two seeds
      >>> measure.correct(Partial(lambda w, x: w * x), params, x, jnp.array([0])).tolist()
      [[True], [False]]

    Args:
      f: the network, arrays leading with the seed axis, as `each_seed` takes it.
      params: likewise.
      x: inputs (examples, ...).
      y: labels (examples,).
      chunk: examples at once.
    """
    starts = range(0, len(y), chunk)
    parts = [jax.tree.map(lambda leaf, i=i: jnp.asarray(leaf[i : i + chunk]), (x, y)) for i in starts]
    return np.concatenate([each_seed(_correct, (f, params), part) for part in parts], axis=1)


def _correct(f: Callable, params: PyTree, x: Any, y: Any) -> jax.Array:
    return jnp.argmax(f(params, x), axis=-1) == y


def _identity(function: Callable, settings: tuple, seeded: tuple, shared: tuple) -> Any:
    """Tell what is measured now from what the same function measured with other constants.

    None where nothing can be replaced: our own functions of networks and losses that are our own. Tracing those at
    each call took a tenth of a study.
    """
    networks = [leaf for leaf in jax.tree.leaves((seeded, shared), is_leaf=_is_partial) if _is_partial(leaf)]
    if all(map(_is_fixed, (function, settings, *(network.func for network in networks)))) and not any(
        map(_is_partial, jax.tree.leaves([(each.args, each.keywords) for each in networks], is_leaf=_is_partial))
    ):
        return None
    own = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.result_type(leaf)), seeded)
    return functions.fingerprint(lambda own, shared: function(*own, *shared, **dict(settings)), own, shared)


def _is_partial(tree: Any) -> bool:
    return isinstance(tree, Partial)


def _is_fixed(value: Any) -> bool:
    """Say whether a part of a program's key is told whole by `==`: plain values, and what this package defines."""
    if value is None or isinstance(value, bool | int | float | str):
        return True
    if isinstance(value, tuple):
        return all(map(_is_fixed, value))
    ours = str(getattr(value, "__module__", "")).startswith(PACKAGE)
    if isinstance(value, types.FunctionType):
        return ours and value.__closure__ is None
    fields = dataclasses.fields(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else None
    return ours and fields is not None and all(_is_fixed(getattr(value, each.name)) for each in fields)


# The identity is part of a program's key, and of nothing else.
@partial(jax.jit, static_argnums=(0, 1, 2))
def _vmapped(function: Callable, settings: tuple, identity: Any, seeded: tuple, shared: tuple) -> PyTree:
    del identity
    return jax.vmap(lambda own: function(*own, *shared, **dict(settings)))(seeded)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _single(function: Callable, settings: tuple, identity: Any, own: tuple, shared: tuple) -> PyTree:
    del identity
    return function(*own, *shared, **dict(settings))


def alive_seeds(seeded: PyTree) -> np.ndarray:
    """Return which seeds have finite numbers alone in all floating leaves, booleans (seeds,)."""
    leaves = [leaf for leaf in jax.tree.leaves(seeded) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    rows = [np.isfinite(np.asarray(leaf)).reshape(len(leaf), -1).all(1) for leaf in leaves]
    return np.all(rows, axis=0)


def _lost(values: np.ndarray, alive: np.ndarray) -> np.ndarray:
    values[~alive] = np.nan if np.issubdtype(values.dtype, np.floating) else 0
    return values
