"""Roles of leaves: by names and shapes, by modules, by the user; and what asks for them, against loops over filters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ntkgen import landscape, models, pruning, roles

Leaf = roles.Leaf
VECTOR = {"bias": Leaf("bias"), "scale": Leaf("scale")}


def params_of(shapes):
    """Normal draws of the given shapes, none near zero."""
    rng = np.random.default_rng(0)
    draw = lambda shape: jnp.asarray(rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes, is_leaf=is_shape)


def linen(module, *inputs):
    """The shapes of a module's params."""
    return jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]


class Block(nn.Module):
    bias: bool = True

    @nn.compact
    def __call__(self, x, _):
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],))
        y = nn.LayerNorm(name="norm")(x)
        y = nn.Dense(x.shape[-1], use_bias=self.bias, name="dense")(y)
        return x + gain[None] * nn.MultiHeadDotProductAttention(2, use_bias=self.bias, name="attention")(y, y), None


class Stack(nn.Module):
    layers: int = 3
    axis: int = 0
    bias: bool = True

    @nn.compact
    def __call__(self, x):
        split = {"variable_axes": {"params": self.axis}, "split_rngs": {"params": True}}
        x = nn.scan(Block, **split, length=self.layers)(self.bias, name="stack")(x, None)[0]
        return nn.Dense(5, name="head")(x)


X = jnp.ones((4, 6))
DENSE, ROW = Leaf("kernel", (1,)), Leaf("kernel", (0,))
HEADS, JOINED = Leaf("kernel", (1, 2)), Leaf("kernel", (2,))

# name -> (shapes, the role of every leaf that is no plain bias or scale)
CASES = {
    "dense": ({"d": {"kernel": (3, 4), "bias": (4,)}}, {"d/kernel": DENSE}),
    "square dense": ({"kernel": (4, 4), "bias": (4,)}, {"kernel": DENSE}),
    "dense without bias": ({"kernel": (3, 4)}, {"kernel": DENSE}),
    "convolution": ({"kernel": (3, 3, 2, 5), "bias": (5,)}, {"kernel": Leaf("kernel", (3,))}),
    "convolution without bias": ({"kernel": (3, 3, 2, 5)}, {"kernel": Leaf("kernel", (3,))}),
    "transposed convolution": ({"kernel": (3, 3, 5, 2), "bias": (5,)}, {"kernel": Leaf("kernel", (2,))}),
    "one-dimensional convolution": ({"kernel": (3, 4, 5), "bias": (5,)}, {"kernel": JOINED}),
    "the same without bias": ({"Conv_0": {"kernel": (3, 4, 5)}}, {"Conv_0/kernel": JOINED}),
    "stack": ({"kernel": (3, 4, 5), "bias": (3, 5)}, {"kernel": Leaf("kernel", (2,), (0,))}),
    "stack without bias": (
        {"dense": {"kernel": (3, 4, 5)}, "norm": {"scale": (3, 4)}}, {"dense/kernel": Leaf("kernel", (2,), (0,))}
    ),
    "stack of stacks": ({"kernel": (2, 3, 4, 5), "bias": (2, 3, 5)}, {"kernel": Leaf("kernel", (3,), (0, 1))}),
    "broadcast bias": ({"kernel": (3, 3, 2, 5), "bias": (1, 1, 1, 5)}, {"kernel": Leaf("kernel", (3,))}),
    "group norm": ({"scale": (1, 1, 1, 6), "bias": (1, 1, 1, 6)}, {}),
    "group norm under other names": ({"weight": (1, 1, 1, 6), "bias": (1, 1, 1, 6)}, {"weight": Leaf("scale")}),
    "layer norm over two axes": ({"weight": (4, 6), "bias": (4, 6)}, {"weight": Leaf("scale")}),
    "stacked root-mean-square norm": ({"norm": {"weight": (3, 6)}}, {"norm/weight": Leaf("scale")}),
    "outputs first": ({"weight": (4, 3), "bias": (4,)}, {"weight": ROW}),
    "outputs first, stacked": ({"weight": (5, 4, 3), "bias": (5, 4)}, {"weight": Leaf("kernel", (1,), (0,))}),
    "outputs first, convolution": ({"weight": (6, 2, 3, 3), "bias": (6, 1, 1)}, {"weight": Leaf("kernel", (0,))}),
    "outputs first in a square, told by another": (
        [{"weight": (8, 3), "bias": (8,)}, {"weight": (8, 8), "bias": (8,)}, {"weight": (2, 8)}],
        {"0/weight": ROW, "1/weight": ROW, "2/weight": ROW},
    ),
    "outputs first under the name kernel": ({"kernel": (4, 3), "bias": (4,)}, {"kernel": ROW}),
    "recurrent cell": (
        {"weight_ih": (24, 3), "weight_hh": (24, 8), "bias": (24,), "bias_n": (8,)},
        {"weight_ih": ROW, "weight_hh": ROW, "bias_n": Leaf("bias")},
    ),
    "letters": (
        {"w1": (3, 5), "b1": (5,), "w2": (5, 2), "b2": (2,)},
        {"w1": DENSE, "w2": DENSE, "b1": Leaf("bias"), "b2": Leaf("bias")},
    ),
    "Haiku": (
        {"net/~/linear": {"w": (3, 5), "b": (5,)}, "net/~/norm": {"scale": (5,), "offset": (5,)}},
        {"net/~/linear/w": DENSE, "net/~/linear/b": Leaf("bias"), "net/~/norm/offset": Leaf("bias")},
    ),
    "no names": (
        [((3, 4), (4,)), ((4, 1), (1,))],
        {"0/0": DENSE, "0/1": Leaf("other"), "1/0": DENSE, "1/1": Leaf("other")},
    ),
    "tables and tokens": (
        {"table": {"embedding": (9, 4)}, "pos_embedding": (1, 7, 4), "register": (1, 1, 4), "temperature": ()},
        {
            "table/embedding": Leaf("embedding", (1,)), "pos_embedding": Leaf("embedding", (2,), (0,)),
            "register": Leaf("other"), "temperature": Leaf("other"),
        },
    ),
    "a boxed param": ({"kernel": {"value": (3, 4)}, "bias": {"value": (4,)}}, {"kernel/value": DENSE}),
}  # fmt: skip


