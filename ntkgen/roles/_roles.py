"""The role of every leaf of a network's params: what it is, which axes are its output units, which are layers.

`of` decides by names and shapes, `from_model` by the modules of a Flax Linen network. Whoever treats kernels, biases
and scales differently asks here: pruning, filter-normalised directions, relative perturbation.

The rules of `of`, for a leaf such as `dense/kernel` (NNX's trailing `value` is dropped):

* Names that hold bias, beta, offset, shift or are b, b1, ... are biases. Names that hold scale, gamma or are g are
  scales. Both whatever their shape. Names that hold embedding, embed, pos or cls are embeddings.
* Names that hold kernel or weight, or are w, w1, ..., are kernels; so is every other leaf of two axes or more. But a
  leaf of the shape of the bias beside it is a scale, and so is a weight of fewer than two axes or in a module called
  norm or ln. Vectors of any other name, (c,) or (1, 1, c), are "other".
* The bias beside a kernel tells its output units: the axes that have the bias's shape. Leading axes that the two share
  are stacked layers (`nn.scan`, `vmap`). So (in, heads, d) beside (heads, d) is attention, (layers, in, out) beside
  (layers, out) a stack, (out, in) beside (out,) the layout of PyTorch and Equinox.
* Where in = out, a kernel's outputs are last (Flax, Haiku). A `weight` follows the other weights of the tree.
* Without a bias: two axes are (in, out); query, key, value and out of one module are attention; four axes with a square
  window, or three and more in a module called conv, are a convolution. Scales and biases of the same block tell whether
  the block is stacked.
* What none of this tells apart is refused, and the user names the axes.

An embedding is the kernel of a one-hot input: its output units are its features, the last axis.
"""

import fnmatch
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntkgen.roles._rules import Leaf, Path, Shape, decide
from ntkgen.typing import PyTree

ROLES = ("kernel", "bias", "scale", "embedding", "other")


