r"""Curvature of a mean loss as products with a vector: no matrix is ever formed.

With f(params, x) -> outputs (n, k), J its Jacobian and l a loss per example, means over the n examples:

* Hessian: second derivative of the mean loss.
* Gauss-Newton (GGN): mean of J^T (d^2 l / d outputs^2) J.
* Fisher: mean of J^T (diag p - p p^T) J, p = softmax(outputs); the GGN of cross-entropy, labels or not.
* Gradient covariance: mean of (g_i - g)(g_i - g)^T over the gradients g_i of single examples.

`*_vp` computes one product. `*_matvec` fixes all but the vector. What it returns is compiled, may be called inside
`jit` and `vmap` (over params and data, too), and is a pytree: programs that take it as an argument compile once for
all networks with the same f. Examples are taken in chunks: memory grows with the chunk, the result does not depend
on it. So f must treat examples independently; batch norm does so with frozen statistics. All matrix products run at
the highest precision; float64 params (under `jax_enable_x64`) give float64 products.

A little over 350 lines, a third of them documentation: all products share one way of chunking and compiling.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from ntkgen import tree

Array = jax.Array
PyTree = Any
Network = Callable[[PyTree, Any], Array]  # f(params, x) -> outputs (n, k)
Loss = Callable[[Array, Any], Array]  # loss(outputs, y) -> (n,)
Matvec = Callable[[PyTree], PyTree]


def highest_precision(function: Callable) -> Callable:
    """Run a function with matrix products and convolutions at full precision, where Ampere and later use TF32."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return call


@highest_precision
def hvp(loss: Callable[[PyTree], Array], params: PyTree, v: PyTree) -> PyTree:
    """Multiply the Hessian of a scalar function with a vector, as the jvp of its gradient.

    Args:
      loss: params -> ().
      params: floating arrays.
      v: a tree like params.

    Returns:
      H v, a tree like params.

    Raises:
      ValueError: the loss is not scalar, v is not like params, or a known number in params is not finite.
    """
    params = _checked_params(params)

    def scalar(params: PyTree) -> Array:
        value = loss(params)
        if jnp.shape(value) != ():
            raise ValueError(f"loss: expected a scalar, got shape {jnp.shape(value)}")
        return value

    return jax.jvp(jax.grad(scalar), (params,), (_tangent(v, params),))[1]


def stability_threshold(learning_rate: float, momentum: float = 0.0) -> float:
    """Give the sharpness above which full-batch gradient descent diverges on a quadratic, (2 + 2 momentum) / rate.

    For heavy-ball momentum; Cohen et al. 2021 (arXiv:2103.00065), equation 1 and appendix B. It bounds
    full-batch steps at the *current* rate of a schedule, and says nothing of Adam.
    """
    return 2 * (1 + momentum) / learning_rate


# --- Products


def hessian_vp(f: Network, loss: Loss, params: PyTree, x: Any, y: Any, v: PyTree, chunk: int | None = None) -> PyTree:
    """Multiply the Hessian of the mean loss with v; arguments as in `hessian_matvec`."""
    return hessian_matvec(f, loss, params, x, y, chunk)(v)


def ggn_vp(f: Network, loss: Loss, params: PyTree, x: Any, y: Any, v: PyTree, chunk: int | None = None) -> PyTree:
    """Multiply the Gauss-Newton matrix of the mean loss with v; arguments as in `hessian_matvec`."""
    return ggn_matvec(f, loss, params, x, y, chunk)(v)


def fisher_vp(f: Network, params: PyTree, x: Any, v: PyTree, chunk: int | None = None) -> PyTree:
    """Multiply the Fisher matrix of softmax outputs with v; arguments as in `hessian_matvec`."""
    return fisher_matvec(f, params, x, chunk)(v)


def gradient_covariance_vp(
    f: Network, loss: Loss, params: PyTree, x: Any, y: Any, v: PyTree, chunk: int | None = None, centred: bool = True
) -> PyTree:
    """Multiply the covariance of the examples' gradients with v; arguments as in `gradient_covariance_matvec`."""
    return gradient_covariance_matvec(f, loss, params, x, y, chunk, centred)(v)


def hessian_matvec(
    f: Network, loss: Loss, params: PyTree, x: Any, y: Any, chunk: int | None = None, linearize: bool = False
) -> Matvec:
    """Make v -> H v for the Hessian H of the mean of loss(f(params, x), y).

    Args:
      f: (params, x) -> outputs (n, k), each example for itself. One that is a `jax.tree_util.Partial` over arrays
        (batch statistics, say) passes them as arguments, and a new network costs no compilation.
      loss: (outputs, y) -> (n,).
      params: floating arrays.
      x: inputs, leading axis n; an array or a tree.
      y: targets, leading axis n; an array or a tree.
      chunk: examples taken at once; None takes all.
      linearize: differentiate the gradient once, here, and keep what it needs: products are cheaper by a quarter
        (see BUILD_NOTES.md), memory grows with n whatever the chunk.

    Returns:
      The product, v and result like params.

    Raises:
      ValueError: no examples, x and y of different length, chunk below 1, params not finite; at the first product:
        outputs or losses without one entry an example, v not like params.
    """
    params, chunk = _checked(params, (x, y), chunk)
    if not linearize:
        return Partial(_call, _as_partial(f), _Static(_hessian, loss, chunk), params, (x, y))
    return Partial(_call_linear, _linearized(_as_partial(f), _Static(_hessian, loss, chunk), params, (x, y)), params)


