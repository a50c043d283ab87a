"""Granulated rank correlation: arms that differ in one hyperparameter alone.

Public as `ntkgen.stats.granulated`.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._arms import arm_means, joint
from ntkgen.stats._check import check
from ntkgen.stats._design import Factor, Settings, design

MOST_EXACT = 6  # arms in a group; 720 orders


class Granule(NamedTuple):
    """psi of one hyperparameter: the mean of Kendall's tau over groups of arms that differ in it alone.

    ``smallest`` is the smallest p-value that these groups could give. If it is above 0.05, ``pvalue`` is NaN and
    ``undecided`` says why.
    """

    psi: float
    pvalue: float
    low: float
    high: float
    num_groups: int
    num_pairs: int
    exact: bool
    smallest: float
    undecided: str


class Granulated(NamedTuple):
    """Psi, the mean of psi over hyperparameters, its interval [low, high] and p-value, and each psi by name."""

    psi: float
    pvalue: float
    low: float
    high: float
    se: float
    parts: dict[str, Granule]
    num_arms: int


def granulated(
    settings: Settings,
    measure: ArrayLike,
    outcome: ArrayLike,
    *,
    level: float = 0.95,
    num_permutations: int = 1_999,
    seed: int = 0,
) -> Granulated:
    """Return psi of every hyperparameter and their mean Psi (Jiang et al. 2020, eqs. 5 and 6).

    A group holds the arms that agree in all hyperparameters but one. psi is the mean over groups of Kendall's tau in
    the group, concordant minus discordant pairs over all pairs (tau-a: a tie counts as neither).

    The p-value of psi permutes outcomes within the groups. It is exact: the null distribution is the convolution of
    those of the groups (for pairs, sign flips). A group of more than 6 arms gives random permutations instead, with
    p = (1 + hits) / (1 + permutations). The null hypothesis is that within a group any arm could have any outcome, or
    any measure. Other hyperparameters may drive both. If the hyperparameter itself drives measure and outcome, psi is
    not null, and the test finds that: psi does not say that the measure explains the outcome.

    The interval of psi is Student's over groups. Ten groups with tau = 1 do not show that psi is 1, so groups are added
    for it: two at +1 and two at -1 where all groups are pairs (Agresti & Coull 1998), one each where they are larger.
    Pairs of different hyperparameters share arms. The standard error of Psi therefore contains the covariances of all
    pairs with an arm in common (Aronow, Samii & Assenova 2015); its p-value is Student's with A - 1 degrees of freedom
    and assumes psi = 0 for each hyperparameter.

    Example:
      >>> plan = [{"width": w, "depth": d} for w in range(6) for d in (1, 2)]
      >>> found = granulated(plan, [[arm] for arm in range(12)], [[arm] for arm in range(12)])
      >>> round(found.psi, 3), found.parts["depth"].pvalue
      (1.0, 0.03125)

    Args:
      settings: of the arms, or their `design`.
      measure: shape (arms, replicates) or (arms, replicates, seeds), NaN for a lost run.
      outcome: the same shape.
      level: nominal coverage.
      num_permutations: where a group is too large for exact p-values.
      seed: of these permutations.

    Returns:
      The result. A hyperparameter without any pair has no part.

    Raises:
      ValueError: shapes that differ or do not match the settings, an infinity, or an option out of its range.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    plan = design(settings)
    a, b = (arm_means(x) for x in joint(measure, outcome, plan.num_arms))
    parts, pairs = {}, []
    for factor in plan.factors:
        kept = ~np.isnan(a[factor.first] + a[factor.second])
        first, second, labels = factor.first[kept], factor.second[kept], factor.pair_groups[kept]
        if not len(first):
            continue
        signs = np.sign(a[second] - a[first]) * np.sign(b[second] - b[first])
        counts = np.bincount(labels)
        taus = np.bincount(labels, signs)[counts > 0] / counts[counts > 0]
        psi = float(taus.mean())
        null = _null(factor, a, b, num_permutations, seed)
        parts[factor.name] = _granule(psi, taus, len(first), null, level)
        pairs.append((first, second, signs, psi, 1 / (counts[labels] * len(taus))))
    there = int((~np.isnan(a)).sum())
    if not parts:
        return Granulated(math.nan, math.nan, math.nan, math.nan, math.nan, parts, there)
    first, second, signs = (np.concatenate([part[k] for part in pairs]) for k in range(3))
    weights = np.concatenate([part[4] for part in pairs]) / len(pairs)
    centres = np.concatenate([np.full(len(part[0]), part[3]) for part in pairs])
    psi = float(weights @ signs)
    se, null_se = (_dyadic(first, second, weights * x, plan.num_arms) for x in (signs - centres, signs))
    half = float(stats.t.ppf((1 + level) / 2, there - 1)) * se
    pvalue = float(2 * stats.t.sf(abs(psi) / null_se, there - 1)) if null_se else 1.0
    return Granulated(psi, pvalue, max(psi - half, -1.0), min(psi + half, 1.0), se, parts, there)