def is_shape(node):
    return isinstance(node, tuple) and all(isinstance(size, int) for size in node)


def named(tree):
    return {roles.tree_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


@pytest.mark.parametrize("case", CASES)
def test_names_and_the_leaves_beside_tell_the_role(case):
    shapes, want = CASES[case]
    params = jax.tree.map(np.zeros, shapes, is_leaf=is_shape)
    found = named(roles.of(params))
    plain = {name: VECTOR[kind] for name in found if (kind := name.removesuffix("/value").split("/")[-1]) in VECTOR}
    assert found == plain | want


@pytest.mark.parametrize("heads", [2, 3, 6])  # 6: as many heads as inputs, so that (6, 6, 1) looks like six layers
def test_attention(heads):
    for bias in (True, False):
        params = linen(nn.MultiHeadDotProductAttention(heads, use_bias=bias), X, X)
        found = roles.of(params)
        assert {found[name]["kernel"] for name in ("query", "key", "value")} == {HEADS}
        assert found["out"]["kernel"] == JOINED
        assert roles.from_model(nn.MultiHeadDotProductAttention(heads, use_bias=bias), X, X) == found


@pytest.mark.parametrize("bias", [True, False])
def test_a_scanned_stack_has_its_layers_in_front(bias):
    found = roles.of(linen(Stack(bias=bias), X))
    own = found["stack"]
    assert own["dense"]["kernel"] == Leaf("kernel", (2,), (0,))
    assert own["attention"]["query"]["kernel"] == Leaf("kernel", (2, 3), (0,))
    assert own["attention"]["out"]["kernel"] == Leaf("kernel", (3,), (0,))
    assert own["gain"] == Leaf("other") and own["norm"] == VECTOR
    assert found["head"]["kernel"] == DENSE


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_modules_tell_where_layers_are_stacked(axis, bias):
    layers = 6 if axis == 0 else 3  # six layers of six inputs: shapes alone do not tell
    found = roles.from_model(Stack(layers, axis, bias), X)
    stack = (axis,)
    rest = [i for i in range(4) if i != axis]
    assert found["stack"]["dense"]["kernel"] == Leaf("kernel", (2,), stack)
    assert found["stack"]["attention"]["query"]["kernel"] == Leaf("kernel", tuple(rest[1:]), stack)
    assert found["stack"]["attention"]["out"]["kernel"] == Leaf("kernel", (3,), stack)
    assert found["stack"]["norm"]["scale"] == Leaf("scale", (), stack)
    assert found["stack"]["gain"] == Leaf("other", (), stack)
    assert found["head"]["kernel"] == DENSE


class Zoo(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(9, 4, name="embed")(tokens)
        x = nn.DenseGeneral((2, 3), use_bias=False, name="split")(x)
        x = nn.DenseGeneral(4, axis=(-2, -1), use_bias=False, name="join")(x)
        x = nn.Conv(5, (3,), use_bias=False, name="window")(x)
        x = nn.ConvTranspose(6, (2,), transpose_kernel=True, name="up")(x)
        return nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, axis_size=6)(
            2, use_bias=False, name="ensemble"
        )(x)


def test_modules_tell_what_shapes_do_not():
    found = named(roles.from_model(Zoo(), jnp.zeros((2, 7), int)))
    assert found == {
        "embed/embedding": Leaf("embedding", (1,)), "split/kernel": HEADS, "join/kernel": JOINED,
        "window/kernel": JOINED, "up/kernel": Leaf("kernel", (1,)), "up/bias": Leaf("bias"),
        "ensemble/kernel": Leaf("kernel", (2,), (0,)),
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"^params: expected output units of ensemble/kernel"):
        roles.of(linen(Zoo(), jnp.zeros((2, 7), int)))
    with pytest.raises(ValueError, match=r"^model: expected a Flax Linen module, got function"):
        roles.from_model(lambda x: x, X)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense, self.norm = nnx.Linear(4, 4, rngs=rngs), nnx.GroupNorm(4, 2, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 4, rngs=rngs, decode=False)
        self.window, self.table = nnx.Conv(4, 5, (3,), rngs=rngs), nnx.Embed(9, 4, rngs=rngs)


def test_nnx_states_and_their_plain_dicts():
    state = nnx.state(nnx.eval_shape(lambda: Nnx(nnx.Rngs(0))), nnx.Param)
    plain = nnx.to_pure_dict(state)
    found = named(roles.of(plain))
    kernels = {name.removesuffix("/kernel"): leaf for name, leaf in found.items() if name.endswith("kernel")}
    assert kernels.pop("dense") == DENSE and kernels.pop("window") == JOINED and kernels.pop("attention/out") == JOINED
    assert set(kernels.values()) == {HEADS} and found["table/embedding"] == Leaf("embedding", (1,))
    assert jax.tree.leaves(roles.of(state)) == jax.tree.leaves(roles.of(plain))
    check_norms(jax.tree.map(lambda leaf: jnp.ones(leaf.shape), state))


AMBIGUOUS = {
    "layers or a window": {"kernel": (3, 4, 5)},
    "as many layers as inputs": {"kernel": (3, 3, 5), "bias": (3, 5)},
    "a square weight": {"weight": (4, 4), "bias": (4,)},
    "a weight alone": {"weight": (4, 3)},
    "layers in the middle": {"kernel": (4, 3, 5), "bias": (5, 3)},
    "five axes": {"kernel": (2, 3, 3, 4, 5)},
    "layers or an oblong window": {"kernel": (2, 3, 4, 5)},
}


@pytest.mark.parametrize("case", AMBIGUOUS)
def test_what_nothing_tells_is_refused_until_the_user_tells(case):
    params = {"block": params_of(AMBIGUOUS[case])}
    name = next(iter(AMBIGUOUS[case]))
    with pytest.raises(ValueError, match=rf"^params: expected .* of block/{name} .*roles\.of\(params, ") as error:
        roles.of(params)
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=rf"^params: .*block/{name}"):
        landscape.filter_direction(jax.random.key(0), params)
    rank = len(AMBIGUOUS[case][name])
    told = roles.of(params, {f"*/{name}": Leaf("kernel", (-1,), tuple(range(rank - 2)))})
    assert told["block"][name] == Leaf("kernel", (rank - 1,), tuple(range(rank - 2)))
    assert told == roles.of(params, {f"block/{name}": Leaf("kernel", (rank - 1,), tuple(range(rank - 2)))})
    check_norms(params, told)
    # Which weights are largest does not depend on where their outputs are.
    kept = pruning.magnitude_masks(params, 0.5)["block"][name]
    assert int(kept.sum()) == pruning.keep_count(kept.size, 0.5)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"krnl": DENSE}, "axes: expected patterns of kernel, got 'krnl'"),
        ({"kernel": Leaf("kernel", (2,))}, r"axes: expected different axes of kernel of shape \(3, 4\)"),
        ({"kernel": Leaf("kernel", (1,), (-1,))}, "axes: expected different axes of kernel"),
        ({"kernel": Leaf("matrix", (1,))}, "axes: expected a Leaf with a role of kernel, bias"),
        ({"kernel": (1,)}, "axes: expected a Leaf"),
    ],
)
def test_axes_that_do_not_fit_are_refused(axes, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        roles.of({"kernel": np.zeros((3, 4))}, axes)


def test_roles_that_do_not_fit_are_refused():
    params = {"kernel": jnp.ones((3, 4))}
    for given, message in (
        ({}, "structure"),
        ({"kernel": "kernel"}, "a Leaf"),
        ({"kernel": Leaf("kernel", (5,))}, "axes"),
    ):
        with pytest.raises(ValueError, match=f"^roles: expected .*{message}"):
            landscape.filter_direction(jax.random.key(0), params, given)


# What asks


def check_norms(params, told=None):
    """Every filter of the direction has its filter's norm, by a loop over layers and units; all else is zero."""
    direction = landscape.filter_direction(jax.random.key(1), params, told)
    for draw, leaf, role in zip(*map(jax.tree.leaves, (direction, params, told or roles.of(params))), strict=True):
        draw, leaf = np.asarray(draw), np.asarray(leaf)
        if role.role not in ("kernel", "embedding"):
            assert not draw.any()
            continue
        axes = role.stack_axes + role.filter_axes
        inputs = leaf.size // int(np.prod([leaf.shape[axis] for axis in axes]))
        for index in np.ndindex(*(leaf.shape[axis] for axis in axes)):
            own = [slice(None)] * leaf.ndim
            for axis, place in zip(axes, index, strict=True):
                own[axis] = place
            noise, weights = draw[tuple(own)], leaf[tuple(own)]
            assert noise.size == inputs
            np.testing.assert_allclose(np.sqrt((noise**2).sum()), np.sqrt((weights**2).sum()), rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_noise_has_the_norm_of_each_filter_of_each_layer(case):
    rng = np.random.default_rng(1)
    shapes = CASES[case][0]
    check_norms(jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes, is_leaf=is_shape))


def test_each_layer_of_a_stack_has_its_own_norms():
    params = {"kernel": jnp.ones((3, 4, 5)) * jnp.array([0.01, 1, 100])[:, None, None], "bias": jnp.ones((3, 5))}
    direction = landscape.filter_direction(jax.random.key(0), params)
    norms = np.linalg.norm(direction["kernel"], axis=1)
    np.testing.assert_allclose(norms, np.array([[0.02], [2], [200]]) * np.ones((1, 5)), rtol=1e-5)
    value = lambda p: jnp.sum(p["bias"] ** 2)  # noqa: E731
    assert (landscape.perturbation(value, params, jax.random.key(0), relative=True).increase == 0).all()
    found = landscape.perturbation(
        lambda p: jnp.sum(p["kernel"][0] ** 2), params, jax.random.key(0), (1.0,), relative=True
    )
    assert 0 < found.increase[0] < 0.1  # of 0.002, not of the largest layer's 20,000


def test_a_layer_of_a_stack_is_pruned_as_a_layer_by_itself():
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=(3, 4, 5)).astype(np.float32) * np.array([0.01, 1, 100], np.float32)[:, None, None]
    stack = {"kernel": kernel, "bias": np.zeros((3, 5), np.float32)}
    apart = {str(i): {"kernel": kernel[i], "bias": np.zeros(5, np.float32)} for i in range(3)}
    kept = pruning.magnitude_masks(stack, 0.3, scope="layer")
    want = pruning.magnitude_masks(apart, 0.3, scope="layer")
    for i in range(3):
        np.testing.assert_array_equal(kept["kernel"][i], want[str(i)]["kernel"])
    assert np.asarray(kept["kernel"]).sum((1, 2)).tolist() == [6, 6, 6] and np.asarray(kept["bias"]).all()
    everywhere = pruning.magnitude_masks(stack, 0.3)
    assert np.asarray(everywhere["kernel"]).sum((1, 2)).tolist() == [0, 0, 18]
    assert list(pruning.sparsity_profile(kept)) == ["kernel[0]", "kernel[1]", "kernel[2]"]
    again = pruning.magnitude_masks(stack, 0.1, scope="layer", masks=kept)
    assert np.asarray(again["kernel"]).sum((1, 2)).tolist() == [2, 2, 2]

    masks = {
        "kernel": np.arange(60).reshape(3, 4, 5) < np.array([2, 25, 47])[:, None, None],
        "bias": np.ones((3, 5), bool),
    }
    shuffled = pruning.shuffle_masks(jax.random.key(0), masks)
    assert np.asarray(shuffled["kernel"]).sum((1, 2)).tolist() == masks["kernel"].sum((1, 2)).tolist() == [2, 5, 7]
    assert not np.array_equal(shuffled["kernel"], masks["kernel"])
    shared = pruning.overlap(kept, kept)
    assert {name: found.kept for name, found in shared.items()} == {f"kernel[{i}]": (6, 6) for i in range(3)}


