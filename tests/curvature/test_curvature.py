"""Curvature products against dense float64 oracles, finite differences, PyTorch, and identities."""

import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import reference_curvature as oracle
from hypothesis import strategies as st

from ntkgen import curvature, models, spectrum, train, tree

NUM, INPUTS, CLASSES = 7, 3, 3
fast = hypothesis.settings(max_examples=20, deadline=None, derandomize=True)


def network(params, x):
    """A smooth network whose gradients are all different from zero."""
    return jnp.tanh(x @ params["in"]["w"] + params["in"]["b"][None]) @ params["out"]


def problem(seed=0, dtype=np.float64, num=NUM):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), dtype)  # noqa: E731
    params = {"in": {"w": draw(INPUTS, 4), "b": draw(4)}, "out": draw(4, CLASSES)}
    return params, draw(num, INPUTS), jnp.asarray(rng.integers(0, CLASSES, num))


def like(params, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), params)


def flat(t):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)])


LOSSES = {"cross_entropy": train.cross_entropy, "mse": train.squared_error}
CHUNKS = {"cross_entropy": (None, 3, NUM + 2), "mse": (3,)}  # 3 leaves a remainder
PRODUCTS = {
    "hessian": curvature.hessian_matvec,
    "linearized": functools.partial(curvature.hessian_matvec, linearize=True),
    "ggn": curvature.ggn_matvec,
    "fisher": lambda f, loss, params, x, y, chunk=None: curvature.fisher_matvec(f, params, x, chunk),
    "covariance": curvature.gradient_covariance_matvec,
    "second_moment": functools.partial(curvature.gradient_covariance_matvec, centred=False),
}


def dense(name, f, loss, params, x, y):
    if name in ("hessian", "linearized"):
        return oracle.hessian(lambda p: jnp.mean(loss(f(p, x), y)), params)
    if name == "ggn":
        return oracle.ggn(f, loss, params, x, y)
    if name == "fisher":
        return oracle.fisher(f, params, x)
    g = oracle.example_gradients(f, loss, params, x, y)
    return np.cov(g.T, bias=True) if name == "covariance" else g.T @ g / len(g)


# Against the dense matrix


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_the_dense_matrix_whatever_the_chunk(name, loss, x64):
    params, x, y = problem()
    matrix = dense(name, network, LOSSES[loss], params, x, y)
    assert np.abs(matrix).max() > 1e-2
    for chunk in CHUNKS[loss]:
        matvec = PRODUCTS[name](network, LOSSES[loss], params, x, y, chunk)
        for seed in (1, 2):
            v = like(params, seed)
            np.testing.assert_allclose(flat(matvec(v)), matrix @ flat(v), rtol=0, atol=1e-13 * len(matrix))


@functools.cache
def small_network(name):
    """A network of the package in evaluation mode with drawn statistics: f, params, x, y, mean loss, dense Hessian."""
    model, shape = {"mlp": (models.MLP(4), (2, 2, 1)), "cnn": (models.CNN(1, num_classes=3), (8, 8, 1))}[name]
    shapes = jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))
    variables = jax.tree.map(jnp.asarray, reference.random_variables(shapes, seed=1))
    rng = np.random.default_rng(2)
    x, y = jnp.asarray(rng.normal(size=(4, *shape))), jnp.asarray(rng.integers(0, model.num_classes, 4))
    apply = models.apply_fn(model, variables)
    # The first head layer of the CNN holds half of its numbers and is like any other: it stays fixed.
    fixed = {key: value for key, value in variables["params"].items() if (name, key) == ("cnn", "dense0")}
    params = {key: value for key, value in variables["params"].items() if key not in fixed}
    f = lambda params, x: apply({**params, **fixed}, x)  # noqa: E731
    loss = lambda params: jnp.mean(train.cross_entropy(f(params, x), y))  # noqa: E731
    return f, params, x, y, loss, oracle.hessian(loss, params)


