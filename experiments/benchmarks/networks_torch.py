"""The networks of `networks.py` in plain PyTorch."""

import itertools
from typing import Any


def torch_network(kind: str, size: int, shape: tuple[int, ...]) -> Any:
    """Return the same network in plain PyTorch; it takes images (n, c, h, w), and flattens them in our order."""
    from torch import nn

    class Flatten(nn.Module):
        """Flattens images, channels last."""

        def forward(self, x: Any) -> Any:
            """Return rows (n, h * w * c)."""
            return x.permute(0, 2, 3, 1).flatten(1)

    h, w, c = shape
    if kind == "mlp":
        sizes = [h * w * c, size, size, size, 10]
        layers: list[Any] = [Flatten()]
    else:
        layers, inputs = [], c
        for block in range(3):
            for _ in range(2):
                outputs = size * 2**block
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs, affine=False), nn.ReLU()]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        sizes = [h // 8 * (w // 8) * 4 * size, 256, 10]
        layers.append(Flatten())
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def prune_torch(net: Any, keep: float) -> None:
    """Prune a network of `torch_network` by magnitude, its kernels ranked together, to a fraction of their weights."""
    from torch.nn.utils import prune

    # A batch norm without scale has a weight too: None.
    weights = {layer: getattr(layer, "weight", None) for layer in net}
    kernels = [(layer, "weight") for layer, weight in weights.items() if weight is not None and weight.ndim > 1]
    prune.global_unstructured(kernels, prune.L1Unstructured, amount=1 - keep)
