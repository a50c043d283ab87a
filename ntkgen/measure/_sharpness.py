"""Sharpness of trained networks, and its course along training, over a leading seed axis.

A network is f(params, x) -> outputs (n, k) with params. The functions of one seed are carried over the axis by
`measure.each_seed`; `track` does so itself.

Longer than 350 lines for its docstrings and examples, 48 % of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import curvature, landscape, spectrum, tree
from ntkgen.measure._seeds import each_seed
from ntkgen.typing import Array, Loss, PyTree

START_NOISE = 0.1  # norm of the noise on a warm start, beside a unit vector: a start must not be an old eigenvector


# --- One seed


def mean_loss(f: Callable, params: PyTree, x: Any, y: Any, *, loss: Loss) -> Array:
    """Average the loss over the examples -> ().

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> w, x, y = jnp.ones((1, 1)), jnp.array([[1.0], [3.0]]), jnp.zeros((2, 1))
      >>> float(measure.mean_loss(lambda w, x: x @ w, w, x, y, loss=train.squared_error))
      2.5
    """
    with jax.default_matmul_precision("highest"):
        return jnp.mean(loss(f(params, x), y))


@dataclass(frozen=True)
class SpectralOptions:
    """How exactly `spectral` measures.

    Example:
      >>> from ntkgen import measure
      >>> measure.SpectralOptions(trace_probes=12).num_iters
      100

    Attributes:
      num_iters: Lanczos steps at most.
      tol: residual to reach.
      trace_probes: products spent on the trace by Hutch++, at least 6; 0 for none.
      chunk: examples taken at once; None linearizes the gradient over all of them, once.
    """

    num_iters: int = 100
    tol: float = 1e-3
    trace_probes: int = 0
    chunk: int | None = None


SPECTRAL = SpectralOptions()


class Spectral(NamedTuple):
    """Top eigenpair of the Hessian by Lanczos, and its trace (NaN where none was asked for)."""

    top: spectrum.Eigen
    trace: spectrum.Estimate


def spectral(
    f: Callable,
    params: PyTree,
    start: PyTree,
    key: Array,
    x: Any,
    y: Any,
    *,
    loss: Loss,
    options: SpectralOptions = SPECTRAL,
) -> Spectral:
    """Measure the largest eigenvalue and the trace of the mean loss's Hessian on one seed; host-driven.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> w, x, y = jnp.ones((2, 1)), jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.zeros((2, 1))
      >>> start = jnp.array([[1.0], [0.5]])
      >>> found = measure.spectral(lambda w, x: x @ w, w, start, jax.random.key(0), x, y, loss=train.squared_error)
      >>> round(float(found.top.value), 3), bool(found.top.converged)
      (2.0, True)

    Args:
      f: the network.
      params: its params.
      start: a tree like params that Lanczos begins with.
      key: of the trace's probes.
      x: inputs.
      y: targets.
      loss: per example.
      options: steps, tolerance, and whether there is a trace.

    Returns:
      Eigenpair and trace with what tells their quality.
    """
    matvec = curvature.hessian_matvec(f, loss, params, x, y, options.chunk, linearize=options.chunk is None)
    top = spectrum.lanczos(matvec, start, options.num_iters, tol=options.tol)
    nan = jnp.full((), jnp.nan)
    trace = spectrum.Estimate(nan, nan, jnp.zeros((), int), jnp.zeros((), int))
    if options.trace_probes:
        trace = spectrum.trace(matvec, params, key, options.trace_probes, "hutch++")
    return Spectral(_first_pair(top), trace)


def random_start(key: Array, params: PyTree) -> PyTree:
    """Draw a random vector like params of length 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import measure
      >>> start = measure.random_start(jax.random.key(0), jnp.zeros((2, 1)))
      >>> start.shape, round(float(jnp.linalg.norm(start)), 3)
      ((2, 1), 1.0)
    """
    draw = tree.random_like(key, params)
    return tree.scale(1 / tree.norm(draw), draw)


def warm_start(key: Array, vector: PyTree) -> PyTree:
    """Add a random vector of length `START_NOISE` to an earlier eigenvector.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import measure
      >>> vector = jnp.array([[1.0], [0.0]])
      >>> bool((measure.warm_start(jax.random.key(0), vector) == vector).all())
      False
    """
    return tree.axpy(START_NOISE, random_start(key, vector), vector)


def _first_pair(eigen: spectrum.Eigen) -> spectrum.Eigen:
    first = jax.tree.map(lambda leaf: leaf[0], eigen._replace(num_matvecs=eigen.value, complete=eigen.converged))
    return first._replace(num_matvecs=eigen.num_matvecs, complete=eigen.complete)


def power(
    f: Callable, params: PyTree, start: PyTree, x: Any, y: Any, *, loss: Loss, num_iters: int = 30
) -> spectrum.Eigen:
    """Run the paper's power iteration (section IV-E) on one seed; host-driven. Arguments as in `spectral`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> w, x, y = jnp.ones((2, 1)), jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.zeros((2, 1))
      >>> start = jnp.array([[1.0], [0.5]])
      >>> top = measure.power(lambda w, x: x @ w, w, start, x, y, loss=train.squared_error)
      >>> round(float(top.value), 3), int(top.num_matvecs)
      (2.0, 30)
    """
    return spectrum.power_iteration(curvature.hessian_matvec(f, loss, params, x, y, linearize=True), start, num_iters)


@dataclass(frozen=True)
class FlatnessOptions:
    """How far and how often `flatness` perturbs.

    Example:
      >>> from ntkgen import measure
      >>> measure.FlatnessOptions(worst_steps=0).average_rho
      0.1

    Attributes:
      sigmas: of the paper's noise, five draws each.
      relative_sigmas: of the noise relative to filter norms, five draws each.
      average_rho: of the average adaptive sharpness.
      worst_rho: of the worst-case one, Euclidean; the default is that of ASAM on CIFAR-10 (arXiv:2102.11600).
      num_samples: draws of the average adaptive sharpness.
      worst_steps: gradients spent on the worst case; 0 for none, which saves all gradients.
      unmoved: names of leaves that adaptive sharpness leaves alone, because they have no effect on the function; see
        `landscape.average_adaptive_sharpness`.
    """

    sigmas: tuple[float, ...] = landscape.SIGMAS
    relative_sigmas: tuple[float, ...] = landscape.SIGMAS
    average_rho: float = 0.1
    worst_rho: float = 0.5
    num_samples: int = 10
    worst_steps: int = 20
    unmoved: tuple[str, ...] = ()


FLATNESS = FlatnessOptions()


class Flatness(NamedTuple):
    """Increases of the loss in a neighbourhood, in the loss's unit; see `landscape`."""

    absolute: landscape.Sensitivity
    relative: landscape.Sensitivity
    average: landscape.Sharpness
    worst: landscape.Sharpness | None


