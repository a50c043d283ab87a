"""The benchmark of the tangent kernel as a user runs it, at sizes where every way takes part."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import nt_environment
import ntk
import ntk_ways
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
    done = bench(tmp_path, "--cases=mlp8n6,mlp8n9trace", "--repeats=2", "--against=jacobian,torch.func")
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
    words = "--limit=1e-9", "--against=jacobian,torch.func", "--out=table.csv"
    done = bench(tmp_path, "--cases=mlp8n6", "--repeats=1", *words)
    assert done.returncode == 0, done.stderr
    ours, *others = records.read_table(tmp_path / "table.csv")
    assert ours["turns"] == "1" and all("TFLOP" in row["absent"] and not row["seconds"] for row in others)
    assert done.stdout.count("sits out") == 2


# neural-tangents, in an environment of its own: a Python that finds a stand-in of that name, and nothing of $PYTHONPATH

STAND_IN = """
import enum
NtkImplementation = enum.Enum("NtkImplementation", "STRUCTURED_DERIVATIVES")

def empirical_ntk_fn(apply, trace_axes, vmap_axes, implementation):
    import jax
    assert (trace_axes, vmap_axes, implementation.name) == ((), 0, "STRUCTURED_DERIVATIVES")

    def kernel(x1, x2, params):
        assert x2 is None
        rows = [row.reshape(*row.shape[:2], -1) for row in jax.tree.leaves(jax.jacrev(apply)(params, x1))]
        return sum(jax.numpy.einsum("iap,jbp->ijab", row, row) for row in rows)

    return kernel
"""


@pytest.fixture
def python(tmp_path_factory):
    """A Python that imports the stand-in, version 0.6.5; it must be called with -E first."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "neural_tangents.py").write_text(STAND_IN)
    (folder / "neural_tangents-0.6.5.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: neural-tangents\nVersion: 0.6.5\n"
    (folder / "neural_tangents-0.6.5.dist-info" / "METADATA").write_text(about)
    return program(folder / "python", f'[ "$1" = -E ] || exit 9; shift; PYTHONPATH={folder} exec {sys.executable} "$@"')


def program(path, line):
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    return str(path)


def test_neural_tangents_answers_from_its_own_environment(python, forks, tmp_path):
    flags = ("--cases=mlp3n4", "--repeats=1", "--against=neural-tangents", "--out=table.csv")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", nt_environment.VARIABLE: python}
    done = forks.run(SCRIPT, *flags, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    ours, theirs = records.read_table(tmp_path / "table.csv")
    assert (ours["way"], theirs["way"]) == ("ours", "neural-tangents") and theirs["turns"] == "1"
    assert 0 < float(theirs["difference"]) < 1e-5 and "differs by" in done.stdout
    assert float(theirs["first_seconds"]) > float(theirs["seconds"]) > 0 and float(theirs["speedup"]) > 0


def test_neural_tangents_sits_out_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.delenv(nt_environment.VARIABLE, raising=False)
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(tmp_path))
    assert nt_environment.find(None, build=False) is None
    monkeypatch.setattr(ntk, "FLAGS", SimpleNamespace(limit=20.0))
    monkeypatch.setattr(ntk.timing, "matmul_peak", lambda: 100.0)
    monkeypatch.setattr(ntk.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**21}[name])  # 8 GiB

    def reason(case, peer=("python", "0.6.5")):
        return ntk.sits_out("neural-tangents", ntk_ways.parse(case), 10**6, peer)

    assert reason("mlp8n6", None) == "not installed: --build_peers makes its environment"
    assert reason("cnn8n6") == "MLPs only" and reason("mlp1024n1000") is None
    assert reason("mlp4096n1000") == "2.46 TFLOP would take over 20 s"
    assert reason("mlp8n2000") == "8 copies of the kernel would take 11.9 GiB" and reason("mlp8n2000trace") is None
    monkeypatch.setattr(ntk.jax, "default_backend", lambda: "gpu")
    assert reason("mlp8n6") == "its environment computes on the CPU only"


def test_the_environment_is_found_by_flag_then_variable_then_cache(python, monkeypatch, tmp_path):
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv(nt_environment.VARIABLE, "/nowhere/python")
    assert nt_environment.find(python, build=False) == (python, "0.6.5")
    with pytest.raises(ValueError, match=r"^NTKGEN_NT_PYTHON: expected the Python .*'/nowhere/python': No such file"):
        nt_environment.find(None, build=False)
    made = tmp_path / "neural-tangents" / "bin"
    made.mkdir(parents=True)
    (made / "python").symlink_to(python)
    monkeypatch.setattr(nt_environment, "make", None)  # one that is there is not made again
    assert nt_environment.find(None, build=True) == (str(made / "python"), "0.6.5")
    monkeypatch.setenv(nt_environment.VARIABLE, "")
    assert nt_environment.find(None, build=False) == (str(made / "python"), "0.6.5")


@pytest.mark.parametrize("fails", [None, "venv", "pip"])
def test_build_peers_makes_an_environment_or_leaves_nothing(python, fails, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(tmp_path))
    ran, output = [], nt_environment.output

    def instead(command):
        if command[1] != "-m":
            return output(command)
        ran.append(command)
        (tmp_path / "neural-tangents" / "bin").mkdir(parents=True, exist_ok=True)
        if command[2] == fails:
            return output(["sh", "-c", "echo much; echo No matching distribution >&2; exit 1"])
        if command[2] == "pip":
            Path(command[0]).symlink_to(python)
        return ""

    monkeypatch.setattr(nt_environment, "output", instead)
    if fails is None:
        assert nt_environment.find(None, build=True).version == "0.6.5"
        assert "neural-tangents==0.6.5" in ran[1] and all("==" in word for word in ran[1][6:])
        assert "neural-tangents==0.6.5" in capsys.readouterr().out
    else:
        with pytest.raises(ValueError, match=f"^build_peers: {fails} failed: No matching distribution$"):
            nt_environment.find(None, build=True)
        assert not (tmp_path / "neural-tangents").exists()


@pytest.mark.parametrize(
    ("line", "reason"), [("exit 0", "it says no version"), ("exit 3", "exit code 3"), (None, "Permission denied")]
)
def test_a_program_that_is_no_such_python_is_refused(line, reason, tmp_path):
    path = str(tmp_path) if line is None else program(tmp_path / "python", line)
    with pytest.raises(ValueError, match=f"^nt_python: expected the Python .*, got '{path}': {reason}$"):
        nt_environment.find(path, build=False)


# Flags


@pytest.mark.parametrize(
    "flag",
    [
        "--cases=mlp0n5", "--cases=", "--against=jax", "--out=nowhere/x.csv", "--repeats=0", "--limit=-1",
        "--nt_python=nowhere", "--nt_python=", "--build_peers=maybe", "--nt_python=x --build_peers",
    ],
)  # fmt: skip
def test_bad_flags_end_in_one_line(forks, flag, tmp_path):
    done = forks.run(SCRIPT, *flag.split(" "), cwd=tmp_path, env={**os.environ, "JAX_PLATFORMS": "cpu"})
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and flag.split("=")[0][2:] in done.stderr, done.stderr
    assert not done.stdout and not list(tmp_path.iterdir())
