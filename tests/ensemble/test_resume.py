"""A run goes on from its own checkpoints alone, and a folder or `progress=True` is enough to have them."""

import dataclasses

import numpy as np
import pytest

from ntkgen import data, ensemble, models, records, train

MODEL = models.MLP(3, depth=2, num_classes=2)
X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
CONFIG = train.Config(epochs=2, batch_size=6, learning_rate=0.02)


def fit(folder, *, config=CONFIG, seeds=2, x=X, y=Y, model=MODEL, **more):
    return ensemble.fit(model, (x, y), config, seeds, test=(X, Y), checkpoint=folder, **more)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "ck"
    return folder, fit(str(folder))


def test_a_folder_keeps_what_was_trained(stored):
    folder, first = stored
    again = fit(records.Checkpointer(folder))
    np.testing.assert_array_equal(again.history["train_loss"], first.history["train_loss"])
    assert again.seconds["train"] == 0.0  # nothing was trained


@pytest.mark.parametrize(
    "given, words",
    [
        ({"config": dataclasses.replace(CONFIG, learning_rate=0.1)}, "learning_rate 0.02, got 0.1"),
        ({"config": dataclasses.replace(CONFIG, loss="mse")}, "loss 'cross_entropy', got 'mse'"),
        ({"config": dataclasses.replace(CONFIG, epochs=3)}, "epochs 2, got 3"),
        (
            {"config": dataclasses.replace(CONFIG, loss=train.WeightedCrossEntropy((1, 2)))},
            "loss 'cross_entropy', got W",
        ),
        ({"update": ensemble.sam(0.1)}, "update None, got "),
        ({"seeds": [5, 6]}, r"seeds \[0, 1\], got \[5, 6\]"),
        ({"seeds": 4}, r"seeds \[0, 1\], got \[0, 1, 2, 3\]"),
        ({"y": 1 - Y}, "another dataset"),
        ({"model": models.MLP(4, depth=2, num_classes=2)}, "model.width 3, got 4"),
    ],
    ids=["rate", "loss", "epochs", "class weights", "update", "seeds", "more seeds", "labels", "width"],
)
def test_another_run_is_refused_and_nothing_is_lost(stored, given, words):
    folder = stored[0]
    before = {path.name for path in folder.iterdir()}
    with pytest.raises(ValueError, match=f"checkpoint: expected a folder of this run, .* holds one with {words}"):
        fit(folder, **given)
    assert {path.name for path in folder.iterdir()} == before


def test_progress_true_is_a_bar(capsys):
    fit(None, progress=True)
    assert "fit, epoch 2/2, loss " in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, words",
    [
        ({"checkpoint": 3}, "checkpoint: expected a folder or a records.Checkpointer, got int"),
        ({"progress": "yes"}, "progress: expected True, or a function"),
        ({"seeds": "10"}, "seeds: expected how many, or a sequence of whole numbers, got '10'"),
    ],
)
def test_refusals(given, words):
    settings = {"model": MODEL, "dataset": (X, Y), "test": (X, Y), "config": CONFIG, "seeds": 1} | given
    with pytest.raises(ValueError, match=words):
        ensemble.fit(**settings)


def test_a_stray_label_of_the_test_set_makes_no_class():
    with pytest.raises(ValueError, match="y_test: expected classes of y, 0 to 1, got 9; num_classes says how many"):
        data.from_arrays(X, Y, X, np.where(Y, 9, 0))
    assert data.from_arrays(X, Y, X, np.where(Y, 9, 0), num_classes=10).num_classes == 10
