"""The seed axis on one device: which way to walk it, how many at once, padding. More devices: test_ensemble."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from ntkgen import ensemble, memory, models, train
from ntkgen.ensemble import _layout, programs

LIMIT = _layout.VMAP_MAX_WIDTH_CPU


def shapes_of(model, shape):
    return jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))


NARROW, WIDE = shapes_of(models.MLP(LIMIT), (3,)), shapes_of(models.MLP(LIMIT + 1), (3,))
CONVOLUTIONS = shapes_of(models.CNN(1), (8, 8, 1))


@pytest.mark.parametrize(
    ("variables", "backend", "strategy"),
    [
        (NARROW, "cpu", "vmap"),
        (WIDE, "cpu", "sequential"),
        (CONVOLUTIONS, "cpu", "sequential"),
        (WIDE, "gpu", "vmap"),
        (CONVOLUTIONS, "gpu", "sequential"),
        (CONVOLUTIONS, "tpu", "sequential"),
        ({"params": {"scale": jnp.ones(LIMIT + 1)}}, "cpu", "vmap"),  # vectors are no layers
        ({"params": {}}, "cpu", "vmap"),
        # Width counts outputs: a wide input is no wide layer.
        (shapes_of(models.MLP(2), (LIMIT + 1,)), "cpu", "vmap"),
    ],
)
def test_choose_strategy(variables, backend, strategy):
    assert ensemble.choose_strategy(variables, backend) == strategy


def test_choice_is_by_the_shapes_alone():
    arrays = jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), WIDE)
    assert ensemble.choose_strategy(arrays, "cpu") == ensemble.choose_strategy(WIDE, "cpu")
    assert ensemble.choose_strategy(NARROW) == ensemble.choose_strategy(NARROW, jax.default_backend())


def test_plan_follows_the_strategy_asked_for():
    assert ensemble.plan("vmap", WIDE, 5).strategy == "vmap"
    assert ensemble.plan("sequential", NARROW, 5).strategy == "sequential"
    assert ensemble.plan("auto", WIDE, 5).strategy == ensemble.choose_strategy(WIDE)
    assert hash(ensemble.plan("auto", WIDE, 5)) == hash(ensemble.plan("auto", WIDE, 5))  # a static argument
    with pytest.raises(ValueError, match="strategy: expected one of auto, vmap, sequential, unrolled, got 'pmap'"):
        ensemble.plan("pmap", WIDE, 5)


def test_one_seed_takes_one_device():
    layout = ensemble.plan("vmap", NARROW, 1)
    assert layout.mesh is None and layout.num_devices == 1


# 4 x 10 + 10 + 10 x 3 + 3 = 83 numbers, 13 units; six copies, and four activations a unit and example under vmap.
SMALL = shapes_of(models.MLP(10, depth=2, num_classes=3), (4,))
SEQUENTIAL_BYTES, VMAP_BYTES = 4 * 6 * 83, 4 * (6 * 83 + 4 * 5 * 13)


@pytest.mark.parametrize(
    ("strategy", "each"), [("sequential", SEQUENTIAL_BYTES), ("vmap", VMAP_BYTES), ("unrolled", VMAP_BYTES)]
)
@pytest.mark.parametrize("seeds", [1, 7])
def test_seeds_per_chunk_fills_the_share_of_the_memory(monkeypatch, strategy, each, seeds):
    def fitting(size):
        monkeypatch.setattr(memory, "total", lambda: size / memory.SHARE)
        return ensemble.seeds_per_chunk(SMALL, 5, 1, ensemble.Layout(strategy))

    assert fitting(seeds * each + 1) == seeds
    assert fitting(seeds * each + each - 1) == seeds
    assert fitting(each / 1000) == 1  # one seed is tried however little there is


def test_seeds_per_chunk_counts_pixels_for_convolutions_only(monkeypatch):
    monkeypatch.setattr(memory, "total", lambda: 1e9)
    layout = ensemble.Layout("vmap")

    def chunk(variables, pixels):
        return ensemble.seeds_per_chunk(variables, 128, pixels, layout)

    assert chunk(CONVOLUTIONS, 64) > 2 * chunk(CONVOLUTIONS, 1024)
    assert chunk(NARROW, 64) == chunk(NARROW, 1024)


def test_seeds_per_chunk_grows_with_the_devices(monkeypatch):
    monkeypatch.setattr(memory, "total", lambda: 10 * VMAP_BYTES)
    four = ensemble.Layout("vmap", AbstractMesh((4,), ("seed",)))
    one = ensemble.seeds_per_chunk(SMALL, 5, 1, ensemble.Layout("vmap"))
    assert one == 5 and ensemble.seeds_per_chunk(SMALL, 5, 1, four) == 4 * one


def test_device_memory_is_that_of_a_computer():
    # Seen through the public function: a network of a kilobyte fits more than ten thousand times.
    assert ensemble.seeds_per_chunk(SMALL, 5, 1, ensemble.Layout("sequential")) > 10_000


@pytest.mark.parametrize("strategy", ["vmap", "sequential", "unrolled"])
def test_over_seeds_lifts_each_argument_by_its_axis(strategy):
    def fn(tree, shared, own):
        return {"out": tree["a"] * shared + own, "index": own}

    rng = np.random.default_rng(0)
    tree = {"a": rng.normal(size=(3, 4)).astype(np.float32)}
    shared, own = np.float32(2), np.arange(3, dtype=np.float32)
    lifted = _layout.over_seeds(ensemble.Layout(strategy), fn, (0, None, 0))
    for run in (lifted, jax.jit(lifted)):
        result = run(tree, shared, own)
        np.testing.assert_allclose(result["out"], tree["a"] * 2 + own[:, None], rtol=1e-6)
        np.testing.assert_array_equal(result["index"], own)


@pytest.mark.parametrize("strategy", ["vmap", "sequential", "unrolled"])
def test_over_seeds_passes_none_through(strategy):
    lifted = _layout.over_seeds(ensemble.Layout(strategy), lambda x, mask: x if mask is None else x * mask, (0, None))
    np.testing.assert_array_equal(lifted(jnp.arange(3.0), None), [0, 1, 2])


def test_one_device_pads_nothing():
    placed = ensemble.place(ensemble.Layout("vmap"), {"a": np.arange(5)}, seeds=True)
    assert isinstance(placed["a"], jax.Array) and placed["a"].shape == (5,)
    assert ensemble.place(ensemble.Layout("vmap"), None, seeds=True) is None


def test_trim_drops_the_padding():
    trimmed = _layout.trim({"a": np.arange(8), "b": np.ones((5, 2))}, 5)
    np.testing.assert_array_equal(trimmed["a"], np.arange(5))
    assert trimmed["b"].shape == (5, 2)


# Seeds side by side


class Small(nn.Module):
    """A convolution and what it takes to train it."""

    @nn.compact
    def __call__(self, x, train=False):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, x.shape[-1], 4))
        return nn.Dense(10)(nn.relu(models.conv3x3(x, kernel)).reshape(x.shape[0], -1))


def program_of(model, num_train):
    return train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=num_train)


def given_to(model, program, num_train):
    """What an epoch of two seeds takes besides layout and program: a state, masks, and a second seed that stays."""
    rng = np.random.default_rng(0)
    data = train.Batch(jnp.asarray(rng.standard_normal((num_train, 4, 4, 2)), jnp.float32), jnp.arange(num_train))
    keys = jax.vmap(train.run_keys)(jnp.arange(2))
    variables = programs.init(ensemble.Layout("sequential"), model, data.x[:1], keys.init)
    masks = jax.tree.map(lambda leaf: jnp.arange(leaf.size).reshape(leaf.shape) % 3 > 0, variables["params"])
    state = programs.start(ensemble.Layout("vmap"), program, variables, masks)
    return state, keys.order, jnp.array(0), jnp.array(0.1), data, masks, jnp.array([True, False])


def test_unrolled_trains_as_sequential_with_masks_and_a_stopped_seed():
    model = models.MLP(3, depth=2)
    program = program_of(model, num_train=8)  # partial batches: test_ensemble.py
    state, *given = given_to(model, program, num_train=8)

    def after(strategy):
        copied = jax.tree.map(jnp.copy, state)  # an epoch gives its state's memory away
        return programs.train_epoch(ensemble.Layout(strategy), program, copied, *given)

    want, got = after("sequential"), after("unrolled")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), got, want)
    kernels = [np.asarray(each.variables["params"]["dense0"]["kernel"]) for each in (state, got)]
    assert (kernels[0] != kernels[1]).any((1, 2)).tolist() == [True, False]


@pytest.mark.parametrize(("layout", "loops", "groups"), [
    (ensemble.Layout("sequential"), 2, "1"), (ensemble.Layout("unrolled"), 1, "1"),
    (ensemble.Layout("vmap", form="grouped"), 1, "2"),
])  # fmt: skip
def test_where_the_loop_over_seeds_is(layout, loops, groups):
    """Sequential: over seeds, and over steps in it; unrolled and grouped convolutions: over steps alone."""
    program = program_of(Small(), num_train=8)
    given = jax.eval_shape(lambda: given_to(Small(), program, num_train=8))  # nothing is computed
    epoch = jax.jit(programs.train_epoch, static_argnums=(0, 1)).trace(layout, program, *given)
    text = epoch.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.while") == loops
    assert f"feature_group_count = {groups} " in text


def test_options_of_xla_are_for_unrolled_on_a_gpu_alone(monkeypatch):
    def asked(strategy, backend):
        given = []
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: backend)
            patch.setattr(jax, "jit", lambda fn, **how: given.append(how["compiler_options"]) or fn)
            assert programs._Compiled(lambda layout, state: state)(ensemble.Layout(strategy), 7) == 7
        (options,) = given
        assert options == programs.compiler_options(ensemble.Layout(strategy), backend)
        return options

    pairs = [(strategy, backend) for strategy in ensemble.STRATEGIES for backend in ("cpu", "gpu", "tpu")]
    assert [pair for pair in pairs if asked(*pair) is not None] == [("unrolled", "gpu")]
    # XLA refuses a name or a value that it does not know, on every backend.
    assert jax.jit(lambda x: x + 1, compiler_options=programs.UNROLLED_ON_GPU)(1) == 2
