"""What lazy networks, linear in their parameters, would do at another network's training loss."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.integrate
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike

from ntkgen import kernels

Array = np.ndarray


class Arrival(NamedTuple):
    """When a linear model's loss has come down to a value, and |theta_t - theta_0| then; NaN where it never does."""

    time: float
    movement: float


def movement_to_loss(
    kernel: ArrayLike, targets: ArrayLike, loss: float, *, objective: str = "mse", covariance: Any = None
) -> Arrival:
    """Predict how far a linear model's parameters move until its mean loss has come down to a value.

    A lazy network's movement at the training loss where another one's is measured. For the squared loss by
    `kernels.flow_movement`. For cross-entropy theta_t = theta_0 + J^T u and f_t = K u with u' = y - softmax(f_t),
    integrated (Runge-Kutta, relative accuracy 1e-4) from outputs of zero; |J^T u|^2 = tr(u^T K u).

    Args:
      kernel: tangent kernel of the training samples, (n, n), shared by all outputs.
      targets: y (n, k); for cross-entropy each sample's probabilities, such as one-hot labels.
      loss: the value, of 1/2 |f - y|^2 or of the cross-entropy in nats, averaged over samples; more than 0.
      objective: "mse" or "cross_entropy".
      covariance: as in `kernels.flow_movement`; squared loss only.

    Returns:
      Time of the flow on the *sum* of the losses, and movement: (0, 0) if the loss is as low at the start.

    Raises:
      ValueError: an array has the wrong shape, the loss is not positive, the objective unknown.
    """
    if objective not in ("mse", "cross_entropy"):
        raise ValueError(f"objective: expected mse or cross_entropy, got {objective!r}")
    if not (loss > 0 and math.isfinite(loss)):
        raise ValueError(f"loss: expected a positive number, got {loss}")
    if objective == "cross_entropy":
        if covariance is not None:
            raise ValueError("covariance: expected None with cross_entropy, whose flow starts at outputs of zero")
        return _cross_entropy_to_loss(kernel, targets, loss)
    return arrival(kernels.flow_movement(kernel, targets, covariance), loss)


def arrival(at: Callable[[float], kernels.Flow], loss: float) -> Arrival:
    """Say when a flow of `kernels.flow_movement` has come down to a loss, as `movement_to_loss` does, which makes it.

    Args:
      at: the flow, time -> movement and loss.
      loss: of 1/2 |f - y|^2, averaged over samples.

    Returns:
      Time and movement.
    """
    if at(0.0).loss <= loss:
        return Arrival(0.0, 0.0)
    if not at(math.inf).loss < loss:
        return Arrival(math.nan, math.nan)
    late = 1.0
    while at(late).loss > loss:
        late *= 2
    time = float(scipy.optimize.brentq(lambda t: at(t).loss - loss, 0.0, late, xtol=1e-300, rtol=1e-12))
    return Arrival(time, at(time).movement)


def _cross_entropy_to_loss(kernel: ArrayLike, targets: ArrayLike, loss: float) -> Arrival:
    y, matrix = kernels.checked_targets("targets", targets, kernel), kernels.symmetric(kernel)
    if np.ndim(kernel) != 2:
        raise ValueError(f"kernel: expected (n, n), shared by all outputs, got shape {np.shape(kernel)}")
    if (y < 0).any() or np.abs(y.sum(1) - 1).max() > 1e-6:
        raise ValueError("targets: expected probabilities that sum to one for each sample")

    def excess(_: float, u: Array) -> float:
        return float(-np.mean(np.sum(y * scipy.special.log_softmax(matrix @ u.reshape(y.shape), 1), 1))) - loss

    def slope(_: float, u: Array) -> Array:
        return (y - scipy.special.softmax(matrix @ u.reshape(y.shape), 1)).ravel()

    start = np.zeros(y.size)
    if excess(0.0, start) <= 0:
        return Arrival(0.0, 0.0)
    excess.terminal = True  # type: ignore[attr-defined]
    fastest = np.abs(matrix).sum(1).max()  # bounds the largest eigenvalue
    end = 1e5 * len(y) / max(np.trace(matrix), np.finfo(float).tiny)
    found = scipy.integrate.solve_ivp(
        slope, (0.0, end), start, events=excess, rtol=1e-4, atol=1e-4 / max(fastest, np.finfo(float).tiny)
    )
    if not len(found.t_events[0]):
        return Arrival(math.nan, math.nan)
    u = found.y_events[0][0].reshape(y.shape)
    return Arrival(float(found.t_events[0][0]), float(np.sqrt(np.sum(u * (matrix @ u)))))
