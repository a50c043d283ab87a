"""The compiled programs that `fit` runs over the seed axis.

For benchmarks and for loops of one's own; `fit` decides the layout, checks what it is given, and stores what comes out.
The first two arguments are static. Every array of variables, state, keys and masks leads with the seed axis (S,).
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntkgen import functions, train
from ntkgen.ensemble._layout import Layout, over_seeds, side_by_side
from ntkgen.typing import Array, PyTree

# XLA options that made "unrolled" fast: channels last, and command buffers (CUDA graphs) in which kernels that do not
# depend on each other may run at once. Source: figures/seed_axis_h200.csv, five CNNs of 32 channels on one H200: 219.9
# ms an epoch with both, 309.9 without running at once, 348.9 with channels last alone.
UNROLLED_ON_GPU: dict[str, bool | int | str] = {
    "xla_gpu_force_conv_nhwc": True,
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,CONVOLUTION",
    "xla_gpu_graph_min_graph_size": 1,
    "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT",
}


def compiler_options(layout: Layout, backend: str) -> dict[str, bool | int | str] | None:
    """Return the XLA options that `train_epoch` is compiled with: those of "unrolled" on a GPU, else None.

    Example:
      >>> from ntkgen import ensemble
      >>> unrolled = ensemble.Layout("unrolled")
      >>> ensemble.programs.compiler_options(unrolled, "gpu")["xla_gpu_force_conv_nhwc"]
      True
      >>> ensemble.programs.compiler_options(unrolled, "cpu") is None
      True

    Args:
      layout: how the seed axis is walked.
      backend: "cpu", "gpu" or "tpu", as `jax.default_backend()` names it.
    """
    return dict(UNROLLED_ON_GPU) if layout.strategy == "unrolled" and backend == "gpu" else None


class _Compiled:
    """An epoch, compiled with the options of its layout and backend."""

    def __init__(self, fn: Callable[..., train.TrainState]) -> None:
        functools.update_wrapper(self, fn)
        # XLA's options -> what is compiled with them: at most two.
        self._jitted = functools.cache(
            lambda fast: jax.jit(
                fn, static_argnums=(0, 1), donate_argnums=2, compiler_options=UNROLLED_ON_GPU if fast else None
            )
        )

    def __call__(self, layout: Layout, *given: Any, **named: Any) -> train.TrainState:
        return self._own(layout)(layout, *given, **named)

    def lower(self, layout: Layout, *given: Any) -> Any:
        """Lower the program for arrays or their shapes, as a jitted function's `lower` does."""
        return self._own(layout).lower(layout, *given)

    def _own(self, layout: Layout) -> Any:
        return self._jitted(compiler_options(layout, jax.default_backend()) is not None)


@functools.partial(jax.jit, static_argnums=(0, 1))
def init(layout: Layout, model: nn.Module, x: Array, keys: Array) -> PyTree:
    """Return the variables of every seed: x is one batch, keys (S,).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import ensemble, models
      >>> model, keys = models.MLP(4, depth=2, num_classes=2), jax.random.split(jax.random.key(0), 3)
      >>> variables = ensemble.programs.init(ensemble.Layout("vmap"), model, jnp.ones((8, 3)), keys)
      >>> variables["params"]["dense0"]["kernel"].shape
      (3, 3, 4)
    """
    # One key at a time whatever the strategy: half the compilation, and the draws are the same.
    fn = functools.partial(functions.init, model)
    return over_seeds(layout._replace(strategy="sequential"), fn, (0, None))(keys, x)


@functools.partial(jax.jit, static_argnums=(0, 1))
def start(layout: Layout, program: train.Program, variables: PyTree, masks: PyTree | None) -> train.TrainState:
    """Return the state of training before the first step; the variables and masks lead with the seed axis.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import ensemble, models, train
      >>> model, keys = models.MLP(4, depth=2, num_classes=2), jax.random.split(jax.random.key(0), 3)
      >>> variables = ensemble.programs.init(ensemble.Layout("vmap"), model, jnp.ones((8, 3)), keys)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> state = ensemble.programs.start(ensemble.Layout("vmap"), program, variables, None)
      >>> state.variables["params"]["dense0"]["bias"].shape
      (3, 4)
    """
    axes = (0, None if masks is None else 0)
    fn = functools.partial(train.init_state, program)
    return over_seeds(layout._replace(strategy="vmap"), fn, axes)(variables, masks)


@_Compiled
def train_epoch(
    layout: Layout,
    program: train.Program,
    state: train.TrainState,
    keys: Array,
    epoch: Array,
    rate: Array,
    data: train.Batch,
    masks: PyTree | None,
    active: Array | None = None,
) -> train.TrainState:
    """Train every seed for one epoch; the state's memory is given away.

    On a GPU an unrolled layout is compiled with `compiler_options`, which XLA takes from the outermost program only: do
    not call it there inside another jitted function.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import ensemble, models, train
      >>> layout, model = ensemble.Layout("vmap"), models.MLP(4, depth=2, num_classes=2)
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> data, rate = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int)), jnp.array(0.1)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> state = ensemble.programs.start(layout, program, ensemble.programs.init(layout, model, data.x, keys), None)
      >>> after = ensemble.programs.train_epoch(layout, program, state, keys, jnp.array(0), rate, data, None)
      >>> after.variables["params"]["dense0"]["kernel"].shape
      (3, 3, 4)

    Args:
      layout: how the seed axis is walked.
      program: what is trained.
      state: of all seeds.
      keys: the seeds' order keys (S,).
      epoch: number of the epoch, from 0.
      rate: learning rate of the epoch.
      data: training examples, the same for all seeds.
      masks: of all seeds, or None.
      active: booleans (S,), False for seeds whose state is to stay; None trains all.
    """

    def kept(trained: train.TrainState, state: train.TrainState, active: Array | None) -> train.TrainState:
        if active is None:
            return trained
        return jax.tree.map(lambda new, old: jnp.where(active, new, old), trained, state)

    def one(state: train.TrainState, *given: PyTree) -> train.TrainState:
        return kept(train.train_epoch(program, state, *given[:-1]), state, given[-1])

    def together(
        states: list, keys: list, epoch: Array, rate: Array, data: train.Batch, masks: list, active: list
    ) -> list:
        trained = train.train_epochs(program, states, keys, epoch, rate, data, masks)
        return [kept(*own) for own in zip(trained, states, active, strict=True)]

    axes = (0, 0, None, None, None, None if masks is None else 0, None if active is None else 0)
    given = (state, keys, epoch, rate, data, masks, active)
    if layout.strategy == "unrolled":
        return side_by_side(layout, together, axes, lists=(0, 1, 5, 6))(*given)
    return over_seeds(layout, one, axes)(*given)


@functools.partial(jax.jit, static_argnums=(0, 1))
def evaluate(layout: Layout, program: train.Program, variables: PyTree, data: train.Batch, test: train.Batch) -> Array:
    """Return training loss and accuracy, test loss and accuracy of every seed -> (S, 4).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import ensemble, models, train
      >>> layout, model = ensemble.Layout("vmap"), models.MLP(4, depth=2, num_classes=2)
      >>> keys = jax.random.split(jax.random.key(0), 3)
      >>> data = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int))
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> variables = ensemble.programs.init(layout, model, data.x, keys)
      >>> ensemble.programs.evaluate(layout, program, variables, data, data).shape
      (3, 4)
    """

    def one(variables: PyTree, data: train.Batch, test: train.Batch) -> Array:
        return jnp.stack([*train.evaluate(program, variables, data), *train.evaluate(program, variables, test)])

    return over_seeds(layout, one, (0, None, None))(variables, data, test)
