"""Networks against the numpy oracle: counts, batch norm, pooling, initialisation, evaluation mode."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from jax import lax

from ntkgen import models
from ntkgen.models import _networks

# Section V-A and V-E of the paper.
MLP_PARAMS = {
    8: 6514, 16: 13274, 32: 27562, 64: 59210, 128: 134794,
    256: 335114, 512: 932362, 1024: 2913290, 2048: 10020874, 4096: 36818954,
}  # fmt: skip
CNN_PARAMS = {4: 72990, 8: 152082, 16: 337050, 32: 814122, 64: 2196810, 96: 4150890}


def shapes_of(model, shape):
    return jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))


def drawn(model, shape, dtype=np.float64, num=5):
    """Variables and inputs, drawn with numpy."""
    variables = reference.random_variables(shapes_of(model, shape), seed=0)
    x = np.random.default_rng(1).normal(size=(num, *shape))
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), (variables, x))


# Parameter counts


@pytest.mark.parametrize(("width", "count"), MLP_PARAMS.items())
def test_published_mlp_counts(width, count):
    assert models.num_params(models.MLP(width), (28, 28, 1)) == count


@pytest.mark.parametrize(("channels", "count"), CNN_PARAMS.items())
def test_published_cnn_counts(channels, count):
    assert models.num_params(models.CNN(channels), (32, 32, 3)) == count
    usual = models.CNN(channels, affine_norm=True)
    assert models.num_params(usual, (32, 32, 3)) == count + 14 * channels


def test_counts_leave_out_batch_statistics_and_follow_depth_and_classes():
    assert models.num_params(models.BatchNormRelu(affine=True), (2, 2, 5)) == 10
    assert models.num_params(models.MLP(3, depth=2, num_classes=4), (2, 5, 1)) == 10 * 3 + 3 + 3 * 4 + 4
    assert models.num_params(models.MLP(3, depth=1, num_classes=4), (7,)) == 7 * 4 + 4


# Forward passes


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("depth", "shape"), [(1, (3, 2, 2)), (4, (5,))])
def test_mlp_is_the_oracle(depth, shape):
    model = models.MLP(6, depth=depth, num_classes=3)
    variables, x = drawn(model, shape)
    logits = models.apply_fn(model, variables)(variables["params"], x)
    np.testing.assert_allclose(logits, reference.mlp(variables["params"], x), rtol=1e-12)
    trained, state = models.forward_train(model, variables, x)
    np.testing.assert_array_equal(trained, logits)
    assert state == {}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("affine_norm", [False, True])
def test_cnn_is_the_oracle(affine_norm):
    # An image of an odd and an even side; width 17 leaves two columns for the head.
    model, shape = models.CNN(2, num_classes=3, affine_norm=affine_norm), (8, 17, 2)
    variables, x = drawn(model, shape, num=3)
    logits = jax.jit(models.apply_fn(model, variables))(variables["params"], x)
    expected, _ = reference.cnn(variables["params"], variables["batch_stats"], x, train=False)
    np.testing.assert_allclose(logits, expected, rtol=1e-9)
    logits, state = jax.jit(lambda v, x: models.forward_train(model, v, x))(variables, x)
    expected, stats = reference.cnn(variables["params"], variables["batch_stats"], x, train=True)
    np.testing.assert_allclose(logits, expected, rtol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), state, {"batch_stats": stats})


@pytest.mark.parametrize("shape", [(7, 32, 3), (32, 7, 3), (1, 1, 1), (32, 32), (64,), (2, 32, 32, 3)])
def test_cnn_refuses_what_three_poolings_would_swallow(shape):
    with pytest.raises(ValueError, match="CNN: expected images"):
        shapes_of(models.CNN(2), shape)


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (9, 31, 3)])
def test_cnn_takes_other_image_sizes(shape):
    model = models.CNN(2, num_classes=7)
    variables = shapes_of(model, shape)
    logits = jax.eval_shape(lambda v, x: model.apply(v, x), variables, jax.ShapeDtypeStruct((4, *shape), np.float32))
    assert logits.shape == (4, 7)
    h, w, _ = shape
    assert variables["params"]["dense0"]["kernel"].shape == (h // 8 * (w // 8) * 8, 256)


# Evaluation mode


class Tiny(nn.Module):
    """A foreign module without a `train` argument."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_apply_fn_freezes_the_batch_statistics():
    model = models.BatchNormRelu(affine=True)
    variables, x = drawn(model, (2, 2, 4), np.float32)
    f = models.apply_fn(model, variables)
    first, second = f(variables["params"], x), f(variables["params"], 5 * x[:2] + 1)
    stats = variables["batch_stats"]
    for out, inputs in ((first, x), (second, 5 * x[:2] + 1)):
        expected, _ = reference.batch_norm(variables["params"], stats, inputs.astype(np.float64), train=False)
        np.testing.assert_allclose(out, reference.relu(expected), rtol=1e-5, atol=1e-5)
    # What was frozen is what was given, not what training made of it later.
    _, state = models.forward_train(model, variables, x)
    assert not np.array_equal(state["batch_stats"]["mean"], stats["mean"])
    np.testing.assert_array_equal(f(variables["params"], x), first)


