"""Settings and presets of the double-descent study."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkgen import choices, paper
from ntkgen.studies import base, options
from ntkgen.studies.options import setting

# Of the curves along training. Evaluation on as many test as training images takes two thirds of an epoch.
FEWEST_POINTS, EPOCHS_A_POINT = 12, 7


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the double-descent study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen import studies
      >>> config = studies.double_descent.Config(model="mlp", widths=(4, 8))
      >>> config.size_name, config.sizes
      ('widths', (4, 8))
    """

    num_train: Any = setting(
        options.COUNTS, "Training examples, a seeded random subset; several make the study sample-wise too. "
        "Default: the preset's.", unit="images", group="data",
    )  # fmt: skip
    widths: tuple[int, ...] | None = setting(
        options.COUNTS,
        "Widths of the MLP's hidden layers, or of the transformer. Default: the preset's.",
        unit="units",
        group="network",
    )
    channels: tuple[int, ...] | None = setting(
        options.COUNTS, "Base channels of the CNN. Default: the preset's.", group="network"
    )
    depth: int = setting(
        options.DEPTH, "Dense layers of the MLP. Default: 4, the paper's; 2 with quick.", group="network"
    )
    affine_norm: bool = setting(
        options.SWITCH, "The usual CNN: bias-free convolutions, affine batch norm.", group="network"
    )
    lr: float = setting(
        options.POSITIVE,
        "Learning rate. Default: recovered 0.05 for the MLP (BUILD_NOTES.md); the appendix's is 0.01.",
    )
    batch_size: int = setting(options.COUNT, "Examples a step.", default=128)
    optimizer: str = setting(
        options.Choice(choices.OPTIMIZERS), "sgd has momentum; gd takes full-batch steps.", default="sgd"
    )
    momentum: float | None = setting(options.PROBABILITY, "Of sgd and gd. Default: 0.9 for sgd, 0 for gd.")
    schedule: str = setting(options.Choice(choices.SCHEDULES), "Of the learning rate, by the epoch.", default="cosine")
    weight_decay: float = setting(options.NOT_NEGATIVE, "L2 coefficient; the paper uses none.", default=0.0)
    vary: str = setting(
        options.Choice(choices.VARY),
        "What differs between seeds: initialisation, batch order or both.",
        default="both",
    )
    criterion: float = setting(
        options.FRACTION, "Training error that counts as interpolating.", default=0.01, group="measurement"
    )
    evaluate: str = setting(
        options.Choice(("some", "all")),
        "Epochs after which errors are measured: all, or some, evenly spaced in their logarithm. All may take 40 % of "
        "the time, some less than 10 %.",
        default="some", group="measurement",
    )  # fmt: skip
    strategy: str = setting(options.Choice(choices.STRATEGIES), "How seeds are trained together.", default="auto")
    pad_widths: bool | None = setting(
        options.SWITCH, "Train MLPs of several widths in one program, padded with units of zero weights, where this is "
        "faster. Default: yes.",
    )  # fmt: skip

    @property
    def evaluate_at(self) -> list[int]:
        """Return the epochs (1, ...) after which errors are measured; the last is one of them."""
        if self.evaluate == "all":
            return list(range(1, self.epochs + 1))
        points = np.geomspace(1, self.epochs, max(FEWEST_POINTS, self.epochs // EPOCHS_A_POINT))
        return np.unique(np.round(points).astype(int)).tolist()

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the widths or channels."""
        return (self.channels if self.model == "cnn" else self.widths) or ()

    def programs(self, num_params: Mapping[int, int], num_train: int) -> list[list[int]]:
        """Return the sizes that share a program, each group ascending.

        Args:
          num_params: size -> learned numbers.
          num_train: training examples.
        """
        if not self.pad_widths:
            return [[size] for size in self.sizes]
        from ntkgen import ensemble  # JAX: the command line is checked without it

        return ensemble.width_groups(num_params, num_train * self.epochs, self.num_seeds, self.strategy)

    @property
    def size_name(self) -> str:
        """Return the setting that holds the sizes."""
        return "channels" if self.model == "cnn" else "widths"


# None for num_train: all there are.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "mlp"): dict(
        widths=tuple(paper.DOUBLE_DESCENT["mlp", "mnist"]), depth=4, num_train=(10_000,), num_seeds=5, epochs=80,
        lr=0.05, label_noise=0.0,
    ),
    # Images, epochs and rate are not given for the CNN; 10,000 images fit the published 72 % at 96 channels.
    ("paper", "cnn"): dict(
        channels=tuple(paper.DOUBLE_DESCENT["cnn", "cifar10"]), num_train=(10_000,), num_seeds=5, epochs=80, lr=0.01,
        label_noise=0.0,
    ),
    # The paper trains no transformer.
    ("paper", "transformer"): dict(
        widths=(8, 16, 32, 64, 128, 256), blocks=4, heads=4, num_train=(10_000,), num_seeds=5, epochs=80, lr=0.05,
        label_noise=0.0,
    ),
    ("small", "mlp"): dict(
        widths=(4, 8, 16, 32, 64, 128, 256), depth=4, num_train=(4_000,), num_seeds=3, epochs=40, lr=0.05,
        label_noise=0.0,
    ),
    ("small", "cnn"): dict(
        channels=(4, 8, 16, 32), num_train=(2_000,), num_seeds=3, epochs=20, lr=0.01, label_noise=0.0
    ),
    ("small", "transformer"): dict(
        widths=(8, 16, 32, 64), blocks=2, heads=4, num_train=(2_000,), num_seeds=3, epochs=40, lr=0.05, label_noise=0.0
    ),
    # One hidden layer and noisy labels: the threshold lies among small widths and the peak is real. Five seeds: with
    # three its p-value is 0.04 or 0.06, as rounding falls.
    ("quick", "mlp"): dict(
        widths=(4, 6, 8, 12, 16, 24, 32, 48, 64, 128, 256, 512), depth=2, num_train=None, num_seeds=5, epochs=200,
        lr=0.05, label_noise=0.2,
    ),
    ("quick", "cnn"): dict(channels=(1, 2, 4, 8), num_train=None, num_seeds=3, epochs=20, lr=0.01, label_noise=0.2),
    ("quick", "transformer"): dict(
        widths=(4, 8, 16, 32), blocks=1, heads=2, num_train=None, num_seeds=2, epochs=60, lr=0.1, label_noise=0.2
    ),
}  # fmt: skip


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Raises:
      ValueError: settings that contradict each other.
    """
    values = base.choose_preset(PRESETS, preset, given, "widths")
    if values["model"] == "mlp":
        values["pad_widths"] = values.get("pad_widths") is not False
    else:
        options.refuse(given, {"pad_widths": f"--model={values['model']}"})
    if isinstance(values["num_train"], int):
        values["num_train"] = (values["num_train"],)
    return Config(**values)
