"""Figures: what is drawn is what was given, also where numbers are missing."""

import struct

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PolyCollection

from ntkgen import plotting
from ntkgen.plotting import Curve
from ntkgen.plotting._style import COLOURS

X = [100, 1000, 10_000]
TEST = Curve(X, [30.0, 20.0, 10.0], [28.0, 17.0, 9.0], [32.0, 23.0, 11.0])
TRAIN = Curve(X, [25.0, 5.0, 0.0], [24.0, 4.0, 0.0], [26.0, 6.0, 0.0])
NAN = [np.nan] * 3


@pytest.fixture(autouse=True)
def _no_figure_stays_open():
    before = set(plt.get_fignums())
    yield
    for number in set(plt.get_fignums()) - before:
        plt.close(number)


def line(ax, label):
    """The one line with this label."""
    (found,) = (line for line in ax.lines if line.get_label() == label)
    return found


def bands(ax):
    """Upper ends of the shaded intervals, in order."""
    return [patch.get_paths()[0].vertices[:, 1].max() for patch in ax.collections if isinstance(patch, PolyCollection)]


def test_model_wise_draws_what_it_is_given():
    published = {"test": ([100, 10_000], [29.0, 9.5]), "train": ([], [])}
    figure = plotting.model_wise(TEST, TRAIN, [4, 8, 16], "width", "a title", (500.0, 300.0, 800.0), published)
    (ax,) = figure.axes
    for label, curve, colour in (("test error", TEST, "test"), ("training error", TRAIN, "train")):
        drawn = line(ax, label)
        np.testing.assert_array_equal(drawn.get_xydata(), np.column_stack([X, curve.mean]))
        assert drawn.get_color() == COLOURS[colour]
    assert bands(ax) == [32.0, 26.0]
    np.testing.assert_array_equal(line(ax, "published test error").get_ydata(), [29.0, 9.5])
    assert not [other for other in ax.lines if other.get_label() == "published training error"]
    assert line(ax, "interpolation threshold").get_xdata()[0] == 500.0
    assert ax.get_xscale() == "log" and ax.get_ylim()[0] == 0 and ax.get_title() == "a title"
    (top,) = ax.child_axes
    assert [tick.get_text() for tick in top.get_xticklabels()] == ["4", "8", "16"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "test error", "training error", "published test error", "interpolation threshold"]  # fmt: skip


def test_sizes_that_would_collide_are_not_named():
    x = [100, 101, 1000, 10_000]
    curve = Curve(x, *[[1.0] * 4] * 3)
    figure = plotting.model_wise(curve, curve, [1, 2, 3, 4], "width", "")
    (top,) = figure.axes[0].child_axes
    assert [tick.get_text() for tick in top.get_xticklabels()] == ["1", "3", "4"]


def test_a_threshold_without_interval_is_a_line_alone():
    plain, spanned = (
        plotting.model_wise(TEST, TRAIN, [4, 8, 16], "width", "", (500.0, low, high)).axes[0]
        for low, high in ((np.nan, np.nan), (300.0, 800.0))
    )
    assert len(spanned.patches) == len(plain.patches) + 1


def test_epoch_wise_separates_test_from_training_and_cuts_off_the_start():
    epochs = list(range(1, 31))
    test = Curve(epochs, [90.0] * 3 + [30.0] * 27, [0.0] * 30, [95.0] * 30)
    train = Curve(epochs, [80.0] * 3 + [12.0] * 27, [0.0] * 30, [95.0] * 30)
    figure = plotting.epoch_wise({"4": (test, train), "8": (train, test)}, "a title", "width")
    left, right = figure.axes
    assert left.get_ylabel() == "test error (%)" and right.get_ylabel() == "training error (%)"
    np.testing.assert_array_equal(line(left, "4").get_ydata(), test.mean)
    np.testing.assert_array_equal(line(right, "4").get_ydata(), train.mean)
    assert left.get_ylim() == right.get_ylim() == (0, pytest.approx(1.33 * 30))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["4", "8"] and legend.get_title().get_text() == "width"


