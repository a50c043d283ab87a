"""The study of batch sizes: its arms, its verdicts on made-up tables, and the script as a user runs it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ntkgen import data, ensemble, records, train
from ntkgen.studies import base, implicit_regularization
from ntkgen.studies import tables as common
from ntkgen.studies.implicit_regularization import _arms as arms
from ntkgen.studies.implicit_regularization import _claims as claims
from ntkgen.studies.implicit_regularization import _rates as rates
from ntkgen.studies.implicit_regularization import _tables as tables
from ntkgen.studies.implicit_regularization._config import PROTOCOL, SHARPNESS, USUAL
from ntkgen.studies.implicit_regularization._measure import BatchSizeSweep, first_images

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "implicit_regularization.py"
STUDY = implicit_regularization.STUDY
TARGETS = PROTOCOL.loss_targets


def config_of(**given):
    """The published protocol with four batch sizes and every control, but for what is given."""
    return STUDY.resolve("paper", {"batch_sizes": (32, 128, 512, 2048), "controls": USUAL, **given})


def planned(images=10_000, tuned_rate=0.1, **given):
    """The arms by name."""
    config = config_of(**given)
    return {arm.name: arm for arm in arms.planned_arms(config, arms.sizes(config, images), tuned_rate)}


# Arms


def test_the_published_configurations_are_the_tables():
    found = planned(controls=())
    assert list(found) == ["sgd32", "sgd128", "sgd512", "sgd2048", "adam", "gd"]
    rates = {name: arm.training.learning_rate for name, arm in found.items()}
    assert rates == {"sgd32": 0.005, "sgd128": 0.01, "sgd512": 0.04, "sgd2048": 0.1, "adam": 0.001, "gd": 0.001}
    assert {arm.training.epochs for arm in found.values()} == {30}
    gd = found["gd"]
    assert (gd.images, gd.batch, gd.steps, gd.training.momentum) == (5000, 5000, 30, 0.9)
    assert found["sgd32"].steps == 30 * 313 and found["sgd128"].steps == 30 * 79
    assert (
        found["sgd32"].snapshots[0] == 0 and found["sgd32"].snapshots[-1] == 30 and len(found["sgd32"].snapshots) < 13
    )


def test_the_published_full_batch_is_read_with_momentum_and_without():
    found = planned(controls=("plain",))
    with_momentum, without = found["gd"], found["gd_plain"]
    assert (with_momentum.training.momentum, without.training.momentum) == (0.9, 0.0)
    assert dataclasses.replace(with_momentum.training, momentum=0.0) == without.training
    assert (without.images, without.group) == (5000, "gd")


@pytest.mark.parametrize(("changed", "images", "known"), [
    ({}, 50_000, {"sgd32", "sgd128", "gd", "gd_plain"}),
    ({}, 5_000, {"gd", "gd_plain"}),  # has all the images that full batch needs
    ({}, 4_000, set()),
    ({"channels": 16}, 50_000, set()),
    ({"epochs": 30}, 50_000, set()),
    ({"dataset": "mnist", "model": "cnn"}, 50_000, set()),
])  # fmt: skip
def test_published_numbers_stand_beside_their_protocol_alone(changed, images, known):
    config = config_of(**{"dataset": "cifar10", "batch_sizes": (32, 128), "controls": ("plain",), **changed})
    sizes = arms.sizes(config, images)
    ours = {"diverged": "0", "train_acc": "37", "test_acc": "33", "gap": "4"}
    trained = [arm for arm in arms.planned_arms(config, sizes) if arm.name != "adam"]
    runs = [{"arm": arm.name, "seed": seed, **arm.describe(), **ours} for arm in trained for seed in range(2)]
    found = tables.ArmTables(config, {**{name: [] for name in STUDY.tables}, "runs": runs})
    rows = {(row["setting"], row["metric"]): row for row in tables.comparison(found, sizes)}
    published = {key: row["published"] for key, row in rows.items() if row["ours"] is not None}
    assert {name for (name, _), value in published.items() if value is not None} == known
    for name in known & {"gd", "gd_plain"}:
        values = {metric: published[name, metric] for metric in ("train_acc", "test_acc", "gap")}
        assert values == {"train_acc": 36.7, "test_acc": 32.71, "gap": 3.95}  # section V-B


def test_controls_change_one_thing_at_a_time():
    found = planned(tuned_rate=0.2)
    reference = found["sgd128"]
    injected = [f"{name}_{noise}" for name in ("gd", "sgd2048") for noise in ("quiet", "noise", "noise_zero_sum")]
    for name in ("sgd2048_steps", "gd_tuned", *injected, "sam"):
        assert abs(found[name].steps - reference.steps) <= 0.5 * -(-10_000 // found[name].batch)
        assert found[name].images == 10_000 and found[name].training.momentum == 0.9
        assert "sgd128" in found[name].references
    assert found["gd_tuned"].training.learning_rate == 0.2
    for name in ("gd", "sgd2048"):
        quiet, noisy = found[f"{name}_quiet"], found[f"{name}_noise"]
        assert quiet.training == noisy.training and quiet.training.learning_rate == 0.01
        assert noisy.update == ensemble.injected_noise(128) and quiet.update is None
        zero_sum = found[f"{name}_noise_zero_sum"]
        assert zero_sum.training == noisy.training and zero_sum.update == ensemble.injected_noise(128, zero_sum=True)
        assert zero_sum.references == ("sgd128", f"{name}_quiet", f"{name}_noise")
        assert (noisy.describe()["update"], zero_sum.describe()["update"]) == ("noise128", "noise128_zero_sum")
    assert found["sam"].training == reference.training and found["sam"].update == ensemble.sam(0.05)
    assert arms.tuning(config_of(), 10_000, 0.5).epochs == round(0.25 * 30 * 79)


@pytest.mark.parametrize(("match", "names"), [
    ("epochs", {"sgd32", "sgd128", "sgd512", "sgd2048"}),
    ("steps", {"sgd128", "sgd32_steps", "sgd512_steps", "sgd2048_steps"}),
    ("both", {"sgd32", "sgd128", "sgd512", "sgd2048", "sgd32_steps", "sgd512_steps", "sgd2048_steps"}),
])  # fmt: skip
def test_match_says_which_sweeps_are_run(match, names):
    assert set(planned(controls=(), match=match)) == names | {"adam", "gd"}


# Verdicts


def made_up(accuracy, eigenvalue, train=100.0, eigenvalue_at_loss=None, seeds=5, sd=0.02, controls=("gd",), **given):
    """What a study of four batch sizes, Adam and one control measured, from means by arm; at equal loss also by
    (arm, loss): (prepared, tables)."""
    rng = np.random.default_rng(0)
    measured = {name: [] for name in STUDY.tables}
    config = config_of(controls=controls, **given)
    sizes = arms.sizes(config, 10_000)
    for arm in arms.planned_arms(config, sizes, 0.1):
        for seed in range(seeds):
            row = {"arm": arm.name, "seed": seed, **{k: str(v) for k, v in arm.describe().items()}, "diverged": "0"}
            complete = train if np.isscalar(train) else train.get(arm.name, 100.0)
            row |= dict.fromkeys((*tables.PLAIN, *SHARPNESS), "1.0")
            row |= {"train_acc": str(complete), "comparable": str(int(complete >= 99.9)), "noise_scale_resolved": "1"}
            row |= {"test_acc": str(accuracy.get(arm.name, 95.0) + sd * rng.normal())}
            row |= {"eigenvalue": str(eigenvalue.get(arm.name, 1.0) * np.exp(sd * rng.normal()))}
            row |= {"eigenvalue_converged": "1", "power_converged": "0"}
            measured["runs"].append(row)
            for match in ("loss", "temperature"):
                for target in TARGETS:
                    means = eigenvalue_at_loss or eigenvalue
                    mean = means.get((arm.name, target), means.get(arm.name, 1.0))
                    value = mean * np.exp(sd * rng.normal())
                    row = {"arm": arm.name, "seed": seed, "match": match, "target": target, "converged": "1"}
                    measured["matched"].append(row | {"metric": "eigenvalue", "value": value})
    return base.Prepared(config, {}, "paper", {}, BatchSizeSweep(None, None, sizes)), measured


def verdicts(study):
    derived = STUDY.derive(*study)
    found = derived.verdict
    undecided = sum(row["verdict"].startswith("undecided") for name in ("H1", "H2") for row in found[name])
    # A line for each decided relation, and one of the number of others for each hypothesis.
    assert all(row["control"] for name in ("H1", "H2") for row in found[name])
    assert derived.text.count("\nH") == len(found["H1"]) + len(found["H2"]) - undecided + 2
    return {row["relation"]: row["verdict"] for row in (*found["H1"], *found["H2"])}, derived


FALLING = {"sgd32": 97.0, "sgd128": 96.0, "sgd512": 95.0, "sgd2048": 94.0, "adam": 97.1}
FLATTER = "flatter generalizes better over these batch sizes, by the top Hessian eigenvalue"
SHARPER = "batch 2048 is sharper than batch 32 by the top Hessian eigenvalue"
RISING = {"sgd32": 1.0, "sgd128": 2.0, "sgd512": 4.0, "sgd2048": 8.0}


def test_what_the_paper_claims_is_seen_where_it_is_so():
    found, _ = verdicts(made_up(FALLING, RISING))
    assert found["batch 32 generalizes better than batch 2048, equal epochs"] == "seen"
    assert found["test accuracy falls with batch size, Page's exact trend test, equal epochs"] == "seen"
    assert found["Adam generalizes like sgd32, within 0.5 points"] == "seen"
    assert found["Adam generalizes like sgd128, within 0.5 points"] == "not seen"
    for form in ("", " at matched training loss", " at matched logit temperature"):
        where = f"{form}, equal epochs"
        assert found[SHARPER + where] == "seen"
        assert found[f"{FLATTER}{where}"].startswith("undecided (4 arms, 5 seeds")
        assert "needs five" in found[f"{FLATTER}{where}"]
        assert found[f"top Hessian eigenvalue rises with batch size, Page's exact trend test{where}"] == "seen"


def test_sharpness_that_vanishes_at_matched_loss_is_not_seen_there():
    found, _ = verdicts(made_up(FALLING, RISING, eigenvalue_at_loss={"sgd32": 1.0}))
    assert found[f"{SHARPER}, equal epochs"] == "seen"
    assert found[f"{SHARPER} at matched training loss, equal epochs"] == "not seen (equal within 0.1 at every loss)"


def test_flatter_is_seen_to_generalize_better_from_five_batch_sizes_on():
    batches = [32, 64, 128, 256, 512, 1024, 2048]
    accuracy = {f"sgd{batch}": 97.0 - k for k, batch in enumerate(batches)}
    rising = {f"sgd{batch}": 1.5**k for k, batch in enumerate(batches)}
    found, _ = verdicts(made_up(accuracy, rising, batch_sizes=batches))
    for form in ("", " at matched training loss", " at matched logit temperature"):
        assert found[f"{FLATTER}{form}, equal epochs"] == "seen"
    # At one of the losses the order is turned round: no answer from the three others.
    turned = {(f"sgd{batch}", 0.01): 1.5**-k for k, batch in enumerate(batches)}
    found, _ = verdicts(made_up(accuracy, rising, eigenvalue_at_loss=rising | turned, batch_sizes=batches))
    assert found[f"{FLATTER}, equal epochs"] == "seen"
    assert found[f"{FLATTER} at matched training loss, equal epochs"].startswith("undecided (tau")


def test_one_answer_at_equal_loss_from_all_losses():
    """Sharper at three losses and equal at the fourth is no answer, nor is a single loss that both reach."""
    relation = f"{SHARPER} at matched training loss, equal epochs"
    found, _ = verdicts(made_up(FALLING, RISING, eigenvalue_at_loss=RISING))
    assert found[relation] == "seen"
    found, _ = verdicts(made_up(FALLING, RISING, eigenvalue_at_loss=RISING | {("sgd2048", 0.003): 1.0}))
    assert found[relation].startswith("undecided (4 losses; ratios 1") and " to 8" in found[relation]
    lower = {("sgd2048", target): 0.25 for target in TARGETS}
    found, _ = verdicts(made_up(FALLING, RISING, eigenvalue_at_loss=RISING | lower))
    assert found[relation] == "not seen (the opposite is)"
    short = {("sgd2048", target): np.nan for target in TARGETS[1:]}
    found, _ = verdicts(made_up(FALLING, RISING, eigenvalue_at_loss=RISING | short))
    assert found[relation].startswith("undecided (1 of 4 losses reached by every seed of both; needs two")


def test_an_advantage_on_these_images_alone_is_called_so():
    """Batch 32 is right on 12 more of 400 images with every seed: seeds agree, other images need not."""
    prepared, measured = made_up(FALLING, RISING)
    rng = np.random.default_rng(0)
    right = np.tile(rng.random(400) < 0.5, (5, 1))
    other = right ^ (rng.random(400) < 0.2)
    for name in dict.fromkeys(row["arm"] for row in measured["runs"]):
        hits = other if name == "sgd2048" else right
        measured["correct"] += common.correct_rows(name, range(5), hits, np.zeros(5, bool))
    found, derived = verdicts((prepared, measured))
    words = found["batch 32 generalizes better than batch 2048, equal epochs"]
    assert words.startswith("seen (on these test images; over images too [")
    (row,) = [row for row in derived.tables["tests"] if row["family"] == "accuracy, equal epochs"
              and (row["first"], row["second"]) == ("sgd32", "sgd2048")]  # fmt: skip
    assert row["crossed_low"] < 0 < row["crossed_high"] and row["low"] > 0


def test_the_sweep_at_equal_updates_is_judged_by_itself():
    """Falls and sharpens with the batch at equal epochs, the other way round at equal updates."""
    accuracy = FALLING | {"sgd512_steps": 96.5, "sgd2048_steps": 97.0}
    eigenvalue = RISING | {"sgd512_steps": 1.0, "sgd2048_steps": 0.5}
    study = made_up(accuracy, eigenvalue, controls=("steps",))
    sweeps = tables.ArmTables(study[0].config, study[1]).sweeps
    assert sweeps["updates"] == ["sgd128", "sgd512_steps", "sgd2048_steps"]
    found, _ = verdicts(study)
    assert found["batch 32 generalizes better than batch 2048, equal epochs"] == "seen"
    assert found["batch 128 generalizes better than batch 2048, equal updates"] == "not seen (the opposite is)"
    for sweep, ends, verdict in (("epochs", 32, "seen"), ("updates", 128, "not seen (the opposite is)")):
        words = f"batch 2048 is sharper than batch {ends} by the top Hessian eigenvalue, equal {sweep}"
        assert found[words] == verdict
    assert found[f"{FLATTER}, equal updates"] == "undecided (3 arms, 5 seeds; needs five)"


def test_every_claim_names_the_control_that_could_have_overturned_it():
    """The small batch is ahead at equal epochs alone, and injected noise helps as much when it sums to zero."""
    noisy = {f"{name}_noise{end}": 97.0 for name in ("gd", "sgd2048") for end in ("", "_zero_sum")}
    accuracy = FALLING | {"sgd512_steps": 96.5, "sgd2048_steps": 97.0, "sgd2048_quiet": 93.0} | noisy
    verdict = STUDY.derive(*made_up(accuracy, RISING, controls=("steps", "noise"))).verdict
    control = {row["relation"]: row["control"] for row in (*verdict["H1"], *verdict["H2"])}

    def begins(claim, words):
        assert control[claim].startswith(words), control[claim]

    better = "batch 32 generalizes better than batch 2048, equal epochs"
    begins(better, "batch 128 generalizes better than batch 2048, equal updates: not seen (")
    begins("batch 128 generalizes better than batch 2048, equal updates",
           "sgd2048_quiet generalizes better than sgd128: not seen (")  # fmt: skip
    begins("sgd2048_quiet generalizes better than sgd128", "sgd2048_noise generalizes better than sgd128: ")
    begins("sgd2048_noise generalizes better than sgd2048_quiet",
           "sgd2048_noise_zero_sum generalizes better than sgd2048_quiet: seen (")  # fmt: skip
    begins("sgd2048_steps generalizes better than sgd128", "none: ")
    sharper = "batch 2048 is sharper than batch 32 by the top Hessian eigenvalue"
    begins(f"{sharper}, equal epochs", "at matched training loss: seen (")
    begins(f"{sharper} at matched training loss, equal epochs", sharper.replace("32", "128"))
    begins(f"{sharper.replace('32', '128')} at matched training loss, equal updates", "sgd2048_quiet is flatter")
    alone = STUDY.derive(*made_up(FALLING, RISING, controls=())).verdict["H1"][0]
    assert (alone["relation"], alone["control"]) == (
        better, "none in this run: --controls=steps adds equal updates"
    )  # fmt: skip


class OnlyRates:
    """A run that trains nothing: the best rate of batch 32 is half the table's, batch 128 diverges at every rate."""

    def __init__(self, best=0.5):
        self.fitted, self.best = [], best

    def fit(self, name, network, dataset, training, seeds, options):
        self.fitted.append((len(dataset.train.y), len(dataset.test.y), seeds))
        lost = training.batch_size == 128
        distance = abs(np.log2(training.learning_rate / train.scaled_learning_rate(training.batch_size) / self.best))
        accuracy = np.full((len(seeds), training.epochs), 0.9 - 0.01 * distance)
        diverged = np.full(len(seeds), lost)
        return SimpleNamespace(history={"test_accuracy": accuracy}, diverged=diverged)


