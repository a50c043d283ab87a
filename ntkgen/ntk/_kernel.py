"""Exact empirical tangent kernels of any network, within a memory budget.

Theta[i, j, k, m] = sum over parameters of (d f_k(x1_i) / d theta) (d f_m(x2_j) / d theta): axes are samples of x1,
samples of x2, outputs, outputs; a sum over parameters, divided by nothing. With `trace` the mean over equal outputs,
(1/K) sum_k Theta[i, j, k, k].

For a Dense layer with inputs A and output derivatives D the sum over its kernel and bias is
(A_i . A_j + 1) (D_ik . D_jm), so no Jacobian is formed (Novak et al. 2022, "Fast finite width neural tangent kernel",
section 3.3, for what is gained). Convolutions are contracted over positions first, a layer and a tile at a time. The
kernel is assembled from tiles of samples; where it is symmetric, from half of them.

Functions here run a loop on the host and compile their parts: give them a function that is not jitted. Arrays of a
`jax.tree_util.Partial` (batch statistics, as `models.apply_fn` freezes them) are arguments of the compiled parts: the
next network of the same model compiles nothing. Arrays that f reads from outside are those at the time of the call;
where they were replaced, parts are compiled anew (`functions.freeze`).
"""

import functools
import secrets
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial

from ntkgen import functions
from ntkgen.functions import jvp
from ntkgen.ntk import _factors, _layers, _plan
from ntkgen.ntk._activations import activations
from ntkgen.ntk._checks import checked, finite
from ntkgen.ntk._layers import Structure
from ntkgen.ntk._plan import Plan, Problem
from ntkgen.typing import Apply, Array, PyTree

METHODS = ("auto", "jacobian", "layerwise")


class Options(TypedDict, total=False):
    """The options of `empirical_ntk`, for what passes them on."""

    method: str
    trace: bool
    tile: int | None
    memory_budget: int | None


class Prepared(NamedTuple):
    """A kernel's arguments, checked, everything decided, and factors of x1 that were taken on the way, by start."""

    plan: Plan
    structure: Structure
    problem: Problem
    f: Partial
    params: PyTree
    x1: Array
    x2: Array | None
    dtype: Any
    kept: dict[int, _factors.Factors]
    certificates: list[tuple[Array, Array]]


class Solve(NamedTuple):
    """Solution of a linear system: value, |b - A value| / |b|, steps taken, and whether twice the tolerance was met."""

    value: Array
    residual: Array
    num_iters: Array
    converged: Array


def empirical_ntk(
    f: Apply,
    params: PyTree,
    x1: Array,
    x2: Array | None = None,
    *,
    method: str = "auto",
    trace: bool = False,
    tile: int | None = None,
    memory_budget: int | None = None,
) -> Array:
    """Compute the empirical neural tangent kernel, exactly.

    Every tile is certified: J^T v reassembled from its factors is compared with `vjp` for a random v, and what does not
    agree goes through its own Jacobian. Agreement is to 2,000 roundings of the gradient's norm in the narrowest dtype
    that f computes in, 2e-4 in float32, and to a twentieth in half precision. float64 in, float64 out (params or
    inputs); matrix products run in the highest precision.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> x = jnp.array([[1.0, 0.0], [1.0, 2.0]])
      >>> ntk.empirical_ntk(lambda w, x: x @ w, jnp.ones((2, 1)), x, trace=True).tolist()  # X X^T
      [[1.0, 1.0], [1.0, 5.0]]

    Args:
      f: function (params, x) -> outputs (n, K), not jitted, such as `models.apply_fn` makes. Each sample's outputs
        must depend on that sample alone.
      params: parameters, any pytree of floating arrays.
      x1: inputs (n1, ...).
      x2: inputs (n2, ...), or None for the symmetric kernel of x1 with itself.
      method: "jacobian" (the oracle), "layerwise", or "auto", which counts; see `plan`.
      trace: average over outputs; the K x K blocks are then never formed.
      tile: samples in a tile; chosen if None.
      memory_budget: bytes that result, factors and tiles may take together; half of the device's memory if None.

    Returns:
      (n1, n2, K, K), or with `trace` (n1, n2).

    Raises:
      ValueError: an input has the wrong shape, is empty or not finite; the method is unknown; the budget is too small;
        or outputs depend on other samples (batch norm in training mode, dropout).
    """
    options = Options(method=method, trace=trace, tile=tile, memory_budget=memory_budget)
    kernel = _assemble(_prepare(f, params, x1, x2, **options))
    if kernel is None:  # `plan` has seen the first tile only
        warnings.warn("empirical_ntk: the certificate failed in a later tile; everything by Jacobians", stacklevel=2)
        options["method"] = "jacobian"
        kernel = _assemble(_prepare(f, params, x1, x2, **options))
    assert kernel is not None
    return kernel


