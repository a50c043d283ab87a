"""Masks against `torch.nn.utils.prune` on the same weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from parity_cases import make  # noqa: E402
from torch.nn.utils import prune  # noqa: E402
from torch_nets import _layers, kernel_to_flax, to_torch  # noqa: E402

from ntkgen import pruning  # noqa: E402

NAMES = ["mlp16", "cnn3-affine"]
FRACTIONS = (0.8, 0.5, 0.21, 0.05)


def kernels(net):
    """(Flax name, torch layer) of what we prune."""
    return [(name, layer) for name, layer in _layers(net) if not isinstance(layer, torch.nn.BatchNorm2d)]


def assert_same_masks(ours, net):
    total = 0
    for name, layer in kernels(net):
        theirs = kernel_to_flax(name, layer.weight_mask.numpy(), net.image)
        np.testing.assert_array_equal(ours[name]["kernel"], theirs.astype(bool), err_msg=name)
        assert np.all(ours[name].get("bias", True)) and not hasattr(layer, "bias_mask")
        total += int(theirs.sum())
    return total


@pytest.mark.parametrize("name", NAMES)
def test_global_unstructured_level_by_level(name):
    _, net, variables, _, _ = make(name, np.float32)
    to_torch(variables, net)
    targets = [(layer, "weight") for _, layer in kernels(net)]
    size = kept = sum(layer.weight.numel() for layer, _ in targets)
    masks = None
    for fraction in FRACTIONS:
        masks = pruning.magnitude_masks(variables["params"], fraction, masks=masks)
        # An integer amount: torch rounds the pruned share of what is left, we the kept share of the whole.
        amount = kept - pruning.keep_count(size, fraction)
        prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=amount)
        kept = assert_same_masks(masks, net)
        assert kept == round(fraction * size)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fraction", FRACTIONS)
def test_a_fraction_in_one_step_keeps_as_many(name, fraction):
    _, net, variables, _, _ = make(name, np.float32)
    to_torch(variables, net)
    targets = [(layer, "weight") for _, layer in kernels(net)]
    prune.global_unstructured(targets, pruning_method=prune.L1Unstructured, amount=1 - fraction)
    assert_same_masks(pruning.magnitude_masks(variables["params"], fraction), net)


@pytest.mark.parametrize("name", NAMES)
def test_layer_by_layer(name):
    _, net, variables, _, _ = make(name, np.float32)
    to_torch(variables, net)
    for _, layer in kernels(net):
        size = layer.weight.numel()
        prune.l1_unstructured(layer, "weight", amount=size - pruning.keep_count(size, 0.3))
    assert_same_masks(pruning.magnitude_masks(variables["params"], 0.3, scope="layer"), net)
