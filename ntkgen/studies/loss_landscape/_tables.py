"""The tables of the loss-landscape study: summary, tests between the arms, and comparison with the paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ntkgen import paper, stats
from ntkgen.studies import relations, tables
from ntkgen.studies.loss_landscape._config import ARMS
from ntkgen.studies.loss_landscape._curves import KINDS, by_arm, losses_of, measured, perturbed
from ntkgen.studies.relations import Relation
from ntkgen.studies.tables import number

SMALL, LARGE = ARMS
# Smallest differences that would matter: a factor in curvature (the paper claims 11.8), points of accuracy.
FACTOR, POINTS = 10**stats.SHARPNESS, stats.ACCURACY
AT_EQUAL_LOSS = "equal loss"


@dataclass(frozen=True)
class Question:
    """What is compared between the arms.

    Attributes:
      name: in tests.csv, equal_loss.csv and verdict.json.
      about: in words.
      column: of runs.csv; of matched.csv at equal loss.
      ratio: whether arms are compared by their ratio, so logarithms are tested; else by their difference.
      family: the tests within which false discoveries are controlled.
      control: name of the question whose answer could overturn this one, or why there is none.
    """

    name: str
    about: str
    column: str
    ratio: bool = True
    family: str = "measures"
    control: str = f"{relations.NO_CONTROL}: equal updates are in ntkgen implicit_regularization --controls=steps"

    @property
    def relation(self) -> Relation:
        """Return the claim that is tested: the large batch is sharper, and its accuracy lower."""
        metric, margin = (f"log {self.column}", float(np.log(FACTOR))) if self.ratio else (self.column, POINTS)
        return Relation(self.about, self.family, metric, LARGE, SMALL, sign=+1 if self.ratio else -1, margin=margin)


POWER_ITERATION = Question(
    "power_iteration", "top eigenvalue by the paper's power iteration", "power_value", control="raw"
)
QUESTIONS = (
    Question("raw", "top eigenvalue", "top_value", control="matched"),
    Question("raw_many", "top eigenvalue on more samples", "top_many_value", control="raw"),
    POWER_ITERATION,
    Question("adaptive_worst", "worst-case adaptive sharpness", "adaptive_worst", control="adaptive_worst_matched"),
    Question("adaptive_average", "average adaptive sharpness", "adaptive_average", control="adaptive_average_matched"),
    Question("trace", "trace", "trace", control=f"{relations.NO_CONTROL}: it is not measured at equal loss"),
    Question("accuracy", "test accuracy", "test_acc", ratio=False),
)
# At equal training loss, by temperature. Rescaled layers change the eigenvalue, and adaptive sharpness not.
MATCHED = (
    Question(
        "matched", "top eigenvalue at equal loss", "top_value", family=AT_EQUAL_LOSS, control="adaptive_average_matched"
    ),
    Question(
        "adaptive_worst_matched", "worst-case adaptive sharpness at equal loss", "adaptive_worst", family=AT_EQUAL_LOSS
    ),
    Question(
        "adaptive_average_matched", "average adaptive sharpness at equal loss", "adaptive_average", family=AT_EQUAL_LOSS
    ),
)
METRICS = ("train_loss", "train_acc", "test_loss", "gap", "steps", *(question.column for question in QUESTIONS))


def summarise(runs: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make summary.csv: means with intervals, and how many seeds diverged, interpolate, and converged.

    The columns at equal loss end with it: `top_value_at_0.1`.
    """
    kept = [{**row, **{name: measured(row, name) for name in METRICS}} for row in runs]
    summary = tables.summarise(kept, ("arm", "batch_size", "learning_rate"), METRICS)
    for row in summary:
        members = [run for run in runs if run["arm"] == row["arm"]]
        for name in ("diverged", "interpolates", *(c for c in members[0] if c.endswith("_converged"))):
            row[f"num_{name}"] = int(sum(number(run[name]) for run in members))
        for target in losses_of(matched):
            own = [one for one in matched if one["arm"] == row["arm"] and number(one["target"]) == target]
            row[f"num_temperature_found_at_{target:g}"] = sum(
                np.isfinite(number(x["inverse_temperature"])) for x in own
            )
            row[f"num_top_converged_at_{target:g}"] = int(sum(number(one["top_converged"]) for one in own))
            for question in MATCHED:
                row |= tables.columns(f"{question.column}_at_{target:g}", by_arm(own, question.column)[row["arm"]])
    return summary


