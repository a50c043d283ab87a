"""The linearised model is the tangent: value and slope, gradient flow in closed form, and training like any network."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import ensemble, kernels, models, ntk, train
from ntkgen.linearize import Linearized, linearize


def setting(n=6):
    """Return (f, params, x, targets), float64 under x64."""
    model = models.MLP(16, depth=3, num_classes=2)
    variables = models.init(model, jax.random.key(0), (5,))
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), variables["params"])
    x, y = (jax.random.normal(jax.random.key(i), (n, d), jnp.float64) for i, d in ((1, 5), (2, 2)))
    return models.apply_fn(model, variables), params, x, y


def test_value_and_change_are_those_of_the_tangent(x64):
    f, params, x, _ = setting()
    f_lin = linearize(f, params)
    np.testing.assert_array_equal(f_lin(params, x), f(params, x))
    step = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params)
    rows = jax.tree.leaves(jax.tree.map(lambda j, d: jnp.einsum("nk...,...->nk", j, d), jax.jacrev(f)(params, x), step))
    moved = jax.tree.map(jnp.add, params, step)
    np.testing.assert_allclose(f_lin(moved, x) - f(params, x), sum(rows), rtol=0, atol=1e-12)


def test_its_tangent_kernel_is_the_same_everywhere(x64):
    f, params, x, _ = setting()
    f_lin = linearize(f, params)
    elsewhere = jax.tree.map(lambda leaf: leaf + 3, params)
    want = ntk.empirical_ntk(f, params, x)
    np.testing.assert_allclose(ntk.empirical_ntk(f_lin, elsewhere, x), want, rtol=0, atol=1e-12)


def test_small_steps_follow_gradient_flow(x64):
    """Euler's method is off by at most h/(2e) (1 + O(h)) in a mode, h = rate x eigenvalue, and of first order."""
    f, params, x, y = setting()
    x, x_new, y = x[:4], x[4:], y[:4]
    f_lin = linearize(f, params)
    kernel, cross = ntk.empirical_ntk(f, params, x), ntk.empirical_ntk(f, params, x_new, x)
    top = kernels.spectrum(kernel).values[0]
    flow = kernels.gradient_flow(kernel, y, f(params, x), cross, f(params, x_new))
    start = np.linalg.norm(f(params, x) - y)

    def run(rate, steps):
        loss = jax.grad(lambda p: jnp.sum((f_lin(p, x) - y) ** 2) / 2)
        step = lambda _, p: jax.tree.map(lambda a, g: a - rate * g, p, loss(p))  # noqa: E731
        end = jax.jit(lambda p: jax.lax.fori_loop(0, steps, step, p))(params)
        here, there = flow(rate * steps)
        return np.linalg.norm(f_lin(end, x) - here), np.linalg.norm(f_lin(end, x_new) - there), here

    (coarse, coarse_new, here), (fine, fine_new, _) = run(0.02 / top, 200), run(0.01 / top, 400)
    assert np.linalg.norm(here - y) < 0.9 * start  # something was learned
    assert coarse <= 0.02 * 0.2 * start and fine <= 0.01 * 0.2 * start
    assert abs(coarse / fine - 2) < 0.1 and abs(coarse_new / fine_new - 2) < 0.1


def test_ensemble_trains_it_like_any_model():
    """Full-batch gradient descent multiplies the residual by I - rate K / n at every step, for every seed."""
    model, steps, rate = models.MLP(8, depth=2, num_classes=3), 20, 0.1
    x = jax.random.normal(jax.random.key(5), (6, 4))
    labels = np.array([0, 1, 2, 2, 1, 0], np.int32)
    data = SimpleNamespace(x=x, y=labels)
    config = train.Config(epochs=steps, learning_rate=rate, optimizer="gd", loss="mse", schedule="constant")
    result = ensemble.fit(Linearized(model), SimpleNamespace(train=data, test=data), config, 2)
    before = [leaf.copy() for leaf in jax.tree.leaves(result.initial["params"])]
    for a, b in zip(before, jax.tree.leaves(result.variables["anchor"]), strict=True):
        np.testing.assert_array_equal(a, b)
    for seed in range(2):
        variables, initial = (jax.tree.map(lambda leaf, s=seed: leaf[s], t) for t in (result.variables, result.initial))
        f = models.apply_fn(model, {})
        kernel = kernels.as_matrix(ntk.empirical_ntk(f, initial["params"], x))
        residual = np.asarray(f(initial["params"], x) - jax.nn.one_hot(labels, 3), np.float64).ravel()
        shrink = np.linalg.matrix_power(np.eye(18) - rate / 6 * kernel, steps)
        got = Linearized(model).apply(variables, x) - jax.nn.one_hot(labels, 3)
        np.testing.assert_allclose(got.ravel(), shrink @ residual, rtol=0, atol=1e-5)
        assert np.linalg.norm(got) < 0.8 * np.linalg.norm(residual)
