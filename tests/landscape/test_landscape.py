"""Perturbation, adaptive sharpness, lines, planes and paths, where the answer is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle

from ntkgen import landscape, spectrum, train, tree

D = 12


def quadratic(eigenvalues=None):
    """w -> half (w - w0)^T H (w - w0) as a function of a tree, its minimum, and H."""
    matrix = oracle.symmetric(np.linspace(0.5, 8, D) if eigenvalues is None else eigenvalues)
    rng = np.random.default_rng(3)
    minimum = rng.uniform(0.5, 2, D) * rng.choice([-1, 1], D)
    centre, h = jnp.asarray(minimum), jnp.asarray(matrix)

    def value(params):
        d = jnp.concatenate([params["kernel"].reshape(-1), params["bias"]]) - centre
        return 0.5 * d @ h @ d

    params = {"kernel": centre[:8].reshape(4, 2), "bias": centre[8:]}
    return value, params, matrix, minimum


def mlp(seed=0):
    """Mean cross-entropy of a ReLU network as a function of its params, some draw of them, and the data."""
    rng = np.random.default_rng(seed)
    params = {
        "one": {"w": jnp.asarray(rng.normal(size=(3, 5))), "b": jnp.asarray(rng.normal(size=5))},
        "two": {"w": jnp.asarray(rng.normal(size=(5, 3))), "b": jnp.asarray(rng.normal(size=3))},
    }
    x, y = jnp.asarray(rng.normal(size=(20, 3))), jnp.asarray(rng.integers(0, 3, 20))

    def value(params, normalise=False):
        z = x @ params["one"]["w"] + params["one"]["b"][None]
        if normalise:
            z = (z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True)
        logits = jax.nn.relu(z) @ params["two"]["w"] + params["two"]["b"][None]
        return jnp.mean(train.cross_entropy(logits, y))

    return value, params


KEY = jax.random.key(0)

# Perturbation


def test_perturbation_of_a_quadratic_is_half_the_trace(x64):
    value, params, matrix, _ = quadratic()
    found = landscape.perturbation(value, params, KEY, sigmas=(0.1, 0.2), num_samples=400)
    want = 0.5 * np.array([0.1, 0.2]) ** 2 * np.trace(matrix)
    assert (np.abs(found.increase - want) < 4 * found.standard_error).all()
    assert (found.standard_error < 0.1 * want).all()
    # Var of half w^T H w is half of tr H^2 sigma^4.
    spread = 0.1**2 * np.sqrt(np.trace(matrix @ matrix) / 2 / 400)
    np.testing.assert_allclose(found.standard_error[0], spread, rtol=0.3)
    assert found.baseline == 0


def test_the_papers_protocol_is_the_default(x64):
    value, params = mlp()
    found = landscape.perturbation(value, params, KEY)
    assert found.values.shape == (7, 5) and landscape.SIGMAS[:5] == (0.0005, 0.001, 0.002, 0.005, 0.01)
    np.testing.assert_allclose(found.baseline, value(params), rtol=1e-14)
    np.testing.assert_allclose(found.increase, found.values.mean(1) - found.baseline, rtol=0, atol=1e-15)
    assert len(np.unique(found.values)) == 35  # every draw is its own


def test_perturbation_without_noise_or_with_one_draw(x64):
    value, params = mlp()
    found = landscape.perturbation(value, params, KEY, sigmas=(0.0,), num_samples=1)
    assert found.increase == 0 and np.isnan(found.standard_error).all()


def test_relative_perturbation_scales_with_the_filters(x64):
    """Doubling the kernels and halving the argument leaves a relative measure alone, not the absolute one."""
    value, params, _, _ = quadratic()
    doubled = {"kernel": 2 * params["kernel"], "bias": params["bias"]}
    halved = lambda p: value({"kernel": p["kernel"] / 2, "bias": p["bias"]})  # noqa: E731
    measure = lambda f, p, relative: landscape.perturbation(f, p, KEY, (0.1,), 3, relative).values  # noqa: E731
    np.testing.assert_allclose(measure(halved, doubled, True), measure(value, params, True), rtol=1e-12)
    assert np.abs(measure(halved, doubled, False) / measure(value, params, False) - 1).min() > 1e-3


# Adaptive sharpness


def test_average_adaptive_sharpness_of_a_quadratic(x64):
    """Half rho^2 trace(D H D), D the magnitudes of the weights."""
    value, params, matrix, w = quadratic()
    found = landscape.average_adaptive_sharpness(value, params, KEY, 0.1, 1000)
    want = 0.5 * 0.1**2 * np.sum(np.diag(matrix) * w**2)
    assert 0 < found.standard_error < 0.05 * want
    assert abs(found.increase - want) < 4 * found.standard_error and found.num_evaluations == 1001


def test_worst_adaptive_sharpness_of_a_quadratic(x64):
    """Half rho^2 times the largest eigenvalue of D H D; the sphere's maximum is unique up to sign."""
    value, params, matrix, w = quadratic(np.r_[np.linspace(0.1, 1, D - 1), 30])
    want = 0.5 * 0.1**2 * np.linalg.eigvalsh(matrix * np.outer(np.abs(w), np.abs(w)))[-1]
    found = landscape.worst_adaptive_sharpness(value, params, KEY, 0.1, 40)
    assert found.increase <= want * (1 + 1e-12)
    np.testing.assert_allclose(found.increase, want, rtol=1e-3)


