"""Networks of other kinds: each adapter against numbers by hand, and what is refused with which advice."""

import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ntkgen import ensemble, functions, models, ntk, train

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype(np.float32)
Y = np.argmax(X @ RNG.normal(size=(3, 3)), 1)


def dataset(x, y, test=None):
    split = types.SimpleNamespace(x=x, y=y)
    return types.SimpleNamespace(train=split, test=test or split)


def fitted(model, x=X, y=Y, epochs=20, **given):
    config = train.Config(epochs, 8, 0.1, **given)
    return ensemble.fit(model, dataset(x, y), config, 2, options=ensemble.Options(evaluate_at=(1, epochs)))


def falls(result, share=0.8):
    loss = result.history["train_loss"]
    assert np.isfinite(loss[:, -1]).all() and (loss[:, -1] < share * loss[:, 0]).all()


# NNX


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden, self.norm = nnx.Linear(3, 8, rngs=rngs), nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.dropout, self.out = nnx.Dropout(0.3, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(x)))))


def test_nnx_with_batch_norm_and_dropout():
    model = models.from_nnx(lambda rngs: Net(rngs=rngs))
    assert models.num_params(model, (3,)) == 3 * 8 + 8 + 16 + 8 * 3 + 3
    variables = jax.jit(lambda key: models.init(model, key, (3,)))(jax.random.key(0))
    assert set(variables) == {"params", "batch_stats"}
    assert functions.trace_training(model, variables, X)[0] == ("dropout",)

    f = jax.jit(models.apply_fn(model, variables))
    params = jax.tree.map(np.asarray, variables["params"])
    hidden = X @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    active = np.maximum(hidden / np.sqrt(1 + 1e-5), 0)  # fresh statistics: mean 0, variance 1
    want = active @ params["out"]["kernel"] + params["out"]["bias"]
    np.testing.assert_allclose(f(params, X), want, atol=1e-5)

    step = jax.jit(lambda key: models.forward_train(model, variables, jnp.asarray(X), {"dropout": key}))
    (one, state), (same, _), (other, _) = (step(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3
    np.testing.assert_allclose(state["batch_stats"]["norm"]["mean"], 0.1 * hidden.mean(0), atol=1e-6)
    falls(fitted(model))


def test_nnx_tokens():
    class Tokens(nnx.Module):
        def __init__(self, rngs):
            self.table, self.out = nnx.Embed(5, 4, rngs=rngs), nnx.Linear(4, 5, rngs=rngs)

        def __call__(self, x):
            return self.out(self.table(x).mean(1))

    x = RNG.integers(0, 5, (20, 3))
    falls(fitted(models.from_nnx(Tokens), x, x[:, 0]))


def test_nnx_that_draws_in_evaluation_mode_is_refused():
    class Noisy(nnx.Module):
        def __init__(self, rngs):
            self.rngs, self.out = rngs, nnx.Linear(3, 3, rngs=rngs)

        def __call__(self, x):
            return self.out(x) + jax.random.normal(self.rngs.noise(), (1, 3))

    with pytest.raises(ValueError, match=r"^model: expected no random numbers in evaluation mode"):
        fitted(models.from_nnx(Noisy))


class Called(nnx.Module):
    """Its call takes rngs, which it needs in training alone."""

    def __init__(self, rngs):
        self.dropout, self.out = nnx.Dropout(0.5), nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x, scale, rngs):
        return self.out(self.dropout(x * scale[:, None], rngs=rngs))


def test_nnx_whose_call_takes_rngs_and_several_inputs():
    model, x = models.from_nnx(Called), {"scale": np.full(24, 2, np.float32), "x": X}
    variables = functions.init(model, jax.random.key(0), x)
    assert functions.trace_training(model, variables, x)[0] == ("dropout",)
    out = variables["params"]["out"]
    evaluated = models.apply_fn(model, variables)(variables["params"], x)
    np.testing.assert_allclose(evaluated, 2 * X @ out["kernel"] + out["bias"][None], atol=1e-5)
    one, same, other = (
        models.forward_train(model, variables, x, {"dropout": jax.random.key(seed)})[0] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3 < np.abs(one - evaluated).max()


# Plain functions


def linear(key, x):
    return {"kernel": 0.1 * jax.random.normal(key, (x.shape[-1], 3))}


def test_functions_take_the_step_of_the_formula():
    model = models.from_functions(linear, lambda params, x: x @ params["kernel"])
    y = RNG.normal(size=(24, 3)).astype(np.float32)
    config = train.Config(1, optimizer="gd", learning_rate=0.1, schedule="constant", loss="mse")
    found = ensemble.fit(model, dataset(X, y), config, [4])
    before, after = (np.asarray(each["params"]["kernel"][0]) for each in (found.initial, found.variables))
    np.testing.assert_allclose(after, before - 0.1 * X.T @ (X @ before - y) / 24, atol=1e-6)
    assert model == models.from_functions(linear, model.call)  # compiled once


def test_functions_with_state_key_and_switch():
    def init(key, x):
        return linear(key, x), {"count": jnp.zeros(())}

    def apply(params, state, x, train, key):
        assert (key is not None) == train
        keep = jax.random.bernoulli(key, 0.5, x.shape) * 2.0 if train else 1.0
        return (x * keep) @ params["kernel"], {"count": state["count"] + (1.0 if train else 0.0)}

    found = fitted(models.from_functions(init, apply, state=True))
    np.testing.assert_array_equal(found.variables["state"]["count"], [20 * 3.0] * 2)
    falls(found, 1.0)


# Linen


class ResNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        conv = lambda x: nn.Conv(4, (3, 3), use_bias=False)(x)  # noqa: E731
        norm = lambda x: nn.BatchNorm(use_running_average=not train)(x)  # noqa: E731
        x = nn.relu(norm(conv(x)))
        x = nn.relu(x + norm(conv(nn.relu(norm(conv(x))))))
        return nn.Dense(3)(x.mean((1, 2)))


def test_linen_resnet_passes_through():
    model = ResNet()
    assert models.adapt(model) is model
    x = RNG.normal(size=(24, 4, 4, 1)).astype(np.float32)
    falls(fitted(model, x, (x.mean((1, 2, 3)) > 0).astype(int)), 0.9)


class Dense(nn.Module):
    boxed: bool

    @nn.compact
    def __call__(self, x):
        start = nn.initializers.lecun_normal()
        return nn.Dense(3, kernel_init=nn.with_partitioning(start, (None, "model")) if self.boxed else start)(x)


def test_boxed_params_are_trained_as_plain_ones():
    assert models.num_params(Dense(True), (3,)) == 12
    plain, boxed = (fitted(Dense(flag), epochs=2).variables for flag in (False, True))
    jax.tree.map(np.testing.assert_array_equal, boxed, plain)


class Normed(nn.Module):
    axis: str | None = None

    @nn.compact
    def __call__(self, x, scale, train=False):
        x = nn.Dense(4)(x * scale[:, None])
        return nn.Dense(3)(nn.relu(nn.BatchNorm(use_running_average=not train, axis_name=self.axis)(x)))


def test_several_inputs_and_a_named_axis():
    plain, named = Normed(), Normed("batch")
    scale = RNG.uniform(1, 2, 24).astype(np.float32)
    variables = functions.init(named, jax.random.key(0), (X, scale))
    want, state = plain.apply(variables, X, scale, train=True, mutable=["batch_stats"])
    with pytest.raises(NameError):  # the control: Flax alone does not know the axis
        named.apply(variables, X, scale, train=True, mutable=["batch_stats"])
    for x in ((X, scale), {"scale": scale, "x": X}):
        jax.tree.map(np.testing.assert_array_equal, models.forward_train(named, variables, x), (want, state))

    def half(x, scale):  # an axis of the caller's is not replaced: both halves are normalised together
        return models.forward_train(named, variables, (x, scale))[0]

    halves = jax.vmap(half, axis_name="batch")(X.reshape(2, 12, 3), scale.reshape(2, 12))
    np.testing.assert_allclose(halves.reshape(24, 3), want, atol=1e-5)

    dense = variables["params"]["Dense_0"]
    hidden = X * scale[:, None] @ dense["kernel"] + dense["bias"][None]
    refitted = models.refit_statistics(named, variables, x, 12)["batch_stats"]["BatchNorm_0"]
    np.testing.assert_allclose(refitted["mean"], hidden.mean(0), atol=1e-5)

    features = models.features_fn(named, variables)(variables["params"], x)
    np.testing.assert_allclose(features, np.maximum(hidden / np.sqrt(1 + 1e-5), 0), atol=1e-5)  # fresh statistics
    f, rows = models.apply_fn(named, variables), jax.tree.map(lambda leaf: leaf[:4], x)
    found, oracle = (
        ntk.empirical_ntk(f, variables["params"], rows, method=method) for method in ("layerwise", "jacobian")
    )
    np.testing.assert_allclose(found, oracle, rtol=1e-4, atol=1e-4)
    layers = ntk.plan(f, variables["params"], rows, method="layerwise").layers
    assert "own Jacobian" not in {how for name, how in layers if "Dense" in name}


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(x["image"]) + nn.Embed(4, 1)(x["place"])


def test_a_dict_of_inputs_of_a_regression():
    place = RNG.integers(0, 4, 24)
    x = {"image": X, "place": place}
    y = (X[:, :1] + place[:, None]).astype(np.float32)
    falls(fitted(Pair(), x, y, loss="mse"), 0.2)
    for split, words in (
        ({"image": X, "place": place[:5]}, r"^dataset.train.x: expected 24 examples in every input, got shape \(5,\)"),
        ({"image": X, "place": place + 1}, "^dataset.train.x: expected tokens from 0 to 3"),
        ({}, "^dataset.train.x: expected at least one example, got none"),
    ):
        with pytest.raises(ValueError, match=words):
            fitted(Pair(), split, y, loss="mse")
    other = types.SimpleNamespace(x={"image": X}, y=y)
    with pytest.raises(ValueError, match=r"^dataset.test.x: expected examples of shape \{'image': \(3,\), 'place'"):
        ensemble.fit(Pair(), dataset(x, y, other), train.Config(1, 8, loss="mse"), 1)


# Refusals


class Torch:
    """Stands for a torch module, which need not be installed."""

    __module__ = "torch.nn.modules.linear"

    def __call__(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: Net(nnx.Rngs(0)), r"make one with models.from_nnx\(lambda rngs: ...\), got Net"),
        (lambda: jax.nn.relu, r"make one with models.from_functions\(init, apply\), got "),
        (lambda: lambda params, x: x, r"make one with models.from_functions\(init, apply\), got function"),
        (lambda: Torch(), r"write it in Flax, or as functions of JAX for models.from_functions.*, got Torch"),
        (lambda: Dense, r"^model: expected a network, got the class Dense; make one of it first"),
        (lambda: None, "^model: expected a Flax Linen module, or an object with init and apply, got NoneType"),
    ],
)
def test_what_is_no_network_is_refused_with_advice(model, words):
    model = model()
    for call in (
        lambda: fitted(model),
        lambda: models.adapt(model),
        lambda: models.init(model, jax.random.key(0), (3,)),
        lambda: models.num_params(model, (3,)),
        lambda: models.apply_fn(model, {}),
    ):
        with pytest.raises(ValueError, match=words) as error:
            call()
        assert str(error.value).startswith("model: expected") and "\n" not in str(error.value)


