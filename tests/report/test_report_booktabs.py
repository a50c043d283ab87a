"""One table for a paper: rounded to its error, and pdflatex takes it."""

import shutil
import subprocess

import pytest

from ntkgen import report
from ntkgen.report._booktabs import rounded

DOCUMENT = (
    "\\documentclass[twocolumn]{article}\\usepackage{booktabs}\\begin{document}%s See \\ref{tab:a-b}.\\end{document}"
)


@pytest.mark.parametrize(
    ("value", "low", "high", "printed"),
    [
        (97.1234, 96.9934, 97.2534, "97.12 \\pm 0.13"),
        (97.1234, 96.1267, 98.1201, "97.1 \\pm 1.0"),  # an error of 0.997 has two digits as 1.0
        (1234.5, 1000.0, 1469.0, "1230 \\pm 230"),
        (1.9, 1.2, 3.4, "1.9\\ [1.2, 3.4]"),
        (-0.0004, -0.021, 0.0202, "0.000 \\pm 0.021"),
        (0.0000123, 0.0000111, 0.0000135, "(1.23 \\pm 0.12) \\times 10^{-5}"),
        (3.25e-9, 1e-9, 9e-9, "3.2\\ [1.0, 9.0] \\times 10^{-9}"),
        (5.0, 5.0, 5.0, "5"),
    ],
)
def test_a_number_is_rounded_to_its_error(value, low, high, printed):
    assert rounded(value, low, high) == printed


def rows(count=3):
    wide = {f"measure_{i}_mean": 0.1 * i for i in range(12)} | {f"measure_{i}_t_low": 0.09 * i for i in range(12)}
    wide |= {f"measure_{i}_t_high": 0.11 * i for i in range(12)}
    text = {"arm": "50% & more_of {#}", "test_acc_mean": 97.0, "test_acc_t_low": 96.0, "test_acc_t_high": 98.0}
    return [text | {"seeds": 5, "p": 1.2e-7, "none": None, "left": float("nan"), "holds": True} | wide] * count


def test_cells_headings_and_parts():
    source = report.booktabs(rows(70), "What 5 seeds_say.", "tab:a_b")
    assert source.count("\\begin{tabular}") == source.count("Part 1 of ") + source.count("Part 2 of ") + (
        source.count("Part 3 of ")
    ) and source.count("Part 1 of ") == 1  # fmt: skip
    assert "$97.0 \\pm 1.0$" in source and "test accuracy (\\%)" in source and "$1.20 \\times 10^{-7}$" in source
    assert "none" not in source and "left" not in source and "nan" not in source and "yes" in source
    assert "The first 60 of 70 rows." in source and source.count("50\\% \\& more\\_of \\{\\#\\}") % 60 == 0
    assert "\\label{tab:a-b}" in source and "\\label{tab:a-b-2}" in source and "seeds\\_say" in source
    with pytest.raises(ValueError, match=r"^rows: expected at least one row, got none$"):
        report.booktabs([])


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_takes_it_with_booktabs_alone(tmp_path):
    (tmp_path / "a.tex").write_text(DOCUMENT % report.booktabs(rows(), "What 5 seeds_say.", "tab:a_b"))
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "a.pdf").stat().st_size > 5000
