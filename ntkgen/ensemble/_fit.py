"""Train many seeds of a network in one call; every array of the result leads with the seed axis.

The programs that `fit` runs are in `programs`.
"""

import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import train
from ntkgen.ensemble import _job, _resume, programs
from ntkgen.ensemble._job import Span
from ntkgen.ensemble._layout import Layout, place, trim
from ntkgen.ensemble._options import Options
from ntkgen.ensemble._probes import Context, OnHost
from ntkgen.ensemble._probes import compiled as compiled_probe
from ntkgen.typing import PyTree

DEFAULTS = Options()
METRICS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


class Checkpoint(Protocol):
    """What `fit` needs in order to be resumable; `ntkgen.records.Checkpointer` is one.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> import numpy as np
      >>> from ntkgen import ensemble, records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     kept: ensemble.Checkpoint = records.Checkpointer(Path(folder))
      ...     kept.save(1, {"bias": np.ones(2)}, final=True)
      ...     epoch, tree = kept.restore({"bias": np.zeros(2)})
      >>> epoch, tree["bias"].tolist()
      (1, [1.0, 1.0])
    """

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Return the last intact (epoch, tree of numpy arrays shaped like `like`), or None."""

    def save(self, epoch: int, tree: PyTree, *, final: bool) -> None:
        """Keep the tree of an epoch; may skip it unless final."""

    def scope(self, name: str) -> "Checkpoint":
        """Return a checkpoint of its own for a part of the run."""


class Result(NamedTuple):
    """A trained ensemble; every array leads with the seed axis (S,).

    Attributes:
      variables: trained variables, on the device; in memory (numpy) if the seeds went in chunks.
      initial: variables before the first step, likewise.
      history: train_loss, train_accuracy, test_loss, test_accuracy and learning_rate, each float64 (S, epochs), after
        each epoch in evaluation mode; losses in nats (or half squared errors), accuracies as fractions. NaN where
        nothing was measured, and accuracies where targets are no class labels.
      probes: for each probe a pytree of arrays (S, len(epochs), ...).
      diverged: bool (S,), True where the training loss stopped being finite.
      epochs: int (S,), those that were trained: fewer than config.epochs where `config.stop_loss` was reached before.
        From there on history repeats the last values.
      strategy: how the seed axis was walked: {strategy, devices, seeds_per_chunk}.
      seconds: wall-clock {train, evaluate}, compilation included.
    """

    variables: PyTree
    initial: PyTree
    history: dict[str, np.ndarray]
    probes: Any
    diverged: np.ndarray
    epochs: np.ndarray
    strategy: dict[str, Any]
    seconds: dict[str, float]


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    """Copy all arrays, by one program and not by one for each shape."""
    return jax.tree.map(jnp.copy, tree)


def fit(
    model: nn.Module,
    dataset: Any,
    config: train.Config,
    seeds: int | Sequence[int],
    *,
    test: Any = None,
    init: PyTree | None = None,
    masks: PyTree | None = None,
    update: train.Update | None = None,
    probes: Any = (),
    checkpoint: Checkpoint | str | os.PathLike | None = None,
    options: Options = DEFAULTS,
    progress: Callable[[int, int, dict[str, np.ndarray]], None] | bool | None = None,
) -> Result:
    """Train one network for every seed.

    Seed s is a pure function of (model, dataset, config, s), and repeats bit for bit on the same machine. Which seeds
    run beside it, the strategy and the devices change the rounding of its steps, which long training amplifies.

    Example:
      >>> from ntkgen import data, ensemble, models, train
      >>> digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
      >>> result = ensemble.fit(models.MLP(4, depth=2), digits, config, seeds=2)
      >>> result.history["test_accuracy"].shape, result.diverged.tolist()
      ((2, 1), [False, False])
      >>> result.variables["params"]["dense0"]["kernel"].shape
      (2, 64, 4)
      >>> again = ensemble.fit(models.MLP(4, depth=2), digits.train, config, seeds=2, test=digits.test)  # pairs (x, y)
      >>> bool((again.history["test_loss"] == result.history["test_loss"]).all())
      True

    Args:
      model: Flax module mapping x (n, ...) to outputs; may hold batch statistics and use dropout, with one of the
        training switches `functions.SWITCHES` in its call.
      dataset: `ntkgen.data.Dataset`, or anything with .train.x, .train.y, .test.x, .test.y, or a pair of arrays (x, y)
        of the training set, taken as they are (`data.from_arrays` standardises). For the named losses y is class
        labels, integers (n,) or (n, 1), (n, T) for outputs (n, T, k), or real targets of the outputs' shape. Integer x
        are tokens. Data in float64 are trained on in float32 unless a param is float64.
      config: what to do.
      seeds: a number of seeds (0, 1, ...) or the seeds themselves; with `init`, whose rows differ, a seed may repeat.
      test: a pair of arrays (x, y), the test set beside a pair as dataset.
      init: variables with a leading seed axis, instead of fresh ones.
      masks: pytree like params with a leading seed axis; zeros are enforced at every step.
      update: replaces the gradient: update(loss, params, batch, key) -> (gradient, model state), where
        loss(params, batch, weights=None) -> (mean loss, model state). See `train.train_step`.
      probes: (epochs, fn) or a sequence of such pairs; fn(params[, context]) -> pytree is evaluated for every seed
        after each of the epochs (options.start_epoch is the start, config.epochs the end); an `OnHost` for all seeds
        at once.
      checkpoint: a folder, or a `records.Checkpointer`, where progress is kept; the run continues from what it holds,
        and ends as if it had never stopped. What other arguments made is refused.
      options: which seeds run together and how, the first epoch, and which epochs are measured; see `Options`.
      progress: True for a bar; or a function that is called after each epoch as progress(seeds of earlier chunks,
        epoch, this chunk's metrics).

    Returns:
      The trained networks with their history; see `Result`.

    Raises:
      ValueError: an argument does not fit the others; the message names it.
    """
    kept: Any = _resume.keeper(checkpoint)
    job = _job.prepare(model, dataset, config, seeds, test, init, masks, update, probes, options)
    seeds, span, layout, chunk, pairs = job.seeds, job.span, job.layout, job.chunk, job.pairs

    def made_by() -> dict[str, str]:
        words = {"seeds": seeds, "start_epoch": options.start_epoch, "evaluate_at": options.evaluate_at}
        words |= {"update": update, "probes": [epoch for when, _ in pairs for epoch in when]}
        return _resume.made_by(model, config, words, {"dataset": job.splits, "init": init, "masks": masks})

    parts = []
    with _resume.reporter(progress, len(seeds), config.epochs) as call:
        if hasattr(kept, "claim"):
            kept.claim(made_by)
        for start in range(0, len(seeds), chunk):
            rows = slice(start, start + chunk)
            own = seeds[rows]
            scope = kept
            if kept is not None and chunk < len(seeds):
                which = f"seeds_{own[0]}_{own[-1]}" if len(set(seeds)) == len(seeds) else f"rows_{start}"
                scope = kept.scope(which)
            report = None if call is None else functools.partial(call, start)
            given = (*(_rows(tree, rows) for tree in (init, masks)), pairs, scope, report)
            part = _fit_chunk(layout, job.program, job.splits, config, span, own, *given)
            # What does not fit on the device together must not gather there either.
            parts.append(part if chunk >= len(seeds) else jax.device_get(part))

    seconds = {key: sum(part.seconds[key] for part in parts) for key in ("train", "evaluate")}
    first = parts[0]
    if len(parts) > 1:
        arrays = [part._replace(strategy={}, seconds={}) for part in parts]
        first = jax.tree.map(lambda *leaves: np.concatenate(leaves), *arrays)
    how = {"strategy": layout.strategy, "devices": layout.num_devices, "seeds_per_chunk": min(chunk, len(seeds))}
    return first._replace(probes=first.probes[0] if job.single else first.probes, strategy=how, seconds=seconds)


def _rows(tree: PyTree, rows: slice) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _store(values: PyTree, index: int, new: PyTree) -> None:
    """Write one probe's value into its column of preallocated arrays."""
    for out, leaf in zip(jax.tree.leaves(values), jax.tree.leaves(new), strict=True):
        out[:, index] = leaf


def _fit_chunk(
    layout: Layout,
    program: train.Program,
    splits: tuple[train.Batch, train.Batch],
    config: train.Config,
    span: Span,
    seeds: list[int],
    init: PyTree | None,
    masks: PyTree | None,
    pairs: tuple,
    checkpoint: Checkpoint | None,
    progress: Callable | None,
) -> Result:
    """Train seeds that fit in memory together."""
    num_seeds = len(seeds)
    keys = jax.vmap(functools.partial(train.run_keys, vary=config.vary))(jnp.asarray(seeds))
    keys, init, masks = (place(layout, tree, seeds=True) for tree in (keys, init, masks))
    data, test = (place(layout, jax.tree.map(jnp.asarray, split), seeds=False) for split in splits)
    variables = (
        programs.init(layout, program.model, jax.tree.map(lambda leaf: leaf[:1], data.x), keys.init)
        if init is None
        else init
    )
    state = programs.start(layout, program, variables, masks)
    initial = state.variables
    state = _copy(state)  # epochs donate the state; `initial` and the caller's `init` stay

    def measure(fn: Callable, epoch: int) -> PyTree:
        rest = {name: value for name, value in state.variables.items() if name != "params"}
        rate = jnp.asarray(config.rate(max(epoch - 1, 0)))
        if isinstance(fn, OnHost):
            params, rest, first = trim((state.variables["params"], rest, initial["params"]), num_seeds)
            return jax.tree.map(np.asarray, fn(params, Context(rest, first, jnp.asarray(epoch), rate)))
        value = compiled_probe(layout, fn, state.variables["params"], rest, initial["params"], jnp.asarray(epoch), rate)
        return jax.tree.map(np.asarray, trim(value, num_seeds))

    def empty(fn: Callable, when: tuple[int, ...]) -> PyTree:
        if isinstance(fn, OnHost):
            return jax.tree.map(lambda s: np.zeros((num_seeds, len(when), *s.shape), s.dtype), fn.like)
        shapes = jax.eval_shape(
            functools.partial(compiled_probe, layout, fn),
            state.variables["params"],
            {k: v for k, v in state.variables.items() if k != "params"},
            initial["params"],
            jnp.asarray(0),
            jnp.asarray(0.0),
        )
        return jax.tree.map(lambda s: np.zeros((num_seeds, len(when), *s.shape[1:]), s.dtype), shapes)

    history = {name: np.full((num_seeds, config.epochs), np.nan) for name in METRICS}
    history["learning_rate"] = np.tile([config.rate(epoch) for epoch in range(config.epochs)], (num_seeds, 1))
    probes = tuple(empty(fn, when) for when, fn in pairs)

    def run_probes(epoch: int) -> None:
        for (when, fn), values in zip(pairs, probes, strict=True):
            if epoch in when:
                _store(values, when.index(epoch), measure(fn, epoch))

    first = span.start
    restored = None if checkpoint is None else checkpoint.restore((state, history, probes))
    if restored is None:
        run_probes(span.start)
    else:
        first, (saved, history, probes) = restored
        state = place(layout, saved, seeds=True)

    seconds = {"train": 0.0, "evaluate": 0.0}
    trained = _trained(history["train_loss"], config)
    for epoch in range(first, config.epochs):
        times = [time.perf_counter()]
        rate = jnp.asarray(config.rate(epoch))
        if (trained <= epoch).all():  # all have stopped
            for name in METRICS:
                history[name][:, epoch:] = history[name][:, epoch - 1 : epoch]
            for later in range(epoch + 1, config.epochs + 1):
                run_probes(later)
            break
        active = None if config.stop_loss is None else place(layout, jnp.asarray(trained > epoch), seeds=True)
        state = jax.block_until_ready(
            programs.train_epoch(layout, program, state, keys.order, jnp.asarray(epoch), rate, data, masks, active)
        )
        times.append(time.perf_counter())
        values = np.full((num_seeds, len(METRICS)), np.nan)
        if epoch + 1 in span.measured:
            values = np.asarray(programs.evaluate(layout, program, state.variables, data, test))[:num_seeds]
        times.append(time.perf_counter())
        metrics = {name: values[:, column] for column, name in enumerate(METRICS)}
        for name, column in metrics.items():
            history[name][:, epoch] = column
        for name, spent in zip(seconds, np.diff(times), strict=True):
            seconds[name] += float(spent)
        trained = _trained(history["train_loss"], config)
        run_probes(epoch + 1)
        if checkpoint is not None:
            last = epoch + 1 == config.epochs or bool((trained <= epoch + 1).all())
            checkpoint.save(epoch + 1, (state, history, probes), final=last)
        if progress is not None:
            progress(epoch + 1, metrics)

    diverged = ~np.isfinite(history["train_loss"][:, [epoch - 1 for epoch in sorted(span.measured)]]).all(1)
    variables, initial = trim(state.variables, num_seeds), trim(initial, num_seeds)
    return Result(variables, initial, history, probes, diverged, trained, {}, seconds)


def _trained(losses: np.ndarray, config: train.Config) -> np.ndarray:
    """Return after how many epochs each seed stops, given its losses (S, epochs) so far, NaN where not measured."""
    if config.stop_loss is None:
        return np.full(len(losses), config.epochs)
    below = losses <= config.stop_loss
    return np.where(below.any(1), below.argmax(1) + 1, config.epochs)
