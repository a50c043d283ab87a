"""Measurements of the loss around a solution: curvature, perturbation, adaptive sharpness, gradient noise.

All look at the first training examples, as many as the option `samples` says.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from ntkgen import landscape, models
from ntkgen.measure._gradient_noise import noise_scale
from ntkgen.measure._sharpness import SpectralOptions, mean_loss, random_start, spectral
from ntkgen.measure._take import Columns, Examples, Measurement, Network, first, function_of
from ntkgen.typing import Loss

SAMPLES = 500
UNMOVED = (
    "Leaves without effect on the function stay: those of the package's networks, or those named by the option "
    "`unmoved`, which `models.without_effect` finds."
)


def unmoved_names(model: Any, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the leaves that adaptive sharpness leaves alone: those given, or those of the package's networks."""
    return tuple(models.cancelled(model)) if names is None else names


def _sharpness(
    network: Network,
    examples: Examples,
    *,
    model: Any,
    loss: Loss,
    samples: int,
    num_iters: int,
    tol: float,
    trace_probes: int,
) -> Columns:
    f, params = function_of(network, model)
    start_key, probe_key = jax.random.split(network.key)
    start = random_start(start_key, params)
    x, y = first(examples.x, samples), examples.y[:samples]
    options = SpectralOptions(num_iters, tol, trace_probes)
    found = spectral(f, params, start, probe_key, x, y, loss=loss, options=options)
    return {
        "eigenvalue": found.top.value,
        "eigenvalue_residual": found.top.residual,
        "eigenvalue_matvecs": found.top.num_matvecs,
        "eigenvalue_converged": found.top.converged,
        "trace": found.trace.value,
        "trace_error": found.trace.standard_error,
    }


SHARPNESS = Measurement(
    name="sharpness",
    definition="Largest eigenvalue of the Hessian of the mean training loss (Keskar et al. 2017, arXiv:1609.04836), by "
    "Lanczos, with the residual |H v - lambda v| / |lambda|. Its trace by Hutch++ (Meyer et al. 2021, "
    "arXiv:2010.09649) with the standard error over probes; NaN with the option trace_probes=0.",
    columns={
        "eigenvalue": "loss per squared param",
        "eigenvalue_residual": "ratio",
        "eigenvalue_matvecs": "products",
        "eigenvalue_converged": "0 or 1",
        "trace": "loss per squared param",
        "trace_error": "loss per squared param",
    },
    function=_sharpness,
    options={"samples": SAMPLES, "num_iters": 100, "tol": 1e-3, "trace_probes": 18},
    direction={"eigenvalue": 1, "trace": 1},
    host_driven=True,
)


def _adaptive(
    network: Network,
    examples: Examples,
    *,
    model: Any,
    loss: Loss,
    samples: int,
    average_rho: float,
    worst_rho: float,
    num_samples: int,
    worst_steps: int,
    unmoved: tuple[str, ...] | None,
) -> Columns:
    f, params = function_of(network, model)
    value = partial(mean_loss, f, x=first(examples.x, samples), y=examples.y[:samples], loss=loss)
    keys, still = jax.random.split(network.key), unmoved_names(model, unmoved)
    average = landscape.average_adaptive_sharpness(value, params, keys[0], average_rho, num_samples, unmoved=still)
    worst = landscape.worst_adaptive_sharpness(value, params, keys[1], worst_rho, worst_steps, unmoved=still)
    return {
        "average_adaptive": average.increase,
        "average_adaptive_error": average.standard_error,
        "worst_adaptive": worst.increase,
    }


ADAPTIVE = Measurement(
    name="adaptive_sharpness",
    definition="Rise of the mean training loss in units of each weight's size. Average under noise of standard "
    "deviation 0.1 |w| (Andriushchenko et al. 2023, arXiv:2302.07011, equation 1), with its standard error; and the "
    "largest rise found for |u| <= 0.5, w + |w| u (Kwon et al. 2021, arXiv:2102.11600), a bound from below. "
    f"{UNMOVED}",
    columns={"average_adaptive": "loss", "average_adaptive_error": "loss", "worst_adaptive": "loss"},
    function=_adaptive,
    options={
        "samples": SAMPLES,
        "average_rho": 0.1,
        "worst_rho": 0.5,
        "num_samples": 10,
        "worst_steps": 20,
        "unmoved": None,
    },
    direction={"average_adaptive": 1, "worst_adaptive": 1},
)


def _perturbation(
    network: Network,
    examples: Examples,
    *,
    model: Any,
    loss: Loss,
    samples: int,
    sigmas: tuple[float, ...],
    num_samples: int,
) -> Columns:
    f, params = function_of(network, model)
    value = partial(mean_loss, f, x=first(examples.x, samples), y=examples.y[:samples], loss=loss)
    found = landscape.perturbation(value, params, network.key, np.asarray(sigmas), num_samples)
    columns: dict[str, Any] = {}
    for i, sigma in enumerate(sigmas):
        columns |= {f"rise_{sigma:g}": found.increase[i], f"rise_{sigma:g}_error": found.standard_error[i]}
    return columns


def perturbation_at(sigmas: Sequence[float]) -> Measurement:
    """Return the measurement `perturbation` at some strengths.

    Example:
      >>> from ntkgen import measure
      >>> measure.perturbation_at([0.01, 0.1]).options["sigmas"]
      (0.01, 0.1)
    """
    values = [f"rise_{sigma:g}" for sigma in sigmas]
    return Measurement(
        name="perturbation",
        definition="Mean rise of the mean training loss under Gaussian noise of standard deviation sigma in every "
        "param, sigma in the column's name, with its standard error over draws.",
        columns={column: "loss" for value in values for column in (value, f"{value}_error")},
        function=_perturbation,
        options={"samples": SAMPLES, "sigmas": tuple(sigmas), "num_samples": 10},
        direction=dict.fromkeys(values, 1),
    )


PERTURBATION = perturbation_at((0.01, 0.05))


def _noise(network: Network, examples: Examples, *, model: Any, loss: Loss, samples: int) -> Columns:
    f, params = function_of(network, model)
    found = noise_scale(f, params, first(examples.x, samples), examples.y[:samples], loss=loss)
    return {
        "noise_scale": found.value,
        "noise_scale_error": found.standard_error,
        "noise_scale_resolved": found.resolved,
        "gradient_variance": found.covariance_trace,
        "gradient_variance_error": found.covariance_trace_error,
    }


NOISE = Measurement(
    name="gradient_noise",
    definition="Trace of the covariance of single examples' gradients (gradient variance), and divided by the squared "
    "mean gradient (the simple noise scale of McCandlish et al. 2018, arXiv:1812.06162), with jackknife errors over "
    "examples. The scale is resolved where the squared gradient is two standard errors above zero.",
    columns={
        "noise_scale": "examples",
        "noise_scale_error": "examples",
        "noise_scale_resolved": "0 or 1",
        "gradient_variance": "squared loss per squared param",
        "gradient_variance_error": "squared loss per squared param",
    },
    function=_noise,
    options={"samples": SAMPLES},
    direction={"gradient_variance": 1},
)
