"""Settings and presets of the loss-landscape study."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from ntkgen import choices, paper
from ntkgen.studies import base, datasets, options
from ntkgen.studies.options import setting

ARMS = ("small_batch", "large_batch")


class Steps(NamedTuple):
    """How one arm steps: examples a step, and the learning rate."""

    batch_size: int
    learning_rate: float


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the loss-landscape study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen import studies
      >>> studies.loss_landscape.Config(num_seeds=3).seeds
      [0, 1, 2]
    """

    width: int | None = setting(
        options.COUNT,
        "Width of the MLP's hidden layers, or of the transformer. Default: the preset's.",
        unit="units",
        group="network",
    )
    channels: int | None = setting(options.COUNT, "Base channels of the CNN. Default: the preset's.", group="network")
    small_batch: int = setting(options.COUNT, "Examples a step of the first arm.", default=32)
    large_batch: int = setting(options.COUNT, "Examples a step of the second arm.", default=1024)
    small_lr: float = setting(
        options.POSITIVE, "Learning rate of the first arm. Default: the published table's for its batch."
    )
    large_lr: float = setting(
        options.POSITIVE, "Learning rate of the second arm. Default: the published table's for its batch."
    )
    schedule: str = setting(options.Choice(choices.SCHEDULES), "Of the learning rate, by the epoch.", default="cosine")
    hessian_samples: int = setting(
        options.COUNT, "Training examples of the Hessian. Default: the paper's number.",
        default=paper.LOSS_LANDSCAPE_SAMPLES, unit="images", group="measurement",
    )  # fmt: skip
    many_samples: int = setting(
        options.COUNT, "Training examples on which the top eigenvalue is measured again.",
        default=4_096, unit="images", group="measurement",
    )  # fmt: skip
    matched_loss: tuple[float, ...] = setting(
        options.Numbers(options.POSITIVE),
        "Training cross-entropies at which all networks are compared, with commas between; they decide together.",
        default=(0.01, 0.03, 0.1), unit="nats", group="measurement",
    )  # fmt: skip
    line_points: int = setting(
        options.POINTS, "Points of each line: 5, 9, 13, ... Default: the preset's.", group="measurement"
    )
    plane_points: int = setting(
        options.POINTS, "Points along each side of a surface, odd. Default: the preset's.", group="measurement"
    )

    @property
    def size(self) -> int:
        """Return the width or the number of channels."""
        return (self.channels if self.model == "cnn" else self.width) or 0

    @property
    def size_name(self) -> str:
        """Return the setting that holds the size."""
        return "channels" if self.model == "cnn" else "width"

    @property
    def arms(self) -> dict[str, Steps]:
        """Return how each arm steps, the small batch first."""
        small, large = ARMS
        return {small: Steps(self.small_batch, self.small_lr), large: Steps(self.large_batch, self.large_lr)}


# Epochs and images of section V-C are not given; 80 and all images are those of section V-B, whose accuracies agree.
# None for num_train: all there are.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "cnn"): dict(channels=32, num_train=None, num_seeds=5, epochs=80, line_points=41, plane_points=25),
    ("paper", "mlp"): dict(width=128, num_train=10_000, num_seeds=5, epochs=100, line_points=41, plane_points=25),
    # The paper trains no transformer.
    ("paper", "transformer"): dict(
        width=64, blocks=4, heads=4, num_train=10_000, num_seeds=5, epochs=80, line_points=41, plane_points=25
    ),
    ("small", "cnn"): dict(channels=8, num_train=5_000, num_seeds=3, epochs=60, line_points=21, plane_points=15),
    ("small", "mlp"): dict(width=64, num_train=4_000, num_seeds=3, epochs=30, line_points=21, plane_points=25),
    ("quick", "mlp"): dict(width=64, num_train=None, num_seeds=5, epochs=150, line_points=21, plane_points=25),
    ("quick", "cnn"): dict(channels=2, num_train=None, num_seeds=2, epochs=40, line_points=13, plane_points=5),
    ("small", "transformer"): dict(
        width=32, blocks=2, heads=4, num_train=2_000, num_seeds=3, epochs=60, line_points=21, plane_points=15
    ),
    ("quick", "transformer"): dict(
        width=16, blocks=1, heads=2, num_train=None, num_seeds=2, epochs=40, line_points=13, plane_points=5
    ),
}  # fmt: skip


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Raises:
      ValueError: settings that contradict each other.
    """
    dataset = base.choose_dataset(preset, given)
    model = base.choose_model(dataset, given)
    options.refuse(given, base.foreign_to_network(model, "width"))
    values = {"label_noise": 0.0, **PRESETS[preset, model]}
    values["num_train"] = datasets.choose_num_train(dataset, preset, values["num_train"])
    config = Config(**base.overlay(values, given) | {"dataset": dataset, "model": model} | rates(given))
    if config.small_batch >= config.large_batch:
        raise ValueError(
            f"large_batch: expected more than the small batch's {config.small_batch}, got {config.large_batch}"
        )
    if config.line_points % 4 != 1 or config.line_points < 5:  # then both solutions are points of the line
        raise ValueError(f"line_points: expected 5, 9, 13, ... (one more than a 4k), got {config.line_points}")
    if config.plane_points % 2 == 0 or config.plane_points < 3:
        raise ValueError(f"plane_points: expected an odd number of at least 3, got {config.plane_points}")
    return config


def rates(given: dict[str, Any]) -> dict[str, float]:
    """Return both learning rates: given, or of the published table.

    Raises:
      ValueError: no rate is given for a batch that the table does not have.
    """
    from ntkgen import train

    found = {}
    for arm in ARMS:
        name = rate_name(arm)
        batch = given.get(arm, getattr(Config, arm))
        if name not in given and batch not in train.TABLE:
            known = ", ".join(map(str, train.TABLE))
            raise ValueError(f"{arm}: expected one of the table's {known}, or --{name} too, got {batch}")
        found[name] = given.get(name) or train.scaled_learning_rate(batch)
    return found


def rate_name(arm: str) -> str:
    """Return the setting that holds an arm's learning rate."""
    return arm.replace("_batch", "_lr")
