"""The benchmark of the seed axis: all ways train alike, one that fails stays in its row, and time has an end."""

from pathlib import Path

import pytest
import seed_axis

SCRIPT = Path(seed_axis.__file__)


@pytest.fixture
def work(monkeypatch):
    monkeypatch.setitem(seed_axis.SHAPES, "cnn", (8, 8, 3))
    return seed_axis.Work.of(channels=2, seeds=2, num_train=32, batch_size=16)


def test_variants_take_turns_and_a_failure_stays_in_its_row(work, monkeypatch):
    monkeypatch.setitem(seed_axis.COMPILER, "cudnn", {"xla_no_such_option": True})
    names = ("one", "sequential", "vmap+cudnn")
    one, sequential, failed = seed_axis.measure(names, work, repeats=2, jobs=2, seconds=300.0)
    assert "xla_no_such_option" in failed["error"] and failed["ms"] is None and failed["turns"] == 0
    for row in (one, sequential):
        assert not row["error"] and row["turns"] == 2 and 0 < row["ms_min"] <= row["ms"] <= row["ms_max"]
    assert one["to_one"] == 1 and sequential["to_one"] == sequential["to_its_one"] == sequential["ms"] / one["ms"]
    assert sequential["loss_difference"] == 0 <= one["loss_difference"] < 1e-5 and one["loss"] != sequential["loss"]
    assert all(row["variant"] in seed_axis.line(row) for row in (one, failed))


def test_what_is_late_is_skipped_and_said_so(work):
    (row,) = seed_axis.measure(("vmap-grouped",), work, repeats=1, jobs=1, seconds=1e-3)
    assert row["error"].startswith("skipped") and row["ms"] is None


@pytest.mark.parametrize("flag", ["--variants=one+fast", "--out=nowhere/x.csv"])
def test_bad_flags_end_in_one_line(forks, flag, tmp_path):
    done = forks.run(SCRIPT, flag, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flag.split("=")[0][2:] in done.stderr, done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())
