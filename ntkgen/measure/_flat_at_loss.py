"""Sharpness with the outputs at the temperature of a given loss, to compare networks that were not trained equally far.

Curvature at interpolation falls with the training loss itself.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import functions, landscape, train
from ntkgen.measure._equal_loss import matching_temperature, tempered
from ntkgen.measure._flat import SAMPLES, unmoved_names
from ntkgen.measure._sharpness import SpectralOptions, mean_loss, random_start, spectral
from ntkgen.measure._take import Columns, Examples, Measurement, Network, first, function_of
from ntkgen.typing import Array, Loss, PyTree


def _at_loss(
    network: Network,
    examples: Examples,
    *,
    model: Any,
    loss: Loss,
    samples: int,
    targets: tuple[float, ...],
    num_iters: int,
    tol: float,
    average_rho: float,
    num_samples: int,
    unmoved: tuple[str, ...] | None,
) -> Columns:
    plain, params = function_of(network, model)
    x, y = first(examples.x, samples), examples.y[:samples]
    keys = jax.random.split(network.key)
    start = random_start(keys[0], params)
    columns: dict[str, Any] = {}
    options = SpectralOptions(num_iters, tol)
    for target in targets:
        own = dict.fromkeys(_AT_LOSS, jnp.full((), jnp.nan))
        possible = loss is train.cross_entropy and train.is_classification(jax.eval_shape(plain, params, x), y)
        heat = matching_temperature(plain, params, x, y, target=target) if possible else own["temperature"]
        known = not functions.is_traced(heat)
        if possible and not (known and np.isnan(heat)):
            reached = jnp.isfinite(heat)
            f = tempered(plain, jnp.where(reached, heat, 1.0))
            top = spectral(f, params, start, keys[1], x, y, loss=loss, options=options).top
            average = _average(f, params, keys[1], x, y, loss, average_rho, num_samples, unmoved_names(model, unmoved))
            found = (top.value, top.residual, top.converged, average.increase, average.standard_error, heat)
            masked = [jnp.where(reached, jnp.asarray(value, heat.dtype), jnp.nan) for value in found]
            own = dict(zip(_AT_LOSS, masked, strict=True))
        columns |= {f"{name}_at_{target:g}": value for name, value in own.items()}
    return columns


@partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _average(
    f: Any,
    params: PyTree,
    key: Array,
    x: Array,
    y: Array,
    loss: Loss,
    rho: float,
    num_samples: int,
    unmoved: tuple[str, ...],
) -> landscape.Sharpness:
    value = partial(mean_loss, f, x=x, y=y, loss=loss)
    return landscape.average_adaptive_sharpness(value, params, key, rho, num_samples, unmoved=unmoved)


_AT_LOSS = {  # name -> unit
    "eigenvalue": "loss per squared param",
    "residual": "ratio",
    "converged": "0 or 1",
    "average_adaptive": "nats",
    "average_adaptive_error": "nats",
    "temperature": "ratio",
}


def _no_temperature(names: Sequence[str], model: Any, loss: Loss) -> dict[str, str]:
    why = "a temperature is defined for the cross-entropy of class labels"
    return {} if loss is train.cross_entropy else dict.fromkeys(names, why)


def sharpness_at(targets: Sequence[float]) -> Measurement:
    """Return the measurement `sharpness_at_loss` at some levels of the loss, in nats.

    Example:
      >>> from ntkgen import measure
      >>> measure.sharpness_at([0.1, 0.01]).options["targets"]
      (0.1, 0.01)
    """
    columns = {f"{name}_at_{target:g}": unit for target in targets for name, unit in _AT_LOSS.items()}
    claims = [f"{name}_at_{target:g}" for target in targets for name in ("eigenvalue", "average_adaptive")]
    return Measurement(
        name="sharpness_at_loss",
        definition="Largest Hessian eigenvalue and average adaptive sharpness (as in `sharpness`, "
        "`adaptive_sharpness`) with the logits divided by the temperature at which the mean training cross-entropy is "
        "the target in the column's name. NaN where no temperature reaches it, and with other losses.",
        columns=columns,
        function=_at_loss,
        options={
            "samples": SAMPLES,
            "targets": tuple(targets),
            "num_iters": 100,
            "tol": 1e-3,
            "average_rho": 0.1,
            "num_samples": 10,
            "unmoved": None,
        },
        direction=dict.fromkeys(claims, 1),
        host_driven=True,
        undefined=partial(_no_temperature, tuple(columns)),
    )


AT_LOSS = sharpness_at((0.1, 0.03, 0.01))
