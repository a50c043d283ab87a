"""The lottery-ticket study: its arms and measurements, its verdicts, and the script as a user runs it."""

import dataclasses
import functools
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle
from scipy import stats as scipy_stats
from test_experiments import WRAPPER, contents, succeeded

from ntkgen import data, ensemble, io, models, pruning, records, stats, studies, train
from ntkgen.studies import options
from ntkgen.studies.lottery_ticket import (
    STUDY,
    Config,
    _comparisons,
    _controls,
    _overlap,
    _published,
    _sharpness,
    _verdict,
)
from ntkgen.studies.lottery_ticket import _arms as arms
from ntkgen.studies.lottery_ticket import _tables as tables
from ntkgen.studies.lottery_ticket._controls import WHOLE

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "lottery_ticket.py"

# Arms and measurements, in this process

SEEDS, EPOCHS = [3, 4], 2
CONFIG = Config(
    model="mlp", seed=3, num_seeds=2, epochs=EPOCHS, keep=(100, 50, 10), arms=tuple(_controls.ARMS), rewind_epoch=1,
    measure_at=(100, 50, 10), barrier_arms=("ticket", "rewound"), hessian_samples=50, matched_loss=0.1,
)  # fmt: skip


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    dataset = data.load("digits", num_train=100)
    training = train.Config(EPOCHS, 10, 0.1)
    run = records.Run(tmp_path_factory.mktemp("run"), False)
    return arms.Lab(run, CONFIG, models.MLP(6, depth=3), dataset, training, lambda *_: lambda *_: None)


@pytest.fixture(scope="module")
def trained(lab, request):
    """Arm at level -> TrainedArm, and the programs compiled at the last level of the ticket and its controls."""
    from compilations import count_compilations

    found, measured = {}, {}
    levels, last = arms.train_all(lab), _controls.CONTROLS[-1]

    def take(until):
        for one in levels:
            found[one.at] = one
            if one.at.keep in CONFIG.measure_at and one.at.arm != "other_order":
                measured[one.at] = _sharpness.measure_networks(lab, one)
            if one.at == until:
                return

    jax.clear_caches()  # a worker may come back to this module, and has the programs then
    with count_compilations() as first:
        take((last, 50))
    with count_compilations() as later:
        take((last, 10))
    take(None)
    return found, measured, (first, later)


def test_a_new_level_compiles_nothing(trained):
    first, later = trained[2]
    assert any("_epoch" in name for name in first) and any("_select" in name for name in first)
    assert later == []


def test_every_arm_is_trained_at_every_level(trained, lab):
    found = trained[0]
    pruned = {(arm, keep) for arm in _controls.ARMS for keep in (50, 10)}
    assert set(found) == pruned | {("ticket", 100), ("other_order", 100)}
    names = arms.trainings(CONFIG)
    assert {path.name for path in (lab.run.folder / "checkpoints").iterdir()} == set(names)
    assert len(names) == len(set(names)) == len(found) + 4  # children of two arms at two levels


def test_arms_differ_in_what_they_should_and_nothing_else(trained, lab):
    found = trained[0]
    total = {layer: mask.shape[1:] for layer, mask in pruning.layers_of("masks", found["ticket", 10].masks).items()}
    size = sum(np.prod(shape) for shape in total.values())

    def counts(arm, keep):
        layers = pruning.layers_of("masks", found[arm, keep].masks).values()
        return np.stack([np.asarray(mask).reshape(len(SEEDS), -1).sum(1) for mask in layers])

    for keep in (50, 10):
        for arm in _controls.ARMS:
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


def kept_values(one, s):
    """The kept weights that one seed begins with, layer by layer."""
    starts, masks = (
        pruning.layers_of("tree", jax.tree.map(lambda leaf: np.asarray(leaf)[s], each))
        for each in (one.start["params"], one.masks)
    )
    return {layer: starts[layer][masks[layer]] for layer in starts}


@pytest.mark.parametrize("keep", [50, 10])
def test_controls_change_what_their_table_says(trained, lab, keep):
    found = {arm: one for (arm, level), one in trained[0].items() if level == keep}
    masks = {arm: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(one.masks)]) for arm, one in found.items()}
    biases = {arm: np.asarray(one.start["params"]["dense0"]["bias"]) for arm, one in found.items()}
    same_mask = {_controls.TICKET: "ticket", _controls.LAYER_COUNTS: "random_layer", _controls.TOTAL: "random"}
    for arm in _controls.CONTROLS:
        _, mask, values, _ = _controls.ARMS[arm]
        np.testing.assert_array_equal(masks[arm], masks[same_mask[mask]])
        np.testing.assert_array_equal(biases[arm], biases["reinit" if values == _controls.NEW else "ticket"])
    assert not np.array_equal(biases["reinit"], biases["ticket"])
    for s in range(len(SEEDS)):
        own = {arm: kept_values(found[arm], s) for arm in _controls.CONTROLS}
        ticket = kept_values(found["ticket"], s)
        for layer, before in ticket.items():
            for arm in ("shuffled", "random_layer_shuffled"):
                np.testing.assert_array_equal(np.sort(own[arm][layer]), np.sort(before))
            assert len(before) < 3 or not np.array_equal(own["shuffled"][layer], before)
            # The same draws, times one factor that gives them the survivors' scale.
            std, draws = own["reinit_std"][layer], own["reinit"][layer]
            np.testing.assert_allclose(std / draws, np.sqrt(np.sum(before**2) / np.sum(draws**2)), rtol=1e-4)
        everything = (np.sort(np.concatenate(list(each.values()))) for each in (own["random_shuffled"], ticket))
        np.testing.assert_array_equal(*everything)
        # The draws of PyTorch's rule for all inputs, rescaled to it for the inputs that a unit keeps.
        drawn = jax.tree.map(lambda leaf, s=s: np.asarray(leaf)[s], lab.redrawn["params"])
        for arm in ("reinit_fan_in", "random_layer_fan_in", "random_fan_in"):
            for layer, start in found[arm].start["params"].items():
                kernel, inputs = np.asarray(start["kernel"])[s], np.asarray(found[arm].masks[layer]["kernel"])[s]
                bound = 1 / np.sqrt(np.maximum(inputs.sum(0), 1))
                assert np.all(abs(kernel) <= bound * (1 + 1e-6))
                expected = np.where(inputs, drawn[layer]["kernel"] * np.sqrt(len(kernel)) * bound, 0)
                np.testing.assert_allclose(kernel, expected, rtol=1e-5)


