"""How fast are Hessian-vector products and eigenvalues, against PyHessian, hessian-eigenthings and the machine?

    python experiments/benchmarks/curvature.py               # MLP 256 (minutes) and CNN 16 (about an hour on two cores)
    python experiments/benchmarks/curvature.py --cases=mlp64 --samples=200 --repeats=3

A network is trained for a few epochs by ntkgen; its weights and samples are carried over to PyTorch. In turn:

* a gradient, a Hessian-vector product, and one with the gradient linearised beforehand (`linearize=True`);
* PyTorch's double backward with the gradient's graph kept (PyHessian's way) and made anew (hessian-eigenthings');
* the top eigenvalue to a *true* residual of 1e-3: our Lanczos and power iteration, PyHessian's power iteration,
  hessian-eigenthings' power iteration and Lanczos. Neither PyHessian nor the last stops by a true residual: how many
  iterations they need is found untimed. Ours include the linearisation, theirs the gradient's graph;
* ten eigenpairs with residuals of 1e-3. hessian-eigenthings' Lanczos finds as many, told how many steps that takes.
  PyHessian finds three, deflated, at its own tolerance.

Torch runs on CPU in two processes, with OpenMP's defaults and with passive waiting; the faster one at products goes on
to the eigenvalues. Errors are against scipy's `eigsh` on our float64 product. Without one of the packages
(pip install "ntkgen[bench]") its part is done by double backward written out, or left out, and the table says so.
"""

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import curvature_torch
import jax
import numpy as np
import targets
import timing
from absl import flags
from cases import NETWORKS, network_of
from curvature_problem import TOLERANCE, Problem, Sizes, timed

from ntkgen import cli, records
from ntkgen.studies import options

FLAGS = flags.FLAGS
cli.define_flag("cases", NETWORKS, ("mlp256", "cnn16"), "Networks to time.")
flags.DEFINE_string("data_dir", None, "Prepared TFDS folder. Default: $NTKGEN_DATA_DIR, then the usual TFDS folder.")
cli.define_flag("samples", options.COUNT, 1_000, "Training examples of the Hessian.")
cli.define_flag("epochs", options.EPOCHS, 5, "Epochs of training beforehand, on twice as many examples.")
cli.define_flag("pairs", options.COUNT, 10, "Eigenpairs of the last comparison.")
cli.define_flag("max_iters", options.COUNT, 500, "Matrix-vector products after which a solver gives up.")
cli.define_flag("repeats", options.COUNT, 7, "Turns of gradients and products.")
cli.define_flag("solves", options.COUNT, 3, "Turns of eigenvalues.")
cli.define_flag("torch", options.SWITCH, True, "Time PyTorch too.")
flags.DEFINE_string("out", None, "CSV to write. Default: none.")

Row = dict[str, Any]


def time_case(kind: str, size: int, workers: dict[str, timing.Worker], folder: Path) -> list[Row]:
    """Return the rows of one network, everything timed in turn; prints them too."""
    problem = Problem(kind, size, Sizes(FLAGS.samples, FLAGS.epochs, FLAGS.pairs, FLAGS.max_iters, FLAGS.data_dir))
    problem.carry(folder / "arrays.npz")
    has: dict[str, bool] = {}
    for worker in workers.values():
        has = worker.ask(
            kind=kind,
            size=size,
            arrays=str(folder / "arrays.npz"),
            tolerance=TOLERANCE,
            max_iters=FLAGS.max_iters,
            pairs=FLAGS.pairs,
            samples_shape=problem.shape,
        )
    print(f"\n{kind}{size}, {problem.dim:,} parameters, {FLAGS.samples:,} samples, {problem.source}", flush=True)
    rows = time_products(problem, workers)
    rows += time_solvers(problem, workers, rows, has)
    for row in rows:
        row |= {"case": f"{kind}{size}", "samples": FLAGS.samples, "source": problem.source}
    targets.say("curvature", rows)
    return rows


def time_products(problem: Problem, workers: dict[str, timing.Worker]) -> list[Row]:
    """Return the rows of gradients and products."""
    theirs = {"gradient": "gradient", "hvp, graph kept": "hvp_kept", "hvp, graph anew": "hvp_fresh"}
    seconds: dict[tuple[str, str], list[float]] = {}
    peaks = []
    for turn in range(FLAGS.repeats + 1):
        spent = {("ntkgen", name): timed(call)[0] for name, call in problem.products.items()}
        for label, worker in workers.items():
            spent |= {(label, name): worker.ask(what=what)["seconds"] for name, what in theirs.items()}
        peaks.append(timing.matmul_peak())
        if turn:  # the first warms up PyTorch
            for key, value in spent.items():
                seconds.setdefault(key, []).append(value)
    peak = statistics.median(peaks)
    rows = []
    for (library, name), values in seconds.items():
        row = new_row(library, name, values)
        row["gradients"] = statistics.median(
            own / base for own, base in zip(values, seconds[library, "gradient"], strict=True)
        )
        row["compile_seconds"] = max(0.0, problem.first[name] - row["seconds"]) if library == "ntkgen" else None
        if library == "ntkgen" and name in problem.work:
            row |= {"gflops": problem.work[name] / row["seconds"], "peak_gflops": peak}
        rows.append(row)
        share = "" if row["gflops"] is None else f"  {row['gflops']:5.0f} GFLOP/s ({row['gflops'] / peak:.0%} of peak)"
        print(f"{library:24} {name:20} {timing.spread(values)} s  {row['gradients']:5.2f} gradients{share}", flush=True)
    return rows


