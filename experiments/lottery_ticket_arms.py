"""The arms of the lottery-ticket study: trained from shared seeds in shared batch orders."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from lottery_ticket_controls import CHAINS, CONTROLS, Keys, start

from ntkgen import data, ensemble, models, pruning, records, train
from ntkgen.typing import PyTree

# Children of a seed's key, beside its initialisation (0) and batch order (1), see `train.run_keys`. Here 2, 3 and 7
# belong to training, and what is measured draws from 4, 5 and 6 (elsewhere from `train.measurement_key`).
REINIT, MASKS, NOISE, LANCZOS, WARM, VALUES = 2, 3, 4, 5, 6, 7
OTHER_ORDER = 2**30  # added to a seed: its initialisation is given, so that only the batch order differs


class Trained(NamedTuple):
    """One arm at one level, all seeds.

    Attributes:
      arm: its name.
      keep: percent of the weights kept.
      masks: of every seed.
      start: the variables that training began with.
      result: of training.
      void: (seeds,) bool; whose masks were cut from a network that had diverged, and mean nothing.
    """

    arm: str
    keep: float
    masks: PyTree
    start: PyTree
    result: ensemble.Result
    void: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        """Seeds that diverged here or before their masks were cut, (seeds,) bool."""
        return self.void | np.asarray(self.result.diverged, bool)

    @property
    def name(self) -> str:
        """Its name in checkpoints and progress."""
        return part(self.arm, self.keep)


def part(arm: str, keep: float) -> str:
    """Name one training."""
    return f"{arm}_{keep:g}"


@dataclass
class Lab:
    """What all trainings share. Every one has its own checkpoint; what is finished is read, not trained.

    Attributes:
      run: the run folder.
      model: the network.
      dataset: what it learns.
      training: how.
      seeds: of all arms.
      config: the study's settings.
      report: name of a training -> its progress callback.
    """

    run: records.Run
    model: Any
    dataset: data.Dataset
    training: train.Config
    seeds: list[int]
    config: dict[str, Any]
    report: Callable[[str], Callable]
    layouts: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def prunable(self) -> pruning.Prunable:
        """Kernels, that of the output layer only if asked for."""
        head = models.unit_chain(self.model)[0][-1]
        return pruning.is_kernel if self.config["prune_head"] else pruning.kernels([head])

    @functools.cached_property
    def initial(self) -> PyTree:
        """The seeds' initialisations, those that `ensemble.fit` would draw."""
        return self.draw(lambda seed: train.run_keys(seed).init)

    @functools.cached_property
    def redrawn(self) -> PyTree:
        """Another draw for every seed, for controls whose weights are drawn anew."""
        return self.draw(lambda seed: jax.random.fold_in(jax.random.key(seed), REINIT))

    def draw(self, key_of: Callable[[jax.Array], jax.Array]) -> PyTree:
        """Draw variables for every seed."""
        return _draw(self.model, self.dataset.train.x.shape[1:], jax.vmap(key_of)(jnp.asarray(self.seeds)))

    def keys(self, child: int) -> jax.Array:
        """Give a key to every seed."""
        return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), child))(jnp.asarray(self.seeds))

    def fit(self, name: str, *, other_order: bool = False, start_epoch: int = 0, **given: Any) -> ensemble.Result:
        """Train all seeds of one arm at one level."""
        result = ensemble.fit(
            self.model,
            self.dataset,
            self.training,
            [seed + OTHER_ORDER for seed in self.seeds] if other_order else self.seeds,
            strategy=self.config["strategy"],
            checkpoint=self.run.checkpointer(name),
            progress=self.report(name),
            start_epoch=start_epoch,
            evaluate_at=[epoch for epoch in self.config["evaluate_at"] if epoch > start_epoch],
            **given,
        )
        self.layouts[name] = result.strategy
        return result

    @functools.cached_property
    def dense(self) -> ensemble.Result:
        """The whole network, where the chains begin; with the variables of the rewind epoch if one needs them."""
        when = (self.config["rewind_epoch"],) if "rewound" in self.config["arms"] else ()
        probes = (when, pruning.snapshot) if when else ()
        masks = pruning.full_masks(self.initial["params"])
        return self.fit(part("ticket", 100), init=self.initial, masks=masks, probes=probes)

    @functools.cached_property
    def dense_other_order(self) -> ensemble.Result:
        """The whole network from the same initialisation, in another batch order."""
        masks = pruning.full_masks(self.initial["params"])
        return self.fit(part("other_order", 100), init=self.initial, masks=masks, other_order=True)

    @functools.cached_property
    def sample(self) -> train.Batch:
        """The training examples that curvature, sharpness and batch statistics are measured on: the first."""
        count = self.config["hessian_samples"]
        return train.Batch(self.dataset.train.x[:count], self.dataset.train.y[:count])

    def remember(self, name: str, compute: Callable[[], dict[str, np.ndarray]], like: dict[str, Any]) -> Any:
        """Give what was computed before, or compute and keep it."""
        store = self.run.checkpointer(f"measured_{name}")
        found = store.restore(like)
        if found is not None:
            return found[1]
        values = compute()
        store.save(0, values, final=True)
        return values


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(model: Any, shape: tuple[int, ...], keys: jax.Array) -> PyTree:
    return jax.lax.map(lambda key: models.init(model, key, shape), keys)


