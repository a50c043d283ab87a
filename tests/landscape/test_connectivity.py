"""The error on the line between two networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import landscape, pruning


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = {"dense0": {"kernel": (7, 3), "bias": (3,)}, "norm0": {"scale": (3,)}}
    return jax.tree.map(
        lambda shape: rng.normal(size=shape).astype(np.float32), shapes, is_leaf=lambda node: isinstance(node, tuple)
    )


def test_the_barrier_of_a_known_curve():
    first, second = {"w": jnp.array([-1.0, -1.0])}, {"w": jnp.array([1.0, 3.0])}
    # Seeds 0 and 1 at w = -1 ... 1 and -1 ... 3: 1 - w^2 has ends 0, 0 and 0, -8; its maximum is 1 at w = 0.
    found = landscape.error_barrier(lambda v: 1 - v["w"] ** 2, first, second, alphas=[0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.errors, [[0, 0], [0.75, 1], [1, 0], [0.75, -3], [0, -8]])
    np.testing.assert_allclose(found.barrier, [1, 5])
    np.testing.assert_allclose(found.excess, [1, 4])
    assert found.alphas.tolist() == [0, 0.25, 0.5, 0.75, 1]
    straight = landscape.error_barrier(lambda v: v["w"][1], first, second)
    assert straight.errors.shape == (30,)
    np.testing.assert_allclose([straight.barrier, straight.excess], [2, 0], atol=1e-6)  # by definition, and none


def test_the_ends_of_the_line_are_the_children_and_pruned_entries_stay_zero():
    points = []
    first, second = draw(0), draw(1)
    masks = pruning.magnitude_masks(first, 0.3)
    first, second = (pruning.apply_masks(child, masks) for child in (first, second))
    landscape.error_barrier(lambda v: points.append(v) or 0.0, first, second, alphas=[0, 0.3, 1])
    for point, child in ((points[0], first), (points[2], second)):
        jax.tree.map(np.testing.assert_array_equal, point, child)
    jax.tree.map(lambda leaf, keep: np.testing.assert_array_equal(np.where(keep, 0, leaf), 0), points[1], masks)
    a, between, b = (point["norm0"]["scale"] for point in points)
    np.testing.assert_allclose(between, 0.7 * a + 0.3 * b, rtol=1e-6)


def test_statistics_are_refitted_at_every_point():
    x = jnp.array([1.0, 2.0, 6.0])

    def refit(variables):
        return {**variables, "mean": jnp.mean(variables["w"] * x)}

    def error(variables):
        return jnp.abs(jnp.mean(variables["w"] * x - variables["mean"]))  # zero with statistics of these weights

    first, second = ({"w": jnp.float32(w), "mean": jnp.float32(0)} for w in (1, 2))
    assert np.all(landscape.error_barrier(error, first, second, refit=refit).errors < 1e-6)
    assert np.all(landscape.error_barrier(error, first, second).errors > 1)


def test_the_points_of_a_line_share_their_programs(compilations):
    first, second = ({"w": jnp.full((13,), v)} for v in (1.0, 2.0))
    evaluate = jax.jit(lambda v: jnp.sum(v["w"]))
    landscape.error_barrier(evaluate, first, second, alphas=[0, 1])
    with compilations() as names:
        landscape.error_barrier(evaluate, first, second, alphas=np.linspace(0, 1, 7))
    assert names == []


@pytest.mark.parametrize("alphas", [(0,), (0, 0.5), (0.1, 1), (0, 0.5, 0.5, 1), (0, np.nan, 1), ()])
def test_a_line_that_does_not_run_from_end_to_end_is_refused(alphas):
    with pytest.raises(ValueError, match=r"^alphas: expected .* got"):
        landscape.error_barrier(float, draw(0), draw(1), alphas=alphas)


def test_ends_of_different_structure_are_refused():
    with pytest.raises(ValueError, match=r"^second[^:]*: expected .* got"):
        landscape.error_barrier(float, draw(0), draw(1)["dense0"])
