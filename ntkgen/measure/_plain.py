"""Measurements of fit and movement: loss, accuracy, gap, and how far training has gone from the initialisation."""

from typing import Any

import jax
import jax.numpy as jnp

from ntkgen import models, roles, train
from ntkgen.measure._sharpness import distance
from ntkgen.measure._take import Columns, Examples, Measurement, Network, function_of, outputs
from ntkgen.typing import Array, Loss, PyTree


def _fit(network: Network, examples: Examples, *, model: Any, loss: Loss) -> Columns:
    f, params = function_of(network, model)
    found: dict[str, Any] = {}
    for split, x, y in (("train", examples.x, examples.y), ("test", examples.x_test, examples.y_test)):
        out = outputs(f, params, x)
        found |= {f"{split}_loss": jnp.mean(loss(out, y)), f"{split}_acc": 100 * jnp.mean(train.correct(out, y))}
    return found | {"gap": found["train_acc"] - found["test_acc"]}


FIT = Measurement(
    name="fit",
    definition="Mean loss and percentage of examples classified right, on all training and all test examples. The gap "
    "is training minus test accuracy. Accuracies are NaN where targets are no class labels.",
    columns={
        "gap": "points",
        "train_loss": "loss",
        "train_acc": "percent",
        "test_loss": "loss",
        "test_acc": "percent",
    },
    function=_fit,
)


def _movement(network: Network, examples: Examples, *, model: Any, loss: Loss) -> Columns:
    params, initial = network.variables["params"], network.initial["params"]
    moved, relative = distance(params, initial)
    layers = _kernel_movements(params, initial)
    nan = jnp.full((), jnp.nan, relative.dtype)
    first = last = nan
    if models.has_effective_layers(model):
        names = models.unit_chain(model)[0]
        first, last = (layers[f"{name}/kernel"] for name in (names[0], names[-1]))
    largest = jnp.max(jnp.stack(list(layers.values()))) if layers else nan
    found = {"distance": moved, "relative_distance": relative}
    return found | {"movement_first": first, "movement_last": last, "movement_largest": largest}


def _kernel_movements(params: PyTree, initial: PyTree) -> dict[str, Array]:
    """Return |W - W_0| / |W_0| of every kernel by name; NaN where W_0 is zero."""
    own: list[roles.Leaf] = jax.tree.leaves(roles.of(params, strict=False))
    found = {}
    pairs = zip(jax.tree.leaves_with_path(params), jax.tree.leaves(initial), own, strict=True)
    for (path, leaf), before, role in pairs:
        if role.role == "kernel":
            moved, norm = (jnp.sqrt(jnp.sum(a**2)) for a in (leaf - before, before))
            found[roles.tree_name(path)] = jnp.where(norm > 0, moved / jnp.where(norm > 0, norm, 1.0), jnp.nan)
    return found


def _no_order(model: Any, loss: Loss) -> dict[str, str]:
    why = "the order of the layers is known for MLP and CNN only"
    return {} if models.has_effective_layers(model) else dict.fromkeys(("movement_first", "movement_last"), why)


MOVEMENT = Measurement(
    name="movement",
    definition="Distance |w - w_0| of all params from the initialisation (Nagarajan & Kolter 2019, arXiv:1901.01672), "
    "and divided by |w_0|. Movement of a layer is |W - W_0| / |W_0| of its kernel, in Frobenius norms: of the first "
    "layer, the last, and the one that moved most. First and last are NaN for networks other than MLP and CNN.",
    columns={
        "distance": "norm of params",
        "relative_distance": "ratio",
        "movement_first": "ratio",
        "movement_last": "ratio",
        "movement_largest": "ratio",
    },
    function=_movement,
    direction={"distance": 1, "relative_distance": 1},
    undefined=_no_order,
)
