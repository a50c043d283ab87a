"""How fast are tangent kernels, and how much memory do they take, against torch.func and against the machine?

    python experiments/bench_ntk.py                                    # all cases, some 15 minutes on two cores
    python experiments/bench_ntk.py --cases=mlp256n200,cnn16n200 --repeats=3

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
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import timing
from absl import flags

# JAX, torch and ntkgen are imported where they are used: a process whose memory is measured loads its own alone.

FLAGS = flags.FLAGS
SHAPES, NUM_CLASSES = {"mlp": (28, 28, 1), "cnn": (32, 32, 3)}, 10
WAYS = ("ours", "jacobian", "torch.func")
TARGETS: dict[str, tuple[float | None, float]] = {  # seconds, GiB
    "mlp256n200": (0.06, 0.36),
    "mlp1024n200": (0.30, 0.48),
    "mlp64n1000": (0.7, 0.74),
    "mlp256n1000": (1.3, 0.82),
    "mlp1024n1000": (4.6, 0.96),
    "mlp4096n1000": (None, 3.0),
    "mlp1024n5000trace": (None, 4.0),
    "cnn16n200": (None, 2.0),
}
FASTER = {"cnn16n200": 3.0}  # than the oracle
AGREEMENT = 1e-3  # relative; float32 sums over millions of terms differ by far less, mistakes by far more
MEMORY_SHARE = 0.4  # of the machine's, that torch's Jacobian may take; temporaries come on top

flags.DEFINE_list("cases", list(TARGETS), "Kernels to time, as mlp<width>n<samples> or cnn<channels>n<samples>[trace].")
flags.DEFINE_list("against", list(WAYS[1:]), f"Whom to compare with, of {', '.join(WAYS[1:])}; empty for nobody.")
common.define(common.COUNT, "repeats", 5, "Turns of each.")
common.define(common.POSITIVE, "limit", 60.0, "Seconds after which one takes no further turn in a case.")
flags.DEFINE_string("out", "bench_ntk.csv", "The table.")
flags.DEFINE_enum("worker", None, WAYS, "Internal: serve timings of one way to the kernel.")


class Case(NamedTuple):
    """A kernel to compute."""

    name: str
    kind: str
    size: int
    n: int
    trace: bool


def parse(name: str) -> Case:
    """Read a case's name.

    Raises:
      ValueError: it is none.
    """
    match = re.fullmatch(r"(mlp|cnn)([1-9]\d{0,5})n([1-9]\d{0,5})(trace)?", name)
    if match is None:
        raise ValueError(f"--cases: expected mlp<width>n<samples> or cnn<channels>n<samples>[trace], got {name!r}")
    return Case(name, match[1], int(match[2]), int(match[3]), match[4] is not None)


# --- In the processes of their own


def serve(way: str) -> None:
    """Answer requests: the first prepares and computes a kernel, the others compute it again."""
    request = json.loads(sys.stdin.readline())
    case = parse(request["case"])
    with np.load(request["inputs"]) as stored:
        leaves = [stored[f"leaf{i}"] for i in range(len(stored.files) - 1)]
        compute, about = (
            torch_func(case, leaves, stored["x"]) if way == "torch.func" else ours(way, case, leaves, stored["x"])
        )
    del leaves
    answer: dict[str, Any] = {"baseline": timing.memory().now}
    while True:
        begun = time.perf_counter()
        kernel = compute()
        answer |= {"seconds": time.perf_counter() - begun, "peak": timing.memory().peak, "entries": entries(kernel)}
        del kernel  # before the next
        print(json.dumps(answer | about()), flush=True)
        if not sys.stdin.readline():
            return


def entries(kernel: Any) -> list[float]:
    """Take numbers to compare kernels by: the first sample's entries with some others."""
    others = np.linspace(0, kernel.shape[0] - 1, 5).astype(int)
    return [float(value) for j in others for value in np.asarray(kernel[0, int(j)]).ravel()]


def ours(way: str, case: Case, leaves: list[np.ndarray], x: np.ndarray) -> tuple[Callable[[], Any], Callable[[], dict]]:
    """Prepare our kernel; return what computes it, and what plans it."""
    import jax
    import jax.numpy as jnp

    from ntkgen import models, ntk

    model, shapes = network(case)
    variables = jax.tree.unflatten(jax.tree.structure(shapes), [jnp.asarray(leaf) for leaf in leaves])
    arguments = models.apply_fn(model, variables), variables["params"], jnp.asarray(x)
    options: Any = {"method": "auto" if way == "ours" else way, "trace": case.trace}
    return lambda: ntk.empirical_ntk(*arguments, **options).block_until_ready(), lambda: ntk.plan(
        *arguments, **options
    )._asdict()


