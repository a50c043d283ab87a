"""Lottery tickets: iterative magnitude pruning around a given training function.

`iterative_pruning` is the loop of Frankle & Carbin (2019), with rewinding to epoch k as in Frankle et al. (2020);
`rewinding` makes its training function of `ntkgen.ensemble.fit`.

Longer than 350 lines for its docstrings and examples, 37 % of it.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ntkgen import tree
from ntkgen.pruning import _masks
from ntkgen.pruning._prunable import stack_axes
from ntkgen.typing import PyTree


class Store(Protocol):
    """What the loop needs in order to be resumable; `ntkgen.records.Checkpointer` is one."""

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Return the last intact (level, tree of numpy arrays shaped like `like`), or None."""

    def save(self, epoch: int, tree: PyTree, *, final: bool) -> None:
        """Keep a tree."""

    def scope(self, name: str) -> "Store":
        """Return a store of its own for a part of the run."""


class TrainedLevel(NamedTuple):
    """What a training function returns.

    Attributes:
      variables: trained variables.
      rewind: the variables after the rewind epoch; asked of level 0 only, and only if that epoch is not 0.
    """

    variables: PyTree
    rewind: PyTree | None = None


class Level(NamedTuple):
    """One level of pruning, trained.

    Attributes:
      level: 0 for the whole network.
      keep_fraction: of the prunable weights.
      masks: the ticket, bool, like params.
      start: the variables that training began with, pruned entries zero.
      variables: trained variables. Where a seed diverged, they have no finite magnitudes, and the masks of its later
        levels mean nothing (they keep what comes first): the caller must leave them out.
    """

    level: int
    keep_fraction: float
    masks: PyTree
    start: PyTree
    variables: PyTree


Train = Callable[[PyTree, PyTree, int], TrainedLevel]  # (start variables, masks, level) -> TrainedLevel
Score = Callable[[PyTree, PyTree, int], PyTree]  # (trained variables, what is rewound to, level) -> scores


@dataclass(frozen=True)
class Schedule:
    """How far each level is pruned, and what is rewound to.

    Example:
      >>> from ntkgen import pruning
      >>> pruning.Schedule([1, 0.5], rewind_epoch=1, epochs=10).keep_fractions
      (1, 0.5)

    Attributes:
      keep_fractions: strictly decreasing from 1, each a fraction of all prunable weights.
      rewind_epoch: 0 rewinds to the initial variables, k > 0 to what training returned as `rewind` at level 0.
      epochs: of the whole network's training; needed with a rewind epoch, to check it.
      one_shot: prune every level from the whole network's trained weights, rather than from the level before.

    Raises:
      ValueError: a value is outside its range; the message names it.
    """

    keep_fractions: Sequence[float]
    rewind_epoch: int = 0
    epochs: int | None = None
    one_shot: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "keep_fractions", _check_fractions(self.keep_fractions))
        _check_rewind(self.rewind_epoch, self.epochs)


@dataclass(frozen=True)
class Ranking:
    """Which weights go first.

    Example:
      >>> from ntkgen import pruning
      >>> pruning.Ranking(scope="layer").score is None  # the magnitude of the trained weights
      True

    Attributes:
      score: score(trained variables, variables rewound to, level) -> scores like params, seed axis included;
        default the magnitude of the trained params.
      scope: "global" or "layer", see `pruning.masks_from_scores`.
      prunable: which leaves are pruned.
      roles: what the leaves are, a tree like one network's params of `roles.Leaf`; default `roles.of`.

    Raises:
      ValueError: the scope is unknown.
    """

    score: Score | None = None
    scope: str = "global"
    prunable: _masks.Prunable = _masks.is_kernel
    roles: PyTree | None = None

    def __post_init__(self) -> None:
        """Check the scope."""
        if self.scope not in _masks.SCOPES:
            raise ValueError(f"scope: expected one of {', '.join(_masks.SCOPES)}, got {self.scope!r}")

    def layers(self, shapes: PyTree) -> list[Any]:
        """Return the prunable layers; with "layer", stacked ones with their axes."""
        names = list(_masks.layers_of("initial", shapes, self.prunable, self.roles))
        if self.scope == "global":
            return names
        stacks = stack_axes("initial", shapes, self.prunable, self.roles)
        return [(name, stacks[name]) if stacks[name] else name for name in names]


MAGNITUDE = Ranking()


