"""How fast are Hessian-vector products and eigenvalues, against PyHessian, hessian-eigenthings and the machine?

    python experiments/bench_curvature.py                # MLP 256 (minutes) and CNN 16 (about an hour on two cores)
    python experiments/bench_curvature.py --cases=mlp64 --samples=200 --repeats=3

A network is trained for a few epochs by ntkgen; its weights and samples are carried over to PyTorch. In turn:

* a gradient, a Hessian-vector product, and one with the gradient linearised beforehand (`linearize=True`);
* PyTorch's double backward with the gradient's graph kept (PyHessian's way) and made anew (hessian-eigenthings');
* the top eigenvalue to a *true* residual of 1e-3: our Lanczos and power iteration, PyHessian's power iteration,
  hessian-eigenthings' power iteration and Lanczos. Neither PyHessian nor the last stops by a true residual: how many
  iterations they need is found untimed. Ours include the linearisation, theirs the gradient's graph;
* ten eigenpairs with residuals of 1e-3, against PyHessian's three deflated ones at its own tolerance.

Torch runs on CPU in two processes, with OpenMP's defaults and with passive waiting; the faster one at products goes on
to the eigenvalues. Errors are against scipy's `eigsh` on our float64 product. Without one of the packages
(pip install "ntkgen[bench]") its part is done by double backward written out, or left out, and the table says so.
"""

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import bench_curvature_torch
import common
import jax
import jax.numpy as jnp
import numpy as np
import timing
from absl import flags
from bench_networks import TORCH_SETTINGS, examples, forward_flops, network, parse_cases
from jax.tree_util import Partial
from scipy.sparse.linalg import LinearOperator, eigsh

from ntkgen import curvature, ensemble, models, records, spectrum, train, tree

FLAGS = flags.FLAGS
flags.DEFINE_list("cases", ["mlp256", "cnn16"], "Networks, as mlp<width> or cnn<channels>.")
flags.DEFINE_string("data_dir", None, "Prepared TFDS folder. Default: $NTKGEN_DATA_DIR, then the usual TFDS folder.")
common.define(common.COUNT, "samples", 1_000, "Training examples of the Hessian.")
common.define(common.COUNT, "epochs", 5, "Epochs of training beforehand, on twice as many examples.")
common.define(common.COUNT, "pairs", 10, "Eigenpairs of the last comparison.")
common.define(common.COUNT, "max_iters", 500, "Matrix-vector products after which a solver gives up.")
common.define(common.COUNT, "repeats", 7, "Turns of gradients and products.")
common.define(common.COUNT, "solves", 3, "Turns of eigenvalues.")
flags.DEFINE_boolean("torch", True, "Time PyTorch too.")
flags.DEFINE_string("out", None, "CSV to write. Default: none.")
flags.DEFINE_enum("torch_worker", None, ("cpu", "cuda"), "Internal: serve timings of PyTorch on a device.")

TOLERANCE = spectrum.TOLERANCE
Row = dict[str, Any]


