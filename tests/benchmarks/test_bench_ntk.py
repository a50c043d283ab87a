"""The benchmark of the tangent kernel as a user runs it, at sizes where every way takes part."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ntkgen import records

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks" / "ntk.py"


def bench(folder, *arguments):
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )


@pytest.mark.slow
def test_all_ways_take_turns_and_agree(tmp_path):
    pytest.importorskip("torch")
    done = bench(tmp_path, "--cases=mlp8n6,mlp8n9trace", "--repeats=2")
    assert done.returncode == 0, done.stderr
    rows = records.read_table(tmp_path / "bench_ntk.csv")
    assert [(row["case"], row["way"]) for row in rows] == [
        (case, way) for case in ("mlp8n6", "mlp8n9trace") for way in ("ours", "jacobian", "torch.func")
    ]
    for row in rows:
        assert row["turns"] == "2" and 0 < float(row["seconds_min"]) <= float(row["seconds"])
        assert 0 <= float(row["difference"]) < 1e-5
        assert float(row["peak_gib"]) > float(row["added_gib"]) > 0
    assert len({row["difference"] for row in rows}) > 2  # each way has rounded in its own way
    assert "DISAGREES" not in done.stdout and len(done.stdout.splitlines()) == 7


@pytest.mark.slow
def test_who_would_take_too_long_sits_out(tmp_path):
    done = bench(tmp_path, "--cases=mlp8n6", "--repeats=1", "--limit=1e-9", "--out=table.csv")
    assert done.returncode == 0, done.stderr
    ours, *others = records.read_table(tmp_path / "table.csv")
    assert ours["turns"] == "1" and all("TFLOP" in row["absent"] and not row["seconds"] for row in others)
    assert done.stdout.count("sits out") == 2


@pytest.mark.parametrize(
    "flag", ["--cases=mlp0n5", "--cases=", "--against=jax", "--out=nowhere/x.csv", "--repeats=0", "--limit=-1"]
)
def test_bad_flags_end_in_one_line(forks, flag, tmp_path):
    done = forks.run(SCRIPT, flag, cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flag.split("=")[0][2:] in done.stderr, done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())
