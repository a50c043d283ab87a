"""Networks: the paper's MLP and CNN, a small transformer, and what a Flax module needs to be trained and measured.

Use `MLP` and `CNN` for the paper's networks, `Transformer` for a small vision transformer, all with PyTorch's default
initialisation. Flax Linen modules need nothing; `from_nnx`, `from_functions`, `from_equinox` and `from_haiku` bring
other networks into their form, and `adapt` says which one an object needs. `apply_fn` freezes the batch
statistics of a trained network; the instruments take the function that it returns. `conv3x3`, `norm_relu` and
`max_pool` are layers that compile to fast code on CPU; use them in networks of your own.
`convolutions` chooses how the convolutions of many seeds are computed on a GPU, for experiments. `effective_layers`,
`features_fn` and `rescaled` take a trained network apart.
"""

from ntkgen.models._adapters import Model, adapt, from_functions, from_nnx
from ntkgen.models._batch_norm import max_pool, norm_relu
from ntkgen.models._chain import (
    Affine,
    effective_layers,
    features_fn,
    has_effective_layers,
    is_linen,
    is_relu_chain,
    output_layer,
    rescaled,
)
from ntkgen.models._convolution import conv3x3, convolutions
from ntkgen.models._foreign import from_equinox, from_haiku
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
from ntkgen.models._transformer import Transformer

__all__ = [
    "CNN",
    "CONVOLUTION_FORMS",
    "MLP",
    "MUP_BASE_WIDTH",
    "PARAMETRIZATIONS",
    "Affine",
    "BatchNormRelu",
    "Model",
    "Transformer",
    "adapt",
    "apply_fn",
    "cancelled",
    "conv3x3",
    "convolutions",
    "effective_layers",
    "features_fn",
    "forward_train",
    "from_equinox",
    "from_functions",
    "from_haiku",
    "from_nnx",
    "has_effective_layers",
    "init",
    "is_linen",
    "is_relu_chain",
    "max_pool",
    "norm_relu",
    "num_params",
    "output_layer",
    "pytorch_uniform",
    "refit_statistics",
    "rescaled",
    "switches",
    "unit_chain",
    "without_effect",
]
