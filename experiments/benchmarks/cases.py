"""What benchmarks time, by name: networks of a size, the shapes of their images, and the check of flags that list them.

Imports nothing heavy: a process whose memory is measured should load what it needs and no more.
"""

import re
from dataclasses import dataclass
from typing import Any

SHAPES = {"mlp": (28, 28, 1), "cnn": (32, 32, 3)}
NETWORK = r"(mlp|cnn)([1-9]\d{0,5})"


@dataclass(frozen=True)
class Names:
    """Names of one form, as text with commas or a tuple; "none" and empty text are the empty list.

    Attributes:
      form: regular expression of a name.
      expected: the form, in words.
      least: smallest number of names.
    """

    form: str
    expected: str
    least: int = 0
    kind: str = "comma-separated names"

    def parse(self, value: Any) -> tuple[str, ...]:
        """Return the names.

        Raises:
          ValueError: a name has another form, or there are too few.
        """
        parts = value.split(",") if isinstance(value, str) else list(value)
        names = () if parts in ([""], ["none"]) else tuple(parts)
        for name in names:
            if re.fullmatch(self.form, name) is None:
                raise ValueError(f"expected {self.expected}, got {name!r}")
        if len(names) < self.least:
            raise ValueError(f"expected {self.expected}, at least {self.least}")
        return names


NETWORKS = Names(NETWORK, "mlp<width> or cnn<channels>, with commas between")


def network_of(name: str) -> tuple[str, int]:
    """Return kind and size of a network that `NETWORKS` accepted."""
    return name[:3], int(name[3:])