def test_each_batch_size_gets_the_rate_that_is_best_on_held_out_images():
    config = config_of(batch_sizes=(32, 128), controls=("tuned",), epochs=2)
    dataset, run = data.load("digits", num_train=400), OnlyRates()
    sizes = arms.sizes(config, 400)
    found = rates.try_rates(run, config, None, dataset, sizes)
    assert set((train_count, held) for train_count, held, _ in run.fitted) == {(320, 80)}
    assert {tuple(seeds) for *_, seeds in run.fitted} == {(0, 1)} and len(found) == 2 * len(rates.FACTORS)
    own = rates.chosen(found)
    assert own[32] == pytest.approx(0.5 * train.scaled_learning_rate(32))
    assert own[128] == pytest.approx(rates.FACTORS[0] * train.scaled_learning_rate(128))  # none could be chosen
    assert [row["held_out_acc"] for row in found if row["batch"] == 128] == [None] * len(rates.FACTORS)
    planned = {arm.name: arm for arm in arms.planned_arms(config, sizes, own_rates=own)}
    tuned, plain = planned["sgd32_tuned"], planned["sgd32"]
    assert dataclasses.replace(tuned.training, learning_rate=plain.training.learning_rate) == plain.training
    assert tuned.training.learning_rate == own[32] and tuned.references == ("sgd32",)


