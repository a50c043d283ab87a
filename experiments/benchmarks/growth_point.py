"""One point of a growth curve in a process of its own; answers requests of `growth.py`.

JAX and ntkgen are imported where they are used, so that memory is that of what is measured.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import timing
from cases import SHAPES

IMAGES = 2_000  # made up, of MNIST's shape
WIDTH = 256  # of the kernels' network
NUM_CLASSES = 10


# What computes the first time, what computes again, each returning its seconds, and what is known by counting.
Point = tuple[Callable[[], float], Callable[[], float], Callable[[], dict[str, Any]]]


def serve() -> None:
    """Answer requests: the first prepares a point and computes it once, the others compute it again."""
    request = json.loads(sys.stdin.readline())
    make = {"seeds": training, "width": training, "samples": kernel}[request["axis"]]
    answer: dict[str, Any]
    first, turn, about = make(**request)
    answer = {"first_seconds": first()}
    answer |= about()  # after the first call: a plan traces too
    while True:
        seconds = turn()
        print(json.dumps(answer | {"seconds": seconds, "peak": peak()}), flush=True)
        if not sys.stdin.readline():
            return


def peak() -> int:
    """Return the most bytes held so far: on an accelerator its own memory, else this process's."""
    import jax

    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", timing.memory().peak))


def training(axis: str, x: int, size: int, trace: bool) -> Point:
    """Return the training of networks for an epoch."""
    import jax
    import jax.numpy as jnp
    from networks import forward_flops
    from training_ours import Ours

    from ntkgen import ensemble, models, train

    width, seeds = (x, 1) if axis == "width" else (size, x)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((IMAGES, *SHAPES["mlp"]), np.float32)
    split = train.Batch(jnp.asarray(images), jnp.asarray(rng.integers(0, NUM_CLASSES, IMAGES), jnp.int32))
    shapes = jax.eval_shape(lambda key: models.init(models.MLP(width), key, SHAPES["mlp"]), jax.random.key(0))
    strategy = ensemble.choose_strategy(shapes)
    baseline = timing.memory().now
    run = Ours("mlp", width, strategy, seeds, split=split)
    first_layer, *others = map(float, forward_flops("mlp", width, SHAPES["mlp"]))
    params = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
    about = {
        "way": strategy,
        "baseline": baseline,
        # Images have no gradient.
        "flops": (2 * first_layer + 3 * sum(others)) * IMAGES * seeds,
        "counted": 4 * int(params) * seeds,
    }
    return lambda: run.first_seconds, run.epoch, lambda: about


def kernel(axis: str, x: int, size: int, trace: bool) -> Point:
    """Return the computation of an exact tangent kernel."""
    import jax
    import jax.numpy as jnp

    from ntkgen import models, ntk

    model = models.MLP(size)
    variables = models.init(model, jax.random.key(0), SHAPES["mlp"])
    images = jnp.asarray(np.random.default_rng(0).standard_normal((x, *SHAPES["mlp"]), np.float32))
    arguments = models.apply_fn(model, variables), variables["params"], images
    baseline = timing.memory().now

    def turn() -> float:
        begun = time.perf_counter()
        ntk.empirical_ntk(*arguments, trace=trace).block_until_ready()
        return time.perf_counter() - begun

    def about() -> dict[str, Any]:
        plan, entries = ntk.plan(*arguments, trace=trace), x * x * (1 if trace else NUM_CLASSES**2)
        return {"way": plan.method, "baseline": baseline, "flops": plan.flops, "counted": 4 * entries}

    return turn, turn, about


if __name__ == "__main__":
    serve()