def ggn_matvec(f: Network, loss: Loss, params: PyTree, x: Any, y: Any, chunk: int | None = None) -> Matvec:
    """Make v -> G v for the Gauss-Newton matrix; arguments, result and errors as in `hessian_matvec`."""
    params, chunk = _checked(params, (x, y), chunk)
    return Partial(_call, _as_partial(f), _Static(_ggn, loss, chunk), params, (x, y))


def fisher_matvec(f: Network, params: PyTree, x: Any, chunk: int | None = None) -> Matvec:
    """Make v -> F v for the Fisher matrix of a softmax classifier, exact expectation over the classes.

    Labels are the model's own: no y. Arguments, result and errors as in `hessian_matvec`.
    """
    params, chunk = _checked(params, (x,), chunk)
    return Partial(_call, _as_partial(f), _Static(_fisher, None, chunk), params, (x,))


def gradient_covariance_matvec(
    f: Network, loss: Loss, params: PyTree, x: Any, y: Any, chunk: int | None = None, centred: bool = True
) -> Matvec:
    """Make v -> C v for the covariance of the gradients of single examples, divided by n.

    A batch of b examples drawn with replacement has gradient noise of covariance C / b.

    Args:
      f: as in `hessian_matvec`.
      loss: as in `hessian_matvec`.
      params: as in `hessian_matvec`.
      x: as in `hessian_matvec`.
      y: as in `hessian_matvec`.
      chunk: as in `hessian_matvec`.
      centred: subtract the mean gradient; without, this is the second moment ("empirical Fisher").

    Returns:
      The product.

    Raises:
      ValueError: as in `hessian_matvec`.
    """
    params, chunk = _checked(params, (x, y), chunk)
    product = _covariance if centred else _second_moment
    return Partial(_call, _as_partial(f), _Static(product, loss, chunk), params, (x, y))


# --- One product: f, loss, params, batch, v


def _hessian(f: Network, loss: Loss, params: PyTree, batch: Any, v: PyTree, chunk: int) -> PyTree:
    gradient = _mean_gradient(f, loss, batch, chunk)
    return jax.jvp(gradient, (params,), (v,))[1]


def _mean_gradient(f: Network, loss: Loss, batch: Any, chunk: int) -> Callable[[PyTree], PyTree]:
    """Return params -> gradient of the mean loss.

    The sum over chunks is outside of `grad`, so that nothing is kept of one chunk when the next begins, and the jvp
    of the whole has the same property.
    """

    def gradient(params: PyTree) -> PyTree:
        def of_chunk(part: Any) -> PyTree:
            return jax.grad(lambda p: jnp.sum(_losses(f, loss, p, part)))(params)

        return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, batch, chunk))

    return gradient


def _ggn(f: Network, loss: Loss, params: PyTree, batch: Any, v: PyTree, chunk: int) -> PyTree:
    def curve(outputs: Array, tangent: Array, y: Any) -> Array:
        return jax.jvp(jax.grad(lambda o: jnp.sum(_per_example(loss(o, y), o))), (outputs,), (tangent,))[1]

    return _sandwich(f, curve, params, batch, v, chunk)


def _fisher(f: Network, loss: None, params: PyTree, batch: Any, v: PyTree, chunk: int) -> PyTree:
    def curve(outputs: Array, tangent: Array) -> Array:
        # Expectation over classes c ~ p of (e_c - p)(e_c - p)^T t, written out.
        p = jax.nn.softmax(outputs)
        return p * (tangent - jnp.sum(p * tangent, -1, keepdims=True))

    return _sandwich(f, curve, params, batch, v, chunk)


def _sandwich(f: Network, curve: Callable, params: PyTree, batch: Any, v: PyTree, chunk: int) -> PyTree:
    """Compute the mean of J^T curve(outputs, J v, *targets)."""

    def of_chunk(part: Any) -> PyTree:
        x, *targets = part
        network = functools.partial(_outputs, f, x=x)
        outputs, pull_back = jax.vjp(network, params)
        tangent = jax.jvp(network, (params,), (v,))[1]  # one program: XLA computes the shared forward pass once
        return pull_back(curve(outputs, tangent, *targets))[0]

    return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, batch, chunk))


def _covariance(f: Network, loss: Loss, params: PyTree, batch: Any, v: PyTree, chunk: int) -> PyTree:
    return _second_moment(f, loss, params, batch, v, chunk, centred=True)


