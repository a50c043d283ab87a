"""Every published number as data, its grade beside ours, and the statements that the published tables contradict."""

import math

import pytest

from ntkgen import paper, plotting
from ntkgen.studies.reproduce import _published, _statements

NUMBERS = paper.published_numbers()
KNOWN = {(one.study, one.setting, one.metric, one.rounding): one for one in NUMBERS}


def number(value, rounding=0.1, **more):
    return paper.PublishedNumber("V-A", "double_descent mlp", "width 8", "test_acc", value, rounding, **more)


def test_no_number_is_there_twice():
    assert len(KNOWN) == len(NUMBERS) > 150


@pytest.mark.parametrize(
    ("study", "setting", "metric", "rounding", "value"),
    [
        ("double_descent mlp", "width 8", "test_error", 0.1, 10.3),
        ("double_descent cnn", "channels 8", "train_acc", 0.1, 45.8),
        ("implicit_regularization", "sgd32 - sgd2048", "test_acc", 0.01, 2.25),
        ("implicit_regularization", "gd", "gap", 0.01, 3.95),
        ("loss_landscape", "batch 1024 / batch 32", "top_eigenvalue", 0.1, 11.8),
        ("loss_landscape", "batch 32 - batch 1024", "test_acc", 0.01, 1.61),
        ("loss_landscape", "batch 1024", "loss_rise_percent", 1.0, 1932),
        ("ntk_regime", "width 4096", "relative_movement", 1e-4, 0.0831),
        ("ntk_regime", "twice the width", "movement_fall_percent", 10.0, 30),
        ("lottery_ticket", "ticket 100% - ticket 10%", "test_acc", 0.01, 1.15),
        ("lottery_ticket", "ticket 10% - reinit 10%", "test_acc", 0.01, 2.80),
        ("lottery_ticket", "ticket 30%", "test_acc", 0.01, None),
        ("", "cnn 96", "num_params", 0.0, 4150890),
        ("", "mlp 4096", "num_params", 1_000_000, 37_000_000),
        ("implicit_regularization", "sgd64", "lr", 0.0, 0.0075),
    ],
)  # fmt: skip
def test_numbers_of_the_text(study, setting, metric, rounding, value):
    assert KNOWN[study, setting, metric, rounding].value == value


def test_the_texts_differences_follow_from_its_tables():
    sgd = paper.IMPLICIT_REGULARIZATION
    assert sgd["sgd32"]["test_acc"] - sgd["sgd2048"]["test_acc"] == pytest.approx(paper.BATCH_DIFFERENCE)
    two = paper.LOSS_LANDSCAPE
    assert two[32]["test_acc"] - two[1024]["test_acc"] == pytest.approx(paper.LANDSCAPE_DIFFERENCE)
    ticket = paper.LOTTERY_TICKET["ticket"]
    assert ticket[100]["test_acc"] - ticket[10]["test_acc"] == pytest.approx(paper.TICKET_LOSS)
    reinit = paper.LOTTERY_TICKET["reinit"][10]["test_acc"]
    assert ticket[10]["test_acc"] - reinit == pytest.approx(paper.REINIT_LOSS)


@pytest.mark.parametrize(
    ("value", "interval", "grade"),
    [
        (90.0, (89.0, 91.0), "within"),
        (90.0, (90.04, 91.0), "within"),  # 90.04 rounds to 90.0
        (90.0, (90.05, 91.0), "within"),
        (90.0, (90.06, 91.0), "outside"),
        (90.0, (88.0, 89.96), "within"),
        (90.0, (88.0, 89.94), "outside"),
    ],
)
def test_within_is_the_interval_or_the_rounding(value, interval, grade):
    word, _ = _published.grade(number(value), sum(interval) / 2, *interval, "")
    assert word == grade


def test_another_experiment_is_not_comparable_and_says_why():
    found = _published.grade(number(90.0), 90.0, 89.0, 91.0, "dataset digits, not mnist")
    assert found == ("not comparable", "dataset digits, not mnist")


def test_a_lost_value_and_a_lost_strength_are_not_comparable():
    assert _published.grade(number(None), 90.0, 89.0, 91.0, "")[1] == _published.LOST
    assert _published.grade(number(158.0, note=paper.LOST_SIGMA), 90.0, 89.0, 91.0, "")[0] == "not comparable"


@pytest.mark.parametrize("ours", [None, math.nan])
def test_without_a_number_of_ours_it_is_missing(ours):
    assert _published.grade(number(90.0), ours, None, None, "")[0] == "missing"


@pytest.mark.parametrize(("ours", "grade"), [(90.04, "within"), (90.2, "not comparable")])
def test_one_seed_has_no_interval(ours, grade):
    assert _published.grade(number(90.0), ours, math.nan, math.nan, "") == (grade, _published.ONE_SEED)


@pytest.mark.parametrize(
    ("ours", "differs", "grade"),
    [(128.0, "", "within"), (128.0, "epochs", "within"), (64.0, "", "outside"), (64.0, "epochs", "not comparable")],
)
def test_a_setting_needs_no_interval(ours, differs, grade):
    word, _ = _published.grade(number(128.0, 0.0, kind=paper.SETTING), ours, None, None, differs)
    assert word == grade


