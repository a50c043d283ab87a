"""What follows from a kernel: regression, alignment, drift, gradient flow, kernels of infinite width.

Use `regression` to predict, and `drift` and `alignment` to compare two kernels. `infinite_mlp` is the kernel of our
initialisation in expectation. `gradient_flow` and `movement_to_loss` say what a network would do that is linear in its
parameters. Kernels are those of `ntkgen.ntk`, or any others.
"""

from ntkgen.kernels._linear_flow import Arrival, arrival, movement_to_loss
from ntkgen.kernels._regression import (
    Flow,
    InfiniteWidth,
    NotPositiveDefiniteError,
    Spectrum,
    alignment,
    as_matrix,
    drift,
    effective_rank,
    flow_movement,
    gradient_flow,
    infinite_mlp,
    regression,
    spectrum,
    symmetric,
    target_alignment,
)

__all__ = [
    "Arrival",
    "Flow",
    "InfiniteWidth",
    "NotPositiveDefiniteError",
    "Spectrum",
    "alignment",
    "arrival",
    "as_matrix",
    "drift",
    "effective_rank",
    "flow_movement",
    "gradient_flow",
    "infinite_mlp",
    "movement_to_loss",
    "regression",
    "spectrum",
    "symmetric",
    "target_alignment",
]
