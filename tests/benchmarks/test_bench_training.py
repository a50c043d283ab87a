"""The benchmark of training: its count of compiled programs, and the pruned networks on its other side."""

import cases
import jax
import jax.numpy as jnp
import networks
import networks_torch
import numpy as np
import pytest
import training_ours

from ntkgen import pruning


def test_every_compilation_is_counted_and_nothing_else():
    before = training_ours.compilations()
    fn = jax.jit(jax.vmap(lambda x: x**3 - 5 * x))
    x = jnp.arange(6.0).reshape(2, 3)
    start = training_ours.compilations()
    fn(x)
    assert training_ours.compilations() == start + 1 > before
    fn(x + 0.0)
    after = training_ours.compilations()
    fn(x)
    assert training_ours.compilations() == after
    fn(jnp.zeros((2, 5)))
    assert training_ours.compilations() > after


@pytest.mark.slow
def test_a_new_level_compiles_nothing_where_the_first_did(monkeypatch):
    monkeypatch.setitem(training_ours.EXAMPLES, "mlp", 300)
    ours = training_ours.Ours("mlp", 4, "vmap", 2, keep=training_ours.KEEP)
    assert ours.compiled > 2 and ours.new_level() == 0
    ours.layout = ours.layout._replace(strategy="sequential")  # what it would look like if it did
    assert ours.new_level() > 0


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_pytorchs_side_prunes_what_ours_does(kind):
    torch = pytest.importorskip("torch")
    shape = cases.SHAPES[kind]
    params = networks.network(kind, 4).init(jax.random.key(0), jnp.zeros((1, *shape)))["params"]
    ours = jax.tree.leaves(pruning.magnitude_masks(params, training_ours.KEEP))
    net = networks_torch.torch_network(kind, 4, shape)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    networks_torch.prune_torch(net, training_ours.KEEP)
    masks = {name.removesuffix("_mask"): mask.numpy() for name, mask in net.named_buffers() if name.endswith("_mask")}
    assert sum(mask.sum() for mask in masks.values()) == sum(mask.sum() for mask in ours if mask.ndim > 1)
    sizes = np.concatenate([np.abs(before[name].numpy()).ravel() for name in masks])
    kept = np.concatenate([mask.ravel() for mask in masks.values()]).astype(bool)
    assert sizes.size == sum(mask.size for mask in ours if mask.ndim > 1)
    assert sizes[kept].min() > sizes[~kept].max()
    assert all(torch.equal(value, before[name]) for name, value in net.named_parameters() if name in before)
    net(torch.zeros(8, shape[2], *shape[:2])).sum().backward()
