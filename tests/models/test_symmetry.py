"""Params without an effect on the function, and adaptive sharpness that leaves them alone."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import landscape, measure, models, train

KEY = jax.random.key(0)
CONVOLUTIONS = [f"conv{block}_{half}/bias" for block in range(3) for half in range(2)]


@pytest.mark.parametrize(
    ("model", "shape", "want"),
    [
        (models.CNN(1, 3), (8, 8, 2), CONVOLUTIONS),
        (models.CNN(1, 3, affine_norm=True), (8, 8, 2), []),
        (models.MLP(8, 3, 3), (5,), []),
    ],
)
def test_the_rule_for_the_packages_networks_is_what_is_measured(model, shape, want):
    variables = models.init(model, KEY, shape)
    trained = lambda params, x: models.forward_train(model, {**variables, "params": params}, x)[0]  # noqa: E731
    x = jax.random.normal(jax.random.key(1), (16, *shape))
    assert models.without_effect(trained, variables["params"], x) == want == models.cancelled(model)


def test_softmax_cancels_the_bias_of_the_keys():
    model, x = nn.MultiHeadDotProductAttention(2), jax.random.normal(KEY, (3, 5, 4))
    params = model.init(KEY, x, x)["params"]
    assert models.without_effect(lambda p, x: model.apply({"params": p}, x, x), params, x) == ["key/bias"]


def test_a_parameter_nobody_reads_and_one_that_is_zero_by_chance():
    params = {"used": jnp.zeros(3), "gate": jnp.zeros(3), "idle": jnp.ones(3)}
    f = lambda p, x: x * p["used"] * p["gate"]  # noqa: E731  both gradients are zero at the params themselves
    with pytest.raises(ValueError, match=r"^f: expected finite outputs that depend on params"):
        models.without_effect(f, params, jnp.ones(3))
    g = lambda p, x: x * p["used"] * (p["gate"] + 1)  # noqa: E731  that of the gate is
    assert models.without_effect(g, params, jnp.ones(3)) == ["idle"]
    with pytest.raises(ValueError, match=r"^params\['used'\]: expected finite"):
        models.without_effect(g, {**params, "used": params["used"] / 0}, jnp.ones(3))


class Net(nn.Module):
    """A convolution with bias, batch norm in Flax's own form, and a dense layer."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.0, name="norm")(nn.Conv(3, (3, 3), name="conv")(x))
        return nn.Dense(4, name="head")(nn.relu(x).reshape(len(x), -1))


X, Y = jax.random.normal(jax.random.key(1), (20, 4, 4, 2)), jnp.arange(20) % 4


def with_statistics(params):
    """The network with the statistics of X, and its mean loss as a function of params, statistics frozen."""
    _, state = Net().apply({"params": params, "batch_stats": BLANK}, X, train=True, mutable=["batch_stats"])
    return lambda p: jnp.mean(train.cross_entropy(Net().apply({"params": p, **state}, X), Y))


BLANK = {"norm": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}


def test_adaptive_sharpness_is_the_same_for_the_same_function():
    """The biases of the second network are 50 times as large; its statistics take them away again."""
    params = Net().init(KEY, X)["params"]
    params["conv"]["bias"] = jnp.array([0.1, -0.2, 0.3])
    larger = {**params, "conv": {**params["conv"], "bias": 50 * params["conv"]["bias"]}}
    trained = lambda p, x: Net().apply(  # noqa: E731
        {"params": p, "batch_stats": BLANK}, x, train=True, mutable=["batch_stats"]
    )[0]
    unmoved = models.without_effect(trained, params, X)
    assert unmoved == ["conv/bias"] == models.without_effect(trained, larger, X)
    values = [with_statistics(p) for p in (params, larger)]
    np.testing.assert_allclose(values[0](params), values[1](larger), rtol=1e-5)

    def measure(value, params, unmoved):
        average = landscape.average_adaptive_sharpness(value, params, KEY, 0.05, 4, unmoved=unmoved)
        worst = [
            landscape.worst_adaptive_sharpness(value, params, KEY, rho, 4, norm, unmoved=unmoved)
            for rho, norm in ((0.2, "l2"), (0.01, "linf"))
        ]
        return np.array([average.increase, *(one.increase for one in worst)])

    excluded = [measure(value, p, unmoved) for value, p in zip(values, (params, larger), strict=True)]
    assert (excluded[0] > 1e-4).all()
    np.testing.assert_allclose(*excluded, rtol=5e-3)
    # The control: counted, biases that mean nothing decide the number.
    included = [measure(value, p, ()) for value, p in zip(values, (params, larger), strict=True)]
    assert (included[1] > 1.5 * included[0]).all()


def test_the_noise_on_the_other_leaves_is_the_same_with_and_without():
    params = {"a": jnp.arange(1.0, 4), "b": jnp.ones(2)}
    value = lambda p: jnp.sum(p["a"] ** 2)  # noqa: E731
    with_b, without_b = (
        landscape.average_adaptive_sharpness(value, params, KEY, 0.1, 5, unmoved=names) for names in ((), ("b",))
    )
    assert with_b.increase == without_b.increase != 0
    moved = landscape.worst_adaptive_sharpness(lambda p: jnp.sum(p["b"]), params, KEY, 0.1, unmoved=("b",))
    assert moved.increase == 0
    x, y = jnp.ones((1, 1)), jnp.zeros(1)
    flat = [
        measure.flatness(
            lambda p, x: x * jnp.sum(p["b"]), params, KEY, x, y, loss=lambda outputs, y: outputs[:, 0] ** 2,
            options=measure.FlatnessOptions((0.1,), (0.1,), num_samples=2, worst_steps=2, unmoved=names),
        )
        for names in ((), ("b",))
    ]  # fmt: skip
    assert flat[0].average.increase != 0 and flat[0].worst.increase > 0
    assert flat[1].average.increase == flat[1].worst.increase == 0
    assert flat[1].absolute.increase == flat[0].absolute.increase != 0  # the paper's noise goes everywhere


@pytest.mark.parametrize("unmoved", [("c",), "b", ("a", "a/b")])
def test_names_that_are_none_are_refused(unmoved):
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    for sharpness in (landscape.average_adaptive_sharpness, landscape.worst_adaptive_sharpness):
        with pytest.raises(ValueError, match=r"^unmoved: expected names among a, b, got"):
            sharpness(lambda p: jnp.sum(p["a"]), params, KEY, 0.1, 2, unmoved=unmoved)


def test_values_replaced_outside_of_the_network_are_seen():
    state = {"scale": 0.0}
    params = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    f = lambda params, x: x @ params["a"] * state["scale"] + x @ params["b"]  # noqa: E731
    x = np.random.default_rng(0).standard_normal((5, 2)).astype(np.float32)
    assert models.without_effect(f, params, x) == ["a"]
    state["scale"] = 1.0
    assert models.without_effect(f, params, x) == []
