"""Frozen functions: never an old value, no compilation for arrays of a Partial, the narrowest dtype, missing modes."""

import contextlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ntkgen import curvature, functions, linearize, measure, models, ntk, spectrum, train


def parts(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    params = {"a": draw(3, 4), "b": draw(4, 2)}
    return params, draw(6, 3), jnp.asarray(rng.integers(0, 2, 6)), jax.tree.map(lambda leaf: draw(*leaf.shape), params)


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def scaled(scale, params, x):
    return jnp.tanh(jnp.reshape(jnp.asarray(scale), (1, -1)) * (x @ params["a"])) @ params["b"]


@contextlib.contextmanager
def programs():
    """Count XLA compilations, from the event that JAX records for each."""
    found = []

    def listen(event, duration, **_):
        if "backend_compile" in event:
            found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


HOLDERS = {
    "array": lambda: {"scale": jnp.float32(1.0)},
    "vector": lambda: {"scale": jnp.ones(4)},
    "numpy changed in place": lambda: {"scale": np.ones(4, np.float32)},
    "number": lambda: {"scale": 1.0},
}


@pytest.mark.parametrize("kind", HOLDERS)
def test_values_replaced_outside_of_a_network_are_seen(kind):
    params, x, y, v = parts()
    state = HOLDERS[kind]()
    f = lambda params, x: scaled(state["scale"], params, x)  # noqa: E731
    for factor in (1.0, 2.0, 1.0):
        if kind == "numpy changed in place":
            state["scale"][:] = factor
        else:
            state["scale"] = HOLDERS[kind]()["scale"] * factor
        own = Partial(scaled, jnp.full(4, factor, jnp.float32))
        for run in (
            lambda f: curvature.hessian_vp(f, train.cross_entropy, params, x, y, v),
            lambda f: ntk.empirical_ntk(f, params, x),
        ):
            np.testing.assert_allclose(flat(run(f)), flat(run(own)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["number", "numpy changed in place"])
def test_values_replaced_outside_of_a_derivative_rule_are_seen(kind):
    params, x, y, v = parts()
    state = HOLDERS[kind]()

    @jax.custom_jvp
    def rule(z):
        return jnp.tanh(z)

    rule.defjvp(
        lambda z, dz: (jnp.tanh(z[0]), jnp.ravel(jnp.asarray(state["scale"]))[0] * (1 - jnp.tanh(z[0]) ** 2) * dz[0])
    )

    def f(params, x):
        return rule(x @ params["a"]) @ params["b"]

    for run in (
        lambda f: curvature.ggn_vp(f, train.cross_entropy, params, x, y, v),
        lambda f: ntk.empirical_ntk(f, params, x),
    ):
        for factor in (1.0, 2.0):
            if kind == "number":
                state["scale"] = factor
            else:
                state["scale"][:] = factor
            found = flat(run(f))
        fresh = flat(run(lambda params, x: f(params, x)))
        np.testing.assert_allclose(found, fresh, rtol=1e-4, atol=1e-5)


def test_values_replaced_outside_of_a_loss_and_of_an_operator_are_seen():
    params, x, y, v = parts()
    state = {"weight": jnp.float32(1.0)}
    loss = lambda outputs, y: state["weight"] * train.cross_entropy(outputs, y)  # noqa: E731
    f = lambda params, x: scaled(1.0, params, x)  # noqa: E731
    multiply = lambda v: state["weight"] * v  # noqa: E731
    one = flat(curvature.ggn_vp(f, loss, params, x, y, v))
    np.testing.assert_allclose(spectrum.lanczos(multiply, jnp.arange(1.0, 4.0), 2).value, 1, rtol=1e-6)
    state["weight"] = jnp.float32(3.0)
    np.testing.assert_allclose(flat(curvature.ggn_vp(f, loss, params, x, y, v)), 3 * one, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(spectrum.lanczos(multiply, jnp.arange(1.0, 4.0), 2).value, 3, rtol=1e-6)


def test_a_product_does_not_take_up_arrays_that_are_replaced_before_it_is_compiled():
    params, x, y, v = parts()
    state = {"scale": 1.0}
    f = lambda params, x: scaled(state["scale"], params, x)  # noqa: E731
    matvec = curvature.hessian_matvec(f, train.cross_entropy, params, x, y)
    state["scale"] = 2.0
    with pytest.raises(ValueError, match=r"^f: expected the arrays that it held when the product was made"):
        matvec(v)


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(2)(nn.tanh(nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))))


def test_snapshots_of_a_network_compile_once():
    """Kernel, kernels of two seeds, Hessian product: nothing after the first snapshot; the values do change."""
    _, x, y, _ = parts()
    variables = Normed().init(jax.random.key(0), x)
    v = jax.tree.map(jnp.ones_like, variables["params"])
    double = lambda tree: jax.tree.map(lambda leaf: jnp.stack([leaf, leaf + 1]), tree)  # noqa: E731
    counts, values = [], []
    for shift in (0.0, 1.0, 2.0):
        snapshot = variables | {"batch_stats": jax.tree.map(lambda leaf, s=shift: leaf + s, variables["batch_stats"])}
        stacked, params = double(snapshot), variables["params"]
        f, fs = models.apply_fn(Normed(), snapshot), models.apply_fn(Normed(), stacked)
        with programs() as found:
            kernel = ntk.empirical_ntk(f, params, x)
            product = curvature.hessian_vp(f, train.cross_entropy, params, x, y, v)
            seeds = ntk.empirical_ntk_seeds(fs, stacked["params"], x)
        second = models.apply_fn(Normed(), jax.tree.map(lambda leaf: leaf[1], stacked))
        np.testing.assert_allclose(seeds[0], kernel, rtol=1e-5, atol=1e-6)
        row = jax.tree.map(lambda leaf: leaf[1], stacked["params"])
        np.testing.assert_allclose(seeds[1], ntk.empirical_ntk(second, row, x), rtol=1e-5, atol=1e-6)
        counts.append(len(found))
        values.append(np.concatenate([np.ravel(kernel), flat(product)]))
    assert counts[0] > 3 and counts[1:] == [0, 0]
    assert np.abs(values[1] - values[0]).max() > 1e-3


def test_arrays_that_may_or_may_not_have_seeds_must_be_named():
    params, x, _, _ = parts()
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 4), params)
    f = Partial(scaled, jnp.arange(1.0, 5.0))  # four seeds or four hidden units
    with pytest.raises(ValueError, match=r"^f: its arrays lead with 4 .* f_has_seeds"):
        ntk.empirical_ntk_seeds(f, stacked, x)
    shared = ntk.empirical_ntk_seeds(f, stacked, x, f_has_seeds=False)
    np.testing.assert_allclose(shared[2], ntk.empirical_ntk(f, params, x), rtol=1e-6)
    own = ntk.empirical_ntk_seeds(f, stacked, x, f_has_seeds=True)
    np.testing.assert_allclose(own[2], ntk.empirical_ntk(Partial(scaled, 3.0), params, x), rtol=1e-5, atol=1e-5)


