"""Networks: the paper's MLP and CNN, and what any Flax module needs to be trained and measured.

Use `MLP` and `CNN` for the paper's networks and `apply_fn` to freeze a trained network's batch statistics; the
instruments take the function that it returns.
"""

from ntkgen.models._networks import (
    CNN,
    MLP,
    MUP_BASE_WIDTH,
    PARAMETRIZATIONS,
    apply_fn,
    forward_train,
    init,
    num_params,
    refit_statistics,
    takes_train,
    unit_chain,
)
from ntkgen.models._symmetry import cancelled, without_effect

__all__ = [
    "CNN",
    "MLP",
    "MUP_BASE_WIDTH",
    "PARAMETRIZATIONS",
    "apply_fn",
    "cancelled",
    "forward_train",
    "init",
    "num_params",
    "refit_statistics",
    "takes_train",
    "unit_chain",
    "without_effect",
]
