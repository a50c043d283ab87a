"""The paper in one command: what is run, what is read, what is decided, and what a failed study costs."""

import dataclasses
import json

import pytest

from ntkgen import cli, records, studies
from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED
from ntkgen.studies import base, double_descent, reproduce
from ntkgen.studies.reproduce import _claims, _config, _cost, _findings, _measure, _read
from ntkgen.studies.reproduce import _questions as asked

SIZES = {"widths": (4, 8, 16)}
TINY = {"studies": "double_descent", "num_seeds": 2, "epochs": 3, "num_train": 200}


@pytest.fixture
def three_widths(monkeypatch):
    monkeypatch.setitem(_config.OVERRIDES, ("double_descent", "quick"), SIZES)


def folder(path, study, verdict, config=None, **tables):
    """A finished run with the tables of an example."""
    path.mkdir(parents=True)
    (path / "verdict.json").write_text(json.dumps(verdict))
    (path / "config.json").write_text(json.dumps({"config": config or {}}))
    for name, rows in tables.items():
        records.write_table(path / f"{name}.csv", rows)
    return _read.FinishedRun(study, path)


# What is run


def test_the_studies_of_this_version_are_run_in_order():
    config = _config.resolve("quick", {"studies": ("mechanisms", "double_descent")})
    assert [part.name for part in config.parts] == ["double_descent", "mechanisms"]
    assert {part.settings["dataset"] for part in config.parts} == {"digits"}
    assert set(reproduce.STUDIES) <= set(studies.NAMES)


