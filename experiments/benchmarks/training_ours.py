"""Our side of the training benchmark: epochs of ntkgen's own compiled programs, and a count of what XLA compiles."""

import time

import jax
import jax.numpy as jnp
from networks import examples, network

from ntkgen import ensemble, pruning, train
from ntkgen.ensemble import programs

BATCH, RATE = 128, 0.01
KEEP = 0.2  # of the kernels, in the masked section
EXAMPLES = {"mlp": 10_000, "cnn": 2_000}

_compiled = [0]


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    _compiled[0] += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_note)


def compilations() -> int:
    """Return the number of programs that XLA has compiled so far in this process, whoever asked for them."""
    return _compiled[0]


class Ours:
    """Times epochs of ntkgen's own compiled programs, those that `ensemble.fit` runs."""

    def __init__(
        self,
        kind: str,
        size: int,
        strategy: str,
        num_seeds: int,
        keep: float | None = None,
        split: train.Batch | None = None,
    ) -> None:
        """Compile and warm up; with `keep` pruned to that fraction, on `split` (default: the benchmark's examples)."""
        before = compilations()
        config = train.Config(epochs=100, batch_size=BATCH, learning_rate=RATE)
        self.split = examples(kind, EXAMPLES[kind])[0] if split is None else split
        model = network(kind, size)
        self.program = train.Program.of(model, config, len(self.split.y))
        self.keys = jax.vmap(train.run_keys)(jnp.arange(num_seeds))
        variables = programs.init(ensemble.Layout("sequential"), model, self.split.x[:1], self.keys.init)
        self.layout = ensemble.plan(strategy, jax.tree.map(lambda leaf: leaf[0], variables), num_seeds)
        self.keys, variables = (ensemble.place(self.layout, tree, seeds=True) for tree in (self.keys, variables))
        self.split = ensemble.place(self.layout, self.split, seeds=False)
        self.masks, self.initial = None, variables
        if keep is not None:
            self.prune(keep)
        self.state = self.start()
        self.first_seconds = self.epoch()
        self.compiled = compilations() - before
        self.compile_seconds = self.first_seconds - self.epoch()
        self.evaluate()

    def epoch(self) -> float:
        """Return the seconds of training all seeds for one epoch."""
        begun = time.perf_counter()
        self.state = jax.block_until_ready(
            programs.train_epoch(
                self.layout,
                self.program,
                self.state,
                self.keys.order,
                jnp.asarray(0),
                jnp.asarray(RATE),
                self.split,
                self.masks,
            )
        )
        return time.perf_counter() - begun

    def start(self) -> train.TrainState:
        """Return a new state; epochs donate it, so that it must not share the initialisation's memory."""
        return programs.start(self.layout, self.program, jax.tree.map(jnp.copy, self.initial), self.masks)

    def prune(self, keep: float) -> None:
        """Make each seed's masks from its initialisation."""
        masks = jax.vmap(lambda params: pruning.magnitude_masks(params, keep))(self.initial["params"])
        self.masks = ensemble.place(self.layout, masks, seeds=True)

    def new_level(self) -> int:
        """Return the number of programs that another level of pruning compiles."""
        before = compilations()
        self.prune(KEEP / 2)
        self.state = self.start()
        self.epoch()
        return compilations() - before

    def evaluate(self) -> float:
        """Return the seconds of evaluating all seeds on the training set."""
        begun = time.perf_counter()
        jax.block_until_ready(  # once as training and once as test set
            programs.evaluate(self.layout, self.program, self.state.variables, self.split, self.split)
        )
        return (time.perf_counter() - begun) / 2
