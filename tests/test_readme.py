"""README and the pages of results: examples run as they stand, links lead somewhere, and what is promised is there."""

import re
from pathlib import Path

import pytest

from ntkgen import measure, studies

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "figures").glob("*.md"))]
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_it_can_be_read_at_once():
    assert len(README.splitlines()) <= 200


def test_there_are_examples():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_example_runs(block, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a study writes its results where it is run
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})
    assert "nan" not in capsys.readouterr().out
    for folder in Path("results").glob("*/digits-*"):  # of the example that runs a study: it holds what is listed
        listed = re.findall(r"^    (\S+)  ", README, re.MULTILINE)
        assert listed and all(list(folder.glob(name)) for name in listed)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    missing = [link for link in links if not (page.parent / link.partition("#")[0]).is_file()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page):
    text = page.read_text()
    scripts = {ROOT / name for name in re.findall(r"experiments/[\w/]+\.py", text)}
    if page.parent != ROOT:
        scripts |= {page.parent / name for name in re.findall(r"`(\w[\w.]*\.csv)`", text) if name != "tests.csv"}
    assert not [str(path) for path in scripts if not path.is_file()]


def test_every_figure_page_is_linked():
    assert all(f"(figures/{page.name})" in README for page in PAGES[1:])


def test_every_study_is_in_the_table():
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == set(studies.NAMES)


def test_number_of_measurements():
    assert len(measure.MEASUREMENTS) == 14 and "fourteen measurements" in README


def test_speeds_are_those_of_their_page():
    page = (ROOT / "figures" / "speed.md").read_text()
    table = re.findall(r"^\| .*\|$", README.partition("\n## Speed\n")[2].partition("\n## ")[0], re.MULTILINE)
    numbers = [number for row in table for number in re.findall(r"([\d.]+) (?:s|GiB)\b", row)]
    assert len(numbers) >= 10
    assert not [number for number in numbers if not re.search(rf"(?<![\d.]){re.escape(number)}(?![\d.]*\d)", page)]


def test_findings_are_those_of_their_pages():
    rows = [line for line in README.splitlines() if re.match(r"\| H\d \|", line)]
    assert len(rows) == 5
    for row in rows:
        pages = "".join((ROOT / name).read_text() for name in re.findall(r"\]\((figures/\w+\.md)\)", row))
        assert pages and all(interval in pages for interval in re.findall(r"\[-?\d[^\]]*\]", row))
