"""How fast is training many seeds, against plain PyTorch and against the machine?

    python experiments/bench_training.py                      # all cases, about ten minutes on two cores
    python experiments/bench_training.py --cases=mlp64,cnn16 --repeats=3

For each network the same work, an epoch of SGD with momentum at batch 128 for five seeds, is done in turn by

* ntkgen, seeds batched (`vmap`) and one after another (`sequential`), the two strategies of `ensemble.fit`;
* PyTorch eager as a user would write it: tensors in memory, one seed after another. On CPU in two processes of its
  own, with OpenMP's defaults and with `OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=0`; the faster one counts.

All take turns, so that a busy machine slows each alike. Evaluation and compilation are timed apart. Prints seconds an
epoch and seed (median and range), the ratio to the faster torch pair by pair, and the GFLOP/s of the arithmetic that
the network needs (3 x forward) beside the peak of a large matmul measured in the same turns.

On real MNIST and CIFAR-10 where they are at hand, else on random images of the same shapes, and says which. Needs torch
(pip install "ntkgen[bench]").
"""

import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from ntkgen import data, ensemble, models, seedaxis, train

FLAGS = flags.FLAGS
WIDTHS, CHANNELS = (16, 64, 256, 1024), (8, 16, 32)
BATCH, RATE = 128, 0.01
EXAMPLES = {"mlp": 10_000, "cnn": 2_000}
SHAPES = {"mlp": (28, 28, 1), "cnn": (32, 32, 3)}
TORCH_SETTINGS: dict[str, dict[str, str]] = {
    "torch": {},
    "torch, passive waiting": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
}

flags.DEFINE_list(
    "cases",
    [f"mlp{w}" for w in WIDTHS] + [f"cnn{c}" for c in CHANNELS],
    "Networks to time, as mlp<width> or cnn<channels>.",
)
common.define(common.COUNT, "num_seeds", 5, "Seeds.")
common.define(common.COUNT, "repeats", 5, "Turns of each.")
flags.DEFINE_boolean("torch", True, "Time PyTorch too.")
flags.DEFINE_enum("torch_worker", None, ("cpu", "cuda"), "Internal: serve timings of PyTorch on a device.")


def flops_per_example(kind: str, size: int) -> float:
    """Count multiplications and additions of a forward and backward pass, matmuls and convolutions alone."""
    shapes = jax.eval_shape(lambda key: models.init(network(kind, size), key, SHAPES[kind]), jax.random.key(0))
    total = 0.0
    for path, leaf in jax.tree.leaves_with_path(shapes["params"]):
        if len(leaf.shape) >= 2:
            block = int(path[0].key[len("conv")]) if path[0].key.startswith("conv") else None
            pixels = 1 if block is None else (32 >> block) ** 2
            total += 2.0 * pixels * np.prod(leaf.shape)
    return 3 * total


def network(kind: str, size: int) -> Any:
    """Make ntkgen's network."""
    return models.MLP(size) if kind == "mlp" else models.CNN(size)


@functools.cache
def examples(kind: str) -> tuple[train.Batch, str]:
    """Load real images, or draw random ones where there are none; say which."""
    try:
        name = {"mlp": "mnist", "cnn": "cifar10"}[kind]
        split = data.load(name, num_train=EXAMPLES[kind]).train
        return train.Batch(split.x, split.y), name
    except data.DataError:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((EXAMPLES[kind], *SHAPES[kind]), np.float32)
        return train.Batch(jnp.asarray(x), jnp.asarray(rng.integers(0, 10, len(x)), jnp.int32)), "random images"


class Ours:
    """Times epochs of ntkgen's own compiled programs, those that `ensemble.fit` runs."""

    def __init__(self, kind: str, size: int, strategy: str, num_seeds: int) -> None:
        """Compile and warm up."""
        config = train.Config(epochs=100, batch_size=BATCH, learning_rate=RATE)
        self.split, _ = examples(kind)
        model = network(kind, size)
        self.program = train.Program.of(model, config, EXAMPLES[kind])
        self.keys = jax.vmap(train.run_keys)(jnp.arange(num_seeds))
        variables = ensemble._init(seedaxis.Plan("sequential"), model, SHAPES[kind], self.keys.init)
        self.layout = seedaxis.plan(strategy, jax.tree.map(lambda leaf: leaf[0], variables), num_seeds)
        self.keys, variables = (seedaxis.place(self.layout, tree, seeds=True) for tree in (self.keys, variables))
        self.split = seedaxis.place(self.layout, self.split, seeds=False)
        self.state = ensemble._start(self.layout, self.program, variables, None)
        self.compile_seconds = self.epoch()  # the first call, less a later one
        self.compile_seconds -= self.epoch()
        self.evaluate()

    def epoch(self) -> float:
        """Train all seeds for one epoch; return the seconds."""
        begun = time.perf_counter()
        self.state = jax.block_until_ready(
            ensemble._epoch(
                self.layout,
                self.program,
                self.state,
                self.keys.order,
                jnp.asarray(0),
                jnp.asarray(RATE),
                self.split,
                None,
            )
        )
        return time.perf_counter() - begun

    def evaluate(self) -> float:
        """Evaluate all seeds on the training set, once as training and once as test set; return the seconds of one."""
        begun = time.perf_counter()
        jax.block_until_ready(
            ensemble._evaluate(self.layout, self.program, self.state.variables, self.split, self.split)
        )
        return (time.perf_counter() - begun) / 2


