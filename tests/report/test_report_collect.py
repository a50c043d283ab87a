"""What a results folder holds, and what is said of one that holds nothing, or half."""

import json

import pytest
import results_folder

from ntkgen import plotting, records, report
from ntkgen.report import _verdicts


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return results_folder.write_results(tmp_path_factory.mktemp("whole") / "results")


@pytest.fixture(scope="module")
def contents(folder):
    return report.collect(folder)


def test_runs_come_study_by_study_the_newest_first(contents):
    assert [run.name for run in contents.runs] == [
        "double_descent/mnist-a", "double_descent/digits-old", "loss_landscape/mnist-c", "my_own_study/digits-d",
        "reproduce/quick-e",
    ]  # fmt: skip
    assert contents.missing == ("mechanisms", "implicit_regularization", "ntk_regime", "lottery_ticket")


def test_reproduce_grades_claims_and_numbers(contents):
    assert [(claim.id, claim.decision) for claim in contents.claims] == [
        ("H1", "seen"), ("RQ3", "not seen"), ("H4", "undecided")]  # fmt: skip
    assert contents.claims[0].details == (("found", "both seen"),) and contents.claims[1].details == ()
    assert contents.published[0].setting == "double_descent mlp, width 8"
    assert [row.status for row in contents.published] == ["within", "not comparable"]
    assert contents.statements[0].tables_say == "84.72 at 128, 84.74 at 256"
    assert contents.plan.dicts() == [{"study": "double_descent", "estimated_seconds": "60", "seconds": "75.5"}]


def test_without_it_the_studies_comparisons_are_graded(tmp_path):
    contents = report.collect(results_folder.write_results(tmp_path / "results", reproduce=False))
    assert "reproduce" in contents.missing and contents.claims == ()
    assert [(row.setting, row.status) for row in contents.published] == [
        ("8", "within"), ("32", "outside"), ("128", "missing")]  # fmt: skip


def test_claims_of_every_shape_of_verdict(contents):
    first, _, landscape, *_ = contents.runs
    (peak,) = first.claims
    assert peak.decision == "test error peaks near the threshold" and peak.claim.startswith("Does test error fall")
    assert dict(peak.details)["peak"] == "size 32; rise 4.2"
    top, trace = landscape.claims
    assert (top.claim, top.effect, top.low, top.high, top.p) == ("top eigenvalue", "2.5", "1.5", "4.0", "0.001")
    assert top.equivalence_p == "0.9"
    assert top.decision.startswith("seen, 2.5") and "paired t-test" in top.test
    assert trace.decision == "undecided (one seed)" and trace.effect == ""
    assert landscape.facts == (("comparable", "yes"),)


def test_an_entry_around_decisions_is_a_fact():
    inner = {"claim": "a peak", "decision": "seen", "rise": 4.2, "control": "highest there: seen"}
    around = {"verdict": "a peak", "threshold": {"params": 9}, "peak": inner}
    (claim,) = _verdicts.claims([around], "run", "?")
    assert (claim.claim, claim.effect, claim.control) == ("a peak", "4.2", "highest there: seen")
    assert _verdicts.facts([around]) == (("threshold", "params 9"),)
    assert _verdicts.facts([around, around]) == (("threshold, 1", "params 9"), ("threshold, 2", "params 9"))
    assert _verdicts.facts([{"verdict": "undecided", "threshold": 1}]) == ()  # a claim of its own, with details


@pytest.mark.parametrize(
    ("verdict", "decisions"),
    [
        ({"H1": [{"relation": "a", "verdict": "seen", "difference": 1.0}]}, ["seen"]),
        ([{"question": "b", "decision": "not seen (the opposite is)"}], ["not seen (the opposite is)"]),
        (
            {
                "worth": [
                    {
                        "keep_percent": 10,
                        "forms": [{"first": "a", "second": "b", "verdict": "seen"}],
                        "verdict": "the mask is worth more",
                    }
                ]
            },
            ["the mask is worth more", "seen"],
        ),
        ({"num": 3, "list": ["a", "b"]}, []),
        (None, []),
        ("words", []),
    ],
)
def test_other_verdicts(tmp_path, verdict, decisions):
    results_folder.write_run(tmp_path, "study", "digits-a", verdict=verdict)
    (run,) = report.collect(tmp_path).runs
    assert [claim.decision for claim in run.claims] == decisions


def test_a_claim_says_of_what_it_is_made(tmp_path):
    claim = {"question": "movement falls", "loss": "mse", "at": "end", "largest": 64, "decision": "seen"}
    other = {"first": "ticket", "second": "whole", "verdict": "undecided: one seed"}
    results_folder.write_run(tmp_path, "study", "digits-a", verdict={"movement": [claim], "levels": [other]})
    (run,) = report.collect(tmp_path).runs
    assert [found.claim for found in run.claims] == [
        "movement falls (mse, at end, largest 64)", "levels: ticket against whole"]  # fmt: skip


def test_the_command_is_what_was_typed(contents, folder):
    exact, other, *_ = contents.runs
    assert exact.exact and exact.command == (
        f"ntkgen double_descent --preset=quick --epochs=80 --widths=8,16,32 --format=png,svg,pdf --out_dir={folder}"
    )
    assert not other.exact and "--num_train=10000" in other.command and "numerics" not in other.command


def test_figures_have_the_titles_in_their_files(contents, tmp_path):
    (figure,) = contents.runs[0].figures
    assert figure.title == "double_descent <σ & α>, 3 seeds" and list(figure.files) == ["png", "svg", "pdf"]
    run = results_folder.write_run(tmp_path, "study", "digits-a", formats=("svg",))
    assert report.collect(tmp_path).runs[0].figures[0].title == "study <σ & α>, 3 seeds"
    (run / "model_wise.svg").rename(run / "model_wise.png")  # no PNG
    assert report.collect(tmp_path).runs[0].figures[0].title == ""


