"""Which objects are networks, and what makes a network of the others."""

import inspect
from typing import Any

from flax import nnx

# Top-level package of a class -> what to do with its objects.
FOREIGN = {
    "equinox": "make one with models.from_equinox(lambda key: ...)",
    "haiku": "make one of the function that was transformed with models.from_haiku(function)",
    "torch": "write it in Flax, or as functions of JAX for models.from_functions(init, apply)",
}


def check_network(model: Any) -> None:
    """Refuse what is no network: a Flax Linen module, or an object with `init(key, x)` and `apply(variables, x)`.

    Example:
      >>> from ntkgen import functions
      >>> functions.check_network(object())
      Traceback (most recent call last):
          ...
      ValueError: model: expected a Flax Linen module, or an object with init and apply, got object

    Raises:
      ValueError: naming the function of `models` that makes a network of it, where there is one.
    """
    expected = "expected a Flax Linen module"
    packages = {base.__module__.partition(".")[0] for base in type(model).__mro__}
    foreign = next((advice for package, advice in FOREIGN.items() if package in packages), None)
    if isinstance(model, type):
        raise ValueError(f"model: expected a network, got the class {model.__name__}; make one of it first")
    if isinstance(model, nnx.Module):
        foreign = "make one with models.from_nnx(lambda rngs: ...)"
    if foreign is None and callable(getattr(model, "init", None)) and callable(getattr(model, "apply", None)):
        return
    if foreign is None and (inspect.isroutine(model) or (callable(model) and not hasattr(model, "apply"))):
        foreign = "make one with models.from_functions(init, apply)"
    expected += f"; {foreign}" if foreign else ", or an object with init and apply"
    raise ValueError(f"model: {expected}, got {type(model).__name__}")
