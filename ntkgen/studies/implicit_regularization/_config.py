"""Settings, presets and fixed numbers of the implicit-regularization study."""

from dataclasses import dataclass
from typing import Any

from ntkgen import choices
from ntkgen.studies import base, datasets, options
from ntkgen.studies.options import setting

TABLES = ("tracking", "matched", "perturbation", "correct", "runs")  # as measured
USUAL = ("steps", "gd", "plain", "noise", "sam")  # controls of the presets
CONTROLS = (*USUAL, "tuned")
# Column of runs.csv, tracking.csv and matched.csv -> what it is called in a figure.
SHARPNESS = {
    "eigenvalue": "top Hessian eigenvalue",
    "trace": "Hessian trace",
    "average_adaptive": "average adaptive sharpness",
    "worst_adaptive": "worst-case adaptive sharpness",
    "perturbation": "loss increase under weight noise",
    "relative_perturbation": "loss increase under filter-relative noise",
}
PRIMARY = ("eigenvalue", "average_adaptive", "worst_adaptive")  # what the verdict on flatness names
MATCHED = ("loss", "temperature")  # at equal training loss: along training, or by a temperature of the logits
FORMS = ("raw", *MATCHED)
SHOWN = {"loss": 0.03, "temperature": 0.01}  # targets in summary.csv and one figure; they decide nothing


@dataclass(frozen=True)
class Protocol:
    """What was fixed before any run; it is recorded with every run."""

    momentum: float = 0.9
    adam_lr: float = 0.001
    gd_lr: float = 0.001  # of the published full batch; momentum as above, in one of two readings of section V-B
    gd_grid: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # of the tuned control, same momentum
    tune_share: float = 0.25  # of the control's updates, spent on each rate of the grid
    tolerance: float = 1e-3
    lanczos_steps: int = 100
    power_iterations: int = 30  # section IV-E
    trace_probes: int = 18
    sigma: float = 0.01  # of the one perturbation that stands for the curve, absolute
    relative_sigma: float = 0.05
    average_rho: float = 0.1
    worst_rho: float = 0.5
    loss_targets: tuple[float, ...] = (0.1, 0.03, 0.01, 0.003)  # nats, on the samples; also of the temperature
    alpha: float = 0.05
    accuracy_needed: float = 99.9  # percent of the training set: below it an arm's sharpness is not compared
    margin_points: float = choices.ACCURACY
    margin_log10: float = choices.SHARPNESS


PROTOCOL = Protocol()


class AsManyAsFit(tuple):
    """A preset's batch sizes. Those larger than the training set are left out, not refused."""


