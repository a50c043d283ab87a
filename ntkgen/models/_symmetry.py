"""Params without an effect on the function that a network computes.

A convolution bias before batch norm is one: the mean of the batch cancels it. So is the bias of attention's keys, which
the softmax cancels. Their size means nothing, and a measure in units of each weight's size must leave them alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from ntkgen import functions, tree
from ntkgen.models import _networks, _transformer
from ntkgen.roles import tree_name
from ntkgen.typing import Array, PyTree

POINTS = 3  # the given params, and draws around them: a derivative that is zero by chance is not zero again
NOISE_OF_ZEROS = 0.1  # standard deviation of the noise on a leaf of zeros
# Gradients below this share of the largest leaf's are rounding, some thousand units in float32's last place. On the
# studies' CNN (2, 8, 32 channels) the biases that batch norm cancels have at most 1e-6, all others at least 0.002.
ROUNDING = 1e-4


def without_effect(f: Callable[[PyTree, Any], Array], params: PyTree, x: Any, key: Array | None = None) -> list[str]:
    """Return the names of the leaves that no derivative of the outputs depends on.

    Measured: the gradient of a random combination of all outputs is zero to rounding in every entry of the leaf, at
    the params given and at draws around them.

    Example:
      >>> import jax.numpy as jnp
      >>> from ntkgen import models
      >>> def centred(params, x):
      ...     y = x * params["scale"] + params["bias"]
      ...     return y - jnp.mean(y)
      >>> models.without_effect(centred, {"bias": jnp.ones(()), "scale": jnp.ones(())}, jnp.arange(4.0))
      ['bias']

    Args:
      f: f(params, x) -> outputs, as the network is trained: batch norm by the batch's statistics. Under frozen
        statistics such a bias does act, but a network whose statistics are estimated anew is the same function.
      params: params of one network, also untrained ones: what is without effect for all params depends on the network
        alone. Around trained ones a dead layer counts, too.
      x: real inputs, a few dozen.
      key: of the draws.

    Returns:
      Names such as "conv0_0/bias", in the order of the tree; a value for `unmoved` of `landscape`'s functions.

    Raises:
      ValueError: the params are not floating or not finite, or the outputs depend on none.
    """
    tree.check_floating("params", params)
    tree.check_finite("params", params)
    keys = jax.random.split(jax.random.key(0) if key is None else key, POINTS)
    frozen_f = functions.freeze(f, params, x)
    largest = np.stack([_largest(frozen_f, params, x, float(i > 0), own) for i, own in enumerate(keys)])
    top = largest.max(1)
    if not (np.isfinite(top) & (top > 0)).all():
        raise ValueError(f"f: expected finite outputs that depend on params, got gradients of at most {top.tolist()}")
    none = (largest <= ROUNDING * top[:, None]).all(0)
    names = [tree_name(path) for path, _ in jax.tree.leaves_with_path(params)]
    return [name for name, without in zip(names, none, strict=True) if without]


def cancelled(model: _networks.MLP | _networks.CNN | _transformer.Transformer) -> list[str]:
    """Return what `without_effect` finds in the package's own networks.

    Biases of the CNN's convolutions before batch norm, and of the transformer's keys. The usual CNN (`affine_norm`)
    has no such biases, and the MLP has no batch norm.

    Example:
      >>> from ntkgen import models
      >>> models.cancelled(models.CNN(4))[:2], models.cancelled(models.MLP(4))
      (['conv0_0/bias', 'conv0_1/bias'], [])
    """
    if isinstance(model, _transformer.Transformer):
        return [f"block{block}/key/bias" for block in range(model.depth)]
    biased = isinstance(model, _networks.CNN) and not model.affine_norm
    return [f"{layer}/bias" for layer in _networks.unit_chain(model)[1]] if biased else []


@jax.jit
def _largest(f: Partial, params: PyTree, x: Any, strength: float, key: Array) -> Array:
    """Return each leaf's largest gradient entry, in units of the leaf's size, at params moved by noise -> (leaves,)."""
    noise_key, output_key = jax.random.split(key)

    def size(leaf: Array) -> Array:
        rms = jnp.sqrt(jnp.mean(leaf**2))
        return jnp.where(rms > 0, rms, NOISE_OF_ZEROS)

    def combined(params: PyTree) -> Array:
        outputs = f(params, x)
        return jnp.sum(outputs * jax.random.normal(output_key, outputs.shape, outputs.dtype))

    noise = tree.random_like(noise_key, params)
    gradients = jax.grad(combined)(jax.tree.map(lambda w, e: w + strength * size(w) * e, params, noise))
    slopes = jax.tree.map(lambda w, g: size(w) * jnp.max(jnp.abs(g), initial=0.0), params, gradients)
    return jnp.stack(jax.tree.leaves(slopes))
