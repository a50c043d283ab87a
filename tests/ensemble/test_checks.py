"""What a fit refuses before anything is compiled, by one line that begins with the argument, and what it accepts."""

import re
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import ensemble, models, train
from ntkgen.ensemble import _checks, _fit
from ntkgen.linearize import Linearized

RNG = np.random.default_rng(0)
N, CLASSES = 20, 3
X = RNG.normal(size=(N, 5)).astype(np.float32)
Y = np.arange(N) % CLASSES
TOKENS = RNG.integers(0, 7, (N, 6))
MODEL = models.MLP(4, depth=2, num_classes=CLASSES)
ONE = models.MLP(4, depth=2, num_classes=1)


def dataset(x=X, y=Y, test_x=None, test_y=None):
    train_split = SimpleNamespace(x=x, y=y)
    return SimpleNamespace(
        train=train_split, test=SimpleNamespace(x=x if test_x is None else test_x, y=y if test_y is None else test_y)
    )


def prepare(model=MODEL, data=None, loss="cross_entropy", init=None):
    return _checks.prepare(model, data or dataset(), train.Config(1, 8, 0.1, loss=loss), None, init)


def refused(beginning, *args, **kwargs):
    with pytest.raises(ValueError, match=f"^{beginning}") as caught:
        prepare(*args, **kwargs)
    assert "\n" not in str(caught.value)


def changed(array, index, value):
    array = array.astype(np.result_type(array, type(value)))
    array[index] = value
    return array


# Pairs of arrays


def test_pairs_are_a_dataset():
    """Tuples, lists and splits; an object that has both splits is itself, also one that is a tuple."""
    for pair in ((X, Y), [X, Y], train.Batch(X, Y)):
        found = _checks.splits(pair, (X[:5], Y[:5]))
        assert found.train.x is X and found.train.y is Y
        np.testing.assert_array_equal(found.test.x, X[:5])
    both = dataset()
    assert _checks.splits(both, None) is both
    assert _checks.splits(found, None) is found


