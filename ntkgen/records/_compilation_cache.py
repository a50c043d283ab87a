"""Compiled programs that later processes find again: JAX's own cache, in our folder, and of bounded size."""

import contextlib
import functools
import os
import platform
import shutil
import warnings
from pathlib import Path
from typing import Any

import filelock
import jax
from jax import monitoring
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from ntkgen import io

SWITCH = "NTKGEN_COMPILATION_CACHE"  # 0 turns it off
MOST_BYTES = 2 * 2**30
MOST_PROGRAMS = 2000  # JAX looks at every entry when it adds one: 50 ms with 1,500
LEAST_FREE = 2**28  # bytes; a disk with less is left alone
# Programs that take less are compiled anew. Of a small training run 26 of 50 programs take more.
LEAST_SECONDS = 0.02
PATIENCE = 10.0  # seconds to wait for another process that tidies up
# What JAX warns of, once for each program, where an entry cannot be written or read. It then compiles as without.
FAILED = r"Error (reading|writing) persistent compilation cache"


def compilation_cache(folder: str | os.PathLike | None = None, *, on: bool = True) -> contextlib.ExitStack:
    """Keep compiled programs on disk from now on; a later process then loads what this one compiled.

    Studies do this by themselves. Call it before training with `ensemble.fit` in a script or notebook of your own. As
    a context manager it puts back the settings of JAX when the body ends. Numbers are the same with and without.

    It does nothing where $NTKGEN_COMPILATION_CACHE is 0, or where JAX has a folder already, such as
    $JAX_COMPILATION_CACHE_DIR. A folder that cannot be used is said in one warning; programs are then compiled as
    without.

    Example:
      >>> import tempfile
      >>> import jax
      >>> from ntkgen import records
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     with records.compilation_cache(folder):
      ...         three = jax.jit(lambda x: x + 1)(2)
      >>> int(three)
      3

    Args:
      folder: where programs are kept, in a subfolder for each kind of processor. Default: `compiled` in `io.cache_dir`.
        It belongs to one user: who may write there can run code here.
      on: False keeps and finds no programs until the switch is turned back, in JAX's own folder neither.

    Returns:
      What turns it off again: `.close()`, or the end of a `with` block.
    """
    switch = contextlib.ExitStack()
    if not on:
        _set(switch, {"jax_enable_compilation_cache": False})
        return switch
    given, enabled = (
        getattr(jax.config, f"jax_{name}") for name in ("compilation_cache_dir", "enable_compilation_cache")
    )
    if os.environ.get(SWITCH) == "0" or given or not enabled:
        return switch
    try:
        path = (io.cache_dir() / "compiled" if folder is None else Path(folder)).absolute() / processor()
        _make(path)
    except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home folder
        where = getattr(error, "filename", None) or folder or "the cache folder"
        reason = getattr(error, "strerror", None) or str(error)
        _warn(f"compiled programs are not kept for the next time: {where}: {reason}")
        return switch
    switch.enter_context(warnings.catch_warnings())
    warnings.filterwarnings("ignore", message=FAILED)
    settings = {
        "jax_compilation_cache_dir": str(path),
        "jax_compilation_cache_max_size": MOST_BYTES,
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
        "jax_persistent_cache_min_entry_size_bytes": -1,
        "jax_persistent_cache_enable_xla_caches": "none",  # those have no bound, and choose a GPU's algorithms
    }
    _set(switch, settings)
    return switch


def _set(switch: contextlib.ExitStack, settings: dict[str, Any]) -> None:
    """Change settings of JAX until the switch is closed."""
    switch.callback(jax_cache.reset_cache)
    for name, value in settings.items():
        switch.callback(jax.config.update, name, getattr(jax.config, name))
        jax.config.update(name, value)
    jax_cache.reset_cache()  # JAX decides at its first program whether there is a cache


@functools.cache
def _warn(words: str) -> None:
    """Say something once; the parts of a study each try anew."""
    warnings.warn(words, stacklevel=3)


class Compilations:
    """Counts the programs that JAX compiles, or finds compiled, while a `with` block runs.

    Example:
      >>> import jax
      >>> from ntkgen import records
      >>> with records.Compilations() as compiled:
      ...     two = jax.jit(lambda x: 2 * x + 0.125)(1.0)
      >>> compiled.programs >= 1, str(compiled).startswith(f"{compiled.programs} programs, ")
      (True, True)

    Attributes:
      programs: how many.
      seconds: what compiling and finding them took.
      found: how many of them the cache had.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self.programs, self.seconds, self.found = 0, 0.0, 0

    def __enter__(self) -> "Compilations":
        """Begin to count."""
        monitoring.register_event_duration_secs_listener(self._took)
        monitoring.register_event_listener(self._happened)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        monitoring.unregister_event_duration_listener(self._took)
        monitoring.unregister_event_listener(self._happened)

    def __str__(self) -> str:
        """Say what was counted, in words."""
        return f"{self.programs} programs, {self.found} of them from the cache, {self.seconds:.1f} s of compilation"

    def _took(self, event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            self.programs += 1
            self.seconds += duration_secs

    def _happened(self, event: str, **_: object) -> None:
        self.found += event == "/jax/compilation_cache/cache_hits"


def processor() -> str:
    """Return a name for this kind of processor: one that lacks an instruction cannot run the other's programs."""
    lines = []
    with contextlib.suppress(OSError):
        first = Path("/proc/cpuinfo").read_text(errors="replace").partition("\n\n")[0].splitlines()
        lines = [line for line in first if line.startswith(("model name", "flags", "Features", "CPU part"))]
    return f"{platform.machine()}-{io.sha256_bytes(chr(10).join(lines).encode())[:8]}"


def _make(path: Path) -> None:
    """Make the folder, and remove what is not whole or beyond `MOST_PROGRAMS`.

    Raises:
      OSError: it cannot be written, has no space left, or belongs to somebody else.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(1, "expected a folder of one's own", str(path))
    if shutil.disk_usage(path).free < LEAST_FREE:
        raise OSError(28, f"expected {LEAST_FREE >> 20} MiB of free space", str(path))
    with filelock.FileLock(path / ".lockfile", timeout=PATIENCE):  # JAX's own
        (path / ".writable").write_bytes(b"")
        times = {}
        for entry in path.glob("*-cache"):
            stamp = _stamp(entry)
            # Written after the program, it says that this is whole: a kill or a full disk leaves none.
            times[entry] = int.from_bytes(stamp.read_bytes(), "little") if stamp.exists() else 0
        kept = sorted((entry for entry in times if times[entry]), key=times.__getitem__)[-MOST_PROGRAMS:]
        for entry in times.keys() - set(kept):
            entry.unlink(missing_ok=True)
            _stamp(entry).unlink(missing_ok=True)


def _stamp(entry: Path) -> Path:
    return entry.with_name(f"{entry.name.removesuffix('-cache')}-atime")
