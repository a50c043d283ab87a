"""Every way to the tangent kernel gives the dense Jacobian's product; fallbacks are announced, bad input refused.

`dense_kernel` is the oracle: the whole Jacobian, one contraction, right by reading.
"""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle

from ntkgen import functions, models, ntk, spectrum
from ntkgen.ntk import _factors, _layers, _plan


def dense_kernel(f, params, x1, x2=None):
    """(n1, n2, k, k) from the full Jacobians of the whole batch."""

    differentiate = oracle.jit_once(jax.jacrev(f))  # eager, each operation of a backward pass would be compiled alone

    def jacobian(x):
        rows = jax.tree.leaves(differentiate(params, x))
        return np.concatenate([np.asarray(row).reshape(*row.shape[:2], -1) for row in rows], -1)

    return np.einsum("ikp,jmp->ijkm", jacobian(x1), jacobian(x1 if x2 is None else x2))


def close(got, want, digits=1e-10):
    want = np.asarray(want)
    np.testing.assert_allclose(got, want, rtol=0, atol=digits * np.abs(want).max())


class Convolutions(nn.Module):
    """Strided, uneven, 1x1 without bias, dilated in a residual connection, LayerNorm between."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 2), strides=(2, 1), padding="VALID", name="strided")(x))
        x = nn.Conv(3, (1, 1), use_bias=False, name="pointwise")(x)
        x = nn.LayerNorm(name="norm")(x)
        x = x + nn.tanh(nn.Conv(3, (3, 3), kernel_dilation=2, name="dilated")(x))
        x = nn.Conv(2, (2, 2), input_dilation=(2, 1), padding=((1, 0), (0, 2)), name="spread")(x)
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


class OddConvolutions(nn.Module):
    """Convolutions for which there is no formula, beside one along a line."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3), feature_group_count=2, name="grouped")(x))
        x = nn.relu(nn.Conv(2, (3, 3), padding="CIRCULAR", name="circular")(x))
        x = nn.Conv(3, 3, strides=2, name="line")(x.reshape(x.shape[0], -1, 2))
        return nn.Dense(2, name="head")(x.reshape(x.shape[0], -1))


class Shared(nn.Module):
    """One Dense three times, with residuals; one Dense over positions; a raw parameter."""

    @nn.compact
    def __call__(self, x):
        again = nn.Dense(12, name="again")  # wide enough for pairs of its three uses to be cheaper than a Jacobian
        x = nn.tanh(nn.Dense(12, name="positions")(x)).sum(1)
        for _ in range(3):
            x = x + nn.tanh(again(x))
        return nn.Dense(2, name="head")(x) * self.param("raw", nn.initializers.normal(1.0), (2,))[None]


class Attention(nn.Module):
    """Tokens, an embedding that is also the output layer, attention, LayerNorm."""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(6, 4, name="embed")
        x = embed(tokens)
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, name="attention")(nn.LayerNorm(name="norm")(x))
        x = nn.Dense(4, name="mix")(nn.gelu(x)).mean(1)
        return embed.attend(x)


@functools.cache  # compiled parts are found by the function, so tests that share one share them
def network(model, shape, tokens, dtype):
    """Return (f, params); kernels and biases drawn, so that no bias is at its usual zero."""
    rng = np.random.default_rng(4)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *shape), np.int32 if tokens else dtype))
    variables = jax.tree.map(lambda s: jnp.asarray((0.3 * rng.normal(size=s.shape) + 0.1).astype(dtype)), shapes)
    if "batch_stats" in variables:
        variables["batch_stats"] = jax.tree.map(lambda leaf: 1 + leaf**2, variables["batch_stats"])
    return models.apply_fn(model, variables), variables["params"]


def case(model, shape, n=6, *, tokens=0, dtype=np.float64):
    """Return (f, params, x)."""
    rng = np.random.default_rng(3)
    x = rng.integers(0, tokens, (n, *shape), np.int32) if tokens else rng.normal(size=(n, *shape)).astype(dtype)
    return *network(model, shape, tokens, dtype), jnp.asarray(x)


ZOO = {
    "mlp": (models.MLP(7), (4, 3), {}, set()),
    "cnn": (models.CNN(2), (8, 8, 2), {}, set()),
    "affine cnn": (models.CNN(2, affine_norm=True), (8, 8, 1), {}, {"norm"}),
    "convolutions": (Convolutions(), (7, 6, 2), {}, {"norm"}),
    "odd convolutions": (OddConvolutions(), (4, 3, 2), {}, {"grouped", "circular"}),
    "shared": (Shared(), (9, 3), {}, {"raw"}),
    "attention": (Attention(), (5,), {"tokens": 6}, {"embed", "attention", "norm"}),
}