def test_the_published_protocols_have_each_their_data():
    parts = _config.resolve("paper", {}).parts
    found = {part.name: part.settings["dataset"] for part in parts}
    assert found["double_descent_mnist"] == "mnist" and found["double_descent_cifar10"] == "cifar10"
    assert found["loss_landscape"] == "cifar10" and found["ntk_regime"] == "mnist"
    assert {part.settings["dataset"] for part in _config.resolve("small", {}).parts} == {"mnist"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"studies": "double_decent"}, "^studies: expected a comma-separated list of double_descent, .*, or none, got"),
        ({"studies": "none"}, "^studies: expected at least one of"),
        ({"model": "cnn"}, "^model: expected no such setting with reproduce"),
        ({"dataset": "mnist"}, "^dataset: expected embedded data"),
        ({"num_train": 5000}, "^num_train: .* [(]in double_descent[)]$"),
        ({"num_train": 64}, "^batch_size: expected at most the 64 .* [(]in double_descent[)]$"),
        ({"nothing": 1}, "^nothing: expected a setting of this study"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(given, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        reproduce.run(preset="quick", out_dir=tmp_path, **given)
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A tiny run, twice: results of both, and what was said."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(_config.OVERRIDES, ("double_descent", "quick"), SIZES)
        out, said = tmp_path_factory.mktemp("results"), []
        patch.setattr(_measure, "say", said.append)
        first = reproduce.run(preset="quick", out_dir=out, say=said.append, **TINY)
        patch.setattr("ntkgen.ensemble.fit", lambda *_, **__: pytest.fail("trained again"))
        second = reproduce.run(preset="quick", out_dir=out, say=said.append, **TINY)
        third = reproduce.run(preset="quick", out_dir=out, say=said.append, force=True, **TINY)
    return first, second, third, said


def test_all_tables_are_written(tiny):
    first, *_ = tiny
    assert {"published", "statements", "claims", "plan"} <= set(first.tables)
    assert [row["id"] for row in first.tables["claims"]] == [
        *(f"H{i}" for i in range(1, 6)),
        *(f"RQ{i}" for i in range(1, 7)),
    ]
    assert all((first.folder / f"{name}.csv").exists() for name in first.tables if first.tables[name])
    assert set(first.figures) == {"published"} and len(first.text.splitlines()) <= 25


def test_the_second_call_trains_nothing_and_says_the_same(tiny):
    first, second, third, _ = tiny
    for name in ("published", "statements", "claims"):
        assert first.tables[name] == second.tables[name] == third.tables[name]
    assert first.folder == second.folder == third.folder and (first.folder / "finished.json").exists()
    assert third.tables["plan"][0]["note"] == "finished before" and third.tables["plan"][0]["seconds"] is None


def test_it_says_beforehand_what_it_takes_and_then_how_far_it_is(tiny):
    *_, said = tiny
    assert said[0].startswith("about ") and "on two processor cores: double_descent about" in said[0]
    assert said[1].startswith("1 of 1: double_descent, about")


def test_the_plan_is_right_within_a_factor_of_three(tiny):
    row = tiny[0].tables["plan"][0]
    assert row["study"] == "double_descent" and 1 / 3 < row["ratio"] < 3
    assert row["ratio"] == pytest.approx(row["cpu_seconds"] / row["estimated_seconds"])


def test_what_was_not_run_is_undecided_and_says_so(tiny):
    rows = {row["id"]: row for row in tiny[0].tables["claims"]}
    assert rows["H3"]["decision"] == UNDECIDED and "ntk_regime was not run" in rows["H3"]["found"]
    assert rows["H4"]["run"].startswith("double_descent/digits-")


def failing(error):
    def measure(run, prepared):
        raise error

    measure.__module__ = double_descent.STUDY.measure.__module__
    return dataclasses.replace(double_descent.STUDY, measure=measure)


@pytest.fixture
def broken_mechanisms(monkeypatch, three_widths):
    """The joint study is replaced by one that fails."""

    def chosen(part):
        return double_descent.STUDY if part.study == "double_descent" else failing(RuntimeError("no\nluck"))

    monkeypatch.setattr(_measure, "study_of", chosen)
    monkeypatch.setitem(_config.OVERRIDES, ("mechanisms", "quick"), {"widths": (5,)})
    monkeypatch.setattr(_cost, "seconds", lambda *_: 10.0)
    return {**TINY, "studies": "double_descent,mechanisms", "preset": "quick"}


def test_a_failed_study_does_not_lose_the_others(broken_mechanisms, tmp_path, capsys):
    found = reproduce.run(out_dir=tmp_path, **broken_mechanisms)
    assert found.failed == "mechanisms failed: RuntimeError: no luck; the same command tries again"
    assert not (found.folder / "finished.json").exists() and (found.folder / "failed_mechanisms.txt").exists()
    done, lost = found.tables["plan"]
    assert done["failed"] == "" and lost["failed"] == "RuntimeError: no luck" and lost["ratio"] is None
    rows = {row["id"]: row for row in found.tables["claims"]}
    assert "mechanisms failed: RuntimeError: no luck" in rows["RQ3"]["found"]
    assert rows["H4"]["run"].startswith("double_descent/")
    argv = ["x", f"--out_dir={tmp_path}", *(f"--{name}={value}" for name, value in broken_mechanisms.items())]
    with pytest.raises(SystemExit) as exit:
        cli.run_study(reproduce.STUDY, argv)
    assert exit.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: mechanisms failed: RuntimeError: no luck")


def test_an_interruption_ends_it_with_one_line(three_widths, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(_measure, "study_of", lambda part: failing(KeyboardInterrupt()))
    argv = ["x", f"--out_dir={tmp_path}", "--preset=quick", *(f"--{name}={value}" for name, value in TINY.items())]
    with pytest.raises(SystemExit) as exit, cli.guarded():
        cli.run_study(reproduce.STUDY, argv)
    assert exit.value.code == 130
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "error: interrupted; the same command goes on from what is stored"


# What it is expected to take


@pytest.mark.parametrize("study", reproduce.STUDIES)
def test_every_study_has_a_cost_that_grows_with_its_work(study):
    own = getattr(studies, study).STUDY
    costs = []
    for given in ({"num_seeds": 2, "epochs": 20}, {"num_seeds": 4, "epochs": 2_000}):
        config = own.resolve("quick", {"dataset": "digits", **given})
        facts, _ = own.prepare(config, None)
        costs.append(_cost.seconds(study, config, facts))
    assert _cost.FIXED[study] < costs[0] < costs[1]


# What the studies found


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


def test_presets_are_the_runs_own_unless_given():
    assert _config.resolve("quick", {}).size == "quick"
    assert {part.preset for part in _config.resolve("paper", {"size": "small", "dataset": "mnist"}).parts} == {"small"}
    assert base.PRESETS == ("quick", "small", "paper")