def of(params: PyTree, axes: Mapping[str, Leaf] | None = None, *, strict: bool = True) -> PyTree:
    """Return the role of every leaf by the rules of this module, a tree like params of `Leaf`.

    Args:
      params: one network's params, no seed axis; arrays, or anything with a shape.
      axes: shell pattern of names, such as "blocks/*/kernel" -> what those leaves are; goes before all rules.
      strict: refuse a kernel whose axes nothing tells. Otherwise these are None.

    Returns:
      A tree like params.

    Raises:
      ValueError: axes name no leaf or do not fit it, or (strict) a kernel's axes are ambiguous.

    Example:
      >>> import numpy as np
      >>> of({"kernel": np.ones((3, 4)), "bias": np.ones(4)})["kernel"]
      Leaf(role='kernel', filter_axes=(1,), stack_axes=())
    """
    named = _named(params)
    found = decide(named)
    full = [tree_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    for pattern, leaf in (axes or {}).items():
        fits = [path for path, name in zip(named, full, strict=True) if fnmatch.fnmatchcase(name, pattern)]
        fits = fits or [path for path in named if fnmatch.fnmatchcase("/".join(path), pattern)]
        if not fits:
            raise ValueError(f"axes: expected patterns of {', '.join(full)}, got {pattern!r}")
        found |= {path: _checked("axes", "/".join(path), leaf, named[path]) for path in fits}
    structure: Any = jax.tree.structure(params)
    result = structure.unflatten([found[path] for path in named])
    if strict:
        for path, leaf in found.items():
            check_decided("/".join(path), leaf, named[path])
    return result


def given(params: PyTree, roles: PyTree | None, *, strict: bool = True) -> PyTree:
    """Return the roles that a user gave, after a check against params, or those of `of`.

    Example:
      >>> import numpy as np
      >>> from ntkgen import roles
      >>> params = {"kernel": np.ones((3, 4))}
      >>> roles.given(params, None) == roles.of(params)
      True

    Raises:
      ValueError: the roles are not like params, or as in `of`.
    """
    if roles is None:
        return of(params, strict=strict)
    want: Any = jax.tree.structure(params)
    if jax.tree.structure(roles) != want:
        raise ValueError(f"roles: expected the structure {want}, got {jax.tree.structure(roles)}")
    found = []
    for (path, array), leaf in zip(jax.tree.leaves_with_path(params), jax.tree.leaves(roles), strict=True):
        found.append(_checked("roles", tree_name(path), leaf, jnp.shape(array)))
        if strict:
            check_decided(tree_name(path), found[-1], jnp.shape(array))
    return want.unflatten(found)


def tree_name(path: Any) -> str:
    """Return a leaf's path as `jax.tree.leaves_with_path` gives it in the form "dense0/kernel".

    Example:
      >>> import jax
      >>> from ntkgen import roles
      >>> [roles.tree_name(path) for path, _ in jax.tree.leaves_with_path({"dense0": {"bias": 0.0, "kernel": 1.0}})]
      ['dense0/bias', 'dense0/kernel']
    """
    return jax.tree_util.keystr(path, simple=True, separator="/")


def check_decided(name: str, leaf: Leaf, shape: Shape, *, filters: bool = True) -> None:
    """Refuse a leaf whose layers, or with `filters` whose output units, nothing tells.

    Example:
      >>> from ntkgen import roles
      >>> roles.check_decided("dense0/kernel", roles.Leaf("kernel", (1,)), (3, 4))  # says nothing: all is known
      >>> try:
      ...     roles.check_decided("mix", roles.Leaf("kernel", None), (3, 3))
      ... except ValueError as error:
      ...     print("mix" in str(error))
      True

    Raises:
      ValueError: naming the leaf, and how to name its axes.
    """
    if leaf.stack_axes is None or (filters and leaf.filter_axes is None):
        what = "layers and output units" if leaf.stack_axes is None else "output units"
        example = f"roles.of(params, {{'{name}': roles.Leaf('kernel', filter_axes=(...), stack_axes=(...))}})"
        raise ValueError(
            f"params: expected {what} of {name} that names and the biases and scales beside it tell, got shape "
            f"{tuple(shape)}, which has several readings; name its axes: roles={example}"
        )


def _checked(argument: str, name: str, leaf: Any, shape: Shape) -> Leaf:
    """Check one leaf's role against its shape, and count its axes from the front."""
    if not isinstance(leaf, Leaf) or leaf.role not in ROLES:
        raise ValueError(f"{argument}: expected a Leaf with a role of {', '.join(ROLES)} for {name}, got {leaf!r}")
    if leaf.filter_axes is None or leaf.stack_axes is None:
        return leaf
    axes = [*leaf.filter_axes, *leaf.stack_axes]
    positive = [axis % len(shape) for axis in axes if shape and -len(shape) <= axis < len(shape)]
    if len(set(positive)) < len(axes):
        raise ValueError(f"{argument}: expected different axes of {name} of shape {tuple(shape)}, got {leaf!r}")
    count = len(leaf.filter_axes)
    return Leaf(leaf.role, tuple(sorted(positive[:count])), tuple(sorted(positive[count:])))


def _named(params: PyTree) -> dict[Path, Shape]:
    """Return the shapes of all leaves by path, without the `value` in which NNX and boxed params end."""
    paths, shapes = [], []
    for path, leaf in jax.tree.leaves_with_path(params):
        parts = tuple(tree_name(path).split("/"))
        attribute = bool(path) and isinstance(path[-1], jax.tree_util.GetAttrKey)
        paths.append((parts, attribute))
        shapes.append(tuple(jnp.shape(leaf)))
    children: dict[Path, int] = {}
    for parts, _ in paths:
        children[parts[:-1]] = children.get(parts[:-1], 0) + 1
    named = {}
    for (parts, attribute), shape in zip(paths, shapes, strict=True):
        boxed = parts[-1] in ("value", "raw_value") and len(parts) > 1 and (attribute or children[parts[:-1]] == 1)
        named[parts[:-1] if boxed else parts] = shape
    return named


# --- By a network's modules


def from_model(model: nn.Module, *inputs: Any, **options: Any) -> PyTree:
    """Return the role of every leaf by the modules of a Flax Linen network; nothing is computed.

    Modules under `nn.scan` and `nn.vmap` see their params without the layers, so that comparing shapes gives the stack
    axes; where several fit, the first (Flax's usual place). Leaves of other modules than Flax's own layers go by the
    rules of `of`.

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import linen as nn
      >>> from ntkgen import roles
      >>> roles.from_model(nn.Dense(2), jnp.ones((1, 3)))["kernel"]
      Leaf(role='kernel', filter_axes=(1,), stack_axes=())

    Args:
      model: the network.
      *inputs: that it is called with, arrays or shapes.
      **options: keywords of its call.

    Returns:
      A tree like the network's params.

    Raises:
      ValueError: the model is no Linen module, or what neither modules nor rules tell.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: expected a Flax Linen module, got {type(model).__name__}")
    inner: dict[Path, Shape] = {}
    units: dict[Path, tuple[int, ...]] = {}

    def see(method: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
        result = method(*args, **kwargs)
        module = context.module
        for name, leaf in module.variables.get("params", {}).items():
            if not isinstance(leaf, Mapping):
                ((suffix, shape),) = _named({name: leaf}).items()
                path = (*module.path, *suffix)
                inner[path] = shape
                own = _layer_units(module, suffix[-1], len(shape))
                if own is not None:
                    units[path] = own
        return result

    def init(key: Any, inputs: Any) -> PyTree:
        return model.init({"params": key, "dropout": key}, *inputs, **options)["params"]

    with nn.intercept_methods(see):
        params = jax.eval_shape(init, jax.random.key(0), inputs)
    named = _named(params)
    found = []
    decided = decide({path: inner.get(path, shape) for path, shape in named.items()}, stacked=False)
    for path, shape in named.items():
        leaf, own = decided[path], inner.get(path, shape)
        if path in units:
            leaf = Leaf("embedding" if path[-1] == "embedding" else "kernel", units[path])
        check_decided("/".join(path), leaf, shape)
        stack = _extra_axes(shape, own)
        rest = [axis for axis in range(len(shape)) if axis not in stack]
        found.append(Leaf(leaf.role, tuple(rest[axis] for axis in leaf.filter_axes or ()), stack))
    structure: Any = jax.tree.structure(params)
    return structure.unflatten(found)


def _layer_units(module: nn.Module, name: str, rank: int) -> tuple[int, ...] | None:
    """Return the output axes of a kernel of one of Flax's layers; None for any other leaf."""
    if name == "kernel" and isinstance(module, nn.DenseGeneral):
        many = lambda value: 1 if isinstance(value, int) else len(value)  # noqa: E731
        batch = len(module.batch_dims)  # each has features of its own
        return (*range(batch), *range(rank - many(module.features), rank))
    if name == "kernel" and isinstance(module, nn.ConvTranspose) and module.transpose_kernel:
        return (rank - 2,)
    if name == "kernel" and isinstance(module, nn.ConvLocal):  # each place has features of its own
        return (*range(rank - 2), rank - 1)
    if name == "kernel" and isinstance(module, nn.Dense | nn.Conv | nn.ConvTranspose):
        return (rank - 1,)
    return (rank - 1,) if name == "embedding" and isinstance(module, nn.Embed) else None


def _extra_axes(shape: Shape, inner: Shape) -> tuple[int, ...]:
    """Return the axes whose removal from a shape leaves the inner one; the first that fit."""
    choices = itertools.combinations(range(len(shape)), len(shape) - len(inner))
    for axes in choices:
        if tuple(size for axis, size in enumerate(shape) if axis not in axes) == inner:
            return axes
    raise ValueError(f"model: expected layers stacked as {inner}, got params of shape {shape}")