def _granule(psi: float, taus: np.ndarray, num_pairs: int, null: tuple, level: float) -> Granule:
    values, chances, exact = null
    reached, largest = np.abs(values) >= abs(psi) - 1e-9, np.abs(values) >= 1 - 1e-9
    extra = 0.0 if exact else 1 / (1 + len(values))
    pvalue = min(1.0, float(chances[reached].sum()) + extra)
    smallest = min(1.0, float(chances[largest].sum()) + extra)
    undecided = "" if smallest <= 0.05 else f"{len(taus)} groups, {num_pairs} pairs; the smallest p is {smallest:.2g}"
    added = 2 if num_pairs == len(taus) else 1
    padded = np.concatenate([taus, np.repeat([1.0, -1.0], added)])
    half = float(stats.t.ppf((1 + level) / 2, len(padded) - 1) * padded.std(ddof=1) / math.sqrt(len(padded)))
    low, high = max(padded.mean() - half, -1.0), min(padded.mean() + half, 1.0)
    shown = math.nan if undecided else pvalue
    return Granule(psi, shown, float(low), float(high), len(taus), num_pairs, exact, smallest, undecided)


def _null(factor: Factor, a: np.ndarray, b: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return values of psi under the null hypothesis, their probabilities, and whether these are exact."""
    there = np.flatnonzero((factor.groups >= 0) & ~np.isnan(a))
    there = there[np.argsort(factor.groups[there], kind="stable")]
    _, starts, sizes = np.unique(factor.groups[there], return_index=True, return_counts=True)
    kept = sizes > 1
    starts, sizes = starts[kept], sizes[kept]
    exact = bool(sizes.max() <= MOST_EXACT)
    rng = np.random.default_rng(seed)
    unit = math.lcm(*(int(size * (size - 1) // 2) for size in np.unique(sizes)))
    chances, draws = np.ones(1), np.zeros(count)
    for size in np.unique(sizes):
        rows = there[starts[sizes == size][:, None] + np.arange(size)]
        i, j = np.triu_indices(size, 1)
        known = np.sign(a[rows[:, j]] - a[rows[:, i]])
        if exact:
            moved = b[rows][:, _orders(int(size))]
        else:
            moved = rng.permuted(np.repeat(b[rows][:, None], count, 1), axis=2)
        scores = np.einsum("gp,gop->go", known, np.sign(moved[:, :, j] - moved[:, :, i]))
        if exact:
            step, most = unit // len(i), len(i)
            for row in (scores + most).astype(int):
                own = np.zeros(2 * unit + 1)
                own[::step] = np.bincount(row, minlength=2 * most + 1) / scores.shape[1]
                chances = np.convolve(chances, own)
        else:
            draws += scores.sum(0) / len(i)
    if exact:
        values = (np.arange(len(chances)) - len(chances) // 2) / (unit * len(sizes))
        return values, chances, True
    return draws / len(sizes), np.full(count, 1 / (1 + count)), False


@functools.cache
def _orders(size: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(size))))


def _dyadic(first: np.ndarray, second: np.ndarray, terms: np.ndarray, num_arms: int) -> float:
    """Return the standard error of a sum over pairs in which pairs with an arm in common may be correlated."""
    by_arm = np.bincount(first, terms, num_arms) + np.bincount(second, terms, num_arms)
    own = float(terms @ terms)
    return math.sqrt(max(float(by_arm @ by_arm) - own, own))
