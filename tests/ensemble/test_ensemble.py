"""Training many seeds: they are the single runs, in whatever company, order, chunk, strategy or number of devices."""

import dataclasses
import functools
import os
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

import ntkgen
from ntkgen import data, ensemble, models, records, train

# Tiny, with a last partial batch. Programs are compiled for a network, a batch size and a number of seeds: tests share
# these as far as they can.
MODEL, SHAPE, CLASSES, SEEDS, EPOCHS = models.MLP(5, depth=3, num_classes=3), (2, 2, 1), 3, 5, 3
VMAP = ensemble.Options("vmap")
CONFIG = train.Config(EPOCHS, 4, 0.1)


def make_data(dtype=np.float32, num=11, shape=SHAPE):
    rng = np.random.default_rng(0)
    splits = [
        train.Batch(rng.normal(size=(n, *shape)).astype(dtype), rng.integers(0, CLASSES, n).astype(np.int32))
        for n in (num, 7)
    ]
    return SimpleNamespace(train=splits[0], test=splits[1])


DATA = make_data()


def make_init(seeds=SEEDS, dtype=np.float32, model=MODEL, shape=SHAPE):
    """Numpy variables with a leading seed axis, other ones for each seed."""
    shapes = jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))
    drawn = [reference.random_variables(shapes, seed) for seed in range(seeds)]
    return jax.tree.map(lambda *leaves: np.stack(leaves).astype(dtype), *drawn)


def rows(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, rtol=1e-10, atol=1e-12):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def assert_same_result(a, b, compare=assert_equal):
    for field in ("variables", "initial", "history", "probes", "diverged"):
        compare(getattr(a, field), getattr(b, field))


@functools.cache
def baseline(strategy="vmap"):
    """Five seeds in float32 from `make_init`."""
    return ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=make_init(), options=ensemble.Options(strategy))


