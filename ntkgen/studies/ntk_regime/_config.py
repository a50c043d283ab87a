"""Settings and presets of the tangent-kernel study."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

from ntkgen import choices, paper
from ntkgen.studies import base, datasets, options
from ntkgen.studies.options import setting

# Ways to widen a network, by how the parametrisation and the learning rate go with the width.
LIMITS = ("fixed", "over_width", "ntk", "mup")
OWN = "own"  # the limit of a network for which no theory of these is stated
LOSSES = ("cross_entropy", "mse")
WIDEST = 1024  # by default, of what costs much: extras, the linearised network, tuning
POSITIVES = options.Numbers(options.POSITIVE)
measured = functools.partial(setting, group="measurement")


class WidthSeries(NamedTuple):
    """Networks that differ in width and seed only."""

    loss: str
    limit: str


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the tangent-kernel study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen import studies
      >>> studies.ntk_regime.Config(num_seeds=3).seeds
      [0, 1, 2]
    """

    model: str = setting(
        options.Choice(("mlp", "transformer")), "Network. The limits of the width are the MLP's.", default="mlp",
        group="network",
    )  # fmt: skip
    subset: str = setting(
        options.Choice(("random", "first")), "Which training images: a seeded draw, or the first ones.",
        default="random", group="data",
    )  # fmt: skip
    widths: tuple[int, ...] = setting(
        options.COUNTS, "Hidden widths, or the transformer's. Default: the preset's.", unit="units", group="network"
    )
    depth: int = setting(
        options.DEPTH, "Dense layers of the MLP, the output layer included.", default=4, group="network"
    )
    parametrization: str = setting(
        options.Choice(choices.PARAMETRIZATIONS), "Of the main networks; see models.MLP.", default="standard",
        group="network",
    )  # fmt: skip
    lr: float = setting(
        options.POSITIVE,
        "Learning rate of the standard network of width 32; other parametrisations start equally fast there. Default: "
        "the preset's; recovered by search (BUILD_NOTES.md) is 0.005 with paper, the appendix's is 0.01.",
    )
    lr_over_width: bool = setting(
        options.SWITCH, "Rate x 128 / width: the standard parametrisation's kernel limit.", default=False
    )
    batch_size: int = setting(options.COUNT, "Examples a step.", default=128)
    optimizer: str = setting(
        options.Choice(choices.OPTIMIZERS), "sgd has momentum; gd takes full-batch steps.", default="sgd"
    )
    momentum: float | None = setting(options.PROBABILITY, "Of sgd and gd. Default: 0.9 for sgd, 0 for gd.")
    schedule: str = setting(options.Choice(choices.SCHEDULES), "Of the learning rate, by the epoch.", default="cosine")
    loss: str = setting(
        options.Choice(LOSSES), "What is minimised; mse is half the squared error.", default="cross_entropy"
    )
    vary: str = setting(
        options.Choice(choices.VARY),
        "What differs between seeds: initialisation, batch order or both.",
        default="both",
    )
    strategy: str = setting(options.Choice(choices.STRATEGIES), "How seeds are trained together.", default="auto")
    probe_images: int = measured(
        options.COUNT, "Test images on which the kernel is followed, a seeded draw.", default=200, unit="images"
    )
    kernel_test: int = measured(
        options.COUNT, "Test images on which kernels predict, a seeded draw.", default=2_000, unit="images"
    )
    ridge: float = measured(
        options.NOT_NEGATIVE, "Of kernel regression, in units of the kernel's mean diagonal.", default=1e-3
    )
    kernel_widths: tuple[int, ...] = measured(
        options.COUNTS, "Widths of kernel regression. Default: all.", unit="units"
    )
    linearised_widths: tuple[int, ...] = measured(
        options.COUNTS, "Widths of the linearised network. Default: those up to 1024.", unit="units"
    )
    linearised_seeds: int = measured(options.COUNT, "Seeds of the linearised network, at most num_seeds.", default=3)
    tune: bool = measured(
        options.SWITCH,
        "Compare networks and kernels with rate and ridge chosen on held-out training images. Default: not with quick.",
    )
    tuned_rates: tuple[float, ...] = measured(
        POSITIVES, "Candidates for the rate, in the unit of --lr.", default=(0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    )
    tuned_ridges: tuple[float, ...] = measured(
        POSITIVES, "Candidates for the ridge, as with --ridge.", default=(1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    )
    tuned_widths: tuple[int, ...] = measured(
        options.COUNTS, "Widths at which both are chosen. Default: those up to 1024.", unit="units"
    )
    tuning_seeds: int = measured(options.COUNT, "Seeds of the choice, at most num_seeds; all are compared.", default=3)
    extras: bool = measured(options.SWITCH, "Train other limits and losses too. Default: not with quick or adam.")
    extra_widths: tuple[int, ...] = measured(
        options.COUNTS, "Widths of the extras. Default: those up to 1024.", unit="units"
    )
    extra_seeds: int = measured(options.COUNT, "Seeds of the extras, at most num_seeds.", default=3)
    target_cross_entropy: float = measured(
        options.POSITIVE, "Training loss at which movement is matched.", default=0.6, unit="nats"
    )
    target_mse: float = measured(options.POSITIVE, "The same for half the squared error.", default=0.25)

    @property
    def limit(self) -> str:
        """Return the limit that the main networks follow; `OWN` for networks other than the MLP."""
        if self.model != "mlp":
            return OWN
        if self.parametrization != "standard":
            return self.parametrization
        return "over_width" if self.lr_over_width else "fixed"

    @property
    def main(self) -> WidthSeries:
        """Return the main networks."""
        return WidthSeries(self.loss, self.limit)

    @property
    def targets(self) -> dict[str, float]:
        """Return the training loss at which movement is matched, by the loss that is minimised."""
        return {"cross_entropy": self.target_cross_entropy, "mse": self.target_mse}


# None for num_train: all there are.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(
        widths=tuple(paper.NTK), num_train=paper.NTK_EXAMPLES, num_seeds=5, epochs=60, lr=0.005, label_noise=0.0
    ),
    # As many steps as with paper.
    "small": dict(widths=(32, 64, 128, 256), num_train=2_000, num_seeds=3, epochs=150, lr=0.005, label_noise=0.0),
    "quick": dict(widths=(16, 32, 64, 128), num_train=None, num_seeds=3, epochs=60, lr=0.05, label_noise=0.0),
}

