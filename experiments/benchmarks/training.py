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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import targets
import timing
import training_torch
from absl import flags
from cases import NETWORKS, SHAPES, network_of
from networks import examples, forward_flops, network
from training_ours import BATCH, EXAMPLES, KEEP, RATE, Ours

from ntkgen import cli, ensemble, models, records
from ntkgen.studies import options

FLAGS = flags.FLAGS
WIDTHS, CHANNELS = (16, 64, 256, 1024), (8, 16, 32)

CASES = (*(f"mlp{width}" for width in WIDTHS), *(f"cnn{channels}" for channels in CHANNELS))
STRATEGIES = ("vmap", "sequential")
cli.define_flag("cases", NETWORKS, CASES, "Networks to time.")
cli.define_flag("masked", NETWORKS, ("mlp16", "mlp64", "mlp256", "cnn8"), "Networks to time pruned.")
cli.define_flag("strategies", options.AtLeastOne(STRATEGIES), STRATEGIES, "Ours to time, besides the one fit chooses.")
cli.define_flag("num_seeds", options.SEEDS, 5, "Seeds.")
cli.define_flag("repeats", options.COUNT, 5, "Turns of each.")
cli.define_flag("torch", options.SWITCH, True, "Time PyTorch too.")
flags.DEFINE_string("out", None, "CSV to write. Default: none.")

Row = dict[str, Any]


def own_turn(run: Ours, seeds: int) -> float:
    """Return our seconds of one epoch and seed."""
    return run.epoch() / seeds


def torch_turn(worker: timing.Worker, seeds: int) -> float:
    """Return PyTorch's seconds of one epoch and seed."""
    return worker.ask(again=True) / seeds


def time_case(kind: str, size: int, workers: dict[str, timing.Worker], folder: Path, masked: bool = False) -> list[Row]:
    """Return the rows of one network, everything timed in turn; prints them too."""
    seeds = FLAGS.num_seeds
    shapes = jax.eval_shape(lambda key: models.init(network(kind, size), key, SHAPES[kind]), jax.random.key(0))
    chosen = ensemble.choose_strategy(shapes)
    if masked:
        ours = {"unmasked": Ours(kind, size, chosen, seeds), "masked": Ours(kind, size, chosen, seeds, KEEP)}
        chosen = "masked"
    else:
        timed = [strategy for strategy in STRATEGIES if strategy in (*FLAGS.strategies, chosen)]
        ours = {strategy: Ours(kind, size, strategy, seeds) for strategy in timed}
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
    rows = []
    for name, values in seconds.items():
        own = ours.get(name)
        row: Row = {"case": f"{kind}{size}", "masked": int(masked), "way": name, "seeds": seeds, "source": source}
        row |= {"chosen": int(name in (chosen, base)), **timing.columns(values)}
        row |= {"gflops": work / row["seconds"], "peak_gflops": peak}
        row |= timing.ratio("speedup", seconds[base], values) if own and base else timing.ratio("speedup", [], [])
        row |= {"compile_seconds": own and own.compile_seconds, "evaluation_seconds": None, "new_level_programs": None}
        rows.append(row | ({"evaluation_seconds": evaluation} if name == chosen else {}))
        label = name + (", pruned" if masked and name in workers else " *" if name == chosen else "")
        line = f"{kind}{size:<5} {label:32} {timing.spread(values)}"
        line += f" {row['gflops']:7.0f} GFLOP/s ({row['gflops'] / peak:4.0%} of {peak:.0f})"
        if base is not None and own:
            line += f"   {ratio(seconds[base], values)} against {base}"
        print(line, flush=True)
    about = f"evaluation {evaluation:.4f} s an epoch's examples and seed"
    if masked:
        found = next(row for row in rows if row["way"] == "masked")
        found["new_level_programs"] = ours["masked"].new_level()
        about = (
            f"masked / unmasked {ratio(seconds['masked'], seconds['unmasked'])}; a new level compiles "
            f"{found['new_level_programs']} programs (the first {ours['masked'].compiled})"
        )
    compiling = ", ".join(f"{name} {run.compile_seconds:.1f} s" for name, run in ours.items())
    print(f"{'':9}{about}; {source}; compiling: {compiling}", flush=True)
    return rows


def ratio(first: Sequence[float], second: Sequence[float]) -> str:
    """Return the median and range of the ratio, turn by turn, as text."""
    middle, low, high = timing.ratio("", first, second).values()
    return f"{middle:5.2f}x [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        timing.check_out(FLAGS.out)
        if FLAGS.torch:
            timing.check_torch("torch")
    device = jax.local_devices()[0]
    workers = timing.torch_workers(training_torch.__file__, device.platform == "gpu") if FLAGS.torch else {}
    print(
        f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; "
        "seconds an epoch and seed, median [range] of "
        f"{FLAGS.repeats}; {FLAGS.num_seeds} seeds, batch {BATCH}; * the strategy that fit chooses"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in FLAGS.cases:
                rows += time_case(*network_of(name), workers, Path(folder))
            if FLAGS.masked:
                print(f"pruned, {KEEP:.0%} of the kernels' weights kept")
            for name in FLAGS.masked:
                rows += time_case(*network_of(name), workers, Path(folder), masked=True)
        except timing.Ended as error:
            cli.fail(f"--torch: the PyTorch process ended ({error}); see the line above", 1)
    for worker in workers.values():
        worker.close()
    targets.say("training", rows)
    if FLAGS.out is not None:
        print(records.write_table(Path(FLAGS.out), rows))


if __name__ == "__main__":
    cli.script(main)