def flatness(
    f: Callable,
    params: PyTree,
    key: Array,
    x: Any,
    y: Any,
    *,
    loss: Loss,
    options: FlatnessOptions = FLATNESS,
    roles: PyTree | None = None,
) -> Flatness:
    """Perturb one seed's weights: the paper's noise, noise relative to filters, average and worst adaptive sharpness.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import measure, train
      >>> params, x, y = {"kernel": jnp.ones((2, 1))}, jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[2.0], [1.0]])
      >>> def f(params, x):
      ...     return x @ params["kernel"]
      >>> given = {"loss": train.squared_error, "options": measure.FlatnessOptions(worst_steps=0)}
      >>> found = measure.flatness(f, params, jax.random.key(0), x, y, **given)
      >>> float(found.absolute.baseline), bool(found.average.increase > 0)
      (0.0, True)

    Args:
      f: the network.
      params: its params.
      key: of the noise.
      x: inputs.
      y: targets.
      loss: per example.
      options: how far and how often.
      roles: what the leaves are, for the noise relative to filters; default `roles.of(params)`.
    """
    value = partial(mean_loss, f, x=x, y=y, loss=loss)
    keys, o = jax.random.split(key, 4), options
    return Flatness(
        landscape.perturbation(value, params, keys[0], o.sigmas),
        landscape.perturbation(value, params, keys[1], o.relative_sigmas, relative=True, roles=roles),
        landscape.average_adaptive_sharpness(value, params, keys[2], o.average_rho, o.num_samples, unmoved=o.unmoved),
        landscape.worst_adaptive_sharpness(value, params, keys[3], o.worst_rho, o.worst_steps, unmoved=o.unmoved)
        if o.worst_steps
        else None,
    )


