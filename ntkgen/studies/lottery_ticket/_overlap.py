"""What the tickets of the lottery-ticket study share: between batch orders, and between initialisations."""

import functools
from collections.abc import Mapping

import jax
import numpy as np

from ntkgen import models, pruning
from ntkgen.studies.base import Rows
from ntkgen.studies.lottery_ticket._arms import Lab, trains_twin
from ntkgen.studies.lottery_ticket._controls import ArmAtLevel
from ntkgen.studies.lottery_ticket._sharpness import host, row
from ntkgen.typing import PyTree


def overlaps(lab: Lab, masks: Mapping[ArmAtLevel, tuple[PyTree, np.ndarray]]) -> Rows:
    """Compare tickets: of one initialisation in two batch orders, and of two initialisations.

    Args:
      lab: the study.
      masks: arm at level -> masks of all seeds, and (seeds,) whose mean nothing and are left out, because a network
        diverged before they were cut; for "ticket" and, if trained, "other_order".

    Returns:
      The rows of overlaps.csv: kind, percent, two seeds, layer, the overlap beside its chance level.
    """
    rows: Rows = []

    def add(kind: str, keep: float, seeds: tuple[int, int], a: PyTree, b: PyTree) -> None:
        for layer, found in pruning.overlap(a, b, prunable=lab.prunable).items():
            rows.append(
                {
                    "kind": kind, "keep_percent": keep, "seed": lab.seeds[seeds[0]], "other_seed": lab.seeds[seeds[1]],
                    "layer": layer, "jaccard": found.jaccard, "chance": found.chance, "chance_std": found.chance_std,
                    "size": found.size, "kept": found.kept[0], "other_kept": found.kept[1],
                }
            )  # fmt: skip

    levels = [keep for keep in lab.config.keep if keep < 100]
    for keep in levels:
        ticket, void = host(masks[ArmAtLevel("ticket", keep)])
        if (twin := ArmAtLevel("other_order", keep)) in masks:
            other, other_void = host(masks[twin])
            for s in np.flatnonzero(~(void | other_void)).tolist():
                add("other batch order", keep, (s, s), row(ticket, s), row(other, s))
        if trains_twin(lab.config):
            first, second = (
                host(_one_shot(lab, result.variables["params"], keep)) for result in (lab.dense, lab.dense_other_order)
            )
            for s in np.flatnonzero(~(lab.dense.diverged | lab.dense_other_order.diverged)).tolist():
                add("other batch order, one shot", keep, (s, s), row(first, s), row(second, s))
    for (s, t), orders in _matches(lab).items():
        for keep in levels:
            ticket, void = host(masks[ArmAtLevel("ticket", keep)])
            if void[s] or void[t]:
                continue
            a, b = row(ticket, s), row(ticket, t)
            add("other initialisation", keep, (s, t), a, b)
            if not orders:
                continue
            chain = models.unit_chain(lab.model)
            add("other init., units matched", keep, (s, t), a, pruning.permute_units(b, orders["matched"], *chain))
            shuffled = _shuffled(lab.seeds[t], b)
            add("shuffled, units matched", keep, (s, t), a, pruning.permute_units(shuffled, orders["null"], *chain))
    return rows


def _one_shot(lab: Lab, params: PyTree, keep: float) -> PyTree:
    mask = functools.partial(
        pruning.magnitude_masks, keep_fraction=keep / 100, scope=lab.config.scope, prunable=lab.prunable
    )
    return jax.vmap(mask)(params)


def _matches(lab: Lab) -> dict[tuple[int, int], dict[str, list[np.ndarray]]]:
    """Match the units of neighbouring seeds' whole networks, in a ring; and of one with the other, shuffled.

    The second is what matching alone makes of networks that share the use of their inputs and nothing else: it looks
    for overlap, and finds some. Nothing is matched in a network whose units form no chain.
    """
    matchable = models.has_effective_layers(lab.model)
    layers, norms = models.unit_chain(lab.model) if matchable else ([], {})
    params = host(lab.dense.variables["params"])
    num = len(lab.seeds)
    pairs = [(s, (s + 1) % num) for s in range(num if num > 2 else num - 1)]
    found: dict[tuple[int, int], dict[str, list[np.ndarray]]] = {}
    for s, t in pairs:
        a, b = row(params, s), row(params, t)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((a, b))):
            continue
        found[s, t] = {}
        if not matchable:
            continue
        found[s, t] = {
            "matched": pruning.match_units(a, b, layers, norms),
            "null": pruning.match_units(a, _shuffled(lab.seeds[t], b), layers, norms),
        }
    return found


def _shuffled(seed: int, tree: PyTree) -> PyTree:
    """Shuffle each row of each kernel along the outputs; params and masks of one seed alike, so that they fit together.

    Which unit takes which input is lost, how many units take it is not: pixels that no network uses stay unused, and
    tickets share that with no unit in common. So do the inputs of later layers, the units before them.
    """
    leaves, structure = jax.tree.flatten(tree)
    mixed = []
    for i, leaf in enumerate(leaves):
        rows = leaf.reshape(-1, leaf.shape[-1])
        order = np.broadcast_to(np.arange(rows.shape[1]), rows.shape)
        order = np.random.default_rng((seed, i)).permuted(order, axis=1)
        mixed.append(np.take_along_axis(rows, order, 1).reshape(leaf.shape))
    return jax.tree.unflatten(structure, mixed)
