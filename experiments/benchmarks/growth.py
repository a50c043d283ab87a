"""How do time and memory grow with seeds, width and samples?

    python experiments/benchmarks/growth.py                                     # about six minutes on two cores
    python experiments/benchmarks/growth.py --axes=seeds --seeds=1,2 --repeats=2

* seeds: an epoch of many networks, MLPs of width 64 (batched) and 512 (on CPU one after another);
* width: an epoch of one MLP. Both train on 2,000 made-up images of MNIST's shape, batch 128;
* samples: the exact tangent kernel of an MLP of width 256, averaged over outputs and in full.

Every point has a process of its own, so that its peak memory is its own; on an accelerator that is the device's. The
points of a curve take turns, so that a busy machine slows each alike; one that has taken --limit seconds takes no more
turns. A kernel that is larger than `memory.budget` allows sits out, and its row says so. The first call is traced and
compiled, and has a column of its own. The table goes to --out as CSV, its figures and sentences are made from it by
`run.py`.
"""

import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import growth_point
import timing
from absl import flags

from ntkgen import cli, memory, records
from ntkgen.studies import options

FLAGS = flags.FLAGS
AXES = ("seeds", "width", "samples")
SEEDS, WIDTHS, SAMPLES = (1, 2, 4, 8, 16, 32, 64), (64, 128, 256, 512, 1024, 2048, 4096), (200, 500, 1000, 2000, 5000)

Row = dict[str, Any]


class Series(NamedTuple):
    """One curve: its name, what grows, the width of the network (0: it grows), and whether a kernel is averaged."""

    name: str
    axis: str
    size: int
    trace: bool = False


SERIES = (
    Series("MLP 64", "seeds", 64),
    Series("MLP 512", "seeds", 512),
    Series("one MLP", "width", 0),
    Series("averaged over outputs", "samples", growth_point.WIDTH, True),
    Series("all outputs", "samples", growth_point.WIDTH),
)


def too_large(series: Series, x: int) -> str:
    """Return why a point sits out: its kernel alone is larger than one may be."""
    if series.axis != "samples" or series.trace:
        return ""
    need = 4 * (x * growth_point.NUM_CLASSES) ** 2
    return f"the kernel alone takes {need / 2**30:.3g} GiB" if need > memory.budget() else ""


def measure(series: Series, points: Sequence[int], repeats: int, limit: float) -> list[Row]:
    """Return the rows of one curve, its points timed in turn; prints a line for each."""
    absent = {x: too_large(series, x) for x in points}
    workers = {x: timing.Worker([growth_point.__file__], {}) for x in points if not absent[x]}
    first = {}
    for x, worker in workers.items():
        first[x] = worker.ask(axis=series.axis, x=x, size=series.size, trace=series.trace)
        print(f"{series.axis} {x}, {series.name}: first call {first[x]['first_seconds']:.2f} s", flush=True)
    last = dict(first)

    def turn(x: int) -> float:
        last[x] = workers[x].ask(again=True)
        return last[x]["seconds"]

    contenders = {str(x): functools.partial(turn, x) for x in workers} | {"peak": timing.matmul_peak}
    seconds = timing.interleaved(contenders, repeats, limit)
    for worker in workers.values():
        worker.close()
    gflops = statistics.median(seconds.pop("peak"))
    rows = []
    for x in points:
        row: Row = {"axis": series.axis, "series": series.name, "x": x, "absent": absent[x], "peak_gflops": gflops}
        row |= dict.fromkeys(("way", "turns", "seconds", "seconds_min", "seconds_max", "all_seconds", "first_seconds"))
        row |= dict.fromkeys(("gflop", "peak_gib", "baseline_gib", "counted_gib"))
        if x in workers:
            row |= {"way": first[x]["way"], **timing.columns(seconds[str(x)])}
            row |= {"all_seconds": " ".join(f"{value:.6g}" for value in seconds[str(x)])}
            row |= {"first_seconds": first[x]["first_seconds"], "gflop": first[x]["flops"] / 1e9}
            row |= {"peak_gib": last[x]["peak"] / 2**30, "baseline_gib": first[x]["baseline"] / 2**30}
            row |= {"counted_gib": first[x]["counted"] / 2**30}
        rows.append(row)
        done = absent[x] or f"{timing.spread(seconds[str(x)])} s, {row['way']}, {row['peak_gib']:.2f} GiB"
        print(f"{series.axis} {x}, {series.name}: {done}", flush=True)
    return rows


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        timing.check_out(FLAGS.out)
    points = {"seeds": FLAGS.seeds, "width": FLAGS.widths, "samples": FLAGS.samples}
    rows = []
    for series in (series for series in SERIES if series.axis in FLAGS.axes):
        try:
            rows += measure(series, sorted(set(points[series.axis])), FLAGS.repeats, FLAGS.limit)
        except timing.Ended as error:
            cli.fail(f"{series.axis}, {series.name}: a process ended ({error}); see the line above", 1)
    print(records.write_table(Path(FLAGS.out), rows))


def define_flags() -> None:
    """Define the flags; other benchmarks have some of the same names, and tests import them all."""
    cli.define_flag("axes", options.AtLeastOne(AXES), AXES, "What grows.")
    cli.define_flag("seeds", options.COUNTS, SEEDS, "Numbers of seeds.")
    cli.define_flag("widths", options.COUNTS, WIDTHS, "Widths.")
    cli.define_flag("samples", options.COUNTS, SAMPLES, "Numbers of samples.")
    cli.define_flag("repeats", options.COUNT, 5, "Turns of each point.")
    cli.define_flag("limit", options.POSITIVE, 20.0, "Seconds after which a point takes no further turn.")
    flags.DEFINE_string("out", "growth.csv", "The table.")


if __name__ == "__main__":
    define_flags()
    cli.script(main)
