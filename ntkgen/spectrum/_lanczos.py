"""Lanczos steps with full reorthogonalisation, and the loops that drive an operator from the host or inside `jit`.

What `spectrum` is made of. A loop runs on the host around one compiled product where numbers are known; under `jit`
and `vmap` the same steps run in a `lax` loop.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from threadpoolctl import ThreadpoolController

from ntkgen import functions, tree
from ntkgen.typing import Array, Matvec, PyTree

RESTARTS = 2**31 - 1  # child of seed 0's key that restarts are drawn from; no run has it
MUCH = 0.7  # a pass that leaves less of a vector is followed by a second one
WHOLE = 48  # rows: a basis with room for no more is one matrix product, empty rows included
BLOCK = 16  # rows of a larger basis that one product takes; empty blocks cost nothing, but each block is copied first
JUST_BELOW = 0.9  # of the tolerance: an estimated residual differs from the measured one by rounding
ROOM = 16  # for basis vectors at first; where one pair is wanted it mostly is enough
GROWTH = 3  # of the room for basis vectors; each size is a program of its own


class FlatOperator(NamedTuple):
    """An operator on flat vectors (d,), a start of unit norm, and the way back to trees."""

    product: Callable[[Array], Array]
    start: Array  # unit vector (d,), at least float32
    unravel: Callable[[Array], PyTree]  # keeps at least float32
    rounds: bool  # the operator is given vectors in half precision, so what it multiplies is not the vector itself

    @classmethod
    def of(cls, matvec: Matvec, v0: PyTree, num_iters: int, tol: float | None) -> "FlatOperator":
        """Flatten the operator and check what every iteration is given."""
        check_count("num_iters", num_iters, "at least 1", 1)
        if tol is not None and not tol >= 0:
            raise ValueError(f"tol: expected None or a number of at least 0, got {tol!r}")
        tree.check_floating("v0", v0)
        tree.check_finite("v0", v0)
        v0 = jax.tree.map(jnp.asarray, v0)
        start, unravel = tree.ravel(jax.tree.map(_at_least_single, v0))
        if not isinstance(start, jax.core.Tracer) and not np.any(start):
            raise ValueError("v0: expected a start vector that is not zero, got zeros")
        rounds = any(leaf.dtype.itemsize < 4 for leaf in jax.tree.leaves(v0))
        return cls(flattened(matvec, v0), start / jnp.linalg.norm(start), unravel, rounds)


def check_count(name: str, value: Any, expected: str, least: int, most: float = math.inf) -> None:
    """Refuse what is no whole number from least to most; `expected` says it in words."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected a whole number, got {value!r}") from None
    if isinstance(value, bool) or not least <= number <= most:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")


def measured(op: FlatOperator, vector: Array, like: PyTree) -> tuple[Array, Array]:
    """Return Rayleigh quotient and residual of the vector that an operator of half precision is given, by a product."""
    flat = tree.ravel(jax.tree.map(_given, op.unravel(vector), like))[0]
    length = jnp.linalg.norm(flat)
    return rayleigh(flat / length, op.product(vector) / length)


def _given(leaf: Array, own: Any) -> Array:
    return leaf.astype(jnp.result_type(own)).astype(leaf.dtype)


def flattened(matvec: Matvec, like: PyTree) -> Callable[[Array], Array]:
    """Let an operator on trees act on flat vectors (d,) of at least float32; it is given the dtypes of `like`."""
    _, unravel = tree.ravel(jax.tree.map(_at_least_single, like))
    dtypes = tuple(jnp.result_type(leaf) for leaf in jax.tree.leaves(like))
    matvec = compiled(matvec, like)
    if isinstance(matvec, Partial):  # one program for all
        return functools.partial(_product, matvec, unravel=unravel, dtypes=dtypes)
    return lambda vector: _join(matvec(_split(vector, unravel=unravel, dtypes=dtypes)), vector)


@functools.partial(jax.jit, static_argnames=("unravel", "dtypes"))
def _product(matvec: Partial, vector: Array, *, unravel: Callable, dtypes: tuple) -> Array:
    return _join(matvec(_split(vector, unravel=unravel, dtypes=dtypes)), vector)


