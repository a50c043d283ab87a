"""Lottery tickets: iterative magnitude pruning around a given training function, and what its tickets share.

* `iterative_pruning` is the loop of Frankle & Carbin (2019), with rewinding to epoch k as in Frankle et al. (2020).
* `error_barrier` measures linear mode connectivity between two trained networks (Frankle et al. 2020).
* `overlap` compares two tickets layer by layer with what independent ones would share; `match_units` removes the
  permutation symmetry between initialisations first (Ainsworth et al. 2023, weight matching).
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats

from ntkgen import pruning, tree

PyTree = Any

ALPHAS = tuple(np.linspace(0, 1, 30).tolist())  # 30 evenly spaced points, Frankle et al. 2020, section 2
MAX_SWEEPS = 100  # of the coordinate ascent in `match_units`; each raises a bounded objective, a handful suffices


class Store(Protocol):
    """What the loop needs in order to be resumable; `ntkgen.records.Checkpointer` is one."""

    def restore(self, like: PyTree) -> tuple[int, PyTree] | None:
        """Return the last intact (level, tree of numpy arrays shaped like `like`), or None."""

    def save(self, epoch: int, tree: PyTree, *, final: bool) -> None:
        """Keep a tree."""

    def scope(self, name: str) -> "Store":
        """Return a store of its own for a part of the run."""


class Trained(NamedTuple):
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
      variables: trained variables.
    """

    level: int
    keep_fraction: float
    masks: PyTree
    start: PyTree
    variables: PyTree


Train = Callable[[PyTree, PyTree, int], Trained]  # (start variables, masks, level) -> Trained
Score = Callable[[PyTree, PyTree, int], PyTree]  # (trained variables, what is rewound to, level) -> scores


def iterative_pruning(
    train: Train,
    initial: PyTree,
    keep_fractions: Sequence[float],
    *,
    rewind_epoch: int = 0,
    epochs: int | None = None,
    score: Score | None = None,
    scope: str = "global",
    prunable: pruning.Prunable = pruning.is_kernel,
    one_shot: bool = False,
    seed_axis: bool = True,
    store: Store | None = None,
) -> Iterator[Level]:
    """Train, prune, rewind, train again, level by level.

    The loop draws nothing and keeps nothing between levels but the masks and trained variables: it is as
    reproducible as `train`.

    Args:
      train: train(start, masks, level) -> Trained; must keep pruned entries at zero, begin with epoch 0 at level 0 and
        with `rewind_epoch` at the others, and leave its arguments' buffers alone (no donation).
      initial: variables, {"params": ..., other collections}; other collections are rewound too, and never pruned.
      keep_fractions: strictly decreasing from 1, each a fraction of all prunable weights.
      rewind_epoch: 0 rewinds to `initial`, k > 0 to what `train` returned as `rewind` at level 0.
      epochs: of the whole network's training; needed with a rewind epoch, to check it.
      score: score(trained variables, variables rewound to, level) -> scores like params, seed axis included;
        default the magnitude of the trained params.
      scope: "global" or "layer", see `pruning.masks_from_scores`.
      prunable: which leaves are pruned.
      one_shot: prune every level from the whole network's trained weights, rather than from the level before.
      seed_axis: every array of variables leads with a seed axis, and each seed has its own masks.
      store: keeps every finished level; levels found in it are read, not trained, so that a resumed loop yields the
        same levels bit for bit.

    Returns:
      An iterator over the levels, each trained when it is asked for.

    Raises:
      ValueError: an argument is outside its range, or `train` breaks its contract; the message names it.
    """
    fractions = _check_schedule(keep_fractions)
    _check_rewind(rewind_epoch, epochs)
    shapes = jax.eval_shape(lambda own: jax.tree.map(lambda a: a[0], own) if seed_axis else own, initial)
    pruning.layers_of("initial", shapes["params"], prunable)
    if scope not in pruning.SCOPES:
        raise ValueError(f"scope: expected one of {', '.join(pruning.SCOPES)}, got {scope!r}")

    def prune(variables: PyTree, target: PyTree, masks: PyTree, fraction: float, level: int) -> PyTree:
        scores = pruning.magnitude(variables["params"]) if score is None else score(variables, target, level)
        tree.check_like("score", scores, variables["params"])

        def one(scores: PyTree, masks: PyTree) -> PyTree:
            return pruning.masks_from_scores(scores, fraction, scope=scope, masks=masks, prunable=prunable)

        return (jax.vmap(one) if seed_axis else one)(scores, masks)

    def run() -> Iterator[Level]:
        full = pruning.full_masks(initial["params"])
        target, source, masks = initial, initial, full  # source: what the next masks are made from
        for level, fraction in enumerate(fractions):
            rewinds = level == 0 and rewind_epoch > 0
            own = None if store is None else store.scope(f"level_{level}")
            like = {"masks": full, "variables": initial, **({"rewind": initial} if rewinds else {})}
            found = None if own is None else own.restore(like)
            if found is not None:
                masks = found[1]["masks"]
            elif level > 0:
                masks = prune(source, target, full if one_shot else masks, fraction, level)
            start = {**target, "params": pruning.apply_masks(target["params"], masks)}
            if found is None:
                state = {"masks": masks, **_train(train, start, masks, level, rewinds)}
                if own is not None:
                    own.save(level, state, final=True)
            else:
                state = found[1]
            if rewinds:
                target = state["rewind"]
            if level == 0 or not one_shot:
                source = state["variables"]
            yield Level(level, fraction, masks, start, state["variables"])

    return run()