def test_the_narrowest_dtype_inside_decides_what_is_rounding(x64):
    """A float32 network of float64 params is taken, with float32's tolerance; float64 stays strict."""
    params, x, _, _ = parts(jnp.float64)

    def single(params, x):
        inner = lambda x: jnp.tanh(x.astype(jnp.float32) @ params["a"].astype(jnp.float32))  # noqa: E731
        return jax.jit(inner)(x) @ params["b"]

    assert functions.freeze(single, params, x).func.dtype == jnp.float32
    np.testing.assert_allclose(
        ntk.empirical_ntk(single, params, x),
        ntk.empirical_ntk(Partial(scaled, 1.0), params, x),
        rtol=1e-4,
        atol=1e-4,
    )
    with pytest.raises(ValueError, match="other company"):
        ntk.empirical_ntk(lambda p, x: scaled(1.0, p, x) - 1e-9 * scaled(1.0, p, x).mean(0, keepdims=True), params, x)


# Derivatives


@jax.custom_vjp
def own_tanh(x):
    return jnp.tanh(x)


own_tanh.defvjp(lambda x: (jnp.tanh(x), x), lambda x, g: (g * (1 - jnp.tanh(x) ** 2),))


def custom(params, x):
    return own_tanh(x @ params["a"]) @ params["b"]


def test_reverse_mode_alone_gives_the_same_products(x64):
    params, x, y, v = parts(jnp.float64)
    plain, loss = Partial(scaled, 1.0), train.cross_entropy
    with pytest.raises(TypeError):  # the control: JAX has no forward mode here
        jax.jvp(lambda p: custom(p, x), (params,), (v,))
    for run in (
        lambda f: curvature.hessian_matvec(f, loss, params, x, y, chunk=4)(v),
        lambda f: curvature.hessian_matvec(f, loss, params, x, y, linearize=True)(v),
        lambda f: curvature.ggn_vp(f, loss, params, x, y, v, chunk=4),
        lambda f: curvature.fisher_vp(f, params, x, v),
        lambda f: curvature.gradient_covariance_vp(f, loss, params, x, y, v),
        lambda f: ntk.ntk_vp(f, params, x)(jnp.ones((6, 2))),
        lambda f: linearize.linearize(f, v)(params, x),
        lambda f: measure.noise_scale(f, params, x, y, loss=loss),
    ):
        np.testing.assert_allclose(flat(run(custom)), flat(run(plain)), rtol=1e-10, atol=1e-12)
    assert curvature.derivative_mode(custom, loss, params, x, y) == "reverse over reverse"
    assert curvature.derivative_mode(plain, loss, params, x, y) == "forward over reverse"
    assert "no forward mode" in ntk.plan(custom, params, x).reason
    assert "forward mode" not in ntk.plan(plain, params, x).reason


