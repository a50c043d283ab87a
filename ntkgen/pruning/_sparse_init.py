"""Starting values of pruned networks: a ticket's values in other places, and weights rescaled to what is kept.

A ticket differs from a random sparse network in three things: its mask, which value stands where, and the scale of its
values (magnitude pruning keeps what grows large; Frankle & Carbin 2019, appendix F). These functions change one of them
and hold the others (arms as in Zhou et al. 2019, arXiv:1905.01067, section 4).

Functions are for one network and safe under jit and vmap. Masks are pytrees like params, True where a weight is kept;
a *layer* is one prunable leaf, see `pruning`. Leaves that are not prunable (biases) are returned as they are.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ntkgen import tree
from ntkgen.pruning import _masks
from ntkgen.typing import Array, PyTree


def shuffle_values(
    key: Array,
    params: PyTree,
    masks: PyTree,
    places: PyTree,
    *,
    scope: str = "layer",
    prunable: _masks.Prunable = _masks.is_kernel,
) -> PyTree:
    """Return params with the values that `masks` keeps in random order at the weights that `places` keeps.

    With `places` equal to `masks` the survivors' values are shuffled, every order equally likely. The mask and each
    layer's values stay; only which value stands where changes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params = {"kernel": jnp.array([[1.0, 2.0], [3.0, 4.0]])}
      >>> masks = {"kernel": jnp.array([[True, True], [False, False]])}
      >>> sorted(pruning.shuffle_values(jax.random.key(0), params, masks, masks)["kernel"].ravel().tolist())
      [0.0, 0.0, 1.0, 2.0]

    Args:
      key: randomness.
      params: pytree of arrays.
      masks: like params; which values to take.
      places: like params; where to put them. Must keep as many weights as `masks`, in each layer with scope "layer", in
        total with "global"; otherwise values are dropped, or the places that come last are zero.
      scope: "layer" shuffles within each layer, "global" over all layers.
      prunable: which leaves take part.

    Returns:
      Like params; zero where `places` prunes.

    Raises:
      ValueError: trees that do not match, an unknown scope, or nothing prunable; the message names the argument.
    """
    tree.check_like("masks", masks, params)
    tree.check_like("places", places, params)
    if scope not in _masks.SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(_masks.SCOPES)}, got {scope!r}")
    layers, keep, put = _layers(prunable, params, masks, places)
    names = tuple(layers)
    groups = (names,) if scope == "global" else tuple((name,) for name in names)
    return _replace(params, _shuffle(groups, key, layers, keep, put))


def match_std(
    params: PyTree, reference: PyTree, masks: PyTree, *, prunable: _masks.Prunable = _masks.is_kernel
) -> PyTree:
    """Return params whose kept weights have, in each layer, the standard deviation of the reference's kept weights.

    Each layer is multiplied by one factor, so its signs and the shape of its distribution stay. Standard deviations are
    about zero, sqrt(mean(w^2)): an initialisation has mean zero, and a layer that keeps one weight has a scale too.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params, reference = {"kernel": jnp.array([[1.0, -1.0]])}, {"kernel": jnp.array([[3.0, 9.0]])}
      >>> pruning.match_std(params, reference, {"kernel": jnp.array([[True, False]])})["kernel"].tolist()
      [[3.0, 0.0]]

    Args:
      params: pytree of arrays, for example drawn anew.
      reference: like params, for example the ticket's initialisation.
      masks: like params.
      prunable: which leaves take part.

    Returns:
      Like params; zero where `masks` prunes.

    Raises:
      ValueError: trees that do not match, or nothing prunable; the message names the argument.
    """
    tree.check_like("reference", reference, params)
    tree.check_like("masks", masks, params)
    return _replace(params, _match_std(*_layers(prunable, params, reference, masks)))


def scale_to_kept_fan_in(params: PyTree, masks: PyTree, *, prunable: _masks.Prunable = _masks.is_kernel) -> PyTree:
    """Return params in which each unit's kept weights are multiplied by sqrt(fan-in / kept fan-in).

    Weights drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default, become draws from the same rule with the
    number of inputs that the unit keeps: pruning then does not shrink the signal.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> params, masks = {"kernel": jnp.ones((4, 1))}, {"kernel": jnp.array([[True], [False], [False], [False]])}
      >>> pruning.scale_to_kept_fan_in(params, masks)["kernel"].ravel().tolist()
      [2.0, 0.0, 0.0, 0.0]

    Args:
      params: pytree of arrays. The last axis of a kernel counts its units, the others its inputs (Flax's Dense, Conv).
      masks: like params.
      prunable: which leaves take part.

    Returns:
      Like params; zero where `masks` prunes.

    Raises:
      ValueError: trees that do not match, or nothing prunable; the message names the argument.
    """
    tree.check_like("masks", masks, params)
    return _replace(params, _scale_to_kept_fan_in(*_layers(prunable, params, masks)))


def _layers(prunable: _masks.Prunable, params: PyTree, *others: PyTree) -> list[dict[str, Array]]:
    """Return the prunable leaves of params, by name, and the same leaves of trees like it."""
    names = _masks.layers_of("params", params, prunable)
    named = [{_name(path): leaf for path, leaf in jax.tree.leaves_with_path(each)} for each in (params, *others)]
    return [{name: jnp.asarray(each[name]) for name in names} for each in named]


def _replace(params: PyTree, layers: dict[str, Array]) -> PyTree:
    """Return params with other leaves of these names."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: layers.get(_name(path), leaf), params)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


@functools.partial(jax.jit, static_argnums=0)
def _shuffle(
    groups: tuple[tuple[str, ...], ...],
    key: Array,
    layers: dict[str, Array],
    keep: dict[str, Array],
    put: dict[str, Array],
) -> dict[str, Array]:
    found = {}
    for number, group in enumerate(groups):
        values, kept, wanted = (
            jnp.concatenate([jnp.ravel(each[name]) for name in group]) for each in (layers, keep, put)
        )
        kept, wanted = kept.astype(bool), wanted.astype(bool)
        # The survivors first, in random order; the places first, in their own order: value i goes to place i.
        chance = jax.random.permutation(jax.random.fold_in(key, number), values.size)
        source, target = jnp.lexsort((chance, ~kept)), jnp.argsort(~wanted, stable=True)
        filled = jnp.arange(values.size) < jnp.minimum(kept.sum(), wanted.sum())
        values = jnp.zeros_like(values).at[target].set(jnp.where(filled, values[source], 0))
        for name in group:
            size = layers[name].size
            found[name] = values[:size].reshape(layers[name].shape).astype(layers[name].dtype)
            values = values[size:]
    return found


@jax.jit
def _match_std(layers: dict[str, Array], wanted: dict[str, Array], keep: dict[str, Array]) -> dict[str, Array]:
    def one(own: Array, other: Array, kept: Array) -> Array:
        kept = kept.astype(bool)
        own, other = jnp.where(kept, own, 0), jnp.where(kept, other, 0)
        size = jnp.sqrt(jnp.sum(own**2))
        return own * jnp.where(size > 0, jnp.sqrt(jnp.sum(other**2)) / jnp.where(size > 0, size, 1), 1)

    return {name: one(layers[name], wanted[name], keep[name]) for name in layers}


@jax.jit
def _scale_to_kept_fan_in(layers: dict[str, Array], keep: dict[str, Array]) -> dict[str, Array]:
    def one(own: Array, kept: Array) -> Array:
        kept = kept.astype(bool)
        inputs = tuple(range(kept.ndim - 1))
        fan_in = kept.size / kept.shape[-1]
        count = jnp.maximum(kept.sum(inputs, keepdims=True), 1)
        return jnp.where(kept, own * jnp.sqrt(fan_in / count), 0).astype(own.dtype)

    return {name: one(layers[name], keep[name]) for name in layers}
