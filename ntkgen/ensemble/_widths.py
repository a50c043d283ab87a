"""Networks of several widths in one program: the narrow ones are padded with units whose weights are zero.

Where a unit of zero weights has output zero (ReLU, tanh, GELU; batch norm without a shift), the weights that leave it
get zero gradient, and those that enter it too. SGD, momentum, Adam and weight decay then leave them at zero: the padded
network computes what the narrow one does, to rounding. It costs the widest network's arithmetic, and one compilation
for all of them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import models, train
from ntkgen.ensemble import _checks, programs
from ntkgen.ensemble._fit import Result, fit
from ntkgen.ensemble._layout import Layout
from ntkgen.ensemble._options import whole
from ntkgen.typing import PyTree

TOLERANCE = 1e-4  # of padded outputs before training, relative to the largest
EXAMPLES = 16  # on which they are compared


def fit_widths(
    make: Callable[[int], Any],
    widths: Sequence[int],
    dataset: Any,
    config: train.Config,
    seeds: int | Sequence[int],
    *,
    test: Any = None,
) -> dict[int, Result]:
    """Train a network of every width for every seed in one program, and return width -> what `fit` returns.

    Each network has the initial weights and the batches that `fit` gives it alone; its steps agree to rounding. Use it
    where compilation takes longer than training, or the networks are too small to fill a GPU.

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

    Raises:
      ValueError: an argument of `fit` is refused; widths that repeat; layers that differ between widths; a network that
        surplus units change (layer norm, a bias that no gradient holds at zero, a convolution that is flattened).
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
    x = jax.tree.map(lambda leaf: jnp.asarray(leaf[:EXAMPLES]), splits.train.x)
    keys = jax.vmap(lambda seed: train.run_keys(seed, config.vary).init)(jnp.asarray(own))
    begun = {}
    for width in sizes:
        model = make(width)
        begun[width] = programs.init(Layout("sequential"), model, jax.tree.map(lambda leaf: leaf[:1], x), keys)
        _check_silent(width, (model, begun[width]), (wide, pad(begun[width], target, width)), x)
    rows = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *(pad(begun[w], target, w) for w in sizes))
    result = fit(wide, splits, config, own * len(sizes), init=rows)
    found = {}
    for index, width in enumerate(sizes):
        part = jax.tree.map(lambda leaf, i=index: leaf[i * len(own) : (i + 1) * len(own)], _arrays(result))
        trained, initial = (crop(tree, begun[width], width) for tree in (part["variables"], part["initial"]))
        found[width] = result._replace(**{**part, "variables": trained, "initial": initial})
    return found


def pad(tree: PyTree, target: PyTree, width: int) -> PyTree:
    """Return a tree with zeros at the end of each axis, up to the target's shapes after a leading axis of seeds."""
    ours, theirs = str(jax.tree.structure(tree)), str(jax.tree.structure(target))
    if ours != theirs:
        raise ValueError(f"make: expected the same layers at every width, got others at width {width}")

    def padded(leaf: Any, wanted: Any) -> Any:
        more = [(0, new - old) for old, new in zip(leaf.shape[1:], wanted.shape, strict=True)]
        return jnp.pad(leaf, [(0, 0), *more])

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


def _check_silent(width: int, narrow: tuple[Any, PyTree], wide: tuple[Any, PyTree], x: PyTree) -> None:
    """Refuse a network whose outputs before training change when it is padded."""
    (expected, got) = (_outputs(model, variables, x) for model, variables in (narrow, wide))
    if expected.shape != got.shape or np.abs(expected - got).max() > TOLERANCE * np.abs(expected).max():
        raise ValueError(
            f"make: expected outputs that surplus units of zero weights do not change, got others at width {width}"
        )


def _outputs(model: Any, variables: PyTree, x: PyTree) -> np.ndarray:
    first = jax.tree.map(lambda leaf: leaf[0], variables)
    return np.asarray(jax.jit(models.apply_fn(model, first))(first["params"], x))