# Training


def trainings(config: dict[str, Any]) -> list[str]:
    """Name all trainings of a study in the order in which they are made."""
    names = []
    for arm in ("ticket", *(arm for arm in CHAINS if arm in config["arms"])):
        for keep in config["keep"]:
            if keep == 100 and arm in ("rewound", "one_shot"):
                continue
            own = [arm, *(c for c in CONTROLS if c in config["arms"] and arm == "ticket" and keep < 100)]
            for each in own:
                names.append(part(each, keep))
                if has_child(config, each, keep):
                    names.append(child_name(each, keep))
    return list(dict.fromkeys(names))


def has_child(config: dict[str, Any], arm: str, keep: float) -> bool:
    """Say whether an arm's stability is measured at a level."""
    return keep in config["measure_at"] and arm in config["barrier_arms"]


def begins(config: dict[str, Any], arm: str) -> int:
    """Give the epochs that an arm's pruned networks have behind them when their training begins."""
    return config["rewind_epoch"] if arm == "rewound" else 0


def child_name(arm: str, keep: float) -> str:
    """Name the training that differs from an arm's in the batch order alone."""
    return part("other_order", 100) if keep == 100 else f"{part(arm, keep)}_child"


def train_all(lab: Lab) -> Iterator[Trained]:
    """Train every arm at every level. At 100 % all arms are the whole network, which is the ticket's."""
    for ticket in chain(lab, "ticket"):
        yield ticket
        if ticket.keep < 100:
            for arm in CONTROLS:
                if arm in lab.config["arms"]:
                    yield control(lab, arm, ticket)
    for arm in CHAINS:
        if arm in lab.config["arms"]:
            for trained in chain(lab, arm):
                if trained.keep < 100 or arm == "other_order":
                    yield trained


def chain(lab: Lab, arm: str) -> Iterator[Trained]:
    """Train, prune, rewind, train again."""
    keep, results = lab.config["keep"], {}
    one_shot = lab.config["one_shot"] or arm == "one_shot"
    rewind_epoch = begins(lab.config, arm)

    def fit(level: int, *, probes: Any, **given: Any) -> ensemble.Result:
        if level:
            results[level] = lab.fit(part(arm, keep[level]), other_order=arm == "other_order", probes=probes, **given)
        else:  # the chains' common start, trained once
            results[level] = lab.dense_other_order if arm == "other_order" else lab.dense
        return results[level]

    levels = pruning.iterative_pruning(
        pruning.rewinding(fit, rewind_epoch),
        lab.initial,
        [percent / 100 for percent in keep],
        rewind_epoch=rewind_epoch,
        epochs=lab.training.epochs,
        scope=lab.config["scope"],
        prunable=lab.prunable,
        one_shot=one_shot,
    )
    void = np.zeros(len(lab.seeds), bool)
    for level in levels:
        trained = Trained(arm, keep[level.level], level.masks, level.start, results.pop(level.level), void)
        if level.level == 0 or not one_shot:
            void = trained.lost
        yield trained


def control(lab: Lab, arm: str, ticket: Trained) -> Trained:
    """Train what a ticket is compared with: its mask with other values, or another mask."""
    # The level is folded in: what two levels draw is independent.
    level = lab.config["keep"].index(ticket.keep)
    keys = Keys(*(jax.vmap(jax.random.fold_in, (0, None))(lab.keys(child), level) for child in (MASKS, VALUES)))
    variables, masks = start(arm, ticket.masks, lab.initial, lab.redrawn, keys, lab.prunable)
    result = lab.fit(part(arm, ticket.keep), init=variables, masks=masks)
    return Trained(arm, ticket.keep, masks, variables, result, ticket.void)
