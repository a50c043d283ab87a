"""The networks, inputs and comparisons that the parity tests share."""

import jax
import numpy as np
import reference
import torch
import torch_nets

from ntkgen import models

# Small, but with everything that can be mixed up: several channels, unequal height and width, odd sizes under the
# pooling, and more than one position left in front of the head.
NETS = {
    "mlp5": (models.MLP(5), (4, 3, 2)),
    "mlp16": (models.MLP(16, depth=3, num_classes=7), (5, 5, 1)),
    "cnn2": (models.CNN(2), (16, 8, 2)),
    "cnn3": (models.CNN(3, num_classes=4), (9, 17, 1)),
    "cnn2-affine": (models.CNN(2, affine_norm=True), (16, 8, 2)),
    "cnn3-affine": (models.CNN(3, num_classes=4, affine_norm=True), (9, 17, 1)),
}


def make(name, dtype=np.float64, num=9):
    """Return (Flax model, torch network, variables, x (num, h, w, c), y (num,)), all but the torch weights drawn."""
    model, shape = NETS[name]
    shapes = jax.eval_shape(lambda key: models.init(model, key, shape), jax.random.key(0))
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(num, *shape)), rng.integers(0, model.num_classes, num)
    variables = reference.random_variables(shapes, seed=1)
    variables, x = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), (variables, x))
    return model, torch_net(name), variables, x, y.astype(np.int32)


def torch_net(name):
    """Build the torch network of a case, with torch's own initial weights."""
    model, shape = NETS[name]
    if isinstance(model, models.MLP):
        return torch_nets.MLP(model.width, shape, model.depth, model.num_classes)
    return torch_nets.CNN(model.channels, shape, model.num_classes, model.affine_norm)


def torch_loss(name, logits, y):
    """Mean over the batch of the cross-entropy, or of half the squared distance to the one-hot target."""
    if name == "cross_entropy":
        return torch.nn.functional.cross_entropy(logits, y)
    target = torch.nn.functional.one_hot(y, logits.shape[-1]).to(logits.dtype)
    return torch.nn.functional.mse_loss(logits, target, reduction="sum") / 2 / len(y)


def assert_same(ours, theirs):
    """Compare float64 trees leaf by leaf: nine digits, or 1e-12 where values are rounding noise around zero."""
    ours, theirs = (jax.tree.map(np.asarray, tree) for tree in (ours, theirs))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, a), b in zip(jax.tree.leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12, err_msg=jax.tree_util.keystr(path))


def assert_float32_as_good(ours, theirs, exact, slack=0.0):
    """Ask that our float32 result is as near to the float64 one as PyTorch's float32 result is, in norm.

    No fixed tolerance fits forward passes, cancelling sums and trajectories alike; the rounding error that another
    implementation commits in the same place does. A factor of eight is for the different order of summation; where
    torch is lucky, eight units of rounding are granted. `slack` is an absolute error known to be ours alone.
    """
    truth = flat(exact)
    error, yardstick = (np.linalg.norm(flat(tree) - truth) for tree in (ours, theirs))
    allowed = 8 * max(yardstick, np.finfo(np.float32).eps * np.linalg.norm(truth)) + slack
    assert error <= allowed, (error, yardstick, slack)


def flat(tree):
    """All numbers of a tree in one float64 vector."""
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])
