"""What is measured while networks train: each layer's movement, and the tangent kernel.

The store of trained networks knows a probe by its code and arguments: this file imports little.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import ensemble, models, ntk, tree
from ntkgen.typing import PyTree

KERNEL_BUDGET = 3 * 2**30  # bytes for one kernel


@functools.cache
def outputs(model: models.MLP) -> Callable[[PyTree, jax.Array], jax.Array]:
    """Return the network as a function; always the same one, by which compiled kernels are found."""
    return models.apply_fn(model, {})


def moved(params: PyTree, context: ensemble.Context) -> dict[str, jax.Array]:
    """Return each layer's distance from its start, and its norm there: layer -> (2,)."""
    initial = context.initial
    return {
        layer: jnp.stack([tree.norm(tree.axpy(-1.0, initial[layer], params[layer])), tree.norm(initial[layer])])
        for layer in params
    }


def kernel_probe(model: models.MLP, x: jax.Array) -> ensemble.OnHost:
    """Return the probe of the tangent kernel on x, averaged over outputs; NaN where a network has diverged."""
    like = jax.ShapeDtypeStruct((len(x), len(x)), jnp.float32)
    return ensemble.OnHost(functools.partial(kernels_of_seeds, model, x), like)


def kernels_of_seeds(model: models.MLP, x: jax.Array, params: PyTree, context: ensemble.Context) -> np.ndarray:
    """Return the tangent kernels (S, n, n) on x (n, ...) of networks whose params lead with the axis of S seeds."""
    del context
    f, found = outputs(model), []
    for own in by_seed(params):
        if np.isfinite(np.asarray(f(own, x))).all():
            found.append(np.asarray(ntk.empirical_ntk(f, own, x, trace=True, memory_budget=KERNEL_BUDGET)))
        else:
            found.append(np.full((len(x), len(x)), np.nan, np.float32))
    return np.stack(found)


def by_seed(params: PyTree) -> list[PyTree]:
    """Return the trees of the seeds that lead a tree's leaves."""
    count = jax.tree.leaves(params)[0].shape[0]
    return [jax.tree.map(lambda leaf, s=s: jnp.asarray(leaf[s]), params) for s in range(count)]
