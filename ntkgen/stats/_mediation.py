"""Mediation: does a hyperparameter change the outcome through a measure, or through two in sequence.

Public as `ntkgen.stats.mediation`.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from ntkgen.stats._arms import arm_means, runs
from ntkgen.stats._check import check

LEAST_GROUPS = 8  # a bootstrap of fewer groups repeats too few samples
RIDGE = 1e-10  # relative; a resample without any spread gives slope 0


class Path(NamedTuple):
    """A coefficient with its bootstrap interval [low, high]."""

    value: float
    low: float
    high: float


class Mediation(NamedTuple):
    """Paths from x over the mediators to the outcome, with group fixed effects.

    ``steps`` are the slopes along the chain, x to the first mediator (a) to ... to the outcome (b), each with all that
    comes before it in the chain held fixed. ``indirect`` is their product, ``total`` the slope of the outcome on x,
    ``direct`` the slope that is left with all mediators fixed, and ``proportion`` is indirect / total.
    ``refuted`` says what speaks against the path, and is empty if nothing does. ``undecided`` is empty, or says why
    the intervals are NaN.
    """

    steps: tuple[Path, ...]
    indirect: Path
    total: Path
    direct: Path
    proportion: Path
    refuted: tuple[str, ...]
    num_arms: int
    num_groups: int
    undecided: str


def mediation(
    x: ArrayLike,
    mediator: ArrayLike | Sequence[ArrayLike],
    outcome: ArrayLike,
    groups: ArrayLike,
    *,
    level: float = 0.95,
    num_resamples: int = 1_999,
    seed: int = 0,
) -> Mediation:
    """Return how much of the effect of x on the outcome goes through a mediator, or through a chain of them.

    Product of coefficients (Baron & Kenny 1986; MacKinnon 2008, chs. 3 and 6). All variables are centred within
    groups, which takes out everything that a group has in common. For one mediator, a is the slope of the mediator on
    x, b that of the outcome on the mediator with x fixed. For two, the chain is x to the first, the first to the second
    with x fixed, the second to the outcome with x and the first fixed. Intervals are percentiles over resampled groups.
    In simulations the nominal 95 % cover the indirect effect in 86 to 100 % with 8 groups, in 90 to 100 % with 40.

    The path is refuted if the interval of a step holds zero, or if the indirect effect has the opposite sign of the
    total effect. A path that is not refuted is not proved: a common cause of mediator and outcome within groups (any
    other property of training that x changes) gives the same numbers. Randomised x does not exclude that.

    Example:
      >>> import numpy as np
      >>> rng = np.random.default_rng(0)
      >>> batch = np.tile([0.0, 1.0, 2.0], 20)
      >>> noise = 2 * batch + 0.3 * rng.normal(size=60)
      >>> gap = 0.5 * noise + 0.01 * rng.normal(size=60)
      >>> found = mediation(batch, noise, gap, np.repeat(np.arange(20), 3))
      >>> round(found.steps[0].value, 1), round(found.proportion.value, 1), found.refuted
      (2.0, 1.0, ())

    Args:
      x: of each arm, shape (arms,), for example the logarithm of the batch size.
      mediator: shape (arms,), (arms, replicates) or (arms, replicates, seeds), NaN for a lost run; or a list or tuple
        of such arrays in the order of the chain.
      outcome: one such array.
      groups: the group of each arm, shape (arms,): `Factor.groups` of the hyperparameter x. Arms with a negative
        number are left out.
      level: nominal coverage.
      num_resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      The result. An arm that lost x, a mediator or the outcome is left out, and then groups of one arm. With fewer than
      8 groups the intervals are NaN and the path is undecided.

    Raises:
      ValueError: shapes that do not match, an infinity, no group with two arms, or an option out of its range.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    check(num_resamples >= 1, f"num_resamples: expected at least 1, got {num_resamples}")
    labels = np.asarray(groups)
    check(labels.ndim == 1, f"groups: expected shape (arms,), got {labels.shape}")
    several = isinstance(mediator, list | tuple) and np.ndim(mediator[0]) > 0
    chain: list[Any] = list(mediator) if several else [mediator]  # type: ignore[arg-type]
    named = [("x", x), *((f"mediator {k + 1}", m) for k, m in enumerate(chain)), ("outcome", outcome)]
    columns = np.stack([arm_means(runs(v, name, len(labels))) for name, v in named], 1)
    kept = ~np.isnan(columns).any(1) & (labels >= 0)
    _, index, counts = np.unique(labels[kept], return_inverse=True, return_counts=True)
    index = index.reshape(-1)
    columns, index = columns[kept][counts[index] > 1], index[counts[index] > 1]
    check(len(index) > 0, "groups: expected a group with at least two arms that are left, got none")
    _, index = np.unique(index, return_inverse=True)
    num_groups = int(index.max()) + 1
    sizes = np.bincount(index)
    centred = columns - np.stack([np.bincount(index, column)[index] for column in columns.T], 1) / sizes[index, None]
    scale = np.sqrt((centred**2).mean(0))
    scale = np.where(scale > 0, scale, 1.0)
    centred /= scale
    moments = np.zeros((num_groups, *[len(named)] * 2))
    np.add.at(moments, index, centred[:, :, None] * centred[:, None])
    values = _paths(moments.sum(0)[None], scale)
    few = f"{num_groups} groups; needs {LEAST_GROUPS}" if num_groups < LEAST_GROUPS else ""
    if few:
        ends = np.full((2, values.shape[1]), math.nan)
    else:
        picks = np.random.default_rng(seed).integers(num_groups, size=(num_resamples, num_groups))
        weights = np.zeros((num_resamples, num_groups))
        np.add.at(weights, (np.arange(num_resamples)[:, None], picks), 1)
        resampled = _paths(np.tensordot(weights, moments, 1), scale)
        ends = np.nanquantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    paths = [Path(*(float(number) for number in row)) for row in np.vstack([values, ends]).T]
    steps, (indirect, total, direct, proportion) = tuple(paths[:-4]), paths[-4:]
    refuted = () if few else _refuted(steps, indirect, total)
    return Mediation(steps, indirect, total, direct, proportion, refuted, len(index), num_groups, few)


