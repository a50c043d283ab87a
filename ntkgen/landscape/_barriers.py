"""Linear mode connectivity: how far the error rises on the line between two trained networks (Frankle et al. 2020)."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import tree
from ntkgen.typing import PyTree

ALPHAS = tuple(np.linspace(0, 1, 30).tolist())  # 30 evenly spaced points, Frankle et al. 2020, section 2


class Barrier(NamedTuple):
    """Error on the line between two networks.

    Attributes:
      alphas: (m,), 0 at the first network, 1 at the second.
      errors: (m, ...), what `evaluate` gave, with its trailing axes (seeds).
      barrier: (...), largest error minus the mean of the two ends' (Frankle et al. 2020). At least half the
        difference of the ends, even on a straight line.
      excess: (...), largest distance of the error above the straight line between the ends (Entezari et al. 2022); at
        least 0.
    """

    alphas: np.ndarray
    errors: np.ndarray
    barrier: np.ndarray
    excess: np.ndarray


def error_barrier(
    evaluate: Callable[[PyTree], Any],
    first: PyTree,
    second: PyTree,
    *,
    alphas: Sequence[float] = ALPHAS,
    refit: Callable[[PyTree], PyTree] | None = None,
) -> Barrier:
    """Measure the error barrier on the line (1 - alpha) first + alpha second.

    Example:
      >>> from ntkgen import landscape
      >>> found = landscape.error_barrier(lambda w: 1 - w["a"] ** 2, {"a": -1.0}, {"a": 1.0}, alphas=[0.0, 0.5, 1.0])
      >>> found.errors.tolist(), float(found.barrier)
      ([0.0, 1.0, 0.0], 1.0)

    Args:
      evaluate: evaluate(variables) -> error, scalar or one for each seed; NaN makes the barrier NaN.
      first: variables of one child, all collections.
      second: variables of the other, of the same structure.
      alphas: increasing from 0 to 1.
      refit: refit(variables) -> variables, called at every point, the ends included, before it is evaluated: where
        batch-norm statistics are re-estimated, which averaging weights invalidates.

    Returns:
      Errors and barriers in the unit of `evaluate`.

    Raises:
      ValueError: an argument does not fit the others; the message names it.
    """
    tree.check_like("second", second, first)
    grid = np.asarray(alphas, np.float64)
    if grid.ndim != 1 or grid.size < 2 or grid[0] != 0 or grid[-1] != 1 or not np.all(np.diff(grid) > 0):
        raise ValueError(f"alphas: expected numbers that increase from 0 to 1, got {alphas}")

    def point(alpha: float) -> PyTree:
        def mix(a: Any, b: Any) -> Any:
            # Traced weights: a constant in the expression would compile it anew for every alpha.
            weight = jnp.asarray(alpha, jnp.result_type(a))
            return (1 - weight) * a + weight * b

        variables = jax.tree.map(mix, first, second)
        return variables if refit is None else refit(variables)

    errors = np.stack([np.asarray(evaluate(point(alpha)), np.float64) for alpha in grid])
    weights = grid.reshape(-1, *[1] * (errors.ndim - 1))
    straight = (1 - weights) * errors[0] + weights * errors[-1]
    return Barrier(grid, errors, errors.max(0) - (errors[0] + errors[-1]) / 2, (errors - straight).max(0))
