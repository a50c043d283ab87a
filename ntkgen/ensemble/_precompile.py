"""Compile what a fit will run, without running it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ntkgen import train
from ntkgen.ensemble import _job, _probes, programs
from ntkgen.ensemble._options import Options
from ntkgen.typing import PyTree


def precompile(
    model: Any,
    dataset: Any,
    config: train.Config,
    seeds: int | Sequence[int],
    *,
    test: Any = None,
    init: PyTree | None = None,
    masks: PyTree | None = None,
    update: train.Update | None = None,
    probes: Any = (),
    options: Options | None = None,
) -> None:
    """Compile the programs of a `fit` with the same arguments, which then finds them compiled, in the same process.

    Call it in a thread while other networks train; `records.Run.ahead` does. XLA compiles outside Python's lock. With
    several devices, and for probes on the host, nothing is compiled.

    Example:
      >>> from ntkgen import data, ensemble, models, train
      >>> digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
      >>> given = models.MLP(4, depth=2), digits, config, 2
      >>> ensemble.precompile(*given)
      >>> result = ensemble.fit(*given)  # begins to train at once

    Args:
      model: as in `fit`, as are all that follow.
      dataset: its arrays are checked and not copied to the device.
      config: what to do.
      seeds: a number of seeds, or the seeds themselves.
      test: the test set beside a pair.
      init: variables, or their shapes (`jax.ShapeDtypeStruct`).
      masks: masks, or their shapes.
      update: replaces the gradient.
      probes: functions that are evaluated along training.
      options: how it trains.

    Raises:
      ValueError: `fit` would refuse an argument.
    """
    job = _job.prepare(model, dataset, config, seeds, test, init, masks, update, probes, options or Options())
    layout, program = job.layout, job.program
    if layout.mesh is not None:
        return
    num_seeds = min(job.chunk, len(job.seeds))
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), num_seeds))
    data, test = (jax.eval_shape(lambda split=split: jax.tree.map(jnp.asarray, split)) for split in job.splits)
    variables = _leading(init, num_seeds)
    if init is None:
        first = jax.eval_shape(lambda x: jax.tree.map(lambda leaf: leaf[:1], x), data.x)
        variables = _compile(programs.init, layout, program.model, first, key)
    masks = _leading(masks, num_seeds)
    state = _compile(programs.start, layout, program, variables, masks)
    epoch, rate = (jax.eval_shape(lambda number=number: jnp.asarray(number)) for number in (0, config.rate(0)))
    active = None if config.stop_loss is None else jax.ShapeDtypeStruct((num_seeds,), bool)
    programs.train_epoch.lower(layout, program, state, key, epoch, rate, data, masks, active).compile()
    _compile(programs.evaluate, layout, program, state.variables, data, test)
    rest = {name: value for name, value in state.variables.items() if name != "params"}
    for _, fn in job.pairs:
        if not isinstance(fn, _probes.OnHost):
            params = state.variables["params"]
            _compile(_probes.compiled, layout, fn, params, rest, params, epoch, rate)


def _leading(tree: PyTree | None, num_seeds: int) -> PyTree | None:
    """Return a tree's shapes for the seeds that are trained together."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_seeds, *leaf.shape[1:]), leaf.dtype), tree)


def _compile(fn: Any, *given: Any) -> PyTree:
    """Compile a jitted function of two static arguments; returns the shapes of its result."""
    lowered = fn.lower(*given)
    lowered.compile()
    return lowered.out_info
