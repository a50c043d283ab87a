"""How fast is training many seeds, against plain PyTorch and against the machine?

    python experiments/benchmarks/training.py                      # all cases, about ten minutes on two cores
    python experiments/benchmarks/training.py --cases=mlp64,cnn16 --repeats=3
    python experiments/benchmarks/training.py --cases= --masked=mlp64        # pruned networks only

For each network the same work, an epoch of SGD with momentum at batch 128 for five seeds, is done in turn by

* ntkgen, seeds batched (`vmap`) and one after another (`sequential`), the two strategies of `ensemble.fit`;
* PyTorch eager as a user would write it: tensors in memory, one seed after another. On CPU in two processes of its
  own, with OpenMP's defaults and with `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0`; the faster one counts.

With --masked the same for pruned networks, a fifth of the weights kept: masked training of ntkgen against unmasked, and
against torch with `torch.nn.utils.prune`; and how many programs a new level of pruning compiles.

All take turns, so that a busy machine slows each alike. Evaluation and compilation are timed apart. Prints seconds an
epoch and seed (median and range), the ratio to the faster torch pair by pair, and the GFLOP/s of the arithmetic that
the network needs (3 x forward) beside the peak of a large matmul measured in the same turns.

On real MNIST and CIFAR-10 where they are at hand, else on random images of the same shapes, and says which. Needs torch
(pip install "ntkgen[bench]").
"""

import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import timing
import training_torch
from absl import flags
from cases import NETWORKS, SHAPES, network_of
from networks import examples, forward_flops, network

from ntkgen import cli, ensemble, models, pruning, train
from ntkgen.ensemble import programs
from ntkgen.studies import options

FLAGS = flags.FLAGS
WIDTHS, CHANNELS = (16, 64, 256, 1024), (8, 16, 32)
BATCH, RATE = 128, 0.01
KEEP = 0.2  # of the kernels, in the masked section
EXAMPLES = {"mlp": 10_000, "cnn": 2_000}

CASES = (*(f"mlp{width}" for width in WIDTHS), *(f"cnn{channels}" for channels in CHANNELS))
cli.define_flag("cases", NETWORKS, CASES, "Networks to time.")
cli.define_flag("masked", NETWORKS, ("mlp16", "mlp64", "mlp256", "cnn8"), "Networks to time pruned.")
cli.define_flag("num_seeds", options.SEEDS, 5, "Seeds.")
cli.define_flag("repeats", options.COUNT, 5, "Turns of each.")
cli.define_flag("torch", options.SWITCH, True, "Time PyTorch too.")


_compiled = [0]


def _note(event: str, duration_secs: float, **_: str | int) -> None:
    _compiled[0] += event == "/jax/core/compile/backend_compile_duration"


jax.monitoring.register_event_duration_secs_listener(_note)


def compilations() -> int:
    """Return the number of programs that XLA has compiled so far in this process, whoever asked for them."""
    return _compiled[0]


class Ours:
    """Times epochs of ntkgen's own compiled programs, those that `ensemble.fit` runs."""

    def __init__(self, kind: str, size: int, strategy: str, num_seeds: int, keep: float | None = None) -> None:
        """Compile and warm up; with `keep` pruned to that fraction."""
        before = compilations()
        config = train.Config(epochs=100, batch_size=BATCH, learning_rate=RATE)
        self.split, _ = examples(kind, EXAMPLES[kind])
        model = network(kind, size)
        self.program = train.Program.of(model, config, EXAMPLES[kind])
        self.keys = jax.vmap(train.run_keys)(jnp.arange(num_seeds))
        variables = programs.init(ensemble.Plan("sequential"), model, self.split.x[:1], self.keys.init)
        self.layout = ensemble.plan(strategy, jax.tree.map(lambda leaf: leaf[0], variables), num_seeds)
        self.keys, variables = (ensemble.place(self.layout, tree, seeds=True) for tree in (self.keys, variables))
        self.split = ensemble.place(self.layout, self.split, seeds=False)
        self.masks, self.initial = None, variables
        if keep is not None:
            self.prune(keep)
        self.state = self.start()
        self.compile_seconds = self.epoch()  # the first call, less a later one
        self.compiled = compilations() - before
        self.compile_seconds -= self.epoch()
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


