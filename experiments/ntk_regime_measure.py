"""What the tangent-kernel study trains and measures, a part at a time; each part is kept, and done once."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import data, ensemble, kernels, models, ntk, train, tree
from ntkgen.linearize import Linearized
from ntkgen.measure import correct
from ntkgen.studies import tables
from ntkgen.typing import PyTree

# Ways to widen a network, by how the parametrisation and the learning rate go with the width.
LIMITS = ("fixed", "over_width", "ntk", "mup")
LOSSES = ("cross_entropy", "mse")
BASE_WIDTH = models.MUP_BASE_WIDTH  # where NTK and muP networks start as fast as the standard one at the given rate
RATE_WIDTH = 128  # where a rate over the width is the given one; anchored at 64, width 1024 ends short of the loss
KERNEL_SEEDS_UP_TO = 1024  # width beyond which only the first seed's kernels are regressed with
KERNEL_BUDGET = 3 * 2**30  # bytes for one kernel
TARGET_STREAM = 7  # of the study's draws of test images and of held-out images, beside those of the data
WIDE = 5_000_000  # parameters beyond which seeds are trained one by one


class Arm(NamedTuple):
    """Networks that differ in width and seed only."""

    loss: str
    limit: str


class Part(NamedTuple):
    """Seeds that are trained together; linearised or not."""

    arm: Arm
    width: int
    seeds: tuple[int, ...]
    linearised: bool = False

    @property
    def name(self) -> str:
        """Name of its files."""
        words = [*self.arm, f"w{self.width}", f"s{self.seeds[0]}-{self.seeds[-1]}"]
        return "_".join(["linearised", *words] if self.linearised else words)


class Sample(NamedTuple):
    """Images of the test set, drawn by the data's seed: x (n, h, w, c), y (n,)."""

    x: jax.Array
    y: jax.Array


def draw_test(dataset: data.Dataset, count: int, seed: int, stream: int) -> Sample:
    """Draw so many test images, in the test set's order."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(TARGET_STREAM, stream)))
    rows = np.sort(generator.permutation(dataset.test.y.shape[0])[:count])
    return Sample(dataset.test.x[rows], dataset.test.y[rows])


def parametrization(limit: str) -> str:
    """Say which parametrisation a limit needs."""
    return limit if limit in ("ntk", "mup") else "standard"


def rate(lr: float, limit: str, width: int, speed: float) -> float:
    """Give a width's learning rate; `lr` is the standard network's, at `RATE_WIDTH` if it goes like 1/width."""
    return lr * {"over_width": RATE_WIDTH / width, "ntk": speed}.get(limit, 1.0)


def ntk_speed(x: jax.Array, depth: int) -> float:
    """Say how much smaller the tangent kernel is in the NTK parametrisation: ratio of traces at the base width.

    With the rate multiplied by it, outputs of the two networks begin to move equally fast (on average over x).
    """
    traces = [
        np.trace(kernels.infinite_mlp(x, width=BASE_WIDTH, depth=depth, parametrization=name).ntk)
        for name in ("standard", "ntk")
    ]
    return float(f"{traces[0] / traces[1]:.6g}")  # part of the run's name: rounding depends on the number of threads


def snapshots(epochs: int, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Choose epochs from 1 to the last, evenly on a logarithmic scale: 2 count - 1 for movement, half for kernels."""
    spread = [round(epoch) for epoch in np.geomspace(1, epochs, 2 * count - 1)]
    return tuple(sorted(set(spread))), tuple(sorted(set(spread[::2])))


def finite(value: Any) -> float | None:
    """Give a number for JSON; None for what is not finite."""
    return float(value) if math.isfinite(value) else None


@functools.cache
def outputs(model: models.MLP) -> Callable[[PyTree, jax.Array], jax.Array]:
    """Give the network as a function; always the same one, by which compiled kernels are found."""
    return models.apply_fn(model, {})


def moved(params: PyTree, context: ensemble.Context) -> dict[str, jax.Array]:
    """Measure each layer's distance from its start, and its norm there: layer -> (2,)."""
    initial = context.initial
    return {
        layer: jnp.stack([tree.norm(tree.axpy(-1.0, initial[layer], params[layer])), tree.norm(initial[layer])])
        for layer in params
    }


def kernel_probe(model: models.MLP, x: jax.Array) -> ensemble.OnHost:
    """Make the probe of the tangent kernel on x, averaged over outputs; NaN where a network has diverged."""
    f = outputs(model)

    def one(params: PyTree) -> np.ndarray:
        if not np.isfinite(np.asarray(f(params, x))).all():
            return np.full((len(x), len(x)), np.nan, np.float32)
        return np.asarray(ntk.empirical_ntk(f, params, x, trace=True, memory_budget=KERNEL_BUDGET))

    def measure(params: PyTree, context: ensemble.Context) -> np.ndarray:
        del context
        return np.stack([one(row) for row in rows_of(params)])

    return ensemble.OnHost(measure, jax.ShapeDtypeStruct((len(x), len(x)), jnp.float32))


