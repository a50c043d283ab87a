"""Optimizers and schedules as optax objects: against optax by hand, what is refused, and what the store is told."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkgen import ensemble, models, records, train

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(12, 3)).astype(np.float32), RNG.integers(0, 2, 12)
DATA = types.SimpleNamespace(train=types.SimpleNamespace(x=X, y=Y), test=types.SimpleNamespace(x=X, y=Y))
MODEL = models.MLP(4, depth=2, num_classes=2)


def by_hand(optimizer, start, steps):
    """Full-batch steps of an optax optimizer."""

    def loss(params):
        return jnp.mean(train.cross_entropy(models.apply_fn(MODEL, {})(params, X), Y))

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params, state = start, optimizer.init(start)
    for _ in range(steps):
        params, state = step(params, state)
    return params


def assert_close(ours, theirs):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-6), ours, theirs)


def fit(config, seeds=(3, 5), **given):
    return ensemble.fit(MODEL, DATA, config, seeds, **given)


def test_a_chain_with_clipping_steps_as_optax_does():
    optimizer = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.05, weight_decay=0.1))
    found = fit(train.Config(4, batch_size=12, optimizer=optimizer))
    assert np.isnan(found.history["learning_rate"]).all() and np.isfinite(found.history["train_loss"]).all()
    for s in range(2):
        start, end = (
            jax.tree.map(lambda leaf, s=s: leaf[s], each["params"]) for each in (found.initial, found.variables)
        )
        assert_close(end, by_hand(optimizer, start, 4))


def test_a_schedule_by_the_step_goes_on_over_epochs():
    schedule = optax.linear_schedule(0.2, 0.0, 6)
    config = train.Config(3, batch_size=6, learning_rate=schedule, momentum=0.5)
    plain = optax.chain(optax.trace(0.5), optax.scale_by_learning_rate(schedule))
    own = train.Config(3, batch_size=6, optimizer=plain)
    one, other = (fit(each).variables for each in (config, own))
    assert_close(one, other)
    constant = fit(train.Config(3, batch_size=6, learning_rate=lambda step: 0.2, momentum=0.5)).variables
    same = fit(train.Config(3, batch_size=6, learning_rate=0.2, momentum=0.5, schedule="constant")).variables
    assert_close(constant, same)
    assert not np.allclose(constant["params"]["dense0"]["kernel"], one["params"]["dense0"]["kernel"], atol=1e-4)


def test_pruned_weights_stay_zero():
    shapes = jax.eval_shape(lambda key: models.init(MODEL, key, (3,)), jax.random.key(0))["params"]
    masks = jax.tree.map(
        lambda leaf: np.broadcast_to(np.arange(leaf.size).reshape(leaf.shape) % 2, (2, *leaf.shape)), shapes
    )
    noisy = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.sgd(0.1))
    found = fit(train.Config(2, batch_size=6, optimizer=noisy), masks=masks).variables["params"]
    jax.tree.map(lambda leaf, mask: np.testing.assert_array_equal(np.asarray(leaf) != 0, mask == 1), found, masks)


def test_configs_are_hashable_equal_and_named():
    optimizer = optax.adam(0.1)
    config = train.Config(2, optimizer=optimizer)
    assert config == train.Config(2, optimizer=optimizer) and hash(config) == hash(dataclasses.replace(config))
    assert config.learning_rate is None and train.Config(2).learning_rate == 0.01
    by_step = train.Config(2, learning_rate=optax.constant_schedule(0.1))
    assert train.Program.of(MODEL, by_step, 128) == train.Program.of(MODEL, by_step, 128)  # compiled once


def test_the_store_tells_optimizers_apart():
    one, same, other, clipped = (
        records.describe(train.Config(2, optimizer=optimizer))
        for optimizer in (
            optax.adamw(0.1), optax.adamw(0.1), optax.adamw(0.2), optax.chain(optax.clip(1.0), optax.adamw(0.1))
        )
    )  # fmt: skip
    assert one == same and one != other and one != clipped
    cosine = [
        records.describe(train.Config(2, learning_rate=optax.cosine_decay_schedule(rate, 9))) for rate in (1, 1, 2)
    ]
    assert cosine[0] == cosine[1] != cosine[2]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            dict(optimizer=optax.adam(0.1), learning_rate=0.1),
            "learning_rate: expected none with an optax object, .* 0.1$",
        ),
        (dict(optimizer=optax.adam(0.1), momentum=0.9), "momentum: expected none with an optax object, .*, got 0.9$"),
        (dict(optimizer=optax.adam(0.1), weight_decay=0.1), "weight_decay: expected none with an optax object"),
        (dict(optimizer=optax.adam), "optimizer: expected one of sgd, adam, gd or an optax object, got <function adam"),
        (dict(learning_rate=lambda: 0.1), "learning_rate: expected a hashable function of the step .*, got TypeError"),
        (dict(learning_rate=lambda step: [1, 2]), "learning_rate: expected a hashable function of the step"),
        (dict(learning_rate=-1), "learning_rate: expected a positive number or a function of the step, got -1$"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(ValueError, match=f"^{words}"):
        train.Config(2, **given)


def test_an_optimizer_that_needs_more_than_gradients_is_refused():
    with pytest.raises(ValueError, match=r"^optimizer: expected an optax object that takes gradients and params, got"):
        fit(train.Config(1, batch_size=6, optimizer=optax.lbfgs()))