def iterative_pruning(
    train: Train,
    initial: PyTree,
    schedule: Schedule | Sequence[float],
    *,
    ranking: Ranking = MAGNITUDE,
    seed_axis: bool = True,
    store: Store | None = None,
) -> Iterator[Level]:
    """Train, prune, rewind, train again, level by level.

    The loop draws nothing and keeps nothing between levels but the masks and trained variables: it is as
    reproducible as `train`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import pruning
      >>> def train(start, masks, level):  # stands for training: doubles the weights
      ...     return pruning.TrainedLevel({"params": {"kernel": 2 * start["params"]["kernel"]}})
      >>> initial = {"params": {"kernel": jnp.array([[1.0, -3.0], [2.0, 0.5]])}}
      >>> levels = list(pruning.iterative_pruning(train, initial, [1.0, 0.5], seed_axis=False))
      >>> levels[1].start["params"]["kernel"].tolist()
      [[0.0, -3.0], [2.0, 0.0]]

    Args:
      train: train(start, masks, level) -> TrainedLevel; must keep pruned entries at zero, begin with epoch 0 at level 0
        and with `rewind_epoch` at the others, and leave its arguments' buffers alone (no donation).
      initial: variables, {"params": ..., other collections}; other collections are rewound too, and never pruned.
      schedule: how far each level is pruned and what is rewound to; or the fractions alone.
      ranking: which weights go first; default the smallest, over all layers.
      seed_axis: every array of variables leads with a seed axis, and each seed has its own masks.
      store: keeps every finished level; levels found in it are read, not trained, so that a resumed loop yields the
        same levels bit for bit. Levels of other arguments are refused; `train` and `score` are functions, which
        cannot be compared, and are the caller's to keep.

    Returns:
      An iterator over the levels, each trained when it is asked for.

    Raises:
      ValueError: an argument is outside its range or does not fit the others, or `train` breaks its contract; the
        message names it.
    """
    if not isinstance(schedule, Schedule):
        schedule = Schedule(schedule)
    fractions, rewind_epoch, one_shot = schedule.keep_fractions, schedule.rewind_epoch, schedule.one_shot
    if isinstance(train, _Rewinding) and train.rewind_epoch != rewind_epoch:
        raise ValueError(f"rewind_epoch: expected {train.rewind_epoch}, that of rewinding(), got {rewind_epoch}")
    _check_variables(initial, seed_axis)
    shapes = jax.eval_shape(lambda own: jax.tree.map(lambda a: a[0], own) if seed_axis else own, initial)
    layers = ranking.layers(shapes["params"])
    score, scope = ranking.score, ranking.scope

    def prune(variables: PyTree, target: PyTree, masks: PyTree, fraction: float, level: int) -> PyTree:
        scores = _masks.magnitude(variables["params"]) if score is None else score(variables, target, level)
        tree.check_like("score", scores, variables["params"])

        def one(scores: PyTree, masks: PyTree) -> PyTree:
            return _masks.masks_from_scores(
                scores, fraction, scope=scope, masks=masks, prunable=ranking.prunable, roles=ranking.roles
            )

        return (jax.vmap(one) if seed_axis else one)(scores, masks)

    def run() -> Iterator[Level]:
        full = _masks.full_masks(initial["params"])
        target, source, masks = initial, initial, full  # source: what the next masks are made from
        about = b"" if store is None else _digest(initial, layers)
        for level, fraction in enumerate(fractions):
            rewinds = level == 0 and rewind_epoch > 0
            own = None if store is None else store.scope(f"level_{level}")
            # As Python's own numbers: NumPy's print otherwise.
            settings = [*map(float, fractions[: level + 1]), int(rewind_epoch), scope, bool(one_shot), bool(seed_axis)]
            like = {"masks": full, "variables": initial, **({"rewind": initial} if rewinds else {})}
            made_by = {"digest": np.frombuffer(hashlib.blake2b(about + repr(settings).encode()).digest(), np.uint8)}
            marks = None if store is None else store.scope(f"level_{level}_arguments")
            if marks is not None:
                _check_arguments(marks, level, made_by)
            found = None if own is None else own.restore(like)
            if found is not None:
                masks = found[1]["masks"]
            elif level > 0:
                masks = prune(source, target, full if one_shot else masks, fraction, level)
            start = {**target, "params": _masks.apply_masks(target["params"], masks)}
            if found is None:
                state = {"masks": masks, **_train(train, start, masks, level, rewinds)}
                if own is not None and marks is not None:
                    marks.save(level, made_by, final=True)  # apart from the level: trees of other arguments may differ
                    own.save(level, state, final=True)
            else:
                state = found[1]
            if rewinds:
                target = state["rewind"]
            if level == 0 or not one_shot:
                source = state["variables"]
            yield Level(level, fraction, masks, start, state["variables"])

    return run()


def snapshot(params: PyTree, context: Any) -> PyTree:
    """Return the variables of this moment; a probe of `ensemble.fit`.

    Example:
      >>> from types import SimpleNamespace
      >>> from ntkgen import pruning
      >>> sorted(pruning.snapshot({"kernel": 1.0}, SimpleNamespace(model_state={"batch_stats": {"mean": 0.0}})))
      ['batch_stats', 'params']
    """
    return {"params": params, **context.model_state}


