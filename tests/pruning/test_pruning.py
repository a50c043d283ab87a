"""Masks against a numpy sort, the pruning loop around `ensemble.fit`, barriers, overlap and unit matching."""

import functools
import itertools
from types import SimpleNamespace

import flax.linen as nn
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from hypothesis import strategies as st

from ntkgen import ensemble, models, pruning, records, train

SHAPE, CLASSES, SEEDS, EPOCHS = (2, 2, 1), 3, 3, 2
# Few shapes, since every one is a program to compile; small ones beside larger, a norm, and biases.
SHAPES = {
    "one": {"conv0": {"kernel": (1, 1)}},
    "mixed": {
        "conv0": {"kernel": (3, 3, 1, 2), "bias": (2,)},
        "dense0": {"kernel": (7, 3), "bias": (3,)},
        "norm0": {"scale": (3,), "bias": (3,)},
        "out": {"kernel": (3, 1), "bias": (1,)},
    },
}
fast = hypothesis.settings(max_examples=60, deadline=None, derandomize=True)


def is_shape(node):
    return isinstance(node, tuple)


def draw_tree(case, seed, ties=False):
    """Normal draws, or halves with many ties, zeros among them."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        values = rng.normal(size=shape)
        return np.asarray(np.round(values) / 2 if ties else values, np.float32)

    return jax.tree.map(draw, SHAPES[case], is_leaf=is_shape)


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def row(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def assert_equal(a, b):
    """The same structure, types and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape) and x.tobytes() == y.tobytes()


def kernels_of(tree):
    """The kernels by name, in the order of sorted layer names."""
    return {layer: np.asarray(own["kernel"]) for layer, own in sorted(tree.items()) if "kernel" in own}


def oracle(scores, keep_fraction, scope, alive):
    """Sort in plain Python: pruned last, NaN last among the living, then by score, then by position."""
    entries = [
        (not alive[layer].flat[i], np.isnan(s), 0 if np.isnan(s) else -s, number, i, layer)
        for number, (layer, kernel) in enumerate(scores.items())
        for i, s in enumerate(kernel.flat)
    ]
    masks = {layer: np.zeros(kernel.shape, bool) for layer, kernel in scores.items()}
    for group in [list(scores)] if scope == "global" else [[layer] for layer in scores]:
        own = sorted(entry for entry in entries if entry[-1] in group)
        for pruned, *_, i, layer in own[: max(1, round(keep_fraction * len(own)))]:
            masks[layer].flat[i] = not pruned
    return masks


# Exactly k


@fast
@hypothesis.given(
    st.sampled_from(["one", "mixed"]), st.integers(0, 10**6), st.floats(1e-6, 1), st.booleans(), st.booleans(),
    st.sampled_from(["global", "layer"]),
)  # fmt: skip
def test_masks_are_a_numpy_sort(case, seed, fraction, ties, nan, scope):
    scores = draw_tree(case, seed, ties)
    alive = jax.tree.map(lambda leaf: np.random.default_rng(seed).random(leaf.shape) < 0.7, scores)
    if nan and case == "mixed":
        scores["dense0"]["kernel"][1:3] = np.nan
        scores["out"]["kernel"][1] = -np.inf
    everything = jax.tree.map(np.ones_like, alive)
    for masks in (None, alive):
        found = pruning.masks_from_scores(scores, fraction, scope=scope, masks=masks)
        present = everything if masks is None else alive
        assert_equal(kernels_of(found), oracle(kernels_of(scores), fraction, scope, kernels_of(present)))
        for layer, own in found.items():
            for name in set(own) - {"kernel"}:
                np.testing.assert_array_equal(own[name], present[layer][name])


def test_scores_that_differ_least_are_told_apart():
    tiny = np.array([[0.0, 1e-40, 2e-40, -1e-40, -np.inf, np.inf, np.nan, -0.0]], np.float32)
    order = [5, 2, 1, 0, 7, 3, 4, 6]  # +0 and -0 are equal: the first comes first
    for count in range(1, 9):
        kept = np.asarray(pruning.masks_from_scores({"kernel": tiny}, count / 8)["kernel"])[0]
        assert sorted(np.flatnonzero(kept)) == sorted(order[:count])


