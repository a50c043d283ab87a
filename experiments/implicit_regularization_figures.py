"""From the tables of the implicit-regularization study to its figures."""

from pathlib import Path

import numpy as np
from implicit_regularization_arms import SHARPNESS
from implicit_regularization_tables import Study
from tables import curve, number

from ntkgen import plotting, plotting_sharpness

PANELS = 4  # arms that the figure along training shows


def draw(study: Study, folder: Path, prefix: str) -> list[Path]:
    """Draw accuracy and sharpness, the confounds, and sharpness along training."""
    config, sweep = study.config, study.sweep
    about = f"{config['model'].upper()} on {config['dataset']}, {config['num_train']:,} examples"
    about += f", {len(study.seeds)} seeds, 95% t-intervals"
    batches = [study.batch(name) for name in sweep]

    def against_batch(values: list[np.ndarray]) -> plotting.Curve:
        return curve(batches, np.stack(values))

    def pair(arms: list[str]) -> tuple[plotting.Curve, plotting.Curve]:
        x = [study.batch(name) for name in arms]
        accuracy = curve(x, np.stack([study.values(name, "test_acc") for name in arms]))
        return accuracy, _exp(curve(x, np.stack([study.sharpness(name, "eigenvalue") for name in arms])))

    def point(name: str, values: np.ndarray) -> plotting.Curve:
        return curve([study.batch(name)], values[None])

    steps = study.sweeps.get("updates", [])
    others = [name for name in study.arms if name not in sweep and name not in steps]
    accuracy = {name: point(name, study.values(name, "test_acc")) for name in others}
    eigenvalue = {name: _exp(point(name, study.sharpness(name, "eigenvalue"))) for name in others}
    known = {study.batch(name): study.published().get(name, {}).get("test_acc") for name in sweep}
    lines = {"equal epochs": pair(sweep)}
    if len(steps) > 1:
        lines["equal updates"] = pair(steps)
    figure = plotting_sharpness.against_batch(
        lines,
        {name: (accuracy[name], eigenvalue[name]) for name in others},
        {batch: value for batch, value in known.items() if value is not None},
        about,
    )
    paths = [plotting.save(figure, folder / f"{prefix}accuracy_and_sharpness.png")]

    panels = {}
    for metric in ("eigenvalue", "average_adaptive", "perturbation"):
        forms = {"as trained": "raw", f"at training loss {config['primary_loss']:g}": "loss"}
        forms[f"at logit temperature of loss {config['temperature_target']:g}"] = "temperature"
        panels[SHARPNESS[metric]] = {
            label: _exp(against_batch([study.sharpness(name, metric, form) for name in sweep]))
            for label, form in forms.items()
        }
    figure = plotting_sharpness.confounds(panels, about)
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
        tracks[name] = (_exp(curve(steps, values)), *bounds)
    figure = plotting_sharpness.along_training(tracks, about)
    return [*paths, plotting.save(figure, folder / f"{prefix}along_training.png")]


def _exp(log10: plotting.Curve) -> plotting.Curve:
    """Turn a curve of log10 into one of the quantity: geometric means with their intervals."""
    return plotting.Curve(log10.x, *(list(10.0 ** np.asarray(ends, float)) for ends in log10[1:]))
