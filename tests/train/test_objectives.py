"""Losses and metrics against the numpy oracle and at their edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference

from ntkgen import ensemble, models, train

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


def test_class_weights_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels, weights = rng.normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 2, 2, 0, 1]), (0.5, 1.0, 3.0)
    soft = rng.dirichlet(np.ones(3), 6).astype(np.float32)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weights), reduction="none")
    for targets in (labels, soft):
        ours = train.WeightedCrossEntropy(weights)(jnp.asarray(logits), jnp.asarray(targets))
        np.testing.assert_allclose(ours, theirs(torch.tensor(logits), torch.tensor(targets)).numpy(), rtol=1e-5)


def test_class_weights_move_a_networks_errors():
    x = np.concatenate([np.full((30, 1), -0.1), np.full((6, 1), 0.1)]).astype(np.float32)
    x += np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    y = np.repeat([0, 1], [30, 6])
    found = []
    for loss in ("cross_entropy", train.WeightedCrossEntropy.balanced(y)):
        config = train.Config(epochs=20, batch_size=36, learning_rate=0.1, loss=loss)
        result = ensemble.fit(models.MLP(8, depth=2, num_classes=2), (x, y), config, 1, test=(x, y))
        network = jax.tree.map(lambda leaf: leaf[0], result.variables)
        outputs = models.apply_fn(models.MLP(8, depth=2, num_classes=2), network)(network["params"], x)
        found.append(float(jnp.mean(jnp.argmax(outputs[30:], -1) == 1)))
    assert found[1] > found[0]  # the rare class is found more often


@pytest.mark.parametrize(
    "weights, words",
    [
        ((1.0,), "expected a number"),
        ((1.0, -1.0), "expected a number"),
        ("ab", "expected a number"),
        ((0, 0), "expect"),
    ],
)
def test_bad_class_weights(weights, words):
    with pytest.raises(ValueError, match=f"weights: {words}"):
        train.WeightedCrossEntropy(weights)


def test_class_weights_check_labels_and_outputs():
    x, y = np.zeros((4, 1), np.float32), np.array([0, 1, 2, 0])
    config = train.Config(epochs=1, batch_size=4, loss=train.WeightedCrossEntropy((1.0, 2.0)))
    with pytest.raises(ValueError, match="labels from 0 to 1"):
        ensemble.fit(models.MLP(2, depth=2, num_classes=2), (x, y), config, 1, test=(x, y))
    with pytest.raises(ValueError, match="weights: expected 3, one for each output, got 2"):
        ensemble.fit(models.MLP(2, depth=2, num_classes=3), (x, y), config, 1, test=(x, y))
    with pytest.raises(ValueError, match="labels: expected examples of every class"):
        train.WeightedCrossEntropy.balanced([0, 2])