def test_any_module_will_do():
    variables = models.init(Tiny(), jax.random.key(0), (2,))
    x = np.ones((5, 2), np.float32)
    assert models.switches(Tiny(), False) == {} and models.switches(models.MLP(2), False) == {"train": False}
    logits, state = models.forward_train(Tiny(), variables, x)
    np.testing.assert_array_equal(logits, models.apply_fn(Tiny(), variables)(variables["params"], x))
    assert state == {}


# Batch norm, with its ReLU and pooling


def norm_relu(params, stats, x, train, pool):
    """The oracle: normalise, pool, ReLU, one after the other."""
    z, stats = reference.batch_norm(params, stats, x, train)
    return reference.relu(reference.max_pool(z) if pool else z), stats


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(("shape", "pool"), [((2, 1, 1, 3), False), ((3, 4, 5, 2), False), ((3, 4, 5, 2), True)])
def test_batch_norm_is_the_oracle(shape, pool, affine):
    model = models.BatchNormRelu(affine=affine, pool=pool)
    variables, _ = drawn(model, shape[1:])
    x = np.random.default_rng(2).normal(3, 2, shape)
    params, stats = variables.get("params", {}), variables["batch_stats"]
    for _ in range(3):  # the running variance keeps its unbiased feed over several steps
        expected, stats = norm_relu(params, stats, x, True, pool)
        out, state = models.forward_train(model, variables, x)
        variables = {**variables, **state}
        np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-9)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), state, {"batch_stats": stats})
        x = 1 - 2 * x
    expected, _ = norm_relu(params, stats, x, False, pool)
    np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-9, atol=1e-9)


def test_running_variance_is_unbiased():
    # Two examples at 0 and 2: the biased variance is 1, the unbiased 2; momentum 0.1 from 1.
    model, x = models.BatchNormRelu(), np.array([0.0, 2.0], np.float32).reshape(2, 1, 1, 1)
    _, state = models.forward_train(model, models.init(model, jax.random.key(0), (1, 1, 1)), x)
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9 + 0.1 * 2, rtol=1e-6)
    np.testing.assert_allclose(state["batch_stats"]["mean"], 0.1 * 1, rtol=1e-6)


@pytest.mark.parametrize("affine", [False, True])
def test_one_example_of_one_pixel_stays_finite(affine):
    model = models.BatchNormRelu(affine=affine)
    variables = models.init(model, jax.random.key(0), (1, 1, 3))
    out, state = models.forward_train(model, variables, np.full((1, 1, 1, 3), 7, np.float32))
    np.testing.assert_array_equal(out, np.zeros((1, 1, 1, 3)))
    np.testing.assert_allclose(state["batch_stats"]["var"], 0.9, rtol=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 1.0, 3.0])
