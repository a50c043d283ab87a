"""How much a network holds for a sample between its forward and its backward pass, by counting its operations."""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.tree_util import Partial

from ntkgen import functions
from ntkgen.typing import PyTree


class Activations(NamedTuple):
    """Entries that depend on the input, for one sample: of all operations' results together, and of the largest."""

    total: int
    largest: int


def activations(f: Partial, params: PyTree, x: PyTree) -> Activations:
    """Count what f computes for one sample; nothing is computed, and the count is remembered.

    Args:
      f: function (params, x) -> outputs (n, k), from `functions.freeze`.
      params: its parameters, arrays or their shapes.
      x: inputs (n, ...) or their shape.

    Returns:
      The counts. What depends on the parameters alone is there once, however many samples there are, and left out.
    """
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *jnp.shape(leaf)[1:]), jnp.result_type(leaf)), x)
    leaves, treedef = jax.tree.flatten(((f, params), one))
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _count(treedef, shapes, len(jax.tree.leaves(one)))


@functools.lru_cache(maxsize=256)
def _count(treedef: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], num_inputs: int) -> Activations:
    arguments, x = jax.tree.unflatten(treedef, shapes)
    program = jax.make_jaxpr(lambda arguments, x: arguments[0](arguments[1], x))(arguments, x)
    return _walk(program.jaxpr, [False] * (len(shapes) - num_inputs) + [True] * num_inputs)


def _walk(jaxpr: Any, depends: Sequence[bool]) -> Activations:
    """Follow what depends on the input through a program and the programs inside it."""
    seen = {var for var, is_input in zip(jaxpr.invars, depends, strict=True) if is_input}
    total = largest = 0
    for eqn in jaxpr.eqns:
        marks = [isinstance(var, core.Var) and var in seen for var in eqn.invars]
        if not any(marks):
            continue
        seen.update(eqn.outvars)
        inner = [_walk(each, marks if len(marks) == len(each.invars) else [True] * len(each.invars))
                 for each in _inner(eqn.params)]  # fmt: skip
        repeats = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        sizes = [math.prod(var.aval.shape) for var in eqn.outvars]
        total += repeats * sum(each.total for each in inner) if inner else sum(sizes)
        largest = max(largest, *sizes, *(each.largest for each in inner))
    return Activations(total, largest)


def _inner(params: dict[str, Any]) -> list[Any]:
    return [getattr(each, "jaxpr", each) for each in functions.programs(params)]
