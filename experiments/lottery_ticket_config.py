"""Flags, presets and the checks of the lottery-ticket study."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import common
import numpy as np
from absl import flags
from lottery_ticket_controls import ARMS

from ntkgen import data, ensemble, models, paper, pruning, train
from ntkgen.data import SOURCES

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # they belong to the study, whose --help then lists them

STABLE = ("ticket", "rewound", "reinit", "random_layer")
# Enough for every kind of comparison that changes one thing alone.
QUICK = tuple(arm for arm in ARMS if arm not in ("reinit_std", "random_shuffled", "random_fan_in"))
# The learning rate of the MLP is the one recovered for the double-descent table, the CNN's the appendix's.
MLP: dict[str, Any] = dict(
    depth=4, lr=0.05, label_noise=0.0, arms=tuple(ARMS), barrier_arms=STABLE, loss_threshold=0.05, matched_loss=0.1
)
CNN: dict[str, Any] = dict(
    lr=0.01, label_noise=0.0, arms=tuple(ARMS), barrier_arms=STABLE, loss_threshold=0.5, matched_loss=0.1
)  # fmt: skip
# None for num_train: all there are.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "mlp"): dict(
        MLP, width=256, num_train=None, num_seeds=5, epochs=20, keep=(100, 70, 50, 30, 20, 10, 5, 2, 1),
        measure_at=(100, 30, 10), rewind_epoch=2, hessian_samples=1000,
    ),
    # 32 channels are our reading of a number that the text has lost.
    ("paper", "cnn"): dict(
        CNN, channels=32, num_train=None, num_seeds=5, epochs=60, keep=(100, 70, 50, 30, 20, 10, 5),
        measure_at=(100, 30, 10), rewind_epoch=5, hessian_samples=1000,
    ),
    ("small", "mlp"): dict(
        MLP, width=64, num_train=4_000, num_seeds=3, epochs=15, keep=(100, 50, 20, 10, 5, 2),
        measure_at=(100, 20, 10), rewind_epoch=2, hessian_samples=1000,
    ),
    ("small", "cnn"): dict(
        CNN, channels=8, num_train=5_000, num_seeds=3, epochs=30, keep=(100, 50, 20, 10, 5),
        arms=("ticket", "rewound", "reinit", "random_layer"), barrier_arms=("ticket", "rewound"),
        measure_at=(100, 20, 10), rewind_epoch=3, hessian_samples=500, matched_loss=0.5,  # they stay short of 0.1
    ),
    ("quick", "mlp"): dict(
        MLP, width=64, num_train=None, num_seeds=3, epochs=30, keep=(100, 70, 50, 30, 20, 10, 5, 2),
        arms=QUICK, measure_at=(100, 30, 10), barrier_arms=("ticket", "rewound"), rewind_epoch=2, hessian_samples=500,
    ),
    ("quick", "cnn"): dict(
        CNN, channels=2, num_train=None, num_seeds=2, epochs=10, keep=(100, 20), arms=("ticket", "reinit", "rewound"),
        measure_at=(100, 20), barrier_arms=("ticket",), rewind_epoch=1, hessian_samples=200, matched_loss=0.5,
    ),
}  # fmt: skip
# Losses and accuracies are measured after every epoch of an MLP; so often in a CNN's training, the later ones further
# apart, the last epoch included.
MEASUREMENTS = 10


def define_flags() -> None:
    """Define the flags of the study."""
    common.define_shared(tuple(SOURCES))
    flags.DEFINE_enum("model", None, ("mlp", "cnn"), "Network. Default: cnn for cifar10, else mlp.")
    common.define(common.COUNT, "width", None, "Hidden width of the MLP. Default: the preset's.")
    common.define(common.COUNT, "channels", None, "Base channels of the CNN. Default: the preset's.")
    common.define(common.DEPTH, "depth", None, "Dense layers of the MLP. Default: 4, the paper's.")
    flags.DEFINE_boolean("affine_norm", False, "The usual CNN: bias-free convolutions, affine batch norm.")
    flags.DEFINE_list("keep", None, "Percents of the weights that remain, from 100 downwards. Default: the preset's.")
    flags.DEFINE_list("arms", None, f"What to train, of {', '.join(ARMS)}. Default: the preset's.")
    common.define(
        common.COUNT, "rewind_epoch", None, "Epoch that the rewound ticket goes back to. Default: the preset's."
    )
    flags.DEFINE_enum(
        "scope", "global", pruning.SCOPES, "Rank the weights of all layers together, or of each by itself."
    )
    flags.DEFINE_boolean("one_shot", False, "Prune the tickets to each level at once, rather than level by level.")
    flags.DEFINE_boolean("prune_head", True, "Prune the output layer too.")
    flags.DEFINE_list(
        "measure_at", None, "Percents at which curvature and sharpness are measured. Default: the preset's."
    )
    flags.DEFINE_list("barrier_arms", None, "Arms whose stability is measured there, for another training each.")
    common.define(
        common.POSITIVE, "loss_threshold", None, "Training loss (nats) whose epoch is noted. Default: the preset's."
    )
    common.define(
        common.POSITIVE,
        "matched_loss",
        None,
        "Cross-entropy (nats) to which a temperature of the logits brings networks before their curvature is compared. "
        "Default: the preset's.",
    )
    common.define(common.COUNT, "hessian_samples", None, "Training examples for curvature and sharpness.")
    common.define(common.POSITIVE, "lr", None, "Learning rate; the paper gives none here. Default: 0.05 MLP, 0.01 CNN.")
    common.define(common.COUNT, "batch_size", 128, "Examples a step.")
    flags.DEFINE_enum("optimizer", "sgd", train.OPTIMIZERS, "sgd has momentum; gd takes full-batch steps.")
    common.define(common.MOMENTUM, "momentum", None, "Of sgd and gd. Default: 0.9 for sgd, 0 for gd.")
    flags.DEFINE_enum("schedule", "cosine", train.SCHEDULES, "Of the learning rate, by the epoch.")
    common.define(common.NOT_NEGATIVE, "weight_decay", 0.0, "L2 coefficient; the paper uses none.")
    flags.DEFINE_enum("strategy", "auto", ensemble.STRATEGIES, "How seeds are trained together.")


def resolve() -> dict[str, Any]:
    """Turn flags into the complete configuration of the study."""
    dataset = common.dataset()
    model = FLAGS.model or ("cnn" if dataset == "cifar10" else "mlp")
    preset = PRESETS[FLAGS.preset, model]
    if common.own_size(dataset):
        preset = {**preset, "num_train": None}
    foreign = {
        name: f"--model={model}" for name in (("channels", "affine_norm") if model == "mlp" else ("width", "depth"))
    }
    foreign |= common.foreign_to_optimizer()
    common.refuse(foreign)
    config = common.chosen(preset)
    names = ("seed", "data_seed", "batch_size", "optimizer", "momentum", "schedule", "weight_decay", "strategy")
    for name in (*names, "scope", "one_shot", "prune_head"):
        config[name] = FLAGS[name].value
    if model == "cnn":
        config["affine_norm"] = FLAGS.affine_norm
    config |= {"dataset": dataset, "model": model}
    return config | levels(config) | arms(config)


def levels(config: dict[str, Any]) -> dict[str, Any]:
    """Check the percents, the epochs, and say when losses are measured."""
    keep = percents("keep", config["keep"])
    if keep[0] != 100 or any(b >= a for a, b in itertools.pairwise(keep)):
        raise ValueError(f"--keep: expected percents that strictly decrease from 100, got {config['keep']}")
    at = percents("measure_at", config["measure_at"])
    if FLAGS.measure_at is None:
        at = [percent for percent in at if percent in keep]
    if strange := [percent for percent in at if percent not in keep]:
        raise ValueError(f"--measure_at: expected percents of --keep {keep}, got {strange}")
    epochs = config["epochs"]
    when = list(range(1, epochs + 1))
    if config["model"] == "cnn":
        when = np.unique(np.round(np.geomspace(1, epochs, MEASUREMENTS)).astype(int)).tolist()
    return {"keep": keep, "measure_at": sorted(at, reverse=True), "evaluate_at": when}


def percents(name: str, parts: Sequence[Any]) -> list[float]:
    """Read percents in (0, 100]."""
    try:
        found = [float(each) for each in parts]
    except ValueError:
        found = []
    if not found or not all(0 < each / 100 <= 1 for each in found):
        raise ValueError(f"--{name}: expected percents in (0, 100], got {','.join(map(str, parts))!r}")
    if len({f"{each:g}" for each in found}) < len(found):  # trainings are named after them
        raise ValueError(f"--{name}: expected percents that differ in six digits, got {','.join(map(str, parts))!r}")
    return [int(each) if each == int(each) else each for each in found]


def arms(config: dict[str, Any]) -> dict[str, Any]:
    """Check the arms and the epoch to rewind to."""
    chosen = list(config["arms"])
    if strange := [arm for arm in chosen if arm not in ARMS]:
        raise ValueError(f"--arms: expected some of {', '.join(ARMS)}, got {strange[0]!r}")
    if "ticket" not in chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"--arms: expected ticket, and each arm once, got {','.join(chosen)!r}")
    if config["one_shot"]:
        if FLAGS.arms is not None and "one_shot" in chosen:
            raise ValueError("--arms: expected no one_shot with --one_shot, which makes the ticket the same, got both")
        chosen = [arm for arm in chosen if arm != "one_shot"]
    rewind = rewind_epoch(config, chosen)
    if rewind is None:
        chosen = [arm for arm in chosen if arm != "rewound"]
    stable = list(config["barrier_arms"])
    if len(set(stable)) < len(stable):
        raise ValueError(f"--barrier_arms: expected each arm once, got {','.join(stable)!r}")
    if FLAGS.barrier_arms is None:
        stable = [arm for arm in stable if arm in chosen]
    if strange := [arm for arm in stable if arm not in chosen or arm == "other_order"]:
        raise ValueError(f"--barrier_arms: expected arms of --arms but other_order, got {strange[0]!r}")
    return {
        "arms": sorted(chosen, key=list(ARMS).index),
        "barrier_arms": sorted(stable, key=list(ARMS).index),
        "rewind_epoch": rewind,
    }


def rewind_epoch(config: dict[str, Any], chosen: Sequence[str]) -> int | None:
    """Check the epoch to rewind to; the preset's is moved before the last one. None without the arm."""
    rewind, last = config["rewind_epoch"], config["epochs"] - 1
    if "rewound" not in chosen:
        if FLAGS.rewind_epoch is not None:
            raise ValueError(f"--rewind_epoch: expected no such flag without the arm rewound, got {rewind}")
        return None
    if not last:
        for name in ("rewind_epoch", "arms"):  # given ones are not dropped in silence
            if FLAGS[name].value is not None:
                value = rewind if name == "rewind_epoch" else ",".join(chosen)
                raise ValueError(f"--{name}: expected no rewinding with a single epoch, got {value}")
        return None
    if FLAGS.rewind_epoch is None:
        return min(rewind, last)
    if rewind > last:
        raise ValueError(f"--rewind_epoch: expected 1 ... {last}, before the last of the epochs, got {rewind}")
    return rewind


