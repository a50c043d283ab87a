"""Curvature and perturbation of the battery against dense derivatives."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle
from battery_networks import MLP, SEEDS, dataset, forward, layers, row, take, trained
from scipy import optimize, special

from ntkgen import models, train, tree

F = models.apply_fn(MLP, {})


def loss_at(temperature=1.0):
    x, y = dataset().train.x, dataset().train.y
    return lambda params: jnp.mean(train.cross_entropy(F(params, x) / temperature, y))


def test_eigenvalue_and_trace_against_the_dense_hessian():
    found = take("sharpness", num_iters=60, tol=1e-4, trace_probes=60)
    for seed in range(SEEDS):
        values = np.linalg.eigvalsh(oracle.hessian(loss_at(), row(trained().variables["params"], seed)))
        assert found["eigenvalue"][seed] == pytest.approx(values[-1], rel=1e-3)
        assert abs(found["trace"][seed] - values.sum()) < 5 * found["trace_error"][seed] + 1e-3
    assert (found["eigenvalue_converged"] == 1).all() and (found["eigenvalue_residual"] <= 1e-4).all()
    first = take("sharpness", samples=10)
    assert (first["eigenvalue"] != found["eigenvalue"]).all()


def test_rise_against_the_same_draws_one_by_one():
    found, y = take("perturbation", num_samples=8), np.asarray(dataset().train.y)
    for seed in range(SEEDS):
        params = row(trained().variables["params"], seed)
        keys = jax.random.split(jax.random.fold_in(trained().keys[seed], zlib.crc32(b"perturbation")), (2, 8))

        def loss(own):
            out, _ = forward(layers(own), dataset().train.x)
            return -special.log_softmax(out, 1)[np.arange(len(y)), y].mean()

        for i, sigma in enumerate((0.01, 0.05)):
            noises = [tree.random_like(key, params) for key in keys[i]]
            rises = [loss(tree.axpy(sigma, noise, params)) - loss(params) for noise in noises]
            assert found[f"rise_{sigma}"][seed] == pytest.approx(np.mean(rises), rel=1e-3, abs=1e-6)
            error = np.std(rises, ddof=1) / 8**0.5
            assert found[f"rise_{sigma}_error"][seed] == pytest.approx(error, rel=1e-2, abs=1e-6)


def test_average_is_near_its_second_order_term_and_the_worst_case_beyond_it():
    found = take("adaptive_sharpness", num_samples=400, worst_steps=20)
    for seed in range(SEEDS):
        params = row(trained().variables["params"], seed)
        hessian, w = oracle.hessian(loss_at(), params), np.asarray(oracle.flat_params(params)[0])
        second_order = 0.5 * 0.1**2 * np.sum(np.diag(hessian) * w**2)
        error = found["average_adaptive_error"][seed]
        assert abs(found["average_adaptive"][seed] - second_order) < 5 * error + 0.5 * abs(second_order)
    assert (found["worst_adaptive"] > 0.5 * found["average_adaptive"]).all()


def test_curvature_at_a_loss():
    found = take("sharpness_at_loss", num_iters=60)
    y, seen = np.asarray(dataset().train.y), 0
    for seed in range(SEEDS):
        params = row(trained().variables["params"], seed)
        out, _ = forward(layers(params), dataset().train.x)

        def loss(log_b, out=out):
            return -special.log_softmax(out * np.exp(log_b), 1)[np.arange(len(y)), y].mean()

        lowest = optimize.minimize_scalar(loss, bounds=(-10, 10), method="bounded")
        for target in (0.1, 0.03, 0.01):
            heat, value = (found[f"{name}_at_{target}"][seed] for name in ("temperature", "eigenvalue"))
            if lowest.fun > target:
                assert np.isnan(heat) and np.isnan(value) and np.isnan(found[f"converged_at_{target}"][seed])
                continue
            seen += 1
            want = np.exp(-optimize.brentq(lambda b, target=target: loss(b) - target, -10, lowest.x))
            assert heat == pytest.approx(want, rel=1e-3)
            values = np.linalg.eigvalsh(oracle.hessian(loss_at(want), params))
            assert value == pytest.approx(values[-1], rel=2e-3)
            assert found[f"residual_at_{target}"][seed] <= 2e-3 and found[f"average_adaptive_at_{target}"][seed] > 0
    assert 0 < seen


def test_gradient_variance_against_the_gradients_one_by_one():
    found = take("gradient_noise")
    x, y = dataset().train.x, dataset().train.y
    for seed in range(SEEDS):
        params = row(trained().variables["params"], seed)
        one = jax.grad(lambda p, i: train.cross_entropy(F(p, x[i][None]), y[i][None])[0])
        rows = np.stack([oracle.flat_params(one(params, i))[0] for i in range(len(y))])
        trace = np.sum((rows - rows.mean(0)) ** 2) / (len(y) - 1)
        assert found["gradient_variance"][seed] == pytest.approx(trace, rel=1e-3)
        squared = np.sum(rows.mean(0) ** 2) - trace / len(y)
        want = trace / squared if squared > 0 else np.nan
        assert found["noise_scale"][seed] == pytest.approx(want, rel=2e-2, nan_ok=True)
