"""The measured tables of the implicit-regularization study, indexed by arm and seed, and their means with intervals."""

import itertools
from typing import Any

import numpy as np

from ntkgen import paper
from ntkgen.studies import tables
from ntkgen.studies.base import Rows, Tables
from ntkgen.studies.implicit_regularization._arms import Sizes
from ntkgen.studies.implicit_regularization._config import FORMS, MATCHED, PROTOCOL, SHARPNESS, SHOWN, Config

PLAIN = ("train_acc", "test_acc", "gap", "train_loss", "test_loss", "distance", "relative_distance", "noise_scale")
PUBLISHED = ("train_acc", "test_acc", "gap")
UPDATES = "updates"  # the sweep at as many updates as the reference makes


class ArmTables:
    """The rows of all arms, as arrays over seeds.

    Attributes:
      config: of the run.
      runs: rows of runs.csv.
      tracking: rows of tracking.csv.
      correct: arm -> which test images each seed classifies right, of `tables.correctness`.
      arms: name -> its description, in the order of training.
      seeds: in order; every array over seeds follows it.
      sweep: names of the SGD arms of the batch-size sweep at equal epochs, by batch size.
      sweeps: "epochs" -> sweep, "updates" -> those that make as many, "epochs, tuned rates" -> those with a rate of
        their own; without those of a single arm.
    """

    def __init__(self, config: Config, found: Tables) -> None:
        """Index the rows of the measured tables, cells as text."""
        self.config, self.runs, self.tracking = config, found["runs"], found["tracking"]
        self.correct = tables.correctness(found["correct"])
        self.arms = {row["arm"]: row for row in self.runs}
        self.seeds = sorted({int(row["seed"]) for row in self.runs})
        names = ("sgd", "steps", "tuned")
        groups = {name: [arm for arm, row in self.arms.items() if row["group"] == name] for name in names}
        self.sweep = sorted(groups["sgd"], key=self.batch)
        reference = f"sgd{config.reference}"  # absent where --only trains some of the arms
        updates = sorted([*([reference] if reference in self.arms else []), *groups["steps"]], key=self.batch)
        sweeps = {"epochs": self.sweep, UPDATES: updates}
        sweeps["epochs, tuned rates"] = sorted(groups["tuned"], key=self.batch)
        self.sweeps = {name: arms for name, arms in sweeps.items() if len(arms) > 1}
        self._matched = {
            (row["match"], float(row["target"]), row["metric"], row["arm"], int(row["seed"])): row
            for row in found["matched"]
        }
        self._runs = {(row["arm"], int(row["seed"])): row for row in self.runs}

    def batch(self, arm: str) -> int:
        """Return an arm's batch size."""
        return int(self.arms[arm]["batch"])

    def comparable(self, arm: str) -> bool:
        """Return whether every seed of an arm reached the training accuracy that a comparison of sharpness needs."""
        return all(row["comparable"] == "1" for row in self.runs if row["arm"] == arm)

    def by_seed(self, arm: str, metric: str) -> np.ndarray:
        """Return a column of runs.csv over seeds (seeds,); NaN for diverged seeds and what did not converge."""
        found = []
        for seed in self.seeds:
            row = self._runs[arm, seed]
            bad = row["diverged"] == "1" or (metric in ("eigenvalue", "power") and row[f"{metric}_converged"] != "1")
            bad |= metric == "noise_scale" and row["noise_scale_resolved"] != "1"
            found.append(np.nan if bad else tables.number(row[metric]))
        return np.array(found)

    def log_sharpness(self, arm: str, metric: str, form: str = "raw", target: float | None = None) -> np.ndarray:
        """Return log10 of a sharpness over seeds; NaN where it is not positive, not converged or not reached."""
        if form == "raw":
            found = self.by_seed(arm, metric)
        else:
            key = (form, SHOWN[form] if target is None else target, metric, arm)
            rows = [self._matched.get((*key, seed)) for seed in self.seeds]
            found = np.array(
                [tables.number(row["value"]) if row and row["converged"] == "1" else np.nan for row in rows]
            )
        return np.log10(found, where=found > 0, out=np.full(len(found), np.nan))

    def targets(self, form: str) -> list[Any]:
        """Return the training losses at which a form is measured; as trained there is a single one, unmatched."""
        return [None] if form == "raw" else list(PROTOCOL.loss_targets)

    def metrics(self, form: str) -> list[str]:
        """Return the kinds of sharpness that a form has; few along training with --track=light."""
        if form == "raw":
            return list(SHARPNESS)
        have = {key[2] for key in self._matched if key[0] == form}
        return [name for name in SHARPNESS if name in have]

    def reaches(self, metric: str, form: str, arm: str, target: float | None = None) -> bool:
        """Return whether every seed of an arm has a sharpness at the matched level."""
        return bool(np.isfinite(self.log_sharpness(arm, metric, form, target)).all())

    def referring(self) -> list[tuple[str, str]]:
        """Return the pairs of a control and an arm that it refers to."""
        groups = ("steps", "tuned", "control")
        own = [(name, row["references"].split()) for name, row in self.arms.items() if row["group"] in groups]
        return [(name, other) for name, others in own for other in others]