def distance(params: PyTree, initial: PyTree) -> tuple[Array, Array]:
    """Return |params - initial| and the same over |initial| -> (), ().

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import measure
      >>> moved, relative = measure.distance({"kernel": jnp.array([[3.0, 6.0]])}, {"kernel": jnp.array([[3.0, 4.0]])})
      >>> float(moved), round(float(relative), 3)
      (2.0, 0.4)
    """
    moved = tree.norm(tree.axpy(-1.0, initial, params))
    return moved, moved / tree.norm(initial)


# --- Along training


class Track(NamedTuple):
    """Sharpness along training, (seed, snapshot), and the bounds (snapshot,) at the rate of the moment.

    Attributes:
      loss: of the examples the Hessian belongs to.
      value: largest eigenvalue.
      residual: of the eigenpair.
      num_matvecs: products spent on it.
      converged: residual within the tolerance.
      trace: of the Hessian; NaN where none was asked for.
      trace_error: its standard error.
      threshold: 2 / rate.
      momentum_threshold: (2 + 2 momentum) / rate.
      vector: the last snapshot's eigenvectors, a tree that leads with the seed axis.
    """

    loss: np.ndarray
    value: np.ndarray
    residual: np.ndarray
    num_matvecs: np.ndarray
    converged: np.ndarray
    trace: np.ndarray
    trace_error: np.ndarray
    threshold: np.ndarray
    momentum_threshold: np.ndarray
    vector: PyTree


def track(
    snapshots: Sequence[tuple[Callable, PyTree]],
    keys: Array,
    sample: tuple[Any, Any],
    *,
    loss: Loss,
    rates: Sequence[float],
    momentum: float = 0.0,
    strategy: str = "auto",
    options: SpectralOptions = SPECTRAL,
) -> Track:
    """Measure the Hessian's top eigenvalue at snapshots along training, for all seeds.

    Lanczos begins from the last snapshot's eigenvector plus a little noise, which saves products where it turned
    little and costs none where it turned much.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from jax.tree_util import Partial
      >>> from ntkgen import measure, train
      >>> sample = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.zeros((2, 1))
      >>> snapshots = [(Partial(lambda w, x: x @ w), jnp.ones((1, 2, 1)))]  # one snapshot of one seed
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> found = measure.track(snapshots, keys, sample, loss=train.squared_error, rates=[0.1])
      >>> found.value.round(3).tolist(), found.threshold.tolist()
      ([[2.0]], [20.0])

    Args:
      snapshots: (f, params) in the order of training, leaves leading with the seed axis.
      keys: (seeds,) of starts, noise and probes.
      sample: inputs and targets.
      loss: per example.
      rates: (s,) learning rate at each snapshot.
      momentum: of the optimizer, for the second bound; the bounds say nothing of Adam.
      strategy: as in `each_seed`.
      options: of `spectral`.

    Returns:
      The values with their quality, and the bounds of `curvature.stability_threshold`.

    Raises:
      ValueError: no snapshot, or not one rate for each.
    """
    if not snapshots or len(rates) != len(snapshots):
        raise ValueError(f"rates: expected one for each of the {len(snapshots)} snapshots, got {len(rates)}")
    found, losses, start = [], [], None
    for index, (f, params) in enumerate(snapshots):
        start_keys, probe_keys = (_fold(keys, 2 * index + i) for i in range(2))
        begin, like = (random_start, params) if start is None else (warm_start, start)
        start = each_seed(begin, (start_keys, like), strategy=strategy)
        losses.append(each_seed(mean_loss, (f, params), sample, {"loss": loss}, strategy=strategy))
        given = {"loss": loss, "options": options}
        one = each_seed(spectral, (f, params, start, probe_keys), sample, given, host_driven=True, strategy=strategy)
        found.append(one)
        start = one.top.vector
    stacked = {
        "value": [one.top.value for one in found],
        "residual": [one.top.residual for one in found],
        "num_matvecs": [one.top.num_matvecs for one in found],
        "converged": [one.top.converged for one in found],
        "trace": [one.trace.value for one in found],
        "trace_error": [one.trace.standard_error for one in found],
    }
    return Track(
        loss=np.stack(losses, 1),
        **{name: np.stack(columns, 1) for name, columns in stacked.items()},
        threshold=np.array([curvature.stability_threshold(rate) for rate in rates]),
        momentum_threshold=np.array([curvature.stability_threshold(rate, momentum) for rate in rates]),
        vector=start,
    )


def _fold(keys: Array, number: int) -> Array:
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
