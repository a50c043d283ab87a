"""What a kernel says: how far it moved, what it is aligned with, what it predicts, and its infinite-width limit.

Kernels come in as (n1, n2), or as (n1, n2, k, k) with a block for each pair of outputs, and are worked on in float64.

Longer than 350 lines for its docstrings and examples, 44 % of it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike

Array = np.ndarray

NEGATIVE = 1e-3  # of the largest eigenvalue: what below zero is taken for rounding, also of a kernel made in float32


class Spectrum(NamedTuple):
    """Eigenvalues, descending (n,), and the eigenvectors that belong to them as columns (n, n)."""

    values: Array
    vectors: Array


class Flow(NamedTuple):
    """State of a linear model under gradient flow: |theta_t - theta_0|, and 1/2 |f_t - y|^2 averaged over samples."""

    movement: float
    loss: float


class InfiniteWidth(NamedTuple):
    """Kernels of one output over random initialisations, each (n1, n2); different outputs share nothing.

    Attributes:
      nngp: covariance of an output.
      ntk: expected tangent kernel.
    """

    nngp: Array
    ntk: Array


def as_matrix(kernel: ArrayLike) -> Array:
    """Flatten (n1, n2, k1, k2) to (n1 k1, n2 k2), outputs running fastest; (n1, n2) stays.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> kernels.as_matrix(np.zeros((4, 3, 2, 2))).shape
      (8, 6)
    """
    kernel = np.asarray(kernel, np.float64)
    if kernel.ndim == 4:
        n1, n2, k1, k2 = kernel.shape
        kernel = kernel.transpose(0, 2, 1, 3).reshape(n1 * k1, n2 * k2)
    if kernel.ndim != 2 or kernel.size == 0 or not np.isfinite(kernel).all():
        raise ValueError(f"kernel: expected finite (n1, n2) or (n1, n2, k, k), got shape {np.shape(kernel)}")
    return kernel


def symmetric(kernel: ArrayLike) -> Array:
    """Flatten a kernel of samples with themselves like `as_matrix`, or raise ValueError: it is not symmetric.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> kernels.symmetric(np.eye(2)).tolist()
      [[1.0, 0.0], [0.0, 1.0]]
      >>> kernels.symmetric([[1.0, 2.0], [0.0, 1.0]])
      Traceback (most recent call last):
          ...
      ValueError: kernel: expected a symmetric one, got shape (2, 2), or unequal halves
    """
    matrix = as_matrix(kernel)
    scale = np.abs(matrix).max()
    if matrix.shape[0] != matrix.shape[1] or np.abs(matrix - matrix.T).max() > 1e-5 * scale:
        raise ValueError(f"kernel: expected a symmetric one, got shape {np.shape(kernel)}, or unequal halves")
    return (matrix + matrix.T) / 2


def drift(kernel: ArrayLike, initial: ArrayLike) -> float:
    """Return |K_t - K_0| / |K_0| in Frobenius norms (kernels of one shape).

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> kernels.drift(2 * np.eye(2), np.eye(2))
      1.0
    """
    now, before = as_matrix(kernel), as_matrix(initial)
    _same_shape(now, before)
    return float(np.linalg.norm(now - before) / _nonzero(np.linalg.norm(before), "initial"))


def alignment(kernel: ArrayLike, other: ArrayLike, *, centred: bool = True) -> float:
    """Return <K, L> / (|K| |L|) of two symmetric kernels of one shape, centred first (Cortes et al. 2012, section 2.2).

    1 - alignment(K_0, K_t) is the drift that a change of scale does not count in. Kernels (n, n, k, k) are centred over
    samples, for each output by itself.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> round(kernels.alignment(5 * np.eye(3), np.eye(3)), 3)
      1.0
    """
    one, two = symmetric(kernel), symmetric(other)
    _same_shape(one, two)
    if centred:
        one, two = (_centre(matrix, np.shape(given)) for matrix, given in ((one, kernel), (two, other)))
    norms = [_nonzero(np.linalg.norm(m), name) for m, name in ((one, "kernel"), (two, "other"))]
    return float(np.sum(one / norms[0] * (two / norms[1])))


def target_alignment(kernel: ArrayLike, targets: ArrayLike, *, centred: bool = True) -> float:
    """Return the alignment of a kernel (n, n) with that of the targets (n, classes), Y Y^T.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> y = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> round(kernels.target_alignment(y @ y.T, y), 3), round(kernels.target_alignment(np.eye(3), y), 3)
      (1.0, 0.707)
    """
    targets = np.asarray(targets, np.float64)
    if targets.ndim != 2:
        raise ValueError(f"targets: expected (n, classes), such as one-hot rows, got shape {targets.shape}")
    return alignment(kernel, targets @ targets.T, centred=centred)


def _centre(matrix: Array, shape: tuple[int, ...]) -> Array:
    num_outputs = shape[2] if len(shape) == 4 else 1
    blocks = matrix.reshape(shape[0], num_outputs, shape[0], num_outputs)
    blocks = blocks - blocks.mean(0, keepdims=True)
    return (blocks - blocks.mean(2, keepdims=True)).reshape(matrix.shape)


def _same_shape(one: Array, two: Array) -> None:
    if one.shape != two.shape:
        raise ValueError(f"kernels: expected equal shapes, got {one.shape} and {two.shape}")


def _nonzero(norm: Any, name: str) -> float:
    if not norm > 0:
        raise ValueError(f"{name}: expected a kernel that is not zero (or constant, where it is centred)")
    return float(norm)


def spectrum(kernel: ArrayLike) -> Spectrum:
    """Decompose a symmetric kernel.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> kernels.spectrum(np.diag([1.0, 4.0])).values.tolist()
      [4.0, 1.0]
    """
    values, vectors = np.linalg.eigh(symmetric(kernel))
    return Spectrum(values[::-1], vectors[:, ::-1])


def effective_rank(kernel: ArrayLike, *, kind: str = "entropy") -> float:
    """Count the directions that matter in a positive semidefinite kernel.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> round(kernels.effective_rank(np.eye(2)), 3), round(kernels.effective_rank(np.diag([1.0, 0.0])), 3)
      (2.0, 1.0)

    Args:
      kernel: symmetric.
      kind: "entropy", exp(-sum p log p) of p = eigenvalues / trace (Roy and Vetterli 2007), or "participation",
        1 / sum p^2. Both are n for the identity and 1 for a single direction.

    Returns:
      The effective rank, between 1 and n.
    """
    if kind not in ("entropy", "participation"):
        raise ValueError(f"kind: expected entropy or participation, got {kind!r}")
    values = np.linalg.eigvalsh(symmetric(kernel))
    if values[0] < -NEGATIVE * np.abs(values).max():
        raise ValueError(f"kernel: expected a positive semidefinite one, got eigenvalues from {values[0]:.3g}")
    values = np.maximum(values, 0.0)
    p = values / _nonzero(values.sum(), "kernel")
    if kind == "participation":
        return float(1 / np.sum(p**2))
    return float(np.exp(-np.sum(p[p > 0] * np.log(p[p > 0]))))


class NotPositiveDefiniteError(ValueError):
    """A kernel with its ridge is not positive definite; a larger ridge helps.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> try:
      ...     kernels.regression(np.ones((2, 2)), np.array([[1.0], [3.0]]))  # equal samples, different targets
      ... except kernels.NotPositiveDefiniteError:
      ...     print("add a ridge")
      add a ridge
    """


def regression(kernel: ArrayLike, targets: ArrayLike, *, ridge: float = 0.0) -> Callable[[ArrayLike], Array]:
    """Fit kernel regression, with no prior mean: K(x, X) (K + ridge I)^-1 y.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> predict = kernels.regression(np.eye(2), np.array([[1.0], [3.0]]))
      >>> predict(np.array([[0.5, 0.5]])).tolist()
      [[2.0]]

    Args:
      kernel: of the training samples, (n, n), shared by all outputs, or (n, n, k, k).
      targets: (n, k).
      ridge: added to the diagonal, in the units of the kernel.

    Returns:
      predict: kernel of new samples with the training ones, (m, n) or (m, n, k, k), -> outputs (m, k).

    Raises:
      NotPositiveDefiniteError: kernel + ridge is not positive definite.
      ValueError: shapes do not fit.
    """
    matrix, y = symmetric(kernel), checked_targets("targets", targets, kernel)
    num_outputs = np.shape(targets)[1]
    if not ridge >= 0:
        raise ValueError(f"ridge: expected at least 0, got {ridge}")
    try:
        factor = scipy.linalg.cho_factor(matrix + ridge * np.eye(len(matrix)), lower=True)
    except np.linalg.LinAlgError as error:
        low, high = scipy.linalg.eigvalsh(matrix)[[0, -1]]
        raise NotPositiveDefiniteError(
            f"kernel: not positive definite with ridge {ridge:g}, eigenvalues from {low:.3g} to {high:.3g}; "
            "use a larger ridge"
        ) from error
    weights = scipy.linalg.cho_solve(factor, y)

    def predict(cross: ArrayLike) -> Array:
        _check_cross(cross, kernel)
        return (as_matrix(cross) @ weights).reshape(-1, num_outputs)

    return predict


def _check_cross(cross: ArrayLike, kernel: ArrayLike) -> None:
    shape, known = np.shape(cross), np.shape(kernel)
    if len(shape) != len(known) or shape[1:] != known[1:]:
        raise ValueError(f"cross: expected {('m', *known[1:])} as the kernel {known} has it, got {shape}")


def _positive(values: Array, kernel: ArrayLike) -> Array:
    """Set what is rounding among a kernel's eigenvalues, descending, to zero: dividing by it would count it."""
    given = np.asarray(kernel).dtype
    eps = np.finfo(given if np.issubdtype(given, np.floating) else float).eps
    return np.where(values < len(values) * float(eps) * values[0], 0.0, np.maximum(values, 0.0))