def torch_func(case: Case, leaves: list[np.ndarray], x: np.ndarray) -> tuple[Callable[[], Any], Callable[[], dict]]:
    """Prepare PyTorch's kernel; the leaves are a bias and a kernel for each layer."""
    try:
        import torch
    except ImportError:
        common.fail("--against: torch.func needs PyTorch (pip install 'ntkgen[bench]')")

    weights = [torch.tensor(leaf.T) for leaf in leaves]
    images = torch.tensor(x).flatten(1)

    def one(weights: list, image: Any) -> Any:
        for i in range(0, len(weights), 2):
            image = torch.nn.functional.linear(image if i == 0 else torch.relu(image), weights[i + 1], weights[i])
        return image

    def compute() -> Any:
        rows = torch.func.vmap(torch.func.jacrev(one), (None, 0))(weights, images)
        rows = [row.flatten(2) for row in rows]
        if case.trace:
            return sum(torch.einsum("iap,jap->ij", row, row) for row in rows) / NUM_CLASSES
        return sum(torch.einsum("iap,jbp->ijab", row, row) for row in rows)

    return compute, dict


# --- In the process that asks


def network(case: Case) -> tuple[Any, Any]:
    """Make the model, and the shapes of its variables."""
    import jax

    from ntkgen import models

    model = models.MLP(case.size) if case.kind == "mlp" else models.CNN(case.size)
    return model, jax.eval_shape(lambda: models.init(model, jax.random.key(0), SHAPES[case.kind]))


def store(case: Case, path: Path) -> int:
    """Write weights and images for all ways; return the number of parameters."""
    import jax

    from ntkgen import models

    model, _ = network(case)
    variables = models.init(model, jax.random.key(0), SHAPES[case.kind])
    x = np.random.default_rng(0).standard_normal((case.n, *SHAPES[case.kind]), np.float32)
    leaves = {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(variables))}
    np.savez(path, x=x, **leaves)
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))


def sits_out(way: str, case: Case, params: int) -> str | None:
    """Say why somebody does not take part, by counting: the product of whole Jacobians, n K rows of all parameters."""
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
    """Time one kernel, everything in turn; print a line for each way and return the table's rows."""
    inputs = folder / "inputs.npz"
    params = store(case, inputs)
    absent = {way: sits_out(way, case, params) for way in ways}
    workers = {way: timing.Worker([__file__, f"--worker={way}"], {}) for way in ways if absent[way] is None}
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
    target = TARGETS.get(case.name, (None, None))
    rows = []
    for way in ways:
        row: dict[str, Any] = {"case": case.name, "way": way, "absent": absent[way], "matmul_gflops": peak}
        if way in workers:
            middle, flops = statistics.median(seconds[way]), first[way].get("flops")
            scale = max(map(abs, own["entries"]))
            row |= {
                "turns": len(seconds[way]),
                "seconds": middle,
                "seconds_min": min(seconds[way]),
                "seconds_max": max(seconds[way]),
                "compile_seconds": first[way]["seconds"] - middle,
                "gflop": flops and flops / 1e9,
                "gflops": flops and flops / 1e9 / middle,
                "peak_gib": last[way]["peak"] / 2**30,
                "added_gib": (last[way]["peak"] - first[way]["baseline"]) / 2**30,
                "difference": max(abs(a - b) for a, b in zip(own["entries"], first[way]["entries"], strict=True))
                / scale,
                "plan": f"{first[way]['method']}, tiles of {first[way]['tile'][0]}" if flops else None,
            }
            row["speedup"] = statistics.median(a / b for a, b in zip(seconds[way], seconds["ours"], strict=False))
        row |= dict(zip(("target_seconds", "target_gib"), target if way == "ours" else (None, None), strict=True))
        row["target_speedup"] = FASTER.get(case.name) if way == "jacobian" else None
        rows.append(row)
        print(line(row, seconds.get(way, [])), flush=True)
    return rows


def line(row: dict[str, Any], seconds: list[float]) -> str:
    """Write a row for people."""
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
        if row["target_speedup"]:
            text += f" (target {row['target_speedup']:g})"
        if not row["difference"] <= AGREEMENT:
            text += f"; DISAGREES by {row['difference']:.1e}"
    wanted = [f"{row[key]:g} {unit}" for key, unit in (("target_seconds", "s"), ("target_gib", "GiB")) if row[key]]
    return text + (f"; target {', '.join(wanted)}" if wanted else "")


def main() -> None:
    """Run the benchmark."""
    if FLAGS.worker:
        serve(FLAGS.worker)
        return
    with common.user_errors():
        cases = [parse(name) for name in FLAGS.cases]
        unknown = set(FLAGS.against) - set(WAYS[1:])
        if unknown:
            raise ValueError(f"--against: expected {' or '.join(WAYS[1:])}, got {min(unknown)!r}")
        if not cases:
            raise ValueError("--cases: expected at least one, got none")
        out = Path(FLAGS.out)
        if out.is_dir() or not out.parent.is_dir():
            raise ValueError(f"--out: expected a file in a folder that exists, got {FLAGS.out!r}")
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"{jax.local_devices()[0].device_kind}, {cores} cores, jax {jax.__version__}; float32; "
        f"seconds, median [range] of up to {FLAGS.repeats} turns"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            try:
                rows += time_case(case, ["ours", *FLAGS.against], Path(folder))
            except timing.Ended as error:
                common.fail(f"{case.name}: a process ended ({error}); see the line above")
    from ntkgen import records

    records.write_table(out, rows)


if __name__ == "__main__":
    common.run(main)
