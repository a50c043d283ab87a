"""Which leaves of a network may be pruned, and the layers that they hold.

A layer is one prunable leaf, or one layer of a leaf that stacks them (`nn.scan`, `vmap`); see `ntkgen.roles`.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import roles as leaf_roles
from ntkgen.choices import SCOPES
from ntkgen.typing import Array, PyTree

Prunable = Callable[[str, Any], bool]  # (name such as "dense0/kernel", leaf) -> may it be pruned
Axes = tuple[int, ...]


@dataclass(frozen=True)
class _Kernels:
    spared: frozenset[str] = frozenset()

    def __call__(self, name: str, leaf: Any, role: str | None = None) -> bool:
        """Return whether a leaf is such a kernel; the role of a single leaf follows from its name and shape."""
        if role is None:
            role = jax.tree.leaves(leaf_roles.of({name: leaf}, strict=False))[0].role
        return role == "kernel" and self.spared.isdisjoint(name.split("/"))


# Whether a leaf is a kernel. Embeddings, biases and scales are not, see `ntkgen.roles`.
is_kernel: Prunable = _Kernels()


def kernels(except_for: Sequence[str]) -> Prunable:
    """Make a rule that prunes the kernels of all but some layers.

    Example:
      >>> import numpy as np
      >>> from ntkgen import pruning
      >>> params = {"dense0": {"kernel": np.ones((2, 2))}, "dense1": {"kernel": np.ones((2, 1))}}
      >>> list(pruning.layers_of("params", params, pruning.kernels(except_for=["dense1"])))
      ['dense0/kernel']

    Args:
      except_for: names on the way to a leaf, e.g. ("dense3",) for the head of the four-layer MLP.

    Returns:
      A value for the `prunable` arguments. What takes it raises a ValueError if the tree has none of a name.

    Raises:
      ValueError: a single string, of which every letter would be a name.
    """
    if isinstance(except_for, str):
        raise ValueError(f"except_for: expected a sequence of names, got the string {except_for!r}")
    return _Kernels(frozenset(except_for))


def layers_of(
    argument: str, params: PyTree, prunable: Prunable = is_kernel, roles: PyTree | None = None
) -> dict[str, Any]:
    """Return the prunable leaves by name, in the order of the flattened tree; a ValueError names the argument.

    Leaves stay whole: they may lead with a seed axis, or stack layers.

    Example:
      >>> import numpy as np
      >>> from ntkgen import pruning
      >>> params = {"dense0": {"kernel": np.ones((2, 2)), "bias": np.ones(2)}}
      >>> {name: leaf.shape for name, leaf in pruning.layers_of("params", params).items()}
      {'dense0/kernel': (2, 2)}
    """
    own: list[leaf_roles.Leaf] = jax.tree.leaves(leaf_roles.given(params, roles, strict=False))
    named = {leaf_roles.tree_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
    known = {part for name in named for part in name.split("/")}
    if isinstance(prunable, _Kernels) and (strange := sorted(prunable.spared - known)):
        raise ValueError(f"except_for: expected names on the way to {', '.join(sorted(named))}, got {strange[0]!r}")
    found = {}
    for (name, leaf), role in zip(named.items(), own, strict=True):
        chosen = prunable(name, leaf, role.role) if isinstance(prunable, _Kernels) else prunable(name, leaf)
        if np.size(leaf) and chosen:
            found[name] = leaf
    if not found:
        raise ValueError(f"{argument}: expected at least one prunable weight, got none among {sorted(named)}")
    return found


def split_layers(
    argument: str, params: PyTree, prunable: Prunable = is_kernel, roles: PyTree | None = None
) -> dict[str, Any]:
    """Return the prunable layers by name, stacked ones each by itself, as "stack/kernel[0]"; no seed axis."""
    stacks = stack_axes(argument, params, prunable, roles)
    found: dict[str, Any] = {}
    for path, leaf in jax.tree.leaves_with_path(params):
        name = leaf_roles.tree_name(path)
        if name in stacks:
            parts = _layers(leaf, stacks[name])
            found |= {f"{name}[{i}]" if stacks[name] else name: part for i, part in enumerate(parts)}
    return found


def stack_axes(argument: str, params: PyTree, prunable: Prunable, roles: PyTree | None) -> dict[str, Axes]:
    """Return the axes that stack layers, for each prunable leaf by name."""
    layers = layers_of(argument, params, prunable, roles)
    own: list[leaf_roles.Leaf] = jax.tree.leaves(leaf_roles.given(params, roles, strict=False))
    found = {}
    for (path, leaf), role in zip(jax.tree.leaves_with_path(params), own, strict=True):
        if (name := leaf_roles.tree_name(path)) in layers:
            leaf_roles.check_decided(name, role, np.shape(leaf), filters=False)
            found[name] = role.stack_axes or ()
    return found


def groups_of(
    argument: str, params: PyTree, scope: str, prunable: Prunable, roles: PyTree | None
) -> tuple[tuple[Axes, ...], dict[str, Axes]]:
    """Return the positions of the arrays that are ranked together, group by group, and the leaves to take apart.

    Positions count the arrays of `unstacked`.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(SCOPES)}, got {scope!r}")
    if scope == "global":
        layers = layers_of(argument, params, prunable, roles)
        named = enumerate(leaf_roles.tree_name(path) for path, _ in jax.tree.leaves_with_path(params))
        return (tuple(i for i, name in named if name in layers),), {}
    stacks = stack_axes(argument, params, prunable, roles)
    groups, position = [], 0
    for path, leaf in jax.tree.leaves_with_path(params):
        count = math.prod(np.shape(leaf)[axis] for axis in stacks.get(leaf_roles.tree_name(path), ()))
        groups += [(position + i,) for i in range(count) if leaf_roles.tree_name(path) in stacks]
        position += count
    return tuple(groups), {name: axes for name, axes in stacks.items() if axes}


def _layers(leaf: Any, axes: Axes) -> list[Any]:
    """Take stacked layers apart; without axes the leaf is the only one."""
    if not axes:
        return [leaf]
    front = jnp.moveaxis(jnp.asarray(leaf), axes, range(len(axes)))
    return list(front.reshape(-1, *front.shape[len(axes) :]))


def unstacked(params: PyTree, stacks: Mapping[str, Axes]) -> tuple[list[Any], Any]:
    """Return the tree's leaves, those in stacks layer by layer, and its structure."""
    leaves = [
        _layers(leaf, stacks.get(leaf_roles.tree_name(path), ())) for path, leaf in jax.tree.leaves_with_path(params)
    ]
    return list(itertools.chain.from_iterable(leaves)), jax.tree.structure(params)


def restacked(parts: Sequence[Array], like: PyTree, stacks: Mapping[str, Axes]) -> list[Array]:
    """Undo `unstacked`."""
    rest, leaves = iter(parts), []
    for path, leaf in jax.tree.leaves_with_path(like):
        axes, shape = stacks.get(leaf_roles.tree_name(path), ()), np.shape(leaf)
        own = list(itertools.islice(rest, math.prod(shape[axis] for axis in axes)))
        if axes:
            front = jnp.stack(own).reshape(*(shape[axis] for axis in axes), *own[0].shape)
            own = [jnp.moveaxis(front, range(len(axes)), axes)]
        leaves += own
    return leaves