def prepare(config: dict[str, Any]) -> tuple[Any, data.Dataset, train.Config]:
    """Check everything else that can be wrong before anything is written."""
    training = train.Config(
        epochs=config["epochs"],
        batch_size=config["batch_size"],
        learning_rate=config["lr"],
        optimizer=config["optimizer"],
        momentum=config["momentum"],
        schedule=config["schedule"],
        weight_decay=config["weight_decay"],
    )
    config["momentum"] = training.momentum
    dataset = data.load(
        config["dataset"],
        data_dir=FLAGS.data_dir,
        num_train=config["num_train"],
        label_noise=config["label_noise"],
        seed=config["data_seed"],
    )
    config["num_train"], config["data_digest"] = dataset.num_train, dataset.digest
    if config["matched_loss"] >= math.log(dataset.num_classes):
        raise ValueError(
            f"--matched_loss: expected less than the {math.log(dataset.num_classes):.3f} nats of guessing, "
            f"got {config['matched_loss']:g}"
        )
    if config["hessian_samples"] > dataset.num_train:
        if FLAGS.hessian_samples is not None:
            raise ValueError(
                f"--hessian_samples: expected at most the {dataset.num_train} training examples, "
                f"got {config['hessian_samples']}"
            )
        config["hessian_samples"] = dataset.num_train
    if config["model"] == "mlp":
        model: Any = models.MLP(config["width"], config["depth"], dataset.num_classes)
    else:
        model = models.CNN(config["channels"], dataset.num_classes, config["affine_norm"])
    config["unmoved"] = models.cancelled(model)  # no effect on the function: adaptive sharpness leaves them alone
    size = "width" if config["model"] == "mlp" else "channels"
    params = models.num_params(model, dataset.train.x.shape[1:])
    ensemble.check_fits(params, f"--{size}: {config['model']} {config[size]}")
    train.Program.of(model, training, dataset.num_train)
    return model, dataset, training