class Torch:
    """Times epochs of PyTorch in a process of its own, since OpenMP reads its settings at the start."""

    def __init__(self, setting: dict[str, str], device: str) -> None:
        """Start the process."""
        command = [sys.executable, __file__, f"--torch_worker={device}"]
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
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve_torch(device: str) -> None:
    """Answer timing requests with plain PyTorch, as a user would write it."""
    try:
        import torch
        from torch import nn
    except ImportError:
        common.fail("--torch: needs PyTorch (pip install 'ntkgen[bench]'), or --notorch")

    nets: list[tuple[Any, Any]] = []
    for line in sys.stdin:
        request = json.loads(line)
        if "kind" in request:
            kind, size, num_seeds = request["kind"], request["size"], request["num_seeds"]
            count = EXAMPLES[kind]
            h, w, c = SHAPES[kind]
            stored = np.load(request["images"])
            x = torch.tensor(stored["x"], device=device).permute(0, 3, 1, 2).contiguous()
            y = torch.tensor(stored["y"], device=device).long()
            nets = []
            for seed in range(num_seeds):
                torch.manual_seed(seed)
                if kind == "mlp":
                    net = nn.Sequential(
                        nn.Flatten(),
                        nn.Linear(h * w * c, size),
                        nn.ReLU(),
                        nn.Linear(size, size),
                        nn.ReLU(),
                        nn.Linear(size, size),
                        nn.ReLU(),
                        nn.Linear(size, 10),
                    )
                else:
                    layers: list[Any] = []
                    inputs = c
                    for block in range(3):
                        for _ in range(2):
                            outputs = size * 2**block
                            layers += [
                                nn.Conv2d(inputs, outputs, 3, padding=1),
                                nn.BatchNorm2d(outputs, affine=False),
                                nn.ReLU(),
                            ]
                            inputs = outputs
                        layers.append(nn.MaxPool2d(2))
                    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * size, 256), nn.ReLU(), nn.Linear(256, 10))
                net = net.to(device)
                nets.append((net, torch.optim.SGD(net.parameters(), RATE, momentum=0.9)))
        begun = time.perf_counter()
        for net, optimizer in nets:
            order = torch.randperm(count, device=device)
            for start in range(0, count, BATCH):
                rows = order[start : start + BATCH]
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps(time.perf_counter() - begun), flush=True)


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


def time_case(kind: str, size: int, workers: dict[str, Torch], folder: Path) -> None:
    """Time one network, everything in turn, and print its lines."""
    seeds = FLAGS.num_seeds
    ours = {strategy: Ours(kind, size, strategy, seeds) for strategy in ("vmap", "sequential")}
    chosen = seedaxis.choose_strategy(jax.tree.map(lambda leaf: leaf[0], ours["vmap"].state.variables))
    split, source = examples(kind)
    images = folder / "images.npz"
    for worker in workers.values():
        np.savez(images, x=split.x, y=split.y)
        worker.ask(
            kind=kind, size=size, num_seeds=seeds, images=str(images)
        )  # makes the networks; its first epoch is the warm-up
    names = [*ours, *workers, "evaluate", "peak"]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(FLAGS.repeats):
        for name, run in ours.items():
            seconds[name].append(run.epoch() / seeds)
        for name, worker in workers.items():
            seconds[name].append(worker.ask(again=True) / seeds)
        seconds["evaluate"].append(ours[chosen].evaluate() / seeds)
        seconds["peak"].append(matmul_peak())
    peak = statistics.median(seconds.pop("peak"))
    evaluation = statistics.median(seconds.pop("evaluate"))
    work = flops_per_example(kind, size) * EXAMPLES[kind] / 1e9
    base = min(workers, key=lambda name: statistics.median(seconds[name]), default=None)
    for name, values in seconds.items():
        middle = statistics.median(values)
        label = name + (" *" if name == chosen else "")
        line = f"{kind}{size:<5} {label:24} {middle:8.4f} [{min(values):.4f}, {max(values):.4f}]"
        line += f" {work / middle:7.0f} GFLOP/s ({work / middle / peak:4.0%} of {peak:.0f})"
        if base is not None and name in ours:
            ratios = [theirs / own for theirs, own in zip(seconds[base], values, strict=True)]
            line += f"   {statistics.median(ratios):5.2f}x [{min(ratios):.2f}, {max(ratios):.2f}] against {base}"
        print(line, flush=True)
    compiling = ", ".join(f"{name} {run.compile_seconds:.1f} s" for name, run in ours.items())
    print(
        f"{'':9}evaluation {evaluation:.4f} s an epoch's examples and seed; {source}; compiling: {compiling}",
        flush=True,
    )


def main() -> None:
    """Run the benchmark."""
    if FLAGS.torch_worker:
        serve_torch(FLAGS.torch_worker)
        return
    with common.user_errors():
        cases = []
        for case in FLAGS.cases:
            kind, size = case[:3], case[3:]
            if kind not in EXAMPLES or not size.isdecimal() or int(size) < 1:
                raise ValueError(f"--cases: expected mlp<width> or cnn<channels>, got {case!r}")
            cases.append((kind, int(size)))
    device = jax.local_devices()[0]
    cuda = device.platform == "gpu"
    workers = {}
    if FLAGS.torch:
        settings = {"torch": TORCH_SETTINGS["torch"]} if cuda else TORCH_SETTINGS
        workers = {name: Torch(setting, "cuda" if cuda else "cpu") for name, setting in settings.items()}
    print(
        f"{device.device_kind}, {os.cpu_count()} cores, jax {jax.__version__}; "
        "seconds an epoch and seed, median [range] of "
        f"{FLAGS.repeats}; {FLAGS.num_seeds} seeds, batch {BATCH}; * the strategy that fit chooses"
    )
    with tempfile.TemporaryDirectory() as folder:
        for kind, size in cases:
            time_case(kind, size, workers, Path(folder))
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    common.run(main)
