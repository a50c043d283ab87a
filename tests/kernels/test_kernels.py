"""Kernel measures on kernels whose answers are known, and the infinite-width kernel against wide networks."""

import flax.linen as nn
import jax
import numpy as np
import pytest
import scipy.integrate

from ntkgen import kernels, models, ntk, stats

RNG = np.random.default_rng(0)


def positive(n, rank=None):
    a = RNG.normal(size=(n, rank or n + 2))
    return a @ a.T


def test_drift_and_alignment():
    k, m = positive(5), positive(5)
    assert kernels.drift(k, k) == 0 and kernels.drift(3 * k, k) == pytest.approx(2)
    assert kernels.drift(k + m, k) == pytest.approx(np.linalg.norm(m) / np.linalg.norm(k))
    assert kernels.alignment(k, 7 * k) == pytest.approx(1)
    assert kernels.alignment(k, m, centred=False) == pytest.approx(
        np.sum(k * m) / np.linalg.norm(k) / np.linalg.norm(m)
    )
    centre = np.eye(5) - 1 / 5
    one, two = centre @ k @ centre, centre @ m @ centre
    want = np.trace(one @ two) / np.linalg.norm(one) / np.linalg.norm(two)
    assert kernels.alignment(k, m) == pytest.approx(want)
    assert kernels.alignment(k + 100, m - 3) == pytest.approx(want)  # what centring is for


def test_target_alignment():
    y = np.eye(3)[[0, 1, 2, 0, 1, 2]]
    assert kernels.target_alignment(y @ y.T + 5, y) == pytest.approx(1)
    assert kernels.target_alignment(y @ y.T + 5, y, centred=False) < 0.9
    assert kernels.target_alignment(np.eye(6), y) < 0.9


def test_effective_rank_and_spectrum():
    q, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    for kind in ("entropy", "participation"):
        assert kernels.effective_rank(np.eye(6), kind=kind) == pytest.approx(6)
        assert kernels.effective_rank(np.ones((6, 6)), kind=kind) == pytest.approx(1)
        assert kernels.effective_rank(q[:, :3] @ q[:, :3].T * 9, kind=kind) == pytest.approx(3)
    values = np.array([5.0, 4, 3, 1, 0.5, 0.1])
    p = values / values.sum()
    k = q * values[None] @ q.T
    assert kernels.effective_rank(k) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    assert kernels.effective_rank(k, kind="participation") == pytest.approx(1 / (p**2).sum())
    found = kernels.spectrum(k)
    np.testing.assert_allclose(found.values, values)
    np.testing.assert_allclose(k @ found.vectors, found.vectors * found.values[None], atol=1e-13)


def test_flattening_keeps_sample_and_output_together():
    blocks = RNG.normal(size=(2, 3, 4, 5))
    assert kernels.as_matrix(blocks)[1 * 4 + 2, 2 * 5 + 3] == blocks[1, 2, 2, 3]


def test_regression():
    k, cross, y = positive(6), RNG.normal(size=(4, 6)), RNG.normal(size=(6, 3))
    np.testing.assert_allclose(kernels.regression(k, y)(k), y, atol=1e-9)
    want = cross @ np.linalg.solve(k + 0.5 * np.eye(6), y)
    np.testing.assert_allclose(kernels.regression(k, y, ridge=0.5)(cross), want, atol=1e-12)
    # A full kernel whose outputs share nothing is the shared one.
    full = np.einsum("ij,km->ijkm", k, np.eye(3))
    full_cross = np.einsum("ij,km->ijkm", cross, np.eye(3))
    np.testing.assert_allclose(kernels.regression(full, y, ridge=0.5)(full_cross), want, atol=1e-12)
    with pytest.raises(kernels.NotPositiveDefiniteError, match="not positive definite with ridge 0, eigenvalues from"):
        kernels.regression(positive(6) - 20 * np.eye(6), y)


@pytest.mark.parametrize("full", [False, True])
def test_gradient_flow_solves_its_differential_equation(full):
    n, k, m = 5, 2, 3
    a, b = RNG.normal(size=(n * k, 14)), RNG.normal(size=(m * k, 14))
    if full:
        kernel, cross = ((u @ a.T).reshape(-1, k, n, k).transpose(0, 2, 1, 3) for u in (a, b))
    else:
        a, b = a[:n], b[:m]
        kernel, cross = a @ a.T, b @ a.T
    y, start, start_new = (RNG.normal(size=(rows, k)) for rows in (n, n, m))
    at = kernels.gradient_flow(kernel, y, start, cross, start_new)
    both = np.concatenate([np.asarray(kernel), np.asarray(cross)])

    def slope(_, f):
        residual = f.reshape(-1, k)[:n] - y
        return -(np.einsum("ijkm,jm->ik", both, residual) if full else both @ residual).ravel()

    initial = np.concatenate([start, start_new]).ravel()
    end = scipy.integrate.solve_ivp(slope, (0, 0.3), initial, rtol=1e-10, atol=1e-12).y[:, -1].reshape(-1, k)
    np.testing.assert_allclose(np.concatenate(at(0.3)), end, atol=1e-7)
    np.testing.assert_allclose(np.concatenate(at(0)), np.concatenate([start, start_new]), atol=1e-12)
    # At the end of time it is regression on the residual.
    fitted = kernels.regression(kernel, y - start)
    np.testing.assert_allclose(at(np.inf)[0], y, atol=1e-8)
    np.testing.assert_allclose(at(np.inf)[1], start_new + fitted(cross), atol=1e-7)


