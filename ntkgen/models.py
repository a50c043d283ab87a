"""The paper's two networks as Flax Linen modules, initialised and normalised as PyTorch does it."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from ntkgen import conv, norm

Array = jax.Array


def pytorch_uniform(fan_in: int) -> Callable[..., Array]:
    """Make PyTorch's default initialiser for Linear and Conv, weights and biases alike.

    Entries are U(-1/sqrt(fan_in), 1/sqrt(fan_in)): `kaiming_uniform_(a=sqrt(5))` reduces to this bound.
    The paper's "Kaiming for linear layers, Xavier for convolutions" (section IV-D) describes it loosely;
    PyTorch 2.6 uses the same rule for both.

    Args:
      fan_in: inputs that one output unit sees (for a convolution: kernel height x width x channels).

    Returns:
      A function (key, shape, dtype) -> array.
    """
    bound = 1.0 / math.sqrt(fan_in)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        # XLA compiles the generator anew for every shape, a fifth of a second each. Drawing a few standard lengths
        # and cutting them off keeps a CNN's start at one second of compilation instead of eight; the entries do not
        # depend on the length drawn.
        size, length = math.prod(shape), 4096
        while length < size:
            length *= 4
        return jax.random.uniform(key, (length,), dtype, -bound, bound)[:size].reshape(shape)

    return init


def _dense(x: Array, features: int, name: str) -> Array:
    init = pytorch_uniform(x.shape[-1])
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name)(x)


class BatchNormRelu(nn.Module):
    """Batch normalisation over all but the last axis as `torch.nn.BatchNorm2d` computes it, then ReLU, then pooling.

    Unlike Flax's BatchNorm, `MOMENTUM` is the weight of the *new* value, and the running variance is fed with the
    unbiased batch variance while the batch itself is normalised with the biased one. Variables:
    `batch_stats/{mean, var}` of shape (c,); with `affine` also params `{scale, bias}`.

    Attributes:
      affine: learn a scale and a shift.
      pool: end with the maximum over 2x2 windows.
    """

    MOMENTUM = 0.1  # PyTorch's

    affine: bool = False
    pool: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map x (n, h, w, c); with `train` by the batch's statistics, which also update the running ones."""
        channels = x.shape[-1]
        running_mean = self.variable("batch_stats", "mean", lambda: jnp.zeros(channels, jnp.float32))
        running_var = self.variable("batch_stats", "var", lambda: jnp.ones(channels, jnp.float32))
        if train and not self.affine:
            y, mean, var = norm.norm_relu(x, self.pool)
        else:
            mean, var = norm.statistics(x) if train else (running_mean.value, running_var.value)
            scale = jax.lax.rsqrt(var + norm.EPSILON)
            shift = -mean * scale
            if self.affine:
                gamma = self.param("scale", nn.initializers.ones, (channels,))
                beta = self.param("bias", nn.initializers.zeros, (channels,))
                scale, shift = scale * gamma, shift * gamma + beta
            z = x * norm.spread(scale, x).astype(x.dtype) + norm.spread(shift, x).astype(x.dtype)
            y = nn.relu(norm.max_pool(z) if self.pool else z)
        if train and not self.is_initializing():
            count = x.size // channels
            running_mean.value += self.MOMENTUM * (mean - running_mean.value)
            running_var.value += self.MOMENTUM * (var * (count / max(count - 1, 1)) - running_var.value)
        return y


