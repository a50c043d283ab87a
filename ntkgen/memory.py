"""How much memory arrays may take: an accelerator's own, or this machine's within the limits of its container."""

import contextlib
import ctypes
import os
from pathlib import Path

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # numbers of glibc's settings, in its malloc.h
KEPT = 512 * 2**20  # bytes of freed memory that stay with the process, at most
SHARE = 0.5  # of the memory, that one kernel or one chunk of seeds may plan to use


def total() -> int:
    """Return the bytes of memory of the first local device.

    On an accelerator that is what JAX may take of it. On CPU it is the machine's memory, or a container's limit where
    that is lower. It is never what happens to be free: a resumed run makes the same choices.

    Example:
      >>> from ntkgen import memory
      >>> memory.total() > 0
      True
    """
    import jax  # not before it is needed: the command line is checked without JAX

    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit:
        return int(limit)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *container_limits()])


def budget() -> int:
    """Return the bytes that one kernel or one chunk of seeds may plan to use: `SHARE` of `total`.

    Example:
      >>> from ntkgen import memory
      >>> memory.budget() == memory.total() // 2
      True
    """
    return int(SHARE * total())


def container_limits(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> list[int]:
    """Return the memory limits, in bytes, of this process's control groups and of the groups around them.

    Both versions of control groups are read; a group without a limit adds nothing (version 2) or a huge number
    (version 1). Inside a container the files of `root` itself are the container's.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import memory
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     written = (Path(folder) / "memory.max").write_text("1024")
      ...     memory.container_limits(Path(folder), Path(folder) / "none")
      [1024]

    Args:
      root: where control groups are mounted.
      groups: the groups of this process, lines of "number:controllers:/path".
    """
    lines = []
    with contextlib.suppress(OSError):
        lines = [line.split(":", 2) for line in groups.read_text().splitlines()]
    files = {root / "memory.max", root / "memory/memory.limit_in_bytes"}
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "memory" not in controllers.split(","):
            continue
        mount, name = (root / "memory", "memory.limit_in_bytes") if controllers else (root, "memory.max")
        group = Path(path.lstrip("/"))
        files |= {mount / inner / name for inner in (group, *group.parents)}
    limits = []
    for file in sorted(files):
        with contextlib.suppress(OSError, ValueError):  # no such group; "max" where there is no limit
            limits.append(int(file.read_text()))
    return limits


def keep_freed() -> bool:
    """Let the process keep what it freed for its next arrays, and return whether that could be set.

    A program's temporary arrays otherwise go back to the system and cost page faults again at each call: a
    Hessian-vector product of a CNN took a tenth longer. For scripts, which own their process. Only glibc has the
    setting; a user's own, in the environment, stays.

    Example:
      >>> from ntkgen import memory
      >>> memory.keep_freed() in (True, False)
      True
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        setting = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library
        return False
    return bool(setting(MMAP_THRESHOLD, KEPT // 2) and setting(TRIM_THRESHOLD, KEPT))
