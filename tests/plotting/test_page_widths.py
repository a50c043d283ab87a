"""Figures for a paper: width, no title, text of 6.5 to 8 points, legends beside the data; ticks of log axes."""

import io
import itertools

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from ntkgen import plotting
from ntkgen.plotting import (
    Curve,
    growth,
    implicit_regularization,
    loss_landscape,
    lottery_ticket,
    mechanisms,
    ntk_regime,
)
from ntkgen.plotting._ticks import LogTicks, log_axis, number

ARMS = {"small_batch": "batch 32", "large_batch": "batch 1024"}
UP = Curve([30, 100, 1000], [3.0, 2.0, 1.0], [2.5, 1.8, 0.9], [3.5, 2.2, 1.1])
ONE = Curve([128], [2.0], [1.5], [2.5])


def against_batch(width):
    others = {f"full batch, with noise {i}": (ONE, ONE) for i in range(6)}
    return implicit_regularization.against_batch(
        {"equal epochs": (UP, UP)}, others, {30: 2.9}, "title", {}, width=width
    )


def confounds(width):
    forms = dict.fromkeys(["as trained", "at training loss 0.03", "at logit temperature of loss 0.01"], UP)
    kinds = ["top Hessian eigenvalue", "average adaptive sharpness", "loss increase under weight noise"]
    return implicit_regularization.confounds(dict.fromkeys(kinds, forms), "title", [30], width=width)


def measures(width):
    arms = {arm: Curve([30, 10], [1.0, 2.0], [0.8, 1.5], [1.2, 2.5]) for arm in ("ticket", "reinit", "random")}
    names = {
        "ticket": "ticket",
        "reinit": "ticket's mask, drawn anew, dense scale",
        "random": "random mask, total count",
    }
    panel = lottery_ticket.Panel("logits matched to 0.1 nats, if reached", "adaptive sharpness (nats)", arms, True)
    return lottery_ticket.measures([panel] * 6, names, "title", width=width)


def model_wise(width):
    return plotting.model_wise(
        UP, UP, [8, 16, 32], "width", "title", (90.0, 80.0, 95.0), noisy_labels=True, width=width
    )


def epoch_wise(width):
    return plotting.epoch_wise(dict.fromkeys("abcdef", (UP, UP)), "title", "width", noisy_labels=True, width=width)


def landscape(width):
    return loss_landscape.perturbation({"sigma": dict.fromkeys(ARMS, (UP, UP))}, ARMS, "title", width=width)


def movement(width):
    fit = ntk_regime.Line([30, 1000], [3.0, 1.0], "width$^{-0.50}$ [-0.51, -0.50], r² 1.00")
    names = ["relative movement", "absolute movement", "initial norm"]
    curves, kernel = dict.fromkeys(names, UP), {"kernel drift": UP}
    fits = dict.fromkeys([*names, "kernel drift"], fit)
    return ntk_regime.regime(curves, kernel, fits, [fit], ([30], [3.0]), "title", width=width)


def answer(width):
    return mechanisms.answer(["sharpness", "norm"], ["all", "width"], [[(0.6, True), (-0.2, False)]] * 2, 0, "title",
                             width=width)  # fmt: skip


def cost(width):
    sizes = [1, 2, 4, 8, 16, 32, 64]
    curve = Curve(sizes, [0.01 * x for x in sizes], [0.009 * x for x in sizes], [0.02 * x for x in sizes])
    one = growth.Cost(curve, [1.0] * 7, [0.005 * x for x in sizes], [0.4] * 7, [1.0] * 6, 0.3)
    names = ["MLP 64: slope 0.93 [0.91, 0.96] from 4 on", "MLP 512: slope 1.01 [1.00, 1.02]"]
    return growth.cost(dict.fromkeys(names, one), "seeds", "title", width=width)


FIGURES = [against_batch, confounds, measures, model_wise, epoch_wise, landscape, movement, answer, cost]


def shown(figure):
    """Texts that were drawn, with their boxes in pixels."""
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [(text, text.get_window_extent()) for text in texts]