def test_worst_adaptive_sharpness_in_the_maximum_norm(x64):
    """A linear function is largest at the corner: rho sum |g| |w|."""
    params, slope = {"w": jnp.array([1.0, -2, 3])}, jnp.array([1.0, 5, -0.1])
    found = landscape.worst_adaptive_sharpness(lambda p: slope @ p["w"], params, KEY, 0.1, 10, "linf")
    np.testing.assert_allclose(found.increase, 0.1 * (1 + 10 + 0.3), rtol=1e-12)


def test_worst_is_never_below_average_nor_zero(x64):
    value, params = mlp()
    radius = 0.05 * np.sqrt(tree.size(params))  # average noise of 0.05 has this length
    average = landscape.average_adaptive_sharpness(value, params, KEY, 0.05, 50)
    worst = landscape.worst_adaptive_sharpness(value, params, KEY, radius, 20)
    assert worst.increase > average.increase
    maximum = landscape.worst_adaptive_sharpness(lambda p: -jnp.sum((p["w"] - 1) ** 2), {"w": jnp.ones(3)}, KEY, 0.1)
    assert maximum.increase == 0


def test_worst_adaptive_sharpness_does_not_hide_nan(x64):
    root = lambda p: jnp.sum(jnp.sqrt(p["w"] - 0.9999))  # noqa: E731
    assert np.isnan(landscape.worst_adaptive_sharpness(root, {"w": jnp.ones(2)}, KEY, 0.5).increase)


def adaptive(value):
    """Compile params -> all adaptive numbers in one array."""
    return jax.jit(
        lambda params: jnp.stack(
            [
                landscape.average_adaptive_sharpness(value, params, KEY, 0.1, 5).increase,
                landscape.worst_adaptive_sharpness(value, params, KEY, 0.1, 5).increase,
                landscape.worst_adaptive_sharpness(value, params, KEY, 0.1, 5, "linf").increase,
            ]
        )
    )


def top(value, params):
    w, unravel = tree.ravel(params)
    return np.linalg.eigvalsh(oracle.hessian(lambda w: value(unravel(w)), w))[-1]


def dinh(params, a):
    """Multiply the first layer by a and divide the second by it: a ReLU network's function stays (Dinh et al.)."""
    return {"one": tree.scale(a, params["one"]), "two": {"w": params["two"]["w"] / a, "b": params["two"]["b"]}}


def test_dinhs_rescaling_moves_the_eigenvalue_and_leaves_adaptive_sharpness(x64):
    value, params = mlp()
    other = dinh(params, 10.0)
    np.testing.assert_allclose(value(other), value(params), rtol=1e-13)
    assert top(value, other) > 10 * top(value, params)
    measure = adaptive(value)
    before = measure(params)
    assert np.abs(before).min() > 1e-3
    np.testing.assert_allclose(measure(other), before, rtol=1e-10)
    absolute = [landscape.perturbation(value, p, KEY, (0.1,)).increase[0] for p in (params, other)]
    assert absolute[1] > 2 * absolute[0]