def rewinding(fit: Callable[..., Any], rewind_epoch: int = 0) -> Train:
    """Make a training function for `iterative_pruning` of `ensemble.fit`, with the same `rewind_epoch`.

    Level 0 is trained from epoch 0 and its variables are kept after the rewind epoch; the others go on from there,
    with the batch orders and rates of the epochs that follow, and fresh optimizer buffers (Frankle et al. 2020).

    Example:
      >>> from ntkgen import data, ensemble, models, pruning, train
      >>> digits, model = data.load("digits", num_train=32), models.MLP(4, depth=2)
      >>> config = train.Config(epochs=1, batch_size=16)
      >>> def fit(level, start_epoch, **arguments):
      ...     options = ensemble.Options(start_epoch=start_epoch)
      ...     return ensemble.fit(model, digits, config, 2, options=options, **arguments)
      >>> initial = ensemble.fit(model, digits, config, 2).initial
      >>> levels = pruning.iterative_pruning(pruning.rewinding(fit), initial, [1.0, 0.5])
      >>> [level.keep_fraction for level in levels]
      [1.0, 0.5]

    Args:
      fit: fit(level, *, init, masks, probes, start_epoch) -> `ensemble.Result`; passes start_epoch on to
        `ensemble.Options` and the others to `ensemble.fit`, and may give each level its own checkpoint.
      rewind_epoch: 0 rewinds to the initialisation.

    Returns:
      (start, masks, level) -> TrainedLevel.

    Raises:
      ValueError: rewind_epoch is no whole number of at least 0.
    """
    _check_whole(rewind_epoch)
    return _Rewinding(fit, int(rewind_epoch))


@dataclass(frozen=True)
class _Rewinding:
    fit: Callable[..., Any]
    rewind_epoch: int

    def __call__(self, start: PyTree, masks: PyTree, level: int) -> TrainedLevel:
        probes = ((self.rewind_epoch,), snapshot) if self.rewind_epoch and not level else ()
        begun = self.rewind_epoch if level else 0
        result = self.fit(level, init=start, masks=masks, probes=probes, start_epoch=begun)
        taken = jax.tree.map(lambda leaf: leaf[:, 0], result.probes) if probes else None
        return TrainedLevel(result.variables, taken)


def _train(train: Train, start: PyTree, masks: PyTree, level: int, rewinds: bool) -> dict[str, PyTree]:
    """Train one level, and hold the training function to its contract."""
    trained = train(start, masks, level)
    if not isinstance(trained, TrainedLevel):
        raise ValueError(f"train: expected to return a TrainedLevel, got {type(trained).__name__}")
    tree.check_like("train", trained.variables, start)
    for leaf, keep in zip(*map(jax.tree.leaves, (trained.variables["params"], masks)), strict=True):
        pruned = np.asarray(leaf)[~np.asarray(keep)]
        # A diverged network may be NaN everywhere; it is the caller's to report.
        if np.any(pruned[np.isfinite(pruned)]):
            raise ValueError(f"train: expected pruned entries of zero after level {level}, got others")
    if not rewinds:
        return {"variables": trained.variables}
    if trained.rewind is None:
        raise ValueError("train: expected the variables of the rewind epoch from level 0, got None")
    tree.check_like("train", trained.rewind, start)
    return {"variables": trained.variables, "rewind": trained.rewind}


def _check_fractions(keep_fractions: Sequence[float]) -> tuple[float, ...]:
    fractions = tuple(keep_fractions)
    for fraction in fractions:
        _masks.check_fraction("keep_fractions", fraction)
    if not fractions or fractions[0] != 1 or any(b >= a for a, b in itertools.pairwise(fractions)):
        raise ValueError(f"keep_fractions: expected numbers that strictly decrease from 1, got {list(fractions)}")
    return fractions


def _check_whole(rewind_epoch: Any, last: int | None = None) -> None:
    whole = isinstance(rewind_epoch, int | np.integer) and not isinstance(rewind_epoch, bool)
    if not whole or rewind_epoch < 0 or (last is not None and rewind_epoch > last):
        span = "of at least 0" if last is None else f"in 0 ... {last}"
        raise ValueError(f"rewind_epoch: expected a whole number {span}, got {rewind_epoch!r}")


def _check_rewind(rewind_epoch: int, epochs: int | None) -> None:
    _check_whole(rewind_epoch)
    if rewind_epoch > 0 and epochs is None:
        raise ValueError(f"epochs: expected the length of training with rewind_epoch {rewind_epoch}, got None")
    _check_whole(rewind_epoch, 0 if epochs is None else epochs - 1)


def _check_variables(initial: PyTree, seed_axis: bool) -> None:
    if not isinstance(initial, Mapping) or "params" not in initial:
        raise ValueError(f"initial: expected a mapping with 'params', got {type(initial).__name__}")
    if seed_axis and not all(np.ndim(leaf) for leaf in jax.tree.leaves(initial)):
        raise ValueError("initial: expected a leading seed axis in every array, got a scalar")


def _check_arguments(marks: Store, level: int, made_by: dict[str, np.ndarray]) -> None:
    found = marks.restore(made_by)
    if found is not None and not np.array_equal(found[1]["digest"], made_by["digest"]):
        raise ValueError(f"store: expected level {level} of these arguments, got one of others")


def _digest(variables: PyTree, layers: Sequence[Any]) -> bytes:
    """Digest variables, bit for bit, and which of them may be pruned."""
    total = hashlib.blake2b(repr(layers).encode())
    for path, leaf in jax.tree.leaves_with_path(variables):
        values = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {values.shape} {values.dtype}".encode())
        total.update(np.ascontiguousarray(values).tobytes())
    return total.digest()
