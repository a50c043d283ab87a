"""Train many seeds of a network in one call; every array of the result leads with the seed axis.

The programs that `fit` runs are in `programs`.

Longer than 350 lines for its docstrings and examples, 26 % of it.
"""

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import functions, train
from ntkgen.ensemble import _checks, _layout, _resume, programs
from ntkgen.ensemble._layout import Layout, over_seeds, place, trim
from ntkgen.ensemble._options import Options, whole
from ntkgen.typing import Array, PyTree

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


class Context(NamedTuple):
    """What a probe may want beside params.

    Attributes:
      model_state: the seed's other collections (batch statistics).
      initial: the seed's initial params.
      epoch: epochs done, scalar integer.
      rate: learning rate of the last epoch, scalar (the first epoch's at epoch 0).
    """

    model_state: dict[str, Any]
    initial: PyTree
    epoch: Array
    rate: Array


@dataclass(frozen=True)
class OnHost:
    """A probe for what cannot be traced, such as a tangent kernel: it runs as plain Python between epochs.

    Example:
      >>> import jax, numpy as np
      >>> from ntkgen import data, ensemble, models, train
      >>> def largest_bias(params, context):
      ...     return np.abs(params["dense0"]["bias"]).max(1)
      >>> probe = ensemble.OnHost(largest_bias, like=jax.ShapeDtypeStruct((), np.float32))
      >>> digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
      >>> result = ensemble.fit(models.MLP(4, depth=2), digits, config, seeds=2, probes=([0, 1], probe))
      >>> result.probes.shape  # seeds, epochs
      (2, 2)

    Attributes:
      fn: fn(params, context) -> pytree of arrays (S, ...), where every leaf of params, of context.model_state and of
        context.initial leads with the axis of the S seeds that are trained together.
      like: the pytree that fn returns, as shapes and dtypes of one seed, without that axis.
    """

    fn: Callable[[PyTree, Context], PyTree]
    like: PyTree

    def __call__(self, params: PyTree, context: Context) -> PyTree:
        """Measure."""
        return self.fn(params, context)


@dataclass(frozen=True)
class _Traced:
    """A probe that is compiled: equal where it reads the same values from outside, which `code` tells."""

    fn: Callable
    code: Any

    @classmethod
    def of(cls, fn: Callable, shapes: PyTree) -> "_Traced":
        """Trace a probe of one seed's variables."""
        rest, params = {k: v for k, v in shapes.items() if k != "params"}, shapes["params"]
        call = cls(fn, None)
        return cls(fn, functions.fingerprint(call, params, Context(rest, params, jnp.asarray(0), jnp.asarray(0.0))))

    def __call__(self, params: PyTree, context: Context) -> PyTree:
        """Measure one seed."""
        return self.fn(params, context) if _num_arguments(self.fn) > 1 else self.fn(params)


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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _probe(
    layout: Layout, fn: Callable, params: PyTree, state: PyTree, initial: PyTree, epoch: Array, rate: Array
) -> PyTree:
    def one(params: PyTree, state: PyTree, initial: PyTree, epoch: Array, rate: Array) -> PyTree:
        return fn(params, Context(state, initial, epoch, rate))

    return over_seeds(layout, one, (0, 0, 0, None, None))(params, state, initial, epoch, rate)


@jax.jit
def _copy(tree: PyTree) -> PyTree:
    """Copy all arrays, by one program and not by one for each shape."""
    return jax.tree.map(jnp.copy, tree)


