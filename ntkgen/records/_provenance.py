"""What the numbers of a run depend on beside its config: versions, device, numerics, code."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jax

import ntkgen

FOLDER = Path(ntkgen.__file__).resolve().parent
CHECKOUT = FOLDER.parent
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "scipy")
# Options of JAX that change what a program computes or draws.
OPTIONS = (
    "jax_enable_x64",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_matmul_precision",
    "jax_random_seed_offset",
    "jax_default_dtype_bits",
    "jax_numpy_dtype_promotion",
    "jax_disable_jit",
)
# XLA's flags may all change numbers (fast math, determinism, autotuning), but for these.
HARMLESS = ("--xla_dump", "--xla_force_host_platform_device_count", "--xla_hlo_profile")


def versions() -> dict[str, str]:
    """Return the versions that a number may depend on.

    Example:
      >>> from ntkgen import records
      >>> "jax" in records.versions()
      True
    """
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"ntkgen": ntkgen.__version__, "python": platform.python_version(), **found}


def device() -> dict[str, Any]:
    """Return backend, kind and number of the devices that a run uses."""
    devices = jax.local_devices()
    return {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)}


def numerics() -> dict[str, Any]:
    """Return the settings of JAX and XLA that change numbers: options by name, flags as {flag: value}.

    Example:
      >>> from ntkgen import records
      >>> "jax_enable_x64" in records.numerics()
      True
    """
    options = {name: getattr(jax.config, name) for name in OPTIONS if hasattr(jax.config, name)}
    flags = dict(flag.partition("=")[::2] for flag in shlex.split(os.environ.get("XLA_FLAGS", "")))
    kept = {name: value for name, value in flags.items() if not name.startswith(HARMLESS)}
    return {**options, "xla_flags": kept, "nvidia_tf32_override": os.environ.get("NVIDIA_TF32_OVERRIDE")}


def commit() -> str | None:
    """Return the checkout's commit, with `-dirty` if tracked files differ from it; None outside a checkout.

    Example:
      >>> from ntkgen import records
      >>> len((records.commit() or 40 * "?").removesuffix("-dirty"))
      40
    """

    def git(*args: str) -> str:
        command = ["git", "-C", str(CHECKOUT), *args]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != CHECKOUT:
            return None
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