def test_pairs_that_change_one_thing_agree_in_the_two_others():
    columns = {"values": "values", "scale": "scale", "mask": "mask", "layer counts": "mask"}
    for change, pairs in _controls.COMPARISONS.items():
        for first, second in pairs:
            a, b = (_controls.ARMS[arm]._asdict() for arm in (first, second))
            differ = {name for name in ("mask", "values", "scale") if a[name] != b[name]}
            if {first, second} == {"ticket", "shuffled"} or change != "scale" or first.startswith("reinit"):
                assert differ == {columns[change]}
            else:  # to a random mask the initialisation is as good as a new draw
                assert differ == {"scale", "values"} and b["values"] == _controls.OWN


def test_what_is_drawn_has_keys_of_its_own(lab):
    children = (arms.REINIT, arms.MASKS, arms.NOISE, arms.LANCZOS, arms.WARM, arms.VALUES)
    drawn = [jax.random.key_data(lab.keys(child)) for child in children]
    for s, seed in enumerate(SEEDS):
        training = [jax.random.key_data(key) for key in train.run_keys(seed)]
        keys = {tuple(np.asarray(key).tolist()) for key in (*training, *(each[s] for each in drawn))}
        assert len(keys) == len(training) + len(children)


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
        return jnp.mean(train.cross_entropy(lab.model.apply({"params": params}, x), y))

    hessian = np.asarray(oracle.jit_once(jax.hessian(loss))(flat[kept]), np.float64)
    top = np.linalg.eigvalsh(hessian)[-1]
    values = measured["ticket", 10]
    assert values["eigenvalue_converged"][s] == 1 and values["eigenvalue_residual"][s] <= 1e-3
    np.testing.assert_allclose(values["eigenvalue"][s], top, rtol=2e-3)
    np.testing.assert_allclose(values["sample_loss"][s], loss(flat[kept]), rtol=1e-4)


@pytest.fixture(scope="module")
def learned(lab):
    """The whole networks, trained far enough to reach any loss: seeds of a made-up result of their own."""
    dataset = lab.dataset
    result = ensemble.fit(lab.model, dataset, train.Config(200, 10, 0.03), SEEDS, init=lab.initial,
                          masks=pruning.full_masks(lab.initial["params"]))  # fmt: skip
    keep = pruning.full_masks(lab.initial["params"])
    return arms.TrainedArm(WHOLE, keep, lab.initial, result, np.zeros(2, bool))


def test_curvature_at_equal_loss_is_that_of_the_tempered_network(learned, lab):
    values = _sharpness._curvature(lab, learned)
    x, y = lab.sample
    for s in range(len(SEEDS)):
        params = jax.tree.map(lambda leaf, s=s: leaf[s], learned.result.variables["params"])
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        temperature = values["temperature"][s]
        assert np.isfinite(temperature) and temperature != 1

        def loss(own, temperature=temperature, unravel=unravel):
            logits = lab.model.apply({"params": unravel(own)}, x) / temperature
            return jnp.mean(train.cross_entropy(logits, y))

        np.testing.assert_allclose(loss(flat), CONFIG.matched_loss, rtol=1e-3)
        np.testing.assert_allclose(values["matched_sample_loss"][s], CONFIG.matched_loss, rtol=1e-3)
        top = np.linalg.eigvalsh(np.asarray(oracle.jit_once(jax.hessian(loss))(flat), np.float64))[-1]
        assert values["matched_eigenvalue_converged"][s] == 1 and values["matched_eigenvalue_residual"][s] <= 1e-3
        np.testing.assert_allclose(values["matched_eigenvalue"][s], top, rtol=2e-3)
        # The sharpness again, draw by draw, against that of a network whose outputs are divided for good.
        assert values["matched_sharpness"][s] != values["sharpness"][s] and values["matched_sharpness_se"][s] > 0
    colder = jax.tree.map(lambda leaf: leaf, learned.result.variables)
    head = colder["params"]["dense2"]
    scale = jnp.asarray(values["temperature"], jnp.float32)
    colder = {"params": {**colder["params"], "dense2": {
        "kernel": head["kernel"] / scale[:, None, None], "bias": head["bias"] / scale[:, None]}}}  # fmt: skip
    again = _sharpness._sharpness(lab.model, colder, lab.sample, lab.keys(arms.NOISE), jnp.ones(2))
    np.testing.assert_allclose(values["matched_sharpness"], again[1], rtol=1e-4)


def test_a_network_that_reaches_no_matched_loss_is_marked(trained, lab):
    values = trained[1]["random", 10]  # a tenth of a tiny network, two epochs: far from 0.1 nats at any temperature
    assert np.isnan(values["temperature"]).all() and np.isfinite(values["eigenvalue"]).all()
    for name in _sharpness.RAW:
        assert np.isnan(values[f"matched_{name}"]).all()


def test_the_start_of_training_is_measured(trained, lab):
    one = trained[0]["rewound", 10]
    loss, accuracy = _sharpness.at_start(lab, one)
    for s in range(len(SEEDS)):
        params = jax.tree.map(lambda leaf, s=s: leaf[s], one.start["params"])
        logits = lab.model.apply({"params": params}, lab.dataset.train.x)
        assert loss[s] == pytest.approx(float(jnp.mean(train.cross_entropy(logits, lab.dataset.train.y))), rel=1e-5)
        assert accuracy[s] == pytest.approx(float(jnp.mean(logits.argmax(-1) == lab.dataset.train.y)))


def test_stability_is_measured_where_asked(trained, lab):
    measured = trained[1]
    for (arm, keep), values in measured.items():
        assert np.isfinite(values["sharpness"]).all() and np.all(values["sharpness_se"] > 0)
        asked = keep == 100 or arm in CONFIG.barrier_arms
        assert np.isfinite(values["excess"]).all() == asked == np.isfinite(values["child_test_acc"]).all()
        if asked:
            assert np.all(values["excess"] >= 0) and np.all(values["barrier"] >= values["excess"] - 100)
            assert np.all(values["line_images"] == 0)  # no batch norm
    # The ends of the line are the two children.
    line = _sharpness._barrier(lab, trained[0]["ticket", 100], lab.dense_other_order)
    np.testing.assert_allclose(line["child_test_acc"], 100 * lab.dense_other_order.history["test_accuracy"][:, -1])
    error = _sharpness._test_error(lab.model, lab.dataset.test, lab.dense_other_order.variables)
    np.testing.assert_allclose(100 - error, line["child_test_acc"], rtol=1e-5)


