"""Networks and losses as arguments of compiled programs, never with values of an earlier call.

JAX finds a compiled program by the identity of its function. A function that reads an array from outside (a closure, a
global name, an attribute) would go on with the values of the first call. `freeze` traces the function anew at each
call and makes what it found part of the program's key: the operations and the bytes of all constants. Replaced values
cost a compilation; arrays that a `jax.tree_util.Partial` holds are arguments and cost none.
"""

import hashlib
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.tree_util import Partial

from ntkgen.typing import PyTree

_JAX = os.path.dirname(jax.__file__)


@dataclass(frozen=True)
class Function:
    """The static half of a frozen function: equal where the same function computes the same with the same constants.

    Attributes:
      key: what tells functions apart: the function, or its id where it cannot be hashed.
      fingerprint: digest of operations and constants; an object of its own where a constant is traced.
      function: what is called.
      shapes: (arrays of the Partial, keyword arrays, arguments) that it was traced with.
      out: shapes and dtypes of its result.
      forward: whether it has forward-mode derivatives; `jax.custom_vjp` leaves reverse mode alone.
      dtype: the narrowest floating dtype among its intermediate results; None where there is none.
    """

    key: Any
    fingerprint: Any
    function: Callable = field(compare=False)
    shapes: tuple = field(compare=False)
    out: PyTree = field(compare=False)
    forward: bool = field(compare=False)
    dtype: Any = field(compare=False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)


def freeze(f: Callable, *args: PyTree) -> Partial:
    """Return f as a pytree that programs can take as an argument.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> f = functions.freeze(lambda w, x: x @ w, jnp.ones((2, 1)), jnp.ones((3, 2)))
      >>> f(jnp.ones((2, 1)), jnp.ones((3, 2))).shape, f.func.out.shape
      ((3, 1), (3, 1))

    Args:
      f: a function of `args`, or a `jax.tree_util.Partial` over arrays. It is traced, and nothing is computed.
      *args: arrays or their shapes; the first is what f is differentiated by.

    Returns:
      A Partial over the arrays of f, none where it is a plain function. Its `func` is a `Function`. Freezing it again
      is allowed.
    """
    f = f if isinstance(f, Partial) else Partial(f)
    function = f.func.function if isinstance(f.func, Function) else f.func
    shapes = jax.tree.map(_shape, (f.args, f.keywords, args))
    program, out = _trace(function, shapes)
    forward = all(eqn.primitive.name != "custom_vjp_call" for eqn in operations(program.jaxpr))
    fingerprint = _fingerprint(program)
    if not forward or _has_own_rule(program):  # derivatives may hold constants of their own
        fingerprint = (fingerprint, _fingerprint(_trace_backward(function, shapes)))
    key = function if _hashable(function) else id(function)
    return Partial(
        Function(key, fingerprint, function, shapes, out, forward, _narrowest(program)), *f.args, **f.keywords
    )


def has_forward_mode(f: Any) -> bool:
    """Return whether a frozen function has forward-mode derivatives.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> functions.has_forward_mode(functions.freeze(lambda w: w**2, jnp.ones(2)))
      True
    """
    return bool(f.func.forward)


def refuse_replaced(name: str, f: Partial) -> None:
    """Refuse a frozen function whose constants have been replaced since; for use where a program is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> f = functions.freeze(lambda w: w**2, jnp.ones(2))
      >>> functions.refuse_replaced("f", f)  # says nothing: nothing was replaced

    Raises:
      ValueError: naming the function.
    """
    function: Function = f.func  # type: ignore[assignment]
    now = freeze(Partial(function.function, *function.shapes[0], **function.shapes[1]), *function.shapes[2])
    traced = any(type(part) is object for part in (function.fingerprint, now.func.fingerprint))  # type: ignore[attr-defined]
    if not traced and now.func != function:
        raise ValueError(
            f"{name}: expected the arrays that it held when the product was made, got others; make it anew"
        )


def fingerprint(function: Callable, *args: PyTree) -> Any:
    """Return a digest of the operations and constants of function(*args), arrays or shapes; nothing is computed.

    An object of its own where a constant is traced.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import functions
      >>> one, other = jnp.array([1.0]), jnp.array([2.0])
      >>> functions.fingerprint(lambda w: w + one, one) == functions.fingerprint(lambda w: w + other, one)
      False
    """
    return _fingerprint(_trace(function, ((), {}, jax.tree.map(_shape, args)))[0])


