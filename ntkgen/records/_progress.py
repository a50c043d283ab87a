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
LEAST_BAR = 10  # columns; words make room for them


class Progress:
    """Counts seeds x epochs over the parts of a run; a context manager.

    The time left weighs each part by its cost, since the widest network of a sweep takes longer than all others. It
    comes from the epochs that were trained here without compiling, and is not said before there are some. What happens
    between two parts (compilation, measurements) is expected between all others too.

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
        self._begun = self._said = self._last = time.monotonic()
        self._reporting: int | None = None  # the part of the last report
        self._seconds = self._cost = 0.0  # of epochs that follow another of their part
        # Of each part but the first: seconds before its first report, and the cost of that epoch.
        self._between: list[tuple[float, float]] = []
        self._bar: Any = None
        if columns(self.stream):
            self._bar = tqdm(total=sum(self._units), file=self.stream, dynamic_ncols=True, bar_format="{l_bar}{bar}|")

    def __enter__(self) -> "Progress":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal's line."""
        if self._bar is not None:
            self._bar.close()

    def part(self, index: int, label: str, start: int = 0) -> Callable[[int, int, dict[str, np.ndarray]], None]:
        """Make the `progress` argument of `ensemble.fit` for one part of the run.

        Args:
          index: of the part.
          label: what is shown of it.
          start: epochs that its networks have behind them when it begins; a later beginning is one that was resumed.
        """
        own = self.epochs[index]
        before = sum(self._units[:index])
        cost_after = sum(map(operator.mul, self._units[index + 1 :], self.costs[index + 1 :]))
        shown, chunks = "", set()

        def report(first_seed: int, epoch: int, metrics: dict[str, np.ndarray]) -> None:
            nonlocal shown
            loss = metrics["train_loss"]
            if not np.isnan(loss).all():  # it is measured after some epochs only
                shown = f"loss {np.mean(loss):.4f}"
            here = first_seed * own + len(loss) * epoch
            self._took(index, len(loss) * self.costs[index])
            if first_seed not in chunks and epoch - 1 > start:
                self._say(f"resuming at epoch {epoch - 1} of {own}: {label}")
            chunks.add(first_seed)
            left = (self._units[index] - here) * self.costs[index] + cost_after
            words = [label, f"epoch {epoch}/{own}" if own > 1 else "", shown]
            self._show(before + here, self._left(left, len(self.costs) - index - 1), words)

        return report

    def measured(self, index: int, label: str) -> None:
        """Count a part that is measured, not trained: a line for each where there is no bar."""
        passed, done = time.monotonic() - self._last, sum(self._units[: index + 1])
        self._took(index, self._units[index] * self.costs[index])
        if self._bar is None:
            line = f"measured {label}, {index + 1}/{len(self.costs)}, {passed:.0f} s"
            print(line, file=self.stream, flush=True)
        else:
            left = sum(map(operator.mul, self._units[index + 1 :], self.costs[index + 1 :]))
            self._show(done, self._left(left, 0), [label])

    def measuring(self, index: int, label: str) -> None:
        """Say that a part is trained and is being measured; in a terminal, where something else stands till then."""
        if self._bar is not None:
            self._draw(sum(self._units[: index + 1]), [label, f"measuring {index + 1}/{len(self.costs)}"])

    def _took(self, index: int, cost: float) -> None:
        """Take note of how long an epoch took, or what lies between two parts."""
        now = time.monotonic()
        passed, self._last = now - self._last, now
        follows = self._reporting is not None and (self._reporting == index or self.epochs[index] == 1)
        if follows:
            self._seconds += passed
            self._cost += cost
        elif self._reporting is not None:
            self._between.append((passed, cost))
        self._reporting = index

    def _left(self, cost: float, parts: int) -> str | None:
        """Return the time left, or None where it is not known; "" where nothing is left."""
        if not cost:
            return ""
        if not self._cost:
            return None
        rate = self._seconds / self._cost
        extra = [max(0.0, passed - rate * own) for passed, own in self._between]
        return tqdm.format_interval(rate * cost + parts * (sum(extra) / len(extra) if extra else 0.0))

    def _show(self, done: int, left: str | None, words: list[str]) -> None:
        now, total = time.monotonic(), sum(self._units)
        words = [each for each in words if each]
        rest = [f"about {left} left"] if left else []
        if self._bar is not None:
            self._draw(done, words, rest)
        elif now - self._said > PLAIN_SECONDS or done == total:
            self._said = now
            spent = [f"{tqdm.format_interval(now - self._begun)} spent"]
            print(", ".join([f"{done}/{total} {self.unit}", *words, *spent, *rest]), file=self.stream, flush=True)

    def _say(self, line: str) -> None:
        """Write a line that stays."""
        if self._bar is None:
            print(line, file=self.stream, flush=True)
        else:
            self._bar.clear()
            print(line[: columns(self.stream) - 1], file=self.stream, flush=True)

    def _draw(self, done: int, words: list[str], rest: Sequence[str] = ()) -> None:
        """Draw the bar; where the terminal is narrow, the unit, the loss and the end of the label make room."""
        counted, room = f"{done}/{sum(self._units)}", columns(self.stream) - LEAST_BAR - len("100%|| ") - 1
        label, *more = words
        forms = [f"{counted} {self.unit}", *words], [counted, *words], [counted, *words[:2]]
        text = next((line for line in (", ".join([*form, *rest]) for form in forms) if len(line) <= room), "")
        if not text:
            fixed = [counted, "", *more[:1], *rest]
            label = label[: max(0, room - len(", ".join(fixed)))]
            text = ", ".join([counted, *([label] if label else []), *more[:1], *rest])[: max(0, room)]
        self._bar.n = done
        self._bar.bar_format = "{percentage:3.0f}%|{bar}| " + text.replace("{", "{{").replace("}", "}}")
        self._bar.refresh()


def columns(stream: TextIO) -> int:
    """Width of a terminal; 0 for anything else, and for the terminal that does not know its own (no bar fits there)."""
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):  # a stream of another kind may have no file behind it
        return 0