def test_overlaps_compare_what_they_say(trained, lab):
    found = trained[0]
    masks = {key: one.masks for key, one in found.items() if key[0] in ("ticket", "other_order")}
    fine = np.zeros(2, bool)
    rows = _overlap.overlaps(lab, {key: (own, fine) for key, own in masks.items()})
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
    moved = pruning.permute_units(jax.tree.map(lambda leaf: leaf[0], params), order, *chain)
    jax.tree.map(lambda leaf, new: leaf.__setitem__(1, new), twins["params"], moved)
    ticket = jax.tree.map(lambda leaf: np.array(leaf), masks["ticket", 50])
    other = pruning.permute_units(jax.tree.map(lambda leaf: leaf[0], ticket), order, *chain)
    jax.tree.map(lambda leaf, new: leaf.__setitem__(1, new), ticket, other)
    config = dataclasses.replace(CONFIG, keep=(100, 50), measure_at=(50,), arms=("ticket",))
    copy = dataclasses.replace(lab, config=config)
    copy.__dict__["dense"] = lab.dense._replace(variables=twins)
    rows = [
        row
        for row in _overlap.overlaps(copy, {("ticket", 50): (ticket, fine)})
        if row["kind"] == "other init., units matched"
    ]
    assert rows and all(row["jaccard"] == 1 for row in rows if row["kept"])


def test_masks_cut_from_a_diverged_network_take_no_part(lab, tmp_path):
    chosen = ("ticket", "rewound", "one_shot", "reinit", "other_order")
    config = dataclasses.replace(CONFIG, arms=chosen, barrier_arms=())
    own = dataclasses.replace(lab, run=records.Run(tmp_path, False), config=config)
    fine = lab.dense.variables
    broken = jax.tree.map(lambda leaf: np.asarray(leaf).copy(), fine)
    jax.tree.map(lambda leaf: leaf.__setitem__(1, np.nan), broken["params"])
    own.__dict__["dense"] = lab.dense._replace(variables=broken, diverged=np.array([False, True]))
    found = {one.at: one for one in arms.train_all(own)}
    for (arm, keep), one in found.items():
        if arm != "other_order":  # whose own whole network is another
            assert one.lost.tolist() == [False, True], (arm, keep)
            assert one.void.tolist() == [False, keep < 100]
    masks = {key: (one.masks, one.void) for key, one in found.items() if key[0] in ("ticket", "other_order")}
    shared = _overlap.overlaps(own, masks)
    assert {(row["seed"], row["other_seed"]) for row in shared} == {(3, 3)}


def test_the_null_of_matching_keeps_the_use_of_every_input():
    rng = np.random.default_rng(0)
    mask = rng.random((30, 40)) < np.linspace(0, 1, 30)[:, None]  # pixels from never used to always
    tree = {"kernel": np.where(mask, rng.normal(size=mask.shape), 0), "bias": np.arange(40.0)}
    params = _overlap._shuffled(3, tree)
    masks = _overlap._shuffled(3, {"kernel": mask, "bias": np.ones(40, bool)})
    np.testing.assert_array_equal(masks["kernel"].sum(1), mask.sum(1))
    np.testing.assert_array_equal(params["kernel"] != 0, masks["kernel"])  # they still belong together
    np.testing.assert_array_equal(np.sort(params["kernel"], 1), np.sort(tree["kernel"], 1))
    assert not np.array_equal(masks["kernel"].sum(0), mask.sum(0)) and sorted(params["bias"]) == list(range(40))
    columns = {tuple(column) for column in mask.T}
    assert not columns & {tuple(column) for column in masks["kernel"].T}  # no unit is left as it was
    conv = _overlap._shuffled(3, {"kernel": np.arange(3 * 3 * 2 * 8.0).reshape(3, 3, 2, 8)})["kernel"]
    np.testing.assert_array_equal(np.sort(conv, -1), np.arange(3 * 3 * 2 * 8.0).reshape(3, 3, 2, 8))


# Verdicts


def finals(accuracies):
    """Rows of `finals` from {(arm, percent): accuracies of the seeds}."""
    empty = dict.fromkeys(tables.MEASURED)
    return [
        {"arm": arm, "keep_percent": keep, "seed": seed, "diverged": 0, "unconverged": 0, "matched_unconverged": 0,
         "unmatched": 0, "train_acc": 100.0, "test_acc": value, "gap": 100 - value, "epochs_to_loss": 2.5,
         "epochs_to_loss_by": 3, **empty}
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
        ((-0.9, -0.9, -2.0, 1.0), JITTER, ["not seen"] * 4),
        # A tenth of a point is there (p < 0.05), but does not matter; equal means do as well.
        ((-0.1, 0.2, 0.0, 0.0), JITTER / 2, ["seen", "seen", "seen", "not seen"]),
        # Significantly worse, though not significantly by more than the margin: nothing is decided.
        ((-0.6, -0.6, -1.3, 0.4), 3 * JITTER, ["undecided"] * 4),
        ((0.3, 0.6, -1.2, -0.4), 40 * JITTER, ["undecided"] * 4),
    ],
)
def test_the_relations_are_seen_or_not(differences, noise, expected):
    found = list(_published.test_published(study(*differences, noise=noise)).values())
    assert [row["verdict"].split(":")[0] for row in found] == expected
    assert [row["published"] for row in found] == [None, None, -1.15, 2.8]
    assert {row["test_alpha"] for row in found} == {0.05 / 9}
    assert all(row["could_find"] in row["verdict"] for row in found if row["verdict"].startswith("undecided"))
    assert [("note" in row) for row in found] == [True, False, False, False]
    better = found[0]["adjusted_better"] <= 0.05
    assert found[0]["note"] == ("the ticket is better" if better else "not shown to be better")
    assert better == (differences[0] == 0.3 and noise is JITTER)


def test_the_p_values_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(84, 1, 5), rng.normal(84.5, 1, 5)
    rows = finals({("ticket", 100): b, ("ticket", 70): a, ("ticket", 30): a, ("ticket", 10): a})
    found = list(_published.test_published(rows).values())
    assert found[3]["verdict"] == "undecided: reinit at 10 % was not trained"

    def greater(first, second):
        return scipy_stats.ttest_rel(first, second, alternative="greater").pvalue

    assert found[0]["p_for"] == pytest.approx(greater(a + 0.5, b))
    assert found[0]["p_against"] == pytest.approx(greater(b, a + 0.5))
    assert found[0]["p_better"] == pytest.approx(greater(a, b))
    assert found[1]["p_for"] == pytest.approx(max(greater(a + 0.5, b), greater(b + 0.5, a)))
    assert found[1]["p_against"] == stats.beyond(a, b, 0.5) > scipy_stats.ttest_rel(a, b).pvalue
    assert found[2]["p_for"] == pytest.approx(greater(a + 1.2, b))
    sides = [(row, side) for row in found[:3] for side in ("for", "against", "better") if f"p_{side}" in row]
    adjusted = [row[f"adjusted_{side}"] for row, side in sides]
    expected = scipy_stats.false_discovery_control([row[f"p_{side}"] for row, side in sides])
    np.testing.assert_allclose(adjusted, expected)


