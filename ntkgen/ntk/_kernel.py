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

import secrets
import warnings
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ntkgen import functions
from ntkgen.ntk import _layers, _plan
from ntkgen.ntk._activations import activations
from ntkgen.ntk._checks import KernelOptions, Task, finite, length, prepare
from ntkgen.ntk._factors import Factors, factors, write_block
from ntkgen.ntk._layers import Structure
from ntkgen.ntk._plan import Plan, Workload
from ntkgen.typing import Apply, Array, PyTree


class Tile(NamedTuple):
    """The factors of a tile of samples with their certificate, as `_factors.factors` returns them."""

    factors: Factors
    failed: Array
    largest: Array


class Decision(NamedTuple):
    """How a kernel is computed.

    Attributes:
      plan: what `plan` returns.
      structure: how the leaves of params are handled.
      workload: the sizes that decided.
      first: the first tile of x1, whose certificate holds; None where no layer has factors, or where factors are not
        kept, so that no more memory is held than the plan says.
    """

    plan: Plan
    structure: Structure
    workload: Workload
    first: Tile | None


class Kernel(NamedTuple):
    """A kernel with the certificates of its tiles.

    Attributes:
      value: (n1, n2, K, K), or with `trace` (n1, n2).
      failed: (tiles, leaves in groups), True where the certificate of a leaf failed.
      largest: (tiles, entries), the largest absolute values of `_factors.factors`.
    """

    value: Array
    failed: np.ndarray
    largest: np.ndarray