def checked_targets(name: str, targets: ArrayLike, kernel: ArrayLike) -> Array:
    """Bring (n, k) to the rows of the flattened kernel: (n, k), or (n k, 1) where outputs are coupled."""
    y = np.asarray(targets, np.float64)
    shape = np.shape(kernel)
    if y.ndim != 2 or len(y) != shape[0] or (len(shape) == 4 and y.shape[1] != shape[2]) or not np.isfinite(y).all():
        raise ValueError(f"{name}: expected finite (n, k) that fit a kernel {shape}, got shape {y.shape}")
    return y.reshape(-1, 1) if len(shape) == 4 else y


def gradient_flow(
    kernel: ArrayLike, targets: ArrayLike, start: ArrayLike, cross: ArrayLike | None = None, start_new: Any = None
) -> Callable[[float], tuple[Array, Array | None]]:
    """Predict a linear model's outputs under gradient flow on 1/2 sum_i |f(x_i) - y_i|^2 (Lee et al. 2019, eq. 10-11).

    f_t(X) = y + exp(-t K) (f_0 - y); f_t(x) = f_0(x) - K(x, X) K^-1 (I - exp(-t K)) (f_0 - y). For the mean over n
    samples instead of the sum, t is time / n; gradient descent of rate r has done t = r x steps.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> at = kernels.gradient_flow(np.eye(2), np.array([[1.0], [3.0]]), np.zeros((2, 1)))
      >>> [at(time)[0].ravel().round(3).tolist() for time in (0.0, np.inf)]
      [[0.0, 0.0], [1.0, 3.0]]

    Args:
      kernel: tangent kernel of the training samples, (n, n) or (n, n, k, k); singular ones are fine: eigenvalues below
        the rounding of its own dtype count as zero.
      targets: y (n, k).
      start: f_0 at the training samples (n, k).
      cross: kernel of new samples with the training ones, (m, n) or (m, n, k, k).
      start_new: f_0 at the new samples (m, k).

    Returns:
      at: time t >= 0, infinity included -> (outputs at the training samples (n, k), at the new ones or None).
    """
    y, f0 = checked_targets("targets", targets, kernel), checked_targets("start", start, kernel)
    if f0.shape != y.shape or (cross is None) != (start_new is None):
        raise ValueError(
            f"start: expected as many outputs as targets, {y.shape}, got {f0.shape}; cross and start_new go together"
        )
    values, vectors = spectrum(kernel)
    values = _positive(values, kernel)
    modes = vectors.T @ (f0 - y)
    num_outputs = np.shape(targets)[1]
    across = None
    if cross is not None:
        _check_cross(cross, kernel)
        new = np.asarray(start_new, np.float64)
        if new.shape != (len(np.asarray(cross)), num_outputs) or not np.isfinite(new).all():
            raise ValueError(f"start_new: expected finite ({len(np.asarray(cross))}, {num_outputs}), got {new.shape}")
        across = as_matrix(cross) @ vectors

    def at(t: float) -> tuple[Array, Array | None]:
        if not t >= 0:
            raise ValueError(f"t: expected at least 0, got {t}")
        time = np.zeros_like(values)
        np.multiply(values, t, out=time, where=values > 0)  # infinity times zero is zero here
        here = (y + vectors @ (np.exp(-time)[:, None] * modes)).reshape(-1, num_outputs)
        if across is None:
            return here, None
        # A direction that the training samples do not see has no kernel with new samples either.
        done = np.divide(-np.expm1(-time), values, out=np.zeros_like(values), where=values > 0)
        return here, new - (across @ (done[:, None] * modes)).reshape(-1, num_outputs)

    return at


