"""What a tangent kernel will cost: operations and bytes by counting, and the tiles that fit a budget."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from ntkgen.ntk._activations import Activations
from ntkgen.ntk._layers import Group, Structure

# Entries of a block of the kernel: a few arrays of 2 MB (float32) stay in the cache, and in memory that the C library
# keeps. Larger ones it gives back to the system and takes anew, a page at a time, for every block: at 2**21 a kernel of
# an MLP of width 64 took a quarter longer. Smaller ones also waste less on the halves of diagonal blocks.
BLOCK_ENTRIES = 2**19


class Plan(NamedTuple):
    """How a kernel is computed.

    Attributes:
      method: "layerwise" or "jacobian".
      layers: (leaf of params, how it is handled) for every leaf: "factors", "contracted Jacobian" or "own Jacobian".
      tile: samples in a tile, of x1 and of x2.
      num_blocks: blocks of the kernel that are computed, about half of all where it is symmetric.
      keeps_factors: every tile's factors are held, rather than those of two tiles at a time.
      flops: multiplications and additions, counted.
      peak_bytes: largest memory held at once beside params and inputs, estimated by counting; the result included.
      reason: why this method, in words.
    """

    method: str
    layers: tuple[tuple[str, str], ...]
    tile: tuple[int, int]
    num_blocks: int
    keeps_factors: bool
    flops: float
    peak_bytes: int
    reason: str


class Workload(NamedTuple):
    """The sizes that decide.

    Attributes:
      n1: samples on the first axis.
      n2: samples on the second axis, None for the symmetric kernel.
      k: outputs.
      trace: whether the kernel is averaged over outputs.
      itemsize: bytes an entry.
      sizes: entries of each leaf of params.
      forward: multiplications of a forward pass of one sample.
      activations: what a sample leaves between forward and backward.
    """

    n1: int
    n2: int | None
    k: int
    trace: bool
    itemsize: int
    sizes: tuple[int, ...]
    forward: int
    activations: Activations = Activations(0, 0)

    @property
    def columns(self) -> int:
        """Samples on the second axis."""
        return self.n1 if self.n2 is None else self.n2

    @property
    def block_outputs(self) -> int:
        """Entries of the kernel for a pair of samples, along one axis."""
        return 1 if self.trace else self.k


def tiles(num: int, tile: int) -> tuple[list[int], int]:
    """Cover `num` samples by equal tiles of at most `tile`: their starts and their size; the last two may overlap."""
    count = math.ceil(num / tile)
    size = math.ceil(num / count)
    return [min(i * size, num - size) for i in range(count)], size


def _group_bytes(group: Group, workload: Workload) -> int:
    """Bytes of a group's factors for one sample."""
    inputs, outputs = group.num_inputs, group.shape[1]
    entries = group.positions * (inputs + workload.k * outputs) if group.paired else workload.k * inputs * outputs
    return entries * workload.itemsize


def _factor_bytes(structure: Structure, workload: Workload) -> tuple[int, int]:
    """Bytes for one sample: held factors, and what is alive beside them while they are taken."""
    own = sum(workload.sizes[i] for i in structure.own) * workload.k * workload.itemsize
    held = own + sum(_group_bytes(group, workload) for group in structure.groups)
    # Cotangents of a layer's outputs exist beside the ones that came before, and before they are laid out anew.
    outputs = sum(group.positions * group.shape[1] for group in structure.groups)
    laid_out = [group.positions * group.num_inputs for group in structure.groups if not group.paired]
    # Where other operations are larger, what forward leaves, and some cotangents of the largest for every output; XLA
    # reports up to 3.6 of them for networks of convolutions and of attention.
    passes = workload.activations.total + 4 * workload.k * workload.activations.largest
    return held, max(3 * workload.k * outputs + sum(laid_out), passes) * workload.itemsize + own


def peak_bytes(structure: Structure, workload: Workload, tile: tuple[int, int], keep: bool) -> int:
    """Count the largest memory held at once: result, factors, a tile's working set, and three blocks."""
    held, busy = _factor_bytes(structure, workload)
    result = workload.n1 * workload.columns * workload.block_outputs**2
    block = 3 * tile[0] * tile[1] * workload.block_outputs**2
    num_held = (workload.n1 + (workload.n2 or 0)) if keep else sum(tile)
    return (result + block) * workload.itemsize + num_held * held + max(tile) * busy


def forward_cost(group: Group) -> int:
    """Count a group's multiplications in a forward pass of one sample."""
    return group.shape[0] * group.shape[1] * group.positions


