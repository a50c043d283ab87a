"""How fast are tangent kernels, and how much memory do they take, against other libraries and against the machine?

    python experiments/benchmarks/ntk.py                                    # all cases, some 20 minutes on two cores
    python experiments/benchmarks/ntk.py --against=neural-tangents --build_peers  # makes its environment first
    python experiments/benchmarks/ntk.py --cases=mlp256n200,cnn16n200 --repeats=3

A case is `mlp<width>n<samples>` (784-w-w-w-10) or `cnn<channels>n<samples>` (32x32x3 images), with `trace` behind it
for the mean over outputs in place of the full K x K kernel. float32, random images, the same weights for everybody:

* ours, `ntk.empirical_ntk` as a user calls it, with all its checks and its certificate; `auto` chooses the method;
* jacobian, the same with method="jacobian", the oracle;
* torch.func, the Jacobian by vmap of jacrev, contracted leaf by leaf, as PyTorch's own tutorial has it (MLPs only);
* neural-tangents, structured derivatives, compiled as one program, in an environment of its own (MLPs only, on CPU).

All take turns, so that a busy machine slows each alike, each in a process of its own, so that memory is its own too.
Whoever by counting would take longer than --limit seconds, or more memory than there is, sits out, and the table says
so. Prints seconds (median and range of the turns), those of the first call (tracing and compiling too), GFLOP/s by the
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
import nt_environment
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
WAYS = ("ours", "jacobian", "torch.func", nt_environment.WAY)
DEFAULT = (
    "mlp256n200", "mlp1024n200", "mlp64n1000", "mlp256n1000", "mlp1024n1000", "mlp4096n1000", "mlp1024n5000trace",
    "cnn16n200",
)  # fmt: skip
AGREEMENT = 1e-3  # relative; float32 sums over millions of terms differ by far less, mistakes by far more
MEMORY_SHARE = 0.4  # of the machine's, that torch's Jacobian may take; temporaries come on top
COPIES = 8  # of the kernel, that neural-tangents holds at its peak, as measured

CASES = Names(ntk_ways.CASE, "mlp<width>n<samples> or cnn<channels>n<samples>[trace], with commas between", least=1)
OTHERS = Names("|".join(map(re.escape, WAYS[1:])), f"some of {', '.join(WAYS[1:])}, or none")


def store(case: Case, path: Path) -> int:
    """Return the number of parameters, having written weights and images for all ways."""
    model, _ = ntk_ways.network(case)
    variables = models.init(model, jax.random.key(0), SHAPES[case.kind])
    x = np.random.default_rng(0).standard_normal((case.n, *SHAPES[case.kind]), np.float32)
    leaves: dict[str, Any] = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(variables))}
    np.savez(path, x=x, **leaves)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def sits_out(way: str, case: Case, params: int, peer: nt_environment.Peer | None) -> str | None:
    """Return why somebody does not take part, by counting.

    torch.func and our oracle multiply whole Jacobians, n K rows of all parameters; neural-tangents multiplies
    derivatives by a layer's outputs.
    """
    if way == "ours":
        return None
    if way == nt_environment.WAY and peer is None:
        return nt_environment.ABSENT
    if way != "jacobian" and case.kind == "cnn":
        return "MLPs only"
    if way == nt_environment.WAY and jax.default_backend() != "cpu":
        return "its environment computes on the CPU only"
    rows, peak = case.n * NUM_CLASSES, timing.matmul_peak()
    length = 3 * case.size + NUM_CLASSES if way == nt_environment.WAY else params
    work = 2.0 * case.n * rows * length * (1 if case.trace else NUM_CLASSES) / (2 if way == "jacobian" else 1)
    if work / 1e9 / peak > FLAGS.limit:
        return f"{work / 1e12:.3g} TFLOP would take over {FLAGS.limit:g} s"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    what, need = {
        "jacobian": ("", 0.0),  # in tiles
        "torch.func": ("the Jacobian", 4.0 * rows * params),
        nt_environment.WAY: (f"{COPIES} copies of the kernel", 4.0 * COPIES * rows * (case.n if case.trace else rows)),
    }[way]
    return f"{what} would take {need / 2**30:.3g} GiB" if need > MEMORY_SHARE * memory else None


def worker(way: str, peer: nt_environment.Peer | None) -> timing.Worker:
    """Return the process of a way, in its own environment."""
    if way == nt_environment.WAY and peer is not None:
        # -E: packages that $PYTHONPATH names are for this environment.
        return timing.Worker(["-E", ntk_ways.__file__, way], nt_environment.SETTING, peer.python)
    return timing.Worker([ntk_ways.__file__, way], {})


def time_case(case: Case, ways: list[str], folder: Path, peer: nt_environment.Peer | None) -> list[dict[str, Any]]:
    """Return the rows of one kernel, everything timed in turn; prints a line for each way."""
    inputs = folder / "inputs.npz"
    params = store(case, inputs)
    absent = {way: sits_out(way, case, params, peer) for way in ways}
    workers = {way: worker(way, peer) for way in ways if absent[way] is None}
    first = {way: process.ask(case=case.name, inputs=str(inputs)) for way, process in workers.items()}
    last = dict(first)

    def turn(way: str) -> float:
        last[way] = workers[way].ask(again=True)
        return last[way]["seconds"]

    contenders = {way: functools.partial(turn, way) for way in workers} | {"peak": timing.matmul_peak}
    seconds = timing.interleaved(contenders, FLAGS.repeats, FLAGS.limit)
    for process in workers.values():
        process.close()
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
                "first_seconds": first[way]["seconds"],
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
    text = f"{row['case']:17} {row['way']:15} "
    if row["absent"]:
        return text + f"sits out: {row['absent']}"
    text += f"{timing.spread(seconds)} s, first call {row['first_seconds']:.2f}; "
    if row["gflops"]:
        text += (
            f"{row['gflops']:.0f} GFLOP/s ({row['gflops'] / row['matmul_gflops']:.0%} of {row['matmul_gflops']:.0f}); "
        )
    text += f"{row['peak_gib']:.2f} GiB ({row['added_gib']:.2f} added)"
    if row["way"] != "ours":
        text += f"; ours is {row['speedup']:.3g} times faster"
        text += f"; {'differs' if row['difference'] <= AGREEMENT else 'DISAGREES'} by {row['difference']:.1e}"
    return text


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        if "torch.func" in FLAGS.against:
            timing.check_torch("against")
        timing.check_out(FLAGS.out)
        wanted = nt_environment.WAY in FLAGS.against or FLAGS.build_peers or FLAGS.nt_python is not None
        peer = nt_environment.find(FLAGS.nt_python, FLAGS.build_peers) if wanted else None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{jax.local_devices()[0].device_kind}, {cores} cores, jax {jax.__version__}; float32; "
        f"seconds, median [range] of up to {FLAGS.repeats} turns"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in FLAGS.cases:
            try:
                rows += time_case(ntk_ways.parse(name), ["ours", *FLAGS.against], Path(folder), peer)
            except timing.Ended as error:
                cli.fail(f"{name}: a process ended ({error}); see the line above", 1)
    targets.say("ntk", rows)
    records.write_table(Path(FLAGS.out), rows)


def define_flags() -> None:
    """Define the flags; other benchmarks have some of the same names, and tests import them all."""
    cli.define_flag("cases", CASES, DEFAULT, "Kernels to time.")
    cli.define_flag("against", OTHERS, WAYS[1:], "Whom to compare with.")
    cli.define_flag("repeats", options.COUNT, 5, "Turns of each.")
    cli.define_flag("limit", options.POSITIVE, 60.0, "Seconds after which one takes no further turn in a case.")
    flags.DEFINE_string("out", "bench_ntk.csv", "The table.")
    nt_environment.define_flags()


if __name__ == "__main__":
    define_flags()
    cli.script(main)