@functools.partial(jax.jit, static_argnames=("unravel", "dtypes"))
def _split(vector: Array, *, unravel: Callable, dtypes: tuple) -> PyTree:
    split = unravel(vector)
    leaves = [leaf.astype(dtype) for leaf, dtype in zip(jax.tree.leaves(split), dtypes, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(split), leaves)


@jax.jit
def _join(result: PyTree, vector: Array) -> Array:
    return tree.ravel(jax.tree.map(_at_least_single, result))[0].astype(vector.dtype)


def _at_least_single(leaf: Array) -> Array:
    return leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))


def compiled(matvec: Matvec, like: PyTree) -> Matvec:
    """Make a plain function a `Partial`, which is compiled; pass on what is one, or is compiled already.

    One compilation serves many calls. Arrays that a plain function reads from outside are those of this call
    (`functions.freeze`).
    """
    inner: Any = matvec
    while isinstance(inner, functools.partial) and not isinstance(inner, Partial):
        inner = inner.func
    return matvec if isinstance(matvec, Partial) or hasattr(inner, "lower") else functions.freeze(matvec, like)


def loop(
    product: Callable, vector: Callable, advance: Callable, more: Callable, state: Any, room: Callable | None = None
) -> Any:
    """Repeat state = advance(state, product(vector(state))) while more(state), at least once.

    On the host where numbers are known. That a matvec closes over traced arrays shows only in its result, so the
    first product decides; traced, it is dropped and XLA never computes it. `room(state, whole)` gives a state with
    room for one more step, or for all: on the host memory is taken as it is needed.
    """
    room = room or (lambda state, whole: state)
    first = product(vector(state))
    if isinstance(first, jax.core.Tracer):
        return lax.while_loop(more, lambda s: advance(s, product(vector(s))), room(state, True))
    # A step's eigenproblem is small. On it LAPACK's threads gain nothing, and they spin on into the next product.
    with _lapack().limit(limits=1, user_api="blas"):
        state = advance(room(state, False), first)
        while more(state):
            state = advance(room(state, False), product(vector(state)))
    return state


@functools.cache  # to look for the libraries takes milliseconds
def _lapack() -> ThreadpoolController:
    return ThreadpoolController()


def stack(function: Callable, xs: Array) -> Any:
    """Stack function(x) over the leading axis: in a host loop where numbers are known, else `lax.scan`.

    After the first result that is not finite the function is not called any more; the results that remain are NaN,
    whole numbers 0.

    Args:
      function: one x -> a tree of arrays.
      xs: (m, ...).

    Returns:
      The stacked results.
    """
    first = function(xs[0])
    if isinstance(jax.tree.leaves(first)[0], jax.core.Tracer):
        lost = jax.tree.map(_lost, first)

        def step(alive: Array, x: Array) -> tuple[Array, Any]:
            result = lax.cond(alive, function, lambda _: lost, x)
            return alive & _finite(result), result

        return lax.scan(step, jnp.ones((), bool), xs)[1]
    results = [first]
    for x in xs[1:]:
        results.append(function(x) if _finite(results[-1]) else jax.tree.map(_lost, first))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


def _finite(result: Any) -> Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(result)]))


def _lost(leaf: Array) -> Array:
    return jnp.full(leaf.shape, jnp.nan if jnp.issubdtype(leaf.dtype, jnp.floating) else 0, leaf.dtype)


def dot(a: Array, b: Array) -> Array:
    """Multiply at full precision."""
    return jnp.dot(a, b, precision="highest")


def rayleigh(v: Array, product: Array) -> tuple[Array, Array]:
    """Rayleigh quotient and relative residual of a unit vector; an exact null vector has residual 0."""
    value = dot(v, product)
    error = jnp.linalg.norm(product - value * v)
    return value, jnp.where(error > 0, error / jnp.abs(value), jnp.where(jnp.isnan(error), jnp.nan, 0.0))


# --- Lanczos


class Lanczos(NamedTuple):
    """The state of Lanczos iteration, with room for m steps."""

    basis: Array  # (m or a little more, d), rows orthonormal; those not reached are zero
    products: Array  # the operator times these rows, or (0, d) where nobody asks for them
    alpha: Array  # (m,) diagonal of the projected operator
    beta: Array  # (m,) beside the diagonal; 0 where a fresh direction had to be taken
    steps: Array  # () done
    done: Array  # ()


