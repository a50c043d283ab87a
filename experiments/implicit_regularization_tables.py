"""The tables of the implicit-regularization study: means with intervals, families of tests, and what they decide."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import tables
from implicit_regularization_arms import SHARPNESS
from scipy import stats as scipy_stats

from ntkgen import paper, stats

# Fixed before any run; part of its config.
FIXED: dict[str, Any] = {
    "alpha": 0.05,
    "accuracy_needed": 99.9,  # percent of the training set: below it an arm's sharpness is not compared
    "margin_points": 0.5,  # of test accuracy: differences below it do not matter
    "margin_log10": 0.1,  # of sharpness, a factor of 1.26
    "primary_loss": 0.03,  # of the loss targets, the one that decides
}
FORMS = ("raw", "loss", "temperature")
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

    def __init__(self, config: dict[str, Any], tracking: list, matched: list, perturbation: list, runs: list) -> None:
        """Index the tables' rows, cells as text."""
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
            key = (form, self._target(form) if target is None else target, metric, arm)
            rows = [self._matched.get((*key, seed)) for seed in self.seeds]
            good = [row is not None and row["converged"] == "1" for row in rows]
            found = np.array(
                [tables.number(row["value"]) if ok else np.nan for row, ok in zip(rows, good, strict=True)]
            )
        return np.log10(found, where=found > 0, out=np.full(len(found), np.nan))

    def _target(self, form: str) -> float:
        return self.config["primary_loss" if form == "loss" else "temperature_target"]

    def metrics(self, form: str) -> list[str]:
        """List the kinds of sharpness that a form has; few along training with --track=light."""
        if form == "raw":
            return list(SHARPNESS)
        have = {key[2] for key in self._matched if key[0] == form}
        return [name for name in SHARPNESS if name in have]

    def fit_to_compare(self, sweep: str, metric: str, form: str) -> list[str]:
        """List a sweep's arms whose sharpness may be compared: at interpolation, or at the level with every seed."""
        arms = self.sweeps[sweep]
        if metric == "test_acc":
            return arms
        return [name for name in arms if (self.comparable(name) if form == "raw" else self.reaches(metric, form, name))]

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

        Sharpness is compared as log10. Families: accuracy of each sweep; its sharpness raw, at matched loss, at
        matched temperature; controls against their references; Adam.
        """
        points, dex = self.config["margin_points"], self.config["margin_log10"]
        accuracy = {name: self.values(name, "test_acc") for name in self.arms}
        rows: list[dict[str, Any]] = []
        for matched, sweep in self.sweeps.items():
            pairs = list(itertools.pairwise(sweep))
            pairs += [(sweep[0], sweep[-1])] if len(sweep) > 2 else []
            equal = f"equal {matched}"
            rows += tables.compare(f"accuracy, {equal}", "test_acc", accuracy, pairs, points)
            for form in FORMS:
                for metric in self.metrics(form):
                    values = {name: self.sharpness(name, metric, form) for name in sweep}
                    rows += tables.compare(f"sharpness, {form}, {equal}", f"log10_{metric}", values, pairs, dex)
            for target in self.config["loss_targets"]:
                values = {name: self.sharpness(name, "eigenvalue", "loss", target) for name in sweep}
                label = f"log10_eigenvalue at {target:g}"
                rows += tables.compare(f"sharpness, all losses, {equal}", label, values, pairs, dex)
        against = [(name, other) for name, row in self.arms.items() for other in row["references"].split()]
        controls = [pair for pair in against if self.arms[pair[0]]["group"] in ("steps", "control")]
        rows += tables.compare("controls", "test_acc", accuracy, controls, points)
        for form, target in (("raw", None), *(("loss", target) for target in self.config["loss_targets"])):
            values = {name: self.sharpness(name, "eigenvalue", form, target) for name in self.arms}
            label = "log10_eigenvalue" + ("" if target is None else f" at {target:g}")
            rows += tables.compare("controls", label, values, controls, dex)
        adam = [("adam", other) for other in dict.fromkeys((f"sgd{self.config['reference']}", *self.sweep[:1]))]
        rows += tables.compare("adam", "test_acc", accuracy, adam, points)
        rows = tables.adjust(rows)
        for row in rows:
            row["comparable"] = int(self.comparable(row["first"]) and self.comparable(row["second"]))
        return tables.adjust_equivalence(rows)

    def trends(self) -> list[dict[str, Any]]:
        """Make trends.csv: Page's exact test that accuracy falls, or sharpness rises, with every larger batch.

        Seeds are its blocks. It tests equal ranks against a monotone order with at least one strict step, so it is
        no proof that every step goes that way: `steps_in_order` counts the means that do.
        """
        cases = [("test_acc", "raw"), *((metric, form) for form in FORMS for metric in self.metrics(form))]
        rows = [self._trend(sweep, *case) for sweep in self.sweeps for case in cases]
        return _adjust_pvalues(rows)

    def _trend(self, sweep: str, metric: str, form: str) -> dict[str, Any]:
        """Test that sharpness rises, or that accuracy falls, over the arms that may be compared."""
        arms = self.fit_to_compare(sweep, metric, form)
        row: dict[str, Any] = {
            "sweep": sweep,
            "metric": metric,
            "form": form,
            "arms": " ".join(arms),
            "num_arms": len(arms),
        }
        row |= {"num_seeds": None, "statistic": None, "pvalue": None, "adjusted": None, "steps_in_order": None}
        if len(arms) < 3:
            return row
        own = [
            -self.values(name, metric) if metric == "test_acc" else self.sharpness(name, metric, form) for name in arms
        ]
        values = np.stack(own, 1)
        kept = values[np.isfinite(values).all(1)]
        row["num_seeds"] = len(kept)
        if len(kept) < 2:
            return row
        found = scipy_stats.page_trend_test(kept, method="exact")
        order = int((np.diff(kept.mean(0)) > 0).sum())
        return row | {"statistic": found.statistic, "pvalue": float(found.pvalue), "steps_in_order": order}

    def associations(self, metrics: Sequence[str]) -> list[dict[str, Any]]:
        """Correlate accuracy with each sharpness in each form; p-values adjusted over all of them."""
        cases = [(metric, form) for form in FORMS for metric in metrics if metric in self.metrics(form)]
        rows = [self._association(sweep, *case) for sweep in self.sweeps for case in cases]
        return _adjust_pvalues(rows)

    def _association(self, sweep: str, metric: str, form: str) -> dict[str, Any]:
        """Correlate accuracy and sharpness over the arms that may be compared: Kendall's tau, seeds as blocks.

        The seeds share the arms: it speaks of these arms, not of further ones.
        """
        arms = self.fit_to_compare(sweep, metric, form)
        found: dict[str, Any] = {"sweep": sweep, "metric": metric, "form": form, "num_arms": len(arms)}
        scores = []
        if len(arms) > 2:
            accuracy = np.stack([self.values(name, "test_acc") for name in arms], 1)
            own = np.stack([self.sharpness(name, metric, form) for name in arms], 1)
            kept = np.isfinite(accuracy + own).all(1)
            scores = [_concordance(*pair) for pair in zip(accuracy[kept], own[kept], strict=True)]
        found |= {"num_seeds": len(scores)} | dict.fromkeys(("tau", "pvalue", "adjusted"))
        if len(scores) > 1:
            pairs = len(arms) * (len(arms) - 1) / 2
            found |= {"tau": float(np.mean(scores) / pairs), "pvalue": concordance_pvalue(scores, len(arms))}
        return found


def _concordance(a: np.ndarray, b: np.ndarray) -> int:
    """Count concordant minus discordant pairs; ties count as neither."""
    signs = np.sign(a[:, None] - a[None]) * np.sign(b[:, None] - b[None])
    return int(np.triu(signs, 1).sum())


def concordance_pvalue(scores: Sequence[int], num_arms: int) -> float:
    """Give the exact two-sided p-value of summed Kendall scores, blocks independent, all orders equally likely."""
    one = np.ones(1)  # number of discordant pairs of one block: a sum of uniform numbers on 0 ... j
    for j in range(1, num_arms):
        one = np.convolve(one, np.full(j + 1, 1 / (j + 1)))
    total = np.ones(1)
    for _ in scores:
        total = np.convolve(total, one)
    values = len(total) - 1 - 2 * np.arange(len(total))  # concordant minus discordant
    return float(min(1.0, total[np.abs(values) >= abs(sum(scores))].sum()))


def _adjust_pvalues(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjust the p-values of one family; rows without one stay as they are."""
    tested = [row for row in rows if row["pvalue"] is not None]
    if tested:
        _, adjusted = stats.false_discovery([row["pvalue"] for row in tested])
        for row, value in zip(tested, adjusted, strict=True):
            row["adjusted"] = float(value)
    return rows
