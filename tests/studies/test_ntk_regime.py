"""The tangent-kernel study: its tables from made-up runs, and the script as a user runs it."""

import dataclasses
import functools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ntkgen import data, ensemble, kernels, paper, plotting, records, stats, studies, train
from ntkgen.studies import tables, tuning
from ntkgen.studies.ntk_regime import (
    _claims,
    _config,
    _figures,
    _kernels,
    _materials,
    _paths,
    _probes,
    _report,
    _tables,
    _tuning,
    _verdict,
)
from ntkgen.studies.ntk_regime._config import LIMITS, LOSSES, WidthSeries

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "experiments" / "ntk_regime.py"

MAIN = WidthSeries("cross_entropy", "fixed")
LAZY = WidthSeries("mse", "fixed")
WIDTHS = (32, 64, 128, 256)


# Tables


def path_of(losses, start=1):
    """Snapshots whose movement is 1 / loss and whose drift is its square; the start first."""
    rows = [{"epoch": 0, "train_loss": None, "drift": 0.0, "absolute_movement": 0.0}]
    rows += [{"epoch": start + i, "train_loss": v, "drift": v**-2, "absolute_movement": 1 / v}
             for i, v in enumerate(losses)]  # fmt: skip
    for row in rows:
        row |= {"relative_movement": row["absolute_movement"] / 5, "misalignment": row["drift"] / 7}
    return rows


def test_matching_the_loss_interpolates_power_laws_exactly():
    found = _paths.matched(path_of([2.0, 1.0, 0.4, 0.5]), 0.6)
    assert found["matched_absolute_movement"] == pytest.approx(1 / 0.6)
    assert found["matched_drift"] == pytest.approx(0.6**-2)
    assert found["matched_misalignment"] == pytest.approx(0.6**-2 / 7)
    assert 2 < found["matched_epoch"] < 3
    assert _paths.matched(path_of([2.0, 0.6]), 0.6)["matched_epoch"] == pytest.approx(2)


def test_kernels_with_fewer_snapshots_are_matched_between_their_own():
    rows = path_of([4.0, 2.0, 1.0, 0.4])
    for row in (rows[2], rows[3]):
        row["drift"] = row["misalignment"] = None
    found = _paths.matched(rows, 0.6)
    assert found["matched_absolute_movement"] == pytest.approx(1 / 0.6)
    assert found["matched_drift"] == pytest.approx(0.6**-2)  # a power law, so that it may be taken from further away
    rows[1]["drift"] = None
    assert _paths.matched(rows, 0.6)["matched_drift"] is None  # reached at its first snapshot: not known before


@pytest.mark.parametrize("losses", [[2.0, 1.0, 0.7], [0.5, 0.4, 0.3], [2.0, None, None]])
def test_a_loss_that_is_never_reached_or_was_at_once_is_marked(losses):
    rows = path_of([2.0 if v is None else v for v in losses])
    for row, loss in zip(rows[1:], losses, strict=True):
        row["train_loss"] = loss
    assert set(_paths.matched(rows, 0.6).values()) == {None}


def made_up(absolute, drift, num_seeds=5, noise=0.002, series=MAIN):
    """Rows of runs.csv with given exponents of absolute movement and drift, the norm like sqrt(width)."""
    rng = np.random.default_rng(0)
    rows = []
    for width in WIDTHS:
        for seed in range(num_seeds):
            moved, norm = 5 * width**absolute * np.exp(noise * rng.normal()), width**0.5
            row = {**series._asdict(), "width": str(width), "seed": str(seed), "diverged": "0", "norm_initial": norm}
            row |= {"absolute_movement": moved, "relative_movement": moved / norm, "misalignment": width**-1.0,
                    "drift": 0.5 * width**drift * np.exp(noise * rng.normal())}  # fmt: skip
            row |= {f"matched_{name}": row[name] for name in _paths.ALONG}
            row |= {f"{name}_dense{i}": (moved, norm)[name == "norm"] / (i + 1) for name in _tables.LAYERED
                    for i in range(2)}  # fmt: skip
            row |= {"label_alignment_initial": 0.2, "label_alignment": 0.4 + 0.01 * rng.normal()}
            row |= {"linear_test_acc": None, "test_acc": 90 + np.log2(width) + 0.1 * rng.normal()}
            row |= {"kernel_acc_network": 95.0, "kernel_acc_initial": 95.0 + 0.02 * rng.normal()}
            row |= {"kernel_acc_final": 97 + 0.1 * rng.normal()}
            rows.append(row)
    return rows


def all_tested(networks, fits, main, analytic=(), tuned=()):
    claims = _claims.exponent_claims(fits, main) | _claims.level_claims(networks, analytic)
    claims |= _claims.main_claims(networks, main, analytic) | _claims.tuned_claims(tuned)
    return _claims.test_claims(claims)