def test_one_pass_variance_in_float32(ratio):
    # var = E[x^2] - m^2 with m = ratio x std: rounding of either term is magnified by E[x^2] / var = 1 + ratio^2.
    # Summing n terms costs at most log2(n) units where XLA sums by halves and n / 8 where it keeps a few
    # accumulators; sqrt(n) is between, and what random rounding amounts to in the second case.
    x = np.random.default_rng(3).normal(ratio, 1, (16, 16, 16, 4)).astype(np.float32)
    model, exact = models.BatchNormRelu(), x.astype(np.float64).reshape(-1, 4)
    variables = models.init(model, jax.random.key(0), (16, 16, 4))
    out, state = models.forward_train(model, variables, x)
    tolerance = 2 * (1 + ratio**2) * np.sqrt(len(exact)) * np.finfo(np.float32).eps / 2
    fed = (state["batch_stats"]["var"] - np.float32(0.9)) / np.float32(0.1)
    np.testing.assert_allclose(fed, exact.var(0, ddof=1), rtol=tolerance + 2e-6)  # 2e-6: 0.9 subtracted again
    normal = (exact - exact.mean(0)) / np.sqrt(exact.var(0) + 1e-5)
    np.testing.assert_allclose(
        np.reshape(out, (-1, 4)), reference.relu(normal), rtol=tolerance, atol=tolerance * (1 + ratio)
    )  # fmt: skip


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("affine", "pool"), [(False, False), (False, True), (True, True)])
def test_batch_norm_gradient_passes_through_the_batch_statistics(affine, pool):
    model, x = models.BatchNormRelu(affine=affine, pool=pool), np.random.default_rng(4).normal(2, 1, (3, 3, 2, 2))
    variables, _ = drawn(model, (3, 2, 2))
    weights = np.random.default_rng(5).normal(size=(3, 1, 1, 2) if pool else x.shape)
    gradient = jax.grad(lambda x: (models.forward_train(model, variables, x)[0] * weights).sum())(jnp.asarray(x))

    def value(x):
        out, _ = norm_relu(variables.get("params", {}), variables["batch_stats"], x, True, pool)
        return (out * weights).sum()

    step = 1e-6  # central differences: truncation and rounding both near 1e-10
    numeric = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        shift = np.zeros_like(x)
        shift[place] = step
        numeric[place] = (value(x + shift) - value(x - shift)) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, atol=1e-8)
    assert np.abs(numeric).max() > 0.1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("shape", [(9, 8, 8, 2), (9, 4, 8, 4), (3, 6, 7, 5)])
def test_pooling_finds_its_maxima_again_in_the_compiled_gradient(shape, affine):
    # XLA recomputes the normalised input wherever it fuses it, and may contract the products differently there: a
    # gradient that compares it with the stored maximum for equality then finds none. Sizes whose product is no
    # power of two, since dividing by one is exact and hides it.
    n, h, w, c = shape
    rng = np.random.default_rng(8)
    x, kernel, weights = (jnp.asarray(rng.normal(size=s)) for s in (shape, (3, 3, c, c), (n, h // 2, w // 2, c)))
    model = models.BatchNormRelu(affine=affine, pool=True)
    variables, _ = drawn(model, (h, w, c))

    def value(kernel):
        return (models.forward_train(model, variables, models.conv3x3(x, kernel))[0] * weights).sum()

    np.testing.assert_allclose(jax.jit(jax.grad(value))(kernel), jax.grad(value)(kernel), rtol=1e-9, atol=1e-9)


# Pooling


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 5, 5, 2), (3, 2, 3, 1), (2, 7, 4, 2), (1, 1, 4, 1)])
def test_max_pool_is_reduce_window_with_its_gradient(shape):
    x = jnp.asarray(np.random.default_rng(6).permutation(int(np.prod(shape))).reshape(shape), jnp.float32)  # no ties

    def window(x):
        return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    np.testing.assert_array_equal(models.max_pool(x), window(x))
    np.testing.assert_array_equal(models.max_pool(x), reference.max_pool(np.asarray(x)))
    weights = jnp.asarray(np.random.default_rng(7).normal(size=window(x).shape), jnp.float32)
    ours, theirs = (jax.grad(lambda x, f=f: (f(x) * weights).sum())(x) for f in (models.max_pool, window))
    np.testing.assert_array_equal(ours, theirs)


# Initialisation


def test_draws_do_not_depend_on_the_padded_length():
    # Drawn lengths are 4096, 16384, ...: cut at, before and behind them, all must be one sequence, JAX's own.
    key, init = jax.random.key(5), models.pytorch_uniform(9)
    longest = np.asarray(jax.random.uniform(key, (16385,), jnp.float32, -1 / 3, 1 / 3))
    for n in (1, 4095, 4096, 4097, 16384, 16385):
        np.testing.assert_array_equal(init(key, (n,)), longest[:n])
    np.testing.assert_array_equal(init(key, (3, 3, 5, 7)).ravel(), longest[:315])


