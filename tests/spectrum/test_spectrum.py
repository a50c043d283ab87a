"""Eigenvalues, densities and traces of matrices whose spectrum is known, in both forms of every loop."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle
import threadpoolctl
from hypothesis import strategies as st

from ntkgen import curvature, spectrum, train
from ntkgen.spectrum import _estimates, _lanczos

D = 40
SPECTRA = {
    "plain": np.concatenate([np.linspace(-1, 1, D - 3), [3, 4, 6]]),
    "clustered": np.concatenate([np.linspace(0.1, 1, D - 4), [5, 5 + 1e-4, 5 + 2e-4, 8]]),
    "negative largest": np.concatenate([[-20, -9], np.linspace(-1, 1, D - 5), [5, 7, 10]]),
    "rank three": np.concatenate([np.zeros(D - 3), [1, 2, -3]]),
}
FORMS = {"host": lambda f: f, "lax": jax.jit}
fast = hypothesis.settings(max_examples=15, deadline=None, derandomize=True)


def split(v):
    """A vector (d,) as a tree of two leaves."""
    return {"a": v[:10].reshape(2, 5), "b": v[10:]}


def join(t):
    return jnp.concatenate([t["a"].reshape(-1), t["b"]])


@jax.jit
def _multiply(matrix, t):
    return split(matrix @ join(t))


def operator(values, seed=0, dtype=None):
    matrix = oracle.symmetric(values, seed)
    return functools.partial(_multiply, jnp.asarray(matrix, dtype)), matrix


def start(seed=0, d=D):
    return split(jnp.asarray(np.random.default_rng(seed).normal(size=d)))


def true_residuals(matrix, found):
    """|H v - l v| / |l| of each pair, in numpy; vectors must be unit."""
    vectors = np.stack([join(jax.tree.map(lambda leaf, i=i: leaf[i], found.vector)) for i in range(len(found.value))])
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(vectors)), rtol=0, atol=1e-6)
    errors = vectors @ matrix - np.asarray(found.value)[:, None] * vectors
    return np.linalg.norm(errors, axis=1) / np.abs(found.value)


def wanted(values, k, which):
    order = {"LA": -values, "SA": values, "LM": -np.abs(values)}[which]
    return np.sort(values[np.argsort(order)[:k]])[::-1]


# Lanczos


def three_ends(which, matrix, v):
    return spectrum.lanczos(functools.partial(_multiply, matrix), v, D, 3, which, tol=1e-8)


# With the matrix as an argument one program serves all matrices.
ENDS = {(form, which): wrap(functools.partial(three_ends, which)) for form, wrap in FORMS.items()
        for which in spectrum.WHICH}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("which", spectrum.WHICH)
@pytest.mark.parametrize("name", ["plain", "clustered", "negative largest"])
def test_all_ends_of_a_known_spectrum(name, which, form, x64):
    values = SPECTRA[name]
    matrix = oracle.symmetric(values)
    found = ENDS[form, which](jnp.asarray(matrix), start())
    want = wanted(values, 3, which)
    np.testing.assert_allclose(found.value, want, rtol=0, atol=1e-10)
    assert found.converged.all() and (np.asarray(found.residual) <= 1e-8).all()
    # What is reported is what numpy measures.
    np.testing.assert_allclose(true_residuals(matrix, found), found.residual, rtol=1e-2, atol=1e-13)
    assert found.value.shape == found.residual.shape == found.converged.shape == (3,)
    assert found.vector["a"].shape == (3, 2, 5)


def test_it_stops_when_the_residual_is_reached_and_not_before(x64):
    matvec, _ = operator(SPECTRA["plain"])
    counts = []
    for tol in (1e-1, 1e-4, 1e-8, None):
        found = spectrum.lanczos(matvec, start(), 30, tol=tol)
        assert found.converged.all() and (tol is None or found.residual[0] <= tol)
        counts.append(int(found.num_matvecs))
    assert counts == sorted(set(counts)) and counts[-1] == 30


def test_products_are_counted_truly(x64):
    calls = []
    matvec, _ = operator(SPECTRA["plain"])

    def counted(t):
        jax.debug.callback(lambda: calls.append(1))
        return matvec(t)

    for run in (
        lambda: spectrum.lanczos(counted, start(), 30, 2, tol=1e-3),
        lambda: spectrum.power_iteration(counted, start(), 30, tol=1e-2),
        lambda: spectrum.density(counted, start(), jax.random.key(0), 2, 5),
        lambda: spectrum.trace(counted, start(), jax.random.key(0), 7),
        lambda: spectrum.trace(counted, start(), jax.random.key(0), 7, "hutch++"),
    ):
        calls.clear()
        result = run()
        jax.effects_barrier()
        assert len(calls) == result.num_matvecs > 0


def test_too_few_steps_are_reported_as_not_converged(x64):
    matvec, _ = operator(SPECTRA["clustered"])
    found = spectrum.lanczos(matvec, start(), 4, 3, tol=1e-6)
    assert not found.converged.all()
    assert not spectrum.lanczos(matvec, start(), 4, 3).converged.all()


@pytest.mark.parametrize("form", FORMS)
def test_multiple_eigenvalues_are_found_as_often_as_they_occur(form, x64):
    """One start sees one vector of each eigenspace; the others come after the Krylov space is exhausted."""
    values = np.repeat([1.0, 2.0, 3.0], [20, 18, 2])
    matvec, matrix = operator(values)
    found = FORMS[form](lambda v: spectrum.lanczos(matvec, v, D, 4))(start())
    np.testing.assert_allclose(found.value, [3, 3, 2, 2], rtol=1e-12)
    assert true_residuals(matrix, found).max() < 1e-10


@pytest.mark.parametrize("form", FORMS)
def test_an_invariant_subspace_is_no_breakdown(form, x64):
    values = SPECTRA["rank three"]
    matvec, matrix = operator(values)
    eigenvector = split(jnp.asarray(np.linalg.eigh(matrix)[1][:, -1]))  # of eigenvalue 2
    found = FORMS[form](lambda v: spectrum.lanczos(matvec, v, 10, 2))(eigenvector)
    np.testing.assert_allclose(found.value, [2, 1], rtol=1e-12)
    assert found.converged.all()


@pytest.mark.parametrize("form", FORMS)
def test_identity_and_zero(form, x64):
    same = FORMS[form](lambda v: spectrum.lanczos(lambda t: t, v, D, 3, tol=1e-6))(start())
    np.testing.assert_allclose(same.value, 1, rtol=1e-14)
    zero = FORMS[form](lambda v: spectrum.lanczos(lambda t: jax.tree.map(jnp.zeros_like, t), v, D, 2))(start())
    np.testing.assert_array_equal(zero.value, 0)
    np.testing.assert_array_equal(zero.residual, 0)  # an exact null vector: not 0 / 0
    assert same.converged.all() and zero.converged.all()


def test_one_dimension(x64):
    found = spectrum.lanczos(lambda v: -3 * v, jnp.ones(1), 5)
    np.testing.assert_allclose([found.value[0], found.num_matvecs], [-3, 1])


def test_residuals_are_those_of_the_vectors_past_a_change_of_room(x64):
    """Room for 16 steps, then for more; inside `jit` for all of them from the start."""
    matvec, matrix = operator(SPECTRA["plain"])
    inside = jax.jit(lambda v: spectrum.lanczos(matvec, v, 30, 3, tol=1e-10))(start())
    found = spectrum.lanczos(matvec, start(), 30, 3, tol=1e-10)
    assert 16 < found.num_matvecs <= 60 and found.num_matvecs == inside.num_matvecs
    np.testing.assert_allclose(found.residual, true_residuals(matrix, found), rtol=1e-2, atol=1e-13)
    np.testing.assert_allclose(found.value, inside.value, rtol=1e-12)


def test_more_pairs_than_the_first_room_holds(x64):
    matvec, _ = operator(SPECTRA["plain"])
    found = spectrum.lanczos(matvec, start(), D, 20, tol=1e-6)
    assert found.converged.all()
    np.testing.assert_allclose(found.value, wanted(SPECTRA["plain"], 20, "LA"), rtol=0, atol=1e-6)


def test_no_ghosts_in_float32():
    """Without reorthogonalisation a dominant eigenvalue comes up again after some 30 steps in single precision."""
    values = np.concatenate([np.linspace(0, 1, 196), [20, 50, 100, 1000]])
    matrix = jnp.asarray(oracle.symmetric(values), jnp.float32)
    found = spectrum.lanczos(jax.jit(lambda v: matrix @ v), jnp.ones(200), 100, 5)
    np.testing.assert_allclose(found.value[:4], [1000, 100, 50, 20], rtol=1e-4)
    assert found.value[4] < 1.01


@pytest.mark.parametrize("steps", [40, 150])  # one matrix product for all rows, and one for each block of rows
def test_basis_stays_orthonormal_in_float32(steps):
    values = np.concatenate([np.linspace(0, 1, 196), [20, 50, 100, 1000]])
    matrix = jnp.asarray(oracle.symmetric(values), jnp.float32)
    op = _lanczos.FlatOperator.of(jax.tree_util.Partial(jnp.matmul, matrix), jnp.ones(200), steps, None)
    state = _lanczos.iterate(op, steps)
    basis = np.asarray(state.basis[: int(state.steps)], float)
    np.testing.assert_allclose(basis @ basis.T, np.eye(steps), rtol=0, atol=1e-6)


def test_threads_of_lapack_are_as_before_and_one_meanwhile():
    """More of them spin on after a small eigenproblem and slow the next product."""
    controller = threadpoolctl.ThreadpoolController().select(user_api="blas")
    meanwhile = []

    def matvec(v):
        jax.debug.callback(lambda: meanwhile.extend(library["num_threads"] for library in controller.info()))
        return jnp.arange(1.0, 6.0) * v

    with controller.limit(limits=2):
        spectrum.lanczos(matvec, jnp.ones(5), 4)
        assert {library["num_threads"] for library in controller.info()} == {2}
    assert {2, 1} >= set(meanwhile) and 1 in meanwhile  # the first product begins before


def test_a_warm_start_costs_less(x64):
    (matvec, _), (drifted, _) = operator(SPECTRA["plain"]), operator(SPECTRA["plain"] * 1.01)
    vector = jax.tree.map(lambda leaf: leaf[0], spectrum.lanczos(matvec, start(), 30, tol=1e-6).vector)
    warm, cold = (spectrum.lanczos(drifted, v, 30, tol=1e-4) for v in (vector, start()))
    assert warm.num_matvecs < cold.num_matvecs
    np.testing.assert_allclose(warm.value, 6 * 1.01, rtol=1e-6)


@fast
@hypothesis.given(st.integers(0, 10**6), st.integers(1, 4), st.sampled_from(spectrum.WHICH))
def test_residuals_bound_the_error_for_any_matrix(seed, k, which):
    """Some eigenvalue lies within residual x |value| of each value, converged or not, in float32 too."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=D) * 10 ** rng.uniform(-3, 3)
    matvec, _ = operator(values, seed, jnp.float32)
    found = spectrum.lanczos(matvec, start(seed), 12, k, which)
    value = np.asarray(found.value, float)
    assert (np.diff(value) <= 0).all()
    nearest = np.abs(values[None] - value[:, None]).min(1)
    assert (nearest <= (np.asarray(found.residual) + 1e-5) * np.abs(value) + 1e-6 * np.abs(values).max()).all()
    np.testing.assert_array_equal(found.converged, found.residual <= spectrum.TOLERANCE)