def iterate(
    op: FlatOperator,
    num_iters: int,
    k: int = 1,
    which: str = "LA",
    tol: float | None = None,
    keep_products: bool = True,
) -> Lanczos:
    """Take Lanczos steps; with a tolerance, until k pairs are estimated to be that good."""
    start, size = op.start, min(num_iters, op.start.size)
    empty = jnp.zeros(0, start.dtype)
    state = Lanczos(start[None], start[None][:0], empty, empty, jnp.zeros((), int), jnp.zeros((), bool))
    step = functools.partial(_lanczos_step, k=k, which=which, judged=tol is not None)
    goal = 0.0 if tol is None else JUST_BELOW * tol

    def room(state: Lanczos, whole: bool) -> Lanczos:
        rows = len(state.basis)
        if not whole and (rows > size or int(state.steps) + 1 < rows):  # the next step writes the row after its own
            return state
        wanted = size if whole else min(size, max(k, ROOM if rows < ROOM else GROWTH * rows))
        rows = rounded(wanted)
        basis, products = resized(state.basis, rows), resized(state.products, rows if keep_products else 0)
        alpha, beta = (resized(leaf, min(size, rows)) for leaf in (state.alpha, state.beta))
        return Lanczos(basis, products, alpha, beta, *state[4:])

    return loop(
        op.product,
        lambda s: last(s.basis, s.steps),
        lambda s, product: step(s, product, goal),
        lambda s: (s.steps < size) & ~s.done,
        state,
        room,
    )


def rounded(rows: int) -> int:
    """Return a number of rows up to a multiple of `BLOCK`, where blocks are what `orthogonal_part` takes."""
    return rows if rows <= WHOLE else -(-rows // BLOCK) * BLOCK


def resized(array: Array, rows: int) -> Array:
    """Drop rows, or add rows of zeros."""
    return array if len(array) == rows else _resized(array, rows)


@functools.partial(jax.jit, static_argnames="rows")  # one buffer: new memory is what this costs
def _resized(array: Array, rows: int) -> Array:
    return jnp.pad(array[:rows], [(0, max(0, rows - len(array)))] + [(0, 0)] * (array.ndim - 1))


@jax.jit
def last(basis: Array, steps: Array) -> Array:
    """Return the row of the basis that is multiplied next."""
    return basis[steps]


# The basis is donated: a step on the host writes one row and copies none.
@functools.partial(jax.jit, static_argnames=("k", "which", "judged"), donate_argnums=0)
def _lanczos_step(state: Lanczos, product: Array, goal: Any, k: int, which: str, judged: bool) -> Lanczos:
    basis, products, alpha, beta, j, _ = state
    products = products.at[j].set(product) if len(products) else products
    alpha = alpha.at[j].set(dot(basis[j], product))
    w = following(basis, product, j, alpha[j], jnp.where(j > 0, beta[j - 1], 0.0))
    length = jnp.linalg.norm(w)
    # What is left of an invariant subspace is the rounding of products as large as the operator.
    exhausted = length <= 10 * jnp.finfo(w.dtype).eps * jnp.maximum(jnp.max(jnp.abs(alpha)), jnp.max(beta))
    length = jnp.where(exhausted, 0.0, length)
    beta = beta.at[j].set(length)
    next_row = lax.cond(exhausted, lambda: fresh(basis, j), lambda: w / jnp.where(exhausted, 1.0, length))
    basis = basis.at[j + 1].set(next_row, mode="drop")
    broken = ~jnp.isfinite(length)  # the product is not finite, and nothing after it would be
    state = Lanczos(basis, products, alpha, beta, j + 1, broken)
    if not judged:
        return state
    value, vector, found = _ritz(state, k, which)
    estimate = jnp.where(found, length * jnp.abs(vector[j]), jnp.inf)
    return state._replace(done=broken | jnp.all(estimate <= goal * jnp.abs(value)))


def following(basis: Array, product: Array, j: Array, alpha: Array, beta: Array) -> Array:
    """Return the part (d,) of a product that lies outside rows 0 ... j.

    Args:
      basis: (m, d), rows orthonormal.
      product: (d,), the operator times row j.
      j: () row.
      alpha: () row j times the product.
      beta: () length that row j had before it was normalised; 0 where it is a fresh one.
    """
    # The recurrence first: what a pass over all rows then takes away tells whether another one is needed.
    w = product - alpha * basis[j] - beta * basis[jnp.maximum(j - 1, 0)]
    return orthogonal_part(basis, w, j)


def orthogonal_part(basis: Array, w: Array, j: Array) -> Array:
    """Subtract what lies in rows 0 ... j; rows after them are zero.

    A second time where the first took much away: what rounding left of it is then no longer small beside the rest
    (Daniel, Gragg, Kaufman and Stewart 1976, Math. Comp. 30).
    """
    block = len(basis) if len(basis) <= WHOLE else BLOCK
    blocks = j // block + 1

    def subtract(i: Array, w: Array) -> Array:
        rows = basis if block == len(basis) else lax.dynamic_slice_in_dim(basis, i * block, block)
        return w - dot(dot(rows, w), rows)

    once = lax.fori_loop(0, blocks, subtract, w)
    much = jnp.linalg.norm(once) < MUCH * jnp.linalg.norm(w)
    return lax.fori_loop(0, jnp.where(much, blocks, 0), subtract, once)


def fresh(basis: Array, j: Array) -> Array:
    """Draw a unit vector orthogonal to the basis; zeros where there is none left."""
    restarts = jax.random.fold_in(jax.random.key(0), RESTARTS)
    w = jax.random.normal(jax.random.fold_in(restarts, j), basis.shape[1:], basis.dtype)
    w = orthogonal_part(basis, w / jnp.linalg.norm(w), j)
    length = jnp.linalg.norm(w)
    return jnp.where(length > 10 * jnp.finfo(w.dtype).eps, w / jnp.where(length > 0, length, 1.0), 0.0)


def tridiagonal(state: Lanczos) -> Array:
    """Write the projected operator as a matrix; steps not taken get an eigenvalue above all others."""
    steps = jnp.arange(len(state.alpha))
    largest = jnp.max(jnp.abs(state.alpha)) + jnp.max(state.beta)
    diagonal = jnp.where(steps < state.steps, state.alpha, jnp.where(largest > 0, 4 * largest, 1.0))
    beside = jnp.where(steps[1:] < state.steps, state.beta[:-1], 0.0)
    return jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)


