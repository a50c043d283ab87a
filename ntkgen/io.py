"""Files that are whole or absent, and names that depend on nothing but content.

Everything ntkgen writes goes through `atomic_write`; everything it names by content goes through `digest` or
`config_hash`; every folder that one process at a time may write is held by `lock`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TextIO

import numpy as np


class LockedError(ValueError):
    """The folder cannot be held: its lock is no file of its own, or another process holds it (`HeldError`)."""


class HeldError(LockedError):
    """Another process holds the folder.

    Example:
      >>> import tempfile
      >>> from ntkgen import io
      >>> with tempfile.TemporaryDirectory() as folder, io.lock(folder):
      ...     try:
      ...         with io.lock(folder):
      ...             pass
      ...     except io.HeldError:
      ...         print("another holds it")
      another holds it
    """


def atomic_write(path: str | os.PathLike, data: bytes | memoryview) -> None:
    """Write a file so that readers, and a crash at any moment, see the old content or the new, never a part.

    Example:
      >>> import tempfile
      >>> from pathlib import Path
      >>> from ntkgen import io
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     io.atomic_write(Path(folder) / "note.txt", b"whole")
      ...     (Path(folder) / "note.txt").read_text()
      'whole'

    Args:
      path: the file. Its folder must exist.
      data: the whole content, any bytes-like object.

    Raises:
      OSError: the disk does not take it; the file is what it was.
    """
    path = Path(path)
    # In the same folder, since os.replace is atomic only within a file system; a fresh name, since two
    # processes may write the same path at once. Not mkstemp: its files are private whatever the umask says.
    tmp = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with open(tmp, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(tmp, path)
    except OSError as error:
        if error.errno is not None:
            error.filename = str(path)  # a full disk does not say for which file
        raise
    finally:
        tmp.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself must survive a power cut
    finally:
        os.close(folder)


def cache_dir() -> Path:
    """Return the folder of what can be made anew: $NTKGEN_CACHE_DIR, else `ntkgen` in the user's cache folder.

    Example:
      >>> from ntkgen import io
      >>> io.cache_dir().is_absolute()
      True

    Raises:
      RuntimeError: the user has no home folder.
    """
    if given := os.environ.get("NTKGEN_CACHE_DIR"):
        return Path(os.path.expanduser(given))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ntkgen"


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes as 64 hex digits.

    Example:
      >>> from ntkgen import io
      >>> io.sha256_bytes(b"abc")[:8]
      'ba7816bf'
    """
    return hashlib.sha256(data).hexdigest()


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the SHA-256 over the names, dtypes, shapes and values of arrays, in whatever order they come.

    Values count as little-endian C-order bytes: memory layout makes no difference, while 0.0 and -0.0 differ.

    Example:
      >>> import numpy as np
      >>> from ntkgen import io
      >>> io.digest({"x": np.ones((2, 3))}) == io.digest({"x": np.asfortranarray(np.ones((2, 3)))})
      True

    Args:
      arrays: numbers, booleans or fixed-width strings by name; anything `np.asarray` takes.

    Returns:
      64 hex digits.

    Raises:
      TypeError: an array holds Python objects, whose bytes are addresses.
    """
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name])
        if array.dtype.hasobject:
            raise TypeError(f"digest: {name!r} holds Python objects; expected a dtype of fixed size")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        # The header fixes how many bytes follow it, so no two sets of arrays feed the same stream.
        sha.update(canonical_json([name, str(array.dtype), list(array.shape)]).encode() + b"\n")
        sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def canonical_json(obj: object) -> str:
    """Return the one JSON text of a value: sorted keys, no spaces. Tuples count as lists.

    Example:
      >>> from ntkgen import io
      >>> io.canonical_json({"width": 4, "rates": (0.1, 0.2)})
      '{"rates":[0.1,0.2],"width":4}'

    Args:
      obj: strings, ints, finite floats, booleans and None, in dicts with string keys, lists and tuples.

    Returns:
      ASCII text; equal for equal values, and `json.loads` gives the value back.

    Raises:
      TypeError: something in it is no JSON (an array, a NumPy integer, a key that is no string).
      ValueError: a float in it is NaN or infinite, for which JSON has no spelling.
    """
    _check_json(obj, "value")
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_json(obj: object, where: str) -> None:
    # json.dumps alone would turn the keys 1, True and None into strings, so that different configs share a
    # hash, and would say neither where the bad value is nor which.
    if isinstance(obj, dict):
        for key, item in obj.items():
            if not isinstance(key, str):
                raise TypeError(f"canonical_json: {where} has the key {key!r}; expected a string")
            _check_json(item, f"{where}[{key!r}]")
    elif isinstance(obj, list | tuple):
        for i, item in enumerate(obj):
            _check_json(item, f"{where}[{i}]")
    elif isinstance(obj, float):
        if not math.isfinite(obj):
            raise ValueError(f"canonical_json: {where} is {obj}; expected a finite number")
    elif not (obj is None or isinstance(obj, str | int)):
        raise TypeError(f"canonical_json: {where} is {type(obj).__name__} {obj!r:.60}; expected a JSON type")


def config_hash(config: dict) -> str:
    """Return the name of a config: the first 12 hex digits of the SHA-256 of its canonical JSON.

    Pass the *full* resolved config, defaults included: a hash that skipped them would find stale results
    after a default changed.

    Example:
      >>> from ntkgen import io
      >>> io.config_hash({"width": 4, "rate": 0.1}) == io.config_hash({"rate": 0.1, "width": 4})
      True
    """
    return sha256_bytes(canonical_json(config).encode())[:12]


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for this process while the body runs; make it if need be.

    The lock is the kernel's (`flock` on `folder/.lock`), so it goes away with its holder, however that ends.
    The file stays: removing it would let two later processes lock two different files of the same name.

    Example:
      >>> import os, tempfile
      >>> from ntkgen import io
      >>> with tempfile.TemporaryDirectory() as folder, io.lock(folder):
      ...     os.listdir(folder)
      ['.lock']

    Args:
      folder: the folder to hold.

    Yields:
      Nothing.

    Raises:
      HeldError: another process holds it. Never waits.
      LockedError: `.lock` is a link, or another thing than a file of its own, which would be damaged elsewhere.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _open_own(folder / ".lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = file.read().strip() or "(not yet known)"
            raise HeldError(f"{folder} is in use by process {pid}; wait for it or choose another") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _open_own(path: Path) -> TextIO:
    """Open a file that has this name alone for reading and writing; make it if need be. Links are not followed."""
    refusal = LockedError(f"{path} is a link or no file; remove it")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise refusal from None
    about = os.fstat(descriptor)
    if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
        os.close(descriptor)
        raise refusal
    return open(descriptor, "r+", errors="replace")
