"""The fused batch norm, ReLU and pooling is the plain formula: values and derivatives, ties and odd sizes included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import models
from ntkgen.models import _batch_norm


def plain(y, pool):
    """The textbook formula, differentiated by JAX."""
    mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
    z = (y - mean[None, None, None]) / jnp.sqrt(var + _batch_norm.EPSILON)[None, None, None]
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
    for got, want in zip(models.norm_relu(y, pool), plain(y, pool), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-13)
    ours, theirs = weighted(models.norm_relu, pool, weights), weighted(plain, pool, weights)
    np.testing.assert_allclose(jax.grad(ours)(y), jax.grad(theirs)(y), rtol=0, atol=1e-12)
    got, want = (jax.jvp(jax.grad(f), (y,), (direction,))[1] for f in (ours, theirs))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


def test_the_first_of_equal_maxima_takes_the_gradient(x64):
    """As in PyTorch. Flat image regions make exact ties; a gradient for each would be up to four times too large."""
    x = jnp.round(draw((2, 8, 8, 3), True)[0])  # many ties within windows
    weights = draw((2, 4, 4, 3), False)[0]
    windows = np.asarray(x).reshape(2, 4, 2, 4, 2, 3)
    assert ((windows == windows.max((2, 4), keepdims=True)).sum((2, 4)) > 1).any()
    torch = pytest.importorskip("torch")
    theirs = torch.tensor(np.moveaxis(np.asarray(x), -1, 1)).requires_grad_()
    pooled = torch.nn.functional.max_pool2d(theirs, 2)
    (pooled * torch.tensor(np.moveaxis(np.asarray(weights), -1, 1))).sum().backward()
    got = jax.grad(lambda x: jnp.sum(models.max_pool(x) * weights))(x)
    np.testing.assert_array_equal(got, np.moveaxis(theirs.grad.numpy(), 1, -1))


@pytest.mark.parametrize("shape", [(9, 8, 8, 2), (13, 8, 8, 1), (5, 16, 24, 3)])
def test_the_compiled_gradient_is_the_eager_one(shape, x64):
    """XLA may compute the normalised input twice with different rounding; no window may lose its maximum to that."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape))
    kernel = jnp.asarray(rng.standard_normal((3, 3, shape[-1], 4)))
    weights = jnp.asarray(rng.standard_normal((shape[0], shape[1] // 2, shape[2] // 2, 4)))
    gradient = jax.grad(lambda k: jnp.sum(models.norm_relu(models.conv3x3(x, k), True)[0] * weights))
    np.testing.assert_allclose(jax.jit(gradient)(kernel), gradient(kernel), rtol=0, atol=1e-10)


def test_shifting_the_input_changes_nothing_but_the_mean(x64):
    """Why a convolution bias before this normalisation has no gradient."""
    y, weights, _ = draw((4, 6, 6, 3), False)
    weights[1] = jnp.zeros_like(weights[1])
    gradient = jax.grad(lambda shift: weighted(models.norm_relu, False, weights)(y + shift[None, None, None]))(
        jnp.zeros(3)
    )
    np.testing.assert_allclose(gradient, 0, atol=1e-12)


def test_a_constant_input_is_finite():
    activations, mean, var = models.norm_relu(jnp.full((2, 4, 4, 3), 7.0), True)
    np.testing.assert_array_equal(var, 0)
    np.testing.assert_array_equal(mean, 7)
    np.testing.assert_array_equal(activations, 0)