@pytest.mark.parametrize("name", ["mlp", pytest.param("cnn", marks=pytest.mark.slow)])
def test_our_networks_against_their_dense_hessian(name, x64):
    f, params, x, y, loss, matrix = small_network(name)
    scale = np.linalg.norm(matrix)
    matvec = curvature.hessian_matvec(f, train.cross_entropy, params, x, y, chunk=2)
    v = like(params, 1)
    np.testing.assert_allclose(flat(matvec(v)), matrix @ flat(v), rtol=0, atol=1e-12 * scale)
    if name == "mlp":  # the same derivative; compiling it for the CNN too takes seconds
        np.testing.assert_allclose(flat(curvature.hvp(loss, params, v)), matrix @ flat(v), rtol=0, atol=1e-12 * scale)
    values = np.linalg.eigvalsh(matrix)
    for which, want in (("LA", values[:-4:-1]), ("SA", values[2::-1])):
        found = spectrum.lanczos(matvec, v, 60, 3, which, tol=1e-8)
        assert found.converged.all()
        np.testing.assert_allclose(found.value, want, rtol=1e-8)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_eigenpairs_against_finite_differences_of_the_gradient(name, x64):
    f, params, x, y, loss, _ = small_network(name)
    gradient = jax.jit(jax.grad(loss))
    # The chunk of the test above: its compilation serves here too.
    matvec = curvature.hessian_matvec(f, train.cross_entropy, params, x, y, chunk=2)
    found = spectrum.lanczos(matvec, like(params, 3), 60, 2)
    for i in range(2):
        vector = jax.tree.map(lambda leaf, i=i: leaf[i], found.vector)
        step = 1e-6  # kinks of the ReLUs nearer than this would show as an error far above the tolerance
        up, down = (flat(gradient(tree.axpy(s, vector, params))) for s in (step, -step))
        difference = (up - down) / (2 * step)
        # Central differences are off by step^2 times a third derivative and by rounding / step.
        np.testing.assert_allclose(difference, found.value[i] * flat(vector), rtol=0, atol=1e-6 * float(found.value[0]))


@pytest.mark.parametrize("name", ["mlp5", pytest.param("cnn2", marks=pytest.mark.slow), "cnn2-affine"])
def test_hvp_against_torch_double_backward(name, x64):
    torch = pytest.importorskip("torch")
    import parity_cases
    import torch_nets

    model, net, variables, x, y = parity_cases.make(name)
    params = jax.tree.map(jnp.asarray, variables["params"])
    v = like(params, 5)
    f = models.apply_fn(model, variables)
    ours = curvature.hessian_vp(f, train.cross_entropy, params, jnp.asarray(x), jnp.asarray(y), v, chunk=3)

    net = torch_nets.to_torch(variables, net).eval()
    direction = torch_nets.to_torch({**variables, "params": jax.tree.map(np.asarray, v)}, parity_cases.torch_net(name))
    loss = parity_cases.torch_loss("cross_entropy", net(torch_nets.images(x)), torch.from_numpy(y).long())
    weights = list(net.parameters())
    gradients = torch.autograd.grad(loss, weights, create_graph=True)
    slope = sum((g * d.detach()).sum() for g, d in zip(gradients, direction.parameters(), strict=True))
    for weight, product in zip(weights, torch.autograd.grad(slope, weights, allow_unused=True), strict=True):
        weight.grad = torch.zeros_like(weight) if product is None else product
    theirs = torch_nets.to_flax(net, of=lambda p: p.grad)["params"]
    assert np.linalg.norm(flat(theirs)) > 1e-3
    parity_cases.assert_same(ours, theirs)


def test_float32_products_are_within_rounding_of_float64(x64):
    wide, narrow = problem(), problem(dtype=np.float32)
    v = like(wide[0], 1)
    for name, make in PRODUCTS.items():
        exact = make(network, train.cross_entropy, *wide)(v)
        single = make(network, train.cross_entropy, *narrow)(tree.cast(v, jnp.float32))
        assert flat(single).dtype == np.float32
        error = np.linalg.norm(flat(single) - flat(exact)) / np.linalg.norm(flat(exact))
        assert 0 < error < 100 * np.finfo(np.float32).eps, (name, error)


# Identities


@pytest.mark.parametrize("name", PRODUCTS)
def test_linear_and_symmetric(name, x64):
    params, x, y = problem()
    matvec = PRODUCTS[name](network, train.cross_entropy, params, x, y, 3)

    @fast
    @hypothesis.given(st.integers(0, 10**6), st.floats(-10, 10), st.floats(-10, 10))
    def holds(seed, a, b):
        u, v = like(params, seed), like(params, seed + 1)
        hu, hv = matvec(u), matvec(v)
        both = matvec(tree.axpy(a, u, tree.scale(b, v)))
        np.testing.assert_allclose(flat(both), a * flat(hu) + b * flat(hv), rtol=0, atol=1e-11)
        np.testing.assert_allclose(flat(u) @ flat(hv), flat(v) @ flat(hu), rtol=0, atol=1e-11)
        if name not in ("hessian", "linearized"):
            assert flat(u) @ flat(hu) >= -1e-12

    holds()


def test_fisher_is_the_gauss_newton_of_cross_entropy(x64):
    params, x, y = problem()
    v = like(params, 1)
    ggn = curvature.ggn_vp(network, train.cross_entropy, params, x, y, v)
    np.testing.assert_allclose(flat(curvature.fisher_vp(network, params, x, v)), flat(ggn), rtol=0, atol=1e-14)