# Power iteration


@pytest.mark.parametrize("form", FORMS)
def test_power_iteration_finds_the_largest_magnitude_with_its_sign(form, x64):
    matvec, matrix = operator(SPECTRA["negative largest"])
    found = FORMS[form](lambda v: spectrum.power_iteration(matvec, v, 60))(start())
    np.testing.assert_allclose(found.value, -20, rtol=1e-12)
    assert found.converged and found.num_matvecs == 60 and found.value.shape == ()
    v = np.asarray(join(found.vector))
    assert np.linalg.norm(matrix @ v + 20 * v) / 20 < 1e-10


def test_power_iteration_is_its_textbook_loop(x64):
    matvec, matrix = operator(SPECTRA["clustered"])
    found = spectrum.power_iteration(matvec, start(), 7)
    v = np.asarray(join(start()))
    for _ in range(7):
        v = v / np.linalg.norm(v)
        product = matrix @ v
        value, residual = v @ product, np.linalg.norm(product - v @ product * v)
        last, v = v, product
    np.testing.assert_allclose(found.value, value, rtol=1e-12)
    np.testing.assert_allclose(found.residual, residual / value, rtol=1e-9)
    np.testing.assert_allclose(join(found.vector), last, rtol=0, atol=1e-12)


def test_power_iteration_that_has_not_converged_says_so(x64):
    matvec, _ = operator(np.concatenate([np.linspace(0, 0.5, D - 2), [0.98, 1.0]]))
    early, late = (spectrum.power_iteration(matvec, start(), num) for num in (30, 1000))
    assert not early.converged and early.residual > 1e-3
    assert late.converged and abs(late.value - 1) < 1e-6
    opposite, _ = operator(np.concatenate([np.zeros(D - 2), [1.0, -1.0]]))  # the classic that never converges
    assert not spectrum.power_iteration(opposite, start(), 200).converged
    assert not spectrum.power_iteration(matvec, start(), 30, tol=1e-6).converged


