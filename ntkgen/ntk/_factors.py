"""The factors of a network's tangent kernel for a tile of samples, and the kernel's block from two tiles' factors.

A Dense layer's derivative is an outer product: d f_k(x_i) / dW = a_i d_ik^T with a the layer's input and d the
derivative of output k with respect to the layer's own output. Both are taken by watching the layers that `_layers`
found. A certificate holds them against plain `vjp`.
"""

import functools
import itertools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from ntkgen.functions import quick_jit, rounding_tolerance
from ntkgen.ntk._layers import Call, Group, Structure, Use, Window, watch
from ntkgen.typing import Apply, Array, PyTree

# What the certificate forgives: roundings of the narrowest dtype that f computes in, since two summation orders over a
# batch differ by tens of them (2e-4 of a gradient in float32), and at most so much of it, or in half precision
# everything would be forgiven.
TOLERANCE, FORGIVEN = 2000, 0.05


class Pairs(NamedTuple):
    """Factors of a paired group: inputs and outputs[u] of every application, (n, inputs) and (n, k, outputs)."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


Factors = tuple[Any, ...]  # of Pairs, or of Jacobians (n, k, entries)


@functools.partial(quick_jit, static_argnums=1)
def factors(f: Partial, structure: Structure, params: PyTree, x: PyTree, v: Array) -> tuple[Factors, Array, Array]:
    """Take the factors of the kernel for a tile of samples, with their certificate.

    Args:
      f: function (params, x) -> outputs (n, k), from `functions.freeze`; each sample for itself.
      structure: from `discover`.
      params: the parameters.
      x: inputs (n, ...).
      v: cotangent (n, k) for the certificate, drawn at random.

    Returns:
      (factors, failed, largest): one entry for each group, then one Jacobian for the leaves of their own; bool (leaves
      in groups,), True where J^T v reassembled from the factors differs from `vjp`; the largest absolute value, or NaN,
      of the outputs, and of each entry in turn: of the inputs and of the outputs of `Pairs`, or of a Jacobian.
    """
    out, inputs, derivatives = _capture(f, structure, params, x, v)
    pieces: list[Any] = []
    for group in structure.groups:
        applications = [_application(group, use, inputs[use.call], derivatives[use.call]) for use in group.uses]
        if group.paired:
            spread = [(a[:, p], d[:, :, p]) for a, d in applications for p in range(a.shape[1])]
            pieces.append(Pairs(*(tuple(side) for side in zip(*spread, strict=True))))
        else:
            jacobian = sum(jnp.einsum("npa,nkpb->nkab", a, d) for a, d in applications)
            pieces.append(jnp.reshape(jacobian, (*out.shape, -1)))
    if structure.own:
        pieces.append(jacobian_of(f, structure.own, params, x))
    sides = [side for piece in pieces for side in (piece if isinstance(piece, Pairs) else ((piece,),))]
    largest = [functools.reduce(jnp.maximum, (jnp.abs(array).max() for array in side)) for side in ((out,), *sides)]
    return tuple(pieces), _certificate(f, structure, pieces, params, x, v), jnp.stack(largest)


def _capture(f: Apply, structure: Structure, params: PyTree, x: PyTree, like: Array) -> tuple[Array, dict, dict]:
    """Run f once forward and k times backward: outputs, and each call's input (n, ...) and derivative (k, n, ...).

    Outputs have shape and dtype of `like`.
    """
    calls = {use.call: use.output for group in structure.groups for use in group.uses}

    def nudged(nudges: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
        inputs = {}

        def seen(number: int, call: Call) -> Array:
            if number not in calls:
                return call.output
            inputs[number] = call.input.astype(call.output.dtype)
            return call.output + nudges[number].astype(call.output.dtype)

        return watch(f, params, x, seen), inputs

    zeros = {call: jnp.zeros((len(like), *output), like.dtype) for call, output in calls.items()}
    out, pullback, inputs = jax.vjp(nudged, zeros, has_aux=True)
    n, num_outputs = out.shape
    units = jnp.broadcast_to(jnp.eye(num_outputs, dtype=out.dtype)[:, None], (num_outputs, n, num_outputs))
    return out, inputs, jax.vmap(pullback)(units)[0] if calls else {}


def _application(group: Group, use: Use, x: Array, derivative: Array) -> tuple[Array, Array]:
    """Lay a call out: inputs (n, positions, entries), a one behind for the bias; outputs (n, k, positions, units)."""
    n, num_outputs = x.shape[0], derivative.shape[0]
    flat = []
    if group.kernel is not None:
        flat.append(x.reshape(n, use.positions, -1) if use.window is None else patches(x, use.window))
    if group.bias is not None:
        flat.append(jnp.ones((n, use.positions, 1), derivative.dtype))
    derivative = jnp.swapaxes(derivative, 0, 1).reshape(n, num_outputs, use.positions, -1)
    return jnp.concatenate(flat, -1), derivative


def jacobian_of(f: Apply, leaves: tuple[int, ...], params: PyTree, x: PyTree) -> Array:
    """Differentiate every output with respect to some leaves of params, sample by sample: (n, k, entries)."""
    flat, treedef = jax.tree.flatten(params)

    def one(sample: Any) -> Array:
        def outputs(chosen: list[Array]) -> Array:
            full = list(flat)
            for i, leaf in zip(leaves, chosen, strict=True):
                full[i] = leaf
            return f(jax.tree.unflatten(treedef, full), jax.tree.map(lambda leaf: leaf[None], sample))[0]

        out, pullback = jax.vjp(outputs, [flat[i] for i in leaves])
        rows = jax.vmap(pullback)(jnp.eye(out.size, dtype=out.dtype))[0]
        return jnp.concatenate([row.reshape(out.size, -1).astype(out.dtype) for row in rows], -1)

    return jax.vmap(one)(x)


def _certificate(f: Partial, structure: Structure, pieces: list, params: PyTree, x: PyTree, v: Array) -> Array:
    """Return for each leaf in a group whether J^T v from the factors fails to be what `vjp` gives."""
    pullback = jax.vjp(lambda p: f(p, x), params)[1]
    straight = jax.tree.leaves(pullback(v)[0])
    rows = []
    for group, piece in zip(structure.groups, pieces, strict=False):
        if group.paired:
            sides = zip(piece.inputs, piece.outputs, strict=True)
            product = sum(a.T @ jnp.einsum("nk,nkb->nb", v, d) for a, d in sides)
        else:
            product = jnp.einsum("nk,nkp->p", v, piece).reshape(group.num_inputs, group.shape[1])
        bias = group.num_inputs - (group.bias is not None)
        own = {group.kernel: product[:bias], group.bias: product[bias:]}
        rows += [(own[i].ravel(), straight[i].ravel()) for i in group.leaves]
    if not rows:
        return jnp.zeros(0, bool)
    norms = jnp.stack([jnp.linalg.norm(b) for _, b in rows])
    errors = jnp.stack([jnp.linalg.norm(a - b) for a, b in rows])
    # A leaf whose gradient cancels to rounding is measured against the whole gradient's rounding instead.
    bound = rounding_tolerance(f, TOLERANCE, FORGIVEN) * (norms + 0.01 * jnp.linalg.norm(norms))
    return ~(errors <= bound)


def patches(x: Array, window: Window) -> Array:
    """Lay out what a convolution sees at each position: x (n, ..., c) -> (n, positions, entries c)."""
    config = [(0, 0, 0)]
    config += [(low, high, d - 1) for (low, high), d in zip(window.padding, window.input_dilation, strict=True)]
    x = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    reach = [(k - 1) * d for k, d in zip(window.size, window.kernel_dilation, strict=True)]
    counts = [(s - r - 1) // t + 1 for s, r, t in zip(x.shape[1:-1], reach, window.strides, strict=True)]

    def shifted(offset: tuple[int, ...]) -> Array:
        start = [o * d for o, d in zip(offset, window.kernel_dilation, strict=True)]
        stop = [a + (c - 1) * t + 1 for a, c, t in zip(start, counts, window.strides, strict=True)]
        return lax.slice(x, [0, *start, 0], [x.shape[0], *stop, x.shape[-1]], [1, *window.strides, 1])

    parts = [shifted(offset) for offset in itertools.product(*map(range, window.size))]
    return jnp.concatenate(parts, -1).reshape(x.shape[0], math.prod(counts), -1)


@functools.partial(jax.jit, static_argnames=("trace", "mirror"), donate_argnums=0)
def write_block(theta: Array, left: Factors, right: Factors, i: int, j: int, *, trace: bool, mirror: str) -> Array:
    """Compute the block of two tiles and write it, and its mirror image, in place."""
    block = sum(_contract(a, b, trace=trace) for a, b in zip(left, right, strict=True))
    if not trace:
        block = jnp.transpose(block, (0, 2, 1, 3))
        block = block.astype(theta.dtype)
    rest = (0,) * (theta.ndim - 2)
    flipped = jnp.swapaxes(block, 0, 1) if trace else jnp.transpose(block, (1, 0, 3, 2))
    if mirror == "self":
        block = (block + flipped) / 2
    theta = lax.dynamic_update_slice(theta, block, (i, j, *rest))
    return lax.dynamic_update_slice(theta, flipped, (j, i, *rest)) if mirror == "other" else theta


def _contract(a: Any, b: Any, *, trace: bool) -> Array:
    """Multiply two tiles' factors of a group: (n1, k, n2, m), or their mean over k = m, (n1, n2)."""
    if not isinstance(a, Pairs):
        return _outputs(a, b, trace=trace)
    total: Any = 0
    for inputs1, outputs1 in zip(*a, strict=True):
        for inputs2, outputs2 in zip(*b, strict=True):
            gram = inputs1 @ inputs2.T
            total += (gram if trace else gram[:, None, :, None]) * _outputs(outputs1, outputs2, trace=trace)
    return total


def _outputs(a: Array, b: Array, *, trace: bool) -> Array:
    (n1, k, _), n2 = a.shape, b.shape[0]
    if trace:
        return a.reshape(n1, -1) @ b.reshape(n2, -1).T / k
    return (a.reshape(n1 * k, -1) @ b.reshape(n2 * k, -1).T).reshape(n1, k, n2, k)