def test_scale_invariance_of_batch_norm_moves_the_eigenvalue_and_leaves_adaptive_sharpness(x64):
    plain, params = mlp()
    value = lambda p: plain(p, normalise=True)  # noqa: E731
    other = {**params, "one": tree.scale(0.1, params["one"])}
    np.testing.assert_allclose(value(other), value(params), rtol=1e-12)
    block = lambda p: top(lambda one: value({**p, "one": one}), p["one"])  # noqa: E731
    np.testing.assert_allclose(block(other), 100 * block(params), rtol=1e-8)
    measure = adaptive(value)
    before = measure(params)
    assert np.abs(before).min() > 1e-3
    np.testing.assert_allclose(measure(other), before, rtol=1e-9)
    matvec = lambda v: jax.jvp(jax.grad(value), (other,), (v,))[1]  # noqa: E731
    found = spectrum.lanczos(matvec, params, 30)
    np.testing.assert_allclose(found.value[0], top(value, other), rtol=1e-6)


# Lines, planes, paths


def test_filter_directions_have_the_filters_norms(x64):
    rng = np.random.default_rng(0)
    params = {
        "conv": {"kernel": jnp.asarray(rng.normal(size=(3, 3, 2, 4))), "bias": jnp.ones(4)},
        "dense": {"kernel": jnp.asarray(rng.normal(size=(6, 5)) * np.arange(5)), "bias": jnp.ones(5)},
        "temperature": jnp.ones(()),
    }
    direction = landscape.filter_direction(KEY, params)
    for layer in ("conv", "dense"):
        d, w = (np.asarray(t[layer]["kernel"]) for t in (direction, params))
        norms = [np.sqrt((a.reshape(-1, a.shape[-1]) ** 2).sum(0)) for a in (d, w)]
        np.testing.assert_allclose(*norms, rtol=1e-12)
        assert np.abs(d - w)[..., 1:].min() > 1e-9
        np.testing.assert_array_equal(direction[layer]["bias"], 0)
    assert direction["temperature"] == 0
    np.testing.assert_array_equal(direction["dense"]["kernel"][:, 0], 0)  # a dead filter stays dead


def test_line_and_plane_of_a_quadratic(x64):
    value, params, matrix, _ = quadratic()
    one, two = (landscape.filter_direction(jax.random.key(i), params) for i in range(2))
    flat = [np.concatenate([np.ravel(d["kernel"]), d["bias"]]) for d in (one, two)]
    steps, others = np.linspace(-1, 1, 5), np.array([0.0, 0.5])
    want = np.array([[0.5 * (d := a * flat[0] + b * flat[1]) @ matrix @ d for b in others] for a in steps])
    np.testing.assert_allclose(landscape.plane(value, params, (one, two), (steps, others)), want, rtol=0, atol=1e-12)
    np.testing.assert_allclose(landscape.line(value, params, one, steps), want[:, 0], rtol=0, atol=1e-12)


def test_trees_of_values_pass_through(x64):
    value, params = mlp()
    both = landscape.line(lambda p: {"loss": value(p), "norms": jnp.ones(2)}, params, params, [0.0, 1.0])
    assert both["loss"].shape == (2,) and both["norms"].shape == (2, 2)


def test_interpolation_meets_both_ends_and_goes_straight(x64):
    value, start = mlp()
    _, end = mlp(1)
    found = landscape.interpolate(value, start, end, [0.0, 0.25, 1.0])
    mixed = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start, end)
    np.testing.assert_allclose(found, [value(start), value(mixed), value(end)], rtol=1e-13)
    points = landscape.interpolate(lambda params: params, start, end, [0.0, 1.0])
    jax.tree.map(lambda p, a, b: np.testing.assert_array_equal(p, np.stack([a, b])), points, start, end)