def _ritz(state: Lanczos, k: int, which: str) -> tuple[Array, Array, Array]:
    """Return the k wanted Ritz values (k,), their coordinates (m, k), and whether so many exist yet (k,)."""
    size = len(state.alpha)
    values, vectors = jnp.linalg.eigh(tridiagonal(state))
    score = {"LA": values, "SA": -values, "LM": jnp.abs(values)}[which]
    score = jnp.where(jnp.arange(size) < state.steps, score, -jnp.inf)
    score, index = lax.top_k(score, k)
    return values[index], vectors[:, index], score > -jnp.inf


@functools.partial(jax.jit, static_argnames=("k", "which"))
def pairs(state: Lanczos, k: int, which: str) -> tuple[Array, Array, Array]:
    """Return the k wanted pairs, values descending: values (k,), unit vectors (k, d), residuals (k,).

    The operator times a vector is put together from the products that were made, by linearity, whatever the recurrence
    says of it.
    """
    weights = _ritz(state, k, which)[1].T
    vectors, products = (dot(weights, rows[: weights.shape[1]]) for rows in (state.basis, state.products))
    length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / length
    return ordered(state, vectors, products / length)


def ordered(state: Lanczos, vectors: Array, products: Array) -> tuple[Array, Array, Array]:
    """Return values (descending), unit vectors and residuals; all NaN where a product was not finite."""
    values, residuals = jax.vmap(rayleigh)(vectors, products)
    lost = ~jnp.isfinite(jnp.sum(state.alpha) + jnp.sum(state.beta))
    values, vectors, residuals = (jnp.where(lost, jnp.nan, leaf) for leaf in (values, vectors, residuals))
    order = jnp.argsort(-values)
    return values[order], vectors[order], residuals[order]
