"""What the loss-landscape study measures on trained networks: functions of one seed, lifted over the seeds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkgen import curvature, landscape, models, paper, spectrum, train, tree
from ntkgen.studies.loss_landscape._config import Config
from ntkgen.typing import Array, PyTree


@dataclass(frozen=True)
class MeasurementSizes:
    """Sizes and strengths of all measurements.

    Attributes:
      samples: training examples of every Hessian; the paper's 1,000.
      many_samples: those on which the top eigenvalue is measured again.
      matched_losses: training cross-entropies (nats) to which temperatures bring every network.
      line_points: of each line between and around solutions; 4k + 1, so that solutions are among them.
      plane_points: along each side of a surface; odd.
      chunk: examples whose activations are in memory at once.
      probes: of the spectral density.
      examples: of training and of test set, at most, that lines and surfaces are evaluated on.
      unmoved: leaves without an effect on the function, such as convolution biases that batch norm cancels; adaptive
        sharpness leaves them alone.
      steps: Lanczos steps of each probe.
      power_iters: of power iteration; the paper's 30.
      top_iters: Lanczos steps at most for the top eigenvalue.
      pairs: eigenpairs.
      pairs_iters: Lanczos steps at most for them.
      sigmas: standard deviations of the paper's perturbation.
      relative_sigmas: norm of the noise over that of each filter.
      draws: perturbations at each sigma; the paper's 5.
      average_rho: standard deviation of the average adaptive sharpness, relative to each weight.
      average_draws: its draws.
      worst_rho: radius of the worst-case adaptive sharpness (Kwon et al. 2021).
      worst_steps: its gradients.
    """

    samples: int
    many_samples: int
    matched_losses: tuple[float, ...]
    line_points: int
    plane_points: int
    chunk: int
    probes: int
    examples: int
    unmoved: tuple[str, ...]
    steps: int = 40
    power_iters: int = paper.LOSS_LANDSCAPE_ITERATIONS
    top_iters: int = 100
    pairs: int = 10
    pairs_iters: int = 200
    sigmas: tuple[float, ...] = landscape.SIGMAS
    relative_sigmas: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    draws: int = landscape.SAMPLES
    average_rho: float = 0.1
    average_draws: int = 20
    worst_rho: float = 0.5
    worst_steps: int = 20

    @classmethod
    def of(cls, config: Config, model: Any, num_train: int) -> "MeasurementSizes":
        """Return the sizes for a config and its network: fewer examples and probes where an example costs more."""
        costly = config.model != "mlp"
        return cls(
            samples=min(config.hessian_samples, num_train),
            many_samples=min(config.many_samples, num_train),
            matched_losses=config.matched_loss,
            line_points=config.line_points,
            plane_points=config.plane_points,
            chunk=1024 if costly else 4096,
            probes=3 if costly else 5,
            examples=2_000 if costly else 10_000,
            unmoved=tuple(models.cancelled(model)),
        )

    @property
    def strengths(self) -> dict[str, tuple[float, ...]]:
        """Return the strengths of each kind of perturbation."""
        return {"absolute": self.sigmas, "filter_relative": self.relative_sigmas}


class Solutions(NamedTuple):
    """Trained networks: params, batch statistics, a key for all that is drawn, a factor on logits; seed axis first."""

    params: PyTree
    state: PyTree
    key: Array
    beta: Array

    @classmethod
    def of(cls, variables: PyTree, seeds: Sequence[int]) -> "Solutions":
        """Join trained variables and keys. Keys depend on the seed alone: both arms get the same draws."""
        state = {name: value for name, value in variables.items() if name != "params"}
        keys = jax.vmap(train.measurement_key)(jnp.asarray(seeds))
        return cls(variables["params"], state, keys, jnp.ones(len(seeds)))

    def take(self, rows: slice) -> "Solutions":
        """Return some of the seeds."""
        return jax.tree.map(lambda leaf: leaf[rows], self)


class Instruments:
    """All measurements of one study. Each takes networks with a leading seed axis, and the data that they share."""

    def __init__(self, model: Any, training: train.Config, dataset: Any, sizes: MeasurementSizes) -> None:
        """Fix the network, the data and the sizes; nothing runs yet."""
        self.model, self.sizes = model, sizes
        self.program = train.Program.of(model, training, dataset.num_train)
        shape = tuple(dataset.train.x.shape[1:])
        shapes = jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))
        self.has_state = len(shapes) > 1
        self.dim = sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        # On CPU one seed after another, the spectral algorithms driven from the host around one compiled product.
        # Batched, three MLPs of width 128 took 1.6 to 2.8 times as long (1,000 samples): a loop over all goes on until
        # the slowest has converged, and computes both branches of every condition.
        self.vmapped = jax.default_backend() != "cpu"
        whole = train.Batch(dataset.train.x, dataset.train.y)
        self.whole, self.few = whole, _first(whole, sizes.samples)
        self.many = _first(whole, sizes.many_samples)
        test = train.Batch(dataset.test.x, dataset.test.y)
        self.splits = _first(whole, sizes.examples), _first(test, sizes.examples)
        self.logits = self._over(curvature.highest_precision(self._logits_of))
        self.power, self.top, self.pairs, self.density = (
            self._over(fn, host=True) for fn in (self._power_of, self._top_of, self._pairs_of, self._density_of)
        )
        self.sharpness, self.perturbed = self._over(self._sharpness_of), self._over(self._perturbed_of)
        self.line, self.plane = self._over(self._line_of), self._over(self._plane_of)
        self.between = self._over(self._between_of)

    def groups(self, num_seeds: int) -> list[slice]:
        """Return the seeds that are measured together."""
        return [slice(0, num_seeds)] if self.vmapped else [slice(s, s + 1) for s in range(num_seeds)]

    def _over(self, fn: Callable, host: bool = False) -> Callable:
        """Return fn(own, shared) lifted over the leading seed axis of own.

        One after another, a seed whose numbers are not finite is not measured: its results are NaN.
        """
        if self.vmapped:
            return jax.jit(jax.vmap(fn, (0, None)))
        one = fn if host else jax.jit(fn)

        def call(own: PyTree, shared: PyTree) -> PyTree:
            results = []
            for s in range(len(jax.tree.leaves(own)[0])):
                mine = jax.tree.map(lambda leaf, s=s: leaf[s], own)
                if all(
                    np.isfinite(leaf).all()
                    for leaf in jax.tree.leaves(mine)
                    if jnp.issubdtype(leaf.dtype, jnp.floating)
                ):
                    results.append(one(mine, shared))
                else:
                    results.append(jax.tree.map(_lost, jax.eval_shape(fn, mine, shared)))
            return jax.tree.map(lambda *leaves: np.stack(leaves), *results)

        return call

    # --- One seed

    def _outputs(self, state: PyTree, beta: Array, params: PyTree, x: Array) -> Array:
        return beta * models.apply_fn(self.model, {"params": params, **state})(params, x)

    def _loss(self, net: Solutions, params: PyTree, batch: train.Batch) -> Array:
        return jnp.mean(train.cross_entropy(self._outputs(net.state, net.beta, params, batch.x), batch.y))

    def _matvec(self, net: Solutions, batch: train.Batch) -> Callable:
        f = Partial(self._outputs, net.state, net.beta)
        fits = len(batch.y) <= self.sizes.chunk  # then what the linearised gradient keeps fits, too
        return curvature.hessian_matvec(f, train.cross_entropy, net.params, *batch, self.sizes.chunk, linearize=fits)

    def _logits_of(self, net: Solutions, x: Array) -> Array:
        return self._outputs(net.state, net.beta, net.params, x)

    def _power_of(self, net: Solutions, batch: train.Batch) -> dict[str, Any]:
        start = tree.random_like(net.key, net.params)
        return _numbers(spectrum.power_iteration(self._matvec(net, batch), start, self.sizes.power_iters))

    def _top_of(self, net: Solutions, batch: train.Batch) -> dict[str, Any]:
        start = tree.random_like(net.key, net.params)
        matvec, most = self._matvec(net, batch), self.sizes.top_iters
        return _numbers(spectrum.lanczos(matvec, start, most, tol=spectrum.TOLERANCE))

    def _pairs_of(self, net: Solutions, batch: train.Batch) -> dict[str, Any]:
        start = tree.random_like(net.key, net.params)
        matvec, k = self._matvec(net, batch), self.sizes.pairs
        return _numbers(spectrum.lanczos(matvec, start, self.sizes.pairs_iters, k, tol=spectrum.TOLERANCE))

    def _density_of(self, net: Solutions, batch: train.Batch) -> spectrum.Density:
        matvec = self._matvec(net, batch)
        return spectrum.density(matvec, net.params, net.key, self.sizes.probes, self.sizes.steps)

    def _sharpness_of(self, net: Solutions, batch: train.Batch) -> dict[str, landscape.Sharpness]:
        def value(params: PyTree) -> Array:
            return self._loss(net, params, batch)

        s, own = self.sizes, (value, net.params, net.key)
        return {
            "worst": landscape.worst_adaptive_sharpness(*own, s.worst_rho, s.worst_steps, unmoved=s.unmoved),
            "average": landscape.average_adaptive_sharpness(*own, s.average_rho, s.average_draws, unmoved=s.unmoved),
        }

    def _perturbed_of(self, net: Solutions, batch: train.Batch) -> dict[str, landscape.Sensitivity]:
        def value(params: PyTree) -> Array:
            return train.evaluate(self.program, {"params": params, **net.state}, batch)[0]

        draws = self.sizes.draws
        return {
            kind: landscape.perturbation(value, net.params, net.key, sigmas, draws, kind == "filter_relative")
            for kind, sigmas in self.sizes.strengths.items()
        }

    def _values(self, splits: Any, few: train.Batch) -> tuple[Callable, Callable | None]:
        """Return value(params[, state]) -> (loss, accuracy) on both splits, and how statistics are estimated anew."""

        def value(params: PyTree, state: PyTree = None) -> Array:
            variables = {"params": params, **(state or {})}
            return jnp.stack([number for split in splits for number in train.evaluate(self.program, variables, split)])

        def refit(params: PyTree) -> PyTree:
            variables = models.refit_statistics(self.model, self._blank(params), few.x, len(few.x))
            return {name: leaf for name, leaf in variables.items() if name != "params"}

        return value, refit if self.has_state else None

    def _blank(self, params: PyTree) -> dict[str, Any]:
        """Return params with statistics of zeros: `models.refit_statistics` replaces them, whatever they were."""
        shape = (1, *self.few.x.shape[1:])
        shapes = jax.eval_shape(lambda key: models.init(self.model, key, shape[1:]), jax.random.key(0))
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return {**zeros, "params": params}

    def _directions(self, net: Solutions, count: int) -> list[PyTree]:
        return [landscape.filter_direction(jax.random.fold_in(net.key, i), net.params) for i in range(count)]

    def _line_of(self, net: Solutions, data: Any) -> Array:
        value, refit = self._values(*data)
        return landscape.line(value, net.params, self._directions(net, 1)[0], self.line_steps, refit)

    def _plane_of(self, net: Solutions, data: Any) -> Array:
        value, refit = self._values(*data)
        first, second = self._directions(net, 2)
        return landscape.plane(value, net.params, (first, second), (self.plane_steps, self.plane_steps), refit)

    def _between_of(self, ends: tuple[PyTree, PyTree], data: Any) -> Array:
        value, refit = self._values(*data)
        return landscape.interpolate(value, *ends, self.between_steps, refit)

    @property
    def line_steps(self) -> np.ndarray:
        """Return steps along a filter-normalised direction, up to the norm of the weights, as Li et al. draw it."""
        return np.linspace(-1, 1, self.sizes.line_points)

    @property
    def plane_steps(self) -> np.ndarray:
        """Return the same for surfaces."""
        return np.linspace(-1, 1, self.sizes.plane_points)

    @property
    def between_steps(self) -> np.ndarray:
        """Return steps from half the distance before the small-batch solution to half beyond the large-batch one."""
        return np.linspace(-0.5, 1.5, self.sizes.line_points)


def _first(batch: train.Batch, count: int) -> train.Batch:
    return train.Batch(batch.x[:count], batch.y[:count])


def _lost(leaf: Any) -> np.ndarray:
    return np.full(leaf.shape, np.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0, leaf.dtype)


def _numbers(eigen: spectrum.Eigen) -> dict[str, Array]:
    """Return all but the vectors: nobody needs them, and those of all seeds are large."""
    return {
        "value": eigen.value,
        "residual": eigen.residual,
        "matvecs": eigen.num_matvecs,
        "converged": eigen.converged,
    }