def test_gradient_flow_of_a_singular_kernel_leaves_what_it_does_not_see():
    a = RNG.normal(size=(6, 2))
    y, start = RNG.normal(size=(6, 1)), RNG.normal(size=(6, 1))
    here, there = kernels.gradient_flow(a @ a.T, y, start, a @ a.T, start)(np.inf)
    seen = a @ np.linalg.pinv(a)
    np.testing.assert_allclose(here, start + seen @ (y - start), atol=1e-10)
    np.testing.assert_allclose(there, here, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_of_a_singular_kernel_is_not_divided_by(dtype):
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(4, 3))
    y = rng.normal(size=(20, 1))
    seen = np.linalg.pinv(a) @ y
    kernel, cross = ((side @ a.T.astype(dtype)).astype(dtype) for side in (a.astype(dtype), b.astype(dtype)))
    _, there = kernels.gradient_flow(kernel, y, 0 * y, cross, np.zeros((4, 1)))(np.inf)
    np.testing.assert_allclose(there, b @ seen, atol=1e-5 if dtype is np.float32 else 1e-12)
    moved = kernels.flow_movement(kernel, y)(np.inf).movement
    np.testing.assert_allclose(moved, np.linalg.norm(seen), rtol=1e-5)


def test_outputs_are_centred_each_by_itself():
    rng = np.random.default_rng(2)
    features = rng.normal(size=(7, 3, 5))  # samples, outputs, parameters

    def kernel(shift):
        return np.einsum("ikp,jmp->ijkm", features + shift, features + shift)

    plain, shifted = kernel(0), kernel(rng.normal(size=(1, 3, 5)))
    np.testing.assert_allclose(kernels.alignment(plain, shifted), 1, rtol=1e-12)
    assert kernels.alignment(plain, shifted, centred=False) < 0.99
    trace = np.einsum("ijkk->ij", plain)
    np.testing.assert_allclose(
        kernels.alignment(trace, np.eye(7)), kernels.alignment(trace[:, :, None, None], np.eye(7)[:, :, None, None])
    )