def flops(structure: Structure, workload: Workload, pairs: int, samples: int) -> float:
    """Count operations for `pairs` pairs of samples, with factors taken for `samples` samples."""
    k2 = workload.k if workload.trace else workload.k**2
    a_pair, a_sample = 0.0, 0.0
    for group in structure.groups:
        inputs, outputs = group.num_inputs, group.shape[1]
        if group.paired:
            a_pair += group.positions**2 * (inputs + k2 * (outputs + 1))
        else:
            a_pair += k2 * inputs * outputs
            a_sample += workload.k * forward_cost(group)
    own = sum(workload.sizes[i] for i in structure.own)
    a_pair += k2 * own
    if structure.groups:  # forward; k times back to the layers' outputs; the certificate, forward and back
        a_sample += (4 + workload.k) * workload.forward
    if own:  # forward; k times back; and the leaves' own entries, which take another forward's work if they are all
        a_sample += (1 + workload.k) * workload.forward + workload.k * (own if structure.groups else workload.forward)
    return 2.0 * (a_pair * pairs + a_sample * samples)


def bounded(structure: Structure, workload: Workload, largest: Sequence[float], limit: float) -> bool:
    """Show by counting that neither the kernel nor a product on the way to it exceeds a limit.

    Args:
      structure: how the leaves are handled.
      workload: the sizes.
      largest: absolute values as from `_factors.factors`, over all samples.
      limit: the limit.

    Returns:
      False where that is not certain: the kernel may still keep to the limit.
    """
    values = iter(largest[1:])  # the first is the outputs'
    total, seen = 0.0, []

    def squared(length: int) -> float:
        value = float(next(values))
        seen.append(workload.k * length * value * value)  # with `trace`, a sum over outputs too
        return seen[-1]

    for group in structure.groups:
        inputs, outputs = group.num_inputs, group.shape[1]
        if group.paired:
            total += group.positions**2 * squared(inputs) * squared(outputs)
        else:
            total += squared(inputs * outputs)
    if structure.own:
        total += squared(sum(workload.sizes[i] for i in structure.own))
    return all(value <= limit for value in (*seen, total))  # False for NaN


def choose(found: Structure, none: Structure, workload: Workload, method: str) -> tuple[list[Structure], str]:
    """Order the layers that were found and Jacobians of everything, with "auto" by counting; say why.

    What comes second is for where the first does not fit into memory.
    """
    if not found.groups:
        return [none], ""
    pairs = workload.n1 * workload.columns // (2 if workload.n2 is None else 1)
    samples = workload.n1 + (workload.n2 or 0)
    counts = [flops(each, workload, pairs, samples) for each in (found, none)]
    note = f"{counts[0] / 1e9:.3g} GFLOP layerwise, {counts[1] / 1e9:.3g} by Jacobians"
    if method != "auto":
        return [found], note
    return [none, found] if counts[1] < counts[0] else [found, none], note


def fits(structure: Structure, workload: Workload, tile: int | None, budget: int) -> bool:
    """Return whether `schedule` would find a tile."""
    return _fit(structure, workload, tile, budget)[2] <= budget


def _fit(structure: Structure, workload: Workload, tile: int | None, budget: int) -> tuple[int, bool, int]:
    """Find the largest useful tile that fits, or the smallest: it, whether factors are kept, and the bytes."""
    side = max(1, math.isqrt(BLOCK_ENTRIES) // workload.block_outputs)
    wanted = tile if tile is not None else min(side, max(workload.n1, workload.columns))
    while True:
        first, second = (tiles(num, min(wanted, num))[1] for num in (workload.n1, workload.columns))
        keep = peak_bytes(structure, workload, (first, second), True) <= budget
        need = peak_bytes(structure, workload, (first, second), keep)
        if need <= budget or tile is not None or wanted == 1:
            return wanted, keep, need
        wanted //= 2


def schedule(structure: Structure, workload: Workload, tile: int | None, budget: int, reason: str, layers: Any) -> Plan:
    """Choose tiles that fit the budget.

    Args:
      structure: how the leaves are handled.
      workload: the sizes.
      tile: samples in a tile, or None to choose.
      budget: bytes.
      reason: to pass on.
      layers: to pass on.

    Returns:
      The plan with the largest useful tile that fits; factors are kept where there is room.

    Raises:
      ValueError: not even a tile of one sample (or the given tile) fits.
    """
    wanted, keep, need = _fit(structure, workload, tile, budget)
    if need > budget:
        raise ValueError(
            f"memory_budget: a tile of {wanted} sample(s) and the result need {need:,} bytes, got {budget:,}"
        )
    starts = [tiles(num, min(wanted, num)) for num in (workload.n1, workload.columns)]
    sizes = (starts[0][1], starts[1][1])
    counts = [len(side_starts) for side_starts, _ in starts]
    symmetric = workload.n2 is None
    num_blocks = counts[0] * (counts[0] + 1) // 2 if symmetric else counts[0] * counts[1]
    if keep:
        samples = counts[0] * sizes[0] + (0 if symmetric else counts[1] * sizes[1])
    else:  # the column's factors once, and those of every other block's rows
        samples = counts[1] * sizes[1] + (num_blocks - (counts[0] if symmetric else 0)) * sizes[0]
    work = flops(structure, workload, num_blocks * sizes[0] * sizes[1], samples)
    method = "layerwise" if structure.groups else "jacobian"
    return Plan(method, layers, sizes, num_blocks, keep, work, need, reason)
