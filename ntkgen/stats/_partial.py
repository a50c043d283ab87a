"""Rank correlation of a measure and an outcome after the hyperparameters are taken out of both.

Public as `ntkgen.stats.partial_association`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._arms import arm_means, joint
from ntkgen.stats._check import check
from ntkgen.stats._design import Settings, design

LEAST_DF = 5  # residual degrees of freedom
BLOCK = 2_000  # permutations at once


class Partial(NamedTuple):
    """Partial rank correlation, its interval [low, high] and its permutation p-value.

    ``df`` are the arms minus the effects that were taken out (``adjusted_for``). ``undecided`` is empty, or says why
    all numbers are NaN.
    """

    correlation: float
    pvalue: float
    low: float
    high: float
    num_arms: int
    df: int
    num_permutations: int
    adjusted_for: str
    undecided: str


def partial_association(
    settings: Settings,
    measure: ArrayLike,
    outcome: ArrayLike,
    *,
    order: int = 1,
    within: str | None = None,
    level: float = 0.95,
    num_permutations: int = 1_999,
    seed: int = 0,
) -> Partial:
    """Return the correlation of the ranks of two arm means after the effects of all hyperparameters are taken out.

    Both are ranked over arms (Spearman 1904). Least squares takes the effects out of the ranks: main effects (order
    1), or also all products of two hyperparameters (order 2). The correlation is Pearson's of the residuals r and s.
    With ``within`` the effects are those of the groups of arms that differ in this hyperparameter alone; everything
    that the others do, in any combination, is then taken out, and the hyperparameter itself is not.

    The p-value permutes the residuals of the outcome, adds them to its fitted effects and takes the effects out again
    (Freedman & Lane 1983); with ``within`` it permutes inside groups. The statistic is sum(r s) / sqrt(sum(r^2 s^2)),
    which stays valid if both spread more in the same arms (DiCiccio & Romano 2017), and
    p = (1 + hits) / (1 + permutations). The null hypothesis is that nothing links measure and outcome beside the
    effects that were taken out. Effects of higher order that drive both are such a link: where both are the same
    exponential of two hyperparameters, order 1 finds one in 68 % of 200 simulated populations, order 2 in 7.5 %.

    Example:
      >>> plan = [{"width": w, "depth": d} for w in range(5) for d in range(5)]
      >>> values = [[(arm * arm) % 29] for arm in range(25)]
      >>> found = partial_association(plan, values, values)
      >>> round(found.correlation, 3), found.pvalue, found.df
      (1.0, 0.0005, 16)

    Args:
      settings: of the arms, or their `design`.
      measure: shape (arms, replicates) or (arms, replicates, seeds), NaN for a lost run.
      outcome: the same shape.
      order: of the effects that are taken out, 1 or 2.
      within: the hyperparameter within whose groups arms are compared; then ``order`` has no effect.
      level: nominal coverage of the interval, which is Student's with the same standard error.
      num_permutations: random permutations.
      seed: of these.

    Returns:
      The correlation; 0 with p = 1 if a side has no residuals. With fewer than 5 residual degrees of freedom all is
      NaN.

    Raises:
      ValueError: shapes that differ or do not match the settings, an infinity, or an option out of its range.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    plan = design(settings)
    columns = plan.dummies(order)
    a, b = (arm_means(x) for x in joint(measure, outcome, plan.num_arms))
    arms = np.flatnonzero(~np.isnan(a))
    labels = np.zeros(plan.num_arms, int)
    name = "main effects" if order == 1 else "main effects and products of two"
    if within is not None:
        labels, name = plan.factor(within).groups, f"groups that differ in {within}"
        counts = np.bincount(labels[arms] + 1)
        arms = arms[(labels[arms] >= 0) & (counts[labels[arms] + 1] > 1)]
        columns = (labels[:, None] == np.unique(labels[arms])).astype(float)
    labels = labels[arms]
    x, y = (stats.rankdata(v[arms]) - (len(arms) + 1) / 2 for v in (a, b))
    basis, sizes, _ = np.linalg.svd(columns[arms], full_matrices=False)
    basis = basis[:, sizes > 1e-9 * max(sizes.max(initial=0.0), 1.0)]
    df = len(arms) - basis.shape[1]
    if df < LEAST_DF:
        few = f"{df} residual degrees of freedom; needs five"
        return Partial(math.nan, math.nan, math.nan, math.nan, len(arms), df, 0, name, few)
    r, s = (v - basis @ (basis.T @ v) for v in (x, y))
    if min(r @ r, s @ s) <= 1e-9 * max(x @ x, y @ y, 1.0):
        return Partial(0.0, 1.0, math.nan, math.nan, len(arms), df, 0, name, "")
    size = math.sqrt((r @ r) * (s @ s))
    correlation, se = float(r @ s) / size, math.sqrt(float((r**2) @ (s**2)) * len(arms) / df) / size
    statistic = _statistic(r, s[None])[0]
    rng = np.random.default_rng(seed)
    hits = 0
    for start in range(0, num_permutations, BLOCK):
        count = min(BLOCK, num_permutations - start)
        keys = rng.random((count, len(arms)))
        grouped = np.argsort(labels, kind="stable")
        moved = np.empty((count, len(arms)))
        moved[:, grouped] = s[np.argsort(keys + labels, axis=1)]
        moved -= (moved @ basis) @ basis.T
        hits += int((np.abs(_statistic(r, moved)) >= abs(statistic) - 1e-12).sum())
    half = float(stats.t.ppf((1 + level) / 2, df)) * se
    pvalue = (1 + hits) / (1 + num_permutations)
    low, high = max(correlation - half, -1.0), min(correlation + half, 1.0)
    return Partial(correlation, pvalue, low, high, len(arms), df, num_permutations, name, "")


def _statistic(r: np.ndarray, s: np.ndarray) -> np.ndarray:
    size = np.sqrt((s**2) @ (r**2))
    return np.where(size > 0, s @ r / np.where(size > 0, size, 1), 0.0)