@pytest.mark.parametrize("best, last, at_the_end", [(8, 16, 0), (32, 64, 0), (500, 64, 1)])
def test_larger_rates_are_tried_while_the_largest_is_the_best(best, last, at_the_end):
    config = config_of(batch_sizes=(32,), reference=32, controls=("tuned",), epochs=2)
    found = rates.try_rates(OnlyRates(best), config, None, data.load("digits", num_train=400), arms.sizes(config, 400))
    base = train.scaled_learning_rate(32)
    assert found[-1]["learning_rate"] == pytest.approx(last * base)
    assert rates.chosen(found)[32] == pytest.approx(min(best, 64) * base)
    assert max(row["at_the_end"] for row in found) == at_the_end


def test_the_sweep_at_tuned_rates_is_judged_by_itself():
    accuracy = FALLING | {f"sgd{batch}_tuned": 96.0 for batch in (32, 128, 512, 2048)}
    found, _ = verdicts(made_up(accuracy, RISING, controls=("tuned",)))
    assert found["batch 32 generalizes better than batch 2048, equal epochs"] == "seen"
    same = "not seen (equal within 0.5)"
    assert found["batch 32 generalizes better than batch 2048, equal epochs, tuned rates"] == same
    assert found["sgd2048_tuned generalizes better than sgd2048"] == "seen"


