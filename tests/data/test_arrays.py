"""Tests of `data.from_arrays`: the same draws as `load`, real targets, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import data

RNG = np.random.default_rng(0)
X, Y = RNG.normal(3, 2, (40, 5)), RNG.integers(0, 3, 40)


def made(x=X[:30], y=Y[:30], x_test=X[30:], y_test=Y[30:], **given):
    return data.from_arrays(x, y, x_test, y_test, **given)


def test_draws_are_those_of_load():
    """Digits as arrays give the same images, labels, subset and noise, to the bit."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(1797)
    x, y = bunch.images[order, :, :, None] / 16, bunch.target[order]
    for given in ({}, {"num_train": 100, "label_noise": 0.3, "seed": 5}, {"num_train": 9, "subset": "first"}):
        loaded = data.load("digits", **given)
        ours = data.from_arrays(x[500:], y[500:], x[:500], y[:500], **given)
        np.testing.assert_array_equal(ours.train.y, loaded.train.y)
        for split in ("train", "test"):
            np.testing.assert_allclose(getattr(ours, split).x, getattr(loaded, split).x, atol=1e-5)
        fields = ("num_classes", "num_train", "num_flipped", "subset", "label_noise", "seed")
        assert [getattr(ours, f) for f in fields] == [getattr(loaded, f) for f in fields]


def test_features_are_standardised_each_by_the_training_set():
    dataset = made(num_train=10)
    np.testing.assert_allclose(dataset.mean, X[:30].mean(0), rtol=1e-5)
    np.testing.assert_allclose(dataset.std, X[:30].std(0), rtol=1e-5)
    np.testing.assert_allclose(dataset.test.x, (X[30:] - X[:30].mean(0)) / X[:30].std(0), atol=1e-5)
    assert dataset.train.x.shape == (10, 5) and dataset.train.x.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1)])
def test_bytes_are_pixels(shape):
    """Images without an axis for channels keep their shape, and have one mean."""
    x = RNG.integers(0, 256, (40, *shape), dtype=np.uint8)
    dataset = made(x[:30], x_test=x[30:])
    np.testing.assert_allclose(dataset.mean, [x[:30].mean() / 255], rtol=1e-6)
    np.testing.assert_allclose(dataset.test.x, (x[30:] - x[:30].mean()) / x[:30].std(), atol=1e-5)


def test_without_standardising_numbers_stay():
    """Tokens too."""
    tokens = RNG.integers(0, 1000, (40, 7))
    dataset = made(tokens[:30], x_test=tokens[30:], standardize=False)
    np.testing.assert_array_equal(dataset.train.x, tokens[:30])
    assert dataset.train.x.dtype == jnp.int32
    np.testing.assert_array_equal(made(standardize=False).train.x, X[:30].astype(np.float32))
    assert made(standardize=False).digest != made().digest


@pytest.mark.parametrize("targets", [X[:, 0], X[:, :2]])
def test_real_targets(targets):
    dataset = made(y=targets[:30], y_test=targets[30:], num_train=20, seed=3)
    assert dataset.num_classes == 0 and dataset.train.y.dtype == jnp.float32 and dataset.num_flipped == 0
    whole = made(y=targets[:30], y_test=targets[30:])
    np.testing.assert_array_equal(whole.train.y, targets[:30].astype(np.float32))
    rows = [np.flatnonzero((np.asarray(whole.train.x) == row).all(1))[0] for row in np.asarray(dataset.train.x)]
    np.testing.assert_array_equal(dataset.train.y, targets[rows].astype(np.float32))  # drawn with their examples


def test_labels_come_in_many_kinds():
    """Booleans, columns, lists, unsigned bytes, arrays of JAX; `num_classes` counts classes without an example."""
    assert made(y=Y[:30] > 0, y_test=Y[30:] > 0).num_classes == 2
    for kind in (list, np.uint8, jnp.asarray, lambda y: y[:, None]):
        convert = (lambda y, k=kind: y.astype(k)) if isinstance(kind, type) and kind is not list else kind
        dataset = made(y=convert(Y[:30]), y_test=convert(Y[30:]))
        np.testing.assert_array_equal(dataset.train.y, Y[:30])
        assert dataset.digest == made().digest
    assert made(y_test=np.full(10, 7), num_classes=8).num_classes == 8
    assert made(y=Y[:30] * 0, y_test=Y[30:] * 0).num_classes == 2
    assert made(num_classes=5).num_classes == 5
    flipped = made(num_classes=5, label_noise=0.9).train.y
    assert set(np.unique(flipped)) - {0, 1, 2}, "noise draws from all classes"


