"""Narrow networks padded to a wide one: the same training, to rounding, and surplus weights that stay zero."""

import jax
import numpy as np
import pytest
from flax import linen as nn

from ntkgen import data, ensemble, models, train


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", num_train=96, label_noise=0.2)


class Normed(nn.Module):
    """Batch norm with scale and bias, as Flax has it."""

    width: int

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(self.width)(x.reshape(len(x), -1))
        return nn.Dense(10)(nn.relu(nn.BatchNorm(not train, momentum=0.9)(x)))


class Activated(nn.Module):
    """One hidden layer with any activation, or layer norm."""

    width: int
    activation: object = nn.relu
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x):
        x = self.activation(nn.Dense(self.width)(x.reshape(len(x), -1)))
        return nn.Dense(10)(nn.LayerNorm()(x) if self.layer_norm else x)


class Flattened(nn.Module):
    """Pixels and channels on one axis: surplus channels are not at its end."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(self.width, (3, 3), strides=4)(x))
        return nn.Dense(10)(x.reshape(len(x), -1))


def mlp(width):
    return models.MLP(width, depth=3)


@pytest.mark.parametrize(
    "make, settings",
    [
        (mlp, {"optimizer": "sgd", "learning_rate": 0.1, "weight_decay": 0.01}),
        (mlp, {"optimizer": "adam", "learning_rate": 0.003}),
        (Normed, {"learning_rate": 0.05}),
    ],
    ids=["sgd", "adam", "batch norm"],
)
def test_each_width_trains_as_alone(digits, make, settings):
    config, seeds = train.Config(epochs=3, batch_size=40, **settings), [3, 1]
    together = ensemble.fit_widths(make, [3, 6], digits, config, seeds)
    assert jax.tree.map(np.shape, together[6].variables) == jax.tree.map(np.shape, together[6].initial)
    found, alone = together[3], ensemble.fit(make(3), digits, config, seeds)
    for ours, theirs in zip(*map(jax.tree.leaves, (found.initial, alone.initial)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for ours, theirs in zip(*map(jax.tree.leaves, (found.variables, alone.variables)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)
    for name, values in alone.history.items():
        np.testing.assert_allclose(found.history[name], values, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda width: Activated(width, nn.sigmoid), "weights stay zero in training, got others at 3"),
        (lambda width: Activated(width, layer_norm=True), "surplus units of zero weights do not change, got others"),
        (Flattened, "surplus units of zero weights do not change, got others at width 3"),
        (lambda width: models.MLP(width, depth=width), "the same layers at every width, got others at width 3"),
    ],
    ids=["sigmoid", "layer norm", "flattened convolution", "depth"],
)
def test_networks_that_surplus_units_change_are_refused(digits, make, words):
    config = train.Config(epochs=1, batch_size=40, learning_rate=0.1)
    with pytest.raises(ValueError, match=f"make: expected .*{words}"):
        ensemble.fit_widths(make, [3, 6], digits, config, 1)


@pytest.mark.parametrize(
    "given, words",
    [({"widths": [3, 3]}, "widths: expected at least one, distinct"), ({"seeds": [1, 1]}, "seeds: expe")],
)
def test_refusals(digits, given, words):
    settings = {
        "make": mlp,
        "widths": [3],
        "dataset": digits,
        "config": train.Config(epochs=1, batch_size=8),
        "seeds": 1,
    }
    with pytest.raises(ValueError, match=words):
        ensemble.fit_widths(**(settings | given))


def test_groups_grow_until_padding_costs_more_than_a_compilation():
    params = {8: 1_000, 16: 2_000, 64: 10_000}
    few = dict(images=10_000, num_seeds=1)
    assert ensemble.width_groups(params, **few, backend="cpu") == [[8, 16, 64]]
    assert ensemble.width_groups(params, images=10_000_000, num_seeds=1, backend="cpu") == [[8], [16], [64]]
    assert ensemble.width_groups(params, images=1_000_000, num_seeds=1, backend="cpu") == [[8], [16, 64]]
    assert ensemble.width_groups(params, images=10_000_000, num_seeds=1, backend="gpu") == [[8, 16, 64]]
    assert ensemble.width_groups(params, **few, strategy="sequential") == [[8], [16], [64]]


def test_chunks_of_repeated_seeds_have_checkpoints_of_their_own(digits, tmp_path):
    config = train.Config(epochs=2, batch_size=32)
    padded = ensemble.Padded.of(mlp, [4, 6], digits, config, 2)
    given = padded.model, digits, config, padded.seeds
    whole = ensemble.fit(*given, init=padded.init)
    parts = ensemble.fit(*given, init=padded.init, checkpoint=tmp_path, options=ensemble.Options(chunk=2))
    again = ensemble.fit(*given, init=padded.init, checkpoint=tmp_path, options=ensemble.Options(chunk=2))
    for one in (parts, again):
        np.testing.assert_allclose(one.history["train_loss"], whole.history["train_loss"], rtol=1e-5)