@dataclass(frozen=True)
class ArmNames:
    """Distinct names of arms, as a list or text with commas; `prepare` knows which there are."""

    kind: str = "comma-separated names"
    expected: str = "distinct names with commas between"

    def parse(self, value: Any) -> tuple[str, ...]:
        """Return the names as a tuple."""
        names = tuple(value.split(",") if isinstance(value, str) else value)
        if not all(names) or len(set(names)) < len(names):
            raise ValueError(f"expected {self.expected}")
        return names


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the implicit-regularization study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen import studies
      >>> studies.implicit_regularization.Config(num_seeds=3).seeds
      [0, 1, 2]
    """

    width: int = setting(
        options.COUNT,
        "Width of the MLP's hidden layers, or of the transformer. Default: the preset's.",
        unit="units",
        group="network",
    )
    channels: int = setting(options.COUNT, "Base channels of the CNN. Default: the preset's.", group="network")
    batch_sizes: tuple[int, ...] = setting(
        options.COUNTS, "Of the SGD configurations. Default: the preset's that the training set fills."
    )
    lr_scaling: str = setting(
        options.Choice(choices.SCALINGS), "Learning rate of SGD by batch size; table is the published.", default="table"
    )
    lr: float | None = setting(
        options.POSITIVE, "Learning rate at --reference, for scalings other than table.", default=0.01
    )
    reference: int = setting(
        options.COUNT, "Batch size whose updates, rate and noise the controls match.", default=128, unit="images"
    )
    match: str = setting(
        options.Choice(("epochs", "steps", "both")),
        "What SGD configurations have in common: epochs (the published protocol), steps (the updates of --reference), "
        "or both sets of runs.", default="epochs",
    )  # fmt: skip
    controls: tuple[str, ...] = setting(
        options.Choices(CONTROLS),
        "steps: larger batches at --reference's updates. gd: full batch, its updates, tuned rate. plain: the published "
        "full batch, no momentum. noise: full and largest batch at its updates and rate, without noise, with noise "
        "drawn afresh at every step, with noise that sums to zero over its epochs. sam: at --reference. tuned: each "
        "batch size at the rate that is best on held-out training images. Default: the preset's.",
    )
    only: tuple[str, ...] | None = setting(
        ArmNames(),
        "Train and measure these arms (named as in runs.csv), print them beside the published values, and stop. They "
        "are kept: the same command without --only does the rest.", identifies=False,
    )  # fmt: skip
    sam_rho: float | None = setting(options.POSITIVE, "Radius of SAM.", default=0.05)
    curvature_samples: int | None = setting(
        options.COUNT, "Training examples behind every measurement (the first). Default: 1000, or all that full-batch "
        "GD sees.", unit="images", group="measurement",
    )  # fmt: skip
    snapshots: int = setting(
        options.POINTS, "Epochs along training that are measured. Default: the preset's.", group="measurement"
    )
    track: str = setting(
        options.Choice(("all", "light")),
        "Measures along training: all, or light, without traces and worst cases. Default: the preset's.",
        group="measurement",
    )


# None for num_train: all there are.
BATCH_SIZES = tuple(choices.RATE_OF_BATCH)
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "mlp"): dict(
        width=128, num_train=10_000, num_seeds=5, epochs=30, batch_sizes=BATCH_SIZES, controls=USUAL,
        snapshots=12, track="all", label_noise=0.0,
    ),
    # Channels and number of images are lost; 85 % within 80 epochs take all images, and 32 channels fit the text.
    ("paper", "cnn"): dict(
        channels=32, num_train=None, num_seeds=5, epochs=80, batch_sizes=BATCH_SIZES, controls=(), snapshots=12,
        track="all", label_noise=0.0,
    ),
    # The paper trains no transformer.
    ("paper", "transformer"): dict(
        width=64, blocks=4, heads=4, num_train=10_000, num_seeds=5, epochs=80, batch_sizes=tuple(choices.RATE_OF_BATCH),
        controls=(), snapshots=12, track="all", label_noise=0.0,
    ),
    ("small", "mlp"): dict(
        width=128, num_train=2_000, num_seeds=3, epochs=30, batch_sizes=(32, 128, 512), controls=USUAL,
        snapshots=8, track="all", label_noise=0.0,
    ),
    ("small", "cnn"): dict(
        channels=8, num_train=5_000, num_seeds=3, epochs=60, batch_sizes=(32, 128, 512, 2048), controls=(),
        snapshots=6, track="light", label_noise=0.0,
    ),
    ("small", "transformer"): dict(
        width=32, blocks=2, heads=4, num_train=2_000, num_seeds=3, epochs=60, batch_sizes=(32, 128, 512), controls=(),
        snapshots=6, track="light", label_noise=0.0,
    ),
    ("quick", "mlp"): dict(
        width=64, num_train=None, num_seeds=3, epochs=200, batch_sizes=(32, 128, 512), controls=("sam",), snapshots=6,
        track="all", label_noise=0.0,
    ),
    ("quick", "cnn"): dict(
        channels=2, num_train=None, num_seeds=2, epochs=10, batch_sizes=(32, 128, 512), controls=(), snapshots=3,
        track="light", label_noise=0.0,
    ),
    ("quick", "transformer"): dict(
        width=16, blocks=1, heads=2, num_train=None, num_seeds=2, epochs=40, batch_sizes=(32, 128, 512), controls=(),
        snapshots=2, track="light", label_noise=0.0,
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
    by_table = given.get("lr_scaling", "table") == "table"
    options.refuse(given, {"lr": "--lr_scaling=table"} if by_table else {})
    values = PRESETS[preset, model]
    values = {**values, "batch_sizes": AsManyAsFit(values["batch_sizes"])}
    values["num_train"] = datasets.choose_num_train(dataset, preset, values["num_train"])
    values = base.overlay(values, given) | {"dataset": dataset, "model": model}
    if by_table:
        values["lr"] = None
    if "sam" not in values["controls"]:
        values["sam_rho"] = None
    return Config(**values)
