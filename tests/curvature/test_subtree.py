"""The curvature of one layer is its block of the whole network's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ntkgen import curvature, functions, measure, models, spectrum, train, tree

MODEL = models.MLP(3, depth=3, num_classes=2)
X = jax.random.normal(jax.random.key(1), (6, 4))
Y = jnp.array([0, 1, 1, 0, 1, 0])
VARIABLES = models.init(MODEL, jax.random.key(0), (4,))
PARAMS = VARIABLES["params"]
F = models.apply_fn(MODEL, VARIABLES)


def test_block_of_the_dense_hessian():
    with jax.enable_x64(True):
        params = tree.cast(PARAMS, jnp.float64)
        flat, restore = ravel_pytree(params)
        dense = jax.hessian(lambda w: jnp.mean(train.cross_entropy(F(restore(w), X.astype(jnp.float64)), Y)))(flat)
        chosen = restore(jnp.arange(len(flat)))
        rows = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(chosen["dense1"])]).astype(int)
        x = X.astype(jnp.float64)
        matvec = curvature.hessian_matvec(F, train.cross_entropy, params, x, Y, chunk=4, only="dense1")
        part = tree.partition(params, "dense1")[0]
        own, restore_part = ravel_pytree(part)
        block = np.stack([ravel_pytree(matvec(restore_part(row)))[0] for row in np.eye(len(own))])
    np.testing.assert_allclose(block, dense[np.ix_(rows, rows)], atol=1e-12)


@pytest.mark.parametrize(
    "make",
    [
        lambda **only: curvature.ggn_matvec(F, train.cross_entropy, PARAMS, X, Y, **only),
        lambda **only: curvature.fisher_matvec(F, PARAMS, X, **only),
        lambda **only: curvature.gradient_covariance_matvec(F, train.cross_entropy, PARAMS, X, Y, **only),
    ],
)
def test_other_products_of_two_layers(make):
    only = ("dense0/kernel", "dense2")
    part, rest = tree.partition(PARAMS, only)
    v = tree.random_like(jax.random.key(2), part)
    zeros = jax.tree.map(jnp.zeros_like, rest)
    whole = tree.partition(make()(tree.combine(v, zeros)), only)[0]
    for ours, theirs in zip(jax.tree.leaves(make(only=only)(v)), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_spectrum_trace_and_density_of_one_layer():
    f, part = functions.restrict(F, PARAMS, "dense2")
    start = measure.random_start(jax.random.key(0), part)
    found = measure.spectral(
        f, part, start, jax.random.key(1), X, Y, loss=train.cross_entropy, options=measure.SpectralOptions(8, 1e-4, 24)
    )
    matvec = curvature.hessian_matvec(F, train.cross_entropy, PARAMS, X, Y, only="dense2")
    size = tree.size(part)
    restore = ravel_pytree(part)[1]
    dense = np.stack([ravel_pytree(matvec(restore(row)))[0] for row in np.eye(size, dtype=np.float32)])
    np.testing.assert_allclose(found.top.value, np.linalg.eigvalsh(dense)[-1], rtol=1e-3)
    assert abs(float(found.trace.value) - np.trace(dense)) <= 5 * float(found.trace.standard_error) + 1e-4
    density = spectrum.density(matvec, part, jax.random.key(2), 8, 4)
    assert abs(float(density.moments[0]) - np.trace(dense) / size) <= 5 * float(density.moment_errors[0]) + 1e-5


def test_unknown_layer_is_named():
    with pytest.raises(ValueError, match=r"only: expected paths .* dense0, dense1, dense2, got 'dense3'"):
        curvature.hessian_matvec(F, train.cross_entropy, PARAMS, X, Y, only="dense3")
