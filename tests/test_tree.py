"""Vector-space operations on trees, against the same on one flat vector."""

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from ntkgen import tree

fast = hypothesis.settings(max_examples=25, deadline=None, derandomize=True)


def draw(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return {
        "a": [rng.normal(size=(2, 3)).astype(dtype), rng.normal(size=()).astype(dtype)],
        "b": np.zeros((0, 2), dtype),
    }


def flat(t):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(t)])


@fast
@hypothesis.given(st.integers(0, 99), st.integers(100, 199), st.floats(-8, 8, width=32))
def test_operations_are_those_of_the_flat_vector(seed, other, a):
    x, y = draw(seed), draw(other)
    u, v = flat(x).astype(float), flat(y).astype(float)
    np.testing.assert_allclose(tree.dot(x, y), u @ v, rtol=0, atol=1e-5)
    np.testing.assert_allclose(tree.norm(x), np.linalg.norm(u), rtol=1e-6)
    np.testing.assert_allclose(flat(tree.axpy(a, x, y)), a * u + v, rtol=0, atol=1e-5)
    tiny = float(np.finfo(np.float32).tiny)  # XLA flushes what is below to zero
    np.testing.assert_allclose(flat(tree.scale(a, x)), a * u, rtol=1e-6, atol=tiny)
    assert tree.size(x) == 7


def test_float64_stays_float64(x64):
    x = draw(0, np.float64)
    for result in (
        tree.axpy(jnp.float32(2), x, x),
        tree.scale(jnp.float32(2), x),
        tree.random_like(jax.random.key(0), x),
    ):
        assert {leaf.dtype for leaf in jax.tree.leaves(result)} == {jnp.dtype("float64")}
    assert tree.dot(x, x).dtype == jnp.float64
    assert abs(tree.dot(x, x) - flat(x) @ flat(x)) < 1e-13


def test_scalars_of_float64_do_not_widen_float32(x64):
    assert tree.scale(jnp.float64(2), jnp.ones(2, jnp.float32)).dtype == jnp.float32


def test_ravel_restores_structure_and_dtypes(x64):
    x = {"wide": jnp.arange(2.0), "narrow": jnp.ones((2, 2), jnp.float32)}
    vector, unravel = tree.ravel(x)
    assert vector.dtype == jnp.float64 and vector.shape == (6,)
    back = unravel(vector)
    assert jax.tree.map(lambda a: a.dtype, back) == jax.tree.map(lambda a: a.dtype, x)
    jax.tree.map(np.testing.assert_array_equal, back, x)


@pytest.mark.parametrize("kind", tree.KINDS)
def test_random_entries_are_standardised_independent_and_keyed(kind):
    like = {"a": jax.ShapeDtypeStruct((100, 50), jnp.float32), "b": jax.ShapeDtypeStruct((5000,), jnp.float32)}
    x = tree.random_like(jax.random.key(0), like, kind)
    a, b = np.ravel(x["a"]), np.asarray(x["b"])
    for leaf in (a, b):
        assert abs(leaf.mean()) < 5 / 5000**0.5
        assert abs((leaf**2).mean() - 1) < 5 * (2 / 5000) ** 0.5
    assert abs(a @ b) / 5000 < 5 / 5000**0.5  # leaves of one size do not share their draw
    if kind == "rademacher":
        assert set(np.unique(a)) == {-1.0, 1.0}
    again, other = (tree.random_like(jax.random.key(seed), like, kind) for seed in (0, 1))
    np.testing.assert_array_equal(again["b"], b)
    assert (np.asarray(other["b"]) != b).any()


def test_cast_converts_floating_leaves_only(x64):
    x = tree.cast({"w": jnp.ones(2, jnp.float32), "step": jnp.arange(2, dtype=jnp.int32)}, jnp.float64)
    assert x["w"].dtype == jnp.float64 and x["step"].dtype == jnp.int32


def test_cast_refuses_a_float64_that_would_be_float32():
    with pytest.raises(ValueError, match=r"^dtype: expected jax_enable_x64 for float64"):
        tree.cast({"w": jnp.ones(2)}, np.float64)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: tree.random_like(jax.random.key(0), jnp.ones(2), "cauchy"), "kind: expected .*, got 'cauchy'"),
        (lambda: tree.random_like(jax.random.key(0), {"n": jnp.arange(2)}), r"tree\['n'\]: expected floating .*int32"),
        (lambda: tree.check_like("v", {"a": jnp.ones(2)}, {"b": jnp.ones(2)}), "v: expected the structure"),
        (lambda: tree.check_like("v", [jnp.ones(2)], [jnp.ones(3)]), r"v\[0\]: expected shape \(3,\), got \(2,\)"),
        (lambda: tree.check_finite("p", [jnp.array([1, jnp.nan, jnp.inf])]), r"p\[0\]: expected finite .* 2 of 3"),
    ],
)
def test_bad_input_is_named(check, message):
    with pytest.raises(ValueError, match=message):
        check()


def test_check_finite_is_silent_where_numbers_are_unknown():
    np.testing.assert_array_equal(jax.jit(lambda x: (tree.check_finite("x", x), x)[1])(jnp.full(2, jnp.nan)), np.nan)
