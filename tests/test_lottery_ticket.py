"""The lottery-ticket study: its arms and measurements, its verdicts, and the script as a user runs it."""

import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as scipy_stats
from test_experiments import DRIVER, WRAPPER, contents, succeeded

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))

import lottery_ticket_arms as arms
import lottery_ticket_measures as measures
import lottery_ticket_tables as tables

from ntkgen import data, ensemble, matching, models, objectives, pruning, records, train

ROOT = Path(__file__).resolve().parent.parent
STUDY = ROOT / "experiments" / "lottery_ticket.py"

# Arms and measurements, in this process

SEEDS, EPOCHS = [3, 4], 2
CONFIG = {
    "keep": [100, 50, 10], "arms": list(arms.ARMS), "rewind_epoch": 1, "scope": "global", "one_shot": False,
    "prune_head": True, "measure_at": [100, 50, 10], "barrier_arms": ["ticket", "rewound"], "evaluate_at": [1, 2],
    "hessian_samples": 50, "strategy": "auto",
}  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    dataset = data.load("digits", num_train=100)
    training = train.Config(EPOCHS, 10, 0.1)
    run = records.Run(tmp_path_factory.mktemp("run"), False)
    return arms.Lab(run, models.MLP(6, depth=3), dataset, training, SEEDS, CONFIG, lambda name: lambda *_: None)


@pytest.fixture(scope="module")
def trained(lab, request):
    """(arm, percent) -> Trained, and the programs compiled at the last level of the ticket and its controls."""
    from conftest import count_compilations

    found, measured = {}, {}
    levels = arms.train_all(lab)

    def take(until):
        for one in levels:
            found[one.arm, one.keep] = one
            if one.keep in CONFIG["measure_at"] and one.arm != "other_order":
                measured[one.arm, one.keep] = measures.measure(lab, one)
            if (one.arm, one.keep) == until:
                return

    with count_compilations() as first:
        take(("random", 50))
    with count_compilations() as later:
        take(("random", 10))
    take(None)
    return found, measured, (first, later)


def test_a_new_level_compiles_nothing(trained):
    first, later = trained[2]
    assert any("_epoch" in name for name in first) and any("_select" in name for name in first)
    assert later == []


def test_every_arm_is_trained_at_every_level(trained, lab):
    found = trained[0]
    pruned = {(arm, keep) for arm in arms.ARMS for keep in (50, 10)}
    assert set(found) == pruned | {("ticket", 100), ("other_order", 100)}
    names = arms.trainings(CONFIG)
    made = {path.name for path in (lab.run.folder / "checkpoints").iterdir()}
    assert {name for name in made if not name.startswith("measured_")} == set(names)
    assert len(names) == len(set(names)) == len(found) + 4  # children of two arms at two levels


def test_arms_differ_in_what_they_should_and_nothing_else(trained, lab):
    found = trained[0]
    total = {layer: mask.shape[1:] for layer, mask in pruning.layers_of("masks", found["ticket", 10].masks).items()}
    size = sum(np.prod(shape) for shape in total.values())

    def counts(arm, keep):
        layers = pruning.layers_of("masks", found[arm, keep].masks).values()
        return np.stack([np.asarray(mask).reshape(len(SEEDS), -1).sum(1) for mask in layers])

    for keep in (50, 10):
        for arm in arms.ARMS:
            assert counts(arm, keep).sum(0).tolist() == [pruning.keep_count(int(size), keep / 100)] * len(SEEDS)
        np.testing.assert_array_equal(counts("random_layer", keep), counts("ticket", keep))
        same = functools.partial(jax.tree.map, lambda a, b: np.array_equal(a, b))
        one, ticket = found["reinit", keep], found["ticket", keep]
        assert all(jax.tree.leaves(same(one.masks, ticket.masks)))
        assert not any(
            np.any(a * b) and np.array_equal(a, b)
            for a, b in zip(*map(jax.tree.leaves, (one.start, ticket.start)), strict=True)
        )
        for arm in ("ticket", "random_layer", "random", "one_shot", "other_order"):
            kept = pruning.apply_masks(lab.initial["params"], found[arm, keep].masks)
            assert all(jax.tree.leaves(same(found[arm, keep].start["params"], kept)))
    # The rewound ticket begins with what an epoch of the whole network's training gives.
    full = pruning.full_masks(lab.initial["params"])
    after = ensemble.fit(
        lab.model, lab.dataset, lab.training, SEEDS, init=lab.initial, masks=full, probes=((1,), lambda params: params)
    ).probes
    kept = pruning.apply_masks(jax.tree.map(lambda leaf: leaf[:, 0], after), found["rewound", 10].masks)
    assert all(jax.tree.leaves(same(found["rewound", 10].start["params"], kept)))
    assert np.isnan(found["rewound", 10].result.history["train_loss"][:, 0]).all()
    # One shot and level by level agree at the first level and part at the second.
    assert all(jax.tree.leaves(same(found["one_shot", 50].masks, found["ticket", 50].masks)))
    assert not all(jax.tree.leaves(same(found["one_shot", 10].masks, found["ticket", 10].masks)))


