"""The paper's two networks written plainly in PyTorch, and their weights carried to Flax and back.

Layouts: Flax keeps images as (n, h, w, c), dense kernels as (in, out), convolution kernels as (3, 3, in, out); PyTorch
(n, c, h, w), (out, in) and (out, in, 3, 3). What is easily missed is the first dense layer behind an image: Flax
flattens in the order (h, w, c), PyTorch in the order (c, h, w), so its kernel's rows are permuted as well.
"""

import itertools

import numpy as np
import torch
from torch import nn


class MLP(nn.Module):
    """inputs - width - ... - width - classes."""

    def __init__(self, width, input_shape, depth=4, num_classes=10):
        super().__init__()
        sizes = [int(np.prod(input_shape)), *[width] * (depth - 1), num_classes]
        self.image = input_shape
        self.dense = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, x):
        x = torch.flatten(x, 1)
        for layer in self.dense[:-1]:
            x = torch.relu(layer(x))
        return self.dense[-1](x)


class CNN(nn.Module):
    """Three blocks of two Conv-BN-ReLU and a max pooling, then a 256-unit head."""

    def __init__(self, channels, input_shape, num_classes=10, affine_norm=False):
        super().__init__()
        h, w, before = input_shape
        blocks = []
        for block in range(3):
            for _ in range(2):
                after = channels * 2**block
                blocks += [
                    nn.Conv2d(before, after, 3, padding=1, bias=not affine_norm),
                    nn.BatchNorm2d(after, affine=affine_norm),
                    nn.ReLU(),
                ]
                before = after
            blocks.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*blocks)
        self.image = (h // 8, w // 8, before)
        self.dense = nn.ModuleList([nn.Linear(h // 8 * (w // 8) * before, 256), nn.Linear(256, num_classes)])

    def forward(self, x):
        x = torch.flatten(self.features(x), 1)
        return self.dense[1](torch.relu(self.dense[0](x)))


def images(x):
    """NHWC array -> NCHW tensor of the same dtype."""
    return torch.from_numpy(np.ascontiguousarray(np.transpose(np.asarray(x), (0, 3, 1, 2))))


def _layers(net):
    """Yield (Flax name, torch layer) of all layers that hold numbers."""
    yield from ((f"dense{i}", layer) for i, layer in enumerate(net.dense))
    if isinstance(net, CNN):
        for kind, prefix in ((nn.Conv2d, "conv"), (nn.BatchNorm2d, "norm")):
            found = [layer for layer in net.features if isinstance(layer, kind)]
            yield from ((f"{prefix}{i // 2}_{i % 2}", layer) for i, layer in enumerate(found))


def kernel_to_torch(name, kernel, image):
    """Flax kernel -> torch weight; `image` (h, w, c) is what the first dense layer sees flattened."""
    kernel = np.asarray(kernel)
    if kernel.ndim == 4:
        return kernel.transpose(3, 2, 0, 1)
    if name == "dense0":
        return kernel.reshape(*image, -1).transpose(3, 2, 0, 1).reshape(kernel.shape[::-1])
    return kernel.T


def kernel_to_flax(name, weight, image):
    """Torch weight -> Flax kernel, the inverse of `kernel_to_torch`."""
    if weight.ndim == 4:
        return weight.transpose(2, 3, 1, 0)
    if name == "dense0":
        h, w, c = image
        return weight.reshape(-1, c, h, w).transpose(2, 3, 1, 0).reshape(weight.shape[::-1])
    return weight.T


def to_torch(variables, net):
    """Load Flax variables into a torch network, whose dtype becomes theirs; return it."""
    params, stats = variables["params"], variables.get("batch_stats", {})
    net.to({"float32": torch.float32, "float64": torch.float64}[str(params["dense0"]["kernel"].dtype)])

    def copy(target, array):
        assert target.shape == array.shape
        target.copy_(torch.from_numpy(np.array(array)))

    with torch.no_grad():
        for name, layer in _layers(net):
            own = params.get(name, {})
            if "kernel" in own:
                copy(layer.weight, kernel_to_torch(name, own["kernel"], net.image))
            if "scale" in own:
                copy(layer.weight, own["scale"])
            if "bias" in own:
                copy(layer.bias, own["bias"])
            if name in stats:
                copy(layer.running_mean, stats[name]["mean"])
                copy(layer.running_var, stats[name]["var"])
    return net


def to_flax(net, of=lambda tensor: tensor):
    """Read a torch network's variables, or with `of=lambda p: p.grad` the gradients, as Flax variables (numpy)."""
    params, stats = {}, {}
    for name, layer in _layers(net):
        arrays = {key: of(tensor).detach().numpy().copy() for key, tensor in layer.named_parameters()}
        if isinstance(layer, nn.BatchNorm2d):
            stats[name] = {"mean": layer.running_mean.numpy().copy(), "var": layer.running_var.numpy().copy()}
            arrays = {{"weight": "scale", "bias": "bias"}[key]: array for key, array in arrays.items()}
        elif "weight" in arrays:
            arrays["kernel"] = kernel_to_flax(name, arrays.pop("weight"), net.image)
        if arrays:
            params[name] = arrays
    return {"params": params, **({"batch_stats": stats} if stats else {})}
