"""The benchmark of the seed axis: all ways train alike, one that fails stays in its row, and time has an end."""

import re
import threading
from pathlib import Path

import pytest
import seed_axis

from ntkgen import ensemble, models
from ntkgen.ensemble import programs

SCRIPT = Path(seed_axis.__file__)


def test_variants_take_turns_and_a_failure_stays_in_its_row(monkeypatch):
    monkeypatch.setitem(seed_axis.COMPILER, "graph", {"xla_no_such_option": True})
    monkeypatch.setitem(seed_axis.SHAPES, "cnn", (2, 2, 1))
    monkeypatch.setattr(models, "CNN", lambda width: models.MLP(width, depth=2))  # compiles fast
    work = seed_axis.Work.of(channels=2, seeds=2, num_train=8, batch_size=4)
    names = ("one", "sequential", "vmap+graph")
    one, sequential, failed = seed_axis.measure(names, work, repeats=2, jobs=1, seconds=300.0)
    assert "xla_no_such_option" in failed["error"] and failed["ms"] is None and failed["turns"] == 0
    for row in (one, sequential):
        assert not row["error"] and row["turns"] == 2 and 0 < row["ms_min"] <= row["ms"] <= row["ms_max"]
    assert one["to_one"] == 1 and sequential["to_one"] == sequential["to_its_one"] == sequential["ms"] / one["ms"]
    assert sequential["loss_difference"] == 0 <= one["loss_difference"] < 1e-5 and one["loss"] != sequential["loss"]
    assert all(row["variant"] in seed_axis.line(row) for row in (one, failed))


def test_what_is_late_is_skipped_and_said_so(monkeypatch):
    end = threading.Event()
    monkeypatch.setattr(seed_axis.Variant, "__init__", lambda *_: end.wait(60) and None)
    found = seed_axis.compile_all(("one", "vmap"), None, jobs=1, seconds=0.01)  # one compiles, the other waits
    end.set()
    assert list(found.values()) == ["skipped: had not compiled after 0 s"] * 2


@pytest.mark.parametrize("name", ["one+fast", "vmap-pallas", "sequential+nhwc+", "vmap-loop"])
def test_names_of_variants(name):
    assert re.fullmatch(seed_axis.VARIANT, name) is None
    assert all(re.fullmatch(seed_axis.VARIANT, given) for given in (*seed_axis.DEFAULT, "vmap-unrolled+nhwc+bf16"))


def test_unrolled_is_compiled_as_it_was_measured():
    measured = seed_axis.COMPILER["nhwc"] | seed_axis.COMPILER["concurrent"]
    assert programs.compiler_options(ensemble.Layout("unrolled"), "gpu") == measured


@pytest.mark.parametrize("flag", ["--variants=one+fast", "--out=nowhere/x.csv"])
def test_bad_flags_end_in_one_line(forks, flag, tmp_path):
    done = forks.run(SCRIPT, flag, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flag.split("=")[0][2:] in done.stderr, done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())
