"""The battery as a whole: what each measurement says of itself, and that seeds do not depend on each other."""

import jax
import numpy as np
import pytest
from battery_networks import CHEAP, SEEDS, convolutional, dataset, row, take, trained

from ntkgen import measure, train

NAMES = list(measure.MEASUREMENTS)
LOST = 3


def with_a_lost_seed():
    arm = trained()
    broken = jax.tree.map(lambda leaf: leaf.at[LOST].set(np.nan), arm.variables)
    return arm._replace(variables=broken)


def one_seed(arm, seed):
    pick = lambda tree: jax.tree.map(lambda leaf: leaf[seed : seed + 1], tree)  # noqa: E731
    return arm._replace(variables=pick(arm.variables), initial=pick(arm.initial), keys=arm.keys[seed : seed + 1])


def test_measurements_say_what_they_are():
    columns = [column for each in measure.MEASUREMENTS.values() for column in each.columns]
    assert len(set(columns)) == len(columns)
    for name, each in measure.MEASUREMENTS.items():
        assert each.name == name and len(each.definition) > 60 and each.definition.endswith(".")
        assert all(each.columns.values()) and set(each.direction) == set(each.columns)
        assert set(CHEAP.get(name, {})) <= set(each.options) and hash(tuple(each.options.items()))
        assert each.undefined(trained().model, train.cross_entropy) == {}


@pytest.mark.parametrize("name", NAMES)
def test_seeds_do_not_depend_on_each_other(name, compilations):
    arm = with_a_lost_seed()
    found = take(name, arm, strategy="sequential")
    assert list(found) == list(measure.MEASUREMENTS[name].columns)
    assert {values.dtype for values in found.values()} == {np.dtype(np.float64)}
    with compilations() as compiled:
        again = take(name, trained(), strategy="sequential")  # other networks of equal shapes
    assert not compiled
    alone = take(name, one_seed(arm, 1), strategy="sequential")
    batched = take(name, arm, strategy="vmap")
    for column, values in found.items():
        assert values.shape == (SEEDS,) and np.isnan(values[LOST]) and np.isnan(batched[column][LOST])
        others = np.arange(SEEDS) != LOST
        np.testing.assert_array_equal(values[others], again[column][others])
        np.testing.assert_array_equal(values[1], alone[column][0])
        np.testing.assert_allclose(values, batched[column], rtol=2e-3, atol=1e-5)
    assert any(np.isfinite(again[column]).any() for column in found)


def test_compilations_are_seen(compilations):
    with compilations() as compiled:
        take("perturbation", num_samples=2)
    assert compiled


@pytest.mark.parametrize("name", NAMES)
def test_every_measurement_takes_a_cnn(name):
    arm, each = convolutional(), measure.MEASUREMENTS[name]
    found = measure.take(each, arm, dataset((8, 8, 1)), **CHEAP.get(name, {}))
    undefined = each.undefined(arm.model, arm.loss)
    assert all(np.isnan(found[column]).all() for column in undefined) and all(undefined.values())
    assert set(undefined) < set(found) and not any(np.isinf(values).any() for values in found.values())
    needs_fit = ("_at_", "_over_margin", "noise_scale", "margin_normalised", "pac_bayes")
    sure = [column for column in found if column not in undefined and not any(part in column for part in needs_fit)]
    assert all(np.isfinite(found[column]).all() for column in sure)


def test_all_seeds_lost():
    arm = trained()._replace(variables=jax.tree.map(lambda leaf: leaf * np.nan, trained().variables))
    for name in ("kernel", "fit"):
        found = take(name, arm)
        assert all(values.shape == (SEEDS,) and np.isnan(values).all() for values in found.values())


def test_another_loss():
    arm = trained()._replace(loss=train.squared_error)
    found = take("fit", arm)
    assert found["train_loss"][0] != take("fit")["train_loss"][0]
    assert all(np.isnan(values).all() for values in take("sharpness_at_loss", arm).values())
    undefined = measure.MEASUREMENTS["sharpness_at_loss"].undefined(arm.model, arm.loss)
    assert set(undefined) == set(measure.MEASUREMENTS["sharpness_at_loss"].columns)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match=r"^fit: expected options of \[\], got \['samples'\]"):
        take("fit", samples=3)
    with pytest.raises(ValueError, match=r"^perturbation: expected the columns rise_0.01, .*; for others make a"):
        take("perturbation", sigmas=(0.3,))
    with pytest.raises(ValueError, match="direction: expected columns"):
        measure.Measurement("a", "b", {"c": "d"}, row, direction={"e": 1})
    own = measure.perturbation_at((0.3,))
    assert list(measure.take(own, trained(), dataset())) == ["rise_0.3", "rise_0.3_error"]
