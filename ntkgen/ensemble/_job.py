"""The arguments of `fit`, checked and laid out before anything is compiled."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from ntkgen import train
from ntkgen.ensemble import _checks, _layout, _probes
from ntkgen.ensemble._layout import Layout
from ntkgen.ensemble._options import Options, whole
from ntkgen.typing import PyTree


class Span(NamedTuple):
    """Epochs that are trained, start ... epochs - 1, and those (1-based) after which metrics are measured."""

    start: int
    measured: frozenset[int]


class Job(NamedTuple):
    """What `fit` does, checked: static program and layout, the data, and which epochs are trained and measured.

    Attributes:
      program: the static program.
      shapes: one seed's variables, as shapes.
      splits: training and test set, as they are trained on.
      seeds: all of them.
      span: epochs.
      pairs: (epochs, probe).
      single: whether the probes were given as one pair.
      layout: how the seed axis is walked.
      chunk: seeds that are trained together.
    """

    program: train.Program
    shapes: PyTree
    splits: tuple[train.Batch, train.Batch]
    seeds: list[int]
    span: Span
    pairs: tuple
    single: bool
    layout: Layout
    chunk: int


def prepare(
    model: Any,
    dataset: Any,
    config: train.Config,
    seeds: int | Sequence[int],
    test: Any,
    init: PyTree | None,
    masks: PyTree | None,
    update: train.Update | None,
    probes: Any,
    options: Options,
) -> Job:
    """Check the arguments of `fit`; nothing is compiled.

    Raises:
      ValueError: an argument does not fit the others; the message names it.
    """
    if not isinstance(options, Options):
        raise ValueError(f"options: expected ensemble.Options, got {options!r}")
    if not isinstance(seeds, int | np.integer | Iterable) or isinstance(seeds, str):
        raise ValueError(f"seeds: expected how many, or a sequence of whole numbers, got {seeds!r}")
    seeds = list(range(seeds)) if isinstance(seeds, int | np.integer) else [whole("seeds", seed) for seed in seeds]
    repeat = init is None and len(set(seeds)) < len(seeds)
    if not seeds or not 0 <= min(seeds) <= max(seeds) < 2**31 or repeat:
        raise ValueError(f"seeds: expected at least one, distinct without init, in 0 ... 2^31 - 1, got {seeds}")
    program, shapes, *splits = _checks.prepare(model, _checks.splits(dataset, test), config, update, init)
    _check_tree("init", init, shapes, len(seeds))
    _check_tree("masks", masks, shapes["params"], len(seeds))
    span = _span(options, config.epochs, init is not None)
    single, pairs = _probes.read(probes, span.start, config.epochs)
    pairs = tuple((when, fn if isinstance(fn, _probes.OnHost) else _probes.Traced.of(fn, shapes)) for when, fn in pairs)
    layout = _layout.plan(options.strategy, shapes, len(seeds))
    chunk = options.chunk
    if chunk is None:
        pixels = _pixels(jax.tree.leaves(splits[0].x)[0].shape[1:])
        chunk = _layout.seeds_per_chunk(shapes, program.batch_size, pixels, layout)
    return Job(program, shapes, (splits[0], splits[1]), seeds, span, pairs, single, layout, chunk)


def _span(options: Options, epochs: int, has_init: bool) -> Span:
    start_epoch = options.start_epoch
    if start_epoch >= epochs:
        raise ValueError(f"start_epoch: expected 0 ... {epochs - 1}, got {start_epoch}")
    if start_epoch and not has_init:
        raise ValueError(f"start_epoch: expected init, the variables after those epochs, with {start_epoch}, got none")
    if options.evaluate_at is None:
        return Span(start_epoch, frozenset(range(start_epoch + 1, epochs + 1)))
    measured = {*options.evaluate_at, epochs}
    if not start_epoch < min(measured) <= max(measured) <= epochs:
        raise ValueError(
            f"evaluate_at: expected epochs in {start_epoch + 1} ... {epochs}, got {list(options.evaluate_at)}"
        )
    return Span(start_epoch, frozenset(measured))


def _check_tree(name: str, tree: PyTree | None, shapes: PyTree, num_seeds: int) -> None:
    """Hold a given pytree against the network's own, leading seed axis included."""
    if tree is None:
        return
    ours, theirs = str(jax.tree.structure(shapes)), str(jax.tree.structure(tree))
    if theirs != ours:
        raise ValueError(f"{name}: expected the network's structure {ours}, got {theirs}")
    for leaf, shape in zip(jax.tree.leaves(tree), jax.tree.leaves(shapes), strict=True):
        if leaf.shape != (num_seeds, *shape.shape):
            raise ValueError(f"{name}: expected a leaf of shape {(num_seeds, *shape.shape)}, got {leaf.shape}")


def _pixels(input_shape: tuple[int, ...]) -> int:
    return int(np.prod(input_shape[:-1]))
