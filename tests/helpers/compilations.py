"""Counts the programs that JAX compiles."""

import contextlib
import logging
from collections.abc import Iterator

import jax


class _Compilations(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if str(record.msg).startswith("Compiling %s with global shapes"):
            self.names.append(str(record.args[0]))


@contextlib.contextmanager
def count_compilations() -> Iterator[list[str]]:
    """Collect the names of the programs that JAX compiles meanwhile; it takes a positive control to prove anything."""
    handler, logger = _Compilations(), logging.getLogger("jax._src.interpreters.pxla")
    propagate, logger.propagate = logger.propagate, False  # the messages are for us alone
    logger.addHandler(handler)
    try:
        with jax.log_compiles(True):
            yield handler.names
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate
