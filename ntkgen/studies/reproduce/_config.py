"""Settings of the reproduction: which studies run, and with what."""

from dataclasses import dataclass
from typing import Any

from ntkgen import studies
from ntkgen.studies import base, datasets, options
from ntkgen.studies.options import setting

# In this order; a study that this version does not have is left out.
STUDIES = tuple(
    name
    for name in (
        "double_descent", "implicit_regularization", "loss_landscape", "ntk_regime", "lottery_ticket", "mechanisms",
    )
    if name in studies.NAMES
)  # fmt: skip
PUBLISHED = "published"  # stands for the data set that the paper uses in each study
# With the preset paper, and no data set given: what each study is published for. Double descent has two tables.
PUBLISHED_RUNS: dict[str, tuple[str, ...]] = {
    "double_descent": ("mnist", "cifar10"), "implicit_regularization": ("cifar10",), "loss_landscape": ("cifar10",),
    "ntk_regime": ("mnist",), "lottery_ticket": ("cifar10",), "mechanisms": ("mnist",),
}  # fmt: skip
OTHER_NETWORKS = "reproduce, where each study has its own"
# What a study does otherwise here than with its own preset quick, so that all fit into eight minutes of two cores:
# implicit_regularization: the control at equal numbers of updates, which H1 needs, in the place of SAM, and fewer
# measurements along training. loss_landscape: fewer points of lines and surfaces. ntk_regime: one linearised width, and
# the time that this saves for rates and ridges tuned there, which RQ4 needs. mechanisms: sharpness that rescaling does
# not change, which RQ3 needs, in the place of prunability.
OVERRIDES: dict[tuple[str, str], dict[str, Any]] = {
    ("implicit_regularization", "quick"): dict(controls=("steps",), snapshots=4),
    ("loss_landscape", "quick"): dict(line_points=13, plane_points=9),
    ("ntk_regime", "quick"): dict(
        linearised_widths=(128,), tune=True, tuned_widths=(128,), tuned_rates=(0.02, 0.05, 0.1), tuning_seeds=2
    ),
    ("mechanisms", "quick"): dict(
        measures=("fit", "sharpness", "adaptive_sharpness", "movement", "kernel", "norms", "margins", "capacity")
    ),
}


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the reproduction. What is not given is each study's own.

    Example:
      >>> from ntkgen import studies
      >>> studies.reproduce.Config(num_seeds=3).seeds
      [0, 1, 2]
    """

    dataset: str = setting(
        datasets.DATASET,
        "What all studies train on. Default: the published data set of each; mnist with small, digits with quick.",
        group="data",
    )
    num_train: Any = setting(options.COUNT, "Training examples of all studies. Default: each study's.", group="data")
    label_noise: float = setting(options.PROBABILITY, "Not to be given here: each study has its own.", group="data")
    model: str = setting(
        options.Choice(tuple(base.NETWORKS)), "Not to be given here: each study has its own.", group="network"
    )
    num_seeds: int = setting(options.SEEDS, "Seeds of every network in all studies. Default: each study's.")
    epochs: int = setting(options.EPOCHS, "Epochs in all studies. Default: each study's.", unit="epochs")
    studies: tuple[str, ...] = setting(
        options.Choices(STUDIES), "Which studies to run. Default: all.", group="measurement"
    )
    size: str = setting(
        options.Choice(base.PRESETS), "Preset of the studies. Default: that of --preset.", group="measurement"
    )

    @property
    def parts(self) -> tuple["Part", ...]:
        """Return what is run, in order."""
        found = []
        for name in self.studies:
            datasets = PUBLISHED_RUNS[name] if self.dataset == PUBLISHED else (self.dataset,)
            for dataset in datasets:
                part = name if len(datasets) == 1 else f"{name}_{dataset}"
                found.append(Part(part, name, self.size, {**self._settings(name), "dataset": dataset}))
        return tuple(found)

    def _settings(self, study: str) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("num_train", "data_seed", "num_seeds", "seed", "epochs")}
        return {**OVERRIDES.get((study, self.size), {}), **{k: v for k, v in own.items() if v is not None}}


@dataclass(frozen=True)
class Part:
    """One run of one study.

    Attributes:
      name: unique among the parts.
      study: module of `ntkgen.studies`.
      preset: of the study.
      settings: what it is given beside the preset.
    """

    name: str
    study: str
    preset: str
    settings: dict[str, Any]


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Raises:
      ValueError: settings that contradict each other, or no study.
    """
    options.refuse(given, dict.fromkeys(("label_noise", "model", "blocks", "heads", "patch"), OTHER_NETWORKS))
    size = given.get("size", preset)
    dataset = given.get("dataset") or (PUBLISHED if size == "paper" else base.choose_dataset(size, given))
    base.choose_dataset(size, {"dataset": None if dataset == PUBLISHED else dataset})
    chosen = given.get("studies", STUDIES)
    if not chosen:
        raise ValueError(f"studies: expected at least one of {', '.join(STUDIES)}, got none")
    ordered = tuple(name for name in STUDIES if name in chosen)
    return Config(**{**given, "dataset": dataset, "size": size, "studies": ordered})