@pytest.mark.parametrize(
    ("given", "test", "message"),
    [
        ((X, Y), None, "test: expected the test set, a pair of arrays (x, y), beside a pair as dataset, got none"),
        ((X, Y), X, "test: expected the test set, a pair of arrays (x, y), beside a pair as dataset, got ndarray"),
        ((X, Y), (X,), "test: expected the test set, a pair of arrays (x, y), beside a pair as dataset, got tuple"),
        (dataset(), (X, Y), "test: expected none beside a dataset with a test set of its own, got one"),
        ((X, Y, X, Y), None, "dataset: expected a data.Dataset, or a pair of arrays (x, y), got 4 of them"),
        (X, (X, Y), "dataset: expected a data.Dataset, or a pair of arrays (x, y), got ndarray"),
        (None, None, "dataset: expected a data.Dataset, or a pair of arrays (x, y), got NoneType"),
    ],
)
def test_no_pairs_are_refused(given, test, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ensemble.fit(MODEL, given, train.Config(1, 8, 0.1), 1, test=test)


# Data

BAD_DATA = {
    "no test example": (r"dataset\.test\.x: expected at least one", dataset(X, Y, X[:0], Y[:0])),
    "no example": (r"dataset\.train\.x: expected at least one", dataset(X[:0], Y[:0])),
    "no inputs": (r"dataset\.train\.x: expected an array, got NoneType", dataset(None)),
    "no targets": (r"dataset\.train\.y: expected one target for each of 20", dataset(y=None)),
    "fewer labels": (r"dataset\.train\.y: expected one target for each of 20", dataset(y=Y[:15])),
    "more test labels": (r"dataset\.test\.y: expected one target for each of 5", dataset(X, Y, X[:5], Y)),
    "NaN in a pixel": (r"dataset\.train\.x: expected finite", dataset(changed(X, (3, 2), np.nan))),
    "infinite test pixel": (r"dataset\.test\.x: expected finite", dataset(X, Y, changed(X, (3, 2), -np.inf), Y)),
    "infinite JAX pixel": (r"dataset\.train\.x: expected finite", dataset(jnp.asarray(X).at[0, 0].set(jnp.inf))),
    "words": (r"dataset\.train\.y: expected real numbers", dataset(y=np.array(["cat"] * N))),
    "objects": (r"dataset\.train\.x: expected real numbers", dataset(X.astype(object))),
    "complex": (r"dataset\.train\.x: expected real numbers", dataset(X + 1j)),
    "inputs of another network": (
        r"model: expected a network of x \{'image': 'float32\[20, 5\]'\}, got",
        dataset({"image": X}, Y, {"image": X}, Y),
    ),
    "ragged rows": (r"dataset\.train\.x: expected an array", dataset([[1.0, 2.0], [3.0]], [0, 1])),
    "other test shape": (r"dataset\.test\.x: expected examples of shape \(5,\)", dataset(X, Y, X[:, :4], Y)),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_data_that_are_none_are_refused(name):
    beginning, data = BAD_DATA[name]
    refused(beginning, data=data)


def test_fit_checks_before_it_trains(monkeypatch):
    reached = []
    monkeypatch.setattr(_fit, "_fit_chunk", lambda *args: reached.append(args))
    with pytest.raises(ValueError, match=r"^dataset\.train\.y: expected labels from 0 to 2"):
        ensemble.fit(MODEL, dataset(y=Y + 1), train.Config(1, 8), 1)
    assert not reached


def test_lists_booleans_and_small_integers_are_numbers():
    _, _, data, _ = prepare(data=dataset(X.tolist(), Y.tolist()))
    np.testing.assert_array_equal(data.y, Y)
    _, _, data, _ = prepare(models.MLP(4, 2, 2), dataset(y=Y > 0))
    np.testing.assert_array_equal(data.y, np.array([0, 1, 1] * 7)[:N])
    _, _, data, _ = prepare(data=dataset(y=Y.astype(np.uint8)))
    np.testing.assert_array_equal(data.y, Y)


@pytest.mark.parametrize(("shape", "model"), [((8, 8, 1), models.CNN(1, 3)), ((5,), MODEL)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int32, bool])
def test_images_of_integers_are_refused_and_scaled_ones_are_not(shape, model, dtype):
    pixels = RNG.integers(0, 2, (N, *shape)).astype(dtype)
    refused(r"dataset\.train\.x: expected floating inputs, got u?int\d+, which .* multiplies", model, dataset(pixels))
    prepare(model, dataset(pixels.astype(np.float32)))


def test_bytes_are_pixels_whoever_multiplies_them_unless_they_are_embedded():
    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x.reshape(len(x), -1) @ self.param("w", nn.initializers.normal(), (5, 3))

    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Embed(256, 2)(x).mean(1))

    bytes_ = RNG.integers(0, 256, (N, 5)).astype(np.uint8)
    refused(r"dataset\.train\.x: expected floating inputs, got uint8; scale them first", Own(), dataset(bytes_))
    prepare(Own(), dataset(bytes_ / np.float32(255)))
    prepare(Tokens(), dataset(bytes_))


def test_tokens_outside_the_table_that_they_are_looked_up_in_are_refused():
    class Tokens(nn.Module):
        shift: int = 0

        @nn.compact
        def __call__(self, x):
            x = x + self.shift if self.shift else x
            return nn.Dense(3)(nn.Embed(7, 2)(x).mean(1))

    inside = RNG.integers(0, 7, (N, 5))
    prepare(Tokens(), dataset(inside))
    for wrong, span in ((7, "0 ... 7"), (-1, "-1 ... 6")):
        outside = changed(inside, (3, 2), wrong)
        outside[0, :2] = 0, 6
        said = rf"expected tokens from 0 to 6, as num_embeddings, got {span}"
        refused(rf"dataset\.train\.x: {said}", Tokens(), dataset(outside))
        refused(rf"dataset\.test\.x: {said}", Tokens(), dataset(inside, test_x=outside))
    prepare(Tokens(shift=1), dataset(inside - 1))  # what it makes of them is its own affair


# Targets

WRONG_LABELS = {
    "from 1": Y + 1,
    "-1 in one row": changed(Y, 4, -1),
    "one too large": changed(Y, 0, 3),
    "2^40": Y + 2**40,
}


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("name", WRONG_LABELS)
def test_labels_outside_the_outputs_are_refused_in_both_splits(name, loss):
    wrong = WRONG_LABELS[name]
    refused(r"dataset\.train\.y: expected labels from 0 to 2", data=dataset(y=wrong), loss=loss)
    refused(r"dataset\.test\.y: expected labels from 0 to 2", data=dataset(X, Y, X, wrong), loss=loss)


WRONG_TARGETS = {
    "two labels a row": (MODEL, np.stack([Y, Y], 1), "cross_entropy"),
    "one-hot integers": (MODEL, np.eye(3, dtype=int)[Y], "mse"),
    "labels as floats": (MODEL, Y.astype(float), "cross_entropy"),
    "one number, three outputs": (MODEL, X[:, 0], "mse"),
    "two numbers, three outputs": (MODEL, X[:, :2], "mse"),
    "classes, one output": (ONE, Y == 0, "cross_entropy"),
    "integers, one output": (ONE, Y, "mse"),
    "float classes, one output": (ONE, (Y == 0).astype(float), "cross_entropy"),
    "probabilities that sum to 2": (MODEL, 2.0 * np.eye(3)[Y], "cross_entropy"),
    "negative probabilities": (MODEL, np.tile([-1.0, 1.0, 1.0], (N, 1)), "cross_entropy"),
    "a dict": (MODEL, {"label": Y}, "cross_entropy"),
}


@pytest.mark.parametrize("name", WRONG_TARGETS)
def test_targets_that_do_not_fit_the_outputs_are_refused(name):
    model, y, loss = WRONG_TARGETS[name]
    refused(r"dataset\.train\.y: expected ", model, dataset(y=y), loss=loss)


def test_columns_of_labels_are_labels_and_one_real_number_fits_one_output():
    _, _, data, test = prepare(data=dataset(y=Y[:, None]))
    assert data.y.shape == test.y.shape == (N,)
    for y in (X[:, 0], X[:, :1]):
        assert prepare(ONE, dataset(y=y), "mse")[2].y.shape == (N, 1)
    assert prepare(MODEL, dataset(y=X[:, :3]), "mse")[2].y.shape == (N, 3)
    assert prepare(MODEL, dataset(y=np.eye(3)[Y]), "cross_entropy")[2].y.shape == (N, 3)


BAD_LOSSES = {
    "a scalar": lambda outputs, y: jnp.mean(outputs),
    "a matrix": lambda outputs, y: outputs,
    "integers": lambda outputs, y: y,
    "a pair": lambda outputs, y: (y, y),
    "an error": lambda outputs, y: outputs @ y,
}


@pytest.mark.parametrize("name", BAD_LOSSES)
def test_losses_that_are_not_one_number_an_example_are_refused(name):
    refused("loss: expected ", loss=BAD_LOSSES[name])


# Networks


def network(body, **fields):
    """A module whose call is `body(module, x, ...)`, with the training switches that the body has."""
    return type("Net", (nn.Module,), {"__call__": nn.compact(body), "__module__": __name__, **fields})()


def normed(self, x, **switches):
    return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=not switches.get("train", False))(x))