def _num_arguments(fn: Callable) -> int:
    """Count the positional arguments that a function accepts, up to two."""
    parameters = inspect.signature(fn).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


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
    if not isinstance(options, Options):
        raise ValueError(f"options: expected ensemble.Options, got {options!r}")
    if not isinstance(seeds, int | np.integer | Iterable) or isinstance(seeds, str):
        raise ValueError(f"seeds: expected how many, or a sequence of whole numbers, got {seeds!r}")
    seeds = list(range(seeds)) if isinstance(seeds, int | np.integer) else [whole("seeds", seed) for seed in seeds]
    repeat = init is None and len(set(seeds)) < len(seeds)
    if not seeds or not 0 <= min(seeds) <= max(seeds) < 2**31 or repeat:
        raise ValueError(f"seeds: expected at least one, distinct without init, in 0 ... 2^31 - 1, got {seeds}")
    kept: Any = _resume.keeper(checkpoint)
    program, shapes, data, test = _checks.prepare(model, _checks.splits(dataset, test), config, update, init)
    _check_tree("init", init, shapes, len(seeds))
    _check_tree("masks", masks, shapes["params"], len(seeds))
    span = _span(options, config.epochs, init is not None)
    single, pairs = _probe_pairs(probes, span.start, config.epochs)
    pairs = tuple((when, fn if isinstance(fn, OnHost) else _Traced.of(fn, shapes)) for when, fn in pairs)

    layout = _layout.plan(options.strategy, shapes, len(seeds))
    chunk = options.chunk
    if chunk is None:
        chunk = _layout.seeds_per_chunk(
            shapes, program.batch_size, _pixels(jax.tree.leaves(data.x)[0].shape[1:]), layout
        )

    def made_by() -> dict[str, str]:
        words = {"seeds": seeds, "start_epoch": options.start_epoch, "evaluate_at": options.evaluate_at}
        words |= {"update": update, "probes": [epoch for when, _ in pairs for epoch in when]}
        return _resume.made_by(model, config, words, {"dataset": (data, test), "init": init, "masks": masks})

    parts = []
    with _resume.reporter(progress, len(seeds), config.epochs) as call:
        if hasattr(kept, "claim"):
            kept.claim(made_by)
        for start in range(0, len(seeds), chunk):
            rows = slice(start, start + chunk)
            own = seeds[rows]
            scope = kept
            if kept is not None and chunk < len(seeds):
                scope = kept.scope(f"seeds_{own[0]}_{own[-1]}")
            report = None if call is None else functools.partial(call, start)
            given = (*(_rows(tree, rows) for tree in (init, masks)), pairs, scope, report)
            part = _fit_chunk(layout, program, (data, test), config, span, own, *given)
            # What does not fit on the device together must not gather there either.
            parts.append(part if chunk >= len(seeds) else jax.device_get(part))

    seconds = {key: sum(part.seconds[key] for part in parts) for key in ("train", "evaluate")}
    first = parts[0]
    if len(parts) > 1:
        arrays = [part._replace(strategy={}, seconds={}) for part in parts]
        first = jax.tree.map(lambda *leaves: np.concatenate(leaves), *arrays)
    how = {"strategy": layout.strategy, "devices": layout.num_devices, "seeds_per_chunk": min(chunk, len(seeds))}
    return first._replace(probes=first.probes[0] if single else first.probes, strategy=how, seconds=seconds)


class _Span(NamedTuple):
    """Epochs that are trained, start ... epochs - 1, and those (1-based) after which metrics are measured."""

    start: int
    measured: frozenset[int]


def _span(options: Options, epochs: int, has_init: bool) -> _Span:
    start_epoch = options.start_epoch
    if start_epoch >= epochs:
        raise ValueError(f"start_epoch: expected 0 ... {epochs - 1}, got {start_epoch}")
    if start_epoch and not has_init:
        raise ValueError(f"start_epoch: expected init, the variables after those epochs, with {start_epoch}, got none")
    if options.evaluate_at is None:
        return _Span(start_epoch, frozenset(range(start_epoch + 1, epochs + 1)))
    measured = {*options.evaluate_at, epochs}
    if not start_epoch < min(measured) <= max(measured) <= epochs:
        raise ValueError(
            f"evaluate_at: expected epochs in {start_epoch + 1} ... {epochs}, got {list(options.evaluate_at)}"
        )
    return _Span(start_epoch, frozenset(measured))


def _rows(tree: PyTree, rows: slice) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _store(values: PyTree, index: int, new: PyTree) -> None:
    """Write one probe's value into its column of preallocated arrays."""
    for out, leaf in zip(jax.tree.leaves(values), jax.tree.leaves(new), strict=True):
        out[:, index] = leaf


def _pixels(input_shape: tuple[int, ...]) -> int:
    return int(np.prod(input_shape[:-1]))


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


def _probe_pairs(probes: Any, start: int, epochs: int) -> tuple[bool, tuple[tuple[tuple[int, ...], Callable], ...]]:
    single = len(probes) == 2 and callable(probes[1])
    pairs = tuple((tuple(int(epoch) for epoch in when), fn) for when, fn in ([probes] if single else probes))
    for when, _ in pairs:
        if any(not start <= epoch <= epochs for epoch in when) or len(set(when)) < len(when):
            raise ValueError(f"probes: expected distinct epochs in {start} ... {epochs}, got {list(when)}")
    return single, pairs


def _fit_chunk(
    layout: Layout,
    program: train.Program,
    splits: tuple[train.Batch, train.Batch],
    config: train.Config,
    span: _Span,
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
        value = _probe(layout, fn, state.variables["params"], rest, initial["params"], jnp.asarray(epoch), rate)
        return jax.tree.map(np.asarray, trim(value, num_seeds))

    def empty(fn: Callable, when: tuple[int, ...]) -> PyTree:
        if isinstance(fn, OnHost):
            return jax.tree.map(lambda s: np.zeros((num_seeds, len(when), *s.shape), s.dtype), fn.like)
        shapes = jax.eval_shape(
            functools.partial(_probe, layout, fn),
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