def empirical_ntk_seeds(
    f: Apply,
    params: PyTree,
    x1: Array,
    x2: Array | None = None,
    *,
    f_has_seeds: bool | None = None,
    **options: Unpack[Options],
) -> Array:
    """Compute the kernels of several seeds, one after another with the same compiled parts.

    A loop and not `vmap`: one seed's products fill the machine already, and the memory budget holds for each.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> x, params = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.ones((3, 2, 1))  # three seeds
      >>> ntk.empirical_ntk_seeds(lambda w, x: x @ w, params, x).shape
      (3, 2, 2, 1, 1)

    Args:
      f: as in `empirical_ntk`. The arrays of a `jax.tree_util.Partial` may lead with the seed axis, too, all of them.
      params: as there, with a leading seed axis (S,) on every leaf.
      x1: as there.
      x2: as there.
      f_has_seeds: whether the arrays of f lead with the seed axis. None finds out by their shapes: f is traced with
        the arrays of one seed, and with all of them.
      **options: as there.

    Returns:
      The kernels, with a leading axis (S,).

    Raises:
      ValueError: the leaves have no seed axis, an empty one, or unequal ones; f can be read either way and f_has_seeds
        does not say which; and as there.
    """
    axes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params)}
    if len(axes) != 1 or not all(axis and axis[0] for axis in axes):
        raise ValueError(f"params: expected one leading seed axis (S,) in all leaves, got {sorted(axes)}")
    num_seeds = axes.pop()[0]
    if f_has_seeds is None:
        f_has_seeds = _has_seeds(f, params, x1, num_seeds)
    seeded = (f, params) if f_has_seeds else (None, params)
    rows = [jax.tree.map(lambda leaf, s=s: leaf[s], seeded) for s in range(num_seeds)]
    return jnp.stack([empirical_ntk(own or f, row, x1, x2, **options) for own, row in rows])


def _has_seeds(f: Apply, params: PyTree, x: Array, num_seeds: int) -> bool:
    """Tell by tracing whether the arrays of f lead with the seed axis."""
    arrays = jax.tree.leaves(f) if isinstance(f, Partial) else []
    if not arrays or any(jnp.shape(leaf)[:1] != (num_seeds,) for leaf in arrays):
        return False
    one = jax.tree.map(lambda leaf: leaf[0], params)
    own = jax.tree.map(lambda leaf: leaf[0], f)
    seeded, shared = (_fits(each, one, x) for each in (own, f))
    if seeded and shared:
        raise ValueError(
            f"f: its arrays lead with {num_seeds} as the seeds do, and it runs with one of them as with all; "
            "say which is meant by f_has_seeds"
        )
    return seeded


def _fits(f: Apply, params: PyTree, x: Array) -> bool:
    try:
        out = functions.freeze(f, params, x).func.out  # type: ignore[attr-defined]
    except (TypeError, ValueError):  # shapes that do not fit
        return False
    return len(getattr(out, "shape", ())) == 2 and out.shape[0] == len(x)


def plan(f: Apply, params: PyTree, x1: Array, x2: Array | None = None, **options: Unpack[Options]) -> Plan:
    """Say how `empirical_ntk` with the same arguments will go about it; arguments and errors are its own.

    The first tile is taken for it. Where a later one's certificate fails, `empirical_ntk` warns and takes Jacobians.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> plan = ntk.plan(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.array([[1.0, 0.0], [1.0, 2.0]]))
      >>> plan.method, plan.tile
      ('jacobian', (2, 2))
    """
    return _prepare(f, params, x1, x2, **options).plan


