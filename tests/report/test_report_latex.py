"""The LaTeX report: it compiles, and prints every sign as it is."""

import shutil
import subprocess

import pytest
import results_folder

from ntkgen import report
from ntkgen.report import _latex


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = results_folder.write_results(tmp_path_factory.mktemp("latex") / "results")
    return report.latex(report.collect(root), root / "report_latex").parent


def test_tables_are_files_of_their_own(folder):
    names = sorted(path.name for path in (folder / "tables").iterdir())
    assert names == [
        "claims.tex", "double-descent-digits-old-summary-1.tex", "double-descent-mnist-a-comparison-1.tex",
        "double-descent-mnist-a-summary-1.tex", "loss-landscape-mnist-c-summary-1.tex", "published.tex",
        "reproduce-quick-e-plan-1.tex", "statements.tex",
    ]  # fmt: skip
    text = (folder / "tables" / "published.tex").read_text()
    assert r"\toprule" in text and "$89.8~[89.1,~90.5]$" in text and r"test\_acc" in text
    assert r"Flat minima $<$generalize$>$ better" in (folder / "tables" / "claims.tex").read_text()


def test_figures_are_pdf_where_there_are_any(folder):
    names = sorted(path.name for path in (folder / "figures").iterdir())
    assert names == [
        "double-descent-digits-old-model-wise.png", "double-descent-mnist-a-model-wise.pdf",
        "loss-landscape-mnist-c-model-wise.png",
    ]  # fmt: skip
    assert all(name in (folder / "report.tex").read_text() for name in names)


def test_every_sign_is_escaped():
    assert _latex.escape("a_b & 5 % of #1 {x} ~ ^ \\ $") == (
        r"a\_b \& 5 \% of \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert _latex.escape("σ ≤ 1 × é − ﬁ\n日") == r"$\sigma$ $\leq$ 1 $\times$ e $-$ fi ?"


def test_the_same_folder_gives_the_same_files(folder, tmp_path):
    report.latex(report.collect(folder.parent), tmp_path)
    for path in folder.rglob("*.*"):
        assert (tmp_path / path.relative_to(folder)).read_bytes() == path.read_bytes()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_it_compiles(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    for _ in range(2):
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "report.tex"]
        done = subprocess.run(command, cwd=tmp_path / "copy", capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout[-3000:]
    log = (tmp_path / "copy" / "report.log").read_text(errors="replace")
    assert "undefined" not in log and "Missing character" not in log
    assert (tmp_path / "copy" / "report.pdf").stat().st_size > 20_000
