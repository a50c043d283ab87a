"""What the studies found, read from example tables, and the claims that are decided from it."""

import json

import pytest

from ntkgen import records
from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED
from ntkgen.studies import mechanisms
from ntkgen.studies.reproduce import _claims, _findings, _ours, _read
from ntkgen.studies.reproduce import _questions as asked


def folder(path, study, verdict, config=None, **tables):
    """A finished run with the tables of an example."""
    path.mkdir(parents=True)
    (path / "verdict.json").write_text(json.dumps(verdict))
    (path / "config.json").write_text(json.dumps({"config": config or {}}))
    for name, rows in tables.items():
        records.write_table(path / f"{name}.csv", rows)
    return _read.FinishedRun(study, path)


def difference(question, value, adjusted, family="measures", **more):
    row = {"question": question, "family": family, "metric": "x", "first": "large_batch", "second": "small_batch"}
    row |= {"difference": value, "low": value - 0.1, "high": value + 0.1, "paired_adjusted": adjusted, "margin": 0.4}
    return row | {"equivalence_adjusted": 0.9, "detectable": 0.5, "undecided": ""} | more


def landscape(path, accuracy=-0.6, matched=(0.01, 1.0)):
    adjusted, sign = matched
    equal = {"question": "matched", "lowest": 0.3, "highest": 0.7, "sign": sign, "adjusted": adjusted, "margin": 0.4}
    return folder(
        path, "loss_landscape", {}, tests=[difference("raw", 1.4, 0.001), difference("accuracy", accuracy, 0.02)],
        equal_loss=[equal | {"equivalence_adjusted": 0.8, "undecided": ""}],
    )  # fmt: skip


def claim(rows, name):
    return next(row for row in rows if row["id"] == name)


@pytest.mark.parametrize(
    ("accuracy", "matched", "decision"),
    [
        (-0.6, (0.01, 1.0), SEEN),
        (0.6, (0.01, 1.0), NOT_SEEN),  # the large batch generalizes better
        (-0.6, (0.01, -1.0), NOT_SEEN),  # the control overturns it
        (-0.6, (0.6, 1.0), UNDECIDED),
    ],
)
def test_flat_minima_need_sharpness_accuracy_and_equal_loss(accuracy, matched, decision, tmp_path):
    run = landscape(tmp_path / "loss_landscape" / "mnist-1", accuracy, matched)
    row = claim(_claims.judge(_findings.findings_of(run), {}), "H2")
    assert row["decision"] == decision and row["run"] == "loss_landscape/mnist-1"
    if decision == SEEN:
        assert row["effect"] == pytest.approx(4.055, abs=1e-3) and row["low"] < row["effect"] < row["high"]
        assert "[1.35, 2.01] ratio of eigenvalues" in row["control"]


def test_double_descent_needs_a_peak_and_a_fall(tmp_path):
    verdict = {
        "num_train": 100, "verdict": "x", "peak": {"size": 8, "rise": 2.0, "fall": 3.0, "adjusted": 0.01,
                                                   "highest_size": 8, "highest_is_near": True},
        "beyond": {"fall": 3.0, "low": 2.0, "high": 4.0, "adjusted": 0.01},
    }  # fmt: skip
    found = _findings.findings_of(folder(tmp_path / "a", "double_descent", [verdict]))
    rows = _claims.judge(found, {})
    assert [claim(rows, name)["decision"] for name in ("H4", "RQ5")] == [SEEN, SEEN]
    assert (claim(rows, "H4")["effect"], claim(rows, "H4")["p"]) == (3.0, 0.01)
    del verdict["peak"], verdict["beyond"]
    verdict["verdict"] = "undecided: every size interpolates, so the threshold lies below the smallest"
    found = _findings.findings_of(folder(tmp_path / "b", "double_descent", [verdict]))
    row = claim(_claims.judge(found, {}), "H4")
    assert row["decision"] == UNDECIDED and "every size interpolates" in row["found"]


