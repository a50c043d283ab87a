"""Statements of the paper that its own tables contradict, each computed from the published tables."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntkgen import paper, stats
from ntkgen.studies.base import Rows
from ntkgen.studies.reproduce import _questions as asked
from ntkgen.studies.reproduce._questions import Finding, Question
from ntkgen.studies.tables import number

BASE_BATCH, BASE_RATE = 128, 0.01  # sections IV-D and V-B, appendix A
INTERPOLATES = 99.0  # percent of training accuracy: our criterion of the threshold
UNMEASURED = "not measured"


class OurSide:
    """What we measured, for the last column: rows of ours.csv, and findings."""

    def __init__(self, ours: Sequence[Mapping[str, Any]], found: Sequence[Finding]) -> None:
        """Index both."""
        self.rows, self.found = ours, found

    def numbers(self, experiment: str, metric: str) -> dict[str, float]:
        """Return setting -> our mean, of one metric of an experiment."""
        own = [row for row in self.rows if (row["experiment"], row["metric"]) == (experiment, metric)]
        return {row["setting"]: number(row["ours"]) for row in own if row["ours"] not in ("", None)}

    def where(self, experiment: str) -> str:
        """Return the run that the numbers are of, and how it departs from the published one."""
        rows = [row for row in self.rows if row["experiment"] == experiment]
        differs = next((row["differs"] for row in rows if row["differs"]), "")
        return f" ({differs})" if differs else ""

    def answer(self, *questions: Question) -> str:
        """Return what was found about questions, in words."""
        return "; ".join(
            f"{one.question.claim}: {one.decision}"
            + (f", {one.effect:.3g} {one.unit}" if one.effect is not None else "")
            + (f" ({one.why})" if one.why else "")
            for one in self.found
            if one.question in questions
        )


@dataclass(frozen=True)
class PaperStatement:
    """A statement of the text.

    Attributes:
      source: sections.
      statement: as the paper says it, shortened.
      tables: computes what the paper's tables say to it.
      ours: says what we measured; "" for nothing.
    """

    source: str
    statement: str
    tables: Callable[[], str]
    ours: Callable[[OurSide], str]


def monotonic_steps(accuracy: Mapping[int, float]) -> tuple[int, list[tuple[int, int]]]:
    """Return how many steps to the next larger batch lower the accuracy, and those that do not."""
    pairs = list(itertools.pairwise(sorted(accuracy)))
    against = [(a, b) for a, b in pairs if accuracy[b] >= accuracy[a]]
    return len(pairs) - len(against), against


def sgd_accuracy() -> dict[int, float]:
    """Return batch size -> published test accuracy of SGD."""
    rows = (row for arm, row in paper.IMPLICIT_REGULARIZATION.items() if arm.startswith("sgd"))
    return {int(row["batch"] or 0): float(row["test_acc"] or 0.0) for row in rows}


def _monotonic() -> str:
    accuracy = sgd_accuracy()
    down, against = monotonic_steps(accuracy)
    which = "; ".join(f"batch {a} to {b}: {accuracy[a]:.2f} to {accuracy[b]:.2f} %" for a, b in against)
    return f"{down} of {len(accuracy) - 1} steps go down; not {which}"


def _our_monotonic(side: OurSide) -> str:
    found = side.numbers("implicit_regularization", "test_acc")
    accuracy = {int(arm[3:]): value for arm, value in found.items() if arm.startswith("sgd") and arm[3:].isdigit()}
    if len(accuracy) < 2:
        return ""
    down, _ = monotonic_steps(accuracy)
    return f"{down} of {len(accuracy) - 1} steps go down{side.where('implicit_regularization')}"


def off_linear() -> dict[int, tuple[float, float]]:
    """Return batch size -> (published rate, rate by linear scaling), where they differ."""
    rates = {
        int(row["batch"] or 0): float(row["lr"] or 0.0)
        for arm, row in paper.IMPLICIT_REGULARIZATION.items()
        if arm.startswith("sgd")
    }
    linear = {batch: BASE_RATE * batch / BASE_BATCH for batch in rates}
    return {batch: (rate, linear[batch]) for batch, rate in rates.items() if not math.isclose(rate, linear[batch])}


def _linear() -> str:
    found = off_linear()
    words = "; ".join(f"batch {batch}: {rate:g}, linear {by_rule:g}" for batch, (rate, by_rule) in found.items())
    return f"{len(found)} of {len(sgd_accuracy())} rates are not linear in the batch size: {words}"


def _our_rates(side: OurSide) -> str:
    found = side.numbers("implicit_regularization", "lr")
    rates = [f"{arm[3:]}: {rate:g}" for arm, rate in found.items() if arm.startswith("sgd") and arm[3:].isdigit()]
    return f"we train with the table's rates ({', '.join(rates)})" if rates else ""


def _training(model: str) -> dict[int, float]:
    """Return size -> published training accuracy of double descent."""
    dataset = {"mlp": "mnist", "cnn": "cifar10"}[model]
    return {size: float(row["train_acc"] or 0.0) for size, row in paper.DOUBLE_DESCENT[model, dataset].items()}


def first_interpolating(accuracy: Mapping[int, float]) -> int:
    """Return the smallest size that reaches our criterion."""
    return min(size for size, value in accuracy.items() if value >= INTERPOLATES)


def _cnn_threshold() -> str:
    found = _training("cnn")
    first = first_interpolating(found)
    return (
        f"training accuracy at 8 channels is {found[8]:g} %; {INTERPOLATES:g} % is first reached at {first} channels, "
        f"{paper.CNN_PARAMS[first] / paper.CNN_PARAMS[8]:.1f} times as many parameters"
    )


def _our_threshold(side: OurSide, experiment: str) -> str:
    found = side.numbers(experiment, "train_acc")
    sizes = {int(name.split()[1]): value for name, value in found.items()}
    if not sizes:
        return ""
    reached = [size for size, value in sizes.items() if value >= INTERPOLATES]
    name = next(iter(found)).split()[0]
    first = f"first reached at {name} {min(reached)}" if reached else f"never reached up to {name} {max(sizes)}"
    at = f"; {sizes[8]:.1f} % at {name} 8" if 8 in sizes else ""
    return f"{INTERPOLATES:g} % {first}{at}{side.where(experiment)}"


def _zero_error() -> str:
    beyond = {size: value for size, value in _training("cnn").items() if size >= 32}
    short = {size: 100 - value for size, value in beyond.items() if value < 100}
    return "; ".join(f"training error at {size} channels is {error:.1f} %" for size, error in short.items())


def _mlp_peak() -> str:
    rows = paper.DOUBLE_DESCENT["mlp", "mnist"]
    errors = {size: 100 - value for size, row in rows.items() if (value := row["test_acc"]) is not None}
    values = list(errors.values())
    falls = all(b < a for a, b in itertools.pairwise(values))
    shown = ", ".join(f"{error:.1f} % at width {size}" for size, error in errors.items())
    return f"test error {'only falls' if falls else 'does not only fall'}: {shown}; no peak, so no second descent"


def _mlp_threshold() -> str:
    count, images = paper.MLP_PARAMS[32], paper.DOUBLE_DESCENT_EXAMPLES["mlp", "mnist"]
    first = first_interpolating(_training("mlp"))
    return (
        f"{count:,} parameters are {count / images:.2f} times the {images:,} images; width {first} with "
        f"{paper.MLP_PARAMS[first]:,} parameters already reaches {_training('mlp')[first]:g} %"
    )


def initial_norm(width: int) -> float:
    """Return the expected norm of the initial MLP: uniform within 1 / sqrt(fan-in), weights and biases."""
    layers = ((784, width), (width, width), (width, width), (width, 10))
    return math.sqrt(sum((fan_in + 1) * units / (3 * fan_in) for fan_in, units in layers))


def movement_exponents() -> tuple[float, float]:
    """Return the exponents of the width of the published relative movement, and of it times the initial norm."""
    widths = list(paper.NTK)
    relative = [float(row["relative_movement"] or 0.0) for row in paper.NTK.values()]
    absolute = [value * initial_norm(width) for width, value in zip(widths, relative, strict=True)]
    fits = (stats.power_law_fit(widths, [values]).exponent for values in (relative, absolute))
    first, second = fits
    return float(first), float(second)


def _kernel_regime() -> str:
    relative, absolute = movement_exponents()
    return (
        f"relative movement goes like width^{relative:.2f} because the initial norm grows: movement itself goes like "
        f"width^{absolute:+.2f}; in the lazy limit the exponents are -1 and -0.5"
    )


def _our_movement(side: OurSide) -> str:
    found = side.numbers("ntk_regime", "movement_fall_percent")
    fall = [f"twice the width lowers relative movement by {value:.0f} %" for value in found.values()]
    return "; ".join([*fall, *filter(None, [side.answer(asked.LAZY, asked.STILL)])])


def _same_models() -> str:
    sweep = paper.IMPLICIT_REGULARIZATION
    rows = []
    for batch, row in paper.LOSS_LANDSCAPE.items():
        rows.append(f"batch {batch}: {sweep[f'sgd{batch}']['test_acc']} % in V-B, {row['test_acc']} % in V-C")
    return "; ".join(rows)


def _full_batch() -> str:
    gd = paper.IMPLICIT_REGULARIZATION["gd"]
    images, epochs = paper.IMPLICIT_GD_IMAGES, paper.IMPLICIT_EPOCHS
    updates = epochs * math.ceil(images / 128)
    return (
        f"GD makes {epochs} updates and reaches {gd['train_acc']} % of its training set, so it found no minimum; batch "
        f"128 makes {updates:,} on {images:,} images; no table has a curvature of GD"
    )


def _range() -> str:
    found = [float(row["test_acc"]) for row in paper.DOUBLE_DESCENT["cnn", "cifar10"].values() if row["test_acc"]]
    found += [float(row["test_acc"]) for row in paper.IMPLICIT_REGULARIZATION.values() if row["test_acc"]]
    found += [float(row["test_acc"]) for row in paper.LOSS_LANDSCAPE.values() if row["test_acc"]]
    return f"the tables have CIFAR-10 test accuracies from {min(found):g} to {max(found):g} %"


STATEMENTS = (
    PaperStatement(
        "V-B; VI-A; IX; abstract", "a monotonic relationship: smaller batches, higher test accuracy", _monotonic,
        _our_monotonic,
    ),
    PaperStatement("IV-D; V-B; A", "learning rates were scaled linearly with batch size", _linear, _our_rates),
    PaperStatement(
        "V-A; V-D; VI-C",
        "the CNN's test error peaks near the interpolation threshold, 8 channels, where it begins to fit the data",
        _cnn_threshold, lambda side: _our_threshold(side, "double_descent cnn"),
    ),
    PaperStatement(
        "V-D", "the CNN improves beyond 32 channels despite zero training error", _zero_error, lambda side: ""
    ),
    PaperStatement(
        "V-D; IX", "the MLP too shows double descent", _mlp_peak,
        lambda side: side.answer(asked.PEAK, asked.FALL),
    ),
    PaperStatement(
        "V-A; C-B", "the MLP interpolates at width 32, with about as many parameters as training images",
        _mlp_threshold, lambda side: _our_threshold(side, "double_descent mlp"),
    ),
    PaperStatement(
        "IV-H; V-E; VI-D",
        "movement falls like the inverse square root of the width, as theory has it for the approach to the kernel "
        "regime",
        _kernel_regime, _our_movement,
    ),
    PaperStatement(
        "I-A", "batch size, sharpness and accuracy are linked within the same trained models", _same_models,
        lambda side: side.answer(asked.EIGENVALUE),
    ),
    PaperStatement(
        "VI-A; VI-G", "without the noise of batches GD reaches neither flat minima nor generalization", _full_batch,
        lambda side: side.answer(asked.ACCURATE_UPDATES),
    ),
    PaperStatement("VII-C", "CIFAR-10 test accuracies are 72 to 86 %", _range, lambda side: ""),
)  # fmt: skip


def contradicted(side: OurSide) -> Rows:
    """Make statements.csv: each statement, what the paper's tables say to it, and what we measured."""
    return [
        {
            "source": one.source,
            "statement": one.statement,
            "tables_say": one.tables(),
            "ours": one.ours(side) or UNMEASURED,
        }
        for one in STATEMENTS
    ]
