"""The factors of a network's tangent kernel, taken from the Dense and Conv calls of any Flax module.

A Dense layer's derivative is an outer product: d f_k(x_i) / dW = a_i d_ik^T with a the layer's input and d the
derivative of output k with respect to the layer's own output. Flax lets us see inputs and nudge outputs from outside
(`nn.intercept_methods`), so both are had for any model without touching it. Which arrays belong to which leaf of
params is decided by identity: a kernel that was transformed, compiled or scanned over on its way is simply not found,
and keeps its own Jacobian. A certificate holds what was found against plain `vjp`.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
PyTree = Any
Network = Callable[[PyTree, Array], Array]

MAX_PAIRED = 8  # positions and uses that are still paired with each other rather than contracted
TOLERANCE = 2000  # roundings that the certificate forgives: two summation orders over a batch differ by tens of them


class Window(NamedTuple):
    """Where a convolution looks: kernel size, strides, (low, high) padding, dilations; each for the spatial axes."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    input_dilation: tuple[int, ...]
    kernel_dilation: tuple[int, ...]


class Use(NamedTuple):
    """One call of a layer: its number among the recorded calls, and its shapes without the batch axis."""

    call: int
    window: Window | None  # None for Dense
    output: tuple[int, ...]

    @property
    def positions(self) -> int:
        """Count the places where the kernel is applied."""
        return math.prod(self.output[:-1])


class Group(NamedTuple):
    """A kernel and bias, with every use made of them.

    Attributes:
      kernel: index among the leaves of params, None where it is not one of them.
      bias: likewise.
      shape: (inputs, outputs) of one application.
      uses: the calls.
      paired: kernel entries from pairs of uses, without a Jacobian; otherwise positions are contracted first.
    """

    kernel: int | None
    bias: int | None
    shape: tuple[int, int]
    uses: tuple[Use, ...]
    paired: bool

    @property
    def leaves(self) -> tuple[int, ...]:
        """Indices of the leaves that this group accounts for."""
        return tuple(i for i in (self.kernel, self.bias) if i is not None)

    @property
    def positions(self) -> int:
        """Count applications of the kernel over all uses."""
        return sum(use.positions for use in self.uses)

    @property
    def num_inputs(self) -> int:
        """Length of the input factor: the inputs, and a one for the bias."""
        return (self.shape[0] if self.kernel is not None else 0) + (self.bias is not None)


class Structure(NamedTuple):
    """How the leaves of params are handled: in groups, or through their own Jacobian."""

    groups: tuple[Group, ...]
    own: tuple[int, ...]


