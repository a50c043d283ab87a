"""Our side of the curvature benchmark: a trained network, its samples, and what is timed on it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from networks import examples, forward_flops, network
from scipy.sparse.linalg import LinearOperator, eigsh

from ntkgen import curvature, ensemble, models, spectrum, train, tree

TOLERANCE = spectrum.TOLERANCE


@dataclass(frozen=True)
class Sizes:
    """How much is trained and solved.

    Attributes:
      samples: training examples of the Hessian.
      epochs: of training beforehand, on twice as many examples.
      pairs: eigenpairs of the last comparison.
      max_iters: products after which a solver gives up.
      data_dir: prepared data, or None.
    """

    samples: int
    epochs: int
    pairs: int
    max_iters: int
    data_dir: str | None = None


class Problem:
    """A trained network, its samples, and what is timed on it."""

    def __init__(self, kind: str, size: int, sizes: Sizes) -> None:
        """Train, and compile everything once; `first` keeps the seconds of the first calls."""
        self.sizes, count = sizes, sizes.samples
        split, self.source = examples(kind, 2 * count, sizes.data_dir)
        self.model, self.shape = network(kind, size), tuple(split.x.shape[1:])
        config = train.Config(epochs=sizes.epochs, batch_size=min(128, 2 * count), learning_rate=0.01)
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
        most = min(sizes.max_iters, self.dim)
        self.solvers: dict[str, Callable[[], spectrum.Eigen]] = {
            "top, Lanczos": lambda: spectrum.lanczos(self.matvec(True), self.start, min(100, most), tol=TOLERANCE),
            "top, power": lambda: spectrum.power_iteration(self.matvec(True), self.start, sizes.max_iters, TOLERANCE),
            f"top {sizes.pairs}, Lanczos": lambda: spectrum.lanczos(
                self.matvec(True), self.start, min(300, most), sizes.pairs, tol=TOLERANCE
            ),
        }
        self.first = {name: timed(call)[0] for name, call in {**self.products, **self.solvers}.items()}

    def _outputs(self, state: Any, params: Any, x: jax.Array) -> jax.Array:
        return models.apply_fn(self.model, {"params": params, **state})(params, x)

    def _loss(self, params: Any) -> jax.Array:
        return jnp.mean(train.cross_entropy(self._outputs(self.state, params, self.batch.x), self.batch.y))

    def matvec(self, linearize: bool) -> Callable:
        """Return the product with the Hessian."""
        f = Partial(self._outputs, self.state)
        return curvature.hessian_matvec(f, train.cross_entropy, self.params, *self.batch, linearize=linearize)

    def reference(self) -> np.ndarray:
        """Return the largest eigenvalues, descending, by scipy's eigsh on the float64 product."""
        with float64():
            params, state, batch = (tree.cast(t, jnp.float64) for t in (self.params, self.state, self.batch))
            f = Partial(self._outputs, state)
            matvec = curvature.hessian_matvec(f, train.cross_entropy, params, *batch)
            start, unravel = tree.ravel(tree.cast(self.start, jnp.float64))

            def product(v: np.ndarray) -> np.ndarray:
                return np.asarray(tree.ravel(matvec(unravel(jnp.asarray(v.reshape(-1)))))[0])

            operator = LinearOperator((self.dim, self.dim), matvec=product, dtype=np.float64)
            k = min(self.sizes.pairs, self.dim - 1)
            found = eigsh(operator, k, which="LA", tol=1e-8, v0=np.asarray(start), return_eigenvectors=False)
        return np.sort(found)[::-1]

    def carry(self, path: Path) -> None:
        """Write weights and samples for PyTorch."""
        leaves = jax.tree.leaves_with_path({"params": self.params, **self.state})
        arrays: dict[str, Any] = {"/".join(key.key for key in where): np.asarray(leaf) for where, leaf in leaves}
        np.savez(path, x=self.batch.x, y=self.batch.y, **arrays)


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Enable float64 for a while; jax 0.8 moved the switch."""
    where: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    with where.enable_x64(True):
        yield


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, waiting for the result, and the result."""
    begun = time.perf_counter()
    result = jax.block_until_ready(call())
    return time.perf_counter() - begun, result