def judged(rows, main, analytic=()):
    networks = _tables.NetworkTable(rows)
    fits = _tables.fit_exponents(networks, analytic, {}, {})
    tested = all_tested(networks, fits, main, analytic)
    return fits, _claims.test_rows(tested), _verdict.judge(tested)


def lazy_rows(exponent, level=5.0):
    """Rows of analytic.csv: lazy movement with an exponent, to the matched losses like width^-1/4."""
    return [{"limit": "fixed", "width": w, "lazy_movement": level * w**exponent, "kernel_acc_infinite": 94,
             "mean_diagonal": w**0.5} | {f"lazy_matched_{loss}": level * w**-0.25 for loss in LOSSES}
            for w in WIDTHS]  # fmt: skip


def test_a_lazy_network_whose_movement_is_constant_at_these_widths_is_not_called_either():
    """Where the prediction for these widths and this time is itself constant, the asymptotic lines decide nothing."""
    rows = made_up(0.0, -0.5, series=LAZY)
    _, _, said = judged(rows, LAZY, lazy_rows(0.0))
    both = "cannot be told apart: constant movement, lazy at these widths and this time"
    for metric in ("absolute_movement", "relative_movement"):
        assert decisions(said, at="end", metric=metric) == {"which line does it follow?": both}
    _, _, said = judged(rows, LAZY, lazy_rows(0.0, level=8.0))
    question = "absolute movement is that of a lazy network of this width and time"
    assert decisions(said, at="end")[question] == "not seen"


def decisions(said, **where):
    rows = [row for row in said if all(row.get(name) == value for name, value in where.items())]
    return {row["question"]: row["decision"] for row in rows}


def test_constant_movement_and_a_lazy_network_are_told_apart():
    rows = made_up(0.0, -0.5) + made_up(-0.5, 0.0, series=LAZY)
    fits, _, said = judged(rows, MAIN, lazy_rows(-0.5))
    lazy = {(row["loss"], row["metric"]): row["exponent"] for row in fits if row["at"] == "lazy"}
    assert lazy == pytest.approx({
        ("cross_entropy", "absolute_movement"): -0.25, ("cross_entropy", "relative_movement"): -0.75,
        ("mse", "absolute_movement"): -0.5, ("mse", "relative_movement"): -1.0})  # fmt: skip
    own = decisions(said, loss="cross_entropy", at="end", metric="absolute_movement")
    assert own == {"which line does it follow?": "constant movement"}
    own = decisions(said, loss="mse", at="end", metric="absolute_movement")
    assert own == {"which line does it follow?": "cannot be told apart: lazy, lazy at these widths and this time"}
    own = decisions(said, loss="mse", at="end")
    assert own["absolute movement is that of a lazy network of this width and time"] == "seen"
    to_loss = "absolute movement is that of a lazy network of this width and loss"  # lazily 5 width^-1/4
    assert {decisions(said, loss=loss, at="matched loss")[to_loss] for loss in LOSSES} == {"not seen"}
    _, _, quarter = judged(made_up(-0.25, -0.5), MAIN, lazy_rows(-0.5))
    assert decisions(quarter, at="matched loss")[to_loss] == "seen"
    own = decisions(said, loss="cross_entropy", at="end")
    assert own["relative movement goes like width^-0.50 (constant movement)"] == "seen"
    assert own["relative movement goes like width^-1.00 (lazy)"] == "not seen"
    assert own["drift falls with width (fitted exponent below zero)"] == "seen"
    assert own["training aligns the kernel with the labels"] == "seen"
    assert (
        own["regression with the initial kernel is as accurate as the network, at the given rate and ridge"] == "seen"
    )
    assert (
        own["regression with the final kernel is as accurate as the network, at the given rate and ridge"] == "not seen"
    )
    assert own["the final kernel predicts better than the initial one"] == "seen"
    assert own["the kernel moves by less than a tenth"] == "seen"
    assert own["test accuracy rises with width"] == "seen"
    assert decisions(said, loss="mse", at="end")["drift falls with width (fitted exponent below zero)"] == "not seen"


