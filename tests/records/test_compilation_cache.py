"""Compiled programs that are found again: the same numbers, a bounded folder, and no harm where it cannot be used."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from ntkgen import io, records
from ntkgen.records import _compilation_cache as cache
from ntkgen.studies import double_descent, runner

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("runs.csv", "correct.csv", "summary.csv", "verdict.json", "config.json")


@pytest.fixture
def wanted(monkeypatch, tmp_path):
    """The folder of programs, where every program counts."""
    monkeypatch.delenv(cache.SWITCH)
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cache, "LEAST_SECONDS", 0.0)
    return tmp_path / "compiled" / cache.processor()


def compile_one(number: float) -> float:
    return float(jax.jit(lambda x: x * number)(jnp.float32(2)))


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*-cache"))


def test_programs_are_kept_and_settings_put_back(wanted):
    before = {name: jax.config.values[name] for name in jax.config.values if "cache" in name}
    with records.compilation_cache():
        assert jax.config.jax_compilation_cache_dir == str(wanted) and jax.config.jax_compilation_cache_max_size > 0
        assert compile_one(3.25) == 6.5 and entries(wanted)
    assert {name: jax.config.values[name] for name in before} == before
    found = entries(wanted)
    compile_one(3.75)
    assert entries(wanted) == found and wanted.stat().st_mode & 0o077 == 0


def test_it_can_be_turned_off(wanted, monkeypatch):
    with records.compilation_cache(on=False), records.compilation_cache():  # the inner one is of a study's part
        compile_one(4.25)
    monkeypatch.setenv(cache.SWITCH, "0")
    with records.compilation_cache():
        compile_one(4.5)
    assert not wanted.exists()


def test_a_folder_that_the_user_gave_jax_is_left_alone(wanted, tmp_path):
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
        with records.compilation_cache():
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
    assert not wanted.exists()


def test_it_is_no_part_of_the_numerics(wanted):
    before = records.numerics()
    with records.compilation_cache():
        assert records.numerics() == before


def full(_path):
    return os.statvfs_result((4096,) * 10) and type("Usage", (), {"free": 0})()


@pytest.mark.parametrize("trouble", ["a file in its place", "full", "held by others", "another's"])
def test_a_folder_that_cannot_be_used_is_one_warning(wanted, monkeypatch, trouble):
    if trouble == "a file in its place":  # where not even root can write
        wanted.parent.write_text("")
    elif trouble == "full":
        monkeypatch.setattr(cache.shutil, "disk_usage", full)
    elif trouble == "another's":
        monkeypatch.setattr(cache.os, "getuid", lambda: 12345)
    else:
        wanted.mkdir(parents=True)
        monkeypatch.setattr(cache, "PATIENCE", 0.01)
        held = cache.filelock.FileLock(wanted / ".lockfile", is_singleton=False)
        held.acquire()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):  # as the parts of a study do
            with records.compilation_cache():
                assert compile_one(5.25) == 10.5
    assert len(said) == 1 and str(said[0].message).startswith("compiled programs are not kept") and not entries(wanted)


def test_a_disk_that_becomes_full_later_harms_nothing(wanted, monkeypatch):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with records.compilation_cache():
            compile_one(6.25)
            monkeypatch.setattr(
                "jax._src.lru_cache.LRUCache.put", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
            )
            assert compile_one(6.75) == 13.5
    assert not said


def test_what_is_not_whole_and_the_oldest_programs_go(wanted, monkeypatch):
    wanted.mkdir(parents=True)
    for time, name in enumerate(["oldest", "older", "newest"], 1):
        (wanted / f"{name}-cache").write_bytes(b"program")
        (wanted / f"{name}-atime").write_bytes(time.to_bytes(8, "little"))
    (wanted / "torn-cache").write_bytes(b"pro")
    monkeypatch.setattr(cache, "MOST_PROGRAMS", 2)
    cache._make(wanted)
    assert [path.name for path in entries(wanted)] == ["newest-cache", "older-cache"]
    assert not (wanted / "oldest-atime").exists()


FEW = {"widths": (4,), "num_train": 128, "num_seeds": 2, "epochs": 2}


def sums(folder: Path) -> list[str]:
    return [folder.name, *(io.sha256_bytes((folder / table).read_bytes()) for table in TABLES)]


def test_a_study_finds_the_same_numbers_with_a_cold_and_a_warm_cache(wanted, tmp_path, capfd):
    found: list = []
    kept: list = []
    for name in ("cold", "warm"):
        jax.clear_caches()  # as a new process has none
        results = runner.run(double_descent.STUDY, "quick", out_dir=tmp_path / name, say=lambda _: None, **FEW)
        found.append(sums(results.folder))
        kept = kept or entries(wanted)
        out, err = capfd.readouterr()  # of XLA's, too
        assert out == "" and err.startswith("4/4 seeds x epochs") and err.count("\n") == 1
    assert found[0] == found[1] and entries(wanted) == kept and len(kept) > 5


@pytest.mark.slow
def test_processes_find_the_same_numbers_without_a_cache_and_with_a_cold_and_a_warm_one(tmp_path):
    found = []
    for name in ("without", "cold", "warm"):
        flags = [f"--{setting}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
                 for setting, value in FEW.items()]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "NTKGEN_CACHE_DIR": str(tmp_path / "cache")}
        environment.pop(cache.SWITCH)
        command = [sys.executable, "-m", "ntkgen", "double_descent", f"--out_dir={tmp_path / name}", "--preset=quick"]
        command += [*flags, *(["--nocompilation_cache"] if name == "without" else [])]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0 and done.stderr.count("\n") == 1, done.stderr
        assert (tmp_path / "cache" / "compiled").exists() == (name != "without")
        found.append(sums(next((tmp_path / name / "double_descent").iterdir())))
    assert found[0] == found[1] == found[2]
