"""How a program walks the seed axis: batched, one seed after another, spread over devices, in chunks that fit.

* "vmap": all seeds in one batched step. Best for small dense layers, where it hides the cost of dispatch.
* "sequential": `lax.map` over seeds inside the program. Best for convolutions, whose batched kernels become slow
  grouped convolutions, and on CPU for wide layers, whose single matmul already fills the cores.
* "unrolled": the loop over steps is outside, and the seeds stand side by side in the program of each step. For long
  training of convolutions on a GPU, where kernels of several seeds may run at once (`programs.compiler_options`); the
  program is as many times larger, and so is compilation. Evaluation and probes go as in "sequential". `auto` does not
  choose it: see `choose_strategy`.

Several local devices share the axis through `jax.sharding`; on each the strategy is the same.
"""

import contextlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ntkgen import memory, models
from ntkgen.choices import STRATEGIES
from ntkgen.typing import PyTree

# Widest hidden layer (units) up to which one batched step beats a loop over seeds on CPU; measured by
# experiments/benchmarks/training.py, see BUILD_NOTES.md.
VMAP_MAX_WIDTH_CPU = 256
COPIES = 6  # of the params that training holds: params, initial, gradient, update, two optimizer buffers


class Layout(NamedTuple):
    """Static layout of the seed axis.

    Attributes:
      strategy: one other than "auto".
      mesh: the devices, None for a single one.
      form: what `vmap` makes of 3x3 convolutions, one of `models.CONVOLUTION_FORMS`. `plan` leaves it at "loop"; others
        are for experiments with `programs` on a GPU.
    """

    strategy: str
    mesh: Mesh | None = None
    form: str = "loop"

    @property
    def num_devices(self) -> int:
        """Devices that share the axis."""
        return 1 if self.mesh is None else self.mesh.size


def plan(strategy: str, variables: PyTree, num_seeds: int) -> Layout:
    """Lay out `num_seeds` seeds of a network over all local devices.

    Example:
      >>> import jax
      >>> from ntkgen import ensemble, models
      >>> variables = models.init(models.MLP(4, depth=2, num_classes=2), jax.random.key(0), (3,))
      >>> ensemble.plan("vmap", variables, num_seeds=1)
      Layout(strategy='vmap', mesh=None, form='loop')

    Args:
      strategy: "auto", "vmap", "sequential" or "unrolled".
      variables: one seed's variables, arrays or shapes.
      num_seeds: length of the axis.

    Returns:
      The layout; at most one device for each seed.

    Raises:
      ValueError: the strategy is unknown.
    """
    check_strategy(strategy)
    chosen = choose_strategy(variables) if strategy == "auto" else strategy
    devices = jax.local_devices()[:num_seeds]
    return Layout(chosen, Mesh(np.array(devices), ("seed",)) if len(devices) > 1 else None)