def test_every_claim_names_another_that_changes_one_thing():
    rows = [row | {"linear_test_acc": row["test_acc"]} for row in made_up(0.0, -0.5)]
    networks = _tables.NetworkTable(rows)
    about = {"loss": "cross_entropy", "limit": "fixed", "width": 256, "kernel_acc_final": None}
    about |= {"kernel_acc_infinite": None}
    tuned = [about | {"test_acc": 95 + e, "kernel_acc_initial": 94 + 2 * e} for e in (0.0, 0.1, 0.3)]
    analytic = lazy_rows(-0.5)
    fits = _tables.fit_exponents(networks, analytic, {}, {})
    said = _verdict.judge(all_tested(networks, fits, MAIN, analytic, tuned))
    control = {(row["question"], row["at"]): row["control"] for row in said}
    assert all(control.values())
    line = "relative movement goes like width^-0.50 (constant movement)"
    assert control[line, "end"].startswith(f"{line}, at matched loss: ")
    assert "(lazy), at matched loss: not seen" in control[line, "matched loss"]
    linear, still = "the linearised network is as accurate as the network", "the kernel moves by less than a tenth"
    assert control[linear, "end"].startswith(f"{still}: seen (")
    assert control[still, "end"].startswith(f"{linear}: seen (")
    given = "regression with the initial kernel is as accurate as the network, at the given rate and ridge"
    both = "network and regression with the initial kernel are equally accurate at width 256, both tuned"
    assert control[given, "end"].startswith(f"{both}: not seen (0.867 [")
    assert control[both, _claims.TUNED].startswith(f"{given}: seen (")
    assert control["test accuracy rises with width", "end"] == "none in this study"


def test_between_the_lines_is_neither_and_noise_is_undecided():
    _, _, said = judged(made_up(-0.25, 0.3), MAIN)
    assert decisions(said, at="end", metric="relative_movement") == {"which line does it follow?": "neither"}
    assert decisions(said, at="end")["drift falls with width (fitted exponent below zero)"] == "not seen"
    _, _, said = judged(made_up(-0.25, -0.3, num_seeds=3, noise=1.0), MAIN)
    rows = [row for row in said if row["question"].startswith("relative movement goes")]
    assert {row["decision"] for row in rows} == {"undecided"} and all(row["detectable"] > 0.1 for row in rows)


def test_lost_seeds_and_widths_are_counted_not_hidden():
    rows = made_up(0.0, -0.5)
    for row in rows:
        if row["width"] == "256" or (row["width"], row["seed"]) == ("64", "3"):
            row["matched_drift"] = None
    runs = _tables.NetworkTable(rows)
    (fit,) = [row for row in _tables.fit_exponents(runs, [], {}, {})
              if (row["at"], row["metric"]) == ("matched loss", "drift")]  # fmt: skip
    assert (fit["num_widths"], fit["num_widths_lost"], fit["exponent"]) == (2, 2, None)  # no width of some seeds only
    for row in rows:
        if row["width"] == "64" or row["seed"] == "2":  # a seed that diverged everywhere costs no width
            row["matched_drift"] = None if row["seed"] == "2" else row["drift"]
    (fit,) = [row for row in _tables.fit_exponents(_tables.NetworkTable(rows), [], {}, {})
              if (row["at"], row["metric"]) == ("matched loss", "drift")]  # fmt: skip
    assert (fit["num_widths"], fit["num_widths_lost"], fit["num_seeds"], fit["num_seeds_lost"]) == (3, 1, 4, 1)
    assert fit["largest"] == 128 and fit["exponent"] == pytest.approx(-0.5, abs=0.01)
    (table,) = [row for row in _tables.exponent_rows([fit])]
    assert len(table["per_seed"].split()) == 4 and "num_nan" not in table
    _, tests, said = judged([row for row in made_up(0.0, -0.5) if row["width"] in ("32", "64")], MAIN)
    assert {row["decision"] for row in tests if row["metric"] == "drift" and row["kind"] == "less"} == {"undecided"}
    json.dumps(said, allow_nan=False)


def test_the_published_table_is_constant_movement_over_the_norm():
    """Section V-E against itself: the published column falls a little faster than -1/2, nowhere near -1."""
    (fit,) = [row for row in _tables.fit_exponents(_tables.NetworkTable(made_up(0, 0)), [], {}, paper.NTK)
              if row["at"] == "published"]  # fmt: skip
    assert -0.53 < fit["low"] < fit["exponent"] < fit["high"] < -0.46


def test_comparison_with_the_paper_asks_for_what_was_asked():
    ours = {"relative_movement": 0.9356 * 1.05, "test_acc": 92.0}
    ends = ("mean", "t_low", "t_high")
    summary = [{"width": 32} | {f"{name}_{end}": value for name, value in ours.items() for end in ends}]
    movement, accuracy = sorted(_tables.compare_with_paper(summary, paper.NTK), key=lambda row: row["metric"])
    assert movement["deviation"] == pytest.approx(5) and movement["within"] is False and movement["unit"] == "percent"
    assert accuracy["deviation"] == pytest.approx(0.4) and accuracy["within"] is True


def test_every_figure_is_drawn_from_the_tables(tmp_path):
    analytic = lazy_rows(-0.5)
    networks = _tables.NetworkTable(made_up(0.0, -0.5) + made_up(-0.5, -1.0, series=LAZY))
    fits = _tables.fit_exponents(networks, analytic, {}, paper.NTK)
    config = _config.resolve("paper", {"depth": 2, "widths": WIDTHS})
    fair = _tables.summarise_tuned(tuned_rows(95.0, 93.0, 32) + tuned_rows(96.0, 96.1, 64), networks)
    found = _report.Findings(networks, fits, paper.NTK)
    drawn = dict(_figures.figures_of(config, "a random 5,000 images", 2000, found, analytic, fair))
    assert list(drawn) == ["movement", "layers", "accuracy", "exponents"]
    paths = [plotting.save(figure, tmp_path / f"{name}.png") for name, figure in drawn.items()]
    assert all(path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000 for path in paths)