def test_power_iteration_stops_at_the_tolerance(x64):
    matvec, _ = operator(SPECTRA["plain"])
    found = spectrum.power_iteration(matvec, start(), 500, tol=1e-3)
    assert found.converged and found.residual <= 1e-3 and 1 < found.num_matvecs < 100


def test_a_null_start_is_an_exact_pair(x64):
    found = spectrum.power_iteration(lambda v: v * jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0]), 3)
    assert found.value == 0 and found.residual == 0 and found.converged
    np.testing.assert_array_equal(found.vector, [1, 0])


# Transformations and compilation


@pytest.mark.parametrize("method", ["lanczos", "power_iteration", "density", "trace"])
def test_vmap_over_seeds_equals_one_by_one(method, x64):
    matrices = jnp.stack([jnp.asarray(oracle.symmetric(SPECTRA["plain"] * (1 + i), i)) for i in range(3)])
    keys = jax.random.split(jax.random.key(0), 3)

    def run(matrix, key):
        matvec = lambda t: split(matrix @ join(t))  # noqa: E731
        v0 = start()  # the same for all: only the product is batched
        return {
            "lanczos": lambda: spectrum.lanczos(matvec, v0, 30, 2, tol=1e-5),
            "power_iteration": lambda: spectrum.power_iteration(matvec, v0, 40, tol=1e-3),
            "density": lambda: spectrum.density(matvec, v0, key, 3, 6, bins=4),
            "trace": lambda: spectrum.trace(matvec, v0, key, 9, "hutch++"),
        }[method]()

    batched = jax.vmap(run)(matrices, keys)
    for i in range(3):
        single = run(matrices[i], keys[i])
        for name, one in single._asdict().items():
            if name == "vector":
                continue  # its sign is free
            got = getattr(batched, name)[i]
            np.testing.assert_allclose(got, one, rtol=1e-7, atol=1e-9, err_msg=name)


