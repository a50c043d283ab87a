"""Scores to masks that keep exactly k weights, with the scores and the random controls of lottery-ticket studies.

Functions are for one network and safe under jit and vmap; with a leading seed axis use `jax.vmap(..., in_axes=...)`,
and every seed keeps exactly k of its own. Masks are pytrees like params of booleans, True where a weight is kept, as
`ensemble.fit(masks=)` wants them (stacked).

* By default the kernels are prunable, see `is_kernel`; all other leaves are kept whole.
* A *layer* is one prunable leaf, or one layer of a leaf that stacks them (`nn.scan`, `vmap`); see `ntkgen.roles`.
* Of n weights a fraction f keeps k = max(1, round(f n)), Python's `round` (halves to even), see `keep_count`. PyTorch
  rounds the number to prune instead: where f n is an odd half (n = 5, f = 0.5) it keeps one more.
* Of equal scores the one that comes first in the flattened tree (`jax.tree.leaves`, each leaf in C order) is kept; NaN
  counts as lower than every number. Scores are compared in JAX's precision, float32 unless 64 bits are enabled.
* k is an argument of the compiled selection, not a constant in it: another fraction compiles nothing.
"""

import functools
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import tree
from ntkgen.pruning._prunable import SCOPES as SCOPES
from ntkgen.pruning._prunable import Prunable as Prunable
from ntkgen.pruning._prunable import groups_of, restacked, split_layers, unstacked
from ntkgen.pruning._prunable import is_kernel as is_kernel
from ntkgen.pruning._prunable import kernels as kernels
from ntkgen.pruning._prunable import layers_of as layers_of
from ntkgen.typing import Array, PyTree


def keep_count(size: int, keep_fraction: float) -> int:
    """Return the number of weights that a fraction keeps: round(keep_fraction x size), halves to even, at least one.

    Example:
      >>> from ntkgen import pruning
      >>> pruning.keep_count(10, 0.25), pruning.keep_count(10, 0.01)
      (2, 1)
    """
    return max(1, round(float(keep_fraction) * size))  # a NumPy float would round the product to its own precision


# Scores: the higher, the more a weight deserves to be kept


def magnitude(params: PyTree) -> PyTree:
    """Score by |w| (Han et al. 2015; Frankle & Carbin 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> pruning.magnitude({"kernel": jnp.array([[1.0, -3.0]])})["kernel"].tolist()
      [[1.0, 3.0]]
    """
    return jax.tree.map(jnp.abs, params)


def weight_change(params: PyTree, initial: PyTree) -> PyTree:
    """Score by |w_T - w_0| ("movement" of Zhou et al. 2019).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params, initial = {"kernel": jnp.array([[1.0, -3.0]])}, {"kernel": jnp.array([[1.0, -1.0]])}
      >>> pruning.weight_change(params, initial)["kernel"].tolist()
      [[0.0, 2.0]]
    """
    tree.check_like("initial", initial, params)
    return jax.tree.map(lambda after, before: jnp.abs(after - before), params, initial)


