"""One run: configuration, one epoch against a plain loop and the numpy oracle, masks, update hook, evaluation."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from ntkgen import models, train
from ntkgen.train import _run

OPTIMIZERS = ("sgd", "adam", "gd")
MODEL, SHAPE, CLASSES, NUM, BATCH = models.MLP(5, depth=3, num_classes=3), (2, 2, 1), 3, 11, 4


def drawn(num=NUM, dtype=np.float64, model=MODEL, shape=SHAPE):
    """Variables and a data set, drawn with numpy."""
    shapes = jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(num, *shape)), rng.integers(0, CLASSES, num).astype(np.int32)
    variables = jax.tree.map(lambda a: jnp.asarray(a, dtype), reference.random_variables(shapes, seed=1))
    return variables, train.Batch(jnp.asarray(x, dtype), jnp.asarray(y))


@functools.cache
def jitted(program):
    """One compilation a program, for all tests that share it."""
    return jax.jit(functools.partial(train.train_epoch, program))


def run_epoch(config, variables, data, *, epoch=0, mask=None, update=None):
    """Train for one epoch with seed 1's batch order; return the state."""
    program = train.Program.of(MODEL, config, len(data.y), update)
    state = train.init_state(program, variables, mask)
    return jitted(program)(state, train.run_keys(1).order, epoch, jnp.asarray(config.rate(epoch)), data, mask)


# Configuration