def test_the_initialisation_is_that_of_a_fit(trained, lab):
    plain = ensemble.fit(lab.model, lab.dataset, lab.training, SEEDS)
    jax.tree.map(np.testing.assert_array_equal, plain.initial, lab.initial)
    other = lab.dense_other_order
    jax.tree.map(np.testing.assert_array_equal, other.initial, lab.initial)
    assert not np.allclose(
        other.variables["params"]["dense0"]["kernel"], lab.dense.variables["params"]["dense0"]["kernel"]
    )


def test_the_eigenvalue_is_that_of_the_hessian_among_the_kept_weights(trained, lab):
    found, measured, _ = trained
    one, s = found["ticket", 10], 1
    variables, masks = (
        jax.tree.map(lambda leaf: np.asarray(leaf)[s], tree) for tree in (one.result.variables, one.masks)
    )
    flat, unravel = jax.flatten_util.ravel_pytree(variables["params"])
    kept = np.flatnonzero(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(masks)]))
    x, y = lab.sample

    def loss(own):
        params = unravel(jnp.asarray(flat).at[kept].set(own))
        return jnp.mean(objectives.cross_entropy(lab.model.apply({"params": params}, x), y))

    hessian = np.asarray(jax.jit(jax.hessian(loss))(flat[kept]), np.float64)
    top = np.linalg.eigvalsh(hessian)[-1]
    values = measured["ticket", 10]
    assert values["eigenvalue_converged"][s] == 1 and values["eigenvalue_residual"][s] <= 1e-3
    np.testing.assert_allclose(values["eigenvalue"][s], top, rtol=2e-3)
    np.testing.assert_allclose(values["sample_loss"][s], loss(flat[kept]), rtol=1e-4)


def test_stability_is_measured_where_asked(trained, lab):
    measured = trained[1]
    for (arm, keep), values in measured.items():
        assert np.isfinite(values["sharpness"]).all() and np.all(values["sharpness_se"] > 0)
        asked = keep == 100 or arm in CONFIG["barrier_arms"]
        assert np.isfinite(values["excess"]).all() == asked == np.isfinite(values["child_test_acc"]).all()
        if asked:
            assert np.all(values["excess"] >= 0) and np.all(values["barrier"] >= values["excess"] - 100)
    # The ends of the line are the two children.
    line = measures._barrier(lab, trained[0]["ticket", 100], lab.dense_other_order)
    np.testing.assert_allclose(line["child_test_acc"], 100 * lab.dense_other_order.history["test_accuracy"][:, -1])
    error = measures._errors(lab.model, train.Batch(*lab.dataset.test), lab.dense_other_order.variables)
    np.testing.assert_allclose(100 - error, line["child_test_acc"], rtol=1e-5)


def test_overlaps_compare_what_they_say(trained, lab):
    found = trained[0]
    masks = {key: one.masks for key, one in found.items() if key[0] in ("ticket", "other_order")}
    rows = measures.overlaps(lab, masks)
    kinds = {
        "other batch order",
        "other batch order, one shot",
        "other initialisation",
        "other init., units matched",
        "shuffled, units matched",
    }
    assert {row["kind"] for row in rows} == kinds and {row["keep_percent"] for row in rows} == {50, 10}
    for row in rows:
        pair = (row["seed"], row["other_seed"])
        assert pair == ((3, 3) if pair[0] == pair[1] == 3 else (4, 4) if pair[0] == pair[1] else (3, 4))
    (one,) = (row for row in rows if row["kind"] == "other initialisation" and row["keep_percent"] == 50
              and row["layer"] == "dense1/kernel")  # fmt: skip
    a, b = np.asarray(masks["ticket", 50]["dense1"]["kernel"])
    assert one["jaccard"] == (a & b).sum() / (a | b).sum() if (a | b).any() else np.isnan(one["jaccard"])
    # A copy with its units in another order is the same ticket once they are matched.
    order = [np.array([3, 1, 0, 2, 5, 4]), np.array([5, 4, 3, 2, 1, 0])]
    chain = models.unit_chain(lab.model)
    params = jax.tree.map(np.asarray, lab.dense.variables["params"])
    twins = {"params": jax.tree.map(lambda leaf: leaf.copy(), params)}
    moved = matching.permute_units(jax.tree.map(lambda leaf: leaf[0], params), order, *chain)
    jax.tree.map(lambda leaf, new: leaf.__setitem__(1, new), twins["params"], moved)
    ticket = jax.tree.map(lambda leaf: np.array(leaf), masks["ticket", 50])
    other = matching.permute_units(jax.tree.map(lambda leaf: leaf[0], ticket), order, *chain)
    jax.tree.map(lambda leaf, new: leaf.__setitem__(1, new), ticket, other)
    config = {**CONFIG, "keep": [100, 50], "measure_at": [50], "arms": ["ticket"]}
    copy = arms.Lab(lab.run, lab.model, lab.dataset, lab.training, SEEDS, config, lab.report)
    copy.__dict__["dense"] = lab.dense._replace(variables=twins)
    rows = [
        row for row in measures.overlaps(copy, {("ticket", 50): ticket}) if row["kind"] == "other init., units matched"
    ]
    assert rows and all(row["jaccard"] == 1 for row in rows if row["kept"])


