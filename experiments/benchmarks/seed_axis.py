"""How should the seed axis of a small CNN be walked on a GPU, so that five seeds take little more than one?

    python experiments/benchmarks/seed_axis.py                                   # a GPU; stops after --seconds=140
    python experiments/benchmarks/seed_axis.py --variants=one,sequential,unrolled+nhwc,vmap-grouped+bf16

Each variant trains `--seeds` CNNs of `--channels` channels for an epoch, by SGD with momentum on made-up images; "one"
trains one seed. All compile first, `--jobs` at a time; then they take turns. A variant is a way to walk the seeds,
and options behind plus signs:

* one; sequential (`lax.map` over seeds, the loop over steps inside); unrolled (the loop over steps outside, the seeds
  side by side in each step); vmap (batched, but convolutions one after another); vmap-unrolled, vmap-grouped
  (batched, with convolutions in that form of `models.CONVOLUTION_FORMS`).
* +bf16 (images and kernels of convolutions in bfloat16); +nhwc (channels last for float32 too, where XLA chooses
  channels first); +graph (CUDA graphs that hold convolutions and loops too); +concurrent (the same, and kernels that do
  not depend on each other may run at once). `ensemble.Options(strategy="unrolled")` is unrolled+nhwc+concurrent.

Printed and written to --out: milliseconds an epoch, median and range; the ratio to one seed, and to one seed with the
same options; seconds of compilation (with others beside it); GiB of temporary memory; the mean training loss after one
epoch, and the largest difference of a seed's loss to "sequential". A variant that fails has its error in its row.
What has not compiled when 70 % of --seconds are spent is skipped, and its row says so. The default 9,984 images are 78
whole steps of 128: no second program for a last partial step.
"""

import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from cases import SHAPES, Names

from ntkgen import cli, ensemble, models, records, train
from ntkgen.ensemble import programs
from ntkgen.studies import options

GRAPH = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,DYNAMIC_SLICE_FUSION,WHILE,CONVOLUTION",
    "xla_gpu_graph_min_graph_size": 1,
}
# Names of XLA's debug options; those that this XLA does not know end in the row's error.
COMPILER: dict[str, dict[str, Any]] = {
    "nhwc": {"xla_gpu_force_conv_nhwc": True},
    "graph": GRAPH,
    "concurrent": {**GRAPH, "xla_gpu_command_buffer_scheduling_mode": "CONCURRENT"},
}
WALKS = ("one", "sequential", "unrolled", "vmap", *(f"vmap-{form}" for form in models.CONVOLUTION_FORMS[1:]))
VARIANT = rf"({'|'.join(sorted(WALKS, key=len, reverse=True))})(\+(bf16|{'|'.join(COMPILER)}))*"
DEFAULT = (
    "one", "sequential", "unrolled+nhwc+concurrent", "vmap-grouped+nhwc", "one+bf16", "vmap-grouped+bf16",
)  # fmt: skip
COMPILING = 0.7  # of the budget, at most
RATE = 0.01
JUDGED = 1_000  # examples of the loss

FLAGS = flags.FLAGS

Row = dict[str, Any]


