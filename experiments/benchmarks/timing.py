"""What benchmarks share: turns, the machine's peak, memory, and contenders in processes of their own.

Imports nothing heavy: a process whose memory is measured should load what it needs and no more.
"""

import functools
import importlib.util
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

# Both, since with all cores busy OpenMP's default spinning can cost a factor of ten, and waiting costs a little always.
TORCH_SETTINGS: dict[str, dict[str, str]] = {
    "torch": {},
    "torch, passive waiting": {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"},
}


class Ended(RuntimeError):
    """A contender's process ended before it answered."""


class Worker:
    """A contender in a process of its own: memory is then its own, and libraries read their settings at the start."""

    def __init__(self, command: Sequence[str], setting: dict[str, str], python: str = sys.executable) -> None:
        """Start Python with some arguments and environment variables."""
        self.process = subprocess.Popen(
            [python, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **setting},
        )

    def ask(self, **request: Any) -> Any:
        """Return the answer to one request; both are a line of JSON.

        Raises:
          Ended: the process has gone.
        """
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise Ended(f"exit code {self.process.wait()}") from None
        answer = self.process.stdout.readline()
        if not answer:
            raise Ended(f"exit code {self.process.wait()}")
        return json.loads(answer)

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def check_torch(flag: str) -> None:
    """Check that PyTorch is installed, for a flag that needs it.

    Raises:
      ValueError: it is not.
    """
    if importlib.util.find_spec("torch") is None:
        raise ValueError(f"{flag}: expected PyTorch to be installed (pip install 'ntkgen[bench]')")


def check_out(out: str | None, flag: str = "out") -> None:
    """Check that a file can be written; None is no file.

    Raises:
      ValueError: it is a folder, or its folder does not exist or takes no files.
    """
    if out is None:
        return
    path = Path(out)
    if not out or path.is_dir() or not path.parent.is_dir():
        raise ValueError(f"{flag}: expected a file in a folder that exists, got {out!r}")
    new = not path.exists()
    try:  # asked of the file system itself: root may write everywhere, but not in every folder
        path.open("ab").close()
    except OSError as error:
        raise ValueError(f"{flag}: cannot write {out}: {error.strerror}") from None
    if new:
        path.unlink()


def torch_workers(script: str, cuda: bool) -> dict[str, Worker]:
    """Return processes that run a script of PyTorch's side, by their setting: one on a GPU, two on CPU."""
    settings = {"torch": TORCH_SETTINGS["torch"]} if cuda else TORCH_SETTINGS
    return {name: Worker([script, "cuda" if cuda else "cpu"], setting) for name, setting in settings.items()}


def interleaved(turns: dict[str, Callable[[], float]], repeats: int, limit: float = math.inf) -> dict[str, list[float]]:
    """Return what contenders measured who took turns, so that a busy machine slows each alike.

    Args:
      turns: what measures itself once, and returns the measured value, by name.
      repeats: turns of each.
      limit: seconds of the clock after which a contender takes no further turn.

    Returns:
      The values in order, by name.
    """
    values: dict[str, list[float]] = {name: [] for name in turns}
    spent = dict.fromkeys(turns, 0.0)
    for _ in range(repeats):
        for name, turn in turns.items():
            if values[name] and spent[name] > limit:
                continue
            begun = time.perf_counter()
            values[name].append(turn())
            spent[name] += time.perf_counter() - begun
    return values


def columns(values: Sequence[float]) -> dict[str, Any]:
    """Return the columns of a table that hold some turns: how many, median and range in seconds."""
    return {
        "turns": len(values),
        "seconds": statistics.median(values),
        "seconds_min": min(values),
        "seconds_max": max(values),
    }


def ratio(name: str, first: Sequence[float], second: Sequence[float]) -> dict[str, float | None]:
    """Return the columns of a ratio, turn by turn: median and range; None without a turn that both took."""
    ratios = [a / b for a, b in zip(first, second, strict=False)]
    found = (statistics.median(ratios), min(ratios), max(ratios)) if ratios else (None, None, None)
    return dict(zip((name, f"{name}_min", f"{name}_max"), found, strict=True))


def spread(values: Sequence[float]) -> str:
    """Return the median and the range of some seconds, as text."""
    return f"{statistics.median(values):8.4f} [{min(values):.4f}, {max(values):.4f}]"


def matmul_peak() -> float:
    """Return the GFLOP/s of a 2,048 x 2,048 float32 matmul, measured once."""
    product, a = _product()
    begun = time.perf_counter()
    product(a).block_until_ready()
    return 2 * 2048**3 / (time.perf_counter() - begun) / 1e9


@functools.cache
def _product() -> tuple[Callable, Any]:
    import jax
    import jax.numpy as jnp

    product, a = jax.jit(lambda a: a @ a), jnp.ones((2048, 2048))
    product(a).block_until_ready()
    return product, a


class Memory(NamedTuple):
    """Resident memory of this process in bytes, now and at most so far."""

    now: int
    peak: int


def memory() -> Memory:
    """Return this process's memory; where there is no /proc, the peak stands for both."""
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        # Not ru_maxrss: Linux starts it from the memory of the parent process.
        return Memory(*(1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")))
    except (OSError, KeyError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return Memory(peak, peak)
