"""Networks: the paper's MLP and CNN, and what any Flax module needs to be trained and measured.

Use `MLP` and `CNN` for the paper's networks and `apply_fn` to freeze a trained network's batch statistics; the
instruments take the function that it returns.
"""

from ntkgen.models._batch_norm import max_pool, norm_relu
from ntkgen.models._convolution import conv3x3
from ntkgen.models._networks import (
    CNN,
    MLP,
    MUP_BASE_WIDTH,
    PARAMETRIZATIONS,
    BatchNormRelu,
    apply_fn,
    forward_train,
    init,
    num_params,
    pytorch_uniform,
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
    "BatchNormRelu",
    "apply_fn",
    "cancelled",
    "conv3x3",
    "forward_train",
    "init",
    "max_pool",
    "norm_relu",
    "num_params",
    "pytorch_uniform",
    "refit_statistics",
    "takes_train",
    "unit_chain",
    "without_effect",
]
