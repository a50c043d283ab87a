"""A network as a function of a part of its params."""

from collections.abc import Callable, Sequence
from typing import Any

from jax.tree_util import Partial

from ntkgen import tree
from ntkgen.typing import PyTree


def restrict(f: Callable, params: PyTree, only: str | Sequence[str]) -> tuple[Partial, PyTree]:
    """Return f as a function of some of its params, and those params; the others stay as they are.

    The instruments take both in place of f and params: curvature, spectra, kernels and sharpness are then those of
    the named layers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import functions, models, ntk
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> variables = models.init(model, jax.random.key(0), (3,))
      >>> f, part = functions.restrict(models.apply_fn(model, variables), variables["params"], "dense1")
      >>> jax.tree.map(jnp.shape, part["dense1"])
      {'bias': (2,), 'kernel': (4, 2)}
      >>> ntk.empirical_ntk(f, part, jnp.ones((5, 3))).shape  # of the last layer alone
      (5, 5, 2, 2)

    Args:
      f: (params, ...) -> outputs; the arrays of a `jax.tree_util.Partial` stay arguments.
      params: all params.
      only: as in `tree.partition`.

    Returns:
      The function (part, ...) -> outputs, and the part: a tree like params with None for all other leaves.

    Raises:
      ValueError: no path, or a path without params.
    """
    part, rest = tree.partition(params, only)
    return Partial(_of_part, f if isinstance(f, Partial) else Partial(f), rest), part


def _of_part(f: Partial, rest: PyTree, part: PyTree, *given: Any) -> Any:
    return f(tree.combine(part, rest), *given)
