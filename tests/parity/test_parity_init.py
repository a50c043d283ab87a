"""Initialisation against PyTorch's own draws and against the law that its documentation states."""

import math

import numpy as np
import pytest
import scipy.stats

torch = pytest.importorskip("torch")

import jax  # noqa: E402
from torch_nets import CNN, MLP, to_flax  # noqa: E402

from ntkgen import models  # noqa: E402

SEEDS = 20  # pooled: the smallest bias has four entries
CASES = {
    "mlp": (models.MLP(16), MLP, (8, 5, 1), {}),
    "cnn": (models.CNN(4), CNN, (8, 8, 3), {}),
    "cnn-affine": (models.CNN(4, affine_norm=True), CNN, (8, 8, 3), {"affine_norm": True}),
}
# Seventy Kolmogorov-Smirnov tests at fixed seeds: at this level all pass together with 99.3 %, and a scale that is
# 5 % off fails at the smallest of the samples (80 entries) only by its support, at the larger ones by orders of
# magnitude.
LEVEL = 1e-4


def pooled(draws):
    """List of variables -> {(layer, name): (seeds, ...)}, the parameters only."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(draw["params"] for draw in draws))
    return {(layer, name): array for layer, own in stacked.items() for name, array in own.items()}


@pytest.fixture(scope="module", params=CASES)
def draws(request):
    model, net, shape, kwargs = CASES[request.param]
    init = jax.jit(lambda key: models.init(model, key, shape))
    ours = pooled([init(jax.random.key(seed)) for seed in range(SEEDS)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = pooled([to_flax(net(16 if net is MLP else 4, shape, **kwargs)) for _ in range(SEEDS)])
    return ours, theirs


def fan_in(own, layer):
    return math.prod(own[layer, "kernel"].shape[1:-1])  # without the seed axis and the outputs


def test_support_is_one_over_root_fan_in_for_weights_and_biases(draws):
    for own in draws:
        for layer, name in own:
            values = own[layer, name].astype(np.float64)
            if layer.startswith("norm"):
                assert np.all(values == (name == "scale"))
                continue
            bound = 1 / math.sqrt(fan_in(own, layer))
            assert np.abs(values).max() <= np.nextafter(np.float32(bound), np.float32(1))
            # The largest of n uniform draws misses the bound by more than 20 / n of it once in 5e8.
            assert np.abs(values).max() >= bound * (1 - 20 / values.size)


def test_draws_have_torchs_distribution_and_the_uniform_law(draws):
    ours, theirs = draws
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    for layer, name in ours:
        if layer.startswith("norm"):
            continue
        bound = 1 / math.sqrt(fan_in(ours, layer))
        law = scipy.stats.uniform(-bound, 2 * bound)
        samples = [own[layer, name].ravel()[:20_000] for own in draws]
        assert scipy.stats.kstest(samples[0], law.cdf).pvalue > LEVEL, (layer, name)
        assert scipy.stats.ks_2samp(*samples).pvalue > LEVEL, (layer, name)


def test_layers_and_seeds_are_drawn_independently(draws):
    # Standardised first entries: a key used twice would show as equal numbers whatever the shapes.
    ours, _ = draws
    firsts = [
        array.reshape(SEEDS, -1)[:, 0] * math.sqrt(fan_in(ours, layer))
        for (layer, _), array in ours.items()
        if not layer.startswith("norm")
    ]
    firsts = np.sort(np.concatenate(firsts))
    assert np.diff(firsts).min() > 1e-6
