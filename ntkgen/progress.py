"""Progress of a sweep: one bar in a terminal, a plain line now and then elsewhere."""

import sys
import time
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

PLAIN_SECONDS = 15.0  # between plain lines


class Progress:
    """Counts seeds x epochs over all parts of a run; a context manager.

    Attributes:
      total: seeds x epochs of the whole run, what an earlier call did included.
      stream: where to write: a bar if it is a terminal, else lines.
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        """Begin with nothing done."""
        self.total, self.stream = total, stream or sys.stderr
        self._begun = self._said = time.monotonic()
        self._measured = 0
        self._bar: Any = None
        if self.stream.isatty():
            self._bar = tqdm(
                total=total,
                unit="epoch",
                file=self.stream,
                dynamic_ncols=True,
                bar_format="{percentage:3.0f}%|{bar}| {n}/{total} seeds x epochs{postfix}",
            )

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal's line."""
        if self._bar is not None:
            self._bar.close()

    def update(self, done: int, count: int, label: str, loss: np.ndarray) -> None:
        """Say how far the run is.

        Args:
          done: seeds x epochs that are done in all.
          count: how many of them this call just trained; speed is taken from these.
          label: what is being trained.
          loss: latest training loss of each seed.
        """
        now = time.monotonic()
        self._measured += count
        spent = now - self._begun
        left = spent / self._measured * (self.total - done)
        shown = f"{label}, training loss {np.mean(loss):.4f}"
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(f"{shown}, {_clock(left)} left")
        elif now - self._said > PLAIN_SECONDS or done == self.total:
            self._said = now
            print(
                f"{done}/{self.total} seeds x epochs, {shown}, {_clock(spent)} spent, {_clock(left)} left",
                file=self.stream,
                flush=True,
            )


def _clock(seconds: float) -> str:
    return tqdm.format_interval(seconds)