@pytest.mark.parametrize("name", ZOO)
def test_layerwise_and_jacobian_are_the_dense_kernel(name, x64):
    model, shape, options, own = ZOO[name]
    f, params, x = case(model, shape, **options)
    want = dense_kernel(f, params, x)
    plan = ntk.plan(f, params, x, method="layerwise", tile=3)
    assert plan.method == "layerwise" and "certified" in plan.reason
    # Without this a silent fall back to Jacobians would pass for a formula.
    for leaf, how in plan.layers:
        assert (how == "own Jacobian") == any(leaf.startswith(f"['{part}") for part in own), (leaf, how)
    close(ntk.empirical_ntk(f, params, x, method="layerwise", tile=3), want)
    close(ntk.empirical_ntk(f, params, x, method="jacobian", tile=3), want)
    mean = np.einsum("ijkk->ij", want[:3, 3:]) / want.shape[-1]
    close(ntk.empirical_ntk(f, params, x[:3], x[3:], trace=True, tile=3), mean)


def test_each_way_of_handling_a_layer_is_used(x64):
    handled = dict(ntk.plan(*case(models.CNN(2), (8, 8, 2)), method="layerwise", tile=3).layers)
    assert handled["['conv0_0']['kernel']"] == "contracted Jacobian" and handled["['dense0']['kernel']"] == "factors"
    handled = dict(ntk.plan(*case(Shared(), (9, 3)), method="layerwise", tile=3).layers)
    assert handled["['positions']['kernel']"] == "contracted Jacobian" and handled["['again']['kernel']"] == "factors"


@pytest.mark.parametrize("name", ["mlp", "convolutions"])
def test_tiles_and_order_of_samples_change_nothing(name, x64):
    model, shape, _, _ = ZOO[name]
    f, params, x = case(model, shape, n=7)
    whole = ntk.empirical_ntk(f, params, x, tile=7)
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    close(ntk.empirical_ntk(f, params, x[order], tile=3), np.asarray(whole)[order][:, order], 1e-13)
    for tile in (2, 3):
        kernel = np.asarray(ntk.empirical_ntk(f, params, x, tile=tile))
        close(kernel, whole, 1e-13)
        matrix = kernel.transpose(0, 2, 1, 3).reshape(7 * kernel.shape[-1], -1)
        np.testing.assert_array_equal(matrix, matrix.T)
        values = np.linalg.eigvalsh(matrix)
        assert values[0] > -1e-13 * values[-1]


def test_two_sets_of_samples_with_unequal_tiles(x64):
    f, params, x = case(models.MLP(6, depth=3, num_classes=4), (5,), n=11)
    want = dense_kernel(f, params, x[:4], x[4:])
    close(ntk.empirical_ntk(f, params, x[:4], x[4:], tile=3), want)
    close(ntk.empirical_ntk(f, params, x[:4], x[4:], tile=3, method="jacobian"), want)


def test_float32_stays_float32_and_is_as_good(x64):
    f, params, x = case(models.MLP(32), (20,))
    want = ntk.empirical_ntk(f, params, x)
    params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (params, x))
    got = ntk.empirical_ntk(f, params, x)
    assert want.dtype == jnp.float64 and got.dtype == jnp.float32
    close(got, want, 100 * np.finfo(np.float32).eps)


def test_several_seeds(x64):
    f, params, x = case(models.MLP(4, depth=2), (3,))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), params)
    got = ntk.empirical_ntk_seeds(f, stacked, x, trace=True)
    want = [ntk.empirical_ntk(f, jax.tree.map(lambda leaf, c=c: c * leaf, params), x, trace=True) for c in (1, 2)]
    np.testing.assert_array_equal(got, np.stack(want))


def test_seeds_of_unequal_number_are_refused():
    f, params, x = small()
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    for bad in (
        stacked | {"head": jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), params[next(iter(params))])},
        jax.tree.map(lambda leaf: leaf[:0], stacked),
        {},
    ):
        with pytest.raises(ValueError, match="params: expected one leading seed axis"):
            ntk.empirical_ntk_seeds(f, bad, x)


def test_inputs_of_higher_precision_than_the_parameters_give_their_kernel(x64):
    f, params, x = case(models.MLP(16, num_classes=3), (5,))
    narrow = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    wide = jax.tree.map(lambda leaf: leaf.astype(np.float64), narrow)
    assert ntk.plan(f, narrow, x).method == "layerwise"
    close(ntk.empirical_ntk(f, narrow, x), dense_kernel(f, wide, x), 1e-12)


