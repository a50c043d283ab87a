"""The environment of the programs that the tests of the studies run."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Environment of all runs: this checkout's ntkgen, the tests' compilation cache, no data folder."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NTKGEN_DATA_DIR", "TFDS_DATA_DIR")}
    # Somebody may commit while the tests run, and config.json holds the commit.
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "GIT_DIR": "/nonexistent"}
