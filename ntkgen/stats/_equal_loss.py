"""One answer from a comparison at equal loss that was made at several losses.

Which of two networks is sharper at equal loss can depend on the loss. A verdict from one of several losses could be
chosen after the fact; here the whole curve decides.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntkgen.stats import _margins, _tests
from ntkgen.stats._check import check

LEAST = 2  # targets


class OverTargets(NamedTuple):
    """Differences mean(a - b) at every target with 95 % t-intervals (targets,), and tests of the whole curve.

    Attributes:
      difference: NaN, as its ends are, at a target that a seed of either side does not reach.
      low: of the interval, for each target by itself.
      high: likewise.
      num_targets: that both sides reach with every seed; all of them count.
      pvalue: of a difference with one and the same sign at all of these targets.
      sign: that sign; 0 if there is none.
      equivalence_p: of a difference within the margin at all of these targets.
      margin: of the equivalence.
      num_pairs: seeds.
      undecided: why there are no p-values (then NaN), or empty.
    """

    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    num_targets: int
    pvalue: float
    sign: int
    equivalence_p: float
    margin: float
    num_pairs: int
    undecided: str


def over_targets(a: ArrayLike, b: ArrayLike, margin: float) -> OverTargets:
    """Return one test for a difference, and one for equivalence, over all targets of a comparison at equal loss.

    Each is the largest of the targets' p-values, by the paired t-test (1 if the signs differ) and by two one-sided
    tests. Where all hypotheses must be rejected that keeps the level without a correction for their number
    (intersection-union, Berger 1982). At least two targets must be reached.

    Example:
      >>> from ntkgen import stats
      >>> found = stats.over_targets([[1.0, 1.1, 1.2], [2.0, 2.1, 2.2]], [[0.0, 0.2, 0.1], [1.0, 1.1, 1.1]], margin=0.5)
      >>> found.sign, round(found.pvalue, 3), found.num_targets
      (1, 0.003, 2)

    Args:
      a: values, shape (targets, seeds), NaN where a seed does not reach a target.
      b: likewise, same targets and seeds.
      margin: of the equivalence, in the unit of a, positive.

    Returns:
      Differences a - b and p-values.

    Raises:
      ValueError: shapes that differ, or a margin that is not positive.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    check(a.ndim == 2, f"a: expected shape (targets, seeds), got {a.shape}")
    check(a.shape == b.shape, f"b: expected the shape of a, {a.shape}, got {b.shape}")
    check(np.isfinite(margin) and margin > 0, f"margin: expected a positive number, got {margin}")
    count, seeds = a.shape
    reached = np.isfinite(a + b).all(1)
    ends = np.full((3, count), np.nan)
    pvalues, equivalences = [], []
    if seeds > 1:
        for t in np.flatnonzero(reached):
            test = _tests.paired(a[t], b[t])
            ends[:, t] = test.mean_difference, test.low, test.high
            pvalues.append(test.pvalue)
            equivalences.append(_margins.within(a[t], b[t], margin))
    signs = set(np.sign(ends[0, reached]).tolist()) if seeds > 1 else set()
    sign = int(signs.pop()) if len(signs) == 1 else 0
    undecided = ""
    if seeds < 2:
        undecided = f"{seeds} pairs; a test needs two"
    elif len(pvalues) < LEAST:
        undecided = f"{len(pvalues)} of {count} losses reached by every seed of both; needs two"
    if undecided:
        return OverTargets(
            ends[0], ends[1], ends[2], int(reached.sum()), np.nan, sign, np.nan, margin, seeds, undecided
        )
    pvalue = max(pvalues) if sign else 1.0
    return OverTargets(ends[0], ends[1], ends[2], len(pvalues), pvalue, sign, max(equivalences), margin, seeds, "")
