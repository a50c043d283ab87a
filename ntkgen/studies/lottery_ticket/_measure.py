"""What the lottery-ticket study loads, checks, trains and measures."""

import math
from typing import Any, NamedTuple

import numpy as np

from ntkgen import data, ensemble, measure, models, pruning, records, train
from ntkgen.studies import base, datasets, tables
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.lottery_ticket._arms import Lab, TrainedArm, train_all, trainings
from ntkgen.studies.lottery_ticket._config import Config
from ntkgen.studies.lottery_ticket._controls import ArmAtLevel
from ntkgen.studies.lottery_ticket._overlap import overlaps
from ntkgen.studies.lottery_ticket._sharpness import (
    BARRIER,
    DRAWS,
    LANCZOS_STEPS,
    LANCZOS_TOLERANCE,
    LINE,
    MEASURED,
    RHO,
    at_start,
    measure_networks,
)
from ntkgen.typing import PyTree


class Ingredients(NamedTuple):
    """What is trained: the network, what it learns, and how."""

    model: Any
    dataset: data.Dataset
    training: train.Config


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], Ingredients]:
    """Load the data and check everything that can be wrong; returns what they add to the record, and the ingredients.

    Raises:
      ValueError: a setting does not fit the data or the machine.
    """
    training = base.training(config)
    dataset = datasets.load(config, data_dir)
    guessing = math.log(dataset.num_classes)
    if config.matched_loss >= guessing:
        raise ValueError(
            f"matched_loss: expected less than the {guessing:.3f} nats of guessing, got {config.matched_loss:g}"
        )
    if config.hessian_samples > dataset.num_train:
        raise ValueError(
            f"hessian_samples: expected at most the {dataset.num_train} training examples, got {config.hessian_samples}"
        )
    model = base.network(config, config.size, num_classes=dataset.num_classes)
    params = models.num_params(model, dataset.train.x.shape[1:])
    ensemble.check_fits(params, f"{config.size_name}: {config.model} {config.size}")
    train.Program.of(model, training, dataset.num_train)
    facts = {"num_train": dataset.num_train, "momentum": training.momentum, "data_digest": dataset.digest}
    facts |= datasets.source_facts(dataset)
    return facts, Ingredients(model, dataset, training)


def measure_all(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Train every arm at every level, and measure it.

    Returns:
      "runs", a row for each arm, level, seed and measured epoch; "sparsity", weights kept in each layer; "correct", the
      test images that final networks classify right; "measures", curvature, sharpness and stability at some levels;
      "overlaps", of pairs of tickets, if there is a pair.
    """
    config, names = prepared.config, trainings(prepared.config)
    found: dict[str, Rows] = {name: [] for name in ("runs", "measures", "sparsity", "correct")}
    masks: dict[ArmAtLevel, tuple[PyTree, np.ndarray]] = {}
    with records.Progress([1.0] * len(names), len(config.seeds), config.epochs) as progress:
        model, dataset, training = prepared.more
        report = lambda name, start: progress.part(names.index(name), name, start)  # noqa: E731
        lab = Lab(run, config, model, dataset, training, report)
        for trained in train_all(lab):
            if trained.at.part in names:
                progress.measuring(names.index(trained.at.part), trained.at.part)
            found["runs"] += _run_rows(lab, trained)
            found["sparsity"] += _sparsity_rows(lab, trained)
            found["correct"] += _correct_rows(lab, trained)
            if trained.at.arm in ("ticket", "other_order"):
                masks[trained.at] = trained.masks, trained.void
            if trained.at.keep in config.measure_at and trained.at.arm != "other_order":
                found["measures"] += _measure_rows(lab, trained)
        found["overlaps"] = overlaps(lab, masks)
    run.write_json("layout.json", lab.layouts)
    return {name: rows for name, rows in found.items() if rows}


def _about(trained: TrainedArm) -> dict[str, Any]:
    """Return the columns that say which arm and level a row is of."""
    return {"arm": trained.at.arm, "keep_percent": trained.at.keep}


def _correct_rows(lab: Lab, trained: TrainedArm) -> Rows:
    variables, test = trained.result.variables, lab.dataset.test
    right = measure.correct(models.apply_fn(lab.model, variables), variables["params"], test.x, test.y)
    return tables.correct_rows(trained.at.label, lab.seeds, right, trained.lost)


def _run_rows(lab: Lab, trained: TrainedArm) -> Rows:
    """Make rows of the start, and of the epochs that were measured; accuracies in percent.

    At the start, where epochs may be behind a rewound ticket, the training set alone is looked at. `diverged` are also
    networks whose masks were cut from one that had.
    """
    at, lost, history = _about(trained), trained.lost, trained.result.history
    begun = 0 if trained.at.keep == 100 else lab.config.begins(trained.at.arm)
    loss, accuracy = at_start(lab, trained)
    rows = []
    for s, seed in enumerate(lab.seeds):
        row = at | {"seed": seed, "epoch": begun, "learning_rate": None}
        row |= {"train_loss": float(loss[s]), "train_acc": float(100 * accuracy[s])}
        rows.append(row | {"test_loss": None, "test_acc": None, "diverged": int(lost[s])})
        for epoch in (epoch for epoch in lab.config.evaluate_at if epoch > begun):
            now = {name: float(values[s, epoch - 1]) for name, values in history.items()}
            row = at | {"seed": seed, "epoch": epoch, "learning_rate": now["learning_rate"]}
            for split in ("train", "test"):
                row |= {f"{split}_loss": now[f"{split}_loss"], f"{split}_acc": 100 * now[f"{split}_accuracy"]}
            rows.append(row | {"diverged": int(lost[s])})
    return rows


def _sparsity_rows(lab: Lab, trained: TrainedArm) -> Rows:
    layers = pruning.layers_of("masks", trained.masks, lab.prunable)
    kept = {layer: np.asarray(mask).reshape(len(lab.seeds), -1) for layer, mask in layers.items()}
    return [
        _about(trained) | {"seed": seed, "layer": layer, "size": mask.shape[1], "kept": int(mask[s].sum()),
                           "kept_percent": float(100 * mask[s].mean())}
        for s, seed in enumerate(lab.seeds)
        for layer, mask in kept.items()
    ]  # fmt: skip


def _measure_rows(lab: Lab, trained: TrainedArm) -> Rows:
    """Make rows of what was measured, each number with how it was made."""
    found, config = measure_networks(lab, trained), lab.config
    norm, line_norm = ("frozen", "estimated anew") if config.model == "cnn" else ("none", "none")
    how = {"samples": config.hessian_samples, "weights": "kept", "batch_norm": norm, "precision": "highest"}
    how |= {"lanczos_steps": LANCZOS_STEPS, "tolerance": LANCZOS_TOLERANCE, "rho": RHO, "draws": DRAWS}
    how |= {"line_points": len(LINE), "line_batch_norm": line_norm, "matched_target": config.matched_loss}
    return [
        _about(trained) | {"seed": seed} | {name: float(found[name][s]) for name in (*MEASURED, *BARRIER)} | how
        for s, seed in enumerate(lab.seeds)
    ]
