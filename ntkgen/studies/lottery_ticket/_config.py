"""Settings and presets of the lottery-ticket study."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkgen import choices
from ntkgen.studies import base, options
from ntkgen.studies.lottery_ticket._controls import ARMS
from ntkgen.studies.options import setting

# Losses and accuracies are measured after every epoch of an MLP; so often in a CNN's training, the later ones further
# apart, the last epoch included.
MEASUREMENTS = 10


@dataclass(frozen=True)
class Percents:
    """Percents in (0, 100], in descending order: a list, or text with commas.

    Attributes:
      from_whole: they must be given in this order, from 100 on.
    """

    from_whole: bool = False
    kind: str = "comma-separated percents"

    @property
    def expected(self) -> str:
        """Return what is expected, in words."""
        return "percents that strictly decrease from 100" if self.from_whole else "percents in (0, 100]"

    def parse(self, value: Any) -> tuple[float, ...]:
        """Return the percents as a tuple, whole ones as integers."""
        if isinstance(value, int | float):
            value = (value,)
        try:
            found = [float(part) for part in (value.split(",") if isinstance(value, str) else value)]
        except (TypeError, ValueError):
            found = []
        if not found or not all(0 < percent / 100 <= 1 for percent in found):
            raise ValueError("expected percents in (0, 100]")
        if len({f"{percent:g}" for percent in found}) < len(found):  # trainings are named after them
            raise ValueError("expected percents that differ in six digits")
        if self.from_whole and (found[0] != 100 or any(b >= a for a, b in itertools.pairwise(found))):
            raise ValueError(f"expected {self.expected}")
        return tuple(int(percent) if percent == int(percent) else percent for percent in sorted(found, reverse=True))


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the lottery-ticket study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen import studies
      >>> studies.lottery_ticket.Config(num_seeds=3).seeds
      [0, 1, 2]
    """

    width: int | None = setting(
        options.COUNT,
        "Width of the MLP's hidden layers, or of the transformer. Default: the preset's.",
        unit="units",
        group="network",
    )
    channels: int | None = setting(options.COUNT, "Base channels of the CNN. Default: the preset's.", group="network")
    depth: int = setting(options.DEPTH, "Dense layers of the MLP. Default: 4, the paper's.", group="network")
    affine_norm: bool = setting(
        options.SWITCH, "The usual CNN: bias-free convolutions, affine batch norm.", group="network"
    )
    keep: tuple[float, ...] = setting(
        Percents(from_whole=True), "Percents of the weights that remain, from 100 downwards. Default: the preset's."
    )
    arms: tuple[str, ...] = setting(options.Choices(tuple(ARMS)), "What to train. Default: the preset's.")
    rewind_epoch: int | None = setting(
        options.COUNT, "Epoch that the rewound ticket goes back to. Default: the preset's."
    )
    scope: str = setting(
        options.Choice(choices.SCOPES), "Rank the weights of all layers together, or of each by itself.",
        default="global",
    )  # fmt: skip
    one_shot: bool = setting(
        options.SWITCH, "Prune the tickets to each level at once, rather than level by level.", default=False
    )
    prune_head: bool = setting(options.SWITCH, "Prune the output layer too.", default=True)
    lr: float = setting(
        options.POSITIVE, "Learning rate; the paper gives none here. Default: 0.05 for the MLP, 0.01 for the CNN."
    )
    batch_size: int = setting(options.COUNT, "Examples a step.", default=128)
    optimizer: str = setting(
        options.Choice(choices.OPTIMIZERS), "sgd has momentum; gd takes full-batch steps.", default="sgd"
    )
    momentum: float | None = setting(options.PROBABILITY, "Of sgd and gd. Default: 0.9 for sgd, 0 for gd.")
    schedule: str = setting(options.Choice(choices.SCHEDULES), "Of the learning rate, by the epoch.", default="cosine")
    weight_decay: float = setting(options.NOT_NEGATIVE, "L2 coefficient; the paper uses none.", default=0.0)
    strategy: str = setting(options.Choice(choices.STRATEGIES), "How seeds are trained together.", default="auto")
    measure_at: tuple[float, ...] = setting(
        Percents(), "Percents at which curvature and sharpness are measured. Default: the preset's.",
        group="measurement",
    )  # fmt: skip
    barrier_arms: tuple[str, ...] = setting(
        options.Choices(tuple(ARMS)), "Arms whose stability is measured there, for another training each.",
        group="measurement",
    )  # fmt: skip
    loss_threshold: float = setting(
        options.POSITIVE, "Training loss whose epoch is noted. Default: the preset's.", unit="nats",
        group="measurement",
    )  # fmt: skip
    matched_loss: float = setting(
        options.POSITIVE, "Cross-entropy to which a temperature of the logits brings networks before their curvature "
        "is compared. Default: the preset's.", unit="nats", group="measurement",
    )  # fmt: skip
    hessian_samples: int = setting(options.COUNT, "Training examples for curvature and sharpness.", group="measurement")

    @property
    def size(self) -> int:
        """Return the width or the channels."""
        return (self.channels if self.model == "cnn" else self.width) or 0

    @property
    def size_name(self) -> str:
        """Return the setting that holds the size."""
        return "channels" if self.model == "cnn" else "width"

    @property
    def evaluate_at(self) -> list[int]:
        """Return the epochs after which losses and accuracies are measured."""
        if self.model == "mlp":
            return list(range(1, self.epochs + 1))
        return np.unique(np.round(np.geomspace(1, self.epochs, MEASUREMENTS)).astype(int)).tolist()

    def has_child(self, arm: str, keep: float) -> bool:
        """Return whether an arm's stability is measured at a level."""
        return keep in self.measure_at and arm in self.barrier_arms

    def begins(self, arm: str) -> int:
        """Return the epochs that an arm's pruned networks have behind them when their training begins."""
        return (self.rewind_epoch or 0) if arm == "rewound" else 0