def _train(train: Train, start: PyTree, masks: PyTree, level: int, rewinds: bool) -> dict[str, PyTree]:
    """Train one level, and hold the training function to its contract."""
    trained = train(start, masks, level)
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


def _check_schedule(keep_fractions: Sequence[float]) -> tuple[float, ...]:
    fractions = tuple(keep_fractions)
    for fraction in fractions:
        pruning.check_fraction("keep_fractions", fraction)
    if not fractions or fractions[0] != 1 or any(b >= a for a, b in itertools.pairwise(fractions)):
        raise ValueError(f"keep_fractions: expected numbers that strictly decrease from 1, got {list(fractions)}")
    return fractions


def _check_rewind(rewind_epoch: int, epochs: int | None) -> None:
    whole = isinstance(rewind_epoch, int | np.integer) and not isinstance(rewind_epoch, bool)
    if whole and rewind_epoch > 0 and epochs is None:
        raise ValueError(f"epochs: expected the length of training with rewind_epoch {rewind_epoch}, got None")
    last = 0 if epochs is None else epochs - 1
    if not whole or not 0 <= rewind_epoch <= last:
        raise ValueError(f"rewind_epoch: expected a whole number in 0 ... {last}, got {rewind_epoch!r}")


# Linear mode connectivity


class Barrier(NamedTuple):
    """Error on the line between two networks.

    Attributes:
      alphas: (m,), 0 at the first network, 1 at the second.
      errors: (m, ...), what `evaluate` gave, with its trailing axes (seeds).
      barrier: (...), largest error minus the mean of the two ends' (Frankle et al. 2020). At least half the
        difference of the ends, even on a straight line.
      excess: (...), largest distance of the error above the straight line between the ends (Entezari et al. 2022); at
        least 0.
    """

    alphas: np.ndarray
    errors: np.ndarray
    barrier: np.ndarray
    excess: np.ndarray


def error_barrier(
    evaluate: Callable[[PyTree], Any],
    first: PyTree,
    second: PyTree,
    *,
    alphas: Sequence[float] = ALPHAS,
    refit: Callable[[PyTree], PyTree] | None = None,
) -> Barrier:
    """Measure the error barrier on the line (1 - alpha) first + alpha second.

    Args:
      evaluate: evaluate(variables) -> error, scalar or one for each seed; NaN makes the barrier NaN.
      first: variables of one child, all collections.
      second: variables of the other, of the same structure.
      alphas: increasing from 0 to 1.
      refit: refit(variables) -> variables, called at every point, the ends included, before it is evaluated: where
        batch-norm statistics are re-estimated, which averaging weights invalidates.

    Returns:
      Errors and barriers in the unit of `evaluate`.

    Raises:
      ValueError: an argument does not fit the others; the message names it.
    """
    tree.check_like("second", second, first)
    grid = np.asarray(alphas, np.float64)
    if grid.ndim != 1 or grid.size < 2 or grid[0] != 0 or grid[-1] != 1 or not np.all(np.diff(grid) > 0):
        raise ValueError(f"alphas: expected numbers that increase from 0 to 1, got {alphas}")

    def point(alpha: float) -> PyTree:
        def mix(a: Any, b: Any) -> Any:
            # Traced weights: a constant in the expression would compile it anew for every alpha.
            weight = jnp.asarray(alpha, jnp.result_type(a))
            return (1 - weight) * a + weight * b

        variables = jax.tree.map(mix, first, second)
        return variables if refit is None else refit(variables)

    errors = np.stack([np.asarray(evaluate(point(alpha)), np.float64) for alpha in grid])
    weights = grid.reshape(-1, *[1] * (errors.ndim - 1))
    straight = (1 - weights) * errors[0] + weights * errors[-1]
    return Barrier(grid, errors, errors.max(0) - (errors[0] + errors[-1]) / 2, (errors - straight).max(0))


