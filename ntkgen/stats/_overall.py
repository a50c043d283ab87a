"""Kendall's rank correlation over all arms, with an interval for other arms and other data replicates.

Public as `ntkgen.stats.kendall_overall`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._arms import arm_means, joint
from ntkgen.stats._association import LEAST_ARMS, MOST_EXACT, _all_orders, _random_orders
from ntkgen.stats._check import check


class Overall(NamedTuple):
    """Kendall's tau-b of arm means, its permutation p-value, and its interval [low, high].

    ``se_arms`` and ``se_replicates`` are the two parts of the standard error. The second is what replicates add beyond
    the noise of single runs; 0 with one replicate.
    ``undecided`` is empty, or says why ``pvalue``, ``low`` and ``high`` are NaN.
    """

    tau: float
    pvalue: float
    low: float
    high: float
    se_arms: float
    se_replicates: float
    num_arms: int
    num_lost_arms: int
    num_permutations: int
    undecided: str


def kendall_overall(
    measure: ArrayLike, outcome: ArrayLike, *, level: float = 0.95, num_permutations: int = 1_999, seed: int = 0
) -> Overall:
    """Return Kendall's tau-b between the arm means of a measure and of an outcome (Kendall 1945).

    The p-value permutes whole arms (as `association`): in every order up to 7 arms, in random orders beyond, where
    p = (1 + hits) / (1 + orders). Its null hypothesis is that any arm's outcome could belong to any arm's measure. If
    both spread more in the same arms this is false even at tau = 0, and p is too small; the interval does not need it.

    The interval is for new arms from the same population, measured with as many runs, and for new data replicates.
    A bootstrap of arms would count an arm with its own copies, which are ties and pull tau to zero. Here the arms are
    left out one by one instead: the jackknife of a U-statistic (Sen 1960; Arvesen 1969). The noise within an arm is
    part of that spread. What one replicate does to many arms is not, so replicates are left out one by one as well,
    for all arms at once. Both variances contain the noise of single runs, which is taken out of the second: single
    cells (arm, replicate) are left out too. The variance is V_arms + max(V_replicates - V_cells, 0), that of a two-way
    sample (Owen 2007), and the interval is Student's on the scale atanh(tau) with Satterthwaite's degrees of freedom.

    Example:
      >>> found = kendall_overall([[1.0], [2], [3], [4], [5]], [[2.0], [1], [3], [4], [5]])
      >>> round(found.tau, 3), round(found.pvalue, 3)
      (0.8, 0.083)

    Args:
      measure: shape (arms, replicates) or (arms, replicates, seeds), NaN for a lost run.
      outcome: the same shape. A run that is lost in one of the two is left out of both.
      level: nominal coverage.
      num_permutations: random orders with more than 7 arms.
      seed: of the random orders.

    Returns:
      The correlation; 0 if all arm means of one side are equal. With fewer than 5 arms p and interval are NaN.
      At tau = 1 or -1 the interval has no width.

    Raises:
      ValueError: shapes that differ, an infinity, or an option out of its range.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    first, second = joint(measure, outcome)
    a, b = arm_means(first), arm_means(second)
    there = ~np.isnan(a)
    a, b, num_arms = a[there], b[there], int(there.sum())
    lost = len(there) - num_arms
    tau, without_arm = _tau(a, b)
    if num_arms < LEAST_ARMS:
        nan = math.nan
        return Overall(tau, nan, nan, nan, nan, nan, num_arms, lost, 0, f"{num_arms} arms; needs five")
    exact = num_arms <= MOST_EXACT
    orders = _all_orders(num_arms) if exact else _random_orders(num_arms, num_permutations, seed)
    permuted = _permuted_scores(a, b, orders)
    score = _permuted_scores(a, b, np.arange(num_arms)[None])[0]
    hits = int((np.abs(permuted) >= abs(score)).sum())
    pvalue = hits / len(orders) if exact else (1 + hits) / (1 + len(orders))
    variance, (by_replicate, by_cell), df = (
        _jackknife(without_arm),
        _replicates(first[there], second[there]),
        num_arms - 1.0,
    )
    extra = max(by_replicate - by_cell, 0.0)
    if extra > 0:
        df = (variance + extra) ** 2 / (variance**2 / (num_arms - 1) + extra**2 / (first.shape[1] - 1))
    low = high = tau
    if variance + extra > 0 and abs(tau) < 1:
        half = stats.t.ppf((1 + level) / 2, df) * math.sqrt(variance + extra) / (1 - tau**2)
        low, high = math.tanh(math.atanh(tau) - half), math.tanh(math.atanh(tau) + half)
    return Overall(tau, pvalue, low, high, math.sqrt(variance), math.sqrt(extra), num_arms, lost, len(orders), "")


def _tau(a: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray]:
    """Return tau-b, and tau-b without each of the arms."""
    x, y = (np.sign(v[:, None] - v[None]) for v in (a, b))
    rows = np.stack([(x * y).sum(1), np.abs(x).sum(1), np.abs(y).sum(1)])
    totals = rows.sum(1, keepdims=True)
    score, untied_a, untied_b = np.concatenate([totals, totals - 2 * rows], 1)
    scale = np.sqrt(untied_a * untied_b)
    values = np.where(scale > 0, score / np.where(scale > 0, scale, 1), 0.0)
    return float(values[0]), values[1:]


def _jackknife(without: np.ndarray) -> float:
    return float((len(without) - 1) * without.var())


def _replicates(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return the jackknife variances of tau over replicates, for all arms at once, and over single cells."""
    count = first.shape[1]
    if count < 2:
        return 0.0, 0.0
    a, b = arm_means(first), arm_means(second)
    x, y = (np.sign(v[:, None] - v[None]) for v in (a, b))
    sums = np.array([(x * y).sum(), np.abs(x).sum(), np.abs(y).sum()])
    rows = np.stack([(x * y).sum(1), np.abs(x).sum(1), np.abs(y).sum(1)])
    without, cells = [], []
    for replicate in range(count):
        c, d = (arm_means(np.delete(v, replicate, 1)) for v in (first, second))
        kept = ~np.isnan(c)
        without.append(_tau(c[kept], d[kept])[0])
        c, d = np.where(kept, c, a), np.where(kept, d, b)
        u, v = np.sign(c[:, None] - a[None]), np.sign(d[:, None] - b[None])
        diagonal = np.eye(len(a), dtype=bool)
        u[diagonal] = v[diagonal] = 0
        moved = np.stack([(u * v).sum(1), np.abs(u).sum(1), np.abs(v).sum(1)])
        score, untied_a, untied_b = sums[:, None] + 2 * (moved - rows)
        scale = np.sqrt(untied_a * untied_b)
        cells.append(np.where(scale > 0, score / np.where(scale > 0, scale, 1), 0.0))
    factor = (count - 1) / count
    by_cell = np.array(cells)
    return factor * float(np.var(without) * count), factor * float((by_cell.var(0) * count).sum())


def _permuted_scores(a: np.ndarray, b: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Return concordant minus discordant pairs for every order of b: arms sorted by a, later against earlier."""
    ranking = np.argsort(a, kind="stable")
    ahead = np.searchsorted(a[ranking], a[ranking], side="right")  # the first arm with a larger a
    ranks = np.unique(b, return_inverse=True)[1].astype(np.int16)
    placed = np.ascontiguousarray(ranks[ranking][orders].T)
    scores = np.zeros(len(orders), np.int32)
    for i, start in enumerate(ahead):
        rest = placed[start:]
        scores += ((rest > placed[i]).view(np.int8) - (rest < placed[i]).view(np.int8)).sum(0, dtype=np.int16)
    return scores