def test_a_count_does_not_depend_on_the_type_of_the_fraction():
    assert pruning.keep_count(200_704, np.float16(0.5)) == 100_352
    for fraction in np.float32([0.35, 0.15, 0.45, 0.05]):
        assert pruning.keep_count(10, fraction) == pruning.keep_count(10, float(fraction))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_count_is_exact_though_all_scores_are_equal(scope):
    params = jax.tree.map(np.ones_like, draw_tree("mixed", 0))
    sizes = [kernel.size for kernel in kernels_of(params).values()]
    total = sum(sizes)
    assert sizes == [18, 21, 3]
    for k in range(1, total + 1):
        masks = [
            kernel.ravel() for kernel in kernels_of(pruning.magnitude_masks(params, k / total, scope=scope)).values()
        ]
        groups = [np.concatenate(masks)] if scope == "global" else masks
        for group in groups:
            kept = k if scope == "global" else max(1, round(k / total * group.size))
            np.testing.assert_array_equal(group, np.arange(group.size) < kept)  # the first ones


@pytest.mark.parametrize(
    ("size", "fraction", "kept"),
    [(10, 0.25, 2), (10, 0.35, 4), (10, 0.7, 7), (10, 1, 10), (10, 0.001, 1), (1, 0.5, 1), (3, 0.5, 2), (784, 0.01, 8)],
)
def test_the_rounding_is_the_documented_one(size, fraction, kept):
    assert pruning.keep_count(size, fraction) == kept
    masks = pruning.magnitude_masks({"kernel": np.arange(1.0, size + 1, dtype=np.float32)[:, None]}, fraction)
    np.testing.assert_array_equal(masks["kernel"][:, 0], np.arange(size) >= size - kept)


def test_only_kernels_are_pruned_and_the_head_on_request():
    params = draw_tree("mixed", 1)
    params["attention"] = {"bias": np.zeros((2, 2), np.float32), "query": {"kernel": np.full((2, 2), 1e-9, np.float32)}}
    masks = pruning.magnitude_masks(params, 0.1)
    ones = [
        pruning.magnitude_masks(params, 0.1)[a][b]
        for a, b in (("norm0", "scale"), ("out", "bias"), ("attention", "bias"))
    ]
    assert all(np.all(mask) for mask in ones) and not np.any(masks["attention"]["query"]["kernel"])
    spared = pruning.magnitude_masks(params, 0.1, prunable=pruning.kernels(["out", "attention"]))
    assert np.all(spared["out"]["kernel"]) and np.all(spared["attention"]["query"]["kernel"])
    assert sum(int(spared[layer]["kernel"].sum()) for layer in ("conv0", "dense0")) == round(0.1 * 39)
    with pytest.raises(ValueError, match=r"^except_for: expected .* got"):
        pruning.kernels("out")


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_vmapped_and_jitted_masks_are_those_one_by_one(scope):
    params, drawn = stack([draw_tree("mixed", seed, ties=seed == 2) for seed in range(4)]), []
    alive = jax.tree.map(lambda leaf: np.random.default_rng(5).random(leaf.shape) < 0.8, params)

    def fn(params, masks):
        drawn.append(None)
        return pruning.magnitude_masks(params, 0.3, scope=scope, masks=masks)

    together = jax.vmap(fn)(params, alive)
    assert_equal(together, stack([fn(row(params, seed), row(alive, seed)) for seed in range(4)]))
    assert_equal(together, jax.jit(jax.vmap(fn))(params, alive))
    counts = np.sum([np.sum(kernel.reshape(4, -1), 1) for kernel in kernels_of(together).values()], 0)
    assert len(drawn) == 6 and np.all(counts == (13 if scope == "global" else 5 + 6 + 1))


def test_another_fraction_compiles_nothing(compilations):
    params = {"dense0": {"kernel": np.random.default_rng(0).normal(size=(3, 11, 2)).astype(np.float32)}}
    with compilations() as names:
        jax.vmap(lambda params: pruning.magnitude_masks(params, 1.0))(params)
    assert any("_select" in name for name in names)
    with compilations() as names:
        for fraction in (0.7, 0.5, 0.01):
            jax.vmap(functools.partial(pruning.magnitude_masks, keep_fraction=fraction))(params)
    assert names == []