class ArmTests(NamedTuple):
    """Tests between the arms.

    Attributes:
      rows: of tests.csv, by what is tested.
      rises: kind of perturbation -> the tests of how much it raises the loss, by increasing strength.
    """

    rows: dict[Relation, dict[str, Any]]
    rises: dict[str, list[Relation]]


def compare_arms(runs: Sequence[Mapping[str, Any]], perturbation: Sequence[Mapping[str, Any]]) -> ArmTests:
    """Test large against small batch in every measure; p-values are adjusted within each of two families."""
    values = {question.relation: by_arm(runs, question.column, log=question.ratio) for question in QUESTIONS}
    names = {question.relation: question.name for question in QUESTIONS}
    rises = {}
    for kind in KINDS:
        rise = rise_of_loss(perturbation, kind)
        values |= rise
        names |= dict.fromkeys(rise, f"perturbation_{kind}")
        rises[kind] = list(rise)
    found = relations.test(list(values), {relation.metric: arms for relation, arms in values.items()})
    return ArmTests({relation: {"question": names[relation], **row} for relation, row in found.items()}, rises)


def rise_of_loss(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[Relation, dict[str, np.ndarray]]:
    """Return by strength of a perturbation how much it raises the loss: arm -> (seeds,)."""
    sigmas, losses = perturbed(rows, kind)
    claim = "the large batch's loss rises more"
    return {
        Relation(claim, "perturbation", f"increase of the loss, {kind} sigma {sigma:g}", LARGE, SMALL): {
            arm: (moved - unmoved)[k] for arm, (moved, unmoved) in losses.items()
        }
        for k, sigma in enumerate(sigmas)
    }


def compare_at_equal_loss(
    matched: Sequence[Mapping[str, Any]],
) -> tuple[dict[Relation, dict[str, Any]], list[dict[str, Any]]]:
    """Make equal_loss.csv, by what is tested, and equal_loss_curves.csv: over all losses, and at each.

    Natural logarithms. One row for each measure decides, from all losses that both arms reach; p-values are adjusted
    over the measures. The rows at single losses have intervals and no p-value.
    """
    rows, points = {}, []
    levels = losses_of(matched)
    for question in MATCHED:
        relation = question.relation
        at = [by_arm([row for row in matched if number(row["target"]) == t], question.column, log=True) for t in levels]
        large, small = (np.stack([one[arm] for one in at]) for arm in (relation.first, relation.second))
        about = {"family": relation.family, "question": question.name, "first": relation.first}
        about["second"] = relation.second
        rows[relation], curve = tables.at_equal_loss(about, large, small, levels, relation.margin or 0.0)
        points += curve
    tables.adjust_equivalence(tables.adjust_single(list(rows.values())))
    return rows, points


def beside_published(runs: Sequence[Mapping[str, Any]], tested: ArmTests, same: bool) -> list[dict[str, Any]]:
    """Make comparison.csv: ours beside the published values where the protocol is the `same`, else alone."""
    ours: dict[int, dict[str, Any]] = {}
    for arm in ARMS:
        batch = next(int(run["batch_size"]) for run in runs if run["arm"] == arm)
        accuracy = tables.columns("x", by_arm(runs, "test_acc")[arm])
        eigenvalue = tables.columns("x", by_arm(runs, POWER_ITERATION.column)[arm])
        ours[batch] = {
            name: tuple(found[f"x_{end}"] for end in ("mean", "t_low", "t_high"))
            for name, found in (("test_acc", accuracy), ("top_eigenvalue", eigenvalue))
        }
    ratio = tested.rows[POWER_ITERATION.relation]
    if ratio["difference"] is not None:
        ours[batch]["eigenvalue_ratio"] = tuple(float(np.exp(ratio[name])) for name in ("difference", "low", "high"))
    return paper.compare(paper.LOSS_LANDSCAPE if same else {}, ours)
