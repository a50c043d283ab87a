r"""Curvature of a mean loss as products with a vector: no matrix is ever formed.

With f(params, x) -> outputs (n, k), J its Jacobian and l a loss per example, means over the n examples:

* Hessian: second derivative of the mean loss.
* Gauss-Newton (GGN): mean of J^T (d^2 l / d outputs^2) J.
* Fisher: mean of J^T (diag p - p p^T) J, p = softmax(outputs); the GGN of cross-entropy, labels or not.
* Gradient covariance: mean of (g_i - g)(g_i - g)^T over the gradients g_i of single examples.

`*_vp` computes one product. `*_matvec` fixes all but the vector. What it returns is compiled, may be called inside
`jit` and `vmap` (over params and data, too), and is a pytree: programs that take it as an argument compile once for
all networks with the same f. Arrays that f or the loss read from outside are those of the moment when the product is
made (`functions.freeze`). `only` takes the block of one layer or of several; `functions.restrict` does the same for
all instruments. Examples are taken in chunks: memory grows with the chunk, the result does not depend on it.
So f must treat examples independently, which is checked where there is more than one chunk; batch norm does so with
frozen statistics. All matrix products run at the highest precision; float64 params (under `jax_enable_x64`) give
float64 products.

Over 350 lines, a third of them documentation: all products share one way of chunking and compiling.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from ntkgen import functions, tree
from ntkgen.functions import jvp
from ntkgen.typing import Apply, Array, Loss, Matvec, PyTree

Only = str | Sequence[str] | None  # paths of leaves or subtrees of params


def highest_precision(function: Callable) -> Callable:
    """Run a function with matrix products and convolutions at full precision, where Ampere and later use TF32.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import curvature
      >>> @curvature.highest_precision
      ... def product(a, b):
      ...     return a @ b, jax.config.jax_default_matmul_precision
      >>> product(jnp.ones((1, 2)), jnp.ones((2, 1)))[1]
      'highest'
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return call


