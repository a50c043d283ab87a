"""Every published number beside ours, graded."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ntkgen import paper
from ntkgen.studies.base import Rows
from ntkgen.studies.tables import number

WITHIN, OUTSIDE, NOT_COMPARABLE, MISSING = "within", "outside", "not comparable", "missing"
GRADES = (WITHIN, OUTSIDE, NOT_COMPARABLE, MISSING)
LOST = "the value is lost in the text"
ONE_SEED = "one seed has no interval"
ROUNDING = 1e-9  # relative: the edge of a rounding interval belongs to it


def grade(
    published: paper.PublishedNumber, ours: float | None, low: float | None, high: float | None, differs: str
) -> tuple[str, str]:
    """Return how our number stands to a published one, and why.

    "within": our 95 % interval holds the published value, or a value that rounds to it. A number without an interval
    (a setting, a count of parameters) must round to it.

    Args:
      published: the number.
      ours: our mean; None where there is none.
      low: lower end of our interval; None or NaN where there is none.
      high: upper end.
      differs: where our experiment departs from the published one.
    """
    if published.value is None:
        return NOT_COMPARABLE, LOST
    if published.note in (paper.LOST_SIGMA, paper.NO_SETTING):
        return NOT_COMPARABLE, published.note
    if ours is None or math.isnan(ours):
        return MISSING, differs
    half = published.rounding / 2 + ROUNDING * max(1.0, abs(published.value))
    exact = published.kind != paper.MEASURED
    if exact and abs(ours - published.value) <= half:
        return WITHIN, published.note
    if differs:
        return NOT_COMPARABLE, differs
    bounded = low is not None and high is not None and not (math.isnan(low) or math.isnan(high))
    if not exact and not bounded:
        return (WITHIN, ONE_SEED) if abs(ours - published.value) <= half else (NOT_COMPARABLE, ONE_SEED)
    bottom, top = (ours, ours) if exact or low is None or high is None else (low, high)
    inside = bottom - half <= published.value <= top + half
    return WITHIN if inside else OUTSIDE, published.note


def compare_all(ours: Sequence[Mapping[str, Any]], parameters: Mapping[str, int], reasons: Mapping[str, str]) -> Rows:
    """Make published.csv: a row for every published number.

    Args:
      ours: rows of ours.csv.
      parameters: "mlp 8" -> our count.
      reasons: study -> why none of its numbers are there, in words.
    """
    known: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for each in ours:
        known.setdefault((each["experiment"], each["setting"], each["metric"]), each)
    experiments = {row["experiment"]: row for row in sorted(ours, key=lambda row: bool(row["differs"]))}
    rows = []
    for one in paper.published_numbers():
        row: Mapping[str, Any] | None = known.get((one.study, one.setting, one.metric))
        mean: float | None = None
        low, high = mean, mean
        differs, run = "", ""
        if one.kind == paper.PARAMETERS:
            mean = float(parameters[one.setting])
        elif row is not None:
            mean, low, high = (None if row[end] in ("", None) else number(row[end]) for end in ("ours", "low", "high"))
            differs, run = row["differs"] or "", row["run"]
        word, why = grade(one, mean, low, high, differs)
        if word == MISSING and one.value is not None:
            word, why, run = _absent(one, experiments, reasons, run)
        shown: dict[str, Any] = {"source": one.source, "study": one.study, "setting": one.setting, "metric": one.metric}
        shown |= {"kind": one.kind, "published": one.value, "ours": mean, "low": low, "high": high}
        rows.append(shown | {"status": word, "why": why, "run": run})
    return rows


def _absent(
    one: paper.PublishedNumber,
    experiments: Mapping[str, Mapping[str, Any]],
    reasons: Mapping[str, str],
    run: str,
) -> tuple[str, str, str]:
    """Return status, reason and run of a number that we do not have: another experiment, or none."""
    other = experiments.get(one.study)
    if other is not None:
        why = f"not measured: {other['differs']}" if other["differs"] else "not measured by this run"
        return (NOT_COMPARABLE if other["differs"] else MISSING), why, other["run"]
    study = one.study.partition(" ")[0]
    if study in reasons:
        return MISSING, reasons[study], run
    return MISSING, f"no run of {one.study}" if one.study else "not measured", run


def counts(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Return how many numbers have each status: results, and apart from them counts of parameters and settings.

    That a network has the published number of parameters reproduces no result.
    """
    results = [row for row in rows if row["kind"] == paper.MEASURED]
    others = [row for row in rows if row["kind"] != paper.MEASURED]
    return {
        name: {word: sum(row["status"] == word for row in own) for word in GRADES}
        for name, own in (("results", results), ("parameters and settings", others))
    }
