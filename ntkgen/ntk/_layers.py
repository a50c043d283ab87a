"""The Dense and Conv calls of any Flax module, and the leaves of params that they account for.

Flax lets us see a layer's inputs and nudge its outputs from outside (`nn.intercept_methods`), so the factors of its
derivative are had for any model without touching it. Which arrays belong to which leaf of params is decided by
identity: a kernel that was transformed, compiled or scanned over on its way is simply not found, and keeps its own
Jacobian.
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
from jax.tree_util import Partial

from ntkgen.ntk._checks import length
from ntkgen.typing import Apply, Array, PyTree

MAX_PAIRED = 8  # positions and uses that are still paired with each other rather than contracted


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


Entry = tuple[int | None, int | None, tuple[int, int], Use]  # kernel, bias and shape as in `Group`, and the call


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


class Call(NamedTuple):
    """A call of a layer as `watch` shows it: indices of its leaves among those of params, its arrays, its module."""

    kernel: int | None
    bias: int | None
    input: Array
    output: Array
    module: nn.Module


def watch(f: Apply, params: PyTree, x: PyTree, seen: Callable[[int, Call], Array]) -> Array:
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
        return seen(next(number), Call(found.get("kernel"), found.get("bias"), inputs, out, module))

    with nn.intercept_methods(interceptor):
        return f(params, x)


def discover(f: Partial, params: PyTree, x: PyTree, *, trace: bool) -> Structure:
    """Find the layers of a network; nothing is computed. What was found for a function and shapes is remembered.

    Args:
      f: function (params, x) -> outputs (n, k), from `functions.freeze`.
      params: its parameters, any pytree of arrays (or of shapes).
      x: inputs (n, ...) (or their shape).
      trace: whether the kernel is averaged over outputs, which decides what is cheaper.

    Returns:
      Every leaf of params, in a group or on its own.
    """
    leaves, treedef = jax.tree.flatten((f, params, x))
    shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
    return _discover(treedef, shapes, trace)


@functools.lru_cache(maxsize=256)
def _discover(treedef: Any, shapes: tuple[jax.ShapeDtypeStruct, ...], trace: bool) -> Structure:
    f, params, x = jax.tree.unflatten(treedef, shapes)
    num_outputs, found = _look(f, params, x)
    # An axis that is as long as the batch by chance is not the batch: it stays when the batch grows.
    more = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((leaf.shape[0] + 1, *leaf.shape[1:]), leaf.dtype), x)
    grown = _look(f, params, more)[1]
    found = {number: entry for number, entry in found.items() if grown.get(number) == entry}
    if not _carried(f, params, x, set(found)):
        found = {number: entry for number, entry in found.items() if _carried(f, params, x, {number})}
    groups = []
    for key in dict.fromkeys(entry[:3] for entry in found.values()):
        uses = tuple(entry[3] for entry in found.values() if entry[:3] == key)
        group = Group(*key, uses, paired=True)
        outputs = num_outputs if trace else num_outputs**2
        paired = group.positions**2 * (group.num_inputs + outputs * key[2][1])
        fits = group.positions <= MAX_PAIRED and paired <= outputs * group.num_inputs * key[2][1]
        groups.append(group._replace(paired=fits))
    claims = [i for group in groups for i in group.leaves]
    good = tuple(group for group in groups if all(claims.count(i) == 1 for i in group.leaves))
    return without(Structure(good, ()), (), treedef.children()[1].num_leaves)


def _look(f: Apply, params: PyTree, x: PyTree) -> tuple[int, dict[int, Entry]]:
    """Return the number of outputs, and what there is a formula for among the calls of a batch of this size."""
    found: dict[int, Entry] = {}

    def look(f: Apply, params: PyTree, x: PyTree) -> Array:
        def seen(number: int, call: Call) -> Array:
            use = _use(number, call, length(x))
            if use is not None:
                entries = math.prod(use.window.size) if use.window else 1
                found[number] = call.kernel, call.bias, (entries * call.input.shape[-1], call.output.shape[-1]), use
            return call.output

        return watch(f, params, x, seen)

    return jax.eval_shape(look, f, params, x).shape[-1], found


def _carried(f: Apply, params: PyTree, x: PyTree, calls: set[int]) -> bool:
    """Return whether the inputs of some calls can be carried out of f: not from within its own vmap, scan or jit."""

    def inputs(f: Apply, params: PyTree, x: PyTree) -> list[Array]:
        found = []

        def seen(number: int, call: Call) -> Array:
            if number in calls:
                found.append(call.input)
            return call.output

        watch(f, params, x, seen)
        return found

    # What belongs to a trace that has ended is refused by JAX, or taken for a constant of the program.
    try:
        program, carried = jax.make_jaxpr(inputs, return_shape=True)(f, params, x)
    except jax.errors.UnexpectedTracerError:
        return False
    return len(carried) == len(calls) and not any(isinstance(const, jax.core.Tracer) for const in program.consts)


def without(structure: Structure, leaves: Sequence[int], num_leaves: int) -> Structure:
    """Take the groups that hold any of the leaves apart; all that is in no group has its own Jacobian."""
    groups = tuple(group for group in structure.groups if not set(group.leaves) & set(leaves))
    covered = {i for group in groups for i in group.leaves}
    return Structure(groups, tuple(i for i in range(num_leaves) if i not in covered))


def _use(number: int, call: Call, n: int) -> Use | None:
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