def test_layers_stacked_elsewhere_are_pruned_where_the_roles_say():
    kernel = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)
    told = {"kernel": Leaf("kernel", (2,), (1,))}
    kept = pruning.magnitude_masks({"kernel": kernel}, 0.3, scope="layer", roles=told)["kernel"]
    for i in range(3):
        want = pruning.magnitude_masks({"kernel": kernel[:, i]}, 0.3, scope="layer")["kernel"]
        np.testing.assert_array_equal(kept[:, i], want)
    with pytest.raises(ValueError, match=r"^params: expected layers and output units of kernel"):
        pruning.magnitude_masks({"kernel": kernel}, 0.3, scope="layer")


def test_iterative_pruning_of_a_stack_keeps_each_layers_count():
    rng = np.random.default_rng(0)
    stack = {"kernel": rng.normal(size=(2, 3, 4, 5)).astype(np.float32), "bias": np.ones((2, 3, 5), np.float32)}
    levels = pruning.iterative_pruning(
        lambda start, masks, level: pruning.TrainedLevel(start), {"params": stack}, (1, 0.5, 0.2),
        ranking=pruning.Ranking(scope="layer"),
    )  # fmt: skip
    counts = [np.asarray(level.masks["kernel"]).sum((2, 3)).tolist() for level in levels]
    assert counts == [[[20] * 3] * 2, [[10] * 3] * 2, [[4] * 3] * 2]


