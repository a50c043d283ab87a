"""Where reports are written, with one line for what can go wrong."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ntkgen import records
from ntkgen.report._contents import ReportError


def folder(path: str | Path) -> Path:
    """Return a folder that can be written; it is made.

    Raises:
      ReportError: it is a file, or cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ReportError(f"out: {path} is a file; expected the name of a folder")
    try:
        records.check_writable(path, "out")
    except records.RecordError as error:
        raise ReportError(str(error)) from None
    with errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def file(path: str | Path) -> Path:
    """Return a file that can be written; its folder is made.

    Raises:
      ReportError: it is a folder, or its folder cannot be written.
    """
    path = Path(path)
    if path.is_dir():
        raise ReportError(f"out: {path} is a folder; expected the name of a file")
    folder(path.parent)
    return path


@contextlib.contextmanager
def errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into a `ReportError` that names the file."""
    try:
        yield
    except OSError as error:
        raise ReportError(f"out: {error.filename or path}: {error.strerror or error}") from None