def time_solvers(
    problem: Problem, workers: dict[str, timing.Worker], rows: list[Row], has: dict[str, bool]
) -> list[Row]:
    """Return the rows of eigenvalues, with the PyTorch process that was faster at products."""
    exact = problem.reference()
    theirs: dict[tuple[str, str], str] = {}
    worker: Any = None
    if workers:
        kept = {row["library"]: row["seconds"] for row in rows if row["what"] == "hvp, graph kept"}
        setting = min(kept, key=lambda label: kept[label])
        worker = workers[setting]
        print(f"{'':24} eigenvalues by {setting}: {worker.ask(what='prepare')} iterations", flush=True)
        name = "PyHessian" if has["pyhessian"] else "double backward (no PyHessian)"
        theirs[name, "top, power"] = "pyhessian_top"
        if has["eigenthings"]:
            theirs["hessian-eigenthings", "top, power"] = "eigenthings_power"
            theirs["hessian-eigenthings", "top, Lanczos"] = "eigenthings_lanczos"
            theirs["hessian-eigenthings", f"top {FLAGS.pairs}, Lanczos"] = "eigenthings_pairs"
        if has["pyhessian"]:
            theirs["PyHessian", "top 3, deflated"] = "pyhessian_top3"
    seconds: dict[tuple[str, str], list[float]] = {}
    answers: dict[tuple[str, str], Any] = {}
    for _ in range(FLAGS.solves):
        for what, solve in problem.solvers.items():
            spent, eigen = timed(solve)
            seconds.setdefault(("ntkgen", what), []).append(spent)
            found = {"values": np.atleast_1d(eigen.value), "residuals": np.atleast_1d(eigen.residual)}
            answers["ntkgen", what] = {**found, "matvecs": int(eigen.num_matvecs)}
        for key, what in theirs.items():
            answers[key] = worker.ask(what=what)
            seconds.setdefault(key, []).append(answers[key]["seconds"])
    solved = []
    for (library, what), values in seconds.items():
        answer = answers[library, what]
        row = new_row(library, what, values)
        error = np.max(np.abs(np.asarray(answer["values"]) / exact[: len(answer["values"])] - 1))
        row |= {"matvecs": answer["matvecs"], "residual": float(np.max(answer["residuals"])), "error": float(error)}
        row["compile_seconds"] = max(0.0, problem.first[what] - row["seconds"]) if library == "ntkgen" else None
        solved.append(row)
        products = "   ?" if row["matvecs"] is None else f"{row['matvecs']:4}"
        print(
            f"{library:24} {what:20} {timing.spread(values)} s  {products} products, "
            f"largest residual {row['residual']:.1e}, error {row['error']:.1e}",
            flush=True,
        )
    return solved


def new_row(library: str, what: str, values: list[float]) -> Row:
    """Return a row of the table with its times."""
    row: Row = {"case": None, "source": None, "samples": None, "library": library, "what": what}
    row |= timing.columns(values)
    names = ("gradients", "compile_seconds", "gflops", "peak_gflops", "matvecs", "residual", "error")
    return row | dict.fromkeys(names)


def main() -> None:
    """Run the benchmark."""
    with cli.user_errors(FLAGS):
        timing.check_out(FLAGS.out)
        if FLAGS.torch:
            timing.check_torch("torch")
    device = jax.local_devices()[0]
    workers = timing.torch_workers(curvature_torch.__file__, device.platform == "gpu") if FLAGS.torch else {}
    print(
        f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; seconds, median [range] of "
        f"{FLAGS.repeats} turns of products and {FLAGS.solves} of eigenvalues; residual {TOLERANCE:g}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in FLAGS.cases:
                rows += time_case(*network_of(name), workers, Path(folder))
        except timing.Ended as error:
            cli.fail(f"--torch: the PyTorch process ended ({error}); see the line above", 1)
    for worker in workers.values():
        worker.close()
    if FLAGS.out is not None:
        print(records.write_table(Path(FLAGS.out), rows))


if __name__ == "__main__":
    cli.script(main)
