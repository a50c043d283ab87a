"""Lazy networks' movement to a loss, against explicit linear models."""

import numpy as np
import pytest
import scipy.special

from ntkgen import kernels


@pytest.mark.parametrize("objective", ["mse", "cross_entropy"])
def test_movement_to_a_loss_is_that_of_an_explicit_linear_model(objective):
    rng = np.random.default_rng(8)
    jacobian, y = rng.normal(size=(6, 9)), np.eye(3)[[0, 1, 2, 0, 1, 2]]
    target = {"mse": 0.1, "cross_entropy": 0.3}[objective]

    def residual(theta):
        f = jacobian @ theta
        return y - (f if objective == "mse" else scipy.special.softmax(f, 1))

    def loss(theta):
        f = jacobian @ theta
        if objective == "mse":
            return np.mean(np.sum((f - y) ** 2, 1)) / 2
        return -np.mean(np.sum(y * scipy.special.log_softmax(f, 1), 1))

    theta, step, time = np.zeros((9, 3)), 1e-4, 0.0
    while loss(theta) > target:
        half = theta + step / 2 * jacobian.T @ residual(theta)  # midpoint rule, second order
        theta = theta + step * jacobian.T @ residual(half)
        time += step
    found = kernels.movement_to_loss(jacobian @ jacobian.T, y, target, objective=objective)
    assert found.movement == pytest.approx(np.linalg.norm(theta), rel=1e-3)
    assert found.time == pytest.approx(time, rel=2e-3)


def test_movement_to_a_loss_that_is_there_already_or_never_reached():
    y = np.eye(2)[[0, 1, 0]]
    for objective in ("mse", "cross_entropy"):
        assert kernels.movement_to_loss(np.eye(3), y, 5.0, objective=objective) == (0, 0)
        blind = np.diag([1.0, 1.0, 0.0])  # the last sample is never learnt
        assert np.isnan(kernels.movement_to_loss(blind, y, 0.1, objective=objective)).all()
        four = 4 * np.eye(3)  # twice the scale of the features: a quarter of the time, half the movement
        slow, fast = (kernels.movement_to_loss(k, y, 0.2, objective=objective) for k in (np.eye(3), four))
        np.testing.assert_allclose(slow, (4 * fast.time, 2 * fast.movement), rtol=1e-3)


def test_a_loss_that_is_never_reached_is_soon_given_up():
    rng = np.random.default_rng(9)
    features, labels = rng.normal(size=(50, 80)), np.eye(3)[rng.integers(0, 3, 50)]
    features[25:], labels[25:] = features[:25], np.roll(labels[:25], 1, 1)  # the same samples with other labels
    cases = {"contradictory": (features @ features.T, labels), "soft": (np.eye(50), 0.5 * labels + 1 / 6),
             "zero": (np.zeros((50, 50)), labels)}  # fmt: skip
    for name, (kernel, y) in cases.items():
        assert np.isnan(kernels.movement_to_loss(kernel, y, 0.2, objective="cross_entropy")).all(), name


@pytest.mark.parametrize("objective", ["mse", "cross_entropy"])
def test_any_scale_and_any_low_loss_that_is_reached(objective):
    rng = np.random.default_rng(10)
    features, y = rng.normal(size=(8, 20)), np.eye(2)[[0, 1] * 4]
    kernel = features @ features.T
    usual = kernels.movement_to_loss(kernel, y, 0.1, objective=objective)
    for scale in (1e-30, 1e30):
        found = kernels.movement_to_loss(kernel * scale, y, 0.1, objective=objective)
        np.testing.assert_allclose(found, (usual.time / scale, usual.movement / scale**0.5), rtol=1e-6)
    late = kernels.movement_to_loss(np.eye(2), np.eye(2), 1e-6, objective=objective)
    assert late.time == pytest.approx({"mse": 6.561, "cross_entropy": 5e5}[objective], rel=1e-3)


BAD = {
    "objective: expected": lambda: kernels.movement_to_loss(np.eye(2), np.ones((2, 1)), 0.1, objective="hinge"),
    "loss: expected a positive": lambda: kernels.movement_to_loss(np.eye(2), np.ones((2, 1)), 0.0),
    "targets: expected probabilities": lambda: kernels.movement_to_loss(
        np.eye(2), np.ones((2, 2)), 0.1, objective="cross_entropy"
    ),
    "covariance: expected None": lambda: kernels.movement_to_loss(
        np.eye(2), np.eye(2), 0.1, objective="cross_entropy", covariance=np.eye(2)
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_a_wrong_argument_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