# Overlap of tickets


class Overlap(NamedTuple):
    """What two tickets share in one layer.

    Attributes:
      jaccard: weights kept by both / kept by either; NaN where neither keeps any.
      chance: expectation of the Jaccard index for two independent, uniformly random masks of these counts.
      chance_std: its standard deviation.
      size: weights of the layer.
      kept: weights kept by the first and by the second ticket.
    """

    jaccard: float
    chance: float
    chance_std: float
    size: int
    kept: tuple[int, int]


def overlap(masks: PyTree, other: PyTree, *, prunable: pruning.Prunable = pruning.is_kernel) -> dict[str, Overlap]:
    """Compare two tickets layer by layer; runs on the host.

    Args:
      masks: one network's masks, no seed axis.
      other: masks of the same structure.
      prunable: which leaves count as layers.

    Returns:
      For each layer, by name, the overlap beside its chance level.

    Raises:
      ValueError: the structures differ, or nothing is prunable.
    """
    tree.check_like("other", other, masks)
    layers = pruning.layers_of("masks", masks, prunable)
    others = pruning.layers_of("other", other, prunable)
    found = {}
    for name in layers:
        a, b = (np.asarray(named[name]).astype(bool) for named in (layers, others))
        kept, both = (int(a.sum()), int(b.sum())), int((a & b).sum())
        jaccard = both / (sum(kept) - both) if any(kept) else float("nan")
        found[name] = Overlap(jaccard, *jaccard_chance(a.size, *kept), a.size, kept)
    return found


def jaccard_chance(size: int, kept: int, other: int) -> tuple[float, float]:
    """Give expectation and standard deviation of the Jaccard index of two independent random subsets.

    The intersection i is hypergeometric, the index i / (kept + other - i). Both moments are sums over its
    distribution, cut off twelve standard deviations from the mean.

    Args:
      size: of the set.
      kept: elements of the one subset.
      other: elements of the other.

    Returns:
      (expectation, standard deviation); NaN for two empty subsets.
    """
    if kept + other == 0:
        return float("nan"), float("nan")
    mean = kept * other / size
    reach = 12 * np.sqrt(mean * (1 - kept / size) * (1 - other / size) * size / max(size - 1, 1)) + 1
    low, high = max(0, kept + other - size, int(mean - reach)), min(kept, other, int(mean + reach) + 1)
    both = np.arange(low, high + 1)
    weight = scipy.stats.hypergeom.pmf(both, size, kept, other)
    weight /= weight.sum()
    index = both / (kept + other - both)
    chance = float(weight @ index)
    return chance, float(np.sqrt(weight @ (index - chance) ** 2))


