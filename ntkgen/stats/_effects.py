"""Effect of each hyperparameter on a value, with all others fixed.

Public as `ntkgen.stats.effects`.
"""

import itertools
import math
from collections.abc import Hashable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._arms import arm_means, replicate_means, runs
from ntkgen.stats._check import check
from ntkgen.stats._design import Settings, design

ROUNDING = 1e-10  # a spread below this times the largest difference is rounding
MOST_EXACT = 12  # groups; 4,096 flips
LEAST_FLIPPED = 6  # groups; the smallest p of five is 2 / 32


class Effect(NamedTuple):
    """Mean change of a value from one level to the next, its interval [low, high], and two p-values.

    ``pvalue`` is Student's, for new arms and, with two replicates or more, new data replicates. ``pvalue_flips`` flips
    the signs of the groups' differences. ``undecided`` is empty, or says why the interval is NaN.
    """

    hyperparameter: str
    levels: tuple[Hashable, Hashable]
    mean: float
    low: float
    high: float
    pvalue: float
    pvalue_flips: float
    se: float
    df: float
    num_groups: int
    num_lost_groups: int
    undecided: str


def effects(
    settings: Settings, values: ArrayLike, *, level: float = 0.95, num_flips: int = 1_999, seed: int = 0
) -> tuple[Effect, ...]:
    """Return the mean paired difference of a value between consecutive levels of every hyperparameter.

    A difference is taken within a group of arms that agree in everything else, so no other hyperparameter can cause
    it. Groups are the units. With two replicates or more the interval is for new replicates as well: the differences
    form the two-way table groups x replicates, and the variance of their mean is
    (M_groups + max(M_replicates - M_rest, 0)) / (G R) with mean squares M, as in `crossed` (Searle, Casella &
    McCulloch 1992, ch. 4). The degrees of freedom are Satterthwaite's for these two parts. ``pvalue_flips`` flips the
    signs of the groups: all flips up to 12 groups, random ones beyond, where p = (1 + hits) / (1 + flips). It is about
    these replicates alone, and NaN with fewer than six groups.

    Example:
      >>> plan = [{"width": w, "rate": r} for w in (1, 2, 3) for r in (0.1, 0.2)]
      >>> found = effects(plan, [[0.0], [1.0], [5.0], [6.5], [9.0], [11.0]])
      >>> [(effect.hyperparameter, effect.levels, round(effect.mean, 3)) for effect in found]
      [('width', (1, 2), 5.25), ('width', (2, 3), 4.25), ('rate', (0.1, 0.2), 1.5)]

    Args:
      settings: of the arms, or their `design`.
      values: shape (arms, replicates) or (arms, replicates, seeds), NaN for a lost run.
      level: nominal coverage.
      num_flips: random flips with more than 12 groups.
      seed: of these flips.

    Returns:
      An effect for each two consecutive levels that a group has, in the order of settings and levels. A group that
      lost an arm is left out; one that lost a replicate counts in the mean over groups and not in the two-way table.

    Raises:
      ValueError: a shape that does not match the settings, an infinity, or an option out of its range.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    check(num_flips >= 1, f"num_flips: expected at least 1, got {num_flips}")
    plan = design(settings)
    given = runs(values, "values", plan.num_arms)
    means, table = arm_means(given), replicate_means(given)
    found = []
    for factor in plan.factors:
        low, high = factor.codes[factor.first], factor.codes[factor.second]
        for code in range(len(factor.levels) - 1):
            chosen = (low == code) & (high == code + 1)
            first, second = factor.first[chosen], factor.second[chosen]
            if not len(first):
                continue
            differences, rows = means[second] - means[first], table[second] - table[first]
            kept = ~np.isnan(differences)
            lost = int((~kept).sum())
            numbers, why = _summary(differences[kept], rows[kept], level, num_flips, seed)
            mean, start, end, pvalue, flips, se, df = numbers
            levels, count = (factor.levels[code], factor.levels[code + 1]), int(kept.sum())
            found.append(Effect(factor.name, levels, mean, start, end, pvalue, flips, se, df, count, lost, why))
    return tuple(found)


def _summary(d: np.ndarray, rows: np.ndarray, level: float, num_flips: int, seed: int) -> tuple[tuple[Any, ...], str]:
    """Return mean, low, high, p, p by flips, standard error, degrees of freedom, and why undecided."""
    if len(d) < 2:
        mean = float(d.mean()) if len(d) else math.nan
        return (mean, *[math.nan] * 6), f"{len(d)} groups; needs two"
    mean = float(d.mean())
    se, df = _standard_error(d, rows)
    half = float(stats.t.ppf((1 + level) / 2, df)) * se
    if se:
        pvalue = float(2 * stats.t.sf(abs(mean) / se, df))
    else:
        pvalue = 0.0 if mean else 1.0
    return (mean, mean - half, mean + half, pvalue, _flips(d, num_flips, seed), se, df), ""


def _standard_error(d: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    rounding = ROUNDING * float(np.abs(d).max())
    spread, df = float(d.std(ddof=1)) / math.sqrt(len(d)), float(len(d) - 1)
    rows = rows[~np.isnan(rows).any(1)]
    groups, replicates = rows.shape
    if replicates > 1 and groups > 1:
        by_replicate = rows.mean(0)
        rest = rows - rows.mean(1, keepdims=True) - by_replicate + rows.mean()
        noise = float((rest**2).sum()) / ((groups - 1) * (replicates - 1)) / (groups * replicates)
        extra = float(by_replicate.var(ddof=1)) / replicates - noise  # beyond the noise that groups already contain
        if extra > 0:
            df = (spread**2 + extra) ** 2 / (spread**4 / df + extra**2 / (replicates - 1))
            spread = math.sqrt(spread**2 + extra)
    return (spread, df) if spread > rounding else (0.0, df)


def _flips(d: np.ndarray, count: int, seed: int) -> float:
    if len(d) < LEAST_FLIPPED:
        return math.nan
    exact = len(d) <= MOST_EXACT
    if exact:
        signs = np.array(list(itertools.product((1, -1), repeat=len(d))), float)
    else:
        signs = np.random.default_rng(seed).choice([1.0, -1.0], (count, len(d)))
    hits = int((np.abs(signs @ d) >= abs(d.sum()) - 1e-12 * np.abs(d).sum()).sum())
    return hits / len(signs) if exact else (1 + hits) / (1 + count)