class Pairs(NamedTuple):
    """Factors of a paired group: inputs and outputs[u] of every application, (n, inputs) and (n, k, outputs)."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


Factors = tuple[Any, ...]  # of Pairs, or of Jacobians (n, k, entries)


class _Call(NamedTuple):
    kernel: int | None
    bias: int | None
    input: Array
    output: Array
    module: nn.Module


def _watch(f: Network, params: PyTree, x: Array, seen: Callable[[int, _Call], Array]) -> Array:
    """Run f; after each Dense or Conv call that holds leaves of params, go on with what `seen` returns instead."""
    index: dict[int, int] = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))}
    number = itertools.count()

    def interceptor(next_fun: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        out = next_fun(*args, **kwargs)
        module = context.module
        if context.method_name != "__call__" or not isinstance(module, nn.Dense | nn.Conv):
            return out
        own: dict[str, Any] = {name: module.get_variable("params", name) for name in ("kernel", "bias")}
        found = {name: index.get(id(leaf)) for name, leaf in own.items() if leaf is not None}
        inputs = args[0] if args else kwargs["inputs"]
        if all(i is None for i in found.values()):
            return out
        return seen(next(number), _Call(found.get("kernel"), found.get("bias"), inputs, out, module))

    with nn.intercept_methods(interceptor):
        return f(params, x)


def discover(f: Network, params: PyTree, x: Array, *, trace: bool) -> Structure:
    """Find the layers of a network; nothing is computed.

    Args:
      f: function (params, x) -> outputs (n, k).
      params: its parameters, any pytree of arrays (or of shapes).
      x: inputs (n, ...) (or their shape).
      trace: whether the kernel is averaged over outputs, which decides what is cheaper.

    Returns:
      Every leaf of params, in a group or on its own.
    """
    found: list[tuple[int | None, int | None, tuple[int, int], Use]] = []

    def look(params: PyTree, x: Array) -> Array:
        def seen(number: int, call: _Call) -> Array:
            # Inside a vmap, scan or jit of f's own, arrays must not be carried outside: their trace is another.
            outside = getattr(call.input, "_trace", None) is getattr(x, "_trace", None)
            use = _use(number, call, x.shape[0])
            if use is not None and outside:
                features = call.output.shape[-1]
                entries = math.prod(use.window.size) if use.window else 1
                found.append((call.kernel, call.bias, (entries * call.input.shape[-1], features), use))
            return call.output

        return _watch(f, params, x, seen)

    num_outputs = jax.eval_shape(look, params, x).shape[-1]
    groups = []
    for key in dict.fromkeys(entry[:3] for entry in found):
        uses = tuple(entry[3] for entry in found if entry[:3] == key)
        group = Group(*key, uses, paired=True)
        outputs = num_outputs if trace else num_outputs**2
        paired = group.positions**2 * (group.num_inputs + outputs * key[2][1])
        fits = group.positions <= MAX_PAIRED and paired <= outputs * group.num_inputs * key[2][1]
        groups.append(group._replace(paired=fits))
    claims = [i for group in groups for i in group.leaves]
    good = tuple(group for group in groups if all(claims.count(i) == 1 for i in group.leaves))
    return without(Structure(good, ()), (), len(jax.tree.leaves(params)))


def without(structure: Structure, leaves: Sequence[int], num_leaves: int) -> Structure:
    """Take the groups that hold any of the leaves apart; all that is in no group has its own Jacobian."""
    groups = tuple(group for group in structure.groups if not set(group.leaves) & set(leaves))
    covered = {i for group in groups for i in group.leaves}
    return Structure(groups, tuple(i for i in range(num_leaves) if i not in covered))


def _use(number: int, call: _Call, n: int) -> Use | None:
    """Describe a call, or None where we have no formula for it."""
    shapes = (jnp.shape(call.input), jnp.shape(call.output))
    if any(len(shape) < 2 or shape[0] != n for shape in shapes):
        return None
    window = None
    if isinstance(call.module, nn.Conv):
        window = _window(call.module, shapes[0])
        if window is None:
            return None
    return Use(number, window, shapes[1][1:])


def _window(module: nn.Conv, shape: tuple[int, ...]) -> Window | None:
    size = (module.kernel_size,) if isinstance(module.kernel_size, int) else tuple(module.kernel_size)
    axes = len(size)

    def each(value: Any) -> tuple[int, ...]:
        return (value or 1,) * axes if value is None or isinstance(value, int) else tuple(value)

    strides, dilation = each(module.strides), each(module.kernel_dilation)
    padding = module.padding
    if module.feature_group_count != 1 or module.mask is not None or len(shape) != axes + 2:
        return None
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            return None
        reach = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
        pairs = lax.padtype_to_pads(shape[1:-1], reach, strides, padding)
    else:
        pairs = [
            (p, p) if isinstance(p, int) else p for p in ([padding] * axes if isinstance(padding, int) else padding)
        ]
    window_padding = tuple((int(low), int(high)) for low, high in pairs)
    return Window(size, strides, window_padding, each(module.input_dilation), dilation)


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


@functools.partial(jax.jit, static_argnums=(0, 1))
def factors(f: Network, structure: Structure, params: PyTree, x: Array, key: Array) -> tuple[Factors, Array, Array]:
    """Take the factors of the kernel for a tile of samples, with their certificate.

    Args:
      f: function (params, x) -> outputs (n, k); each sample's outputs depend on that sample alone.
      structure: from `discover`.
      params: the parameters.
      x: inputs (n, ...).
      key: draws the cotangent v (n, k) of the certificate.

    Returns:
      (factors, failed, finite): one entry for each group, then one Jacobian for the leaves of their own; bool (leaves
      in groups,), True where J^T v reassembled from the factors differs from `vjp`; whether all outputs are finite.
    """
    out, inputs, derivatives = _capture(f, structure, params, x)
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
    return tuple(pieces), _certificate(f, structure, pieces, params, x, key), jnp.all(jnp.isfinite(out))


def _capture(f: Network, structure: Structure, params: PyTree, x: Array) -> tuple[Array, dict, dict]:
    """Run f once forward and k times backward: outputs, and each call's input (n, ...) and derivative (k, n, ...)."""
    shape = jax.eval_shape(f, params, x)
    calls = {use.call: use.output for group in structure.groups for use in group.uses}

    def nudged(nudges: dict[int, Array]) -> tuple[Array, dict[int, Array]]:
        inputs = {}

        def seen(number: int, call: _Call) -> Array:
            if number not in calls:
                return call.output
            inputs[number] = call.input.astype(call.output.dtype)
            return call.output + nudges[number].astype(call.output.dtype)

        return _watch(f, params, x, seen), inputs

    zeros = {call: jnp.zeros((x.shape[0], *output), shape.dtype) for call, output in calls.items()}
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


def jacobian_of(f: Network, leaves: tuple[int, ...], params: PyTree, x: Array) -> Array:
    """Differentiate every output with respect to some leaves of params, sample by sample: (n, k, entries)."""
    flat, treedef = jax.tree.flatten(params)

    def one(sample: Array) -> Array:
        def outputs(chosen: list[Array]) -> Array:
            full = list(flat)
            for i, leaf in zip(leaves, chosen, strict=True):
                full[i] = leaf
            return f(jax.tree.unflatten(treedef, full), sample[None])[0]

        out, pullback = jax.vjp(outputs, [flat[i] for i in leaves])
        rows = jax.vmap(pullback)(jnp.eye(out.size, dtype=out.dtype))[0]
        return jnp.concatenate([row.reshape(out.size, -1).astype(out.dtype) for row in rows], -1)

    return jax.vmap(one)(x)


def _certificate(f: Network, structure: Structure, pieces: list, params: PyTree, x: Array, key: Array) -> Array:
    """Say for each leaf in a group whether J^T v from the factors fails to be what `vjp` gives."""
    out, pullback = jax.vjp(lambda p: f(p, x), params)
    v = jax.random.normal(key, out.shape, out.dtype)
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
    bound = TOLERANCE * jnp.finfo(out.dtype).eps * (norms + 0.01 * jnp.linalg.norm(norms))
    return ~(errors <= bound)
