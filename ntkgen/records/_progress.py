"""Progress of a sweep: one bar in a terminal, a plain line now and then elsewhere."""

import operator
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

import numpy as np
from tqdm import tqdm

PLAIN_SECONDS = 15.0  # between plain lines


class Progress:
    """Counts seeds x epochs over the parts of a run; a context manager.

    The time left weighs each part by its cost, since the widest network of a sweep takes longer than all others.

    Example:
      >>> import io
      >>> import numpy as np
      >>> from ntkgen import records
      >>> stream = io.StringIO()
      >>> with records.Progress([1.0], num_seeds=2, epochs=3, stream=stream) as progress:
      ...     progress.part(0, "width 4")(0, 3, {"train_loss": np.array([0.5, 0.7])})
      >>> "width 4, epoch 3/3, loss 0.6000" in stream.getvalue()
      True

    Attributes:
      costs: relative cost of a seed's epoch in each part.
      num_seeds: seeds of each part; one number if they are equal.
      epochs: epochs of each part; one number if they are equal.
      stream: where to write: a bar if it is a terminal, else lines.
    """

    def __init__(
        self,
        costs: Sequence[float],
        num_seeds: int | Sequence[int],
        epochs: int | Sequence[int],
        stream: TextIO | None = None,
        unit: str = "seeds x epochs",
    ) -> None:
        """Begin with nothing done."""
        self.costs = list(costs)
        self.num_seeds, self.epochs = (
            [each] * len(self.costs) if isinstance(each, int) else list(each) for each in (num_seeds, epochs)
        )
        self._units = list(map(operator.mul, self.num_seeds, self.epochs))
        self.stream, self.unit = stream or sys.stderr, unit
        self._begun = self._said = time.monotonic()
        self._spent_cost = 0.0  # of what was trained here; a resumed run's earlier epochs took no time
        self._bar: Any = None
        if _columns(self.stream):
            total = sum(self._units)
            bar_format = f"{{percentage:3.0f}}%|{{bar}}| {{n}}/{{total}} {unit}{{postfix}}"
            self._bar = tqdm(total=total, file=self.stream, dynamic_ncols=True, bar_format=bar_format)

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal's line."""
        if self._bar is not None:
            self._bar.close()

    def part(self, index: int, label: str) -> Callable[[int, int, dict[str, np.ndarray]], None]:
        """Make the `progress` argument of `ensemble.fit` for one part of the run."""
        own = self.epochs[index]
        before = sum(self._units[:index])
        cost_after = sum(map(operator.mul, self._units[index + 1 :], self.costs[index + 1 :]))
        shown = ""

        def report(first_seed: int, epoch: int, metrics: dict[str, np.ndarray]) -> None:
            nonlocal shown
            loss = metrics["train_loss"]
            if not np.isnan(loss).all():  # it is measured after some epochs only
                shown = f", loss {np.mean(loss):.4f}"
            here = first_seed * own + len(loss) * epoch
            self._spent_cost += len(loss) * self.costs[index]
            left = (self._units[index] - here) * self.costs[index] + cost_after
            self._show(before + here, left, f"{label}, epoch {epoch}/{own}{shown}")

        return report

    def _show(self, done: int, left_cost: float, words: str) -> None:
        now = time.monotonic()
        spent = now - self._begun
        left = tqdm.format_interval(spent * left_cost / self._spent_cost)
        total = sum(self._units)
        if self._bar is not None:
            self._bar.n = done
            self._bar.set_postfix_str(f"{words}, about {left} left")
        elif now - self._said > PLAIN_SECONDS or done == total:
            self._said = now
            spent_words = tqdm.format_interval(spent)
            line = f"{done}/{total} {self.unit}, {words}, {spent_words} spent, about {left} left"
            print(line, file=self.stream, flush=True)


def _columns(stream: TextIO) -> int:
    """Width of a terminal; 0 for anything else, and for the terminal that does not know its own (no bar fits there)."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except OSError:
        return 0