# Verdicts


def finals(accuracies):
    """Rows of `finals` from {(arm, percent): accuracies of the seeds}."""
    empty = dict.fromkeys(tables.MEASURED)
    return [
        {"arm": arm, "keep_percent": keep, "seed": seed, "diverged": 0, "unconverged": 0, "train_acc": 100.0,
         "test_acc": value, "gap": 100 - value, "epochs_to_loss": 3, "epochs_to_loss_after": 2, **empty}
        for (arm, keep), values in accuracies.items() for seed, value in enumerate(values)
    ]  # fmt: skip


FULL = np.array([84.0, 85.0, 84.5, 85.5, 84.8])
JITTER = np.array([0.1, -0.1, 0.05, -0.05, 0.0])


def study(at70, at30, at10, reinit, noise=JITTER):
    """A study whose means differ from the whole network's (from the ticket's, for `reinit`) by so much."""
    return finals(
        {
            ("ticket", 100): FULL,
            ("ticket", 70): FULL + at70 + noise,
            ("ticket", 30): FULL + at30 + noise[::-1],
            ("ticket", 10): FULL + at10 + noise,
            ("reinit", 10): FULL + at10 + reinit - noise,
        }
    )


@pytest.mark.parametrize(
    ("differences", "noise", "expected"),
    [
        ((0.3, 0.1, -0.6, -2.8), JITTER, ["seen"] * 4),
        ((-0.3, -0.9, -2.0, 1.0), JITTER, ["not seen"] * 4),
        ((0.0, 0.0, 0.0, 0.0), JITTER, ["undecided", "seen", "seen", "not seen"]),
        ((0.3, 0.6, -1.2, -0.4), 40 * JITTER, ["undecided"] * 4),
    ],
)
def test_the_relations_are_seen_or_not(differences, noise, expected):
    found = tables.relations(study(*differences, noise=noise), {2: -1.15, 3: 2.8})
    assert [row["verdict"].split(":")[0] for row in found] == expected
    assert [row["published"] for row in found] == [None, None, -1.15, 2.8]
    for row in found:
        if row["verdict"].startswith("undecided"):
            assert f"{row['detectable']:.2f} points" in row["verdict"]


def test_the_p_values_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(84, 1, 5), rng.normal(84.5, 1, 5)
    for shift in (-1.2, 0.0, 0.7):
        expected = scipy_stats.ttest_rel(a, b + shift, alternative="greater").pvalue
        assert tables.above(a, b, shift) == pytest.approx(expected, rel=1e-9)
    found = tables.relations(finals({("ticket", 100): b, ("ticket", 70): a, ("ticket", 30): a, ("ticket", 10): a}), {})
    assert found[3]["verdict"] == "undecided: reinit at 10 % was not trained"
    lower, upper = (
        scipy_stats.ttest_rel(a, b + side * 0.5, alternative=other).pvalue
        for side, other in ((-1, "greater"), (1, "less"))
    )
    assert found[1]["p_for"] == pytest.approx(max(lower, upper))
    assert found[1]["p_against"] == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
    assert found[2]["p_for"] == pytest.approx(scipy_stats.ttest_rel(a + 1.2, b, alternative="greater").pvalue)
    values = [row[f"p_{side}"] for row in found[:3] for side in ("for", "against")]
    adjusted = [row[f"adjusted_{side}"] for row in found[:3] for side in ("for", "against")]
    np.testing.assert_allclose(adjusted, scipy_stats.false_discovery_control(values))


