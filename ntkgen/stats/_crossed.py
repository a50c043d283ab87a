"""Differences of accuracy whose error comes from the seeds and from the test images.

Public as `ntkgen.stats.crossed`.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen.stats._check import check


class Crossed(NamedTuple):
    """Difference of two accuracies (fractions) with an interval and a two-tailed p-value, for new seeds and images.

    ``se`` is the standard error; ``se_seeds``, ``se_images`` and ``se_interaction`` are its parts, and se^2 is the sum
    of their squares.
    """

    difference: float
    low: float
    high: float
    pvalue: float
    df: float
    se: float
    se_seeds: float
    se_images: float
    se_interaction: float
    n: int
    num_images: int
    num_nan: int
    level: float


def crossed(correct_a: ArrayLike, correct_b: ArrayLike, level: float = 0.95) -> Crossed:
    """Return accuracy(a) - accuracy(b) with an interval crossed over seeds and test images.

    An interval over seeds alone takes the test images for the whole population: with other images the difference may
    leave it. Here both are random samples, crossed with each other: the difference of correctness d_si = mu + seed_s +
    image_i + rest_si. With mean squares M of the two-way table of S seeds and I images, the variance of the mean is
    (M_seeds + M_images - M_rest) / (S I), each component at least zero, and its degrees of freedom are Satterthwaite's
    (Searle, Casella & McCulloch 1992, ch. 4; Satterthwaite 1946), at least S - 1.

    Example:
      >>> from ntkgen import stats
      >>> a, b = [[1, 1, 0, 1], [1, 1, 1, 1]], [[1, 0, 0, 1], [1, 0, 1, 1]]  # two seeds, four images
      >>> found = stats.crossed(a, b)
      >>> found.difference, found.low < 0.25 < found.high
      (0.25, True)

    Args:
      correct_a: whether each image is classified right, shape (seeds, images), booleans or 0 and 1; a row of NaN is a
        lost run.
      correct_b: likewise, for the same seeds and the same images in the same order.
      level: nominal coverage.

    Returns:
      The result; seeds with a NaN on either side are left out and counted in ``num_nan``.

    Raises:
      ValueError: shapes that differ, fewer than 2 seeds or images, or a value other than 0, 1 and NaN.
    """
    check(0 < level < 1, f"level: expected a number between 0 and 1, got {level}")
    a, b = np.asarray(correct_a, float), np.asarray(correct_b, float)
    check(a.ndim == 2, f"correct_a: expected shape (seeds, images), got {a.shape}")
    check(a.shape == b.shape, f"correct_b: expected the shape of correct_a, {a.shape}, got {b.shape}")
    for name, x in (("correct_a", a), ("correct_b", b)):
        check(bool(np.isin(x[~np.isnan(x)], (0, 1)).all()), f"{name}: expected booleans, or 0 and 1, got other numbers")
    kept = ~np.isnan(a + b).any(1)
    d = (a - b)[kept]
    n, images = d.shape
    check(n >= 2 and images >= 2, f"correct_a, correct_b: need at least 2 seeds and 2 images, got {d.shape}")
    mean, by_seed, by_image = d.mean(), d.mean(1), d.mean(0)
    rest = d - by_seed[:, None] - by_image + mean
    square_seeds, square_images = images * by_seed.var(ddof=1), n * by_image.var(ddof=1)
    square_rest = float((rest**2).sum() / ((n - 1) * (images - 1)))
    parts = np.array([max(square_seeds - square_rest, 0.0), max(square_images - square_rest, 0.0), square_rest])
    parts = np.where(parts > 1e-12, parts, 0.0) / (n * images)
    se = math.sqrt(parts.sum())
    ends = (n - 1, images - 1, (n - 1) * (images - 1))
    squares = np.array([square_seeds, square_images, square_rest]) / (n * images)
    df = float(n - 1)
    if se > 0:
        df = max(df, se**4 / sum(square**2 / count for square, count in zip(squares, ends, strict=True)))
    half = stats.t.ppf((1 + level) / 2, df) * se
    statistic = abs(mean) / se if se > 0 else (math.inf if mean else 0.0)
    pvalue = float(2 * stats.t.sf(statistic, df))
    low, high = float(mean - half), float(mean + half)
    lost, (seeds, own, interaction) = int((~kept).sum()), (float(part) for part in np.sqrt(parts))
    return Crossed(float(mean), low, high, pvalue, df, se, seeds, own, interaction, n, images, lost, level)