class Work(NamedTuple):
    """What all variants do: the program, each seed's first state and order key, and the examples."""

    program: train.Program
    state: train.TrainState
    keys: jax.Array
    data: train.Batch

    @classmethod
    def of(cls, channels: int, seeds: int, num_train: int, batch_size: int) -> "Work":
        """Make up images and draw the networks."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((num_train, *SHAPES["cnn"]), np.float32)
        data = train.Batch(jnp.asarray(x), jnp.asarray(rng.integers(0, 10, num_train), jnp.int32))
        model, layout = models.CNN(channels), ensemble.Layout("sequential")
        program = train.Program.of(model, train.Config(1, batch_size, RATE), num_train)
        keys = jax.vmap(train.run_keys)(jnp.arange(seeds))
        state = programs.start(layout, program, programs.init(layout, model, data.x[:1], keys.init), None)
        return cls(program, state, keys.order, data)


def epoch_of(walk: str, program: train.Program) -> Callable:
    """Return an epoch (state, keys, data) -> state, not compiled; all but the data lead with the seed axis."""

    def one(state: train.TrainState, key: jax.Array, data: train.Batch) -> train.TrainState:
        return train.train_epoch(program, state, key, jnp.asarray(0), jnp.asarray(RATE), data)

    def unrolled(state: train.TrainState, keys: jax.Array, data: train.Batch) -> train.TrainState:
        seeds = range(keys.shape[0])
        states = [jax.tree.map(lambda leaf, seed=seed: leaf[seed], state) for seed in seeds]
        own = [keys[seed] for seed in seeds]
        trained = train.train_epochs(
            program, states, own, jnp.asarray(0), jnp.asarray(RATE), data, [None for _ in seeds]
        )
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trained)

    if walk in ("one", "unrolled"):
        return unrolled
    if walk == "sequential":
        return lambda state, keys, data: jax.lax.map(lambda own: one(own[0], own[1], data), (state, keys))
    return jax.vmap(one, (0, 0, None))


class Variant:
    """One variant, compiled; `epoch` trains on."""

    def __init__(self, name: str, work: Work) -> None:
        """Compile."""
        walk, *given = name.split("+")
        form = walk.removeprefix("vmap-") if walk.startswith("vmap-") else "loop"
        seeds = 1 if walk == "one" else work.keys.shape[0]
        flags_of_xla = {key: value for option in given for key, value in COMPILER.get(option, {}).items()}
        self.data, self.keys = work.data, work.keys[:seeds]
        self.state = jax.tree.map(lambda leaf: jnp.array(leaf[:seeds]), work.state)
        compiled = jax.jit(epoch_of(walk, work.program), donate_argnums=0, compiler_options=flags_of_xla or None)
        begun = time.perf_counter()
        with models.convolutions(form, "bfloat16" if "bf16" in given else None):
            traced = compiled.lower(self.state, self.keys, self.data)
        self.call = traced.compile()
        self.compile_seconds = time.perf_counter() - begun
        memory = self.call.memory_analysis()
        self.gib = memory.temp_size_in_bytes / 2**30 if memory else float("nan")

    def epoch(self) -> float:
        """Return the milliseconds of an epoch of all seeds."""
        begun = time.perf_counter()
        self.state = jax.block_until_ready(self.call(self.state, self.keys, self.data))
        return 1e3 * (time.perf_counter() - begun)


def losses_of(work: Work) -> Callable[[Variant], np.ndarray]:
    """Return what gives the loss of each seed (S,); all variants share one program, also "one"."""
    some = jax.tree.map(lambda leaf: leaf[:JUDGED], work.data)
    seeds = work.keys.shape[0]
    evaluate = jax.jit(lambda v: jax.lax.map(lambda own: train.evaluate(work.program, own, some)[0], v))

    def losses(variant: Variant) -> np.ndarray:
        own = variant.keys.shape[0]
        wide = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * (seeds // own)), variant.state.variables)
        return np.asarray(evaluate(wide))[:own]

    return losses


def error_text(error: BaseException) -> str:
    """Return an error's type and the beginning of its message, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def compile_all(names: tuple[str, ...], work: Work, jobs: int, seconds: float) -> dict[str, Variant | str]:
    """Return the compiled variants, and in place of the others why there is none."""
    pool = ThreadPoolExecutor(jobs)
    futures: dict[str, Future] = {name: pool.submit(Variant, name, work) for name in names}
    end = time.perf_counter() + seconds
    for name, future in futures.items():
        wait([future], max(0.0, end - time.perf_counter()))
        text = "has not compiled in time" if not future.done() else "failed" if future.exception() else "compiled"
        print(f"{name:24} {text}", flush=True)
    pool.shutdown(wait=False, cancel_futures=True)

    def outcome(future: Future) -> Variant | str:
        if future.cancelled() or not future.done():
            return f"skipped: had not compiled after {seconds:.0f} s"
        error = future.exception()
        return future.result() if error is None else error_text(error)

    return {name: outcome(future) for name, future in futures.items()}