def decided(true, draws, seed):
    """How often each relation is (seen, not seen) in studies of five seeds with these true differences."""
    rng, counts = np.random.default_rng(seed), np.zeros((4, 2))
    for _ in range(draws):
        noise = rng.normal(0, 0.3, (4, 5))
        rows = finals({("ticket", 100): FULL, ("ticket", 70): FULL + true[0] + noise[0],
                       ("ticket", 30): FULL + true[1] + noise[1], ("ticket", 10): FULL + true[2] + noise[2],
                       ("reinit", 10): FULL + true[2] - true[3] + noise[2] + noise[3]})  # fmt: skip
        for i, row in enumerate(_published.test_published(rows).values()):
            counts[i] += row["verdict"] == "seen", row["verdict"] == "not seen"
    return counts / draws


def test_relations_at_their_margins_are_rarely_decided():
    draws = 160
    wrong = 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws)
    edge = decided((-0.5, -0.5, -1.2, 0.0), draws, 1)
    assert (edge[:, 0] <= wrong).all() and (edge[:3, 1] <= wrong).all()
    # No advantage at all is a good reason to say so; half a point is not.
    assert decided((0, 0, 0, 0.5), draws, 2)[3, 1] <= wrong


def test_what_a_relation_could_find_is_found_in_four_studies_of_five_and_more():
    alpha, std = 0.05 / 9, 0.3
    each = stats.minimum_detectable_effect(std, 5, alpha, one_sided=True)
    expected = {
        0: (f"{each - 0.5:+.2f}", f"{-each - 0.5:+.2f}"),
        1: ("not even", f"{0.5 + each:.2f}"),
        2: (f"{each - 1.2:+.2f}", f"{-each - 1.2:+.2f}"),
        3: (f"{each:.2f}", f"{0.5 - each:+.2f}"),
    }
    relations = list(_published.RELATIONS)
    for index, (first, second) in expected.items():
        text = _published.could_find(relations[index], std, 5, alpha)
        assert first in text and second in text and "5 seeds" in text
    same = stats.largest_equivalent(0.05, 5, 0.5, alpha)
    assert f"up to {same:.2f} points equivalent" in _published.could_find(relations[1], 0.05, 5, alpha)
    # At the strictest level that the adjustment may ask for: the study itself finds at least as much.
    draws = 120
    least = 0.8 - 3 * np.sqrt(0.8 * 0.2 / draws)
    found = decided((each - 0.5, 0.5 + each, each - 1.2, each), draws, 3)
    assert (found[[0, 2, 3], 0] >= least).all() and found[1, 1] >= least
    assert (decided((-each - 0.5, 0, -each - 1.2, 0.5 - each), draws, 4)[[0, 2, 3], 1] >= least).all()


def test_every_trained_level_is_compared_with_the_whole_network():
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.05, (3, 5))
    rows = finals({WHOLE: FULL, ("ticket", 50): FULL + noise[0], ("ticket", 20): FULL - 3 + noise[1],
                   ("rewound", 20): FULL + rng.normal(0, 3, 5), ("reinit", 50): FULL + noise[2],
                   ("one_shot", 50): FULL + noise[2]})  # fmt: skip
    tested = _comparisons.tests(rows)
    found = {row["first"]: row for row in _verdict.by_level(tested, [100, 50, 20])}
    assert set(found) == {"ticket 50%", "ticket 20%", "rewound 20%"}
    assert found["ticket 50%"]["verdict"].endswith("equivalent within 0.5 points")
    assert (found["ticket 20%"]["verdict"], found["rewound 20%"]["verdict"]) == ("lower", "undecided")
    absent = "none in this run: shuffled 50% less random_layer_shuffled 50% was not trained"
    assert found["ticket 50%"]["control"] == absent
    assert found["rewound 20%"]["control"].startswith("ticket 20% less rewound 20%: undecided (")
    for row in found.values():
        assert row["detectable_alpha"] == 0.05 / 4  # tests of the family, one shot included
        a = {"ticket 50%": noise[0], "ticket 20%": noise[1] - 3}.get(row["first"])
        if a is not None:
            std = float(np.std(a, ddof=1))
            assert row["detectable"] == pytest.approx(stats.minimum_detectable_effect(std, 5, 0.05 / 4), rel=1e-6)
            assert row["called_equivalent_up_to"] == pytest.approx(stats.largest_equivalent(std, 5, 0.5, 0.05 / 4))
    assert found["rewound 20%"]["called_equivalent_up_to"] is None
    own = [row for row in tested.values() if row["family"] == "pruned against the whole network"]
    expected = scipy_stats.false_discovery_control([row["equivalence_p"] for row in own])
    np.testing.assert_allclose([row["equivalence_adjusted"] for row in own], expected)


def test_curvature_is_compared_as_trained_and_at_matched_temperature():
    rows = finals({WHOLE: FULL, ("ticket", 10): FULL, ("reinit", 10): FULL})
    level = {WHOLE: (0.001, 1.0), ("ticket", 10): (0.01, 2.0), ("reinit", 10): (0.1, 2.0)}
    for row in rows:
        loss, matched = level[row["arm"], row["keep_percent"]]
        wobble = 1 + 0.01 * np.sin(7 * row["seed"] + 100 * loss)
        row |= {"sample_loss": loss, "eigenvalue": 10 * loss * wobble, "sharpness": loss * wobble,
                "matched_eigenvalue": matched * wobble, "matched_sharpness": 0.1,
                "excess": 0.1 + row["seed"] / 10}  # fmt: skip
        if row["arm"] == "reinit":
            row["matched_sharpness"] = None  # reaches no matched loss
    tested = _comparisons.tests(rows)
    families = {(row["family"], row["first"], row["second"]) for row in tested.values()}
    assert ("error barrier, pruned against the whole network", "ticket 10%", "ticket 100%") in families
    at_one_loss = [row for row in tested.values() if "matched temperature" in row["family"]]
    assert at_one_loss and all(row["low"] <= row["difference"] <= row["high"] for row in at_one_loss)
    decided = ("paired_p", "welch_p", "paired_adjusted", "welch_adjusted", "equivalence_p", "equivalence_adjusted")
    decided += ("equivalent", "margin", "detectable", "detectable_alpha")
    assert {row[name] for row in at_one_loss for name in decided} == {None}
    assert {row["undecided"] for row in at_one_loss} == {"matched at one loss alone: not tested"}
    found = _verdict.curvature(rows, tested, 0.1)
    assert "unequal training loss" in found["forms"]["as trained"]
    (raw,) = (row for row in found["comparisons"] if row["metric"] == "eigenvalue" and row["form"] == "as trained")
    assert raw["factor"] == pytest.approx(0.1, rel=0.05) and raw["adjusted_p"] < 1e-3
    assert (raw["first_loss"], raw["second_loss"]) == pytest.approx((0.01, 0.1))
    matched = {row["second"]: row for row in found["comparisons"] if row["metric"] == "eigenvalue" and row is not raw}
    assert matched["reinit 10%"]["factor"] == pytest.approx(1, rel=0.05)
    assert {row["adjusted_p"] for row in matched.values()} == {None}
    assert matched["ticket 100%"]["factor"] == pytest.approx(2, rel=0.05)
    assert not [row for row in found["comparisons"] if (row["metric"], row["second"], row["form"]) == (
        "sharpness", "reinit 10%", "matched")]  # fmt: skip