def _second_moment(
    f: Network, loss: Loss, params: PyTree, batch: Any, v: PyTree, chunk: int, centred: bool = False
) -> PyTree:
    # With c_i = g_i . v, C v is the mean of g_i (c_i - mean c): centring the numbers c centres the gradients.
    def slopes(part: Any) -> Array:
        return jax.jvp(lambda p: _losses(f, loss, p, part), (params,), (v,))[1]

    def of_chunk(part_and_weights: tuple[Any, Array]) -> PyTree:
        part, weights = part_and_weights
        return jax.grad(lambda p: jnp.vdot(weights, _losses(f, loss, p, part)))(params)

    c = _map_chunks(slopes, batch, chunk)
    weights = c - jnp.mean(c) if centred else c
    return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, (batch, weights), chunk))


def _losses(f: Network, loss: Loss, params: PyTree, batch: Any) -> Array:
    x, y = batch
    outputs = _outputs(f, params, x)
    return _per_example(loss(outputs, y), outputs)


def _outputs(f: Network, params: PyTree, x: Any) -> Array:
    outputs = f(params, x)
    if jnp.ndim(outputs) < 1 or len(outputs) != _length(x):
        raise ValueError(f"f: expected outputs for {_length(x)} examples, got shape {jnp.shape(outputs)}")
    return outputs


def _per_example(losses: Array, outputs: Array) -> Array:
    if jnp.shape(losses) != (len(outputs),):
        raise ValueError(f"loss: expected shape ({len(outputs)},), one for each example, got {jnp.shape(losses)}")
    return losses


# --- Chunks


def _length(batch: Any) -> int:
    return len(jax.tree.leaves(batch)[0])


def _split(batch: Any, chunk: int) -> tuple[Any, Any]:
    """Split into full chunks (m, chunk, ...) and the remainder, which may be empty."""
    full = _length(batch) // chunk * chunk
    head = jax.tree.map(lambda a: a[:full].reshape(-1, chunk, *a.shape[1:]), batch)
    return head, jax.tree.map(lambda a: a[full:], batch)


def _sum_chunks(part: Callable[[Any], PyTree], batch: Any, chunk: int) -> PyTree:
    head, rest = _split(batch, chunk)
    if _length(head) == 1 and not _length(rest):
        return part(batch)
    zeros = jax.tree.map(
        lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, jax.tree.map(lambda a: a[0], head))
    )
    total, _ = lax.scan(lambda total, one: (tree.axpy(1, part(one), total), None), zeros, head)
    return tree.axpy(1, part(rest), total) if _length(rest) else total


def _map_chunks(part: Callable[[Any], Array], batch: Any, chunk: int) -> Array:
    """Apply a function that gives one number for each example -> (n,)."""
    head, rest = _split(batch, chunk)
    values = lax.map(part, head).reshape(-1)
    return jnp.concatenate([values, part(rest)]) if _length(rest) else values


# --- Static choices, arrays, checks


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    """What a compiled product depends on besides arrays; functions compare by identity."""

    product: Callable
    loss: Any
    chunk: int


def _as_partial(f: Network) -> Partial:
    return f if isinstance(f, Partial) else Partial(f)


@highest_precision
def _call(f: Partial, static: _Static, params: PyTree, batch: Any, v: PyTree) -> PyTree:
    return _compiled(f, static, params, batch, _tangent(v, params))


@jax.jit
def _compiled(f: Partial, static: _Static, params: PyTree, batch: Any, v: PyTree) -> PyTree:
    return static.product(f, static.loss, params, batch, v, static.chunk)


@highest_precision
@jax.jit
def _linearized(f: Partial, static: _Static, params: PyTree, batch: Any) -> Any:
    return jax.linearize(_mean_gradient(f, static.loss, batch, static.chunk), params)[1]  # a Partial over residuals


def _call_linear(linear: Partial, params: PyTree, v: PyTree) -> PyTree:
    return _apply(linear, _tangent(v, params))


@jax.jit
def _apply(linear: Partial, v: PyTree) -> PyTree:
    return linear(v)


def _checked_params(params: PyTree) -> PyTree:
    tree.check_floating("params", params)
    tree.check_finite("params", params)
    return jax.tree.map(jnp.asarray, params)


def _checked(params: PyTree, batch: tuple, chunk: int | None) -> tuple[PyTree, int]:
    lengths = {len(leaf) for leaf in jax.tree.leaves(batch)}
    if len(lengths) != 1:
        raise ValueError(f"x, y: expected as many inputs as targets, got lengths {sorted(lengths)}")
    (num,) = lengths
    if num == 0:
        raise ValueError("x: expected at least one example, got none")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk: expected a whole number of at least 1, got {chunk!r}")
    return _checked_params(params), min(chunk or num, num)


def _tangent(v: PyTree, params: PyTree) -> PyTree:
    """Check that v is like params, and give it their dtypes."""
    tree.check_like("v", v, params)
    return jax.tree.map(lambda a, p: jnp.asarray(a, p.dtype), v, params)