def flow_movement(kernel: ArrayLike, targets: ArrayLike, covariance: Any = None) -> Callable[[float], Flow]:
    """Predict how far a linear model's parameters move under the flow of `gradient_flow`: the lazy limit's movement.

    |theta_t - theta_0|^2 = r^T (I - exp(-t K)) K^-1 (I - exp(-t K)) r for the residual r = f_0 - y; at infinite time
    r^T K^-1 r.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> flow = kernels.flow_movement(np.eye(2), np.array([[3.0], [4.0]]))(np.inf)
      >>> round(flow.movement, 3), round(flow.loss, 3)
      (5.0, 0.0)

    Args:
      kernel: tangent kernel of the training samples, (n, n), shared by all outputs.
      targets: y (n, k), or y - f_0 of one network.
      covariance: of each output over random initialisations with mean zero, (n, n), as `infinite_mlp` gives it; the
        square root of the expected square is returned then. None where the start is known, or zero.

    Returns:
      at: time t >= 0, infinity included -> movement and loss.
    """
    y = checked_targets("targets", targets, kernel)
    if np.ndim(kernel) != 2:
        raise ValueError(f"kernel: expected (n, n), shared by all outputs, got shape {np.shape(kernel)}")
    values, vectors = spectrum(kernel)
    values = _positive(values, kernel)
    power = np.sum((vectors.T @ y) ** 2, 1)
    if covariance is not None:
        power += y.shape[1] * np.sum(vectors * (symmetric(covariance) @ vectors), 0)

    def at(t: float) -> Flow:
        if not t >= 0:
            raise ValueError(f"t: expected at least 0, got {t}")
        time = np.zeros_like(values)
        np.multiply(values, t, out=time, where=values > 0)
        gone = np.divide(np.expm1(-time) ** 2, values, out=np.zeros_like(values), where=values > 0)
        return Flow(float(np.sqrt(power @ gone)), float(power @ np.exp(-2 * time)) / (2 * len(y)))

    return at