def test_a_count_rounds_to_what_the_text_says():
    about = number(73_000, 1_000, kind=paper.PARAMETERS)
    assert [_published.grade(about, count, None, None, "")[0] for count in (72_990, 73_501)] == ["within", "outside"]


def ours(setting, metric, mean, low, high, differs="", experiment="double_descent mlp"):
    return {
        "experiment": experiment, "setting": setting, "metric": metric, "ours": str(mean), "low": str(low),
        "high": str(high), "differs": differs, "run": "double_descent/mnist-1",
    }  # fmt: skip


def table(rows, reasons=None):
    counts = {one.setting: 6514 for one in NUMBERS if one.kind == paper.PARAMETERS}
    found = _published.compare_all(rows, counts, reasons or {})
    assert len(found) == len(NUMBERS)
    return {(row["study"], row["setting"], row["metric"], row["published"]): row for row in found}


def test_the_table_has_a_row_for_every_number():
    rows = table([ours("width 32", "test_acc", 95.3, 95.1, 95.5), ours("width 1024", "test_acc", 90, 89, 91)])
    first = rows["double_descent mlp", "width 32", "test_acc", 95.4]
    assert (first["status"], first["ours"], first["run"]) == ("within", 95.3, "double_descent/mnist-1")
    assert rows["double_descent mlp", "width 1024", "test_acc", 96.9]["status"] == "outside"
    assert rows["double_descent mlp", "width 8", "test_acc", 89.7]["status"] == "missing"  # this run has no width 8
    assert rows["", "mlp 8", "num_params", 6514]["status"] == "within"


def test_counts_keep_results_apart_from_parameters_and_settings():
    rows = _published.compare_all([], {one.setting: one.value for one in NUMBERS if one.kind == paper.PARAMETERS}, {})
    found = _published.counts(rows)
    assert found["results"]["within"] == 0 < found["parameters and settings"]["within"]
    assert sum(sum(own.values()) for own in found.values()) == len(NUMBERS)


def test_a_missing_study_gives_its_reason():
    rows = table([], {"ntk_regime": "ntk_regime failed: ValueError: no"})
    row = rows["ntk_regime", "width 32", "test_acc", 91.6]
    assert (row["status"], row["why"]) == ("missing", "ntk_regime failed: ValueError: no")


def test_what_another_experiment_has_not_measured_is_not_comparable():
    rows = table([ours("width 8", "train_acc", 80, 79, 81, "dataset digits, not mnist")])
    row = rows["double_descent mlp", "width 32", "test_acc", 95.4]
    assert row["status"] == "not comparable" and "dataset digits" in row["why"]


def said(rows=(), found=()):
    return _statements.contradicted(_statements.OurSide(rows, found))


def test_statements_are_computed_from_the_tables(monkeypatch):
    monotonic = said()[0]["tables_say"]
    assert monotonic == "5 of 6 steps go down; not batch 128 to 256: 84.72 to 84.74 %"
    other = {arm: dict(row) for arm, row in paper.IMPLICIT_REGULARIZATION.items()}
    other["sgd512"]["test_acc"] = 85.0
    monkeypatch.setattr(paper, "IMPLICIT_REGULARIZATION", other)
    assert "4 of 6" in said()[0]["tables_say"]


def test_which_rates_are_not_linear():
    assert set(_statements.off_linear()) == {32, 64, 2048}


def test_the_cnn_interpolates_at_32_channels_not_at_8():
    accuracy = {size: row["train_acc"] for size, row in paper.DOUBLE_DESCENT["cnn", "cifar10"].items()}
    assert _statements.first_interpolating(accuracy) == 32
    assert "45.8 %" in said()[2]["tables_say"]


def test_published_movement_is_constant_times_the_initial_norm():
    relative, absolute = _statements.movement_exponents()
    assert relative == pytest.approx(-0.5, abs=0.01) and abs(absolute) < 0.05


def test_the_initial_norm_is_that_of_uniform_weights():
    assert _statements.initial_norm(1) == pytest.approx(math.sqrt((785 / 784 + 2 / 1 + 2 / 1 + 20 / 1) / 3))


def test_ours_stands_beside_what_the_tables_say():
    rows = [
        ours(arm, "test_acc", value, 0, 0, experiment="implicit_regularization")
        for arm, value in (("sgd32", 96), ("sgd128", 95), ("sgd512", 95.5), ("sgd512_steps", 10))
    ]
    assert said(rows)[0]["ours"] == "1 of 2 steps go down"
    assert said()[0]["ours"] == _statements.UNMEASURED


def test_the_figure_is_drawn_with_every_status_and_with_nothing(tmp_path):
    against = plotting.reproduce.Against
    rows = [against(word, 0.5, 0.1, 0.9, word) for word in plotting.reproduce.STATUSES]
    lost = against("one seed", 2.0, math.nan, math.nan, "within")
    figure = plotting.reproduce.against_published({"V-A": rows, "V-B": []}, {"V-E": [lost]}, "title")
    assert [ax.get_xscale() for ax in figure.axes] == ["linear", "log"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(plotting.reproduce.STATUSES)
    assert plotting.save(figure, tmp_path / "a.png").stat().st_size > 0
    empty = plotting.reproduce.against_published({}, {}, "title")
    assert "nothing to compare" in [text.get_text() for text in empty.axes[0].texts]
