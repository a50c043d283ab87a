"""Why do overparameterized networks generalize? Many seeds, one command, every number with its error.

`import ntkgen` loads nothing else. A module is imported when it is first used: `ntkgen.data.load("digits")`, or
`from ntkgen import data`.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "choices",
    "cli",
    "curvature",
    "data",
    "ensemble",
    "functions",
    "io",
    "kernels",
    "landscape",
    "linearize",
    "measure",
    "memory",
    "models",
    "ntk",
    "paper",
    "plotting",
    "pruning",
    "records",
    "report",
    "roles",
    "spectrum",
    "stats",
    "studies",
    "train",
    "tree",
    "typing",
]


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'ntkgen' has no attribute {name!r}")
    return importlib.import_module(f"ntkgen.{name}")


def __dir__() -> list[str]:
    """Return the public names, for tab completion."""
    return [*__all__, "__version__"]
