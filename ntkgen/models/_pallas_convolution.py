"""Two GPU kernels in Pallas (Triton): the convolutions of many seeds, and the gradients of their kernels.

The seed is an axis of the grid. Nothing is copied but a border of zeros: for each of the nine places of the kernel a
block reads the pixels it needs where they lie, and adds one matrix product. Float32 products run as TF32, as XLA's
convolutions do, unless a higher precision was asked for.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from ntkgen.typing import Array

LEAST = 16  # smallest side of a matrix product in Triton
PIXELS = 128  # of a block, at most
COLUMNS = 64  # output channels of a block, at most
# Numbers of an array of pixels, at most. Two steps' arrays lie in a processor's 227 KiB: one of pixels and one of
# weights in a convolution, three of pixels and one of gradients in a kernel gradient.
FLOATS, FLOATS_GRAD = 8192, 4096
BLOCKS = 528  # blocks of a kernel gradient: four for each of an H100's 132 processors


def fits(images: tuple[int, ...], channels: int) -> bool:
    """Return whether images (S, n, h, w, ci) with `channels` output channels can be cut into blocks.

    Triton's arrays have powers of two as sides. Fewer than `LEAST` input channels are filled up with zeros.
    """
    _, _, h, w, ci = images
    powers = all(side & (side - 1) == 0 for side in (h, w, max(ci, LEAST), channels))
    return powers and min(channels, h * w) >= LEAST and w <= PIXELS // 2 and ci * LEAST <= FLOATS_GRAD


def _rows(h: int, w: int, ci: int, floats: int) -> int:
    return max(1, min(h, min(PIXELS, floats // ci) // w))


def _padded(x: Array) -> Array:
    """Put a border of zeros around the images, and channels of zeros behind those that are too few."""
    return jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1), (0, max(0, LEAST - x.shape[-1]))))


def _longer(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.promote_types(dtype, jnp.float32)


def _divided(index: Array, by: int) -> tuple[Array, Array]:
    """Return quotient and remainder of an index that is not negative: Triton has no floor division."""
    divisor = jnp.asarray(by, index.dtype)
    return lax.div(index, divisor), lax.rem(index, divisor)


def _call(body: Callable, out: jax.ShapeDtypeStruct, grid: tuple[int, ...], interpret: bool) -> Callable:
    if interpret:
        return pl.pallas_call(body, out_shape=out, grid=grid, interpret=True)
    from jax.experimental.pallas import triton

    how = triton.CompilerParams(num_warps=4, num_stages=2)
    return pl.pallas_call(body, out_shape=out, grid=grid, compiler_params=how)


def convolve(x: Array, kernel: Array, interpret: bool = False) -> Array:
    """Return the convolutions (S, n, h, w, co) of x (S, n, h, w, ci) with kernels (S, 3, 3, ci, co)."""
    seeds, n, h, w, _ = x.shape
    padded = _padded(x)
    ci, co = padded.shape[-1], kernel.shape[-1]
    kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, ci - kernel.shape[3]), (0, 0)))
    rows, columns = _rows(h, w, ci, FLOATS), min(co, COLUMNS)
    across = co // columns

    def body(x_ref: Any, k_ref: Any, y_ref: Any) -> None:
        seed, image, part = (pl.program_id(axis) for axis in range(3))
        row, column = _divided(part, across)
        row, column = row * rows, column * columns

        def add(place: Array, total: Array) -> Array:
            i, j = _divided(place, 3)
            pixels = x_ref[seed, image, pl.ds(row + i, rows), pl.ds(j, w), :].reshape(rows * w, ci)
            weights = k_ref[seed, i, j, :, pl.ds(column, columns)]
            return total + jnp.dot(pixels, weights, preferred_element_type=total.dtype)

        total = lax.fori_loop(0, 9, add, jnp.zeros((rows * w, columns), _longer(x.dtype)))
        y_ref[seed, image, pl.ds(row, rows), :, pl.ds(column, columns)] = total.reshape(rows, w, columns).astype(
            y_ref.dtype
        )

    out = jax.ShapeDtypeStruct((seeds, n, h, w, co), x.dtype)
    return _call(body, out, (seeds, n, h // rows * across), interpret)(padded, kernel)


def kernel_grad(x: Array, g: Array, interpret: bool = False) -> Array:
    """Return the gradients (S, 3, 3, ci, co) of the kernels from x (S, n, h, w, ci) and g (S, n, h, w, co).

    Each block sums over some images for one row of the kernel; the blocks' sums are added outside.
    """
    seeds, n, h, w, _ = x.shape
    padded = _padded(x)
    ci, co = padded.shape[-1], g.shape[-1]
    rows, columns = _rows(h, w, ci, FLOATS_GRAD), min(co, max(LEAST, FLOATS_GRAD // ci))
    across = co // columns
    parts = 1
    while parts * seeds * 3 * across < BLOCKS and n % (2 * parts) == 0:
        parts *= 2
    images, steps = n // parts, h // rows

    def body(x_ref: Any, g_ref: Any, out_ref: Any) -> None:
        seed, part, place = (pl.program_id(axis) for axis in range(3))
        i, column = _divided(place, across)
        column = column * columns

        def add(step: Array, totals: tuple[Array, ...]) -> tuple[Array, ...]:
            image, row = _divided(step, steps)
            image, row = part * images + image, row * rows
            there = g_ref[seed, image, pl.ds(row, rows), :, pl.ds(column, columns)].reshape(rows * w, columns)

            def product(j: int, total: Array) -> Array:
                pixels = x_ref[seed, image, pl.ds(row + i, rows), pl.ds(j, w), :].reshape(rows * w, ci)
                return total + jnp.dot(pixels.T, there, preferred_element_type=total.dtype)

            return tuple(product(j, total) for j, total in enumerate(totals))

        zeros = jnp.zeros((ci, columns), _longer(x.dtype))
        for j, total in enumerate(lax.fori_loop(0, images * steps, add, (zeros,) * 3)):
            out_ref[seed, part, i, j, :, pl.ds(column, columns)] = total

    out = jax.ShapeDtypeStruct((seeds, parts, 3, 3, ci, co), _longer(x.dtype))
    return _call(body, out, (seeds, parts, 3 * across), interpret)(padded, g).sum(1)[..., : x.shape[-1], :]