BAD = {
    "kernels: expected equal shapes": lambda: kernels.drift(np.eye(2), np.eye(3)),
    "initial: expected a kernel that is not zero": lambda: kernels.drift(np.eye(2), np.zeros((2, 2))),
    "kernel: expected a kernel that is not zero": lambda: kernels.alignment(np.ones((3, 3)), np.eye(3)),
    "kernel: expected a symmetric": lambda: kernels.spectrum(np.triu(np.ones((3, 3)))),
    "kernel: expected finite": lambda: kernels.spectrum(np.full((2, 2), np.nan)),
    "kind: expected": lambda: kernels.effective_rank(np.eye(2), kind="numerical"),
    "targets: expected finite": lambda: kernels.regression(np.eye(2), np.ones((3, 1))),
    "targets: expected \\(n, classes\\)": lambda: kernels.target_alignment(np.eye(2), np.array([0, 1])),
    "ridge: expected at least 0": lambda: kernels.regression(np.eye(2), np.ones((2, 1)), ridge=-1),
    "t: expected at least 0": lambda: kernels.gradient_flow(np.eye(2), np.ones((2, 1)), np.ones((2, 1)))(-1),
    "parametrization: expected": lambda: kernels.infinite_mlp(np.ones((2, 3)), width=4, parametrization="mup"),
    "weight_variance: expected a positive": lambda: kernels.infinite_mlp(np.ones((2, 3)), width=4, weight_variance=0),
    "kernel: expected a positive semidefinite": lambda: kernels.effective_rank(np.diag([1.0, 1.0, -5.0])),
    "cross: expected": lambda: kernels.regression(np.eye(2), np.ones((2, 2)))(np.ones((3, 2, 2, 2))),
    "start_new: expected finite \\(3, 2\\)": lambda: kernels.gradient_flow(
        np.eye(2), np.ones((2, 2)), np.ones((2, 2)), np.ones((3, 2)), np.ones(3)
    ),
    "start_new: expected finite": lambda: kernels.gradient_flow(
        np.eye(2), np.ones((2, 2)), np.ones((2, 2)), np.ones((3, 2)), np.full((3, 2), np.nan)
    ),
    "width, depth: expected": lambda: kernels.infinite_mlp(np.ones((2, 3)), width=np.inf),
    "x1, x2: expected finite samples of one size": lambda: kernels.infinite_mlp(
        np.ones((2, 3)), np.ones((2, 4)), width=4
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_has_one_clear_error(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


# --- The infinite-width limit


def test_one_hidden_layer_by_hand():
    """Two Dense layers at one sample: E relu^2 is half the variance, E step one half."""
    x, w = np.array([[1.0, 2, 2]]), 10
    variance = (9 + 1) / (3 * 3)
    hidden = w * variance / 2
    got = kernels.infinite_mlp(x, width=w, depth=2)
    assert got.nngp == pytest.approx((hidden + 1) / (3 * w))
    assert got.ntk == pytest.approx((hidden + 1) + (9 + 1) * 0.5 / 3)
    scaled = kernels.infinite_mlp(x, width=w, depth=2, parametrization="ntk")
    assert scaled.nngp == pytest.approx(got.nngp)
    assert scaled.ntk == pytest.approx((hidden + 1) / w + (9 + 1) / 3 * 0.5 / 3)


def test_a_sample_of_zeros_without_biases_has_a_kernel_of_zeros():
    x = np.array([[0.0, 0.0], [1.0, 2.0]])
    found = kernels.infinite_mlp(x, width=8, bias=False)
    rest = kernels.infinite_mlp(x[1:], width=8, bias=False)
    for all_of_them, own in zip(found, rest, strict=True):
        np.testing.assert_array_equal(all_of_them[0], 0)
        np.testing.assert_array_equal(all_of_them[:, 0], 0)
        np.testing.assert_array_equal(all_of_them[1, 1], own[0, 0])


def test_opposite_and_equal_samples():
    """At angle 0 both expectations are the diagonal's; at pi they vanish and only biases are left."""
    x = np.array([[3.0, 4.0]])
    same = kernels.infinite_mlp(x, x, width=8, depth=2)
    np.testing.assert_allclose(same.ntk, kernels.infinite_mlp(x, width=8, depth=2).ntk)
    far = 1e8 * x  # the bias is negligible there
    assert kernels.infinite_mlp(far, -far, width=8, depth=2).nngp * 24 == pytest.approx(1)


class Scaled(nn.Module):
    """The NTK parametrisation, variance 2, no biases: the kernel neither shrinks nor has 1/width corrections."""

    width: int

    @nn.compact
    def __call__(self, x):
        for layer in range(4):
            entries = models.pytorch_uniform(1 / 6)  # U(+-sqrt 6)
            size = self.width if layer < 3 else 10
            fan_in = x.shape[-1]
            x = nn.Dense(size, use_bias=False, kernel_init=entries)(x) / np.sqrt(fan_in)
            x = nn.relu(x) if layer < 3 else x
        return x


WIDTHS, GROUPS, SEEDS = (64, 256, 1024, 4096), 4, 5


@pytest.fixture(scope="module", params=["standard", pytest.param("ntk", marks=pytest.mark.slow)])
def wide(request):
    """Return (parametrisation, inputs, trace kernels (groups, seeds, widths, n, n))."""
    x = jax.random.normal(jax.random.key(9), (6, 784))
    x = x.at[1].set(0.8 * x[0] + 0.6 * x[1])  # not all at right angles
    found = np.zeros((GROUPS * SEEDS, len(WIDTHS), 6, 6))
    for column, width in enumerate(WIDTHS):
        model = models.MLP(width) if request.param == "standard" else Scaled(width)
        f, start = models.apply_fn(model, {}), jax.jit(lambda key, m=model: models.init(m, key, (784,))["params"])
        for seed in range(len(found)):
            found[seed, column] = ntk.empirical_ntk(f, start(jax.random.key(seed)), x, trace=True)
    return request.param, np.asarray(x), found.reshape(GROUPS, SEEDS, len(WIDTHS), 6, 6)


def analytic(parametrization, x, width):
    if parametrization == "standard":
        return kernels.infinite_mlp(x, width=width).ntk
    return kernels.infinite_mlp(x, width=width, parametrization="ntk", weight_variance=2, bias=False).ntk


def test_wide_networks_approach_the_analytic_kernel(wide):
    """In the NTK parametrisation like width^-1/2.

    In the standard one more slowly at first: the first layer's term does not fluctuate with its inputs, and is most of
    the kernel below width 784. Over all widths it is only asked to fall; -1/2 must hold between 1024 and 4096.
    """
    parametrization, x, found = wide
    limit = [analytic(parametrization, x, np.inf if parametrization == "ntk" else width) for width in WIDTHS]
    errors = np.linalg.norm(found - np.asarray(limit)[None, None], axis=(-2, -1)) / np.linalg.norm(limit, axis=(1, 2))
    groups = np.sqrt(np.mean(errors**2, axis=1))
    fit = stats.power_law_fit(WIDTHS, groups)
    assert fit.high < 0, fit
    if parametrization == "ntk":
        assert fit.low < -0.5 < fit.high, fit
    last = np.log(groups[:, -1] / groups[:, -2]) / np.log(WIDTHS[-1] / WIDTHS[-2])
    ends = stats.interval(last, method="t")
    assert ends.low < -0.5 < ends.high, last


def test_the_analytic_kernel_is_the_mean_over_initialisations(wide):
    """No bias beyond four standard errors at any width; the limit without each layer's own factors is far outside."""
    parametrization, x, found = wide
    flat = found.reshape(-1, len(WIDTHS), 6, 6)
    mean, error = flat.mean(0), flat.std(0, ddof=1) / np.sqrt(len(flat))
    for column, width in enumerate(WIDTHS):
        want = analytic(parametrization, x, width)
        assert np.abs((mean[column] - want) / error[column]).max() < 4
        if parametrization == "standard":
            naive = kernels.infinite_mlp(x, width=1e9).ntk / 1e9 * width
            assert np.abs((mean[column] - naive) / error[column]).max() > 8


def test_the_ntk_parametrisation_has_its_analytic_kernel():
    """Mean over seeds within four standard errors; the standard parametrisation's, scaled to fit, is far outside."""
    x, width = jax.random.normal(jax.random.key(2), (4, 30)), 256
    x = x.at[1].set(0.8 * x[0] + 0.6 * x[1])
    model = models.MLP(width, depth=3, parametrization="ntk")
    f = models.apply_fn(model, {})
    start = jax.jit(lambda key: models.init(model, key, (30,))["params"])
    found = np.array([ntk.empirical_ntk(f, start(jax.random.key(seed)), x, trace=True) for seed in range(24)])
    mean, error = found.mean(0), found.std(0, ddof=1) / np.sqrt(len(found))
    want = kernels.infinite_mlp(x, width=width, depth=3, parametrization="ntk").ntk
    other = kernels.infinite_mlp(x, width=width, depth=3).ntk
    assert np.abs((mean - want) / error).max() < 4
    assert np.abs((mean - other * np.trace(want) / np.trace(other)) / error).max() > 8


def test_flow_movement_is_that_of_an_explicit_linear_model():
    """theta' = J^T (y - J theta), integrated by the exponential of its own matrix, in parameter space."""
    rng = np.random.default_rng(5)
    jacobian, y = rng.normal(size=(6, 9)), rng.normal(size=(6, 2))
    kernel, t = jacobian @ jacobian.T, 0.13
    at = kernels.flow_movement(kernel, y)
    steps, theta = 20_000, np.zeros((9, 2))
    for _ in range(steps):
        half = theta + t / steps / 2 * jacobian.T @ (y - jacobian @ theta)  # midpoint rule, second order
        theta += t / steps * jacobian.T @ (y - jacobian @ half)
    assert at(t).movement == pytest.approx(np.linalg.norm(theta), rel=1e-6)
    assert at(t).loss == pytest.approx(np.sum((jacobian @ theta - y) ** 2) / 2 / 6, rel=1e-6)
    solved = np.linalg.lstsq(jacobian, y, rcond=None)[0]  # the least-norm solution
    assert at(np.inf).movement == pytest.approx(np.linalg.norm(solved)) and at(np.inf).loss < 1e-12
    assert at(0.0) == (0.0, pytest.approx(np.sum(y**2) / 12))


def test_flow_movement_averages_over_random_starts():
    rng = np.random.default_rng(6)
    jacobian, y, root = rng.normal(size=(5, 8)), rng.normal(size=(5, 1)), rng.normal(size=(5, 5)) / 3
    kernel = jacobian @ jacobian.T
    at = kernels.flow_movement(kernel, y, root @ root.T)(0.2)
    starts = root @ rng.normal(size=(5, 4000))
    moved = [kernels.flow_movement(kernel, y - f[:, None])(0.2).movement for f in starts.T]
    squares = np.square(moved)
    assert abs(squares.mean() - at.movement**2) < 4 * squares.std() / np.sqrt(len(squares))
    with pytest.raises(ValueError, match="shared by all outputs"):
        kernels.flow_movement(np.zeros((2, 2, 1, 1)), np.zeros((2, 1)))