def test_init_is_a_function_of_the_key():
    model, init = models.MLP(3), lambda seed: models.init(models.MLP(3), jax.random.key(seed), (2, 2, 1))
    jax.tree.map(np.testing.assert_array_equal, init(0), init(0))
    assert all(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (init(0), init(1))), strict=True))
    assert shapes_of(model, (2, 2, 1)) == jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), init(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(init(0))} == {np.dtype(np.float32)}


def test_fresh_statistics_are_untouched_by_the_zeros_that_init_passes():
    stats = jax.jit(lambda key: models.init(models.CNN(1), key, (8, 8, 1)))(jax.random.key(0))["batch_stats"]
    assert len(stats) == 6
    for own in stats.values():
        assert np.all(own["mean"] == 0) and np.all(own["var"] == 1)


# Parametrisations of the MLP


class PlainMLP(nn.Module):
    """The network as it was before it had parametrisations."""

    width: int

    @nn.compact
    def __call__(self, x):
        x = x.reshape(x.shape[0], -1)
        for layer, features in enumerate((self.width, self.width, 10)):
            init = models.pytorch_uniform(x.shape[-1])
            x = nn.Dense(features, kernel_init=init, bias_init=init, name=f"dense{layer}")(nn.relu(x) if layer else x)
        return x


def drawn_mlp(parametrization, width=48, depth=3):
    model = models.MLP(width, depth=depth, parametrization=parametrization)
    return model, models.init(model, jax.random.key(3), (20,))


def test_the_standard_parametrisation_is_what_it_was_bit_for_bit():
    (model, variables), plain = drawn_mlp("standard"), PlainMLP(48)
    x = jax.random.normal(jax.random.key(1), (5, 20))
    jax.tree.map(np.testing.assert_array_equal, variables, models.init(plain, jax.random.key(3), (20,)))
    loss = lambda m: lambda v: jnp.sum(jnp.sin(m.apply(v, x)))  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, *(jax.grad(loss(m))(variables) for m in (model, plain)))
    assert jax.make_jaxpr(model.apply)(variables, x).pretty_print() == jax.make_jaxpr(plain.apply)(
        variables, x).pretty_print()  # fmt: skip


@pytest.mark.parametrize("parametrization", models.PARAMETRIZATIONS)
def test_every_parametrisation_has_the_published_params(parametrization):
    standard, other = (shapes_of(models.MLP(64, parametrization=p), (28, 28, 1)) for p in ("standard", parametrization))
    assert other == standard
    assert models.num_params(models.MLP(64, parametrization=parametrization), (28, 28, 1)) == MLP_PARAMS[64]


def test_ntk_parametrisation_begins_as_the_same_function():
    (standard, a), (ntk, b) = (drawn_mlp(p) for p in ("standard", "ntk"))
    x = jax.random.normal(jax.random.key(1), (7, 20))
    np.testing.assert_allclose(ntk.apply(b, x), standard.apply(a, x), rtol=1e-4, atol=1e-6)
    for name, layer in b["params"].items():
        fan_in = layer["kernel"].shape[0]
        for kind in layer:
            np.testing.assert_allclose(layer[kind] / np.sqrt(fan_in), a["params"][name][kind], rtol=1e-4, atol=1e-7)
            assert 0.6 < np.abs(layer[kind]).max() <= 1


def test_mup_is_standard_at_its_base_width_and_has_the_papers_multipliers_elsewhere():
    (standard, a), (mup, b) = (drawn_mlp(p, models.MUP_BASE_WIDTH) for p in ("standard", "mup"))
    x = jax.random.normal(jax.random.key(1), (7, 20))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    np.testing.assert_array_equal(mup.apply(b, x), standard.apply(a, x))
    # Yang & Hu (2021), table 1: input weights n^(1/2), output n^(-1/2), entries of variance 1/n, in units of the base.
    grown, width = 4.0, 16 * models.MUP_BASE_WIDTH
    model, variables = drawn_mlp("mup", width)
    one, two, three = (variables["params"][f"dense{i}"] for i in range(3))
    bounds = {"dense0": (20**-0.5 / grown,) * 2, "dense1": (width**-0.5,) * 2,
              "dense2": (width**-0.5, models.MUP_BASE_WIDTH**-0.5)}  # fmt: skip
    for name, pair in bounds.items():
        for kind, bound in zip(("kernel", "bias"), pair, strict=True):
            assert 0.6 * bound < np.abs(variables["params"][name][kind]).max() <= bound
    x, one, two, three = jax.tree.map(np.asarray, (x, one, two, three))
    hidden = np.maximum(grown * (x @ one["kernel"] + one["bias"]), 0)
    hidden = np.maximum(hidden @ two["kernel"] + grown * two["bias"], 0)
    by_hand = hidden @ three["kernel"] / grown + three["bias"]
    np.testing.assert_allclose(model.apply(variables, x), by_hand, rtol=1e-4, atol=1e-5)