def test_one_compiled_product_serves_all_steps_networks_and_tolerances(compilations):
    params = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)}
    x, y = jnp.ones((5, 3)) * jnp.arange(5.0)[:, None], jnp.array([0, 1, 0, 1, 1])
    f = lambda params, x: jnp.tanh(x @ params["w"])  # noqa: E731

    def run(scale, tol):
        here = {"w": params["w"] * scale}
        matvec = curvature.hessian_matvec(f, train.cross_entropy, here, x, y)
        return spectrum.lanczos(matvec, params, 6, 2, tol=tol)

    run(1.0, 1e-3)
    with compilations() as names:
        results = [run(scale, tol) for scale, tol in ((2.0, 1e-3), (3.0, 1e-1))]
    assert not [name for name in names if "_compiled" in name or "_apply" in name or "_step" in name], names
    assert results[0].value[0] != results[1].value[0]
    with compilations() as names:
        spectrum.lanczos(jax.jit(lambda v: jax.tree.map(jnp.tanh, v)), {"other": jnp.ones(9)}, 3)
    assert any("_step" in name for name in names)  # the counter counts


# Density and trace


def test_moments_are_exact_within_their_errors_and_quadrature_is_exact(x64):
    values = SPECTRA["negative largest"]
    matvec, matrix = operator(values)
    found = spectrum.density(matvec, start(), jax.random.key(0), 200, 8)
    power, want = np.eye(D), []
    for _ in range(_estimates.MOMENTS):
        power = power @ matrix
        want.append(np.trace(power) / D)
    z = (np.asarray(found.moments) - want) / np.asarray(found.moment_errors)
    assert np.abs(z).max() < 4 and (np.asarray(found.moment_errors) > 0).all()
    np.testing.assert_allclose(want[1], (values**2).mean(), rtol=1e-12)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(found.mass.sum(), 1, rtol=1e-12)
    # One probe's moments are those of its own vector, not only on average.
    probe = np.asarray(
        join(_estimates.tree.random_like(jax.random.split(jax.random.key(0), 200)[0], start(), "rademacher"))
    )
    np.testing.assert_allclose(found.weights[0] @ found.nodes[0] ** 4, probe @ power @ probe / D, rtol=1e-10)


