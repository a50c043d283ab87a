"""The fast convolution is XLA's convolution: values, derivatives of first and second order, vmap, loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ntkgen import models
from ntkgen.models import _convolution

# (n, h, w, channels in, channels out): few channels in runs of eight and not, many channels, odd sizes, one image.
SHAPES = [(5, 8, 16, 3, 4), (5, 6, 7, 3, 4), (6, 9, 5, 8, 6), (1, 4, 8, 1, 2), (7, 3, 3, 5, 5), (4, 32, 32, 40, 3)]


def plain(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_convolution.NHWC)


def draw(shape, dtype, seed=0):
    n, h, w, ci, co = shape
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(s) for s in ((n, h, w, ci), (3, 3, ci, co), (n, h, w, co))]
    return [jnp.asarray(a, dtype) for a in arrays]


def loss(convolve, g):
    """A function with a curvature of its own in both arguments."""
    return lambda x, k: jnp.sum(g * jnp.tanh(convolve(x, k)))


@pytest.mark.parametrize("shape", SHAPES)
def test_value_gradient_and_hessian_vector_product_are_xlas(shape, x64):
    x, k, g = draw(shape, jnp.float64)
    dx, dk, _ = draw(shape, jnp.float64, seed=1)
    ours, theirs = loss(models.conv3x3, g), loss(plain, g)
    np.testing.assert_allclose(models.conv3x3(x, k), plain(x, k), rtol=0, atol=1e-11)
    got, want = (jax.jit(jax.grad(f, (0, 1)))(x, k) for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), got, want)
    got, want = (jax.jvp(jax.grad(f, (0, 1)), (x, k), (dx, dk))[1] for f in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9), got, want)


def test_reverse_over_reverse(x64):
    x, k, g = draw((3, 6, 6, 5, 4), jnp.float64)
    direction = draw((3, 6, 6, 5, 4), jnp.float64, seed=1)[1]

    def along(f):
        return jax.grad(lambda k: jnp.vdot(jax.grad(f, 1)(x, k), direction))(k)

    np.testing.assert_allclose(along(loss(models.conv3x3, g)), along(loss(plain, g)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (1, 2)])
def test_vmap_over_either_argument(axes, x64):
    x, k, g = draw((3, 8, 8, 5, 4), jnp.float64)
    xs = x if axes[0] is None else jnp.stack([x, 2 * x, x - 1], axes[0])
    ks = k if axes[1] is None else jnp.stack([k, k + 1, -k], axes[1])
    for derivative in (lambda f: f, lambda f: jax.grad(f, (0, 1))):
        got = jax.vmap(derivative(loss(models.conv3x3, g)), axes)(xs, ks)
        want = jax.vmap(derivative(loss(plain, g)), axes)(xs, ks)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), got, want)


def test_float32_in_a_loop():
    """The kernel gradient sums 1,024 products of size one, about 1e-6 of rounding times their root sum square, 32."""
    x, k, g = draw((4, 16, 16, 8, 8), jnp.float32)

    def repeat(f):
        step = jax.grad(loss(f, g), 1)
        return jax.jit(lambda k: lax.scan(lambda k, _: (k - 0.01 * step(x, k), None), k, None, length=3)[0])(k)

    np.testing.assert_allclose(repeat(models.conv3x3), repeat(plain), rtol=0, atol=1e-4)


@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_the_precision_asked_for_survives_the_callers_jit(platform):
    """It holds for convolution and both gradients, though XLA's program is made outside of the context."""
    x, k, g = draw((2, 8, 8, 5, 4), jnp.float32)

    def gradient(x, k):
        with jax.default_matmul_precision("highest"):
            return jax.grad(loss(models.conv3x3, g), (0, 1))(x, k)

    with jax.default_matmul_precision("default"):
        text = jax.jit(gradient).trace(x, k).lower(lowering_platforms=(platform,)).as_text()
    products = [
        line for line in text.splitlines() if "stablehlo.convolution" in line or "stablehlo.dot_general" in line
    ]
    assert len(products) == 3 and all(line.count("HIGHEST") == 2 for line in products)


LAYERS = [
    {},
    {"strides": 2},
    {"padding": "VALID"},
    {"padding": ((0, 2), (1, 1))},
    {"kernel_dilation": 2},
    {"feature_group_count": 2},
    {"kernel_size": (1, 1)},
    {"kernel_size": (5, 3)},
]


@pytest.mark.parametrize("options", LAYERS, ids=str)
def test_flax_layers_of_every_kind_compute_what_flax_computes(options, x64):
    """What is not a plain 3x3 convolution falls through to XLA, with its options intact."""
    options = {"kernel_size": (3, 3), **options}
    x = draw((2, 9, 8, 4, 6), jnp.float64)[0]
    theirs = nn.Conv(6, **options)
    ours = nn.Conv(6, **options, conv_general_dilated=_convolution.conv_general_dilated)
    variables = theirs.init(jax.random.key(0), x)
    np.testing.assert_allclose(ours.apply(variables, x), theirs.apply(variables, x), rtol=0, atol=1e-12)


def test_a_plain_layer_does_take_the_primitive():
    layer = nn.Conv(6, (3, 3), padding=1, conv_general_dilated=_convolution.conv_general_dilated)
    x = jnp.zeros((2, 8, 8, 4))
    variables = layer.init(jax.random.key(0), x)
    assert "conv3x3" in str(jax.make_jaxpr(layer.apply)(variables, x))


@pytest.mark.parametrize(
    ("x", "kernel", "named"),
    [
        (jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 4, 5)), r"\(3, 3, 3, channels out\)"),
        (jnp.zeros((8, 8, 3)), jnp.zeros((3, 3, 3, 5)), "kernel"),
        (jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5), jnp.bfloat16), "dtype"),
    ],
)
def test_what_does_not_fit_is_refused(x, kernel, named):
    with pytest.raises(ValueError, match=named):
        models.conv3x3(x, kernel)
