"""The environment of the programs that the tests of the studies run."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def environment(shared_cache: Path) -> dict[str, str]:
    """Environment of all runs: this checkout's ntkgen, a compilation cache that all workers share, no data.

    The studies train networks of a few neurons for a few epochs, so most of their time is compilation. Without
    optimisations that takes about half as long. Their runs are compared with each other; what a program computes is
    tested with optimisations elsewhere.
    """
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    kept = {name: value for name, value in os.environ.items() if name not in ("NTKGEN_DATA_DIR", "TFDS_DATA_DIR")}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(shared_cache.parent / "compiled")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    # Somebody may commit while the tests run, and config.json holds the commit.
    more = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "XLA_FLAGS": flags.strip()}
    return {**cache, **kept, **more, "GIT_DIR": "/nonexistent"}