@highest_precision
def hvp(loss: Callable[[PyTree], Array], params: PyTree, v: PyTree) -> PyTree:
    """Multiply the Hessian of a scalar function with a vector, as the jvp of its gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature
      >>> curvature.hvp(lambda w: w[0] ** 2 * w[1], jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])).tolist()
      [6.0, 2.0]

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
    """Return the sharpness above which full-batch gradient descent diverges on a quadratic, (2 + 2 momentum) / rate.

    For heavy-ball momentum; Cohen et al. 2021 (arXiv:2103.00065), equation 1 and appendix B. It bounds
    full-batch steps at the *current* rate of a schedule, and says nothing of Adam.

    Example:
      >>> from ntkgen import curvature
      >>> curvature.stability_threshold(0.1), round(curvature.stability_threshold(0.1, momentum=0.9))
      (20.0, 38)
    """
    return 2 * (1 + momentum) / learning_rate


# --- Products


def hessian_vp(
    f: Apply, loss: Loss, params: PyTree, x: Any, y: Any, v: PyTree, chunk: int | None = None, *, only: Only = None
) -> PyTree:
    """Multiply the Hessian of the mean loss with v; arguments as in `hessian_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.zeros((2, 1))
      >>> w = v = jnp.ones((2, 1))
      >>> curvature.hessian_vp(lambda w, x: x @ w, train.squared_error, w, x, y, v).tolist()  # X^T X v / n
      [[2.0], [3.0]]
    """
    return hessian_matvec(f, loss, params, x, y, chunk, only=only)(v)


def ggn_vp(
    f: Apply, loss: Loss, params: PyTree, x: Any, y: Any, v: PyTree, chunk: int | None = None, *, only: Only = None
) -> PyTree:
    """Multiply the Gauss-Newton matrix of the mean loss with v; arguments as in `hessian_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.zeros((2, 1))
      >>> w = v = jnp.ones((2, 1))
      >>> curvature.ggn_vp(lambda w, x: x @ w, train.squared_error, w, x, y, v).tolist()  # X^T X v / n
      [[2.0], [3.0]]
    """
    return ggn_matvec(f, loss, params, x, y, chunk, only=only)(v)


def fisher_vp(f: Apply, params: PyTree, x: Any, v: PyTree, chunk: int | None = None, *, only: Only = None) -> PyTree:
    """Multiply the Fisher matrix of softmax outputs with v; arguments as in `hessian_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature
      >>> x, w = jnp.array([[1.0], [3.0]]), jnp.zeros((1, 2))  # two classes, equally likely
      >>> curvature.fisher_vp(lambda w, x: x @ w, w, x, jnp.array([[1.0, -1.0]])).tolist()
      [[2.5, -2.5]]
    """
    return fisher_matvec(f, params, x, chunk, only=only)(v)


def gradient_covariance_vp(
    f: Apply,
    loss: Loss,
    params: PyTree,
    x: Any,
    y: Any,
    v: PyTree,
    chunk: int | None = None,
    centred: bool = True,
    *,
    only: Only = None,
) -> PyTree:
    """Multiply the covariance of the examples' gradients with v; arguments as in `gradient_covariance_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y, w = jnp.array([[1.0], [1.0]]), jnp.array([[1.0], [-1.0]]), jnp.zeros((1, 1))  # gradients -1 and 1
      >>> v = jnp.ones((1, 1))
      >>> curvature.gradient_covariance_vp(lambda w, x: x @ w, train.squared_error, w, x, y, v).tolist()
      [[1.0]]
    """
    return gradient_covariance_matvec(f, loss, params, x, y, chunk, centred, only=only)(v)


def hessian_matvec(
    f: Apply,
    loss: Loss,
    params: PyTree,
    x: Any,
    y: Any,
    chunk: int | None = None,
    linearize: bool = False,
    *,
    only: Only = None,
) -> Matvec:
    """Make v -> H v for the Hessian H of the mean of loss(f(params, x), y).

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.zeros((2, 1))
      >>> matvec = curvature.hessian_matvec(lambda w, x: x @ w, train.squared_error, jnp.ones((2, 1)), x, y)
      >>> matvec(jnp.array([[1.0], [0.0]])).tolist()  # the first column of X^T X / n
      [[1.0], [1.0]]
      >>> def f(params, x):
      ...     return x @ params["first"] @ params["last"]
      >>> params = {"first": jnp.ones((2, 1)), "last": jnp.ones((1, 1))}
      >>> matvec = curvature.hessian_matvec(f, train.squared_error, params, x, y, only="last")
      >>> matvec({"first": None, "last": jnp.ones((1, 1))})["last"].tolist()
      [[5.0]]

    Args:
      f: (params, x) -> outputs (n, ...), floating arrays, each example for itself. One that is a
        `jax.tree_util.Partial` over arrays (batch statistics, say) passes them as arguments, and a new network costs
        no compilation. One with `jax.custom_vjp` has reverse mode alone; see `derivative_mode`.
      loss: (outputs, y) -> (n,).
      params: floating arrays.
      x: inputs, leading axis n; an array or a tree.
      y: targets, leading axis n; an array or a tree.
      chunk: examples taken at once; None takes all.
      linearize: differentiate the gradient once, here, and keep what it needs: products are cheaper by a quarter
        (see BUILD_NOTES.md), memory grows with n whatever the chunk.
      only: the paths of a layer or of several, such as "dense0": the product is then with that block of the matrix,
        and v is like `tree.partition(params, only)[0]`. None takes all params.

    Returns:
      The product, v and result like params.

    Raises:
      ValueError: no examples, x and y of different length, chunk below 1, params not finite, outputs that are none,
        outputs or losses without one entry an example, outputs that depend on other examples where chunk is below n,
        a path without params in `only`;
        at a product: v not like params, or arrays of f replaced before the first product was compiled.
    """
    arguments = _prepared(_hessian, f, loss, params, (x, y), chunk, only)
    if not linearize:
        return Partial(_call, *arguments)
    return Partial(_call_linear, _linearized(*arguments), arguments[3])


def ggn_matvec(
    f: Apply, loss: Loss, params: PyTree, x: Any, y: Any, chunk: int | None = None, *, only: Only = None
) -> Matvec:
    """Make v -> G v for the Gauss-Newton matrix; arguments, result and errors as in `hessian_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y = jnp.array([[1.0, 0.0], [1.0, 2.0]]), jnp.zeros((2, 1))
      >>> matvec = curvature.ggn_matvec(lambda w, x: x @ w, train.squared_error, jnp.ones((2, 1)), x, y)
      >>> matvec(jnp.array([[1.0], [0.0]])).tolist()  # the Hessian's, since this network is linear
      [[1.0], [1.0]]
    """
    return Partial(_call, *_prepared(_ggn, f, loss, params, (x, y), chunk, only))


def fisher_matvec(f: Apply, params: PyTree, x: Any, chunk: int | None = None, *, only: Only = None) -> Matvec:
    """Make v -> F v for the Fisher matrix of a softmax classifier, exact expectation over the classes.

    Labels are the model's own: no y. The classes are the last axis of the outputs. Arguments, result and errors as in
    `hessian_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature
      >>> matvec = curvature.fisher_matvec(lambda w, x: x @ w, jnp.zeros((1, 2)), jnp.array([[1.0], [3.0]]))
      >>> matvec(jnp.array([[1.0, -1.0]])).tolist()
      [[2.5, -2.5]]
    """
    return Partial(_call, *_prepared(_fisher, f, None, params, (x,), chunk, only))


def gradient_covariance_matvec(
    f: Apply,
    loss: Loss,
    params: PyTree,
    x: Any,
    y: Any,
    chunk: int | None = None,
    centred: bool = True,
    *,
    only: Only = None,
) -> Matvec:
    """Make v -> C v for the covariance of the gradients of single examples, divided by n.

    A batch of b examples drawn with replacement has gradient noise of covariance C / b.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y, w = jnp.array([[1.0], [1.0]]), jnp.array([[1.0], [-1.0]]), jnp.zeros((1, 1))  # gradients -1 and 1
      >>> matvec = curvature.gradient_covariance_matvec(lambda w, x: x @ w, train.squared_error, w, x, y)
      >>> matvec(jnp.ones((1, 1))).tolist()
      [[1.0]]

    Args:
      f: as in `hessian_matvec`.
      loss: as in `hessian_matvec`.
      params: as in `hessian_matvec`.
      x: as in `hessian_matvec`.
      y: as in `hessian_matvec`.
      chunk: as in `hessian_matvec`.
      centred: subtract the mean gradient; without, this is the second moment ("empirical Fisher").
      only: as in `hessian_matvec`.

    Returns:
      The product.

    Raises:
      ValueError: as in `hessian_matvec`.
    """
    product = _covariance if centred else _second_moment
    return Partial(_call, *_prepared(product, f, loss, params, (x, y), chunk, only))


def derivative_mode(f: Apply, loss: Loss, params: PyTree, x: Any, y: Any) -> str:
    """Return how all products of f and this loss are differentiated; nothing is computed.

    Arguments and errors are those of `hessian_matvec`.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import curvature, train
      >>> x, y, w = jnp.ones((2, 1)), jnp.ones((2, 1)), jnp.zeros((1, 1))
      >>> curvature.derivative_mode(lambda w, x: x @ w, train.squared_error, w, x, y)
      'forward over reverse'

    Returns:
      "forward over reverse", or "reverse over reverse" where f or the loss use `jax.custom_vjp` and so have no
      forward mode. Values agree; the second takes more time.
    """
    return FORWARD if _prepared(_hessian, f, loss, params, (x, y), None)[2].forward else REVERSE


# --- One product: f, loss, params, batch, v, static choices


def _hessian(f: Apply, loss: Loss, params: PyTree, batch: Any, v: PyTree, how: "_Static") -> PyTree:
    if how.forward:
        return jax.jvp(_mean_gradient(f, loss, batch, how.chunk), (params,), (v,))[1]

    def of_chunk(part: Any) -> PyTree:  # H v is the gradient of <gradient, v>
        gradient = _sum_gradient(f, loss, part)
        return jax.grad(lambda p: tree.dot(gradient(p), v))(params)

    return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, batch, how.chunk))


def _sum_gradient(f: Apply, loss: Loss, part: Any) -> Callable[[PyTree], PyTree]:
    return jax.grad(lambda params: jnp.sum(_losses(f, loss, params, part)))


def _mean_gradient(f: Apply, loss: Loss, batch: Any, chunk: int) -> Callable[[PyTree], PyTree]:
    """Return params -> gradient of the mean loss.

    The sum over chunks is outside of `grad`, so that nothing is kept of one chunk when the next begins, and the jvp
    of the whole has the same property.
    """

    def gradient(params: PyTree) -> PyTree:
        def of_chunk(part: Any) -> PyTree:
            return _sum_gradient(f, loss, part)(params)

        return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, batch, chunk))

    return gradient


def _ggn(f: Apply, loss: Loss, params: PyTree, batch: Any, v: PyTree, how: "_Static") -> PyTree:
    def curve(outputs: PyTree, tangent: PyTree, y: Any) -> PyTree:
        return jvp(jax.grad(lambda o: jnp.sum(_per_example(loss(o, y), o))), outputs, tangent, how.forward)[1]

    return _sandwich(f, curve, params, batch, v, how)


def _fisher(f: Apply, loss: None, params: PyTree, batch: Any, v: PyTree, how: "_Static") -> PyTree:
    def curve(outputs: Array, tangent: Array) -> Array:
        # Expectation over classes c ~ p of (e_c - p)(e_c - p)^T t, written out.
        p = jax.nn.softmax(outputs)
        return p * (tangent - jnp.sum(p * tangent, -1, keepdims=True))

    return _sandwich(f, curve, params, batch, v, how)


def _sandwich(f: Apply, curve: Callable, params: PyTree, batch: Any, v: PyTree, how: "_Static") -> PyTree:
    """Compute the mean of J^T curve(outputs, J v, *targets)."""

    def of_chunk(part: Any) -> PyTree:
        x, *targets = part
        network = functools.partial(_outputs, f, x=x)
        outputs, pull_back = jax.vjp(network, params)
        tangent = jvp(network, params, v, how.forward)[1]  # one program: XLA computes the shared forward pass once
        return pull_back(curve(outputs, tangent, *targets))[0]

    return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, batch, how.chunk))


def _covariance(f: Apply, loss: Loss, params: PyTree, batch: Any, v: PyTree, how: "_Static") -> PyTree:
    return _second_moment(f, loss, params, batch, v, how, centred=True)


def _second_moment(
    f: Apply, loss: Loss, params: PyTree, batch: Any, v: PyTree, how: "_Static", centred: bool = False
) -> PyTree:
    # With c_i = g_i . v, C v is the mean of g_i (c_i - mean c): centring the numbers c centres the gradients.
    def slopes(part: Any) -> Array:
        return jvp(lambda p: _losses(f, loss, p, part), params, v, how.forward)[1]

    def of_chunk(part_and_weights: tuple[Any, Array]) -> PyTree:
        part, weights = part_and_weights
        return jax.grad(lambda p: jnp.vdot(weights, _losses(f, loss, p, part)))(params)

    c = _map_chunks(slopes, batch, how.chunk)
    weights = c - jnp.mean(c) if centred else c
    return tree.scale(1 / _length(batch), _sum_chunks(of_chunk, (batch, weights), how.chunk))


def _losses(f: Apply, loss: Loss, params: PyTree, batch: Any) -> Array:
    x, y = batch
    outputs = _outputs(f, params, x)
    return _per_example(loss(outputs, y), outputs)


def _outputs(f: Apply, params: PyTree, x: Any) -> PyTree:
    outputs = f(params, x)
    _check_outputs(outputs, _length(x))
    return outputs


def _check_outputs(outputs: Any, num: int) -> None:
    for leaf in jax.tree.leaves(outputs) or [None]:
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if shape is None or dtype is None:
            raise ValueError(f"f: expected arrays of outputs ({num}, ...), got {type(outputs).__name__}")
        if len(shape) < 1 or shape[0] != num:
            raise ValueError(f"f: expected outputs for {num} examples, got shape {shape}")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise ValueError(f"f: expected floating outputs, got {dtype}")


def _per_example(losses: Any, outputs: PyTree) -> Array:
    shape, num = getattr(losses, "shape", None), _length(outputs)
    if shape != (num,):
        got = type(losses).__name__ if shape is None else shape
        raise ValueError(f"loss: expected shape ({num},), one for each example, got {got}")
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


FORWARD, REVERSE = "forward over reverse", "reverse over reverse"


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Static:
    """What a compiled product depends on besides arrays, f and the loss."""

    product: Callable
    chunk: int
    forward: bool


@highest_precision
def _call(f: Partial, loss: Partial | None, static: _Static, params: PyTree, batch: Any, v: PyTree) -> PyTree:
    return _compiled(f, loss, static, params, batch, _tangent(v, params))


@jax.jit
def _compiled(f: Partial, loss: Partial | None, static: _Static, params: PyTree, batch: Any, v: PyTree) -> PyTree:
    _check_frozen(f, loss)
    return static.product(f, loss, params, batch, v, static)


@highest_precision
@jax.jit
def _linearized(f: Partial, loss: Partial, static: _Static, params: PyTree, batch: Any) -> Any:
    _check_frozen(f, loss)
    gradient = _mean_gradient(f, loss, batch, static.chunk)
    if static.forward:
        return jax.linearize(gradient, params)[1]  # a Partial over residuals
    return Partial(_only, jax.vjp(gradient, params)[1])  # H is symmetric


def _only(pullback: Callable, v: PyTree) -> PyTree:
    return pullback(v)[0]


def _check_frozen(f: Partial, loss: Partial | None) -> None:
    functions.refuse_replaced("f", f)
    if loss is not None:
        functions.refuse_replaced("loss", loss)


def _call_linear(linear: Partial, params: PyTree, v: PyTree) -> PyTree:
    return _apply(linear, _tangent(v, params))


@jax.jit
def _apply(linear: Partial, v: PyTree) -> PyTree:
    return linear(v)


def _checked_params(params: PyTree) -> PyTree:
    tree.check_floating("params", params)
    tree.check_finite("params", params)
    return jax.tree.map(jnp.asarray, params)


def _prepared(
    product: Callable, f: Apply, loss: Any, params: PyTree, batch: tuple, chunk: int | None, only: Only = None
) -> tuple:
    """Check everything, and return what a compiled product takes before v: f, loss, static choices, params, batch."""
    if not callable(f):
        raise ValueError(f"f: expected a function (params, x) -> outputs (n, ...), got {type(f).__name__}")
    leaves = jax.tree.leaves(batch)
    if not leaves or not all(jnp.ndim(leaf) for leaf in leaves):
        raise ValueError("x, y: expected arrays that lead with the examples (n, ...), got a single number or nothing")
    lengths = {len(leaf) for leaf in leaves}
    if len(lengths) != 1:
        raise ValueError(f"x, y: expected as many inputs as targets, got lengths {sorted(lengths)}")
    (num,) = lengths
    if num == 0:
        raise ValueError("x: expected at least one example, got none")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise ValueError(f"chunk: expected a whole number of at least 1, got {chunk!r}")
    if only is not None:
        f, params = functions.restrict(f, params, only)
    params, x, chunk = _checked_params(params), batch[0], min(chunk or num, num)
    f = functions.freeze(f, params, x)
    function: functions.Function = f.func  # type: ignore[assignment]
    _check_outputs(function.out, num)
    forward = function.forward
    if loss is None and not isinstance(function.out, jax.ShapeDtypeStruct):
        raise ValueError(f"f: expected one array of outputs ({num}, ...), got {type(function.out).__name__}")
    if loss is not None:
        loss = functions.freeze(loss, function.out, batch[1])
        _per_example(loss.func.out, function.out)
        forward = forward and loss.func.forward
    if chunk < num and not functions.is_traced(f, params, x):
        functions.require_independence(f, params, x)
    return f, loss, _Static(product, chunk, forward), params, batch


def _tangent(v: PyTree, params: PyTree) -> PyTree:
    """Check that v is like params, and give it their dtypes."""
    tree.check_like("v", v, params)
    return jax.tree.map(lambda a, p: jnp.asarray(a, p.dtype), v, params)
