"""How much longer do the top eigenvalues of many seeds take than that of one?

    python experiments/benchmarks/eigen_seeds.py                       # MLP 256 and CNN 16, ten seeds; minutes
    python experiments/benchmarks/eigen_seeds.py --cases=mlp64 --seeds=3 --samples=100 --repeats=2

Networks are trained for an epoch on real images, or random ones where there are none. Then the largest eigenvalue of
each one's Hessian is found to a residual of 1e-3, as the studies do it (`measure.spectral` in `measure.each_seed`). In
turn: "one", the first seed alone; "sequential", all, one after another, which is what `each_seed` chooses on CPU;
"vmap", all in one program. Printed and written to --out: seconds, median and range; the ratio to "one" (aim on a GPU:
3 for ten seeds); the seconds of the first call; products of the seed that took most; the largest residual; the largest
relative difference to the first strategy.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import timing
from absl import flags
from cases import NETWORKS, network_of
from networks import examples, network

from ntkgen import cli, ensemble, measure, models, records, train
from ntkgen.studies import options

FLAGS = flags.FLAGS
STRATEGIES = ("sequential", "vmap")
cli.define_flag("cases", NETWORKS, ("mlp256", "cnn16"), "Networks to time.")
cli.define_flag("seeds", options.COUNT, 10, "Seeds.")
cli.define_flag("samples", options.COUNT, 1_000, "Training examples of the Hessian, and of an epoch before it.")
cli.define_flag("strategies", options.AtLeastOne(STRATEGIES), STRATEGIES, "How all seeds are measured.")
cli.define_flag("repeats", options.COUNT, 3, "Turns of each.")
flags.DEFINE_string("data_dir", None, "Prepared TFDS folder. Default: $NTKGEN_DATA_DIR, then the usual TFDS folder.")
flags.DEFINE_string("out", None, "CSV to write. Default: none.")

OPTIONS = {"loss": train.cross_entropy, "options": measure.SpectralOptions()}

Row = dict[str, Any]


def ways(kind: str, size: int, seeds: int, samples: int, data_dir: str | None) -> tuple[dict[str, Callable], str]:
    """Return what solves for one seed and for all in each way, and the name of the images."""
    split, source = examples(kind, samples, data_dir)
    model, config = network(kind, size), train.Config(epochs=1, batch_size=min(128, samples), learning_rate=0.01)
    fitted = ensemble.fit(model, SimpleNamespace(train=split, test=split), config, range(seeds))
    variables = jax.tree.map(jnp.asarray, fitted.variables)
    keys = jax.vmap(train.measurement_key)(jnp.arange(seeds))
    start = jax.tree.map(jnp.asarray, measure.each_seed(measure.random_start, (keys, variables["params"])))
    own = (models.apply_fn(model, variables), variables["params"], start, keys)
    first = jax.tree.map(lambda leaf: leaf[:1], own)

    def solve(seeded: tuple, strategy: str) -> Callable[[], Any]:
        shared = (split.x, split.y)
        return lambda: (
            measure.each_seed(measure.spectral, seeded, shared, OPTIONS, host_driven=True, strategy=strategy).top
        )

    return {"one": solve(first, "auto")} | {name: solve(own, name) for name in FLAGS.strategies}, source


def time_case(kind: str, size: int) -> list[Row]:
    """Return the rows of one network, all ways in turn; prints them too."""
    solvers, source = ways(kind, size, FLAGS.seeds, FLAGS.samples, FLAGS.data_dir)
    seconds: dict[str, list[float]] = {name: [] for name in solvers}
    found = {}
    for _ in range(FLAGS.repeats + 1):  # the first turn compiles
        for name, solve in solvers.items():
            begun = time.perf_counter()
            found[name] = solve()
            seconds[name].append(time.perf_counter() - begun)
    rows = []
    for name, (first, *turns) in seconds.items():
        reference = found[FLAGS.strategies[0]].value[: len(found[name].value)]
        pairs = zip(turns, seconds["one"][1:], strict=True)
        row: Row = {"case": f"{kind}{size}", "source": source, "samples": FLAGS.samples, "way": name}
        row |= {"seeds": len(found[name].value)} | timing.columns(turns)
        row |= {"to_one": statistics.median(own / one for own, one in pairs), "first_seconds": first}
        row |= {"matvecs": int(np.max(found[name].num_matvecs)), "residual": float(np.max(found[name].residual))}
        row["difference"] = float(np.max(np.abs(found[name].value / reference - 1)))
        rows.append(row)
        print(
            f"{row['case']:8} {source:13} {name:10} {row['seeds']:3} seeds {timing.spread(turns)} s, "
            f"{row['to_one']:5.2f} times one, first call {first:.1f} s; {row['matvecs']} products at most, largest "
            f"residual {row['residual']:.1e}, differs by {row['difference']:.1e}",
            flush=True,
        )
    return rows


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        timing.check_out(FLAGS.out)
    device = jax.local_devices()[0]
    print(f"{device.device_kind}, jax {jax.__version__}; seconds, median [range] of {FLAGS.repeats} turns")
    rows = [row for name in FLAGS.cases for row in time_case(*network_of(name))]
    if FLAGS.out is not None:
        print(records.write_table(Path(FLAGS.out), rows))


if __name__ == "__main__":
    cli.script(main)