def test_a_batch_beyond_the_images_that_are_not_held_out_is_refused():
    config = config_of(batch_sizes=(32, 128, 400), controls=("tuned",))
    with pytest.raises(ValueError, match=r"controls: expected batches of at most the 320 images .* got 400"):
        rates.check(config, arms.sizes(config, 400))


def test_the_opposite_is_called_so_and_noise_decides_nothing():
    found, _ = verdicts(made_up(dict(zip(FALLING, [94, 95, 96, 97, 97], strict=True)), {}))
    assert found["batch 32 generalizes better than batch 2048, equal epochs"] == "not seen (the opposite is)"
    found, _ = verdicts(made_up({}, {}, sd=3.0))
    assert found["batch 32 generalizes better than batch 2048, equal epochs"].startswith("undecided (detectable effect")


def test_arms_that_do_not_interpolate_are_named_and_not_compared():
    found, whole = verdicts(made_up(FALLING, RISING, train={"sgd2048": 99.8}))
    assert whole.verdict["not_comparable"] == ["sgd2048"]
    assert found[f"{SHARPER}, equal epochs"] == "undecided (not comparable: sgd2048)"
    assert found[f"{SHARPER} at matched training loss, equal epochs"] == "seen"


def test_flat_truths_are_called_seen_at_most_one_time_in_twenty():
    """One-sided binomial bound at 99.9 % for 100 studies of five seeds; means of 95 with a deviation of 1."""
    prepared, measured = made_up({}, {})
    found, seen = tables.ArmTables(prepared.config, measured), 0
    for trial in range(100):
        rng = np.random.default_rng(trial)
        for row in measured["runs"]:
            row["test_acc"] = str(95 + rng.normal())
        tests = claims.difference_tests(found)
        rows = [row for claim, row in tests.items() if claim.family == "accuracy, equal epochs"]
        assert len(rows) == 4
        seen += any(row["paired_adjusted"] <= 0.05 for row in rows)
    assert seen <= scipy_stats.binom.ppf(0.999, 100, 0.05)