def measure(names: tuple[str, ...], work: Work, repeats: int, jobs: int, seconds: float) -> list[Row]:
    """Return a row for each variant."""
    end = time.perf_counter() + seconds
    found = compile_all(names, work, jobs, COMPILING * seconds)
    errors = {name: variant for name, variant in found.items() if isinstance(variant, str)}
    running = {name: variant for name, variant in found.items() if isinstance(variant, Variant)}
    losses: dict[str, np.ndarray] = {}
    turns: dict[str, list[float]] = {name: [] for name in names}
    judge = losses_of(work)
    for turn in range(repeats + 1):
        for name in [name for name in running if name not in errors]:
            if time.perf_counter() > end:
                continue
            try:
                spent = running[name].epoch()
                if turn == 0:  # warms up
                    losses[name] = judge(running[name])
                    print(f"{name:24} first epoch {spent:9.1f} ms", flush=True)
                else:
                    turns[name].append(spent)
            except Exception as error:  # a variant that fails must not end the others
                errors[name] = error_text(error)
                print(f"{name:24} {errors[name]}", flush=True)
    rows = []
    for name in names:
        own, options_of = turns[name], name.partition("+")[2]
        if not own and name not in errors:
            errors[name] = f"skipped: no turn within {seconds:.0f} s"
        middle = statistics.median(own) if own else None
        row: Row = {"variant": name, "turns": len(own), "ms": middle}
        row |= {"ms_min": min(own, default=None), "ms_max": max(own, default=None)}
        for column, base in (("to_one", "one"), ("to_its_one", f"one+{options_of}" if options_of else "one")):
            row[column] = middle / statistics.median(turns[base]) if middle is not None and turns.get(base) else None
        done = running.get(name)
        row |= {"compile_seconds": done and done.compile_seconds, "temporary_gib": done and done.gib}
        row["loss"] = float(losses[name].mean()) if name in losses else None
        row["loss_difference"] = None
        if name in losses and "sequential" in losses:
            row["loss_difference"] = float(abs(losses[name] - losses["sequential"][: len(losses[name])]).max())
        rows.append(row | {"error": errors.get(name, "")})
    return rows


def line(row: Row) -> str:
    """Return a row as text."""
    if row["error"]:
        return f"{row['variant']:24} {row['error']}"

    def number(name: str, form: str) -> str:
        return f"{row[name]:{form}}" if row[name] is not None else "-".rjust(int(re.findall(r"\d+", form)[0]))

    spread = f"{row['ms']:9.1f} [{row['ms_min']:.1f}, {row['ms_max']:.1f}]"
    return (
        f"{row['variant']:24} {spread:28} {number('to_one', '6.2f')} {number('to_its_one', '8.2f')} "
        f"{number('compile_seconds', '8.1f')} {number('temporary_gib', '7.2f')} {number('loss', '8.4f')} "
        f"{number('loss_difference', '9.1e')}"
    )


def main() -> None:
    """Run the benchmark."""
    out = Path(FLAGS.out)
    with cli.user_errors(FLAGS):
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"out: expected a file in a folder that exists, got {FLAGS.out!r}")
        if FLAGS.batch_size > FLAGS.num_train:
            raise ValueError(f"batch_size: expected at most the {FLAGS.num_train} images, got {FLAGS.batch_size}")
    begun = time.perf_counter()
    device = jax.local_devices()[0]
    print(
        f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; CNN {FLAGS.channels}, {FLAGS.seeds} "
        f"seeds, {FLAGS.num_train} images, batch {FLAGS.batch_size}; {FLAGS.jobs} compile at a time",
        flush=True,
    )
    work = Work.of(FLAGS.channels, FLAGS.seeds, FLAGS.num_train, FLAGS.batch_size)
    rows = measure(tuple(dict.fromkeys(FLAGS.variants)), work, FLAGS.repeats, FLAGS.jobs, FLAGS.seconds)
    print(f"{'variant':24} {'ms an epoch':28} to one  its one compile     GiB     loss difference")
    print(*map(line, rows), sep="\n", flush=True)
    about = {"channels": FLAGS.channels, "seeds": FLAGS.seeds, "num_train": FLAGS.num_train}
    about |= {"batch_size": FLAGS.batch_size, "device": device.device_kind, "jax": jax.__version__}
    records.write_table(out, [row | about for row in rows])
    print(f"{out}; {time.perf_counter() - begun:.0f} s in all", flush=True)
    if any("compiled" in row["error"] for row in rows):  # compilation cannot be interrupted, and exit would wait for it
        sys.stdout.flush()
        os._exit(0)


def define_flags() -> None:
    """Define the flags; other benchmarks have some of the same names, and tests import them all."""
    cli.define_flag(
        "variants", Names(VARIANT, f"variants of {', '.join(WALKS)} with options", 1), DEFAULT, "What to time."
    )
    cli.define_flag("channels", options.COUNT, 32, "Channels of the CNN's first block.")
    cli.define_flag("seeds", options.SEEDS, 5, "Seeds.")
    cli.define_flag("num_train", options.COUNT, 9_984, "Made-up images of an epoch.")
    cli.define_flag("batch_size", options.COUNT, 128, "Images a step.")
    cli.define_flag("repeats", options.COUNT, 7, "Turns of each.")
    cli.define_flag("jobs", options.COUNT, 4, "Variants that compile at a time.")
    cli.define_flag("seconds", options.POSITIVE, 140.0, "Seconds after which what remains is skipped.")
    flags.DEFINE_string("out", "seed_axis.csv", "The table.")


if __name__ == "__main__":
    define_flags()
    cli.script(main)
