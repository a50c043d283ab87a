"""The benchmark of many seeds' eigenvalues: a seed alone finds what it finds among others; mistakes are one line."""

import csv
from pathlib import Path

import eigen_seeds
import pytest

SCRIPT = Path(eigen_seeds.__file__)


def test_one_seed_finds_what_all_find(forks, tmp_path):
    # `vmap` compiles for long; that it finds the same is tested where it is made (`measure.each_seed`).
    given = ("--cases=mlp4", "--seeds=2", "--samples=20", "--repeats=1", "--strategies=sequential", "--out=rows.csv")
    done = forks.run(SCRIPT, *given, "--data_dir=nowhere", cwd=tmp_path)  # random images: to decode MNIST takes longer
    assert done.returncode == 0, done.stderr
    one, in_turn = csv.DictReader((tmp_path / "rows.csv").read_text().splitlines())
    assert [row["way"] for row in (one, in_turn)] == ["one", "sequential"]
    assert [row["seeds"] for row in (one, in_turn)] == ["1", "2"]
    for row in (one, in_turn):
        assert float(row["difference"]) < 1e-5 and float(row["residual"]) <= 1e-3 and float(row["seconds"]) > 0
    assert float(one["to_one"]) == 1


@pytest.mark.parametrize("flag", ["--cases=mlp", "--seeds=0", "--strategies=none", "--out=nowhere/x.csv"])
def test_bad_flags_end_in_one_line(forks, flag, tmp_path):
    done = forks.run(SCRIPT, flag, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flag.split("=")[0][2:] in done.stderr, done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())
