"""The joint study: its grid, its analysis on made-up networks, and a whole tiny run."""

import itertools

import numpy as np
import pytest

from ntkgen import ensemble, measure, studies
from ntkgen.studies.mechanisms import _analysis, _config, _report
from ntkgen.studies.mechanisms._config import Arm

TINY = dict(
    preset="quick", num_train=60, widths=(4, 8), batch_sizes=(10, 30), rates=(0.05,), label_noise=(0.0,), num_seeds=1,
    epochs=30, stop_loss=1.5, measures=("fit", "norms", "margins"), calibrations=4,
)  # fmt: skip


def population(effect, seed=0, link=0.0):
    """Rows of a grid of 48 arms, two replicates; `effect` of label noise on the gap, `link` of the measure on it."""
    rng = np.random.default_rng(seed)
    rows = []
    grid = itertools.product((32, 250), (0.01, 0.05), (32, 128), (2, 4), ("sgd",), (0.0,), (0.0, 0.2, 0.9))
    for arm in map(Arm._make, grid):
        own = rng.normal()
        for replicate in range(2):
            gap = 10 + effect * arm.label_noise + link * own + 0.1 * rng.normal()
            row = {**arm._asdict(), "replicate": replicate, "seed": replicate, "epochs": 5, "reached": 1, "diverged": 0}
            rows.append(row | {"gap": gap, "eigenvalue": 10.0**own, "distance": rng.normal()})
    return rows


def test_the_grid_leaves_adam_without_weight_decay():
    arms = _config.resolve("small", {"dataset": "mnist"}).arms
    assert len(arms) == len(set(arms)) == len(set(map(str, arms))) == 144
    assert not [arm for arm in arms if arm.optimizer == "adam" and arm.weight_decay]
    assert len(arms) * 2 >= 240  # networks, with two replicates


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"measures": ("norms",)}, "measures: expected fit among them"),
        ({"measures": ("sharpnes",)}, "measures: expected a comma-separated list of fit"),
        ({"widths": (4,), "batch_sizes": (10,)}, "widths: expected a grid of at least 4 arms, got 1"),
        ({"batch_sizes": (10, 61)}, "batch_size: expected at most the 60 training examples, got 61"),
        ({"label_noise": (0.0, 1.0)}, "label_noise: expected distinct numbers with commas between"),
        ({"model": "cnn", "depths": (2, 3)}, "depths: expected no such setting with --model=cnn"),
    ],
)
def test_what_it_refuses(tmp_path, given, words):
    with pytest.raises(ValueError, match="^" + words):
        studies.mechanisms.run(**{**TINY, **given}, out_dir=tmp_path / "out", say=lambda _: None)
    assert not (tmp_path / "out").exists()


def test_networks_that_did_not_get_there_are_left_out():
    rows = population(10)
    rows[0] |= {"reached": 0}
    rows[3] |= {"diverged": 1}
    rows[5] |= {"eigenvalue": float("inf")}
    measured = _analysis.Measured([{name: str(cell) for name, cell in row.items()} for row in rows])
    assert measured.shape == (48, 2, 1)
    assert np.isnan(measured.columns["gap"]).sum() == 2 and np.isnan(measured.columns["eigenvalue"]).sum() == 3
    assert set(measured.measures) == {"eigenvalue", "distance"}
    assert measured.plan.names == ("batch_size", "rate", "width", "depth", "label_noise")


def test_a_link_within_settings_is_found_and_the_rest_is_not():
    rows = _analysis.associations(_analysis.Measured(population(50, link=2.0)))
    by = {(row["measure"], row["kind"]): row for row in rows}
    for kind in (_analysis.PSI, _analysis.PARTIAL):
        assert str(_report.decide(by["eigenvalue", kind], +1)) == "seen"
        assert _report.decide(by["eigenvalue", kind], -1).word == "not seen"
        assert _report.decide(by["distance", kind], +1).word == "undecided"
    assert {f"overall, label noise {noise}" for noise in ("0", "0.2", "0.9")} < {row["kind"] for row in rows}


def test_tests_hold_their_level_and_find_what_is_planted():
    rows = _analysis.calibrate(_analysis.Measured(population(50)), 40)
    null = {row["kind"]: row for row in rows if row["planted"] == 0}
    assert {*_analysis.CALIBRATED, "width", "label_noise"} <= set(null)
    assert all(row["low"] <= 0.05 and row["holds"] for row in null.values())
    strong = {row["kind"]: row["rate"] for row in rows if row["planted"] == 0.7}
    assert strong[_analysis.OVERALL] > 0.8 and strong[_analysis.PSI] > 0.5


def test_effects_are_those_that_were_put_in():
    measured = _analysis.Measured(population(50))
    rows = {(row["column"], row["hyperparameter"], row["to"]): row for row in _analysis.effects(measured)}
    assert rows["gap", "label_noise", 0.2]["effect"] == pytest.approx(10, abs=0.5)
    assert rows["gap", "label_noise", 0.9]["adjusted"] < 0.01
    assert rows["gap", "width", 128]["low"] < 0 < rows["gap", "width", 128]["high"]
    assert rows["eigenvalue", "width", 128]["scale"] == "log10"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    said = []
    out = tmp_path_factory.mktemp("joint")
    return out, studies.mechanisms.run(**TINY, out_dir=out, say=said.append), "\n".join(said)


def test_a_run_answers(whole):
    _, found, said = whole
    networks = found.tables["networks"].to_rows()
    assert len(networks) == 8 and {row["reached"] for row in networks} == {1}
    assert {row["replicate"] for row in networks} == {0, 1}
    assert all(float(row["train_loss"]) <= 1.5 for row in networks)
    assert {row["column"] for row in found.tables["rescaling"]} >= {"gap", "log_path_norm", "margin_tenth"}
    moved = {r["column"]: float(r["change"]) for r in found.tables["rescaling"] if r["change"]}
    assert moved["log_path_norm"] < 1e-3 and moved["margin_tenth"] < 1e-3 and moved["log_param_norm"] > 0.01
    assert "8 networks, 8 reached the loss" in said and found.verdict["num_networks"] == 8
    claims = {row["claim"].removesuffix(" goes with the gap as claimed, all else fixed"): row["control"]
              for row in found.verdict["measures"]}  # fmt: skip
    assert all(control.startswith("beyond what the settings say: ") for control in claims.values())
    assert "layers do not change it" in claims["path norm"] and "layers change it" in claims["log_param_norm"]
    assert sorted(found.figures) == ["answer", "calibration"] and all(p.exists() for p in found.figures.values())


def test_a_measure_that_is_added_later_trains_nothing(whole, monkeypatch):
    out, found, _ = whole
    trained, taken = [], []
    epoch, take = ensemble.programs.train_epoch, measure.take

    def noted(each, *given, **more):
        taken.append(each.name)
        return take(each, *given, **more)

    monkeypatch.setattr(ensemble.programs, "train_epoch", lambda *given: trained.append(1) or epoch(*given))
    monkeypatch.setattr(measure, "take", noted)
    given = {**TINY, "measures": ("fit", "norms", "margins", "capacity")}
    more = studies.mechanisms.run(**given, out_dir=out, say=lambda _: None)
    assert not trained and taken[:8] == ["capacity"] * 8  # then the rescaled networks, which are this run's own
    assert "log10_params" in more.tables["networks"][0] and more.folder != found.folder
    for old, new in zip(found.tables["networks"], more.tables["networks"], strict=True):
        assert {name: new[name] for name in old} == old
