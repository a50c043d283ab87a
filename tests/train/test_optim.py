"""Optimizers against their definitions written out, schedules, and the scaling rules of the learning rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from ntkgen import train
from ntkgen.train import _optimizers

# Section V-B of the paper.
TABLE = {32: 0.005, 64: 0.0075, 128: 0.01, 256: 0.02, 512: 0.04, 1024: 0.08, 2048: 0.10}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("name", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("gd", 0.0), ("gd", 0.5), ("adam", 0.0), ("adam", 0.9)]
)
def test_several_steps_are_the_oracles(name, momentum, weight_decay):
    rng, rates = np.random.default_rng(0), [0.1, 0.1, 0.05, 0.02]
    direction = _optimizers.make(name, momentum, weight_decay)
    params = jnp.asarray(rng.normal(size=(3, 2)))
    expected, memory = np.asarray(params), (0.0, 0.0) if name == "adam" else 0.0
    state = direction.init(params)
    for step, rate in enumerate(rates, 1):
        gradient = rng.normal(size=(3, 2))
        update, state = direction.update(jnp.asarray(gradient), state, params)
        params = params - rate * update
        if name == "adam":  # its betas are its own; momentum changes nothing
            expected, memory = reference.adam(expected, gradient, memory, step, rate, weight_decay)
        else:
            expected, memory = reference.sgd(expected, gradient, memory, rate, momentum, weight_decay)
        np.testing.assert_allclose(params, expected, rtol=1e-12)


def test_no_momentum_keeps_no_buffer():
    assert jax.tree.leaves(_optimizers.make("sgd", 0.0, 0.0).init(jnp.ones(3))) == []
    assert len(jax.tree.leaves(_optimizers.make("sgd", 0.9, 0.0).init(jnp.ones(3)))) == 1


def test_unknown_optimizer_is_named():
    with pytest.raises(ValueError, match="optimizer: expected one of sgd, adam, gd, got 'rmsprop'"):
        _optimizers.make("rmsprop", 0.9, 0.0)


def test_cosine_by_the_epoch():
    rates = [train.learning_rate_at(e, base=0.2, epochs=4, schedule="cosine") for e in range(4)]
    np.testing.assert_allclose(rates, [0.2, 0.1 + 0.1 / np.sqrt(2), 0.1, 0.1 - 0.1 / np.sqrt(2)], rtol=1e-12)
    np.testing.assert_allclose(rates, [reference.cosine(0.2, e, 4) for e in range(4)], rtol=1e-12)
    assert train.learning_rate_at(0, base=0.2, epochs=1, schedule="cosine") == 0.2


def test_constant_and_unknown_schedules():
    assert {train.learning_rate_at(e, base=0.3, epochs=5, schedule="constant") for e in range(5)} == {0.3}
    with pytest.raises(ValueError, match="schedule: expected one of cosine, constant, got 'step'"):
        train.learning_rate_at(0, base=0.1, epochs=3, schedule="step")


@pytest.mark.parametrize(("batch", "rate"), TABLE.items())
def test_table_of_rates(batch, rate):
    assert train.scaled_learning_rate(batch) == rate
    assert train.scaled_learning_rate(batch, base=7.0) == rate  # the table knows no base
    assert set(train.TABLE) == set(TABLE)


@pytest.mark.parametrize(("scaling", "rate"), [("linear", 0.08), ("sqrt", 0.04), ("fixed", 0.02)])
def test_scaling_rules(scaling, rate):
    ours = train.scaled_learning_rate(64, base=0.02, base_batch=16, scaling=scaling)
    np.testing.assert_allclose(ours, rate, rtol=1e-12)
    assert train.scaled_learning_rate(16, base=0.02, base_batch=16, scaling=scaling) == 0.02


def test_scaling_errors_name_the_argument():
    with pytest.raises(ValueError, match=r"batch_size: the published table has .*got 100"):
        train.scaled_learning_rate(100)
    with pytest.raises(ValueError, match=r"scaling: expected one of .*got 'cubic'"):
        train.scaled_learning_rate(128, scaling="cubic")
