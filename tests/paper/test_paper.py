"""The published tables as data, and the comparison with ours."""

import math

import pytest

from ntkgen import paper


@pytest.mark.parametrize("width", paper.MLP_PARAMS)
def test_mlp_counts_are_784_w_w_w_10_with_biases(width):
    assert paper.MLP_PARAMS[width] == 785 * width + 2 * (width + 1) * width + 10 * (width + 1)


@pytest.mark.parametrize("c", paper.CNN_PARAMS)
def test_cnn_counts_are_kernels_one_vector_a_pair_and_the_head(c):
    inputs_outputs = [(3, c), (c, c), (c, 2 * c), (2 * c, 2 * c), (2 * c, 4 * c), (4 * c, 4 * c)]
    kernels = 9 * sum(i * o for i, o in inputs_outputs)
    head = (64 * c + 1) * 256 + 257 * 10  # 32 x 32 images, pooled three times: 4 x 4 x 4c
    assert paper.CNN_PARAMS[c] == kernels + 14 * c + head


def test_accuracies_are_percentages_and_belong_to_published_sizes():
    counts = {("mlp", "mnist"): paper.MLP_PARAMS, ("cnn", "cifar10"): paper.CNN_PARAMS}
    for key, table in paper.DOUBLE_DESCENT.items():
        assert set(table) <= set(counts[key])
        values = [value for row in table.values() for value in row.values() if value is not None]
        assert all(1 < value <= 100 for value in values)
    # The text's own errors, sections V-D and VI-C: 10.3, 4.6, 3.1 and 72.4 points.
    mlp, cnn = paper.DOUBLE_DESCENT.values()
    errors = [100 - row["test_acc"] for row in (mlp[8], mlp[32], mlp[1024], cnn[8])]
    assert errors == pytest.approx([10.3, 4.6, 3.1, 72.4])


def test_compare_puts_ours_beside_theirs():
    published = {8: {"test_acc": 90.0, "train_acc": None}, 16: {"test_acc": 93.0}}
    ours = {8: {"test_acc": (89.0, 88.0, 90.0), "train_acc": (97.0, 96.0, 98.0)}, 4: {"test_acc": (50.0, 40.0, 60.0)}}
    rows = {(row["setting"], row["metric"]): row for row in paper.compare(published, ours)}
    assert list(rows) == [(4, "test_acc"), (8, "test_acc"), (8, "train_acc"), (16, "test_acc")]
    assert rows[8, "test_acc"] == {
        "setting": 8, "metric": "test_acc", "published": 90.0, "ours": 89.0, "low": 88.0, "high": 90.0,
        "difference": -1.0, "inside": True,
    }  # fmt: skip
    for key, (theirs, own) in {(4, "test_acc"): (None, 50.0), (8, "train_acc"): (None, 97.0),
                               (16, "test_acc"): (93.0, None)}.items():  # fmt: skip
        row = rows[key]
        assert (row["published"], row["ours"], row["difference"], row["inside"]) == (theirs, own, None, None)


@pytest.mark.parametrize(("value", "inside"), [(87.9, False), (88.0, True), (90.0, True), (90.1, False)])
def test_inside_is_the_closed_interval(value, inside):
    (row,) = paper.compare({8: {"acc": value}}, {8: {"acc": (89.0, 88.0, 90.0)}})
    assert row["inside"] is inside
    assert row["difference"] == pytest.approx(89.0 - value)


def test_one_seed_has_no_interval_to_be_inside_of():
    (row,) = paper.compare({8: {"acc": 90.0}}, {8: {"acc": (89.0, math.nan, math.nan)}})
    assert row["difference"] == -1.0 and row["inside"] is None


def test_a_lost_mean_is_no_number():
    (row,) = paper.compare({8: {"acc": 90.0}}, {8: {"acc": (None, None, None)}})
    assert row["ours"] is None and row["difference"] is None and row["inside"] is None
