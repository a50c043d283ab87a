"""Eigenvalues, spectral density and trace of a symmetric operator from its products with vectors alone.

A matvec maps a tree to a tree like it, linearly and symmetrically. Every result says how good it is. Where numbers are
known, the loop runs on the host around one compiled matvec: little to compile, and no loop around convolution
gradients, which XLA:CPU runs slowly. Under `jit` and `vmap` (over seeds: in params, start or key) the same steps run
in a `lax` loop. Neither differs in what is computed.

Parts of this are in matfree (0.6.3): its `tridiag_sym` takes a fixed number of steps inside a `fori_loop` and divides
by zero where the Krylov space ends, its traces have no Hutch++. What was left to use was less than the code around it.

Longer than 350 lines for its docstrings and examples, 46 % of it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ntkgen import tree
from ntkgen.spectrum import _lanczos, _multiplicity
from ntkgen.typing import Array, Matvec, PyTree

TOLERANCE = 1e-3  # residual up to which a pair counts as converged where no other is asked for
WHICH = ("LA", "SA", "LM")
METHODS = ("hutchinson", "hutch++")
MOMENTS = 4


class Eigen(NamedTuple):
    """Eigenpairs (value, vector); `power_iteration` has one, without the axis k.

    Attributes:
      value: (k,) descending, also where the k smallest or the k largest in magnitude were asked for.
      vector: a tree with leading axis k, unit norm, sign arbitrary.
      residual: (k,) |H v - value v| / |value|, measured with this vector; some eigenvalue lies within
        residual * |value| of the value. A value that is zero up to rounding cannot do well in this measure.
      num_matvecs: () products spent, those for the residuals included.
      converged: (k,) residual within the tolerance. Says nothing of pairs that were missed.
      complete: () whether no pair was missed: all k have converged, and a search in the complement found no eigenvalue
        beyond them. Always equal to `converged` where one pair was asked for.
    """

    value: Array
    vector: PyTree
    residual: Array
    num_matvecs: Array
    converged: Array
    complete: Array


class Density(NamedTuple):
    """Spectral density by quadrature: a probability distribution of eigenvalues.

    Attributes:
      nodes: (p, m) Ritz values of every probe.
      weights: (p, m) their masses; each probe's sum to 1.
      moments: (4,) estimates of trace(H^j) / d for j = 1 ... 4.
      moment_errors: (4,) their standard errors.
      edges: (b + 1,) of the bins.
      mass: (b,) share of the eigenvalues in each bin [edge, next edge), the last one closed; sums to 1 where the
        edges enclose all nodes.
      mass_errors: (b,) standard errors over probes; they do not know the smearing of finitely many steps.
      num_matvecs: () products spent.
      degrees_of_freedom: () of the standard errors, probes - 1; see `interval`.
    """

    nodes: Array
    weights: Array
    moments: Array
    moment_errors: Array
    edges: Array
    mass: Array
    mass_errors: Array
    num_matvecs: Array
    degrees_of_freedom: Array


class Estimate(NamedTuple):
    """An unbiased estimate (), its standard error (), the products spent (), and degrees of freedom of the error ()."""

    value: Array
    standard_error: Array
    num_matvecs: Array
    degrees_of_freedom: Array


def interval(
    value: ArrayLike, standard_error: ArrayLike, degrees_of_freedom: ArrayLike, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and the upper end of value +- t standard_error, t the quantile of Student's distribution.

    Example:
      >>> from ntkgen import spectrum
      >>> low, high = spectrum.interval(10.0, 1.0, degrees_of_freedom=4)
      >>> round(float(low), 2), round(float(high), 2)
      (7.22, 12.78)

    Args:
      value: estimates, of any shape.
      standard_error: their standard errors.
      degrees_of_freedom: of the errors, as `Estimate` and `Density` have them.
      confidence: between 0 and 1.

    Raises:
      ValueError: the confidence is not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: expected a number between 0 and 1, got {confidence!r}")
    center = np.asarray(value, float)
    half = stats.t.ppf((1 + confidence) / 2, np.asarray(degrees_of_freedom)) * np.asarray(standard_error, float)
    return center - half, center + half


def power_iteration(matvec: Matvec, v0: PyTree, num_iters: int, tol: float | None = None) -> Eigen:
    """Find the eigenvalue of largest magnitude, which may be negative, by repeated multiplication.

    The paper's protocol is 30 iterations (section IV-F). The error of the vector falls like |l2 / l1|^t.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import spectrum
      >>> top = spectrum.power_iteration(lambda v: jnp.array([3.0, 1.0]) * v, jnp.ones(2), num_iters=30, tol=1e-3)
      >>> round(float(top.value), 3), bool(top.converged), int(top.num_matvecs) < 30
      (3.0, True, True)

    Args:
      matvec: the operator.
      v0: start, not zero; need not be normalised.
      num_iters: products at most.
      tol: stop at this residual; None runs all iterations and counts a residual of 1e-3 as converged.

    Returns:
      One pair: the Rayleigh quotient of the last vector that was multiplied, and that vector.

    Raises:
      ValueError: num_iters is no whole number of at least 1, a start of zeros or not finite, a negative tolerance.
    """
    op = _lanczos.FlatOperator.of(matvec, v0, num_iters, tol)
    start = op.start
    zero = jnp.zeros((), start.dtype)
    state = _Power(start, start, zero, jnp.full_like(zero, jnp.inf), jnp.zeros((), int))
    more = functools.partial(_power_unfinished, num_iters, -1.0 if tol is None else tol)
    state = _lanczos.loop(op.product, lambda s: s.following, _power_step, more, state)
    value, residual, spent = state.value, state.residual, state.steps
    if op.rounds:
        (value, residual), spent = _lanczos.measured(op, state.vector, v0), spent + 1
    converged = residual <= _judged(tol)
    return Eigen(value, op.unravel(state.vector), residual, spent, converged, converged)


def lanczos(
    matvec: Matvec, v0: PyTree, num_iters: int, k: int = 1, which: str = "LA", tol: float | None = None
) -> Eigen:
    """Find k eigenpairs at an end of the spectrum by Lanczos iteration with full reorthogonalisation.

    Each new vector is freed of the basis B, v - B^T (B v), by two matrix products, and once more where that took much
    away, so that no ghost copies come up. One start sees one vector of each eigenspace. So where k > 1 and all pairs
    have converged, a fresh random vector orthogonal to all others begins a search in the complement: multiple
    eigenvalues are found as often as they occur (`_multiplicity`), or `complete` is False. Memory: two vectors for each
    step, taken as steps are (inside `jit`: for all num_iters, twice as many where k > 1).

    Operators of half precision (bfloat16, float16) are given vectors rounded to it. Everything else is float32, vectors
    included, and each residual costs a product of its own.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import spectrum
      >>> top = spectrum.lanczos(lambda v: jnp.array([3.0, 2.0, 1.0]) * v, jnp.ones(3), num_iters=3, k=2)
      >>> [round(float(value), 3) for value in top.value], top.converged.tolist(), bool(top.complete)
      ([3.0, 2.0], [True, True], True)

    Args:
      matvec: the operator, of dimension d.
      v0: start, not zero; the eigenvector of an earlier checkpoint saves steps. A start that already is an
        eigenvector of the wrong pair passes for converged: add some noise.
      num_iters: steps at most; never more than d are taken. The search in the complement may take as many again.
      k: pairs wanted.
      which: "LA" the largest, "SA" the smallest, "LM" the largest in magnitude.
      tol: stop when the Ritz estimates of all k residuals are just below this; None takes all steps and counts a
        residual of 1e-3 as converged.

    Returns:
      k pairs, values descending. Residuals are measured: H v is put together from the products H b with the basis
      vectors that v is put together from.

    Raises:
      ValueError: k is no whole number in 1 ... d, num_iters none from k on, `which` is unknown, the start is zero or
        not finite, or the tolerance is negative.
    """
    if which not in WHICH:
        raise ValueError(f"which: expected one of {', '.join(WHICH)}, got {which!r}")
    op = _lanczos.FlatOperator.of(matvec, v0, num_iters, tol)
    size = op.start.size
    _lanczos.check_count("k", k, f"1 to {size}, the number of parameters", 1, size)
    _lanczos.check_count("num_iters", num_iters, f"at least k = {k}", k)
    state = _lanczos.iterate(op, num_iters, k, which, tol)
    found = _multiplicity.search(op, state, num_iters, k, which, _judged(tol))
    value, vectors, residual, spent = found.value, found.vectors, found.residual, found.num_matvecs
    if op.rounds:
        value, residual = _lanczos.stack(functools.partial(_lanczos.measured, op, like=v0), vectors)
        spent = spent + k
    converged = residual <= _judged(tol)
    complete = found.complete & jnp.all(converged)
    return Eigen(value, jax.vmap(op.unravel)(vectors), residual, spent, converged, complete)


def density(
    matvec: Matvec,
    params_like: PyTree,
    key: Array,
    num_probes: int,
    num_iters: int,
    *,
    bins: int = 100,
    edges: Array | None = None,
) -> Density:
    """Estimate the spectral density by stochastic Lanczos quadrature (Ghorbani et al. 2019, arXiv:1901.10159).

    A probe of random signs sees every eigenvalue with expected weight 1/d; Lanczos from it gives the Gauss quadrature
    of its own density, exact for polynomials up to degree 2 num_iters - 1.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import spectrum
      >>> key, edges = jax.random.key(0), jnp.array([-1.0, 2.0, 5.0])
      >>> found = spectrum.density(lambda v: jnp.array([4.0, 0.0]) * v, jnp.ones(2), key, 2, 2, edges=edges)
      >>> found.mass.round(3).tolist()  # half of the eigenvalues in each bin
      [0.5, 0.5]

    Args:
      matvec: the operator, of dimension d.
      params_like: a tree whose structure, shapes and dtypes the vectors have.
      key: of the probes.
      num_probes: at least 2.
      num_iters: Lanczos steps for each probe; never more than d.
      bins: of equal width from the smallest to the largest node.
      edges: of the bins instead, ascending; nodes outside are in no bin.

    Returns:
      Nodes, weights, moments, histogram and standard errors; all normalised to one eigenvalue in total.

    Raises:
      ValueError: fewer than 2 probes, num_iters below 1, bins below 1, or one of them is no whole number.
    """
    _check_probes(num_probes, 2)
    _lanczos.check_count("bins", bins, "at least 1", 1)

    def quadrature(key: Array) -> tuple[Array, Array, Array]:
        op = _lanczos.FlatOperator.of(matvec, tree.random_like(key, params_like, "rademacher"), num_iters, None)
        state = _lanczos.iterate(op, num_iters, keep_products=False)
        nodes, vectors = jnp.linalg.eigh(_lanczos.tridiagonal(state))
        return nodes, vectors[0] ** 2, state.steps

    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params_like)
    matvec = _lanczos.compiled(matvec, like)  # once for all probes
    nodes, weights, steps = _lanczos.stack(quadrature, jax.random.split(key, num_probes))
    powers = jnp.arange(1, MOMENTS + 1)
    moments = jnp.sum(weights[..., None] * nodes[..., None] ** powers[None, None], 1)  # (p, 4)
    if edges is None:
        edges = jnp.linspace(jnp.min(nodes), jnp.max(nodes), bins + 1)
    masses = jax.vmap(functools.partial(_histogram, edges))(nodes, weights)
    (moment, moment_error), (mass, mass_error) = _mean_and_error(moments), _mean_and_error(masses)
    freedom = jnp.asarray(num_probes - 1, int)
    return Density(nodes, weights, moment, moment_error, edges, mass, mass_error, jnp.sum(steps), freedom)


def smooth(spectrum: Density, grid: Array, width: float) -> Array:
    """Spread the nodes' masses by Gaussians of standard deviation `width`: density at the points of grid (g,).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import spectrum
      >>> found = spectrum.Density(jnp.array([[0.0, 4.0]]), jnp.array([[0.5, 0.5]]), *[None] * 7)
      >>> [round(float(height), 2) for height in spectrum.smooth(found, jnp.array([0.0, 2.0, 4.0]), width=0.5)]
      [0.4, 0.0, 0.4]
    """
    z = (grid[:, None] - spectrum.nodes.reshape(1, -1)) / width
    bells = jnp.exp(-0.5 * z**2) / (width * jnp.sqrt(2 * jnp.pi))
    return bells @ spectrum.weights.reshape(-1) / len(spectrum.nodes)


def trace(matvec: Matvec, params_like: PyTree, key: Array, num_probes: int, method: str = "hutchinson") -> Estimate:
    """Estimate the trace from products with random signs.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import spectrum
      >>> estimate = spectrum.trace(lambda v: jnp.array([3.0, 1.0]) * v, jnp.ones(2), jax.random.key(0), num_probes=4)
      >>> round(float(estimate.value), 3), float(estimate.degrees_of_freedom)
      (4.0, 3.0)

    Args:
      matvec: the operator.
      params_like: a tree whose structure, shapes and dtypes the vectors have.
      key: of the probes.
      num_probes: products to spend; for "hutchinson" at least 2, for "hutch++" at least 6.
      method: "hutchinson", or "hutch++" (Meyer et al. 2021, arXiv:2010.09649): a third of the products finds the
        dominant subspace, a third its exact trace, the others estimate the rest. Much better where few eigenvalues
        dominate; it keeps num_probes / 3 vectors.

    Returns:
      The estimate; its standard error is over probes, for "hutch++" given the subspace.

    Raises:
      ValueError: the method is unknown, or the probes are too few or no whole number.
    """
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    _check_probes(num_probes, 2 if method == "hutchinson" else 6)
    like = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params_like)
    size, dtype = tree.size(like), jnp.promote_types(jnp.result_type(float(0), *jax.tree.leaves(like)), jnp.float32)
    multiply = _lanczos.flattened(matvec, like)

    def product(vector: Array) -> tuple[Array, Array]:
        return multiply(vector), jnp.ones((), int)

    sketched = 0 if method == "hutchinson" else min(num_probes // 3, size)
    probes = jax.random.rademacher(key, (num_probes - sketched, size), dtype)
    known, spent = jnp.zeros((), dtype), jnp.zeros((), int)
    if sketched:
        sketch, done = _lanczos.stack(product, probes[:sketched])
        basis = jnp.linalg.qr(sketch.T)[0].T
        products, more = _lanczos.stack(product, basis)
        known, spent = jnp.sum(basis * products), jnp.sum(done) + jnp.sum(more)
        probes = probes[sketched:]
        probes = probes - _lanczos.dot(_lanczos.dot(probes, basis.T), basis)
    products, done = _lanczos.stack(product, probes)
    value, error = _mean_and_error(jnp.sum(probes * products, -1))
    return Estimate(known + value, error, spent + jnp.sum(done), jnp.asarray(len(probes) - 1, int))


# --- Power iteration


class _Power(NamedTuple):
    vector: Array  # multiplied last
    following: Array
    value: Array
    residual: Array
    steps: Array


@jax.jit
def _power_step(state: _Power, product: Array) -> _Power:
    vector = state.following
    value, residual = _lanczos.rayleigh(vector, product)
    length = jnp.linalg.norm(product)
    following = jnp.where(length > 0, product / jnp.where(length > 0, length, 1.0), vector)
    return _Power(vector, following, value, residual, state.steps + 1)


def _power_unfinished(num_iters: int, tol: float, state: _Power) -> Array:
    return (state.steps < num_iters) & ~(state.residual <= tol) & jnp.isfinite(state.value)


def _judged(tol: float | None) -> float:
    return TOLERANCE if tol is None else tol


def _check_probes(num_probes: int, least: int) -> None:
    _lanczos.check_count("num_probes", num_probes, f"at least {least}, for a standard error", least)


def _mean_and_error(samples: Array) -> tuple[Array, Array]:
    """Mean and standard error over the leading axis."""
    return jnp.mean(samples, 0), jnp.std(samples, 0, ddof=1) / jnp.sqrt(len(samples))


def _histogram(edges: Array, nodes: Array, weights: Array) -> Array:
    bins = len(edges) - 1
    index = jnp.searchsorted(edges, nodes, side="right") - 1
    index = jnp.where(nodes == edges[-1], bins - 1, index)
    inside = (index >= 0) & (index < bins)
    mass = jnp.zeros(bins, weights.dtype).at[jnp.clip(index, 0, bins - 1)].add(jnp.where(inside, weights, 0.0))
    return jnp.where(jnp.all(jnp.isfinite(nodes)), mass, jnp.nan)