def test_sample_wise_draws_every_size():
    figure = plotting.sample_wise({"4": TEST, "8": TRAIN}, "a title", "width")
    (ax,) = figure.axes
    np.testing.assert_array_equal(line(ax, "8").get_xydata(), np.column_stack([X, TRAIN.mean]))
    assert bands(ax) == [32.0, 26.0] and ax.get_xlabel() == "training examples"


@pytest.mark.parametrize("mean", [[30.0, np.nan, 10.0], NAN, [0.0] * 3], ids=["a gap", "nothing", "zeros"])
def test_missing_and_constant_numbers_draw_without_a_warning(tmp_path, mean):
    curve = Curve(X, mean, NAN, NAN)
    figures = [
        plotting.model_wise(curve, curve, [4, 8, 16], "width", ""),
        plotting.epoch_wise({"4": (curve, curve)}, "", "width"),
        plotting.sample_wise({"4": curve}, "", "width"),
    ]
    for i, figure in enumerate(figures):
        low, high = figure.axes[0].get_xlim()
        assert low < X[0] and high > X[-1]
        assert plotting.save(figure, tmp_path / f"{i}.png").stat().st_size > 5000


def test_one_point_draws_without_a_warning(tmp_path):
    one = Curve([1], [30.0], [np.nan], [np.nan])
    figures = [
        plotting.model_wise(one, one, [4], "width", ""),
        plotting.epoch_wise({"4": (one, one)}, "", "width"),
        plotting.sample_wise({"4": one}, "", "width"),
    ]
    for i, figure in enumerate(figures):
        assert plotting.save(figure, tmp_path / f"{i}.png").stat().st_size > 5000


def test_save_writes_the_same_png_again_and_pyplot_knows_nothing_of_it(tmp_path):
    def draw():
        return plotting.model_wise(TEST, TRAIN, [4, 8, 16], "width", "a title", (500.0, 300.0, 800.0))

    before = plt.get_fignums()
    one, two = (plotting.save(draw(), tmp_path / "new" / f"{i}.png") for i in range(2))
    content = one.read_bytes()
    assert content == two.read_bytes()
    assert content.startswith(b"\x89PNG") and struct.unpack(">II", content[16:24]) == (960, 690)  # 6.4 x 4.6 at 150
    assert b"matplotlib" not in content.lower()
    assert plt.get_fignums() == before
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["0.png", "1.png"]


@pytest.mark.filterwarnings("ignore:Data has no positive values")  # matplotlib says it too, on the log scale
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_axes_without_a_value_say_so(tmp_path, scale):
    """On either scale, and with the axes' own lines; with one value they do not."""

    def texts(values):
        figure, ax = plt.subplots()
        ax.plot([1.0, 10.0], values)
        ax.axvline(3.0)
        ax.set(xscale=scale, yscale=scale)
        path = plotting.save(figure, tmp_path / "figure.png")
        assert path.stat().st_size > 1000
        return [text.get_text() for text in ax.texts]

    nan = float("nan")
    assert texts([nan, nan]) == texts([nan, np.inf]) == ["no finite values"]
    assert texts([nan, 2.0]) == []
    assert texts([nan, -2.0]) == (["no finite values"] if scale == "log" else [])


def test_ratios_over_losses_are_drawn_where_no_loss_was_reached_too(tmp_path):
    some = plotting.Curve([0.1, 0.01], [2.0, 3.0], [1.5, 2.0], [3.0, 4.0])
    none = plotting.Curve([0.1, 0.01], *[[np.nan] * 2] * 3)
    panels = {"eigenvalue": {"along training": some, "by temperature": none}, "trace": {"along training": none}}
    figure = plotting.implicit_regularization.over_losses(panels, 1.26, "")
    left, right = figure.axes
    np.testing.assert_array_equal(left.lines[0].get_ydata(), some.mean)
    for ax in (left, right):
        assert ax.get_xscale() == "log" and ax.get_xlim() == pytest.approx((0.01 / 1.3, 0.13))
    assert plotting.save(figure, tmp_path / "a.png").stat().st_size > 5000