def test_relations_that_do_not_hold_are_rarely_seen():
    rng, seen = np.random.default_rng(1), 0
    for _ in range(300):  # nothing gained at 70 %, 0.5 lost at 30 %, 1.2 at 10 %, no difference when drawn anew
        noise = rng.normal(0, 0.3, (4, 5))
        rows = finals({("ticket", 100): FULL, ("ticket", 70): FULL + noise[0], ("ticket", 30): FULL - 0.5 + noise[1],
                       ("ticket", 10): FULL - 1.2 + noise[2], ("reinit", 10): FULL - 1.2 + noise[3]})  # fmt: skip
        seen += any(row["verdict"] == "seen" for row in tables.relations(rows, {}))
    assert seen <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)


def runs_rows(losses, diverged=0):
    return [{"arm": "ticket", "keep_percent": "50", "seed": "0", "epoch": str(epoch), "train_loss": repr(loss),
             "train_acc": "90.0", "test_acc": repr(80.0 + epoch), "diverged": str(diverged)}
            for epoch, loss in losses.items()]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "expected"),
    [({1: 0.9, 2: 0.3, 4: 0.1, 9: 0.05}, (4, 2)), ({1: 0.1, 4: 0.2}, (1, None)), ({1: 0.9, 4: 0.2}, (None, None))],
)
def test_the_epoch_that_reaches_the_loss_has_a_resolution(losses, expected):
    (row,) = tables.finals(runs_rows(losses), [], 0.1)
    assert (row["epochs_to_loss"], row["epochs_to_loss_after"]) == expected
    assert row["test_acc"] == 80 + max(losses) and row["gap"] == 10 - max(losses)


def test_diverged_seeds_and_eigenvalues_that_did_not_converge_are_marked():
    (row,) = tables.finals(runs_rows({1: 0.05, 2: float("nan")}, diverged=1), [], 0.1)
    assert np.isnan(row["test_acc"]) and row["epochs_to_loss"] is None and row["diverged"] == 1
    measured = {"arm": "ticket", "keep_percent": "50", "seed": "0", "eigenvalue_converged": "0.0",
                **dict.fromkeys(tables.MEASURED, "2.0")}  # fmt: skip
    rows = tables.finals(runs_rows({1: 0.05}), [measured], 0.1)
    assert rows[0]["eigenvalue"] is None and rows[0]["sharpness"] == "2.0"
    (summary,) = tables.summarise(rows)
    assert summary["num_unconverged"] == 1 and summary["eigenvalue_mean"] is None and summary["sharpness_mean"] == 2


# The script

TINY = [
    "--dataset=digits", "--width=8", "--depth=2", "--num_seeds=2", "--num_train=120", "--batch_size=60", "--epochs=2",
    "--hessian_samples=60", "--keep=100,30,10", "--measure_at=100,10", "--arms=ticket,rewound,reinit",
    "--rewind_epoch=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    kept = {name: value for name, value in os.environ.items() if name not in ("NTKGEN_DATA_DIR", "TFDS_DATA_DIR")}
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("jax")),
             "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    return {**kept, **cache, "PYTHONPATH": str(ROOT), "GIT_DIR": "/nonexistent"}


@pytest.fixture(scope="module")
def call(environment, tmp_path_factory):
    wrapper = tmp_path_factory.mktemp("wrapper") / "wrapper.py"
    wrapper.write_text(WRAPPER)

    def run(*flags, out, **more):
        command = [sys.executable, wrapper, STUDY, *flags, f"--out_dir={out}"]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    stdout = succeeded(call(*TINY, out=out, LOG=str(out / "log")))
    (folder,) = (out / "lottery_ticket").iterdir()
    return folder, stdout, (out / "log").read_text().splitlines()