def test_standard_errors_cover(x64):
    """Forty repetitions: the moments' z-scores have unit variance, neither ten times too sure nor too shy."""
    matvec, _ = operator(SPECTRA["plain"])
    keys = jax.random.split(jax.random.key(3), 40)
    found = jax.jit(jax.vmap(lambda key: spectrum.density(matvec, start(), key, 12, 4)))(keys)
    z = (found.moments[:, 1] - (SPECTRA["plain"] ** 2).mean()) / found.moment_errors[:, 1]
    assert 0.6 < np.sqrt(np.mean(np.square(z))) < 1.6
    traces = jax.jit(jax.vmap(lambda key: spectrum.trace(matvec, start(), key, 12)))(keys)
    z = (traces.value - SPECTRA["plain"].sum()) / traces.standard_error
    assert 0.6 < np.sqrt(np.mean(np.square(z))) < 1.6


def test_the_histogram_counts_eigenvalues(x64):
    """All steps resolve the whole spectrum: three bins hold 3, 30 and 7 of 40 eigenvalues."""
    values = np.concatenate([np.linspace(-9, -8, 3), np.linspace(-1, 1, 30), np.linspace(4, 5, 7)])
    matvec, _ = operator(values)
    edges = jnp.array([-10.0, -5, 2, 6])
    found = spectrum.density(matvec, start(), jax.random.key(1), 60, D, edges=edges)
    z = (np.asarray(found.mass) - np.array([3, 30, 7]) / 40) / np.asarray(found.mass_errors)
    assert np.abs(z).max() < 4
    narrow = spectrum.density(matvec, start(), jax.random.key(1), 4, D, edges=jnp.array([-5.0, 2]))
    assert 0.4 < narrow.mass.sum() < 1  # what lies outside is not squeezed in