class Problem:
    """A trained network, its samples, and what is timed on it."""

    def __init__(self, kind: str, size: int) -> None:
        """Train, and compile everything once; `first` keeps the seconds of the first calls."""
        count = FLAGS.samples
        split, self.source = examples(kind, 2 * count, FLAGS.data_dir)
        self.model, self.shape = network(kind, size), tuple(split.x.shape[1:])
        config = train.Config(epochs=FLAGS.epochs, batch_size=min(128, 2 * count), learning_rate=0.01)
        few = train.Batch(split.x[:count], split.y[:count])
        fitted = ensemble.fit(self.model, SimpleNamespace(train=split, test=few), config, [0])
        variables = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), fitted.variables)
        self.params, self.batch = variables["params"], few
        self.state = {name: value for name, value in variables.items() if name != "params"}
        self.dim = tree.size(self.params)
        self.start = tree.random_like(train.measurement_key(0), self.params)
        self._gradient = jax.jit(curvature.highest_precision(jax.grad(self._loss)))
        self._plain, self._linear = self.matvec(False), self.matvec(True)
        flops = [float(f) * count / 1e9 for f in forward_flops(kind, size, self.shape)]
        first, others = flops[0], sum(flops[1:])  # GFLOP; the images have neither gradient nor tangent
        self.work = {"gradient": 2 * first + 3 * others, "hvp": 4 * first + 9 * others}
        self.work["hvp, linearised"] = 2 * first + 6 * others
        self.products: dict[str, Callable[[], Any]] = {
            "gradient": lambda: self._gradient(self.params),
            "hvp": lambda: self._plain(self.start),
            "hvp, linearised": lambda: self._linear(self.start),
            "linearising": lambda: jax.tree.leaves(self.matvec(True)),
        }
        most = min(FLAGS.max_iters, self.dim)
        self.solvers: dict[str, Callable[[], spectrum.Eigen]] = {
            "top, Lanczos": lambda: spectrum.lanczos(self.matvec(True), self.start, min(100, most), tol=TOLERANCE),
            "top, power": lambda: spectrum.power_iteration(self.matvec(True), self.start, FLAGS.max_iters, TOLERANCE),
            f"top {FLAGS.pairs}, Lanczos": lambda: spectrum.lanczos(
                self.matvec(True), self.start, min(300, most), FLAGS.pairs, tol=TOLERANCE
            ),
        }
        self.first = {name: timed(call)[0] for name, call in {**self.products, **self.solvers}.items()}

    def _outputs(self, state: Any, params: Any, x: jax.Array) -> jax.Array:
        return models.apply_fn(self.model, {"params": params, **state})(params, x)

    def _loss(self, params: Any) -> jax.Array:
        return jnp.mean(train.cross_entropy(self._outputs(self.state, params, self.batch.x), self.batch.y))

    def matvec(self, linearize: bool) -> Callable:
        """Make the product with the Hessian."""
        f = Partial(self._outputs, self.state)
        return curvature.hessian_matvec(f, train.cross_entropy, self.params, *self.batch, linearize=linearize)

    def reference(self) -> np.ndarray:
        """Give the largest eigenvalues, descending, by scipy's eigsh on the float64 product."""
        with float64():
            params, state, batch = (tree.cast(t, jnp.float64) for t in (self.params, self.state, self.batch))
            f = Partial(self._outputs, state)
            matvec = curvature.hessian_matvec(f, train.cross_entropy, params, *batch)
            start, unravel = tree.ravel(tree.cast(self.start, jnp.float64))

            def product(v: np.ndarray) -> np.ndarray:
                return np.asarray(tree.ravel(matvec(unravel(jnp.asarray(v.reshape(-1)))))[0])

            operator = LinearOperator((self.dim, self.dim), matvec=product, dtype=np.float64)
            k = min(FLAGS.pairs, self.dim - 1)
            found = eigsh(operator, k, which="LA", tol=1e-8, v0=np.asarray(start), return_eigenvectors=False)
        return np.sort(found)[::-1]

    def carry(self, path: Path) -> None:
        """Write weights and samples for PyTorch."""
        leaves = jax.tree.leaves_with_path({"params": self.params, **self.state})
        arrays = {"/".join(key.key for key in where): np.asarray(leaf) for where, leaf in leaves}
        np.savez(path, x=self.batch.x, y=self.batch.y, **arrays)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Enable float64 for a while; jax 0.8 moved the switch."""
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable(True):
        yield


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Call, wait for the result, and give the seconds with it."""
    begun = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - begun, result


def time_case(kind: str, size: int, workers: dict[str, timing.Worker], folder: Path) -> list[Row]:
    """Time one network, everything in turn; print and return the rows."""
    problem = Problem(kind, size)
    problem.carry(folder / "arrays.npz")
    has: dict[str, bool] = {}
    for worker in workers.values():
        has = worker.ask(
            kind=kind,
            size=size,
            arrays=str(folder / "arrays.npz"),
            tolerance=TOLERANCE,
            max_iters=FLAGS.max_iters,
            samples_shape=problem.shape,
        )
    print(f"\n{kind}{size}, {problem.dim:,} parameters, {FLAGS.samples:,} samples, {problem.source}", flush=True)
    rows = time_products(problem, workers)
    rows += time_solvers(problem, workers, rows, has)
    for row in rows:
        row |= {"case": f"{kind}{size}", "samples": FLAGS.samples, "source": problem.source}
    judge(rows)
    return rows