@pytest.mark.parametrize("n", [4, 5])
def test_an_axis_as_long_as_the_batch_is_not_taken_for_it(n, x64):
    class TimeMajor(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2, name="head")(nn.tanh(nn.Dense(9, name="time")(jnp.swapaxes(x, 0, 1))).mean(0))

    f, params, x = case(TimeMajor(), (4, 3), n=n)
    handled = dict(ntk.plan(f, params, x, tile=2, method="layerwise").layers)
    assert handled["['time']['kernel']"] == "own Jacobian" and handled["['head']['kernel']"] == "factors"
    for second in (None, x[: n - 1]):
        close(ntk.empirical_ntk(f, params, x, second, tile=2, method="layerwise"), dense_kernel(f, params, x, second))


def test_a_second_kernel_of_the_same_shape_compiles_nothing(compilations):
    f, params, x = case(models.MLP(4, depth=2), (3,), dtype=np.float32)
    other = jax.tree.map(lambda leaf: 2 * leaf, params), x + 1
    with compilations() as first:
        ntk.empirical_ntk(f, params, x)
    with compilations() as second:
        ntk.empirical_ntk(f, *other)
    assert "factors" in " ".join(first)  # the control
    assert not second


def test_a_first_kernel_compiles_seven_programs(compilations):
    """Two slopes of the network, their difference, factors, a kernel of zeros, blocks on and off the diagonal."""
    f, params, x = case(models.MLP(5, depth=2), (3,), dtype=np.float32)
    with compilations() as made:
        ntk.empirical_ntk(f, params, x, tile=2)
    assert "factors" in " ".join(made)  # the control
    assert len(made) <= 7, made


def test_weakly_typed_inputs_keep_the_dtype_of_the_parameters():
    x = jnp.full((3, 2), 2.0)
    assert x.weak_type  # the control
    theta = ntk.empirical_ntk(lambda w, x: x @ w, jnp.ones((2, 1), jnp.bfloat16), x, tile=2)
    assert theta.dtype == jnp.bfloat16
    np.testing.assert_array_equal(theta.astype(float), 8.0)


def test_deep_linear_network(x64):
    """Without activations and biases, each layer's term is (x^T P P^T x') Q^T Q of the products around it."""
    rng = np.random.default_rng(0)
    sizes = (5, 4, 6, 3)
    weights = [rng.normal(size=pair) for pair in itertools.pairwise(sizes)]

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, size in enumerate(sizes[1:]):
                x = nn.Dense(size, use_bias=False, name=f"layer{i}")(x)
            return x

    params = {f"layer{i}": {"kernel": jnp.asarray(w)} for i, w in enumerate(weights)}
    x = rng.normal(size=(4, 5))
    want = 0
    for i in range(3):
        before = x @ np.linalg.multi_dot([np.eye(5), *weights[:i], np.eye(sizes[i])])
        after = np.linalg.multi_dot([np.eye(sizes[i + 1]), *weights[i + 1 :], np.eye(3)])
        want = want + np.einsum("ij,km->ijkm", before @ before.T, after.T @ after)
    close(ntk.empirical_ntk(models.apply_fn(Linear(), {}), params, jnp.asarray(x)), want, 1e-13)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_against_torch_func(name, x64):
    torch = pytest.importorskip("torch")
    import torch_nets

    model, shape = {"mlp": (models.MLP(6), (4, 3, 2)), "cnn": (models.CNN(2), (9, 16, 2))}[name]
    x = jax.random.normal(jax.random.key(5), (5, *shape), jnp.float64)
    variables = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), models.init(model, jax.random.key(4), shape))
    net = torch_nets.MLP(6, shape) if name == "mlp" else torch_nets.CNN(2, shape)
    net = torch_nets.to_torch(variables, net).eval()
    weights = {key: value.detach() for key, value in net.named_parameters()}

    def one(weights, image):
        return torch.func.functional_call(net, weights, (image[None],))[0]

    rows = torch.func.vmap(torch.func.jacrev(one), (None, 0))(weights, torch_nets.images(x))
    jacobian = np.concatenate([row.detach().numpy().reshape(5, 10, -1) for row in rows.values()], -1)
    close(
        ntk.empirical_ntk(models.apply_fn(model, variables), variables["params"], x),
        np.einsum("ikp,jmp->ijkm", jacobian, jacobian),
    )


# --- Products and solves


def test_product_is_kernel_times_vector(x64):
    f, params, x = case(*ZOO["convolutions"][:2])
    v = jax.random.normal(jax.random.key(1), (3, 3), jnp.float64)
    kernel = ntk.empirical_ntk(f, params, x[:3], x[3:])
    close(jax.jit(ntk.ntk_vp(f, params, x[:3], x[3:]))(v), np.einsum("ijkm,jm->ik", kernel, v), 1e-12)
    kernel = ntk.empirical_ntk(f, params, x[:3])
    close(jax.jit(ntk.ntk_vp(f, params, x[:3]))(v), np.einsum("ijkm,jm->ik", kernel, v), 1e-12)


