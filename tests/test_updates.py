"""Sharpness-aware steps against optax, injected noise against the exact covariance of small batches."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_curvature as oracle

from ntkgen import data, ensemble, models, train, updates


def network(n=24):
    """A small regression whose examples' gradients are known: (f, params, loss, x, y)."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(n, 3)), jnp.float32), jnp.asarray(rng.normal(size=n), jnp.float32)
    params = {"w": jnp.asarray(rng.normal(size=(3, 2)), jnp.float32), "v": jnp.asarray(rng.normal(size=2), jnp.float32)}
    f = lambda p, x: jnp.tanh(x @ p["w"]) @ p["v"]  # noqa: E731
    return f, params, lambda o, y: 0.5 * (o - y) ** 2, x, y


def mean_loss(f, loss):
    """What `train.train_step` hands to an update: (loss(params, batch, weights), the model state it returns)."""

    def mean(params, batch, weights=None):
        losses = loss(f(params, batch[0]), batch[1])
        return jnp.mean(losses if weights is None else losses * weights), {"seen": jnp.sum(params["v"])}

    return mean


def test_sam_takes_the_step_of_optax():
    f, params, loss, x, y = network()
    mean = mean_loss(f, loss)
    slope = jax.grad(lambda p: mean(p, (x, y))[0])
    theirs = optax.contrib.sam(
        optax.sgd(0.1), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)), sync_period=2, opaque_mode=True
    )
    want, state = params, theirs.init(params)
    ours = params
    for _ in range(3):
        step, state = theirs.update(slope(want), state, want, grad_fn=lambda p, _: slope(p))
        want = optax.apply_updates(want, step)
        gradient, model_state = updates.sam(0.05)(mean, ours, (x, y), None)
        assert float(model_state["seen"]) == float(jnp.sum(ours["v"]))  # of the first pass
        ours = jax.tree.map(lambda p, g: p - 0.1 * g, ours, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, want)
    plain = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope(params))
    assert float(jnp.max(jnp.abs(plain["w"] - ours["w"]))) > 1e-3  # the comparison can fail


def test_with_a_mask_sam_looks_at_the_subnetwork_alone():
    dataset = data.load("digits", num_train=64)
    model = models.MLP(4, depth=2)
    program = train.Program.of(model, train.Config(1, 64, 0.1, momentum=0.0), 64, updates.sam(0.5))
    variables = models.init(model, jax.random.key(0), dataset.train.x.shape[1:])
    mask = jax.tree.map(lambda leaf: jax.random.uniform(jax.random.key(1), leaf.shape) < 0.3, variables["params"])
    state = train.init_state(program, variables, mask)
    batch = train.Batch(jnp.asarray(dataset.train.x), jnp.asarray(dataset.train.y))
    after = train.train_step(program, state, batch, jnp.float32(0.1), mask, jax.random.key(2))
    keep = jax.flatten_util.ravel_pytree(mask)[0].astype(bool)
    flat, unravel = jax.flatten_util.ravel_pytree(state.variables["params"])

    def loss(kept):  # of the kept weights alone: there are no others
        params = unravel(jnp.zeros_like(flat).at[jnp.flatnonzero(keep)].set(kept))
        logits = model.apply({"params": params}, batch.x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch.y))

    kept = flat[keep]
    slope = jax.grad(loss)(kept)
    want = kept - 0.1 * jax.grad(loss)(kept + 0.5 * slope / jnp.linalg.norm(slope))
    found = jax.flatten_util.ravel_pytree(after.variables["params"])[0]
    np.testing.assert_allclose(found[keep], want, rtol=1e-5, atol=1e-6)
    assert not np.any(found[~keep])


def test_sam_with_no_radius_or_no_gradient_is_the_plain_gradient():
    f, params, loss, x, y = network()
    mean = mean_loss(f, loss)
    want = jax.grad(lambda p: mean(p, (x, y))[0])(params)
    jax.tree.map(np.testing.assert_array_equal, updates.sam(0.0)(mean, params, (x, y), None)[0], want)
    flat = jax.tree.map(jnp.zeros_like, params)
    found = updates.sam(0.1)(mean, flat, (x, jnp.zeros_like(y)), None)[0]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(("batch", "replace"), [(24, False), (16, False), (16, True)])
def test_injected_noise_has_mean_and_covariance_of_the_small_batch(batch, replace):
    """Draws of the batch *and* of the weights, against the exact covariance of batches of 4 of the 24 examples.

    Each entry within 5 standard errors of its mean over 20,000 draws, estimated from the draws themselves.
    """
    f, params, loss, x, y = network()
    n, target, draws = len(y), 4, 20_000
    gradients = oracle.example_gradients(f, loss, params, x, y)
    mean = gradients.mean(0)
    spread = (gradients - mean).T @ (gradients - mean)
    exact = spread / n / target if replace else spread / (n - 1) * (1 / target - 1 / n)
    update, loss_of = updates.injected_noise(target), mean_loss(f, loss)

    @jax.jit
    @jax.vmap
    def draw(key):
        picked, noise = jax.random.split(key)
        rows = jax.random.choice(picked, n, (batch,), replace=replace)
        return oracle.flat_params(update(loss_of, params, (x[rows], y[rows]), noise)[0])[0]

    found = np.asarray(draw(jax.random.split(jax.random.key(1), draws)), np.float64)
    error = found.std(0, ddof=1) / np.sqrt(draws)
    assert (np.abs(found.mean(0) - mean) < 5 * error).all()
    products = (found - mean)[:, :, None] * (found - mean)[:, None]  # about the exact mean: no correction
    error = products.std(0, ddof=1) / np.sqrt(draws)
    assert (np.abs(products.mean(0) - exact) < 5 * error).all()
    # It has the power to tell: the plain batch's covariance, and s^2 = B / b - 1 without the factor, are not it.
    largest = np.unravel_index(exact.argmax(), exact.shape)
    plain = exact * (1 / batch - (0 if replace else 1 / n)) / (1 / target - (0 if replace else 1 / n))
    assert abs(products.mean(0) - plain)[largest] > 20 * error[largest]


def test_weights_average_to_one_and_have_the_stated_spread():
    weights = np.asarray(updates.noise_weights(jax.random.key(0), 20_000, 500), np.float64)
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert weights.var() == pytest.approx(39, rel=5 * np.sqrt(2 / 20_000))  # B / b - 1; five standard errors


@pytest.mark.parametrize("make", [
    lambda: updates.sam(-0.1), lambda: updates.sam(float("nan")), lambda: updates.injected_noise(0),
    lambda: updates.noise_weights(jax.random.key(0), 8, 8), lambda: updates.noise_weights(jax.random.key(0), 8, 9),
])  # fmt: skip
def test_refusals_are_one_line(make):
    with pytest.raises(ValueError, match="expected") as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_equal_updates_share_one_compilation_and_train(compilations):
    dataset = data.load("digits", num_train=96)
    config = train.Config(epochs=1, batch_size=48, learning_rate=0.1)
    fit = lambda update: ensemble.fit(models.MLP(4, 2), dataset, config, 1, update=update)  # noqa: E731
    first = fit(updates.injected_noise(8))
    with compilations() as names:
        again = fit(updates.injected_noise(8))
    assert names == []
    with compilations() as names:
        other = fit(updates.sam(0.5))
    assert names  # the counter counts
    jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first.variables, other.variables)), strict=True))
    with pytest.raises(ValueError, match="batch: expected more than the 48 examples to imitate, got 48"):
        fit(updates.injected_noise(48))
