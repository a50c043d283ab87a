"""The loss-landscape study as a user runs it, its statistics and figures, and the curvature benchmark."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import reference_curvature as oracle

from ntkgen import data, ensemble, models, plotting, records, train, tree
from ntkgen.plotting import Curve
from ntkgen.studies import loss_landscape
from ntkgen.studies.loss_landscape import _tables
from ntkgen.studies.loss_landscape._config import ARMS
from ntkgen.studies.loss_landscape._verdict import judge

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "experiments" / "loss_landscape.py"
BENCH = ROOT / "experiments" / "benchmarks" / "curvature.py"
QUESTIONS, MATCHED = _tables.QUESTIONS, _tables.MATCHED
EPOCHS, BATCHES, RATES = 60, (32, 100), (0.05, 0.1)
TINY = ["--preset=quick", "--width=8", "--num_train=200", "--num_seeds=2", f"--epochs={EPOCHS}", "--line_points=5",
        "--plane_points=3", "--hessian_samples=100", "--large_batch=100", f"--small_lr={RATES[0]}",
        f"--large_lr={RATES[1]}", "--matched_loss=1.0,1.5"]  # fmt: skip


def test_refitted_statistics_are_those_of_the_batch():
    model = models.CNN(1)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(30, 8, 8, 3)), jnp.float32)
    variables = jax.jit(lambda key: models.init(model, key, (8, 8, 3)))(jax.random.key(0))
    refit = jax.jit(lambda variables: models.refit_statistics(model, variables, x, len(x)))
    found = refit(variables)["batch_stats"]["norm0_0"]
    layer = variables["params"]["conv0_0"]
    y = jax.lax.conv_general_dilated(x, layer["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    y = np.asarray(y) + np.asarray(layer["bias"])
    np.testing.assert_allclose(found["mean"], y.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found["var"], y.reshape(-1, 1).var(0, ddof=1), rtol=1e-4)
    other = jax.tree.map(lambda leaf: leaf + 3, {"batch_stats": variables["batch_stats"]})
    again = refit({"params": variables["params"], **other})["batch_stats"]["norm0_0"]
    np.testing.assert_allclose(again["mean"], found["mean"], atol=1e-5)  # whatever they were before


# --- Statistics


def runs(small, large, **changes):
    """Rows of runs.csv in which every measure of curvature is the given one, accuracies equal to rounding."""
    rows = []
    for arm, values, batch in zip(ARMS, (small, large), (32, 1024), strict=True):
        for seed, value in enumerate(values):
            columns = [question.column for question in QUESTIONS]
            row = {**dict.fromkeys(columns, value), "arm": arm, "batch_size": batch, "learning_rate": 0.1, "seed": seed}
            row |= {"train_loss": 0.01, "train_acc": 100.0, "test_loss": 0.1, "gap": 5.0, "steps": 10, "diverged": 0}
            row |= {"interpolates": 1, "inverse_temperature": 0.5, "test_acc": 95 + 0.01 * seed + 0.001 * batch / 1024}
            row |= {column.replace("_value", "_converged"): 1.0 for column in columns if column.endswith("_value")}
            rows.append({**row, **changes.get(f"{arm}{seed}", {})})
    return rows


def at_losses(small, large, losses=(0.1, 0.03, 0.01)):
    """Rows of matched.csv: at each loss the values of a side, or its values there."""
    rows = []
    for arm, values in zip(ARMS, (small, large), strict=True):
        for i, loss in enumerate(losses):
            for seed, value in enumerate(values[i] if np.ndim(values) == 2 else values):
                row = {"arm": arm, "seed": seed, "target": loss, "inverse_temperature": 0.5, "top_converged": 1.0}
                rows.append(row | {"top_value": value, "adaptive_worst": value, "adaptive_average": value})
    return rows


def answers(rows, matched=None):
    found = _tables.compare_arms(rows, PERTURBATION)
    if matched is None:
        matched = at_losses(*([row["top_value"] for row in rows if row["arm"] == arm] for arm in ARMS))
    return judge(rows, found, _tables.compare_at_equal_loss(matched)[0]), found


PERTURBATION = [
    {"kind": kind, "arm": arm, "seed": seed, "sigma": sigma, "draw": 0, "baseline": 0.01,
     "train_loss": 0.01 + sigma * (2 if arm == "large_batch" else 1) * (1 + 0.01 * seed)}
    for kind in ("absolute", "filter_relative") for arm in ARMS for seed in range(5) for sigma in (0.1, 0.2)
]  # fmt: skip


def test_a_large_difference_is_seen_and_equal_accuracies_are_equivalent():
    rng = np.random.default_rng(0)
    small, noise = rng.lognormal(0, 0.1, 5), rng.lognormal(0, 0.05, 5)
    verdict, _ = answers(runs(small, 5 * small * noise))
    raw = verdict["answers"]["raw"]
    assert raw["answer"] == "seen" and abs(raw["difference"] - 5 * np.exp(np.log(noise).mean())) < 1e-9
    assert raw["low"] < 5 < raw["high"] and raw["paired_adjusted"] < 0.05
    accuracy = verdict["answers"]["accuracy"]  # tiny, and yet the same in every pair
    assert accuracy["answer"] == "seen" and "but equivalent within 0.5" in accuracy["words"]
    assert verdict["perturbation"] == {"sigmas": 2, "large_more_sensitive": 2, "small_more_sensitive": 0}
    assert verdict["comparable"] and "larger for the large batch" in verdict["verdict"]


def test_no_difference_needs_an_equivalence_test():
    small = np.array([1.0, 1.3, 0.8, 1.1, 0.9])
    close, _ = answers(runs(small, small * np.array([1.01, 0.98, 1.02, 0.99, 1.0])))
    assert close["answers"]["raw"]["answer"] == close["answers"]["matched"]["answer"] == "not seen"
    assert close["answers"]["matched"]["margin"] == close["answers"]["raw"]["margin"] == pytest.approx(10**0.1)
    wide, _ = answers(runs(small, small * np.array([2.0, 0.5, 1.5, 0.7, 1.0])))
    raw = wide["answers"]["raw"]
    assert raw["answer"] == "undecided" and raw["detectable"] > _tables.FACTOR


def test_equal_loss_is_answered_from_all_losses():
    """Twice as sharp at two losses and equal at a third is no answer, nor is a single loss."""
    rng = np.random.default_rng(0)
    small = rng.lognormal(0, 0.05, 5)
    twice, equal = 2 * small * rng.lognormal(0, 0.01, 5), small * rng.lognormal(0, 0.01, 5)
    rows = runs(small, twice)
    seen = answers(rows, at_losses(small, twice))[0]["answers"]["matched"]
    assert seen["answer"] == "seen" and seen["words"].endswith("(larger for the large batch at every loss)")
    mixed = answers(rows, at_losses(small, np.stack([twice, twice, equal])))[0]["answers"]["matched"]
    assert mixed["answer"] == "undecided" and mixed["lowest"] == pytest.approx(1, abs=0.02)
    assert mixed["words"].startswith("undecided, ratios ") and mixed["highest"] == pytest.approx(2, abs=0.02)
    lone = answers(rows, at_losses(small, twice, (0.1,)))[0]["answers"]["matched"]
    assert lone["words"].startswith("undecided (1 of 1 losses reached by every seed of both; needs two")
    points = _tables.compare_at_equal_loss(at_losses(small, twice))[1]
    assert [row["target"] for row in points if row["question"] == "matched"] == [0.1, 0.03, 0.01]


def test_lost_networks_are_counted_and_named():
    small = np.array([1.0, 1.3, 0.8])
    rows = runs(small, 3 * small, large_batch0={"top_converged": 0.0, "power_converged": 0.0}, large_batch1={
        "diverged": 1}, small_batch2={"interpolates": 0})  # fmt: skip
    verdict, found = answers(rows)
    raw, again = verdict["answers"]["raw"], verdict["answers"]["matched"]
    assert raw.pop("control") == f"top eigenvalue at equal loss: {again['words']}"
    assert raw == {
        "about": "top eigenvalue", "unit": "ratio large / small", "answer": "undecided",
        "words": "undecided (1 pairs; a test needs two)",
    }  # fmt: skip
    assert all(found["control"] for found in verdict["answers"].values() if found is not raw)
    assert verdict["answers"]["accuracy"]["control"].startswith("none: ")
    assert verdict["answers"]["power_iteration"]["words"].endswith("1 of 6 networks not converged")
    assert verdict["below_interpolation"] == {"small_batch": 1, "large_batch": 0} and not verdict["comparable"]
    summary = _tables.summarise(rows, at_losses(small, 3 * small))
    assert summary[1]["top_value_at_0.03_mean"] == pytest.approx(3 * small.mean())
    assert [row["num_diverged"] for row in summary] == [0, 1]
    assert [row["num_top_converged"] for row in summary] == [3, 2]
    assert summary[1]["top_value_mean"] == pytest.approx(3 * small[2])
    json.dumps(verdict, allow_nan=False)
    assert len(found.rows) == len(QUESTIONS) + 4


def test_published_values_stand_only_beside_the_same_protocol():
    rows = runs(np.array([0.2, 0.21, 0.19]), np.array([2.0, 2.3, 2.1]))
    found = _tables.compare_arms(rows, PERTURBATION)
    beside = {(r["setting"], r["metric"]): r for r in _tables.beside_published(rows, found, True)}
    assert beside[32, "top_eigenvalue"]["published"] == 0.19 and beside[1024, "test_acc"]["published"] == 84.17
    ratio = beside[1024, "eigenvalue_ratio"]
    assert ratio["published"] == 11.8 and 10 < ratio["ours"] < 11 and ratio["low"] < ratio["ours"] < ratio["high"]
    alone = _tables.beside_published(rows, found, False)
    assert [r["published"] for r in alone] == [None] * 5
    assert {(r["setting"], r["metric"]): r["ours"] for r in alone} == {k: r["ours"] for k, r in beside.items()}


# --- Figures


def test_figures_draw_what_they_are_given():
    flat = Curve([1.0, 2.0], [1.0, 2.0], [0.5, 1.5], [2.0, 3.0])
    labels = dict(zip(ARMS, ("batch 32", "batch 1024"), strict=True))
    both = dict.fromkeys(ARMS, flat)
    one = Curve([0.0], [2.0], [np.nan], [np.nan])  # a single seed has no interval
    points = {"Lanczos": {arm: (np.array([value]), one) for arm, value in zip(ARMS, (1.0, 4.0), strict=True)}}
    figure = plotting.loss_landscape.eigenvalues(points, both, labels, "", dict.fromkeys(ARMS, 7.0))
    left, right = figure.axes
    drawn = [float(line.get_ydata()[0]) for line in left.lines if len(line.get_ydata()) == 1]
    assert {1.0, 4.0, 7.0} <= set(drawn) and left.get_yscale() == right.get_yscale() == "log"
    np.testing.assert_array_equal(right.lines[0].get_ydata(), flat.mean)
    figure = plotting.loss_landscape.perturbation({"sigma": {arm: (flat, flat) for arm in ARMS}}, labels, "")
    assert [line.get_color() for line in figure.axes[0].lines] == [
        plotting.loss_landscape.ARMS[a] for a in ARMS for _ in "ab"
    ]
    splits = {"train": (flat, flat), "test": (flat, flat)}
    figure = plotting.loss_landscape.lines(splits, dict.fromkeys(ARMS, splits), labels, "")
    assert [len(ax.lines) for ax in figure.axes] == [4, 4, 4, 4]  # two of them mark the solutions
    planes = {arm: ([-1.0, 0.0, 1.0], scale * (1 + np.arange(9.0).reshape(3, 3)))
              for arm, scale in zip(ARMS, (1.0, 100.0), strict=True)}  # fmt: skip
    planes["small_batch"][1][0, 0] = np.nan
    figure = plotting.loss_landscape.surfaces(planes, labels, "")
    first, second = (ax.collections[0] for ax in figure.axes[:2])
    assert first.norm.vmin == second.norm.vmin == 2.0 and first.norm.vmax == second.norm.vmax == 900.0
    plt.close("all")


# --- The script


@pytest.fixture(scope="module")
def call(forks, environment):
    """Run a script in a fork: call(script, *flags)."""

    def run(script, *flags, **more):
        return forks.run(script, *(["--verbose"] if script == STUDY else []), *flags, env=environment, **more)

    return run


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
    """One small run, in a process of its own: (its folder, what it printed, out_dir)."""
    out = tmp_path_factory.mktemp("out")
    command = [sys.executable, STUDY, "--verbose", *TINY, f"--out_dir={out}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (folder,) = (out / "loss_landscape").iterdir()
    return folder, done, out


def table(folder, name):
    return records.read_table(folder / f"{name}.csv")


def test_curvature_in_the_tables_is_that_of_the_dense_hessian(whole):
    """Weights from the checkpoints, second derivatives by jax.hessian, eigenvalues by LAPACK."""
    folder, *_ = whole
    dataset, model = data.load("digits", num_train=200), models.MLP(8)
    rows = {(row["arm"], int(row["seed"])): row for row in table(folder, "runs")}
    like = jax.eval_shape(lambda key: models.init(model, key, dataset.train.x.shape[1:]), jax.random.key(0))
    unravel = tree.ravel(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like["params"]))[1]

    def loss(flat, beta):
        logits = beta * model.apply({"params": unravel(flat)}, dataset.train.x[:100])
        return jnp.mean(train.cross_entropy(logits, dataset.train.y[:100]))

    hessian = oracle.jit_once(jax.hessian(loss))
    for arm, batch, rate in zip(ARMS, BATCHES, RATES, strict=True):
        config = train.Config(epochs=EPOCHS, batch_size=batch, learning_rate=rate)
        stored = records.Checkpointer(folder / "checkpoints" / arm)
        every = [EPOCHS * i // 12 for i in range(1, 13)]
        fitted = ensemble.fit(model, dataset, config, 2, checkpoint=stored, options=ensemble.Options(evaluate_at=every))
        for seed in range(2):
            row = rows[arm, seed]
            flat, _ = tree.ravel(jax.tree.map(lambda leaf, s=seed: jnp.asarray(leaf[s]), fitted.variables["params"]))
            at = {float(r["target"]): r for r in table(folder, "matched") if r["arm"] == arm and int(r["seed"]) == seed}
            assert list(at) == [1.0, 1.5]
            cases = [(row, 1.0)]
            for target, matched in at.items():
                beta = float(matched["inverse_temperature"])
                logits = beta * model.apply({"params": unravel(flat)}, dataset.train.x)
                mean = float(jnp.mean(train.cross_entropy(logits, dataset.train.y)))
                assert mean == pytest.approx(target, rel=1e-4)
                cases.append((matched, beta))
            for found, factor in cases:
                values = np.linalg.eigvalsh(np.asarray(hessian(flat, factor), float))
                assert float(found["top_value"]) == pytest.approx(values[-1], rel=1e-3)
                assert float(found["top_residual"]) <= 1e-3 and float(found["top_converged"]) == 1
                if found is row:
                    pairs = [float(r["value"]) for r in table(folder, "eigenvalues")
                             if r["arm"] == arm and int(r["seed"]) == seed]  # fmt: skip
                    np.testing.assert_allclose(pairs, values[:-11:-1], rtol=2e-3)
                    assert abs(float(row["trace"]) - values.sum()) < 5 * float(row["trace_error"])


def test_lines_surfaces_and_baselines_meet_in_the_solutions(whole):
    folder, *_ = whole
    lines, final = table(folder, "lines"), {(r["arm"], r["seed"]): r for r in table(folder, "runs")}
    centre = {(r["kind"], r["arm"], r["seed"], float(r["step"])): r for r in lines}
    for seed in ("0", "1"):
        for arm, position in zip(ARMS, (0.0, 1.0), strict=True):
            here, between = centre["line", arm, seed, 0.0], centre["interpolation", "between", seed, position]
            for name in ("train_loss", "train_error", "test_loss", "test_error"):
                assert float(here[name]) == pytest.approx(float(between[name]), rel=1e-5)
            assert float(here["train_loss"]) == pytest.approx(float(final[arm, seed]["train_loss"]), rel=1e-5)
            assert float(here["test_error"]) == pytest.approx(100 - float(final[arm, seed]["test_acc"]), abs=1e-4)
    middle = [r for r in table(folder, "plane") if float(r["first"]) == float(r["step"]) == 0]
    for row in middle:
        assert row["seed"] == "0" and row["train_loss"] == centre["line", row["arm"], "0", 0.0]["train_loss"]
    assert len(middle) == 2 and len(table(folder, "plane")) == 18
    for row in table(folder, "perturbation"):
        assert float(row["baseline"]) == pytest.approx(float(final[row["arm"], row["seed"]]["train_loss"]), rel=1e-5)
    assert len(table(folder, "perturbation")) == 2 * 2 * 2 * 7 * 5


def test_what_is_printed_says_how_it_was_measured(whole):
    folder, done, _ = whole
    assert "Hessians on 100 and on 200 training examples, all there are; fewer than 4,096" in done.stdout
    assert (
        "published ratio of top eigenvalues: 11.8 (one model of each; a CNN on CIFAR-10: another network" in done.stdout
    )
    assert {path.stem for path in folder.glob("*.png")} == {"spectrum", "perturbation", "lines", "surfaces"}
    assert all(row["published"] == "" for row in table(folder, "comparison"))
    verdict = json.loads((folder / "verdict.json").read_text())
    assert set(verdict["answers"]) == {question.name for question in (*QUESTIONS, *MATCHED)}
    assert all(a["answer"] in ("seen", "not seen", "undecided") for a in verdict["answers"].values())


def test_a_killed_run_measures_only_what_was_missing_and_ends_the_same(whole, call, tmp_path):
    folder, done, out = whole
    shutil.copytree(out, tmp_path / "out", symlinks=True)
    copy = tmp_path / "out" / folder.relative_to(out)
    for path in [*copy.glob("*.csv"), *copy.glob("*.png"), copy / "verdict.json", copy / "finished.json"]:
        path.unlink()
    parts = copy / "parts"
    assert len(list(parts.iterdir())) == 2 * 5 + 2
    (parts / "large_batch_seeds_1_1_curvature.json").write_text("{}")
    (parts / "between_seeds_0_0.json").unlink()
    again = call(STUDY, *TINY, f"--out_dir={tmp_path / 'out'}")
    assert again.returncode == 0, again.stderr
    measured = [line.split(", ")[0] for line in again.stderr.splitlines() if line.startswith("measured")]
    assert measured == ["measured between seeds 0 0", "measured large batch seeds 1 1 curvature"]
    assert "large_batch_seeds_1_1_curvature.json is damaged" in again.stderr
    assert (parts / "damaged-large_batch_seeds_1_1_curvature.json").read_text() == "{}"
    for path in folder.iterdir():
        if path.is_file() and path.name != ".lock":
            assert path.read_bytes() == (copy / path.name).read_bytes(), path.name
    assert again.stdout.replace(str(tmp_path / "out"), str(out)) == done.stdout


def test_a_study_that_diverges_ends_with_tables_and_figures_that_say_so(call, tmp_path):
    flags = ["--small_lr=1e30", "--large_lr=1e30", "--epochs=2", "--num_seeds=1", f"--out_dir={tmp_path}"]
    done = call(STUDY, *TINY, *flags)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    (folder,) = (tmp_path / "loss_landscape").iterdir()
    assert {row["diverged"] for row in table(folder, "runs")} == {"1"} and "all lost" in done.stdout
    assert {path.stem for path in folder.glob("*.png")} == {"spectrum", "perturbation", "lines", "surfaces"}
    assert all(row["num_diverged"] == "1" for row in table(folder, "summary"))


REFUSED = [
    ("--channels=4", "--channels", "expected no such setting with --model=mlp"),
    ("--model=cnn --width=4", "--width", "expected no such setting with --model=cnn"),
    ("--small_batch=33", "--small_batch", "or --small_lr too", "got 33"),
    ("--small_batch=512 --large_batch=256", "--large_batch", "expected more than", "got 256"),
    ("--large_batch=2048", "--large_batch", "at most the 1297 training examples", "got 2048"),
    ("--line_points=11", "--line_points", "expected 5, 9, 13", "got 11"),
    ("--plane_points=1000000001", "plane_points", "a whole number from 1 to 10000"),
    ("--width=1000000000", "--width: ", "the device has"),
    ("--plane_points=1", "--plane_points", "odd number", "got 1"),
    ("--matched_loss=0", "matched_loss", "a positive number", "0"),
    ("--hessian_samples=0", "hessian_samples", "a whole number from 1", "0"),
    ("--num_train=5000", "num_train", "at most 1297", "5000"),
    ("--dataset=mnist", "--dataset: expected embedded data", "--preset=quick", "got mnist"),
]


def test_bad_input_ends_in_one_line(call, tmp_path):
    for flags, *words in REFUSED:
        done = call(STUDY, "--preset=quick", f"--out_dir={tmp_path / 'out'}", *flags.split(), cwd=tmp_path)
        err = done.stderr
        assert (done.returncode, done.stdout, err.count("\n")) == (2, "", 1) and err.startswith("error: "), (flags, err)
        for word in words:
            assert word in err, (flags, err)
    assert not list(tmp_path.iterdir())


# --- From Python


@pytest.mark.slow
def test_the_study_runs_from_python_and_trains_each_network_once(tmp_path, monkeypatch, capsys):
    saved = []
    save = records.Checkpointer.save
    monkeypatch.setattr(
        records.Checkpointer, "save", lambda self, *args, **more: saved.append(self.folder) or save(self, *args, **more)
    )
    settings = dict(width=4, num_train=100, num_seeds=1, epochs=2, small_batch=32, large_batch=64, large_lr=0.01)
    settings |= dict(hessian_samples=20, many_samples=30, matched_loss=(2.0,), plane_points=3, out_dir=tmp_path)

    def run(**more):
        found = loss_landscape.run(preset="quick", say=lambda text: None, **settings, **more)
        return found, len(saved), capsys.readouterr().err

    first, trained, said = run(line_points=5)
    assert trained >= 2 and "measured small batch surface" in said
    assert {*loss_landscape.STUDY.tables, "summary", "tests", "equal_loss", "comparison"} <= set(first.tables)
    assert set(first.figures) == {"spectrum", "perturbation", "lines", "surfaces"}
    assert all(path.stat().st_size for path in first.figures.values())
    again, count, said = run(line_points=5)
    assert count == trained and "measured" not in said and "is finished" in said
    assert again.folder == first.folder and again.verdict == first.verdict
    assert str(again.tables) == str(first.tables)  # as text, because NaN differs from NaN
    other, count, said = run(line_points=9)  # another study of the same networks
    assert count == trained and "measured small batch surface" in said and other.folder != first.folder
    assert len(other.tables["lines"]) == 9 / 5 * len(first.tables["lines"])
    for mine, theirs in zip(other.tables["runs"], first.tables["runs"], strict=True):
        assert mine["train_loss"] == theirs["train_loss"] and mine["top_value"] == theirs["top_value"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"small_batch": 33}, "^small_batch: expected one of the table's .*, or --small_lr too, got 33$"),
        ({"lr": 0.1}, "^lr: expected a setting of this study"),
        ({"matched_loss": (0.1, 0.1)}, "^matched_loss: expected distinct numbers"),
    ],
)
def test_mistakes_from_python_name_the_setting_and_write_nothing(given, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        loss_landscape.run(preset="quick", out_dir=tmp_path / "out", **given)
    assert not list(tmp_path.iterdir())


# --- The benchmark


def test_weights_carried_to_torch_give_the_same_outputs(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.syspath_prepend(BENCH.parent)
    import curvature_torch

    model, x = models.CNN(2), np.random.default_rng(0).normal(size=(5, 16, 8, 3)).astype(np.float32)
    variables = jax.jit(lambda key: models.init(model, key, x.shape[1:]))(jax.random.key(0))
    variables = {**variables, **jax.jit(lambda v: models.refit_statistics(model, v, x, len(x)))(variables)}
    leaves = {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(variables)}
    np.savez(tmp_path / "arrays.npz", x=x, y=np.arange(5), **leaves)
    case = curvature_torch.Case("cpu", "cnn", 2, str(tmp_path / "arrays.npz"), 1e-3, 10, 2, list(x.shape[1:]))
    with torch.no_grad():
        theirs = case.net(case.x).numpy()
    ours = jax.jit(models.apply_fn(model, variables))(variables["params"], x)
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


@pytest.mark.slow
def test_the_benchmark_measures_the_same_eigenvalue_on_both_sides(call, tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "bench.csv"
    flags = ["--cases=mlp8", "--samples=40", "--repeats=1", "--solves=1", "--epochs=1", "--pairs=2", f"--out={out}"]
    done = call(BENCH, *flags)
    assert done.returncode == 0, done.stderr
    rows = {(row["library"], row["what"]): row for row in records.read_table(out)}
    ours = [rows["ntkgen", what] for what in ("top, Lanczos", "top, power", "top 2, Lanczos")]
    theirs = next(row for (library, what), row in rows.items() if library != "ntkgen" and what == "top, power")
    for row in [*ours, theirs]:
        assert float(row["residual"]) <= 1.5e-3 and float(row["error"]) < 1e-4, row
    assert int(ours[0]["matvecs"]) < int(ours[1]["matvecs"]) and "random images" in done.stdout
    assert "target at least 1.5" in done.stdout and "target at most 0.5" in done.stdout


@pytest.mark.parametrize(
    ("flags", "words"),
    [("--cases=mlp", "--cases=mlp: expected mlp<width>"), ("--out=/proc/x.csv", "out: cannot write")],
)
def test_the_benchmark_refuses_bad_input(call, flags, words):
    done = call(BENCH, flags)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
