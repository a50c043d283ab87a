"""What the lottery-ticket study measures on its arms: curvature, sharpness, stability, and the overlap of tickets."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from lottery_ticket_arms import LANCZOS, NOISE, Lab, Trained, child_name, has_child, part, trainings

from ntkgen import (
    connectivity,
    curvature,
    ensemble,
    landscape,
    matching,
    models,
    objectives,
    overlap,
    pruning,
    spectrum,
    train,
    tree,
)

PyTree = Any

RHO, DRAWS = 0.1, 20  # of the adaptive sharpness: noise of a tenth of each weight
LANCZOS_STEPS, LANCZOS_TOLERANCE = 60, 1e-3
LINE = tuple(np.linspace(0, 1, 11).tolist())  # points between two children
CHUNK = 250  # examples of one Hessian-vector product at a time, where there are convolutions
MEASURED = (
    "sample_loss", "eigenvalue", "eigenvalue_residual", "eigenvalue_converged", "num_matvecs", "sharpness",
    "sharpness_se", "num_evaluations",
)  # fmt: skip
BARRIER = ("barrier", "excess", "child_test_acc")


def measure(lab: Lab, trained: Trained) -> dict[str, np.ndarray]:
    """Measure curvature, sharpness and, where asked for, stability; each (seeds,), NaN where not measured."""
    num = len(lab.seeds)
    found = lab.remember(
        trained.name, functools.partial(_curvature, lab, trained), {name: np.zeros(num) for name in MEASURED}
    )
    barrier = {name: np.full(num, np.nan) for name in BARRIER}
    if has_child(lab.config, trained.arm, trained.keep):
        child = _child(lab, trained)
        barrier = lab.remember(f"{trained.name}_barrier", functools.partial(_barrier, lab, trained, child), barrier)
    return found | barrier


def _child(lab: Lab, trained: Trained) -> ensemble.Result:
    if trained.keep == 100:
        return lab.dense_other_order
    rewind_epoch = lab.config["rewind_epoch"] if trained.arm == "rewound" else 0
    return lab.fit(
        child_name(trained.arm, trained.keep),
        init=trained.start,
        masks=trained.masks,
        start_epoch=rewind_epoch,
        other_order=True,
    )


def _curvature(lab: Lab, trained: Trained) -> dict[str, np.ndarray]:
    """Top eigenvalue of the Hessian among the kept weights, and adaptive sharpness (which leaves zeros alone)."""
    variables = trained.result.variables
    loss = lab.training.loss
    baseline, increase, error, evaluations = _sharpness(lab.model, loss, variables, lab.sample, lab.keys(NOISE))
    values = {name: np.full(len(lab.seeds), np.nan) for name in MEASURED}
    values |= {
        name: np.asarray(each, np.float64)
        for name, each in (
            ("sample_loss", baseline),
            ("sharpness", increase),
            ("sharpness_se", error),
            ("num_evaluations", evaluations),
        )
    }
    for s, key in enumerate(lab.keys(LANCZOS)):
        own, masks = (_row(_host(each), s) for each in (variables, trained.masks))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own)):
            continue  # diverged
        eigen = top_eigenvalue(lab.model, loss, own, masks, lab.sample, key)
        values["eigenvalue"][s] = eigen.value[0]
        values["eigenvalue_residual"][s] = eigen.residual[0]
        values["eigenvalue_converged"][s] = eigen.converged[0]
        values["num_matvecs"][s] = eigen.num_matvecs
    return values


def top_eigenvalue(
    model: Any, loss: str, variables: PyTree, masks: PyTree, sample: train.Batch, key: jax.Array
) -> spectrum.Eigen:
    """Find the largest eigenvalue of the Hessian restricted to the kept weights; batch statistics frozen."""
    params = variables["params"]
    state = {name: value for name, value in variables.items() if name != "params"}
    chunk = CHUNK if any(np.ndim(leaf) > 2 for leaf in jax.tree.leaves(params)) else None
    f = Partial(_network(model), state)
    matvec = curvature.hessian_matvec(f, objectives.LOSSES[loss], params, *sample, chunk=chunk)
    start = pruning.apply_masks(_start(key, params), masks)
    restricted = Partial(_restricted, matvec, masks)
    return spectrum.lanczos(restricted, start, LANCZOS_STEPS, tol=LANCZOS_TOLERANCE)


@functools.cache  # one function for a model, so that what is compiled for it serves all its networks
def _network(model: Any) -> Callable:
    kwargs = {"train": False} if models.takes_train(model) else {}
    return lambda state, params, x: model.apply({"params": params, **state}, x, **kwargs)


def _restricted(matvec: Partial, masks: PyTree, v: PyTree) -> PyTree:
    return pruning.apply_masks(matvec(pruning.apply_masks(v, masks)), masks)


@jax.jit
def _start(key: jax.Array, params: PyTree) -> PyTree:
    return tree.random_like(key, params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sharpness(model: Any, loss: str, variables: PyTree, sample: train.Batch, keys: jax.Array) -> tuple:
    def one(args: tuple[PyTree, jax.Array]) -> tuple:
        variables, key = args
        f = models.apply_fn(model, variables)

        def value(params: PyTree) -> jax.Array:
            return jnp.mean(objectives.LOSSES[loss](f(params, sample.x), sample.y))

        found = landscape.average_adaptive_sharpness(value, variables["params"], key, RHO, DRAWS)
        return value(variables["params"]), *found

    return jax.lax.map(one, (variables, keys))


def _barrier(lab: Lab, trained: Trained, child: ensemble.Result) -> dict[str, np.ndarray]:
    """Test error, percent, on the line between two children, batch statistics estimated anew at every point."""
    has_state = set(trained.result.variables) - {"params"}
    batch = min(lab.training.batch_size, len(lab.sample.y))
    found = connectivity.error_barrier(
        functools.partial(_test_error, lab.model, lab.dataset.test),
        trained.result.variables,
        child.variables,
        alphas=LINE,
        refit=functools.partial(_refit, lab.model, batch, lab.sample.x) if has_state else None,
    )
    last = 100 * child.history["test_accuracy"][:, -1]
    return {"barrier": found.barrier, "excess": found.excess, "child_test_acc": last}


def _test_error(model: Any, split: Any, variables: PyTree) -> jax.Array:
    return _errors(model, train.Batch(*split), variables)


@functools.partial(jax.jit, static_argnums=0)
def _errors(model: Any, batch: train.Batch, variables: PyTree) -> jax.Array:
    program = train.Program(model, 1, "sgd", 0.0, 0.0, "cross_entropy")  # evaluation reads model and loss alone
    return jax.lax.map(lambda own: 100 * (1 - train.evaluate(program, own, batch)[1]), variables)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _refit(model: Any, batch: int, x: jax.Array, variables: PyTree) -> PyTree:
    return jax.lax.map(lambda own: models.refit_statistics(model, own, x, batch), variables)


# Overlap


def overlaps(lab: Lab, masks: dict[tuple[str, float], PyTree]) -> list[dict[str, Any]]:
    """Compare tickets: of one initialisation in two batch orders, and of two initialisations.

    Args:
      lab: the study.
      masks: (arm, percent) -> masks of all seeds, for "ticket" and, if trained, "other_order".

    Returns:
      The rows of overlaps.csv: kind, percent, two seeds, layer, the overlap beside its chance level.
    """
    rows: list[dict[str, Any]] = []

    def compare(kind: str, keep: float, seeds: tuple[int, int], a: PyTree, b: PyTree) -> None:
        for layer, found in overlap.overlap(a, b, prunable=lab.prunable).items():
            rows.append(
                {
                    "kind": kind, "keep_percent": keep, "seed": lab.seeds[seeds[0]], "other_seed": lab.seeds[seeds[1]],
                    "layer": layer, "jaccard": found.jaccard, "chance": found.chance, "chance_std": found.chance_std,
                    "size": found.size, "kept": found.kept[0], "other_kept": found.kept[1],
                }
            )  # fmt: skip

    levels = [keep for keep in lab.config["keep"] if keep < 100]
    twin = trains_twin(lab.config)
    for keep in levels:
        ticket = _host(masks["ticket", keep])
        if ("other_order", keep) in masks:
            other = _host(masks["other_order", keep])
            for s in range(len(lab.seeds)):
                compare("other batch order", keep, (s, s), _row(ticket, s), _row(other, s))
        if twin:
            first, second = (
                _host(_one_shot(lab, result.variables["params"], keep)) for result in (lab.dense, lab.dense_other_order)
            )
            for s in range(len(lab.seeds)):
                compare("other batch order, one shot", keep, (s, s), _row(first, s), _row(second, s))
    for (s, t), orders in _matches(lab).items():
        chain = models.unit_chain(lab.model)
        for keep in levels:
            ticket = _host(masks["ticket", keep])
            a, b = _row(ticket, s), _row(ticket, t)
            compare("other initialisation", keep, (s, t), a, b)
            compare("other init., units matched", keep, (s, t), a, matching.permute_units(b, orders["matched"], *chain))
            shuffled = _shuffled(lab.seeds[t], b)
            compare(
                "shuffled, units matched", keep, (s, t), a, matching.permute_units(shuffled, orders["null"], *chain)
            )
    return rows


def trains_twin(config: dict[str, Any]) -> bool:
    """Say whether the whole network is trained in another batch order, too."""
    return part("other_order", 100) in trainings(config)


def _one_shot(lab: Lab, params: PyTree, keep: float) -> PyTree:
    mask = functools.partial(
        pruning.magnitude_masks, keep_fraction=keep / 100, scope=lab.config["scope"], prunable=lab.prunable
    )
    return jax.vmap(mask)(params)


def _matches(lab: Lab) -> dict[tuple[int, int], dict[str, list[np.ndarray]]]:
    """Match the units of neighbouring seeds' whole networks, in a ring; and of one with the other, shuffled.

    The second is what matching alone makes of networks with nothing in common: it looks for overlap, and finds some.
    """
    layers, norms = models.unit_chain(lab.model)
    params = _host(lab.dense.variables["params"])
    num = len(lab.seeds)
    pairs = [(s, (s + 1) % num) for s in range(num if num > 2 else num - 1)]
    found = {}
    for s, t in pairs:
        a, b = _row(params, s), _row(params, t)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((a, b))):
            continue
        found[s, t] = {
            "matched": matching.match_units(a, b, layers, norms),
            "null": matching.match_units(a, _shuffled(lab.seeds[t], b), layers, norms),
        }
    return found


def _shuffled(seed: int, tree: PyTree) -> PyTree:
    """Shuffle each layer's entries; params and masks of one seed alike, so that they still belong together."""
    leaves, structure = jax.tree.flatten(tree)
    mixed = [
        np.random.default_rng((seed, i)).permutation(leaf.reshape(-1)).reshape(leaf.shape)
        for i, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, mixed)


def _host(tree: PyTree) -> PyTree:
    return jax.tree.map(np.asarray, tree)


def _row(tree: PyTree, index: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[index], tree)