TRANSFORMER: dict[str, dict[str, Any]] = {
    "paper": dict(widths=(16, 32, 64, 128), blocks=2, heads=4, lr=0.05),
    "small": dict(widths=(16, 32, 64), blocks=2, heads=4, num_train=1_000, epochs=40, lr=0.05),
    "quick": dict(
        widths=(8, 16, 32),
        blocks=1,
        heads=2,
        num_seeds=2,
        epochs=20,
        lr=0.05,
        probe_images=50,
        kernel_test=200,
        kernel_widths=(8, 16),
        linearised_widths=(8,),
    ),
}
MLP_ONLY = ("depth", "parametrization", "lr_over_width", "extras")


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Raises:
      ValueError: settings that contradict each other.
    """
    dataset = base.choose_dataset(preset, given)
    values = {**PRESETS[preset], "tune": preset != "quick"}
    values["extras"] = preset != "quick" and given.get("optimizer") != "adam"
    model = given.get("model", "mlp")
    options.refuse(given, base.foreign_to_network(model))
    if model == "transformer":
        options.refuse(given, dict.fromkeys(MLP_ONLY, "--model=transformer"))
        values |= {**TRANSFORMER[preset], "extras": False}
    values["num_train"] = datasets.choose_num_train(dataset, preset, values["num_train"])
    config = Config(**(base.overlay(values, given) | {"dataset": dataset}))
    options.refuse(given, base.foreign_to_optimizer(config.optimizer))
    if config.parametrization != "standard" and config.lr_over_width:
        options.refuse(given, {"lr_over_width": f"--parametrization={config.parametrization}"})
    if config.optimizer == "adam" and (config.limit != "fixed" or config.extras):
        raise ValueError(
            "optimizer: expected sgd or gd, whose rates the limits of the width are made for, got adam"
            " with --parametrization, --lr_over_width or --extras"
        )
    if not config.tune:
        of_tuning = ("tuned_rates", "tuned_ridges", "tuned_widths", "tuning_seeds")
        options.refuse(given, dict.fromkeys(of_tuning, "no --tune"))
    counts = ("linearised_seeds", "extra_seeds", "tuning_seeds")
    few = {name: min(getattr(config, name), config.num_seeds) for name in counts}
    return dataclasses.replace(config, **few, **_choose_widths(config, given))


def _choose_widths(config: Config, given: dict[str, Any]) -> dict[str, Any]:
    """Return the widths of all parts of the study, and whether extras and tuning have any."""
    narrow = tuple(width for width in config.widths if width <= WIDEST)
    defaults = {"kernel_widths": config.widths, "linearised_widths": narrow, "extra_widths": narrow}
    defaults["tuned_widths"] = narrow if config.tune else ()
    found: dict[str, Any] = {name: given.get(name, widths) for name, widths in defaults.items()}
    for name in ("kernel_widths", "linearised_widths"):  # a preset's own, of those that are trained
        own = getattr(config, name)
        if own and name not in given:
            found[name] = tuple(width for width in own if width in config.widths)
    for switch, name in (("extras", "extra_widths"), ("tune", "tuned_widths")):
        found[switch] = getattr(config, switch) and bool(found[name])
        if given.get(switch) and not found[switch]:
            raise ValueError(
                f"{switch}: expected some --widths of up to {WIDEST}, or --{name}, got widths {config.widths}"
            )
    for name in ("kernel_widths", "linearised_widths", "tuned_widths"):
        if not set(found[name]) <= set(config.widths):
            raise ValueError(f"{name}: expected some of the widths {config.widths}, got {found[name]}")
    return found
