"""The documentation site: its examples and notebooks run, its pages are complete, its links lead somewhere."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ntkgen
from ntkgen import studies

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / ".docs"
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if "_build" not in page.parts]
README = (ROOT / "README.md").read_text()
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
EXAMPLES = {page: re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE) for page in PAGES}


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def test_guides_have_examples():
    assert sum(map(bool, EXAMPLES.values())) >= 8 and len(NOTEBOOKS) == 3


@pytest.mark.parametrize("page", [page for page, blocks in EXAMPLES.items() if blocks], ids=name_of)
def test_examples_of_a_page_run(page, capsys, tmp_path, monkeypatch):
    """The blocks of a page follow each other in one namespace, as a reader would type them."""
    monkeypatch.chdir(tmp_path)  # a study writes its results where it is run
    space = {"__name__": "__main__"}
    for number, block in enumerate(EXAMPLES[page]):
        if block in README:  # tests/test_readme.py runs it
            continue
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), space)
    assert "nan" not in capsys.readouterr().out.lower()


def test_every_package_has_a_page():
    pages = {page.stem: page.read_text() for page in PAGES if page.parent.name == "api" and page.stem != "index"}
    assert set(pages) == set(ntkgen.__all__)
    assert all(f"automodule:: ntkgen.{name}\n   :members:" in text for name, text in pages.items())
    index = (DOCS / "api" / "index.md").read_text()
    assert all(f"\n{name}\n" in index and f"({name}.md)" in index for name in pages)


def test_every_study_has_a_page():
    pages = {page.stem: page.read_text() for page in PAGES if page.parent.name == "studies" and page.stem != "index"}
    assert set(pages) == set(studies.NAMES)
    for name, text in pages.items():
        words = re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)
        assert words == ["Question", "Method", "Equations", "Expect", "Results"]
        assert f"\nntkgen {name} --preset=quick" in text


def test_every_results_page_includes_its_file():
    results = {page.stem: page.read_text() for page in (DOCS / "results").glob("*.md") if page.stem != "index"}
    assert set(results) == {page.stem for page in (ROOT / "figures").glob("*.md")}
    assert all(f"{{include}} ../../figures/{name}.md\n" in text for name, text in results.items())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_intervals_are_those_of_the_results(page):
    """What a page expects with an interval stands in README, a page of results or a script."""
    sources = [ROOT / "README.md", *(ROOT / "figures").glob("*.md"), *(ROOT / "experiments").glob("*.py")]
    text = " ".join(" ".join(source.read_text().split()) for source in sources)
    words = " ".join(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL).split())
    assert all(interval in text for interval in re.findall(r"\[-?\d[\d.]*, -?\d[\d.]*\]", words))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebook_runs(notebook, tmp_path):
    """It runs from the top in a kernel of its own, and shows as many things as the stored copy does."""
    pytest.importorskip("nbclient", reason="nbclient is in the extra docs")
    command = [sys.executable, DOCS / "execute.py", notebook, f"--to={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found, stored = (
        json.loads((folder / notebook.name).read_text())["cells"] for folder in (tmp_path, notebook.parent)
    )
    assert [kinds(cell) for cell in found] == [kinds(cell) for cell in stored]


def kinds(cell: dict) -> list[str]:
    return [output["output_type"] for output in cell.get("outputs", [])]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_notebook_is_small_and_names_no_folder(notebook):
    text = notebook.read_text()
    assert len(text) < 60_000
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    assert any(cell.get("outputs") for cell in json.loads(text)["cells"])


@pytest.mark.slow
def test_two_networks_in_forty_lines(tmp_path, monkeypatch):
    """With two seeds, two epochs and a tenth of the images."""
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "examples" / "two_networks.py").read_text()
    for old, new in (("= 10, train.Config(20,", "= 2, train.Config(2,"), (":1200", ":120"), ("1200:", "1200:1300")):
        assert old in text
        text = text.replace(old, new)
    exec(compile(text, "two_networks.py", "exec"), {"__name__": "__main__"})
    assert Path("networks.tex").read_text().count("\\pm") + Path("networks.tex").read_text().count("[") >= 8
    assert Path("tickets.pdf").read_bytes().startswith(b"%PDF")


def test_forty_lines_are_forty():
    text = (DOCS / "examples" / "two_networks.py").read_text()
    assert sum(bool(line.strip()) for line in text.splitlines()) <= 40