def test_a_run_writes_its_tables_and_figures(whole):
    folder, stdout, _ = whole
    names = {"accuracy.png", "measures.png", "overlap.png", "comparison.csv", "config.json", "finished.json",
             "layout.json", "measures.csv", "overlap_summary.csv", "overlaps.csv", "runs.csv", "sparsity.csv",
             "summary.csv", "tests.csv", "verdict.json"}  # fmt: skip
    assert set(contents(folder)) == names
    runs = records.read_table(folder / "runs.csv")
    arms_run = {(row["arm"], row["keep_percent"]) for row in runs}
    assert arms_run == {("ticket", "100")} | {(arm, k) for arm in ("ticket", "rewound", "reinit") for k in ("30", "10")}
    measured = records.read_table(folder / "measures.csv")
    assert {(row["arm"], row["keep_percent"]) for row in measured} == {key for key in arms_run if key[1] != "30"}
    assert all(row["samples"] == "60" and row["batch_norm"] == "frozen" for row in measured)
    kept = {int(row["kept"]) for row in records.read_table(folder / "sparsity.csv") if row["keep_percent"] == "100"}
    assert kept == {64 * 8, 8 * 10}
    verdicts = json.loads((folder / "verdict.json").read_text())
    assert len(verdicts) == 4 and verdicts[0]["verdict"] == "undecided: ticket at 70 % was not trained"
    assert all(row["claim"] in stdout and row["verdict"] in stdout for row in verdicts)
    rows = records.read_table(folder / "comparison.csv")
    assert [row["published"] for row in rows if row["setting"] == "difference"] == ["", "", "-1.15", "2.8"]
    assert all(row["published"] == "" for row in rows if row["setting"] != "difference")  # another protocol


def test_a_killed_run_ends_as_if_it_never_was(call, whole, tmp_path):
    done = call(*TINY, out=tmp_path, KILL="before save 9", LOG=str(tmp_path / "log"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert succeeded(call(*TINY, out=tmp_path, LOG=str(tmp_path / "log")))
    (folder,) = (tmp_path / "lottery_ticket").iterdir()
    one, two = contents(whole[0]), contents(folder)
    assert [name for name in one if one[name] != two[name]] == [] and sorted(one) == sorted(two)
    saved = (tmp_path / "log").read_text().splitlines()
    assert len(saved) == len(whole[2]) + 1  # nothing was done twice but what was lost


def test_a_cnn_runs(call, tmp_path):
    flags = ["--dataset=digits", "--model=cnn", "--channels=1", "--num_seeds=2", "--num_train=64", "--batch_size=32",
             "--epochs=1", "--keep=100,20", "--measure_at=100", "--arms=ticket", "--hessian_samples=32"]  # fmt: skip
    stdout = succeeded(call(*flags, out=tmp_path))
    (folder,) = (tmp_path / "lottery_ticket").iterdir()
    assert "CNN on digits" in stdout
    kinds = {row["kind"] for row in records.read_table(folder / "overlaps.csv")}
    assert {"other batch order, one shot", "other init., units matched"} <= kinds
    for row in records.read_table(folder / "measures.csv"):
        assert float(row["excess"]) >= 0 and float(row["eigenvalue_residual"]) < np.inf


BAD = {
    "--keep=100,50,60": "--keep: expected percents that strictly decrease from 100, got",
    "--keep=50,20": "--keep: expected percents that strictly decrease from 100, got",
    "--keep=100,0": "--keep: expected percents in (0, 100], got '100,0'",
    "--keep=120,50": "--keep: expected percents in (0, 100], got",
    "--keep=100,half": "--keep: expected percents in (0, 100], got",
    "--measure_at=40": "--measure_at: expected percents of --keep",
    "--arms=ticket,lucky": "--arms: expected some of",
    "--arms=reinit": "--arms: expected ticket",
    "--arms=ticket --barrier_arms=rewound": "--barrier_arms: expected arms of --arms",
    "--arms=ticket --rewind_epoch=2": "--rewind_epoch: expected no such flag without the arm rewound, got 2",
    "--arms=ticket,one_shot --one_shot": "--arms: expected no one_shot with --one_shot",
    "--rewind_epoch=5 --epochs=5": "--rewind_epoch: expected 1 ... 4, before the last of the epochs, got 5",
    "--rewind_epoch=0": "flag --rewind_epoch=0: expected a whole number from 1",
    "--hessian_samples=2000": "--hessian_samples: expected at most the 1297 training examples, got 2000",
    "--channels=4": "--channels: expected no such flag with --model=mlp, got 4",
    "--scope=local": "--scope",
    "--preset=quick --dataset=mnist": "--preset=quick: expected embedded data",
}


def test_bad_input_ends_in_one_line(environment, tmp_path):
    commands = [["--dataset=digits", *flags.split(), f"--out_dir={tmp_path}"] for flags in BAD]
    done = subprocess.run([sys.executable, "-c", DRIVER, STUDY], input=json.dumps(commands), env=environment,
                          capture_output=True, text=True, timeout=200)  # fmt: skip
    assert done.returncode == 0, done.stderr
    for expected, (code, out, err) in zip(BAD.values(), json.loads(done.stdout), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert expected in err, err
    assert not list(tmp_path.iterdir())
