"""What the loss-landscape study prints and draws."""

from collections.abc import Iterator
from typing import Any

from ntkgen import paper, plotting, train
from ntkgen.studies import _answers, curves, tables
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.loss_landscape import _curves
from ntkgen.studies.loss_landscape._config import ARMS, Config
from ntkgen.studies.loss_landscape._measure import INTERPOLATES, TwoArms
from ntkgen.studies.loss_landscape._tables import beside_published, compare_arms, compare_at_equal_loss, summarise
from ntkgen.studies.loss_landscape._verdict import judge


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make summary, tests, comparison and verdict from the measured tables."""
    config, runs, matched = prepared.config, found["runs"], found["matched"]
    summary = summarise(runs, matched)
    tested = compare_arms(runs, found["perturbation"])
    rows = list(tested.rows.values())
    tables.cross(rows, tables.correctness(found["correct"]))
    curves, points = compare_at_equal_loss(matched)
    verdict = judge(runs, tested, curves)
    same = same_protocol(config, prepared.more)
    derived = {
        "summary": summary,
        "tests": rows,
        "equal_loss": list(curves.values()),
        "equal_loss_curves": points,
        "comparison": beside_published(runs, tested, same),
    }
    text = answer_text(config, prepared.more, summary, verdict, same)
    return Derived(derived, verdict, text, answer=short_answer(config, verdict))


def same_protocol(config: Config, both: TwoArms) -> bool:
    """Return whether this is the published experiment, as far as the paper gives it."""
    ours = config.dataset, config.model, config.size, config.epochs, config.label_noise, config.schedule
    known = [(batch, train.TABLE[batch]) for batch in paper.LOSS_LANDSCAPE]
    samples = config.hessian_samples == paper.LOSS_LANDSCAPE_SAMPLES and both.dataset.num_train == 50_000
    return ours == ("cifar10", "cnn", 32, 80, 0.0, "cosine") and list(config.arms.values()) == known and samples


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw eigenvalues and density, the loss under perturbation, lines, and surfaces."""
    config = prepared.config
    labels = {arm: f"batch {steps.batch_size}" for arm, steps in config.arms.items()}
    noise = f", {config.label_noise:.0%} label noise" if config.label_noise else ""
    what = f"{config.network_name} {config.size} on {curves.called(config.dataset)}{noise}"
    lost = tables.diverged(found["runs"], lambda row: labels[row["arm"]])
    about = f"{what}, {config.num_seeds} seeds, 95% t-intervals{lost}"
    published: dict[str, Any] | None = None
    if same_protocol(config, prepared.more):
        published = {
            arm: paper.LOSS_LANDSCAPE[steps.batch_size]["top_eigenvalue"] for arm, steps in config.arms.items()
        }
    dots, densities = _curves.eigenvalues(found["runs"], found["matched"]), _curves.densities(found["density"])
    yield "spectrum", plotting.loss_landscape.eigenvalues(dots, densities, labels, about, published)
    panels: dict[str, Any] = {}
    for kind, name in (
        ("absolute", "standard deviation of the noise"),
        ("filter_relative", "norm of the noise / norm of the filter"),
    ):
        sigmas, losses = _curves.perturbed(found["perturbation"], kind)
        panels[name] = {arm: tuple(_curves.geometric(sigmas, y) for y in losses[arm]) for arm in ARMS}
    yield "perturbation", plotting.loss_landscape.perturbation(panels, labels, about)
    between = loss_and_error(found["lines"], "interpolation", "between")
    around = {arm: loss_and_error(found["lines"], "line", arm) for arm in ARMS}
    yield "lines", plotting.loss_landscape.lines(between, around, labels, about)
    planes = {arm: _curves.surface_of(found["plane"], arm, "train_loss") for arm in ARMS}
    yield "surfaces", plotting.loss_landscape.surfaces(planes, labels, f"{what}, seed {config.seed}{lost}")


def loss_and_error(lines: list[dict[str, str]], kind: str, arm: str) -> dict[str, Any]:
    """Return by split the curves of loss and error along a line."""
    pairs = {}
    for split in ("train", "test"):
        loss, error = (_curves.along(lines, kind, arm, f"{split}_{what}") for what in ("loss", "error"))
        pairs[split] = _curves.geometric(*loss), curves.curve(*error)
    return pairs


