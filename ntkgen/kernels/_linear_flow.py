"""What lazy networks, linear in their parameters, would do at another network's training loss."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.integrate
import scipy.optimize
import scipy.special
from numpy.typing import ArrayLike

from ntkgen.kernels import _regression

Array = np.ndarray

# Where labels contradict each other the loss comes to rest above its target, and steps stay as short as stability wants
# them; where it only takes long they grow. So a standstill tells the two apart.
STALLED = 200  # steps in which a thousandth of what is left must be gained
MOST_STEPS = 20_000


class Arrival(NamedTuple):
    """When a linear model's loss has come down to a value, and |theta_t - theta_0| then.

    NaN where it never does; for cross-entropy also where it stands still on the way (`STALLED`, `MOST_STEPS`).
    """

    time: float
    movement: float


def movement_to_loss(
    kernel: ArrayLike, targets: ArrayLike, loss: float, *, objective: str = "mse", covariance: Any = None
) -> Arrival:
    """Predict how far a linear model's parameters move until its mean loss has come down to a value.

    A lazy network's movement at the training loss where another one's is measured. For the squared loss by
    `kernels.flow_movement`. For cross-entropy theta_t = theta_0 + J^T u and f_t = K u with u' = y - softmax(f_t),
    integrated (Runge-Kutta, an error of 1e-4 a step) from outputs of zero; |J^T u|^2 = tr(u^T K u).

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> found = kernels.movement_to_loss(np.eye(1), np.ones((1, 1)), loss=0.125)  # half of the residual is left
      >>> round(found.time, 3), round(found.movement, 3)
      (0.693, 0.5)

    Args:
      kernel: tangent kernel of the training samples, (n, n), positive semidefinite, shared by all outputs.
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
    return arrival(_regression.flow_movement(kernel, targets, covariance), loss)


def arrival(at: Callable[[float], _regression.Flow], loss: float) -> Arrival:
    """Return when a flow of `kernels.flow_movement` has come down to a loss; `movement_to_loss` calls it.

    Example:
      >>> import numpy as np
      >>> from ntkgen import kernels
      >>> found = kernels.arrival(kernels.flow_movement(np.eye(1), np.ones((1, 1))), loss=0.125)
      >>> round(found.time, 3), round(found.movement, 3)
      (0.693, 0.5)

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
    while at(late / 2).loss <= loss:
        late /= 2
    time = float(scipy.optimize.brentq(lambda t: at(t).loss - loss, late / 2, late, xtol=1e-300, rtol=1e-12))
    return Arrival(time, at(time).movement)


def _cross_entropy_to_loss(kernel: ArrayLike, targets: ArrayLike, loss: float) -> Arrival:
    y, matrix = _regression.checked_targets("targets", targets, kernel), _regression.symmetric(kernel)
    if np.ndim(kernel) != 2:
        raise ValueError(f"kernel: expected (n, n), shared by all outputs, got shape {np.shape(kernel)}")
    if (y < 0).any() or np.abs(y.sum(1) - 1).max() > 1e-6:
        raise ValueError("targets: expected probabilities that sum to one for each sample")
    scale = float(np.abs(matrix).sum(1).max())  # bounds the largest eigenvalue: time runs in its unit
    if math.log(y.shape[1]) <= loss:
        return Arrival(0.0, 0.0)
    if scale == 0 or scipy.special.entr(y).sum(1).mean() >= loss:  # no prediction is better than the targets themselves
        return Arrival(math.nan, math.nan)
    matrix = matrix / scale

    def excess(u: Array) -> float:
        return float(-np.mean(np.sum(y * scipy.special.log_softmax(matrix @ u.reshape(y.shape), 1), 1))) - loss

    def slope(_: float, u: Array) -> Array:
        return (y - scipy.special.softmax(matrix @ u.reshape(y.shape), 1)).ravel()

    left = [math.log(y.shape[1]) - loss]
    solver = scipy.integrate.RK45(slope, 0.0, np.zeros(y.size), math.inf, rtol=1e-4, atol=1e-4)
    while left[-1] > 0:
        stalled = len(left) > STALLED and left[-1] > (1 - 1e-3) * left[-1 - STALLED]
        if stalled or len(left) > MOST_STEPS or solver.status != "running":
            return Arrival(math.nan, math.nan)
        solver.step()
        left.append(excess(solver.y))
    between = solver.dense_output()
    time = scipy.optimize.brentq(lambda t: excess(between(t)), solver.t_old, solver.t, rtol=1e-9)
    u = between(time).reshape(y.shape)
    return Arrival(time / scale, float(np.sqrt(np.sum(u * (matrix @ u)) / scale)))
