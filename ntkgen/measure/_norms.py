"""Measurements of margins, and of the norms of layers (Jiang et al. 2020, appendix C).

Layers are those that the function uses (`models.effective_layers`): batch norm is folded into the convolutions. A
convolution kernel (height, width, in, out) counts as the matrix (height width in, out).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ntkgen import models, train, tree
from ntkgen.measure._take import Columns, Examples, Measurement, Network, function_of, outputs
from ntkgen.typing import Array, Loss

LAYERS = "the layers are known for MLP and CNN only"
CHAIN = "it is defined for a chain of Dense layers and ReLU (MLP)"
PERCENTILE = 10  # of the training margins, in place of their minimum: Jiang et al. 2020, appendix C

SQUARINGS = 20  # of Gram matrices, see `spectral_norm`


def margins(out: Array, y: Array) -> Array:
    """Return the output of the label minus the largest other output, (n,); NaN where targets are no class labels."""
    if not train.is_classification(out, y) or out.ndim != 2:
        return jnp.full(len(out), jnp.nan, out.dtype)
    own = jax.nn.one_hot(y, out.shape[-1], dtype=bool)
    return jnp.max(jnp.where(own, out, -jnp.inf), -1) - jnp.max(jnp.where(own, -jnp.inf, out), -1)


def margin_of(network: Network, examples: Examples, model: Any) -> Array:
    """Return the tenth percentile of the training margins -> ()."""
    f, params = function_of(network, model)
    return jnp.percentile(margins(outputs(f, params, examples.x), examples.y), PERCENTILE)


def spectral_norm(kernel: Array) -> Array:
    """Return the largest singular value of a kernel as a matrix (inputs, out) -> ().

    The Gram matrix G is squared `SQUARINGS` times, M = G^p with p = 2^20, and sigma^2 = tr(G M) / tr(M): the mean of
    the eigenvalues with weights lambda^p. It is too small by at most d / (e p) of itself for G of shape (d, d), 2e-4
    for d = 500. Only products are needed: on two cores a program with several of LAPACK's decompositions beside
    products stood still for minutes (XLA:CPU).
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    gram = matrix.T @ matrix if matrix.shape[0] >= matrix.shape[1] else matrix @ matrix.T

    def square(_: int, power: Array) -> Array:
        return _over_trace(power @ power)

    power = jax.lax.fori_loop(0, SQUARINGS, square, _over_trace(gram))
    return jnp.sqrt(jnp.sum(gram * power))


def _over_trace(matrix: Array) -> Array:
    trace = jnp.trace(matrix)
    return matrix / jnp.where(trace > 0, trace, 1.0)


def log_products(network: Network, model: Any) -> tuple[Array, Array]:
    """Return the sums over layers of log spectral and of log Frobenius norms -> (), (); NaN for unknown layers."""
    if not models.has_effective_layers(model):
        return jnp.full((), jnp.nan), jnp.full((), jnp.nan)
    kernels = [layer.kernel for layer in models.effective_layers(model, network.variables)]
    spectral = jnp.stack([spectral_norm(kernel) for kernel in kernels])
    frobenius = jnp.stack([jnp.sqrt(jnp.sum(kernel**2)) for kernel in kernels])
    return jnp.sum(jnp.log(spectral)), jnp.sum(jnp.log(frobenius))


def log_path_norm(network: Network, examples: Examples, model: Any) -> Array:
    """Return half the log of the summed outputs of the squared weights for an input of ones -> ()."""
    if not models.is_relu_chain(model):
        return jnp.full((), jnp.nan)
    layers = models.effective_layers(model, network.variables)
    log_scale = jnp.zeros(())
    at = jnp.ones(layers[0].kernel.shape[0], layers[0].kernel.dtype)
    for kernel, bias in layers:  # all numbers are at least 0, so that ReLU does nothing
        # Divided by its largest value on the way: products of many squares leave float32's range.
        at = at @ kernel**2 + bias**2 * jnp.exp(-log_scale)
        largest = jnp.max(at)
        at, log_scale = at / jnp.where(largest > 0, largest, 1.0), log_scale + jnp.log(largest)
    return 0.5 * (jnp.log(jnp.sum(at)) + log_scale)


