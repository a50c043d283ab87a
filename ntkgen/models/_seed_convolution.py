"""Convolutions of many seeds at once: every seed has images and kernels of its own.

Each form is a pair of functions: the convolution of x (S, n, h, w, ci) with kernels (S, 3, 3, ci, co), and the gradient
of the kernels from x and the output's gradient g (S, n, h, w, co). All forms compute the same numbers but for rounding.
They differ in the kernels that a GPU runs; `experiments/benchmarks/seed_axis.py` measures which is fast.

* "unrolled": S convolutions, their results stacked.
* "grouped": the seeds side by side on the channels, one grouped convolution; kernel gradients as in "matmul".
* "matmul": three batched products of three copies of x shifted along the width, each for one row of the kernel.
* "wide": one batched product for all three rows, whose results are shifted and added.
* "pallas": kernels of our own (`_pallas_convolution.py`) that read x once, without copies; the seed is a grid axis.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from ntkgen.typing import Array

NHWC = ("NHWC", "HWIO", "NHWC")
FORMS = ("loop", "unrolled", "grouped", "matmul", "wide", "pallas")
TILE = 128  # rows and columns that one block of a GPU's matrix product covers
BLOCKS = 264  # blocks that fill the card: two for each of an H100's 132 processors

Pair = Callable[[Array, Array], Array]


def three_shifts(x: Array, axis: int) -> Array:
    """Put copies of x shifted by -1, 0 and 1 along an axis side by side on the last axis; zeros come in."""
    size = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
    return jnp.concatenate([lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)], -1)


def _product(subscripts: str, a: Array, b: Array) -> Array:
    """Return a product that is summed in float32 where the operands are shorter."""
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))


def unrolled(one: Pair) -> Pair:
    """Return a function of many seeds that runs a function of one seed once for each."""
    return lambda a, b: jnp.stack([one(a[seed], b[seed]) for seed in range(a.shape[0])])


def grouped(x: Array, kernel: Array) -> Array:
    """Return one grouped convolution, the seeds side by side on the channels."""
    seeds, n, h, w, ci = x.shape
    co = kernel.shape[-1]
    side = jnp.moveaxis(x, 0, 3).reshape(n, h, w, seeds * ci)
    kernels = jnp.moveaxis(kernel, 0, 3).reshape(3, 3, ci, seeds * co)
    y = lax.conv_general_dilated(side, kernels, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=seeds)
    return jnp.moveaxis(y.reshape(n, h, w, seeds, co), 3, 0)


def matmul(x: Array, kernel: Array) -> Array:
    """Return the sum over the kernel's rows of one batched product each."""
    h, ci = x.shape[2], x.shape[-1]
    p = jnp.pad(three_shifts(x, axis=3), ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    rows = kernel.reshape(-1, 3, 3 * ci, kernel.shape[-1])
    parts = [_product("snhwp,spd->snhwd", p[:, :, i : i + h], rows[:, i]) for i in range(3)]
    return parts[0] + parts[1] + parts[2]


def wide(x: Array, kernel: Array) -> Array:
    """Return one batched product for all rows of the kernel; its three parts are shifted and added."""
    h, ci, co = x.shape[2], x.shape[-1], kernel.shape[-1]
    rows = kernel.reshape(-1, 3, 3 * ci, co).swapaxes(1, 2).reshape(-1, 3 * ci, 3 * co)
    y = _product("snhwp,spq->snhwq", three_shifts(x, axis=3), rows)
    y = jnp.pad(y, ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    # Row i of the kernel meets the image's row r + i - 1.
    return y[:, :, :h, :, :co] + y[:, :, 1 : h + 1, :, co : 2 * co] + y[:, :, 2:, :, 2 * co :]


def product_kernel_grad(x: Array, g: Array) -> Array:
    """Return the kernels' gradients from one batched product, P^T Q of `_convolution.py` for every seed.

    Its sum runs over all pixels of all images and its result is small. So that more than a few blocks of the card have
    work, images are summed in parts, and the parts are added.
    """
    seeds, n, _, _, ci = x.shape
    co = g.shape[-1]
    blocks = seeds * math.ceil(3 * ci / TILE) * math.ceil(3 * co / TILE)
    parts = math.gcd(n, 2 ** math.ceil(math.log2(max(1.0, BLOCKS / blocks))))
    p = three_shifts(x, axis=3).reshape(seeds, parts, -1, 3 * ci)
    q = three_shifts(g, axis=2).reshape(seeds, parts, -1, 3 * co)
    total = _product("skmp,skmq->skpq", p, q).sum(1)
    # (column, ci, row, co) to (row, column, ci, co). Rows run backwards, since g was shifted and not x.
    return total.reshape(seeds, 3, ci, 3, co).transpose(0, 3, 1, 2, 4)[:, ::-1]


def pallas(interpret: bool) -> tuple[Pair, Pair]:
    """Return the pair of the kernels of our own; layers that do not fit them go the way of "matmul"."""
    from ntkgen.models import _pallas_convolution  # Pallas takes a while to import

    def convolve(x: Array, kernel: Array) -> Array:
        if not _pallas_convolution.fits(x.shape, kernel.shape[-1]):
            return matmul(x, kernel)
        return _pallas_convolution.convolve(x, kernel, interpret)

    def kernel_grad(x: Array, g: Array) -> Array:
        if not _pallas_convolution.fits(x.shape, g.shape[-1]):
            return product_kernel_grad(x, g)
        return _pallas_convolution.kernel_grad(x, g, interpret)

    return convolve, kernel_grad


def pair(form: str, one: Pair, one_kernel_grad: Pair, interpret: bool) -> tuple[Pair, Pair]:
    """Return convolution and kernel gradient of a form.

    Args:
      form: one of `FORMS` but "loop".
      one: convolution of one seed, for "unrolled".
      one_kernel_grad: its kernel gradient.
      interpret: whether kernels of our own are interpreted, for platforms that do not run them.
    """
    if form == "unrolled":
        return unrolled(one), unrolled(one_kernel_grad)
    if form == "pallas":
        return pallas(interpret)
    return {"grouped": grouped, "matmul": matmul, "wide": wide}[form], product_kernel_grad
