"""Conditional mutual information between the signs of differences over pairs of arms.

Public as `ntkgen.stats.conditional_information`.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse

from ntkgen.stats._arms import arm_means, joint
from ntkgen.stats._association import LEAST_ARMS
from ntkgen.stats._check import check
from ntkgen.stats._design import Design, Settings, design

BLOCK = 100  # permutations at once


class Information(NamedTuple):
    """Normalised conditional mutual information, its permutation p-value and its mean over the permutations.

    ``excess`` is value - null_mean. ``conditioned_on`` is the set of hyperparameters with the smallest information,
    and ``by_set`` has the information given each set. ``undecided`` is empty, or says why ``pvalue`` is NaN.
    """

    value: float
    pvalue: float
    null_mean: float
    excess: float
    conditioned_on: tuple[str, ...]
    by_set: dict[tuple[str, ...], float]
    num_arms: int
    num_pairs: int
    num_permutations: int
    undecided: str


def conditional_information(
    settings: Settings,
    measure: ArrayLike,
    outcome: ArrayLike,
    *,
    most: int = 2,
    num_permutations: int = 199,
    seed: int = 0,
) -> Information:
    """Return the smallest normalised mutual information of two signs given at most two hyperparameters.

    Jiang et al. 2020, eqs. 9 and 10. Over pairs of arms, V is the sign of the difference of the measure, W that of the
    outcome, and U the values of the hyperparameters of a set S in both arms. The information given S is
    I(V; W | U) / H(W | U), where each value of U weighs as many pairs as it has. The result is the minimum over S.
    Every pair is counted in both directions, as there; pairs that are tied in one of the two are left out.

    The information is positive even if measure and outcome are independent, and more so the fewer pairs a value of U
    has. The measure is therefore permuted over whole arms, and each time the minimum is taken anew: ``null_mean`` is
    the mean of these minima, and p = (1 + hits) / (1 + permutations). The null hypothesis is that the measure is
    independent of outcome and hyperparameters. If three or more hyperparameters drive both, this is not null, and no
    set of two takes it out: `partial_association` does.

    Example:
      >>> plan = [{"width": w, "depth": d} for w in range(4) for d in range(3)]
      >>> found = conditional_information(plan, [[arm] for arm in range(12)], [[arm] for arm in range(12)])
      >>> round(found.value, 3), found.pvalue
      (1.0, 0.005)

    Args:
      settings: of the arms, or their `design`.
      measure: shape (arms, replicates) or (arms, replicates, seeds), NaN for a lost run.
      outcome: the same shape.
      most: the largest number of hyperparameters in a set, 0, 1 or 2.
      num_permutations: random orders of the arms.
      seed: of these orders.

    Returns:
      The information. A set that determines W is left out; if all do, or nothing varies, the value is 0. With fewer
      than 5 arms p is NaN.

    Raises:
      ValueError: shapes that differ or do not match the settings, an infinity, or an option out of its range.
    """
    check(most in (0, 1, 2), f"most: expected 0, 1 or 2, got {most}")
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    plan = design(settings)
    a, b = (arm_means(x) for x in joint(measure, outcome, plan.num_arms))
    arms = np.flatnonzero(~np.isnan(a))
    first, second = plan.pairs
    with np.errstate(invalid="ignore"):
        signs = np.sign(b[second] - b[first])
    kept = ~np.isnan(signs) & (signs != 0)
    first, second, signs = first[kept], second[kept], signs[kept].astype(np.float32)
    sets, cells, flips, equal, owner = _tables(plan, most)
    if not kept.all():
        cells, flips = (matrix.tocsc()[:, kept].tocsr() for matrix in (cells, flips))
    rng = np.random.default_rng(seed)
    orders = np.concatenate([arms[None], rng.permuted(np.tile(arms, (num_permutations, 1)), axis=1)])
    given = []
    for start in range(0, len(orders), BLOCK):
        moved = np.full((len(a), len(orders[start : start + BLOCK])), np.nan)
        moved[arms] = a[orders[start : start + BLOCK]].T
        others = np.sign(moved[second] - moved[first]).astype(np.float32)
        given.append(_information(cells, flips, equal, owner, others, signs, len(sets)))
    table = np.concatenate(given, 1)  # (sets, 1 + permutations)
    minima = np.where(np.isnan(table).all(0), 0.0, np.where(np.isnan(table), np.inf, table).min(0))
    value, null = float(minima[0]), minima[1:]
    num_pairs = int((a[first] != a[second]).sum())
    by_set = {names: float(row) for names, row in zip(sets, table[:, 0], strict=True)}
    chosen = sets[int(np.nanargmin(table[:, 0]))] if not np.isnan(table[:, 0]).all() else ()
    few = f"{len(arms)} arms; needs five" if len(arms) < LEAST_ARMS else ""
    pvalue = math.nan if few else float((1 + (null >= value - 1e-9).sum()) / (1 + len(null)))
    mean = float(null.mean())
    return Information(value, pvalue, mean, value - mean, chosen, by_set, len(arms), num_pairs, len(null), few)


def _tables(plan: Design, most: int) -> tuple[list, sparse.csr_matrix, sparse.csr_matrix, np.ndarray, np.ndarray]:
    """Return all sets, and two matrices (values of U, pairs) for all of them: membership, and its sign.

    A pair is turned so that its first arm has the lower code of U. ``equal`` marks values of U that are the same in
    both arms, and ``owner`` is the set of a value.
    """
    key = f"_information_{most}"
    if key not in plan.__dict__:
        first, second = plan.pairs
        sets = [names for size in range(most + 1) for names in itertools.combinations(plan.names, size)]
        rows, flips, equal, owner, total = [], [], [], [], 0
        for k, names in enumerate(sets):
            codes = np.zeros(plan.num_arms, int)
            for name in names:
                codes = codes * len(plan.factor(name).levels) + plan.factor(name).codes
            one, other = codes[first], codes[second]
            low, high = np.minimum(one, other), np.maximum(one, other)
            distinct, labels = np.unique(low * (codes.max() + 1) + high, return_inverse=True)
            rows.append(labels.reshape(-1) + total)
            flips.append(np.where(one <= other, 1, -1))
            equal.append(distinct // (codes.max() + 1) == distinct % (codes.max() + 1))
            owner.append(np.full(len(distinct), k))
            total += len(distinct)
        columns = np.tile(np.arange(len(first)), len(sets))
        where = (np.concatenate(rows), columns)
        shape = (total, len(first))
        ones, turned = (x.astype(np.float32) for x in (np.ones(len(columns)), np.concatenate(flips)))
        cells, flipped = (sparse.csr_matrix((x, where), shape=shape) for x in (ones, turned))
        plan.__dict__[key] = (sets, cells, flipped, np.concatenate(equal), np.concatenate(owner))
    return plan.__dict__[key]


def _information(
    cells: sparse.csr_matrix,
    flips: sparse.csr_matrix,
    equal: np.ndarray,
    owner: np.ndarray,
    others: np.ndarray,
    signs: np.ndarray,
    num_sets: int,
) -> np.ndarray:
    """Return the normalised information, shape (sets, permutations), from signs (pairs, permutations) and (pairs,)."""
    untied = np.abs(others)
    products = cells @ (others * signs[:, None])
    others_sum = np.where(equal[:, None], 0, flips @ others)
    if untied.all():  # these two are the same in all permutations
        counts, signs_sum = (matrix @ column[:, None] for matrix, column in ((cells, untied[:, 0]), (flips, signs)))
    else:
        counts, signs_sum = cells @ untied, flips @ (untied * signs[:, None])
    signs_sum = np.where(equal[:, None], 0, signs_sum)
    joint_entropy = sum(
        _term((counts + p * others_sum + q * signs_sum + p * q * products) / 4, counts)
        for p, q in itertools.product((1, -1), repeat=2)
    )
    own = sum(_term((counts + p * signs_sum) / 2, counts) for p in (1, -1))
    other = sum(_term((counts + p * others_sum) / 2, counts) for p in (1, -1))
    by_set = sparse.csr_matrix((np.ones(len(owner)), (owner, np.arange(len(owner)))), shape=(num_sets, len(owner)))
    information, entropy = by_set @ (own + other - joint_entropy), by_set @ (own + np.zeros_like(other))
    information = np.maximum(information, 0.0)
    return np.where(entropy > 1e-9, information / np.where(entropy > 1e-9, entropy, 1), np.nan)


def _term(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return -part log(part / whole), 0 where part is 0; counts weigh each value of U."""
    share = part / np.maximum(whole, 1)
    return -part * np.log(np.where(part > 0, share, 1), dtype=np.float64)
