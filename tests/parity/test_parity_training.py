"""Whole epochs of training against PyTorch: same weights, same batches, the last partial one included."""

import dataclasses
import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import reference  # noqa: E402
from parity_cases import assert_float32_as_good, assert_same, flat, make, torch_loss  # noqa: E402
from torch_nets import images, to_flax, to_torch  # noqa: E402

from ntkgen import train  # noqa: E402

EPOCHS, BATCH = 3, 4  # nine examples: two full batches and one of a single example
RATES = {"sgd": 0.05, "adam": 0.01, "gd": 0.1}
ORDER = train.run_keys(3).order


def config(optimizer, weight_decay=0.0, **kwargs):
    return train.Config(
        EPOCHS, BATCH, RATES[optimizer], optimizer=optimizer, weight_decay=weight_decay, **kwargs
    )  # fmt: skip


def train_ours(model, variables, x, y, config, mask=None):
    """Train with `train.train_epoch`; return the variables."""
    program = train.Program.of(model, config, len(y))
    epoch_fn = jax.jit(functools.partial(train.train_epoch, program))
    state, data = train.init_state(program, variables, mask), train.Batch(jnp.asarray(x), jnp.asarray(y))
    for epoch in range(config.epochs):
        state = epoch_fn(state, ORDER, epoch, jnp.asarray(config.rate(epoch)), data, mask)
    return jax.tree.map(np.asarray, state.variables)


def train_theirs(net, variables, x, y, config, frozen=()):
    """Train the usual PyTorch way; return the variables, in Flax's layout."""
    to_torch(variables, net)
    for tensor in frozen:
        torch.nn.init.zeros_(tensor)
        tensor.requires_grad_(False)
    trained = [tensor for tensor in net.parameters() if tensor.requires_grad]
    if config.optimizer == "adam":
        optimizer = torch.optim.Adam(trained, config.learning_rate, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            trained, config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=config.epochs)
    x, y = images(x), torch.from_numpy(y).long()
    batch = len(y) if config.optimizer == "gd" else config.batch_size
    net.train()
    for epoch in range(config.epochs):
        order = np.array(train.batch_order(ORDER, epoch, len(y)))
        for rows in torch.split(torch.from_numpy(order), batch):
            optimizer.zero_grad()
            torch_loss(config.loss, net(x[rows]), y[rows]).backward()
            optimizer.step()
        schedule.step()
    return to_flax(net)


def train_scaled(net, variables, x, y, config):
    """Train in float64 with the steps of a float32 Adam of ours, at their worst; what comes of it is ours alone.

    Torch computes the bias correction 1 - 0.999^t in Python floats, Optax in float32, where 0.999 is rounded by up to
    3e-8. That is a relative error of up to 3e-5 for small t, half of it after the square root: a factor on the rate.
    """
    config = dataclasses.replace(config, learning_rate=config.learning_rate * (1 + 1.5e-5))
    return train_theirs(net, variables, x, y, config)


def distance(a, b):
    return np.linalg.norm(flat(a) - flat(b))


FLOAT64 = [
    ("mlp5", config("sgd")),
    ("mlp16", config("sgd", 0.02, loss="mse")),
    ("mlp5", config("adam", loss="mse")),
    ("mlp16", config("adam", 0.02)),
    ("mlp5", config("gd")),
    ("mlp16", config("gd", 0.02, momentum=0.5)),
    ("cnn2", config("sgd", 0.02)),
    ("cnn3", config("gd")),
    ("cnn2-affine", config("sgd")),
    ("cnn3-affine", config("adam", 0.02)),
]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("name", "config"), FLOAT64, ids=lambda v: v if isinstance(v, str) else v.optimizer)
def test_float64(name, config):
    model, net, variables, x, y = make(name)
    ours, theirs = train_ours(model, variables, x, y, config), train_theirs(net, variables, x, y, config)
    assert_same(ours, theirs)  # parameters and running statistics
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), ours["params"], variables["params"])
    assert min(jax.tree.leaves({k: v["kernel"] for k, v in moved.items() if "kernel" in v})) > 1e-3


