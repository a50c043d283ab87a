"""Settings and presets of the joint study: the grid of hyperparameters, and what is measured."""

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ntkgen import choices
from ntkgen.studies import base, datasets, options
from ntkgen.studies.options import setting

if TYPE_CHECKING:
    from ntkgen import train

# Statistics; the first, the second and the last are decided.
OVERALL, PSI, INFORMATION, SIGN_ERROR, PARTIAL = (
    "overall", "mean of all, others fixed", "conditional information", "robust sign error", "partial",
)  # fmt: skip
RATES = options.Numbers(options.POSITIVE)
ADAM_RATE = 0.02  # Adam's rates are this times those of SGD: its steps do not shrink with the gradient


class Arm(NamedTuple):
    """One cell of the grid."""

    batch_size: int
    rate: float
    width: int
    depth: int
    optimizer: str
    weight_decay: float
    label_noise: float

    def __str__(self) -> str:
        """Return a name for files: w32_d2_b32_r0.05_sgd_wd0_n0.2."""
        network = f"w{self.width}_d{self.depth}_b{self.batch_size}_r{self.rate:g}"
        return f"{network}_{self.optimizer}_wd{self.weight_decay:g}_n{self.label_noise:g}"


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the joint study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen import studies
      >>> studies.mechanisms.Config(num_seeds=3).seeds
      [0, 1, 2]
    """

    label_noise: Any = setting(
        options.Numbers(options.PROBABILITY),
        "Label noise of the grid; 0.9 makes labels of ten classes uniform (Zhang et al. 2017).",
        group="data",
    )
    replicates: int = setting(options.SEEDS, "Draws of training images and noise; each trains all arms.", group="data")
    widths: tuple[int, ...] = setting(
        options.COUNTS, "Widths (MLP, transformer), base channels (CNN).", group="network"
    )
    depths: tuple[int, ...] = setting(
        options.COUNTS, "Dense layers of the MLP, blocks of the transformer.", group="network"
    )
    batch_sizes: tuple[int, ...] = setting(options.COUNTS, "Batch sizes of the grid.")
    rates: tuple[float, ...] = setting(
        RATES, f"Learning rates of the grid, for SGD; Adam has {ADAM_RATE:g} times each."
    )
    optimizers: tuple[str, ...] = setting(options.Choices(("sgd", "adam")), "Optimizers of the grid.")
    weight_decays: tuple[float, ...] = setting(
        options.Numbers(options.NOT_NEGATIVE), "L2 coefficients of the grid; Adam is trained without only."
    )
    stop_loss: float = setting(options.POSITIVE, "Training loss at which every network stops.", unit="nats")
    epochs: int = setting(options.EPOCHS, "Epochs after which a network that has not got there is given up.")
    measures: tuple[str, ...] = setting(
        options.Choices(choices.MEASUREMENTS), "What is measured. Default: everything.", group="measurement"
    )
    calibrations: int = setting(
        options.COUNT, "Permutations of the outcome that check the tests' false positives.", group="measurement"
    )
    strategy: str = setting(
        options.Choice(("auto", "vmap", "sequential")), "How seeds are trained together.", default="auto"
    )

    @property
    def arms(self) -> list[Arm]:
        """Return the cells of the grid, without Adam under weight decay."""
        grid = itertools.product(
            self.batch_sizes,
            self.rates,
            self.widths,
            self.depths,
            self.optimizers,
            self.weight_decays,
            self.label_noise,
        )
        return [arm for arm in map(Arm._make, grid) if arm.optimizer == "sgd" or not arm.weight_decay]

    def training(self, arm: Arm) -> "train.Config":
        """Return how an arm is trained.

        Raises:
          ValueError: a value is refused; the message names the setting.
        """
        from ntkgen import train

        rate = arm.rate * (ADAM_RATE if arm.optimizer == "adam" else 1.0)
        return train.Config(
            epochs=self.epochs, batch_size=arm.batch_size, learning_rate=rate, optimizer=arm.optimizer,
            schedule="constant", weight_decay=arm.weight_decay, stop_loss=self.stop_loss,
        )  # fmt: skip


EVERYTHING = choices.MEASUREMENTS
PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(
        num_train=200, replicates=2, num_seeds=2, label_noise=(0.0, 0.9), widths=(32, 128), depths=(2,),
        batch_sizes=(16, 100), rates=(0.01, 0.05), optimizers=("sgd",), weight_decays=(0.0,), stop_loss=0.01,
        epochs=400,
        measures=("fit", "sharpness", "movement", "kernel", "norms", "margins", "capacity", "prunability"),
        calibrations=50,
    ),
    "small": dict(
        num_train=1_000, replicates=2, num_seeds=1, label_noise=(0.0, 0.2, 0.9), widths=(32, 128), depths=(2, 4),
        batch_sizes=(32, 250), rates=(0.01, 0.05), optimizers=("sgd", "adam"), weight_decays=(0.0, 0.0003),
        stop_loss=0.01, epochs=600, measures=EVERYTHING, calibrations=200,
    ),
    "paper": dict(
        num_train=10_000, replicates=3, num_seeds=5, label_noise=(0.0, 0.2, 0.9), widths=(32, 128, 512),
        depths=(2, 4), batch_sizes=(32, 128, 512), rates=(0.02, 0.05, 0.1), optimizers=("sgd", "adam"),
        weight_decays=(0.0, 0.0003), stop_loss=0.01, epochs=1_000, measures=EVERYTHING, calibrations=200,
    ),
}  # fmt: skip


# What takes the place of a preset's values where the network is no MLP.
NETWORK_VALUES: dict[str, dict[str, Any]] = {
    "cnn": dict(depths=(4,), widths=(8, 16)),
    "transformer": dict(depths=(1, 2), widths=(16, 32), heads=4),
}
# What a transformer of a minute leaves out.
QUICK_TRANSFORMER: dict[str, Any] = dict(
    depths=(1,), heads=2, rates=(0.05,), batch_sizes=(16, 50), num_seeds=1, stop_loss=0.1,
    measures=("fit", "movement", "norms", "margins", "capacity"),
)  # fmt: skip


def foreign_to_grid(model: str) -> dict[str, str]:
    """Name the settings that mean nothing to a grid of one kind of network, for `options.refuse`."""
    own = {"cnn": {"depths": "--model=cnn"}, "transformer": {"blocks": "--depths, whose values are the blocks"}}
    return base.foreign_to_network(model) | own.get(model, {})


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Raises:
      ValueError: settings that contradict each other, or a grid that varies nothing.
    """
    dataset = base.choose_dataset(preset, given)
    model = base.choose_model(dataset, given)
    values = {**PRESETS[preset], "dataset": dataset, "model": model}
    if dataset not in base.EMBEDDED:
        values["num_train"] = datasets.choose_num_train(dataset, preset, values["num_train"])
    options.refuse(given, foreign_to_grid(model))
    values |= NETWORK_VALUES.get(model, {})
    if model == "transformer" and preset == "quick":
        values |= QUICK_TRANSFORMER
    config = Config(**base.overlay(values, given))
    if model == "mlp" and min(config.depths) < 2:
        raise ValueError(f"depths: expected at least 2 Dense layers of an MLP, got {min(config.depths)}")
    if len(config.arms) < 4:
        raise ValueError(f"widths: expected a grid of at least 4 arms, got {len(config.arms)}")
    if "fit" not in config.measures:
        raise ValueError(f"measures: expected fit among them, the outcome, got {','.join(config.measures)}")
    return config