def is_traced(*trees: PyTree) -> bool:
    """Say whether a number is not known because of `jit`, `vmap` or `grad` around.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import functions
      >>> seen = []
      >>> @jax.jit
      ... def f(x):
      ...     seen.append(functions.is_traced(x))
      ...     return x
      >>> f(jnp.ones(2)).shape, seen, functions.is_traced(jnp.ones(2))
      ((2,), [True], False)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def operations(jaxpr: Any) -> Iterator[Any]:
    """Walk through all operations of a program, those of the programs inside included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in programs(eqn.params):
            yield from operations(getattr(inner, "jaxpr", inner))


def programs(params: dict[str, Any]) -> list[Any]:
    """Return the programs, closed or not, among the parameters of an operation.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import functions
      >>> (operation,) = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).eqns
      >>> len(functions.programs(operation.params))
      1
    """
    values = [each for value in params.values() for each in (value if isinstance(value, tuple | list) else (value,))]
    return [each for each in values if isinstance(each, core.ClosedJaxpr | core.Jaxpr)]


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    weak = isinstance(leaf, bool | int | float) or getattr(leaf, "weak_type", False)
    return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), weak_type=weak)


def _trace(function: Callable, shapes: tuple) -> tuple[Any, PyTree]:
    # A lambda of this call: JAX remembers what it traced by the function's identity. The precision is fixed, since it
    # is written into the program.
    with jax.default_matmul_precision("highest"):
        return jax.make_jaxpr(lambda own, named, args: function(*own, *args, **named), return_shape=True)(*shapes)


def _trace_backward(function: Callable, shapes: tuple) -> Any:
    def backward(own: tuple, named: dict, args: tuple) -> PyTree:
        out, pullback = jax.vjp(lambda first: function(*own, first, *args[1:], **named), args[0])
        return pullback(jax.tree.map(jnp.ones_like, out))

    with jax.default_matmul_precision("highest"):
        return jax.make_jaxpr(backward)(*shapes)


def _has_own_rule(program: Any) -> bool:
    """Say whether some derivative is by a `jax.custom_jvp` rule that is not JAX's own, such as that of `nn.relu`."""
    rules = [eqn.params.get("jvp_jaxpr_fun") for eqn in operations(program.jaxpr) if "jvp_jaxpr_fun" in eqn.params]
    places = [str(getattr(getattr(rule, "debug_info", None), "func_src_info", "")) for rule in rules]
    return any(f" at {_JAX}" not in place for place in places)


def _fingerprint(program: Any) -> Any:
    constants = list(program.consts)
    for eqn in operations(program.jaxpr):
        for inner in programs(eqn.params):
            constants += getattr(inner, "consts", [])
    if is_traced(constants):
        return object()
    digest = hashlib.blake2b(str(program.jaxpr).encode(), digest_size=16)
    for constant in constants:
        digest.update(_digest(constant))
    return digest.hexdigest()


_digests: dict[int, tuple[weakref.ref, bytes]] = {}  # of JAX's arrays, which nobody can change


def _digest(constant: Any) -> bytes:
    known = _digests.get(id(constant))
    if known and known[0]() is constant:
        return known[1]
    is_key = isinstance(constant, jax.Array) and jnp.issubdtype(constant.dtype, jax.dtypes.prng_key)
    array = np.asarray(jax.random.key_data(constant) if is_key else constant)
    head = f"{array.dtype} {array.shape}".encode()
    digest = hashlib.blake2b(head + np.ascontiguousarray(array).tobytes(), digest_size=16).digest()
    if isinstance(constant, jax.Array):
        number = id(constant)
        _digests[number] = weakref.ref(constant, lambda _: _digests.pop(number, None)), digest
    return digest


def _narrowest(program: Any) -> Any:
    found = {var.aval.dtype for eqn in operations(program.jaxpr) for var in eqn.outvars if hasattr(var.aval, "dtype")}
    floating = [dtype for dtype in found if jnp.issubdtype(dtype, jnp.floating)]
    return max(floating, key=lambda dtype: float(jnp.finfo(dtype).eps), default=None)


def _hashable(function: Callable) -> bool:
    try:
        hash(function)
    except TypeError:
        return False
    return True