def feature_change(parametrization, width, rate, steps=4):
    """Root mean square change of the last hidden layer's preactivations, relative to them, after a few steps."""
    model = models.MLP(width, depth=3, num_classes=2, parametrization=parametrization)
    x = jax.random.normal(jax.random.key(1), (16, 20))
    y = jnp.sign(x[:, :1]) * jnp.array([[1.0, -1.0]])
    variables = models.init(model, jax.random.key(0), (20,))

    def features(params):
        _, kept = model.apply({"params": params}, x, capture_intermediates=True)
        scales = _networks.layer_scales(parametrization, width, width, "hidden")
        return kept["intermediates"]["dense1"]["__call__"][0] * scales.bias

    @jax.jit
    def step(params):
        gradient = jax.grad(lambda p: jnp.mean(jnp.sum((model.apply({"params": p}, x) - y) ** 2, 1)) / 2)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, gradient)

    params = start = variables["params"]
    for _ in range(steps):
        params = step(params)
    before = features(start)
    return float(jnp.linalg.norm(features(params) - before) / jnp.linalg.norm(before))


def test_coordinate_check_of_the_parametrisations():
    """Features move by width^0 in muP, and by width^-1/2 in the NTK parametrisation, one rate for all widths."""
    widths = np.array([64, 256, 1024])
    slopes = {
        name: np.polyfit(np.log(widths), np.log([feature_change(name, w, rate) for w in widths]), 1)[0]
        for name, rate in (("mup", 0.1), ("ntk", 1.0))
    }
    assert abs(slopes["mup"]) < 0.15 and abs(slopes["ntk"] + 0.5) < 0.15, slopes


def test_an_unknown_parametrisation_is_refused():
    with pytest.raises(ValueError, match="parametrization: expected one of standard, ntk, mup, got 'spectral'"):
        models.MLP(4, parametrization="spectral")


# Statistics for other weights


def test_refitted_statistics_are_the_mean_of_those_of_the_batches():
    model = models.BatchNormRelu()
    x = jnp.asarray(np.random.default_rng(0).normal(2, 3, size=(11, 2, 2, 3)), jnp.float32)
    variables = {"params": {}, "batch_stats": {"mean": jnp.full(3, 7.0), "var": jnp.full(3, 9.0)}}
    found = models.refit_statistics(model, variables, x, 5)["batch_stats"]
    batches = np.asarray(x[:10]).reshape(2, 20, 3)
    np.testing.assert_allclose(found["mean"], batches.mean(1).mean(0), rtol=1e-5)
    np.testing.assert_allclose(found["var"], batches.var(1, ddof=1).mean(0), rtol=1e-5)


def test_a_network_evaluates_with_refitted_statistics_as_it_trains():
    model = models.CNN(2, num_classes=3)
    variables, x = drawn(model, (8, 8, 1), np.float32, num=64)
    found = models.refit_statistics(model, variables, jnp.asarray(x), 64)
    training, _ = models.forward_train(model, variables, x)
    stale, refitted = (model.apply(each, x) for each in (variables, found))
    scale = np.abs(training).max()
    assert np.abs(refitted - training).max() < 0.02 * scale < np.abs(stale - training).max()  # 64/63 in the variances


def test_refitting_needs_a_batch_and_leaves_networks_without_statistics_alone():
    variables, x = drawn(models.MLP(3), (5,))
    assert models.refit_statistics(models.MLP(3), variables, x, 2) is variables
    with pytest.raises(ValueError, match=r"^x: expected at least one batch of 6 examples, got 5"):
        models.refit_statistics(models.MLP(3), variables, x, 6)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "4"])
def test_numbers_that_are_not_whole_are_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^width: expected a whole number of at least 1, got"):
        models.MLP(value)
    with pytest.raises(ValueError, match=r"^num_classes: expected"):
        models.CNN(4, num_classes=value)