def _paths(moments: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return steps, indirect, total, direct and proportion, shape (resamples, steps + 4), from sums of products."""
    last = moments.shape[1] - 1
    steps = []
    for k in range(1, last + 1):  # column k on all columns before it
        ridge = RIDGE * np.maximum(np.trace(moments[:, :k, :k], axis1=1, axis2=2), 1e-300)
        slopes = np.linalg.solve(moments[:, :k, :k] + ridge[:, None, None] * np.eye(k), moments[:, :k, k, None])[..., 0]
        steps.append(slopes[:, k - 1] * scale[k] / scale[k - 1])
        direct = slopes[:, 0] * scale[k] / scale[0]
    spread = np.maximum(moments[:, 0, 0], 1e-300)
    total = moments[:, 0, last] / spread * scale[last] / scale[0]
    indirect = np.prod(steps, axis=0)
    proportion = np.where(total != 0, indirect / np.where(total != 0, total, 1), np.nan)
    return np.stack([*steps, indirect, total, direct, proportion], 1)


def _refuted(steps: tuple[Path, ...], indirect: Path, total: Path) -> tuple[str, ...]:
    names = ["a", "b"] if len(steps) == 2 else [f"step {k + 1}" for k in range(len(steps))]
    reasons = [
        f"{name}: the interval [{step.low:.3g}, {step.high:.3g}] holds zero"
        for name, step in zip(names, steps, strict=True)
        if step.low <= 0 <= step.high
    ]
    if indirect.value * total.value < 0:
        reasons.append(f"the indirect effect {indirect.value:.3g} has the opposite sign of the total {total.value:.3g}")
    return tuple(reasons)
