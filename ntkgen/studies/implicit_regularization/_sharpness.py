"""Everything that the implicit-regularization study measures on the networks of one arm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import landscape, measure, models, train
from ntkgen.measure import correct, each_seed
from ntkgen.studies import tables
from ntkgen.studies.base import Rows
from ntkgen.studies.implicit_regularization._arms import TrainingArm
from ntkgen.studies.implicit_regularization._config import PROTOCOL, SHARPNESS, TABLES, Config


def measure_arm(
    config: Config, arm: TrainingArm, network: Any, dataset: Any, samples: int, result: Any
) -> dict[str, Rows]:
    """Measure every network of an arm; returns the rows of `TABLES`.

    Args:
      config: complete.
      arm: what was trained.
      network: the network.
      dataset: what the arm learned.
      samples: training images behind every measurement, the first ones.
      result: of `ensemble.fit`, with the variables at the arm's snapshots as its probes.
    """
    everything, seeds = config.track == "all", config.seeds
    x, y = dataset.train.x[:samples], dataset.train.y[:samples]
    keys = jax.vmap(train.measurement_key)(jnp.asarray(seeds))
    points = [jax.tree.map(lambda leaf, e=e: leaf[:, e], result.probes) for e in range(len(arm.snapshots))]
    ones = np.ones(len(seeds), np.float32)
    networks = [(_network(network, variables, ones), variables["params"]) for variables in points]
    measures = SampleMeasures(x, y, keys, tuple(models.cancelled(network)))
    rates = [arm.training.rate(max(epoch - 1, 0)) for epoch in arm.snapshots]
    track = measure.track(
        networks,
        keys,
        (x, y),
        loss=train.cross_entropy,
        rates=rates,
        momentum=arm.training.momentum or 0.0,
        options=measures.spectral_options(everything),
    )
    flat = [measures.flatness(*pair, worst=everything) for pair in networks]
    along = {
        "eigenvalue": track.value,
        "trace": track.trace,
        **{name: np.stack([_increases(one)[name][0] for one in flat], 1) for name in _increases(flat[0])},
    }
    columns, curves = _final(measures, networks, points[0]["params"], track, flat[-1], everything)
    heated = {t: _heated(measures, network, points[-1], track.vector, everything, t) for t in PROTOCOL.loss_targets}

    right = correct(*networks[-1], dataset.test.x, dataset.test.y)
    found: dict[str, Rows] = {name: [] for name in TABLES}
    found["correct"] = tables.correct_rows(arm.name, seeds, right, result.diverged)
    for s, seed in enumerate(seeds):
        one = {"arm": arm.name, "seed": seed}
        found["tracking"] += [one | row for row in _tracking(arm, rates, track, along, s)]
        found["matched"] += [one | row for row in _matched(arm, track, along, heated, s)]
        found["perturbation"] += [one | row for kind, curve in curves.items() for row in _perturbed(kind, curve, s)]
        history = {name: float(values[s, -1]) for name, values in result.history.items()}
        train_acc, test_acc = 100 * history["train_accuracy"], 100 * history["test_accuracy"]
        row: dict[str, Any] = {"train_acc": train_acc, "test_acc": test_acc, "gap": train_acc - test_acc}
        row |= {"train_loss": history["train_loss"], "test_loss": history["test_loss"]}
        row |= {"comparable": int(train_acc >= PROTOCOL.accuracy_needed), "diverged": int(result.diverged[s])}
        row |= {name: values[s].item() for name, values in columns.items()}
        row |= {"samples": samples, "batch_norm": "frozen"}
        found["runs"].append(one | arm.describe() | row | {"precision": "float32, highest"})
    return found


@dataclass
class SampleMeasures:
    """The study's measurements, on its samples and with its seeds' keys.

    Attributes:
      x: samples.
      y: their labels.
      keys: of the seeds.
      unmoved: leaves without effect on the function; adaptive sharpness leaves them alone.
    """

    x: Any
    y: Any
    keys: Any
    unmoved: tuple[str, ...]

    def spectral_options(self, with_trace: bool) -> measure.SpectralOptions:
        """Return the options of `measure.spectral`."""
        probes = PROTOCOL.trace_probes if with_trace else 0
        return measure.SpectralOptions(PROTOCOL.lanczos_steps, PROTOCOL.tolerance, probes)

    def each(self, function: Callable, seeded: tuple, host_driven: bool = False, **options: Any) -> Any:
        """Measure every seed on the study's samples."""
        return each_seed(function, seeded, (self.x, self.y), options, host_driven=host_driven)

    def spectral(self, f: Any, params: Any, vector: Any, with_trace: bool) -> measure.Spectral:
        """Return top eigenvalue (warm-started) and trace."""
        start = each_seed(measure.warm_start, (self.keys, vector))
        options = self.spectral_options(with_trace)
        seeded = (f, params, start, self.keys)
        return self.each(measure.spectral, seeded, True, loss=train.cross_entropy, options=options)

    def flatness(self, f: Any, params: Any, worst: bool, curves: bool = False) -> measure.Flatness:
        """Return what perturbations do: one sigma of each kind, or the curves."""
        options = measure.FlatnessOptions(
            sigmas=landscape.SIGMAS if curves else (PROTOCOL.sigma,),
            relative_sigmas=landscape.SIGMAS if curves else (PROTOCOL.relative_sigma,),
            average_rho=PROTOCOL.average_rho,
            worst_rho=PROTOCOL.worst_rho,
            worst_steps=20 if worst else 0,
            unmoved=self.unmoved,
        )
        return self.each(measure.flatness, (f, params, self.keys), loss=train.cross_entropy, options=options)


