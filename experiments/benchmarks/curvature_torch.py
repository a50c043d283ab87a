"""PyTorch's side of the curvature benchmark: PyHessian, hessian-eigenthings, and double backward written out.

Runs in a process of its own and answers requests of `curvature.py`. "True" residuals are |H v - l v| / |l| with
the vector that a library returned, by one more product that is not timed.
"""

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from networks_torch import torch_network

MOST_STEPS = 300  # of Lanczos, that the number of steps is looked for in
SEED = 0
PYHESSIAN = importlib.util.find_spec("pyhessian") is not None
EIGENTHINGS = importlib.util.find_spec("hessian_eigenthings") is not None


def serve(device: str) -> None:
    """Answer requests until the input ends."""
    warnings.filterwarnings("ignore", message=".*create_graph=True.*")  # PyHessian's way; the cycle is broken below
    case: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        if "kind" in request:
            case = Case(device, **request)
            answer: Any = case.libraries()
        else:
            answer = getattr(case, request["what"])()
        print(json.dumps(answer), flush=True)


class Case:
    """One network with carried-over weights and its samples."""

    def __init__(
        self,
        device: str,
        kind: str,
        size: int,
        arrays: str,
        tolerance: float,
        max_iters: int,
        pairs: int,
        samples_shape: list[int],
    ) -> None:
        """Load weights (Flax layout, by path) and samples."""
        import torch

        self.torch, self.tolerance, self.max_iters, self.pairs = torch, tolerance, max_iters, pairs
        stored = np.load(arrays)
        self.net = torch_network(kind, size, tuple(samples_shape))
        self._carry(stored)
        self.net.to(device).eval()
        self.x = torch.tensor(stored["x"], device=device).permute(0, 3, 1, 2).contiguous()
        self.y = torch.tensor(stored["y"], device=device).long()
        self.device, self.criterion = device, torch.nn.functional.cross_entropy
        self.params = list(self.net.parameters())
        generator = torch.Generator().manual_seed(SEED)
        self.v = [torch.randn(p.shape, generator=generator).to(device) for p in self.params]
        self._kept: Any = None
        self.power_iters = 0
        self.lanczos_iters: dict[int, int] = {}  # by number of pairs

    def _carry(self, stored: Any) -> None:
        from torch import nn

        layers = {"conv": nn.Conv2d, "dense": nn.Linear, "norm": nn.BatchNorm2d}
        with self.torch.no_grad():
            for prefix, kind in layers.items():
                names = sorted({name.split("/")[1] for name in stored.files if f"/{prefix}" in name})
                modules: list[Any] = [module for module in self.net.modules() if isinstance(module, kind)]
                for name, module in zip(names, modules, strict=True):
                    if prefix == "norm":
                        module.running_mean.copy_(self.torch.tensor(stored[f"batch_stats/{name}/mean"]))
                        module.running_var.copy_(self.torch.tensor(stored[f"batch_stats/{name}/var"]))
                        continue
                    kernel = stored[f"params/{name}/kernel"]
                    weight = kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
                    module.weight.copy_(self.torch.tensor(np.ascontiguousarray(weight)))
                    module.bias.copy_(self.torch.tensor(stored[f"params/{name}/bias"]))

    def libraries(self) -> dict[str, bool]:
        """Return which packages there are."""
        return {"pyhessian": PYHESSIAN, "eigenthings": EIGENTHINGS}

    # --- Products

    def _gradient(self, graph: bool) -> Any:
        loss = self.criterion(self.net(self.x), self.y)
        return self.torch.autograd.grad(loss, self.params, create_graph=graph)

    def _product(self, v: Any) -> Any:
        if self._kept is None:
            self._kept = self._gradient(True)
        return self.torch.autograd.grad(self._kept, self.params, grad_outputs=v, retain_graph=True)

    def _timed(self, function: Callable[[], Any]) -> tuple[float, Any]:
        self._synchronise()
        begun = time.perf_counter()
        result = function()
        self._synchronise()
        return time.perf_counter() - begun, result

    def _synchronise(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()

    def gradient(self) -> dict[str, Any]:
        """Return the seconds of one gradient."""
        return {"seconds": self._timed(lambda: self._gradient(False))[0]}

    def hvp_kept(self) -> dict[str, Any]:
        """Return the seconds of one backward through the gradient's graph, kept from before, as in PyHessian."""
        self._product(self.v)
        return {"seconds": self._timed(lambda: self._product(self.v))[0]}

    def hvp_fresh(self) -> dict[str, Any]:
        """Return the seconds of one product with a graph of its own, as in hessian-eigenthings."""

        def fresh() -> Any:
            return self.torch.autograd.grad(self._gradient(True), self.params, grad_outputs=self.v)

        return {"seconds": self._timed(fresh)[0]}

    # --- Residuals

    def _dot(self, a: Any, b: Any) -> float:
        return float(sum((x.double() * y.double()).sum() for x, y in zip(a, b, strict=True)))

    def _judged(self, values: list[float], vectors: list[Any]) -> dict[str, Any]:
        residuals = []
        for value, vector in zip(values, vectors, strict=True):
            length = self._dot(vector, vector) ** 0.5
            unit = [v / length for v in vector]
            product = self._product(unit)
            error = [h - value * v for h, v in zip(product, unit, strict=True)]
            residuals.append(self._dot(error, error) ** 0.5 / abs(value))
        return {"values": values, "residuals": residuals}

    def _split(self, flat: Any) -> list[Any]:
        parts = self.torch.split(flat, [p.numel() for p in self.params])
        return [part.reshape(p.shape) for part, p in zip(parts, self.params, strict=True)]

    # --- Solvers

    def _pyhessian(self) -> Any:
        import pyhessian

        self.torch.manual_seed(SEED)
        return pyhessian.hessian(self.net, self.criterion, data=(self.x, self.y), cuda=self.device == "cuda")

    def _forget(self) -> None:
        for p in self.params:
            p.grad = None  # PyHessian leaves a graph there that would otherwise never be freed

    def _power(self, num_iters: int) -> tuple[int, list[float], list[Any]]:
        """Iterate as PyHessian does, from its start vector, until the true residual is small or for num_iters."""
        self.torch.manual_seed(SEED)
        v = [self.torch.randn(p.size()).to(self.device) for p in self.params]
        for i in range(1, num_iters + 1):
            length = self._dot(v, v) ** 0.5
            v = [a / length for a in v]
            product = self._product(v)
            value = self._dot(v, product)
            error = [h - value * a for h, a in zip(product, v, strict=True)]
            if self._dot(error, error) ** 0.5 <= self.tolerance * abs(value):
                break
            if i < num_iters:
                v = list(product)
        return i, [value], [v]

    def prepare(self) -> dict[str, Any]:
        """Return how many iterations lead to the tolerance, untimed: neither library stops by a true residual."""
        self.power_iters = self._power(self.max_iters)[0]
        if EIGENTHINGS:
            from hessian_eigenthings.algorithms.lanczos import lanczos_tridiagonal

            operator = self._operator()
            start = self.torch.randn(operator.size, generator=self.torch.Generator().manual_seed(SEED)).to(self.device)
            found = lanczos_tridiagonal(operator, start, min(MOST_STEPS, operator.size, self.max_iters))
            alphas, betas = found.alphas.double().cpu().numpy(), found.betas.double().cpu().numpy()
            self.lanczos_iters = {k: self._steps(alphas, betas, k) for k in (1, self.pairs)}
        return {"power_iters": self.power_iters, "lanczos_iters": self.lanczos_iters}

    def _steps(self, alphas: np.ndarray, betas: np.ndarray, k: int) -> int:
        """Return after how many Lanczos steps k pairs are good to the tolerance, or how many there are."""
        for m in range(k, len(alphas)):
            beside = np.diag(betas[: m - 1], 1)
            values, vectors = np.linalg.eigh(np.diag(alphas[:m]) + beside + beside.T)
            if (betas[m - 1] * np.abs(vectors[-1, -k:]) <= self.tolerance * np.abs(values[-k:])).all():
                return m
        return len(alphas)

    def pyhessian_top(self) -> dict[str, Any]:
        """Return the top eigenvalue to the tolerance, timed: PyHessian's power iteration, or the same written out."""
        if not PYHESSIAN:

            def solve() -> Any:
                self._kept = None
                return self._power(self.max_iters)

            seconds, (iters, values, vectors) = self._timed(solve)
        else:
            iters = self.power_iters
            seconds, (values, vectors) = self._timed(lambda: self._pyhessian().eigenvalues(maxIter=iters, tol=0.0))
            self._forget()
        return {"seconds": seconds, "matvecs": iters, **self._judged(values, vectors)}

    def pyhessian_top3(self) -> dict[str, Any]:
        """Return three deflated pairs, timed, at PyHessian's own tolerance (1e-3 of the value's change), 100 steps."""
        seconds, (values, vectors) = self._timed(lambda: self._pyhessian().eigenvalues(top_n=3))
        self._forget()
        return {"seconds": seconds, "matvecs": None, **self._judged(values, vectors)}

    def _operator(self) -> Any:
        from hessian_eigenthings import HessianOperator, supervised_loss

        return HessianOperator(self.net, [(self.x, self.y)], supervised_loss(self.criterion))

    def eigenthings_power(self) -> dict[str, Any]:
        """Return the top eigenvalue by hessian-eigenthings' power iteration, which stops by the residual; timed."""
        from hessian_eigenthings.algorithms.power_iteration import power_iteration_one

        def solve() -> Any:
            return power_iteration_one(self._operator(), max_iter=self.max_iters, tol=self.tolerance, seed=SEED)

        seconds, (value, vector, _, iters, _) = self._timed(solve)
        return {"seconds": seconds, "matvecs": iters, **self._judged([value], [self._split(vector)])}

    def eigenthings_lanczos(self) -> dict[str, Any]:
        """Return the top eigenvalue by hessian-eigenthings' Lanczos, timed, with the steps found beforehand."""
        return self._eigenthings_pairs(1)

    def eigenthings_pairs(self) -> dict[str, Any]:
        """Return as many pairs as ours by the same."""
        return self._eigenthings_pairs(self.pairs)

    def _eigenthings_pairs(self, k: int) -> dict[str, Any]:
        from hessian_eigenthings import lanczos

        steps = self.lanczos_iters[k]

        def solve() -> Any:
            return lanczos(self._operator(), k=k, max_iter=steps, which="LA", seed=SEED, reorthogonalize=True)

        seconds, found = self._timed(solve)
        order = np.argsort([-float(value) for value in found.eigenvalues])
        values = [float(found.eigenvalues[int(i)]) for i in order]
        judged = self._judged(values, [self._split(found.eigenvectors[int(i)]) for i in order])
        return {"seconds": seconds, "matvecs": steps, **judged}


if __name__ == "__main__":
    serve(sys.argv[1])
