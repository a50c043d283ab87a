"""What the lottery-ticket study measures: curvature and sharpness, as trained and at equal loss, and stability."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkgen import curvature, ensemble, landscape, measure, models, pruning, spectrum, train, tree
from ntkgen.studies.lottery_ticket._arms import LANCZOS, NOISE, WARM, Lab, TrainedArm, train_child
from ntkgen.typing import PyTree

RHO, DRAWS = 0.1, 20  # of the adaptive sharpness: noise of a tenth of each weight
LANCZOS_STEPS, LANCZOS_TOLERANCE = 60, 1e-3
LINE = tuple(np.linspace(0, 1, 11).tolist())  # points between two children
CHUNK = 250  # examples of one Hessian-vector product at a time, where there are convolutions
EIGEN = {"eigenvalue": "value", "eigenvalue_residual": "residual", "eigenvalue_converged": "converged"}
RAW = ("sample_loss", *EIGEN, "num_matvecs", "sharpness", "sharpness_se", "num_evaluations")
# As trained; the temperature (NaN where none reaches the loss); and the same at that temperature.
MEASURED = (*RAW, "temperature", *(f"matched_{name}" for name in RAW))
BARRIER = ("barrier", "excess", "child_test_acc", "line_images")


def measure_networks(lab: Lab, trained: TrainedArm) -> dict[str, np.ndarray]:
    """Measure curvature, sharpness and, where asked for, stability; each (seeds,), NaN where not measured."""
    at = trained.at
    found = lab.kept(f"measured_{at.part}", functools.partial(_curvature, lab, trained))
    if not lab.config.has_child(*at):
        return found | {name: np.full(len(lab.seeds), np.nan) for name in BARRIER}
    child = train_child(lab, trained)
    return found | lab.kept(f"measured_{at.part}_barrier", functools.partial(_barrier, lab, trained, child))


def _curvature(lab: Lab, trained: TrainedArm) -> dict[str, np.ndarray]:
    """Measure the top eigenvalue of the Hessian among the kept weights, and adaptive sharpness.

    Adaptive sharpness leaves zeros alone, and what has no effect on the function: convolution biases before batch norm.

    Both as trained and with the outputs at the temperature that brings the sample's cross-entropy to `matched_loss`:
    curvature falls with the loss itself, and the arms end at unequal losses. NaN where no temperature does.
    """
    variables, num = trained.result.variables, len(lab.seeds)
    values = {name: np.full(num, np.nan) for name in MEASURED}
    values["temperature"] = np.asarray(
        _temperatures(lab.model, lab.config.matched_loss, variables, lab.sample), np.float64
    )
    for prefix, temperatures in (("", np.ones(num)), ("matched_", values["temperature"])):
        shared = lab.sample, lab.keys(NOISE), jnp.asarray(temperatures, jnp.float32)
        found = _sharpness(lab.model, variables, *shared, tuple(models.cancelled(lab.model)))
        for name, each in zip(("sample_loss", "sharpness", "sharpness_se", "num_evaluations"), found, strict=True):
            values[f"{prefix}{name}"] = np.where(np.isfinite(temperatures), np.asarray(each, np.float64), np.nan)
    for s, (key, warm) in enumerate(zip(lab.keys(LANCZOS), lab.keys(WARM), strict=True)):
        own, masks = (row(host(each), s) for each in (variables, trained.masks))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(own)):
            continue  # diverged
        start = _start(key, own["params"])
        for prefix, temperature in (("", 1.0), ("matched_", values["temperature"][s])):
            if not np.isfinite(temperature):
                continue
            eigen = top_eigenvalue(lab.model, own, masks, lab.sample, start, temperature)
            for name, field in EIGEN.items():
                values[prefix + name][s] = getattr(eigen, field)[0]
            values[f"{prefix}num_matvecs"][s] = eigen.num_matvecs
            # The eigenvector turns little with the temperature: most of the products are saved.
            start = _warm_start(warm, jax.tree.map(lambda leaf: leaf[0], eigen.vector))
    return values


def top_eigenvalue(
    model: Any,
    variables: PyTree,
    masks: PyTree,
    sample: train.Batch,
    start: PyTree,
    temperature: float = 1.0,
) -> spectrum.Eigen:
    """Find the largest eigenvalue of the Hessian restricted to the kept weights; batch statistics frozen.

    Args:
      model: the network.
      variables: of one seed.
      masks: like its params.
      sample: examples.
      start: like its params; Lanczos begins with what of it is kept.
      temperature: that the outputs are divided by.
    """
    params = variables["params"]
    state = {name: value for name, value in variables.items() if name != "params"}
    chunk = CHUNK if any(np.ndim(leaf) > 2 for leaf in jax.tree.leaves(params)) else None
    f = measure.tempered(Partial(_network(model), state), np.float32(temperature))
    matvec = curvature.hessian_matvec(f, train.cross_entropy, params, *sample, chunk=chunk)
    restricted = Partial(_restricted, matvec, masks)
    return spectrum.lanczos(restricted, pruning.apply_masks(start, masks), LANCZOS_STEPS, tol=LANCZOS_TOLERANCE)


@functools.cache  # one function for a model, so that what is compiled for it serves all its networks
def _network(model: Any) -> Callable:
    off = models.switches(model, False)
    return lambda state, params, x: model.apply({"params": params, **state}, x, **off)


def _restricted(matvec: Partial, masks: PyTree, v: PyTree) -> PyTree:
    return pruning.apply_masks(matvec(pruning.apply_masks(v, masks)), masks)


@jax.jit
def _start(key: jax.Array, params: PyTree) -> PyTree:
    return tree.random_like(key, params)


_warm_start = jax.jit(measure.warm_start)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _temperatures(model: Any, target: float, variables: PyTree, sample: train.Batch) -> jax.Array:
    def one(own: PyTree) -> jax.Array:
        f = models.apply_fn(model, own)
        return measure.matching_temperature(f, own["params"], *sample, target=target)

    return jax.lax.map(one, variables)


@functools.partial(jax.jit, static_argnums=(0, 5))
def _sharpness(
    model: Any,
    variables: PyTree,
    sample: train.Batch,
    keys: jax.Array,
    temperatures: jax.Array,
    unmoved: tuple[str, ...] = (),
) -> tuple:
    def one(args: tuple[PyTree, jax.Array, jax.Array]) -> tuple:
        variables, key, temperature = args
        f = measure.tempered(models.apply_fn(model, variables), temperature)

        def value(params: PyTree) -> jax.Array:
            return jnp.mean(train.cross_entropy(f(params, sample.x), sample.y))

        found = landscape.average_adaptive_sharpness(value, variables["params"], key, RHO, DRAWS, unmoved=unmoved)
        return value(variables["params"]), *found

    return jax.lax.map(one, (variables, keys, temperatures))


def _barrier(lab: Lab, trained: TrainedArm, child: ensemble.Result) -> dict[str, np.ndarray]:
    """Measure test error, percent, on the line between two children; batch statistics are estimated anew at each point.

    That takes the whole training set but what is left of the last batch; `line_images` says how many images.
    """
    has_state = set(trained.result.variables) - {"params"}
    batch = min(lab.training.batch_size, lab.dataset.num_train)
    images = jnp.asarray(lab.dataset.train.x) if has_state else None
    found = landscape.error_barrier(
        functools.partial(_test_error, lab.model, lab.dataset.test),
        trained.result.variables,
        child.variables,
        alphas=LINE,
        refit=functools.partial(_refit, lab.model, batch, images) if has_state else None,
    )
    used = lab.dataset.num_train // batch * batch if has_state else 0
    last = 100 * child.history["test_accuracy"][:, -1]
    return {
        "barrier": found.barrier, "excess": found.excess, "child_test_acc": last,
        "line_images": np.full(len(last), float(used)),
    }  # fmt: skip


def at_start(lab: Lab, trained: TrainedArm) -> tuple[np.ndarray, np.ndarray]:
    """Measure training loss (nats) and accuracy (a fraction) where training began, each (seeds,)."""
    loss, accuracy = _evaluate(lab.model, train.Batch(*lab.dataset.train), trained.start)
    return np.asarray(loss, np.float64), np.asarray(accuracy, np.float64)


def _test_error(model: Any, split: Any, variables: PyTree) -> jax.Array:
    return 100 * (1 - _evaluate(model, train.Batch(*split), variables)[1])


@functools.partial(jax.jit, static_argnums=0)
def _evaluate(model: Any, batch: train.Batch, variables: PyTree) -> tuple[jax.Array, jax.Array]:
    program = train.Program(model, 1, "sgd", 0.0, 0.0, "cross_entropy")  # evaluation reads model and loss alone
    return jax.lax.map(lambda own: train.evaluate(program, own, batch), variables)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _refit(model: Any, batch: int, x: jax.Array, variables: PyTree) -> PyTree:
    return jax.lax.map(lambda own: models.refit_statistics(model, own, x, batch), variables)


def host(tree: PyTree) -> PyTree:
    """Bring all arrays to memory."""
    return jax.tree.map(np.asarray, tree)


def row(tree: PyTree, index: int) -> PyTree:
    """Take one seed's arrays."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
