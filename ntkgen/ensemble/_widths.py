"""Networks of several widths in one program: the narrow ones are padded with units whose weights are zero.

Where a unit of zero weights has output zero (ReLU, tanh, GELU; batch norm without a shift), the weights that leave it
get zero gradient, and those that enter it too. SGD, momentum, Adam and weight decay then leave them at zero: the padded
network computes what the narrow one does, to rounding. It costs the widest network's arithmetic, and one compilation
for all of them.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import models, train
from ntkgen.ensemble import _checks, programs
from ntkgen.ensemble._fit import Result, fit
from ntkgen.ensemble._layout import Layout
from ntkgen.ensemble._options import whole
from ntkgen.typing import Array, PyTree

TOLERANCE = 1e-4  # of padded outputs before training, relative to the largest
EXAMPLES = 16  # on which they are compared
# Operations that a device does while an epoch and an evaluation compile. CPU: 1.1 s at 45 GFLOP/s, which MLPs of width
# 64 reach on two cores. GPU: 6 s at 16 TFLOP/s; fifty seeds of MLP 256 reach 38 on an H100, five reach 14.
WHILE_COMPILING = {"cpu": 5e10, "gpu": 1e14}


class Padded(NamedTuple):
    """Networks of several widths as rows of one fit: `fit` takes its model, seeds and init, `split` what comes out.

    Example:
      >>> from ntkgen import data, ensemble, models, train
      >>> digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
      >>> padded = ensemble.Padded.of(models.MLP, [4, 8], digits, config, seeds=2)
      >>> result = ensemble.fit(padded.model, digits, config, padded.seeds, init=padded.init)
      >>> padded.split(result)[4].variables["params"]["dense0"]["kernel"].shape
      (2, 64, 4)

    Attributes:
      model: the widest network.
      seeds: those of the first width, then of the second, and so on.
      init: variables with a row for each of them; surplus units have zeros.
      begun: width -> its own variables before training, a row for each seed.
    """

    model: Any
    seeds: list[int]
    init: PyTree
    begun: dict[int, PyTree]

    @classmethod
    def of(
        cls,
        make: Callable[[int], Any],
        widths: Sequence[int],
        dataset: Any,
        config: train.Config,
        seeds: int | Sequence[int],
        *,
        test: Any = None,
    ) -> "Padded":
        """Draw the initial weights that `fit` gives each network alone, and pad them.

        Args:
          make: width -> network, such as `models.MLP`. All widths have the same layers.
          widths: whole numbers, at least one.
          dataset: as in `fit`.
          config: as in `fit`.
          seeds: as in `fit`.
          test: as in `fit`.

        Raises:
          ValueError: an argument of `fit` is refused; widths that repeat; layers that differ between widths; a network
            that surplus units change (layer norm, a bias that no gradient holds at zero, a convolution that is
            flattened).
        """
        sizes = [whole("widths", width) for width in widths]
        if not sizes or len(set(sizes)) < len(sizes):
            raise ValueError(f"widths: expected at least one, distinct, got {list(widths)}")
        own = list(range(seeds)) if isinstance(seeds, int) else [whole("seeds", seed) for seed in seeds]
        if not own or len(set(own)) < len(own):
            raise ValueError(f"seeds: expected at least one, distinct, got {seeds}")
        splits = _checks.splits(dataset, test)
        wide = make(max(sizes))
        target = _checks.prepare(wide, splits, config, None, None)[1]
        x = jax.tree.map(lambda leaf: np.asarray(leaf[:EXAMPLES]), splits.train.x)
        keys = jax.vmap(lambda seed: train.run_keys(seed, config.vary).init)(jnp.asarray(own))
        begun, rows = {}, []

        @jax.jit
        def outputs(variables: PyTree) -> Array:
            return models.apply_fn(wide, variables)(variables["params"], x)

        for width in sizes:
            model = make(width)
            drawn = programs.init(Layout("sequential"), model, jax.tree.map(lambda leaf: leaf[:1], x), keys)
            begun[width] = jax.device_get(drawn)  # padded and cut on the host: XLA would compile each shape
            rows.append(pad(begun[width], target, width))
            _check_silent(width, (model, begun[width]), outputs(_first(rows[-1])), x)
        init = jax.tree.map(lambda *leaves: np.concatenate(leaves), *rows)
        return cls(wide, own * len(sizes), init, begun)

    def split(self, result: Result) -> dict[int, Result]:
        """Return width -> what `fit` returns, without the surplus, in memory (numpy).

        `seconds` are those of all widths together.

        Raises:
          ValueError: surplus weights did not stay zero.
        """
        count, found = len(self.seeds) // len(self.begun), {}
        arrays = jax.device_get(_arrays(result))
        for index, (width, like) in enumerate(self.begun.items()):
            part = jax.tree.map(lambda leaf, i=index: leaf[i * count : (i + 1) * count], arrays)
            trained, initial = (crop(part[name], like, width) for name in ("variables", "initial"))
            found[width] = result._replace(**{**part, "variables": trained, "initial": initial})
        return found


def fit_widths(
    make: Callable[[int], Any],
    widths: Sequence[int],
    dataset: Any,
    config: train.Config,
    seeds: int | Sequence[int],
    *,
    test: Any = None,
    **given: Any,
) -> dict[int, Result]:
    """Train a network of every width for every seed in one program, and return width -> what `fit` returns.

    Each network has the initial weights and the batches that `fit` gives it alone; its steps agree to rounding. Use it
    where compilation takes longer than training, or the networks are too small to fill a GPU (see `width_groups`).

    Example:
      >>> from ntkgen import data, ensemble, models, train
      >>> digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
      >>> found = ensemble.fit_widths(models.MLP, [4, 8], digits, config, seeds=2)
      >>> found[4].variables["params"]["dense0"]["kernel"].shape, found[8].history["test_loss"].shape
      ((2, 64, 4), (2, 1))

    Args:
      make: width -> network, such as `models.MLP`. All widths have the same layers.
      widths: whole numbers, at least one.
      dataset: as in `fit`.
      config: as in `fit`.
      seeds: as in `fit`.
      test: as in `fit`.
      **given: `checkpoint`, `options` and `progress` of `fit`.

    Raises:
      ValueError: an argument is refused; see `Padded.of` and `fit`.
    """
    padded = Padded.of(make, widths, dataset, config, seeds, test=test)
    return padded.split(fit(padded.model, dataset, config, padded.seeds, test=test, init=padded.init, **given))


def width_groups(
    num_params: Mapping[int, int], images: int, num_seeds: int, strategy: str = "auto", backend: str | None = None
) -> list[list[int]]:
    """Return which widths of dense networks to pad to one: those whose padding costs less than a compilation.

    A pure function of its arguments and the platform, so that a resumed run repeats it. The arithmetic of padding is 6
    operations for each surplus parameter, image and seed (forward, and two products backward).

    Example:
      >>> from ntkgen import ensemble
      >>> ensemble.width_groups({4: 310, 64: 4_810, 512: 38_410}, images=200 * 1_297, num_seeds=3, backend="cpu")
      [[4, 64], [512]]

    Args:
      num_params: width -> learned numbers.
      images: examples x epochs of training.
      num_seeds: seeds of each width.
      strategy: of `fit`; only "auto" and "vmap" run widths together.
      backend: "cpu", "gpu" or "tpu"; default the current one.

    Returns:
      Groups of widths, each ascending; the widest of a group is what the others are padded to.
    """
    most = WHILE_COMPILING["cpu" if (backend or jax.default_backend()) == "cpu" else "gpu"]
    groups: list[list[int]] = []
    for width in sorted(num_params, reverse=True):
        surplus = num_params[groups[-1][-1]] - num_params[width] if groups else math.inf
        if strategy in ("auto", "vmap") and 6 * surplus * images * num_seeds <= most:
            groups[-1].insert(0, width)
        else:
            groups.append([width])
    return groups[::-1]


def pad(tree: PyTree, target: PyTree, width: int) -> PyTree:
    """Return a tree with zeros at the end of each axis, up to the target's shapes after a leading axis of seeds."""
    ours, theirs = str(jax.tree.structure(tree)), str(jax.tree.structure(target))
    if ours != theirs:
        raise ValueError(f"make: expected the same layers at every width, got others at width {width}")

    def padded(leaf: Any, wanted: Any) -> Any:
        more = [(0, new - old) for old, new in zip(leaf.shape[1:], wanted.shape, strict=True)]
        return np.pad(leaf, [(0, 0), *more])

    return jax.tree.map(padded, tree, target)