def own_turn(run: Ours, seeds: int) -> float:
    """Return our seconds of one epoch and seed."""
    return run.epoch() / seeds


def torch_turn(worker: timing.Worker, seeds: int) -> float:
    """Return PyTorch's seconds of one epoch and seed."""
    return worker.ask(again=True) / seeds


def time_case(kind: str, size: int, workers: dict[str, timing.Worker], folder: Path, masked: bool = False) -> None:
    """Time one network, everything in turn, and print its lines."""
    seeds = FLAGS.num_seeds
    shapes = jax.eval_shape(lambda key: models.init(network(kind, size), key, SHAPES[kind]), jax.random.key(0))
    chosen = ensemble.choose_strategy(shapes)
    if masked:
        ours = {"unmasked": Ours(kind, size, chosen, seeds), "masked": Ours(kind, size, chosen, seeds, KEEP)}
        chosen = "masked"
    else:
        ours = {strategy: Ours(kind, size, strategy, seeds) for strategy in ("vmap", "sequential")}
    split, source = examples(kind, EXAMPLES[kind])
    images = folder / "images.npz"
    for worker in workers.values():
        np.savez(images, x=split.x, y=split.y)
        what = {"kind": kind, "size": size, "num_seeds": seeds, "batch": BATCH, "rate": RATE}
        # Makes the networks; its first epoch is the warm-up.
        worker.ask(**what, images=str(images), keep=KEEP if masked else None)
    turns: dict[str, Callable[[], float]] = {
        name: functools.partial(own_turn, run, seeds) for name, run in ours.items()
    }
    turns |= {name: functools.partial(torch_turn, worker, seeds) for name, worker in workers.items()}
    turns |= {"evaluate": lambda: ours[chosen].evaluate() / seeds, "peak": timing.matmul_peak}
    seconds = timing.interleaved(turns, FLAGS.repeats)
    peak = statistics.median(seconds.pop("peak"))
    evaluation = statistics.median(seconds.pop("evaluate"))
    work = 3 * sum(forward_flops(kind, size, SHAPES[kind])) * EXAMPLES[kind] / 1e9
    base = min(workers, key=lambda name: statistics.median(seconds[name]), default=None)
    for name, values in seconds.items():
        middle = statistics.median(values)
        label = name + (", pruned" if masked and name in workers else " *" if name == chosen else "")
        line = f"{kind}{size:<5} {label:32} {timing.spread(values)}"
        line += f" {work / middle:7.0f} GFLOP/s ({work / middle / peak:4.0%} of {peak:.0f})"
        if base is not None and name in ours:
            line += f"   {ratio(seconds[base], values)} against {base}"
        print(line, flush=True)
    compiling = ", ".join(f"{name} {run.compile_seconds:.1f} s" for name, run in ours.items())
    if masked:
        print(
            f"{'':9}masked / unmasked {ratio(seconds['masked'], seconds['unmasked'])}; "
            f"a new level compiles {ours['masked'].new_level()} programs (the first {ours['masked'].compiled}); "
            f"{source}; compiling: {compiling}",
            flush=True,
        )
        return
    print(
        f"{'':9}evaluation {evaluation:.4f} s an epoch's examples and seed; {source}; compiling: {compiling}",
        flush=True,
    )


def ratio(first: list[float], second: list[float]) -> str:
    """Return the median and range of the ratio, turn by turn, as text."""
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    return f"{statistics.median(ratios):5.2f}x [{min(ratios):.2f}, {max(ratios):.2f}]"


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        if FLAGS.torch:
            timing.check_torch("torch")
    device = jax.local_devices()[0]
    workers = timing.torch_workers(training_torch.__file__, device.platform == "gpu") if FLAGS.torch else {}
    print(
        f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; "
        "seconds an epoch and seed, median [range] of "
        f"{FLAGS.repeats}; {FLAGS.num_seeds} seeds, batch {BATCH}; * the strategy that fit chooses"
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in FLAGS.cases:
                time_case(*network_of(name), workers, Path(folder))
            if FLAGS.masked:
                print(f"pruned, {KEEP:.0%} of the kernels' weights kept")
            for name in FLAGS.masked:
                time_case(*network_of(name), workers, Path(folder), masked=True)
        except timing.Ended as error:
            cli.fail(f"--torch: the PyTorch process ended ({error}); see the line above", 1)
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    cli.script(main)