def test_repr_is_short_and_has_no_arrays():
    shown = repr(made(name="mine", label_noise=0.25))
    assert shown == (
        "Dataset(mine: train x (30, 5) float32, y (30,) int32; test x (10, 5) float32, y (10,) int32; 3 classes; "
        "label noise 0.25)"
    )
    assert repr(made(y=X[:30], y_test=X[30:])).endswith("y (10, 5) float32; real targets)")


NAN = np.where(np.arange(150).reshape(30, 5) == 77, np.nan, X[:30])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X[:29]}, r"y: expected one target for each of 29 examples, got shape \(30,\)"),
        ({"y_test": Y[:9]}, r"y_test: expected one target for each of 10 examples, got shape \(9,\)"),
        ({"x_test": X[30:, 1:]}, r"x_test: expected examples of shape \(5,\), got \(4,\)"),
        ({"x_test": X[30:].astype(int)}, "x_test: expected float32 as in x, got int64"),
        ({"x": X[:0], "y": Y[:0]}, r"x: expected at least one example .* got shape \(0, 5\)"),
        ({"x_test": X[:0], "y_test": Y[:0]}, "x_test: expected at least one example"),
        ({"x": X[:30, 0]}, r"x: expected .* got shape \(30,\); x\[:, None\] has one feature each"),
        ({"x": NAN}, "x: expected finite numbers, got NaN or infinity"),
        ({"x_test": X[30:] + np.inf}, "x_test: expected finite numbers, got NaN or infinity"),
        ({"x": X[:30] * 1e300}, "x: expected finite numbers that float32 holds, got a larger one"),
        ({"x": X[:30].astype(str)}, "x: expected real numbers, got dtype <U"),
        ({"x": X[:30] + 1j}, "x: expected real numbers, got dtype complex128"),
        ({"x": [[1.0], [2.0, 3.0]]}, "x: expected an array of numbers, got list"),
        ({"x": {"a": 1}}, "x: expected real numbers, got dtype object"),
        ({"x": None}, "x: expected real numbers, got dtype object"),
        ({"x": np.full((30, 5), 2**40), "x_test": np.zeros((10, 5), int)}, "x: expected integers of 32 bits"),
        ({"y": Y[:30] - 1}, r"y: expected labels 0, 1, 2, \.\.\., got -1 \.\.\. 1"),
        ({"num_classes": 2}, "y: expected labels from 0 to 1, got 0 ... 2"),
        ({"y_test": Y[30:] + 5, "num_classes": 3}, "y_test: expected labels from 0 to 2, got"),
        ({"y": np.eye(3, dtype=int)[Y[:30]]}, r"y: expected class labels \(n,\), got int64 .* y.argmax\(1\)"),
        ({"y": Y[:30] * 10**6}, "y: expected at most 100000 classes, got labels up to 2000000"),
        ({"y_test": X[30:, 0]}, r"y_test: expected class labels of shape \(n,\), as in y, got real targets"),
        ({"y": X[:30], "y_test": X[30:, :2]}, r"y_test: expected real targets of shape \(n, 5\), as in y"),
        ({"y": X[:30], "y_test": X[30:], "num_classes": 3}, "y: expected integer labels with num_classes=3"),
        ({"y": X[:30], "y_test": X[30:], "label_noise": 0.1}, "label_noise: expected 0 with real targets, got 0.1"),
        ({"y": np.array(["cat", "dog"] * 15)}, r"y: expected real numbers, got dtype <U3; for words give np.unique"),
        ({"y": np.array([None] * 30)}, "y: expected real numbers, got dtype object"),
        ({"num_classes": 1}, "num_classes: expected an integer of at least 2, got 1"),
        ({"num_train": 31}, "num_train: expected at most 30, all of arrays, got 31"),
        ({"label_noise": 1.0}, "label_noise: expected a number"),
        ({"seed": -1}, "seed: expected an integer"),
        ({"subset": "last"}, "subset: expected 'random' or 'first'"),
        ({"name": ""}, "name: expected text, got ''"),
        ({"standardize": "no"}, "standardize: expected True or False, got 'no'"),
    ],
)
def test_bad_arrays_are_refused_by_name(given, message):
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        made(**given)
    assert "\n" not in str(caught.value)
