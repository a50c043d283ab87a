"""Matching of units: permutations undone, functions unchanged, maxima that are maxima."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from ntkgen import models, pruning

LAYERS = ("dense0", "dense1", "dense2", "dense10")  # not in the order of their names


def make_mlp(seed, widths=(6, 8, 7, 9, 3), bias=True):
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": rng.normal(size=(n, m)), **({"bias": rng.normal(size=m)} if bias else {})}
        for name, n, m in zip(LAYERS, widths[:-1], widths[1:], strict=True)
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_matching_recovers_a_permutation_and_the_masks_with_it(seed, bias):
    rng, params = np.random.default_rng(seed + 100), make_mlp(seed, bias=bias)
    hidden = [rng.permutation(n) for n in (8, 7, 9)]
    shuffled = pruning.permute_units(params, hidden, LAYERS)
    noisy = jax.tree.map(lambda leaf: leaf + 0.01 * rng.normal(size=leaf.shape), shuffled)
    found = pruning.match_units(params, noisy, LAYERS)
    for permutation, inverse in zip(hidden, found, strict=True):
        np.testing.assert_array_equal(permutation[inverse], np.arange(len(permutation)))
    assert_equal(pruning.permute_units(shuffled, found, LAYERS), params)
    masks = pruning.magnitude_masks(jax.tree.map(np.float32, params), 0.3)
    other = pruning.magnitude_masks(jax.tree.map(np.float32, shuffled), 0.3)
    assert pruning.overlap(masks, other)["dense1/kernel"].jaccard < 0.7
    matched = pruning.permute_units(other, found, LAYERS)
    assert {layer.jaccard for layer in pruning.overlap(masks, matched).values()} == {1.0}
    assert matched["dense1"]["kernel"].dtype == bool


def test_permuted_units_compute_the_same_function():
    params, x = make_mlp(0), np.random.default_rng(1).normal(size=(4, 6))
    order = [np.roll(np.arange(n), 3) for n in (8, 7, 9)]

    def logits(params):
        return reference.mlp({f"dense{i}": params[name] for i, name in enumerate(LAYERS)}, x)

    permuted = pruning.permute_units(params, order, LAYERS)
    np.testing.assert_array_equal(permuted["dense0"]["bias"], params["dense0"]["bias"][order[0]])
    np.testing.assert_allclose(logits(permuted), logits(params), rtol=1e-12)


def test_matching_is_a_maximum_in_every_layer_for_unrelated_networks():
    # Also: it does not make tickets overlap that have nothing in common beyond a few deviations of chance.
    a, b = make_mlp(1), make_mlp(2)

    def product(order):
        moved = pruning.permute_units(b, order, LAYERS)
        return sum(np.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(moved), strict=True))

    found = pruning.match_units(a, b, LAYERS)
    best = product(found)
    assert best > product([np.arange(len(p)) for p in found])
    for layer, permutation in enumerate(found):
        for i in range(len(permutation)):
            for j in range(i):
                swapped = [p.copy() for p in found]
                swapped[layer][[i, j]] = swapped[layer][[j, i]]
                assert product(swapped) <= best + 1e-9


def broken_mlp(change):
    params = make_mlp(0)
    change(params)
    return params


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("layers", lambda: pruning.match_units(make_mlp(0), make_mlp(1), LAYERS[:3])),
        ("layers", lambda: pruning.match_units(make_mlp(0), make_mlp(1), (*LAYERS, "dense0"))),
        ("params", lambda: pruning.match_units(make_mlp(0), make_mlp(1), LAYERS[::-1])),
        ("params", lambda: pruning.match_units(broken_mlp(lambda p: p["dense1"].update(scale=np.ones(7))), make_mlp(1),
                                               LAYERS)),
        ("params", lambda: pruning.match_units(broken_mlp(lambda p: p["dense1"].update(bias=np.ones(6))), make_mlp(1),
                                               LAYERS)),
        ("params", lambda: pruning.match_units(broken_mlp(lambda p: p["dense1"].update(bias=np.full(7, np.nan))),
                                               make_mlp(1), LAYERS)),
        ("other", lambda: pruning.match_units(make_mlp(0), make_mlp(1, (6, 8, 7, 8, 3)), LAYERS)),
        ("permutations", lambda: pruning.permute_units(make_mlp(0), [np.arange(8), np.arange(7)], LAYERS)),
        ("permutations", lambda: pruning.permute_units(make_mlp(0), [np.arange(8), np.arange(7), np.zeros(9, int)],
                                                       LAYERS)),
    ],
)  # fmt: skip
def test_a_bad_chain_is_refused_by_name(name, call):
    with pytest.raises(ValueError, match=rf"^{name}[^:]*: expected .* got"):
        call()


# Convolutions, normalisations, flattening


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def make_cnn(affine, seed, channels=2):
    model = models.CNN(channels, num_classes=3, affine_norm=affine)
    shapes = jax.eval_shape(lambda key: models.init(model, key, (8, 16, 3)), jax.random.key(0))
    drawn = reference.random_variables(shapes, seed)
    return model, jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), drawn)


def shuffled_cnn(model, variables, seed):
    layers, norms = models.unit_chain(model)
    rng = np.random.default_rng(seed)
    order = [rng.permutation(variables["params"][name]["kernel"].shape[-1]) for name in layers[:-1]]
    return order, {
        "params": pruning.permute_units(variables["params"], order, layers, norms),
        "batch_stats": pruning.permute_statistics(variables["batch_stats"], order, layers, norms),
    }


@pytest.mark.parametrize("affine", [False, True])
def test_permuted_channels_compute_the_same_function(affine):
    model, variables = make_cnn(affine, 0)
    _, moved = shuffled_cnn(model, variables, 1)
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 8, 16, 3)), jnp.float32)  # flattened as 1 x 2 x channels
    logits, same = (jax.jit(model.apply)(each, x) for each in (variables, moved))
    assert np.std(logits, axis=0).min() > 0
    np.testing.assert_allclose(same, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())
    # The statistics matter: left in place they make another function.
    stale = jax.jit(model.apply)({**moved, "batch_stats": variables["batch_stats"]}, x)
    assert np.abs(stale - logits).max() > 0.01 * np.abs(logits).max()


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_permuted_cnn_is_matched_back_exactly(affine, seed):
    model, variables = make_cnn(affine, seed)
    layers, norms = models.unit_chain(model)
    _, moved = shuffled_cnn(model, variables, seed + 10)
    found = pruning.match_units(variables["params"], moved["params"], layers, norms)
    assert_equal(pruning.permute_units(moved["params"], found, layers, norms), variables["params"])
    assert_equal(pruning.permute_statistics(moved["batch_stats"], found, layers, norms), variables["batch_stats"])
    masks = pruning.magnitude_masks(variables["params"], 0.3)
    back = pruning.permute_units(pruning.magnitude_masks(moved["params"], 0.3), found, layers, norms)
    assert_equal(back, jax.tree.map(np.asarray, masks))


def test_the_chain_of_the_mlp_is_that_of_its_params():
    model = models.MLP(5, depth=3)
    layers, norms = models.unit_chain(model)
    assert norms == {} and set(layers) == set(models.init(model, jax.random.key(0), (4,))["params"])


def cnn_with(change):
    params = make_cnn(True, 0)[1]["params"]
    change(params)
    return params


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("params", cnn_with(lambda p: p["dense0"].update(kernel=np.ones((17, 256))))),  # no multiple of 8 channels
        ("params", cnn_with(lambda p: p["conv1_0"].update(kernel=np.ones((3, 3, 3, 4))))),
        ("params", cnn_with(lambda p: p["norm1_0"].update(scale=np.ones(3)))),
        ("layers", cnn_with(lambda p: p.pop("dense1"))),
    ],
)
def test_a_broken_cnn_is_refused_by_name(name, params):
    layers, norms = models.unit_chain(models.CNN(2, affine_norm=True))
    with pytest.raises(ValueError, match=rf"^{name}[^:]*: expected .* got"):
        pruning.match_units(params, params, layers, norms)


@pytest.mark.parametrize(
    "change", [lambda s: s.pop("norm0_0"), lambda s: s["norm0_0"].update(mean=np.ones(3))], ids=["missing", "size"]
)
def test_foreign_statistics_are_refused(change):
    model, variables = make_cnn(False, 0)
    layers, norms = models.unit_chain(model)
    order, _ = shuffled_cnn(model, variables, 0)
    change(variables["batch_stats"])
    with pytest.raises(ValueError, match=r"^statistics: expected .* got"):
        pruning.permute_statistics(variables["batch_stats"], order, layers, norms)