def _network(network: Any, variables: dict[str, Any], temperature: np.ndarray) -> Any:
    return measure.tempered(models.apply_fn(network, variables), temperature)


def _increases(flat: measure.Flatness) -> dict[str, tuple[Any, Any]]:
    """Return name -> (increase, standard error), each (seeds,); without the worst case where it was not asked for."""
    found = {
        "average_adaptive": (flat.average.increase, flat.average.standard_error),
        "perturbation": (flat.absolute.increase[:, 0], flat.absolute.standard_error[:, 0]),
        "relative_perturbation": (flat.relative.increase[:, 0], flat.relative.standard_error[:, 0]),
    }
    if flat.worst is not None:
        found["worst_adaptive"] = (flat.worst.increase, flat.worst.standard_error)
    return found


def _final(
    measures: SampleMeasures, networks: list, initial: Any, track: Any, flat: measure.Flatness, everything: bool
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Measure what only the trained networks are asked for; returns columns of runs.csv and perturbation curves."""
    f, params = networks[-1]
    curves = measures.flatness(f, params, worst=flat.worst is None, curves=True)
    start = each_seed(measure.random_start, (measures.keys, params))
    options = {"loss": train.cross_entropy, "num_iters": PROTOCOL.power_iterations}
    power = measures.each(measure.power, (f, params, start), True, **options)
    noise = measures.each(measure.noise_scale, (f, params), loss=train.cross_entropy)
    moved, relative = each_seed(measure.distance, (params, initial))
    trace, trace_error = track.trace[:, -1], track.trace_error[:, -1]
    if not everything:
        spectral = measures.spectral(f, params, track.vector, with_trace=True)
        trace, trace_error = spectral.trace.value, spectral.trace.standard_error
    columns = {
        "sample_loss": track.loss[:, -1],
        "eigenvalue": track.value[:, -1],
        "eigenvalue_residual": track.residual[:, -1],
        "eigenvalue_matvecs": track.num_matvecs[:, -1],
        "eigenvalue_converged": track.converged[:, -1].astype(int),
        "power": power.value,
        "power_residual": power.residual,
        "power_matvecs": power.num_matvecs,
        "power_converged": power.converged.astype(int),
        "trace": trace,
        "trace_error": trace_error,
    }
    if flat.worst is None:
        flat = flat._replace(worst=curves.worst)
    for name, (value, error) in _increases(flat).items():
        columns |= {name: value, f"{name}_error": error}
    columns |= {"distance": moved, "relative_distance": relative, "noise_scale": noise.value}
    columns |= {"noise_scale_error": noise.standard_error, "noise_scale_resolved": noise.resolved.astype(int)}
    columns |= {"gradient_variance": noise.covariance_trace, "squared_gradient": noise.squared_gradient}
    return columns, {"absolute": curves.absolute, "relative": curves.relative}


def _perturbed(kind: str, curve: Any, s: int) -> Rows:
    """Make the rows of one seed's perturbation curve."""
    rows, baseline = [], float(curve.baseline[s])
    for i, sigma in enumerate(landscape.SIGMAS):
        increase = float(curve.increase[s, i])
        row = {"kind": kind, "sigma": sigma, "baseline": baseline, "increase": increase}
        row |= {"standard_error": float(curve.standard_error[s, i]), "draws": curve.values.shape[-1]}
        rows.append(row | {"percent": 100 * increase / baseline})
    return rows


def _heated(
    measures: SampleMeasures, network: Any, variables: dict[str, Any], vector: Any, everything: bool, target: float
) -> dict[str, Any]:
    """Measure the trained networks with their logits at the temperature that gives the target loss."""
    plain, params = models.apply_fn(network, variables), variables["params"]
    temperature = measures.each(measure.matching_temperature, (plain, params), target=target)
    f = _network(network, variables, temperature)
    spectral = measures.spectral(f, params, vector, everything)
    values: dict[str, tuple[Any, Any]] = {"eigenvalue": (spectral.top.value, np.full_like(spectral.top.value, np.nan))}
    if everything:
        values["trace"] = (spectral.trace.value, spectral.trace.standard_error)
    values |= _increases(measures.flatness(f, params, worst=everything))
    quality = {"residual": spectral.top.residual, "converged": spectral.top.converged}
    return {"temperature": temperature, "values": values, **quality}


def _tracking(arm: TrainingArm, rates: list, track: Any, along: dict[str, np.ndarray], s: int) -> Rows:
    """Make one seed's rows of tracking.csv."""
    rows = []
    bounded = arm.training.optimizer != "adam"
    for e, epoch in enumerate(arm.snapshots):
        row = {"epoch": epoch, "step": epoch * arm.steps // arm.training.epochs, "learning_rate": rates[e]}
        row |= {"sample_loss": float(track.loss[s, e]), "residual": float(track.residual[s, e])}
        row |= {"matvecs": int(track.num_matvecs[s, e]), "converged": int(track.converged[s, e])}
        row |= {"threshold": float(track.threshold[e]) if bounded else None}
        row |= {"momentum_threshold": float(track.momentum_threshold[e]) if bounded else None}
        rows.append(row | {name: float(along[name][s, e]) if name in along else None for name in SHARPNESS})
    return rows


def _matched(
    arm: TrainingArm, track: Any, along: dict[str, np.ndarray], heated: dict[float, dict[str, Any]], s: int
) -> Rows:
    """Make one seed's rows of matched.csv."""
    rows = []
    for name, values in along.items():
        for target in PROTOCOL.loss_targets:
            found = measure.at_loss(track.loss[s], values[s], target)
            passed = found.after >= 0
            ends = [found.before, found.after] if passed else []
            row = {"match": "loss", "target": target, "metric": name, "value": found.value, "standard_error": None}
            row |= {"epoch_before": arm.snapshots[ends[0]] if passed else None}
            row |= {"epoch_after": arm.snapshots[ends[1]] if passed else None, "temperature": None}
            good = passed and (name != "eigenvalue" or bool(track.converged[s, ends].all()))
            rows.append(row | {"reached": int(passed), "converged": int(good)})
    for target, hot in heated.items():
        temperature = float(hot["temperature"][s])
        for name, (value, error) in hot["values"].items():
            row = {"match": "temperature", "target": target, "metric": name, "value": float(value[s])}
            row |= {"standard_error": float(error[s]), "epoch_before": None, "epoch_after": arm.training.epochs}
            good = np.isfinite(temperature) and (name != "eigenvalue" or bool(hot["converged"][s]))
            row |= {"temperature": temperature, "reached": int(np.isfinite(temperature)), "converged": int(good)}
            rows.append(row)
    return rows
