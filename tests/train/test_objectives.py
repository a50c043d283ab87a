"""Losses and metrics against the numpy oracle and at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from ntkgen import train

RNG = np.random.default_rng(0)
LOGITS, LABELS = RNG.normal(size=(6, 4)) * 3, RNG.integers(0, 4, 6).astype(np.int32)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", train.LOSSES)
def test_loss_and_gradient_are_the_oracles(name):
    loss = train.LOSSES[name]
    value, gradient = reference.LOSSES[name](LOGITS, LABELS)
    np.testing.assert_allclose(loss(jnp.asarray(LOGITS), LABELS), value, rtol=1e-12)
    ours = jax.grad(lambda z: loss(z, LABELS).sum())(jnp.asarray(LOGITS))
    np.testing.assert_allclose(ours, gradient, rtol=1e-12, atol=1e-15)


def test_every_loss_is_known_to_the_oracle():
    assert train.LOSSES.keys() == reference.LOSSES.keys()


def test_known_values():
    # log(1 + e^-2) for the right class two above the wrong one; half of (2 - 1)^2 + 0^2.
    logits, labels = jnp.array([[2.0, 0.0]]), jnp.array([0])
    np.testing.assert_allclose(train.cross_entropy(logits, labels), np.log1p(np.exp(-2)), rtol=1e-6)
    np.testing.assert_allclose(train.squared_error(logits, labels), 0.5, rtol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_cross_entropy_of_large_logits_stays_finite(size):
    logits = jnp.array([[size, 0.0], [0.0, size]], jnp.float32)
    losses = train.cross_entropy(logits, jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(losses, [0, size], rtol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 16.0, 1024.0])
def test_cross_entropy_loses_no_digits_to_the_size_of_the_logits(shift):
    # Loss curves at interpolation live at 1e-5 and below. -log_softmax, as PyTorch computes it, subtracts the largest
    # logit first: two roundings of numbers near 1, whatever is common to all logits. logsumexp - logit instead
    # rounds to the logit's last place, 1e-6 at 16. (All logits here are exact in float32.)
    logits = np.array([[12.0, 0.0, -1.0], [5.0, 5.0, 4.0], [8.0, 0.5, 0.0]]) + shift
    exact, _ = reference.cross_entropy(logits - shift, np.zeros(3, int))
    losses = train.cross_entropy(jnp.asarray(logits, jnp.float32), jnp.zeros(3, jnp.int32))
    np.testing.assert_allclose(losses, exact, rtol=0, atol=2 * np.finfo(np.float32).eps)


def test_correct_counts_hits():
    logits = jnp.array([[1.0, 2.0], [2.0, 1.0], [0.0, -1.0]])
    hits = train.correct(logits, jnp.array([1, 1, 0]))
    assert hits.dtype == logits.dtype
    np.testing.assert_array_equal(hits, [1, 0, 1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_correct_does_not_take_non_finite_outputs_for_an_answer(bad):
    # argmax of NaNs is 0, the label of the first row; only that row is spoilt.
    logits = jnp.array([[bad, bad], [1.0, 0.0], [0.0, bad]])
    np.testing.assert_array_equal(train.correct(logits, jnp.array([0, 0, 0])), [np.nan, 1, np.nan])
