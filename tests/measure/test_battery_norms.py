"""Norms and margins against dense layers in float64, and what rescaling layers does to them."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from battery_networks import SEEDS, convolutional, dataset, forward, layers, row, take, trained

from ntkgen import measure, models
from ntkgen.measure import _norms


def margins_of(seed):
    arm, train = trained(), dataset().train
    out, _ = forward(layers(row(arm.variables["params"], seed)), train.x)
    return np.array([out[i, y] - max(np.delete(out[i], y)) for i, y in enumerate(np.asarray(train.y))])


def paths(chain):
    """Sum over all paths, from an input or a bias to an output, of the product of squared weights, one by one."""
    total = 0.0
    for start in range(len(chain)):  # from the inputs of layer 0, and from every bias
        kernels = [w for w, _ in chain[start + 1 :]]
        first = [(b, b) for b in range(len(chain[start][1]))]
        sizes = [range(w.shape[1]) for w in kernels]
        for unit, _ in first:
            into = chain[start][1][unit] ** 2
            if start == 0:
                into += sum(chain[0][0][i, unit] ** 2 for i in range(len(chain[0][0])))
            for rest in itertools.product(*sizes):
                value, at = into, unit
                for w, to in zip(kernels, rest, strict=True):
                    value, at = value * w[at, to] ** 2, to
                total += value
    return total


@pytest.mark.parametrize("shape", [(7, 7), (40, 9), (9, 40), (3, 3, 4, 6), (5, 1)])
def test_spectral_norm_against_singular_values(shape):
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e3):
        kernel = scale * rng.normal(size=shape)
        want = np.linalg.norm(kernel.reshape(-1, shape[-1]), 2)
        assert float(_norms.spectral_norm(jnp.asarray(kernel))) == pytest.approx(want, rel=1e-5)
    close = np.linalg.qr(rng.normal(size=(30, 30)))[0] * np.linspace(0.999, 1, 30)  # singular values close together
    assert float(_norms.spectral_norm(jnp.asarray(close))) == pytest.approx(1, rel=1e-4)
    assert float(_norms.spectral_norm(jnp.zeros(shape))) == 0


def test_norms_against_dense_layers():
    found = take("norms")
    arm = trained()
    for seed in range(SEEDS):
        chain, initial = (layers(row(tree["params"], seed)) for tree in (arm.variables, arm.initial))
        spectral = [np.linalg.svd(w)[1][0] for w, _ in chain]
        want = {
            "log_spectral_product": np.log(np.prod(spectral)),
            "log_frobenius_product": np.log(np.prod([np.linalg.norm(w) for w, _ in chain])),
            "log_param_norm": 0.5 * np.log(sum((a**2).sum() for layer in chain for a in layer)),
            "log_path_norm": 0.5 * np.log(paths(chain)),
            "log_spectral_distance": 0.5
            * np.log(sum(np.linalg.norm(w - v, 2) ** 2 for (w, _), (v, _) in zip(chain, initial, strict=True))),
        }
        margin = np.percentile(margins_of(seed), 10)
        for name, value in want.items():
            assert found[name][seed] == pytest.approx(value, abs=1e-4)
            over = value - np.log(margin) if margin > 0 else np.nan
            assert found[f"{name}_over_margin"][seed] == pytest.approx(over, abs=1e-4, nan_ok=True)
    assert np.isfinite(found["log_path_norm_over_margin"]).any()


def test_margins_against_dense_layers():
    found = take("margins")
    for seed in range(SEEDS):
        want, chain = margins_of(seed), layers(row(trained().variables["params"], seed))
        assert found["margin_tenth"][seed] == pytest.approx(np.percentile(want, 10), abs=1e-4)
        assert found["margin_median"][seed] == pytest.approx(np.median(want), abs=1e-4)
        assert found["margin_smallest"][seed] == pytest.approx(want.min(), abs=1e-4)
        product = np.prod([np.linalg.norm(w, 2) for w, _ in chain])
        assert found["margin_normalised"][seed] == pytest.approx(np.percentile(want, 10) / product, rel=1e-3, abs=1e-5)


def test_what_rescaling_layers_leaves_alone():
    arm = trained()
    other = arm._replace(variables=measure.rescaled(arm.model, arm.variables, 3.0))
    same = ("log_spectral_product", "log_frobenius_product", "log_path_norm", "log_path_norm_over_margin")
    before, after = take("norms"), take("norms", other)
    for name in same:
        np.testing.assert_allclose(after[name], before[name], rtol=1e-4, atol=1e-4)
    assert (np.abs(after["log_param_norm"] - before["log_param_norm"]) > 0.1).all()
    for name, value in take("margins", other).items():
        np.testing.assert_allclose(value, take("margins")[name], rtol=1e-3, atol=1e-3)
    adaptive = [take("adaptive_sharpness", each)["average_adaptive"] for each in (arm, other)]
    np.testing.assert_allclose(adaptive[0], adaptive[1], rtol=1e-2, atol=1e-5)
    plain = [take("sharpness", each)["eigenvalue"] for each in (arm, other)]
    assert (np.abs(plain[1] / plain[0] - 1) > 0.2).all()


def test_products_of_the_cnn_are_those_of_folded_kernels():
    arm = convolutional()
    found = measure.take(measure.MEASUREMENTS["norms"], arm, dataset((8, 8, 1)))
    kernels = [
        np.asarray(kernel, float).reshape(-1, kernel.shape[-1])
        for kernel, _ in models.effective_layers(arm.model, row(arm.variables, 0))
    ]
    want = sum(np.log(np.linalg.norm(w, 2)) for w in kernels)
    assert found["log_spectral_product"][0] == pytest.approx(want, abs=1e-4)
    assert found["log_frobenius_product"][0] == pytest.approx(sum(np.log(np.linalg.norm(w)) for w in kernels), abs=1e-4)
