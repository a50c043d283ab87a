"""Programs that a CPU compiles the older, quicker way, where this XLA still has it."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# The older emitters take 40 % less for a CNN. Their code is about as fast: a kernel of an MLP the same, one of a CNN
# and few samples up to 5 % slower. No other backend reads the option.
OPTIONS: dict[str, bool | int | str] = {"xla_cpu_use_fusion_emitters": False}


def quick_jit(function: Callable, **settings: Any) -> "Quick":
    """Return `jax.jit(function, **settings)`, for programs whose compilation takes longer than their runs.

    Example:
      >>> from ntkgen import functions
      >>> functions.quick_jit(lambda x, n: n * x, static_argnums=1)(2.0, 3).item()
      6.0
    """
    return Quick(function, settings)


class Quick:
    """A jitted function; XLA is asked for its options at the first call, not where the function is defined."""

    def __init__(self, function: Callable, settings: dict[str, Any]) -> None:
        """Keep what `jax.jit` is given."""
        self.function, self.settings = function, settings
        functools.update_wrapper(self, function)

    @functools.cached_property
    def program(self) -> Any:
        """The function as `jax.jit` returns it."""
        return jax.jit(self.function, compiler_options=OPTIONS if known() else None, **self.settings)

    def __call__(self, *args: Any) -> Any:
        """Call the program."""
        return self.program(*args)

    def lower(self, *args: Any) -> Any:
        """Lower the program, as that of `jax.jit`."""
        return self.program.lower(*args)


@functools.cache
def known() -> bool:
    """Return whether this XLA has the options: it may drop them, and then refuses to compile."""
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except RuntimeError:
        return False
    return True