def rows_of(params: PyTree) -> list[PyTree]:
    """Take a tree with a leading seed axis apart."""
    count = jax.tree.leaves(params)[0].shape[0]
    return [jax.tree.map(lambda leaf, s=s: jnp.asarray(leaf[s]), params) for s in range(count)]


def fit(
    part: Part,
    model: models.MLP,
    dataset: data.Dataset,
    training: train.Config,
    probe_x: jax.Array,
    snaps: Sequence[int],
    kernel_snaps: Sequence[int],
    **more: Any,
) -> ensemble.Result:
    """Train one part; movement is measured at snaps, kernels at the start too; `more` goes to `ensemble.fit`."""
    seeds, own = list(part.seeds), {"chunk": len(part.seeds), **more}
    if part.linearised:
        linear: Any = Linearized(model)
        return ensemble.fit(linear, dataset, training, seeds, evaluate_at=(training.epochs,), **own)
    probes = ((tuple(snaps), moved), ((0, *kernel_snaps), kernel_probe(model, probe_x)))
    return ensemble.fit(model, dataset, training, seeds, probes=probes, evaluate_at=snaps, **own)


def final(result: ensemble.Result, s: int) -> dict[str, Any]:
    """Give a seed's final losses, and accuracies in percent."""
    last = {name: float(values[s, -1]) for name, values in result.history.items()}
    found = {}
    for split in ("train", "test"):
        found[f"{split}_loss"] = finite(last[f"{split}_loss"])
        found[f"{split}_acc"] = finite(100 * last[f"{split}_accuracy"])
    return found


def follow(
    result: ensemble.Result, snaps: Sequence[int], kernel_snaps: Sequence[int], probe_y: jax.Array, classes: int
) -> list[dict[str, Any]]:
    """Make a row for each seed and snapshot, the start included: loss, movement, and what became of the kernel."""
    at = {epoch: i for i, epoch in enumerate((0, *kernel_snaps))}
    movement, gram = result.probes
    targets = np.eye(classes)[np.asarray(probe_y)]
    rows = []
    for s in range(len(gram)):
        for e, epoch in enumerate((0, *snaps)):
            row: dict[str, Any] = {"seed": s, "epoch": epoch, "train_loss": None}
            if epoch:
                row["train_loss"] = finite(result.history["train_loss"][s, epoch - 1])
            layers = {name: np.asarray(pairs[s, max(e - 1, 0)], float) for name, pairs in movement.items()}
            distance = float(np.linalg.norm([pair[0] for pair in layers.values()])) if epoch else 0.0
            norm = float(np.linalg.norm([pair[1] for pair in layers.values()]))
            row |= {"norm_initial": norm, "absolute_movement": finite(distance)}
            row["relative_movement"] = finite(distance / norm)
            row |= {f"movement_{name}": finite(pair[0]) if epoch else 0.0 for name, pair in layers.items()}
            row |= {f"norm_{name}": finite(pair[1]) for name, pair in layers.items()}
            known = changes(gram[s, at[epoch]], gram[s, 0], targets) if epoch in at else dict.fromkeys(CHANGES)
            rows.append(row | known)
    return rows


CHANGES = ("drift", "misalignment", "label_alignment")


