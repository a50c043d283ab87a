"""Convolutions of many seeds in every form are those of one seed after another, with their derivatives."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import models

SEEDS = 2


def draw(shape, dtype):
    n, h, w, ci, co = shape
    rng = np.random.default_rng(0)
    shapes = (n, h, w, ci), (3, 3, ci, co), (n, h, w, co), (n, h, w, ci), (3, 3, ci, co)
    return [jnp.asarray(rng.standard_normal((SEEDS, *each)), dtype) for each in shapes]


def all_of(x, k, g, dx, dk):
    """One seed's value, gradients and Hessian-vector product, each of both arguments."""

    def gradient(x, k):
        return jax.grad(lambda x, k: jnp.sum(g * models.conv3x3(x, k) ** 2), (0, 1))(x, k)

    return models.conv3x3(x, k), *jax.jvp(gradient, (x, k), (dx, dk))


def relative(got, want):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.max(abs(a - b)) / np.max(abs(b))) for a, b in jax.tree.map(np.asarray, list(pairs)))


def in_form(form, function, *arrays, operands=None):
    with models.convolutions(form, operands):
        return jax.jit(lambda *given: function(*given))(*arrays)  # a new function: forms share no compiled program


def test_every_form_is_one_seed_after_another(x64):
    arrays = draw((2, 3, 4, 2, 3), jnp.float64)
    want = in_form("loop", jax.vmap(all_of), *arrays)
    for form in models.CONVOLUTION_FORMS[1:]:
        assert relative(in_form(form, jax.vmap(all_of), *arrays), want) < 1e-12, form


def test_float32_and_bfloat16_operands():
    x, k, *_ = draw((2, 3, 4, 2, 3), jnp.float32)
    want = in_form("loop", jax.vmap(models.conv3x3), x, k)
    for operands, least, most in ((None, 0, 2e-6), ("bfloat16", 1e-4, 2e-2)):
        got = in_form("grouped", jax.vmap(models.conv3x3), x, k, operands=operands)
        assert got.dtype == jnp.float32 and least <= relative(got, want) < most, operands


def test_differentiated_after_vmap_and_vmapped_twice(x64):
    x, k, g, _, _ = draw((1, 3, 4, 2, 3), jnp.float64)

    def gradients(x, k):
        def loss(x, k):
            return jnp.sum(g * jax.vmap(models.conv3x3)(x, k) ** 2)

        own = jax.vmap(jax.grad(loss, (0, 1)))(x, k)
        shared = jax.vmap(jax.grad(loss, 1), (0, None))(x, k[0])
        return own, shared, jax.vmap(jax.vmap(models.conv3x3), (0, None))(x, k[0])

    twice = jnp.stack([x, x + 1]), jnp.stack([k, -k])
    assert relative(in_form("grouped", gradients, *twice), in_form("loop", gradients, *twice)) < 1e-12


@pytest.mark.parametrize(("form", "loops", "convolutions"), [("loop", 3, 3), ("unrolled", 0, 6), ("grouped", 0, 2)])
def test_the_program_for_a_gpu_has_no_loop_over_seeds(form, loops, convolutions):
    """Value and both gradients: three convolutions for each of two seeds, or two grouped ones and a product."""

    def gradients(x, k, g):
        y, back = jax.vjp(models.conv3x3, x, k)
        return y, back(g)

    with models.convolutions(form):
        arrays = draw((2, 8, 8, 4, 4), jnp.float32)[:3]
        text = jax.jit(jax.vmap(gradients)).trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.while") == loops and text.count("stablehlo.convolution") == convolutions
    groups = set(re.findall(r"(?:feature|batch)_group_count = (\d+)", text))
    assert groups <= ({"1", "2"} if form == "grouped" else {"1"}) and ("2" in groups) == (form == "grouped")


def test_the_choice_ends_with_its_block_and_unknown_names_are_refused():
    with pytest.raises(ZeroDivisionError), models.convolutions("grouped"):
        raise ZeroDivisionError
    x, k = jax.ShapeDtypeStruct((2, 4, 4, 2), jnp.float32), jax.ShapeDtypeStruct((3, 3, 2, 2), jnp.float32)
    assert "form='loop'" in str(jax.make_jaxpr(models.conv3x3)(x, k))
    for names, text in (
        (("pallas",), "form: expected one of loop, unrolled, grouped, got 'pallas'"),
        (("grouped", "int8"), "operands: expected one of None"),
    ):
        with pytest.raises(ValueError, match=text), models.convolutions(*names):
            pass
