"""Answers that fit a terminal: ten lines at most, verdicts first, and nothing lost that the report has."""

import importlib
import inspect

import pytest

from ntkgen import studies
from ntkgen.studies import _answers, base, runner


def test_a_list_takes_one_line_and_counts_what_does_not_fit():
    names = [f"measure_{number}" for number in range(30)]
    line = _answers.listed("seen", names)
    shown = line.split(", ")
    assert len(line) <= _answers.WIDTH < len(line) + len(", measure_99") and shown[-1] == f"{30 - len(shown) + 1} more"
    assert _answers.listed("seen", []) == "seen: none" and _answers.listed("seen", ["one"]) == "seen: one"
    assert _answers.listed("seen", ["x" * 200, "y"]) == f"seen: {'x' * 200}, 1 more"  # one is always there


def test_statements_are_grouped_by_decision():
    said = [("a", "not seen (equal within 0.5)"), ("b", "undecided (0 arms)"), ("c", "seen"), ("d", "neither")]
    assert _answers.by_word(said) == ["seen (1): c", "not seen (1): a", "undecided (1): b"]
    assert _answers.first_clause("undecided: with 3 seeds") == _answers.first_clause("undecided (few)") == "undecided"


def test_networks_that_diverged_are_said():
    assert _answers.diverged([{"num_diverged": 2}, {"num_diverged": 0}]) == ["diverged and left out: 2 networks"]
    assert _answers.diverged([{"num_diverged": 0}]) == []


@pytest.mark.parametrize("width", [40, 80, 200])
def test_text_fits(width):
    text = "verdict: " + "test error falls beyond it; " * 5 + "\n  width 4: 97.0\n" + "/a/long/path" * 20
    lines = runner.fitted(text, width).splitlines()
    assert max(map(len, lines[:-1])) <= width and lines[-1] == "/a/long/path" * 20  # a path stays whole
    assert " ".join("\n".join(lines).split()) == " ".join(text.split())


def test_text_fits_eighty_columns_where_the_width_is_not_known(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("sys.__stdout__", None)
    assert max(map(len, runner.fitted("word " * 100).splitlines())) in range(70, 81)
    monkeypatch.setenv("COLUMNS", "40")
    assert max(map(len, runner.fitted("word " * 100).splitlines())) in range(30, 41)


@pytest.mark.parametrize("name", studies.NAMES)
def test_every_study_has_a_short_answer(name):
    module = importlib.import_module(getattr(studies, name).STUDY.derive.__module__)
    assert inspect.getsource(module.derive).count("Derived(") == inspect.getsource(module.derive).count("answer=")


def made_up(text, answer):
    def measure(run, prepared):
        return {"runs": [{"seed": 0}]}

    return base.Study(
        "made_up", "Is it?", base.Config, lambda preset, given: base.Config("digits"), lambda *_: ({}, None), measure,
        lambda *_: base.Derived({}, {}, text, answer=answer), lambda *_: iter(()), ("runs",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "verbose", "first"),
    [("short", False, "short"), ("short", True, "table\n" * 90), ("", False, ("table\n" * 90).strip())],
)
def test_the_answer_is_said_and_the_report_is_in_the_folder(tmp_path, answer, verbose, first):
    said = []
    results = runner.run(made_up("table\n" * 90, answer), out_dir=tmp_path, say=said.append, verbose=verbose)
    assert said[0] == first and str(results.folder) in said[1]
    assert (results.folder / "report.txt").read_text() == "table\n" * 90
    assert results.text == "table\n" * 90 and results.answer == (answer or results.text)
