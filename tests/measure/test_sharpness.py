"""Measurements over seeds against dense oracles and brute force, and that vmapped and one by one they agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle
from scipy import optimize

from ntkgen import measure, models, train, tree
from ntkgen.measure import _sharpness

LOSS = train.cross_entropy
MODEL = models.MLP(5, 3, num_classes=4)
SEEDS = 3


@pytest.fixture(scope="module")
def problem():
    """Three seeds of a small network: (f, params, keys, x, y), outputs scaled up so that labels matter."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.normal(size=(30, 6)), jnp.float32), jnp.asarray(rng.integers(0, 4, 30), jnp.int32)
    keys = jax.vmap(jax.random.key)(jnp.arange(SEEDS))
    params = jax.vmap(lambda key: models.init(MODEL, key, (6,)))(keys)["params"]
    return models.apply_fn(MODEL, {"params": params}), jax.tree.map(lambda p: 2 * p, params), keys, x, y


def row(trees, seed):
    return jax.tree.map(lambda leaf: leaf[seed], trees)


@pytest.mark.parametrize("strategy", ["vmap", "sequential"])
def test_track_finds_the_dense_eigenvalue_and_trace_at_every_snapshot(problem, strategy):
    f, params, keys, x, y = problem
    moved = jax.tree.map(lambda p: 1.05 * p, params)
    found = measure.track(
        [(f, params), (f, moved)], keys, (x, y), loss=LOSS, rates=[0.1, 0.05], momentum=0.9, strategy=strategy,
        options=measure.SpectralOptions(num_iters=40, tol=1e-4, trace_probes=60),
    )  # fmt: skip
    assert found.value.shape == (SEEDS, 2) and found.converged.all() and (found.residual <= 1e-4).all()
    for e, snapshot in enumerate((params, moved)):
        for seed in range(SEEDS):
            own = row(snapshot, seed)
            loss = lambda p: jnp.mean(LOSS(f(p, x), y))  # noqa: E731
            values = np.linalg.eigvalsh(oracle.hessian(loss, own))
            assert found.value[seed, e] == pytest.approx(values[-1], rel=1e-4)
            assert abs(found.trace[seed, e] - values.sum()) < 5 * found.trace_error[seed, e] + 1e-4
            assert found.loss[seed, e] == pytest.approx(float(loss(own)), rel=1e-5)
    assert (found.num_matvecs[:, 1] <= found.num_matvecs[:, 0]).all()  # the warm start serves
    np.testing.assert_allclose(found.threshold, [20, 40])
    np.testing.assert_allclose(found.momentum_threshold, [38, 76])


def test_a_start_is_of_length_one_and_a_warm_one_is_not_the_old_vector():
    like = {"a": jnp.ones((4, 3)), "b": jnp.ones(2)}
    start = measure.random_start(jax.random.key(0), like)
    assert float(tree.norm(start)) == pytest.approx(1, rel=1e-6)
    warm = measure.warm_start(jax.random.key(1), start)
    assert float(tree.norm(tree.axpy(-1.0, start, warm))) == pytest.approx(_sharpness.START_NOISE, rel=1e-5)


def test_a_lost_seed_is_marked_and_the_others_are_untouched(problem):
    f, params, keys, x, y = problem
    broken = jax.tree.map(lambda p: p.at[1].set(jnp.nan), params)
    start = measure.each_seed(measure.random_start, (keys, params))
    for strategy in ("vmap", "sequential"):
        options = {"host_driven": True, "strategy": strategy}
        whole, found = (
            measure.each_seed(measure.spectral, (f, p, start, keys), (x, y), {"loss": LOSS}, **options)
            for p in (params, broken)
        )
        assert np.isnan(found.top.value[1]) and not found.top.converged[1] and found.top.num_matvecs[1] == 0
        np.testing.assert_array_equal(found.top.value[[0, 2]], whole.top.value[[0, 2]])
    none = jax.tree.map(lambda p: p * jnp.nan, params)
    found = measure.each_seed(measure.mean_loss, (f, none), (x, y), {"loss": LOSS})
    assert found.shape == (SEEDS,) and np.isnan(found).all()


def test_one_compilation_serves_all_networks_with_batch_norm(compilations):
    model = models.CNN(1, num_classes=3)
    x, y = jax.random.normal(jax.random.key(0), (6, 8, 8, 1)), jnp.arange(6) % 3
    measured = []

    def measured_from(first_seed):
        keys = jax.vmap(jax.random.key)(first_seed + jnp.arange(2))
        variables = jax.vmap(lambda key: models.init(model, key, (8, 8, 1)))(keys)
        variables["batch_stats"] = jax.tree.map(lambda s: s + 0.1 * first_seed, variables["batch_stats"])
        f = models.apply_fn(model, variables)
        start = measure.each_seed(measure.random_start, (keys, variables["params"]))
        f = measure.tempered(f, jnp.asarray([1.0, 2.0 + first_seed]))
        return measure.each_seed(
            measure.spectral, (f, variables["params"], start, keys), (x, y), {"loss": LOSS}, host_driven=True
        )

    measured.append(measured_from(0))
    with compilations() as names:
        measured.append(measured_from(5))
    assert not [name for name in names if "compiled" in name or "apply" in name or "linear" in name or "step" in name]
    assert (measured[0].top.value != measured[1].top.value).all()