def test_a_directional_derivative_by_reverse_mode(x64):
    matrix, t = jnp.arange(6.0).reshape(2, 3), jnp.array([1.0, -2.0, 0.5])
    value, change = functions.jvp(lambda p: jnp.sin(matrix @ p), jnp.ones(3), t, forward=False)
    np.testing.assert_allclose(value, np.sin([3.0, 12.0]), rtol=1e-14)
    np.testing.assert_allclose(change, np.cos([3.0, 12.0]) * (np.asarray(matrix) @ np.asarray(t)), rtol=1e-14)


# Inputs, outputs, other samples


def test_trees_of_inputs_work_and_trees_of_outputs_where_a_loss_takes_them(x64):
    params, x, y, v = parts(jnp.float64)
    plain, loss = Partial(scaled, 1.0), train.cross_entropy
    of_tree = lambda params, x: scaled(1.0, params, x["left"] + x["right"])  # noqa: E731
    inputs = {"left": x / 4, "right": 3 * x / 4}
    for run in (
        lambda f, x: curvature.hessian_vp(f, loss, params, x, y, v, chunk=4),
        lambda f, x: curvature.ggn_vp(f, loss, params, x, y, v),
        lambda f, x: linearize.linearize(f, v)(params, x),
        lambda f, x: measure.noise_scale(f, params, x, y, loss=loss),
        lambda f, x: ntk.empirical_ntk(f, params, x, tile=4),
        lambda f, x: ntk.ntk_vp(f, params, jax.tree.map(lambda leaf: leaf[:2], x), x)(plain(params, inputs["left"])),
    ):
        np.testing.assert_allclose(flat(run(of_tree, inputs)), flat(run(plain, x)), rtol=1e-10, atol=1e-12)
    pair = lambda params, x: (plain(params, x), x)  # noqa: E731
    for run in (ntk.empirical_ntk, ntk.ntk_vp):
        with pytest.raises(ValueError, match=r"^x1: expected an array of samples .*, got list"):
            run(of_tree, params, [1.0, 2.0])
        with pytest.raises(ValueError, match=r"^x1: expected 6 samples in every array, got shape \(5, "):
            run(of_tree, params, {"left": x, "right": x[:5]})
        with pytest.raises(ValueError, match=r"^f: expected floating outputs .*, got tuple"):
            run(pair, params, x)
        with pytest.raises(ValueError, match=r"^f: expected floating outputs \(6, k\) .* float64 \(6, 2, 1\)"):
            run(lambda p, x: plain(p, x)[..., None], params, x)
    with pytest.raises(ValueError, match=r"^f: expected one array of outputs .*, got tuple"):
        curvature.fisher_vp(pair, params, x, v)
    twice = lambda params, x: (plain(params, x), 2 * plain(params, x))  # noqa: E731
    of_both = lambda outputs, y: loss(outputs[0], y) + loss(outputs[1], y)  # noqa: E731
    of_one = lambda outputs, y: loss(outputs, y) + loss(2 * outputs, y)  # noqa: E731
    for product in (curvature.hessian_vp, curvature.ggn_vp, curvature.gradient_covariance_vp):
        found, want = (product(*each, params, x, y, v, chunk=4) for each in ((twice, of_both), (plain, of_one)))
        np.testing.assert_allclose(flat(found), flat(want), rtol=1e-10, atol=1e-12)
    values = linearize.linearize(pair, params)(params, x)
    np.testing.assert_allclose(values[0], plain(params, x), rtol=1e-12)


def test_curvature_in_chunks_refuses_outputs_that_depend_on_other_samples():
    params, x, y, v = parts()

    def f(params, x):
        h = x @ params["a"]
        return jnp.tanh((h - h.mean(0, keepdims=True)) / (h.std(0, keepdims=True) + 1e-3)) @ params["b"]

    for run in (
        lambda chunk: curvature.hessian_vp(f, train.cross_entropy, params, x, y, v, chunk),
        lambda chunk: curvature.fisher_vp(f, params, x, v, chunk),
    ):
        with pytest.raises(ValueError, match=r"^f: expected outputs that depend on their own sample alone"):
            run(4)
        assert np.isfinite(flat(run(6))).all()  # not in chunks: the derivative of that function
