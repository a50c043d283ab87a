"""The transformer against PyTorch's own encoder layers and strided convolution, from the same weights."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import reference  # noqa: E402
from parity_cases import assert_same  # noqa: E402
from torch_nets import images  # noqa: E402

from ntkgen import models  # noqa: E402
from ntkgen.train import cross_entropy  # noqa: E402

SHAPE, CLASSES = (4, 6, 3), 5  # 2 x 3 patches: rows and columns cannot be mixed up
MODEL = models.Transformer(8, depth=2, heads=2, patch=2, num_classes=CLASSES)


class Transformer(torch.nn.Module):
    """The same network of torch's parts."""

    def __init__(self):
        super().__init__()
        w = MODEL.width
        self.embed = torch.nn.Conv2d(SHAPE[-1], w, MODEL.patch, stride=MODEL.patch)
        self.position = torch.nn.Parameter(torch.zeros(6, w))
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(w, MODEL.heads, 4 * w, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(MODEL.depth)
        )
        self.norm, self.head = torch.nn.LayerNorm(w), torch.nn.Linear(w, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


def named(params):
    """Flax params, or their gradient, by torch's names and in its layout."""

    def affine(name, layer):
        return {f"{name}.weight": layer["kernel"].T if "kernel" in layer else layer["scale"],
                f"{name}.bias": layer["bias"]}  # fmt: skip

    patch = params["embed"]["kernel"].reshape(MODEL.patch, MODEL.patch, SHAPE[-1], -1)
    found = {"embed.weight": patch.transpose(3, 2, 0, 1), "embed.bias": params["embed"]["bias"]}
    found |= {"position": params["position"], **affine("norm", params["norm"]), **affine("head", params["head"])}
    parts = {"norm0": "norm1", "norm1": "norm2", "out": "self_attn.out_proj", "up": "linear1", "down": "linear2"}
    for i in range(MODEL.depth):
        block, name = params[f"block{i}"], f"blocks.{i}"
        for ours, theirs in parts.items():
            found |= affine(f"{name}.{theirs}", block[ours])
        three = [block[part] for part in ("query", "key", "value")]
        found[f"{name}.self_attn.in_proj_weight"] = np.concatenate([part["kernel"].T for part in three])
        found[f"{name}.self_attn.in_proj_bias"] = np.concatenate([part["bias"] for part in three])
    return found


@pytest.mark.usefixtures("x64")
def test_logits_loss_and_gradient_are_torchs():
    shapes = jax.eval_shape(lambda key: models.init(MODEL, key, SHAPE), jax.random.key(0))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), reference.random_variables(shapes, seed=1))
    x, y = rng.normal(size=(7, *SHAPE)), rng.integers(0, CLASSES, 7).astype(np.int32)

    def loss(params):
        logits = models.apply_fn(MODEL, variables)(params, jnp.asarray(x))
        return jnp.mean(cross_entropy(logits, y)), logits

    (value, logits), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])
    net = Transformer().double()
    net.load_state_dict({name: torch.from_numpy(np.array(leaf)) for name, leaf in named(variables["params"]).items()})
    theirs = net(images(x))
    their_loss = torch.nn.functional.cross_entropy(theirs, torch.from_numpy(y).long())
    their_loss.backward()
    their_gradient = {name: leaf.grad.numpy() for name, leaf in net.named_parameters()}
    assert max(np.abs(leaf).max() for leaf in their_gradient.values()) > 1e-3
    assert_same(
        {"logits": np.asarray(logits), "loss": float(value), **named(jax.tree.map(np.asarray, gradient))},
        {"logits": theirs.detach().numpy(), "loss": their_loss.item(), **their_gradient},
    )