def test_quality_is_read_from_the_columns_that_say_so(contents):
    found = {row.column: row.found for row in contents.runs[0].quality if row.table == "runs"}
    assert found == {"residual": "median 0.025, largest 0.05", "converged": "5000 of 5000 are converged"}


def test_settings_stand_beside_the_published_ones(contents):
    rows = {row.name: row for row in contents.runs[0].settings}
    assert rows["lr"].same is False and rows["lr"].published == "0.01" and rows["lr"].note
    assert rows["epochs"].same and rows["num_train"].same and rows["momentum"].same
    assert contents.runs[3].settings == ()  # a study that the paper has not


def test_gaps_say_what_is_missing_or_damaged(tmp_path):
    whole = {"summary": results_folder.SUMMARY, "tests": results_folder.SUMMARY, "comparison": results_folder.SUMMARY}
    run = results_folder.write_run(tmp_path, "study", "digits-a", tables=whole, verdict={})
    (run / "summary.csv").write_text("a,b\n1\n")
    (run / "tests.csv").unlink()
    (run / "comparison.csv").write_bytes(b"\xff\xfe\x00")
    (run / "verdict.json").write_text("{")
    results_folder.write_run(tmp_path, "study", "digits-b", formats=(), finished=False)
    first, second = sorted(report.collect(tmp_path).runs, key=lambda run: run.name)
    assert len(first.gaps) == 7
    for words in (
        "summary.csv is damaged",
        "tests.csv is missing",
        "comparison.csv cannot be read",
        "verdict.json is d",
    ):
        assert any(gap.startswith(words) for gap in first.gaps), words
    assert len(second.gaps) == 2 and "not finished" in second.gaps[0] and "no figures" in second.gaps[1]
    assert first.table("summary") is None and first.tables == ()


def test_mixed_versions_are_said(tmp_path, contents):
    assert contents.mixed == ()
    results_folder.write_run(tmp_path, "study", "digits-a")
    versions = {**results_folder.VERSIONS, "jax": "0.11.0"}
    results_folder.write_run(tmp_path, "study", "digits-b", versions=versions, commit=None)
    found = report.collect(tmp_path).mixed
    assert found == ("commit: cccccccccccc (1 run), unknown (1 run)", "jax: 0.10.2 (1 run), 0.11.0 (1 run)")


def test_the_store_of_networks_is_no_study(contents):
    assert "networks" not in contents.studies()


BAD = {
    "there is none": (lambda path: None, "does not exist"),
    "a file": (lambda path: path.write_text("x"), "is a file"),
    "empty": (lambda path: path.mkdir(), "is empty"),
    "no runs": (lambda path: (path / "study" / "run").mkdir(parents=True), "is no results folder"),
    "only the store": (lambda path: (path / "networks" / "a").mkdir(parents=True), "is no results folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_folders_are_refused(tmp_path, case):
    make, words = BAD[case]
    make(tmp_path / "results")
    with pytest.raises(report.ReportError, match=words) as caught:
        report.collect(tmp_path / "results")
    assert "\n" not in str(caught.value)


def test_a_run_folder_is_refused(folder):
    with pytest.raises(report.ReportError, match="is a single run"):
        report.collect(folder / "double_descent" / "mnist-a")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"study": 1}', b'{"study": "a", "dataset": "b"}'])
def test_a_damaged_config_is_named(tmp_path, content):
    run = results_folder.write_run(tmp_path, "study", "digits-a")
    (run / "config.json").write_bytes(content)
    with pytest.raises(report.ReportError, match=r"config\.json is damaged"):
        report.collect(tmp_path)


def test_csv_has_a_table_for_every_part(contents, tmp_path):
    files = report.csv(contents, tmp_path / "csv")
    assert [path.stem for path in files] == [
        "claims", "published", "statements", "runs", "figures", "protocol", "quality", "gaps"]  # fmt: skip
    rows = records.read_table(tmp_path / "csv" / "claims.csv")
    assert [row["id"] for row in rows[:3]] == ["H1", "RQ3", "H4"] and len(rows) == 3 + 2 + 2
    assert len(records.read_table(tmp_path / "csv" / "runs.csv")) == 5


def test_reports_in_the_folder_are_no_runs(tmp_path):
    results_folder.write_run(tmp_path, "study", "digits-a")
    before = report.collect(tmp_path)
    report.html(before, tmp_path / "report.html")
    report.latex(before, tmp_path / "report_latex")
    report.csv(before, tmp_path / "report_csv")
    assert report.collect(tmp_path) == before


def test_what_a_study_writes_is_read(tmp_path):
    """The run folder as `records` makes it, with the command that began it."""
    command = {"preset": "small", "given": {"lr": 0.1, "tune": False}}
    with records.open_run(tmp_path, "double_descent", "digits", {"lr": 0.1}, command=command) as run:
        run.write_table("summary.csv", results_folder.SUMMARY)
        for name in ("a.png", "a_column.png", "b_double.png"):
            plotting.save(results_folder.figure("a title"), run.folder / name)
        run.write_json("verdict.json", [])
        run.finish()
    (found,) = report.collect(tmp_path).runs
    assert found.finished and found.gaps == ()
    assert [figure.name for figure in found.figures] == ["a", "b_double"]  # a is shown once, as for a screen
    assert found.command == f"ntkgen double_descent --preset=small --lr=0.1 --tune=false --out_dir={tmp_path}"
    assert json.loads((run.folder / "config.json").read_text())["command"] == command
