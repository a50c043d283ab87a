"""A small vision transformer as a Flax Linen module, initialised as PyTorch initialises its linear layers."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntkgen import functions
from ntkgen.models import _networks
from ntkgen.typing import Array

EPSILON = 1e-5  # torch.nn.LayerNorm's
HIDDEN = 4  # units of a block's MLP over its width, of Vaswani et al. (2017) and Dosovitskiy et al. (2021)
EMBEDDING_STD = 0.02  # of positions and tokens, of Dosovitskiy et al.
PATCHES = 4  # along the longer side of an image, by default


def _norm(x: Array, name: str) -> Array:
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False, name=name)(x)


def _dense(x: Array, features: int, name: str) -> Array:
    init = _networks.pytorch_uniform(x.shape[-1])
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)(x)


class Block(nn.Module):
    """One pre-LayerNorm block: x + attention(norm(x)), then x + MLP(norm(x)).

    Heads are cut from the outputs of Dense layers, so that every kernel has two axes and its units are the last one.
    """

    width: int
    heads: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Map tokens (n, t, width) to tokens."""
        normed = _norm(x, "norm0")
        query, key, value = (self._split(_dense(normed, self.width, name)) for name in ("query", "key", "value"))
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) / math.sqrt(self.width // self.heads)
        mixed = jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(scores, axis=-1), value)
        x = x + _dense(mixed.reshape(x.shape), self.width, "out")
        hidden = nn.gelu(_dense(_norm(x, "norm1"), HIDDEN * self.width, "up"), approximate=False)
        return x + _dense(hidden, self.width, "down")

    def _split(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class Transformer(nn.Module):
    """Small vision transformer: patches, learned positions, pre-LayerNorm blocks, the mean over tokens, a linear head.

    As Dosovitskiy et al. (2021, arXiv:2010.11929), but with the mean over tokens in the place of a class token. No
    batch statistics and no dropout, so training and evaluation are the same function. Integer inputs (n, t) are tokens:
    a table takes the place of the patches.

    Parameters, for t patches of p numbers each (patch x patch x channels), width w, d blocks and k classes:
    (p + 1) w + t w + d (12 w^2 + 13 w) + 2 w + (w + 1) k. Tokens have vocab_size w in the place of (p + 1) w.

    The bias of the keys has no effect: the softmax cancels it (`cancelled`).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models
      >>> model = models.Transformer(width=8, depth=1, heads=2, patch=4, num_classes=3)
      >>> variables = models.init(model, jax.random.key(0), (8, 8, 1))
      >>> model.apply(variables, jnp.ones((2, 8, 8, 1))).shape, sorted(variables["params"])
      ((2, 3), ['block0', 'embed', 'head', 'norm', 'position'])
      >>> models.num_params(model, (8, 8, 1))  # 17 * 8 + 4 * 8 + (12 * 64 + 13 * 8) + 2 * 8 + 9 * 3
      1083

    Attributes:
      width: numbers of each token; a multiple of `heads`.
      depth: number of blocks.
      heads: of the attention.
      patch: pixels along a patch's side; None for a quarter of the image's longer side. A side of one pixel has patches
        of one pixel.
      num_classes: outputs.
      vocab_size: rows of the table of tokens; images do not use it.

    Raises:
      ValueError: a number is not whole and at least 1, or the heads do not divide the width; when called: inputs that
        are neither images (n, h, w, c) that patches fill nor integers (n, t).
    """

    width: int
    depth: int = 2
    heads: int = 4
    patch: int | None = None
    num_classes: int = 10
    vocab_size: int = 256

    def __post_init__(self) -> None:
        """Check the attributes."""
        for name in ("width", "depth", "heads", "num_classes", "vocab_size"):
            functions.whole(name, getattr(self, name))
        if self.patch is not None:
            functions.whole("patch", self.patch)
        if self.width % self.heads:
            raise ValueError(f"width: expected a multiple of the {self.heads} heads, got {self.width}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map images (n, h, w, c), or tokens (n, t), to logits (n, num_classes); `train` changes nothing here."""
        x = self._embed(x)
        start = nn.initializers.normal(EMBEDDING_STD)
        x = x + self.param("position", start, x.shape[1:])[None]
        for block in range(self.depth):
            x = Block(self.width, self.heads, name=f"block{block}")(x)
        return _dense(jnp.mean(_norm(x, "norm"), axis=1), self.num_classes, "head")

    def _embed(self, x: Any) -> Array:
        """Return the tokens (n, t, width)."""
        if x.ndim == 2 and jnp.issubdtype(x.dtype, jnp.integer):
            start = nn.initializers.normal(EMBEDDING_STD)
            return nn.Embed(self.vocab_size, self.width, embedding_init=start, name="tokens")(x)
        if x.ndim != 4:
            raise ValueError(
                f"Transformer: expected images (n, h, w, c) or integer tokens (n, t), got {x.dtype} of shape {x.shape}"
            )
        return _dense(patches(x, self.patch), self.width, "embed")


def patches(x: Array, side: int | None) -> Array:
    """Cut images (n, h, w, c) into patches (n, t, numbers of a patch), row by row.

    Args:
      x: images.
      side: pixels along a patch's side; None for a quarter of the longer side, at least one pixel.

    Raises:
      ValueError: patches do not fill the image.
    """
    n, h, w, c = x.shape
    side = max(max(h, w) // PATCHES, 1) if side is None else side
    high, wide = (side if pixels > 1 else 1 for pixels in (h, w))
    if h % high or w % wide:
        raise ValueError(f"patch: expected a side that divides the image's {h} x {w} pixels, got {side}")
    cut = x.reshape(n, h // high, high, w // wide, wide, c).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(n, -1, high * wide * c)