@pytest.mark.parametrize("draw", FIGURES, ids=lambda draw: draw.__name__)
@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("double", 6.9)])
def test_a_figure_for_a_paper(tmp_path, draw, width, inches):
    """Its width; no title but in the file; text of 6 to 8 points; nothing leaves it, no legend covers axes."""
    figure = draw(width)
    assert figure.get_figwidth() == inches
    assert not figure.get_suptitle() and "title" not in [ax.get_title() for ax in figure.axes]
    path = plotting.save(figure, tmp_path / "a.png")
    assert "title" in plotting.title_of(path.read_bytes())
    assert Image.open(io.BytesIO(path.read_bytes())).size[0] == round(300 * inches)
    texts = shown(figure)
    sizes = {text.get_fontsize() for text, _ in texts if "$" not in text.get_text()}
    assert 6.4 <= min(sizes) and max(sizes) <= 8
    page = figure.bbox
    slack = 4  # pixels of 300 dpi
    outside = [
        text.get_text() for text, box in texts
        if box.x0 < -slack or box.x1 > page.width + slack or box.y0 < -slack or box.y1 > page.height + slack
    ]  # fmt: skip
    assert outside == []
    panels = [ax for ax in figure.axes if ax.get_visible() and ax.get_xlabel() and ax.get_ylabel()]
    for legend in figure.legends:
        box = legend.get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent()) for ax in panels)
    lettered = [title for ax in figure.axes if (title := ax.get_title(loc="left"))]
    if len(lettered) > 1:
        assert [title[:3] for title in lettered] == [f"({chr(97 + i)})" for i in range(len(lettered))]
    assert (len(lettered) > 1) == (draw in (against_batch, confounds, measures, epoch_wise, movement, cost))


def test_a_screen_has_titles_and_no_letters():
    figure = confounds(None)
    assert figure.get_suptitle() == "title" and figure.get_figwidth() > 8
    assert not any(ax.get_title(loc="left") for ax in figure.axes)


def test_labels_with_noise_are_named():
    figure = epoch_wise("screen")
    assert [ax.get_ylabel() for ax in figure.axes] == ["test error (%)", "training error on noisy labels (%)"]
    assert "training error on noisy labels" in [text.get_text() for text in model_wise(None).legends[0].get_texts()]


def test_a_width_holds_inside_and_other_widths_are_refused():
    with plotting.at_width("double"):
        assert model_wise(None).get_figwidth() == 6.9 and model_wise("column").get_figwidth() == 3.3
    assert model_wise(None).get_figwidth() == 6.4
    with pytest.raises(ValueError, match=r"^width: expected one of screen, column, double, got 'wide'$"):
        model_wise("wide")


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (2.4, 16.0, ["3", "5", "7", "10"]),
        (0.0011, 0.0055, ["0.002", "0.003", "0.005"]),
        (4.0, 6.5, ["4", "5", "6"]),
        (0.3, 50.0, ["0.5", "1", "2", "5", "10", "20", "50"]),
        (0.5, 2e4, ["$10^{0}$", "$10^{1}$", "$10^{2}$", "$10^{3}$", "$10^{4}$"]),
        (2e-7, 9e-7, ["$2\\times10^{-7}$", "$3\\times10^{-7}$", "$5\\times10^{-7}$", "$7\\times10^{-7}$"]),
    ],
)
def test_log_axes_have_plain_numbers_or_powers_of_ten(low, high, labels):
    figure, ax = plotting.subplots(1, 1, figsize=(4, 6))
    log_axis(ax.yaxis)
    ax.set_ylim(low, high)
    figure.canvas.draw()
    assert [tick.get_text() for tick in ax.get_yticklabels()] == labels


def test_ticks_leave_room_for_each_other_and_bear_any_limits():
    figure, ax = plotting.subplots(1, 1, figsize=(1.2, 1))
    log_axis(ax.xaxis)
    ax.set_xlim(0.0002, 0.03)
    figure.canvas.draw()
    boxes = [tick.get_window_extent() for tick in ax.get_xticklabels()]
    assert len(boxes) >= 2 and all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    for limits in ((0.0, 1.0), (1.0, 1.0), (np.nan, 1.0), (1.0, np.inf)):
        assert LogTicks().tick_values(*limits).tolist() == [1.0]
    assert number(0.0) == "0" and number(1e5) == "$1\\times10^{5}$" and number(0.0001) == "0.0001"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: loss_landscape.perturbation({"s": {"mine": (UP, UP)}}, ARMS, ""),
         "panels: expected arms among small_batch, large_batch, got 'mine'"),
        (lambda: loss_landscape.surfaces({"a": ([0], np.ones((1, 1)))}, {"a": "x"}, ""),
         "surfaces: expected arms among small_batch, large_batch, got 'a'"),
        (lambda: lottery_ticket.measures([lottery_ticket.Panel("", "", {"mine": ONE}, True)], {"mine": "x"}, ""),
         "panels: expected arms among whole, ticket, "),
        (lambda: lottery_ticket.accuracy({}, {}, {"all": {"mine": "x"}}, "", (-1, 1), 0.5),
         "curves: expected arms among whole, ticket, "),
        (lambda: ntk_regime.accuracy({"a": {"mine": UP}}, ([], []), ""), "panels: expected arms among relative"),
    ],
)  # fmt: skip
def test_arms_without_a_colour_are_refused_in_one_line(draw, message):
    with pytest.raises(ValueError) as error:
        draw()
    assert str(error.value).startswith(message) and "\n" not in str(error.value)