def test_power_iteration_reports_its_residual(problem):
    f, params, keys, x, y = problem
    start = measure.each_seed(measure.random_start, (keys, params))
    found = measure.each_seed(measure.power, (f, params, start), (x, y), {"loss": LOSS}, host_driven=True)
    assert (found.num_matvecs == 30).all() and ((found.residual <= 1e-3) == found.converged).all()
    short = measure.each_seed(measure.power, (f, params, start), (x, y), {"loss": LOSS, "num_iters": 2})
    assert not short.converged.any()


def test_flatness_equals_its_parts_one_by_one(problem):
    f, params, keys, x, y = problem
    how = measure.FlatnessOptions(sigmas=(0.01, 0.1), relative_sigmas=(0.1,), num_samples=4, worst_steps=3)
    options = {"loss": LOSS, "options": how}
    both = [measure.each_seed(measure.flatness, (f, params, keys), (x, y), options, strategy=strategy)
            for strategy in ("vmap", "sequential")]  # fmt: skip
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6), *both)
    assert both[0].absolute.values.shape == (SEEDS, 2, 5) and (both[0].worst.increase > 0).all()
    how = dataclasses.replace(how, worst_steps=0)
    light = measure.each_seed(measure.flatness, (f, params, keys), (x, y), {"loss": LOSS, "options": how})
    assert light.worst is None
    np.testing.assert_allclose(light.average.increase, both[0].average.increase, rtol=2e-4, atol=1e-6)


def test_distance(problem):
    _, params, *_ = problem
    moved, relative = measure.each_seed(measure.distance, (jax.tree.map(lambda p: 1.5 * p, params), params))
    np.testing.assert_allclose(relative, 0.5, rtol=1e-5)
    lengths = [float(tree.norm(row(params, seed))) for seed in range(SEEDS)]
    np.testing.assert_allclose(moved, 0.5 * np.array(lengths), rtol=1e-5)


def test_noise_scale_against_every_example_and_the_jackknife_by_leaving_out(problem):
    f, params, _, x, y = problem
    found = measure.each_seed(measure.noise_scale, (f, params), (x, y), {"loss": LOSS, "chunk": 7})
    for seed in range(SEEDS):
        g = oracle.example_gradients(f, LOSS, row(params, seed), x, y).astype(np.float64)

        def parts(g):
            trace = ((g - g.mean(0)) ** 2).sum() / (len(g) - 1)
            squared = (g.mean(0) ** 2).sum() - trace / len(g)
            return np.array([trace / squared, trace, squared])

        left_out = np.array([parts(np.delete(g, i, 0)) for i in range(len(g))])
        error = np.sqrt((len(g) - 1) / len(g) * ((left_out - left_out.mean(0)) ** 2).sum(0))
        own = [leaf[seed] for leaf in found]
        np.testing.assert_allclose(own[::2][:3], parts(g), rtol=1e-3)
        np.testing.assert_allclose(own[1::2][:3], error, rtol=2e-3)
        assert own[6] == (parts(g)[2] > 2 * error[2])


def test_noise_scale_of_a_known_population():
    """Linear loss: g_i = x_i, mean 1 in each of 4 coordinates, variance 9: 9 examples."""
    x = 1 + 3 * jax.random.normal(jax.random.key(0), (20_000, 4))
    f = lambda params, x: x @ params  # noqa: E731
    found = measure.noise_scale(f, jnp.zeros(4), x, jnp.zeros(len(x)), loss=lambda o, y: o)
    assert abs(found.value - 9) < 5 * found.standard_error and 0 < found.standard_error < 0.5 and found.resolved
    centred = (x - jnp.mean(x, 0, keepdims=True))[:200]
    blind = measure.noise_scale(f, jnp.zeros(4), centred, jnp.zeros(200), loss=lambda o, y: o)
    assert not blind.resolved
    with pytest.raises(ValueError, match="at least 3 examples"):
        measure.noise_scale(f, jnp.zeros(4), x[:2], jnp.zeros(2), loss=lambda o, y: o)


def test_matching_temperature_against_a_root_finder(problem):
    f, params, _, x, _ = problem
    outputs = np.stack([np.asarray(f(row(params, seed), x), np.float64) for seed in range(SEEDS)])
    y = jnp.asarray(outputs[0].argmax(-1))  # seed 0 is always right, the others are not

    def loss(seed, t):
        z = outputs[seed] / t
        z = z - z.max(-1, keepdims=True)
        return np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(y)), y])

    for target in (1.2, 0.1, 1e-3):
        found = measure.each_seed(
            measure.matching_temperature, (f, params), (x, y), {"target": target}, strategy="vmap"
        )
        want = optimize.brentq(lambda t, target=target: loss(0, 2.0**t) - target, -18, 8)
        assert found[0] == pytest.approx(2.0**want, rel=1e-3)
        for seed in (1, 2):
            best = min(loss(seed, t) for t in np.geomspace(2**-8, 2**8, 4000))
            assert np.isnan(found[seed]) == (best > target)
            if best <= target:
                assert loss(seed, found[seed]) == pytest.approx(target, rel=1e-3)
                assert loss(seed, 1.5 * found[seed]) > target > loss(seed, found[seed] / 1.1)
    assert np.isnan(found[1:]).all()
    hot = measure.each_seed(measure.matching_temperature, (f, params), (x, y), {"target": 2.0})
    assert np.isnan(hot).all()  # above log 4: the falling branch begins below it


