"""Sharpness-aware steps against optax, injected noise against the exact covariance of small batches."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference_curvature as oracle
import zero_sum_noise

from ntkgen import data, ensemble, models, train
from ntkgen.train import _run


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
        gradient, model_state = ensemble.sam(0.05)(mean, ours, (x, y), None)
        assert float(model_state["seen"]) == float(jnp.sum(ours["v"]))  # of the first pass
        ours = jax.tree.map(lambda p, g: p - 0.1 * g, ours, gradient)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), ours, want)
    plain = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope(params))
    assert float(jnp.max(jnp.abs(plain["w"] - ours["w"]))) > 1e-3  # the comparison can fail


def test_with_a_mask_sam_looks_at_the_subnetwork_alone():
    dataset = data.load("digits", num_train=64)
    model = models.MLP(4, depth=2)
    program = train.Program.of(model, train.Config(1, 64, 0.1, momentum=0.0), 64, ensemble.sam(0.5))
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
    jax.tree.map(np.testing.assert_array_equal, ensemble.sam(0.0)(mean, params, (x, y), None)[0], want)
    flat = jax.tree.map(jnp.zeros_like, params)
    found = ensemble.sam(0.1)(mean, flat, (x, jnp.zeros_like(y)), None)[0]
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize(("batch", "replace", "zero_sum"), [
    (24, False, False), (16, False, False), (16, True, False), (24, False, True), (16, False, True), (18, False, True),
])  # fmt: skip
def test_injected_noise_has_mean_and_covariance_of_the_small_batch(batch, replace, zero_sum):
    """Draws of the batch *and* of the weights, against the exact covariance of batches of 4 of the 24 examples.

    Each entry within 5 standard errors of its mean over 20,000 draws, estimated from the draws themselves.
    """
    f, params, loss, x, y = network()
    n, target, draws = len(y), 4, 20_000
    gradients = oracle.example_gradients(f, loss, params, x, y)
    mean = gradients.mean(0)
    spread = (gradients - mean).T @ (gradients - mean)
    exact = spread / n / target if replace else spread / (n - 1) * (1 / target - 1 / n)
    update, loss_of = ensemble.injected_noise(target, zero_sum), mean_loss(f, loss)

    @jax.jit
    @jax.vmap
    def draw(key):
        picked, noise = jax.random.split(key)
        rows = jax.random.choice(picked, n, (batch,), replace=replace)
        more = (update.epoch_draws(noise, 2, n, batch)[rows],) if zero_sum else ()
        return oracle.flat_params(update(loss_of, params, (x[rows], y[rows]), noise, *more)[0])[0]

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


@pytest.mark.parametrize("steps", [2, 3, 7, 8, 79])
def test_zero_sum_normals_have_the_covariance_of_centred_normals(steps):
    """Each entry within 6 standard errors over 20,000 columns; the sum over steps is zero in every column."""
    found = zero_sum_noise.noise(np.random.default_rng(0), 20_000, steps).astype(np.float64)
    np.testing.assert_allclose(found.sum(1), 0, atol=1e-5 * steps)
    centre = np.eye(steps) - 1 / steps
    exact = centre / (1 - 1 / steps)  # ones, and -1 / (steps - 1) beside the diagonal
    error = np.sqrt((1 + exact**2) / len(found))  # of a mean of products of two normals
    assert (np.abs(found.T @ found / len(found) - exact) < 6 * error).all()
    assert (np.abs(found.mean(0)) < 6 / np.sqrt(len(found))).all()


@pytest.mark.parametrize("batch", [24, 12])
def test_noise_of_two_steps_has_the_covariance_of_batches_without_replacement(batch):
    """An imitated epoch of 24 examples in batches of 4, by the full batch and by batches of 12, drawn 40,000 times.

    Covariances of the first step with one of the same pass and with one of the next, within 5 standard errors.
    """
    f, params, loss, x, y = network()
    n, target, draws = len(y), 4, 40_000
    gradients = oracle.example_gradients(f, loss, params, x, y)
    mean = gradients.mean(0)
    spread = (gradients - mean).T @ (gradients - mean) / (n - 1)
    update, loss_of = ensemble.injected_noise(target, zero_sum=True), mean_loss(f, loss)
    passes = batch // target

    @jax.jit
    @jax.vmap
    def epoch(key):
        def one(index):
            rows = jax.random.permutation(jax.random.fold_in(order, index), n).reshape(-1, batch)
            drawn = update.epoch_draws(noise, 3 * passes + index, n, batch)
            gradient = jax.vmap(lambda rows: update(loss_of, params, (x[rows], y[rows]), None, drawn[rows])[0])
            return jax.vmap(lambda tree: oracle.flat_params(tree)[0])(gradient(rows))

        order, noise = jax.random.split(key)
        return jax.vmap(one)(jnp.arange(passes))  # (passes, batches, params)

    errors = np.asarray(epoch(jax.random.split(jax.random.key(2), draws)), np.float64) - mean
    exact = {(1, 0): -(1 - 1 / batch) * spread / (n - 1)}  # between passes
    exact |= {(0, 1): -spread / n} if batch < n else {}  # within one
    largest = np.unravel_index(spread.argmax(), spread.shape)
    for (later, beside), covariance in exact.items():
        products = errors[:, 0, 0, :, None] * errors[:, later, beside, None]
        error = products.std(0, ddof=1) / np.sqrt(draws)
        assert (np.abs(products.mean(0) - covariance) < 5 * error).all()
        assert abs(covariance[largest]) > 20 * error[largest]  # independent noise would be seen
    total = errors.sum((1, 2))
    if batch == n:
        np.testing.assert_allclose(total, 0, atol=1e-4 * np.abs(errors).max())
    fresh = passes * (n // batch) * (1 / target - 1 / batch) * spread  # of the sum, were the noise drawn afresh
    left = (n / batch - 1) / (n - 1) * fresh
    products = total[:, :, None] * total[:, None]
    assert (np.abs(products.mean(0) - left) <= 5 * products.std(0, ddof=1) / np.sqrt(draws) + 1e-9).all()


def test_weights_diffuse_as_under_batches_without_replacement():
    """Gradient descent with momentum on the losses h (w - x_i)^2 / 2: the weight's mean square, 400 runs beside SGD's.

    Standard errors from the runs. Zero-sum noise agrees at every curvature, independent noise at high curvature alone.
    """
    n, target, runs, epochs = 32, 4, 400, 300
    x = jnp.asarray(np.random.default_rng(0).normal(size=n), jnp.float32)
    x, steps = x - x.mean(), n // target

    def mean_square(h, kind, seed):
        loss = lambda w, batch, weights=None: (  # noqa: E731
            jnp.mean((1.0 if weights is None else weights) * 0.5 * h * (w - batch) ** 2), None)  # fmt: skip
        update = ensemble.injected_noise(target, zero_sum=kind == "zero_sum")

        def step(carry, t):
            w, velocity = carry
            epoch, i = t // steps, t % steps
            if kind == "sgd":
                order = jax.random.permutation(jax.random.fold_in(seed, epoch), n).reshape(steps, target)
                gradient = jax.grad(loss, has_aux=True)(w, x[order[i]])[0]
            elif kind == "zero_sum":  # a pass of the full batch is a step
                gradient = update(loss, w, x, None, update.epoch_draws(seed, t, n, n))[0]
            else:
                gradient = update(loss, w, x, jax.random.fold_in(seed, t))[0]
            velocity = 0.9 * velocity + gradient
            w = w - 0.1 * velocity
            return (w, velocity), w**2

        squares = jax.lax.scan(step, (jnp.zeros(()), jnp.zeros(())), jnp.arange(epochs * steps))[1]
        return jnp.mean(squares[epochs * steps // 2 :])

    def ratio(h, kind):
        """Give the ratio of mean squares, SGD's over the other's, with its standard error."""
        keys = jax.random.split(jax.random.key(5), 2 * runs)
        ours, theirs = (
            np.asarray(jax.jit(jax.vmap(lambda key, kind=kind: mean_square(h, kind, key)))(own), np.float64)
            for kind, own in ((kind, keys[:runs]), ("sgd", keys[runs:]))
        )
        found = theirs.mean() / ours.mean()
        relative = [values.std(ddof=1) / values.mean() / np.sqrt(runs) for values in (ours, theirs)]
        return found, found * np.hypot(*relative)

    for h in (0.03, 3.0):
        found, error = ratio(h, "zero_sum")
        assert abs(found - 1) < 4 * error and error < 0.03
    assert ratio(0.03, "independent")[0] < 0.5


class _Matching:
    """An update whose gradient is zero if each example comes with its own number."""

    def epoch_draws(self, key, epoch, num_train, batch_size):
        return jnp.arange(num_train) + 1000 * epoch

    def __call__(self, loss, params, batch, key, draws):
        off = jnp.sum(jnp.abs(batch.x[:, 0] + 1000 * 2 - draws))
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, off), params), loss(params, batch)[1]


def test_a_step_gets_the_numbers_of_its_own_examples():
    model, config = models.MLP(4, 2), train.Config(4, 4, 0.1, momentum=0.0)
    x = jnp.arange(11, dtype=jnp.float32)[:, None]
    whole = train.Batch(x, jnp.zeros(11, int))
    program = train.Program.of(model, config, 11, _Matching())
    start = train.init_state(program, models.init(model, jax.random.key(0), (1,)))
    one = lambda epoch, data: train.train_epoch(program, start, jax.random.key(1), epoch, jnp.float32(0.1), data)  # noqa: E731
    same = jax.tree.map(lambda a, b: (a == b).all(), one(2, whole).variables, start.variables)
    assert all(jax.tree.leaves(same))
    for epoch, other in ((1, whole), (2, whole._replace(x=x[::-1]))):  # the comparison can fail
        same = jax.tree.map(lambda a, b: (a == b).all(), one(epoch, other).variables, start.variables)
        assert not all(jax.tree.leaves(same))


@pytest.mark.parametrize("zero_sum", [False, True])
@pytest.mark.parametrize("count", [19, 22])  # the last batch has 3 examples, fewer than the 4 imitated; or 6
def test_a_smaller_last_batch_gets_the_noise_that_it_lacks(count, zero_sum):
    """Five epochs of batches of 8, an imitated epoch being two of them, beside a loop with weights written out."""
    dataset = data.load("digits", num_train=count)
    model = models.MLP(4, depth=2)
    config = train.Config(5, 8, 0.1, momentum=0.0, schedule="constant")
    found = ensemble.fit(model, dataset, config, [7], update=ensemble.injected_noise(4, zero_sum))
    order_key = train.run_keys(7).order
    noise_key = jax.random.fold_in(order_key, _run.NOISE)
    x, y = jnp.asarray(dataset.train.x), jnp.asarray(dataset.train.y)

    @jax.jit
    def slope(params, x, y, weights):
        losses = lambda p: optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": p}, x), y)  # noqa: E731
        return jax.grad(lambda p: jnp.mean(weights * losses(p)))(params)

    params = jax.tree.map(lambda leaf: leaf[0], found.initial["params"])
    for epoch in range(5):
        order = np.asarray(train.batch_order(order_key, epoch, count))
        imitated = jax.random.fold_in(jax.random.fold_in(noise_key, _run.NOISE), epoch // 2)
        for step, rows in enumerate(np.split(order, range(8, count, 8))):
            size = len(rows)
            if zero_sum:
                draws = ensemble.zero_sum_normals(imitated, epoch % 2, 2, count)[rows]
            else:
                draws = jax.random.normal(jax.random.fold_in(jax.random.fold_in(noise_key, epoch), step), (size,))
            spread = np.sqrt(size / (size - 1) * (size / 4 - 1)) if size > 4 else 0.0
            weights = 1 + spread * (draws - draws.mean())
            params = jax.tree.map(lambda p, g: p - 0.1 * g, params, slope(params, x[rows], y[rows], weights))
    ours = jax.tree.map(lambda leaf: leaf[0], found.variables["params"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, params)


class _Stopping:
    """A checkpoint in memory that ends the first run after three epochs."""

    kept = None

    def restore(self, like):
        return self.kept

    def save(self, epoch, tree, *, final):
        if self.kept is None and epoch == 3:
            self.kept = epoch, jax.tree.map(np.array, tree)
            raise InterruptedError

    def scope(self, name):
        return self


def test_zero_sum_noise_goes_on_in_the_middle_of_an_imitated_epoch():
    """The full batch of 40, imitating batches of 8: five steps an epoch. Interrupted after three, equal bit for bit."""
    dataset = data.load("digits", num_train=40)
    config = train.Config(7, learning_rate=0.1, optimizer="gd", momentum=0.9)
    fit = lambda **more: ensemble.fit(  # noqa: E731
        models.MLP(4, 2), dataset, config, 2, update=ensemble.injected_noise(8, zero_sum=True), **more)  # fmt: skip
    whole, stopping = fit(), _Stopping()
    with pytest.raises(InterruptedError):
        fit(checkpoint=stopping)
    again = fit(checkpoint=stopping)
    jax.tree.map(np.testing.assert_array_equal, whole.variables, again.variables)
    jax.tree.map(np.testing.assert_array_equal, whole.variables, fit().variables)


def test_weights_average_to_one_and_have_the_stated_spread():
    weights = np.asarray(ensemble.noise_weights(jax.random.key(0), 20_000, 500), np.float64)
    assert weights.mean() == pytest.approx(1, abs=1e-5)
    assert weights.var() == pytest.approx(39, rel=5 * np.sqrt(2 / 20_000))  # B / b - 1; five standard errors


@pytest.mark.parametrize("make", [
    lambda: ensemble.sam(-0.1), lambda: ensemble.sam(float("nan")), lambda: ensemble.injected_noise(0),
    lambda: ensemble.zero_sum_normals(jax.random.key(0), 0, 1, 4),
    lambda: ensemble.noise_weights(jax.random.key(0), 8, 8),
    lambda: ensemble.noise_weights(jax.random.key(0), 8, 9),
])  # fmt: skip
def test_refusals_are_one_line(make):
    with pytest.raises(ValueError, match="expected") as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_equal_updates_share_one_compilation_and_train(compilations):
    dataset = data.load("digits", num_train=96)
    config = train.Config(epochs=1, batch_size=48, learning_rate=0.1)
    fit = lambda update: ensemble.fit(models.MLP(4, 2), dataset, config, 1, update=update)  # noqa: E731
    first = fit(ensemble.injected_noise(8))
    with compilations() as names:
        again = fit(ensemble.injected_noise(8))
    assert names == []
    with compilations() as names:
        other = fit(ensemble.sam(0.5))
    assert names  # the counter counts
    jax.tree.map(np.testing.assert_array_equal, first.variables, again.variables)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first.variables, other.variables)), strict=True))
    assert ensemble.injected_noise(8) != ensemble.injected_noise(8, zero_sum=True)
    for zero_sum in (False, True):
        with pytest.raises(ValueError, match=r"batch_size: expected more than the 48 examples .*, got 48"):
            fit(ensemble.injected_noise(48, zero_sum))
