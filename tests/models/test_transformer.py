"""The transformer: counts, inputs, what it refuses, and that the instruments measure it. Its numbers: tests/parity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from ntkgen import curvature, models, ntk, pruning, roles, train

SMALL = models.Transformer(4, depth=1, heads=2, num_classes=3)
SHAPE = (8, 8, 1)


def started(model=SMALL, shape=SHAPE, dtype=jnp.float32):
    return jax.jit(lambda key: models.init(model, key, shape, dtype))(jax.random.key(0))


@pytest.mark.parametrize(
    ("given", "shape", "tokens"),
    [
        (dict(width=4, depth=1, heads=2), (8, 8, 1), 16),  # patches of a quarter
        (dict(width=6, depth=3, heads=3, patch=7, num_classes=2), (28, 14, 3), 8),
        (dict(width=4, depth=2, heads=1), (40, 1, 1), 4),  # signals have patches along one side
    ],
)
def test_counts_are_those_of_the_formula(given, shape, tokens):
    model = models.Transformer(**given)
    w, d, k, numbers = model.width, model.depth, model.num_classes, np.prod(shape) // tokens
    count = (numbers + 1) * w + tokens * w + d * (12 * w**2 + 13 * w) + 2 * w + (w + 1) * k
    assert models.num_params(model, shape) == count


def test_patches_are_cut_row_by_row():
    from ntkgen.models._transformer import patches

    x = np.arange(2 * 4 * 4 * 1).reshape(2, 4, 4, 1)
    cut = patches(jnp.asarray(x), 2)
    assert cut.shape == (2, 4, 4)
    np.testing.assert_array_equal(cut[1, 1], x[1, :2, 2:, 0].ravel())


def test_integers_are_tokens_and_positions_tell_their_order():
    variables = started(shape=(5,), dtype=jnp.int32)
    table = variables["params"]["tokens"]["embedding"]
    assert table.shape == (256, 4) and "embed" not in variables["params"]
    f, x = jax.jit(models.apply_fn(SMALL, variables)), jnp.array([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])
    out = f(variables["params"], x)
    assert out.shape == (2, 3) and not np.allclose(out[0], out[1], atol=1e-6)
    without = {**variables["params"], "position": jnp.zeros((5, 4))}
    np.testing.assert_allclose(*f(without, x), atol=1e-6)


def test_training_and_evaluation_are_one_function():
    variables, x = started(), jax.random.normal(jax.random.key(1), (3, *SHAPE))
    assert set(variables) == {"params"}
    outputs, state = jax.jit(lambda v, x: models.forward_train(SMALL, v, x))(variables, x)
    assert state == {}
    f = jax.jit(models.apply_fn(SMALL, variables))
    np.testing.assert_allclose(outputs, f(variables["params"], x), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(width=6, heads=4), "width: expected a multiple of the 4 heads, got 6"),
        (dict(width=0), "width: expected a whole number of at least 1, got 0"),
        (dict(width=4, depth=1.5), "depth: expected a whole number of at least 1, got 1.5"),
        (dict(width=4, heads=True), "heads: expected a whole number of at least 1, got True"),
        (dict(width=4, patch=0), "patch: expected a whole number of at least 1, got 0"),
    ],
)
def test_wrong_attributes_are_refused(given, words):
    with pytest.raises(ValueError, match=f"^{words}$"):
        models.Transformer(**given)


@pytest.mark.parametrize(
    ("patch", "shape", "words"),
    [
        (3, (8, 8, 1), "patch: expected a side that divides the image's 8 x 8 pixels, got 3"),
        (None, (30, 30, 1), "patch: expected a side that divides the image's 30 x 30 pixels, got 7"),
        (
            None,
            (8, 8),
            r"Transformer: expected images \(n, h, w, c\) or integer tokens .* float32 of shape \(1, 8, 8\)",
        ),
    ],
)
def test_wrong_inputs_are_refused(patch, shape, words):
    with pytest.raises(ValueError, match=f"^{words}"):  # JAX adds a note
        models.init(models.Transformer(4, patch=patch), jax.random.key(0), shape)


def test_roles_by_names_are_those_by_modules():
    params = started()["params"]
    own = roles.of(params)
    assert own == roles.from_model(SMALL, jnp.ones((1, *SHAPE)))
    assert own["position"].role == "embedding" and own["block0"]["norm0"]["scale"].role == "scale"
    layers = pruning.layers_of("params", params)
    assert len(layers) == 1 + 6 + 1 and all(np.ndim(leaf) == 2 for leaf in layers.values())
    assert models.output_layer(SMALL) == "head" and "head/kernel" in layers
    with pytest.raises(ValueError, match=r"^model: expected MLP or CNN, whose units form a chain, got Transformer"):
        models.unit_chain(SMALL)


def test_only_the_keys_bias_has_no_effect():
    variables, x = started(), jax.random.normal(jax.random.key(1), (12, *SHAPE))
    found = models.without_effect(models.apply_fn(SMALL, variables), variables["params"], x)
    assert found == models.cancelled(SMALL) == ["block0/key/bias"]


def test_curvature_of_several_seeds_is_that_of_the_dense_hessian():
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.vmap(lambda key: models.init(SMALL, key, SHAPE))(keys)
    x, y = jax.random.normal(jax.random.key(1), (6, *SHAPE)), jnp.array([0, 1, 2, 0, 1, 2])
    v = jax.tree.map(jnp.ones_like, variables["params"])

    def product(own, v):
        f = models.apply_fn(SMALL, own)
        return curvature.hessian_matvec(f, train.cross_entropy, own["params"], x, y)(v)

    found = jax.jit(jax.vmap(product))(variables, v)
    one = jax.tree.map(lambda leaf: leaf[1], variables)
    flat, unravel = ravel_pytree(one["params"])
    f = models.apply_fn(SMALL, one)

    def directional(flat):
        gradient = jax.grad(lambda w: jnp.mean(train.cross_entropy(f(unravel(w), x), y)))(flat)
        return jnp.sum(gradient)  # along ones

    dense = jax.jit(jax.grad(directional))(flat)
    own = ravel_pytree(jax.tree.map(lambda leaf: leaf[1], found))[0]
    np.testing.assert_allclose(own, dense, atol=2e-5 * float(jnp.abs(dense).max()), rtol=0)


def test_the_tangent_kernel_is_that_of_the_jacobian():
    variables, x = started(), jax.random.normal(jax.random.key(1), (3, *SHAPE))
    f, params = models.apply_fn(SMALL, variables), variables["params"]
    jacobian = jax.jit(jax.jacobian(f))(params, x)
    rows = jnp.concatenate([leaf.reshape(3 * 3, -1) for leaf in jax.tree.leaves(jacobian)], 1)
    want = (rows @ rows.T).reshape(3, 3, 3, 3).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(ntk.empirical_ntk(f, params, x), want, rtol=1e-4, atol=1e-5 * float(want.max()))