def test_at_loss_interpolates_a_power_law_exactly():
    losses = np.array([2.0, 0.5, 0.05, 0.02, 0.03, 0.001])
    found = measure.at_loss(losses, 7 * losses**0.6, 0.1)
    assert found.value == pytest.approx(7 * 0.1**0.6) and (found.before, found.after) == (1, 2)
    assert measure.at_loss(losses, losses, 0.025)[1:] == (2, 3)  # the first passage
    assert measure.at_loss(losses, losses, 0.05).value == pytest.approx(0.05)
    for target in (3.0, 1e-4):
        assert np.isnan(measure.at_loss(losses, losses, target).value)
    assert np.isnan(measure.at_loss(losses, [1, 1, -1, 1, 1, 1], 0.1).value)
    assert np.isnan(measure.at_loss([1.0, np.nan, np.nan], [1, 1, 1], 0.1).value)


def test_refusals_name_what_came(problem):
    f, params, keys, x, y = problem
    with pytest.raises(ValueError, match="strategy: expected one of"):
        measure.each_seed(measure.mean_loss, (f, params), (x, y), {"loss": LOSS}, strategy="pmap")
    with pytest.raises(ValueError, match=r"one length of the seed axis, got \[2, 3\]"):
        measure.each_seed(measure.distance, (params, row(params, slice(2))))
    with pytest.raises(ValueError, match="one for each of the 1 snapshots, got 2"):
        measure.track([(f, params)], keys, (x, y), loss=LOSS, rates=[1, 2])


def test_the_passage_of_a_level_is_interpolated_in_log_loss():
    found = measure.passage([2.0, 0.4, 0.1], 0.2)
    assert found[:2] == (1, 2) and found.share == pytest.approx(0.5)
    assert measure.passage([2.0, 0.4], 0.4) == (0, 1, 1.0)
    for losses, where in (
        ([0.1, 0.05], (-1, 0)),
        ([2.0, 1.0], (-1, -1)),
        ([np.nan, 0.1], (0, 1)),
        ([1.0, 0.0], (0, 1)),
    ):
        passed = measure.passage(losses, 0.2)
        assert passed[:2] == where and np.isnan(passed.share)


def _scaled(f, params, x, y, *, loss):
    return f(params, x)[0, 0] * measure.mean_loss(f, params, x, y, loss=loss)


@pytest.mark.parametrize("strategy", ["vmap", "sequential"])
def test_arrays_that_a_loss_or_a_network_closes_over_may_be_replaced(problem, strategy):
    _, params, _, x, y = problem
    held = {"weight": jnp.float32(1.0), "scale": jnp.float32(1.0)}

    def loss(outputs, y):
        return held["weight"] * LOSS(outputs, y)

    def network(params, x):
        return held["scale"] * MODEL.apply({"params": params}, x)

    def found():
        f = jax.tree_util.Partial(network)
        return measure.each_seed(_scaled, (f, params), (x, y), {"loss": loss}, strategy=strategy)

    first = found()
    held["weight"] = jnp.float32(3.0)
    np.testing.assert_allclose(found(), 3 * first, rtol=1e-5)
    held |= {"weight": jnp.float32(1.0), "scale": jnp.float32(-1.0)}
    own = [_scaled(lambda p, x: network(p, x), row(params, s), x, y, loss=loss) for s in range(SEEDS)]
    np.testing.assert_allclose(found(), own, rtol=1e-5)
    held["scale"] = jnp.float32(1.0)
    np.testing.assert_array_equal(found(), first)


def test_what_cannot_be_replaced_is_not_traced_at_each_call(monkeypatch):
    model = models.MLP(3, depth=2)
    variables = jax.vmap(lambda key: models.init(model, key, (4,)))(jax.random.split(jax.random.key(0), 2))
    sample = jnp.ones((2, 4)), jnp.arange(2)
    monkeypatch.setattr("ntkgen.functions.fingerprint", lambda *_: 1 / 0)

    def loss(model, loss):
        f = models.apply_fn(model, variables)
        return measure.each_seed(measure.mean_loss, (f, variables["params"]), sample, {"loss": loss}, strategy="vmap")

    assert loss(model, train.cross_entropy).shape == (2,)

    class Own(models.MLP):
        """A network of somebody else, whose code may read anything."""

    for other in ((Own(3, depth=2), train.cross_entropy), (model, lambda outputs, y: train.cross_entropy(outputs, y))):
        with pytest.raises(ZeroDivisionError):
            loss(*other)
