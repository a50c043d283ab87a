"""The joint analysis: which measure goes with the generalization gap, overall and with hyperparameters held fixed.

The outcome is the gap, training minus test accuracy in points, of networks that reached the loss at which all stop.
Arms are the units. Tests of one kind, over all measures, are one family; false discoveries are controlled within it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import norm

from ntkgen import measure, stats
from ntkgen.studies.base import Rows
from ntkgen.studies.mechanisms._config import INFORMATION, OVERALL, PARTIAL, PSI, SIGN_ERROR, Arm
from ntkgen.studies.tables import number

OUTCOME = "gap"
ALPHA = 0.05
# Main effects and products of two hyperparameters are taken out: with main effects alone the test rejects in 68 % where
# both follow the same curved function of two hyperparameters (BUILD_NOTES.md).
ORDER = 2
CHAIN = ("noise_scale", "eigenvalue")  # what batch size is said to act through
CALIBRATED = (OVERALL, PSI, PARTIAL)  # and each hyperparameter
PLANTED = (0.2, 0.35, 0.5, 0.7)  # correlations of normal scores


class Measured:
    """The networks' table as arrays: column -> (arms, replicates, seeds), NaN for a network that did not get there."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Sort the rows."""
        names = Arm._fields
        keys = [tuple(str(row[name]) for name in names) for row in rows]
        self.settings = [dict(zip(names, map(_value, key), strict=True)) for key in dict.fromkeys(keys)]
        places = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        replicates = sorted({int(row["replicate"]) for row in rows})
        seeds = {r: sorted({int(row["seed"]) for row in rows if int(row["replicate"]) == r}) for r in replicates}
        self.shape = len(places), len(replicates), max(map(len, seeds.values()))
        self.columns: dict[str, np.ndarray] = {}
        self.reached = np.zeros(self.shape, bool)
        for row, key in zip(rows, keys, strict=True):
            replicate = int(row["replicate"])
            at = places[key], replicates.index(replicate), seeds[replicate].index(int(row["seed"]))
            self.reached[at] = int(row["reached"]) and not int(row["diverged"])
            for column, cell in row.items():
                if column not in names:
                    self.columns.setdefault(column, np.full(self.shape, np.nan))[at] = number(cell)
        for values in self.columns.values():
            values[~self.reached | np.isinf(values)] = np.nan
        self.plan = stats.design(self.settings)

    @property
    def measures(self) -> list[str]:
        """Return the columns of which a direction is claimed and that vary."""
        claimed = [c for each in measure.MEASUREMENTS.values() for c, sign in each.direction.items() if sign]
        known = [column for column in claimed if column in self.columns]
        finite = {column: self.columns[column][np.isfinite(self.columns[column])] for column in known}
        return [column for column in known if len(np.unique(finite[column])) > 1]