def same_protocol(config: dict[str, Any]) -> bool:
    """Say whether the published accuracies belong beside this run's: CIFAR-10, 32 channels, 60 epochs, all images.

    And SGD, whatever its rate, with tickets pruned level by level.
    """
    usual = config["dataset"] == "cifar10" and config["model"] == "cnn" and not config["label_noise"]
    usual = usual and config["optimizer"] == "sgd" and not config["one_shot"]
    return bool(
        usual
        and config["channels"] == PRESETS["paper", "cnn"]["channels"]
        and config["epochs"] == paper.LOTTERY_TICKET_EPOCHS
        and config["num_train"] == 50_000
        and not config["affine_norm"]
    )


SHORT = {
    "num_train": "n", "label_noise": "noise", "num_seeds": "seeds", "rewind_epoch": "rewind", "one_shot": "oneshot",
    "prune_head": "head", "matched_loss": "matched",
}  # fmt: skip


def stem(config: dict[str, Any]) -> str:
    """Name the figures after what a reader would want to tell apart."""
    parts = ["lottery_ticket", config["dataset"]]
    if config["model"] != ("cnn" if config["dataset"] == "cifar10" else "mlp"):
        parts.append(config["model"])
    parts += [FLAGS.preset] if FLAGS.preset != "paper" else []
    for name in (
        "width", "channels", "depth", "affine_norm", "num_train", "epochs", "batch_size", "lr", "label_noise",
        "optimizer", "momentum", "schedule", "weight_decay", "scope", "one_shot", "prune_head", "keep", "arms",
        "rewind_epoch", "loss_threshold", "matched_loss", "measure_at", "barrier_arms", "hessian_samples", "num_seeds",
        "seed", "data_seed",
    ):  # fmt: skip
        if FLAGS[name].present:
            parts.append(_short(name, config[name]))
    return "_".join(parts)


def _short(name: str, value: Any) -> str:
    """Name one setting: lr0.1, keep100-50, oneshot, nohead."""
    short = SHORT.get(name, name)
    if isinstance(value, bool):
        return f"{'' if value else 'no'}{short}"
    items = value if isinstance(value, list) else [value]
    return short + "-".join(f"{item:g}" if isinstance(item, float) else str(item) for item in items)