def always_normed(self, x):
    return nn.Dense(CLASSES)(nn.BatchNorm(use_running_average=False)(x))


def unknown_name(self, x, is_learning=False):
    return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not is_learning)(x))


def attention(self, x):
    return nn.Dense(CLASSES)(nn.MultiHeadDotProductAttention(1, dropout_rate=0.1)(x[:, None], deterministic=True)[:, 0])


def always_dropped(self, x, train=False):
    return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=False)(x))


def counted_always(self, x, train=False):
    self.variable("calls", "count", lambda: jnp.zeros((), jnp.int32)).value += 1
    return nn.Dense(CLASSES)(x)


def growing(self, x, train=False):
    memory = self.variable("memory", "rows", lambda: jnp.zeros((1, x.shape[1])))
    if train:
        memory.value = jnp.concatenate([memory.value, x])
    return nn.Dense(CLASSES)(x)


def two_inputs(self, x, lengths):
    return nn.Dense(CLASSES)(x)


def wrong_shape(self, x):
    return nn.Dense(CLASSES)(x.reshape(N, -1) @ jnp.ones((7, 3)))


def two_outputs(self, x):
    return nn.Dense(CLASSES)(x), nn.Dense(1)(x)


REFUSED_NETWORKS = {
    normed: "expected a training switch for its BatchNorm",
    always_normed: "expected no updates in evaluation mode",
    unknown_name: "expected a training switch for its Dropout",
    attention: "expected a training switch for its",
    always_dropped: "expected no random numbers in evaluation mode",
    counted_always: "expected no updates in evaluation mode",
    growing: "expected collections of fixed shapes, got memory",
    two_inputs: "expected a call with x and training switches, got lengths",
    wrong_shape: "expected a network of x float32",
    two_outputs: "expected one array of outputs",
}


@pytest.mark.parametrize("body", REFUSED_NETWORKS, ids=lambda body: body.__name__)
def test_networks_that_would_train_wrongly_are_refused(body):
    refused(f"model: {REFUSED_NETWORKS[body]}", network(body))


def test_a_fixed_switch_is_no_switch():
    for fixed in (True, False):
        refused("model: expected ", nn.BatchNorm(use_running_average=fixed))


def test_the_linearised_network_says_itself_that_it_runs_in_evaluation_mode():
    def both(self, x, train, *, deterministic):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=deterministic)(x))

    model = network(both)
    assert prepare(model)[0].rngs == ("dropout",)
    program, shapes, _, _ = prepare(Linearized(model))
    assert program.rngs == () and set(shapes) == {"params", "batch_stats", "anchor"}


def test_float64_data_are_narrowed_to_the_params(x64):
    wide = dataset(X.astype(np.float64), X[:, :3].astype(np.float64))
    for init, dtype in ((None, np.float32), ("params", np.float64)):
        if init is not None:
            shapes = jax.eval_shape(lambda: models.init(MODEL, jax.random.key(0), (5,)))
            init = jax.tree.map(lambda leaf: np.zeros((1, *leaf.shape)), shapes)
        _, _, data, test = prepare(data=wide, loss="mse", init=init)
        assert {leaf.dtype for leaf in (*data, *test)} == {np.dtype(dtype)}


def test_numbers_beyond_float32_are_refused():
    refused("dataset: expected numbers that float32 holds", data=dataset(X.astype(np.float64) * 1e300))


def test_variables_and_seeds_of_another_kind_are_refused():
    refused("init: expected variables", init=[1])
    for seeds in (3.0, None):
        with pytest.raises(ValueError, match=r"^seeds: expected how many"):
            ensemble.fit(MODEL, dataset(), train.Config(1, 8, 0.1), seeds)