def test_gauss_newton_is_the_hessian_of_a_linear_model_and_not_of_another(x64):
    params, x, y = problem()
    v = like(params, 1)
    linear = lambda p, x: x @ p  # noqa: E731
    args = (linear, train.cross_entropy, params["in"]["w"], x, y, v["in"]["w"])
    np.testing.assert_allclose(curvature.ggn_vp(*args), curvature.hessian_vp(*args), rtol=0, atol=1e-14)
    args = (network, train.cross_entropy, params, x, y, v)
    assert np.abs(flat(curvature.ggn_vp(*args)) - flat(curvature.hessian_vp(*args))).max() > 1e-3


def test_scaling_a_normalised_layer_divides_its_curvature_block_by_the_square(x64):
    """Batch norm makes a solution flatter or sharper at will, without changing the function."""
    params, x, y = problem()

    def loss(w, b):
        z = x @ w + b[None]
        z = (z - z.mean(0, keepdims=True)) / z.std(0, keepdims=True)
        return jnp.mean(train.cross_entropy(jnp.tanh(z) @ params["out"], y))

    w, b, a = params["in"]["w"], params["in"]["b"], 3.0
    layer = lambda p: loss(p["w"], p["b"])  # noqa: E731
    one, scaled = params["in"], tree.scale(a, params["in"])
    np.testing.assert_allclose(loss(w, b), loss(a * w, a * b), rtol=1e-13)
    block, scaled_block = oracle.hessian(layer, one), oracle.hessian(layer, scaled)
    v = like(one, 1)
    np.testing.assert_allclose(flat(curvature.hvp(layer, one, v)), block @ flat(v), rtol=0, atol=1e-12)
    got = flat(curvature.hvp(layer, scaled, v))
    np.testing.assert_allclose(got, scaled_block @ flat(v), rtol=0, atol=1e-12)
    np.testing.assert_allclose(got * a**2, block @ flat(v), rtol=0, atol=1e-12)
    assert np.abs(block).max() > 1e-2


def test_gradient_noise_of_a_batch_is_the_covariance_over_its_size(x64):
    """The definition a study relies on: all pairs of two examples, drawn with replacement."""
    params, x, y = problem()
    g = oracle.example_gradients(network, train.cross_entropy, params, x, y)
    batches = np.array([(a + b) / 2 for a in g for b in g])
    v = like(params, 1)
    product = curvature.gradient_covariance_vp(network, train.cross_entropy, params, x, y, v, chunk=2)
    np.testing.assert_allclose(np.cov(batches.T, bias=True) @ flat(v), flat(product) / 2, rtol=0, atol=1e-13)


def test_stability_threshold():
    assert curvature.stability_threshold(0.01) == pytest.approx(200)
    assert curvature.stability_threshold(0.01, 0.9) == pytest.approx(380)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_heavy_ball_diverges_just_above_the_threshold(momentum):
    rate = 0.1
    for factor, diverges in ((0.99, False), (1.01, True)):
        sharpness = factor * curvature.stability_threshold(rate, momentum)
        w, velocity = 1.0, 0.0
        for _ in range(5000):
            velocity = momentum * velocity + sharpness * w
            w -= rate * velocity
            if abs(w) > 1e6:
                break
        assert (abs(w) > 1e6) == diverges and (diverges or abs(w) < 1e-3)


# Transformations, compilation, precision


@pytest.mark.parametrize("name", PRODUCTS)
def test_vmap_over_seeds_equals_one_by_one(name, x64):
    cases = [problem(seed) for seed in range(3)]
    x, y = cases[0][1:]
    vectors = [like(params, seed) for seed, (params, _, _) in enumerate(cases)]
    product = lambda params, v: PRODUCTS[name](network, train.cross_entropy, params, x, y, 3)(v)  # noqa: E731
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    batched = jax.jit(jax.vmap(product))(stack([params for params, _, _ in cases]), stack(vectors))
    for i, (params, _, _) in enumerate(cases):
        single = flat(product(params, vectors[i]))
        np.testing.assert_allclose(flat(jax.tree.map(lambda a, i=i: a[i], batched)), single, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["hessian", "linearized", "covariance"])
def test_one_program_serves_many_vectors_and_networks(name, compilations):
    own = lambda params, x: network(params, x)  # noqa: E731

    def programs(seed, num=NUM):
        params, x, y = problem(seed, np.float32, num)
        with compilations() as names:
            matvec = PRODUCTS[name](own, train.cross_entropy, params, x, y)
            for other in (1, 2):
                matvec(like(params, other))
        return [each for each in names if "_compiled" in each or "_linearized" in each]

    assert len(programs(0)) == 1 and not programs(1)
    assert len(programs(0, NUM + 1)) == 1  # another shape is compiled anew: the counter counts


