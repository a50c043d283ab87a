"""How fast are tangent kernels, and how much memory do they take, against torch.func and against the machine?

    python experiments/benchmarks/ntk.py                                    # all cases, some 15 minutes on two cores
    python experiments/benchmarks/ntk.py --cases=mlp256n200,cnn16n200 --repeats=3

A case is `mlp<width>n<samples>` (784-w-w-w-10) or `cnn<channels>n<samples>` (32x32x3 images), with `trace` behind it
for the mean over outputs in place of the full K x K kernel. float32, random images, the same weights for everybody:

* ours, `ntk.empirical_ntk` as a user calls it, with all its checks and its certificate; `auto` chooses the method;
* jacobian, the same with method="jacobian", the oracle;
* torch.func, the Jacobian by vmap of jacrev, contracted leaf by leaf, as PyTorch's own tutorial has it (MLPs only).

All take turns, so that a busy machine slows each alike, each in a process of its own, so that memory is its own too.
Whoever by counting would take longer than --limit seconds, or more memory than there is, sits out, and the table says
so. Prints seconds (median and range of the turns), the first call's surplus (tracing and compiling), GFLOP/s by the
operations that the plan counts beside the peak of a large matmul measured in the same turns, and peak memory: the
process's largest, and what the kernel added to it. Targets were measured once on a two-core machine, with a sketch of
this method. The table goes to --out as CSV as well. torch.func needs torch (pip install "ntkgen[bench]").
"""

import functools
import os
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

import jax
import ntk_ways
import numpy as np
import targets
import timing
from absl import flags
from cases import SHAPES, Names
from ntk_ways import NUM_CLASSES, Case

from ntkgen import cli, models, records
from ntkgen.studies import options

FLAGS = flags.FLAGS
WAYS = ("ours", "jacobian", "torch.func")
DEFAULT = (
    "mlp256n200", "mlp1024n200", "mlp64n1000", "mlp256n1000", "mlp1024n1000", "mlp4096n1000", "mlp1024n5000trace",
    "cnn16n200",
)  # fmt: skip
AGREEMENT = 1e-3  # relative; float32 sums over millions of terms differ by far less, mistakes by far more
MEMORY_SHARE = 0.4  # of the machine's, that torch's Jacobian may take; temporaries come on top

CASES = Names(ntk_ways.CASE, "mlp<width>n<samples> or cnn<channels>n<samples>[trace], with commas between", least=1)
cli.define_flag("cases", CASES, DEFAULT, "Kernels to time.")
OTHERS = Names("|".join(map(re.escape, WAYS[1:])), f"some of {', '.join(WAYS[1:])}, or none")
cli.define_flag("against", OTHERS, WAYS[1:], "Whom to compare with.")
cli.define_flag("repeats", options.COUNT, 5, "Turns of each.")
cli.define_flag("limit", options.POSITIVE, 60.0, "Seconds after which one takes no further turn in a case.")
flags.DEFINE_string("out", "bench_ntk.csv", "The table.")


def store(case: Case, path: Path) -> int:
    """Return the number of parameters, having written weights and images for all ways."""
    model, _ = ntk_ways.network(case)
    variables = models.init(model, jax.random.key(0), SHAPES[case.kind])
    x = np.random.default_rng(0).standard_normal((case.n, *SHAPES[case.kind]), np.float32)
    leaves: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(variables))}
    np.savez(path, x=x, **leaves)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def sits_out(way: str, case: Case, params: int) -> str | None:
    """Return why somebody does not take part, by counting: a product of whole Jacobians, n K rows of all parameters."""
    if way == "ours":
        return None
    if way == "torch.func" and case.kind == "cnn":
        return "MLPs only"
    rows, peak = case.n * NUM_CLASSES, timing.matmul_peak()
    work = 2.0 * case.n * rows * params * (1 if case.trace else NUM_CLASSES) / (2 if way == "jacobian" else 1)
    if work / 1e9 / peak > FLAGS.limit:
        return f"{work / 1e12:.3g} TFLOP would take over {FLAGS.limit:g} s"
    need, memory = 4.0 * rows * params, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if way == "torch.func" and need > MEMORY_SHARE * memory:  # our oracle is tiled
        return f"the Jacobian would take {need / 2**30:.3g} GiB"
    return None