def test_apply_zeroes_what_is_pruned_and_touches_nothing_else():
    params = draw_tree("mixed", 2)
    params["dense0"]["kernel"][0] = [np.nan, np.inf, -1.0]
    masks = pruning.full_masks(params)
    masks["dense0"]["kernel"][0] = False
    expected = jax.tree.map(np.copy, params)
    expected["dense0"]["kernel"][0] = 0.0  # bits of +0, which -1 times zero has not
    assert_equal(pruning.apply_masks(params, masks), expected)


# Scores and random masks


def test_scores_by_hand():
    w, before = {"kernel": jnp.array([[3.0, -2.0]])}, {"kernel": jnp.array([[3.5, 2.0]])}

    def loss(params):
        return jnp.sum(params["kernel"] ** 2 * jnp.array([[1.0, -4.0]]))  # gradient 6, 16

    for found, expected in [
        (pruning.magnitude(w), [3, 2]), (pruning.weight_change(w, before), [0.5, 4]),
        (pruning.gradient_magnitude(loss, w), [6, 16]), (pruning.snip(loss, w), [18, 32]),
    ]:  # fmt: skip
        np.testing.assert_array_equal(found["kernel"], [expected])


def test_random_scores_are_uniform_and_independent_between_leaves():
    like = {"a": np.zeros((40, 50)), "b": np.zeros((40, 50))}
    scores = pruning.random(jax.random.key(0), like)
    a, b = np.ravel(scores["a"]), np.ravel(scores["b"])
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(a.size)
    for values in (a, b):
        assert values.min() >= 0 and values.max() < 1 and abs(values.mean() - 0.5) < 5 / np.sqrt(12 * a.size)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_shuffled_masks_keep_the_counts(scope):
    params = stack([draw_tree("mixed", seed) for seed in range(50)])
    masks = jax.vmap(lambda p: pruning.magnitude_masks(p, 0.4))(params)
    keys = jax.random.split(jax.random.key(1), 50)
    shuffled = jax.vmap(functools.partial(pruning.shuffle_masks, scope=scope))(keys, masks)
    before, after = (
        np.stack([kernel.reshape(50, -1).sum(1) for kernel in kernels_of(tree).values()]) for tree in (masks, shuffled)
    )
    assert len(set(before[0])) > 1  # each seed has counts of its own
    np.testing.assert_array_equal(before.sum(0), after.sum(0))
    assert np.all(before == after) == (scope == "layer")
    np.testing.assert_array_equal(shuffled["norm0"]["scale"], np.ones((50, 3), bool))
    # Every place is as likely: 50 draws, five standard deviations. Equal draws for all seeds would be far outside.
    assert before.sum(0).tolist() == [17] * 50
    rate = before[1].mean() / 21 if scope == "layer" else 17 / 42
    places = np.asarray(shuffled["dense0"]["kernel"]).mean(0)
    assert np.abs(places - rate).max() < 5 * np.sqrt(rate * (1 - rate) / 50)


def test_layers_of_one_shape_are_shuffled_apart():
    masks = {name: {"kernel": np.arange(21).reshape(7, 3) < 9} for name in "ab"}
    shuffled = pruning.shuffle_masks(jax.random.key(0), masks)
    assert not np.array_equal(shuffled["a"]["kernel"], shuffled["b"]["kernel"])


def test_sparsity_profile_counts():
    masks = pruning.magnitude_masks(draw_tree("mixed", 0), 0.5, scope="layer")
    profile = jax.tree.map(float, pruning.sparsity_profile(masks))
    assert list(profile) == ["conv0/kernel", "dense0/kernel", "out/kernel"]
    np.testing.assert_allclose(list(profile.values()), [9 / 18, 10 / 21, 2 / 3], rtol=1e-6)


# Bad input

