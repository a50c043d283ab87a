"""Forward pass, losses, gradients and running statistics against PyTorch, from the same weights."""

import functools

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from parity_cases import (  # noqa: E402
    NETS,
    assert_float32_as_good,
    assert_same,
    make,
    torch_loss,
)
from torch_nets import images, to_flax, to_torch  # noqa: E402

from ntkgen import models  # noqa: E402
from ntkgen.train import LOSSES  # noqa: E402


@functools.cache
def ours(name, dtype):
    """Everything the other side is compared with: losses and gradients in both modes."""
    model, _, variables, x, y = make(name, dtype)
    x = jnp.asarray(x)

    def loss(params, name, train):
        full = {**variables, "params": params}
        if train:
            logits, state = models.forward_train(model, full, x)
        else:
            logits, state = models.apply_fn(model, full)(params, x), {}
        return jnp.mean(LOSSES[name](logits, y)), (logits, state)

    def both(params):
        results = {}
        for mode, name, train in (("train", "cross_entropy", True), ("eval", "mse", False)):
            (value, (logits, state)), gradient = jax.value_and_grad(loss, has_aux=True)(params, name, train)
            results[mode] = {"logits": logits, "loss": value, "gradient": gradient, "state": state}
        return results

    return jax.tree.map(np.asarray, jax.jit(both)(variables["params"]))


def theirs(net, variables, x, y):
    """The same numbers from PyTorch. The evaluation comes first: a pass in training mode moves the statistics."""
    to_torch(variables, net)
    results = {}
    for mode, name, train in (("eval", "mse", False), ("train", "cross_entropy", True)):
        net.train(train)
        net.zero_grad()
        logits = net(images(x))
        value = torch_loss(name, logits, torch.from_numpy(np.array(y)).long())
        value.backward()
        after = to_flax(net)
        results[mode] = {
            "logits": logits.detach().numpy(), "loss": value.item(),
            "gradient": to_flax(net, of=lambda tensor: tensor.grad)["params"],
            "state": {"batch_stats": after["batch_stats"]} if train and "batch_stats" in after else {},
        }  # fmt: skip
    return results


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", NETS)
def test_float64(name):
    _, net, variables, x, y = make(name)
    assert_same(ours(name, np.float64), theirs(net, variables, x, y))


@pytest.mark.parametrize("name", ["mlp5", "cnn2", "cnn2-affine"])
def test_float32(name):
    _, net, variables, x, y = make(name, np.float32)
    exact = theirs(net, *jax.tree.map(np.float64, (variables, x)), y)
    rounded = theirs(net, variables, x, y)
    mine = ours(name, np.float32)
    assert mine["train"]["logits"].dtype == np.float32
    for mode in ("eval", "train"):
        for quantity in ("logits", "gradient", *(["state"] if mine[mode]["state"] else [])):
            assert_float32_as_good(*(side[mode][quantity] for side in (mine, rounded, exact)))


@pytest.mark.usefixtures("x64")
def test_a_bias_before_batch_norm_has_no_gradient_in_training_but_has_one_in_evaluation():
    gradients = {mode: result["gradient"] for mode, result in ours("cnn2", np.float64).items()}
    for layer in (name for name in gradients["eval"] if name.startswith("conv")):
        scale = np.abs(gradients["train"][layer]["kernel"]).max()
        # Rounding of a sum over batch and positions (some hundred terms) is all that is left of it.
        assert np.abs(gradients["train"][layer]["bias"]).max() < 1e-12 * scale
        assert np.abs(gradients["eval"][layer]["bias"]).max() > 1e-3


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_survive_the_round_trip_exactly(name, dtype):
    _, net, variables, _, _ = make(name, dtype)
    there = to_flax(to_torch(variables, net))
    assert jax.tree.structure(there) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, there, variables)
    for tensor in net.parameters():  # and the other way round, from torch's own draws
        torch.nn.init.normal_(tensor)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    to_torch(to_flax(net), net)
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