def empirical_ntk(
    f: Apply,
    params: PyTree,
    x1: PyTree,
    x2: PyTree | None = None,
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
      x1: inputs (n1, ...), an array or a dict or tuple of such.
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
    task = prepare(f, params, x1, x2, method=method, trace=trace, tile=tile, memory_budget=memory_budget)
    decision = _decide(task)
    kernel = _assemble(task, decision)
    if not _certified(task, decision, kernel):  # the decision has seen the first tile only
        warnings.warn("empirical_ntk: the certificate failed in a later tile; everything by Jacobians", stacklevel=2)
        del decision, kernel  # so that two kernels are never held at once
        task = task._replace(method="jacobian")
        decision = _decide(task)
        kernel = _assemble(task, decision)
        _certified(task, decision, kernel)  # nothing is reassembled here, but it may not be finite
    return kernel.value


def plan(f: Apply, params: PyTree, x1: PyTree, x2: PyTree | None = None, **options: Unpack[KernelOptions]) -> Plan:
    """Return how `empirical_ntk` with the same arguments will go about it; arguments and errors are its own.

    The first tile is taken for it. Where a later one's certificate fails, `empirical_ntk` warns and takes Jacobians.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import ntk
      >>> plan = ntk.plan(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.array([[1.0, 0.0], [1.0, 2.0]]))
      >>> plan.method, plan.tile
      ('jacobian', (2, 2))
    """
    return _decide(prepare(f, params, x1, x2, **options)).plan


def _decide(task: Task) -> Decision:
    """Return the plan whose certificate holds for the first tile; leaves that fail get their own Jacobians."""
    found = _layers.discover(task.f, task.params, task.x1, trace=task.trace)
    forward = sum(map(_plan.forward_cost, found.groups)) + sum(task.sizes[i] for i in found.own)
    workload = Workload(
        length(task.x1), None if task.x2 is None else length(task.x2), task.num_outputs, task.trace,
        task.dtype.itemsize, task.sizes, forward, activations(task.f, task.params, task.x1),
    )  # fmt: skip
    failed: tuple[str, ...] = ()
    while True:
        plan, structure = _choose(task, workload, found, failed)
        if not structure.groups:
            return Decision(plan, structure, workload, None)
        first = _take(task, structure, task.x1, 0, plan.tile[0])
        covered = [i for group in structure.groups for i in group.leaves]
        bad = [i for i, wrong in zip(covered, np.asarray(first.failed), strict=True) if wrong]
        if not bad:
            return Decision(plan, structure, workload, first if plan.keeps_factors else None)
        found = _layers.without(found, bad, len(task.names))
        failed += tuple(task.names[i] for i in bad)


def _choose(task: Task, workload: Workload, layers: Structure, failed: tuple[str, ...]) -> tuple[Plan, Structure]:
    """Choose between the layers that are left and Jacobians of everything; `failed` names leaves taken apart before."""
    none = _layers.without(Structure((), ()), (), len(task.names))
    found, why = none, "asked for"
    if task.method != "jacobian":
        found, why = layers, "" if layers.groups else "no Dense or Conv layer seen (is f jitted?): Jacobians"
    choices, note = _plan.choose(found, none, workload, task.method)
    if len(choices) > 1 and not _plan.fits(choices[0], workload, task.tile, task.budget):
        choices, note = choices[::-1], f"{note}; the other method, since that needs more than memory_budget"
    if not functions.has_forward_mode(task.f):
        note += "; f has no forward mode (custom_vjp), reverse mode is used alone"
    structure = choices[0]
    if failed:
        why = f"certificate failed for {', '.join(failed)}: Jacobian instead; "
    elif structure.groups:
        why = "certified; "
    handling = _handling(structure, task.names)
    return _plan.schedule(structure, workload, task.tile, task.budget, why + note, handling), structure


def _handling(structure: Structure, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    how = {i: "own Jacobian" for i in structure.own}
    for group in structure.groups:
        how.update({i: "factors" if group.paired else "contracted Jacobian" for i in group.leaves})
    return tuple((name, how[i]) for i, name in enumerate(names))


def _take(task: Task, structure: Structure, x: PyTree, start: int, size: int) -> Tile:
    """Return the factors of `size` samples from `start` on."""
    # Drawn by numpy: JAX's generator would take a second to compile with every shape.
    v = np.random.default_rng(secrets.randbits(64)).standard_normal((size, task.num_outputs)).astype(task.dtype)
    with jax.default_matmul_precision("highest"):
        return Tile(*factors(task.f, structure, task.params, _rows(x, start, size), v))


def _assemble(task: Task, decision: Decision) -> Kernel:
    """Return the kernel, computed block by block, with the certificates of all tiles."""
    plan, structure, _, first = decision
    x1, symmetric = task.x1, task.x2 is None
    x2 = x1 if task.x2 is None else task.x2
    (rows, size1), (columns, size2) = (_plan.tiles(length(x), t) for x, t in zip((x1, x2), plan.tile, strict=True))
    certificates: list[tuple[Array, Array]] = []

    def take(x: PyTree, start: int, size: int) -> Factors:
        tile = first if x is x1 and start == 0 and first is not None else _take(task, structure, x, start, size)
        certificates.append((tile.failed, tile.largest))
        return tile.factors

    held = {start: take(x1, start, size1) for start in rows} if plan.keeps_factors else {}
    block = () if task.trace else (task.num_outputs,) * 2
    with jax.default_matmul_precision("highest"):
        theta = lax.broadcast(np.zeros((), task.dtype), (length(x1), length(x2), *block))
        for j in columns:
            right = held[j] if symmetric and held else take(x2, j, size2)
            # A symmetric kernel's diagonal block comes last: where tiles overlap it has the final word.
            for i in [start for start in rows if not symmetric or start <= j]:
                left = right if symmetric and i == j else held[i] if held else take(x1, i, size1)
                mirror = "none" if not symmetric else "self" if i == j else "other"
                theta = write_block(theta, left, right, i, j, trace=task.trace, mirror=mirror)
                del left
            del right
    failed, largest = (np.array([np.asarray(value) for value in each]) for each in zip(*certificates, strict=True))
    return Kernel(theta, failed, largest)


def _certified(task: Task, decision: Decision, kernel: Kernel) -> bool:
    """Return whether the certificates of all tiles hold; outputs and kernels that are not finite raise a ValueError."""
    if not np.isfinite(kernel.largest[:, 0]).all():
        raise ValueError("params, x1, x2: expected finite outputs, got infinities or NaN")
    if kernel.failed.any():
        return False
    # Looking through the kernel takes as long as writing it; mostly the factors are too small for it to overflow.
    limit = float(jnp.finfo(task.dtype).max) / 4
    bounded = _plan.bounded(decision.structure, decision.workload, kernel.largest.max(0), limit)
    if not bounded and not finite([kernel.value]):
        raise ValueError("params: expected a finite kernel, got infinities or NaN; the derivatives overflow")
    return True


def _rows(x: PyTree, start: int, size: int) -> PyTree:
    # By numpy, which needs no program. It knows no weak types, as `jnp.full((2, 3), 1.0)` has one; they decide dtypes.
    def cut(leaf: Array) -> Any:
        return (leaf if leaf.weak_type else np.asarray(leaf))[start : start + size]

    return jax.tree.map(cut, x)
