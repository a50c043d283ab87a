"""Multiple eigenvalues are found as often as they occur, against dense matrices of planted spectra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle

from ntkgen import spectrum
from ntkgen.spectrum import _multiplicity

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


def kernels(values, starts, point, steps):
    """Yield K_j at the point after each Lanczos step of diag(values), for each start (rows)."""
    v, before = starts, np.zeros_like(starts)
    basis, beta = [v], np.zeros(len(starts))
    polynomials = _multiplicity.Polynomials.begin(len(starts), float)
    for _ in range(steps):
        alpha = np.sum(values * v * v, 1)
        w = values * v - alpha[:, None] * v - beta[:, None] * before
        for row in basis * 2:
            w = w - np.sum(row * w, 1, keepdims=True) * row
        last, beta = beta, np.linalg.norm(w, axis=1)
        before, v = v, w / beta[:, None]
        basis.append(v)
        polynomials = polynomials.advance(point, alpha, last, beta)
        yield np.asarray(polynomials.kernel)


def random_starts(count, size):
    starts = np.random.default_rng(0).normal(size=(count, size))
    return starts / np.linalg.norm(starts, axis=1, keepdims=True)


def test_kernel_bounds_the_mass_of_an_eigenvalue(x64):
    # Also where the eigenvalue lies inside the spectrum. Steps end before it is found: from then on the recurrence at
    # this very point magnifies rounding, and in the search the Ritz value has decided by then.
    values, starts = np.sort(np.append(BULK[:59], 3.0)), random_starts(50, 60)
    for i, steps in ((59, 10), (58, 20), (30, 20)):
        for j, kernel in enumerate(kernels(values, starts, values[i], steps)):
            assert np.all(starts[:, i] ** 2 <= (1 + 1e-6) / kernel), (i, j)


@pytest.mark.parametrize("allowed", [0.3, 0.1])
def test_an_eigenvalue_is_missed_no_oftener_than_the_bound_says(allowed, x64):
    size, count = 60, 1000
    starts = random_starts(count, size)
    with_it, without = np.append(BULK[: size - 1], 3.0), BULK[:size]

    def sure(values):
        steps = [_multiplicity.missed(kernel, size) <= allowed for kernel in kernels(values, starts, 3.0, 12)]
        return np.asarray(steps)  # (steps, starts)

    wrongly = np.mean(sure(with_it).any(0))  # the search ended, and the eigenvalue is there
    assert 0 < wrongly <= allowed + 3 * np.sqrt(allowed * (1 - allowed) / count)
    assert sure(without)[4].all()  # where it is not, a few steps are enough
