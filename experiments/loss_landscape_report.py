"""What the loss-landscape study prints and draws, from its tables."""

from pathlib import Path
from typing import Any

import loss_landscape_tables as study

from ntkgen import paper, plotting, train
from ntkgen.plotting import loss_landscape as figures
from ntkgen.studies import tables


def same_protocol(config: dict[str, Any]) -> bool:
    """Say whether this is the published experiment, as far as the paper gives it."""
    ours = {name: config[name] for name in ("dataset", "model", "size", "epochs", "label_noise", "schedule")}
    theirs = dict(dataset="cifar10", model="cnn", size=32, epochs=80, label_noise=0.0, schedule="cosine")
    arms = [(config[f"{arm}_batch"], config[f"{arm}_lr"]) for arm in ("small", "large")]
    known = [(batch, train.TABLE[batch]) for batch in paper.LOSS_LANDSCAPE]
    samples = config["hessian_samples"] == paper.LOSS_LANDSCAPE_SAMPLES and config["num_train"] == 50_000
    return ours == theirs and arms == known and samples


def draw(folder: Path, prefix: str, config: dict[str, Any], found: dict[str, list[dict[str, str]]]) -> list[Path]:
    """Draw the four figures from the tables."""
    labels = {arm: f"batch {config[arm]}" for arm in study.ARMS}
    noise = f", {config['label_noise']:.0%} label noise" if config["label_noise"] else ""
    what = f"{config['model'].upper()} {config['size']} on {config['dataset']}{noise}"
    about = f"{what}, {config['num_seeds']} seeds, 95% t-intervals"
    lost = tables.diverged(found["runs"], lambda row: labels[row["arm"]])
    about += lost
    published = None
    if same_protocol(config):
        published = {arm: paper.LOSS_LANDSCAPE[config[arm]]["top_eigenvalue"] for arm in study.ARMS}
    made = {
        "spectrum": figures.eigenvalues(
            study.points(found["runs"], found["matched"]), study.densities(found["density"]), labels, about, published
        )
    }
    panels: dict[str, Any] = {}
    for kind, name in (
        ("absolute", "standard deviation of the noise"),
        ("filter_relative", "norm of the noise / norm of the filter"),
    ):
        sigmas, losses = study.perturbed(found["perturbation"], kind)
        panels[name] = {arm: tuple(study.geometric(sigmas, y) for y in losses[arm]) for arm in study.ARMS}
    made["perturbation"] = figures.perturbation(panels, labels, about)

    def curves(kind: str, arm: str) -> dict[str, Any]:
        pairs = {}
        for split in ("train", "test"):
            loss, error = (study.along(found["lines"], kind, arm, f"{split}_{what}") for what in ("loss", "error"))
            pairs[split] = study.geometric(*loss), tables.curve(*error)
        return pairs

    around = {arm: curves("line", arm) for arm in study.ARMS}
    made["lines"] = figures.lines(curves("interpolation", "between"), around, labels, about)
    planes = {arm: study.surface(found["plane"], arm, "train_loss") for arm in study.ARMS}
    made["surfaces"] = figures.surfaces(planes, labels, f"{what}, seed {config['seed']}{lost}")
    return [plotting.save(figure, folder / f"{prefix}{name}.png") for name, figure in made.items()]


def show(config: dict[str, Any], summary: list[dict[str, Any]], verdict: dict[str, Any]) -> None:
    """Print the table and the verdict."""
    settings = config["settings"]
    few, many = settings["samples"], settings["many_samples"]
    everything = f", all there are; fewer than {config['many_samples']:,}" if many < config["many_samples"] else ""
    print(
        f"\n{config['model'].upper()} {config['size']} ({config['num_params']:,} parameters) on {config['dataset']}, "
        f"{config['num_train']:,} examples; means over {config['num_seeds']} seeds, 95 % t-intervals\n"
        f"Hessians on {few:,} and on {many:,} training examples{everything}; converged: residual of 1e-3 or less"
    )
    lines = [("test accuracy (%)", "test_acc", 2, None), ("training accuracy (%)", "train_acc", 2, "interpolates")]
    lines += [("training loss", "train_loss", 5, None)]
    lines += [(f"eigenvalue, {settings['power_iters']} power it.", "power_value", 3, "power_converged")]
    lines += [("eigenvalue, Lanczos", "top_value", 3, "top_converged")]
    lines += [(f"  on {many:,} samples", "top_many_value", 3, "top_many_converged")]
    losses = [f"{target:g}" for target in sorted(settings["matched_losses"], reverse=True)]
    lines += [(f"  at loss {t}", f"top_value_at_{t}", 3, f"top_converged_at_{t}") for t in losses]
    lines += [("trace", "trace", 2, None), ("adaptive, worst case", "adaptive_worst", 4, None)]
    lines += [(f"  at loss {t}", f"adaptive_worst_at_{t}", 4, None) for t in losses]
    lines += [("adaptive, average", "adaptive_average", 4, None)]
    print(" " * 26 + "".join(f"{'batch ' + str(row['batch_size']):>36}" for row in summary))
    for name, metric, digits, count in lines:
        cells = []
        for row in summary:
            counted = "" if count is None else f" {row[f'num_{count}']}/{row['num_seeds']}"
            cells.append(f"{tables.cell(row, metric, digits) + counted:>36}")
        print(f"{name:26}" + "".join(cells))
    for arm, count in verdict["below_interpolation"].items():
        if count:
            print(f"not comparable: {count} networks of batch {config[arm]} train below {study.INTERPOLATES} %")
    for answer in verdict["answers"].values():
        print(f"{answer['about']}, {answer['unit']}: {answer['words']}")
    ratio = paper.LOSS_LANDSCAPE[1024]["eigenvalue_ratio"]
    note = "" if same_protocol(config) else "; a CNN on CIFAR-10: another network than this"
    print(f"published ratio of top eigenvalues: {ratio} (one model of each{note})")
    seen = verdict["perturbation"]
    print(
        f"loss under perturbation (absolute): the large batch's rises more at {seen['large_more_sensitive']} and less "
        f"at {seen['small_more_sensitive']} of {seen['sigmas']} strengths, by adjusted paired tests"
    )
