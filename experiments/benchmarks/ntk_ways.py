"""The ways to a tangent kernel that the benchmark times, each in a process of its own; answers requests of `ntk.py`.

Libraries are imported where they are used: a process whose memory is measured loads its own alone. neural-tangents runs
in an environment that has no ntkgen, and another JAX.
"""

import contextlib
import functools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import timing
from cases import SHAPES

NUM_CLASSES = 10
CASE = r"(mlp|cnn)([1-9]\d{0,5})n([1-9]\d{0,5})(trace)?"


class Case(NamedTuple):
    """A kernel to compute."""

    name: str
    kind: str
    size: int
    n: int
    trace: bool


def parse(name: str) -> Case:
    """Return the case of a name that has the form `CASE`."""
    match = re.fullmatch(CASE, name)
    assert match is not None, name
    return Case(name, match[1], int(match[2]), int(match[3]), match[4] is not None)


def network(case: Case) -> tuple[Any, Any]:
    """Return the model, and the shapes of its variables."""
    import jax

    from ntkgen import models

    model = models.MLP(case.size) if case.kind == "mlp" else models.CNN(case.size)
    return model, jax.eval_shape(lambda: models.init(model, jax.random.key(0), SHAPES[case.kind]))


def serve(way: str) -> None:
    """Answer requests: the first prepares and computes a kernel, the others compute it again."""
    request = json.loads(sys.stdin.readline())
    case = parse(request["case"])
    make = {"torch.func": torch_func, "neural-tangents": neural_tangents}.get(way, functools.partial(ours, way))
    with np.load(request["inputs"]) as stored:
        leaves = [stored[f"leaf{i}"] for i in range(len(stored.files) - 1)]
        compute, about = make(case, leaves, stored["x"])
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
    """Return numbers to compare kernels by: the first sample's entries with some others."""
    others = np.linspace(0, kernel.shape[0] - 1, 5).astype(int)
    return [float(value) for j in others for value in np.asarray(kernel[0, int(j)]).ravel()]


def ours(way: str, case: Case, leaves: list[np.ndarray], x: np.ndarray) -> tuple[Callable[[], Any], Callable[[], dict]]:
    """Return what computes our kernel, and what plans it."""
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
    """Return what computes PyTorch's kernel, and no plan; the leaves are a bias and a kernel for each layer."""
    import torch

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


def neural_tangents(
    case: Case, leaves: list[np.ndarray], x: np.ndarray
) -> tuple[Callable[[], Any], Callable[[], dict]]:
    """Return what computes the kernel by structured derivatives, and no plan; the leaves are those of `torch_func`.

    The whole kernel is one compiled program. With 1,000 samples, `nt.batch` in batches of 100 took 7 % longer on quiet
    cores, and a quarter less beside other jobs. It takes less memory.
    """
    import jax
    import jax.numpy as jnp

    with quiet():  # it imports TensorFlow, which tells of GPUs that it does not find
        import neural_tangents as nt

    weights, images = [jnp.asarray(leaf) for leaf in leaves], jnp.asarray(x).reshape(case.n, -1)

    def apply(weights: list, images: Any) -> Any:
        for i in range(0, len(weights), 2):
            images = (images if i == 0 else jax.nn.relu(images)) @ weights[i + 1] + weights[i]
        return images

    kernel = nt.empirical_ntk_fn(
        apply,
        trace_axes=(-1,) if case.trace else (),
        vmap_axes=0,
        implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES,
    )
    compiled = jax.jit(lambda weights, images: kernel(images, None, weights))
    return lambda: compiled(weights, images).block_until_ready(), dict


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what libraries written in C++ say on standard error."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


if __name__ == "__main__":
    serve(sys.argv[1])