def test_several_runs_of_a_study_all_count():
    one = (
        asked.Finding(asked.FALL, SEEN, effect=1.0, run="a"),
        asked.Finding(asked.FALL, NOT_SEEN, effect=-1.0, run="b"),
    )
    peak = asked.Finding(asked.PEAK, SEEN, run="a")
    row = claim(_claims.judge([*one, peak], {}), "H4")
    assert row["decision"] == NOT_SEEN and row["effect"] == -1.0 and row["run"] == "a b"


def test_tickets_need_their_values_at_equal_scale(tmp_path):
    relation = {"difference": 3.1, "low": 2.5, "high": 3.7, "adjusted_for": 0.01, "adjusted_against": 0.99}
    relations = [
        relation | {"claim": "x", "published": 2.8, "verdict": "seen"},
        relation | {"claim": "y", "published": -1.15, "difference": -0.4, "low": -0.7, "high": -0.1, "verdict": "seen"},
    ]
    values = difference("", 0.1, 0.6, equivalence_adjusted=0.01, margin=0.5) | {"changes": "values"}
    values |= {"first": "ticket 10%", "second": "shuffled 10%"}
    run = folder(tmp_path / "a", "lottery_ticket", {"relations": relations, "one_change": [values]})
    rows = _claims.judge(_findings.findings_of(run), {})
    assert claim(rows, "H5")["decision"] == NOT_SEEN  # shuffled values do as well: the control overturns it
    assert claim(rows, "H5")["effect"] == 3.1 and "equal within 0.5" in claim(rows, "H5")["control"]
    kept = claim(rows, "RQ6")
    assert (kept["effect"], kept["low"], kept["high"]) == (0.4, 0.1, 0.7) and kept["decision"] == UNDECIDED


def test_findings_survive_the_table():
    one = asked.Finding(asked.FALL, SEEN, "why", 1.5, "points", 1.0, 2.0, "t", 0.01, "a/b")
    text = {name: "" if value is None else str(value) for name, value in _findings.finding_rows([one])[0].items()}
    assert _findings.finding_from_row(text) == one


def test_another_protocol_is_named(tmp_path):
    config = {"dataset": "mnist", "model": "mlp", "depth": 4, "num_train": [10_000], "label_noise": 0.0, "epochs": 80}
    config |= {"optimizer": "sgd", "schedule": "cosine", "weight_decay": 0.0}
    same = folder(tmp_path / "a", "double_descent", [], config)
    assert same.experiment == "double_descent mlp" and _read.other_than_published(same) == ""
    other = folder(tmp_path / "b", "double_descent", [], config | {"num_train": [4_000], "epochs": 40})
    assert _read.other_than_published(other) == "num_train 4000, not 10000; epochs 40, not 60 to 80"


def test_the_rule_is_all_or_nothing():
    assert _claims.all_of([SEEN, SEEN]) == SEEN
    assert _claims.all_of([SEEN, UNDECIDED]) == UNDECIDED
    assert _claims.all_of([UNDECIDED, NOT_SEEN]) == NOT_SEEN
    assert _claims.all_of([]) == UNDECIDED


def answers(run):
    return {one.question: one for one in _findings.findings_of(run)}


def batches(path, comparable=1):
    names = ("sgd32", "sgd128", "sgd512", "sgd512_steps")
    summary = [{"arm": arm, "batch": arm[3:].split("_")[0], "base_rate": 0.01} for arm in names]

    def row(family, metric, first, second, value, adjusted):
        own = {"metric": metric, "first": first, "second": second, "comparable": comparable}
        return difference("", value, adjusted, family, **own)

    epochs, updates, raw = "accuracy, equal epochs", "accuracy, equal updates", "sharpness, raw, equal epochs"
    tests = [
        row(epochs, "test_acc", "sgd32", "sgd128", 0.2, 0.9),
        row(epochs, "test_acc", "sgd32", "sgd512", 1.6, 0.001),  # the widest pair decides
        row(updates, "test_acc", "sgd128", "sgd512_steps", -0.8, 0.01),
        row(raw, "log10_eigenvalue", "sgd32", "sgd512", -0.5, 0.001),
    ]
    equal = {"family": "loss, equal epochs", "metric": "eigenvalue", "first": "sgd32", "second": "sgd512"}
    equal |= {"lowest": -0.3, "highest": -0.1, "sign": -1.0, "adjusted": 0.01, "equivalence_adjusted": 0.9}
    equal |= {"margin": 0.1, "undecided": ""}
    return folder(path, "implicit_regularization", {}, summary=summary, tests=tests, equal_loss=[equal])


