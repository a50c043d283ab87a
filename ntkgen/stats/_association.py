"""Association of two measurements over arms, with whole arms as the units that are permuted.

Public as `ntkgen.stats.association`.
"""

import functools
import itertools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntkgen.stats._check import check

LEAST_ARMS = 5  # with four, the smallest possible p-value is 2 / 24
MOST_EXACT = 7  # arms; 5,040 orders
RANDOM_ORDERS = 9_999


class Association(NamedTuple):
    """Kendall's tau-b of arm means and its two-sided permutation p-value.

    ``n`` seeds were averaged and ``num_nan`` left out; ``num_lost_arms`` have no complete seed. ``undecided`` is empty,
    or says why ``pvalue`` is NaN.
    """

    tau: float
    pvalue: float
    num_arms: int
    num_permutations: int
    n: int
    num_nan: int
    num_lost_arms: int
    undecided: str


def association(
    accuracy: ArrayLike, measure: ArrayLike, *, num_permutations: int = RANDOM_ORDERS, seed: int = 0
) -> Association:
    """Return Kendall's tau-b between the arm means of two measurements, and its p-value over arms.

    An association between arms has as many independent observations as there are arms. Seeds make the mean of an arm
    more exact, but all seeds repeat what the arms have in common by chance: they are no replicates. The null hypothesis
    is that any arm's accuracies could belong to any arm's measurements. Whole arms are therefore permuted, jointly over
    seeds: in every order up to 7 arms, in random orders beyond, where p = (1 + hits) / (1 + orders) (Phipson & Smyth
    2010). The p-value is exact at any size of the arms' and of the seeds' effects, and conditional on ties (tau-b,
    Kendall 1945).

    Example:
      >>> from ntkgen import stats
      >>> accuracy = [[90.0, 91.0, 93.0, 94.0, 97.0]]  # one seed, five arms
      >>> found = stats.association(accuracy, [[9.0, 7.0, 6.0, 4.0, 1.0]])
      >>> round(found.tau, 3), round(found.pvalue, 3)
      (-1.0, 0.017)

    Args:
      accuracy: one measurement, shape (seeds, arms).
      measure: the other, same shape, seeds and arms in the same order.
      num_permutations: random orders with more than 7 arms.
      seed: of the random orders.

    Returns:
      The association. An arm without any complete seed is left out, then a seed with a NaN in an arm that is left.
      With fewer than 5 arms p is NaN: no permutation test decides well with so few. With equal means in all arms of
      either measurement tau is 0.

    Raises:
      ValueError: shapes that differ or are not (seeds, arms), an infinity, or no complete seed.
    """
    a, b = np.asarray(accuracy, float), np.asarray(measure, float)
    check(a.ndim == 2 and a.size > 0, f"accuracy: expected shape (seeds, arms), got {a.shape}")
    check(b.shape == a.shape, f"measure: expected the shape of accuracy, {a.shape}, got {b.shape}")
    for name, x in (("accuracy", a), ("measure", b)):
        check(not np.isinf(x).any(), f"{name}: expected finite numbers, or NaN for a lost run, got an infinity")
    check(num_permutations >= 1, f"num_permutations: expected at least 1, got {num_permutations}")
    present = ~np.isnan(a + b)
    arms = present.any(0)
    seeds = present[:, arms].all(1)
    check(bool(seeds.any() and arms.any()), "accuracy, measure: expected a seed without a NaN, got none")
    first, second = (np.sort(x[np.ix_(seeds, arms)], axis=0).mean(0) for x in (a, b))  # sorted: seeds have no order
    num_arms, counts = int(arms.sum()), (int(seeds.sum()), int((~seeds).sum()), int((~arms).sum()))
    signs, others = (np.sign(x[:, None] - x[None]) for x in (first, second))
    i, j = np.triu_indices(num_arms, 1)
    score = signs[i, j] @ others[i, j]
    untied = math.sqrt(float(np.abs(signs[i, j]).sum() * np.abs(others[i, j]).sum()))
    tau = float(score / untied) if untied else 0.0
    if num_arms < LEAST_ARMS:
        return Association(tau, math.nan, num_arms, 0, *counts, f"{num_arms} arms; needs five")
    exact = num_arms <= MOST_EXACT
    orders = _all_orders(num_arms) if exact else _random_orders(num_arms, num_permutations, seed)
    permuted = others[orders[:, i], orders[:, j]] @ signs[i, j]
    hits = int((np.abs(permuted) >= abs(score)).sum())
    pvalue = hits / len(orders) if exact else (1 + hits) / (1 + len(orders))
    return Association(tau, pvalue, num_arms, len(orders), *counts, "")


@functools.cache
def _all_orders(num_arms: int) -> np.ndarray:
    return np.array(list(itertools.permutations(range(num_arms))))


@functools.lru_cache(maxsize=8)
def _random_orders(num_arms: int, count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permuted(np.tile(np.arange(num_arms), (count, 1)), axis=1)
