"""The tables of the implicit-regularization study: means with intervals, families of tests, and what they decide."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from implicit_regularization_arms import SHARPNESS
from scipy import stats as scipy_stats

from ntkgen import paper, stats
from ntkgen.studies import tables

# Fixed before any run; part of its config.
FIXED: dict[str, Any] = {
    "alpha": 0.05,
    "accuracy_needed": 99.9,  # percent of the training set: below it an arm's sharpness is not compared
    "margin_points": stats.ACCURACY,
    "margin_log10": stats.SHARPNESS,
    "shown_targets": {"loss": 0.03, "temperature": 0.01},  # in summary.csv and one figure; they decide nothing
}
MATCHED = ("loss", "temperature")  # at equal training loss: along training, or by a temperature of the logits
FORMS = ("raw", *MATCHED)
PLAIN = ("train_acc", "test_acc", "gap", "train_loss", "test_loss", "distance", "relative_distance", "noise_scale")
PUBLISHED = ("train_acc", "test_acc", "gap")
PRIMARY = ("eigenvalue", "average_adaptive", "worst_adaptive")  # what the verdict on flatness names


class Study:
    """The rows of all arms, and what follows from them.

    Attributes:
      config: of the run.
      arms: name -> its description, in the order of training.
      seeds: in order; every array over seeds follows it.
      sweep: names of the SGD arms of the batch-size sweep at equal epochs, by batch size.
      sweeps: "epochs" -> sweep, "updates" -> those that make as many; without those of a single arm.
    """

    def __init__(
        self, config: dict[str, Any], tracking: list, matched: list, perturbation: list, correct: list, runs: list
    ) -> None:
        """Index the tables' rows, cells as text."""
        self.correct = tables.correctness(correct)
        self.config, self.tracking, self.perturbation, self.runs = config, tracking, perturbation, runs
        self.arms = {row["arm"]: row for row in runs}
        self.seeds = sorted({int(row["seed"]) for row in runs})
        self.sweep = self._by_batch("sgd")
        steps = [name for name, row in self.arms.items() if row["group"] == "steps"]
        base = f"sgd{config['reference']}"  # not among some arms of a study
        matched_steps = sorted([*([base] if base in self.arms else []), *steps], key=self.batch)
        found = {"epochs": self.sweep, "updates": matched_steps}
        self.sweeps = {name: arms for name, arms in found.items() if len(arms) > 1}
        self._matched = {
            (row["match"], float(row["target"]), row["metric"], row["arm"], int(row["seed"])): row for row in matched
        }
        self._runs = {(row["arm"], int(row["seed"])): row for row in runs}

    def _by_batch(self, group: str) -> list[str]:
        own = [name for name, row in self.arms.items() if row["group"] == group]
        return sorted(own, key=lambda name: int(self.arms[name]["batch"]))

    def batch(self, arm: str) -> int:
        """Give an arm's batch size."""
        return int(self.arms[arm]["batch"])

    def comparable(self, arm: str) -> bool:
        """Say whether every seed of an arm reached the training accuracy that a comparison of sharpness needs."""
        return all(row["comparable"] == "1" for row in self.runs if row["arm"] == arm)

    def values(self, arm: str, metric: str) -> np.ndarray:
        """Give a column of runs.csv over seeds (seeds,); NaN for diverged seeds and what did not converge."""
        found = []
        for seed in self.seeds:
            row = self._runs[arm, seed]
            bad = row["diverged"] == "1" or (metric in ("eigenvalue", "power") and row[f"{metric}_converged"] != "1")
            bad |= metric == "noise_scale" and row["noise_scale_resolved"] != "1"
            found.append(np.nan if bad else tables.number(row[metric]))
        return np.array(found)

    def sharpness(self, arm: str, metric: str, form: str = "raw", target: float | None = None) -> np.ndarray:
        """Give log10 of a sharpness over seeds; NaN where it is not positive, not converged or not reached."""
        if form == "raw":
            found = self.values(arm, metric)
        else:
            key = (form, self.config["shown_targets"][form] if target is None else target, metric, arm)
            rows = [self._matched.get((*key, seed)) for seed in self.seeds]
            good = [row is not None and row["converged"] == "1" for row in rows]
            found = np.array(
                [tables.number(row["value"]) if ok else np.nan for row, ok in zip(rows, good, strict=True)]
            )
        return np.log10(found, where=found > 0, out=np.full(len(found), np.nan))

    def targets(self, form: str) -> list[Any]:
        """List the training losses at which a form is measured; as trained there is a single one, unmatched."""
        return [None] if form == "raw" else list(self.config["loss_targets"])

    def metrics(self, form: str) -> list[str]:
        """List the kinds of sharpness that a form has; few along training with --track=light."""
        if form == "raw":
            return list(SHARPNESS)
        have = {key[2] for key in self._matched if key[0] == form}
        return [name for name in SHARPNESS if name in have]

    def fit_to_compare(self, sweep: str, metric: str, form: str, target: float | None = None) -> list[str]:
        """List a sweep's arms whose sharpness may be compared: at interpolation, or at the level with every seed."""
        arms = self.sweeps[sweep]
        if metric == "test_acc":
            return arms
        if form == "raw":
            return [name for name in arms if self.comparable(name)]
        return [name for name in arms if self.reaches(metric, form, name, target)]

    def reaches(self, metric: str, form: str, arm: str, target: float | None = None) -> bool:
        """Say whether every seed of an arm has a sharpness at the matched level."""
        return bool(np.isfinite(self.sharpness(arm, metric, form, target)).all())

    # --- Tables

    def summary(self) -> list[dict[str, Any]]:
        """Make summary.csv: a row for each arm, means over seeds with intervals; sharpness as log10."""
        found = []
        for name, about in self.arms.items():
            own = [row for row in self.runs if row["arm"] == name]
            row: dict[str, Any] = {"arm": name} | {
                key: about[key] for key in ("group", "batch", "images", "epochs", "steps", "base_rate", "update")
            }
            row |= {"num_seeds": len(own), "num_diverged": sum(one["diverged"] == "1" for one in own)}
            row["comparable"] = int(self.comparable(name))
            for metric in PLAIN:
                row |= tables.columns(metric, self.values(name, metric))
            row["num_noise_scales"] = int(np.isfinite(self.values(name, "noise_scale")).sum())
            for form in FORMS:
                for metric in self.metrics(form):
                    values = self.sharpness(name, metric, form)
                    column = f"log10_{metric}" + ("" if form == "raw" else f"_at_{form}")
                    row |= tables.columns(column, values) | {f"{column}_num": int(np.isfinite(values).sum())}
            power = self.runs_where(name, "power_converged")
            found.append(row | {"num_power_converged": power})
        return found

    def matched_summary(self) -> list[dict[str, Any]]:
        """Make matched.csv of the figures: log10 of every sharpness at every matched loss, means with intervals."""
        found = []
        for name in self.arms:
            for form in MATCHED:
                for metric, target in itertools.product(self.metrics(form), self.targets(form)):
                    values = self.sharpness(name, metric, form, target)
                    row = {"arm": name, "form": form, "metric": metric, "target": target}
                    row |= {"num": int(np.isfinite(values).sum())}
                    found.append(row | tables.columns("log10", values))
        return found

    def runs_where(self, arm: str, flag: str) -> int:
        """Count the seeds of an arm for which a flag is set."""
        return sum(row[flag] == "1" for row in self.runs if row["arm"] == arm)

    def comparison(self) -> list[dict[str, Any]]:
        """Make comparison.csv: published numbers beside ours, where the protocol is the published one."""
        ours = {}
        for name in self.arms:
            cells = {metric: tables.columns(metric, self.values(name, metric)) for metric in PUBLISHED}
            ours[name] = {
                metric: tuple(cell[f"{metric}_{end}"] for end in ("mean", "t_low", "t_high"))
                for metric, cell in cells.items()
            }
        return paper.compare({name: self.published().get(name, {}) for name in ours}, ours)

    def published(self) -> dict[str, dict[str, float | None]]:
        """Give the paper's accuracies and gaps if this run follows its protocol as we read it.

        Full-batch GD has its own number of images, and stands beside both readings of its momentum.
        """
        full = {"dataset": "cifar10", "model": "cnn", "channels": 32, "label_noise": 0.0}
        full |= {"epochs": paper.IMPLICIT_EPOCHS, "gd_images": paper.IMPLICIT_GD_IMAGES}
        batches = {"num_train": 50_000, "lr_scaling": "table", "reference": 128}
        if any(self.config.get(name) != value for name, value in full.items()):
            return {}
        follows = all(self.config.get(name) == value for name, value in batches.items())
        rows = {name: row for name, row in paper.IMPLICIT_REGULARIZATION.items() if follows or name == "gd"}
        rows["gd_plain"] = rows["gd"]
        return {name: {metric: row.get(metric) for metric in PUBLISHED} for name, row in rows.items()}

    # --- Tests

    def tests(self) -> list[dict[str, Any]]:
        """Make tests.csv: paired and Welch tests, adjusted within families; differences are first - second.

        Sharpness is compared as log10. Families: accuracy of each sweep; its sharpness as trained; controls against
        their references; Adam. Sharpness at equal loss is in `equal_losses`. `crossed_low` and `crossed_high` are the
        interval of a difference of accuracies over seeds and test images.
        """
        points, dex = self.config["margin_points"], self.config["margin_log10"]
        accuracy = {name: self.values(name, "test_acc") for name in self.arms}
        rows: list[dict[str, Any]] = []
        for matched, sweep in self.sweeps.items():
            pairs, equal = _pairs(sweep), f"equal {matched}"
            rows += tables.compare(f"accuracy, {equal}", "test_acc", accuracy, pairs, points)
            for metric in SHARPNESS:
                values = {name: self.sharpness(name, metric) for name in sweep}
                rows += tables.compare(f"sharpness, raw, {equal}", f"log10_{metric}", values, pairs, dex)
        controls = self.controls()
        rows += tables.compare("controls", "test_acc", accuracy, controls, points)
        values = {name: self.sharpness(name, "eigenvalue") for name in self.arms}
        rows += tables.compare("controls", "log10_eigenvalue", values, controls, dex)
        adam = [("adam", other) for other in dict.fromkeys((f"sgd{self.config['reference']}", *self.sweep[:1]))]
        rows += tables.compare("adam", "test_acc", accuracy, adam, points)
        rows = tables.adjust(rows)
        tables.cross(rows, self.correct)
        for row in rows:
            row["comparable"] = int(self.comparable(row["first"]) and self.comparable(row["second"]))
        return tables.adjust_equivalence(rows)

    def controls(self) -> list[tuple[str, str]]:
        """List the pairs of a control and an arm that it refers to."""
        groups = ("steps", "control")
        own = [(name, row["references"].split()) for name, row in self.arms.items() if row["group"] in groups]
        return [(name, other) for name, others in own for other in others]

    def equal_losses(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Make equal_loss.csv and equal_loss_curves.csv: sharpness at equal loss, over all targets.

        The first has a row for each comparison, decided from all targets that both arms reach (`stats`); p-values
        are adjusted within the families, which are as in `tests`. The second has a row for each target, with its
        interval and no p-value, since no single target decides.
        """
        cases = [
            (f"{form}, equal {matched}", form, metric, pair)
            for matched, sweep in self.sweeps.items()
            for form in MATCHED
            for metric in self.metrics(form)
            for pair in _pairs(sweep)
        ]
        cases += [(f"controls, {form}", form, "eigenvalue", pair) for form in MATCHED for pair in self.controls()]
        rows, curves = [], []
        for family, form, metric, (first, second) in cases:
            a, b = (np.stack([self.sharpness(name, metric, form, t) for t in self.targets(form)])
                    for name in (first, second))  # fmt: skip
            about = {"family": family, "form": form, "metric": metric, "first": first, "second": second}
            row, points = tables.at_equal_loss(about, a, b, self.targets(form), self.config["margin_log10"])
            rows.append(row)
            curves += points
        for family in dict.fromkeys(row["family"] for row in rows):
            own = [row for row in rows if row["family"] == family]
            tables.adjust_single(own)
            tables.adjust_equivalence(own)
        return rows, curves

    def trends(self) -> list[dict[str, Any]]:
        """Make trends.csv: Page's exact test that accuracy falls, or sharpness rises, with every larger batch.

        Seeds are its blocks. It tests equal ranks against a monotone order with at least one strict step, so it is
        no proof that every step goes that way: `steps_in_order` counts the means that do. At equal loss there is a row
        for each target; `relations` decides from all of them.
        """
        cases = [("test_acc", "raw"), *((metric, form) for form in FORMS for metric in self.metrics(form))]
        return [
            self._trend(sweep, *case, target)
            for sweep in self.sweeps
            for case in cases
            for target in self.targets(case[1])
        ]

    def _trend(self, sweep: str, metric: str, form: str, target: float | None) -> dict[str, Any]:
        """Test that sharpness rises, or that accuracy falls, over the arms that may be compared."""
        arms = self.fit_to_compare(sweep, metric, form, target)
        row: dict[str, Any] = {"sweep": sweep, "metric": metric, "form": form, "target": target}
        row |= {"arms": " ".join(arms), "num_arms": len(arms), "num_seeds": None, "statistic": None, "pvalue": None}
        row |= {"steps_in_order": None}
        if len(arms) < 3:
            return row
        values = self._own(arms, metric, form, target)
        values = -values if metric == "test_acc" else values
        kept = values[np.isfinite(values).all(1)]
        row["num_seeds"] = len(kept)
        if len(kept) < 2:
            return row
        found = scipy_stats.page_trend_test(kept, method="exact")
        order = int((np.diff(kept.mean(0)) > 0).sum())
        return row | {"statistic": found.statistic, "pvalue": float(found.pvalue), "steps_in_order": order}

    def associations(self) -> list[dict[str, Any]]:
        """Make associations.csv: accuracy with each sharpness in each form, over arms (`stats.association`).

        At equal loss there is a row for each target; `relations` decides from all of them.
        """
        return [
            self._association(sweep, metric, form, target)
            for sweep in self.sweeps
            for form in FORMS
            for metric in PRIMARY
            if metric in self.metrics(form)
            for target in self.targets(form)
        ]

    def _association(self, sweep: str, metric: str, form: str, target: float | None) -> dict[str, Any]:
        arms = self.fit_to_compare(sweep, metric, form, target)
        found: dict[str, Any] = {"sweep": sweep, "metric": metric, "form": form, "target": target}
        found |= {"num_arms": len(arms), "num_seeds": None, "tau": None, "pvalue": None}
        if len(arms) < 2:
            return found
        accuracy, sharpness = self._own(arms, "test_acc", "raw", None), self._own(arms, metric, form, target)
        if not np.isfinite(accuracy + sharpness).all(1).any():
            return found
        result = stats.association(accuracy, sharpness)
        found |= {"num_arms": result.num_arms, "num_seeds": result.n, "tau": result.tau}
        return found | {"pvalue": None if result.undecided else result.pvalue}

    def _own(self, arms: Sequence[str], metric: str, form: str, target: float | None) -> np.ndarray:
        """Give accuracy, or log10 of a sharpness, (seeds, arms)."""
        accuracy = metric == "test_acc"
        return np.stack(
            [self.values(a, metric) if accuracy else self.sharpness(a, metric, form, target) for a in arms], 1
        )


def _pairs(sweep: Sequence[str]) -> list[tuple[str, str]]:
    """List neighbours, and the first with the last."""
    return [*itertools.pairwise(sweep), *([(sweep[0], sweep[-1])] if len(sweep) > 2 else [])]


def over_targets(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Reduce the rows of `trends` or `associations` to one for each question, p-values adjusted over all of them.

    At equal loss p is the largest over the targets at which the test could be made, at least two of them, and 1 if tau
    changes its sign there (intersection-union). The numbers beside it are those of the target with the largest p.
    """
    found = []
    for key in dict.fromkeys((row["sweep"], row["metric"], row["form"]) for row in rows):
        own = [row for row in rows if (row["sweep"], row["metric"], row["form"]) == key]
        tested = [row for row in own if row["pvalue"] is not None]
        if len(tested) < (1 if key[-1] == "raw" else stats.LEAST):
            best = max(own, key=lambda row: row["num_arms"])
            found.append(best | {"pvalue": None, "adjusted": None, "num_targets": len(tested)})
            continue
        worst = max(tested, key=lambda row: row["pvalue"])
        agree = len({np.sign(row.get("tau", 1.0)) for row in tested}) == 1
        found.append(worst | {"pvalue": worst["pvalue"] if agree else 1.0, "adjusted": None,
                              "num_targets": len(tested)})  # fmt: skip
    return tables.adjust_single(found)