def test_more_updates_overturn_the_effect_of_the_batch(tmp_path):
    run = batches(tmp_path / "a")
    found = answers(run)
    assert found[asked.ACCURATE].effect == pytest.approx(1.6) and found[asked.ACCURATE].decision == SEEN
    assert found[asked.ACCURATE_UPDATES].decision == NOT_SEEN
    rows = _claims.judge(list(found.values()), {})
    assert claim(rows, "H1")["decision"] == NOT_SEEN and "as many updates: not seen" in claim(rows, "H1")["control"]
    assert claim(rows, "RQ2")["decision"] == SEEN
    sharper = found[asked.SHARPER_BATCH]
    assert sharper.effect == pytest.approx(10**0.5) and sharper.low < sharper.effect < sharper.high
    curve = found[asked.SHARPER_BATCH_EQUAL]
    assert (curve.low, curve.high) == pytest.approx((10**0.1, 10**0.3))


def test_minima_short_of_interpolation_are_not_compared(tmp_path):
    found = answers(batches(tmp_path / "a", comparable=0))[asked.SHARPER_BATCH]
    assert found.decision == UNDECIDED and "interpolation" in found.why


def width_row(metric, kind, decision, value, largest=128, family="H3", **more):
    row = {"loss": "cross_entropy", "limit": "fixed", "at": "end", "smallest": 32, "largest": largest, "line": ""}
    row |= {"metric": metric, "kind": kind, "family": family, "decision": decision, "undecided": ""}
    row |= {"difference": value, "low": value - 0.1, "high": value + 0.1}
    return row | {"paired_adjusted": 0.02, "equivalence_adjusted": 0.03} | more


def test_a_kernel_that_moves_overturns_h3(tmp_path):
    tests = [
        width_row("linear_test_acc", "equal", SEEN, 0.1),
        width_row("linear_test_acc", "equal", NOT_SEEN, 5.0, largest=64),  # the widest decides
        width_row("log10 drift", "less", NOT_SEEN, 1.0),
        width_row("kernel_acc_initial", "equal", NOT_SEEN, 1.9),
        width_row("absolute_movement", "equal", SEEN, 0.0, line="lazy"),
        width_row("test_acc - kernel_acc_initial", "equal", SEEN, 0.2, family="H3, tuned"),
        width_row("linear_test_acc", "equal", SEEN, 0.0, largest=999, limit="ntk"),  # another series
    ]
    found = answers(folder(tmp_path / "a", "ntk_regime", [], {"loss": "cross_entropy"}, tests=tests))
    assert found[asked.LINEARISED].decision == SEEN and found[asked.LINEARISED].p == 0.03
    assert found[asked.STILL].effect == pytest.approx(1.0)
    assert found[asked.KERNEL].p == 0.02  # the difference that denies equality
    rows = _claims.judge(list(found.values()), {})
    assert claim(rows, "H3")["decision"] == claim(rows, "RQ4")["decision"] == NOT_SEEN
    assert found[asked.KERNEL_TUNED].decision == SEEN and found[asked.LAZY].decision == SEEN


def population(path, partial, holds=1):
    def row(measure, kind, value):
        return {
            "measure": measure,
            "kind": kind,
            "value": value,
            "low": 0.1,
            "high": 0.9,
            "adjusted": 0.01,
            "undecided": "",
        }

    names = ("eigenvalue", "average_adaptive")
    rows = [row(name, kind, 0.5) for name in names for kind in (mechanisms.PSI, mechanisms.PARTIAL)]
    rows[2]["value"] = -0.5  # adaptive sharpness goes the other way
    answer = [
        {
            "measure": name,
            mechanisms.PSI: 0.5,
            f"{mechanisms.PSI}: decision": SEEN,
            f"{mechanisms.PARTIAL}: decision": partial,
        }
        for name in names[:1]
    ]
    null = {"kind": mechanisms.PSI, "planted": 0.0, "rate": 0.04, "low": 0.02, "high": 0.06, "permutations": 50}
    tables = {"associations": rows, "answer": answer, "calibration": [null | {"holds": holds}]}
    return folder(path, "mechanisms", {}, **tables)