def _norms(network: Network, examples: Examples, *, model: Any, loss: Loss) -> Columns:
    spectral, frobenius = log_products(network, model)
    margin = margin_of(network, examples, model)
    margin = jnp.where(margin > 0, margin, jnp.nan)
    moved = jnp.full((), jnp.nan)
    if models.has_effective_layers(model):
        trees = (network.variables["params"], network.initial["params"])
        pairs = [tuple(params[name]["kernel"] for params in trees) for name in models.unit_chain(model)[0]]
        moved = jnp.sqrt(sum(spectral_norm(after - before) ** 2 for after, before in pairs))
    found = {
        "log_spectral_product": spectral,
        "log_frobenius_product": frobenius,
        "log_param_norm": jnp.log(tree.norm(network.variables["params"])),
        "log_path_norm": log_path_norm(network, examples, model),
        "log_spectral_distance": jnp.log(moved),
    }
    return found | {f"{name}_over_margin": value - jnp.log(margin) for name, value in found.items()}


_NORMS = (
    "log_spectral_product",
    "log_frobenius_product",
    "log_param_norm",
    "log_path_norm",
    "log_spectral_distance",
)


def no_layers(known: Sequence[str], chains: Sequence[str], model: Any, loss: Loss) -> dict[str, str]:
    """Return which columns are undefined: those that need known layers, those that need a chain of Dense layers."""
    found = {} if models.has_effective_layers(model) else dict.fromkeys(known, LAYERS)
    return found if models.is_relu_chain(model) else found | dict.fromkeys(chains, CHAIN)


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}{ending}" for name in names for ending in ("", "_over_margin"))


NORMS = Measurement(
    name="norms",
    definition="Natural logarithms of norms (Jiang et al. 2020, arXiv:1912.02178, appendix C): sum over layers of log "
    "|W|_2 and of log |W|_F, |w|_2 of all params, the path norm sqrt(sum_i f_{w^2}(1)_i) (Neyshabur et al. 2015, "
    "arXiv:1503.00036; squared weights and biases, input of ones), and sqrt(sum over layers |W - W_0|_2^2) of the "
    "kernels as stored. And the same minus the log of the margin, the tenth percentile over training examples; NaN "
    "where it is not positive. Batch norm is folded into the weights. The path norm is NaN for the CNN.",
    columns={f"{name}{ending}": "log" for ending in ("", "_over_margin") for name in _NORMS},
    function=_norms,
    direction=dict.fromkeys(_both(*_NORMS), 1),
    undefined=partial(
        no_layers,
        _both("log_spectral_product", "log_frobenius_product", "log_spectral_distance"),
        _both("log_path_norm"),
    ),
)


def _margins(network: Network, examples: Examples, *, model: Any, loss: Loss) -> Columns:
    f, params = function_of(network, model)
    found = margins(outputs(f, params, examples.x), examples.y)
    tenth = jnp.percentile(found, PERCENTILE)
    return {
        "margin_tenth": tenth,
        "margin_median": jnp.median(found),
        "margin_smallest": jnp.min(found),
        "margin_normalised": tenth * jnp.exp(-log_products(network, model)[0]),
    }


MARGINS = Measurement(
    name="margins",
    definition="Margin of a training example: output of its label minus the largest other output. Tenth percentile "
    "(Jiang et al. 2020, appendix C), median and minimum; and the tenth percentile over the product of the layers' "
    "spectral norms (Bartlett et al. 2017, arXiv:1706.08498). Batch norm is folded into the weights.",
    columns={
        "margin_tenth": "outputs",
        "margin_median": "outputs",
        "margin_smallest": "outputs",
        "margin_normalised": "outputs per norm",
    },
    function=_margins,
    direction={"margin_tenth": -1, "margin_median": -1, "margin_smallest": -1, "margin_normalised": -1},
    undefined=partial(no_layers, ("margin_normalised",), ()),
)
