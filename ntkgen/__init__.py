"""ntkgen: why do overparameterized networks generalize? Many seeds, one command, every number with its error."""

import importlib
from types import ModuleType

__version__ = "0.1.0"


def __getattr__(name: str) -> ModuleType:
    """Import a module when it is first used: `import ntkgen` alone loads neither JAX nor anything heavy."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"ntkgen.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"ntkgen.{name}":
            raise
        raise AttributeError(f"module 'ntkgen' has no attribute {name!r}") from None
