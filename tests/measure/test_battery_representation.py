"""Fit, movement, kernels, features and pruning against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference_curvature as oracle
from battery_networks import MLP, SEEDS, dataset, forward, layers, row, take, trained
from scipy import special

from ntkgen import measure, models, pruning
from ntkgen.measure import _representation


def chains(seed):
    return [layers(row(each["params"], seed)) for each in (trained().variables, trained().initial)]


def test_fit():
    found = take("fit")
    for seed in range(SEEDS):
        for split in ("train", "test"):
            part = getattr(dataset(), split)
            out, y = forward(chains(seed)[0], part.x)[0], np.asarray(part.y)
            want = -special.log_softmax(out, 1)[np.arange(len(y)), y].mean()
            assert found[f"{split}_loss"][seed] == pytest.approx(want, rel=1e-4)
            assert found[f"{split}_acc"][seed] == pytest.approx(100 * np.mean(out.argmax(1) == y), abs=1e-3)
    np.testing.assert_allclose(found["gap"], found["train_acc"] - found["test_acc"], atol=1e-4)


def test_examples_in_chunks_are_the_same_examples():
    x = jax.random.normal(jax.random.key(0), (23, 3))
    for chunk in (1, 5, 22, 23, 24):
        np.testing.assert_array_equal(measure._take.outputs(lambda p, x: p * x, 2.0, x, chunk), 2 * x)
        pair = (x, {"y": x})
        np.testing.assert_array_equal(
            measure._take.outputs(lambda p, x: p * (x[0] + x[1]["y"]), 2.0, pair, chunk), 4 * x
        )


def test_movement():
    found = take("movement")
    for seed in range(SEEDS):
        now, then = chains(seed)
        moved = [(a - b, b) for one, two in zip(now, then, strict=True) for a, b in zip(one, two, strict=True)]
        length, start = (np.sqrt(sum((pair[i] ** 2).sum() for pair in moved)) for i in range(2))
        ratios = [np.linalg.norm(w - v) / np.linalg.norm(v) for (w, _), (v, _) in zip(now, then, strict=True)]
        assert found["distance"][seed] == pytest.approx(length, rel=1e-4)
        assert found["relative_distance"][seed] == pytest.approx(length / start, rel=1e-4)
        assert found["movement_first"][seed] == pytest.approx(ratios[0], rel=1e-4)
        assert found["movement_last"][seed] == pytest.approx(ratios[-1], rel=1e-4)
        assert found["movement_largest"][seed] == pytest.approx(max(ratios), rel=1e-4)


def cosine(a, b):
    return np.sum(a * b) / np.linalg.norm(a) / np.linalg.norm(b)


def centred(k):
    h = np.eye(len(k)) - 1 / len(k)
    return h @ k @ h


def test_kernel_against_the_jacobian():
    found, x, y = take("kernel"), dataset().test.x, np.asarray(dataset().test.y)
    f = models.apply_fn(MLP, {})
    for seed in range(2):
        final, initial = (
            np.einsum("ikp,jkp->ij", j, j) / 4
            for j in (
                oracle.jacobian(f, row(each["params"], seed), x).astype(float)
                for each in (trained().variables, trained().initial)
            )
        )
        labels = np.eye(4)[y] @ np.eye(4)[y].T
        share = np.linalg.eigvalsh(final).clip(1e-12) / np.trace(final)
        want = {
            "kernel_drift": np.linalg.norm(final - initial) / np.linalg.norm(initial),
            "kernel_turn": 1 - cosine(centred(final), centred(initial)),
            "kernel_alignment": cosine(centred(final), centred(labels)),
            "kernel_alignment_initial": cosine(centred(initial), centred(labels)),
            "kernel_rank": np.exp(-np.sum(share * np.log(share))),
        }
        for name, value in want.items():
            assert found[name][seed] == pytest.approx(value, rel=2e-3)


def test_features_against_the_definition_on_features():
    found, x = take("features"), dataset().test.x
    for seed in range(SEEDS):
        a, b = (forward(chain, x)[1] for chain in chains(seed))
        a, b = a - a.mean(0), b - b.mean(0)
        want = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
        assert found["feature_cka"][seed] == pytest.approx(want, rel=1e-3)


def test_cka_knows_neither_rotation_nor_scale_nor_shift():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 4)), rng.normal(size=(30, 6))
    turned = 7 * a @ np.linalg.qr(rng.normal(size=(4, 4)))[0] + 3
    plain = measure.linear_cka(*map(jnp.asarray, (a, b)))
    np.testing.assert_allclose(measure.linear_cka(*map(jnp.asarray, (turned, b))), plain, rtol=1e-4)
    np.testing.assert_allclose(measure.linear_cka(*map(jnp.asarray, (turned, a))), 1, rtol=1e-5)
    assert np.isnan(measure.linear_cka(jnp.ones((5, 2)), jnp.asarray(a[:5])))


def test_pruned_accuracy_and_the_smallest_fraction():
    found, test = take("prunability"), dataset().test
    keeps = (0.5, 0.3, 0.2, 0.1, 0.05, 0.02)
    for seed in range(SEEDS):
        chain, _ = chains(seed)
        sizes = np.sort(np.concatenate([np.abs(w).ravel() for w, _ in chain]))[::-1]
        accuracies = [100 * np.mean(forward(chain, test.x)[0].argmax(1) == np.asarray(test.y))]
        for keep in keeps:
            least = sizes[pruning.keep_count(sizes.size, keep) - 1]
            pruned = [(np.where(np.abs(w) >= least, w, 0), b) for w, b in chain]
            accuracies.append(100 * np.mean(forward(pruned, test.x)[0].argmax(1) == np.asarray(test.y)))
            assert found[f"pruned_acc_{keep:g}"][seed] == pytest.approx(accuracies[-1], abs=1e-3)
        below = [i for i, value in enumerate(accuracies) if value < accuracies[0] - 1]
        logs = np.log10([1.0, *keeps])
        assert below[0] >= 1 and logs[below[0]] <= found["log10_keep"][seed] <= logs[below[0] - 1]
        ends = slice(below[0] - 1, below[0] + 1)
        want = np.interp(accuracies[0] - 1, accuracies[ends][::-1], logs[ends][::-1])
        assert found["log10_keep"][seed] == pytest.approx(want, abs=1e-3)


def test_a_larger_tolerance_keeps_fewer_weights():
    values = [take("prunability", tolerance=tolerance)["log10_keep"] for tolerance in (1.0, 5.0, 20.0)]
    assert (values[0] >= values[1]).all() and (values[1] >= values[2]).all()


@pytest.mark.parametrize(
    ("accuracies", "want"),
    [
        ([90, 90, 80, 10], (np.log10(0.5) + 0.1 * (np.log10(0.1) - np.log10(0.5)), True)),
        ([90, 95, 89, 89], (-2, False)),  # one point below is within one point
        ([90, 88, 95, 95], (0.5 * np.log10(0.5), True)),  # what comes back later does not count
        ([np.nan, 1, 1, 1], (np.nan, False)),
    ],
)
def test_smallest_keep(accuracies, want):
    found = _representation.smallest_keep((0.5, 0.1, 0.01), jnp.asarray(accuracies, float), 1.0)
    assert float(found[0]) == pytest.approx(want[0], abs=1e-5, nan_ok=True) and bool(found[1]) == want[1]
