"""The paper's two networks as Flax Linen modules, initialised and normalised as PyTorch does it.

Longer than 350 lines for its docstrings and examples, 45 % of it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntkgen import functions
from ntkgen.choices import PARAMETRIZATIONS
from ntkgen.functions import forward_train, refit_statistics, switches
from ntkgen.models import _batch_norm, _convolution
from ntkgen.typing import Array

__all__ = [
    "CNN", "MLP", "MUP_BASE_WIDTH", "PARAMETRIZATIONS", "BatchNormRelu", "Scales", "apply_fn", "forward_train", "init",
    "layer_scales", "num_params", "pytorch_uniform", "refit_statistics", "switches", "uniform", "unit_chain",
]  # fmt: skip


MUP_BASE_WIDTH = 32  # the narrowest network of the paper's tangent-kernel table (section V-E)


def pytorch_uniform(fan_in: int) -> Callable[..., Array]:
    """Make PyTorch's default initialiser for Linear and Conv, weights and biases alike.

    Entries are U(-1/sqrt(fan_in), 1/sqrt(fan_in)): `kaiming_uniform_(a=sqrt(5))` reduces to this bound.
    The paper's "Kaiming for linear layers, Xavier for convolutions" (section IV-D) describes it loosely;
    PyTorch 2.6 uses the same rule for both.

    Example:
      >>> import jax
      >>> from ntkgen import models
      >>> kernel = models.pytorch_uniform(fan_in=16)(jax.random.key(0), (16, 3))
      >>> kernel.shape, bool((abs(kernel) <= 1 / 4).all())
      ((16, 3), True)

    Args:
      fan_in: inputs that one output unit sees (for a convolution: kernel height x width x channels).

    Returns:
      A function (key, shape, dtype) -> array.
    """
    return uniform(1.0 / math.sqrt(fan_in))


def uniform(bound: float) -> Callable[..., Array]:
    """Make an initialiser (key, shape, dtype) -> entries U(-bound, bound)."""

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


class Scales(NamedTuple):
    """A layer's parametrisation: bounds of the uniform entries, and what kernel and bias are multiplied by in use."""

    kernel_bound: float
    bias_bound: float
    kernel: float = 1.0
    bias: float = 1.0


def layer_scales(parametrization: str, fan_in: int, width: int, place: str) -> Scales:
    """Say how one layer of an MLP is parametrised; see `MLP`.

    Args:
      parametrization: "standard", "ntk" or "mup".
      fan_in: inputs of the layer.
      width: units of the hidden layers.
      place: "input", "hidden" or "output"; a network's only layer is neither and has "standard" scales.

    Returns:
      Bounds and multipliers.
    """
    bound = 1.0 / math.sqrt(fan_in)
    if parametrization == "ntk":
        return Scales(1.0, 1.0, bound, bound)
    if parametrization == "standard" or place == "only":
        return Scales(bound, bound)
    # abc-parametrisation of Yang & Hu (2021, table 1) with c = 0, in units of the base width. Biases act like weights
    # of an input that is always one, so theirs is the input layer's; the output bias has no dimension that grows.
    grown = math.sqrt(width / MUP_BASE_WIDTH)
    if place == "input":
        return Scales(bound / grown, bound / grown, grown, grown)
    if place == "hidden":
        return Scales(bound, bound, 1.0, grown)
    return Scales(bound, bound * grown, 1.0 / grown, 1.0)


def _scaled_dense(x: Array, features: int, name: str, scales: Scales) -> Array:
    """Apply a Dense layer whose kernel and bias are multiplied: inputs and outputs are, so that it stays one Dense."""
    kernel_init, bias_init = uniform(scales.kernel_bound), uniform(scales.bias_bound)
    before = scales.kernel / scales.bias
    y = nn.Dense(features, kernel_init=kernel_init, bias_init=bias_init, name=name)(x if before == 1 else x * before)
    return y if scales.bias == 1 else y * scales.bias