def test_a_network_with_statistics_as_arguments_compiles_once(compilations):
    params, x, y = problem(dtype=np.float32)
    scaled = lambda scale, params, x: scale * network(params, x)  # noqa: E731
    v = like(params, 1)
    first = [jnp.float32(2), jnp.float32(3)]
    with compilations() as names:
        results = []
        for scale in first:
            f = jax.tree_util.Partial(scaled, scale)
            results.append(flat(curvature.hessian_matvec(f, train.cross_entropy, params, x, y)(v)))
    assert names.count("jit(_compiled)") == 1, names
    assert np.abs(results[0] - results[1]).max() > 1e-4


@pytest.mark.parametrize("name", PRODUCTS)
def test_every_matrix_product_and_convolution_runs_at_highest_precision_on_a_gpu(name):
    params = {"k": jnp.ones((3, 3, 1, 2)), "w": jnp.ones((32, CLASSES))}
    x, y = jnp.ones((2, 4, 4, 1)), jnp.zeros(2, int)

    def f(params, x):
        numbers = ("NHWC", "HWIO", "NHWC")
        z = jax.lax.conv_general_dilated(x, params["k"], (1, 1), "SAME", dimension_numbers=numbers)
        return jnp.tanh(z).reshape(len(x), -1) @ params["w"]

    def lowered(function):
        text = jax.jit(function).trace(params).lower(lowering_platforms=("cuda",)).as_text()
        lines = [line for line in text.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
        assert len(lines) > 2
        return [line for line in lines if "HIGHEST" not in line]

    with jax.default_matmul_precision("default"):  # conftest sets "highest", where nothing would be proved
        assert lowered(lambda v: jax.grad(lambda p: jnp.sum(f(p, x)))(v))
        assert not lowered(lambda v: PRODUCTS[name](f, train.cross_entropy, params, x, y)(v))


# Bad input

GOOD = problem(dtype=np.float32)


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, x, y: (p, x[:0], y[:0]), "x: expected at least one example, got none"),
        (lambda p, x, y: ({**p, "out": p["out"].at[0, 0].set(jnp.nan)}, x, y), r"params\['out'\]: .* 1 of 12"),
        (lambda p, x, y: ({**p, "out": p["out"].astype(int)}, x, y), r"params\['out'\]: expected floating .*int32"),
    ],
)
def test_bad_params_and_samples_are_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        PRODUCTS[name](network, train.cross_entropy, *change(*GOOD))


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_bad_chunks_are_named(chunk):
    with pytest.raises(ValueError, match=r"^chunk: expected .*, got "):
        curvature.hessian_matvec(network, train.cross_entropy, *GOOD, chunk=chunk)


def test_lengths_that_differ_are_named():
    params, x, y = GOOD
    with pytest.raises(ValueError, match=r"x, y: expected .* lengths \[6, 7\]"):
        curvature.ggn_vp(network, train.cross_entropy, params, x, y[:-1], params)


@pytest.mark.parametrize("name", PRODUCTS)
def test_vectors_that_do_not_fit_are_named(name):
    params = GOOD[0]
    matvec = PRODUCTS[name](network, train.cross_entropy, *GOOD)
    with pytest.raises(ValueError, match=r"v\['out'\]: expected shape \(4, 3\), got \(3, 4\)"):
        matvec({**params, "out": params["out"].T})
    with pytest.raises(ValueError, match="v: expected the structure"):
        matvec({"out": params["out"]})


def test_losses_of_another_shape_are_named():
    params, x, y = GOOD
    with pytest.raises(ValueError, match=r"loss: expected a scalar, got shape \(7,\)"):
        curvature.hvp(lambda p: train.cross_entropy(network(p, x), y), params, params)
    mean = lambda outputs, y: jnp.mean(train.cross_entropy(outputs, y))  # noqa: E731
    for product in (curvature.hessian_vp, curvature.ggn_vp, curvature.gradient_covariance_vp):
        with pytest.raises(ValueError, match=r"loss: expected shape \(7,\), one for each example, got \(\)"):
            product(network, mean, params, x, y, params)
    with pytest.raises(ValueError, match=r"f: expected outputs for 7 examples, got shape \(3,\)"):
        curvature.fisher_vp(lambda p, x: jnp.sum(network(p, x), 0), params, x, params)


def test_hvp_checks_its_arguments():
    square = lambda w: jnp.sum(w**2)  # noqa: E731
    with pytest.raises(ValueError, match=r"v: expected shape \(2,\), got \(3,\)"):
        curvature.hvp(square, jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="params: expected finite numbers, got 1 of 2"):
        curvature.hvp(square, jnp.array([1, jnp.inf]), jnp.ones(2))
    np.testing.assert_array_equal(jax.jit(lambda w: curvature.hvp(square, w, w))(jnp.array([1.0, 2])), [2, 4])
