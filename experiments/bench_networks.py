"""The networks that benchmarks time: ours, the same in PyTorch, their arithmetic, and images to time on."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

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


def parse_cases(flag: str, cases: Sequence[str]) -> list[tuple[str, int]]:
    """Read the networks of a flag, written as mlp<width> or cnn<channels>.

    Raises:
      ValueError: one is written otherwise.
    """
    found = []
    for case in cases:
        kind, size = case[:3], case[3:]
        if kind not in SHAPES or not size.isdecimal() or int(size) < 1:
            raise ValueError(f"--{flag}: expected mlp<width> or cnn<channels>, got {case!r}")
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


def prune_torch(net: Any, keep: float) -> None:
    """Prune a network of `torch_network` by magnitude, its kernels ranked together, to a fraction of their weights."""
    from torch.nn.utils import prune

    # A batch norm without scale has a weight too: None.
    weights = {layer: getattr(layer, "weight", None) for layer in net}
    kernels = [(layer, "weight") for layer, weight in weights.items() if weight is not None and weight.ndim > 1]
    prune.global_unstructured(kernels, prune.L1Unstructured, amount=1 - keep)
