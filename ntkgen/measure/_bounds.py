"""Measurements that bound the test error: counting, norms, and the PAC-Bayes bound with its flatness.

For networks of the size that is trained in practice most of these bounds are above 1, and so say nothing; they are
reported as they are.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import models, train, tree
from ntkgen.measure import _norms
from ntkgen.measure._take import Columns, Examples, Measurement, Network, first, function_of, outputs
from ntkgen.typing import Array, Loss, PyTree

GRID = tuple(float(sigma) for sigma in np.geomspace(1e-4, 10, 41))  # eight to a decade, fixed before any data
BATCH_STATISTICS = "batch statistics come from the training data, and a prior must not"


def vc_dimension(units: list[int], num_params: list[int]) -> float:
    """Return an upper bound of the VC dimension of a ReLU network of one output.

    L + Lbar W log2(4 e R log2(2 e R)), with W params, W_i of them in layers 1 ... i, Lbar = sum W_i / W, and R = sum i
    k_i over the layers' units k_i (Bartlett et al. 2019, JMLR 20:63, theorem 7, for one breakpoint and degree 1).

    Args:
      units: of each layer, the output layer included.
      num_params: of each layer.
    """
    total = sum(num_params)
    effective = sum(np.cumsum(num_params)) / total
    r = sum(i * k for i, k in enumerate(units, 1))
    return float(len(units) + effective * total * math.log2(4 * math.e * r * math.log2(2 * math.e * r)))


def vc_excess(dimension: float, n: int, delta: float) -> float:
    """Return what is added to the training error, sqrt(8 (log S(2n) + log(4 / delta)) / n) (Vapnik 1998, section 4.9).

    S(2n) <= (2 e n / d)^d, and at most 2^(2n).
    """
    growth = 2 * n * math.log(2)
    if dimension < 2 * n:
        growth = min(growth, dimension * (math.log(2 * n / dimension) + 1))
    return math.sqrt(8 * (growth + math.log(4 / delta)) / n)


def _capacity(network: Network, examples: Examples, *, model: Any, loss: Loss, delta: float) -> Columns:
    f, params = function_of(network, model)
    size, n = tree.size(params), len(examples.y)
    out = outputs(f, params, examples.x)
    vc = excess = log_bound = jnp.full((), jnp.nan)
    if models.is_relu_chain(model):
        layers = models.effective_layers(model, network.variables)
        counts = [kernel.size + bias.size for kernel, bias in layers]
        dimension = vc_dimension([len(bias) for _, bias in layers], counts)
        vc, excess = jnp.asarray(math.log10(dimension)), jnp.asarray(vc_excess(dimension, n, delta))
        margin = jnp.percentile(_norms.margins(out, examples.y), _norms.PERCENTILE)
        radius = jnp.sqrt(jnp.mean(jnp.sum(examples.x.reshape(n, -1) ** 2, -1)))
        constant = 2 * (math.sqrt(2 * math.log(2) * len(layers)) + 1) / math.sqrt(n)
        log_bound = jnp.log(constant * radius / jnp.where(margin > 0, margin, jnp.nan))
        log_bound = (log_bound + _norms.log_products(network, model)[1]) / math.log(10)
    return {
        "log10_params": jnp.asarray(math.log10(size)),
        "log10_params_per_example": jnp.asarray(math.log10(size / n)),
        "log10_vc_dimension": vc,
        "vc_bound": 1 - jnp.mean(train.correct(out, examples.y)) + excess,
        "log10_norm_bound": log_bound,
    }


CAPACITY = Measurement(
    name="capacity",
    definition="Size alone. log10 of the number of params, and of params per training example (0 where one meets the "
    "other). An upper bound of the VC dimension (Bartlett et al. 2019, JMLR 20:63, theorem 7, for one output), and "
    "the training error plus Vapnik's term for it, a bound of the test error of two-class networks (delta = 0.05). "
    "The norm bound is 2 / margin times the Rademacher complexity (1 + sqrt(2 L log 2)) prod |W|_F rms |x| / sqrt n "
    "(Golowich et al. 2018, arXiv:1712.06541, theorem 1; biases left out). Both bounds are NaN for the CNN, and far "
    "above 1 for most networks: they order sizes, and guarantee nothing.",
    columns={
        "log10_params": "log10 params",
        "log10_params_per_example": "log10 ratio",
        "log10_vc_dimension": "log10 dimension",
        "vc_bound": "fraction",
        "log10_norm_bound": "log10 fraction",
    },
    function=_capacity,
    options={"delta": 0.05},
    direction={"log10_params": 1, "log10_vc_dimension": 1, "vc_bound": 1, "log10_norm_bound": 1},
    undefined=partial(_norms.no_layers, (), ("log10_vc_dimension", "vc_bound", "log10_norm_bound")),
)


def _pac_bayes(
    network: Network,
    examples: Examples,
    *,
    model: Any,
    loss: Loss,
    samples: int | None,
    draws: int,
    rise: float,
    delta: float,
) -> Columns:
    f, params = function_of(network, model)
    x, y = first(examples.x, samples), examples.y[:samples]
    keys = jax.random.split(network.key, draws)

    def errors(sizes: PyTree, sigma: Array) -> Array:
        """Return the training error at each draw (draws,); the draws are those of every sigma."""

        def one(key: Array) -> Array:
            noise = tree.random_like(key, params)
            moved = jax.tree.map(lambda w, size, e: w + sigma * size * e, params, sizes, noise)
            return 1 - jnp.mean(train.correct(outputs(f, moved, x), y))

        return jax.lax.map(one, keys)

    level = 1 - jnp.mean(train.correct(outputs(f, params, x), y)) + rise
    ones = jax.tree.map(jnp.ones_like, params)
    plain, relative = (_largest(partial(errors, sizes), level) for sizes in (ones, jax.tree.map(jnp.abs, params)))
    sigma = _sigma(plain)
    at = errors(ones, jnp.where(jnp.isfinite(sigma), sigma, 0.0))
    error = jnp.where(jnp.isfinite(sigma), jnp.mean(at), jnp.nan)
    moved = tree.norm(tree.axpy(-1.0, network.initial["params"], params))
    bound = mcallester(error, moved**2 / (2 * sigma**2), len(y), delta / len(GRID))
    inside = [(index >= 0) & (index < len(GRID) - 1) for index in (plain, relative)]
    return {
        "pac_bayes_sigma": sigma,
        "pac_bayes_resolved": inside[0],
        "pac_bayes_flatness": sigma**-2.0,
        "pac_bayes_error": error,
        "pac_bayes_error_error": jnp.where(jnp.isfinite(sigma), jnp.std(at, ddof=1) / draws**0.5, jnp.nan),
        "pac_bayes_bound": bound if set(network.variables) == {"params"} else jnp.full((), jnp.nan),
        "pac_bayes_relative_sigma": _sigma(relative),
        "pac_bayes_relative_resolved": inside[1],
    }


def mcallester(error: Array, divergence: Array, n: int, delta: float) -> Array:
    """Return error + sqrt((KL + log(2 sqrt n / delta)) / (2 n)): McAllester 1999 with the constant of Maurer 2004."""
    return error + jnp.sqrt((divergence + math.log(2 * math.sqrt(n) / delta)) / (2 * n))


def _largest(errors: Any, level: Array) -> Array:
    """Return the index of the largest sigma of the grid whose mean error is at most the level, by bisection; or -1."""
    grid = jnp.asarray(GRID)

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = jnp.maximum((low + high) // 2, 0)
        fine = jnp.mean(errors(grid[middle])) <= level + 1e-6  # rounding; NaN counts as worse
        open_ = high - low > 1
        return jnp.where(open_ & fine, middle, low), jnp.where(open_ & ~fine, middle, high)

    steps = math.ceil(math.log2(len(GRID) + 1))
    return jax.lax.fori_loop(0, steps, halve, (jnp.asarray(-1), jnp.asarray(len(GRID))))[0]


def _sigma(index: Array) -> Array:
    return jnp.where(index >= 0, jnp.asarray(GRID)[jnp.maximum(index, 0)], jnp.nan)


def _no_prior(model: Any, loss: Loss) -> dict[str, str]:
    return {"pac_bayes_bound": BATCH_STATISTICS} if isinstance(model, models.CNN) else {}


PAC_BAYES = Measurement(
    name="pac_bayes",
    definition="Largest sigma at which Gaussian noise in all params raises the mean training error by at most 0.1 "
    "(Jiang et al. 2020, appendix C), over 20 draws that all sigmas share, by bisection over a fixed grid of 41 (eight "
    "to a decade, 1e-4 to 10). Flatness is 1 / sigma^2. Resolved is 1 where sigma is inside the grid; below it sigma "
    "is NaN. Relative sigma is the same with noise of standard deviation sigma |w|. The bound of the noisy network's "
    "test error: training error + sqrt((KL + log(2 sqrt n / delta')) / (2 n)) with KL = |w - w_0|^2 / (2 sigma^2) and "
    "delta' = 0.05 / 41 for the choice from the grid (McAllester 1999; Maurer 2004, arXiv:cs/0411099, theorem 5). The "
    "mean over the draws stands for the expected training error; its standard error is given. NaN with batch "
    "statistics, because they make the prior depend on the data.",
    columns={
        "pac_bayes_sigma": "param",
        "pac_bayes_resolved": "0 or 1",
        "pac_bayes_flatness": "per squared param",
        "pac_bayes_error": "fraction",
        "pac_bayes_error_error": "fraction",
        "pac_bayes_bound": "fraction",
        "pac_bayes_relative_sigma": "ratio",
        "pac_bayes_relative_resolved": "0 or 1",
    },
    function=_pac_bayes,
    options={"samples": None, "draws": 20, "rise": 0.1, "delta": 0.05},
    direction={
        "pac_bayes_sigma": -1,
        "pac_bayes_flatness": 1,
        "pac_bayes_bound": 1,
        "pac_bayes_relative_sigma": -1,
    },
    undefined=_no_prior,
)