STABLE = ("ticket", "rewound", "reinit", "random_layer")
# Enough for every kind of comparison that changes one thing alone.
QUICK = tuple(arm for arm in ARMS if arm not in ("reinit_std", "random_shuffled", "random_fan_in"))
# The learning rate of the MLP is the one recovered for the double-descent table, the CNN's the appendix's.
MLP: dict[str, Any] = dict(
    depth=4, lr=0.05, label_noise=0.0, arms=tuple(ARMS), barrier_arms=STABLE, loss_threshold=0.05, matched_loss=0.1
)
CNN: dict[str, Any] = dict(
    lr=0.01, label_noise=0.0, arms=tuple(ARMS), barrier_arms=STABLE, loss_threshold=0.5, matched_loss=0.1
)
# The paper trains no transformer.
TRANSFORMER: dict[str, Any] = dict(
    blocks=2, heads=4, lr=0.05, label_noise=0.0, arms=tuple(ARMS), barrier_arms=STABLE, loss_threshold=0.5,
    matched_loss=0.5,
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
    ("paper", "transformer"): dict(
        TRANSFORMER, width=64, num_train=10_000, num_seeds=5, epochs=60, keep=(100, 70, 50, 30, 20, 10, 5),
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
    ("small", "transformer"): dict(
        TRANSFORMER, width=32, num_train=2_000, num_seeds=3, epochs=30, keep=(100, 50, 20, 10, 5),
        arms=("ticket", "rewound", "reinit", "random_layer"), barrier_arms=("ticket", "rewound"),
        measure_at=(100, 20, 10), rewind_epoch=3, hessian_samples=500,
    ),
    ("quick", "mlp"): dict(
        MLP, width=64, num_train=None, num_seeds=3, epochs=30, keep=(100, 70, 50, 30, 20, 10, 5, 2),
        arms=QUICK, measure_at=(100, 30, 10), barrier_arms=("ticket", "rewound"), rewind_epoch=2, hessian_samples=500,
    ),
    ("quick", "cnn"): dict(
        CNN, channels=2, num_train=None, num_seeds=2, epochs=10, keep=(100, 20), arms=("ticket", "reinit", "rewound"),
        measure_at=(100, 20), barrier_arms=("ticket",), rewind_epoch=1, hessian_samples=200, matched_loss=0.5,
    ),
    ("quick", "transformer"): dict(
        TRANSFORMER | dict(blocks=1, heads=2, lr=0.1), width=16, num_train=None, num_seeds=2, epochs=30,
        keep=(100, 50, 20), arms=("ticket", "reinit", "random_layer", "rewound"),
        measure_at=(100, 20), barrier_arms=("ticket",),
        rewind_epoch=2, hessian_samples=200,
    ),
}  # fmt: skip


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Raises:
      ValueError: settings that contradict each other.
    """
    values = base.choose_preset(PRESETS, preset, given, "width")
    values["measure_at"] = _measure_at(values, given)
    values |= _arms(values, given)
    if values["num_train"] is not None and "hessian_samples" not in given:
        values["hessian_samples"] = min(values["hessian_samples"], values["num_train"])
    return Config(**values)


def _measure_at(values: dict[str, Any], given: dict[str, Any]) -> tuple[float, ...]:
    """Check the percents that are measured at; of the preset's those stay that are trained."""
    keep, at = values["keep"], values["measure_at"]
    if strange := [percent for percent in at if percent not in keep and "measure_at" in given]:
        raise ValueError(f"measure_at: expected percents of --keep {list(keep)}, got {strange}")
    return tuple(percent for percent in at if percent in keep)


def _arms(values: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Check the arms, and the epoch to rewind to; what a preset has and other settings rule out is left out."""
    chosen, stable, one_shot = values["arms"], values["barrier_arms"], values.get("one_shot")
    if "ticket" not in chosen:
        raise ValueError(f"arms: expected ticket among them, got {','.join(chosen) or 'none'}")
    if one_shot and "one_shot" in chosen and "arms" in given:
        raise ValueError("arms: expected no one_shot with --one_shot, which makes the ticket the same, got both")
    rewind = _rewind_epoch(values, given)
    left_out = {"one_shot": one_shot, "rewound": rewind is None}
    chosen = [arm for arm in ARMS if arm in chosen and not left_out.get(arm)]
    if strange := [arm for arm in stable if arm not in chosen or arm == "other_order"]:
        if "barrier_arms" in given:
            raise ValueError(f"barrier_arms: expected arms of --arms but other_order, got {strange[0]!r}")
        stable = [arm for arm in stable if arm not in strange]
    return {
        "arms": tuple(chosen),
        "barrier_arms": tuple(sorted(stable, key=list(ARMS).index)),
        "rewind_epoch": rewind,
    }


def _rewind_epoch(values: dict[str, Any], given: dict[str, Any]) -> int | None:
    """Check the epoch to rewind to; the preset's is moved before the last one. None without the arm."""
    rewind, last = values["rewind_epoch"], values["epochs"] - 1
    if "rewound" not in values["arms"]:
        if "rewind_epoch" in given:
            raise ValueError(f"rewind_epoch: expected no such setting without the arm rewound, got {rewind}")
        return None
    if not last:
        for name, value in (("rewind_epoch", rewind), ("arms", ",".join(values["arms"]))):
            if name in given:  # what was given is not dropped in silence
                raise ValueError(f"{name}: expected no rewinding with a single epoch, got {value}")
        return None
    if "rewind_epoch" not in given:
        return min(rewind, last)
    if rewind > last:
        raise ValueError(f"rewind_epoch: expected 1 ... {last}, before the last of the epochs, got {rewind}")
    return rewind