# Measurements


def test_rates_agree_at_the_base_width_and_kernels_begin_equally_fast():
    x = np.random.default_rng(0).normal(size=(20, 50))
    speed = _materials.ntk_speed(x, 3)
    assert [_materials.rate(0.1, limit, 32, speed) for limit in ("fixed", "mup")] == [0.1] * 2
    assert _materials.rate(0.1, "over_width", 512, speed) == pytest.approx(0.025)
    traces = [rate * np.trace(kernels.infinite_mlp(x, width=32, depth=3, parametrization=name).ntk)
              for name, rate in (("standard", 0.1), ("ntk", _materials.rate(0.1, "ntk", 512, speed)))]  # fmt: skip
    assert traces[0] == pytest.approx(traces[1])


def test_flow_time_counts_the_remaining_batch_and_momentum():
    training = train.Config(2, 4, 0.1, schedule="constant", momentum=0.5)
    assert _materials.flow_time(training, 9) == pytest.approx(0.1 * 2 * 3 / 0.5)
    full = train.Config(2, 4, 0.1, schedule="constant", optimizer="gd")
    assert _materials.flow_time(full, 9) == pytest.approx(0.2)


def test_kernels_of_diverged_and_of_dead_networks_are_marked():
    alive, targets = np.array([[2.0, 0.5], [0.5, 1.0]]), np.eye(2)
    assert _paths.changes(np.full((2, 2), np.nan), alive, targets) == dict.fromkeys(
        ("drift", "misalignment", "label_alignment"))  # fmt: skip
    dead = _paths.changes(np.ones((2, 2)), alive, targets)
    assert dead["drift"] == kernels.drift(np.ones((2, 2)), alive) and dead["misalignment"] is None
    scaled = _paths.changes(3 * alive, alive, targets)
    assert scaled["drift"] == pytest.approx(2) and scaled["misalignment"] == pytest.approx(0, abs=1e-12)
    assert scaled["label_alignment"] == pytest.approx(1)  # centred, two samples leave one direction


def test_snapshots_begin_and_end_where_training_does():
    movement, kernel = _materials.snapshots(60, 8)
    assert kernel == (1, 2, 3, 6, 10, 19, 33, 60)
    assert movement == (1, 2, 3, 4, 6, 8, 10, 14, 19, 25, 33, 45, 60) and set(kernel) < set(movement)
    assert _materials.snapshots(1, 8) == ((1,), (1,))


# Rate and ridge chosen on held-out training images


def small_study(tmp_path, test_y=None):
    """One tiny network on 100 digits; test_y replaces the test labels."""
    given = {"dataset": "digits", "num_train": 100, "seed": 3, "data_seed": 3, "depth": 2, "num_seeds": 2}
    given |= {"widths": (8,), "batch_size": 20, "lr": 0.05, "epochs": 4, "probe_images": 10, "kernel_test": 10}
    given |= {"extras": False, "tuned_rates": (0.01, 0.3), "tuned_ridges": (1e-3, 10.0), "tuning_seeds": 2}
    _, found = _materials.prepare(_config.resolve("small", given), None)
    if test_y is not None:
        dataset = dataclasses.replace(found.dataset, test=data.Split(found.dataset.test.x, test_y))
        found = dataclasses.replace(found, dataset=dataset, held=tuning.hold_out(dataset))
    with records.open_run(tmp_path, "tuning", "digits", given | {"widths": [8]}) as run:
        return found, _tuning.measure_tuned(run, found)


def test_a_fifth_of_the_training_images_is_held_out_and_no_test_image():
    dataset = data.load("digits", num_train=101, seed=1)
    held = tuning.hold_out(dataset)
    assert held.test.y.shape == (20,) and held.train.y.shape == (81,) == (held.num_train,)
    pieces = [np.asarray(part.x).reshape(-1, 64) for part in (held.train, held.test)]
    rows, whole = np.concatenate(pieces), np.asarray(dataset.train.x).reshape(-1, 64)
    labels = np.concatenate([held.train.y, held.test.y])
    place = np.lexsort(rows.T), np.lexsort(whole.T)
    np.testing.assert_array_equal(rows[place[0]], whole[place[1]])  # every training image once
    np.testing.assert_array_equal(labels[place[0]], np.asarray(dataset.train.y)[place[1]])
    assert not np.array_equal(held.test.x, tuning.hold_out(dataclasses.replace(dataset, seed=2)).test.x)
    np.testing.assert_array_equal(held.test.x, tuning.hold_out(dataset).test.x)
    assert len({each.digest for each in (dataset, held)}) == 2  # the store must tell their networks apart
    with pytest.raises(ValueError, match=r"^num_train: expected at least 5"):
        tuning.hold_out(data.load("digits", num_train=4))


