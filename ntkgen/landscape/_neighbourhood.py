"""The loss around a solution: random and adversarial perturbations, lines, planes, and paths to another solution.

Everything takes a function of the params alone, such as the mean loss over some data. Points are evaluated one after
another inside one program, so memory does not grow with their number; all is safe under `jit` and `vmap` over seeds.

A network with batch norm is another function once its weights moved and its statistics did not. Where points are far
from a solution, give `refit(params) -> state`, which estimates the statistics anew, and a function of both.

A little over 350 lines, half of them documentation: all ways of leaving a solution share one way of evaluating points.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ntkgen import roles as leaf_roles
from ntkgen import tree
from ntkgen.curvature import highest_precision
from ntkgen.typing import Array, PyTree

Value = Callable[..., Any]  # value(params) -> numbers, or with refit: value(params, state)
Refit = Callable[[PyTree], Any]

# Five are legible in the paper's table; the text has lost two of its seven. We continue the 1-2-5 sequence upwards.
SIGMAS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
SAMPLES = 5  # per sigma (section IV-F)
NORMS = ("l2", "linf")


class Sensitivity(NamedTuple):
    """Loss under random perturbation.

    Attributes:
      baseline: () value without.
      values: (s, r) value at each sigma and draw.
      increase: (s,) mean of values - baseline.
      standard_error: (s,) of the increase over draws; NaN for a single draw.
    """

    baseline: Array
    values: Array
    increase: Array
    standard_error: Array


class Sharpness(NamedTuple):
    """Increase () of the value within the neighbourhood, its standard error () (0 for a maximum), evaluations."""

    increase: Array
    standard_error: Array
    num_evaluations: int


# --- Random perturbation


@highest_precision
def perturbation(
    value: Value,
    params: PyTree,
    key: Array,
    sigmas: Any = SIGMAS,
    num_samples: int = SAMPLES,
    relative: bool = False,
    roles: PyTree | None = None,
) -> Sensitivity:
    """Measure how a function of the params rises when Gaussian noise is added to them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> found = landscape.perturbation(lambda w: (w**2).sum(), jnp.zeros(3), jax.random.key(0), sigmas=[0.01, 0.1])
      >>> found.values.shape, bool(found.increase[1] > found.increase[0] > 0)
      ((2, 5), True)

    Args:
      value: params -> ().
      params: the solution.
      key: of the noise; every sigma and draw has its own.
      sigmas: (s,) strengths: the standard deviation of each entry (the paper's), or with `relative` the norm of the
        noise over that of the weights, filter by filter.
      num_samples: draws for each sigma.
      relative: use `filter_direction`: filters keep their proportions, biases and scales are left alone.
      roles: of `filter_direction`; without `relative` nobody asks for them.

    Returns:
      Values, mean increase and its standard error.

    Raises:
      ValueError: params not finite, no draw, a sigma that is negative or not finite, or as in `filter_direction`.
    """
    _check(params)
    if relative:
        roles = leaf_roles.given(params, roles)
    _check_strengths("sigmas", sigmas)
    sigmas = jnp.asarray(sigmas, float)
    _check_count("num_samples", num_samples)
    keys = jax.random.split(key, (len(sigmas), num_samples))

    def one(args: tuple[Array, Array]) -> Array:
        sigma, key = args
        noise = filter_direction(key, params, roles) if relative else tree.random_like(key, params)
        return value(tree.axpy(sigma, noise, params))

    # The baseline is a point like the others, so that one program serves all.
    strengths = jnp.concatenate([jnp.zeros(1, sigmas.dtype), jnp.repeat(sigmas, num_samples)])
    values = lax.map(one, (strengths, jnp.concatenate([keys[:1, 0], keys.reshape(-1)])))
    baseline, values = values[0], values[1:].reshape(len(sigmas), num_samples)
    increase = jnp.mean(values - baseline, 1)
    error = jnp.std(values, 1, ddof=1) / num_samples**0.5 if num_samples > 1 else jnp.full_like(increase, jnp.nan)
    return Sensitivity(baseline, values, increase, error)


# --- Adaptive sharpness


@highest_precision
def average_adaptive_sharpness(
    value: Value, params: PyTree, key: Array, rho: float, num_samples: int, *, unmoved: Sequence[str] = ()
) -> Sharpness:
    """Average the increase under noise whose standard deviation is rho |w| for each weight w.

    Andriushchenko et al. 2023 (arXiv:2302.07011), equation 1 with c = |w|. Multiplying weights by positive numbers
    that leave the function alone (Dinh et al. 2017) leaves this alone, draw by draw.

    Params without an effect on the function belong into `unmoved`. A convolution bias before batch norm is cancelled
    by the mean of the batch, so that it may have any size; under frozen statistics noise of that size acts all the
    same, and would be counted as sharpness. `models.without_effect` finds them.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> def loss(w):
      ...     return (w["a"] * w["b"] - 1) ** 2
      >>> def sharpness(a, b):
      ...     params = {"a": jnp.array(a), "b": jnp.array(b)}
      ...     return landscape.average_adaptive_sharpness(loss, params, jax.random.key(0), rho=0.1, num_samples=10)
      >>> bool(sharpness(4.0, 0.25).increase == sharpness(1.0, 1.0).increase)  # the same function, other weights
      True

    Args:
      value: params -> ().
      params: the solution; weights that are 0 are not moved.
      key: of the noise.
      rho: relative size of the noise.
      num_samples: draws.
      unmoved: names of leaves without noise, such as "conv0_0/bias".

    Returns:
      The mean increase and its standard error.

    Raises:
      ValueError: params not finite, rho negative or not finite, fewer than 2 draws, no leaf of a name in unmoved.
    """
    _check(params)
    _check_strengths("rho", rho)
    _check_count("num_samples", num_samples, 2)
    moves = _moves(params, unmoved)

    def one(args: tuple[Array, Array]) -> Array:
        strength, key = args
        return value(_adapted(params, _masked(tree.scale(strength, tree.random_like(key, params)), moves)))

    strengths = rho * (jnp.arange(num_samples + 1) > 0)  # the first is the baseline
    values = lax.map(one, (strengths, jax.random.split(key, num_samples + 1)))
    increases = values[1:] - values[0]
    error = jnp.std(increases, ddof=1) / num_samples**0.5
    return Sharpness(jnp.mean(increases), error, num_samples + 1)


@highest_precision
def worst_adaptive_sharpness(
    value: Value,
    params: PyTree,
    key: Array,
    rho: float,
    num_steps: int = 20,
    norm: str = "l2",
    *,
    unmoved: Sequence[str] = (),
) -> Sharpness:
    """Search the largest increase within a ball of radius rho in units of each weight's magnitude.

    max over |u| <= rho of value(w + |w| u) - value(w): ASAM's sharpness (Kwon et al. 2021, arXiv:2102.11600), by
    projected gradient ascent on u from a random point of the sphere, with steps that fall from rho to zero. Found
    from below: a bad search looks like a flat minimum, so vary num_steps. Invariant like the average, with the same
    `unmoved`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> found = landscape.worst_adaptive_sharpness(lambda w: (w - 2) ** 2, jnp.array(2.0), jax.random.key(0), rho=0.5)
      >>> round(float(found.increase), 3)  # at 2 + 2 rho
      1.0

    Args:
      value: params -> ().
      params: the solution; weights that are 0 are not moved.
      key: of the starting point.
      rho: radius.
      num_steps: gradients to spend.
      norm: "l2", or "linf": every weight changes by at most the fraction rho.
      unmoved: names of leaves that stay, see `average_adaptive_sharpness`.

    Returns:
      The largest increase that was seen, at least 0.

    Raises:
      ValueError: params not finite, rho negative or not finite, no step, an unknown norm, no leaf of a name in unmoved.
    """
    _check(params)
    _check_strengths("rho", rho)
    _check_count("num_steps", num_steps)
    if norm not in NORMS:
        raise ValueError(f"norm: expected one of {', '.join(NORMS)}, got {norm!r}")
    moves = _moves(params, unmoved)
    slope = jax.value_and_grad(lambda u: value(_adapted(params, _masked(u, moves))))

    def step(carry: tuple[PyTree, Array], i: Array) -> tuple[tuple[PyTree, Array], None]:
        u, best = carry
        now, gradient = slope(u)
        u = tree.axpy(rho * (1 - i / num_steps), _unit(gradient, norm), u)
        return (_project(u, rho, norm), jnp.maximum(best, now)), None

    start = tree.scale(rho, _unit(_masked(tree.random_like(key, params), moves), norm))
    lowest = jnp.asarray(-jnp.inf, jax.eval_shape(value, params).dtype)
    (u, best), _ = lax.scan(step, (start, lowest), jnp.arange(num_steps))
    baseline, last = lax.map(lambda a: value(_adapted(params, tree.scale(a, u))), jnp.arange(2.0))
    best = jnp.maximum(best, jnp.maximum(last, baseline))
    return Sharpness(best - baseline, jnp.zeros_like(best), num_steps + 2)


def _adapted(params: PyTree, u: PyTree) -> PyTree:
    return jax.tree.map(lambda w, change: w + jnp.abs(w) * change, params, u)


def _moves(params: PyTree, unmoved: Sequence[str]) -> PyTree:
    """Return a tree like params of bools: whether a leaf takes part in the neighbourhood."""
    names = [leaf_roles.tree_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    strange = [name for name in unmoved if name not in names]
    if isinstance(unmoved, str) or strange:
        raise ValueError(f"unmoved: expected names among {', '.join(names)}, got {unmoved!r}")
    structure: Any = jax.tree.structure(params)
    return structure.unflatten([name not in unmoved for name in names])


def _masked(direction: PyTree, moves: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, moved: leaf if moved else jnp.zeros_like(leaf), direction, moves)


def _unit(direction: PyTree, norm: str) -> PyTree:
    """Scale to the unit sphere; linf takes the corner that a linear function likes best."""
    if norm == "linf":
        return jax.tree.map(jnp.sign, direction)
    length = tree.norm(direction)
    return tree.scale(jnp.where(length > 0, 1 / jnp.where(length > 0, length, 1.0), 0.0), direction)


def _project(u: PyTree, rho: float, norm: str) -> PyTree:
    if norm == "linf":
        return jax.tree.map(lambda leaf: jnp.clip(leaf, -rho, rho), u)
    length = tree.norm(u)
    return tree.scale(jnp.where(length > rho, rho / jnp.where(length > 0, length, 1.0), 1.0), u)


# --- Lines, planes, paths


def filter_direction(key: Array, params: PyTree, roles: PyTree | None = None) -> PyTree:
    """Draw a Gaussian direction whose filters have the norms of the params' filters.

    Li et al. 2018 (arXiv:1712.09913), section 4. A filter is what feeds one output unit of one layer: of a dense
    kernel (in, out) a column, of layers stacked as (layers, in, out) a column of each. Leaves that are neither
    kernels nor embeddings (biases, normalisation scales, single vectors) get zeros, as in their code.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 1.0]]), "bias": jnp.ones(2)}
      >>> direction = landscape.filter_direction(jax.random.key(0), params)
      >>> jnp.linalg.norm(direction["kernel"], axis=0).round(3).tolist(), direction["bias"].tolist()
      ([5.0, 1.0], [0.0, 0.0])

    Args:
      key: of the draw.
      params: one network's params.
      roles: what the leaves are, a tree like params of `roles.Leaf`; default `roles.of(params)`.

    Returns:
      A tree like params.

    Raises:
      ValueError: a leaf is not floating, roles do not fit, or nothing tells a kernel's output units.
    """

    def one(draw: Array, leaf: Array, role: leaf_roles.Leaf) -> Array:
        if role.role not in ("kernel", "embedding"):
            return jnp.zeros_like(leaf)
        own = {*(role.filter_axes or ()), *(role.stack_axes or ())}
        inputs = tuple(axis for axis in range(leaf.ndim) if axis not in own)
        want, have = (jnp.sqrt(jnp.sum(a**2, inputs, keepdims=True)) for a in (leaf, draw))
        return draw * jnp.broadcast_to(want / have, draw.shape)

    return jax.tree.map(one, tree.random_like(key, params), params, leaf_roles.given(params, roles))


@highest_precision
def line(value: Value, params: PyTree, direction: PyTree, steps: Any, refit: Refit | None = None) -> Any:
    """Evaluate along params + a direction.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> landscape.line(lambda w: (w**2).sum(), jnp.array([1.0]), jnp.array([2.0]), jnp.array([0.0, 1.0])).tolist()
      [1.0, 9.0]

    Args:
      value: params -> numbers, a tree of arrays; with `refit` (params, state) -> numbers.
      params: the centre.
      direction: a tree like params.
      steps: (s,) values of a.
      refit: params -> state, such as batch statistics estimated anew.

    Returns:
      What value gives, with a leading axis s.

    Raises:
      ValueError: direction is not like params, or params are not finite.
    """
    _check(params)
    tree.check_like("direction", direction, params)
    at = _evaluated(value, refit)
    return lax.map(lambda a: at(tree.axpy(a, direction, params)), jnp.asarray(steps, float))


@highest_precision
def plane(
    value: Value,
    params: PyTree,
    directions: tuple[PyTree, PyTree],
    steps: tuple[Any, Any],
    refit: Refit | None = None,
) -> Any:
    """Evaluate over params + a first + b second, for all pairs of steps.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> steps, directions = jnp.array([0.0, 1.0]), (jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]))
      >>> landscape.plane(lambda w: (w**2).sum(), jnp.zeros(2), directions, (steps, steps)).tolist()
      [[0.0, 4.0], [1.0, 5.0]]

    Args:
      value: as in `line`.
      params: the centre.
      directions: two trees like params.
      steps: (s,) values of a, (t,) values of b.
      refit: as in `line`.

    Returns:
      What value gives, with leading axes (s, t).

    Raises:
      ValueError: a direction is not like params, or params are not finite.
    """
    tree.check_like("directions[1]", directions[1], params)
    second = jnp.asarray(steps[1], float)
    at = _evaluated(value, refit)

    def row(params: PyTree) -> Any:
        return lax.map(lambda b: at(tree.axpy(b, directions[1], params)), second)

    return line(row, params, directions[0], steps[0])


@highest_precision
def interpolate(value: Value, start: PyTree, end: PyTree, steps: Any, refit: Refit | None = None) -> Any:
    """Evaluate along (1 - t) start + t end.

    With batch norm give `refit`: statistics interpolated or kept belong to no network on the way.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import landscape
      >>> landscape.interpolate(lambda w: w**2, jnp.array(-1.0), jnp.array(1.0), jnp.array([0.0, 0.5, 1.0])).tolist()
      [1.0, 0.0, 1.0]

    Args:
      value: as in `line`.
      start: one solution.
      end: another, a tree like start.
      steps: (s,) values of t; beyond 0 ... 1 extrapolates.
      refit: as in `line`.

    Returns:
      What value gives, with a leading axis s.

    Raises:
      ValueError: the solutions do not match or are not finite.
    """
    tree.check_like("end", end, start)
    _check(start)
    tree.check_finite("end", end)
    at = _evaluated(value, refit)

    def one(t: Array) -> Any:
        return at(tree.axpy(t, end, tree.scale(1 - t, start)))  # exact at both ends

    return lax.map(one, jnp.asarray(steps, float))


def _evaluated(value: Value, refit: Refit | None) -> Value:
    return value if refit is None else lambda params: value(params, refit(params))


def _check(params: PyTree) -> None:
    tree.check_floating("params", params)
    tree.check_finite("params", params)


def _check_strengths(name: str, strengths: Any) -> None:
    if isinstance(strengths, jax.core.Tracer):
        return
    if not np.all((np.asarray(strengths) >= 0) & np.isfinite(strengths)):
        raise ValueError(f"{name}: expected finite numbers of at least 0, got {strengths}")


def _check_count(name: str, count: int, least: int = 1) -> None:
    if isinstance(count, bool) or count < least:
        raise ValueError(f"{name}: expected at least {least}, got {count!r}")
