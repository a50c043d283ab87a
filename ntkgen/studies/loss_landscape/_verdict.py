"""The verdict of the loss-landscape study: is a difference between the arms seen, in each measure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import stats
from ntkgen.studies.loss_landscape._config import ARMS
from ntkgen.studies.loss_landscape._tables import MATCHED, POWER_ITERATION, QUESTIONS, ArmTests, Question
from ntkgen.studies.relations import Relation
from ntkgen.studies.tables import number

ALPHA = 0.05


def judge(
    runs: Sequence[Mapping[str, Any]], tested: ArmTests, curves: Mapping[Relation, Mapping[str, Any]]
) -> dict[str, Any]:
    """Make verdict.json: is the difference seen, not seen or undecided, in each measure.

    "Seen" needs the paired test, in either direction, and "not seen" the equivalence test, both adjusted for the false
    discovery rate. Else it is undecided, with the effect that so many seeds would have shown at 80 % power.
    """
    answers = {question.name: answer(question, tested.rows[question.relation]) for question in QUESTIONS}
    answers |= {question.name: answer_over_losses(question, curves[question.relation]) for question in MATCHED}
    lost = int(sum(number(run["power_converged"]) != 1 for run in runs))
    answers[POWER_ITERATION.name]["words"] += f"; {lost} of {len(runs)} networks not converged" if lost else ""
    for question in (*QUESTIONS, *MATCHED):
        control = answers.get(question.control)
        said = f"{control['about']}: {control['words']}" if control else question.control
        answers[question.name]["control"] = said
    below = {arm: int(sum(not number(run["interpolates"]) for run in runs if run["arm"] == arm)) for arm in ARMS}
    sensitive = [tested.rows[relation] for relation in tested.rises["absolute"]]
    seen = [row["difference"] for row in sensitive if row["difference"] is not None and row["paired_adjusted"] <= ALPHA]
    return {
        "answers": answers,
        "below_interpolation": below,
        "comparable": not any(below.values()),
        "perturbation": {
            "sigmas": len(sensitive),
            "large_more_sensitive": sum(difference > 0 for difference in seen),
            "small_more_sensitive": sum(difference < 0 for difference in seen),
        },
        "verdict": "; ".join(f"{found['about']}: {found['words']}" for found in answers.values()),
    }


def answer(question: Question, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a test of the final networks says, in the question's own unit."""
    unit = "ratio large / small" if question.ratio else "points, large - small"
    found: dict[str, Any] = {"about": question.about, "unit": unit}
    if row["difference"] is None:
        return found | {"answer": stats.UNDECIDED, "words": f"{stats.UNDECIDED} ({row['undecided']})"}
    scale = np.exp if question.ratio else float
    for name in ("difference", "low", "high", "margin", "detectable"):
        found[name] = float(scale(row[name]))
    found |= {name: row[name] for name in ("num_pairs", "paired_adjusted", "welch_adjusted", "equivalence_adjusted")}
    size = f"{found['difference']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"
    open_end = f"{found['num_pairs']} pairs would have shown {found['detectable']:.3g}"
    return found | decided(row["difference"], row["paired_adjusted"], found, size, "", open_end)


def answer_over_losses(question: Question, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the test at all losses says: seen, or not, only where every one of them says so."""
    found: dict[str, Any] = {"about": question.about, "unit": "ratio large / small"}
    found |= {name: row[name] for name in ("num_targets", "num_pairs", "adjusted", "equivalence_adjusted")}
    found["margin"] = float(np.exp(row["margin"]))
    size = ""
    if row["lowest"] is not None:
        found |= {name: float(np.exp(row[name])) for name in ("lowest", "highest")}
        size = f"ratios {found['lowest']:.3g} to {found['highest']:.3g} at {row['num_targets']} losses"
    if row["undecided"]:
        words = f"{stats.UNDECIDED} ({row['undecided']}{'; ' * bool(size)}{size})"
        return found | {"answer": stats.UNDECIDED, "words": words}
    return found | decided(
        row["sign"], row["adjusted"], found, size, " at every loss", "no answer that holds at every loss"
    )


def decided(
    difference: float, pvalue: float, found: Mapping[str, Any], size: str, where: str, undecided: str
) -> dict[str, str]:
    """Return the answer of a test, a difference in either direction being one, and its words.

    Args:
      difference: large - small; only its sign counts.
      pvalue: of the test of no difference, adjusted.
      found: the adjusted equivalence test and its margin, in the question's own unit.
      size: the difference, in words.
      where: it holds, in words.
      undecided: what is said where neither test rejects.
    """
    equivalence_p, sign = found["equivalence_adjusted"], 1 if difference > 0 else -1
    within = f"equivalent within {found['margin']:.3g}"
    word = stats.decide(
        difference, pvalue, sign=sign, alpha=ALPHA, equivalence_p=equivalence_p, margin=found["margin"]
    ).word
    tail = {
        stats.SEEN: f"larger for the {'large' if sign > 0 else 'small'} batch{where}",
        stats.NOT_SEEN: f"{within}{where}",
        stats.UNDECIDED: undecided,
    }[word]
    if word == stats.SEEN and equivalence_p <= ALPHA:
        tail += f", but {within}"
    return {"answer": word, "words": f"{word}, {size} ({tail})"}