EFFECTS = {
    # Of the values alone, and of the mask alone: with the same values, with the same rule for the scale.
    (1.0, 3.0, 4.0): "the mask is worth more",
    (3.0, 1.0, 0.0): "the values are worth more",
    (2.0, 4.0, 1.0): "it depends on the scale",
    (1.0, 1.0, 1.0): "worth the same within 0.5 points",
    (-3.0, -1.0, -1.0): "undecided",  # a mask that hurts less than the values is worth nothing
    (1.0, 3.0, 1.0): "undecided",  # one way alone
}


@pytest.mark.parametrize("effects", EFFECTS)
def test_a_mask_is_worth_more_where_both_equal_scales_show_it(effects):
    values, same_values, same_rule = effects
    noise = np.random.default_rng(7).normal(0, 0.05, (5, 5))
    rows = finals({("ticket", 10): FULL + values + noise[0], ("shuffled", 10): FULL + noise[1],
                   ("random_layer_shuffled", 10): FULL - same_values + noise[2],
                   ("reinit_fan_in", 10): FULL - 7 + noise[3],
                   ("random_layer_fan_in", 10): FULL - 7 - same_rule + noise[4]})  # fmt: skip
    tested = _comparisons.tests(rows)
    (row,) = _verdict.mask_or_values(tested, [100, 10])
    assert row["keep_percent"] == 10 and row["verdict"] == EFFECTS[effects]
    for form, effect in zip(row["forms"], (same_values, same_rule), strict=True):
        assert form["difference"] == pytest.approx(effect - values, abs=0.2)
    first, second = (f"{form['first']} less {form['second']}: " for form in row["forms"])
    assert row["forms"][0]["control"].startswith(second) and row["forms"][1]["control"].startswith(first)
    assert row["control"].startswith(f"both ways must agree: {first}") and second in row["control"]
    own = [each for each in tested.values() if each["family"] == "the mask against the values"]
    expected = scipy_stats.false_discovery_control([each["paired_p"] for each in own])
    np.testing.assert_allclose([form["paired_adjusted"] for form in row["forms"]], expected)


def test_what_mask_and_values_are_worth_needs_both_ways():
    rows = finals({("ticket", 10): FULL, ("shuffled", 10): FULL - 1, ("random_layer_shuffled", 10): FULL - 5})
    (row,) = _verdict.mask_or_values(_comparisons.tests(rows), [100, 10])
    assert row["verdict"] == "undecided: the mask was not compared in both ways"
    assert _verdict.mask_or_values(_comparisons.tests(study(0, 0, 0, 0)), [100, 70, 30, 10]) == []
    # Arms that diverged in every seed are no comparison, and no error.
    rows += finals({("reinit_fan_in", 10): np.full(5, np.nan), ("random_layer_fan_in", 10): np.full(5, np.nan)})
    assert _verdict.mask_or_values(_comparisons.tests(rows), [10])[0]["verdict"] == row["verdict"]


def test_pairs_that_change_one_thing_are_compared_in_families_of_their_own():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 0.05, (6, 5))
    chance = np.full(5, 11.35)  # networks that train nothing are all alike
    rows = finals({("ticket", 10): FULL + 1 + noise[0], ("shuffled", 10): FULL + noise[1],
                   ("reinit_std", 10): FULL + noise[2], ("reinit", 10): FULL - 4 + noise[3],
                   ("reinit_fan_in", 10): FULL + 0.1 + noise[4], ("random_layer_fan_in", 10): FULL + 0.1 + noise[5],
                   ("random_fan_in", 10): chance, ("random", 10): chance})  # fmt: skip
    tested = _comparisons.tests(rows)
    found = {(row["changes"], row["first"], row["second"]): row for row in _verdict.one_change(rows, tested, [100, 10])}
    assert {key: row["verdict"] for key, row in found.items()} == {
        ("values", "ticket 10%", "shuffled 10%"): "higher",
        ("scale", "reinit_std 10%", "reinit 10%"): "higher",
        ("scale", "reinit_fan_in 10%", "reinit 10%"): "higher",
        ("scale", "random_fan_in 10%", "random 10%"): "equivalent within 0.5 points",
        ("mask", "reinit_fan_in 10%", "random_layer_fan_in 10%"): "equivalent within 0.5 points",
        ("layer counts", "random_layer_fan_in 10%", "random_fan_in 10%"): "higher",
    }
    assert found["values", "ticket 10%", "shuffled 10%"]["control"].startswith("none: ")
    scale = found["scale", "reinit_std 10%", "reinit 10%"]["control"]
    assert scale.startswith("reinit_fan_in 10% less reinit 10%: higher (4.")
    both = found["scale", "random_fan_in 10%", "random 10%"]
    assert (both["first_acc"], both["second_acc"]) == (11.35, 11.35)  # alike, because neither trains
    scale = [row for (changes, *_), row in found.items() if changes == "scale"]
    assert {row["detectable_alpha"] for row in scale} == {0.05 / 3}
    named = {row["first"]: row for row in scale}
    a, b = noise[2], noise[3] - 4
    assert named["reinit_std 10%"]["detectable"] == pytest.approx(
        stats.minimum_detectable_effect(float(np.std(a - b, ddof=1)), 5, 0.05 / 3), rel=1e-6
    )
    p = [stats.paired(FULL + a, FULL + b).pvalue, stats.paired(FULL + noise[4], FULL + b - 0.1).pvalue, 1.0]
    adjusted = [named[f"{arm} 10%"]["paired_adjusted"] for arm in ("reinit_std", "reinit_fan_in", "random_fan_in")]
    np.testing.assert_allclose(adjusted, scipy_stats.false_discovery_control(p), rtol=1e-6)
    # Published relations and older families do not change with the new arms.
    old = [row for row in tested.values() if row["family"] == "ticket against controls"]
    assert {row["second"] for row in old} == {"reinit 10%", "random 10%"}


