r"""A search for eigenpairs that Lanczos iteration from one start vector cannot see: those of multiple eigenvalues.

With B the basis that was built, a fresh random vector orthogonal to B begins Lanczos iteration of (I - B^T B) H
(I - B^T B). An eigenvector that the first start did not hold is an eigenvector of this operator, too. Let theta be its
largest Ritz value after j steps and d its dimension. For a random start Kuczynski and Wozniakowski (1992, SIAM J.
Matrix Anal. Appl. 13, theorem 4.2) give, for any spectrum,

    P(lambda_max - theta > eps (lambda_max - lambda_min)) <= 1.648 sqrt(d) exp(-sqrt(eps) (2 j - 1)).

So after few steps nothing is left beyond the k-th value, unless it is close to theta. Otherwise steps go on until theta
itself has converged. What lies beyond the k-th value is taken up by Rayleigh and Ritz over all vectors, and the search
begins anew.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ntkgen.spectrum import _lanczos
from ntkgen.typing import Array

ROOM = 32  # for vectors of the search at first, a multiple of `_lanczos.BLOCK`
GROWTH = 2  # of the room for all vectors
MISSED = 1e-3  # probability of the bound, at most


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
    low: Array  # () smallest Ritz value, of the score's orientation
    high: Array  # () largest
    grew: Array  # () whether a pair was taken up
    clear: Array  # () nothing is left


def search(op: _lanczos.FlatOperator, state: _lanczos.Lanczos, num_iters: int, k: int, which: str, tol: float) -> Found:
    """Return the k wanted pairs, after a search in the complement of what was built where all have converged.

    Args:
      op: the operator.
      state: of Lanczos iteration, products kept.
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
        return _padded(search, rows=_rounded(rows + 1 if everything else min(rows + 1, GROWTH * held)))

    first = min(rows + 1, int(state.steps) + ROOM) if known else rows + 1
    begun = _begin(state, value, k=k, which=which, rows=_rounded(first))
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


@functools.partial(jax.jit, static_argnames="rows")
def _padded(search: _Search, *, rows: int) -> _Search:
    """Add rows of zeros."""
    whole = search.whole
    basis, products, alpha, beta = (
        jnp.pad(a, [(0, rows - len(a))] + [(0, 0)] * (a.ndim - 1))
        for a in (whole.basis, whole.products, whole.alpha, whole.beta)
    )
    return search._replace(whole=_lanczos.Lanczos(basis, products, alpha, beta, whole.steps, whole.done))


def _score(values: Array, which: str) -> Array:
    return {"LA": values, "SA": -values, "LM": jnp.abs(values)}[which]


@functools.partial(jax.jit, static_argnames=("k", "which", "rows"))
def _begin(state: _lanczos.Lanczos, value: Array, *, k: int, which: str, rows: int) -> _Search:
    basis, products = (leaf[: min(rows, len(leaf))] for leaf in (state.basis, state.products))
    basis, products = (jnp.pad(leaf, [(0, rows - len(leaf)), (0, 0)]) for leaf in (basis, products))
    # The row after the last step is no vector of the basis yet.
    basis = jnp.where((jnp.arange(rows) < state.steps)[:, None], basis, 0.0)
    basis = basis.at[state.steps].set(_lanczos.fresh(basis, state.steps), mode="drop")
    ritz = jnp.linalg.eigvalsh(_lanczos.tridiagonal(state))
    inside = jnp.where(jnp.arange(len(ritz)) < state.steps, ritz, ritz[0])
    empty = jnp.zeros(rows, basis.dtype)
    whole = _lanczos.Lanczos(basis, products, empty, empty, state.steps, jnp.zeros((), bool))
    no = jnp.zeros((), bool)
    return _Search(whole, state.steps, jnp.min(_score(value, which)), jnp.min(inside), jnp.max(inside), no, no)


@functools.partial(jax.jit, static_argnames=("k", "which", "tol"), donate_argnums=0)
def _step(state: _Search, product: Array, *, k: int, which: str, tol: float) -> _Search:
    basis, products, alpha, beta, i, _ = state.whole
    j = i - state.begun  # steps of this search before
    products = products.at[i].set(product)
    alpha = alpha.at[j].set(_lanczos.dot(basis[i], product))
    w = _lanczos.orthogonal_part(basis, product, i)
    length = jnp.linalg.norm(w)
    scale = jnp.maximum(jnp.abs(state.low), jnp.abs(state.high))
    exhausted = length <= 10 * jnp.finfo(w.dtype).eps * scale
    length = jnp.where(exhausted, 0.0, length)
    beta = beta.at[j].set(length)
    inner = _lanczos.Lanczos(basis, products, alpha, beta, j + 1, state.whole.done)
    values, vectors = jnp.linalg.eigh(_lanczos.tridiagonal(inner))
    mine = jnp.arange(len(values)) < j + 1
    scores = jnp.where(mine, _score(values, which), -jnp.inf)
    best = jnp.argmax(scores)
    top, estimate = scores[best], length * jnp.abs(vectors[j, best])
    settled = estimate <= tol * jnp.maximum(jnp.abs(top), state.level)
    beyond = top > state.level + tol * jnp.abs(state.level)
    broken = ~jnp.isfinite(length)
    low = jnp.minimum(state.low, jnp.min(jnp.where(mine, values, jnp.inf)))
    high = jnp.maximum(state.high, jnp.max(jnp.where(mine, values, -jnp.inf)))
    clear = ~broken & ~beyond & (settled | _certain(state.level, top, low, high, j + 1, len(product), which))
    found = settled & beyond
    nothing_left = i + 1 >= len(product)
    following = lax.cond(
        exhausted | found, lambda: _lanczos.fresh(basis, i), lambda: w / jnp.where(exhausted, 1.0, length)
    )
    basis = basis.at[i + 1].set(following, mode="drop")
    done = broken | clear | nothing_left
    whole = _lanczos.Lanczos(basis, products, alpha, beta, i + 1, done)
    take = found | nothing_left
    level = lax.cond(take, lambda: _level(whole, k, which), lambda: state.level)
    begun = jnp.where(found, i + 1, state.begun)
    return _Search(whole, begun, level, low, high, state.grew | take, clear | (nothing_left & ~broken))


def _certain(level: Array, top: Array, low: Array, high: Array, steps: Array, size: int, which: str) -> Array:
    """Return whether a value of at least `level` would have shown up, by the theorem above."""
    opposite = {"LA": -low, "SA": high, "LM": jnp.maximum(high, -low)}[which]
    eps = jnp.maximum(level - top, 0.0) / (level + opposite)
    return 1.648 * jnp.sqrt(size) * jnp.exp(-jnp.sqrt(eps) * (2 * steps - 1)) <= MISSED


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