def test_refit_gives_every_point_its_own_statistics(x64):
    """A normalised network whose statistics are a state: frozen ones belong to the start alone."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(50, 3)))
    refit = lambda w: (jnp.mean(x @ w, 0), jnp.std(x @ w, 0))  # noqa: E731

    def spread(w, state):
        mean, std = state
        return jnp.mean(((x @ w - mean[None]) / std[None]) ** 2)

    a, b = (jnp.asarray(np.random.default_rng(seed).normal(size=(3, 2))) for seed in (1, 2))
    steps = [0.0, 0.5, 1.0]
    np.testing.assert_allclose(landscape.interpolate(spread, a, b, steps, refit), 1, rtol=1e-12)
    np.testing.assert_allclose(landscape.line(spread, a, b, steps, refit), 1, rtol=1e-12)
    np.testing.assert_allclose(landscape.plane(spread, a, (a, b), (steps, steps), refit), 1, rtol=1e-12)
    frozen = landscape.interpolate(lambda w: spread(w, refit(a)), a, b, steps)
    assert abs(frozen[0] - 1) < 1e-12 and np.abs(frozen[1:] - 1).min() > 0.05


# Transformations


def test_vmap_over_seeds_equals_one_by_one(x64):
    value, _ = mlp()
    params = [mlp(seed)[1] for seed in range(2)]
    keys = jax.random.split(KEY, 2)

    def measure(params, key):
        direction = landscape.filter_direction(key, params)
        return (
            landscape.perturbation(value, params, key, (0.01, 0.1), 2),
            landscape.perturbation(value, params, key, (0.1,), 2, relative=True).values,
            landscape.average_adaptive_sharpness(value, params, key, 0.1, 3).increase,
            landscape.worst_adaptive_sharpness(value, params, key, 0.1, 3).increase,
            landscape.line(value, params, direction, [0.0, 0.3]),
            landscape.interpolate(value, params, direction, [0.0, 0.3]),
        )

    batched = jax.jit(jax.vmap(measure))(jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), keys)
    compiled = jax.jit(measure)
    for i in range(2):
        for got, want in zip(jax.tree.leaves(batched), jax.tree.leaves(compiled(params[i], keys[i])), strict=True):
            np.testing.assert_allclose(got[i], want, rtol=1e-11, atol=1e-13)


def test_the_function_is_traced_once_for_all_points():
    traces = []

    def value(params):
        traces.append(1)
        return jnp.sum(params["w"] ** 2)

    params = {"w": jnp.ones((2, 2))}
    landscape.perturbation(value, params, KEY)
    landscape.average_adaptive_sharpness(value, params, KEY, 0.1, 9)
    landscape.line(value, params, params, jnp.arange(9))
    assert len(traces) == 3


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f, p: landscape.perturbation(f, p, KEY, (-0.1,)), "sigmas: expected finite numbers of at least 0"),
        (lambda f, p: landscape.perturbation(f, p, KEY, (np.nan,)), "sigmas: expected finite"),
        (lambda f, p: landscape.perturbation(f, p, KEY, num_samples=0), "num_samples: expected at least 1, got 0"),
        (lambda f, p: landscape.perturbation(f, {"w": p["w"] * jnp.nan}, KEY), r"params\['w'\]: expected finite"),
        (lambda f, p: landscape.average_adaptive_sharpness(f, p, KEY, 0.1, 1), "num_samples: expected at least 2"),
        (lambda f, p: landscape.average_adaptive_sharpness(f, p, KEY, -1, 2), "rho: expected finite"),
        (lambda f, p: landscape.worst_adaptive_sharpness(f, p, KEY, np.inf), "rho: expected finite"),
        (lambda f, p: landscape.worst_adaptive_sharpness(f, p, KEY, 0.1, 0), "num_steps: expected at least 1"),
        (lambda f, p: landscape.worst_adaptive_sharpness(f, p, KEY, 0.1, norm="l1"), "norm: expected one of l2, linf"),
        (lambda f, p: landscape.line(f, p, {"w": jnp.ones(2)}, [0]), r"direction\['w'\]: expected shape"),
        (lambda f, p: landscape.plane(f, p, (p, {}), ([0], [0])), r"directions\[1\]: expected the structure"),
        (lambda f, p: landscape.interpolate(f, p, {"v": p["w"]}, [0]), "end: expected the structure"),
        (lambda f, p: landscape.interpolate(f, p, {"w": p["w"] / 0}, [0]), r"end\['w'\]: expected finite"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(lambda p: jnp.sum(p["w"]), {"w": jnp.ones((2, 3))})