def _value(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def associations(measured: Measured) -> Rows:
    """Return a row for each measure and kind of association with the gap, p-values adjusted within each kind."""
    rows: Rows = []
    for column in measured.measures:
        rows += associate(measured.plan, measured.columns[column], measured.columns[OUTCOME], {"measure": column})
    noises = sorted({setting["label_noise"] for setting in measured.settings})
    for noise in noises if len(noises) > 1 else ():
        own = [i for i, setting in enumerate(measured.settings) if setting["label_noise"] == noise]
        for column in measured.measures:
            found = stats.kendall_overall(measured.columns[column][own], measured.columns[OUTCOME][own])
            rows.append(_row({"measure": column}, f"overall, label noise {noise:g}", found.tau, found))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        family = [row for row in rows if row["kind"] == kind and row["p"] is not None]
        if family:
            for row, value in zip(family, stats.false_discovery([row["p"] for row in family])[1], strict=True):
                row["adjusted"] = float(value)
    return rows


def associate(plan: stats.Design, values: np.ndarray, outcome: np.ndarray, about: Mapping[str, Any]) -> Rows:
    """Return the associations of one measure with an outcome, overall and with hyperparameters held fixed."""
    overall = stats.kendall_overall(values, outcome)
    within = stats.granulated(plan, values, outcome)
    information = stats.conditional_information(plan, values, outcome)
    error = stats.robust_sign_error(plan, values, outcome)
    partial = stats.partial_association(plan, values, outcome, order=ORDER)
    rows = [_row(about, OVERALL, overall.tau, overall), _row(about, PSI, within.psi, within)]
    rows += [_row(about, name, part.psi, part) for name, part in within.parts.items()]
    rows.append(_row(about, INFORMATION, information.excess, information))
    rows.append(_row(about, SIGN_ERROR, error.robust, error))
    return [*rows, _row(about, PARTIAL, partial.correlation, partial)]


def _row(about: Mapping[str, Any], kind: str, value: float, found: Any) -> dict[str, Any]:
    ends = {name: _finite(getattr(found, name, None)) for name in ("low", "high")}
    said = getattr(found, "undecided", "")
    row = {**about, "kind": kind, "value": _finite(value), **ends, "p": _finite(found.pvalue), "adjusted": None}
    return row | {"undecided": said}


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def effects(measured: Measured) -> Rows:
    """Return the effect of each hyperparameter on the gap and on every measure, all others held fixed.

    Of measures that are positive throughout the decimal logarithm is taken.
    """
    rows: Rows = []
    chain = (name for name in CHAIN if name in measured.columns)
    for column in dict.fromkeys((OUTCOME, *measured.measures, *chain)):
        values, scale = (
            logarithm(measured.columns[column]) if column != OUTCOME else (measured.columns[column], "points")
        )
        for one in stats.effects(measured.plan, values):
            about: dict[str, Any] = {"column": column, "scale": scale, "hyperparameter": one.hyperparameter}
            about |= {"from": one.levels[0], "to": one.levels[1], "effect": _finite(one.mean)}
            about |= {"low": _finite(one.low), "high": _finite(one.high), "p": _finite(one.pvalue)}
            rows.append(about | {"adjusted": None, "num_groups": one.num_groups, "undecided": one.undecided})
    for name in dict.fromkeys(row["hyperparameter"] for row in rows):
        family = [row for row in rows if row["hyperparameter"] == name and row["p"] is not None]
        if family:
            for row, value in zip(family, stats.false_discovery([row["p"] for row in family])[1], strict=True):
                row["adjusted"] = float(value)
    return rows


def logarithm(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Return log10 of values that are all positive, else the values; and the name of the scale."""
    known = values[np.isfinite(values)]
    return (np.log10(values), "log10") if known.size and (known > 0).all() else (values, "")


def path(measured: Measured) -> dict[str, Any]:
    """Return the mediation of batch size through gradient noise and curvature to the gap, with what refutes it."""
    if "batch_size" not in measured.plan.names or any(name not in measured.columns for name in CHAIN):
        return {"undecided": "needs two batch sizes, gradient_noise and sharpness"}
    x = np.log2([setting["batch_size"] for setting in measured.settings])
    mediators = [logarithm(measured.columns[name])[0] for name in CHAIN]
    groups = measured.plan.factor("batch_size").groups
    found = stats.mediation(x, mediators, measured.columns[OUTCOME], groups)
    names = ("batch size to noise", "noise to curvature", "curvature to gap")
    parts = dict(zip(names, found.steps, strict=True))
    parts |= {"indirect": found.indirect, "total": found.total, "direct": found.direct}
    ends = {name: {end: _finite(getattr(one, end)) for end in ("value", "low", "high")} for name, one in parts.items()}
    return ends | {"refuted": list(found.refuted), "num_groups": found.num_groups, "undecided": found.undecided}


def calibrate(measured: Measured, count: int, seed: int = 0) -> Rows:
    """Return how often the tests find an association where there is none, and where one was planted.

    None: the gaps of whole arms are permuted among all arms. Planted: the normal scores of a measure, weighed, are
    added to those of the permuted gaps. The rate is the share of p-values of at most 5 % over measures; its interval
    is Student's over permutations, within which measures are not independent.

    Args:
      measured: the networks.
      count: permutations.
      seed: of the permutations.
    """
    rng = np.random.default_rng(seed)
    outcome, plan = measured.columns[OUTCOME], measured.plan
    there = np.flatnonzero(np.isfinite(outcome).any((1, 2)))
    hits: dict[tuple[str, float], dict[int, list[bool]]] = {}

    def note(index: int, strength: float, values: np.ndarray, given: np.ndarray) -> None:
        for kind, pvalue in _pvalues(plan, values, given).items():
            hits.setdefault((kind, strength), {}).setdefault(index, []).append(pvalue <= ALPHA)

    for index in range(count):
        moved = np.full(outcome.shape, np.nan)
        moved[there] = outcome[rng.permutation(there)]
        for column in measured.measures:
            note(index, 0.0, measured.columns[column], moved)
        values = measured.columns[measured.measures[int(rng.integers(len(measured.measures)))]]
        scores = [_scores(each) for each in (values, moved)]
        for strength in PLANTED:
            planted = strength * scores[0] + np.sqrt(1 - strength**2) * scores[1]
            note(index, strength, values, np.where(np.isfinite(moved), planted[:, None, None], np.nan))
    return _rates(hits)


def _pvalues(plan: stats.Design, values: np.ndarray, outcome: np.ndarray) -> dict[str, float]:
    within = stats.granulated(plan, values, outcome)
    found = {OVERALL: stats.kendall_overall(values, outcome, num_permutations=499).pvalue, PSI: within.pvalue}
    found |= {name: part.pvalue for name, part in within.parts.items()}
    found[PARTIAL] = stats.partial_association(plan, values, outcome, order=ORDER, num_permutations=499).pvalue
    return {kind: pvalue for kind, pvalue in found.items() if np.isfinite(pvalue)}


def _rates(hits: Mapping[tuple[str, float], Mapping[int, list[bool]]]) -> Rows:
    rows: Rows = []
    for (kind, strength), found in hits.items():
        by_permutation = [float(np.mean(own)) for own in found.values()]
        interval = stats.interval(by_permutation, "t", on_too_few="nan")
        low, high = max(interval.low, 0.0), min(interval.high, 1.0)
        row = {"kind": kind, "planted": strength, "rate": float(np.mean(by_permutation)), "low": low, "high": high}
        row |= {"permutations": len(found), "holds": int(low <= ALPHA) if strength == 0 else None}
        rows.append(row)
    return rows


def _scores(values: np.ndarray) -> np.ndarray:
    """Return normal scores of the ranks of the arms' means (arms,), NaN where an arm has none."""
    there = np.isfinite(values).any((1, 2))
    found = np.full(len(values), np.nan)
    ranks = np.nanmean(values[there], (1, 2)).argsort().argsort()
    found[there] = norm.ppf((ranks + 0.5) / there.sum())
    return found