def changes(gram: np.ndarray, initial: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Measure a kernel's drift, relative and as 1 - centred alignment, and its alignment with the labels.

    None where it is not known (a network that has diverged) or not defined: a network all of whose units died has a
    constant kernel, of which centring leaves nothing.
    """
    found: dict[str, float | None] = dict.fromkeys(CHANGES)
    if not (np.isfinite(gram).all() and np.isfinite(initial).all()):
        return found
    found["drift"] = kernels.drift(gram, initial)
    if np.ptp(gram) > 0 and np.ptp(initial) > 0:
        found["misalignment"] = max(1 - kernels.alignment(gram, initial), 0.0)  # 1 - 1 may round below zero
        found["label_alignment"] = kernels.target_alignment(gram, targets)
    return found


def targets_of(y: jax.Array, classes: int) -> np.ndarray:
    """Give one-hot rows less their mean: what is fitted has no intercept."""
    return np.eye(classes)[np.asarray(y)] - 1 / classes


def named(metric: str, width: int | str, tuned: bool = False) -> str:
    """Name networks or regressions in correct.csv: their accuracy's column in runs.csv or tuned.csv, and the width."""
    return f"{'tuned ' if tuned else ''}{metric} w{width}"


def test_bits(model: Any, result: ensemble.Result, dataset: data.Dataset) -> list[str]:
    """Say which test images each final network classifies right, by `tables.pack`; empty without an accuracy."""
    f, test = models.apply_fn(model, result.variables), dataset.test
    lost = ~np.isfinite(result.history["test_accuracy"][:, -1])
    rows = tables.correct_rows("", range(len(lost)), correct(f, result.variables["params"], test.x, test.y), lost)
    return [row["bits"] for row in rows]


def accuracy(bits: str | None, images: int) -> float | None:
    """Give the accuracy in percent of what `regress` found; None for None."""
    return None if bits is None else float(100 * np.mean(tables.unpack(bits, images)))


def regress(gram: np.ndarray, cross: np.ndarray, dataset: data.Dataset, sample: Sample, ridge: float) -> str | None:
    """Classify test images by kernel ridge regression -> which are right, by `tables.pack`.

    Args:
      gram: kernel of the training images (n, n).
      cross: kernel of the test images with them (m, n).
      dataset: whose training labels are fitted.
      sample: the test images.
      ridge: in units of the mean of gram's diagonal.

    Returns:
      The digits; None where the kernel with its ridge is not positive definite.
    """
    try:
        predict = kernels.regression(
            gram, targets_of(dataset.train.y, dataset.num_classes), ridge=ridge * float(np.mean(np.diag(gram)))
        )
    except ValueError as error:
        if "positive definite" not in str(error):
            raise
        return None
    return tables.pack(np.argmax(predict(cross), 1) == np.asarray(sample.y))


def empirical_regression(
    model: models.MLP, params: PyTree, dataset: data.Dataset, sample: Sample, ridge: float
) -> str | None:
    """Regress with a network's tangent kernel, averaged over outputs; None for a network that has diverged."""
    f = outputs(model)
    if not np.isfinite(np.asarray(f(params, sample.x))).all():
        return None
    options = {"trace": True, "memory_budget": KERNEL_BUDGET}
    gram = np.asarray(ntk.empirical_ntk(f, params, dataset.train.x, **options), np.float64)
    cross = np.asarray(ntk.empirical_ntk(f, params, sample.x, dataset.train.x, **options), np.float64)
    return regress(gram, cross, dataset, sample, ridge)


def kernel_regressions(
    model: models.MLP, initial: PyTree, params: PyTree, dataset: data.Dataset, sample: Sample, ridge: float
) -> dict[str, str | None]:
    """Say which images regression with a network's initial and final kernel, and the network itself, classify right."""
    logits = np.asarray(outputs(model)(params, sample.x))
    own = tables.pack(np.argmax(logits, 1) == np.asarray(sample.y)) if np.isfinite(logits).all() else None
    return {
        "kernel_acc_initial": empirical_regression(model, initial, dataset, sample, ridge),
        "kernel_acc_final": empirical_regression(model, params, dataset, sample, ridge),
        "kernel_acc_network": own,
    }


def flow_time(training: train.Config, num_train: int) -> float:
    """Give the time that gradient flow on the mean loss takes for what (momentum) SGD of this schedule does."""
    assert training.momentum is not None  # resolved by Config
    batch = num_train if training.optimizer == "gd" else training.batch_size
    rates = sum(training.rate(epoch) for epoch in range(training.epochs))
    return rates * math.ceil(num_train / batch) / (1 - training.momentum)


def analytic(
    name: str,
    width: int,
    depth: int,
    dataset: data.Dataset,
    sample: Sample | None,
    ridge: float,
    times: dict[str, float],
    targets: dict[str, float],
) -> dict[str, Any]:
    """Say what infinitely wide networks would do, with the kernel that keeps this width's own factors.

    Args:
      name: parametrisation, "standard" or "ntk".
      width: whose factors the layers have.
      depth: Dense layers.
      dataset: what is trained on.
      sample: test images for the regression; None for none.
      ridge: as in `regress`.
      times: limit -> time of gradient flow on the mean squared loss, for the lazy movement; may be empty.
      targets: loss -> training loss down to which a lazy network's movement is wanted; for cross-entropy from outputs
        of zero, for squared loss from random ones.

    Returns:
      right: what `regress` found, mean_diagonal of the training images' kernel, lazy: {limit: {movement, loss}} and
      matched: {loss: movement} of the targets, None where the loss is never reached.
    """
    options: dict[str, Any] = {"width": width, "depth": depth, "parametrization": name}
    train_x = np.asarray(dataset.train.x)
    both = kernels.infinite_mlp(train_x, **options)
    found: dict[str, Any] = {"right": None, "lazy": {}, "mean_diagonal": float(np.mean(np.diag(both.ntk)))}
    if sample is not None:
        cross = kernels.infinite_mlp(np.asarray(sample.x), train_x, **options).ntk
        found["right"] = regress(both.ntk, cross, dataset, sample, ridge)
    one_hot = np.eye(dataset.num_classes)[np.asarray(dataset.train.y)]  # what the squared loss is fitted to
    found["matched"] = dict.fromkeys(targets)
    if "cross_entropy" in targets:
        there = kernels.movement_to_loss(both.ntk, one_hot, targets["cross_entropy"], objective="cross_entropy")
        found["matched"]["cross_entropy"] = finite(there.movement)
    if times or "mse" in targets:
        at = kernels.flow_movement(both.ntk, one_hot, both.nngp)
        if "mse" in targets:
            found["matched"]["mse"] = finite(kernels.arrival(at, targets["mse"]).movement)
        found["lazy"] = {limit: at(time / len(one_hot))._asdict() for limit, time in times.items()}
    return found
