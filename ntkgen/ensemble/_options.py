"""How `ensemble.fit` works: which seeds run together and how, and which epochs are trained and measured."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ntkgen.ensemble._layout import check_strategy


@dataclass(frozen=True)
class Options:
    """How `ensemble.fit` goes about its work; checked when made.

    Example:
      >>> Options(strategy="vmap", evaluate_at=[1, 10])
      Options(strategy='vmap', chunk=None, start_epoch=0, evaluate_at=(1, 10))

    Attributes:
      strategy: "auto" (see `ensemble.choose_strategy`), "vmap", "sequential" or "unrolled" (which pays for more than
        about 130 epochs of convolutions on a GPU).
      chunk: seeds trained together; default as many as memory holds (see `ensemble.seeds_per_chunk`).
      start_epoch: epochs that `init` has behind it; training goes on with the orders and rates of those that follow,
        and fresh optimizer buffers (rewinding, Frankle et al. 2020). History before it is NaN.
      evaluate_at: epochs (1 ... config.epochs) after which losses and accuracies are measured; None measures after
        each. History elsewhere is NaN. The last epoch is always measured.

    Raises:
      ValueError: a field has a value that no fit could use; the message names it.
    """

    strategy: str = "auto"
    chunk: int | None = None
    start_epoch: int = 0
    evaluate_at: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_strategy(self.strategy)
        if self.chunk is not None and whole("chunk", self.chunk) < 1:
            raise ValueError(f"chunk: expected at least 1, got {self.chunk}")
        if whole("start_epoch", self.start_epoch) < 0:
            raise ValueError(f"start_epoch: expected at least 0, got {self.start_epoch}")
        if self.evaluate_at is None:
            return
        if not isinstance(self.evaluate_at, Iterable):
            raise ValueError(f"evaluate_at: expected epochs, got {self.evaluate_at!r}")
        epochs = tuple(whole("evaluate_at", epoch) for epoch in self.evaluate_at)
        object.__setattr__(self, "evaluate_at", epochs)


def whole(name: str, value: Any) -> int:
    """Return a whole number as an int; anything else raises a ValueError that names it."""
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name}: expected whole numbers, got {value!r}") from None
