"""The networks that benchmarks time, their arithmetic, and images to time on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from cases import SHAPES

from ntkgen import data, models, train

REAL = {"mlp": "mnist", "cnn": "cifar10"}


def network(kind: str, size: int) -> Any:
    """Return ntkgen's network of a kind, "mlp" or "cnn", and a width or number of channels."""
    return models.MLP(size) if kind == "mlp" else models.CNN(size)


def forward_flops(kind: str, size: int, shape: tuple[int, ...]) -> list[float]:
    """Return the multiplications and additions of one example's forward pass, by layer, matmuls and convolutions."""
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
    """Return real images, or random ones where there are none, and the name of which."""
    try:
        split = data.load(REAL[kind], data_dir=data_dir, num_train=count).train
        return train.Batch(split.x, split.y), REAL[kind]
    except data.DataError:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((count, *SHAPES[kind]), np.float32)
        return train.Batch(jnp.asarray(x), jnp.asarray(rng.integers(0, 10, len(x)), jnp.int32)), "random images"
