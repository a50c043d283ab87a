r"""A search for eigenpairs that Lanczos iteration from one start vector cannot see: those of multiple eigenvalues.

With B the basis that was built, a fresh random vector q orthogonal to B begins Lanczos iteration of (I - B^T B) H
(I - B^T B). An eigenvector u that the first start did not hold is an eigenvector of this operator, too. The first j
steps give orthonormal polynomials p_0 ... p_j of the masses that q has on all eigenvectors. For each of them the
inequality of Christoffel, Markov and Stieltjes says

    <q, u>^2 <= 1 / K_j(x),    K_j(x) = p_0(x)^2 + ... + p_j(x)^2,    x the eigenvalue of u,

whatever the spectrum (Golub and Meurant 2010, Matrices, Moments and Quadrature, chapter 2), and K_j grows beyond the
largest Ritz value. A random q in d dimensions has <q, u>^2 <= t with probability at most sqrt(2 d t / pi). So once
K_j is large at the k-th value, a larger one was missed with a small probability at most: steps end. Where a Ritz value
lies beyond the k-th, steps go on until it has converged. It is taken up by Rayleigh and Ritz over all vectors, and the
search begins anew.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntkgen.spectrum import _lanczos
from ntkgen.typing import Array

ROOM = 32  # for vectors of the search at first, a multiple of `_lanczos.BLOCK`
SPARE = 8  # rows that the first start left free, so that the search begins in them: new memory is what room costs
GROWTH = 2  # of the room for all vectors
MISSED = 1e-3  # probability that an eigenvalue beyond the k-th was not seen, at most


class Found(NamedTuple):
    """The k pairs: value (k,), vectors (k, d), residual (k,), products spent (), and whether none was missed ()."""

    value: Array
    vectors: Array
    residual: Array
    num_matvecs: Array
    complete: Array


class _Search(NamedTuple):
    whole: _lanczos.Lanczos  # all rows; alpha and beta are those of the search of the moment
    begun: Array  # () rows before it
    level: Array  # () score of the k-th pair
    scale: Array  # () largest magnitude of a Ritz value
    polynomials: "Polynomials"
    grew: Array  # () whether a pair was taken up
    clear: Array  # () nothing is left


class Polynomials(NamedTuple):
    """The orthonormal polynomials of a Lanczos iteration at a few points."""

    last: Array  # (points,) p_{j-1}
    now: Array  # (points,) p_j
    kernel: Array  # (points,) p_0^2 + ... + p_j^2

    @classmethod
    def begin(cls, points: int, dtype: Any) -> "Polynomials":
        """Return p_0 = 1."""
        one = jnp.ones(points, dtype)
        return cls(jnp.zeros_like(one), one, one)

    def advance(self, points: Array, alpha: Array, before: Array, beta: Array) -> "Polynomials":
        """Take a step of the recurrence: alpha and beta (both ()) of this step, `before` the beta of the last one."""
        beta = jnp.where(beta > 0, beta, 1.0)  # 0 ends a search, and nobody asks any more
        after = ((points - alpha) * self.now - before * self.last) / beta
        return Polynomials(self.now, after, self.kernel + after**2)


def search(op: _lanczos.FlatOperator, state: _lanczos.Lanczos, num_iters: int, k: int, which: str, tol: float) -> Found:
    """Return the k wanted pairs, after a search in the complement of what was built where all have converged.

    Args:
      op: the operator.
      state: of Lanczos iteration, products kept. Its arrays are used up where numbers are known.
      num_iters: steps that the search may take.
      k: pairs wanted; 1 needs no search, since a multiple value is that value.
      which: "LA", "SA" or "LM".
      tol: residual up to which a pair counts as converged.
    """
    value, vectors, residual = _lanczos.pairs(state, k, which)
    good = jnp.all(residual <= tol)
    plain = Found(value, vectors, residual, state.steps, good)
    known = not isinstance(good, jax.core.Tracer)
    if k == 1 or (known and not bool(good)):
        return plain
    size = op.start.size
    rows = min(size, min(num_iters, size) + num_iters)
    if known:
        rows = min(rows, int(state.steps) + num_iters)
    if known and int(state.steps) >= size:
        return plain

    def room(search: _Search, everything: bool) -> _Search:
        """Take memory as steps are taken: projected operators are as large as the room for them."""
        held = len(search.whole.basis)
        if not everything and (held > rows or int(search.whole.steps) + 1 < held):
            return search
        wanted = _rounded(rows + 1 if everything else min(rows + 1, GROWTH * held))
        basis, products, alpha, beta = (_lanczos.resized(array, wanted) for array in search.whole[:4])
        return search._replace(whole=_lanczos.Lanczos(basis, products, alpha, beta, *search.whole[4:]))

    held = len(state.basis)
    first = min(rows + 1, int(state.steps) + ROOM) if known else rows + 1
    first = held if known and held - int(state.steps) >= SPARE else _rounded(first)
    basis, products = (_lanczos.resized(a, first) for a in (state.basis, state.products))
    projected = state._replace(basis=basis[:0], products=products[:0])
    begun = _begin(basis, products, projected, value, which=which)
    begun = begun._replace(whole=begun.whole._replace(done=begun.whole.done | ~good))
    end = _lanczos.loop(
        op.product,
        lambda s: _lanczos.last(s.whole.basis, s.whole.steps),
        functools.partial(_step, k=k, which=which, tol=tol),
        lambda s: (s.whole.steps < rows) & ~s.whole.done,
        begun,
        room,
    )
    if known and not bool(end.grew):
        return plain._replace(num_matvecs=end.whole.steps, complete=good & end.clear)
    value, vectors, residual = _ritz(end.whole, k=k, which=which)
    grown = Found(value, vectors, residual, end.whole.steps, good & end.clear)
    if known:
        return grown
    return jax.tree.map(
        lambda a, b: jnp.where(end.grew, a, b),
        grown,
        plain._replace(num_matvecs=end.whole.steps, complete=grown.complete),
    )


def _rounded(rows: int) -> int:
    """Return a number of rows up to a multiple of `ROOM`: each is a program of its own."""
    return -(-rows // ROOM) * ROOM


def _score(values: Array, which: str) -> Array:
    return {"LA": values, "SA": -values, "LM": jnp.abs(values)}[which]


@functools.partial(jax.jit, static_argnames="which", donate_argnums=(0, 1))
def _begin(basis: Array, products: Array, state: _lanczos.Lanczos, value: Array, *, which: str) -> _Search:
    basis = basis.at[state.steps].set(0.0, mode="drop")  # no vector of the basis yet
    basis = basis.at[state.steps].set(_lanczos.fresh(basis, state.steps), mode="drop")
    ritz = jnp.linalg.eigvalsh(_lanczos.tridiagonal(state))
    scale = jnp.max(jnp.where(jnp.arange(len(ritz)) < state.steps, jnp.abs(ritz), 0.0))
    empty = jnp.zeros(len(basis), basis.dtype)
    whole = _lanczos.Lanczos(basis, products, empty, empty, state.steps, jnp.zeros((), bool))
    no = jnp.zeros((), bool)
    level = jnp.min(_score(value, which))
    return _Search(whole, state.steps, level, scale, _polynomials(which, basis.dtype), no, no)


def _points(level: Array, which: str) -> Array:
    """Return the values of this score."""
    return {"LA": jnp.stack([level]), "SA": jnp.stack([-level]), "LM": jnp.stack([level, -level])}[which]


def _polynomials(which: str, dtype: Any) -> Polynomials:
    return Polynomials.begin(2 if which == "LM" else 1, dtype)


@functools.partial(jax.jit, static_argnames=("k", "which", "tol"), donate_argnums=0)
def _step(state: _Search, product: Array, *, k: int, which: str, tol: float) -> _Search:
    basis, products, alpha, beta, i, _ = state.whole
    j = i - state.begun  # steps of this search before
    products = products.at[i].set(product)
    alpha = alpha.at[j].set(_lanczos.dot(basis[i], product))
    before = jnp.where(j > 0, beta[j - 1], 0.0)
    w = _lanczos.following(basis, product, i, alpha[j], before)
    length = jnp.linalg.norm(w)
    exhausted = length <= 10 * jnp.finfo(w.dtype).eps * state.scale
    length = jnp.where(exhausted, 0.0, length)
    beta = beta.at[j].set(length)
    inner = _lanczos.Lanczos(basis, products, alpha, beta, j + 1, state.whole.done)
    values, vectors = jnp.linalg.eigh(_lanczos.tridiagonal(inner))
    scores = jnp.where(jnp.arange(len(values)) < j + 1, _score(values, which), -jnp.inf)
    best = jnp.argmax(scores)
    top, estimate = scores[best], length * jnp.abs(vectors[j, best])
    settled = estimate <= tol * jnp.maximum(jnp.abs(top), state.level)
    limit = state.level + tol * jnp.abs(state.level)
    beyond = top > limit
    broken = ~jnp.isfinite(length)
    polynomials = state.polynomials.advance(_points(limit, which), alpha[j], before, length)
    clear = ~broken & ~beyond & (settled | (missed(jnp.min(polynomials.kernel), len(product)) <= MISSED))
    found = settled & beyond
    nothing_left = i + 1 >= len(product)
    next_row = lax.cond(
        exhausted | found, lambda: _lanczos.fresh(basis, i), lambda: w / jnp.where(exhausted, 1.0, length)
    )
    basis = basis.at[i + 1].set(next_row, mode="drop")
    done = broken | clear | nothing_left
    whole = _lanczos.Lanczos(basis, products, alpha, beta, i + 1, done)
    take = found | nothing_left
    level = lax.cond(take, lambda: _level(whole, k, which), lambda: state.level)
    begun = jnp.where(found, i + 1, state.begun)
    anew = _polynomials(which, basis.dtype)
    polynomials = jax.tree.map(lambda new, old: jnp.where(found, new, old), anew, polynomials)
    return _Search(whole, begun, level, state.scale, polynomials, state.grew | take, clear | (nothing_left & ~broken))


def missed(kernel: Array, size: int) -> Array:
    """Return a bound () on the probability that a random start of this dimension did not show an eigenvalue.

    Args:
      kernel: K_j () at the eigenvalue, as `Polynomials` has it.
      size: dimension d of the operator.
    """
    return jnp.sqrt(2 * size / (jnp.pi * kernel))


def _coordinates(whole: _lanczos.Lanczos, k: int, which: str) -> tuple[Array, Array]:
    """Return the k best Ritz values over all rows (k,), and their coordinates (k, rows)."""
    rows = len(whole.products)
    inside = jnp.arange(rows) < whole.steps
    both = inside[:, None] & inside[None]
    projected = jnp.where(both, _lanczos.dot(whole.basis, whole.products.T), 0.0)
    projected = (projected + projected.T) / 2
    outside = 4 * jnp.max(jnp.sum(jnp.abs(projected), 1)) + 1  # beyond all eigenvalues
    values, vectors = jnp.linalg.eigh(projected + jnp.diag(jnp.where(inside, 0.0, outside)))
    scores = jnp.where(jnp.arange(rows) < whole.steps, _score(values, which), -jnp.inf)
    _, index = lax.top_k(scores, k)
    return values[index], vectors[:, index].T


def _level(whole: _lanczos.Lanczos, k: int, which: str) -> Array:
    return jnp.min(_score(_coordinates(whole, k, which)[0], which))


@functools.partial(jax.jit, static_argnames=("k", "which"))
def _ritz(whole: _lanczos.Lanczos, *, k: int, which: str) -> tuple[Array, Array, Array]:
    weights = _coordinates(whole, k, which)[1]
    vectors, products = (_lanczos.dot(weights, rows) for rows in (whole.basis, whole.products))
    length = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    return _lanczos.ordered(whole, vectors / length, products / length)