BAD = {
    "epochs": [0, -1, 10**8, 2.0, 1.5, np.nan, None, "3", True, [3]],
    "batch_size": [0, -1, 128.0, np.nan, None, "128", True],
    "learning_rate": [0, 0.0, -0.1, 10**400, np.nan, np.inf, "0.1", True, [0.1]],
    "optimizer": ["rmsprop", "SGD", "", None, 0, ["sgd"]],
    "momentum": [-0.1, 1, 1.5, np.nan, np.inf, "0.9", False, [0.9]],
    "schedule": ["step", "Cosine", None, 1],
    "weight_decay": [-1e-9, np.nan, np.inf, None, "0", False],
    "loss": ["hinge", "MSE", None, 2, [1]],
    "vary": ["none", "Both", None, 0],
    "stop_loss": [0, -0.1, np.nan, np.inf, "0.1", True],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_values_are_refused_by_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected .*, got "):
        train.Config(**{"epochs": 3, name: value})


def test_every_field_is_checked_above():
    assert set(BAD) == set(train.Config.__dataclass_fields__)


GOOD = {
    "epochs": [1, np.int64(3)], "batch_size": [1, np.int32(5)], "learning_rate": [1, 1e-9, np.float32(0.1)],
    "optimizer": OPTIMIZERS, "momentum": [0, 0.0, 0.999, np.float64(0.5)], "schedule": ["cosine", "constant"],
    "weight_decay": [0, 0.0, 5.0], "loss": ["cross_entropy", "mse", max], "vary": ["both", "init", "order"],
    "stop_loss": [None, 1, 0.01, np.float32(0.5)],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_good_values_are_kept(name, value):
    assert getattr(train.Config(**{"epochs": 3, name: value}), name) == value


def test_defaults_are_the_appendixs():
    config = train.Config(2)
    assert (config.batch_size, config.learning_rate, config.optimizer, config.momentum) == (128, 0.01, "sgd", 0.9)
    assert (config.schedule, config.weight_decay, config.loss, config.vary) == ("cosine", 0.0, "cross_entropy", "both")
    assert train.Config(2, optimizer="gd").momentum == 0.0
    assert train.Config(2, optimizer="gd", momentum=0.9).momentum == 0.9
    assert train.Config(2, momentum=0).momentum == 0


def test_config_is_frozen_and_hashable():
    config = train.Config(2)
    with pytest.raises(AttributeError):
        config.epochs = 3
    assert hash(config) == hash(train.Config(2)) and config == train.Config(2, momentum=0.9)


def test_batches_larger_than_the_data_are_refused():
    with pytest.raises(ValueError, match="batch_size: expected at most the 11 training examples, got 12"):
        train.Program.of(MODEL, train.Config(1, 12), 11)
    assert train.Program.of(MODEL, train.Config(1, 11), 11).batch_size == 11
    assert train.Program.of(MODEL, train.Config(1, 12, optimizer="gd"), 11).batch_size == 11


def test_program_leaves_out_what_must_not_recompile():
    one, other = train.Config(1, 4, 0.1, schedule="constant", vary="init"), train.Config(9, 4, 0.2)
    assert train.Program.of(MODEL, one, NUM) == train.Program.of(MODEL, other, NUM)


# Keys and orders


def data_of(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_run_keys_vary_what_they_should():
    keys = {vary: [train.run_keys(seed, vary) for seed in range(3)] for vary in train.VARY}
    distinct = {
        vary: (len({data_of(k.init) for k in own}), len({data_of(k.order) for k in own})) for vary, own in keys.items()
    }
    assert distinct == {"both": (3, 3), "init": (3, 1), "order": (1, 3)}
    # What stands still is seed 0's, what varies is the same as with "both": runs of different protocols pair up.
    for vary, own in keys.items():
        assert data_of(own[0].init) == data_of(keys["both"][0].init), vary
        assert data_of(own[0].order) == data_of(keys["both"][0].order), vary
    assert data_of(keys["init"][2].init) == data_of(keys["both"][2].init)
    assert data_of(keys["order"][2].order) == data_of(keys["both"][2].order)
    assert all(data_of(k.init) != data_of(k.order) for own in keys.values() for k in own)


def test_batch_orders_are_permutations_that_change_with_epoch_and_seed():
    orders = [
        tuple(np.asarray(train.batch_order(train.run_keys(seed).order, epoch, 20)).tolist())
        for seed in range(3)
        for epoch in range(3)
    ]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len(set(orders)) == 9
    again = train.batch_order(train.run_keys(2).order, jnp.asarray(1), 20)
    np.testing.assert_array_equal(again, orders[7])


# One epoch


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_epochs_are_the_oracles(optimizer, weight_decay):
    variables, data = drawn()
    loss = "mse" if optimizer == "gd" else "cross_entropy"
    config = train.Config(3, BATCH, 0.1, optimizer=optimizer, weight_decay=weight_decay, loss=loss)
    program, order_key = train.Program.of(MODEL, config, NUM), train.run_keys(1).order
    state = train.init_state(program, variables)
    for epoch in range(3):
        state = jitted(program)(state, order_key, epoch, jnp.asarray(config.rate(epoch)), data)
    expected = reference.train_mlp(
        jax.tree.map(np.asarray, variables["params"]), np.asarray(data.x), np.asarray(data.y),
        [np.asarray(train.batch_order(order_key, epoch, NUM)) for epoch in range(3)],
        batch_size=NUM if optimizer == "gd" else BATCH, rates=[reference.cosine(0.1, epoch, 3) for epoch in range(3)],
        optimizer=optimizer, momentum=config.momentum, weight_decay=weight_decay, loss=loss,
    )  # fmt: skip
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), state.variables["params"], expected
    )


class Normed(nn.Module):
    """Dense - batch norm and ReLU - dense: everything that a CNN carries through an epoch, quick to compile."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        return nn.Dense(CLASSES)(models.BatchNormRelu()(x, train))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("num", "batch"), [(11, 4), (8, 4), (5, 5), (5, 4)])
def test_an_epoch_is_its_steps_one_by_one(num, batch):
    # With and without a remainder, a single batch, a remainder of one; batch statistics are carried along.
    variables, data = drawn(num, model=Normed())
    program = train.Program.of(Normed(), train.Config(1, batch), num)
    key, rate = train.run_keys(1).order, jnp.asarray(0.1)
    epoch = jitted(program)(train.init_state(program, variables), key, 2, rate, data)
    step = jax.jit(functools.partial(train.train_step, program))
    state, order = train.init_state(program, variables), train.batch_order(key, 2, num)
    for start in range(0, num, batch):
        rows = order[start : start + batch]
        state = step(state, train.Batch(data.x[rows], data.y[rows]), rate, None, None)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), epoch, state)
    before, after = (v["batch_stats"]["BatchNormRelu_0"]["mean"] for v in (variables, epoch.variables))
    assert np.abs(after - before).min() > 1e-4


def test_gd_is_one_full_batch_step_an_epoch():
    variables, data = drawn(dtype=np.float32)
    config = train.Config(1, BATCH, 0.1, optimizer="gd")
    state = run_epoch(config, variables, data)

    def loss(params):
        return train.cross_entropy(models.apply_fn(MODEL, variables)(params, data.x), data.y).mean()

    gradient = jax.grad(loss)(variables["params"])
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
    # The examples are summed in the epoch's order, not in theirs: rounding of a mean of eleven terms of order one.
    tolerance = {"rtol": 1e-5, "atol": 0.1 * NUM * np.finfo(np.float32).eps}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), state.variables["params"], expected)


def test_variables_keep_their_dtype_whatever_the_rates():
    variables, data = drawn(dtype=np.float32)
    state = run_epoch(train.Config(1, BATCH, 1, schedule="constant"), variables, data)
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {np.dtype(np.float32)}


# Masks


def some_mask(params, dtype=np.float32):
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda p: jnp.asarray(rng.random(p.shape) < 0.6, dtype), params)


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_entries_stay_exactly_zero_with_their_buffers(optimizer, weight_decay):
    variables, data = drawn(dtype=np.float32)
    mask = some_mask(variables["params"], bool if weight_decay else np.float32)
    config = train.Config(2, BATCH, 0.1, optimizer=optimizer, momentum=0.9, weight_decay=weight_decay)
    state = run_epoch(config, variables, data, mask=mask)
    buffers = [
        tree
        for tree in jax.tree.leaves(state.opt_state, is_leaf=lambda n: isinstance(n, dict))
        if isinstance(tree, dict)
    ]
    assert len(buffers) == (2 if optimizer == "adam" else 1)
    for tree in (state.variables["params"], *buffers):
        # Masked: zero to the bit. Kept: in use, but for a few dead units.
        zero, used = (
            np.concatenate(
                [
                    np.ravel(np.asarray(a)[np.asarray(m, bool) == keep])
                    for a, m in zip(*map(jax.tree.leaves, (tree, mask)), strict=True)
                ]
            )
            for keep in (False, True)
        )
        assert np.all(zero == 0) and len(zero) > 10
        assert np.mean(used != 0) > 0.5


def test_a_mask_of_ones_changes_nothing():
    variables, data = drawn(dtype=np.float32)
    config = train.Config(1, BATCH, 0.1)
    masked = run_epoch(config, variables, data, mask=jax.tree.map(jnp.ones_like, variables["params"]))
    plain = run_epoch(config, variables, data)
    # Multiplying by one is exact; XLA may fuse the two programs differently.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), masked, plain)


def test_masks_leave_the_callers_variables_alone():
    variables, _ = drawn(dtype=np.float32)
    before = jax.tree.map(np.array, variables)
    program = train.Program.of(MODEL, train.Config(1, BATCH), NUM)
    state = train.init_state(program, variables, jax.tree.map(jnp.zeros_like, variables["params"]))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(state.variables["params"]))
    jax.tree.map(np.testing.assert_array_equal, variables, before)


# The update hook


def plain_update(loss, params, batch, key):
    return jax.grad(loss, has_aux=True)(params, batch)


def weighted_update(loss, params, batch, key):
    """Random sample weights, as injected noise uses them."""
    weights = jax.random.exponential(key, batch.y.shape, batch.x.dtype)
    return jax.grad(loss, has_aux=True)(params, batch, weights)


@pytest.mark.usefixtures("x64")
def test_the_plain_gradient_as_update_changes_nothing():
    variables, data = drawn()
    config = train.Config(1, BATCH, 0.1)
    ours, plain = run_epoch(config, variables, data, update=plain_update), run_epoch(config, variables, data)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, plain)


@pytest.mark.usefixtures("x64")
def test_update_gets_loss_params_batch_and_a_key_of_its_own():
    variables, data = drawn()
    seen = []

    def record(*values):
        params, batch, key_data, value, halved, state = jax.tree.map(np.asarray, values)
        seen.append((params, batch, tuple(key_data.tolist()), value, halved, state))

    def update(loss, params, batch, key):
        gradient, state = jax.grad(loss, has_aux=True)(params, batch)
        values = [loss(params, batch, *weights)[0] for weights in ((), (jnp.full(batch.y.shape, 0.5),))]
        jax.debug.callback(record, params, batch, jax.random.key_data(key), *values, state, ordered=True)
        return gradient, state

    config = train.Config(1, BATCH, 0.1)
    for epoch in (0, 1):
        run_epoch(config, variables, data, epoch=epoch, update=update)
    jax.effects_barrier()
    assert len(seen) == 6 and len({key for _, _, key, *_ in seen}) == 6  # no step's key comes twice
    order = np.concatenate([np.asarray(train.batch_order(train.run_keys(1).order, e, NUM)) for e in (0, 1)])
    np.testing.assert_array_equal(np.concatenate([batch.y for _, batch, *_ in seen]), np.asarray(data.y)[order])
    np.testing.assert_array_equal(np.concatenate([batch.x for _, batch, *_ in seen]), np.asarray(data.x)[order])
    params, batch, _, value, halved, state = seen[0]
    expected = reference.cross_entropy(reference.mlp(params, batch.x), batch.y)[0].mean()
    np.testing.assert_allclose([value, 2 * halved], expected, rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, params, variables["params"])
    assert state == {}
    assert not np.array_equal(seen[1][0]["dense0"]["kernel"], params["dense0"]["kernel"])


@pytest.mark.usefixtures("x64")
def test_a_random_update_is_a_function_of_its_key():
    variables, data = drawn()
    config = train.Config(2, BATCH, 0.1)
    kernels = [
        np.asarray(run_epoch(config, variables, data, epoch=e, update=u).variables["params"]["dense0"]["kernel"])
        for e, u in ((0, weighted_update), (0, weighted_update), (0, None))
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 1e-4


def test_an_update_is_masked_too():
    variables, data = drawn(dtype=np.float32)
    mask = some_mask(variables["params"])
    state = run_epoch(train.Config(1, BATCH, 0.1), variables, data, mask=mask, update=weighted_update)
    jax.tree.map(lambda p, m: np.testing.assert_array_equal(p * (1 - m), 0), state.variables["params"], mask)


# Evaluation


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("num", [1, 7, 499, 500, 501, 1000, 1234])
def test_evaluation_is_the_plain_mean_whatever_the_remainder(num):
    variables, data = drawn(num)
    program = train.Program.of(MODEL, train.Config(1, 1), num)
    assert _run.EVAL_BATCH == 500  # the sizes above sit around its multiples
    loss, accuracy = jax.jit(functools.partial(train.evaluate, program))(variables, data)
    logits = reference.mlp(jax.tree.map(np.asarray, variables["params"]), np.asarray(data.x))
    np.testing.assert_allclose(loss, reference.cross_entropy(logits, np.asarray(data.y))[0].mean(), rtol=1e-12)
    np.testing.assert_allclose(accuracy, np.mean(logits.argmax(-1) == np.asarray(data.y)), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_evaluation_uses_the_running_statistics():
    variables, data = drawn(6, model=Normed())
    program = train.Program.of(Normed(), train.Config(1, 2, loss="mse"), 6)
    loss, _ = train.evaluate(program, variables, data)
    (params, stats), x = jax.tree.map(np.asarray, ((variables["params"], variables["batch_stats"]), data.x))
    hidden = reference.dense(params["Dense_0"], x.reshape(6, -1))
    hidden, _ = reference.batch_norm({}, stats["BatchNormRelu_0"], hidden, train=False)
    logits = reference.dense(params["Dense_1"], reference.relu(hidden))
    np.testing.assert_allclose(loss, reference.squared_error(logits, np.asarray(data.y))[0].mean(), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_non_finite_outputs_give_nan_accuracy_and_no_finite_loss(bad):
    variables, data = drawn(dtype=np.float32)
    variables["params"]["dense2"]["bias"] = variables["params"]["dense2"]["bias"].at[0].set(bad)
    program = train.Program.of(MODEL, train.Config(1, BATCH), NUM)
    loss, accuracy = train.evaluate(program, variables, data)
    assert np.isnan(accuracy) and not np.isfinite(loss)


def test_what_is_measured_draws_from_no_key_that_training_used():
    """Children of the measurement key too: splitting a key gives what folding 0, 1, ... into it gives."""

    def bits(keys):
        return {tuple(row) for row in np.asarray(jax.random.key_data(keys)).reshape(-1, 2).tolist()}

    used, drawn = set(), set()
    for seed in range(4):
        for key in train.run_keys(seed):
            used |= bits(key) | bits(jax.vmap(lambda epoch, key=key: jax.random.fold_in(key, epoch))(jnp.arange(20)))
        key = train.measurement_key(seed)
        drawn |= bits(key) | bits(jax.random.split(key, 20))
    assert len(drawn) == 4 * 21 and not used & drawn
    assert used & bits(jax.random.split(jax.random.key(0), 2))  # the seed's own key would share them


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_evaluation_of_half_precision_counts_in_single_precision(dtype):
    class Echo(nn.Module):
        @nn.compact
        def __call__(self, x):
            return (x * self.param("scale", nn.initializers.ones, ())).astype(dtype)

    n = 1237  # more than bfloat16 counts
    y = np.random.default_rng(0).integers(0, 3, n)
    x = np.eye(3, dtype=np.float32)[y]
    x[:5] = x[:5, [1, 2, 0]]  # five are wrong
    program = train.Program(Echo(), 1, "sgd", 0.0, 0.0, "cross_entropy")
    found = train.evaluate(program, Echo().init(jax.random.key(0), x), train.Batch(jnp.asarray(x), jnp.asarray(y)))
    right, wrong = np.log(np.e + 2) - 1, np.log(np.e + 2)
    np.testing.assert_allclose(found, [(right * (n - 5) + wrong * 5) / n, (n - 5) / n], rtol=1e-5)