def gradient_magnitude(loss: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    """Score by |dL/dw|; loss(params) -> scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params = {"kernel": jnp.array([[1.0, -3.0]])}
      >>> pruning.gradient_magnitude(lambda params: (params["kernel"] ** 2).sum(), params)["kernel"].tolist()
      [[2.0, 6.0]]
    """
    return jax.tree.map(jnp.abs, jax.grad(loss)(params))


def snip(loss: Callable[[PyTree], Array], params: PyTree) -> PyTree:
    """Score by the connection sensitivity |w dL/dw| (Lee et al. 2019, there divided by its sum); loss -> scalar.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params = {"kernel": jnp.array([[1.0, -3.0]])}
      >>> pruning.snip(lambda params: (params["kernel"] ** 2).sum(), params)["kernel"].tolist()
      [[2.0, 18.0]]
    """
    return jax.tree.map(lambda w, g: jnp.abs(w * g), params, jax.grad(loss)(params))


def random(key: Array, params: PyTree) -> PyTree:
    """Score by independent draws from U[0, 1).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> pruning.random(jax.random.key(0), {"kernel": jnp.ones((1, 2))})["kernel"].shape
      (1, 2)
    """
    leaves, structure = jax.tree.flatten(params)
    drawn = [jax.random.uniform(jax.random.fold_in(key, i), np.shape(leaf)) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(structure, drawn)


# Masks


def masks_from_scores(
    scores: PyTree,
    keep_fraction: float,
    *,
    scope: str = "global",
    masks: PyTree | None = None,
    prunable: Prunable = is_kernel,
    roles: PyTree | None = None,
) -> PyTree:
    """Keep exactly the k highest scores.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> scores = {"kernel": jnp.array([[1.0, 3.0], [2.0, 0.5]]), "bias": jnp.zeros(2)}
      >>> pruning.masks_from_scores(scores, 0.5)["kernel"].tolist()
      [[False, True], [True, False]]

    Args:
      scores: pytree like params of floating-point arrays; scores of leaves that are not prunable are ignored.
      keep_fraction: in (0, 1], of all prunable weights of the network, pruned or not; a Python number.
      scope: "global" ranks all prunable weights together, "layer" keeps the fraction in each layer by itself.
      masks: current masks. What they prune never comes back: a group that holds fewer than k keeps what it has.
      prunable: which leaves take part, (name, leaf) -> bool.
      roles: what the leaves are, a tree like params of `roles.Leaf`: which are kernels, and with the scope "layer"
        which axes stack layers; default `roles.of(scores)`.

    Returns:
      Masks like scores, bool. Leaves that are not prunable stay as in `masks`, or are kept whole.

    Raises:
      ValueError: an argument is outside its range or does not fit the others; the message names it.
    """
    check_fraction("keep_fraction", keep_fraction)
    alive = full_masks(scores) if masks is None else masks
    tree.check_like("masks", alive, scores)
    groups, stacks = groups_of("scores", scores, scope, prunable, roles)
    leaves, structure = unstacked(scores, stacks)
    for i in sorted(sum(groups, ())):
        if not jnp.issubdtype(jnp.result_type(leaves[i]), jnp.floating):
            raise ValueError(f"scores: expected floating-point numbers, got {jnp.result_type(leaves[i])}")
    counts = [keep_count(sum(np.size(leaves[i]) for i in group), keep_fraction) for group in groups]
    selected = _select(groups, leaves, unstacked(alive, stacks)[0], counts)
    return structure.unflatten(restacked(selected, scores, stacks))


def magnitude_masks(
    params: PyTree,
    keep_fraction: float,
    *,
    scope: str = "global",
    masks: PyTree | None = None,
    prunable: Prunable = is_kernel,
    roles: PyTree | None = None,
) -> PyTree:
    """Keep exactly the k weights of largest magnitude; arguments and errors as in `masks_from_scores`.

    Example:
      >>> params = {"kernel": jnp.array([[1.0, -3.0], [2.0, 0.5]]), "bias": jnp.zeros(2)}
      >>> jax.tree.map(lambda leaf: leaf.tolist(), magnitude_masks(params, 0.5))
      {'bias': [True, True], 'kernel': [[False, True], [True, False]]}
    """
    scores = magnitude(params)
    return masks_from_scores(scores, keep_fraction, scope=scope, masks=masks, prunable=prunable, roles=roles)


def shuffle_masks(
    key: Array, masks: PyTree, *, scope: str = "layer", prunable: Prunable = is_kernel, roles: PyTree | None = None
) -> PyTree:
    """Draw random masks that keep as many weights as the given ones.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> masks = {"kernel": jnp.array([[True, True], [False, False]])}
      >>> int(pruning.shuffle_masks(jax.random.key(0), masks)["kernel"].sum())
      2

    Args:
      key: randomness.
      masks: pytree like params.
      scope: "layer" keeps each layer's count (every arrangement within it equally likely), "global" only the total.
      prunable: which leaves take part; the others stay as they are.
      roles: as in `masks_from_scores`.

    Returns:
      Masks like the given ones, bool.

    Raises:
      ValueError: the scope is unknown, or nothing is prunable.
    """
    groups, stacks = groups_of("masks", masks, scope, prunable, roles)
    leaves, structure = unstacked(masks, stacks)
    return structure.unflatten(restacked(_shuffle(groups, key, leaves), masks, stacks))


def full_masks(params: PyTree) -> PyTree:
    """Keep everything.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> pruning.full_masks({"kernel": jnp.zeros((1, 2))})["kernel"].tolist()
      [[True, True]]
    """
    return jax.tree.map(lambda leaf: np.ones(np.shape(leaf), bool), params)


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """Set pruned entries to +0, whatever they were, NaN included; kept ones stay bit for bit.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params, masks = {"kernel": jnp.array([[jnp.nan, 2.0]])}, {"kernel": jnp.array([[False, True]])}
      >>> pruning.apply_masks(params, masks)["kernel"].tolist()
      [[0.0, 2.0]]
    """
    tree.check_like("masks", masks, params)
    return _apply(params, masks)


def sparsity_profile(masks: PyTree, *, prunable: Prunable = is_kernel, roles: PyTree | None = None) -> dict[str, Array]:
    """Return the fraction of weights kept in each layer, by name, scalars; stacked layers are "stack/kernel[0]", ...

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> masks = {"dense0": {"kernel": jnp.array([[True, False]])}, "dense1": {"kernel": jnp.array([[True], [True]])}}
      >>> jax.tree.map(float, pruning.sparsity_profile(masks))
      {'dense0/kernel': 0.5, 'dense1/kernel': 1.0}
    """
    layers = split_layers("masks", masks, prunable, roles)
    return {name: jnp.mean(_as_bool(leaf), dtype=float) for name, leaf in layers.items()}


def check_fraction(name: str, value: Any) -> None:
    """Raise a ValueError that names an argument unless it is a number in (0, 1]."""
    # A JAX tracer is no Real either: the count must be known when the program is built.
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 < float(value) <= 1:
        raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")


def _as_bool(leaf: Any) -> Array:
    return jnp.asarray(leaf).astype(bool)


def _join(leaves: Sequence[Array], group: tuple[int, ...]) -> Array:
    return jnp.concatenate([jnp.ravel(leaves[i]) for i in group])


def _spread(flat: Array, leaves: list[Array], group: tuple[int, ...]) -> None:
    """Write a flat array back into the leaves that `_join` took it from."""
    for i in group:
        size = leaves[i].size
        leaves[i], flat = flat[:size].reshape(leaves[i].shape), flat[size:]


@jax.jit
def _apply(params: PyTree, masks: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, keep: jnp.where(_as_bool(keep), leaf, jnp.zeros((), leaf.dtype)), params, masks)


@functools.partial(jax.jit, static_argnums=0)
def _select(
    groups: tuple[tuple[int, ...], ...], scores: list[Array], alive: list[Array], counts: list[int]
) -> list[Array]:
    masks = [_as_bool(leaf) for leaf in alive]
    for group, count in zip(groups, counts, strict=True):
        flat, living = _join(scores, group), _join(masks, group)
        # A stable sort, the pruned last: positions decide between equal scores.
        order = jnp.lexsort((~_ordinal(flat), ~living))
        first = jnp.zeros(flat.shape, bool).at[order].set(jnp.arange(flat.size) < count)
        _spread(first & living, masks, group)
    return masks


def _ordinal(flat: Array) -> Array:
    """Map floats to integers of the same order, NaN lowest; compared as floats, denormal numbers may equal zero."""
    integer = jnp.dtype(f"int{8 * flat.dtype.itemsize}")
    bits, low = jax.lax.bitcast_convert_type(flat, integer), jnp.iinfo(integer).min
    # Negative floats run backwards; -0 becomes 0 and so equals +0.
    ordered = jnp.where(bits < 0, low - bits, bits)
    return jnp.where(jnp.isnan(flat), low, ordered)


@functools.partial(jax.jit, static_argnums=0)
def _shuffle(groups: tuple[tuple[int, ...], ...], key: Array, leaves: list[Array]) -> list[Array]:
    masks = [_as_bool(leaf) for leaf in leaves]
    for number, group in enumerate(groups):
        flat = jax.random.permutation(jax.random.fold_in(key, number), _join(masks, group))
        _spread(flat, masks, group)
    return masks
