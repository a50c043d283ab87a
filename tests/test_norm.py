"""The fused batch norm, ReLU and pooling is the plain formula: values and derivatives, ties and odd sizes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import norm


def plain(y, pool):
    """The textbook formula, differentiated by JAX."""
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    z = (y - mean[None, None, None]) / jnp.sqrt(var + norm.EPSILON)[None, None, None]
    if pool:
        n, h, w, c = z.shape
        z = z[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
    return jnp.maximum(z, 0), mean, var


def weighted(f, pool, weights):
    """A scalar that uses all three outputs, with curvature."""

    def scalar(y):
        activations, mean, var = f(y, pool)
        wa, wm, wv = weights
        return jnp.sum(wa * activations**2) + jnp.sum(wm * mean) + jnp.sum(wv * var)

    return scalar


def draw(shape, pool, seed=0):
    rng = np.random.default_rng(seed)
    y = jnp.asarray(rng.standard_normal(shape) * 2 + 1)
    outputs = jax.eval_shape(lambda y: plain(y, pool), y)
    return y, [jnp.asarray(rng.standard_normal(o.shape)) for o in outputs], jnp.asarray(rng.standard_normal(shape))


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shape", [(4, 6, 8, 3), (3, 7, 5, 2)])
def test_values_gradients_and_hessian_vector_products(shape, pool, x64):
    y, weights, direction = draw(shape, pool)
    for got, want in zip(norm.norm_relu(y, pool), plain(y, pool), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    ours, theirs = weighted(norm.norm_relu, pool, weights), weighted(plain, pool, weights)
    np.testing.assert_allclose(jax.grad(ours)(y), jax.grad(theirs)(y), rtol=0, atol=1e-12)
    got, want = (jax.jvp(jax.grad(f), (y,), (direction,))[1] for f in (ours, theirs))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


def test_equal_maxima_share_the_gradient(x64):
    """Flat image regions make exact ties; counting the gradient once for each would multiply it by up to four."""
    y, weights, _ = draw((2, 8, 8, 3), True)
    y = jnp.round(y)  # many ties within windows
    z = np.asarray(y).reshape(2, 4, 2, 4, 2, 3)
    assert ((z == z.max((2, 4), keepdims=True)).sum((2, 4)) > 1).any()
    ours, theirs = weighted(norm.norm_relu, True, weights), weighted(plain, True, weights)
    np.testing.assert_allclose(jax.grad(ours)(y), jax.grad(theirs)(y), rtol=0, atol=1e-12)


def test_shifting_the_input_changes_nothing_but_the_mean(x64):
    """Why a convolution bias before this normalisation has no gradient."""
    y, weights, _ = draw((4, 6, 6, 3), False)
    weights[1] = jnp.zeros_like(weights[1])
    gradient = jax.grad(lambda shift: weighted(norm.norm_relu, False, weights)(y + shift[None, None, None]))(
        jnp.zeros(3)
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_a_constant_input_is_finite():
    activations, mean, var = norm.norm_relu(jnp.full((2, 4, 4, 3), 7.0), True)
    np.testing.assert_array_equal(var, 0)
    np.testing.assert_array_equal(mean, 7)
    np.testing.assert_array_equal(activations, 0)