def match_units(params: PyTree, other: PyTree, layers: Sequence[str]) -> list[np.ndarray]:
    """Find the order of the other MLP's hidden units that brings its weights nearest to those of the first.

    Maximises the inner product of all weights and biases over one permutation for each hidden layer (Ainsworth et al.
    2023, algorithm 1). A forward pass over the layers, each matched by its incoming weights alone (the inputs need no
    matching), is the start; then each layer in turn is matched exactly given its neighbours, until nothing improves.
    The result is a local maximum. Runs on the host; networks with a residual or normalised path are not covered.

    Args:
      params: {layer: {"kernel" (in, out), "bias" (out,)}} with or without biases, no seed axis.
      other: params of the same structure.
      layers: names of all layers in the order of the forward pass, the output layer last.

    Returns:
      For each hidden layer the permutation (units,) that `permute_units` applies to `other`, and to its masks.

    Raises:
      ValueError: the params are not such a chain of layers, differ in structure, or are not finite.
    """
    a, b = _chain("params", params, layers), _chain("other", other, layers)
    tree.check_like("other", other, params)
    identity = [np.arange(layer["kernel"].shape[1]) for layer in a]
    order = list(identity)  # the output layer's stays the identity

    def gain(i: int, outgoing: bool) -> np.ndarray:
        """Inner products (units, units) of layer i's units, given the neighbours' current order."""
        own = b[i]["kernel"] if i == 0 else b[i]["kernel"][order[i - 1]]
        total = a[i]["kernel"].T @ own
        if "bias" in a[i]:
            total = total + np.outer(a[i]["bias"], b[i]["bias"])
        if outgoing:
            total = total + a[i + 1]["kernel"] @ b[i + 1]["kernel"][:, order[i + 1]].T
        return total

    def assign(products: np.ndarray) -> np.ndarray:
        return scipy.optimize.linear_sum_assignment(products, maximize=True)[1]

    hidden = range(len(layers) - 1)
    for i in hidden:
        order[i] = assign(gain(i, outgoing=False))
    for _ in range(MAX_SWEEPS):
        improved = False
        for i in hidden:
            products = gain(i, outgoing=True)
            new = assign(products)
            step = products[identity[i], new].sum() - products[identity[i], order[i]].sum()
            if step > 1e-12 * np.abs(products).max():  # beyond rounding, or ties would be swapped for ever
                order[i], improved = new, True
        if not improved:
            break
    return order[:-1]


def permute_units(params: PyTree, permutations: Sequence[np.ndarray], layers: Sequence[str]) -> PyTree:
    """Reorder the hidden units of an MLP: params, which compute the same function afterwards, or masks.

    Args:
      params: as `match_units` takes them, or masks of the same structure.
      permutations: for each hidden layer an array (units,); new unit u is old unit permutation[u].
      layers: names of all layers in the order of the forward pass.

    Returns:
      The same structure with permuted numpy arrays.

    Raises:
      ValueError: params is not such a chain of layers, or the permutations do not fit it.
    """
    chain = _chain("params", params, layers, numbers=False)
    units = [layer["kernel"].shape[1] for layer in chain[:-1]]
    if [sorted(np.asarray(p).tolist()) for p in permutations] != [list(range(n)) for n in units]:
        raise ValueError(f"permutations: expected one each of {units} units, got {[len(p) for p in permutations]}")
    for i, permutation in enumerate(permutations):
        chain[i] = {name: leaf[..., permutation] for name, leaf in chain[i].items()}
        chain[i + 1] = {**chain[i + 1], "kernel": chain[i + 1]["kernel"][permutation]}
    return dict(zip(layers, chain, strict=True))


def _chain(argument: str, params: PyTree, layers: Sequence[str], numbers: bool = True) -> list[dict[str, np.ndarray]]:
    """Take an MLP apart into its layers, after a check; in float64 unless `numbers` is False."""
    if len(set(layers)) < len(layers) or set(params) != set(layers):
        raise ValueError(f"layers: expected the names {sorted(params)} of {argument}, each once, got {list(layers)}")
    chain = [
        {name: np.asarray(leaf, np.float64 if numbers else None) for name, leaf in params[layer].items()}
        for layer in layers
    ]
    width = None
    for layer, leaves in zip(layers, chain, strict=True):
        shapes = {name: leaf.shape for name, leaf in leaves.items()}
        kernel = shapes.get("kernel", ())
        fits = len(kernel) == 2 and width in (None, kernel[0]) and shapes.get("bias", kernel[1:]) == kernel[1:]
        if not fits or set(shapes) - {"kernel", "bias"}:
            needed = f"({width or 'in'}, out)"
            raise ValueError(f"{argument}: expected {layer} to hold a kernel {needed} and a bias (out,), got {shapes}")
        if numbers and not all(np.isfinite(leaf).all() for leaf in leaves.values()):
            raise ValueError(f"{argument}: expected finite weights, got others in {layer}")
        width = kernel[1]
    return chain