def runs_rows(losses, diverged=0):
    return [{"arm": "ticket", "keep_percent": "50", "seed": "0", "epoch": str(epoch), "train_loss": repr(loss),
             "train_acc": "90.0", "test_acc": repr(80.0 + epoch), "diverged": str(diverged)}
            for epoch, loss in losses.items()]  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ({0: 2.3, 1: 0.9, 2: 0.3, 4: 0.075, 9: 0.05}, (2 + 2 * np.log(3) / np.log(4), 4)),
        ({0: 2.3, 1: 0.4, 2: 0.025}, (1.5, 2)),
        ({2: 0.1, 3: 0.2}, (2, 2)),  # a rewound ticket that is there already
        ({0: 2.3, 1: 0.9, 4: 0.2}, (None, None)),
        ({0: 2.3, 1: 0.9, 4: 0.0}, (4, 4)),
    ],
)
def test_the_epoch_that_reaches_the_loss_is_interpolated_in_log_loss(losses, expected):
    (row,) = tables.finals(runs_rows(losses), [], 0.1)
    assert (row["epochs_to_loss"], row["epochs_to_loss_by"]) == pytest.approx(expected)
    assert row["test_acc"] == 80 + max(losses) and row["gap"] == 10 - max(losses)


def test_seeds_that_never_reach_the_loss_are_the_slowest():
    rows = finals({(arm, keep): FULL for arm in ("ticket", "reinit", "random", "one_shot") for keep in (20, 10)})
    late = {("ticket", 20): [3, 4, 5, 6, 7], ("reinit", 20): [2, None, None, None, None],
            ("random", 20): [5, 6, 7, 8, 9.5], ("one_shot", 20): [None] * 5}  # fmt: skip
    for row in rows:
        row["epochs_to_loss"] = late.get((row["arm"], row["keep_percent"]), [None] * 5)[row["seed"]]
    found = {
        (row["first"], row["second"]): row
        for row in _comparisons.tests(rows).values()
        if row["metric"] == "epochs_to_loss"
    }
    # One survivor, and it is faster than the ticket: a test of survivors would be blind, or say the opposite.
    reinit = found["ticket 20%", "reinit 20%"]
    assert (reinit["method"], reinit["reached"], reinit["num_pairs"]) == ("rank", "5 and 1 of 5", 5)
    assert reinit["difference"] is None and reinit["paired_p"] == 4 / 32 and reinit["undecided"] == ""
    never = found["ticket 20%", "one_shot 20%"]
    assert never["paired_p"] == 2 / 32 and never["welch_p"] == pytest.approx(2 / 252)
    random = found["ticket 20%", "random 20%"]
    assert (random["method"], random["reached"]) == ("t", "5 and 5 of 5") and random["difference"] == pytest.approx(
        -2.1
    )
    both = found["ticket 10%", "reinit 10%"]
    assert both["paired_p"] is None and both["undecided"] == "no seed of either reached the loss"
    adjusted = scipy_stats.false_discovery_control([row["paired_p"] for row in (reinit, random, never)])
    np.testing.assert_allclose([row["paired_adjusted"] for row in (reinit, random, never)], adjusted)


def test_diverged_seeds_and_eigenvalues_that_did_not_converge_are_marked():
    lost = {"arm": "ticket", "keep_percent": "50", "seed": "0", **dict.fromkeys(tables.MEASURED, "2.0")}
    (row,) = tables.finals(runs_rows({1: 0.05, 2: float("nan")}, diverged=1), [lost], 0.1)
    assert row["sharpness"] is None and not row["unmatched"]
    assert np.isnan(row["test_acc"]) and row["epochs_to_loss"] is None and row["diverged"] == 1
    measured = {"arm": "ticket", "keep_percent": "50", "seed": "0", "eigenvalue_converged": "0.0",
                "matched_eigenvalue_converged": "nan", **dict.fromkeys(tables.MEASURED, "2.0"),
                "temperature": "nan", "matched_eigenvalue": "nan"}  # fmt: skip
    rows = tables.finals(runs_rows({1: 0.05}), [measured], 0.1)
    assert rows[0]["eigenvalue"] is None and rows[0]["sharpness"] == "2.0"
    layers = [{"arm": "ticket", "keep_percent": "50", "layer": layer, "kept": kept} for layer, kept in
              (("dense0/kernel", "3"), ("dense1/kernel", "0"))]  # fmt: skip
    (summary,) = tables.summarise(rows, layers)
    assert summary["num_unconverged"] == 1 and summary["eigenvalue_mean"] is None and summary["sharpness_mean"] == 2
    assert summary["num_unmatched"] == 1 and summary["num_matched_unconverged"] == 0
    assert summary["layers_emptied"] == "dense1/kernel (1 of 1 seeds)"
    measured |= {"temperature": "3.0", "matched_eigenvalue": "5.0", "matched_eigenvalue_converged": "0.0"}
    (row,) = tables.finals(runs_rows({1: 0.05}), [measured], 0.1)
    assert row["matched_eigenvalue"] is None and (row["unmatched"], row["matched_unconverged"]) == (0, 1)


def test_an_overlap_that_has_no_value_leaves_the_others_theirs():
    same = {"kind": "other batch order", "keep_percent": "1", "layer": "dense0/kernel"}
    rows = [same | {"jaccard": value, "chance": chance} for value, chance in
            (("0.3", "0.1"), ("0.5", "0.2"), ("nan", "nan"))]  # fmt: skip
    (row,) = tables.summarise_overlaps(rows)
    assert row["num_pairs"] == 2 and row["lowest"] == 0.3 and row["highest"] == 0.5
    np.testing.assert_allclose([row["jaccard"], row["chance"]], [0.4, 0.15])
    (row,) = tables.summarise_overlaps(rows[2:])
    assert row["num_pairs"] == 0 and row["jaccard"] is None


# The script

TINY = [
    "--dataset=digits", "--width=8", "--depth=2", "--num_seeds=2", "--num_train=120", "--batch_size=60", "--epochs=2",
    "--hessian_samples=60", "--keep=100,30,10", "--measure_at=100,10", "--arms=ticket,rewound,reinit",
    "--rewind_epoch=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def call(environment, forks, tmp_path_factory):
    """Run the study: call(*flags, out=..., LOG=...), in a fork, or in a process of its own if `alone`."""
    wrapper = tmp_path_factory.mktemp("wrapper") / "wrapper.py"
    wrapper.write_text(WRAPPER)

    def run(*flags, out, alone=False, **more):
        command, env = [wrapper, SCRIPT, "--verbose", *flags, f"--out_dir={out}"], {**environment, **more}
        if not alone:
            return forks.run(*command, env=env)
        return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=600)

    return run


