"""Multiple eigenvalues are found as often as they occur, against dense matrices of planted spectra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle

from ntkgen import spectrum

D = 120
BULK = np.linspace(-1, 1, D)
PLANTED = {
    "triple": ([10, 10, 10, 5], 3, "LA"),
    "several": ([20, 20, 10, 10, 10, 5], 6, "LA"),
    "last": ([10, 5, 5, 5], 2, "LA"),
    "lowest": ([-9, -9, -9], 3, "SA"),
    "both signs": ([9, 9, -9, -9], 4, "LM"),
    "simple": ([10, 7, 5], 3, "LA"),
}


@functools.partial(jax.jit, static_argnames=("k", "which"))
def compiled(matrix, start, *, k, which):
    return found_by(matrix, start, k, which)


def found_by(matrix, start, k, which):
    # With the matrix as an argument one program serves all matrices.
    return spectrum.lanczos(jax.tree_util.Partial(jnp.matmul, matrix), start, 60, k, which, tol=1e-7)


@pytest.mark.parametrize("name", PLANTED)
def test_planted_multiplicities_are_found(name, x64):
    planted, k, which = PLANTED[name]
    values = np.concatenate([BULK[: D - len(planted)], planted])
    score = {"LA": values, "SA": -values, "LM": np.abs(values)}[which]
    want = np.sort(values[np.argsort(-score)[:k]])[::-1]
    for seed in range(3):
        matrix = jnp.asarray(oracle.symmetric(values, seed))
        start = jnp.asarray(np.random.default_rng(seed).normal(size=D))
        found = found_by(matrix, start, k, which)
        np.testing.assert_allclose(found.value, want, rtol=1e-7)
        assert found.complete and found.converged.all() and found.num_matvecs <= 100
        vectors = np.asarray(found.vector)
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), rtol=0, atol=1e-8)
        errors = np.linalg.norm(vectors @ matrix - np.asarray(found.value)[:, None] * vectors, axis=1)
        np.testing.assert_allclose(errors / np.abs(found.value), found.residual, rtol=1e-2, atol=1e-12)
        if seed == 0:
            inside = compiled(matrix, start, k=k, which=which)
            np.testing.assert_allclose(inside.value, want, rtol=1e-7)
            assert inside.num_matvecs == found.num_matvecs and inside.complete


def test_one_pair_needs_no_search_and_unfinished_pairs_are_not_complete(x64):
    values = np.concatenate([BULK[: D - 3], [10, 10, 10]])
    matrix = jnp.asarray(oracle.symmetric(values, 0))
    start = jnp.asarray(np.random.default_rng(0).normal(size=D))
    one = spectrum.lanczos(jax.tree_util.Partial(jnp.matmul, matrix), start, 60, 1, tol=1e-6)
    assert one.num_matvecs < 15 and one.complete
    few = spectrum.lanczos(jax.tree_util.Partial(jnp.matmul, matrix), start, 8, 3, tol=1e-6)
    assert not few.complete and not few.converged.all()
