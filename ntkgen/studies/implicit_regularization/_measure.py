"""Data, networks and training of the implicit-regularization study."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from ntkgen import data, ensemble, io, models, pruning, records, train
from ntkgen.studies import base, datasets
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.implicit_regularization import _arms, _rates
from ntkgen.studies.implicit_regularization._arms import Sizes, TrainingArm
from ntkgen.studies.implicit_regularization._config import PROTOCOL, TABLES, Config
from ntkgen.studies.implicit_regularization._sharpness import measure_arm


class BatchSizeSweep(NamedTuple):
    """What is trained on what: the network, the data, and the sizes that follow from them."""

    network: Any
    dataset: data.Dataset
    sizes: Sizes


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], BatchSizeSweep]:
    """Load the data and check everything that can be wrong; returns what they add to the record, and the sweep.

    Raises:
      ValueError: a setting does not fit the data or the machine.
    """
    dataset = datasets.load(config, data_dir)
    sizes = _arms.sizes(config, dataset.num_train)
    size = "channels" if config.model == "cnn" else "width"
    network = base.network(config, getattr(config, size), num_classes=dataset.num_classes)
    num_params = models.num_params(network, dataset.train.x.shape[1:])
    ensemble.check_fits(num_params, f"{size}: {config.model} {getattr(config, size)}")
    _rates.check(config, sizes)
    plan = _arms.planned_arms(config, sizes)
    for arm in plan:
        if arm.noise and arm.batch <= arm.noise:
            expected = f"batches of more than the {arm.noise} of --reference for noise"
            raise ValueError(f"controls: expected {expected}, got {arm.batch} in {arm.name}")
        train.Program.of(network, arm.training, arm.images, arm.update)
    names = [arm.name for arm in plan]
    unknown = [name for name in config.only or () if name not in names]
    if unknown:
        raise ValueError(f"only: expected some of {', '.join(names)}, got {unknown[0]}")
    facts = {
        "num_train": sizes.images,
        "gd_images": sizes.full_batch,
        "batch_sizes": list(sizes.batch_sizes),
        "curvature_samples": sizes.samples,
        "data_digest": dataset.digest,
        **datasets.source_facts(dataset),
        "num_params": num_params,
        "protocol": dataclasses.asdict(PROTOCOL),
        **_rates.facts(config),
    }
    return facts, BatchSizeSweep(network, dataset, sizes)


def measure(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Train every arm (or those of `only`) and measure its networks; what was measured of an arm is kept.

    Returns:
      The tables of `measure_arm`, "tuning" if GD's rate was tuned, and "rates" if each batch size has its own.
    """
    config, (network, dataset, sizes) = prepared.config, prepared.more
    found: dict[str, Rows] = {name: [] for name in TABLES}
    tuned: dict[str, Any] = {}
    if "gd" in config.controls and (not config.only or "gd_tuned" in config.only):
        found["tuning"] = run.kept("tuning", lambda: _try_rates(run, config, prepared.more))
        chosen = (row["learning_rate"] for row in found["tuning"] if row["chosen"])
        tuned["tuned_rate"] = min(chosen, default=min(PROTOCOL.gd_grid))
    if "tuned" in config.controls and (not config.only or any(name.endswith("_tuned") for name in config.only)):
        found["rates"] = run.kept("rates", lambda: _rates.try_rates(run, config, network, dataset, sizes))
        tuned["own_rates"] = _rates.chosen(found["rates"])
    plan = [arm for arm in _arms.planned_arms(config, sizes, **tuned) if not config.only or arm.name in config.only]
    epochs = [arm.training.epochs for arm in plan]
    jobs = [_job(config, network, dataset, arm) for arm in plan]
    for job in jobs[1:]:
        run.ahead(**job)
    with records.Progress([arm.images for arm in plan], len(config.seeds), epochs) as progress:
        for index, (arm, job) in enumerate(zip(plan, jobs, strict=True)):

            def train_and_measure(arm: TrainingArm = arm, job: Any = job, index: int = index) -> dict[str, Rows]:
                result = run.fit(**job, progress=progress.part(index, arm.name))
                progress.measuring(index, arm.name)
                return measure_arm(config, arm, network, job["dataset"], sizes.samples, result)

            for name, rows in run.kept(f"arm_{arm.name}", train_and_measure).items():
                found[name] += rows
    run.write_json("arms.json", {arm.name: arm.describe() for arm in plan})
    return found


def _job(config: Config, network: Any, dataset: data.Dataset, arm: TrainingArm) -> dict[str, Any]:
    """Return the arguments of an arm's fit."""
    given = {"name": arm.name, "model": network, "dataset": first_images(dataset, arm.images), "config": arm.training}
    given |= {"seeds": config.seeds, "update": arm.update, "probes": (arm.snapshots, pruning.snapshot)}
    return given | {"options": ensemble.Options(evaluate_at=arm.snapshots[1:])}


def first_images(dataset: data.Dataset, count: int) -> data.Dataset:
    """Return a data set of the first training images, with a digest of its own; the whole one if it has no more."""
    if count == dataset.num_train:
        return dataset
    split = data.Split(*(leaf[:count] for leaf in dataset.train))
    arrays = {"x": split.x, "y": split.y, "test_x": dataset.test.x, "test_y": dataset.test.y}
    digest = io.digest({name: np.asarray(array) for name, array in arrays.items()})
    return dataclasses.replace(dataset, train=split, num_train=count, digest=digest)


def _try_rates(run: records.Run, config: Config, sweep: BatchSizeSweep) -> Rows:
    """Try GD's learning rates with the first seed, a part of the updates each; the lowest training loss is chosen."""
    rows: Rows = []
    for rate in PROTOCOL.gd_grid:
        training = _arms.tuning(config, sweep.sizes.images, rate)
        name, last = f"tune_{rate:g}", ensemble.Options(evaluate_at=[training.epochs])
        result = run.fit(name, sweep.network, sweep.dataset, training, [config.seed], options=last)
        loss, accuracy = (float(result.history[f"train_{metric}"][0, -1]) for metric in ("loss", "accuracy"))
        row = {"learning_rate": rate, "steps": training.epochs, "seed": config.seed, "train_loss": loss}
        rows.append(row | {"train_acc": 100 * accuracy, "diverged": int(result.diverged[0])})
    kept = [row["train_loss"] for row in rows if not row["diverged"]]
    for row in rows:
        row["chosen"] = int(bool(kept) and not row["diverged"] and row["train_loss"] == min(kept))
    return rows
