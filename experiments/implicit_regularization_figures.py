"""From the tables of the implicit-regularization study to its figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from implicit_regularization_arms import SHARPNESS
from implicit_regularization_tables import PRIMARY, Study

from ntkgen import plotting
from ntkgen.studies.tables import curve, diverged, number

PANELS = 4  # arms that the figure along training shows
NAMES = {
    "adam": "Adam",
    "gd": "full batch, published",
    "gd_plain": "full batch, no momentum",
    "gd_tuned": "full batch, tuned rate",
    "sam": "SAM",
}
ENDINGS = {
    "": "",
    "_quiet": ", reference's rate",
    "_noise": ", with noise",
    "_noise_zero_sum": ", with zero-sum noise",
    "_steps": ", equal updates",
}


def words(arm: str) -> str:
    """Name an arm for a reader: "sgd2048_noise" is "batch 2048, with noise"."""
    if arm in NAMES:
        return NAMES[arm]
    base, _, ending = arm.partition("_")
    start = "full batch" if base == "gd" else f"batch {base.removeprefix('sgd')}"
    return start + ENDINGS[f"_{ending}" if ending else ""]


def draw(study: Study, folder: Path, prefix: str) -> list[Path]:
    """Draw accuracy and sharpness, the confounds, and sharpness along training."""
    config, sweep = study.config, study.sweep
    about = f"{config['model'].upper()} on {config['dataset']}, {config['num_train']:,} examples"
    about += f", {config['epochs']} epochs, {len(study.seeds)} seeds, 95% t-intervals"
    about += diverged(study.runs, lambda row: words(row["arm"]))
    batches = [study.batch(name) for name in sweep]

    def against_batch(values: list[np.ndarray]) -> plotting.Curve:
        return curve(batches, np.stack(values))

    def pair(arms: list[str]) -> tuple[plotting.Curve, plotting.Curve]:
        x = [study.batch(name) for name in arms]
        accuracy = curve(x, np.stack([study.values(name, "test_acc") for name in arms]))
        return accuracy, _exp(curve(x, np.stack([study.sharpness(name, "eigenvalue") for name in arms])))

    def reached(name: str, metric: str, form: str) -> np.ndarray:
        found = study.sharpness(name, metric, form)
        # Some seeds' mean is not the arm's, nor is it compared in the verdict.
        return found if form == "raw" or study.reaches(metric, form, name) else np.full_like(found, np.nan)

    def short(arms: Sequence[str]) -> list[int]:
        return [study.batch(name) for name in arms if not study.comparable(name)]

    steps = study.sweeps.get("updates", [])
    others = [name for name in study.arms if name not in sweep and name not in steps]
    known = {study.batch(name): study.published().get(name, {}).get("test_acc") for name in sweep}
    lines = {"equal epochs": sweep} | ({"equal updates": steps} if len(steps) > 1 else {})
    figure = plotting.implicit_regularization.against_batch(
        {name: pair(arms) for name, arms in lines.items()},
        {words(name): pair([name]) for name in others},
        {batch: value for batch, value in known.items() if value is not None},
        about,
        {name: short(arms) for name, arms in lines.items()} | {words(name): short([name]) for name in others},
    )
    paths = [plotting.save(figure, folder / f"{prefix}accuracy_and_sharpness.png")]

    paths += _over_losses(study, folder, prefix, about)
    panels = {}
    for metric in ("eigenvalue", "average_adaptive", "perturbation"):
        shown = config["shown_targets"]
        forms = {"as trained": "raw", f"at training loss {shown['loss']:g}": "loss"}
        forms[f"at logit temperature of loss {shown['temperature']:g}"] = "temperature"
        panels[SHARPNESS[metric]] = {
            label: _exp(against_batch([reached(name, metric, form) for name in sweep])) for label, form in forms.items()
        }
    figure = plotting.implicit_regularization.confounds(panels, about, short(sweep))
    paths.append(plotting.save(figure, folder / f"{prefix}matched.png"))

    bounded = [name for name in study.arms if name != "adam"]
    wanted = [sweep[0], sweep[-1], f"sgd{config['reference']}", "gd_tuned", "gd_noise", "gd"]
    chosen = [name for name in dict.fromkeys(wanted) if name in bounded][:PANELS]
    tracks = {}
    for name in sorted(chosen, key=study.batch):
        rows = [row for row in study.tracking if row["arm"] == name]
        steps = sorted({int(row["step"]) for row in rows})
        values = np.full((len(steps), len(study.seeds)), np.nan)
        bounds = np.full((2, len(steps)), np.nan)
        for row in rows:
            e = steps.index(int(row["step"]))
            if row["converged"] == "1" and number(row["eigenvalue"]) > 0:
                values[e, study.seeds.index(int(row["seed"]))] = np.log10(number(row["eigenvalue"]))
            bounds[:, e] = number(row["threshold"]), number(row["momentum_threshold"])
        tracks[words(name)] = (_exp(curve(steps, values)), *bounds)
    figure = plotting.implicit_regularization.along_training(tracks, about)
    return [*paths, plotting.save(figure, folder / f"{prefix}along_training.png")]


def _over_losses(study: Study, folder: Path, prefix: str, about: str) -> list[Path]:
    """Draw largest over smallest batch at every matched loss, for each sweep: what the verdicts come from."""
    _, points = study.equal_losses()
    panels: dict[str, dict[str, plotting.Curve]] = {}
    for sweep, arms in study.sweeps.items():
        ends = f"batch {study.batch(arms[-1])} / {study.batch(arms[0])}, equal {sweep}"
        for metric in (metric for metric in PRIMARY if metric in study.metrics("loss")):
            for form, label in (("loss", "along training"), ("temperature", "by temperature")):
                rows = [row for row in points if (row["family"], row["metric"]) == (f"{form}, equal {sweep}", metric)
                        and (row["first"], row["second"]) == (arms[0], arms[-1])]  # fmt: skip
                ratio = [[np.nan if row[end] is None else 10.0 ** -row[end] for row in rows]
                         for end in ("difference", "high", "low")]  # fmt: skip
                curves = panels.setdefault(f"{SHARPNESS[metric]}\n{ends}", {})
                curves[label] = plotting.Curve([row["target"] for row in rows], *ratio)
    if not panels:
        return []
    figure = plotting.implicit_regularization.over_losses(panels, 10 ** study.config["margin_log10"], about)
    return [plotting.save(figure, folder / f"{prefix}over_losses.png")]


def _exp(log10: plotting.Curve) -> plotting.Curve:
    """Turn a curve of log10 into one of the quantity: geometric means with their intervals."""
    return plotting.Curve(log10.x, *(list(10.0 ** np.asarray(ends, float)) for ends in log10[1:]))
