"""Robust sign-error: how often a measure orders two arms wrongly, in the worst environment.

Public as `ntkgen.stats.robust_sign_error`.
"""

import math
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._arms import arm_means, joint, replicate_means
from ntkgen.stats._check import check
from ntkgen.stats._design import Settings, design

LEAST_WEIGHT = 0.5  # Dziugaite et al. 2020, appendix and code: a pair counts with (weight - 0.5)_+
LEAST_EFFECTIVE = 12.0  # the least effective number of pairs of an environment, as in their code


class Environment(NamedTuple):
    """Weighted sign-error over pairs of arms that differ in one hyperparameter and have this pair of its values.

    ``effective`` is (sum w)^2 / sum w^2. ``pvalue`` is one-sided, for an error below 1/2: sign flips of the
    ``num_kept`` pairs that weigh something, all with the same weight.
    """

    hyperparameter: str
    values: tuple[Hashable, Hashable]
    error: float
    pvalue: float
    effective: float
    num_kept: int
    num_pairs: int


class SignError(NamedTuple):
    """The largest error over environments, the mean error, and every environment that counts.

    ``pvalue`` tests that the error is below 1/2 in every environment. ``left_out`` are environments with too few pairs
    beyond noise. ``noise`` says what the noise was estimated from: replicates, seeds, test examples or nothing.
    """

    robust: float
    mean: float
    pvalue: float
    worst: Environment | None
    environments: tuple[Environment, ...]
    left_out: tuple[Environment, ...]
    noise: str


def robust_sign_error(
    settings: Settings,
    measure: ArrayLike,
    outcome: ArrayLike,
    *,
    test_size: int | None = None,
    scale: float = 100.0,
    least_effective: float = LEAST_EFFECTIVE,
) -> SignError:
    """Return the sign-error of a measure in its worst environment and on average (Dziugaite et al. 2020).

    An environment is a hyperparameter and a pair of its values; its pairs of arms agree in everything else. The error
    of a pair is (1 - sign(measure difference) sign(outcome difference)) / 2, so a tie of the measure counts half.
    Their environments are single pairs of settings with many runs each; here the pairs of one change are pooled.

    A pair weighs (w - 1/2)_+, as there, where w is the confidence that the outcomes truly differ. There w is
    Hoeffding's for the test examples, (1 - 2 exp(-n d^2 / 2))_+^2. Here w is 1 - p of Student's paired test over
    data replicates (over seeds with a single replicate), so that a pair within the noise of runs weighs nothing. With
    ``test_size`` the smaller of the two weights counts. With one run an arm and no ``test_size`` all pairs weigh the
    same. An environment with an effective number of pairs below 12 is left out.

    The worst of many environments looks bad by chance. The p-value therefore asks whether the error is below 1/2 in
    all of them: the largest of their p-values (intersection-union test, Berger 1982).

    Example:
      >>> plan = [{"width": w, "depth": d} for w in range(12) for d in (1, 2)]
      >>> gap = [[float(arm)] for arm in range(24)]
      >>> found = robust_sign_error(plan, gap, gap)
      >>> found.robust, found.worst.hyperparameter, found.noise, len(found.left_out)
      (0.0, 'depth', 'nothing', 66)

    Args:
      settings: of the arms, or their `design`.
      measure: shape (arms, replicates) or (arms, replicates, seeds), NaN for a lost run.
      outcome: the same shape.
      test_size: test examples behind each outcome.
      scale: what an outcome of 1 is in its unit: 100 for points.
      least_effective: the least effective number of pairs.

    Returns:
      The result; NaN if no environment has enough pairs.

    Raises:
      ValueError: shapes that differ or do not match the settings, an infinity, or an option out of its range.
    """
    check(test_size is None or test_size >= 1, f"test_size: expected at least 1, got {test_size}")
    check(scale > 0 and least_effective > 0, f"scale, least_effective: expected above 0, got {scale, least_effective}")
    plan = design(settings)
    first_runs, second_runs = joint(measure, outcome, plan.num_arms)
    a, b = arm_means(first_runs), arm_means(second_runs)
    by_seed = second_runs.shape[1] == 1
    table = second_runs[:, 0] if by_seed else replicate_means(second_runs)
    repeated = table.shape[1] > 1
    sources = ([("seeds" if by_seed else "replicates")] if repeated else []) + (["test examples"] if test_size else [])
    kept_environments: list[Environment] = []
    left_out: list[Environment] = []
    for factor in plan.factors:
        there = ~np.isnan(a[factor.first] + a[factor.second])
        first, second = factor.first[there], factor.second[there]
        weights = np.ones(len(first))
        if repeated:
            weights = np.minimum(weights, _confidence(table[second] - table[first]))
        if test_size:
            distance = (b[second] - b[first]) / scale
            hoeffding = np.maximum(1 - 2 * np.exp(-test_size * distance**2 / 2), 0) ** 2
            weights = np.minimum(weights, hoeffding)
        weights = np.maximum(weights - LEAST_WEIGHT, 0) * (b[second] != b[first])
        errors = (1 - np.sign(a[second] - a[first]) * np.sign(b[second] - b[first])) / 2
        kinds = np.stack([factor.codes[first], factor.codes[second]], 1)
        for low, high in np.unique(kinds, axis=0):
            inside = (kinds == (low, high)).all(1)
            values = (factor.levels[low], factor.levels[high])
            environment = _environment(factor.name, values, errors[inside], weights[inside])
            enough = environment.effective >= least_effective - 1e-9
            (kept_environments if enough else left_out).append(environment)
    noise = " and ".join(sources) or "nothing"
    if not kept_environments:
        return SignError(math.nan, math.nan, math.nan, None, (), tuple(left_out), noise)
    worst = max(kept_environments, key=lambda environment: environment.error)
    mean = float(np.mean([environment.error for environment in kept_environments]))
    pvalue = max(environment.pvalue for environment in kept_environments)
    return SignError(worst.error, mean, pvalue, worst, tuple(kept_environments), tuple(left_out), noise)


def _confidence(differences: np.ndarray) -> np.ndarray:
    """Return 1 - p of Student's test of each row of differences (pairs, runs); 0 with fewer than two runs."""
    there = ~np.isnan(differences)
    count = there.sum(1)
    some = np.maximum(count, 1)
    mean = np.where(there, differences, 0).sum(1) / some
    variance = np.where(there, (differences - mean[:, None]) ** 2, 0).sum(1) / np.maximum(count - 1, 1)
    se = np.sqrt(variance / some)
    exact = se <= 1e-14 * np.abs(mean)
    statistic = np.where(exact, np.where(mean != 0, np.inf, 0), np.abs(mean) / np.where(exact, 1, se))
    return np.where(count > 1, 1 - 2 * stats.t.sf(statistic, np.maximum(count - 1, 1)), 0.0)


def _environment(name: str, values: tuple[Hashable, Hashable], errors: np.ndarray, weights: np.ndarray) -> Environment:
    total = float(weights.sum())
    kept = weights > 0
    if not total:
        return Environment(name, values, math.nan, math.nan, 0.0, 0, len(errors))
    right, wrong = int((errors[kept] == 0).sum()), int((errors[kept] == 1).sum())
    pvalue = float(stats.binom.cdf(wrong, right + wrong, 0.5))
    effective = total**2 / float(weights @ weights)
    return Environment(name, values, float(weights @ errors) / total, pvalue, effective, int(kept.sum()), len(errors))