def time_products(problem: Problem, workers: dict[str, timing.Worker]) -> list[Row]:
    """Time gradients and products."""
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
    """Time eigenvalues, with the PyTorch process that was faster at products."""
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
        spent = "   ?" if row["matvecs"] is None else f"{row['matvecs']:4}"
        print(
            f"{library:24} {what:20} {timing.spread(values)} s  {spent} products, "
            f"largest residual {row['residual']:.1e}, error {row['error']:.1e}",
            flush=True,
        )
    return solved


def new_row(library: str, what: str, values: list[float]) -> Row:
    """Begin a row of the table."""
    row: Row = {"case": None, "source": None, "samples": None, "library": library, "what": what}
    row |= {"seconds": statistics.median(values), "low": min(values), "high": max(values), "turns": len(values)}
    names = ("gradients", "compile_seconds", "gflops", "peak_gflops", "matvecs", "residual", "error")
    return row | dict.fromkeys(names)


def judge(rows: list[Row]) -> None:
    """Print what was aimed at, beside what came out."""
    found = {(row["library"], row["what"]): row for row in rows}
    theirs = [row for row in rows if row["library"].startswith(("PyHessian", "double backward"))]
    ours, power = found["ntkgen", "top, Lanczos"], found["ntkgen", "top, power"]
    reached = "" if power["residual"] <= TOLERANCE else " (power iteration gave up)"
    print(f"products, Lanczos / power: {ours['matvecs'] / power['matvecs']:.2f}{reached}; target at most 0.5")
    for row in theirs:
        if row["what"] == "top, power":
            ratio, reached = row["seconds"] / ours["seconds"], "" if row["residual"] <= TOLERANCE else " (gave up)"
            print(f"top eigenvalue, {row['library']} / ours: {ratio:.2f}{reached}; target at least 1.5")
        else:
            (many,) = (
                own
                for (library, what), own in found.items()
                if library == "ntkgen" and what == f"top {FLAGS.pairs}, Lanczos"
            )
            ratio = row["seconds"] / many["seconds"]
            print(f"{many['what']}: {row['library']}'s three / ours: {ratio:.2f}; target more than 1")
    plain, linear = (found["ntkgen", name]["gradients"] for name in ("hvp", "hvp, linearised"))
    target = "1.7 linearised" if ours["case"].startswith("mlp") else "2"
    print(f"product: {plain:.2f} gradients, {linear:.2f} linearised; target at most {target}", flush=True)


def main() -> None:
    """Run the benchmark."""
    if FLAGS.torch_worker:
        bench_curvature_torch.serve(FLAGS.torch_worker)
        return
    with common.user_errors():
        cases = parse_cases("cases", FLAGS.cases)
        if FLAGS.out is not None:
            records.check_writable(Path(FLAGS.out).parent, "out")
    device = jax.local_devices()[0]
    cuda = device.platform == "gpu"
    workers = {}
    if FLAGS.torch:
        settings = {"torch": TORCH_SETTINGS["torch"]} if cuda else TORCH_SETTINGS
        command = [__file__, f"--torch_worker={'cuda' if cuda else 'cpu'}"]
        workers = {name: timing.Worker(command, setting) for name, setting in settings.items()}
    print(
        f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; seconds, median [range] of "
        f"{FLAGS.repeats} turns of products and {FLAGS.solves} of eigenvalues; residual {TOLERANCE:g}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for kind, size in cases:
                rows += time_case(kind, size, workers, Path(folder))
        except timing.Ended as error:
            common.fail(f"--torch: the PyTorch process ended ({error}); see the line above")
    for worker in workers.values():
        worker.close()
    if FLAGS.out is not None:
        print(records.write_table(Path(FLAGS.out), rows))


if __name__ == "__main__":
    common.run(main)
