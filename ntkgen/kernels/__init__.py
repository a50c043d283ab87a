"""What follows from a kernel: regression, alignment, drift, gradient flow, and kernels in expectation.

Use `regression` to predict, `drift` and `alignment` to compare two kernels, `infinite_mlp` for the kernel of our
initialisation, and `movement_to_loss` for what a network linear in its parameters would do.
"""

from ntkgen.kernels._linear_flow import arrival, movement_to_loss
from ntkgen.kernels._regression import alignment, drift, flow_movement, infinite_mlp, regression, target_alignment

__all__ = [
    "alignment",
    "arrival",
    "drift",
    "flow_movement",
    "infinite_mlp",
    "movement_to_loss",
    "regression",
    "target_alignment",
]
