"""Programs that a CPU compiles the older, quicker way, where this XLA still has it."""

import functools
from collections.abc import Callable
from typing import Any

import jax

# The older emitters take 40 % less for a CNN. Their code is about as fast: a kernel of an MLP the same, one of a CNN
# and few samples up to 5 % slower. No other backend reads the option.
OPTIONS: dict[str, bool | int | str] = {"xla_cpu_use_fusion_emitters": False}


def quick_jit(function: Callable, **settings: Any) -> Callable:
    """Return `jax.jit(function, **settings)`, for programs whose compilation takes longer than their runs.

    Example:
      >>> from ntkgen import functions
      >>> functions.quick_jit(lambda x, n: n * x, static_argnums=1)(2.0, 3).item()
      6.0
    """

    @functools.cache
    def program() -> Callable:
        return jax.jit(function, compiler_options=OPTIONS if known() else None, **settings)

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        return program()(*args)

    return call


@functools.cache
def known() -> bool:
    """Return whether this XLA has the options: it may drop them, and then refuses to compile."""
    try:
        jax.jit(lambda: 0, compiler_options=OPTIONS).lower().compile()
    except RuntimeError:
        return False
    return True