@pytest.fixture(scope="module")
def whole(call, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    stdout = succeeded(call(*TINY, out=out, alone=True, LOG=str(out / "log")))
    (folder,) = (out / "lottery_ticket").iterdir()
    return folder, stdout, (out / "log").read_text().splitlines()


def test_a_run_writes_its_tables_and_figures(whole):
    folder, stdout, _ = whole
    names = {"accuracy.png", "arms.csv", "measures.png", "overlap.png", "comparison.csv", "config.json", "correct.csv",
             "finished.json", "layout.json", "measures.csv", "overlap_summary.csv", "overlaps.csv", "runs.csv",
             "report.txt", "sparsity.csv", "summary.csv", "tests.csv", "verdict.json"}  # fmt: skip
    assert {name for name in contents(folder) if not name.startswith("parts/")} == names
    runs = records.read_table(folder / "runs.csv")
    arms_run = {(row["arm"], row["keep_percent"]) for row in runs}
    assert arms_run == {("ticket", "100")} | {(arm, k) for arm in ("ticket", "rewound", "reinit") for k in ("30", "10")}
    assert records.read_table(folder / "arms.csv")[-1] == {
        "arm": "reinit", "label": "ticket's mask, drawn anew, dense scale", "mask": "the ticket's",
        "values": "drawn anew", "scale": "dense"}  # fmt: skip
    measured = records.read_table(folder / "measures.csv")
    assert {(row["arm"], row["keep_percent"]) for row in measured} == {key for key in arms_run if key[1] != "30"}
    assert all(row["samples"] == "60" and row["batch_norm"] == "none" for row in measured)
    kept = {int(row["kept"]) for row in records.read_table(folder / "sparsity.csv") if row["keep_percent"] == "100"}
    assert kept == {64 * 8, 8 * 10}
    assert all(row["line_images"] == "0.0" for row in measured)
    found = json.loads((folder / "verdict.json").read_text())
    assert len(found["relations"]) == 4
    assert found["relations"][0]["verdict"] == "undecided: ticket at 70 % was not trained"
    assert all(row["claim"] in stdout and row["verdict"] in stdout for row in found["relations"])
    assert [row["first"] for row in found["levels"]] == ["ticket 30%", "ticket 10%", "rewound 30%", "rewound 10%"]
    assert all(f"finds {row['detectable']:.2f} or more" in stdout for row in found["levels"])
    assert found["curvature"]["forms"]["as trained"] in stdout and "unequal training loss" in stdout
    begun = {(row["arm"], row["keep_percent"]): row["epoch"] for row in reversed(runs)}
    assert {arm: epoch for (arm, keep), epoch in begun.items() if keep == "10"} == {
        "ticket": "0", "rewound": "1", "reinit": "0"}  # fmt: skip
    assert {row["epoch"] for row in runs} == {"0", "1", "2"}
    rows = records.read_table(folder / "comparison.csv")
    differences = [row for row in rows if row["setting"] == "difference"]
    assert [row["published"] for row in differences] == ["", "", "-1.15", "2.8"]
    assert [row["published_for"] for row in differences] == ["", "", "CNN on CIFAR-10", "CNN on CIFAR-10"]
    assert {row["inside"] for row in rows} == {""}
    assert all(row["published"] == "" for row in rows if row["setting"] != "difference")  # another protocol


def test_a_finished_run_writes_its_tables_anew(call, whole, tmp_path):
    folder = tmp_path / "lottery_ticket" / whole[0].name
    shutil.copytree(whole[0], folder)
    made = contents(folder)
    sums = json.loads((folder / "finished.json").read_text())
    for name in ("summary.csv", "tests.csv", "verdict.json", "comparison.csv", "overlap_summary.csv"):
        (folder / name).write_text("by an earlier version\n")
        sums[name] = io.sha256_bytes((folder / name).read_bytes())
    (folder / "finished.json").write_text(json.dumps(sums))
    (folder / "accuracy.png").unlink()
    done = call(*TINY, out=tmp_path, LOG=str(tmp_path / "log"))
    assert succeeded(done) and "is finished" in done.stderr and not (tmp_path / "log").exists()
    again = contents(folder)
    assert [name for name in made if made[name] != again[name]] == []


def test_a_killed_run_ends_as_if_it_never_was(call, whole, tmp_path):
    done = call(*TINY, out=tmp_path, KILL="before save 9", LOG=str(tmp_path / "log"))
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert succeeded(call(*TINY, out=tmp_path, LOG=str(tmp_path / "log")))
    (folder,) = (tmp_path / "lottery_ticket").iterdir()
    one, two = contents(whole[0]), contents(folder)
    assert [name for name in one if one[name] != two[name]] == [] and sorted(one) == sorted(two)
    saved = (tmp_path / "log").read_text().splitlines()
    assert len(saved) == len(whole[2]) + 1  # nothing was done twice but what was lost


@pytest.mark.slow
def test_a_cnn_runs(call, tmp_path):
    flags = ["--dataset=digits", "--model=cnn", "--channels=1", "--num_seeds=2", "--num_train=64", "--batch_size=32",
             "--epochs=1", "--keep=100,20", "--measure_at=100", "--hessian_samples=32", "--barrier_arms=ticket",
             "--arms=ticket,shuffled,reinit,reinit_std,reinit_fan_in,random_layer_shuffled,random_layer_fan_in",
             ]  # fmt: skip
    stdout = succeeded(call(*flags, out=tmp_path))
    (folder,) = (tmp_path / "lottery_ticket").iterdir()
    assert "CNN on digits" in stdout
    for pair in ("values: ticket - shuffled 20%", "scale: reinit_std - reinit 20%",
                 "mask: reinit_fan_in - random_layer_fan_in 20%"):  # fmt: skip
        assert pair in stdout
    assert "\n20 %: " in stdout  # what mask and values are worth
    kinds = {row["kind"] for row in records.read_table(folder / "overlaps.csv")}
    assert {"other batch order, one shot", "other init., units matched"} <= kinds
    for row in records.read_table(folder / "measures.csv"):
        assert float(row["excess"]) >= 0 and float(row["eigenvalue_residual"]) < np.inf
        assert row["line_images"] == "64.0"  # the whole training set, not the 32 images of the curvature
    assert {row["epoch"] for row in records.read_table(folder / "runs.csv")} == {"0", "1"}


def test_a_study_that_diverges_ends_with_tables_and_figures_that_say_so(call, tmp_path):
    stdout = succeeded(call(*TINY, "--lr=1e38", "--arms=ticket,rewound,reinit", "--keep=100,10", out=tmp_path))
    (folder,) = (tmp_path / "lottery_ticket").iterdir()
    assert {row["diverged"] for row in records.read_table(folder / "runs.csv")} == {"1"} and "all lost" in stdout
    assert {path.stem for path in folder.glob("*.png")} >= {"accuracy"}


BAD = {
    "--keep=100,50,60": "--keep=100,50,60: expected percents that strictly decrease from 100",
    "--keep=50,20": "--keep=50,20: expected percents that strictly decrease from 100",
    "--keep=100,0": "--keep=100,0: expected percents in (0, 100]",
    "--keep=120,50": "--keep=120,50: expected percents in (0, 100]",
    "--keep=100,half": "--keep=100,half: expected percents in (0, 100]",
    "--measure_at=40": "--measure_at: expected percents of --keep",
    "--measure_at=100,100": "--measure_at=100,100: expected percents that differ in six digits",
    "--barrier_arms=ticket,ticket": "--barrier_arms=ticket,ticket: expected a comma-separated list of ticket, rewound",
    "--arms=ticket,ticket": "--arms=ticket,ticket: expected a comma-separated list of ticket, rewound",
    "--width=1000000000": "--width: ",
    "--num_seeds=1000000000": "--num_seeds=1000000000: expected a whole number from 1 to 10000",
    "--keep=100,5e-324": "--keep=100,5e-324: expected percents in (0, 100]",
    "--keep=100,29.898649,29.898648": "--keep=100,29.898649,29.898648: expected percents that differ in six digits",
    "--keep=100,99.99999": "--keep=100,99.99999: expected percents that differ in six digits",
    "--matched_loss=2.31": "--matched_loss: expected less than the 2.303 nats of guessing, got 2.31",
    "--arms=ticket,lucky": "--arms=ticket,lucky: expected a comma-separated list of ticket, rewound",
    "--arms=reinit": "--arms: expected ticket among them, got reinit",
    "--arms=none": "--arms: expected ticket among them, got none",
    "--arms=ticket,shuffled,shuffled": "--arms=ticket,shuffled,shuffled: expected a comma-separated list of ticket",
    "--arms=ticket,random_layer_fanin": "expected a comma-separated list of ticket, rewound, one_shot, shuffled",
    "--arms=ticket --barrier_arms=rewound": "--barrier_arms: expected arms of --arms",
    "--arms=ticket --rewind_epoch=2": "--rewind_epoch: expected no such setting without the arm rewound, got 2",
    "--arms=ticket,one_shot --one_shot": "--arms: expected no one_shot with --one_shot",
    "--rewind_epoch=5 --epochs=5": "--rewind_epoch: expected 1 ... 4, before the last of the epochs, got 5",
    "--rewind_epoch=1 --epochs=1": "--rewind_epoch: expected no rewinding with a single epoch, got 1",
    "--arms=ticket,rewound --epochs=1": "--arms: expected no rewinding with a single epoch, got ticket,rewound",
    "--rewind_epoch=0": "flag --rewind_epoch=0: expected a whole number from 1",
    "--hessian_samples=2000": "--hessian_samples: expected at most the 1297 training examples, got 2000",
    "--channels=4": "--channels: expected no such setting with --model=mlp, got 4",
    "--scope=local": "--scope",
    "--preset=quick --dataset=mnist": "--dataset: expected embedded data (digits, mnist1d) with --preset=quick",
}


def resolved(**given):
    return STUDY.resolve("quick", options.checked(Config, given))


def test_settings_are_resolved():
    two, one, mlp, cnn = resolved(epochs=2), resolved(epochs=1), resolved(epochs=30), resolved(model="cnn", epochs=30)
    without, given = resolved(arms="ticket,reinit"), resolved(keep="100,50,2.5", rewind_epoch=3, one_shot=True)
    assert two.rewind_epoch == 1 and "rewound" in two.arms  # the preset's 2 would be the end
    assert one.rewind_epoch is None and "rewound" not in [*one.arms, *one.barrier_arms]
    assert without.rewind_epoch is None and given.rewind_epoch == 3 and "one_shot" not in given.arms
    assert given.keep == (100, 50, 2.5) and given.measure_at == (100,)
    assert resolved(keep=[100, 5.0]).keep == (100, 5)
    assert resolved(barrier_arms="none").barrier_arms == () == resolved(barrier_arms=()).barrier_arms
    assert (resolved().hessian_samples, resolved(num_train=60).hessian_samples) == (500, 60)
    assert mlp.evaluate_at == list(range(1, 31))
    assert cnn.evaluate_at[0] == 1 and cnn.evaluate_at[-1] == 30 and len(cnn.evaluate_at) <= 10


@pytest.mark.slow
def test_a_notebook_runs_it_and_no_network_is_trained_twice(tmp_path, monkeypatch):
    settings = {"width": 4, "depth": 2, "num_seeds": 2, "num_train": 60, "batch_size": 30, "epochs": 2,
                "keep": (100, 20), "arms": ("ticket", "rewound", "reinit"), "measure_at": (20,),
                "hessian_samples": 20}  # fmt: skip
    run = functools.partial(studies.lottery_ticket.run, preset="quick", out_dir=tmp_path, say=lambda text: None)
    first = run(**settings)
    assert {"runs", "measures", "sparsity", "correct", "overlaps", "summary", "tests"} <= set(first.tables)
    assert set(first.figures) == {"accuracy", "overlap", "measures"}
    assert all(path.exists() for path in first.figures.values()) and "published relations" in first.text

    def trained(*args, **kwargs):
        raise AssertionError("a network was trained")

    monkeypatch.setattr(records.Checkpointer, "save", trained)
    again = run(**settings)
    assert (again.folder, again.tables, again.verdict) == (first.folder, first.tables, first.verdict)
    other = run(**settings, matched_loss=0.5)
    assert other.folder != first.folder and other.tables["runs"] == first.tables["runs"]
    assert other.tables["measures"] != first.tables["measures"]
    with pytest.raises(AssertionError, match="was trained"):
        run(**settings, seed=1)


def test_bad_input_ends_in_one_line(forks, environment, tmp_path):
    for flags, expected in BAD.items():
        done = forks.run(SCRIPT, "--dataset=digits", *flags.split(), f"--out_dir={tmp_path}", env=environment)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
        assert expected in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())