def test_top_eigenvalues_without_the_kernel_are_its_eigenvalues(x64):
    f, params, x = case(models.MLP(16, depth=2, num_classes=2), (8,))
    start = jax.random.normal(jax.random.key(2), (len(x), 2), jnp.float64)
    found = spectrum.lanczos(ntk.ntk_vp(f, params, x), start, 2 * len(x), k=3, tol=1e-9)
    kernel = np.asarray(ntk.empirical_ntk(f, params, x)).transpose(0, 2, 1, 3).reshape(start.size, start.size)
    assert found.converged.all()
    close(found.value, np.linalg.eigvalsh(kernel)[::-1][:3], 1e-10)


# --- Fallbacks: exact, and announced


def tied(params, x):
    """A kernel that a Dense layer uses, and the output once more."""
    hidden = jnp.tanh(nn.Dense(3).apply({"params": params["dense"]}, x))
    return nn.Dense(3).apply({"params": params["head"]}, hidden) @ params["dense"]["kernel"].T


def tied_params():
    shapes = {"dense": {"kernel": (3, 3), "bias": (3,)}, "head": {"kernel": (3, 3), "bias": (3,)}}
    keys = iter(jax.random.split(jax.random.key(8), 4))
    leaves = jax.tree.map(
        lambda s: jax.random.normal(next(keys), s, jnp.float64), shapes, is_leaf=lambda s: isinstance(s, tuple)
    )
    return leaves, jax.random.normal(jax.random.key(9), (5, 3), jnp.float64)


def test_a_kernel_with_a_second_use_outside_goes_through_its_own_jacobian(x64):
    params, x = tied_params()
    plan = ntk.plan(tied, params, x)
    assert "certificate failed for ['dense']['kernel']" in plan.reason
    assert dict(plan.layers)["['dense']['kernel']"] == "own Jacobian"
    assert dict(plan.layers)["['head']['kernel']"] == "factors"
    close(ntk.empirical_ntk(tied, params, x, tile=2), dense_kernel(tied, params, x))