def infinite_mlp(
    x1: ArrayLike,
    x2: Any = None,
    *,
    width: float,
    depth: int = 4,
    parametrization: str = "standard",
    weight_variance: float = 1 / 3,
    bias: bool = True,
) -> InfiniteWidth:
    """Return the kernels of a wide ReLU MLP d-w-...-w-k, weights and biases drawn from U(+-1/sqrt(fan_in)).

    Both have variance 1 / (3 fan_in). With a . a' the product of a layer's inputs, in expectation w E[relu relu'],

        nngp_l = (a_l . a_l' + 1) / (3 fan_in_l),      ntk = sum_l (a_l . a_l' + 1) prod_{m>l} (1/3) E[step step']_m:

    the factors of every layer are kept (fan-ins d, w, ..., w, and the ones of the biases). The usual limit, which
    drops all that is not proportional to the width, is 784/w away from a finite network and so of no use for a
    comparison. Expectations are those of Cho and Saul (2009); preactivations are taken as Gaussian, which needs many
    inputs too.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> found = kernels.infinite_mlp(np.eye(2), width=np.inf, depth=2, parametrization="ntk")
      >>> found.ntk.shape, bool(found.ntk[0, 0] > found.ntk[0, 1] > 0)
      ((2, 2), True)

    Args:
      x1: inputs (n1, ...), flattened.
      x2: inputs (n2, ...), or None for x1.
      width: of the hidden layers; infinity in the "ntk" parametrisation only.
      depth: Dense layers, the output layer included.
      parametrization: "standard", derivatives in the weights themselves, or "ntk": each layer is
        (W a + b) / sqrt(fan_in) with entries U(+-1), or of the given variance: the same function, with each layer's
        term divided by its fan-in.
      weight_variance: fan-in times the variance of weights and biases; 1/3 is our initialisation, 2 that of He et al.
      bias: whether the layers have biases.

    Returns:
      Both kernels, float64.
    """
    if parametrization not in ("standard", "ntk"):
        raise ValueError(f"parametrization: expected standard or ntk, got {parametrization!r}")
    if depth < 1 or not width >= 1 or (math.isinf(width) and parametrization == "standard"):
        raise ValueError(f"width, depth: expected at least 1, and finite in the standard one, got {width}, {depth}")
    a, b = (np.asarray(x, np.float64).reshape(len(np.asarray(x)), -1) for x in (x1, x1 if x2 is None else x2))
    if not (weight_variance > 0 and math.isfinite(weight_variance)):
        raise ValueError(f"weight_variance: expected a positive number, got {weight_variance}")
    if a.shape[1] != b.shape[1] or not (np.isfinite(a).all() and np.isfinite(b).all()) or a.size == 0 or b.size == 0:
        raise ValueError(f"x1, x2: expected finite samples of one size, got {np.shape(x1)} and {np.shape(x2)}")
    fan_in = float(a.shape[1])
    # Products of a layer's inputs and a one for the bias, over the fan-in: with the other sample, and with themselves.
    cross, own_a, own_b = ((m + bias) / fan_in for m in (a @ b.T, np.sum(a * a, 1), np.sum(b * b, 1)))
    ntk = np.zeros_like(cross)
    for layer in range(depth):
        ntk += cross * (fan_in if parametrization == "standard" else 1.0)
        if layer == depth - 1:
            break
        scale = np.sqrt(own_a[:, None] * own_b[None]) * weight_variance
        # Without biases a sample of zeros has no angle to others, and none is needed: all products with it are zero.
        cosine = np.clip(cross * weight_variance / np.where(scale > 0, scale, 1.0), -1.0, 1.0)
        angle = np.arccos(cosine)
        ntk *= (np.pi - angle) / (2 * np.pi) * weight_variance  # E[step step'], and the variance of the weights behind
        fan_in, one = float(width), bias / width
        cross = scale * (np.sqrt(1 - cosine**2) + (np.pi - angle) * cosine) / (2 * np.pi) + one
        own_a, own_b = (own * weight_variance / 2 + one for own in (own_a, own_b))
    return InfiniteWidth(cross * weight_variance, ntk)