def test_only_kernels_are_prunable():
    params = params_of({
        "table": {"embedding": (9, 4)}, "norm": {"scale": (1, 1, 4), "bias": (1, 1, 4)}, "dense": {"kernel": (4, 4)},
    })  # fmt: skip
    assert list(pruning.layers_of("params", params)) == ["dense/kernel"]
    assert pruning.is_kernel("dense/kernel", np.ones((4, 4))) and pruning.is_kernel("kernel/value", np.ones((4, 4)))
    for name, shape in (("bias", (2, 4)), ("bias/value", (2, 4)), ("scale", (1, 1, 4)), ("embedding", (9, 4))):
        assert not pruning.is_kernel(name, np.ones(shape))


def test_the_papers_networks():
    """Outputs last in every kernel, nothing stacked: what all measurements of the studies assume."""
    for model, shape in (
        (models.MLP(4, 3), (4, 4, 1)),
        (models.CNN(1), (8, 8, 3)),
        (models.CNN(1, 10, True), (8, 8, 3)),
    ):
        shapes = jax.eval_shape(lambda key, m=model, s=shape: models.init(m, key, s), jax.random.key(0))["params"]
        for path, role in named(roles.of(shapes)).items():
            rank = len(named(shapes)[path].shape)
            kind = path.split("/")[-1]
            assert role == (Leaf("kernel", (rank - 1,)) if kind == "kernel" else VECTOR[kind])
