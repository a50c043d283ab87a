"""3x3 convolutions whose gradients XLA compiles to fast code on CPU too.

XLA:CPU computes the *kernel* gradient of a convolution on a slow path, slowest of all inside loops (jax #12868): one
training step of a small CNN takes seconds inside `lax.scan`. Here convolution and kernel gradient are two bilinear
primitives whose derivatives are each other, so that gradients, Hessian-vector products, any further derivative and
`vmap` all come out of one pair of rules. Only their lowering on CPU is special; other platforms, and every convolution
that is not 3x3 with stride 1 and padding 1, run XLA's own. What was measured is in BUILD_NOTES.md.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from ntkgen.models._seed_convolution import FORMS, NHWC, Pair, pair, three_shifts
from ntkgen.typing import Array

FEW_CHANNELS = 4  # inputs with at most so many channels go through `_banded_conv`
RUN = 8  # output pixels in a row that share one patch there
TILE_FLOATS = 2**17  # size of the largest array of a tile of images: three copies stay in the second-level cache


def conv3x3(x: Array, kernel: Array) -> Array:
    """Convolve images with a 3x3 kernel, stride 1, padding 1.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import models
      >>> models.conv3x3(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0].tolist()
      [[4.0, 6.0, 4.0], [6.0, 9.0, 6.0], [4.0, 6.0, 4.0]]

    Args:
      x: images (n, h, w, channels in), floating.
      kernel: (3, 3, channels in, channels out), the dtype of x.

    Returns:
      Images (n, h, w, channels out).

    Raises:
      ValueError: shapes or dtypes do not fit.
    """
    if x.ndim != 4 or kernel.shape[:3] != (3, 3, x.shape[-1]):
        raise ValueError(f"kernel: expected shape (3, 3, {x.shape[-1]}, channels out), got {kernel.shape}, x {x.shape}")
    if x.dtype != kernel.dtype or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"kernel: expected the floating dtype of x, got {kernel.dtype} and {x.dtype}")
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # defined at import
    return _conv_p.bind(x, kernel, precision=precision, how=_how.get())


class How(NamedTuple):
    """How convolutions are computed: see `convolutions`."""

    form: str = "loop"
    operands: str | None = None


_USUAL = How()
_how: contextvars.ContextVar[How] = contextvars.ContextVar("how", default=_USUAL)


@contextlib.contextmanager
def convolutions(form: str = "loop", operands: str | None = None) -> Iterator[None]:
    """Choose how the 3x3 convolutions of functions traced inside are computed; for experiments on a GPU.

    A compiled function keeps what it was traced with: choose before its first call.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models
      >>> x, kernels = jnp.ones((2, 1, 4, 4, 1)), jnp.ones((2, 3, 3, 1, 1))
      >>> with models.convolutions("grouped"):
      ...     together = jax.vmap(models.conv3x3)(x, kernels)
      >>> bool(jnp.allclose(together, jax.vmap(models.conv3x3)(x, kernels)))
      True

    Args:
      form: what `vmap` over kernels becomes: "loop" (one after another, the default) or another of
        `models.CONVOLUTION_FORMS`, which are described in `_seed_convolution.py`.
      operands: None, or "bfloat16": images and kernels are rounded to it, sums are in float32 inside of a convolution,
        and its results are rounded to bfloat16 where XLA or cuDNN computes them.

    Raises:
      ValueError: the form or the type is unknown.
    """
    for name, value, known in (("form", form, FORMS), ("operands", operands, (None, "bfloat16"))):
        if value not in known:
            raise ValueError(f"{name}: expected one of {', '.join(map(str, known))}, got {value!r}")
    token = _how.set(How(form, operands))
    try:
        yield
    finally:
        _how.reset(token)


def conv_general_dilated(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: Any, **kwargs: Any
) -> Array:  # the signature that flax.linen.Conv calls
    """Do what `lax.conv_general_dilated` does, through `conv3x3` where that computes the same thing.

    For `flax.linen.Conv(conv_general_dilated=...)`.

    Args:
      lhs: images.
      rhs: kernel.
      window_strides: strides.
      padding: "SAME", "VALID" or pairs.
      **kwargs: the other arguments of `lax.conv_general_dilated`.

    Returns:
      The convolution.
    """
    if _is_plain_3x3(lhs, rhs, window_strides, padding, kwargs):
        return conv3x3(lhs, rhs)
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **kwargs)


def _is_plain_3x3(lhs: Array, rhs: Array, strides: Sequence[int], padding: Any, kwargs: dict[str, Any]) -> bool:
    if lhs.ndim != 4 or kwargs.get("dimension_numbers") is None:
        return False
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, kwargs["dimension_numbers"])
    ones = (None, 1, (1, 1), [1, 1])
    return (
        numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, NHWC)
        and rhs.shape[:3] == (3, 3, lhs.shape[-1])
        and (padding == "SAME" or (not isinstance(padding, str) and [tuple(p) for p in padding] == [(1, 1)] * 2))
        and tuple(strides) == (1, 1)
        and kwargs.get("lhs_dilation") in ones
        and kwargs.get("rhs_dilation") in ones
        and kwargs.get("feature_group_count", 1) == kwargs.get("batch_group_count", 1) == 1
        and kwargs.get("precision") is None
        and kwargs.get("preferred_element_type") in (None, lhs.dtype)
        and lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
    )


def _xla_conv(x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)


def _xla_kernel_grad(x: Array, g: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda k: _xla_conv(x, k), kernel)(g)[0]


def _cpu_conv(x: Array, kernel: Array) -> Array:
    few = x.shape[-1] <= FEW_CHANNELS and x.shape[2] % RUN == 0
    return _banded_conv(x, kernel) if few else _xla_conv(x, kernel)


def _cpu_kernel_grad(x: Array, g: Array) -> Array:
    """Sum over tiles of images of one balanced matrix product, P^T Q.

    P holds three copies of x shifted along the width, Q three copies of g shifted along the height: together all nine
    offsets, without the nine-fold patches of the textbook.
    """
    n, h, w, ci = x.shape
    co = g.shape[-1]
    if ci <= FEW_CHANNELS and w % RUN == 0:
        return _banded_kernel_grad(x, g)
    tile = min(n, max(1, TILE_FLOATS // (h * w * max(ci, co))))
    if n % tile:  # images of zeros add nothing
        x, g = (jnp.pad(a, ((0, -n % tile), (0, 0), (0, 0), (0, 0))) for a in (x, g))

    def add(total: Array, xg: tuple[Array, Array]) -> tuple[Array, None]:
        p = three_shifts(xg[0], axis=2).reshape(-1, 3 * ci)
        q = three_shifts(xg[1], axis=1).reshape(-1, 3 * co)
        return total + p.T @ q, None

    tiles = (x.reshape(-1, tile, h, w, ci), g.reshape(-1, tile, h, w, co))
    total, _ = lax.scan(add, jnp.zeros((3 * ci, 3 * co), x.dtype), tiles)
    # (column, ci, row, co) to (row, column, ci, co). Rows run backwards, since g was shifted and not x.
    return total.reshape(3, ci, 3, co).transpose(2, 0, 1, 3)[::-1]


# With three input channels a patch of 3x3 is too short for a fast matrix product. A run of neighbouring output pixels
# shares one longer patch instead, and the kernel becomes a banded matrix; some zeros are multiplied.


def _bands(x: Array) -> Array:
    """Collect the patches, 3 rows by RUN + 2 columns, of every run: (n, h, w / RUN, 3 (RUN + 2) c)."""
    n, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    runs = jnp.stack([x[:, :, j : j + RUN + 2] for j in range(0, w, RUN)], 2)
    runs = runs.reshape(n, h + 2, w // RUN, (RUN + 2) * c)
    return jnp.concatenate([runs[:, i : i + h] for i in range(3)], -1)


def _banded(kernel: Array) -> Array:
    """Make the matrix (3 (RUN + 2) ci, RUN co) that takes a patch to its run of output pixels."""
    _, _, ci, co = kernel.shape
    columns = [jnp.pad(kernel, ((0, 0), (j, RUN - 1 - j), (0, 0), (0, 0))) for j in range(RUN)]
    return jnp.stack(columns, 3).reshape(3 * (RUN + 2) * ci, RUN * co)


def _banded_conv(x: Array, kernel: Array) -> Array:
    return (_bands(x) @ _banded(kernel)).reshape(*x.shape[:3], kernel.shape[-1])


def _banded_kernel_grad(x: Array, g: Array) -> Array:
    ci, co = x.shape[-1], g.shape[-1]
    matrix = _bands(x).reshape(-1, 3 * (RUN + 2) * ci).T @ g.reshape(-1, RUN * co)
    return jax.linear_transpose(_banded, jax.ShapeDtypeStruct((3, 3, ci, co), x.dtype))(matrix)[0]


def _flip(kernel: Array) -> Array:
    """Turn a kernel, or one for each seed, into that of the input gradient, which is a convolution again."""
    return kernel[..., ::-1, ::-1, :, :].swapaxes(-2, -1)


def _bilinear(name: str, shape: Callable, which: int, xla: Pair, cpu: Pair) -> Primitive:
    """Make a primitive of two arrays with its lowerings and its rule for `vmap`.

    Both arrays may have a leading axis of seeds; the form in `how` then says how they are walked. The precision of its
    matrix products is a parameter: lowering comes when a caller's whole program is compiled, outside of the
    `default_matmul_precision` in which the convolution was asked for. So is `how`, for the same reason.

    Args:
      name: of the primitive.
      shape: of the result, from both arrays.
      which: 0 for the convolution, 1 for the kernel gradient.
      xla: computes it for one seed.
      cpu: the same on CPU.
    """
    primitive = Primitive(name)
    primitive.def_impl(jax.jit(primitive.bind, static_argnames=("precision", "how")))
    primitive.def_abstract_eval(lambda a, b, precision, how: a.update(shape=shape(a, b)))
    for platform, ours in ((None, xla), ("cpu", cpu)):
        rule = mlir.lower_fun(functools.partial(_compute, which, ours), multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)

    def batch(args: Sequence[Array], dims: Sequence[int | None], precision: str | None, how: How) -> tuple[Array, int]:
        bind = functools.partial(primitive.bind, precision=precision, how=how)
        if which == 0 and dims[1] is None:  # one kernel, or one for each seed, for all: only more images
            assert dims[0] is not None
            x = jnp.moveaxis(args[0], dims[0], -5)
            y = bind(x.reshape(*x.shape[:-5], -1, *x.shape[-3:]), args[1])
            return y.reshape(*x.shape[:-3], *y.shape[-3:]), x.ndim - 5
        mapped = [jnp.moveaxis(arg, dim, 0) for arg, dim in zip(args, dims, strict=True) if dim is not None]
        if how.form == "loop":  # a grouped convolution would be slower than one convolution after another

            def one(own: list[Array]) -> Array:
                rest = iter(own)
                return bind(*(arg if dim is None else next(rest) for arg, dim in zip(args, dims, strict=True)))

            return lax.map(one, mapped), 0
        size, rest = mapped[0].shape[0], iter(mapped)
        both = [
            jnp.broadcast_to(arg, (size, *arg.shape)) if dim is None else next(rest)
            for arg, dim in zip(args, dims, strict=True)
        ]
        y = bind(*(arg.reshape(-1, *arg.shape[-4:]) for arg in both))
        return y.reshape(*both[0].shape[:-4], *y.shape[-4:]), 0

    batching.primitive_batchers[primitive] = batch
    return primitive


def _compute(which: int, one: Pair, a: Array, b: Array, precision: str | None, how: How) -> Array:
    """Compute one seed's array, or with a leading seed axis all of them in the form that `how` names."""
    function, dtype = one, a.dtype
    if a.ndim == 5:
        function = pair(how.form, one, one)[which]
    if how.operands is not None:
        a, b = a.astype(how.operands), b.astype(how.operands)
    with contextlib.nullcontext() if precision is None else jax.default_matmul_precision(precision):
        return function(a, b).astype(dtype)


_conv_p = _bilinear("conv3x3", lambda x, k: (*x.shape[:-1], k.shape[-1]), 0, _xla_conv, _cpu_conv)
_kernel_grad_p = _bilinear(
    "conv3x3_kernel_grad",
    lambda x, g: (*x.shape[:-4], 3, 3, x.shape[-1], g.shape[-1]),
    1,
    _xla_kernel_grad,
    _cpu_kernel_grad,
)
# Each rule takes the cotangent and both arguments, and gives the cotangent of the first, then of the second.
ad.defbilinear(
    _conv_p,
    lambda g, x, k, **how: _conv_p.bind(g, _flip(k), **how),
    lambda g, x, k, **how: _kernel_grad_p.bind(x, g, **how),
)
ad.defbilinear(
    _kernel_grad_p,
    lambda k, x, g, **how: _conv_p.bind(g, _flip(k), **how),
    lambda k, x, g, **how: _conv_p.bind(x, k, **how),
)
