"""Intervals crossed over seeds and images: by the two-way table's definition, and their coverage by simulation."""

import numpy as np
import pytest
import scipy.stats

from ntkgen import stats


def networks(rng, num_seeds, num_images, image, seed, own=1.0):
    """Two arms' correctness (seeds, images): images differ in difficulty, partly by arm, and seeds in quality."""
    shared = 0.9 * image * rng.normal(size=num_images)
    found = []
    for _ in "ab":
        hard = shared + np.sqrt(1 - 0.81) * image * rng.normal(size=num_images)
        quality = seed * rng.normal(size=(num_seeds, 1))
        found.append(2 * np.sqrt(image**2 + 1) + hard + quality + own * rng.normal(size=(num_seeds, num_images)) > 0)
    return found


def test_components_are_those_of_the_two_way_table():
    a, b = networks(np.random.default_rng(0), 4, 50, 2.0, 1.0)
    d = a.astype(float) - b
    n, images = d.shape
    rows = images * sum((d[s].mean() - d.mean()) ** 2 for s in range(n)) / (n - 1)
    columns = n * sum((d[:, i].mean() - d.mean()) ** 2 for i in range(images)) / (images - 1)
    rest = sum((d[s, i] - d[s].mean() - d[:, i].mean() + d.mean()) ** 2 for s in range(n) for i in range(images))
    rest /= (n - 1) * (images - 1)
    found = stats.crossed(a, b)
    assert found.difference == pytest.approx(d.mean())
    assert found.se_seeds**2 == pytest.approx(max(rows - rest, 0) / d.size)
    assert found.se_images**2 == pytest.approx(max(columns - rest, 0) / d.size)
    assert found.se_interaction**2 == pytest.approx(rest / d.size)
    assert found.se**2 == pytest.approx(found.se_seeds**2 + found.se_images**2 + found.se_interaction**2)
    half = scipy.stats.t.ppf(0.975, found.df) * found.se
    assert (found.low, found.high) == pytest.approx((d.mean() - half, d.mean() + half))


def test_equal_seeds_leave_the_paired_interval_over_images_and_equal_images_that_over_seeds():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 400)) < [[0.9], [0.8]]
    d = a.astype(float) - b
    same = stats.crossed(np.tile(a, (3, 1)), np.tile(b, (3, 1)))
    assert same.se == pytest.approx(d.std(ddof=1) / 20) and same.se_seeds == same.se_interaction == 0
    seeds = np.tile([[1], [1], [0], [1]], (1, 30))
    lone = stats.crossed(seeds, np.zeros((4, 30)))
    known = stats.interval([1, 1, 0, 1], "t")
    assert (lone.low, lone.high, lone.df) == pytest.approx((known.low, known.high, 3))


def test_without_variance_and_with_lost_seeds():
    ones, zeros = np.ones((3, 5), bool), np.zeros((3, 5), bool)
    assert stats.crossed(ones, ones)[:4] == (0, 0, 0, 1) and stats.crossed(ones, zeros)[:4] == (1, 1, 1, 0)
    a, b = networks(np.random.default_rng(2), 3, 20, 1.0, 1.0)
    lost = [np.vstack([x.astype(float), np.full((1, 20), np.nan)]) for x in (a, b)]
    assert stats.crossed(*lost) == stats.crossed(a, b)._replace(num_nan=1)


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize(("image", "seed"), [(2.0, 0.0), (2.0, 0.1), (1.0, 1.0), (0.0, 0.0)])
def test_intervals_cover_the_true_difference(num_seeds, image, seed):
    """The true one is 0 by symmetry. Student's interval over seeds covers it in 85 % where images decide."""
    rng = np.random.default_rng(3)
    covers = 0
    for _ in range(400):
        found = stats.crossed(*networks(rng, num_seeds, 200, image, seed))
        covers += found.low <= 0 <= found.high
        assert (found.pvalue >= 0.05) == (found.low <= 0 <= found.high)
    assert scipy.stats.binomtest(covers, 400, 0.95, alternative="less").pvalue > 0.001


@pytest.mark.parametrize(
    ("message", "a", "b"),
    [
        ("correct_a: expected shape", [1, 0], [1, 0]),
        ("correct_b: expected the shape", [[1, 0]] * 2, [[1, 0]] * 3),
        ("correct_a: expected booleans", [[0.5, 0]] * 2, [[1, 0]] * 2),
        ("correct_a, correct_b: need", [[1, 0]], [[1, 0]]),
    ],
)
def test_bad_arguments_are_named(message, a, b):
    with pytest.raises(ValueError, match=message):
        stats.crossed(a, b)
