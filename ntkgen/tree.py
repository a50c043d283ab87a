"""Vector-space operations on pytrees of floating arrays: what curvature and its spectra are computed with."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ntkgen.typing import Array, PyTree

KINDS = ("normal", "rademacher")


def dot(a: PyTree, b: PyTree) -> Array:
    """Sum the products of all entries of two trees of the same structure and shapes -> ().

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> float(tree.dot({"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([3.0, 4.0])}))
      11.0
    """
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision="highest"), a, b)
    return jnp.asarray(sum(jax.tree.leaves(products)))


def norm(a: PyTree) -> Array:
    """Take the Euclidean norm over all entries -> ().

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> float(tree.norm({"a": jnp.array([3.0]), "b": jnp.array(4.0)}))
      5.0
    """
    return jnp.sqrt(dot(a, a))


def scale(a: Any, x: PyTree) -> PyTree:
    """Multiply every entry by the scalar a; leaves keep their dtypes.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> tree.scale(2.0, {"a": jnp.array([1.0, 2.0])})["a"].tolist()
      [2.0, 4.0]
    """
    return jax.tree.map(lambda leaf: jnp.asarray(a * leaf, jnp.result_type(leaf)), x)


def axpy(a: Any, x: PyTree, y: PyTree) -> PyTree:
    """Compute a x + y for a scalar a; leaves keep the dtypes of y.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> tree.axpy(2.0, {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([10.0, 20.0])})["a"].tolist()
      [12.0, 24.0]
    """
    return jax.tree.map(lambda p, q: jnp.asarray(a * p + q, jnp.result_type(q)), x, y)


def size(tree: PyTree) -> int:
    """Count the entries.

    Example:
      >>> import numpy as np
      >>> from ntkgen import tree
      >>> tree.size({"kernel": np.ones((3, 4)), "bias": np.ones(4)})
      16
    """
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))


def random_like(key: Array, tree: PyTree, kind: str = "normal") -> PyTree:
    """Draw a tree of independent entries with mean 0 and variance 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import tree
      >>> signs = tree.random_like(jax.random.key(0), {"a": jnp.zeros(8)}, kind="rademacher")
      >>> jnp.abs(signs["a"]).tolist()
      [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]

    Args:
      key: one key.
      tree: arrays, or anything with shape and dtype, that the draw imitates.
      kind: "normal" or "rademacher" (signs).

    Returns:
      A tree of the same structure, shapes and dtypes.

    Raises:
      ValueError: the kind is unknown, or a leaf is not floating.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    check_floating("tree", tree)
    leaves: list[Any] = jax.tree.leaves(tree)
    structure: Any = jax.tree.structure(tree)
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    # One draw for all leaves: XLA compiles the generator anew for every shape, ten seconds for a CNN's.
    draw = jax.random.normal if kind == "normal" else jax.random.rademacher
    flat = draw(key, (sum(sizes),), jnp.result_type(float, *leaves))
    ends = list(itertools.accumulate(sizes))
    parts = [flat[end - size : end].reshape(leaf.shape) for end, size, leaf in zip(ends, sizes, leaves, strict=True)]
    return structure.unflatten([part.astype(leaf.dtype) for part, leaf in zip(parts, leaves, strict=True)])


def ravel(tree: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Return all entries as one vector of the widest dtype, and the function that restores structure and dtypes.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> vector, restore = tree.ravel({"a": jnp.array([1.0, 2.0]), "b": jnp.array([3.0])})
      >>> vector.tolist(), restore(vector)["b"].tolist()
      ([1.0, 2.0, 3.0], [3.0])
    """
    return ravel_pytree(tree)


def partition(tree: PyTree, only: str | Sequence[str]) -> tuple[PyTree, PyTree]:
    """Return some leaves of a tree, and the others: two trees of its structure with None where the other has a leaf.

    Example:
      >>> from ntkgen import tree
      >>> params = {"dense0": {"kernel": 1.0, "bias": 2.0}, "dense1": {"kernel": 3.0}}
      >>> part, rest = tree.partition(params, "dense0/kernel")
      >>> part
      {'dense0': {'bias': None, 'kernel': 1.0}, 'dense1': {'kernel': None}}
      >>> tree.combine(part, rest) == params
      True

    Args:
      tree: nested dicts, lists, or any pytree.
      only: the path of a leaf, such as "dense0/kernel", or of a subtree, such as "dense0"; or several of them.

    Raises:
      ValueError: no path, or a path without leaves.
    """
    names = [only] if isinstance(only, str) else list(only)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(tree)]
    taken = [[path == name or path.startswith(f"{name}/") for name in names] for path in paths]
    unknown = [name for i, name in enumerate(names) if not any(row[i] for row in taken)]
    if unknown or not names:
        tops = list(dict.fromkeys(path.split("/")[0] for path in paths))
        raise ValueError(f"only: expected paths of leaves or subtrees, such as {', '.join(tops)}, got {only!r}")
    leaves: list[Any] = jax.tree.leaves(tree)
    structure: Any = jax.tree.structure(tree)
    part = [leaf if any(row) else None for leaf, row in zip(leaves, taken, strict=True)]
    rest = [None if any(row) else leaf for leaf, row in zip(leaves, taken, strict=True)]
    return structure.unflatten(part), structure.unflatten(rest)


def combine(part: PyTree, rest: PyTree) -> PyTree:
    """Return the tree that `partition` took apart.

    Example:
      >>> from ntkgen import tree
      >>> tree.combine({"a": 1.0, "b": None}, {"a": None, "b": 2.0})
      {'a': 1.0, 'b': 2.0}
    """
    return jax.tree.map(lambda a, b: b if a is None else a, part, rest, is_leaf=lambda leaf: leaf is None)


def cast(tree: PyTree, dtype: Any) -> PyTree:
    """Convert the floating leaves to a dtype; integers and booleans stay.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> found = tree.cast({"a": jnp.ones(2), "count": jnp.array(3)}, jnp.bfloat16)
      >>> str(found["a"].dtype), str(found["count"].dtype)
      ('bfloat16', 'int32')

    Raises:
      ValueError: float64 is asked for while JAX has it disabled, and would silently give float32.
    """
    if jnp.dtype(dtype).itemsize > jax.dtypes.canonicalize_dtype(dtype).itemsize:
        raise ValueError(f"dtype: expected jax_enable_x64 for {jnp.dtype(dtype).name}, got JAX with it disabled")
    floating = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if floating(leaf) else leaf, tree)


def check_floating(name: str, tree: PyTree) -> None:
    """Refuse a tree with a leaf that is not floating: it has no tangent space.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> tree.check_floating("params", {"a": jnp.ones(2)})  # says nothing: all is floating
      >>> tree.check_floating("params", {"count": jnp.array(3)})
      Traceback (most recent call last):
          ...
      ValueError: params['count']: expected floating numbers, got int32

    Raises:
      ValueError: naming the leaf.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected floating numbers, got {jnp.result_type(leaf)}")


def check_like(name: str, tree: PyTree, like: PyTree) -> None:
    """Refuse a tree whose structure or shapes differ from those of `like`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> tree.check_like("v", {"a": jnp.ones(2)}, {"a": jnp.ones(2)})  # says nothing: they match
      >>> tree.check_like("v", {"a": jnp.ones(2)}, {"a": jnp.ones(3)})
      Traceback (most recent call last):
          ...
      ValueError: v['a']: expected shape (3,), got (2,)

    Raises:
      ValueError: naming the first difference.
    """
    have: Any = jax.tree.structure(tree)
    want: Any = jax.tree.structure(like)
    if have != want:
        raise ValueError(f"{name}: expected the structure {want}, got {have}")
    for (path, leaf), other in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(like), strict=True):
        if jnp.shape(leaf) != jnp.shape(other):
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected shape {jnp.shape(other)}, got {jnp.shape(leaf)}")


def check_finite(name: str, tree: PyTree) -> None:
    """Refuse NaN and infinity where the numbers are known; under `jit` and `vmap` nothing can be said.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import tree
      >>> tree.check_finite("params", {"a": jnp.ones(2)})  # says nothing: all is finite
      >>> tree.check_finite("params", {"a": jnp.array([1.0, jnp.nan])})
      Traceback (most recent call last):
          ...
      ValueError: params['a']: expected finite numbers, got 1 of 2 that are not

    Raises:
      ValueError: naming the first leaf and how many of its numbers are not finite.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        if isinstance(leaf, jax.core.Tracer):
            continue
        bad = int(np.sum(~np.isfinite(np.asarray(leaf))))  # numpy: inside `jit` jnp would trace known numbers too
        if bad:
            where = f"{name}{jax.tree_util.keystr(path)}"
            raise ValueError(f"{where}: expected finite numbers, got {bad} of {jnp.size(leaf)} that are not")
