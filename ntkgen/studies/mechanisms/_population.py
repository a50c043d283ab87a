"""The population of the joint study: every arm of the grid, trained to one loss, and everything measured on it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntkgen import data, ensemble, measure, models, records, train
from ntkgen.studies import base
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.datasets import load, source_facts
from ntkgen.studies.mechanisms._config import Arm, Config


class Population(NamedTuple):
    """What is trained: (replicate, label noise) -> data, and the test images that all share."""

    datasets: dict[tuple[int, float], data.Dataset]


def network(config: Config, arm: Arm, num_classes: int) -> Any:
    """Make the network of an arm."""
    return base.network(config, arm.width, arm.depth, num_classes)


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], Population]:
    """Load the data of all replicates and check every arm; returns what they add to the record, and the population.

    Raises:
      ValueError: a setting does not fit the data or the machine.
    """
    datasets = {
        (replicate, noise): load(config, data_dir, label_noise=noise, seed=config.data_seed + replicate)
        for replicate in range(config.replicates)
        for noise in config.label_noise
    }  # fmt: skip
    any_data = next(iter(datasets.values()))
    for arm in config.arms:
        model = network(config, arm, any_data.num_classes)
        size = models.num_params(model, any_data.train.x.shape[1:])
        ensemble.check_fits(size, f"widths: {config.model} {arm.width}")
        train.Program.of(model, config.training(arm), any_data.num_train)
    facts = {
        "num_train": any_data.num_train,
        "data_digests": {f"{replicate}_{noise:g}": each.digest for (replicate, noise), each in datasets.items()},
        **source_facts(any_data),
        "num_networks": len(config.arms) * config.replicates * config.num_seeds,
    }
    return facts, Population(datasets)


def measure_all(run: records.Run, prepared: Prepared) -> Rows:
    """Train and measure every network; returns a row for each, with all columns of all measurements.

    A measurement that is stored with its network is read; so one that is added later trains nothing.
    """
    config, datasets = prepared.config, prepared.more.datasets
    parts = [(arm, replicate) for replicate in range(config.replicates) for arm in config.arms]
    rows: Rows = []
    # Deeper and wider networks take longer to measure, small batches and noisy labels to train.
    costs = [1.0 + arm.label_noise + 16 / arm.batch_size + arm.width * arm.depth / 512 for arm, _ in parts]
    options = ensemble.Options(config.strategy)

    def job(arm: Arm, replicate: int) -> tuple[str, Any, data.Dataset, train.Config, list[int]]:
        """Return the arguments of an arm's fit."""
        dataset = datasets[replicate, arm.label_noise]
        # Seeds differ between replicates, so that a replicate is one more draw of everything.
        seeds = [seed + config.num_seeds * replicate for seed in config.seeds]
        model = network(config, arm, dataset.num_classes)
        return f"{arm}_data{replicate}", model, dataset, config.training(arm), seeds

    # Arms that differ in rate or noise alone share their program.
    programs: dict[Arm, Arm] = {}
    for arm in config.arms:
        programs.setdefault(arm._replace(rate=0.0, label_noise=0.0), arm)
    for arm in list(programs.values())[1:]:
        run.ahead(*job(arm, 0), options=options)
    with records.Progress(costs, config.num_seeds, 1, unit="networks") as progress:
        for index, (arm, replicate) in enumerate(parts):
            name, model, dataset, training, seeds = given = job(arm, replicate)
            result = run.fit(*given, options=options)
            trained = measure.Trained.of(model, result, training, seeds)
            columns = measured(run, name, config.measures, trained, dataset)
            loss = result.history["train_loss"][:, -1]
            for s, seed in enumerate(seeds):
                row = {**arm._asdict(), "replicate": replicate, "seed": seed, "epochs": int(result.epochs[s])}
                row |= {"reached": int(loss[s] <= config.stop_loss), "diverged": int(result.diverged[s])}
                rows.append(row | {column: values[s] for column, values in columns.items()})
            progress.part(index, name)(0, 1, {"train_loss": loss})
    return rows


def measured(
    run: records.Run, name: str, measures: Sequence[str], trained: measure.Trained, dataset: data.Dataset
) -> dict[str, list[float]]:
    """Return measurements of one arm's networks, column -> (seeds,)."""
    found: dict[str, list[float]] = {}
    for each in (measure.MEASUREMENTS[one] for one in measures):

        def take(each: measure.Measurement = each) -> dict[str, list[float]]:
            return {column: values.tolist() for column, values in measure.take(each, trained, dataset).items()}

        if name in run.networks:
            found |= run.networks[name].kept(each.name, take, code=each.function.__module__, **each.options)
        else:
            found |= run.kept(f"{name}_{each.name}", take)
    return found


def rescaled(run: records.Run, prepared: Prepared, factor: float = 4.0) -> Rows:
    """Measure one network of each shape before and after its layers are rescaled, which leaves its function as it is.

    Returns:
      A row for each network and column: before, after, and the relative change. One empty row for networks other than
      chains of Dense layers and ReLU, whose layers cannot be rescaled so.
    """
    config = prepared.config
    shapes = {(arm.width, arm.depth): arm for arm in reversed(config.arms)}
    rows: Rows = []
    if config.model != "mlp":
        return [dict.fromkeys(("network", "column", "before", "after", "change"))]
    for arm in reversed(shapes.values()):
        dataset = prepared.more.datasets[0, arm.label_noise]
        model = network(config, arm, dataset.num_classes)
        name = f"{arm}_data0"
        result = run.fit(
            name, model, dataset, config.training(arm), config.seeds, options=ensemble.Options(config.strategy)
        )

        def work(model: Any = model, dataset: Any = dataset, result: Any = result) -> dict[str, list[float]]:
            one, initial = (jax.tree.map(lambda leaf: leaf[:1], tree) for tree in (result.variables, result.initial))
            other = jax.tree.map(
                lambda leaf: leaf[None], measure.rescaled(model, jax.tree.map(lambda leaf: leaf[0], one), factor)
            )
            keys = jax.vmap(train.measurement_key)(jnp.asarray(config.seeds[:1]))
            found: dict[str, list[float]] = {}
            for each in (measure.MEASUREMENTS[name] for name in config.measures):
                both = [
                    measure.take(each, measure.Trained(model, variables, initial, keys), dataset)
                    for variables in (one, other)
                ]
                found |= {column: [float(values[column][0]) for values in both] for column in both[0]}
            return found

        for column, (before, after) in run.kept(f"rescaled_{name}", work).items():
            change = abs(after - before) / abs(before) if before else None
            rows.append({"network": str(arm), "column": column, "before": before, "after": after, "change": change})
    return rows
