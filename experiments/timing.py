"""What the benchmarks share: images to time on, the arithmetic that a network needs, PyTorch beside us, medians."""

import functools
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import data, models, train

SHAPES = {"mlp": (28, 28, 1), "cnn": (32, 32, 3)}
REAL = {"mlp": "mnist", "cnn": "cifar10"}
# Both, since with all cores busy OpenMP's default spinning can cost a factor of ten, and waiting costs a little always.
TORCH_SETTINGS: dict[str, dict[str, str]] = {
    "torch": {},
    "torch, passive waiting": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
}


def parse_cases(cases: Sequence[str]) -> list[tuple[str, int]]:
    """Read networks written as mlp<width> or cnn<channels>.

    Raises:
      ValueError: one is written otherwise.
    """
    found = []
    for case in cases:
        kind, size = case[:3], case[3:]
        if kind not in SHAPES or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"--cases: expected mlp<width> or cnn<channels>, got {case!r}")
        found.append((kind, int(size)))
    return found


def network(kind: str, size: int) -> Any:
    """Make ntkgen's network."""
    return models.MLP(size) if kind == "mlp" else models.CNN(size)


def forward_flops(kind: str, size: int, shape: tuple[int, ...]) -> list[float]:
    """Count multiplications and additions of one example's forward pass, layer by layer, matmuls and convolutions."""
    shapes = jax.eval_shape(lambda key: models.init(network(kind, size), key, shape), jax.random.key(0))
    counts = {}
    for path, leaf in jax.tree.leaves_with_path(shapes["params"]):
        if len(leaf.shape) >= 2:
            name = path[0].key
            pixels = (shape[0] >> int(name[4])) * (shape[1] >> int(name[4])) if name.startswith("conv") else 1
            counts[name] = 2.0 * pixels * np.prod(leaf.shape)
    return [counts[name] for name in sorted(counts)]  # conv0_0 before conv0_1 before dense0


@functools.cache
def examples(kind: str, count: int, data_dir: str | None = None) -> tuple[train.Batch, str]:
    """Load real images, or draw random ones where there are none; say which."""
    try:
        split = data.load(REAL[kind], data_dir=data_dir, num_train=count).train
        return train.Batch(split.x, split.y), REAL[kind]
    except data.DataError:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((count, *SHAPES[kind]), np.float32)
        return train.Batch(jnp.asarray(x), jnp.asarray(rng.integers(0, 10, len(x)), jnp.int32)), "random images"


def matmul_peak() -> float:
    """Measure the GFLOP/s of a 2,048 x 2,048 float32 matmul."""
    a = jnp.ones((2048, 2048))
    jax.block_until_ready(_product(a))
    begun = time.perf_counter()
    jax.block_until_ready(_product(a))
    return 2 * 2048**3 / (time.perf_counter() - begun) / 1e9


@jax.jit
def _product(a: jax.Array) -> jax.Array:
    return a @ a


class Torch:
    """A script that serves timings of PyTorch in a process of its own, since OpenMP reads its settings at the start.

    The script is called with --torch_worker; it reads requests, a line of JSON each, and answers each with one.
    """

    def __init__(self, script: str, setting: dict[str, str], device: str = "cpu") -> None:
        """Start the process."""
        command = [sys.executable, script, f"--torch_worker={device}"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **setting}
        )

    def ask(self, **request: Any) -> Any:
        """Send one request and wait for the answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            common.fail("--torch: the PyTorch process ended; see the line above")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def torch_network(kind: str, size: int, shape: tuple[int, ...]) -> Any:
    """Write the same network plainly in PyTorch; it takes images (n, c, h, w), and flattens them in our order."""
    from torch import nn

    class Flatten(nn.Module):
        def forward(self, x: Any) -> Any:
            return x.permute(0, 2, 3, 1).flatten(1)

    h, w, c = shape
    if kind == "mlp":
        sizes = [h * w * c, size, size, size, 10]
        layers: list[Any] = [Flatten()]
    else:
        layers, inputs = [], c
        for block in range(3):
            for _ in range(2):
                outputs = size * 2**block
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, affine=False), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        sizes = [h // 8 * (w // 8) * 4 * size, 256, 10]
        layers.append(Flatten())
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def middle(values: Sequence[float], digits: int = 4) -> str:
    """Print `median [smallest, largest]`."""
    return f"{statistics.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"