def test_wrong_factories_are_refused():
    with pytest.raises(ValueError, match=r"^factory: expected a function rngs -> module, such as .*, got Net$"):
        models.from_nnx(Net(nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"^apply: expected a function, got 3"):
        models.from_functions(linear, 3)
    for adapter in (models.from_equinox, models.from_haiku):
        with pytest.raises(ValueError, match=r"^(factory|function): expected a function .*, got int$"):
            adapter(3)


# Other libraries


def test_equinox():
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        hidden: eqx.nn.Linear
        dropout: eqx.nn.Dropout
        out: eqx.nn.Linear

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.hidden, self.out = eqx.nn.Linear(3, 8, key=one), eqx.nn.Linear(8, 3, key=two)
            self.dropout = eqx.nn.Dropout(0.3)

        def __call__(self, x, key=None):
            return self.out(self.dropout(jax.nn.relu(self.hidden(x)), key=key))

    model = models.from_equinox(lambda key: Network(key))
    assert models.num_params(model, (3,)) == 3 * 8 + 8 + 8 * 3 + 3
    variables = models.init(model, jax.random.key(1), (3,))
    assert set(variables["params"]) == {"hidden", "out"}
    plain = jax.vmap(eqx.nn.inference_mode(Network(jax.random.key(1))))(X)
    np.testing.assert_allclose(models.apply_fn(model, variables)(variables["params"], X), plain, atol=1e-6)
    falls(fitted(model))
    with pytest.raises(ValueError, match=r"models.from_equinox\(lambda key: ...\), got Network$"):
        fitted(Network(jax.random.key(0)))


def test_equinox_with_batch_norm():
    eqx = pytest.importorskip("equinox")

    class Network(eqx.Module):
        hidden: eqx.nn.Linear
        norm: eqx.nn.BatchNorm
        out: eqx.nn.Linear

        def __init__(self, key):
            one, two = jax.random.split(key)
            self.hidden, self.out = eqx.nn.Linear(3, 8, key=one), eqx.nn.Linear(8, 3, key=two)
            self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")

        def __call__(self, x, state):
            x, state = self.norm(self.hidden(x), state)
            return self.out(jax.nn.relu(x)), state

    found = fitted(models.from_equinox(lambda key: eqx.nn.make_with_state(Network)(key)))
    assert set(found.variables) == {"params", "state"}
    falls(found)


def test_haiku():
    hk = pytest.importorskip("haiku")

    def network(x, is_training):
        x = hk.BatchNorm(True, True, 0.9)(hk.Linear(8)(x), is_training)
        x = hk.dropout(hk.next_rng_key(), 0.3, x) if is_training else x
        return hk.Linear(3)(jax.nn.relu(x))

    model = models.from_haiku(network)
    assert models.num_params(model, (3,)) == 3 * 8 + 8 + 16 + 8 * 3 + 3
    found = fitted(model)
    assert set(found.variables) == {"params", "batch_stats"}
    falls(found)
    with pytest.raises(ValueError, match=r"models.from_haiku\(function\), got Transformed"):
        fitted(hk.transform(network))