class BatchNormRelu(nn.Module):
    """Batch normalisation over all but the last axis as `torch.nn.BatchNorm2d` computes it, then ReLU, then pooling.

    Unlike Flax's BatchNorm, `MOMENTUM` is the weight of the *new* value, and the running variance is fed with the
    unbiased batch variance while the batch itself is normalised with the biased one. Variables:
    `batch_stats/{mean, var}` of shape (c,); with `affine` also params `{scale, bias}`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import functions, models
      >>> norm, x = models.BatchNormRelu(), jnp.array([0.0, 2.0]).reshape(2, 1, 1, 1)
      >>> y, updated = functions.forward_train(norm, functions.init(norm, jax.random.key(0), x), x)
      >>> y.ravel().round(3).tolist(), round(float(updated["batch_stats"]["mean"][0]), 3)
      ([0.0, 1.0], 0.1)

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
            y, mean, var = _batch_norm.norm_relu(x, self.pool)
        else:
            mean, var = _batch_norm.statistics(x) if train else (running_mean.value, running_var.value)
            scale = jax.lax.rsqrt(var + _batch_norm.EPSILON)
            shift = -mean * scale
            if self.affine:
                gamma = self.param("scale", nn.initializers.ones, (channels,))
                beta = self.param("bias", nn.initializers.zeros, (channels,))
                scale, shift = scale * gamma, shift * gamma + beta
            z = x * _batch_norm.spread(scale, x).astype(x.dtype) + _batch_norm.spread(shift, x).astype(x.dtype)
            y = nn.relu(_batch_norm.max_pool(z) if self.pool else z)
        if train and not self.is_initializing():
            count = x.size // channels
            running_mean.value += self.MOMENTUM * (mean - running_mean.value)
            running_var.value += self.MOMENTUM * (var * (count / max(count - 1, 1)) - running_var.value)
        return y


class MLP(nn.Module):
    """Fully connected ReLU network: inputs - width - ... - width - classes (section IV-C, appendix B).

    Three parametrisations of one family of functions, params of the same names and shapes. Gradient descent moves
    them differently:

    * "standard": PyTorch's default, U(+-1/sqrt(fan_in)).
    * "ntk": each layer is (W a + b) / sqrt(fan_in), entries U(+-1); the same function at initialisation, with a kernel
      limit at a rate that does not depend on the width (Jacot et al. 2018, arXiv:1806.07572).
    * "mup": maximal updates by SGD (Yang & Hu 2021, arXiv:2011.14522, table 1). The limit learns features, and one
      rate serves all widths. Equal to "standard" at width `MUP_BASE_WIDTH`, so that a rate means the same there.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models
      >>> model = models.MLP(width=4, depth=2, num_classes=3)
      >>> variables = models.init(model, jax.random.key(0), (5,))
      >>> model.apply(variables, jnp.ones((2, 5))).shape, sorted(variables["params"])
      ((2, 3), ['dense0', 'dense1'])

    Attributes:
      width: units in each hidden layer.
      depth: number of Dense layers, the output layer included; 4 in the paper.
      num_classes: outputs.
      parametrization: "standard", "ntk" or "mup".

    Raises:
      ValueError: the parametrization is unknown, or a number is not whole and at least 1.
    """

    width: int
    depth: int = 4
    num_classes: int = 10
    parametrization: str = "standard"

    def __post_init__(self) -> None:
        """Check the attributes."""
        for name in ("width", "depth", "num_classes"):
            functions.whole(name, getattr(self, name))
        if self.parametrization not in PARAMETRIZATIONS:
            expected = ", ".join(PARAMETRIZATIONS)
            raise ValueError(f"parametrization: expected one of {expected}, got {self.parametrization!r}")
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        """Map x (n, ...) to logits (n, num_classes); `train` changes nothing here."""
        x = x.reshape(x.shape[0], -1)
        for layer in range(self.depth - 1):
            scales = layer_scales(self.parametrization, x.shape[-1], self.width, "hidden" if layer else "input")
            x = nn.relu(_scaled_dense(x, self.width, f"dense{layer}", scales))
        place = "output" if self.depth > 1 else "only"
        scales = layer_scales(self.parametrization, x.shape[-1], self.width, place)
        return _scaled_dense(x, self.num_classes, f"dense{self.depth - 1}", scales)


class CNN(nn.Module):
    """Three blocks of two Conv-BN-ReLU and a max pooling, then a 256-unit head (section IV-C, appendix B).

    The published counts leave one learned vector for each Conv-BN pair. The default reading is a
    convolution bias with a batch norm that has no scale and shift; `affine_norm=True` is the usual network
    (bias-free convolutions, affine batch norm), which has 14 x channels parameters more.

    Example:
      >>> from ntkgen import models
      >>> models.num_params(models.CNN(channels=4), (32, 32, 3))
      72990

    Attributes:
      channels: channels of the first block; the second has 2x, the third 4x.
      num_classes: outputs.
      affine_norm: the usual Conv-BN pair rather than the one the parameter counts imply.

    Raises:
      ValueError: a number is not whole and at least 1.
    """

    channels: int
    num_classes: int = 10
    affine_norm: bool = False

    def __post_init__(self) -> None:
        """Check the attributes."""
        for name in ("channels", "num_classes"):
            functions.whole(name, getattr(self, name))
        super().__post_init__()

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
                    conv_general_dilated=_convolution.conv_general_dilated,
                )(x)
                pair = BatchNormRelu(affine=self.affine_norm, pool=half == 1, name=f"norm{name}")
                x = pair(x, train)
        x = x.reshape(x.shape[0], -1)
        return _dense(nn.relu(_dense(x, 256, "dense0")), self.num_classes, "dense1")


def init(model: nn.Module, key: Array, input_shape: tuple[int, ...], dtype: Any = jnp.float32) -> dict[str, Any]:
    """Draw a network's variables, in evaluation mode.

    Example:
      >>> import jax
      >>> from ntkgen import models
      >>> variables = models.init(models.MLP(4, depth=2, num_classes=2), jax.random.key(0), (3,))
      >>> jax.tree.map(lambda leaf: leaf.shape, variables["params"]["dense0"])
      {'bias': (4,), 'kernel': (3, 4)}

    Args:
      model: any Flax module whose call maps x (n, ...) to its outputs.
      key: a PRNG key.
      input_shape: shape of one example, without batch axis.
      dtype: of the inputs, which are zeros here; an integer one for networks of tokens.

    Returns:
      Its collections, without those that only record what a call sows.
    """
    return functions.init(model, key, jnp.zeros((1, *input_shape), dtype))


def unit_chain(model: MLP | CNN) -> tuple[list[str], dict[str, str]]:
    """Name the layers in the order of the forward pass, and the normalisation behind each that has one.

    Example:
      >>> from ntkgen import models
      >>> models.unit_chain(models.MLP(4, depth=2))
      (['dense0', 'dense1'], {})

    Raises:
      ValueError: another network than `MLP` and `CNN`; its units do not form one chain.
    """
    if isinstance(model, MLP):
        return [f"dense{layer}" for layer in range(model.depth)], {}
    if not isinstance(model, CNN):
        raise ValueError(f"model: expected MLP or CNN, whose units form a chain, got {type(model).__name__}")
    halves = [f"{block}_{half}" for block in range(3) for half in range(2)]
    return [*(f"conv{name}" for name in halves), "dense0", "dense1"], {f"conv{name}": f"norm{name}" for name in halves}


def apply_fn(model: nn.Module, variables: dict[str, Any]) -> Callable[[Any, Array], Array]:
    """Freeze everything but the parameters of a network.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> variables = models.init(model, jax.random.key(0), (3,))
      >>> f = models.apply_fn(model, variables)
      >>> f(variables["params"], jnp.ones((5, 3))).shape
      (5, 2)

    Args:
      model: any Flax module whose call maps x (n, ...) to outputs (n, k).
      variables: its variables; all collections but `params` (the batch statistics) are held fixed.

    Returns:
      f(params, x) -> outputs (n, k), evaluation mode, not jitted. It is a `jax.tree_util.Partial` over the frozen
      collections: a program that takes it as an argument compiles once for all networks of the model, and `vmap`
      walks a leading seed axis of the variables.
    """
    functions.check_network(functions.bare(model))
    frozen = {name: value for name, value in variables.items() if name != "params"}
    return Partial(functions.Evaluation(functions.hashable(model)), frozen)


def num_params(model: nn.Module, input_shape: tuple[int, ...], dtype: Any = jnp.float32) -> int:
    """Count a network's learned numbers for inputs of `input_shape` (without batch axis); nothing is computed.

    `dtype` is that of the inputs, an integer one for networks of tokens.

    Example:
      >>> from ntkgen import models
      >>> models.num_params(models.MLP(4, depth=2, num_classes=2), (3,))  # 3 * 4 + 4 + 4 * 2 + 2
      26
    """
    functions.check_network(model)
    shapes = jax.eval_shape(lambda key: init(model, key, input_shape, dtype), jax.random.key(0))
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes["params"]))
