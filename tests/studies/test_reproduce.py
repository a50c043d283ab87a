"""The paper in one command: what is run, what is read, what is decided, and what a failed study costs."""

import dataclasses
import json

import jax
import pytest

from ntkgen import cli, data, paper, studies
from ntkgen.stats import UNDECIDED
from ntkgen.studies import base, double_descent, reproduce
from ntkgen.studies.reproduce import _config, _cost, _measure, _read

SIZES = {"widths": (4, 8, 16)}
TINY = {"studies": "double_descent", "num_seeds": 2, "epochs": 3, "num_train": 200}


@pytest.fixture
def three_widths(monkeypatch):
    monkeypatch.setitem(_config.OVERRIDES, ("double_descent", "quick"), SIZES)


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
    jax.clear_caches()  # the plan counts compilation, which another test may have paid for
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
    assert said[0].startswith("about ") and "of processor time" in said[0] and ": double_descent about" in said[0]
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


def test_presets_are_the_runs_own_unless_given():
    assert _config.resolve("quick", {}).size == "quick"
    assert {part.preset for part in _config.resolve("paper", {"size": "small", "dataset": "mnist"}).parts} == {"small"}
    assert base.PRESETS == ("quick", "small", "paper")


IMAGES = {"implicit_regularization": 50_000, "loss_landscape": 50_000, "lottery_ticket": 50_000}


@pytest.mark.parametrize("part", _config.resolve("paper", {}).parts, ids=lambda part: part.name)
def test_the_papers_presets_follow_what_the_paper_fixes(part, tmp_path):
    study = getattr(studies, part.study).STUDY
    config = study.resolve("paper", {"dataset": part.settings["dataset"]})
    facts = {"num_train": IMAGES[part.study]} if part.study in IMAGES else {}
    record = base.Prepared(config, facts, "paper", {}, None).record()
    (tmp_path / "config.json").write_text(json.dumps({"config": record}))
    run = _read.FinishedRun(part.study, tmp_path)
    assert _read.other_than_published(run) == ""
    assert part.study == "mechanisms" or run.experiment in paper.PROTOCOLS


def test_the_cost_of_every_data_set_is_known():
    assert set(_cost.IMAGES) == set(data.SOURCES)


def test_the_answer_is_short(tiny):
    lines = tiny[0].answer.splitlines()
    assert len(lines) <= 10 and lines[2].startswith("claims undecided (") and "H3" in lines[2]