def test_the_highest_mean_is_chosen_the_smaller_of_equals_and_no_candidate_that_lost_a_seed():
    rates = [0.1, 0.2, 0.3, 0.4]
    assert tuning.choose(rates, np.array([[90.0, 91.0, 93.0, 80.0], [90.0, 94.0, 93.0, 80.0]])) == 0.3
    assert tuning.choose(rates, np.array([[90.1, 90.3, 90.2, 80.0], [90.2, 90.0, 90.1, 80.0]])) == 0.1  # 0.3 equals it
    assert tuning.choose(rates, np.array([[90.0, 91.0, 99.0, 80.0], [90.0, 91.0, np.nan, 80.0]])) == 0.2
    assert tuning.choose(rates, np.full((2, 4), np.nan)) is None


def test_regression_takes_each_ridge_in_units_of_the_mean_diagonal():
    dataset = data.load("digits", num_train=50)
    dataset = dataclasses.replace(dataset, test=data.Split(dataset.test.x[:40], dataset.test.y[:40]))
    train_x, test_x = (np.asarray(part.x, float).reshape(-1, 64) for part in (dataset.train, dataset.test))

    def kernel(x1, x2):
        one, two = (np.asarray(x, float).reshape(len(x), -1) for x in (x1, x1 if x2 is None else x2))
        return one @ two.T

    gram, targets = train_x @ train_x.T, np.eye(10)[np.asarray(dataset.train.y)] - 0.1
    expected = []
    for ridge in (1e-2, 10.0):
        weights = np.linalg.solve(gram + ridge * np.trace(gram) / 50 * np.eye(50), targets)
        expected.append(100 * np.mean(np.argmax(test_x @ train_x.T @ weights, 1) == np.asarray(dataset.test.y)))
    assert expected[0] != expected[1]
    found = [
        _kernels.accuracy(bits, 40)
        for bits in _kernels.regressions(kernel, dataset, _materials.Images(*dataset.test), [1e-2, None, 10.0])
    ]
    assert found == [pytest.approx(expected[0]), None, pytest.approx(expected[1])]


def test_choices_do_not_depend_on_the_test_images_and_are_what_is_compared(tmp_path):
    materials, first = small_study(tmp_path / "a")
    chosen, compared = first["tuning"], first["tuned"]
    other = (np.asarray(materials.dataset.test.y) + 1) % 10
    _, second = small_study(tmp_path / "b", other)
    assert second["tuning"] == chosen
    assert [row["test_acc"] for row in second["tuned"]] != [row["test_acc"] for row in compared]

    best = {}
    for of in dict.fromkeys(row["of"] for row in chosen):
        own = [row for row in chosen if row["of"] == of]
        (best[of],) = [row["value"] for row in own if row["chosen"]]
        assert max(row["held_out_acc"] for row in own) == next(row["held_out_acc"] for row in own if row["chosen"])
    assert list(best) == ["network", "initial kernel", "final kernel", "infinite kernel"]
    assert [row["seed"] for row in compared] == [3, 4]
    for row in compared:
        assert row["learning_rate"] == best["network"]
        assert [row[f"ridge_{kind}"] for kind in _kernels.KINDS] == list(best.values())[1:]
    # All training images, the chosen rate: the same networks as the study's own at that rate.
    training = materials.training(MAIN, 8, best["network"])
    result = ensemble.fit(materials.network(8), materials.dataset, training, [3, 4])
    accuracy = 100 * result.history["test_accuracy"][:, -1]
    np.testing.assert_allclose([row["test_acc"] for row in compared], accuracy, atol=0.3)  # an image of 360
    start = _probes.by_seed(result.initial["params"])[0]
    images = _materials.Images(*materials.dataset.test)
    (bits,) = _kernels.tangent_regressions(
        materials.network(8), start, materials.dataset, images, [best["initial kernel"]]
    )
    assert compared[0]["kernel_acc_initial"] == pytest.approx(_kernels.accuracy(bits, len(images.y)), abs=0.3)


def tuned_rows(network, initial, width):
    """Rows of tuned.csv as text: five seeds around two accuracies; no final kernel, an infinite one 0.1 below."""
    rng = np.random.default_rng(width)
    return [{"loss": "cross_entropy", "limit": "fixed", "width": str(width), "seed": str(seed), "learning_rate": "0.1",
             "train_acc": "100.0", "test_acc": str(network + 0.05 * rng.normal()), "relative_movement": "0.5",
             "kernel_acc_initial": str(initial + 0.05 * rng.normal()), "kernel_acc_final": "",
             "kernel_acc_infinite": str(network - 0.1)} | {f"ridge_{kind}": "0.001" for kind in _kernels.KINDS}
            for seed in range(5)]  # fmt: skip


