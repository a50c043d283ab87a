"""Measurements of what training changed in a network's tangent kernel and in its features, and what may be pruned."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ntkgen import kernels, models, ntk, pruning, train
from ntkgen.measure._take import Columns, Examples, Measurement, Network, first, function_of, percent_correct
from ntkgen.typing import Array, Loss

PROBES = 100


def _kernel(network: Network, examples: Examples, *, model: Any, loss: Loss, probes: int) -> Columns:
    x, y = first(examples.x_test, probes), np.asarray(examples.y_test[:probes])
    f, params = function_of(network, model)
    before, own = function_of(network._replace(variables=network.initial), model)
    final, initial = (np.asarray(ntk.empirical_ntk(g, p, x, trace=True)) for g, p in ((f, params), (before, own)))
    targets = np.eye(y.max() + 1)[y] if train.is_integer(y) else y.reshape(len(y), -1)
    return {
        "kernel_drift": _or_nan(kernels.drift, final, initial),
        "kernel_turn": 1 - _or_nan(kernels.alignment, final, initial),
        "kernel_alignment": _or_nan(kernels.target_alignment, final, targets),
        "kernel_alignment_initial": _or_nan(kernels.target_alignment, initial, targets),
        "kernel_rank": _or_nan(kernels.effective_rank, final),
        "kernel_rank_initial": _or_nan(kernels.effective_rank, initial),
    }


def _or_nan(summary: Callable, *args: Any) -> np.float64:
    """Return a summary of kernels, NaN where it has none: a dead network's kernel is constant."""
    try:
        return np.float64(summary(*args))
    except ValueError:
        return np.float64(np.nan)


KERNEL = Measurement(
    name="kernel",
    definition="Empirical tangent kernel of the first 100 test images, averaged over outputs, at the end (K) and at "
    "initialisation (K_0). Drift |K - K_0| / |K_0| (Fort et al. 2020, arXiv:2010.15110); turn 1 - centred alignment of "
    "K and K_0; centred alignment with the labels' kernel Y Y^T (Cortes et al. 2012, section 2.2); effective rank "
    "exp(-sum p log p), p = eigenvalues / trace (Roy & Vetterli 2007). NaN where a kernel is zero or constant.",
    columns={
        "kernel_drift": "ratio",
        "kernel_turn": "1 - cosine",
        "kernel_alignment": "cosine",
        "kernel_alignment_initial": "cosine",
        "kernel_rank": "directions",
        "kernel_rank_initial": "directions",
    },
    function=_kernel,
    options={"probes": PROBES},
    direction={"kernel_alignment": -1},
    batched=False,
)


def linear_cka(a: Array, b: Array) -> Array:
    """Return the linear centred kernel alignment of features (n, d) and (n, e) -> (); NaN where one is constant.

    |A^T B|^2 / (|A^T A| |B^T B|) of centred features in Frobenius norms (Kornblith et al. 2019, arXiv:1905.00414,
    section 3), computed from the (n, n) Gram matrices.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure
      >>> a = jnp.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
      >>> round(float(measure.linear_cka(a, 2 * a[:, ::-1])), 3)
      1.0
    """
    grams = []
    for features in (a, b):
        centred = features - jnp.mean(features, 0, keepdims=True)
        gram = centred @ centred.T
        size = jnp.sqrt(jnp.sum(gram**2))
        grams.append(gram / jnp.where(size > 0, size, jnp.nan))
    return jnp.sum(grams[0] * grams[1])


def _features(network: Network, examples: Examples, *, model: Any, loss: Loss, probes: int) -> Columns:
    if _no_features(model, loss):
        return {"feature_cka": jnp.full((), jnp.nan)}
    x = first(examples.x_test, probes)
    found = [
        models.features_fn(model, variables)(variables["params"], x)
        for variables in (network.variables, network.initial)
    ]
    return {"feature_cka": linear_cka(*found)}


def _no_features(model: Any, loss: Loss) -> dict[str, str]:
    return {} if models.is_linen(model) else {"feature_cka": "it is defined for Flax Linen modules"}


FEATURES = Measurement(
    name="features",
    definition="Linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414, section 3) of the inputs of "
    "the last Dense layer at the end and at initialisation, on the first 500 test images. 1 where features changed by "
    "rotation and scale alone.",
    columns={"feature_cka": "cosine"},
    function=_features,
    options={"probes": 500},
    undefined=_no_features,
)


def _prunability(
    network: Network, examples: Examples, *, model: Any, loss: Loss, keeps: tuple[float, ...], tolerance: float
) -> Columns:
    f, params = function_of(network, model)
    dense = percent_correct(f, params, examples.x_test, examples.y_test)
    accuracies = []
    for keep in keeps:
        pruned = pruning.apply_masks(params, pruning.magnitude_masks(params, keep))
        accuracies.append(percent_correct(f, pruned, examples.x_test, examples.y_test))
    found = smallest_keep(keeps, jnp.stack([dense, *accuracies]), tolerance)
    columns = dict(zip(("log10_keep", "log10_keep_resolved"), found, strict=True))
    return columns | {f"pruned_acc_{keep:g}": value for keep, value in zip(keeps, accuracies, strict=True)}


def smallest_keep(keeps: Sequence[float], accuracies: Array, tolerance: float) -> tuple[Array, Array]:
    """Return log10 of the smallest kept fraction down to which accuracy is within the tolerance -> (), bool ().

    Args:
      keeps: (k,) falling fractions below 1.
      accuracies: (k + 1,) of the dense network and at each fraction.
      tolerance: in the unit of the accuracies.

    Returns:
      The fraction where accuracy first falls by more than the tolerance, linear in log10 between the two fractions
      around it; and whether it does: otherwise the smallest fraction is returned.
    """
    logs = jnp.log10(jnp.asarray((1.0, *keeps)))
    level = accuracies[0] - tolerance
    falls = accuracies < level
    after = jnp.maximum(jnp.argmax(falls), 1)
    high, low = accuracies[after - 1], accuracies[after]
    share = (high - level) / jnp.where(high > low, high - low, 1.0)
    between = logs[after - 1] + share * (logs[after] - logs[after - 1])
    resolved = jnp.any(falls)
    value = jnp.where(resolved, between, logs[-1])
    return jnp.where(jnp.all(jnp.isfinite(accuracies)), value, jnp.nan), resolved


def prunability_at(keeps: Sequence[float]) -> Measurement:
    """Return the measurement `prunability` at some kept fractions, falling.

    Example:
      >>> from ntkgen import measure
      >>> list(measure.prunability_at([0.5, 0.1]).columns)
      ['log10_keep', 'log10_keep_resolved', 'pruned_acc_0.5', 'pruned_acc_0.1']
    """
    return Measurement(
        name="prunability",
        definition="Test accuracy after the kernels' weights of smallest magnitude are set to zero, ranked over all "
        "layers at once, without further training (Han et al. 2015, arXiv:1506.02626); the kept fraction of kernel "
        "weights is in the column's name. Value: log10 of the smallest fraction down to which accuracy stays within "
        "one point of the dense network's, linear between the fractions; resolved is 0 where it does so down to the "
        "smallest. Batch statistics stay frozen.",
        columns={
            "log10_keep": "log10 fraction",
            "log10_keep_resolved": "0 or 1",
            **{f"pruned_acc_{keep:g}": "percent" for keep in keeps},
        },
        function=_prunability,
        options={"keeps": tuple(keeps), "tolerance": 1.0},
        direction={"log10_keep": 1},
    )


PRUNABILITY = prunability_at((0.5, 0.3, 0.2, 0.1, 0.05, 0.02))
