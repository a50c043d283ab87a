"""Networks: the paper's MLP and CNN, and what a Flax module needs to be trained and measured.

Use `MLP` and `CNN` for the paper's networks, with PyTorch's default initialisation. `apply_fn` freezes the batch
statistics of a trained network; the instruments take the function that it returns. `conv3x3`, `norm_relu` and
`max_pool` are layers that compile to fast code on CPU; use them in networks of your own.
`convolutions` chooses how the convolutions of many seeds are computed on a GPU, for experiments. `effective_layers`,
`features_fn` and `rescaled` take a trained network apart.
"""

from ntkgen.models._batch_norm import max_pool, norm_relu
from ntkgen.models._chain import (
    Affine,
    effective_layers,
    features_fn,
    has_effective_layers,
    is_linen,
    is_relu_chain,
    rescaled,
)
from ntkgen.models._convolution import conv3x3, convolutions
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
    switches,
    unit_chain,
)
from ntkgen.models._seed_convolution import FORMS as CONVOLUTION_FORMS
from ntkgen.models._symmetry import cancelled, without_effect

__all__ = [
    "CNN",
    "CONVOLUTION_FORMS",
    "MLP",
    "MUP_BASE_WIDTH",
    "PARAMETRIZATIONS",
    "Affine",
    "BatchNormRelu",
    "apply_fn",
    "cancelled",
    "conv3x3",
    "convolutions",
    "effective_layers",
    "features_fn",
    "forward_train",
    "has_effective_layers",
    "init",
    "is_linen",
    "is_relu_chain",
    "max_pool",
    "norm_relu",
    "num_params",
    "pytorch_uniform",
    "refit_statistics",
    "rescaled",
    "switches",
    "unit_chain",
    "without_effect",
]