class MLP(nn.Module):
    """Fully connected ReLU network: inputs - width - ... - width - classes (section IV-C, appendix B).

    Attributes:
      width: units in each hidden layer.
      depth: number of Dense layers, the output layer included; 4 in the paper.
      num_classes: outputs.
    """

    width: int
    depth: int = 4
    num_classes: int = 10

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map x (n, ...) to logits (n, num_classes); `train` changes nothing here."""
        x = x.reshape(x.shape[0], -1)
        for layer in range(self.depth - 1):
            x = nn.relu(_dense(x, self.width, f"dense{layer}"))
        return _dense(x, self.num_classes, f"dense{self.depth - 1}")


class CNN(nn.Module):
    """Three blocks of two Conv-BN-ReLU and a max pooling, then a 256-unit head (section IV-C, appendix B).

    The published counts leave one learned vector for each Conv-BN pair. The default reading is a
    convolution bias with a batch norm that has no scale and shift; `affine_norm=True` is the usual network
    (bias-free convolutions, affine batch norm), which has 14 x channels parameters more.

    Attributes:
      channels: channels of the first block; the second has 2x, the third 4x.
      num_classes: outputs.
      affine_norm: the usual Conv-BN pair rather than the one the parameter counts imply.
    """

    channels: int
    num_classes: int = 10
    affine_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map images x (n, h, w, c), h and w at least 8, to logits (n, num_classes)."""
        if x.ndim != 4 or min(x.shape[1:3]) < 8:
            raise ValueError(f"CNN: expected images (n, h, w, c) with h and w at least 8, got shape {x.shape}")
        for block in range(3):
            for half in range(2):
                name = f"{block}_{half}"
                init = pytorch_uniform(9 * x.shape[-1])
                x = nn.Conv(
                    self.channels * 2**block,
                    (3, 3),
                    padding=1,
                    use_bias=not self.affine_norm,
                    kernel_init=init,
                    bias_init=init,
                    name=f"conv{name}",
                    conv_general_dilated=conv.conv_general_dilated,
                )(x)
                pair = BatchNormRelu(affine=self.affine_norm, pool=half == 1, name=f"norm{name}")
                x = pair(x, train)
        x = x.reshape(x.shape[0], -1)
        return _dense(nn.relu(_dense(x, 256, "dense0")), self.num_classes, "dense1")


def takes_train(model: nn.Module) -> bool:
    """Say whether the module's call has a `train` argument, as networks with batch norm need."""
    return "train" in inspect.signature(model.__call__).parameters


def init(model: nn.Module, key: Array, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Draw a network's variables for inputs of `input_shape` (without batch axis)."""
    return dict(model.init(key, jnp.zeros((1, *input_shape), jnp.float32)))


def forward_train(model: nn.Module, variables: dict[str, Any], x: Array) -> tuple[Array, dict[str, Any]]:
    """Apply the model in training mode; return logits and the updated non-parameter collections."""
    kwargs: dict[str, Any] = {"train": True} if takes_train(model) else {}
    state = [name for name in variables if name != "params"]
    logits, new_state = model.apply(variables, x, mutable=state, **kwargs)
    return logits, dict(new_state)


def refit(model: nn.Module, variables: dict[str, Any], x: Array) -> dict[str, Any]:
    """Estimate batch statistics anew, as those of the single batch x that training would see.

    For weights that moved (perturbed, interpolated, averaged): the running statistics belong to those before.

    Args:
      model: a network of this module.
      variables: its variables.
      x: images of one batch, in training mode.

    Returns:
      The collections other than `params`: means and unbiased variances; nothing where there is no batch norm.
    """
    old = {name: value for name, value in variables.items() if name != "params"}
    new = forward_train(model, variables, x)[1]
    return jax.tree.map(lambda before, after: before + (after - before) / BatchNormRelu.MOMENTUM, old, new)


def apply_fn(model: nn.Module, variables: dict[str, Any]) -> Callable[[Any, Array], Array]:
    """Freeze everything but the parameters of a network.

    Args:
      model: any Flax module whose call maps x (n, ...) to outputs (n, k).
      variables: its variables; all collections but `params` (the batch statistics) are held fixed.

    Returns:
      f(params, x) -> outputs (n, k), evaluation mode, not jitted.
    """
    frozen = {name: value for name, value in variables.items() if name != "params"}
    kwargs: dict[str, Any] = {"train": False} if takes_train(model) else {}

    def f(params: Any, x: Array) -> Any:
        return model.apply({"params": params, **frozen}, x, **kwargs)

    return f


def num_params(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Count a network's learned numbers for inputs of `input_shape` (without batch axis); nothing is computed."""
    shapes = jax.eval_shape(lambda key: init(model, key, input_shape), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
