"""Computed values that are kept in files with a checksum: read where they are, computed where not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ntkgen import io
from ntkgen.records._checkpoints import DamagedError, set_aside


def kept(path: Path, name: str, work: Callable[[], Any]) -> Any:
    """Return the value that a file holds, or else what `work` computes, which is kept there.

    Args:
      path: the file.
      name: of the value; a file that was renamed is not believed.
      work: makes the value: numbers (NaN included), strings, None, in lists and dicts with string keys.

    Returns:
      The value as it is read back: tuples are lists. A damaged one is set aside with a warning, and made anew.

    Raises:
      OSError: the file cannot be read or written at this moment.
    """
    try:
        return _read(path, name)
    except FileNotFoundError:
        pass
    except DamagedError as error:
        set_aside(path, str(error))
    value = work()
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = {"sha256": _sum(name, value), "value": value}
    io.atomic_write(path, (json.dumps(stored, indent=1) + "\n").encode())
    return _read(path, name)


def _read(path: Path, name: str) -> Any:
    try:
        stored = json.loads(path.read_bytes())
        value, expected = stored["value"], stored["sha256"]
    except (IsADirectoryError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(str(error)) from None
    if expected != _sum(name, value):
        raise DamagedError("its checksum does not match")
    return value


def _sum(name: str, value: Any) -> str:
    """Return the checksum of a value and its name, so that one part's value does not pass for another's."""
    return io.sha256_bytes(json.dumps([name, value]).encode())