def check_strategy(strategy: str) -> None:
    """Refuse an unknown strategy by a ValueError that names it."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy: expected one of {', '.join(STRATEGIES)}, got {strategy!r}")


def choose_strategy(variables: PyTree, backend: str | None = None) -> str:
    """Choose between vmap and sequential from the shapes of one seed's kernels.

    A pure function of network and platform, so that a resumed run repeats the choice. Convolutions: sequential; five
    seeds of the CNN of 32 channels took 360 ms an epoch so, and 514 ms by vmap (one H100, BUILD_NOTES.md). Unrolled
    trains them faster on a GPU, 220 ms an epoch and not 340, but takes 16 s more to compile: it pays after about 130
    epochs (10,000 images, one H200, figures/seed_axis_h200.csv), and `Options(strategy="unrolled")` asks for it. Other
    networks: vmap, but on CPU sequential for layers wider than `VMAP_MAX_WIDTH_CPU`.

    Example:
      >>> import jax, numpy as np
      >>> from ntkgen import ensemble
      >>> dense, convolution = (jax.ShapeDtypeStruct(shape, np.float32) for shape in ((8, 4), (3, 3, 8, 4)))
      >>> [ensemble.choose_strategy({"params": {"kernel": leaf}}) for leaf in (dense, convolution)]
      ['vmap', 'sequential']

    Args:
      variables: one seed's variables, arrays or shapes.
      backend: "cpu", "gpu" or "tpu"; default the current one.

    Returns:
      "vmap" or "sequential".
    """
    kernels = _kernel_shapes(variables)
    if any(len(shape) > 2 for shape in kernels):
        return "sequential"
    if (backend or jax.default_backend()) != "cpu":
        return "vmap"
    return "vmap" if max((shape[-1] for shape in kernels), default=0) <= VMAP_MAX_WIDTH_CPU else "sequential"


def seeds_per_chunk(variables: PyTree, batch_size: int, pixels: int, layout: Layout) -> int:
    """Estimate how many seeds fit in memory at once.

    Counts `COPIES` of the params (params, initial, gradient, update, two optimizer buffers) for every seed, and for
    vmap and unrolled each seed's activations too: four arrays of batch x units for every kernel, times the pixels of
    the input for a convolution. What they may take together is `memory.budget`.

    Example:
      >>> import jax, numpy as np
      >>> from ntkgen import ensemble
      >>> variables = {"params": {"dense0": {"kernel": jax.ShapeDtypeStruct((784, 10), np.float32)}}}
      >>> ensemble.seeds_per_chunk(variables, 128, 28 * 28, ensemble.Layout("vmap")) > 100
      True

    Args:
      variables: one seed's variables, arrays or shapes.
      batch_size: examples a step.
      pixels: height x width of the input.
      layout: strategy and devices.

    Returns:
      Seeds a chunk, at least one for each device.
    """
    params = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    units = sum(shape[-1] * (pixels if len(shape) > 2 else 1) for shape in _kernel_shapes(variables))
    per_seed = 4 * (COPIES * params + (4 * batch_size * units if layout.strategy != "sequential" else 0))
    return max(1, memory.budget() // per_seed) * layout.num_devices


def check_fits(num_params: int, name: str) -> None:
    """Refuse a network of which not even one seed can be trained.

    Example:
      >>> from ntkgen import ensemble
      >>> ensemble.check_fits(1000, "width 8")
      >>> try:
      ...     ensemble.check_fits(10**15, "width 10,000,000")
      ... except ValueError as error:
      ...     print(error)
      width 10,000,000: training one seed takes 22,351,742 GiB, the device has ...

    Args:
      num_params: its learned numbers.
      name: what the user calls it.

    Raises:
      ValueError: its parameters, gradient and optimizer state exceed the device's memory.
    """
    needed, there_is = 4 * COPIES * num_params / 2**30, memory.total() / 2**30
    if needed > there_is:
        raise ValueError(f"{name}: training one seed takes {needed:,.0f} GiB, the device has {there_is:,.0f}")


def _kernel_shapes(variables: PyTree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(variables["params"]) if len(leaf.shape) >= 2]


def over_seeds(layout: Layout, fn: Callable, in_axes: tuple[int | None, ...]) -> Callable:
    """Lift a one-seed function to arguments with a leading seed axis where in_axes is 0.

    Args:
      layout: strategy and devices.
      fn: function of positional pytrees.
      in_axes: 0 or None for each argument, as in `jax.vmap`.

    Returns:
      The lifted function; its outputs lead with the seed axis.
    """

    def lifted(*args: Any) -> Any:
        if layout.strategy == "vmap":
            chosen = contextlib.nullcontext() if layout.form == "loop" else models.convolutions(layout.form)
            with chosen:
                return jax.vmap(fn, in_axes)(*args)

        def one(own: list[Any]) -> Any:
            rest = iter(own)
            return fn(*(next(rest) if axis == 0 else arg for arg, axis in zip(args, in_axes, strict=True)))

        return jax.lax.map(one, [arg for arg, axis in zip(args, in_axes, strict=True) if axis == 0])

    return _over_devices(layout, lifted, in_axes)


def side_by_side(layout: Layout, fn: Callable, in_axes: tuple[int | None, ...], lists: tuple[int, ...]) -> Callable:
    """Lift a function of lists, an entry for each seed, to arguments with a leading seed axis.

    Args:
      layout: strategy and devices.
      fn: function of positional pytrees; it returns a list of one pytree for each seed.
      in_axes: 0 or None for each argument, as in `jax.vmap`.
      lists: arguments that fn takes as lists; those without a seed axis are repeated.

    Returns:
      The lifted function; its outputs lead with the seed axis.
    """

    def lifted(*args: Any) -> Any:
        seeds = next(len(jax.tree.leaves(arg)[0]) for arg, axis in zip(args, in_axes, strict=True) if axis == 0)

        def split(arg: Any, axis: int | None) -> list[Any]:
            if axis is None:
                return [arg] * seeds
            return [jax.tree.map(lambda leaf, seed=seed: leaf[seed], arg) for seed in range(seeds)]

        given = [
            split(arg, axis) if i in lists else arg for i, (arg, axis) in enumerate(zip(args, in_axes, strict=True))
        ]
        return jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *fn(*given))

    return _over_devices(layout, lifted, in_axes)


def _over_devices(layout: Layout, lifted: Callable, in_axes: tuple[int | None, ...]) -> Callable:
    if layout.mesh is None:
        return lifted
    specs = tuple(PartitionSpec() if axis is None else PartitionSpec("seed") for axis in in_axes)
    # Nothing is communicated, and scans start from replicated zeros: the varying-axes check would only object.
    return jax.shard_map(lifted, mesh=layout.mesh, in_specs=specs, out_specs=PartitionSpec("seed"), check_vma=False)


def place(layout: Layout, tree: PyTree, *, seeds: bool) -> PyTree:
    """Put a pytree on the devices: split along its leading seed axis, or whole on each.

    An axis that the devices do not divide is padded with copies of the last seed; `trim` drops them again.

    Example:
      >>> import numpy as np
      >>> from ntkgen import ensemble
      >>> ensemble.place(ensemble.Layout("vmap"), {"bias": np.zeros((2, 4))}, seeds=True)["bias"].shape
      (2, 4)
    """
    if layout.mesh is None:
        return jax.tree.map(jax.numpy.asarray, tree)
    if seeds:
        tree = jax.tree.map(lambda leaf: _pad(leaf, layout.num_devices), tree)
    sharding = NamedSharding(layout.mesh, PartitionSpec("seed") if seeds else PartitionSpec())
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding), tree)


def _pad(leaf: Any, multiple: int) -> Any:
    missing = -leaf.shape[0] % multiple
    return jax.numpy.concatenate([leaf, *[leaf[-1:]] * missing]) if missing else leaf


def trim(tree: PyTree, num_seeds: int) -> PyTree:
    """Drop the copies that `place` padded with."""
    return jax.tree.map(lambda leaf: leaf if leaf.shape[0] == num_seeds else leaf[:num_seeds], tree)