def crop(tree: PyTree, like: PyTree, width: int) -> PyTree:
    """Return the leading part of each leaf that `like` has, after a check that the rest is zero still.

    Batch statistics of surplus units are theirs alone (a variance that started at zero, say), and are dropped.
    """
    for leaf, part in zip(jax.tree.leaves(tree["params"]), jax.tree.leaves(like["params"]), strict=True):
        inner = np.zeros(leaf.shape, bool)
        inner[tuple(map(slice, part.shape))] = True
        surplus = np.asarray(leaf)[~inner]
        if np.any(surplus[np.isfinite(surplus)]):
            raise ValueError(f"make: expected surplus units whose weights stay zero in training, got others at {width}")
    return jax.tree.map(lambda leaf, part: leaf[tuple(map(slice, part.shape))], tree, like)


def _arrays(result: Result) -> dict[str, PyTree]:
    names = ("variables", "initial", "history", "diverged", "epochs")
    return {name: getattr(result, name) for name in names}


def _check_silent(width: int, narrow: tuple[Any, PyTree], padded: Array, x: PyTree) -> None:
    """Refuse a network whose outputs before training are not those of the padded one."""
    first = _first(narrow[1])
    expected, got = np.asarray(jax.jit(models.apply_fn(narrow[0], first))(first["params"], x)), np.asarray(padded)
    if expected.shape != got.shape or np.abs(expected - got).max() > TOLERANCE * np.abs(expected).max():
        raise ValueError(
            f"make: expected outputs that surplus units of zero weights do not change, got others at width {width}"
        )


def _first(variables: PyTree) -> PyTree:
    """Return the variables of the first seed."""
    return jax.tree.map(lambda leaf: leaf[0], variables)