def test_who_predicts_better_after_tuning_is_said_for_every_width_in_a_family_of_its_own():
    tuned = tuned_rows(95.0, 93.0, 32) + tuned_rows(96.0, 96.1, 64) + tuned_rows(96.0, 97.0, 128)
    rows = made_up(0.0, -0.5)
    networks = _tables.NetworkTable(rows)
    fits = _tables.fit_exponents(networks, [], {}, {})
    tested = all_tested(networks, fits, MAIN, tuned=tuned)
    without = all_tested(networks, fits, MAIN)
    assert {claim: tested[claim] for claim in without} == without and len(tested) == len(without) + 6
    said = _verdict.who_predicts_better(tested)
    assert [(row["metric"], row["decision"]) for row in said] == [
        ("test_acc - kernel_acc_initial",
         "network better at 32; equivalent within 0.5 points at 64; kernel better at 128"),
        ("test_acc - kernel_acc_infinite", "equivalent within 0.5 points at 32, 64, 128"),
    ]  # fmt: skip
    fair = _tables.summarise_tuned(tuned, networks)
    own = [float(row["test_acc"]) for row in rows if row["width"] == "64"]
    assert fair[1]["given_rate_test_acc_mean"] == pytest.approx(np.mean(own)) and fair[1]["width"] == "64"
    assert fair[1]["test_acc_mean"] == pytest.approx(96.0, abs=0.1) and fair[1]["kernel_acc_final_mean"] is None


# The study from Python


@pytest.mark.slow
def test_a_run_returns_tables_and_figures_a_second_one_reads_and_another_study_trains_nothing(tmp_path, capfd):
    given = {"widths": (8,), "depth": 2, "num_seeds": 2, "epochs": 2, "num_train": 100, "batch_size": 50}
    given |= {"probe_images": 10, "kernel_test": 20, "out_dir": tmp_path}
    first = studies.ntk_regime.run(preset="quick", **given)
    measured = {"runs", "drift", "analytic", "correct", "tuning", "tuned"}
    assert set(first.tables) == measured | {"summary", "tuned_summary", "comparison", "exponents", "tests"}
    assert {row["width"] for row in first.tables["runs"]} == {"8"} and not first.tables["tuned"]
    assert set(first.figures) == {"movement", "layers", "accuracy"} and first.verdict
    assert "seeds x epochs" in capfd.readouterr().err
    before = files(first.folder)
    again = studies.ntk_regime.run(preset="quick", **given)
    assert again.tables == first.tables and again.verdict == first.verdict and files(first.folder) == before
    assert "is finished" in capfd.readouterr().err

    def stored():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "networks").rglob("*") if path.name != ".lock"}

    networks = stored()
    other = studies.ntk_regime.run(preset="quick", **given, ridge=0.1)
    assert other.folder != first.folder and stored() == networks
    assert "seeds x epochs" not in capfd.readouterr().err
    assert other.tables["drift"] == first.tables["drift"]


# The script

TINY = [
    *(
        "--dataset=digits",
        "--depth=2",
        "--num_train=200",
        "--num_seeds=2",
        "--epochs=3",
        "--batch_size=64",
        "--lr=0.05",
    ),
    *(
        "--probe_images=20",
        "--kernel_test=60",
        "--widths=8,16,32",
        "--extra_widths=16",
        "--linearised_widths=16",
        "--kernel_widths=16",
    ),
    *("--target_cross_entropy=2.0", "--target_mse=0.4"),
    *("--tuned_widths=16", "--tuned_rates=0.01,0.1", "--tuned_ridges=1e-3,1e-1"),
]
UNTUNED = [flag for flag in TINY if not flag.startswith("--tuned")] + ["--notune"]