def ntk_vp(f: Apply, params: PyTree, x1: Array, x2: Array | None = None) -> Callable[[Array], Array]:
    """Make the product of the tangent kernel with a vector, for kernels too big to hold.

    J(x1) J(x2)^T v: one `vjp` at x2, one `jvp` at x1 (reverse mode twice where f has no forward mode).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> matvec = ntk.ntk_vp(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.array([[1.0, 0.0], [1.0, 2.0]]))
      >>> matvec(jnp.array([[1.0], [0.0]])).tolist()
      [[1.0], [1.0]]

    Args:
      f: function (params, x) -> outputs (n, K).
      params: parameters.
      x1: inputs (n1, ...).
      x2: inputs (n2, ...), or None for x1.

    Returns:
      matvec: v (n2, K) -> (n1, K), safe under jit, vmap and grad.

    Raises:
      ValueError: as in `empirical_ntk`.
    """
    f, x1, x2, _ = checked(f, params, x1, x2)
    forward = functions.has_forward_mode(f)

    def matvec(v: Array) -> Array:
        with jax.default_matmul_precision("highest"):
            _, pullback = jax.vjp(lambda p: f(p, x1 if x2 is None else x2), params)
            return jvp(lambda p: f(p, x1), params, pullback(v)[0], forward)[1]

    return matvec


def solve(
    matvec: Callable[[Array], Array], b: Array, *, ridge: float = 0.0, tol: float = 1e-5, max_iters: int = 1000
) -> Solve:
    """Solve (A + ridge I) x = b by conjugate gradients (Hestenes and Stiefel 1952).

    Args:
      matvec: product with a symmetric positive semidefinite A, such as `ntk_vp(f, params, x)`.
      b: right-hand side, any shape that matvec takes.
      ridge: added to the diagonal.
      tol: stop when |b - A x| / |b| is at most this.
      max_iters: stop after so many products anyway.

    Returns:
      The solution. The residual is recomputed from its definition; the recurrence's own one drifts.
    """

    def product(x: Array) -> Array:
        return matvec(x) + ridge * x

    def unfinished(state: tuple) -> Array:
        _, r, _, squared, i = state
        return (squared > (tol * scale) ** 2) & (i < max_iters) & jnp.all(jnp.isfinite(r))

    def step(state: tuple) -> tuple:
        x, r, p, squared, i = state
        ap = product(p)
        alpha = squared / jnp.vdot(p, ap)
        x, r = x + alpha * p, r - alpha * ap
        now = jnp.vdot(r, r)
        return x, r, r + now / squared * p, now, i + 1

    largest = jnp.max(jnp.abs(b))
    unit = b / jnp.where(largest > 0, largest, 1.0)  # squares of what is small would vanish
    scale, start = jnp.linalg.norm(unit), (jnp.zeros_like(b), unit, unit, jnp.vdot(unit, unit), jnp.asarray(0))
    x, _, _, _, num_iters = lax.while_loop(unfinished, step, start)
    residual = jnp.linalg.norm(unit - product(x)) / jnp.where(scale > 0, scale, 1.0)
    return Solve(x * largest, residual, num_iters, residual <= 2 * tol)


def _prepare(
    f: Apply,
    params: PyTree,
    x1: Array,
    x2: Array | None,
    *,
    method: str = "auto",
    trace: bool = False,
    tile: int | None = None,
    memory_budget: int | None = None,
) -> Prepared:
    """Check the arguments and decide everything."""
    if method not in METHODS:
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    for name, value, unit in (("tile", tile, "sample"), ("memory_budget", memory_budget, "byte")):
        whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and (not whole or value < 1):
            raise ValueError(f"{name}: expected at least 1 {unit}, a whole number, got {value!r}")
    f, x1, x2, out = checked(f, params, x1, x2)
    # Inputs of a higher precision: derivatives of narrower parameters would be rounded on their way.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.promote_types(jnp.result_type(leaf), out.dtype)), params)
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(params)]
    sizes = tuple(int(jnp.size(leaf)) for leaf in jax.tree.leaves(params))
    budget = _plan.default_budget() if memory_budget is None else memory_budget
    none = _layers.without(Structure((), ()), (), len(names))
    layers = _layers.discover(f, params, x1, trace=trace)
    forward = sum(map(_plan.forward_cost, layers.groups)) + sum(sizes[i] for i in layers.own)
    found, why = none, "asked for"
    if method != "jacobian":
        found, why = layers, "" if layers.groups else "no Dense or Conv layer seen (is f jitted?): Jacobians"
    mode = "" if functions.has_forward_mode(f) else "; f has no forward mode (custom_vjp), reverse mode is used alone"
    failed: list[str] = []
    while True:  # until the certificate of the first tile holds; what fails is taken apart
        problem = Problem(
            x1.shape[0], None if x2 is None else x2.shape[0], out.shape[1], trace, out.dtype.itemsize, sizes, forward,
            activations(f, params, x1),
        )  # fmt: skip
        choices, note = _plan.choose(found, none, problem, method)
        if len(choices) > 1 and not _plan.fits(choices[0], problem, tile, budget):
            choices, note = choices[::-1], f"{note}; the other method, since that needs more than memory_budget"
        note += mode
        structure = choices[0]
        if failed:
            why = f"certificate failed for {', '.join(failed)}: Jacobian instead; "
        elif structure.groups:
            why = "certified; "
        how = _plan.schedule(structure, problem, tile, budget, why + note, _handling(structure, names))
        prepared = Prepared(how, structure, problem, f, params, x1, x2, out.dtype, {}, [])
        if not structure.groups:
            return prepared
        prepared.kept[0] = _take(prepared, x1, 0, how.tile[0])
        covered = [i for group in structure.groups for i in group.leaves]
        bad = [i for i, wrong in zip(covered, np.asarray(prepared.certificates[0][0]), strict=True) if wrong]
        if not bad:
            return prepared
        found = _layers.without(found, bad, len(names))
        failed += [names[i] for i in bad]


