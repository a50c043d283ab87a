"""The arms of the lottery-ticket study: trained from shared seeds in shared batch orders."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import data, ensemble, models, pruning, records, train
from ntkgen.studies.lottery_ticket._config import Config
from ntkgen.studies.lottery_ticket._controls import (
    CHAINS,
    CONTROLS,
    WHOLE,
    ArmAtLevel,
    ControlKeys,
    control_start,
)
from ntkgen.typing import PyTree

# Children of a seed's key, beside its initialisation (0) and batch order (1), see `train.run_keys`. Here 2, 3 and 7
# belong to training, and what is measured draws from 4, 5 and 6 (elsewhere from `train.measurement_key`).
REINIT, MASKS, NOISE, LANCZOS, WARM, VALUES = 2, 3, 4, 5, 6, 7
OTHER_ORDER = 2**30  # added to a seed: its initialisation is given, so that only the batch order differs
WHOLE_OTHER_ORDER = ArmAtLevel("other_order", 100)


class TrainedArm(NamedTuple):
    """One arm at one level, all seeds.

    Attributes:
      at: the arm and its level.
      masks: of every seed.
      start: the variables that training began with.
      result: of training.
      void: (seeds,) bool; whose masks were cut from a network that had diverged, and mean nothing.
    """

    at: ArmAtLevel
    masks: PyTree
    start: PyTree
    result: ensemble.Result
    void: np.ndarray

    @property
    def lost(self) -> np.ndarray:
        """Seeds that diverged here or before their masks were cut, (seeds,) bool."""
        return self.void | np.asarray(self.result.diverged, bool)


@dataclass
class Lab:
    """What all trainings share. Each network is trained once: what is in the store is read.

    Attributes:
      run: the run folder.
      config: the study's settings.
      model: the network.
      dataset: what it learns.
      training: how.
      report: (name of a training, epochs behind it) -> its progress callback.
      layouts: name of a training -> how its seeds were trained together.
    """

    run: records.Run
    config: Config
    model: Any
    dataset: data.Dataset
    training: train.Config
    report: Callable[[str, int], Callable]
    layouts: dict[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of all arms."""
        return self.config.seeds

    @functools.cached_property
    def prunable(self) -> pruning.Prunable:
        """Kernels, that of the output layer only if asked for."""
        return pruning.is_kernel if self.config.prune_head else pruning.kernels([models.output_layer(self.model)])

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
        """Return a key for every seed."""
        return jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), child))(jnp.asarray(self.seeds))

    def fit(self, name: str, *, other_order: bool = False, start_epoch: int = 0, **given: Any) -> ensemble.Result:
        """Train all seeds of one arm at one level."""
        result = self.run.fit(
            name,
            self.model,
            self.dataset,
            self.training,
            [seed + OTHER_ORDER for seed in self.seeds] if other_order else self.seeds,
            options=ensemble.Options(
                strategy=self.config.strategy,
                start_epoch=start_epoch,
                evaluate_at=[epoch for epoch in self.config.evaluate_at if epoch > start_epoch],
            ),
            progress=self.report(name, start_epoch),
            **given,
        )
        self.layouts[name] = result.strategy
        return result

    @functools.cached_property
    def dense(self) -> ensemble.Result:
        """The whole network, where the chains begin; with the variables of the rewind epoch if one needs them."""
        probes = ((self.config.rewind_epoch,), pruning.snapshot) if "rewound" in self.config.arms else ()
        masks = pruning.full_masks(self.initial["params"])
        return self.fit(WHOLE.part, init=self.initial, masks=masks, probes=probes)

    @functools.cached_property
    def dense_other_order(self) -> ensemble.Result:
        """The whole network from the same initialisation, in another batch order."""
        masks = pruning.full_masks(self.initial["params"])
        return self.fit(WHOLE_OTHER_ORDER.part, init=self.initial, masks=masks, other_order=True)

    @functools.cached_property
    def sample(self) -> train.Batch:
        """The training examples that curvature, sharpness and batch statistics are measured on: the first."""
        count = self.config.hessian_samples
        return train.Batch(self.dataset.train.x[:count], self.dataset.train.y[:count])

    def kept(self, name: str, compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Return what was computed before, or compute and keep it: name -> (seeds,)."""
        found = self.run.kept(name, lambda: {key: np.asarray(each).tolist() for key, each in compute().items()})
        return {key: np.asarray(each, np.float64) for key, each in found.items()}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _draw(model: Any, shape: tuple[int, ...], keys: jax.Array) -> PyTree:
    return jax.lax.map(lambda key: models.init(model, key, shape), keys)


# Training


def trainings(config: Config) -> list[str]:
    """Return the names of all trainings of a study in the order in which they are made."""
    names = []
    for arm in ("ticket", *(arm for arm in CHAINS if arm in config.arms)):
        for keep in config.keep:
            if keep == 100 and arm in ("rewound", "one_shot"):
                continue
            own = [arm, *(c for c in CONTROLS if c in config.arms and arm == "ticket" and keep < 100)]
            for each in own:
                names.append(ArmAtLevel(each, keep).part)
                if config.has_child(each, keep):
                    names.append(child_name(ArmAtLevel(each, keep)))
    return list(dict.fromkeys(names))


def trains_twin(config: Config) -> bool:
    """Return whether the whole network is trained in another batch order, too."""
    return WHOLE_OTHER_ORDER.part in trainings(config)


def child_name(at: ArmAtLevel) -> str:
    """Return the name of the training that differs from an arm's in the batch order alone."""
    return WHOLE_OTHER_ORDER.part if at.keep == 100 else f"{at.part}_child"


def train_all(lab: Lab) -> Iterator[TrainedArm]:
    """Train every arm at every level. At 100 % all arms are the whole network, which is the ticket's."""
    for ticket in chain(lab, "ticket"):
        yield ticket
        if ticket.at.keep < 100:
            for arm in CONTROLS:
                if arm in lab.config.arms:
                    yield control(lab, arm, ticket)
    for arm in CHAINS:
        if arm in lab.config.arms:
            for trained in chain(lab, arm):
                if trained.at.keep < 100 or arm == "other_order":
                    yield trained


def chain(lab: Lab, arm: str) -> Iterator[TrainedArm]:
    """Train, prune, rewind, train again."""
    at = [ArmAtLevel(arm, keep) for keep in lab.config.keep]
    results: dict[int, ensemble.Result] = {}
    one_shot = lab.config.one_shot or arm == "one_shot"
    rewind_epoch = lab.config.begins(arm)

    def fit(level: int, *, probes: Any, **given: Any) -> ensemble.Result:
        if level:
            results[level] = lab.fit(at[level].part, other_order=arm == "other_order", probes=probes, **given)
        else:  # the chains' common start, trained once
            results[level] = lab.dense_other_order if arm == "other_order" else lab.dense
        return results[level]

    fractions = [keep / 100 for keep in lab.config.keep]
    levels = pruning.iterative_pruning(
        pruning.rewinding(fit, rewind_epoch),
        lab.initial,
        pruning.Schedule(fractions, rewind_epoch, lab.training.epochs, one_shot),
        ranking=pruning.Ranking(scope=lab.config.scope, prunable=lab.prunable),
    )
    void = np.zeros(len(lab.seeds), bool)
    for level in levels:
        trained = TrainedArm(at[level.level], level.masks, level.start, results.pop(level.level), void)
        if level.level == 0 or not one_shot:
            void = trained.lost
        yield trained


def control(lab: Lab, arm: str, ticket: TrainedArm) -> TrainedArm:
    """Train what a ticket is compared with: its mask with other values, or another mask."""
    at = ArmAtLevel(arm, ticket.at.keep)
    # The level is folded in: what two levels draw is independent.
    level = lab.config.keep.index(at.keep)
    draws = (jax.vmap(jax.random.fold_in, (0, None))(lab.keys(child), level) for child in (MASKS, VALUES))
    variables, masks = control_start(arm, ticket.masks, lab.initial, lab.redrawn, ControlKeys(*draws), lab.prunable)
    return TrainedArm(at, masks, variables, lab.fit(at.part, init=variables, masks=masks), ticket.void)


def train_child(lab: Lab, trained: TrainedArm) -> ensemble.Result:
    """Train an arm's networks once more, in another batch order."""
    if trained.at.keep == 100:
        return lab.dense_other_order
    return lab.fit(
        child_name(trained.at),
        init=trained.start,
        masks=trained.masks,
        start_epoch=lab.config.begins(trained.at.arm),
        other_order=True,
    )