@pytest.fixture(scope="module")
def call(forks, environment):
    """Run the study in a fork: call(out, *flags)."""
    command = functools.partial(forks.run, STUDY, "--verbose", env=environment)
    return lambda out, *flags: command(*flags, f"--out_dir={out}", cwd=out.parent)


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def whole(environment, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "results"
    command = [sys.executable, STUDY, "--verbose", *TINY, f"--out_dir={out}"]  # in a process of its own
    done = subprocess.run(command, env=environment, cwd=out.parent, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    (folder,) = (out / "ntk_regime").iterdir()
    return folder, done.stdout


@pytest.mark.parametrize(
    ("flags", "filled"),
    [
        (["--optimizer=adam"], set()),  # takes another path than gradient flow, and has no lazy prediction
        (["--loss=mse"], {"lazy_movement", "lazy_train_loss", "lazy_matched_mse"}),
    ],
)
def test_without_extras_the_main_arm_has_the_lazy_predictions_that_it_can_have(call, tmp_path, flags, filled):
    done = call(tmp_path, *UNTUNED, "--noextras", *flags)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    (folder,) = (tmp_path / "ntk_regime").iterdir()
    rows = records.read_table(folder / "analytic.csv")
    cells = ("lazy_movement", "lazy_train_loss", "lazy_matched_cross_entropy", "lazy_matched_mse")
    assert rows and all({name for name in cells if row[name]} == filled for row in rows)


def test_a_run_writes_its_tables_and_figures(whole):
    folder, stdout = whole
    assert sorted(files(folder)) == sorted([
        "accuracy.png", "analytic.csv", "comparison.csv", "config.json", "correct.csv", "drift.csv", "exponents.csv",
        "finished.json", "layers.png", "movement.png", "runs.csv", "summary.csv", "tests.csv", "tuned.csv",
        "report.txt", "tuned_summary.csv", "tuning.csv", "verdict.json"])  # fmt: skip
    rows = records.read_table(folder / "runs.csv")
    arms = {(row["loss"], row["limit"]) for row in rows}
    assert arms == {(loss, limit) for loss in LOSSES for limit in LIMITS}
    assert len(rows) == 2 * (3 + 7)
    for row in rows:
        assert row["diverged"] == "0"
        layers = [float(row[f"movement_dense{i}"]) for i in range(2)]
        assert float(row["absolute_movement"]) == pytest.approx(np.hypot(*layers))
        moved, norm = float(row["absolute_movement"]), float(row["norm_initial"])
        assert float(row["relative_movement"]) == pytest.approx(moved / norm)
        main = (row["loss"], row["limit"]) == MAIN
        assert (row["kernel_acc_initial"] != "") == (main and row["width"] == "16")
        assert (row["linear_test_acc"] != "") == (main and row["width"] == "16")
    drift = records.read_table(folder / "drift.csv")
    assert [row["epoch"] for row in drift[:4]] == ["0", "1", "2", "3"] and float(drift[0]["drift"]) == 0
    assert all(float(row["drift"]) > 0 for row in drift if row["epoch"] != "0")
    rates = {(row["limit"], row["width"]): float(row["learning_rate"]) for row in rows}
    assert rates["fixed", "8"] == rates["mup", "16"] == 0.05 and rates["over_width", "16"] == 0.4
    for row in records.read_table(folder / "analytic.csv"):
        name = "ntk" if row["limit"] == "ntk" else "standard"
        kept = json.loads((folder / "parts" / f"analytic_{name}_w{row['width']}.json").read_text())["value"]
        lazy = kept["lazy"].get(row["limit"], {"movement": None, "loss": None})
        for cell, value in (("lazy_movement", lazy["movement"]), ("lazy_train_loss", lazy["loss"])):
            assert row[cell] == ("" if value is None else repr(value))
        assert float(row["mean_diagonal"]) == kept["mean_diagonal"] > 0
        for loss in LOSSES:
            assert row[f"lazy_matched_{loss}"] == repr(kept["matched"][loss]) and kept["matched"][loss] > 0
    fair = records.read_table(folder / "tuned_summary.csv")
    assert [row["width"] for row in fair] == ["16"]
    for row in fair:
        own = [float(r["test_acc"]) for r in rows if r["width"] == row["width"] and (r["loss"], r["limit"]) == MAIN]
        assert float(row["given_rate_test_acc_mean"]) == pytest.approx(np.mean(own))
        assert f"at {float(row['ridge_initial']):g}" in stdout
    right = tables.correctness(records.read_table(folder / "correct.csv"))
    columns = [("", "runs.csv", "8", "test_acc"), ("tuned ", "tuned.csv", "16", "test_acc")]
    columns += [(tuned, name, "16", f"kernel_acc_{kind}") for kind in ("initial", "final")
                for tuned, name in (("", "runs.csv"), ("tuned ", "tuned.csv"))]  # fmt: skip
    columns += [("", "runs.csv", "16", name) for name in ("linear_test_acc", "kernel_acc_network")]
    for tuned, name, width, column in columns:
        own = [float(row[column]) for row in records.read_table(folder / name)
               if row["width"] == width and (row["loss"], row["limit"]) == MAIN]  # fmt: skip
        assert 100 * right[f"{tuned}{column} w{width}"].mean(1) == pytest.approx(np.array(own), abs=1e-3)
    crossed = [row for row in records.read_table(folder / "tests.csv") if row["crossed_low"]]
    assert len(crossed) == 5 + 1 + 3  # of the kernels and the linearised network, of the widths, and after tuning
    for row in crossed:
        found = stats.crossed(right[row["first"]], right[row["second"]])
        assert float(row["difference"]) == pytest.approx(100 * found.difference, abs=1e-3)
        assert float(row["crossed_low"]) == pytest.approx(100 * found.low)
        assert float(row["crossed_high"]) == pytest.approx(100 * found.high)
        assert float(row["crossed_p"]) == pytest.approx(found.pvalue)
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict and all(row["decision"] for row in verdict)
    for row in verdict:
        assert f"{row['question']} - {row['decision']}" in stdout


def test_networks_of_one_seed_begin_as_one_function_in_both_kernel_limits(whole):
    """The kernels of the limits differ, but accuracy and alignment are measured on the same images."""
    rows = {(r["loss"], r["limit"], r["width"], r["seed"]): r for r in records.read_table(whole[0] / "runs.csv")}
    for seed in ("0", "1"):
        same = [float(rows["mse", limit, "16", seed]["norm_initial"]) for limit in ("fixed", "over_width")]
        assert same[0] == same[1]
        starts = {rows[loss, "fixed", "16", seed]["label_alignment_initial"] for loss in LOSSES}
        assert len(starts) == 1


def test_it_goes_on_where_it_was_killed_and_ends_the_same(whole, call, tmp_path):
    folder = whole[0]
    before = files(folder)
    for name in before:
        if name != "config.json":
            (folder / name).unlink()
    for part in sorted((folder / "parts").iterdir())[::2]:  # as if killed before these were written
        part.unlink()
    changed = min((folder / "parts").glob("cross_entropy_fixed_*.json"))  # and somebody edited a number
    changed.write_text(re.sub(r"\.\d", ".0", changed.read_text(), count=20))
    done = call(folder.parent.parent, *TINY)
    assert done.returncode == 0 and f"{changed} is damaged (its checksum does not match)" in done.stderr, done.stderr
    assert files(folder) == before
    again = call(folder.parent.parent, *TINY)
    assert "is finished" in again.stderr and files(folder) == before


def test_a_study_that_diverges_ends_with_tables_and_figures_that_say_so(call, tmp_path):
    done = call(tmp_path / "out", *TINY, "--noextras", "--lr=1e30", "--num_seeds=1")
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    (folder,) = (tmp_path / "out" / "ntk_regime").iterdir()
    assert {row["diverged"] for row in records.read_table(folder / "runs.csv")} == {"1"}
    assert {path.stem for path in folder.glob("*.png")} == {"accuracy", "layers", "movement"}
    assert "1 diverged" in done.stdout


REFUSED = [
    (["--parametrization=mup", "--lr_over_width"], "--lr_over_width"),
    (["--optimizer=adam", "--momentum=0.5"], "--momentum"),
    (["--optimizer=adam", "--extras"], "--optimizer"),
    (["--optimizer=adam", "--parametrization=ntk", "--noextras"], "--optimizer"),
    (["--kernel_widths=64"], "--kernel_widths"),
    (["--widths=2048,4096", "--extras"], "--extras: expected some --widths of up to 1024"),
    (["--linearised_widths=4"], "--linearised_widths"),
    (["--ridge=-1"], "ridge"),
    (["--tuned_widths=64"], "--tuned_widths"),
    (["--tuned_rates=0,0.1"], "tuned_rates"),
    (["--tuned_rates=0.1,0.1"], "tuned_rates"),
    (["--tuned_ridges=-0.1"], "tuned_ridges"),
    (["--notune", "--tuned_rates=0.1"], "--tuned_rates: expected no such setting with no --tune"),
    (["--preset=quick", "--tuning_seeds=2"], "--tuning_seeds"),
    (["--widths=2048,4096", "--noextras", "--tune"], "--tune: expected some --widths of up to 1024"),
    (["--batch_size=180"], "batch_size: expected at most the 160"),
    (["--num_train=4", "--batch_size=1"], "--num_train: expected at least 5"),
    (["--loss=hinge"], "loss"),
    (["--parametrization=ntk", "--lr=1e308", "--noextras"], "--lr: "),
    (["--lr_over_width", "--lr=1e308", "--noextras"], "--lr: "),
    (["--kernel_widths=8,8"], "kernel_widths"),
    (["--linearised_widths=8,8"], "linearised_widths"),
    (["--widths=1000000000"], "--widths: "),
    (["--subset=last"], "subset"),
    (["--batch_size=999"], "batch_size"),
    (["--preset=quick", "--dataset=mnist"], "--preset=quick"),
]


def test_bad_input_ends_in_one_line(forks, environment, tmp_path):
    base = ["--dataset=digits", "--depth=2", "--widths=8,16", "--num_train=200", f"--out_dir={tmp_path / 'out'}"]
    for flags, word in REFUSED:
        done = forks.run(STUDY, *base, *flags, env=environment, cwd=tmp_path)
        text = done.stderr
        assert done.returncode == 2 and text.startswith("error: ") and text.count("\n") == 1 and word in text, text
    assert not list(tmp_path.iterdir())
