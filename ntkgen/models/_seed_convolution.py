"""Convolutions of many seeds at once: every seed has images and kernels of its own.

Each form is a pair of functions: the convolution of x (S, n, h, w, ci) with kernels (S, 3, 3, ci, co), and the gradient
of the kernels from x and the output's gradient g (S, n, h, w, co). All forms compute the same numbers but for rounding.
They differ in the kernels that a GPU runs; `experiments/benchmarks/seed_axis.py` measures which is fast.

* "unrolled": S convolutions, their results stacked.
* "grouped": the seeds side by side on the channels, one grouped convolution; kernel gradients are one batched product.

Kernels of our own (Pallas) were slower than one seed after another; forms made of matrix products alone had not
compiled after 88 s. Neither is kept: see BUILD_NOTES.md.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax

from ntkgen.typing import Array

NHWC = ("NHWC", "HWIO", "NHWC")
FORMS = ("loop", "unrolled", "grouped")
TILE = 128  # rows and columns that one block of a GPU's matrix product covers
BLOCKS = 264  # blocks that fill the card: two for each of an H100's 132 processors

Pair = Callable[[Array, Array], Array]


def three_shifts(x: Array, axis: int) -> Array:
    """Put copies of x shifted by -1, 0 and 1 along an axis side by side on the last axis; zeros come in."""
    size = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if i == axis else (0, 0) for i in range(x.ndim)])
    return jnp.concatenate([lax.slice_in_dim(padded, i, i + size, axis=axis) for i in range(3)], -1)


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
    longer = jnp.promote_types(x.dtype, jnp.float32)  # sums of shorter operands are in float32
    total = jnp.einsum("skmp,skmq->skpq", p, q, preferred_element_type=longer).sum(1)
    # (column, ci, row, co) to (row, column, ci, co). Rows run backwards, since g was shifted and not x.
    return total.reshape(seeds, 3, ci, 3, co).transpose(0, 3, 1, 2, 4)[:, ::-1]


def pair(form: str, one: Pair, one_kernel_grad: Pair) -> tuple[Pair, Pair]:
    """Return convolution and kernel gradient of a form.

    Args:
      form: "unrolled" or "grouped".
      one: convolution of one seed, for "unrolled".
      one_kernel_grad: its kernel gradient.
    """
    if form == "unrolled":
        return unrolled(one), unrolled(one_kernel_grad)
    return grouped, product_kernel_grad