def summary(found: ArmTables) -> Rows:
    """Make summary.csv: a row for each arm, means over seeds with intervals; sharpness as log10."""
    rows = []
    for name, about in found.arms.items():
        own = [row for row in found.runs if row["arm"] == name]
        row: dict[str, Any] = {"arm": name} | {
            key: about[key] for key in ("group", "batch", "images", "epochs", "steps", "base_rate", "update")
        }
        row |= {"num_seeds": len(own), "num_diverged": sum(one["diverged"] == "1" for one in own)}
        row["comparable"] = int(found.comparable(name))
        for metric in PLAIN:
            row |= tables.columns(metric, found.by_seed(name, metric))
        row["num_noise_scales"] = int(np.isfinite(found.by_seed(name, "noise_scale")).sum())
        for form in FORMS:
            for metric in found.metrics(form):
                values = found.log_sharpness(name, metric, form)
                column = f"log10_{metric}" + ("" if form == "raw" else f"_at_{form}")
                row |= tables.columns(column, values) | {f"{column}_num": int(np.isfinite(values).sum())}
        rows.append(row | {"num_power_converged": sum(one["power_converged"] == "1" for one in own)})
    return rows


def matched_summary(found: ArmTables) -> Rows:
    """Make matched_summary.csv: log10 of every sharpness at every matched loss, means with intervals."""
    rows = []
    for name, form in itertools.product(found.arms, MATCHED):
        for metric, target in itertools.product(found.metrics(form), found.targets(form)):
            values = found.log_sharpness(name, metric, form, target)
            row = {"arm": name, "form": form, "metric": metric, "target": target}
            rows.append(row | {"num": int(np.isfinite(values).sum())} | tables.columns("log10", values))
    return rows


def comparison(found: ArmTables, sizes: Sizes) -> Rows:
    """Make comparison.csv: published numbers beside ours, where the protocol is the published one."""
    known = published(found.config, sizes)
    ours: dict[Any, Any] = {}
    for name in found.arms:
        cells = {metric: tables.columns(metric, found.by_seed(name, metric)) for metric in PUBLISHED}
        ours[name] = {
            metric: tuple(cell[f"{metric}_{end}"] for end in ("mean", "t_low", "t_high"))
            for metric, cell in cells.items()
        }
    return paper.compare({name: known.get(name, {}) for name in ours}, ours)


def published(config: Config, sizes: Sizes) -> dict[str, dict[str, float | None]]:
    """Return the paper's accuracies and gaps by arm if this run follows its protocol as we read it.

    Full-batch GD has its own number of images, and stands beside both readings of its momentum.
    """
    network = (config.dataset, config.model, config.channels, config.label_noise, config.epochs)
    if (*network, sizes.full_batch) != (
        "cifar10", "cnn", 32, 0.0, paper.IMPLICIT_EPOCHS, paper.IMPLICIT_GD_IMAGES
    ):  # fmt: skip
        return {}
    follows = (sizes.images, config.lr_scaling, config.reference) == (50_000, "table", 128)
    rows = {name: row for name, row in paper.IMPLICIT_REGULARIZATION.items() if follows or name == "gd"}
    rows["gd_plain"] = rows["gd"]
    return {name: {metric: row.get(metric) for metric in PUBLISHED} for name, row in rows.items()}
