"""Studies from Python, as in a notebook: run, read again, look at tables and figures, and mistakes in one line."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntkgen import io, records, studies
from ntkgen.ensemble import programs
from ntkgen.studies import base, double_descent, options, runner

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = dict(dataset="digits", depth=2, widths=(2, 4), num_train=100, num_seeds=2, epochs=1, batch_size=50,
                pad_widths=False)  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def first(out) -> tuple[runner.Results, list[str]]:
    said: list[str] = []
    return double_descent.run(**SETTINGS, out_dir=out, say=said.append), said


def no_training(*_):
    raise AssertionError("trained again")


def equal(one: runner.Results, two: runner.Results) -> bool:
    tables = {name: repr(table) for name, table in one.tables.items()}
    return (one.folder, one.text, one.figures, tables) == (
        two.folder, two.text, two.figures, {name: repr(table) for name, table in two.tables.items()}
    ) and io.canonical_json(one.verdict) == io.canonical_json(two.verdict)  # fmt: skip


def test_a_second_call_reads(first, out, monkeypatch, capsys):
    results, _ = first
    times = {path: path.stat().st_mtime_ns for path in results.folder.iterdir() if path.suffix in (".csv", ".json")}
    monkeypatch.setattr(programs, "train_epoch", no_training)
    again = double_descent.run(**SETTINGS, out_dir=str(out), say=lambda _: None)
    assert equal(again, results) and {path: path.stat().st_mtime_ns for path in times} == times
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err == f"{results.folder} is finished; --force repeats it\n"


def test_values_may_be_text_or_of_numpy(first, out, monkeypatch):
    monkeypatch.setattr(programs, "train_epoch", no_training)
    given = SETTINGS | {"widths": "4,2", "num_train": np.array([100]), "epochs": np.int64(1), "num_seeds": "2"}
    assert equal(double_descent.run("paper", **given, lr=None, out_dir=out, say=lambda _: None), first[0])


def test_another_config_of_the_same_networks_trains_nothing(first, out, monkeypatch):
    """What is judged otherwise, or of which part of the networks, is another run and no other training."""
    monkeypatch.setattr(programs, "train_epoch", no_training)
    for more in ({"criterion": 0.5}, {"widths": (4,)}):
        other = double_descent.run(**SETTINGS | more, out_dir=out, say=lambda _: None)
        assert other.folder != first[0].folder
    rows = [row for row in first[0].tables["runs"] if row["size"] == "4"]
    assert list(other.tables["runs"]) == rows


def test_results_say_what_there_is(first, out):
    results, said = first
    assert results.folder.parent == out / "double_descent"
    assert list(results.tables) == ["runs", "correct", "summary", "comparison", "epochs"]
    assert repr(results) == (
        f"Results({str(results.folder)!r}, tables: runs, correct, summary, comparison, epochs; "
        "figures: model_wise, epoch_wise)"
    )
    assert said[0] == runner.fitted(results.answer) and results.verdict[0]["verdict"] in results.text
    assert said[1].strip() == f"tables, figures and report.txt: {results.folder}"
    assert all(path.parent == results.folder and path.stat().st_size > 10_000 for path in results.figures.values())
    for name, table in results.tables.items():
        rows = records.read_table(results.folder / f"{name}.csv")
        assert len(table) == len(rows) and list(table[0]) == list(rows[0])
        assert len(table.to_rows()) == len(table) and type(table.to_rows()) is list
    assert len(results.tables["runs"]) == 4 and results.tables["runs"].to_rows()[0]["seed"] == 0
    assert repr(results.tables["runs"]).startswith("Table(4 rows: num_train, size, num_params, seed, epoch, ")


def test_a_table_becomes_a_frame(first):
    pandas = pytest.importorskip("pandas")
    frame = first[0].tables["summary"].to_frame()
    assert isinstance(frame, pandas.DataFrame) and list(frame["size"]) == [2, 4]


def test_figures_go_where_they_are_sent_with_the_tables_behind_them(first, out, tmp_path):
    results = double_descent.run(**SETTINGS, out_dir=out, figures_dir=tmp_path / "a" / "b", say=lambda _: None)
    digest = results.folder.name.rpartition("-")[2][:8]
    stem = (
        f"double_descent_digits_depth2_widths2-4_num_train100_num_seeds2_epochs1_batch_size50_pad_widthsFalse_{digest}"
    )
    assert results.figures == {name: tmp_path / "a" / "b" / f"{stem}_{name}.png" for name in first[0].figures}
    tables = {path.name.removeprefix(f"{stem}_") for path in (tmp_path / "a" / "b").glob("*.csv")}
    assert tables == {"summary.csv", "comparison.csv", "epochs.csv"}
    for name, path in results.figures.items():
        assert path.read_bytes() == first[0].figures[name].read_bytes()


def test_names_of_figures_have_an_end_and_tell_configurations_apart(first):
    prepared = base.Prepared(double_descent.Config(dataset="digits"), {}, "quick", {"lr": 0.1, "vary": "x" * 300}, None)
    names = []
    for digest in ("0123456789ab", "1123456789ab"):
        run = records.Run(Path(f"digits-{digest}"), True, None)
        names.append(runner.stem(runner.Opened(double_descent.STUDY, prepared, run, None)))
    assert names[0].startswith("double_descent_digits_quick_lr0.1_varyxxx") and names[0].endswith("_01234567")
    assert names[1].endswith("_11234567") and len(names[0]) < 200


MISTAKES = [
    ({"wdiths": (4,)}, "wdiths: expected a setting of this study, got (4,); did you mean widths?"),
    ({"outdir": "x"}, "outdir: expected a setting of this study, got 'x'; did you mean out_dir?"),
    ({"preset": "quik"}, "preset: expected one of quick, small, paper, got 'quik'; did you mean quick?"),
    ({"widths": (4, 4)}, f"widths: expected {options.COUNTS.expected}, got (4, 4)"),
    ({"epochs": True}, "epochs: expected a whole number from 1 to 1000000, got True"),
    ({"dataset": "minst"}, "dataset: expected one of mnist, fashion_mnist, cifar10, cifar100, digits, mnist1d, or the "
                           "path of an .npz file, got 'minst'; did you mean mnist?"),
    ({"channels": (4,)}, "channels: expected no such setting with --model=mlp, got (4,)"),
    ({"batch_size": 101}, "batch_size: expected at most the 100 training examples, got 101"),
    ({"num_train": 9999}, "num_train: expected at most 1297, all of digits, got 9999"),
    ({"num_seeds": 10_000, "epochs": 10**6}, "num_seeds: expected at most 100 with 1000000 epochs, got 10000"),
    ({"out_dir": ""}, "out_dir: expected the name of a folder, got ''"),
    ({"figures_dir": "/proc/x"}, "figures_dir: cannot write in /proc"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "message"), MISTAKES, ids=[" ".join(more) for more, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_setting_and_writes_nothing(tmp_path, more, message):
    with pytest.raises(ValueError) as caught:
        double_descent.run(**{"out_dir": tmp_path / "results", **SETTINGS, **more})
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_under_way_is_refused(first, out):
    with io.lock(first[0].folder), pytest.raises(records.RecordError, match="in use by process"):
        double_descent.run(**SETTINGS, out_dir=out)


def test_force_repeats(first, out):
    (first[0].folder / "leftover").write_text("of an older version")
    again = double_descent.run(**SETTINGS, out_dir=out, force=True, say=lambda _: None)
    assert equal(again, first[0]) and not (first[0].folder / "leftover").exists()


def test_figures_that_fail_leave_a_finished_run_finished(first, out):
    def fail(*_):
        raise KeyError("a bug of the figures")
        yield

    def derive(prepared, tables):
        found = double_descent.STUDY.derive(prepared, tables)
        return dataclasses.replace(found, tables={**found.tables, "summary": [{"changed": 1}]})

    broken = dataclasses.replace(double_descent.STUDY, figures=fail, derive=derive)
    before = (first[0].folder / "summary.csv").read_bytes()
    with pytest.raises(KeyError):
        runner.run(broken, **SETTINGS, out_dir=out, say=lambda _: None)
    assert (first[0].folder / "summary.csv").read_bytes() == before
    assert equal(double_descent.run(**SETTINGS, out_dir=out, say=lambda _: None), first[0])


def test_a_study_of_ones_own(tmp_path, capsys):
    @dataclasses.dataclass(frozen=True)
    class Config(base.Config):
        count: int = options.setting(options.COUNT, "How many.", default=3, group="measurement")

    def measure(run, prepared):
        return {"numbers": [{"n": n, "square": n * n} for n in range(prepared.config.count)]}

    def derive(prepared, tables):
        total = sum(int(row["square"]) for row in tables["numbers"])
        return base.Derived({"total": [{"total": total}], "nothing": []}, {"total": total}, f"total {total}")

    study = base.Study(
        name="squares", question="How many?", config=Config,
        resolve=lambda preset, given: Config(**{"dataset": "digits", **given}),
        prepare=lambda config, data_dir: ({}, None),
        measure=measure, derive=derive, figures=lambda *_: iter(()), tables=("numbers",),
    )  # fmt: skip
    results = runner.run(study, count="4", out_dir=tmp_path)
    assert results.verdict == {"total": 14} and results.figures == {} and results.tables["nothing"] == []
    assert capsys.readouterr().out == f"total 14\n\ntables and report.txt: {results.folder}\n"
    assert sorted(path.name for path in results.folder.iterdir() if path.name != ".lock") == [
        "config.json", "finished.json", "numbers.csv", "report.txt", "total.csv", "verdict.json"]  # fmt: skip
    with pytest.raises(ValueError, match=r"^coutn: expected a setting of this study, got 4; did you mean count\?$"):
        runner.run(study, coutn=4, out_dir=tmp_path)


def test_drawing_leaves_matplotlib_as_it_was(tmp_path):
    """A notebook's backend and style stay, no window opens, and nothing is said where `say` is silent."""
    code = f"""
import warnings
warnings.simplefilter("error")
import matplotlib
matplotlib.use("svg")
matplotlib.rcParams["lines.linewidth"] = 7
before = dict(matplotlib.rcParams)
import sys
from ntkgen import studies
results = studies.double_descent.run(**{SETTINGS!r}, out_dir={str(tmp_path)!r}, say=lambda text: None)
assert dict(matplotlib.rcParams) == before and matplotlib.get_backend() == "svg"
assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
assert all(path.exists() for path in results.figures.values()) and results.figures
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout == "", done.stderr
    assert all("seeds x epochs" in line for line in done.stderr.splitlines()), done.stderr


def test_studies_are_imported_when_they_are_used():
    assert set(studies.NAMES) <= set(dir(studies)) and studies.double_descent.STUDY.name == "double_descent"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = studies.nothing
    for name in studies.NAMES:
        assert getattr(studies, name).STUDY.name == name
