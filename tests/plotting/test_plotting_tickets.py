"""What the lottery-ticket figures show: axes, arms, and values that a logarithm does not have."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from ntkgen import plotting
from ntkgen.plotting import lottery_ticket

PERCENTS = [100, 20, 5]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def curve(mean, spread=1.0, x=PERCENTS):
    mean = np.asarray(mean, float)
    return plotting.Curve(x, mean, mean - spread, mean + spread)


def test_arms_can_be_told_apart():
    styles = list(plotting.lottery_ticket.ARMS.values())
    assert len(set(styles)) == len(styles)
    # Where the values come from has a colour, the mask a marker.
    for source in ("shuffled", "fan_in"):
        same = [style for arm, style in plotting.lottery_ticket.ARMS.items() if arm.endswith(source)]
        assert len({colour for colour, *_ in same}) == 1 and len({marker for _, marker, _ in same}) == len(same) == 3


def test_accuracy_has_a_column_for_each_group_above_the_difference_to_the_whole_network():
    curves = {"ticket": curve([98, 97, 95]), "random": curve([98, 50, 10], 40)}
    differences = {"ticket": curve([-1, -3], 0.2, [20, 5]), "random": curve([-48, -88], 1, [20, 5])}
    groups = {"tickets": {"ticket": "the ticket"}, "random masks": {"ticket": "compared", "random": "a random mask"}}
    published = ({"ticket": ([100], [98.5])}, {"ticket": ([10], [-1.15]), "reinit": ([10], [-4])})
    figure = plotting.lottery_ticket.accuracy(curves, differences, groups, "title", (-4, 1), 0.5, published, "a CNN")
    uppers, lowers, legends = (figure.axes[2 * row : 2 * row + 2] for row in range(3))
    for ax in (*uppers, *lowers):
        assert ax.get_xscale() == "log" and ax.get_xlim()[0] > 100 > 5 > ax.get_xlim()[1]
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "20", "5"]
    assert [ax.get_title() for ax in uppers] == ["tickets", "random masks"]
    assert uppers[0].get_ylim() == uppers[1].get_ylim() == (-3, 103)  # an interval that leaves does not take it along
    assert {ax.get_ylim() for ax in lowers} == {(-4, 1)} and "points" in lowers[0].get_ylabel()
    assert [line.get_label() for line in uppers[1].lines] == ["compared", "a random mask", "open: published (a CNN)"]
    assert uppers[1].lines[1].get_ydata().tolist() == [98, 50, 10]
    known = uppers[0].lines[-1]
    assert known.get_xdata().tolist() == [100] and known.get_markerfacecolor() == "none"
    assert [bars.get_label() for bars in lowers[1].containers] == ["compared", "a random mask"]
    assert lowers[0].containers[0].lines[0].get_ydata().tolist() == [-1, -3]
    (marker,) = (line for line in lowers[0].lines if "published" in str(line.get_label()))  # of no arm beside
    assert (marker.get_xdata().tolist(), marker.get_ydata().tolist()) == ([10], [-1.15])
    named = [{text.get_text() for text in ax.get_legend().get_texts()} for ax in legends]
    both = {"open: published (a CNN)", "margin, 0.5 points"}
    assert named == [{"the ticket"} | both, {"compared", "a random mask"} | both]


def test_arms_that_diverged_leave_an_axis_that_says_so(tmp_path):
    none, gone = curve([], 0, []), curve([np.nan, np.nan], 0, [20, 5])
    groups = {"tickets": {"ticket": "the ticket"}, "random masks": {"random": "a random mask"}}
    curves, differences = {"ticket": curve([98, 97, 95]), "random": none}, {"ticket": gone, "random": gone}
    figure = plotting.lottery_ticket.accuracy(curves, differences, groups, "title", (-1, 1), 0.5)
    trained, lost = figure.axes[:2]
    assert not trained.texts and [text.get_text() for text in lost.texts] == ["every network diverged"]
    assert figure.axes[5].get_legend().get_texts()[0].get_text() == "a random mask"
    plotting.save(figure, tmp_path / "figure.png")


def test_levels_that_are_too_near_each_other_go_without_a_label():
    percents = [100, 70, 50, 30, 20, 10, 5, 2, 1]
    _, ax = plt.subplots()
    lottery_ticket._remaining(ax, percents)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "", "50", "30", "", "10", "5", "2", "1"]
    assert ax.get_xticks().tolist() == percents


def test_overlap_has_a_panel_for_each_kind_and_the_profile(tmp_path):
    panels = {kind: {"a": (curve([0.9, 0.5], 0.1, [20, 5]), [0.2, 0.1])} for kind in ("order", "init")}
    figure = plotting.lottery_ticket.overlap(panels, {"a": curve([100, 10, 0], 0)}, "title")
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["order", "init", "profile of the tickets"]
    order, profile = figure.axes[0], figure.axes[2]
    assert [line.get_ydata()[0] for line in order.lines[:2]] == [0.9, 0.2] and order.get_ylim() == (0, 1)
    assert profile.get_yscale() == "log"
    plotting.save(figure, tmp_path / "figure.png")  # a layer that lost all its weights has no logarithm


def test_measures_show_intervals_and_logarithms_where_asked(tmp_path):
    whole, ticket = curve([2.0], 3.0, [100]), curve([1.0, 0.5], 0.1, [20, 5])
    panels = [
        plotting.lottery_ticket.Panel("as trained", "eigenvalue", {"whole": whole, "ticket": ticket}, True),
        plotting.lottery_ticket.Panel("matched", "eigenvalue", {"ticket": ticket}, True),
        plotting.lottery_ticket.Panel("between", "barrier", {"ticket": curve([np.nan], 1, [20])}, False),
    ]
    figure = plotting.lottery_ticket.measures(panels, {"whole": "whole", "ticket": "the ticket"}, "title")
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert [ax.get_xscale() for ax in shown] == ["log", "log", "linear"]
    assert [ax.get_xlabel() for ax in shown] == ["eigenvalue", "eigenvalue", "barrier"]
    assert [ax.get_title() for ax in shown] == ["as trained", "matched", "between"]
    assert [tick.get_text() for tick in shown[0].get_yticklabels()] == ["whole", "the ticket"]
    values = [line.get_xdata()[0] for line in shown[0].lines if line.get_marker() in ("o", "s")]
    assert values == [2.0, 1.0, 0.5]  # a marker for each level
    # The whole network's interval begins below zero: it ends in an arrow at the edge, and the legend says so.
    (arrow,) = (line for line in shown[0].lines if line.get_marker() == "<")
    assert arrow.get_xdata()[0] == pytest.approx(shown[0].get_xlim()[0]) and 0.3 < shown[0].get_xlim()[0] < 0.5
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["20 % of the weights remain", "5 % of the weights remain", "whole network",
                    "the interval reaches below zero"]  # fmt: skip
    plotting.save(figure, tmp_path / "figure.png")
