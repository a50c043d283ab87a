"""Small trained networks for the tests of the battery, and dense layers in float64 by reading."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import ensemble, measure, models, train

MLP = models.MLP(6, 3, num_classes=4)
SEEDS = 5
CHEAP = {  # options that change how long a measurement takes, and nothing else
    "sharpness": {"num_iters": 12, "trace_probes": 6},
    "adaptive_sharpness": {"num_samples": 3, "worst_steps": 3},
    "perturbation": {"num_samples": 3},
    "sharpness_at_loss": {"num_iters": 12, "num_samples": 3},
    "pac_bayes": {"draws": 4},
}


@cache
def dataset(shape=(5,), noise=0.6):
    """40 training and 60 test examples of 4 classes around their centres."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, *shape))

    def split(n):
        y = np.arange(n) % 4
        x = centres[y] + noise * rng.normal(size=(n, *shape))
        return SimpleNamespace(x=jnp.asarray(x, jnp.float32), y=jnp.asarray(y, jnp.int32))

    return SimpleNamespace(train=split(40), test=split(60))


@cache
def trained(seeds=SEEDS):
    """An ensemble of MLPs, nearly fitted."""
    config = train.Config(epochs=25, batch_size=10, learning_rate=0.2)
    result = ensemble.fit(MLP, dataset(), config, list(range(seeds)))
    return measure.Trained.of(MLP, result, config, seeds)


@cache
def convolutional():
    """One CNN whose params have moved from their initial values."""
    model = models.CNN(1, num_classes=4)
    keys = jax.vmap(train.measurement_key)(jnp.arange(1))
    initial = jax.vmap(lambda key: models.init(model, key, (8, 8, 1)))(keys)
    return measure.Trained(model, jax.tree.map(lambda w: 1.3 * w + 0.01, initial), initial, keys)


def row(tree, seed):
    return jax.tree.map(lambda leaf: leaf[seed], tree)


def layers(params):
    """(W, b) of every layer of the MLP in float64."""
    return [tuple(np.asarray(params[f"dense{i}"][name], float) for name in ("kernel", "bias")) for i in range(3)]


def forward(chain, x):
    """Outputs (n, k) of a ReLU chain, and the inputs of its last layer."""
    a = np.asarray(x, float).reshape(len(x), -1)
    for w, b in chain[:-1]:
        a = np.maximum(a @ w + b, 0)
    return a @ chain[-1][0] + chain[-1][1], a


def take(name, arm=None, **options):
    """A measurement of the MLPs with cheap options."""
    return measure.take(measure.MEASUREMENTS[name], arm or trained(), dataset(), **{**CHEAP.get(name, {}), **options})