def _handling(structure: Structure, names: list[str]) -> tuple[tuple[str, str], ...]:
    how = {i: "own Jacobian" for i in structure.own}
    for group in structure.groups:
        how.update({i: "factors" if group.paired else "contracted Jacobian" for i in group.leaves})
    return tuple((name, how[i]) for i, name in enumerate(names))


def _take(prepared: Prepared, x: Array, start: int, size: int) -> _factors.Factors:
    """Take a tile's factors, and note their certificate."""
    # Drawn by numpy: JAX's generator would take a second to compile with every shape.
    v = np.random.default_rng(secrets.randbits(64)).standard_normal((size, prepared.problem.k)).astype(prepared.dtype)
    with jax.default_matmul_precision("highest"):
        tile = _rows(x, start, size)
        pieces, *certificate = _factors.factors(prepared.f, prepared.structure, prepared.params, tile, v)
    prepared.certificates.append(tuple(certificate))
    return pieces


def _assemble(prepared: Prepared) -> Array | None:
    """Compute the kernel block by block; None when a tile's certificate fails."""
    how, structure, problem, _, _, x1, x2, dtype, kept, certificates = prepared
    trace, symmetric = problem.trace, x2 is None
    x2 = x1 if x2 is None else x2
    (rows, size1), (columns, size2) = (_plan.tiles(x.shape[0], t) for x, t in zip((x1, x2), how.tile, strict=True))

    def row_factors(start: int) -> _factors.Factors:
        pieces = kept.pop(start, None) or _take(prepared, x1, start, size1)
        if how.keeps_factors:
            kept[start] = pieces
        return pieces

    block = () if trace else (problem.k,) * 2
    with jax.default_matmul_precision("highest"):
        theta = jnp.zeros((x1.shape[0], x2.shape[0], *block), dtype)
        for j in columns:
            right = row_factors(j) if symmetric else _take(prepared, x2, j, size2)
            # A symmetric kernel's diagonal block comes last: where tiles overlap it has the final word.
            for i in [start for start in rows if not symmetric or start <= j]:
                left = right if symmetric and i == j else row_factors(i)
                mirror = "none" if not symmetric else "self" if i == j else "other"
                theta = _factors.write_block(theta, left, right, i, j, trace=trace, mirror=mirror)
                del left
            del right
    failed, largest = (np.array([np.asarray(value) for value in each]) for each in zip(*certificates, strict=True))
    if not np.isfinite(largest[:, 0]).all():
        raise ValueError("params, x1, x2: expected finite outputs, got infinities or NaN")
    if failed.any():
        return None
    # Looking through the kernel takes as long as writing it; mostly the factors are too small for it to overflow.
    limit = float(jnp.finfo(dtype).max) / 4
    if not _plan.bounded(structure, problem, largest.max(0), limit) and not finite([theta]):
        raise ValueError("params: expected a finite kernel, got infinities or NaN; the derivatives overflow")
    return theta


@functools.partial(jax.jit, static_argnums=2)
def _rows(x: Array, start: int, size: int) -> Array:
    return lax.dynamic_slice_in_dim(x, start, size)