def short_answer(config: Config, verdict: dict[str, Any]) -> str:
    """Write in which measures the large batch is seen to differ, in at most nine lines."""
    answers = verdict["answers"].values()
    lines = ["large batch against small, by measure"]
    lines += _answers.by_word(((found["about"], found["answer"]) for found in answers), "  ")
    for found in (each for each in answers if "difference" in each):
        size = f"{found['difference']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"
        if found["about"] in ("top eigenvalue", "test accuracy"):
            lines.append(f"{found['about']}, {found['unit']}: {size}, {found['answer']}")
    for arm, below in verdict["below_interpolation"].items():
        if below:
            lines.append(
                f"not comparable: {below} networks of the {arm.replace('_', ' ')} train below {INTERPOLATES} %"
            )
    batches = " and ".join(str(steps.batch_size) for steps in config.arms.values())
    what = f"{config.network_name} {config.size} on {config.dataset}"
    return "\n".join([*lines, f"{what}, batches of {batches}, {config.num_seeds} seeds"])


def answer_text(config: Config, both: TwoArms, summary: Rows, verdict: dict[str, Any], same: bool) -> str:
    """Write the table and the verdict as text."""
    sizes, num_train = both.sizes, both.dataset.num_train
    few, many = sizes.samples, sizes.many_samples
    everything = f", all there are; fewer than {config.many_samples:,}" if many < config.many_samples else ""
    lines = [
        f"\n{config.network_name} {config.size} ({both.num_params:,} parameters) on {config.dataset}, "
        f"{num_train:,} examples; means over {config.num_seeds} seeds, 95 % t-intervals",
        f"Hessians on {few:,} and on {many:,} training examples{everything}; converged: residual of 1e-3 or less",
        " " * 26 + "".join(f"{'batch ' + str(row['batch_size']):>36}" for row in summary),
    ]
    losses = [f"{target:g}" for target in sorted(sizes.matched_losses, reverse=True)]
    for name, metric, digits, count in (
        ("test accuracy (%)", "test_acc", 2, None),
        ("training accuracy (%)", "train_acc", 2, "interpolates"),
        ("training loss", "train_loss", 5, None),
        (f"eigenvalue, {sizes.power_iters} power it.", "power_value", 3, "power_converged"),
        ("eigenvalue, Lanczos", "top_value", 3, "top_converged"),
        (f"  on {many:,} samples", "top_many_value", 3, "top_many_converged"),
        *((f"  at loss {t}", f"top_value_at_{t}", 3, f"top_converged_at_{t}") for t in losses),
        ("trace", "trace", 2, None),
        ("adaptive, worst case", "adaptive_worst", 4, None),
        *((f"  at loss {t}", f"adaptive_worst_at_{t}", 4, None) for t in losses),
        ("adaptive, average", "adaptive_average", 4, None),
    ):
        cells = []
        for row in summary:
            counted = "" if count is None else f" {row[f'num_{count}']}/{row['num_seeds']}"
            cells.append(f"{tables.cell(row, metric, digits) + counted:>36}")
        lines.append(f"{name:26}" + "".join(cells))
    for arm, below in verdict["below_interpolation"].items():
        if below:
            batch_size = config.arms[arm].batch_size
            lines.append(f"not comparable: {below} networks of batch {batch_size} train below {INTERPOLATES} %")
    lines += [f"{found['about']}, {found['unit']}: {found['words']}" for found in verdict["answers"].values()]
    ratio = paper.LOSS_LANDSCAPE[1024]["eigenvalue_ratio"]
    note = "" if same else "; a CNN on CIFAR-10: another network than this"
    seen = verdict["perturbation"]
    lines += [
        f"published ratio of top eigenvalues: {ratio} (one model of each{note})",
        f"loss under perturbation (absolute): the large batch's rises more at {seen['large_more_sensitive']} and less "
        f"at {seen['small_more_sensitive']} of {seen['sigmas']} strengths, by adjusted paired tests",
    ]
    return "\n".join(lines)
