"""The simulation of false positives: its truths, its table, and what it calls too high."""

from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
import reliability  # noqa: E402

from ntkgen import records, stats  # noqa: E402
from ntkgen.studies import tables  # noqa: E402


def test_every_test_has_twenty_truths_without_the_effect_and_some_with_it():
    truths = [truth for test in reliability.TESTS for truth in test()]
    names = {truth.test for truth in truths}
    assert names == {"association", "peak", "equivalence", "curve over losses", "trend", "paired", "crossed"}
    for name in names:
        own = [truth for truth in truths if truth.test == name]
        nulls = {(truth.truth, truth.design) for truth in own if not truth.effect}
        assert len(nulls) >= 20 and any(truth.effect for truth in own)
        assert len({(truth.truth, truth.design, truth.effect) for truth in own}) == len(own)


def test_the_table_counts_rejections(monkeypatch):
    def biased():
        for effect, words in ((False, "a coin"), (True, "always")):
            yield reliability.Truth("made up", words, effect, "", lambda rng, e=effect: e or rng.random() < 0.3)

    def valid():
        yield reliability.Truth("valid", "1 in 20", False, "", lambda rng: rng.random() < 0.05)
        yield reliability.Truth("valid", "always", True, "", lambda rng: True)

    monkeypatch.setattr(reliability, "TESTS", (biased, valid))
    rows = reliability.simulate(400, seed=0)
    assert rows == reliability.simulate(400, seed=0)
    assert [row["kind"] for row in rows] == ["null", "effect", "null", "effect"]
    assert rows[1]["rejections"] == 400 and rows[0]["rate"] == pytest.approx(0.3, abs=0.1)
    assert rows[0]["low"] < 0.3 < rows[0]["high"] and 0.04 < rows[0]["high"] - rows[0]["low"] < 0.1
    assert reliability.too_high(rows) == rows[:1]
    assert reliability.worst(rows).count("\n") == 2


def test_the_published_table_has_no_rate_above_the_level_beyond_chance_but_the_one_that_readme_names():
    """Three seeds that are not normal, in arms that spread unequally: there a paired t-test rejects too often."""
    rows = records.read_table(ROOT / "figures" / "reliability.csv")
    numbers = [{**row, "rejections": int(row["rejections"]), "data_sets": int(row["data_sets"])} for row in rows]
    assert {row["test"] for row in numbers} == {truth.test for test in reliability.TESTS for truth in test()}
    high = {(row["test"], row["design"], row["truth"].rpartition(",")[0]) for row in reliability.too_high(numbers)}
    assert high == {("paired", "3 seeds", "no difference, uniform, spreads 1 and 10")}


# Correctness in tables


def test_correctness_survives_the_table_and_gives_the_crossed_interval():
    rng = np.random.default_rng(0)
    right = {arm: rng.random((3, 21)) < level for arm, level in (("a", 0.9), ("b", 0.6))}
    rows = tables.correct_rows("a", [4, 5, 6], right["a"], np.array([False, True, False]))
    rows += tables.correct_rows("b", [4, 5, 6], right["b"], np.zeros(3, bool))
    assert rows[1]["bits"] == "" and len(rows[0]["bits"]) == 6
    found = tables.correctness([{name: str(cell) for name, cell in row.items()} for row in rows])
    np.testing.assert_array_equal(found["b"], right["b"])
    np.testing.assert_array_equal(found["a"][[0, 2]], right["a"][[0, 2]])
    assert np.isnan(found["a"][1]).all()
    accuracy = {arm: 100 * values.mean(1) for arm, values in found.items()}
    tested = tables.paired_tests("f", "test_acc", accuracy, [("a", "b")]) + tables.paired_tests(
        "f", "gap", accuracy, [("a", "b")]
    )
    tables.cross(tested, found)
    expected = stats.crossed(found["a"], found["b"])
    assert tested[0]["crossed_low"] == pytest.approx(100 * expected.low) and expected.num_nan == 1
    assert tested[0]["difference"] == pytest.approx(100 * expected.difference)
    assert tested[1]["crossed_low"] is None
    tables.cross(tested, {})
    assert tested[0]["crossed_high"] is None