def test_smoothed_density_integrates_to_one_and_has_the_moments(x64):
    matvec, _ = operator(SPECTRA["plain"])
    found = spectrum.density(matvec, start(), jax.random.key(1), 4, 10)
    grid = jnp.linspace(-5, 11, 4001)
    y = spectrum.smooth(found, grid, 0.1) * (grid[1] - grid[0])
    np.testing.assert_allclose(y.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose((y * grid).sum(), found.moments[0], rtol=1e-6)
    np.testing.assert_allclose((y * grid**2).sum(), found.moments[1] + 0.1**2, rtol=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", spectrum.METHODS)
def test_trace_within_its_error(method, form, x64):
    values = SPECTRA["plain"]
    matvec, _ = operator(values)
    found = FORMS[form](lambda key: spectrum.trace(matvec, start(), key, 60, method))(jax.random.key(0))
    assert 0 < found.standard_error < 5 and abs(found.value - values.sum()) < 4 * found.standard_error
    assert found.num_matvecs == 60


def test_hutchplusplus_is_exact_for_low_rank_and_hutchinson_for_diagonals(x64):
    matvec, _ = operator(SPECTRA["rank three"])
    low = spectrum.trace(matvec, start(), jax.random.key(0), 12, "hutch++")
    np.testing.assert_allclose(low.value, 0, rtol=0, atol=1e-12)  # 1 + 2 - 3
    assert low.standard_error < 1e-12
    assert spectrum.trace(matvec, start(), jax.random.key(0), 12).standard_error > 1e-3
    diagonal = spectrum.trace(lambda v: v * jnp.arange(5.0), jnp.ones(5), jax.random.key(0), 2)
    np.testing.assert_allclose(diagonal.value, 10, rtol=1e-14)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, v: spectrum.lanczos(m, v, 50, D + 1), "k: expected 1 to 40, the number of parameters, got 41"),
        (lambda m, v: spectrum.lanczos(m, v, 50, 0), "k: expected 1 to 40"),
        (lambda m, v: spectrum.lanczos(m, v, 2, 3), "num_iters: expected at least k = 3, got 2"),
        (lambda m, v: spectrum.lanczos(m, v, 5, which="LX"), "which: expected one of LA, SA, LM, got 'LX'"),
        (lambda m, v: spectrum.lanczos(m, v, 5, tol=-1), "tol: expected .*, got -1"),
        (lambda m, v: spectrum.lanczos(m, v, 5, tol=np.nan), "tol: expected .*, got nan"),
        (lambda m, v: spectrum.power_iteration(m, v, 0), "num_iters: expected at least 1, got 0"),
        (lambda m, v: spectrum.power_iteration(m, v, 2.5), "num_iters: expected a whole number, got 2.5"),
        (lambda m, v: spectrum.power_iteration(m, v, True), "num_iters: expected at least 1, got True"),
        (lambda m, v: spectrum.lanczos(m, v, 5.0), "num_iters: expected a whole number, got 5.0"),
        (lambda m, v: spectrum.lanczos(m, v, 5, 1.5), "k: expected a whole number, got 1.5"),
        (lambda m, v: spectrum.density(m, v, jax.random.key(0), 2.5, 3), "num_probes: expected a whole number"),
        (lambda m, v: spectrum.density(m, v, jax.random.key(0), 2, 2.5), "num_iters: expected a whole number"),
        (lambda m, v: spectrum.density(m, v, jax.random.key(0), 2, 3, bins=2.5), "bins: expected a whole number"),
        (lambda m, v: spectrum.trace(m, v, jax.random.key(0), 6.5), "num_probes: expected a whole number"),
        (lambda m, v: spectrum.power_iteration(m, split(jnp.zeros(D)), 3), "v0: expected .* not zero"),
        (lambda m, v: spectrum.power_iteration(m, split(jnp.full(D, jnp.nan)), 3), r"v0\['a'\]: expected finite"),
        (lambda m, v: spectrum.power_iteration(m, split(jnp.arange(D)), 3), r"v0\['a'\]: expected floating"),
        (lambda m, v: spectrum.density(m, v, jax.random.key(0), 1, 3), "num_probes: expected at least 2"),
        (lambda m, v: spectrum.density(m, v, jax.random.key(0), 2, 0), "num_iters: expected at least 1"),
        (lambda m, v: spectrum.density(m, v, jax.random.key(0), 2, 3, bins=0), "bins: expected at least 1"),
        (lambda m, v: spectrum.trace(m, v, jax.random.key(0), 5, "hutch++"), "num_probes: expected at least 6"),
        (lambda m, v: spectrum.trace(m, v, jax.random.key(0), 5, "xtrace"), "method: expected one of .*'xtrace'"),
    ],
)
def test_bad_input_is_named(call, message):
    matvec, _ = operator(SPECTRA["plain"], dtype=jnp.float32)
    with pytest.raises(ValueError, match=message):
        call(matvec, start())


# Errors, operators that are not finite, half precision