HIDDEN = {
    "jitted": jax.jit,
    "transformed params": lambda f: lambda p, x: f(jax.tree.map(lambda leaf: 2 * leaf, p), x),
    "vmapped": lambda f: lambda p, x: jax.vmap(lambda one: f(p, one[None])[0])(x),
    "jitted inside": lambda f: lambda p, x: jax.jit(lambda x: f(p, x))(x),
    "rematerialised": lambda f: lambda p, x: jax.checkpoint(lambda x: f(p, x))(x),
    "scanned": lambda f: lambda p, x: jax.lax.map(lambda one: f(p, one[None])[0], x),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_hidden_layers_leave_the_jacobian(name, x64):
    f, params, x = case(models.MLP(4, depth=2, num_classes=3), (5,))
    hidden = HIDDEN[name](f)
    plan = ntk.plan(hidden, params, x)
    assert plan.method == "jacobian" and "no Dense or Conv layer seen" in plan.reason
    close(ntk.empirical_ntk(hidden, params, x, method="layerwise"), dense_kernel(hidden, params, x))


def test_plain_functions_of_any_pytree(x64):
    def f(params, x):
        a, (b,) = params
        return jnp.sin(x @ a) * b[None]

    params = (jnp.arange(6.0).reshape(3, 2), [jnp.ones(2)])
    x = jnp.linspace(0, 1, 12).reshape(4, 3)
    close(ntk.empirical_ntk(f, params, x), dense_kernel(f, params, x))


@pytest.mark.parametrize("where", ["late samples", "second set"])
def test_other_layers_for_other_samples_are_noticed_while_computing(where, x64):
    """The same function, but where it counts half of it bypasses the layer: only a tile's own certificate can tell."""
    params, x = tied_params()
    params, x = params["dense"], x.at[:3, 0].set(-1.0).at[3:, 0].set(1.0)
    second = {"late samples": None, "second set": x[3:]}[where]

    def f(params, x):
        seen = nn.Dense(3).apply({"params": params}, x)
        return jnp.where(x[:, :1] < 0, seen, (seen + x @ params["kernel"] + params["bias"][None]) / 2)

    first = x if second is None else x[:3]
    assert ntk.plan(f, params, first, second, tile=3).method == "layerwise"
    frozen_f = functions.freeze(f, params, x)
    structure = _layers.discover(frozen_f, params, x, trace=False)
    _, failed, _ = _factors.factors(frozen_f, structure, params, x, jnp.ones((5, 3)))
    assert failed.all()
    with pytest.warns(UserWarning, match="certificate failed in a later tile"):
        got = ntk.empirical_ntk(f, params, first, second, tile=3)
    close(got, dense_kernel(f, params, first, second))


class Compiled(nn.Module):
    """A layer inside a part that is compiled on its own, between two that are not."""

    @nn.compact
    def __call__(self, x):
        inner = nn.Dense(4, name="inner")
        x = nn.Dense(4, name="first")(x)
        x = inner(x) if self.is_initializing() else jax.jit(lambda x: jnp.tanh(inner(x)))(x)
        return nn.Dense(2, name="head")(x)


def test_a_hidden_layer_leaves_the_others(x64):
    f, params, x = case(Compiled(), (5,))
    handled = dict(ntk.plan(f, params, x, method="layerwise").layers)
    assert {leaf for leaf, how in handled.items() if how != "factors"} == {"['inner']['bias']", "['inner']['kernel']"}
    close(ntk.empirical_ntk(f, params, x, method="layerwise"), dense_kernel(f, params, x))


# --- Plans


def largest_intermediate(fn, *args):
    """The number of entries of the largest array in a program, inner programs included."""

    def largest(jaxpr):
        sizes = [math.prod(v.aval.shape) for eqn in jaxpr.eqns for v in eqn.outvars]
        inner = [largest(sub.jaxpr) for eqn in jaxpr.eqns for sub in eqn.params.values() if hasattr(sub, "jaxpr")]
        return max(sizes + inner, default=0)

    return largest(jax.make_jaxpr(fn)(*args).jaxpr)


def test_trace_never_forms_the_blocks():
    f, params, x = case(models.MLP(2, depth=2, num_classes=5), (3,), n=40, dtype=np.float32)
    sizes = {}
    for trace in (False, True):
        f = functions.freeze(f, params, x)
        structure = _layers.discover(f, params, x, trace=trace)
        pieces, _, _ = _factors.factors(f, structure, params, x, jnp.ones((40, 5)))
        theta = jnp.zeros((40, 40) if trace else (40, 40, 5, 5))

        def write(theta, pieces, trace=trace):
            return _factors.write_block(theta, pieces, pieces, 0, 0, trace=trace, mirror="self")

        sizes[trace] = largest_intermediate(write, theta, pieces)
    assert sizes == {False: 40 * 40 * 25, True: 40 * 40}


def test_finiteness_is_shown_by_counting_only_where_it_is_certain(x64):
    """Scaled outputs: the bound lies above the kernel's entries, and NaN or what overflows is never called bounded."""
    f, params, x = case(Shared(), (9, 3), dtype=np.float32)
    f = functions.freeze(f, params, x)
    structure = _layers.discover(f, params, x, trace=False)
    sizes = tuple(leaf.size for leaf in jax.tree.leaves(params))
    workload = _plan.Workload(6, None, 2, False, 4, sizes, sum(sizes))
    assert structure.own and {group.paired for group in structure.groups} == {True, False}
    _, _, largest = _factors.factors(f, structure, params, x, np.ones((6, 2), np.float32))
    top = float(np.abs(dense_kernel(f, params, x)).max())
    assert not _plan.bounded(structure, workload, largest, top)
    assert _plan.bounded(structure, workload, largest, 1e6 * top)
    for i in range(1, len(largest)):
        for value in (np.nan, np.inf, 1e19):
            assert not _plan.bounded(structure, workload, largest.at[i].set(value), float(np.finfo(np.float32).max) / 4)


def test_plan_keeps_to_the_budget_and_the_kernel_stays(x64):
    f, params, x = case(*ZOO["shared"][:2], n=9)
    free = ntk.plan(f, params, x)
    assert free.keeps_factors and free.tile == (9, 9) and free.num_blocks == 1
    result = 9 * 9 * 4 * 8
    assert free.peak_bytes > result
    want = ntk.empirical_ntk(f, params, x)
    seen = set()
    for share in (0.7, 0.4):
        budget = int(share * free.peak_bytes)
        plan = ntk.plan(f, params, x, memory_budget=budget)
        assert plan.peak_bytes <= budget and max(plan.tile) < 9
        seen.add(plan.keeps_factors)
        close(ntk.empirical_ntk(f, params, x, memory_budget=budget), want, 1e-13)
    assert seen == {False, True}
    with pytest.raises(ValueError, match="memory_budget: a tile of 1 sample"):
        ntk.plan(f, params, x, memory_budget=result)
    with pytest.raises(ValueError, match="memory_budget: a tile of 9 sample"):
        ntk.plan(f, params, x, tile=9, memory_budget=free.peak_bytes - 1, method=free.method)


def test_wide_networks_cost_factors_not_jacobians():
    """Counted only: 50 million parameters, 1,000 samples; the Jacobian would have 5e11 entries."""
    model = models.MLP(4096)
    params = jax.eval_shape(lambda: models.init(model, jax.random.key(0), (28, 28, 1)))["params"]
    x = jax.ShapeDtypeStruct((1000, 28, 28, 1), jnp.float32)
    structure = _layers.discover(models.apply_fn(model, {}), params, x, trace=False)
    assert not structure.own and all(group.paired for group in structure.groups)
    sizes = tuple(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    workload = _plan.Workload(1000, None, 10, False, 4, sizes, sum(sizes))
    plan = _plan.schedule(structure, workload, None, 2**40, "", ())
    factors = 4 * 1000 * (784 + 3 * 4096 + 4 + 10 * (3 * 4096 + 10))
    assert 4 * 1000**2 * 100 + factors < plan.peak_bytes < 3 * 2**30
    pairs = plan.num_blocks * plan.tile[0] * plan.tile[1]
    terms = 784 + 3 * 4096 + 4 + 100 * (3 * 4096 + 10 + 4)
    assert plan.flops > 2 * pairs * terms


class Pooled(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = nn.relu(nn.Conv(8, (3, 3))(x))
        return nn.Dense(10)(x.mean((1, 2)))


class Attending(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        return nn.Dense(3)((x + nn.MultiHeadDotProductAttention(2)(x, x)).mean(1))


@pytest.mark.parametrize("method", ["jacobian", "layerwise"])
@pytest.mark.parametrize(
    ("model", "shape"), [(Pooled(), (16, 16, 3)), (Attending(), (96, 4))], ids=["conv", "attention"]
)
def test_the_plan_has_room_for_what_xla_takes(model, shape, method):
    f, params, x = case(model, shape, n=8, dtype=np.float32)
    plan = ntk.plan(f, params, x, method=method)
    f = functions.freeze(f, params, x)
    structure = _layers.discover(f, params, x, trace=False)
    if method == "jacobian":
        structure = _layers.without(structure, range(100), len(jax.tree.leaves(params)))
    k = f(params, x[:1]).shape[1]
    program = _factors.factors.lower(f, structure, params, x, np.ones((8, k), np.float32)).compile()
    taken = program.memory_analysis().temp_size_in_bytes
    assert 0.9 * taken < plan.peak_bytes < 8 * taken


class Few(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.relu(nn.Conv(4, (3, 3))(x)).reshape(x.shape[0], -1))


def test_auto_takes_what_fits():
    """Jacobians of few parameters are cheaper here, and hold more."""
    f, params, x = case(Few(), (12, 12, 2), n=8, dtype=np.float32)
    free, layers, slow = (ntk.plan(f, params, x, tile=4, method=method) for method in ("auto", "layerwise", "jacobian"))
    assert free.method == "jacobian" and slow.flops == free.flops < layers.flops
    assert layers.peak_bytes < slow.peak_bytes
    tight = {"tile": 4, "memory_budget": layers.peak_bytes}
    plan = ntk.plan(f, params, x, **tight)
    assert plan.method == "layerwise" and "the other method, since that needs more than memory_budget" in plan.reason
    close(ntk.empirical_ntk(f, params, x, **tight), dense_kernel(f, params, x), 1e-5)
    with pytest.raises(ValueError, match="memory_budget"):
        ntk.plan(f, params, x, tile=4, memory_budget=layers.peak_bytes - 1)


def test_auto_counts(x64):
    f, params, x = case(models.MLP(64, depth=3), (30,))
    plan = ntk.plan(f, params, x)
    slow = ntk.plan(f, params, x, method="jacobian")
    assert plan.method == "layerwise" and slow.method == "jacobian" and slow.reason == "asked for"
    assert plan.flops < slow.flops and plan.peak_bytes < slow.peak_bytes


# --- Refusals


class Norm(nn.Module):
    """What must not be taken for a function of single samples."""

    @nn.compact
    def __call__(self, x, deterministic=True):
        x = nn.Dense(4)(x)
        x = nn.BatchNorm(use_running_average=deterministic)(x)
        x = nn.Dropout(0.5, deterministic=True)(x)
        return nn.Dense(2)(x)


def small():
    return case(models.MLP(3, depth=2, num_classes=2), (4,), n=4, dtype=np.float32)


def batch_norm(n):
    model, x = Norm(), jax.random.normal(jax.random.key(0), (n, 4))
    variables = model.init(jax.random.key(1), x)

    def run(deterministic):
        def f(params, x):
            full = {**variables, "params": params}
            return model.apply(full, x, deterministic=deterministic, mutable=["batch_stats"])[0]

        return f

    return run, variables["params"], x


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("method", ["jacobian", "layerwise"])
def test_batch_norm_in_training_mode_is_refused(n, method):
    run, params, x = batch_norm(n)
    with pytest.raises(ValueError, match="batch norm in training mode"):
        ntk.empirical_ntk(run(False), params, x, method=method)
    assert ntk.empirical_ntk(run(True), params, x, method=method).shape == (n, n, 2, 2)


def test_dropout_and_batch_means_are_refused():
    f, params, x = small()
    key = jax.random.key(0)
    for g in (
        lambda p, x: f(p, x) * jax.random.bernoulli(key, 0.5, (x.shape[0], 2)),
        lambda p, x: f(p, x) / x.shape[0],
        lambda p, x: f(p, x) - 0.01 * f(p, x).mean(0, keepdims=True),
    ):
        with pytest.raises(ValueError, match="other company"):
            ntk.empirical_ntk(g, params, x)
        with pytest.raises(ValueError, match="other company"):
            ntk.ntk_vp(g, params, x)


class Silent(nn.Module):
    """Batch norm or dropout in training mode, of which the outputs show nothing: what follows begins with zeros."""

    kind: str

    @nn.compact
    def __call__(self, x):
        zeros, h = nn.initializers.zeros, nn.Dense(16)(x)
        if self.kind == "residual":
            return nn.Dense(2)(h + nn.BatchNorm(use_running_average=False, scale_init=zeros)(nn.Dense(16)(h)))
        norm = nn.BatchNorm(use_running_average=False) if self.kind == "norm" else nn.Dropout(0.5, deterministic=False)
        return nn.Dense(2, kernel_init=zeros)(nn.relu(norm(h)))


@pytest.mark.parametrize("kind", ["norm", "dropout", "residual"])
def test_dependence_that_only_derivatives_show_is_refused(kind):
    model, x, keys = Silent(kind), jax.random.normal(jax.random.key(0), (6, 3)), {"dropout": jax.random.key(2)}
    variables = model.init({"params": jax.random.key(1), **keys}, x)

    def f(params, x):
        return model.apply({**variables, "params": params}, x, mutable=["batch_stats"], rngs=keys)[0]

    with pytest.raises(ValueError, match="other derivatives in other company"):
        ntk.empirical_ntk(f, variables["params"], x)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_checked_too(dtype, x64):
    run, params, x = batch_norm(5)
    params, x = jax.tree.map(lambda a: a.astype(dtype), (params, x))
    with pytest.raises(ValueError, match="other company"):
        ntk.empirical_ntk(run(False), params, x)
    params, x = tied_params()

    def f(params, x):
        hidden = jnp.tanh(nn.Dense(3).apply({"params": params["dense"]}, x))
        return hidden @ params["dense"]["kernel"].T

    want = dense_kernel(f, params, x)
    got = ntk.empirical_ntk(f, *jax.tree.map(lambda a: jnp.asarray(a, dtype), (params, x)))
    assert got.dtype == dtype
    close(np.asarray(got, np.float64), want, 30 * float(jnp.finfo(dtype).eps))


def test_the_same_samples_of_integers_hide_no_batch_norm():
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(nn.BatchNorm(use_running_average=False)(nn.Embed(6, 4)(x).mean(1)))

    model, x = Tokens(), jnp.array([[0, 1, 2], [3, 3, 1], [0, 1, 2]])
    variables = model.init(jax.random.key(0), x)

    def f(params, x):
        return model.apply({**variables, "params": params}, x, mutable=["batch_stats"])[0]

    for rows in (x, x[:1]):
        with pytest.raises(ValueError, match="other company"):
            ntk.empirical_ntk(f, variables["params"], rows)


@pytest.mark.parametrize("n", [1, 5])
def test_networks_of_a_restricted_domain_are_taken(n):
    rng, head = np.random.default_rng(0), nn.Dense(2)
    positive = jnp.asarray(rng.uniform(0.1, 2, (n, 3)), jnp.float32)
    params = head.init(jax.random.key(0), positive)["params"]
    logarithm = lambda params, x: head.apply({"params": params}, jnp.log(x))  # noqa: E731
    close(ntk.empirical_ntk(logarithm, params, positive), dense_kernel(logarithm, params, positive), 1e-5)
    coded = jnp.asarray(rng.integers(0, 6, (n, 3)), jnp.float32)
    embed = nn.Embed(6, 4)
    params = embed.init(jax.random.key(0), jnp.zeros((1, 3), int))["params"]
    tokens = lambda params, x: embed.apply({"params": params}, x.astype(int)).mean(1)  # noqa: E731
    close(ntk.empirical_ntk(tokens, params, coded), dense_kernel(tokens, params, coded), 1e-5)


@pytest.mark.parametrize("moved", [0, 1e-6, 1e-4, 1e-2])
def test_a_network_less_its_start_has_the_networks_kernel(moved):
    """Its outputs are rounding, which company changes; its derivatives are the network's."""
    f, start, x = case(models.MLP(32), (20,), n=5, dtype=np.float32)
    params = jax.tree.map(lambda leaf: (leaf * (1 + moved)).astype(leaf.dtype), start)
    less = lambda params, x: f(params, x) - f(start, x)  # noqa: E731
    close(ntk.empirical_ntk(less, params, x), ntk.empirical_ntk(f, params, x), 1e-6)


def test_rounding_that_moves_a_unit_over_its_kink_is_no_dependence():
    """A batch of another size is summed in another order: near zero that is enough for another derivative."""

    def f(params, x):
        h = x @ params["w"]
        h = h + 1e-9 * x.shape[0] - 2e-9  # below zero for one sample, above it for three
        return jnp.maximum(h, 0) @ params["v"]

    x = jnp.asarray([[1.0, 1.0], [2.0, 3.0]])
    params = {"w": jnp.asarray([[1.0, 0.5], [-1.0, 0.25]]), "v": jnp.asarray([[1.0], [1.0]])}
    assert np.isfinite(ntk.empirical_ntk(f, params, x, method="jacobian")).all()


def nan_at(x):
    return x.at[0, 0].set(jnp.nan)


BAD = {
    "x1: f does not take": lambda f, p, x: ((f, p, x[:, :3]), {}),
    "x1: f does not take inputs": lambda f, p, x: ((f, p, x[0]), {}),
    "x1: expected samples": lambda f, p, x: ((f, p, x[:0]), {}),
    "x2: expected samples": lambda f, p, x: ((f, p, x, x[:0]), {}),
    "x2: expected float32 samples": lambda f, p, x: ((f, p, x, x[:, :3]), {}),
    "x1: expected finite": lambda f, p, x: ((f, p, nan_at(x)), {}),
    "x2: expected finite": lambda f, p, x: ((f, p, x, nan_at(x)), {}),
    "params: expected finite": lambda f, p, x: ((f, jax.tree.map(lambda leaf: leaf / 0, p), x), {}),
    "params: expected floating": lambda f, p, x: ((f, {}, x), {}),
    "f: expected a function": lambda f, p, x: ((p, p, x), {}),
    "f: expected floating outputs": lambda f, p, x: ((lambda p, x: f(p, x)[:, 0], p, x), {}),
    "expected finite outputs": lambda f, p, x: ((lambda p, x: jnp.log(f(p, x) * 0 - 1), p, x), {}),
    "expected a finite kernel": lambda f, p, x: ((lambda p, x: 1e30 * f(p, x), p, x), {}),
    "method: expected one of": lambda f, p, x: ((f, p, x), {"method": "fast"}),
    "tile: expected at least 1": lambda f, p, x: ((f, p, x), {"tile": 0}),
    "tile: expected at least 1 sample, a whole number, got '3'": lambda f, p, x: ((f, p, x), {"tile": "3"}),
    "tile: expected at least 1 sample, a whole number, got 2.5": lambda f, p, x: ((f, p, x), {"tile": 2.5}),
    "memory_budget: expected at least 1 byte": lambda f, p, x: ((f, p, x), {"memory_budget": "1GB"}),
    "params: expected arrays with entries": lambda f, p, x: ((lambda q, x: f(q[0], x), (p, jnp.ones((0, 2))), x), {}),
    r"f: expected outputs \(1, 2\) of one sample": lambda f, p, x: (
        (lambda p, x: jnp.squeeze(f(p, x), 0) if len(x) == 1 else f(p, x), p, x),
        {},
    ),
    "memory_budget: a tile of 1": lambda f, p, x: ((f, p, x), {"memory_budget": 100}),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_has_one_clear_error(message):
    f, params, x = small()
    args, options = BAD[message](f, params, x)
    with pytest.raises(ValueError, match=message):
        ntk.empirical_ntk(*args, **options)


@pytest.mark.filterwarnings("ignore:empirical_ntk. the certificate failed")  # its random vector may overflow, too
def test_a_late_sample_with_infinite_outputs_or_kernel_is_noticed():
    f, params, x = small()
    with pytest.raises(ValueError, match="expected a finite kernel"):
        ntk.empirical_ntk(f, params, x.at[3].set(1e25), tile=2)
    with pytest.raises(ValueError, match="finite"):
        ntk.empirical_ntk(f, params, x.at[3].set(3e38), tile=2)