PARAMS = draw_tree("mixed", 0)
BAD_MASKS = [
    {}, PARAMS["dense0"], [PARAMS], {**PARAMS, "out": {"kernel": np.ones((1, 3)), "bias": np.ones(1)}},
    stack([PARAMS, PARAMS]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(("keep_fraction", functools.partial(pruning.magnitude_masks, PARAMS, fraction))
          for fraction in (0, -0.1, 1.001, 50, np.nan, np.inf, "0.5", None, True, jnp.float32(0.5))),
        *(("masks", functools.partial(pruning.magnitude_masks, PARAMS, 0.5, masks=masks)) for masks in BAD_MASKS),
        *(("masks", functools.partial(pruning.apply_masks, PARAMS, masks)) for masks in BAD_MASKS),
        ("scope", lambda: pruning.magnitude_masks(PARAMS, 0.5, scope="local")),
        ("scope", lambda: pruning.shuffle_masks(jax.random.key(0), PARAMS, scope="local")),
        ("initial", lambda: pruning.weight_change(PARAMS, PARAMS["dense0"])),
        ("scores", lambda: pruning.magnitude_masks(PARAMS["norm0"], 0.5)),
        ("scores", lambda: pruning.magnitude_masks({"kernel": np.zeros((0, 3))}, 0.5)),
        ("scores", lambda: pruning.masks_from_scores({"kernel": np.ones((2, 3), int)}, 0.5)),
        ("masks", lambda: pruning.sparsity_profile(PARAMS["norm0"])),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_by_name(name, call):
    with pytest.raises(ValueError, match=rf"(?s)^{name}[^:]*: expected .* got [^\n]*\Z"):
        call()


# The loop


def make_data():
    rng = np.random.default_rng(0)
    splits = [
        train.Batch(rng.normal(size=(n, *SHAPE)).astype(np.float32), rng.integers(0, CLASSES, n).astype(np.int32))
        for n in (11, 7)
    ]
    return SimpleNamespace(train=splits[0], test=splits[1])


DATA = make_data()
FRACTIONS = (1.0, 0.6, 0.3, 0.1)


class Normed(nn.Module):
    """Dense - batch norm and ReLU - dense: another collection beside the params."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(4)(x.reshape(x.shape[0], -1))
        return nn.Dense(CLASSES)(models.BatchNormRelu(affine=True)(x, train))


MODEL = Normed()  # shared by the tests that train: its programs are compiled once


def make_init(model=MODEL, seeds=SEEDS):
    shapes = jax.eval_shape(lambda key: models.init(model, key, SHAPE), jax.random.key(0))
    drawn = [reference.random_variables(shapes, seed) for seed in range(seeds)]
    return jax.tree.map(lambda leaf: leaf.astype(np.float32), stack(drawn))


class LastState:
    """A checkpoint for `ensemble.fit` that remembers the last state, and restores nothing."""

    def restore(self, like):
        return None

    def save(self, epoch, tree, *, final):
        if final:
            self.state = jax.tree.map(np.array, tree[0])

    def scope(self, name):
        raise AssertionError("all seeds fit in one chunk")


def trainer(model=MODEL, rewind=0, calls=None, **choices):
    """A training function around `ensemble.fit`; `calls` collects (level, state, start)."""
    config = train.Config(EPOCHS, 4, 0.05, schedule="constant", **choices)

    def fit(level, *, init, start_epoch, **given):
        last = LastState()
        options = ensemble.Options("vmap", start_epoch=start_epoch)
        result = ensemble.fit(model, DATA, config, SEEDS, init=init, checkpoint=last, options=options, **given)
        if calls is not None:
            calls.append((level, last.state, init))
        return result

    return pruning.rewinding(fit, rewind)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "gd"])
def test_pruned_entries_and_their_buffers_are_exactly_zero_after_training(optimizer):
    calls, buffers = [], 0
    levels = list(loop_of(trainer(optimizer=optimizer, calls=calls), make_init(), (1, 0.2)))
    masks = levels[1].masks
    assert np.sum([np.sum(kernel, (1, 2)) for kernel in kernels_of(masks).values()], 0).tolist() == [6] * SEEDS
    like = jax.tree.structure(masks)

    def holds(tree):
        for leaf, keep in zip(*map(jax.tree.leaves, (tree, masks)), strict=True):
            assert np.all(np.asarray(leaf)[~np.asarray(keep)] == 0)
            assert np.any(np.asarray(leaf)[np.asarray(keep)] != 0)  # something was there to be masked

    def visit(node):
        nonlocal buffers
        if jax.tree.structure(node) == like:
            buffers += 1
            holds(node)
        elif isinstance(node, tuple):
            for child in node:
                visit(child)

    state = calls[1][1]
    holds(state.variables["params"])
    assert_equal(state.variables, jax.tree.map(np.asarray, levels[1].variables))
    visit(state.opt_state)
    assert buffers == {"sgd": 1, "adam": 2, "gd": 0}[optimizer]


@pytest.mark.parametrize("rewind", [0, 1])
def test_the_loop_is_the_algorithm(rewind):
    initial, calls = make_init(), []
    before = jax.tree.map(np.copy, initial)
    fit = trainer(MODEL, rewind, calls)
    levels = list(loop_of(fit, initial, FRACTIONS, rewind_epoch=rewind, epochs=EPOCHS if rewind else None))
    assert_equal(initial, before)
    assert [(level.level, level.keep_fraction) for level in levels] == list(enumerate(FRACTIONS))
    assert_equal(levels[0].start, initial)
    assert all(np.all(leaf) for leaf in jax.tree.leaves(levels[0].masks))
    target = initial
    if rewind:
        target = ensemble.fit(  # an epoch and no more, rather than a look at a longer training
            MODEL, DATA, train.Config(rewind, 4, 0.05, schedule="constant"), SEEDS, init=initial,
            masks=levels[0].masks, options=ensemble.Options("vmap"),
        ).variables  # fmt: skip
        target = jax.tree.map(np.asarray, target)
        assert np.all(target["params"]["Dense_0"]["kernel"] != initial["params"]["Dense_0"]["kernel"])
    for last, level, call in zip(levels[:-1], levels[1:], calls[1:], strict=True):
        for seed in range(SEEDS):
            trained, alive = (kernels_of(row(tree, seed)) for tree in (last.variables["params"], last.masks))
            scores = {layer: np.abs(kernel) for layer, kernel in trained.items()}
            expected = oracle(scores, level.keep_fraction, "global", alive)
            assert_equal(kernels_of(row(level.masks, seed)), expected)
        # Rewound weights are the originals bit for bit where kept, zero elsewhere; so are the batch statistics.
        kept = jax.tree.map(lambda keep, leaf: np.where(keep, leaf, np.float32(0)), level.masks, target["params"])
        assert_equal(level.start, {**target, "params": kept})
        assert_equal(call[2], level.start)
        assert not np.array_equal(*(tree["params"]["Dense_1"]["bias"] for tree in (level.variables, target)))


def test_training_goes_on_from_the_rewind_epoch_bit_for_bit():
    # Without momentum nothing but the variables passes from epoch to epoch: rewound and unpruned, the end is the same.
    initial = make_init()
    full = pruning.full_masks(initial["params"])
    fit = trainer(rewind=1, momentum=0.0)
    whole = fit(initial, full, 0)
    assert not np.array_equal(whole.rewind["params"]["Dense_0"]["kernel"], initial["params"]["Dense_0"]["kernel"])
    rewound = fit(whole.rewind, full, 1)
    assert rewound.rewind is None
    assert_equal(*(jax.tree.map(np.asarray, trained.variables) for trained in (whole, rewound)))
    # With momentum the fresh buffers show.
    fit = trainer(rewind=1)
    whole = fit(initial, full, 0)
    rewound = fit(whole.rewind, full, 1)
    assert not np.array_equal(*(t.variables["params"]["Dense_0"]["kernel"] for t in (whole, rewound)))


def test_a_new_level_compiles_nothing(compilations):
    model = models.MLP(6, depth=2, num_classes=CLASSES)  # no other test's
    loop = loop_of(trainer(model, rewind=1), make_init(model), FRACTIONS, rewind_epoch=1, epochs=2)
    with compilations() as names:
        next(loop), next(loop)
    assert any("_epoch" in name for name in names) and any("_select" in name for name in names)
    with compilations() as names:
        rest = list(loop)
    assert names == [] and len(rest) == 2


def loop_of(train_level, initial, keep_fractions, *, seed_axis=True, store=None, **flat):
    """Iterative pruning whose schedule and ranking are given in one."""
    ranking = {name: flat.pop(name) for name in ("score", "scope", "prunable", "roles") if name in flat}
    schedule = pruning.Schedule(keep_fractions, **flat)
    kwargs = {"ranking": pruning.Ranking(**ranking), "seed_axis": seed_axis, "store": store}
    return pruning.iterative_pruning(train_level, initial, schedule, **kwargs)


def halve(start, masks, level):
    """A training function without training: signs and order of magnitude change from level to level."""
    before = jax.tree.map(np.asarray, start["params"])
    after = jax.tree.map(lambda leaf: np.sin(np.float32(level + 2) * leaf), before)
    return pruning.TrainedLevel({**start, "params": after}, {**start, "params": jax.tree.map(np.cos, before)})


@pytest.mark.parametrize("one_shot", [False, True])
def test_one_shot_prunes_every_level_from_the_whole_network(one_shot):
    initial = {"params": draw_tree("mixed", 3)}
    levels = list(loop_of(halve, initial, FRACTIONS, one_shot=one_shot, seed_axis=False, scope="layer"))
    for last, level in itertools.pairwise(levels):
        source = levels[0] if one_shot else last
        expected = pruning.magnitude_masks(
            source.variables["params"], level.keep_fraction, scope="layer", masks=source.masks
        )
        assert_equal(level.masks, expected)
        assert_equal(level.start["params"], pruning.apply_masks(initial["params"], level.masks))
    one, two = (levels[i].variables["params"] for i in (0, 1))
    assert not np.array_equal(pruning.magnitude_masks(one, 0.3)["dense0"]["kernel"],
                              pruning.magnitude_masks(two, 0.3)["dense0"]["kernel"])  # fmt: skip


def test_another_score_sees_both_variables_and_the_level():
    initial = stack([{"params": draw_tree("mixed", seed)} for seed in range(2)])
    seen = []

    def score(trained, target, level):
        seen.append(level)
        return pruning.weight_change(trained["params"], target["params"])

    levels = list(
        loop_of(halve, initial, (1, 0.5), rewind_epoch=1, epochs=2, score=score, prunable=pruning.kernels(["out"]))
    )
    change = jax.tree.map(lambda w: np.abs(np.sin(2 * w) - np.cos(w)), initial["params"])
    expected = jax.vmap(lambda s: pruning.masks_from_scores(s, 0.5, prunable=pruning.kernels(["out"])))(change)
    assert seen == [1]
    assert_equal(levels[1].masks, expected)
    assert np.all(levels[1].masks["out"]["kernel"])


def test_what_is_pruned_stays_pruned_whatever_its_score():
    # By this score the smallest weights stay: entries held at zero would be the first to come back.
    initial = {"params": draw_tree("mixed", 5)}
    levels = list(
        loop_of(
            halve, initial, FRACTIONS, seed_axis=False,
            score=lambda trained, target, level: jax.tree.map(lambda leaf: -np.abs(leaf), trained["params"]),
        )
    )  # fmt: skip
    for last, level in itertools.pairwise(levels):
        jax.tree.map(lambda new, old: np.testing.assert_array_equal(np.asarray(new) & ~np.asarray(old), False),
                     level.masks, last.masks)  # fmt: skip
        assert sum(int(kernel.sum()) for kernel in kernels_of(level.masks).values()) == round(level.keep_fraction * 42)


@pytest.mark.parametrize(
    "kwargs", [{}, {"rewind_epoch": 1, "epochs": 2}, {"one_shot": True}], ids=["initial", "epoch 1", "one shot"]
)
@pytest.mark.parametrize("done", range(len(FRACTIONS) + 1))
def test_a_loop_resumed_after_any_level_ends_bit_for_bit(tmp_path, kwargs, done):
    initial = stack([{"params": draw_tree("mixed", seed), "stats": {"mean": np.ones(2)}} for seed in range(2)])
    trained = []

    def counting(start, masks, level):
        trained.append(level)
        return halve(start, masks, level)

    def loop(store):
        return loop_of(counting, initial, FRACTIONS, store=store, **kwargs)

    whole = list(loop(None))
    trained.clear()
    interrupted = loop(records.Checkpointer(tmp_path))
    for _ in range(done):
        next(interrupted)
    resumed = list(loop(records.Checkpointer(tmp_path)))
    assert trained == [0, 1, 2, 3]  # none twice, none left out
    for a, b in zip(whole, resumed, strict=True):
        assert_equal(a, b)


@pytest.mark.parametrize(
    "other",
    [{"keep_fractions": (1, 0.25)}, {"scope": "layer"}, {"one_shot": True}, {"prunable": pruning.kernels(["out"])},
     {"rewind_epoch": 1, "epochs": 2}, {"initial": {"params": draw_tree("mixed", 1)}}],
    ids=lambda other: next(iter(other)),
)  # fmt: skip
def test_stored_levels_of_other_arguments_are_refused(tmp_path, other):
    given = {"initial": {"params": draw_tree("mixed", 0)}, "keep_fractions": (1, 0.5, 0.25), "seed_axis": False}
    list(loop_of(halve, **given, store=records.Checkpointer(tmp_path)))
    with pytest.raises(ValueError, match=r"^store: expected level \d of these arguments, got one of others"):
        list(loop_of(halve, **(given | other), store=records.Checkpointer(tmp_path)))
    # A schedule that begins alike goes on from what is there.
    longer = given | {"keep_fractions": (1, 0.5, 0.25, 0.1)}
    assert len(list(loop_of(halve, **longer, store=records.Checkpointer(tmp_path)))) == 4


def test_a_rewind_epoch_has_one_value():
    initial = {"params": stack([PARAMS, PARAMS])}
    for loop in ({}, {"rewind_epoch": 1, "epochs": 4}):
        with pytest.raises(ValueError, match=r"^rewind_epoch: expected 2, that of rewinding\(\), got [01]"):
            loop_of(pruning.rewinding(lambda *args, **kwargs: None, 2), initial, (1, 0.5), **loop)
    for epoch in (-1, 1.5, True):
        with pytest.raises(ValueError, match=r"^rewind_epoch: expected a whole number of at least 0, got"):
            pruning.rewinding(lambda *args, **kwargs: None, epoch)


BAD_LOOPS = {
    "keep_fractions": [
        {"keep_fractions": value}
        for value in ((), (0.5,), (1, 0.5, 0.6), (1, 0.5, 0.5), (1, 0), (1, -0.5), (1.5, 1), (1, np.nan), (1, "0.5"))
    ],
    "rewind_epoch": [{"rewind_epoch": epoch, "epochs": 5} for epoch in (5, 6, -1, 1.5, True)],
    "epochs": [{"rewind_epoch": 1}],
    "scope": [{"scope": "local"}],
    "initial": [
        {"initial": {"params": {"bias": np.ones((2, 3))}}},
        {"initial": {"bias": np.ones((2, 3))}},
        {"initial": {"params": {"kernel": np.ones((2, 3, 4)), "temperature": np.float32(1)}}},
        {"prunable": lambda name, leaf: False},
    ],
    "except_for": [{"prunable": pruning.kernels(["dense_0"])}],
}


@pytest.mark.parametrize(
    ("name", "index"), [(name, i) for name, values in BAD_LOOPS.items() for i in range(len(values))]
)
def test_a_bad_loop_is_refused_before_anything_is_trained(name, index):
    def never(*args):
        raise AssertionError("trained")

    initial = {"params": stack([PARAMS, PARAMS])}
    arguments = {"initial": initial, "keep_fractions": (1, 0.5), **BAD_LOOPS[name][index]}
    with pytest.raises(ValueError, match=rf"^{name}[^:]*: expected .* got"):
        loop_of(never, **arguments)


@pytest.mark.parametrize(
    ("name", "fn", "kwargs"),
    [
        ("train", lambda start, masks, level: pruning.TrainedLevel(start["params"]), {}),
        ("train", lambda start, masks, level: pruning.TrainedLevel(start), {"rewind_epoch": 1, "epochs": 2}),
        ("train", lambda start, masks, level: pruning.TrainedLevel(start, {}), {"rewind_epoch": 1, "epochs": 2}),
        ("train", lambda start, masks, level: pruning.TrainedLevel(jax.tree.map(lambda a: a + 1, start)), {}),
        ("train", lambda start, masks, level: (start, None), {}),
        ("score", halve, {"score": lambda trained, target, level: trained}),
    ],
    ids=["other structure", "no snapshot", "other snapshot", "ignores masks", "a plain tuple", "other scores"],
)  # fmt: skip
def test_given_functions_are_held_to_their_contract(name, fn, kwargs):
    with pytest.raises(ValueError, match=rf"^{name}[^:]*: expected .* got"):
        list(loop_of(fn, {"params": stack([PARAMS, PARAMS])}, (1, 0.5), **kwargs))


def test_a_diverged_seed_does_not_stop_the_others():
    def fit(start, masks, level):
        return pruning.TrainedLevel(jax.tree.map(lambda a: a.at[1].set(np.nan), start))

    initial = {"params": stack([PARAMS, PARAMS])}
    levels = list(loop_of(fit, initial, (1, 0.5, 0.2)))
    for level in levels:
        counts = np.sum([kernel.reshape(2, -1).sum(1) for kernel in kernels_of(level.masks).values()], 0)
        assert counts.tolist() == [round(level.keep_fraction * 42)] * 2
