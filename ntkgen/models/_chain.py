"""The layers of the package's networks as plain matrices, the features before the last layer, and rescaled layers.

Norms and bounds of the literature are stated for networks without normalisation, whose weights act as they are stored.
`effective_layers` brings the MLP and the CNN to that form.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from ntkgen import functions
from ntkgen.models import _batch_norm, _networks, _transformer
from ntkgen.typing import Array, PyTree


class Affine(NamedTuple):
    """One layer: kernel (in, out) or (height, width, in, out), and bias (out,)."""

    kernel: Array
    bias: Array


def is_linen(model: Any) -> bool:
    """Return whether a network is a Flax Linen module, also one that Python cannot hash (`functions.hashable`).

    Example:
      >>> from ntkgen import models
      >>> models.is_linen(models.MLP(4)), models.is_linen(object())
      (True, False)
    """
    return isinstance(functions.bare(model), nn.Module)


def is_relu_chain(model: Any) -> bool:
    """Return whether a network is a chain of Dense layers with ReLU between them: `MLP`, in any parametrisation.

    Example:
      >>> from ntkgen import models
      >>> models.is_relu_chain(models.MLP(4)), models.is_relu_chain(models.CNN(4))
      (True, False)
    """
    return isinstance(model, _networks.MLP)


def has_effective_layers(model: Any) -> bool:
    """Return whether `effective_layers` knows a network: `MLP` and `CNN`.

    Example:
      >>> from ntkgen import models
      >>> models.has_effective_layers(models.CNN(4)), models.has_effective_layers(models.BatchNormRelu())
      (True, False)
    """
    return isinstance(model, _networks.MLP | _networks.CNN)


def output_layer(model: _networks.MLP | _networks.CNN | _transformer.Transformer) -> str:
    """Return the name of the layer that makes the outputs of one of the package's networks.

    Example:
      >>> from ntkgen import models
      >>> [models.output_layer(model) for model in (models.MLP(4), models.CNN(4), models.Transformer(4))]
      ['dense3', 'dense1', 'head']
    """
    return "head" if isinstance(model, _transformer.Transformer) else _networks.unit_chain(model)[0][-1]


def effective_layers(model: _networks.MLP | _networks.CNN, variables: PyTree) -> list[Affine]:
    """Return the layers as the function uses them, in the order of the forward pass.

    The multipliers of a parametrisation are part of the weights. A batch norm with frozen statistics is an affine map
    of each channel; it is folded into the convolution before it (as Jiang et al. 2020 do for their norms).

    Example:
      >>> import jax
      >>> from ntkgen import models
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> layers = models.effective_layers(model, models.init(model, jax.random.key(0), (3,)))
      >>> [(layer.kernel.shape, layer.bias.shape) for layer in layers]
      [((3, 4), (4,)), ((4, 2), (2,))]

    Args:
      model: `MLP` or `CNN`.
      variables: of one network.

    Returns:
      One `Affine` for each layer. With ReLU (and the CNN's pooling) between them they compute the network.

    Raises:
      ValueError: another network.
    """
    if not has_effective_layers(model):
        raise ValueError(f"model: expected MLP or CNN, whose layers are known, got {type(model).__name__}")
    params, (names, norms) = variables["params"], _networks.unit_chain(model)
    layers = []
    for index, name in enumerate(names):
        kernel = params[name]["kernel"]
        bias = params[name].get("bias", jnp.zeros(kernel.shape[-1], kernel.dtype))
        if isinstance(model, _networks.MLP):
            place = "only" if len(names) == 1 else {0: "input", len(names) - 1: "output"}.get(index, "hidden")
            scales = _networks.layer_scales(model.parametrization, kernel.shape[0], model.width, place)
            layers.append(Affine(kernel * scales.kernel, bias * scales.bias))
            continue
        if name in norms:
            statistics, own = variables["batch_stats"][norms[name]], params.get(norms[name], {})
            scale = jax.lax.rsqrt(statistics["var"] + _batch_norm.EPSILON) * own.get("scale", 1.0)
            kernel = kernel * scale.reshape((1,) * (kernel.ndim - 1) + (-1,))
            bias = (bias - statistics["mean"]) * scale + own.get("bias", 0.0)
        layers.append(Affine(kernel, bias))
    return layers


def rescaled(model: _networks.MLP, variables: PyTree, factor: float, layer: int = 0) -> PyTree:
    """Return variables of the same function with one layer times a factor and the next kernel divided by it.

    ReLU(a z) = a ReLU(z) for a > 0 (Dinh et al. 2017, arXiv:1703.04933, section 3). A measure that changes under this
    cannot be a property of the function.

    Args:
      model: an `MLP` of at least two layers.
      variables: of one network, or with a leading seed axis.
      factor: more than 0.
      layer: index of the layer that is multiplied; not the last one.

    Returns:
      The variables, kernel and bias of the layer multiplied, the kernel behind it divided.

    Raises:
      ValueError: the network is no chain of Dense layers and ReLU, or an argument is out of range.

    Example:
      >>> model = _networks.MLP(3, depth=2)
      >>> variables = _networks.init(model, jax.random.key(0), (4,))
      >>> larger = rescaled(model, variables, 2.0)["params"]["dense0"]["bias"]
      >>> bool((larger == 2 * variables["params"]["dense0"]["bias"]).all())
      True
    """
    if not is_relu_chain(model):
        why = ": batch norm cancels the factor" if isinstance(model, _networks.CNN) else ""
        raise ValueError(f"model: expected MLP, a chain of Dense layers and ReLU, got {type(model).__name__}{why}")
    if not factor > 0:
        raise ValueError(f"factor: expected a number above 0, got {factor!r}")
    names = _networks.unit_chain(model)[0]
    if not 0 <= layer < len(names) - 1:
        raise ValueError(f"layer: expected 0 to {len(names) - 2}, a layer with another behind it, got {layer!r}")
    params = dict(variables["params"])
    params[names[layer]] = jax.tree.map(lambda leaf: leaf * factor, params[names[layer]])
    behind = params[names[layer + 1]]
    params[names[layer + 1]] = {**behind, "kernel": behind["kernel"] / factor}
    return {**variables, "params": params}


def features_fn(model: nn.Module, variables: dict[str, Any]) -> Callable[[Any, Array], Array]:
    """Return f(params, x) -> features (n, d), the inputs of the last Dense layer that a network calls.

    Args:
      model: a Flax Linen module with an `nn.Dense` outside of `nn.scan` and `nn.vmap`.
      variables: its variables; all collections but `params` are held fixed, as in `apply_fn`.

    Returns:
      A `jax.tree_util.Partial` over the frozen collections, evaluation mode, not jitted; further axes are flattened.

    Raises:
      ValueError: no Linen module; when called: it calls no Dense layer, or not once for every example.

    Example:
      >>> model = _networks.MLP(3, depth=2)
      >>> variables = _networks.init(model, jax.random.key(0), (4,))
      >>> features_fn(model, variables)(variables["params"], jnp.ones((5, 4))).shape
      (5, 3)
    """
    if not is_linen(model):
        raise ValueError(f"model: expected a Flax Linen module, got {type(functions.bare(model)).__name__}")
    frozen = {name: value for name, value in variables.items() if name != "params"}
    return Partial(_Features(functions.hashable(model)), frozen)


@dataclass(frozen=True)
class _Features:
    """The static half of `features_fn`: equal for equal networks."""

    model: Any

    def __call__(self, frozen: dict[str, Any], params: Any, x: Array) -> Array:
        """Call the network, and return what its last Dense layer was given."""
        seen: list[Array] = []

        def watch(call: Callable, args: tuple, kwargs: dict[str, Any], context: Any) -> Any:
            if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
                seen.append(args[0] if args else kwargs["inputs"])
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            functions.Evaluation(self.model)(frozen, params, x)
        num = len(jax.tree.leaves(x)[0])
        if not seen or seen[-1].shape[0] != num:
            shapes = [layer.shape for layer in seen[-1:]]
            raise ValueError(f"model: expected a last Dense layer with inputs ({num}, ...), got {shapes}")
        return seen[-1].reshape(num, -1)
