"""Kernel regression with tangent kernels of networks and of infinite width, and what infinitely wide networks do."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from ntkgen import data, ensemble, kernels, models, ntk
from ntkgen.measure import correct
from ntkgen.studies import tables
from ntkgen.studies.ntk_regime._materials import Images
from ntkgen.studies.ntk_regime._paths import finite
from ntkgen.studies.ntk_regime._probes import KERNEL_BUDGET, outputs
from ntkgen.typing import PyTree

Kernel = Callable[[jax.Array, jax.Array | None], Any]  # kernel(x1, x2) -> (n1, n2); x2 of None means x1
KINDS = ("initial", "final", "infinite")  # of kernels; the last is the analytic one
SEEDS_UP_TO = 1024  # width beyond which only the first seed's kernels are regressed with


def arm_name(metric: str, width: int | str, tuned: bool = False) -> str:
    """Name networks or regressions in correct.csv: their accuracy's column in runs.csv or tuned.csv, and the width."""
    return f"{'tuned ' if tuned else ''}{metric} w{width}"


def accuracy(bits: str | None, images: int) -> float | None:
    """Return the accuracy in percent of what `regressions` found; None for None."""
    return None if bits is None else float(100 * np.mean(tables.unpack(bits, images)))


def test_bits(model: Any, result: ensemble.Result, dataset: data.Dataset) -> list[str]:
    """Return which test images each final network classifies right, by `tables.pack`; empty without an accuracy."""
    f, test = models.apply_fn(model, result.variables), dataset.test
    lost = ~np.isfinite(result.history["test_accuracy"][:, -1])
    rows = tables.correct_rows("", range(len(lost)), correct(f, result.variables["params"], test.x, test.y), lost)
    return [row["bits"] for row in rows]


def network_bits(model: models.MLP, params: PyTree, images: Images) -> str | None:
    """Return which images a network classifies right, by `tables.pack`; None for a network that has diverged."""
    logits = np.asarray(outputs(model)(params, images.x))
    return tables.pack(np.argmax(logits, 1) == np.asarray(images.y)) if np.isfinite(logits).all() else None


def regressions(
    kernel: Kernel, dataset: data.Dataset, images: Images, ridges: Sequence[float | None]
) -> list[str | None]:
    """Return for each ridge which images kernel ridge regression classifies right, by `tables.pack`.

    Args:
      kernel: that regresses.
      dataset: whose training images are fitted.
      images: which are classified.
      ridges: in units of the mean of the kernel's diagonal; None where none was chosen.

    Returns:
      The digits; None without a ridge, and where the kernel with its ridge is not positive definite.
    """
    gram = np.asarray(kernel(dataset.train.x, None), np.float64)
    cross = np.asarray(kernel(images.x, dataset.train.x), np.float64)
    return [None if ridge is None else _regress(gram, cross, dataset, images, ridge) for ridge in ridges]


def _regress(gram: np.ndarray, cross: np.ndarray, dataset: data.Dataset, images: Images, ridge: float) -> str | None:
    """Return the digits of one ridge; gram (n, n) of the training images, cross (m, n) of the images with them."""
    # One-hot rows less their mean: what is fitted has no intercept.
    targets = np.eye(dataset.num_classes)[np.asarray(dataset.train.y)] - 1 / dataset.num_classes
    try:
        predict = kernels.regression(gram, targets, ridge=ridge * float(np.mean(np.diag(gram))))
    except kernels.NotPositiveDefiniteError:
        return None
    return tables.pack(np.argmax(predict(cross), 1) == np.asarray(images.y))


def tangent_regressions(
    model: models.MLP, params: PyTree, dataset: data.Dataset, images: Images, ridges: Sequence[float | None]
) -> list[str | None]:
    """Return `regressions` with a network's tangent kernel, averaged over outputs; None where it has diverged."""
    f = outputs(model)
    if not np.isfinite(np.asarray(f(params, images.x))).all():
        return [None] * len(ridges)
    kernel = functools.partial(ntk.empirical_ntk, f, params, trace=True, memory_budget=KERNEL_BUDGET)
    return regressions(kernel, dataset, images, ridges)


def infinite_kernel(width: int, depth: int, parametrization: str) -> Kernel:
    """Return the infinitely wide network's tangent kernel with a width's own factors."""

    def kernel(x1: jax.Array, x2: jax.Array | None) -> np.ndarray:
        second = None if x2 is None else np.asarray(x2)
        options: dict[str, Any] = {"width": width, "depth": depth, "parametrization": parametrization}
        return kernels.infinite_mlp(np.asarray(x1), second, **options).ntk

    return kernel


def infinite_width(
    parametrization: str,
    width: int,
    depth: int,
    dataset: data.Dataset,
    images: Images | None,
    ridge: float,
    times: dict[str, float],
    targets: dict[str, float],
) -> dict[str, Any]:
    """Return what infinitely wide networks would do, with the kernel that keeps this width's own factors.

    Args:
      parametrization: "standard" or "ntk".
      width: whose factors the layers have.
      depth: Dense layers.
      dataset: what is trained on.
      images: which the regression classifies; None for none.
      ridge: as in `regressions`.
      times: limit -> time of gradient flow on the mean squared loss, for the lazy movement; may be empty.
      targets: loss -> training loss down to which a lazy network's movement is wanted; for cross-entropy from outputs
        of zero, for squared loss from random ones.

    Returns:
      right: what the regression found, mean_diagonal of the training images' kernel, lazy: {limit: {movement, loss}}
      and matched: {loss: movement} of the targets, None where the loss is never reached.
    """
    options: dict[str, Any] = {"width": width, "depth": depth, "parametrization": parametrization}
    train_x = np.asarray(dataset.train.x)
    both = kernels.infinite_mlp(train_x, **options)
    found: dict[str, Any] = {"right": None, "lazy": {}, "mean_diagonal": float(np.mean(np.diag(both.ntk)))}
    if images is not None:
        cross = kernels.infinite_mlp(np.asarray(images.x), train_x, **options).ntk
        found["right"] = _regress(both.ntk, cross, dataset, images, ridge)
    one_hot = np.eye(dataset.num_classes)[np.asarray(dataset.train.y)]  # what the squared loss is fitted to
    found["matched"] = dict.fromkeys(targets)
    if "cross_entropy" in targets:
        there = kernels.movement_to_loss(both.ntk, one_hot, targets["cross_entropy"], objective="cross_entropy")
        found["matched"]["cross_entropy"] = finite(there.movement)
    if times or "mse" in targets:
        at = kernels.flow_movement(both.ntk, one_hot, both.nngp)
        if "mse" in targets:
            found["matched"]["mse"] = finite(kernels.arrival(at, targets["mse"]).movement)
        found["lazy"] = {limit: at(time / len(one_hot))._asdict() for limit, time in times.items()}
    return found
