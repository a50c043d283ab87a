"""First-order models: a network's tangent at a point of parameter space."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from ntkgen import functions
from ntkgen.functions import jvp
from ntkgen.typing import Array, PyTree


def linearize(f: Callable[[PyTree, Array], Array], params0: PyTree) -> Callable[[PyTree, Array], Array]:
    """Expand a network to first order in its parameters (Lee et al. 2019, section 2.2).

    f_lin(params, x) = f(params0, x) + (d f / d params)(params0, x) (params - params0), by one `jvp`, or by reverse mode
    alone where f has no forward mode (`jax.custom_vjp`).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen.linearize import linearize
      >>> f_lin = linearize(lambda w, x: w**2 * x, jnp.array(3.0))
      >>> f_lin(jnp.array(4.0), jnp.array([1.0])).tolist()  # 9 + 6 (4 - 3)
      [15.0]

    Args:
      f: function (params, x) -> outputs of any shape, or a tree of them; x may be a tree, too.
      params0: where to expand.

    Returns:
      f_lin with the signature of f; safe under jit, vmap and grad.
    """

    def f_lin(params: PyTree, x: Array) -> Array:
        tangent = jax.tree.map(lambda p, p0: p - p0, params, params0)
        at = functools.partial(_at, f, x)
        try:
            value, change = jvp(at, params0, tangent)
        except TypeError:  # JAX's error for `jax.custom_vjp`; any other comes up again
            value, change = jvp(at, params0, tangent, forward=False)
        return jax.tree.map(lambda a, b: a + b, value, change)

    return f_lin


def _at(f: Callable, x: Array, params: PyTree) -> Array:
    return f(params, x)


@dataclass(frozen=True)
class Linearized:
    """A network linearised at its own initialisation, for `ensemble.fit` like any other model.

    Each seed keeps its own expansion point: a collection `anchor` beside `params`, equal to them when drawn and held
    fixed by training. Other collections (batch statistics) are frozen, and the network runs in evaluation mode, so
    that its outputs depend on their own sample alone. To expand trained networks, give `fit(init=...)` variables with
    `anchor` set to their params.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models
      >>> from ntkgen.linearize import Linearized
      >>> model = Linearized(models.MLP(4, depth=2, num_classes=2))
      >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
      >>> sorted(variables), model.apply(variables, jnp.ones((5, 3))).shape
      (['anchor', 'params'], (5, 2))

    Attributes:
      model: a Flax module, or anything with its `init(key, x)` and `apply(variables, x)`; a training switch that
        `functions.SWITCHES` lists is set to evaluation.
    """

    model: Any

    def init(self, key: Array, x: Array) -> dict[str, Any]:
        """Draw the network's variables, and remember its params as the anchor."""
        variables = functions.init(self.model, key, x)
        return {**variables, "anchor": variables["params"]}

    def apply(self, variables: dict[str, Any], x: Array, mutable: Any = False) -> Any:
        """Map x (n, ...) to the linearised outputs; with `mutable` also the named collections, unchanged."""
        frozen = {name: value for name, value in variables.items() if name not in ("params", "anchor")}

        def f(params: PyTree, x: Array) -> Array:
            return functions.Evaluation(self.model)(frozen, params, x)

        out = linearize(f, variables["anchor"])(variables["params"], x)
        if mutable is False:
            return out
        return out, {name: variables[name] for name in mutable}
