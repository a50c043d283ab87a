"""Convolutions of many seeds in every form are those of one seed after another, with their derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import models

FORMS = [form for form in models.CONVOLUTION_FORMS if form != "loop"]
SEEDS = 3


def draw(shape, dtype):
    n, h, w, ci, co = shape
    rng = np.random.default_rng(0)
    shapes = (n, h, w, ci), (3, 3, ci, co), (n, h, w, co), (n, h, w, ci), (3, 3, ci, co)
    return [jnp.asarray(rng.standard_normal((SEEDS, *each)), dtype) for each in shapes]


def all_of(x, k, g, dx, dk):
    """One seed's value, gradients and Hessian-vector product, each of both arguments."""

    def gradient(x, k):
        return jax.grad(lambda x, k: jnp.sum(g * jnp.tanh(models.conv3x3(x, k))), (0, 1))(x, k)

    return models.conv3x3(x, k), *jax.jvp(gradient, (x, k), (dx, dk))


def relative(got, want):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(abs(a - b).max() / abs(b).max()) for a, b in pairs)


def in_form(form, arrays, operands=None):
    with models.convolutions(form, operands):
        return jax.jit(jax.vmap(all_of))(*arrays)


def test_every_form_is_one_seed_after_another(x64):
    arrays = draw((4, 8, 8, 3, 16), jnp.float64)  # "pallas" fills up three channels, and takes a block of eight rows
    want = in_form("loop", arrays)
    differ = set()
    for form in FORMS:
        got = in_form(form, arrays)
        assert relative(got, want) < 1e-12, form
        differ.add(float(jnp.sum(got[1][1])))
    assert len(differ) > 2  # forms round in their own ways: they are not all the same program


@pytest.mark.parametrize("shape", [(3, 6, 5, 5, 4), (2, 32, 32, 2, 16)], ids=str)
def test_kernels_of_our_own_leave_what_does_not_fit_and_cut_what_is_large(shape, x64):
    x, k, g, _, _ = draw(shape, jnp.float64)
    want, back = jax.vjp(jax.vmap(models.conv3x3), x, k)
    with models.convolutions("pallas"):
        got, ours = jax.vjp(jax.vmap(models.conv3x3), x, k)
    assert relative((got, ours(g)), (want, back(g))) < 1e-12


def test_float32_and_bfloat16_operands():
    x, k, *_ = draw((4, 8, 8, 4, 16), jnp.float32)
    want = jax.vmap(models.conv3x3)(x, k)
    for form in ("grouped", "wide", "pallas"):
        for operands, least, most in ((None, 0, 2e-6), ("bfloat16", 1e-4, 2e-2)):
            with models.convolutions(form, operands):
                got = jax.vmap(models.conv3x3)(x, k)
            assert got.dtype == jnp.float32 and least <= relative(got, want) < most, (form, operands)


def test_differentiated_after_vmap_and_vmapped_twice(x64):
    x, k, g, _, _ = draw((2, 8, 8, 3, 4), jnp.float64)

    def loss(x, k):
        return jnp.sum(g * jax.vmap(models.conv3x3)(x, k) ** 2)

    twice = jnp.stack([x, x + 1]), jnp.stack([k, -k])
    want = jax.vmap(jax.grad(loss, (0, 1)))(*twice)
    shared = jax.vmap(jax.grad(loss, 1), (0, None))(twice[0], k)
    with models.convolutions("grouped"):
        assert relative(jax.vmap(jax.grad(loss, (0, 1)))(*twice), want) < 1e-12
        assert relative(jax.vmap(jax.grad(loss, 1), (0, None))(twice[0], k), shared) < 1e-12
        values = jax.vmap(jax.vmap(models.conv3x3), (0, None))(twice[0], k)
        assert relative(values[1], jax.vmap(models.conv3x3)(x + 1, k)) < 1e-12


@pytest.mark.parametrize(
    ("form", "loops", "convolutions"), [("loop", 3, 3), ("unrolled", 0, 9), ("grouped", 0, 2), ("wide", 0, 0)]
)
def test_the_program_for_a_gpu_has_no_loop_over_seeds(form, loops, convolutions):
    """Value and both gradients: three convolutions for each of three seeds, or two grouped ones and a product."""

    def gradients(x, k, g):
        y, back = jax.vjp(models.conv3x3, x, k)
        return y, back(g)

    with models.convolutions(form):
        arrays = draw((2, 8, 8, 4, 4), jnp.float32)[:3]
        text = jax.jit(jax.vmap(gradients)).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.while") == loops and text.count("stablehlo.convolution") == convolutions
    groups = set(re.findall(r"(?:feature|batch)_group_count = (\d+)", text))
    assert groups <= ({"1", "3"} if form == "grouped" else {"1"}) and ("3" in groups) == (form == "grouped")


def test_the_choice_ends_with_its_block_and_unknown_names_are_refused():
    with pytest.raises(ZeroDivisionError), models.convolutions("wide"):
        raise ZeroDivisionError
    x, k, *_ = draw((2, 8, 8, 4, 4), jnp.float32)
    assert "form='loop'" in str(jax.make_jaxpr(models.conv3x3)(x[0], k[0]))
    for names, text in (
        (("im2col",), "form: expected one of loop"),
        (("wide", "int8"), "operands: expected one of None"),
    ):
        with pytest.raises(ValueError, match=text), models.convolutions(*names):
            pass