def test_one_seed_decides_nothing():
    found, _ = verdicts(made_up(FALLING, RISING, seeds=1))
    assert all(verdict.startswith("undecided") for verdict in found.values())


# The script

TINY = ["--dataset=digits", "--num_train=160", "--width=4", "--num_seeds=2", "--epochs=3", "--batch_sizes=32,128",
        "--snapshots=3", "--curvature_samples=24", "--controls=gd,plain,noise"]  # fmt: skip
KILLER = """
import os, runpy, signal, sys
from pathlib import Path
from ntkgen import io
write = io.atomic_write
def killing(path, data):
    if str(path).endswith(os.environ["KILL"]):
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
io.atomic_write = killing
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def call(forks, environment, tmp_path_factory):
    """Run the script: call(out, *flags, kill=...), in a fork, or in a process of its own if `alone`."""
    killer = tmp_path_factory.mktemp("killer") / "killer.py"
    killer.write_text(KILLER)

    def run(out: Path, *flags: str, kill: str = "", alone: bool = False):
        env, command = {**environment, "KILL": kill}, [SCRIPT, "--verbose", *flags, f"--out_dir={out}"]
        if alone:
            return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=600)
        return forks.run(*([killer] if kill else []), *command, env=env)

    return run


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    """An uninterrupted run, in a process of its own: (folder, output)."""
    out = tmp_path_factory.mktemp("whole")
    done = call(out, *TINY, alone=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    (folder,) = (out / "implicit_regularization").iterdir()
    return folder, done.stdout


def read(folder: Path, name: str) -> list[dict[str, str]]:
    return records.read_table(folder / name)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")
            if path.is_file() and "checkpoints" not in path.parts and path.name != ".lock"}  # fmt: skip


def test_a_run_measures_every_network(whole):
    folder, _ = whole
    names = ["sgd32", "sgd128", "adam", "gd", "gd_plain", "gd_tuned", "gd_quiet", "gd_noise", "gd_noise_zero_sum"]
    runs = read(folder, "runs.csv")
    assert [(row["arm"], row["seed"]) for row in runs] == [(name, str(seed)) for name in names for seed in range(2)]
    for row in runs:
        assert float(row["gap"]) == pytest.approx(float(row["train_acc"]) - float(row["test_acc"]))
        assert float(row["eigenvalue_residual"]) <= 1e-3 or row["eigenvalue_converged"] == "0"
        assert row["power_matvecs"] == "30" and float(row["trace_error"]) > 0 and row["samples"] == "24"
        assert row["comparable"] == str(int(float(row["train_acc"]) >= 99.9))
        assert 0 < float(row["relative_distance"]) < 10 and row["batch_norm"] == "frozen"
    tracking = read(folder, "tracking.csv")
    assert {row["epoch"] for row in tracking if row["arm"] == "sgd32"} == {"0", "1", "3"}
    for row in tracking:
        if row["arm"] == "adam":
            assert row["threshold"] == ""
        else:
            assert float(row["threshold"]) == pytest.approx(2 / float(row["learning_rate"]))
            momentum = 0.0 if row["arm"] == "gd_plain" else 0.9
            assert float(row["momentum_threshold"]) == pytest.approx((1 + momentum) * float(row["threshold"]))
    starts = {row["seed"]: row["sample_loss"] for row in tracking if row["epoch"] == "0"}
    assert all(row["sample_loss"] == starts[row["seed"]] for row in tracking if row["epoch"] == "0")
    assert len(read(folder, "perturbation.csv")) == len(runs) * 14
    assert {row["chosen"] for row in read(folder, "tuning.csv")} == {"0", "1"}
    chosen = [row for row in read(folder, "tuning.csv") if row["chosen"] == "1"]
    assert float(chosen[0]["train_loss"]) == min(float(row["train_loss"]) for row in read(folder, "tuning.csv"))
    assert {row["base_rate"] for row in runs if row["arm"] == "gd_tuned"} == {chosen[0]["learning_rate"]}
    by = {row["arm"]: row for row in runs if row["seed"] == "0"}
    assert len({by[f"gd_{end}"]["train_loss"] for end in ("quiet", "noise", "noise_zero_sum")}) == 3


def test_a_run_keeps_which_test_images_are_right(whole):
    folder, _ = whole
    runs = {(row["arm"], row["seed"]): row for row in read(folder, "runs.csv")}
    rows = read(folder, "correct.csv")
    assert len(rows) == len(runs)
    for row in rows:
        right = common.correctness([row])[row["arm"]]
        assert 100 * right.mean() == pytest.approx(float(runs[row["arm"], row["seed"]]["test_acc"]), abs=1e-3)
    tests = [row for row in read(folder, "tests.csv") if row["metric"] == "test_acc"]
    assert tests and all(float(r["crossed_low"]) <= float(r["difference"]) <= float(r["crossed_high"]) for r in tests)
    levels = {row["target"] for row in read(folder, "equal_loss_curves.csv")}
    assert levels == {"0.1", "0.03", "0.01", "0.003"} and read(folder, "equal_loss.csv")


def test_a_run_writes_verdicts_and_figures(whole):
    folder, stdout = whole
    verdict = json.loads((folder / "verdict.json").read_text())
    for name in ("H1", "H2"):
        undecided = 0
        for row in verdict[name]:
            assert row["verdict"].startswith(("seen", "not seen", "undecided ("))
            undecided += row["verdict"].startswith("undecided")
            printed = f"{name}: {row['relation']}: {row['verdict']}\n" in stdout
            assert printed != row["verdict"].startswith("undecided")
        assert f"{name}: {undecided} of {len(verdict[name])} relations undecided\n" in stdout
    for name in ("accuracy_and_sharpness", "over_losses", "matched", "along_training"):
        assert (folder / f"{name}.png").stat().st_size > 20_000 and f"{name}.png" in stdout
    rows = {row["metric"]: row for row in read(folder, "comparison.csv")}
    assert rows["test_acc"]["published"] == ""  # another protocol
    assert read(folder, "tests.csv") and read(folder, "trends.csv") and (folder / "finished.json").exists()


@pytest.mark.slow
def test_a_run_killed_twice_goes_on_and_ends_the_same(whole, call, tmp_path):
    """Some arms are trained first, with --only: they are part of the same run, and tune nothing."""
    some = call(tmp_path, *TINY, "--only=gd_plain,gd")
    assert some.returncode == 0, some.stderr
    (folder,) = (tmp_path / "implicit_regularization").iterdir()
    assert {path.name for path in (folder / "parts").iterdir()} == {"arm_gd.json", "arm_gd_plain.json"}
    assert not (folder / "finished.json").exists()
    shown = [line.split()[:3] for line in some.stdout.splitlines() if "test_acc" in line]
    assert shown == [["gd", "test_acc", "-"], ["gd_plain", "test_acc", "-"]]
    for kill in ("parts/tuning.json", "parts/arm_sgd128.json"):
        done = call(tmp_path, *TINY, kill=kill)
        assert done.returncode == -9, done.stderr
    (folder,) = (tmp_path / "implicit_regularization").iterdir()
    part = folder / "parts" / "arm_sgd32.json"  # somebody edits what the first arm gave
    text = part.read_text()
    part.write_text(text.replace('"train_acc": ', '"train_acc": 1', 1))
    assert part.read_text() != text
    done = call(tmp_path, *TINY)
    assert done.returncode == 0, done.stderr
    assert "arm_sgd32.json is damaged (its checksum does not match); set aside as damaged-arm_sgd32.json" in done.stderr
    (folder / "parts" / "damaged-arm_sgd32.json").unlink()
    ours, theirs = files(folder), files(whole[0])
    assert ours.keys() == theirs.keys() and [name for name in ours if ours[name] != theirs[name]] == []


def test_a_finished_run_is_not_done_again(whole, call):
    folder, stdout = whole
    before = files(folder)
    done = call(folder.parent.parent, *TINY)
    assert done.returncode == 0 and "is finished" in done.stderr and stdout == done.stdout
    assert files(folder) == before


def test_a_study_that_diverges_ends_with_tables_and_figures_that_say_so(call, tmp_path):
    flags = ["--controls=none", "--track=light", "--num_seeds=1", "--lr_scaling=fixed", "--lr=1e30"]
    done = call(tmp_path, *TINY, *flags)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    (folder,) = (tmp_path / "implicit_regularization").iterdir()
    lost = {row["arm"]: row["diverged"] for row in read(folder, "runs.csv")}
    assert lost == {"sgd32": "1", "sgd128": "1", "adam": "0", "gd": "0"}  # the others have rates of their own
    for name in ("accuracy_and_sharpness", "matched", "along_training"):
        assert (folder / f"{name}.png").exists()


QUICK = {"preset": "quick", "width": 4, "num_train": 160, "num_seeds": 2, "epochs": 2, "batch_sizes": (128,),
         "snapshots": 2, "curvature_samples": 24, "controls": ("sam",), "track": "light"}  # fmt: skip


@pytest.mark.slow
def test_a_study_runs_from_python_and_other_studies_of_its_networks_train_nothing(tmp_path, monkeypatch, capsys):
    first = implicit_regularization.run(out_dir=tmp_path, **QUICK)
    assert {*STUDY.tables, "summary", "tests", "equal_loss", "trends"} <= first.tables.keys()
    assert {name for name, path in first.figures.items() if path.stat().st_size} >= {"matched", "along_training"}
    assert len(first.tables["runs"]) == 2 * len({row["arm"] for row in first.tables["runs"]}) == 8
    networks = {path.name for path in (tmp_path / "networks").iterdir()}
    assert len(networks) == 4 and all(path.is_symlink() for path in (first.folder / "checkpoints").iterdir())

    def train_epoch(*_):
        raise AssertionError("a network is trained again")

    monkeypatch.setattr(ensemble.programs, "train_epoch", train_epoch)
    again = implicit_regularization.run(out_dir=tmp_path, **QUICK)
    assert "is finished" in capsys.readouterr().err
    assert (again.tables["runs"], again.verdict) == (first.tables["runs"], first.verdict)

    other = implicit_regularization.run(out_dir=tmp_path, **{**QUICK, "curvature_samples": 32})
    assert other.folder != first.folder and {path.name for path in (tmp_path / "networks").iterdir()} == networks
    both = [{(row["arm"], row["seed"]): row["test_loss"] for row in one.tables["runs"]} for one in (first, other)]
    assert both[0] == both[1]


def test_some_images_are_data_of_their_own():
    whole = data.load("digits")
    some = [first_images(whole, count) for count in (100, 101)]
    assert [each.num_train for each in some] == [100, 101] and len(some[0].train.y) == 100
    assert len({whole.digest, some[0].digest, some[1].digest}) == 3
    assert (
        first_images(data.load("digits", num_train=150), 100).digest
        == first_images(data.load("digits", num_train=120), 100).digest
    )  # a larger subset begins with the smaller one
    assert first_images(whole, whole.num_train) is whole


REFUSED = [
    ("--controls=steps,magic", "controls"),
    ("--controls=steps,steps", "controls"),
    ("--batch_sizes=32,100,128", "--batch_sizes: the published table has"),
    ("--batch_sizes=32,256", "--reference: expected one of --batch_sizes=32,256, got 128"),
    ("--batch_sizes=128,512", "--batch_sizes: expected at most the 160 training examples, got 512"),
    (
        "--num_train=128",
        "--controls: expected batches of more than the 128 of --reference for noise, got 128 in gd_noise",
    ),
    (
        "--only=gd,gd_none",
        "--only: expected some of sgd32, sgd128, adam, gd, gd_plain, gd_tuned, gd_quiet, gd_noise, "
        "gd_noise_zero_sum, got gd_none",
    ),
    ("--curvature_samples=161", "--curvature_samples: expected 3 to 160"),
    ("--curvature_samples=2", "--curvature_samples: expected 3 to 160"),
    ("--channels=4", "--channels: expected no such setting with --model=mlp"),
    ("--lr=0.1", "--lr: expected no such setting with --lr_scaling=table"),
    ("--match=tokens", "one of epochs, steps, both"),
    ("--sam_rho=0", "sam_rho"),
    ("--batch_sizes=32,32,128", "batch_sizes"),
    ("--snapshots=1000000000", "snapshots"),
    ("--width=1000000000", "--width: "),
    ("--lr_scaling=linear --lr=1e308 --reference=32", "--lr: "),
    ("--track=some", "one of all, light"),
    ("--preset=quick --dataset=mnist", "--dataset: expected embedded data"),
]


def test_mistakes_end_in_one_line_and_nothing_written(call, tmp_path):
    for flag, words in REFUSED:
        done = call(tmp_path / "out", *TINY, *flag.split())
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, (flag, done.stderr)
    assert not list(tmp_path.iterdir())
