"""Strict numerics for the whole suite, and the fixtures that several modules share.

Warnings are errors too (`filterwarnings` in pyproject.toml).
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.experimental
import pytest
from compilations import count_compilations
from forks import Forks

os.environ.setdefault("MPLBACKEND", "Agg")  # some tests draw with pyplot, and none may open a window

# Shapes must be aligned by hand, and no accelerator may round matrix products to TF32 or bfloat16 behind our back.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests that take a minute each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what takes a minute and is covered in parts by quicker tests, unless --slow asks for it."""
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes a minute; --slow runs it"))


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of this session's decoded data sets, which all workers of pytest-xdist share.

    The tests themselves keep no compiled programs.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTKGEN_CACHE_DIR", str(base / "decoded"))
        patch.setenv("NTKGEN_COMPILATION_CACHE", "0")  # tests count compilations, and change the code between them
        yield base / "decoded"


@pytest.fixture(scope="module", autouse=True)
def _few_programs() -> Iterator[None]:
    """Drop compiled programs between modules where they have become many.

    Each takes several memory mappings, of which Linux grants a process 65,530: beyond that XLA's compiler crashes.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def forks(shared_cache: Path) -> Iterator[Forks]:
    """Runs programs in forks of one process of this worker that has imported everything."""
    server = Forks()
    yield server
    server.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real data sets; tests that need it are skipped, with the reason, where there is none."""
    folder = os.environ.get("NTKGEN_DATA_DIR", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("NTKGEN_DATA_DIR is not set to a folder with real data")
    return Path(folder)


@pytest.fixture
def x64() -> Iterator[None]:
    """Enable float64 for one test; the others run in float32, as users do."""
    # jax.enable_x64 is the context manager from 0.8 on; 0.7 has it in jax.experimental, from where it has since gone.
    enable = jax.enable_x64 if hasattr(jax, "enable_x64") else jax.experimental.enable_x64
    with enable(True):
        yield


@pytest.fixture
def compilations():
    """The context manager `count_compilations`."""
    return count_compilations
