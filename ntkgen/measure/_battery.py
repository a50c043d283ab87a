"""The measurements that are taken of every network, in a fixed order."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ntkgen.measure import _bounds, _flat, _flat_at_loss, _norms, _plain, _representation
from ntkgen.measure._take import Measurement, Trained, take

MEASUREMENTS: dict[str, Measurement] = {
    each.name: each
    for each in (
        _plain.FIT,
        _flat.SHARPNESS,
        _flat.ADAPTIVE,
        _flat.PERTURBATION,
        _flat_at_loss.AT_LOSS,
        _flat.NOISE,
        _plain.MOVEMENT,
        _representation.KERNEL,
        _representation.FEATURES,
        _norms.NORMS,
        _norms.MARGINS,
        _bounds.PAC_BAYES,
        _bounds.CAPACITY,
        _representation.PRUNABILITY,
    )
}


def take_all(trained: Trained, data: Any, names: str | Sequence[str] = tuple(MEASUREMENTS)) -> dict[str, np.ndarray]:
    """Return the columns of several measurements of every seed, column -> (S,) float64.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> from ntkgen import measure, models, train
      >>> model, keys = models.MLP(4, depth=2, num_classes=2), jax.random.split(jax.random.key(0), 3)
      >>> variables = jax.vmap(lambda key: models.init(model, key, (3,)))(keys)
      >>> split = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int))
      >>> trained, data = measure.Trained(model, variables, variables, keys), SimpleNamespace(train=split, test=split)
      >>> found = measure.take_all(trained, data, ["fit", "movement"])
      >>> found["test_acc"].shape, found["distance"].tolist()
      ((3,), [0.0, 0.0, 0.0])

    Args:
      trained: the networks.
      data: with .train and .test, each with .x and .y.
      names: one or several of `MEASUREMENTS`; each is taken with its own defaults (`take` has options).

    Raises:
      ValueError: a name is unknown.
    """
    names = [names] if isinstance(names, str) else names
    strange = [name for name in names if name not in MEASUREMENTS]
    if strange:
        raise ValueError(f"names: expected some of {', '.join(MEASUREMENTS)}, got {', '.join(strange)}")
    found: dict[str, np.ndarray] = {}
    for name in names:
        found |= take(MEASUREMENTS[name], trained, data)
    return found
