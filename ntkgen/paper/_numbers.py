"""Every number that the paper prints, one by one, with its section and how finely it is printed.

Tables V-A to V-F, the text, the abstracts, and the settings of section IV and appendix A. The tables of `_tables` are
read, not repeated; what only the text has is here.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ntkgen.paper import _tables as tables

MEASURED, SETTING, PARAMETERS = "measured", "setting", "parameters"  # kinds of numbers


class PublishedNumber(NamedTuple):
    """One published number.

    Attributes:
      source: sections that print it, the first with the most digits.
      study: which of our studies measures it, with the network where it has two ("double_descent mlp").
      setting: what it is measured on, such as "width 8", "sgd32", "ticket 10%".
      metric: what is measured.
      value: as printed; None where the text has lost it.
      rounding: the last digit: the paper's own value lies within half of it of the printed one.
      kind: `MEASURED`, `SETTING` or `PARAMETERS`.
      note: what keeps it from being compared, or how it follows from other published numbers.
    """

    source: str
    study: str
    setting: str
    metric: str
    value: float | None
    rounding: float
    kind: str = MEASURED
    note: str = ""


class Range(NamedTuple):
    """A setting that the paper gives as a range, ends included."""

    low: float
    high: float


# What the paper fixes in each study, by the names of our settings. Where its text has lost a value and our reading
# stands here instead, `READINGS` says so. Other values make another experiment: its numbers are not comparable.
PROTOCOLS: dict[str, dict[str, Any]] = {
    "double_descent mlp": dict(
        dataset="mnist", model="mlp", depth=4, num_train=tables.DOUBLE_DESCENT_EXAMPLES["mlp", "mnist"],
        label_noise=0.0, epochs=Range(60, 80), optimizer="sgd", schedule="cosine", weight_decay=0.0,
    ),
    "double_descent cnn": dict(
        dataset="cifar10", model="cnn", affine_norm=False, num_train=10_000, label_noise=0.0, epochs=Range(60, 80),
        optimizer="sgd", schedule="cosine", weight_decay=0.0,
    ),
    "implicit_regularization": dict(
        dataset="cifar10", model="cnn", channels=32, num_train=50_000, label_noise=0.0, epochs=tables.IMPLICIT_EPOCHS,
        lr_scaling="table",
    ),
    "loss_landscape": dict(
        dataset="cifar10", model="cnn", channels=32, num_train=50_000, label_noise=0.0, epochs=Range(60, 80),
        schedule="cosine", hessian_samples=tables.LOSS_LANDSCAPE_SAMPLES,
    ),
    "ntk_regime": dict(
        dataset="mnist", model="mlp", depth=4, num_train=tables.NTK_EXAMPLES, label_noise=0.0, epochs=Range(60, 80),
        optimizer="sgd", schedule="cosine", loss="cross_entropy", parametrization="standard", lr_over_width=False,
    ),
    "lottery_ticket": dict(
        dataset="cifar10", model="cnn", affine_norm=False, channels=32, num_train=50_000, label_noise=0.0,
        epochs=tables.LOTTERY_TICKET_EPOCHS, optimizer="sgd", schedule="cosine", one_shot=False,
    ),
}  # fmt: skip
READINGS = {
    "double_descent cnn": ("num_train",),
    "implicit_regularization": ("channels", "num_train"),
    "loss_landscape": ("channels", "num_train", "epochs"),
    "lottery_ticket": ("channels", "num_train"),
}
NO_SETTING = "fixed in the code, no setting of a study"
LOST_SIGMA = "the strength of the noise is lost"
PERTURBATION_SIGMAS = (0.0005, 0.001, 0.002, 0.005, 0.01)  # section V-C shows five of seven
FROM_GAP, FROM_LOSS = "computed: 100 - gap", "computed: 83.72 + 1.15"
CUT_OFF = "the paper's own table has 27,562"
BATCH_DIFFERENCE, LANDSCAPE_DIFFERENCE = 2.25, 1.61  # points, sections V-B and VI-B
RISES = {32: 158.0, 1024: 1932.0}  # percent of the loss, section V-C, at a strength that is lost
TICKET_LOSS, REINIT_LOSS = 1.15, 2.80  # points, section V-F
PER_DOUBLING = 30.0  # percent by which movement falls with twice the width, "roughly", section V-E


def published_numbers() -> list[PublishedNumber]:
    """Return every published number, in the order of the sections; a value that the text has lost is None.

    Example:
      >>> from ntkgen import paper
      >>> first = paper.published_numbers()[0]
      >>> first.study, first.setting, first.metric
      ('double_descent mlp', 'width 8', 'train_acc')
    """
    return [
        *_double_descent(),
        *_implicit_regularization(),
        *_loss_landscape(),
        *_ntk(),
        *_lottery_ticket(),
        *_parameters(),
        *_settings(),
    ]


def _double_descent() -> Iterator[PublishedNumber]:
    for (model, _), table in tables.DOUBLE_DESCENT.items():
        study, name = f"double_descent {model}", "width" if model == "mlp" else "channels"
        for size, row in table.items():
            for metric in ("train_acc", "test_acc"):
                source = "V-A" if metric == "train_acc" else "V-A; VI-C"
                yield PublishedNumber(source, study, f"{name} {size}", metric, row[metric], 0.1)
    errors = {"mlp": {8: 10.3, 32: 4.6, 1024: 3.1}, "cnn": {8: 72.4, 96: 28.0}}
    for model, by_size in errors.items():
        name = "width" if model == "mlp" else "channels"
        for size, error in by_size.items():
            yield PublishedNumber("V-D", f"double_descent {model}", f"{name} {size}", "test_error", error, 0.1)
    yield PublishedNumber("VII-C", "double_descent cnn", "channels 96", "test_acc", 72.0, 1.0)


def _implicit_regularization() -> Iterator[PublishedNumber]:
    study = "implicit_regularization"
    printed = ("sgd32", "sgd2048", "adam", "gd")
    for arm, row in tables.IMPLICIT_REGULARIZATION.items():
        note = "" if arm in printed else FROM_GAP
        yield PublishedNumber("V-B", study, arm, "test_acc", row["test_acc"], 0.01, note=note)
        yield PublishedNumber("V-B", study, arm, "gap", row["gap"], 0.01)
        if arm.startswith("sgd"):
            yield PublishedNumber("V-B; IX", study, arm, "train_acc", 100.0, 1.0)
    gd = tables.IMPLICIT_REGULARIZATION["gd"]
    yield PublishedNumber("V-B", study, "gd", "train_acc", gd["train_acc"], 0.1)
    source = "V-B; VI-A; IX"
    yield PublishedNumber(source, study, "sgd32 - sgd2048", "test_acc", BATCH_DIFFERENCE, 0.01)


def _loss_landscape() -> Iterator[PublishedNumber]:
    study = "loss_landscape"
    for batch, row in tables.LOSS_LANDSCAPE.items():
        yield PublishedNumber("V-C; VI-B", study, f"batch {batch}", "test_acc", row["test_acc"], 0.01)
        yield PublishedNumber("V-C; VI-B", study, f"batch {batch}", "top_eigenvalue", row["top_eigenvalue"], 0.01)
    ratio = tables.LOSS_LANDSCAPE[1024]["eigenvalue_ratio"]
    yield PublishedNumber("abstract", study, "batch 1024 / batch 32", "top_eigenvalue", ratio, 0.1)
    source = "VI-B; abstract; I-A"
    yield PublishedNumber(source, study, "batch 32 - batch 1024", "test_acc", LANDSCAPE_DIFFERENCE, 0.01)
    for batch, rise in RISES.items():
        yield PublishedNumber("V-C; VI-B", study, f"batch {batch}", "loss_rise_percent", rise, 1.0, note=LOST_SIGMA)
    for sigma in PERTURBATION_SIGMAS:
        for batch in tables.LOSS_LANDSCAPE:
            yield PublishedNumber("V-C", study, f"batch {batch}, sigma {sigma:g}", "loss_rise_percent", None, 0.0)
    yield PublishedNumber("VII-C", study, "batch 32", "test_acc", 86.0, 1.0)


def _ntk() -> Iterator[PublishedNumber]:
    study = "ntk_regime"
    for width, row in tables.NTK.items():
        yield PublishedNumber("V-E; VI-D", study, f"width {width}", "test_acc", row["test_acc"], 0.1)
        yield PublishedNumber("V-E", study, f"width {width}", "relative_movement", row["relative_movement"], 1e-4)
    yield PublishedNumber("V-E", study, "width 32", "relative_movement", 0.94, 0.01)
    yield PublishedNumber("V-E; VI-D", study, "width 4096", "relative_movement", 0.08, 0.01)
    yield PublishedNumber("V-E", study, "twice the width", "movement_fall_percent", PER_DOUBLING, 10.0)
    yield PublishedNumber("V-E; VI-D", study, "width 32 / width 4096", "relative_movement", None, 0.0)


def _lottery_ticket() -> Iterator[PublishedNumber]:
    study = "lottery_ticket"
    for arm, table in tables.LOTTERY_TICKET.items():
        for keep, row in table.items():
            note = FROM_LOSS if keep == 100 else ""
            yield PublishedNumber("V-F", study, f"{arm} {keep}%", "test_acc", row["test_acc"], 0.01, note=note)
    source = "V-F; VI-E; abstract; IX"
    yield PublishedNumber(source, study, "ticket 100% - ticket 10%", "test_acc", TICKET_LOSS, 0.01)
    yield PublishedNumber("V-F; VI-E; IX", study, "ticket 10% - reinit 10%", "test_acc", REINIT_LOSS, 0.01)


def _parameters() -> Iterator[PublishedNumber]:
    for width, count in tables.MLP_PARAMS.items():
        source = "V-A" if width < 32 else "V-A; V-E" if width <= 1024 else "V-E"
        yield PublishedNumber(source, "", f"mlp {width}", "num_params", count, 0.0, PARAMETERS)
    for channels, count in tables.CNN_PARAMS.items():
        yield PublishedNumber("V-A", "", f"cnn {channels}", "num_params", count, 0.0, PARAMETERS)
    for source, name, about, rounding in (
        ("IV-C; V-D", "mlp 8", 6_500, 100), ("V-D", "mlp 32", 27_000, 1_000),
        ("IV-C; VI-D", "mlp 4096", 36_800_000, 100_000), ("VII-C", "mlp 4096", 37_000_000, 1_000_000),
        ("IV-C", "cnn 4", 73_000, 1_000), ("V-D", "cnn 8", 152_000, 1_000), ("IV-C; V-A", "cnn 96", 4_150_000, 10_000),
    ):  # fmt: skip
        note = CUT_OFF if about == 27_000 else ""
        yield PublishedNumber(source, "", name, "num_params", about, rounding, PARAMETERS, note)


def _settings() -> Iterator[PublishedNumber]:
    """Return the protocol's numbers; `setting` is the name of ours, or the arm whose rate it is."""
    for arm, row in tables.IMPLICIT_REGULARIZATION.items():
        for metric in ("batch", "lr"):
            yield PublishedNumber("V-B", "implicit_regularization", arm, metric, row[metric], 0.0, SETTING)
    appendix = "A; IV-D"
    for source, study, name, value in (
        ("IV-B; V-A", "double_descent mlp", "num_train", 10_000),
        ("A", "double_descent mlp", "batch_size", 128),
        (appendix, "double_descent mlp", "momentum", 0.9),
        (appendix, "double_descent mlp", "lr", 0.01),
        (appendix, "double_descent mlp", "weight_decay", 0.0),
        (f"{appendix}; D", "double_descent mlp", "num_seeds", 5),
        ("V-B", "implicit_regularization", "epochs", tables.IMPLICIT_EPOCHS),
        ("IV-B", "implicit_regularization", "num_train", 50_000),
        ("A", "implicit_regularization", "protocol.adam_lr", 0.001),
        ("A", "implicit_regularization", "protocol.momentum", 0.9),
        ("IV-E", "implicit_regularization", "protocol.power_iterations", tables.LOSS_LANDSCAPE_ITERATIONS),
        ("IV-E", "loss_landscape", "hessian_samples", tables.LOSS_LANDSCAPE_SAMPLES),
        ("IV-E", "loss_landscape", "measurements.power_iters", tables.LOSS_LANDSCAPE_ITERATIONS),
        ("IV-E; I-A", "loss_landscape", "measurements.sigmas", 7),
        ("IV-E", "loss_landscape", "measurements.draws", 5),
        ("IV-H; V-E", "ntk_regime", "num_train", tables.NTK_EXAMPLES),
        (appendix, "ntk_regime", "lr", 0.01),
        ("V-F", "lottery_ticket", "epochs", tables.LOTTERY_TICKET_EPOCHS),
    ):
        yield PublishedNumber(source, study, name, "setting", float(value), 0.0, SETTING)
    for name, value in (("Adam, beta1", 0.9), ("Adam, beta2", 0.999), ("bootstrap resamples", 1_000.0)):
        yield PublishedNumber("A" if "Adam" in name else "IV-D", "", name, "setting", value, 0.0, SETTING, NO_SETTING)
