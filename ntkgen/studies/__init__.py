"""The studies. `studies.double_descent.run(preset="quick")` returns its tables, verdict and figures.

Use `runner.run` for a study of your own; `base` and `options` say what one is made of.
"""

import importlib
from types import ModuleType

NAMES = (
    "double_descent",
    "implicit_regularization",
    "loss_landscape",
    "ntk_regime",
    "lottery_ticket",
    "mechanisms",
    "reproduce",
    "learning_rate",
    "edge_of_stability",
)
__all__ = ["NAMES", *NAMES, "base", "datasets", "options", "relations", "runner", "tables", "tuning"]


def __getattr__(name: str) -> ModuleType:
    """Import a study when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module 'ntkgen.studies' has no attribute {name!r}")
    return importlib.import_module(f"ntkgen.studies.{name}")


def __dir__() -> list[str]:
    return sorted(__all__)