def conv_bias_mask(variables):
    """Zeros on the convolutions' biases, ones elsewhere."""
    return {
        layer: {name: np.full_like(a, not (layer.startswith("conv") and name == "bias")) for name, a in own.items()}
        for layer, own in variables["params"].items()
    }


@pytest.mark.usefixtures("x64")
def test_adam_on_the_default_cnn_with_its_conv_biases_masked():
    # A bias in front of a batch norm without shift has no gradient but rounding, of the order of 1e-17, which Adam
    # divides by 1e-8 plus its own size. Without the biases the rest must agree, running means included.
    model, net, variables, x, y = make("cnn2")
    frozen = [layer.bias for layer in net.features if isinstance(layer, torch.nn.Conv2d)]
    ours = train_ours(model, variables, x, y, config("adam"), conv_bias_mask(variables))
    assert_same(ours, train_theirs(net, variables, x, y, config("adam"), frozen))


def without_conv_biases(variables):
    """Drop what the conv biases' random walk reaches: the biases, and the running means that contain them."""
    params = {k: {n: a for n, a in v.items() if n != "bias" or k[:4] != "conv"} for k, v in variables["params"].items()}
    return params, {name: stats["var"] for name, stats in variables["batch_stats"].items()}


def training_logits(variables, x):
    """The network's function in training mode, evaluated in float64 by the oracle."""
    variables, x = jax.tree.map(np.float64, (variables, x))
    return reference.cnn(variables["params"], variables["batch_stats"], x, train=True)[0]


def test_adam_on_the_default_cnn_in_float32():
    # Here the biases' noise (1e-8) is no smaller than Adam's epsilon: each takes steps of up to the learning rate in
    # a random direction. In training mode the network's function does not depend on them, so we compare that, all
    # other parameters and the running variances, and bound the walk: it goes nowhere faster than Adam can.
    model, net, variables, x, y = make("cnn2", np.float32)
    start = jax.tree.map(np.float64, variables)
    exact = train_theirs(net, start, x.astype(np.float64), y, config("adam"))
    theirs = train_theirs(net, variables, x, y, config("adam"))
    ours = train_ours(model, variables, x, y, config("adam"))
    scaled = train_scaled(net, start, x.astype(np.float64), y, config("adam"))
    sides = (ours, theirs, exact)
    for view in (without_conv_biases, lambda side: training_logits(side, x)):
        assert_float32_as_good(*map(view, sides), slack=distance(view(scaled), view(exact)))
    # |m| / sqrt(v), bias-corrected, is at most 1 / sqrt(1 - 0.999) x (1 - 0.9) = 3.2.
    steps = 3 * sum(config("adam").rate(epoch) for epoch in range(EPOCHS))
    for layer, own in ours["params"].items():
        if layer.startswith("conv"):
            assert np.abs(own["bias"] - variables["params"][layer]["bias"]).max() <= 3.2 * steps


@pytest.mark.parametrize(
    ("name", "config"),
    [("mlp5", config("sgd")), ("mlp16", config("adam", 0.02)), ("mlp5", config("gd")), ("cnn2", config("sgd"))],
    ids=lambda v: v if isinstance(v, str) else v.optimizer,
)
def test_float32(name, config):
    model, net, variables, x, y = make(name, np.float32)
    start = jax.tree.map(np.float64, variables), x.astype(np.float64)
    exact = train_theirs(net, *start, y, config)
    theirs = train_theirs(net, variables, x, y, config)
    ours = train_ours(model, variables, x, y, config)
    assert jax.tree.leaves(ours)[0].dtype == np.float32
    slack = distance(train_scaled(net, *start, y, config), exact) if config.optimizer == "adam" else 0.0
    assert_float32_as_good(ours, theirs, exact, slack)


@pytest.mark.parametrize("epochs", [1, 7, 60])
def test_cosine_schedule_is_torchs_stepped_once_an_epoch(epochs):
    ours = train.Config(epochs, learning_rate=0.05)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for epoch in range(epochs):
        # torch computes its rates recursively, each from the last: rounding grows with the epoch.
        np.testing.assert_allclose(ours.rate(epoch), schedule.get_last_lr()[0], rtol=1e-13 * epochs)
        optimizer.step()
        schedule.step()
