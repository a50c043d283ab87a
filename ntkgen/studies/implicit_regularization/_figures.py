"""The figures of the implicit-regularization study, from its tables."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ntkgen import plotting
from ntkgen.studies.base import Derived, Prepared, Tables
from ntkgen.studies.curves import called, curve
from ntkgen.studies.implicit_regularization import _claims, _tables
from ntkgen.studies.implicit_regularization._config import PRIMARY, PROTOCOL, SHARPNESS, SHOWN
from ntkgen.studies.implicit_regularization._tables import ArmTables
from ntkgen.studies.tables import diverged, number

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
    "_tuned": ", tuned rate",
}


def words(arm: str) -> str:
    """Return an arm's name for a reader: "sgd2048_noise" is "batch 2048, with noise"."""
    if arm in NAMES:
        return NAMES[arm]
    base, _, ending = arm.partition("_")
    start = "full batch" if base == "gd" else f"batch {base.removeprefix('sgd')}"
    return start + ENDINGS[f"_{ending}" if ending else ""]


def figures(prepared: Prepared, measured: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw accuracy and sharpness, the confounds, and sharpness along training."""
    config, sizes, found = prepared.config, prepared.more.sizes, ArmTables(prepared.config, measured)
    about = f"{config.network_name} on {called(config.dataset)}, {sizes.images:,} examples"
    about += f", {config.epochs} epochs, {len(found.seeds)} seeds, 95% t-intervals"
    about += diverged(found.runs, lambda row: words(row["arm"]))
    known = {name: row["test_acc"] for name, row in _tables.published(config, sizes).items()}
    yield "accuracy_and_sharpness", accuracy_and_sharpness(found, known, about)
    panels = _over_losses(found)
    if panels:
        yield "over_losses", plotting.implicit_regularization.over_losses(panels, 10**PROTOCOL.margin_log10, about)
    forms = {"as trained": "raw", f"at training loss {SHOWN['loss']:g}": "loss"}
    forms[f"at logit temperature of loss {SHOWN['temperature']:g}"] = "temperature"
    matched = {
        SHARPNESS[metric]: {label: _over_batches(found, metric, form) for label, form in forms.items()}
        for metric in ("eigenvalue", "average_adaptive", "perturbation")
    }
    yield "matched", plotting.implicit_regularization.confounds(matched, about, _unfinished(found, found.sweep))
    yield "along_training", plotting.implicit_regularization.along_training(_tracks(found), about)


def accuracy_and_sharpness(found: ArmTables, known: dict[str, float | None], about: str) -> Any:
    """Draw accuracy and sharpness against batch size.

    Args:
      found: the tables.
      known: arm -> published test accuracy in percent.
      about: the title.
    """

    def pair(arms: list[str]) -> tuple[plotting.Curve, plotting.Curve]:
        x = [found.batch(name) for name in arms]
        accuracy = curve(x, np.stack([found.by_seed(name, "test_acc") for name in arms]))
        return accuracy, _exp(curve(x, np.stack([found.log_sharpness(name, "eigenvalue") for name in arms])))

    lines = {f"equal {name}": arms for name, arms in found.sweeps.items()}
    others = [name for name in found.arms if not any(name in arms for arms in found.sweeps.values())]
    points = {found.batch(name): known.get(name) for name in found.sweep}
    return plotting.implicit_regularization.against_batch(
        {name: pair(arms) for name, arms in lines.items()},
        {words(name): pair([name]) for name in others},
        {batch: value for batch, value in points.items() if value is not None},
        about,
        {name: _unfinished(found, arms) for name, arms in lines.items()}
        | {words(name): _unfinished(found, [name]) for name in others},
    )


def _unfinished(found: ArmTables, arms: Sequence[str]) -> list[int]:
    """Return the batch sizes of the arms that are short of interpolation."""
    return [found.batch(name) for name in arms if not found.comparable(name)]


def _over_batches(found: ArmTables, metric: str, form: str) -> plotting.Curve:
    """Return a sharpness against batch size; NaN for arms that do not reach the loss with every seed."""
    values = []
    for name in found.sweep:
        own = found.log_sharpness(name, metric, form)
        # Some seeds' mean is not the arm's, nor is it compared in the verdict.
        values.append(own if form == "raw" or found.reaches(metric, form, name) else np.full_like(own, np.nan))
    return _exp(curve([found.batch(name) for name in found.sweep], np.stack(values)))


def _tracks(found: ArmTables) -> dict[str, tuple[plotting.Curve, np.ndarray, np.ndarray]]:
    """Return the top eigenvalue along training and the stability bounds, of a few arms."""
    sweep, bounded = found.sweep, [name for name in found.arms if name != "adam"]
    wanted = [sweep[0], sweep[-1], f"sgd{found.config.reference}", "gd_tuned", "gd_noise", "gd"]
    chosen = [name for name in dict.fromkeys(wanted) if name in bounded][:PANELS]
    tracks = {}
    for name in sorted(chosen, key=found.batch):
        rows = [row for row in found.tracking if row["arm"] == name]
        steps = sorted({int(row["step"]) for row in rows})
        values = np.full((len(steps), len(found.seeds)), np.nan)
        bounds = np.full((2, len(steps)), np.nan)
        for row in rows:
            e = steps.index(int(row["step"]))
            if row["converged"] == "1" and number(row["eigenvalue"]) > 0:
                values[e, found.seeds.index(int(row["seed"]))] = np.log10(number(row["eigenvalue"]))
            bounds[:, e] = number(row["threshold"]), number(row["momentum_threshold"])
        tracks[words(name)] = (_exp(curve(steps, values)), *bounds)
    return tracks


def _over_losses(found: ArmTables) -> dict[str, dict[str, plotting.Curve]]:
    """Return largest over smallest batch at every matched loss, for each sweep: what the verdicts come from."""
    panels: dict[str, dict[str, plotting.Curve]] = {}
    for sweep, arms in found.sweeps.items():
        ends = f"batch {found.batch(arms[-1])} / {found.batch(arms[0])}, equal {sweep}"
        for metric in (metric for metric in PRIMARY if metric in found.metrics("loss")):
            for form, label in (("loss", "along training"), ("temperature", "by temperature")):
                claim = _claims.sharpness_claim(found, sweep, metric, form, arms[0], arms[-1])
                _, rows = _claims.at_every_loss(found, claim)
                ratio = [[np.nan if row[end] is None else 10.0 ** -row[end] for row in rows]
                         for end in ("difference", "high", "low")]  # fmt: skip
                curves = panels.setdefault(f"{SHARPNESS[metric]}\n{ends}", {})
                curves[label] = plotting.Curve([row["target"] for row in rows], *ratio)
    return panels


def _exp(log10: plotting.Curve) -> plotting.Curve:
    """Return a curve of the quantity for one of its log10: geometric means with their intervals."""
    return plotting.Curve(log10.x, *(list(10.0 ** np.asarray(ends, float)) for ends in log10[1:]))
