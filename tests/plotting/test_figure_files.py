"""Files of figures: the same bytes twice in every format, with the title inside."""

import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ntkgen import plotting
from ntkgen.plotting import Curve
from ntkgen.studies import double_descent, options, runner

X = [1, 10, 100]
DRAW = """
import sys
from pathlib import Path
from ntkgen import plotting
from ntkgen.plotting import Curve
curve = Curve([1, 10, 100], [3.0, 2.0, 1.0], [2.0, 1.0, 0.5], [4.0, 3.0, 1.5])
for suffix in sys.argv[2:]:
    plotting.save(plotting.sample_wise({"4": curve}, "error, σ = 0.1", "width"), Path(sys.argv[1], f"a.{suffix}"))
"""


def figure(title="error, σ = 0.1"):
    curve = Curve(X, [3.0, 2.0, 1.0], [2.0, 1.0, 0.5], [4.0, 3.0, 1.5])
    return plotting.sample_wise({"4": curve}, title, "width")


def test_two_processes_write_the_same_bytes(tmp_path):
    subprocess.run([sys.executable, "-c", DRAW, tmp_path, *plotting.FORMATS], check=True, timeout=120)
    for kind in plotting.FORMATS:
        path = plotting.save(figure(), tmp_path / f"here.{kind}")
        assert path.read_bytes() == (tmp_path / f"a.{kind}").read_bytes(), kind


def test_png_does_not_depend_on_other_formats_written_after_it(tmp_path):
    drawn = figure()
    first = plotting.save(drawn, tmp_path / "a.png").read_bytes()
    for kind in plotting.FORMATS:
        plotting.save(drawn, tmp_path / f"b.{kind}")
    assert first == (tmp_path / "b.png").read_bytes() == plotting.save(figure(), tmp_path / "c.png").read_bytes()


@pytest.mark.parametrize(("kind", "words"), [("svg", b"<svg"), ("pdf", b"%PDF")])
def test_nothing_says_when_it_was_written(tmp_path, kind, words):
    content = plotting.save(figure(), tmp_path / f"a.{kind}").read_bytes()
    assert words in content and not any(word in content for word in (b"Date", b"dc:date", b"Matplotlib v"))


def test_the_title_is_in_the_file(tmp_path):
    png = plotting.save(figure("error,\n  σ = $0.1$"), tmp_path / "a.png").read_bytes()
    assert plotting.title_of(png) == "error, σ = 0.1"
    assert "<dc:title>error, σ = 0.1</dc:title>" in plotting.save(figure(), tmp_path / "a.svg").read_text()
    by_axes = plotting.panels({"a": {"test": Curve(X, X, X, X)}}, "x", "")
    by_axes.axes[0].set_title("left")
    assert plotting.title_of(plotting.save(by_axes, tmp_path / "b.png").read_bytes()) == "left"
    assert plotting.title_of(b"no picture") == ""


def test_fewer_colours_take_fewer_bytes_and_show_the_same(tmp_path):
    png = plotting.save(figure(), tmp_path / "a.png").read_bytes()
    small = plotting.smaller(png)
    assert len(small) < 0.6 * len(png)
    before, after = (np.asarray(Image.open(BytesIO(each)).convert("RGB"), float) for each in (png, small))
    assert np.abs(before - after).mean() < 2
    with pytest.raises(ValueError, match="png: "):
        plotting.smaller(b"no picture")


@pytest.mark.parametrize("name", ["a.jpg", "a", "png"])
def test_other_formats_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"^path: expected a name in \.png, \.svg, \.pdf, got"):
        plotting.save(figure(), tmp_path / name)


@pytest.mark.parametrize("given", ["none", "", "png,png", "gif", 5, ()])
def test_a_study_refuses_other_formats(given):
    with pytest.raises(ValueError, match=r"^format: expected a comma-separated list of png, svg, pdf, tex, got "):
        double_descent.run("quick", format=given)


def test_a_study_draws_in_all_formats_asked_for_and_in_those_that_are_there(tmp_path):

    study = type("Study", (), {"figures": staticmethod(lambda *_: iter([("a", figure())]))})
    run = type("Run", (), {"folder": tmp_path})
    ready = runner.Opened(study, None, run, None, ("svg", "pdf"))
    assert runner.draw(ready, {}, None) == {"a": tmp_path / "a.svg"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pdf", "a.svg"]
    (tmp_path / "a.svg").write_text("of an earlier run")
    again = runner.Opened(study, None, run, None, ("png",))
    assert runner.draw(again, {}, None) == {"a": tmp_path / "a.png"}
    assert Path(tmp_path / "a.svg").read_text().startswith("<?xml")


def test_a_study_draws_in_the_widths_asked_for_and_in_those_that_are_there_and_writes_tables(tmp_path):
    study = type("Study", (), {"name": "study", "figures": staticmethod(lambda *_: iter([("a", figure())]))})
    run = type("Run", (), {"folder": tmp_path})
    derived = type("Derived", (), {"tables": {"summary": [{"width": 8}], "epochs": [{"epoch": 1}], "tests": []}})

    def drawn(formats, widths):
        return runner.draw(runner.Opened(study, None, run, None, formats, widths), {}, derived)

    assert drawn(("pdf", "tex"), ("column", "double")) == {"a": tmp_path / "a_column.pdf"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_column.pdf", "a_double.pdf", "summary.tex"]
    (tmp_path / "a_double.pdf").write_text("of an earlier run")
    assert drawn(("tex",), ("screen",)) == {"a": tmp_path / "a.png"}  # tables alone would leave a run without figures
    assert (tmp_path / "a_double.pdf").read_bytes().startswith(b"%PDF")
    assert Image.open(BytesIO((tmp_path / "a.png").read_bytes())).size[0] == 960
    assert "$8$" in (tmp_path / "summary.tex").read_text()


@pytest.mark.parametrize("given", ["none", "wide", ("column", "column")])
def test_a_study_refuses_other_widths(given):
    with pytest.raises(ValueError, match=r"^figure_width: expected a comma-separated list of screen, "):
        double_descent.run("quick", figure_width=given)


def test_formats_are_parsed_from_text_and_lists():
    assert options.FORMATS.choices == (*plotting.FORMATS, "tex")
    assert options.WIDTHS.choices == tuple(plotting.WIDTHS)
    assert options.FORMATS.parse("pdf,png") == options.FORMATS.parse(["pdf", "png"]) == ("png", "pdf")
