"""`ntkgen report FOLDER`: what it writes, and one line for every mistake."""

import sys

import pytest
import results_folder

from ntkgen import cli


@pytest.fixture
def run(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ntkgen", "report", *map(str, arguments)])
        code = 0
        try:
            cli.command()
        except SystemExit as stop:
            code = stop.code
        found = capsys.readouterr()
        return code, found.out, found.err

    return run


@pytest.fixture
def folder(tmp_path):
    results_folder.write_run(
        tmp_path / "results", "double_descent", "digits-a", tables={"summary": results_folder.SUMMARY}
    )
    return tmp_path / "results"


@pytest.mark.parametrize(
    ("flags", "name"),
    [((), "report.html"), (("--format=latex",), "report_latex/report.tex"), (("--format=csv",), "report_csv/runs.csv")],
)
def test_it_writes_into_the_folder_and_says_where(run, folder, flags, name):
    code, out, err = run(folder, *flags)
    assert code == 0 and err == "" and str(folder / name) in out.splitlines() and (folder / name).exists()


def test_out_says_where(run, folder, tmp_path):
    assert run(folder, f"--out={tmp_path / 'new' / 'a.html'}") == (0, f"{tmp_path / 'new' / 'a.html'}\n", "")
    assert (tmp_path / "new" / "a.html").exists() and not (folder / "report.html").exists()


def test_mixed_versions_take_one_line(run, folder):
    results_folder.write_run(folder, "double_descent", "digits-b", versions={**results_folder.VERSIONS, "jax": "0.11"})
    code, _, err = run(folder)
    assert code == 0 and err == "warning: mixed versions; jax: 0.10.2 (1 run), 0.11 (1 run)\n"


def mistakes(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "other" / "a").mkdir(parents=True)
    return {
        "no folder": ((), "expected one results folder, got none"),
        "two": ((folder, folder), "expected one results folder"),
        "missing": ((tmp_path / "none",), "does not exist"),
        "empty": ((tmp_path / "empty",), "is empty"),
        "file": ((tmp_path / "file",), "is a file"),
        "other": ((tmp_path / "other",), "is no results folder"),
        "format": ((folder, "--format=word"), "one of html, latex, csv"),
        "flag": ((folder, "--formt=html"), "formt"),
        "out is a folder": ((folder, f"--out={tmp_path}"), "--out: "),
        "out is a file": ((folder, "--format=csv", f"--out={tmp_path / 'file'}"), "--out: "),
        "out is below a file": ((folder, f"--out={tmp_path / 'file' / 'a.html'}"), "--out: "),
        "out is empty": ((folder, "--out="), "--out: "),
        "out cannot be written": ((folder, "--out=/proc/a/b.html"), "--out: "),
    }


NAMES = [
    "no folder", "two", "missing", "empty", "file", "other", "format", "flag", "out is a folder", "out is a file",
    "out is below a file", "out is empty", "out cannot be written",
]  # fmt: skip


@pytest.mark.parametrize("case", NAMES)
def test_a_mistake_takes_one_line(run, folder, tmp_path, case):
    arguments, words = mistakes(folder, tmp_path)[case]
    code, out, err = run(*arguments)
    assert code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err, err


def test_a_damaged_config_takes_one_line(run, folder):
    (folder / "double_descent" / "digits-a" / "config.json").write_text("{")
    code, _, err = run(folder)
    assert code == 2 and err.count("\n") == 1 and "config.json is damaged" in err


def test_help_lists_the_flags(run):
    code, out, _ = run("--help")
    assert code == 0 and "--format" in out and "--out" in out and out.startswith("usage: ntkgen report FOLDER")