class Normed(nn.Module):
    """Dense - batch norm and ReLU - dense: batch statistics without the compilation of a CNN."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        return nn.Dense(CLASSES)(models.BatchNormRelu()(x, train))


# The result


def test_shapes_of_the_result():
    result = baseline()
    expected = {"train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate"}
    assert set(result.history) == expected
    for values in result.history.values():
        assert values.shape == (SEEDS, EPOCHS) and values.dtype == np.float64 and np.all(np.isfinite(values))
    assert {leaf.shape[0] for leaf in jax.tree.leaves((result.variables, result.initial))} == {SEEDS}
    assert result.diverged.shape == (SEEDS,) and result.diverged.dtype == bool and not result.diverged.any()
    assert result.probes == ()
    devices = min(SEEDS, jax.local_device_count())
    assert result.strategy == {"strategy": "vmap", "devices": devices, "seeds_per_chunk": SEEDS}
    assert set(result.seconds) == {"train", "evaluate"} and min(result.seconds.values()) > 0


def test_history_is_the_evaluation_after_each_epoch():
    result = baseline()
    np.testing.assert_allclose(result.history["learning_rate"], [[CONFIG.rate(e) for e in range(EPOCHS)]] * SEEDS)
    for seed in range(SEEDS):
        variables = jax.tree.map(np.float64, rows(result.variables, seed))
        for name in ("train", "test"):
            x, y = getattr(DATA, name)
            logits = reference.mlp(variables["params"], x.astype(np.float64))
            loss = reference.cross_entropy(logits, y)[0].mean()
            # One forward pass in float32: a few dozen roundings of numbers of order one.
            np.testing.assert_allclose(result.history[f"{name}_loss"][seed, -1], loss, rtol=1e-5)
            accuracy = np.mean(logits.argmax(-1) == y)
            np.testing.assert_allclose(result.history[f"{name}_accuracy"][seed, -1], accuracy, rtol=1e-6)


def test_training_trains():
    history = baseline().history
    assert np.all(history["train_loss"][:, -1] < history["train_loss"][:, 0])


# One seed is one run


@pytest.mark.usefixtures("x64")
def test_the_seeds_are_the_oracles_runs():
    data, init = make_data(np.float64), make_init(dtype=np.float64)
    result = ensemble.fit(MODEL, data, CONFIG, SEEDS, init=init, options=VMAP)
    for seed in range(SEEDS):
        order_key = train.run_keys(seed).order
        expected = reference.train_mlp(
            rows(init, seed)["params"], *data.train,
            [np.asarray(train.batch_order(order_key, epoch, 11)) for epoch in range(EPOCHS)], batch_size=4,
            rates=[reference.cosine(0.1, epoch, EPOCHS) for epoch in range(EPOCHS)],
            optimizer="sgd", momentum=0.9, weight_decay=0.0, loss="cross_entropy",
        )  # fmt: skip
        assert_close(rows(result.variables, seed)["params"], expected)


@pytest.mark.usefixtures("x64")
def test_vmap_sequential_chunks_and_single_seeds_agree():
    # Also: a seed's numbers do not depend on its companions or its place among them.
    data, init = make_data(np.float64), make_init(dtype=np.float64)

    def fit(seeds, **kwargs):
        return ensemble.fit(MODEL, data, CONFIG, seeds, init=rows(init, np.array(seeds)), **kwargs)

    everyone = list(range(SEEDS))
    whole = fit(everyone, options=VMAP)
    for strategy in ("sequential", "unrolled"):
        assert_same_result(whole, fit(everyone, options=ensemble.Options(strategy)), assert_close)
    shuffled = [3, 0, 4, 2, 1]
    mixed = fit(shuffled, options=VMAP)
    assert_close(mixed.variables, rows(whole.variables, np.array(shuffled)))
    assert_close(mixed.history, rows(whole.history, np.array(shuffled)))

    calls = []
    chunked = fit(everyone, options=ensemble.Options("vmap", chunk=2), progress=lambda *args: calls.append(args))
    assert_same_result(whole, chunked, assert_close)
    assert chunked.strategy["seeds_per_chunk"] == 2
    assert [(start, epoch) for start, epoch, _ in calls] == [(s, e) for s in (0, 2, 4) for e in (1, 2, 3)]
    for start, epoch, metrics in calls:
        assert set(metrics) == set(ensemble.METRICS)
        for name, values in metrics.items():
            assert_equal(values, chunked.history[name][start : start + 2, epoch - 1])

    for seed in (0, 3):
        single = fit([seed], options=ensemble.Options("sequential"))
        assert_close(single.variables, rows(whole.variables, slice(seed, seed + 1)))
        assert_close(single.history, rows(whole.history, slice(seed, seed + 1)))


def test_fresh_seeds_start_where_their_keys_say_in_any_company():
    config = train.Config(1, 4, 0.1)
    pair, other = (ensemble.fit(MODEL, DATA, config, seeds, options=VMAP) for seeds in ([7, 2], [2, 5]))
    alone = models.init(MODEL, train.run_keys(2).init, SHAPE)
    assert_equal(rows(pair.initial, 1), alone)
    assert_equal(rows(other.initial, 0), alone)
    # One epoch of three steps in float32.
    assert_close(rows(pair.variables, 1), rows(other.variables, 0), rtol=1e-5, atol=1e-6)
    kernels = pair.initial["params"]["dense0"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])


def test_a_number_of_seeds_means_the_first_ones():
    config = train.Config(1, 4, 0.1)
    assert_same_result(*(ensemble.fit(MODEL, DATA, config, seeds) for seeds in (2, [0, 1])))


def test_what_varies():
    init = jax.tree.map(lambda leaf: np.stack([leaf[0]] * SEEDS), make_init())  # the same for all seeds

    def fit(vary, **kwargs):
        result = ensemble.fit(MODEL, DATA, train.Config(EPOCHS, 4, 0.1, vary=vary), SEEDS, options=VMAP, **kwargs)
        return [tree["params"]["dense0"]["kernel"] for tree in (result.initial, result.variables)]

    def distinct(array):
        return len(np.unique(np.asarray(array).reshape(SEEDS, -1), axis=0))

    initial, trained = fit("order")
    assert (distinct(initial), distinct(trained)) == (1, SEEDS)
    initial, trained = fit("init")
    assert (distinct(initial), distinct(trained)) == (SEEDS, SEEDS)
    # With one initialisation for all, what is left is the order: it does not vary with "init", and does with "both".
    assert distinct(fit("init", init=init)[1]) == 1
    assert distinct(fit("both", init=init)[1]) == SEEDS


# Given variables, masks


@pytest.mark.parametrize("as_jax", [False, True])
def test_the_callers_variables_survive(as_jax):
    init = make_init()
    given = jax.tree.map(jnp.asarray, init) if as_jax else jax.tree.map(np.copy, init)
    result = ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=given, options=VMAP)
    assert_equal(given, init)  # reading a donated array would raise
    assert_equal(result.initial, init)
    assert_same_result(result, baseline())
    again = ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=result.initial, options=VMAP)
    assert_same_result(again, result)


def test_masks_are_each_seeds_own():
    init = make_init()
    rng = np.random.default_rng(1)
    masks = jax.tree.map(lambda leaf: rng.random(leaf.shape) < 0.7, init["params"])
    masks["dense0"]["kernel"][2] = True  # seed 2 keeps its whole first layer
    before = jax.tree.map(np.copy, masks)
    result = ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=init, masks=masks, options=VMAP)
    assert_equal(masks, before)
    assert_equal(result.initial["params"], jax.tree.map(lambda leaf, keep: leaf * keep, init["params"], masks))
    for leaf, keep in zip(*map(jax.tree.leaves, (result.variables["params"], masks)), strict=True):
        assert np.all(np.asarray(leaf)[~keep] == 0)
    moved = np.asarray(result.variables["params"]["dense0"]["kernel"]) != init["params"]["dense0"]["kernel"]
    assert np.mean(moved[2]) > 0.5


def test_diverged_seeds_are_flagged_and_harm_no_other():
    init = make_init()
    init["params"]["dense1"]["kernel"][2] = np.inf
    init["params"]["dense2"]["kernel"][4] = 1e30  # overflows in the first update
    for strategy in ("vmap", "sequential"):
        result = ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=init, options=ensemble.Options(strategy))
        np.testing.assert_array_equal(result.diverged, [False, False, True, False, True])
        healthy = np.array([0, 1, 3])
        for ours, theirs in (
            (result.variables, baseline(strategy).variables),
            (result.history, baseline(strategy).history),
        ):
            assert_equal(rows(ours, healthy), rows(theirs, healthy))
        for name in ("train_accuracy", "test_accuracy"):
            assert np.all(np.isnan(result.history[name][[2, 4], -1]))


def test_update_reaches_every_seed_with_its_own_key():
    def update(loss, params, batch, key):
        gradient, state = jax.grad(loss, has_aux=True)(params, batch, jax.random.exponential(key, batch.y.shape))
        return gradient, state

    init = jax.tree.map(lambda leaf: np.stack([leaf[0]] * 2), make_init(2))
    kernels = {}
    for vary in ("both", "init"):
        config = train.Config(1, 11, 0.1, vary=vary)  # one batch: orders differ by rounding alone
        result = ensemble.fit(MODEL, DATA, config, 2, init=init, update=update, options=VMAP)
        kernels[vary] = result.variables["params"]["dense1"]["kernel"]
    assert np.abs(kernels["both"][0] - kernels["both"][1]).max() > 1e-3
    np.testing.assert_array_equal(kernels["init"][0], kernels["init"][1])


# Probes


@pytest.mark.parametrize("part", ["loss", "update", "probe"])
def test_values_replaced_outside_of_a_users_function_are_seen(part):
    state = {"scale": 1.0}

    def loss(outputs, targets):
        return state["scale"] * jnp.sum(outputs**2, -1)

    def update(loss, params, batch, key):
        gradient, rest = jax.grad(loss, has_aux=True)(params, batch)
        return jax.tree.map(lambda leaf: state["scale"] * leaf, gradient), rest

    def probe(params):
        return jnp.asarray(state["scale"])

    config = train.Config(1, 4, 0.1, loss=loss) if part == "loss" else train.Config(1, 4, 0.1)
    options = {"update": {"update": update}, "probe": {"probes": ((1,), probe)}}.get(part, {})

    def found():
        result = ensemble.fit(MODEL, DATA, config, 1, **options)
        return result.probes[0, 0] if part == "probe" else result.history["train_loss"][0, 0]

    first = found()
    state["scale"] = 3.0
    assert abs(found() - first) > 1e-3
    state["scale"] = 1.0
    np.testing.assert_array_equal(found(), first)


def norms(params):
    return {"square": sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params)), "kernel": params["Dense_0"]["kernel"]}


def everything(params, context):
    return params, context


@functools.cache
def probed():
    init = make_init(3, model=Normed())
    probes = [((2, 0), norms), (tuple(range(EPOCHS + 1)), everything), ((), norms)]
    return ensemble.fit(Normed(), DATA, CONFIG, 3, init=init, probes=probes, options=VMAP)


def test_probes_of_params():
    result, init = probed(), make_init(3, model=Normed())
    values = result.probes[0]
    assert values["square"].shape == (3, 2) and values["kernel"].shape == (3, 2, 4, 4)
    assert_equal(values["kernel"][:, 1], init["params"]["Dense_0"]["kernel"])  # epoch 0, named second
    assert_equal(values["kernel"][:, 0], result.probes[1][0]["Dense_0"]["kernel"][:, 2])
    squares = sum((leaf.astype(np.float64) ** 2).reshape(3, -1).sum(1) for leaf in jax.tree.leaves(init["params"]))
    np.testing.assert_allclose(values["square"][:, 1], squares, rtol=1e-5)


def test_probes_with_their_context():
    result, init = probed(), make_init(3, model=Normed())
    params, context = result.probes[1]
    assert {leaf.shape[:2] for leaf in jax.tree.leaves((params, context))} == {(3, EPOCHS + 1)}
    first, last = (rows((params, context.model_state), (slice(None), epoch)) for epoch in (0, EPOCHS))
    for (own_params, own_stats), expected in ((first, init), (last, result.variables)):
        assert_equal(own_params, expected["params"])
        assert_equal(own_stats, {"batch_stats": expected["batch_stats"]})
    for epoch in range(EPOCHS + 1):
        assert_equal(rows(context.initial, (slice(None), epoch)), init["params"])
        assert np.all(context.epoch[:, epoch] == epoch)
        np.testing.assert_allclose(context.rate[:, epoch], CONFIG.rate(max(epoch - 1, 0)), rtol=1e-6)


def test_a_probe_without_epochs_gives_empty_arrays():
    values = probed().probes[2]
    assert values["square"].shape == (3, 0) and values["kernel"].shape == (3, 0, 4, 4)


def test_a_single_probe_is_not_wrapped():
    def kernel(params):
        return params["dense0"]["kernel"]

    alone, listed = (
        ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=make_init(), probes=probes, options=VMAP)
        for probes in (((0, EPOCHS), kernel), [((0, EPOCHS), kernel)])
    )
    assert_equal(alone.probes[:, 1], alone.variables["params"]["dense0"]["kernel"])
    assert_equal(listed.probes, (alone.probes,))


def test_a_probe_on_the_host_sees_all_seeds_between_epochs():
    shape = jax.ShapeDtypeStruct((), np.float32)
    seen = []

    def on_host(params, context):
        moved = np.asarray(params["Dense_0"]["kernel"]) - np.asarray(context.initial["Dense_0"]["kernel"])
        seen.append((int(context.epoch), sorted(context.model_state)))
        return {"moved": np.linalg.norm(moved.reshape(len(moved), -1), axis=1)}  # numpy: it is not traced

    traced = lambda p, c: jnp.linalg.norm(p["Dense_0"]["kernel"] - c.initial["Dense_0"]["kernel"])  # noqa: E731
    for chunk in (3, 1):
        wrapped = ensemble.OnHost(on_host, {"moved": shape})
        result = ensemble.fit(
            Normed(), DATA, CONFIG, 3, probes=[((0, EPOCHS), wrapped), ((0, EPOCHS), traced)],
            options=ensemble.Options("vmap", chunk=chunk),
        )  # fmt: skip
        own, other = result.probes
        assert own["moved"].shape == (3, 2) and (own["moved"][:, 1] > 0).all()
        assert_close(own["moved"], other, rtol=1e-5)
    assert seen[:2] == [(0, ["batch_stats"]), (EPOCHS, ["batch_stats"])]


def test_probes_do_not_disturb_the_training():
    init = make_init(3, model=Normed())
    plain = ensemble.fit(Normed(), DATA, CONFIG, 3, init=init, options=VMAP)
    assert_equal(plain.variables, probed().variables)


# Checkpoints


class Killed(Exception):
    pass


class Memory:
    """A checkpoint in memory; keeps every `every`-th save and all final ones; the `fatal`-th save kills the run."""

    def __init__(self, every=1, fatal=None):
        self.kept, self.scopes, self.every, self.fatal, self.calls, self.live = {}, {}, every, fatal, 0, []

    def scope(self, name):
        own = self.scopes.setdefault(name, Memory(self.every))
        own.parent = self
        return own

    def save(self, epoch, tree, *, final):
        root = getattr(self, "parent", self)
        root.calls += 1
        self.live.append(tree)
        if final or epoch % self.every == 0:
            self.kept[epoch] = jax.tree.map(np.array, tree), final
        if root.calls == root.fatal:
            raise Killed

    def restore(self, like):
        if not self.kept:
            return None
        epoch = max(self.kept)
        tree = jax.tree.map(np.array, self.kept[epoch][0])
        assert jax.tree.structure(tree) == jax.tree.structure(like)
        jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype) or pytest.fail("not like"), tree, like)
        return epoch, tree

    def cut(self, epoch):
        """What a run that was killed after this epoch would have left."""
        left = Memory()
        left.kept = {e: (tree, False) for e, (tree, _) in self.kept.items() if e <= epoch}
        return left


def resumable(checkpoint, optimizer="sgd", chunk=None, **kwargs):
    config = train.Config(EPOCHS, 4, 0.05, optimizer=optimizer)
    probes = [((0, 2, EPOCHS), norms), ((1,), everything)]
    options = ensemble.Options("vmap", chunk)
    return ensemble.fit(Normed(), DATA, config, 3, probes=probes, checkpoint=checkpoint, options=options, **kwargs)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_resumed_run_ends_bit_for_bit_where_the_uninterrupted_one_does(optimizer):
    memory = Memory()
    whole = resumable(memory, optimizer)
    assert_same_result(whole, resumable(None, optimizer))  # checkpoints change nothing
    assert {epoch: final for epoch, (_, final) in memory.kept.items()} == {1: False, 2: False, 3: True}
    for epoch in range(EPOCHS + 1):
        calls, left = [], memory.cut(epoch)
        resumed = resumable(left, optimizer, progress=lambda *args, calls=calls: calls.append(args[1]))
        assert calls == list(range(epoch + 1, EPOCHS + 1))  # only what was missing was done
        assert_same_result(resumed, whole)


def test_checkpoints_may_skip_epochs():
    memory = Memory(every=2, fatal=3)
    with pytest.raises(Killed):
        resumable(memory)
    memory.kept.pop(3)  # killed while the final one was written
    assert list(memory.kept) == [2]
    memory.fatal = None
    assert_same_result(resumable(memory), resumable(None))


def test_chunks_resume_each_from_their_own_checkpoint():
    memory = Memory(fatal=5)
    with pytest.raises(Killed):
        resumable(memory, chunk=2)
    assert len(memory.scopes) == 2 and not memory.kept  # three epochs of the first chunk, two of the second
    assert [max(own.kept) for own in memory.scopes.values()] == [EPOCHS, 2]
    memory.fatal = None
    assert_same_result(resumable(memory, chunk=2), resumable(None, chunk=2))


# A part of the epochs


def test_training_goes_on_from_an_epoch_as_if_it_had_never_stopped():
    config = train.Config(EPOCHS, 4, 0.1, momentum=0.0)  # no buffers, which a fresh start would lack
    snapshot = ((1,), lambda params: {"params": params})
    whole = ensemble.fit(MODEL, DATA, config, SEEDS, init=make_init(), probes=snapshot, options=VMAP)
    at_one = jax.tree.map(lambda leaf: leaf[:, 0], whole.probes)
    rest = ensemble.fit(MODEL, DATA, config, SEEDS, init=at_one, options=ensemble.Options("vmap", start_epoch=1))
    assert_equal(rest.variables, whole.variables)
    assert_equal(rest.initial, at_one)
    for name, values in rest.history.items():
        if name != "learning_rate":
            assert np.isnan(values[:, 0]).all()
        np.testing.assert_array_equal(values[:, 1:], whole.history[name][:, 1:])
    assert not rest.diverged.any()


def test_metrics_are_measured_where_asked_and_at_the_end():
    some = ensemble.fit(MODEL, DATA, CONFIG, SEEDS, init=make_init(), options=ensemble.Options("vmap", evaluate_at=[1]))
    whole = baseline()
    assert_equal(some.variables, whole.variables)
    assert not some.diverged.any() and EPOCHS > 2
    for name in ("train_loss", "test_accuracy"):
        for epoch in range(EPOCHS):
            expected = whole.history[name][:, epoch] if epoch in (0, EPOCHS - 1) else np.full(SEEDS, np.nan)
            np.testing.assert_array_equal(some.history[name][:, epoch], expected)


# Errors


def broken(tree, change):
    tree = jax.tree.map(np.copy, tree)
    change(tree)
    return tree


BAD = {
    "seeds": [0, -1, [], [-1], [0, 1, 0], [1.5], [2**40]],
    "chunk": [0, -1, 1.5],
    "strategy": ["pmap", "", None],
    "start_epoch": [-1, EPOCHS, 1.5, 1],  # 1 needs init
    "evaluate_at": [[0], [EPOCHS + 1], [1.5], 2],
    "probes": [((-1,), norms), ((0, 4), norms), [((0,), norms), ((1, 1), norms)]],
    "init": [
        {}, make_init()["params"], make_init(4), rows(make_init(), 0),
        broken(make_init(), lambda t: t["params"].pop("dense0")),
        broken(make_init(), lambda t: t.update(batch_stats={})),
        broken(make_init(), lambda t: t["params"]["dense0"].update(bias=np.zeros((SEEDS, 6)))),
    ],
    "masks": [
        {}, make_init(), make_init(4)["params"], rows(make_init(), 0)["params"],
        broken(make_init()["params"], lambda t: t["dense1"].pop("bias")),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, values in BAD.items() for i in range(len(values))]
)  # fmt: skip
def test_bad_arguments_are_refused_by_name(name, index):
    fields = {field.name for field in dataclasses.fields(ensemble.Options)}
    with pytest.raises(ValueError, match=f"^{name}: expected .* got"):
        given = {name: BAD[name][index]}
        arguments = {"seeds": SEEDS} | ({"options": ensemble.Options(**given)} if name in fields else given)
        ensemble.fit(MODEL, DATA, CONFIG, **arguments)


@pytest.mark.parametrize("name", ["chunk", "strategy"])
def test_options_are_checked_when_made(name):
    for value in BAD[name]:
        with pytest.raises(ValueError, match=f"^{name}: expected .* got"):
            ensemble.Options(**{name: value})


def test_options_are_values():
    options = ensemble.Options("vmap", evaluate_at=[np.int64(1), 2])
    assert options == ensemble.Options("vmap", evaluate_at=(1, 2)) and hash(options) == hash(options)
    with pytest.raises(ValueError, match=r"^options: expected ensemble\.Options, got 'vmap'"):
        ensemble.fit(MODEL, DATA, CONFIG, SEEDS, options="vmap")


def test_batch_size_is_held_against_the_data():
    with pytest.raises(ValueError, match=r"^batch_size: expected at most the 11 training examples"):
        ensemble.fit(MODEL, DATA, train.Config(1, 12), SEEDS)


# Compilation


@pytest.mark.parametrize("strategy", ["vmap", "sequential", "unrolled"])
def test_a_second_call_compiles_nothing(compilations, strategy):
    def fit(config, seeds):
        return ensemble.fit(
            models.MLP(6, depth=2, num_classes=3), DATA, config, seeds, options=ensemble.Options(strategy)
        )

    with compilations() as names:
        fit(train.Config(1, 4, 0.1), [0, 1])
    assert any("_epoch" in name for name in names)  # the count counts
    with compilations() as names:
        fit(train.Config(1, 4, 0.1), [0, 1])
        fit(train.Config(4, 4, 0.3), [5, 9])  # other epochs, rate and seeds
        fit(train.Config(2, 4, 0.3, schedule="constant"), [0, 1])
    assert names == []


@pytest.mark.parametrize("rate", [1, np.float64(0.1), np.float32(0.1)], ids=lambda rate: type(rate).__name__)
def test_the_type_of_the_rate_compiles_nothing_either(compilations, rate):
    def fit(rate):
        return ensemble.fit(
            MODEL,
            DATA,
            train.Config(1, 4, rate, schedule="constant"),
            SEEDS,
            init=make_init(),
            options=VMAP,
        )

    fit(0.1)
    with compilations() as names:
        fit(rate)
    assert names == []


TRACES = []


class Counting(nn.Module):
    """Notes every time it is traced."""

    @nn.compact
    def __call__(self, x):
        TRACES.append(x.shape)
        return nn.Dense(CLASSES)(x.reshape(x.shape[0], -1))


def test_the_model_is_traced_once_however_many_steps_epochs_and_seeds():
    def traces(num, epochs, seeds, batch=4):
        TRACES.clear()
        ensemble.fit(Counting(), make_data(num=num), train.Config(epochs, batch, 0.1), seeds, options=VMAP)
        return sum(shape[0] == batch for shape in TRACES) - 4

    # Each fit looks at a batch four times, twice in evaluation and twice in training mode, before anything is
    # compiled. No evaluation set has four examples: all other traces at this size are training steps.
    assert traces(8, 1, 2) == 1
    assert traces(400, 1, 2) == 1  # a hundred steps
    assert traces(8, 5, 2) == 0  # more epochs: the program is there already
    assert traces(8, 1, 3) == 1  # another number of seeds is another program


# More devices


def on_four_devices(kind):
    """Five seeds on four devices, against one device; called in a process that has four."""
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_default_matmul_precision", "highest")
    jax.config.update("jax_enable_x64", True)
    assert jax.local_device_count() == 4
    if kind == "cnn":
        model, shape, strategy, num = models.CNN(1, num_classes=CLASSES), (8, 8, 1), "auto", 8
    else:
        model, shape, strategy, num = MODEL, SHAPE, kind, 11
    data, config = make_data(np.float64, num, shape), train.Config(2, 4, 0.1)
    init = make_init(dtype=np.float64, model=model, shape=shape)
    probe = ((0, 2), lambda params: sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params)))
    masks = jax.tree.map(lambda leaf: np.random.default_rng(3).random(leaf.shape) < 0.8, init["params"])

    class Spy(Memory):
        def save(self, epoch, tree, *, final):
            for leaf in jax.tree.leaves(tree[0]):
                # Five seeds are padded to eight, two on each of the four devices.
                assert leaf.sharding.spec == jax.sharding.PartitionSpec("seed"), leaf.sharding
                assert leaf.shape[0] == 8 and not leaf.is_fully_replicated
                assert {shard.device for shard in leaf.addressable_shards} == set(jax.local_devices())
                assert [shard.data.shape[0] for shard in leaf.addressable_shards] == [2] * 4
            super().save(epoch, tree, final=final)

    spy = Spy()

    def fit(seeds, checkpoint=None):
        own = rows((init, masks), np.array(seeds))
        return ensemble.fit(
            model, data, config, seeds, init=own[0], masks=own[1], probes=probe, checkpoint=checkpoint,
            options=ensemble.Options(strategy),
        )  # fmt: skip

    spread = fit([0, 1, 2, 3, 4], spy)
    assert len(spy.live) == 2 and spread.strategy["devices"] == 4
    assert spread.strategy["strategy"] == ("sequential" if kind == "cnn" else kind)
    assert_same_result(fit([0, 1, 2, 3, 4], spy.cut(1)), spread)
    singles = [fit([seed]) for seed in range(5)]
    assert {single.strategy["devices"] for single in singles} == {1}
    for field in ("variables", "initial", "history", "probes", "diverged"):
        expected = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(getattr(single, field) for single in singles))
        assert_close(getattr(spread, field), expected)
    shapes = rows(init, 0)
    assert [ensemble.plan("vmap", shapes, n).num_devices for n in (1, 2, 3, 4, 5, 9)] == [1, 2, 3, 4, 4, 4]


@pytest.mark.parametrize("kind", ["vmap", "sequential", pytest.param("cnn", marks=pytest.mark.slow)])
def test_four_devices_do_what_one_does(forks, kind):
    here = Path(__file__).parent, Path(reference.__file__).parent
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    path = os.pathsep.join(map(str, (*here, Path(ntkgen.__file__).parents[1])))
    code = "import warnings; warnings.simplefilter('error'); "
    done = forks.run(
        "-c", code + f"import test_ensemble; test_ensemble.on_four_devices({kind!r})",
        env={**os.environ, "XLA_FLAGS": flags.strip(), "JAX_PLATFORMS": "cpu", "PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


# Stopping at a loss


def stopping(stop, tmp=None, seeds=(0, 1, 2), **more):
    config = train.Config(epochs=60, batch_size=32, learning_rate=0.05, schedule="constant", stop_loss=stop)
    keeper = None if tmp is None else records.Checkpointer(tmp, 0.0)
    dataset = data.load("digits", num_train=128)
    return ensemble.fit(models.MLP(16, depth=2), dataset, config, list(seeds), checkpoint=keeper, **more)


def test_a_seed_stops_after_the_first_epoch_at_the_loss_and_stays_as_it_is():
    whole, stopped = stopping(None), stopping(0.1, probes=([0, 60], lambda params: params))
    first = (whole.history["train_loss"] <= 0.1).argmax(1) + 1
    assert len(set(first)) > 1 and stopped.epochs.tolist() == first.tolist() and (whole.epochs == 60).all()
    for s, epoch in enumerate(first):
        for name in ("train_loss", "test_loss", "test_accuracy"):
            np.testing.assert_array_equal(stopped.history[name][s, :epoch], whole.history[name][s, :epoch])
            assert (stopped.history[name][s, epoch - 1 :] == stopped.history[name][s, epoch - 1]).all()
    for end, last in zip(jax.tree.leaves(stopped.probes), jax.tree.leaves(stopped.variables["params"]), strict=True):
        np.testing.assert_array_equal(end[:, 1], last)  # the probe after the last epoch sees the stopped network
    alone = stopping(0.1, seeds=[1], options=ensemble.Options("sequential"))
    assert alone.epochs[0] == pytest.approx(first[1], abs=1)  # rounding may move it by an epoch


def test_a_stopped_run_resumes_to_the_same_result(tmp_path):
    whole = stopping(0.1)
    epochs, save = [], records.Checkpointer.save

    class Killed(Exception):
        pass

    def dying(self, epoch, tree, *, final):
        save(self, epoch, tree, final=final)
        epochs.append(epoch)
        if len(epochs) in (3, int(whole.epochs.min()) + 1):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.Checkpointer, "save", dying)
        for _ in range(2):
            with pytest.raises(Killed):
                stopping(0.1, tmp_path)
        resumed = stopping(0.1, tmp_path)
    again = stopping(0.1, tmp_path)  # everything is there
    assert epochs == list(range(1, int(whole.epochs.max()) + 1))
    for other in (resumed, again):
        for one, two in zip(jax.tree.leaves(whole[:6]), jax.tree.leaves(other[:6]), strict=True):
            np.testing.assert_array_equal(one, two)


def test_a_loss_that_is_not_reached_takes_all_epochs():
    assert (stopping(1e-9).epochs == 60).all()


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), "low"])
def test_a_loss_to_stop_at_is_a_positive_number(value):
    with pytest.raises(ValueError, match=r"^stop_loss: expected a positive number, got"):
        train.Config(1, stop_loss=value)