def time_case(case: Case, ways: list[str], folder: Path) -> list[dict[str, Any]]:
    """Return the rows of one kernel, everything timed in turn; prints a line for each way."""
    inputs = folder / "inputs.npz"
    params = store(case, inputs)
    absent = {way: sits_out(way, case, params) for way in ways}
    workers = {way: timing.Worker([ntk_ways.__file__, way], {}) for way in ways if absent[way] is None}
    first = {way: worker.ask(case=case.name, inputs=str(inputs)) for way, worker in workers.items()}
    last = dict(first)

    def turn(way: str) -> float:
        last[way] = workers[way].ask(again=True)
        return last[way]["seconds"]

    contenders = {way: functools.partial(turn, way) for way in workers} | {"peak": timing.matmul_peak}
    seconds = timing.interleaved(contenders, FLAGS.repeats, FLAGS.limit)
    for worker in workers.values():
        worker.close()
    peak = statistics.median(seconds.pop("peak"))
    own = first["ours"]
    rows = []
    for way in ways:
        row: dict[str, Any] = {"case": case.name, "way": way, "absent": absent[way], "matmul_gflops": peak}
        if way in workers:
            middle, flops = statistics.median(seconds[way]), first[way].get("flops")
            scale = max(map(abs, own["entries"]))
            row |= timing.columns(seconds[way])
            row |= {
                "compile_seconds": first[way]["seconds"] - middle,
                "gflop": flops and flops / 1e9,
                "gflops": flops and flops / 1e9 / middle,
                "peak_gib": last[way]["peak"] / 2**30,
                "added_gib": (last[way]["peak"] - first[way]["baseline"]) / 2**30,
                "difference": max(abs(a - b) for a, b in zip(own["entries"], first[way]["entries"], strict=True))
                / scale,
                "plan": f"{first[way]['method']}, tiles of {first[way]['tile'][0]}" if flops else None,
            }
            row |= timing.ratio("speedup", seconds[way], seconds["ours"])
        rows.append(row)
        print(line(row, seconds.get(way, [])), flush=True)
    return rows


def line(row: dict[str, Any], seconds: list[float]) -> str:
    """Return a row as text for people."""
    text = f"{row['case']:17} {row['way']:10} "
    if row["absent"]:
        return text + f"sits out: {row['absent']}"
    text += f"{timing.spread(seconds)} s, first call + {row['compile_seconds']:.1f}; "
    if row["gflops"]:
        text += (
            f"{row['gflops']:.0f} GFLOP/s ({row['gflops'] / row['matmul_gflops']:.0%} of {row['matmul_gflops']:.0f}); "
        )
    text += f"{row['peak_gib']:.2f} GiB ({row['added_gib']:.2f} added)"
    if row["way"] != "ours":
        text += f"; ours is {row['speedup']:.3g} times faster"
        if not row["difference"] <= AGREEMENT:
            text += f"; DISAGREES by {row['difference']:.1e}"
    return text


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        if "torch.func" in FLAGS.against:
            timing.check_torch("against")
        timing.check_out(FLAGS.out)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{jax.local_devices()[0].device_kind}, {cores} cores, jax {jax.__version__}; float32; "
        f"seconds, median [range] of up to {FLAGS.repeats} turns"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FLAGS.cases:
            try:
                rows += time_case(ntk_ways.parse(name), ["ours", *FLAGS.against], Path(folder))
            except timing.Ended as error:
                cli.fail(f"{name}: a process ended ({error}); see the line above", 1)
    targets.say("ntk", rows)
    records.write_table(Path(FLAGS.out), rows)


if __name__ == "__main__":
    cli.script(main)
