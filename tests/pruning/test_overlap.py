"""The overlap of tickets and its chance level against random masks."""

import numpy as np
import pytest

from ntkgen import pruning


@pytest.mark.parametrize(
    ("size", "a", "b"), [(40, 10, 10), (200, 20, 150), (9, 1, 1), (5, 5, 3), (30, 29, 28), (12, 0, 4)]
)
def test_the_chance_level_is_that_of_random_masks(size, a, b):
    rng, draws = np.random.default_rng(0), 4000
    first, second = (
        np.argsort(np.argsort(rng.random((draws, size)), 1), 1) < kept for kept in (a, b)
    )  # fmt: skip
    index = (first & second).sum(1) / (first | second).sum(1)
    chance, std = pruning.jaccard_chance(size, a, b)
    assert abs(index.mean() - chance) <= 4.5 * std / np.sqrt(draws) + 1e-12
    # The error of a deviation, from the draws' own fourth moment.
    spread = np.sqrt(np.var((index - chance) ** 2) / draws)
    assert abs(np.mean((index - chance) ** 2) - std**2) <= 4.5 * spread + 1e-12


def test_the_chance_level_at_scale():
    chance, std = pruning.jaccard_chance(10**6, 10**5, 3 * 10**5)
    both, sd = 3e4, np.sqrt(1e5 * 0.3 * 0.7 * 0.9)
    # The delta method: index = i / (4e5 - i), derivative 4e5 / (4e5 - i)^2.
    np.testing.assert_allclose(chance, both / (4e5 - both), rtol=1e-4)
    np.testing.assert_allclose(std, sd * 4e5 / (4e5 - both) ** 2, rtol=1e-3)


def test_overlap_layer_by_layer():
    a = {"x": {"kernel": np.array([[1, 1, 0, 0]]), "bias": np.ones(4)}, "y": {"kernel": np.zeros((2, 3))},
         "z": {"kernel": np.ones((2, 2))}}  # fmt: skip
    b = {**a, "x": {"kernel": np.array([[0, 1, 1, 1]]), "bias": np.ones(4)}}
    found = pruning.overlap(a, b)
    assert list(found) == ["x/kernel", "y/kernel", "z/kernel"]
    x, y, z = found.values()
    assert (x.jaccard, x.size, x.kept) == (0.25, 4, (2, 3))
    # Two of four against three: both are among the three half of the time, then 2/3, else 1/4.
    np.testing.assert_allclose([x.chance, x.chance_std], [(2 / 3 + 1 / 4) / 2, (2 / 3 - 1 / 4) / 2])
    assert np.isnan([y.jaccard, y.chance, y.chance_std]).all() and y.kept == (0, 0)
    assert (z.jaccard, z.chance, z.chance_std) == (1, 1, 0)


def test_masks_of_different_structure_are_refused():
    a = {"x": {"kernel": np.ones((2, 3))}}
    with pytest.raises(ValueError, match=r"^other[^:]*: expected .* got"):
        pruning.overlap(a, a["x"])
