"""Starting values of pruned networks: places, values and scale, against numpy, layer by layer and unit by unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import pruning

SHAPES = {"conv": (3, 3, 2, 6), "dense": (40, 8)}


def network(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {
        name: {"kernel": jnp.asarray(scale * rng.normal(size=shape), jnp.float32), "bias": jnp.ones(shape[-1])}
        for name, shape in SHAPES.items()
    }


def mask(seed, keep=0.2):
    return pruning.masks_from_scores(pruning.random(jax.random.key(seed), network(0)), keep)


def kernels(tree):
    return {name: np.asarray(layer["kernel"]) for name, layer in tree.items()}


def kept(params, masks):
    """The values that masks keep, layer by layer, sorted."""
    return {name: np.sort(kernels(params)[name][kernels(masks)[name]]) for name in SHAPES}


@pytest.fixture(params=["same places", "others in each layer", "others"])
def moved(request):
    """Parameters, their masks, the places that their values go to, the scope, and what comes of it."""
    params, masks = network(1), mask(2)
    scope = "global" if request.param == "others" else "layer"
    places = masks
    if request.param != "same places":
        places = pruning.shuffle_masks(jax.random.key(3), masks, scope=scope)
    return (
        params,
        masks,
        places,
        scope,
        pruning.shuffle_values(jax.random.key(4), params, masks, places, scope=scope),
    )


def test_shuffled_values_are_the_survivors_and_stand_where_asked(moved):
    params, masks, places, scope, found = moved
    for name in SHAPES:
        np.testing.assert_array_equal(kernels(found)[name] != 0, kernels(places)[name])
        np.testing.assert_array_equal(found[name]["bias"], params[name]["bias"])
    before, after = kept(params, masks), kept(found, places)
    if scope == "layer":
        for name in SHAPES:
            np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_array_equal(*(np.sort(np.concatenate(list(each.values()))) for each in (after, before)))


def test_every_order_of_shuffled_values_is_as_likely():
    params = {"kernel": jnp.array([[1.0, 2.0, 3.0, 4.0]])}
    masks = {"kernel": np.array([[True, True, False, True]])}
    shuffle = jax.jit(jax.vmap(lambda key: pruning.shuffle_values(key, params, masks, masks)["kernel"][0]))
    found = np.asarray(shuffle(jax.random.split(jax.random.key(0), 6000)))
    orders, counts = np.unique(found, axis=0, return_counts=True)
    assert len(orders) == 6 and (orders[:, 2] == 0).all()
    assert (abs(counts - 1000) < 5 * np.sqrt(1000 * 5 / 6)).all()  # five standard deviations of a binomial count


def test_randomness_is_that_of_the_key(moved):
    params, masks, places, scope, found = moved
    again, other = (pruning.shuffle_values(jax.random.key(key), params, masks, places, scope=scope) for key in (4, 5))
    jax.tree.map(np.testing.assert_array_equal, again, found)
    assert not any(np.array_equal(kernels(other)[name], kernels(found)[name]) for name in SHAPES)


def test_values_have_the_survivors_standard_deviation():
    params, reference, masks = network(1, 5.0), network(2, 0.1), mask(3)
    found = pruning.match_std(params, reference, masks)
    for name in SHAPES:
        own, other, keep = (kernels(each)[name] for each in (found, reference, masks))
        np.testing.assert_array_equal(own != 0, keep)
        np.testing.assert_allclose(np.sqrt(np.mean(own[keep] ** 2)), np.sqrt(np.mean(other[keep] ** 2)), rtol=1e-5)
        ratio = own[keep] / kernels(params)[name][keep]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)  # nothing but one factor
        np.testing.assert_array_equal(found[name]["bias"], params[name]["bias"])
    # Where nothing is kept there is nothing to scale.
    nothing = jax.tree.map(jnp.zeros_like, masks)
    found = pruning.match_std(params, reference, nothing)
    assert all((kernel == 0).all() for kernel in kernels(found).values())


def test_a_units_weights_are_those_of_its_kept_inputs():
    params, masks = network(1), mask(2)
    masks["dense"]["kernel"] = masks["dense"]["kernel"].at[:, 3].set(False)  # a unit without inputs
    found = pruning.scale_to_kept_fan_in(params, masks)
    for name, shape in SHAPES.items():
        own, before, keep = (kernels(each)[name].reshape(-1, shape[-1]) for each in (found, params, masks))
        for unit in range(shape[-1]):
            count = keep[:, unit].sum()
            expected = before[:, unit] * keep[:, unit] * np.sqrt(len(before) / max(count, 1))
            np.testing.assert_allclose(own[:, unit], expected, rtol=1e-6)
        np.testing.assert_array_equal(found[name]["bias"], params[name]["bias"])
    full = pruning.scale_to_kept_fan_in(params, pruning.full_masks(params))
    jax.tree.map(np.testing.assert_array_equal, full, params)


def test_draws_of_pytorchs_rule_stay_within_the_bounds_of_the_kept_fan_in():
    key, masks = (
        jax.random.key(0),
        {"kernel": pruning.random(jax.random.key(1), {"k": jnp.ones((400, 50))})["k"] < 0.05},
    )
    drawn = {"kernel": jax.random.uniform(key, (400, 50), minval=-1 / 20, maxval=1 / 20)}
    found = np.asarray(pruning.scale_to_kept_fan_in(drawn, masks)["kernel"])
    bound = 1 / np.sqrt(np.asarray(masks["kernel"]).sum(0))
    share = abs(found) / bound
    assert share.max() <= 1 + 1e-6 and share.max() > 0.95
    assert np.sqrt(np.mean(share[np.asarray(masks["kernel"])] ** 2)) == pytest.approx(1 / np.sqrt(3), rel=0.05)


def test_a_head_that_is_not_pruned_keeps_its_values():
    params, masks = network(1), mask(2)
    masks["dense"]["kernel"] = np.ones(SHAPES["dense"], bool)
    rule = pruning.kernels(["dense"])
    found = (
        pruning.shuffle_values(jax.random.key(0), params, masks, masks, prunable=rule),
        pruning.match_std(params, network(5), masks, prunable=rule),
        pruning.scale_to_kept_fan_in(params, masks, prunable=rule),
    )
    for one in found:
        np.testing.assert_array_equal(one["dense"]["kernel"], params["dense"]["kernel"])
        assert not np.array_equal(one["conv"]["kernel"], params["conv"]["kernel"])


def test_what_does_not_fit_is_refused():
    params, masks = network(1), mask(2)
    short = {"conv": masks["conv"]}
    with pytest.raises(ValueError, match=r"^masks: expected the structure"):
        pruning.scale_to_kept_fan_in(params, short)
    with pytest.raises(ValueError, match=r"^reference: expected the structure"):
        pruning.match_std(params, {"conv": params["conv"]}, masks)
    with pytest.raises(ValueError, match=r"^places: expected the structure"):
        pruning.shuffle_values(jax.random.key(0), params, masks, short)
    with pytest.raises(ValueError, match=r"^scope: expected one of global, layer, got 'unit'$"):
        pruning.shuffle_values(jax.random.key(0), params, masks, masks, scope="unit")
    with pytest.raises(ValueError, match=r"^params: expected at least one prunable weight"):
        pruning.scale_to_kept_fan_in({"bias": jnp.ones(3)}, {"bias": np.ones(3, bool)})
