"""Layers as matrices, features before the last layer, and rescaled layers: the function stays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import models

KEY = jax.random.key(0)


@pytest.mark.parametrize("parametrization", models.PARAMETRIZATIONS)
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_effective_layers_compute_the_mlp(parametrization, depth):
    model = models.MLP(40, depth, num_classes=3, parametrization=parametrization)
    variables = models.init(model, KEY, (5,))
    x = jax.random.normal(jax.random.key(1), (6, 5))
    a = np.asarray(x, float)
    layers = models.effective_layers(model, variables)
    for index, (kernel, bias) in enumerate(layers):
        features = a
        a = a @ np.asarray(kernel, float) + np.asarray(bias, float)
        a = np.maximum(a, 0) if index < len(layers) - 1 else a
    np.testing.assert_allclose(models.apply_fn(model, variables)(variables["params"], x), a, rtol=2e-4, atol=1e-5)
    found = np.asarray(models.features_fn(model, variables)(variables["params"], x))
    ratio = found[features > 0.01] / features[features > 0.01]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-3)  # mup multiplies the inputs of its last layer


@pytest.mark.parametrize("affine", [False, True])
def test_effective_layers_compute_the_cnn(affine):
    model = models.CNN(2, num_classes=3, affine_norm=affine)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 2))
    variables = models.init(model, KEY, (8, 8, 2))
    draw = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: leaf + jnp.asarray(draw.uniform(0, 0.5, leaf.shape), leaf.dtype), variables)
    a = x
    for index, (kernel, bias) in enumerate(models.effective_layers(model, variables)):
        if kernel.ndim == 4:
            a = jax.lax.conv_general_dilated(a, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            a = jax.nn.relu(a + bias.reshape(1, 1, 1, -1))
            if index % 2:
                n, h, w, c = a.shape
                a = a[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        else:
            features = a = a.reshape(len(a), -1)
            a = a @ kernel + bias.reshape(1, -1)
            a = jax.nn.relu(a) if index == 6 else a
    np.testing.assert_allclose(models.apply_fn(model, variables)(variables["params"], x), a, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        models.features_fn(model, variables)(variables["params"], x), features, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("parametrization", models.PARAMETRIZATIONS)
def test_rescaled_layers_compute_the_same_function(parametrization):
    model = models.MLP(8, 3, parametrization=parametrization)
    variables = models.init(model, KEY, (5,))
    x = jax.random.normal(jax.random.key(1), (6, 5))
    f = models.apply_fn(model, variables)
    for layer in (0, 1):
        other = models.rescaled(model, variables, 4.0, layer)
        np.testing.assert_allclose(f(other["params"], x), f(variables["params"], x), rtol=1e-5, atol=1e-6)
    name = "dense0"
    other = models.rescaled(model, variables, 4.0)["params"]
    np.testing.assert_array_equal(other[name]["kernel"], 4 * variables["params"][name]["kernel"])
    np.testing.assert_array_equal(other["dense1"]["bias"], variables["params"]["dense1"]["bias"])


def test_what_has_no_such_form_is_refused_by_name():
    cnn, mlp = models.CNN(1), models.MLP(3, 2)
    for message, call in (
        ("^model: expected MLP, .* got CNN: batch norm", lambda: models.rescaled(cnn, {}, 2.0)),
        ("^factor: expected a number above 0, got -1", lambda: models.rescaled(mlp, {}, -1)),
        ("^layer: expected 0 to 0", lambda: models.rescaled(mlp, {}, 2.0, 1)),
        ("^model: expected a Flax Linen module, got int", lambda: models.features_fn(3, {})),
        ("^model: expected MLP or CNN", lambda: models.effective_layers(models.BatchNormRelu(), {})),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    norm = models.BatchNormRelu()
    variables = norm.init(KEY, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^model: expected a last Dense layer with inputs \(2"):
        models.features_fn(norm, {"params": {}, **variables})({}, jnp.ones((2, 3)))