def test_the_joint_study_answers_rq1_and_rq3(tmp_path):
    fall = asked.Finding(asked.FALL, SEEN, effect=3.0)
    found = [*_findings.findings_of(population(tmp_path / "a", SEEN)), fall]
    rows = _claims.judge(found, {})
    assert (
        claim(rows, "RQ1")["decision"] == SEEN
        and "1 of 1 measures; strongest: eigenvalue" in claim(rows, "RQ1")["found"]
    )
    assert claim(rows, "RQ3")["decision"] == NOT_SEEN  # rescaling overturns it
    rows = _claims.judge([*_findings.findings_of(population(tmp_path / "b", UNDECIDED)), fall], {})
    assert claim(rows, "RQ1")["decision"] == UNDECIDED
    rows = _claims.judge([*_findings.findings_of(population(tmp_path / "c", SEEN, holds=0)), fall], {})
    assert claim(rows, "RQ1")["decision"] == NOT_SEEN  # its tests find something where nothing is


def compared(setting, metric, ours, **more):
    return {"setting": setting, "metric": metric, "ours": ours, "low": ours - 1, "high": ours + 2} | more


def numbers(run):
    return {(one.setting, one.metric): (one.ours, one.low, one.high) for one in _ours.numbers_of(run)}


def test_signs_of_our_numbers_are_the_papers(tmp_path):
    rows = [compared(32, "test_acc", 86.0), compared(1024, "test_acc", 84.0), compared(1024, "eigenvalue_ratio", 12.0)]
    tests = [difference("accuracy", -1.5, 0.01)]
    found = numbers(folder(tmp_path / "a", "loss_landscape", {}, comparison=rows, tests=tests))
    assert found["batch 32 - batch 1024", "test_acc"] == pytest.approx((1.5, 1.4, 1.6))
    assert found["batch 1024 / batch 32", "top_eigenvalue"] == (12.0, 11.0, 14.0)
    rows = [
        compared("difference", "test_acc", -1.0, arm="ticket 10% - ticket 100%"),
        compared("difference", "test_acc", 3.0, arm="ticket 10% - reinit 10%"),
        compared("10", "test_acc", 83.0, arm="ticket"),
    ]
    found = numbers(folder(tmp_path / "b", "lottery_ticket", {}, comparison=rows))
    assert found["ticket 100% - ticket 10%", "test_acc"] == (1.0, -1.0, 2.0)
    assert found["ticket 10% - reinit 10%", "test_acc"] == (3.0, 2.0, 5.0)
    assert found["ticket 10%", "test_acc"] == (83.0, 82.0, 85.0)
    rows = [compared(8, "test_acc", 90.0, num_train=100)]
    found = numbers(folder(tmp_path / "c", "double_descent", [], {"model": "mlp"}, comparison=rows))
    assert found["width 8", "test_error"] == (10.0, 8.0, 11.0)


def test_full_batch_gd_has_its_own_number_of_images(tmp_path):
    config = {
        "dataset": "cifar10",
        "model": "cnn",
        "channels": 32,
        "num_train": 5_000,
        "label_noise": 0.0,
        "epochs": 80,
    }
    config |= {"lr_scaling": "table", "gd_images": 5_000}
    rows = [compared("gd", "test_acc", 32.0), compared("sgd32", "test_acc", 70.0)]
    run = folder(tmp_path / "a", "implicit_regularization", {}, config, comparison=rows)
    differs = {one.setting: one.differs for one in _ours.numbers_of(run) if one.metric == "test_acc"}
    assert differs == {"gd": "", "sgd32": "num_train 5000, not 50000 (our reading)"}