@pytest.mark.parametrize("probes", [4, 10])
def test_intervals_by_student_cover_and_normal_ones_do_not(probes, x64):
    """1,000 repetitions of a 95 % interval: its share that holds the trace is within three standard errors of 95 %."""
    matrix = jnp.asarray(oracle.symmetric(SPECTRA["plain"]))
    keys = jax.random.split(jax.random.key(5), 1000)
    found = jax.jit(jax.vmap(lambda key: spectrum.trace(lambda t: split(matrix @ join(t)), start(), key, probes)))(keys)
    assert (found.degrees_of_freedom == probes - 1).all()
    low, high = spectrum.interval(found.value, found.standard_error, found.degrees_of_freedom)
    truth = SPECTRA["plain"].sum()
    assert abs(np.mean((low <= truth) & (truth <= high)) - 0.95) < 3 * np.sqrt(0.95 * 0.05 / 1000)
    normal = np.abs(found.value - truth) <= 1.96 * found.standard_error
    assert np.mean(normal) < 0.95 - 3 * np.sqrt(0.95 * 0.05 / 1000)


def test_degrees_of_freedom_are_those_of_the_probes(x64):
    matvec, _ = operator(SPECTRA["plain"])
    assert spectrum.density(matvec, start(), jax.random.key(0), 5, 3).degrees_of_freedom == 4
    assert spectrum.trace(matvec, start(), jax.random.key(0), 9, "hutch++").degrees_of_freedom == 2
    low, high = spectrum.interval([1.0, 2.0], [1.0, 0.0], 1)
    np.testing.assert_allclose([low, high], [[1 - 12.7062, 2], [1 + 12.7062, 2]], rtol=1e-5)
    with pytest.raises(ValueError, match="confidence: expected a number between 0 and 1, got 95"):
        spectrum.interval(0, 1, 3, 95)


@pytest.mark.parametrize("form", FORMS)
def test_an_operator_that_gives_nan_stops_at_once(form, x64):
    nan = lambda t: jax.tree.map(lambda leaf: leaf * jnp.nan, t)  # noqa: E731
    key = jax.random.key(0)
    for k in (1, 3):
        found = FORMS[form](lambda v, k=k: spectrum.lanczos(nan, v, 30, k, tol=1e-3))(start())
        assert np.isnan(found.value).all() and not found.converged.any() and not found.complete
        assert found.num_matvecs <= 2
    power = FORMS[form](lambda v: spectrum.power_iteration(nan, v, 30))(start())
    assert np.isnan(power.value) and not power.converged and power.num_matvecs == 1
    trace = FORMS[form](lambda key: spectrum.trace(nan, start(), key, 30))(key)
    assert np.isnan(trace.value) and np.isnan(trace.standard_error) and trace.num_matvecs == 1
    assert FORMS[form](lambda key: spectrum.trace(nan, start(), key, 30, "hutch++"))(key).num_matvecs <= 3
    density = FORMS[form](lambda key: spectrum.density(nan, start(), key, 10, 5))(key)
    assert np.isnan(density.mass).all() and np.isnan(density.moments).all() and density.num_matvecs == 1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_worked_on_in_float32(dtype):
    values = np.concatenate([np.linspace(0, 1, D - 2), [3, 7]])  # no powers of two: those round without error
    matrix = jnp.asarray(oracle.symmetric(values), jnp.float32)

    def matvec(t):
        assert t["a"].dtype == dtype
        return jax.tree.map(lambda leaf: leaf.astype(dtype), split(matrix @ join(t).astype(jnp.float32)))

    v0 = jax.tree.map(lambda leaf: leaf.astype(dtype), start())
    eps = float(jnp.finfo(dtype).eps)
    for found in (spectrum.lanczos(matvec, v0, 15, 2), spectrum.power_iteration(matvec, v0, 40)):
        assert found.value.dtype == jnp.float32 and found.vector["b"].dtype == jnp.float32
        np.testing.assert_allclose(np.ravel(found.value), [7, 3][: found.value.size], rtol=4 * eps)
        assert (np.asarray(found.residual) > eps / 20).all()  # rounding is not hidden
        np.testing.assert_array_equal(found.converged, found.residual <= spectrum.TOLERANCE)
    trace = spectrum.trace(matvec, v0, jax.random.key(0), 40)
    assert abs(trace.value - values.sum()) < 4 * trace.standard_error
    assert np.isfinite(spectrum.density(matvec, v0, jax.random.key(0), 4, 6).mass).all()
