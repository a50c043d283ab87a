"""Networks and kernels compared after equal tuning: learning rate and ridge are chosen on held-out training images.

A fifth of the training images is held out. Networks are trained on the rest at every rate of a grid, kernels are
regressed on the rest with every ridge of a grid. The value with the highest mean accuracy on the held-out images is
chosen, one for each width. Then networks are trained and kernels are regressed on all training images with that value,
and only then the test images are looked at.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ntk_regime_measure import (
    KERNEL_BUDGET,
    KERNEL_SEEDS_UP_TO,
    TARGET_STREAM,
    WIDE,
    Sample,
    accuracy,
    final,
    finite,
    named,
    outputs,
    parametrization,
    rate,
    regress,
    rows_of,
    test_bits,
)
from ntk_regime_tuned_tables import KINDS

from ntkgen import data, ensemble, kernels, ntk, records, train, tree
from ntkgen.records import Progress
from ntkgen.studies.tables import number, packed_rows
from ntkgen.typing import PyTree

Kernel = Callable[[jax.Array, jax.Array | None], Any]  # kernel(x1, x2) -> (n1, n2); x2 of None means x1

HELD_OUT = 5  # one training image of so many is held out
HELD_OUT_STREAM = 2  # after the two draws of test images


def hold_out(dataset: data.Dataset) -> data.Dataset:
    """Return the training images alone: a fifth, drawn by the data's own seed, as `test`, and the rest as `train`.

    Args:
      dataset: whose training images are split; label noise stays as it is in both parts.

    Raises:
      ValueError: there are fewer than five training images.
    """
    count = dataset.num_train // HELD_OUT
    if count < 1:
        raise ValueError(f"--num_train: expected at least {HELD_OUT} images with --tune, got {dataset.num_train}")
    generator = np.random.default_rng(np.random.SeedSequence(dataset.seed, spawn_key=(TARGET_STREAM, HELD_OUT_STREAM)))
    order = generator.permutation(dataset.num_train)
    held, rest = (
        data.Split(dataset.train.x[rows], dataset.train.y[rows])
        for rows in (np.sort(order[:count]), np.sort(order[count:]))
    )
    return dataclasses.replace(dataset, train=rest, test=held, num_train=len(rest.y))


def choose(values: Sequence[float], accuracies: np.ndarray) -> float | None:
    """Return the value with the highest mean accuracy, the smallest one of equals.

    Args:
      values: candidates, ascending.
      accuracies: (seeds, candidates), NaN where a network diverged or a kernel was not positive definite.

    Returns:
      The chosen value. A candidate that lost a seed is not chosen; None if all did.
    """
    means = np.round(accuracies.mean(0), 6)  # equal accuracies in another order of seeds differ by a rounding error
    return None if np.isnan(means).all() else values[int(np.nanargmax(means))]


class Trial(NamedTuple):
    """Networks of one width, trained at one rate.

    Attributes:
      rows: final losses and accuracies (percent), and which test images are right (`bits`), one row for each seed;
        test images are the held-out ones when the data set is that of `hold_out`.
      params: params(s, start) -> parameters of the seed at index s, after training or at the start.
    """

    name: str
    rows: list[dict[str, Any]]
    params: Callable[[int, bool], PyTree]


def run_trial(
    run: records.Run, study: Any, width: int, lr: float, dataset: data.Dataset, seeds: Sequence[int], report: Any
) -> Trial:
    """Train the main arm's networks of a width at a rate; what is there already is read.

    Args:
      run: where results and checkpoints are kept.
      study: the study.
      width: hidden units.
      lr: rate, in the unit of --lr: the limit of the width may change it.
      dataset: what is trained on, and evaluated on.
      seeds: which are trained.
      report: called after every epoch.
    """
    whole = dataset is study.dataset
    name = "_".join([
        "tuned" if whole else "tuning", *study.main, f"w{width}", f"lr{lr:g}", f"s{seeds[0]}-{seeds[-1]}"
    ])  # fmt: skip
    training = training_at(study, width, lr)

    @functools.cache
    def trained() -> ensemble.Result:
        return ensemble.fit(
            study.network(study.main.limit, width),
            dataset,
            training,
            list(seeds),
            strategy=study.config["strategy"],
            chunk=1 if study.num_params(width) > WIDE else len(seeds),
            checkpoint=run.checkpointer(name),
            progress=report,
            evaluate_at=(training.epochs,),
        )

    def params(s: int, start: bool) -> PyTree:
        return rows_of((trained().initial if start else trained().variables)["params"])[s]

    def rows() -> list[dict[str, Any]]:
        result, found = trained(), []
        bits = test_bits(study.network(study.main.limit, width), result, dataset)
        for s, seed in enumerate(seeds):
            row = {"width": width, "seed": seed, "learning_rate": training.learning_rate}
            row |= {"diverged": int(result.diverged[s]), "bits": bits[s]} | final(result, s)
            start = params(s, True)
            moved = tree.norm(tree.axpy(-1.0, start, params(s, False))) / tree.norm(start)
            found.append(row | {"relative_movement": finite(moved)})
        return found

    return Trial(name, run.kept(name, rows), params)


def training_at(study: Any, width: int, lr: float) -> train.Config:
    """Return how the main arm's networks are trained, at another rate."""
    own = rate(lr, study.main.limit, width, study.config["ntk_speed"])
    return dataclasses.replace(study.training(study.main, width), learning_rate=own)


def ends(
    study: Any, width: int, trial: Trial, s: int, dataset: data.Dataset, ridges: dict[str, Sequence[float | None]]
) -> dict[str, list[str | None]]:
    """Return `regressions` with the tangent kernel of one network, averaged over outputs, before and after training."""
    f, found = outputs(study.network(study.main.limit, width)), {}
    for kind, start in (("initial", True), ("final", False)):
        params = trial.params(s, start)
        kernel = functools.partial(ntk.empirical_ntk, f, params, trace=True, memory_budget=KERNEL_BUDGET)
        alive = np.isfinite(np.asarray(f(params, dataset.test.x))).all()
        found[kind] = regressions(kernel, dataset, ridges[kind]) if alive else [None] * len(ridges[kind])
    return found


def infinite(study: Any, width: int) -> Kernel:
    """Return the infinitely wide network's tangent kernel with this width's own factors."""
    options = {"width": width, "depth": study.config["depth"], "parametrization": parametrization(study.main.limit)}

    def kernel(x1: jax.Array, x2: jax.Array | None) -> np.ndarray:
        return kernels.infinite_mlp(np.asarray(x1), None if x2 is None else np.asarray(x2), **options).ntk

    return kernel


def regressions(kernel: Kernel, dataset: data.Dataset, ridges: Sequence[float | None]) -> list[str | None]:
    """Return what `regress` finds on dataset.test with each ridge; None where it cannot be had.

    Args:
      kernel: that regresses.
      dataset: its training images are fitted, its test images are classified.
      ridges: in units of the mean of the kernel's diagonal; None where none was chosen.
    """
    sample = Sample(*dataset.test)
    gram = np.asarray(kernel(dataset.train.x, None), np.float64)
    cross = np.asarray(kernel(sample.x, dataset.train.x), np.float64)
    return [None if ridge is None else regress(gram, cross, dataset, sample, ridge) for ridge in ridges]


def measure(run: records.Run, study: Any) -> tuple[list[dict[str, Any]], ...]:
    """Tune and compare at every width not done yet; returns the rows of tuning.csv, tuned.csv and correct.csv."""
    config, widths = study.config, study.config["tuned_widths"]
    held = hold_out(study.dataset)
    few = study.seeds[: config["tuning_seeds"]]
    trials = [(width, each) for width in widths for each in (*config["tuned_rates"], None)]
    costs = [study.num_params(width) + 50_000 for width, _ in trials]
    counts = [len(study.seeds if each is None else few) for _, each in trials]
    tuning, tuned, correct = [], [], []
    with Progress(costs, counts, config["epochs"]) as progress:
        for width in widths:
            reports = {each: progress.part(trials.index((width, each)), f"tuning, width {width}")
                       for each in (*config["tuned_rates"], None)}  # fmt: skip
            choices, ridges, lr = tune(run, study, width, held, few, reports)
            tuning += choices
            compared, right = compare(run, study, width, lr, ridges, reports[None])
            tuned += compared
            correct += right
    return tuning, tuned, correct


def tune(
    run: records.Run, study: Any, width: int, held: data.Dataset, seeds: Sequence[int], reports: dict[Any, Any]
) -> tuple[list[dict[str, Any]], dict[str, float | None], float | None]:
    """Choose rate and ridges of one width on the held-out images.

    Returns:
      Rows of tuning.csv (a row for each candidate), {kind of kernel: ridge}, and the rate in the unit of --lr.
    """
    rates, ridges = study.config["tuned_rates"], study.config["tuned_ridges"]
    trials = [run_trial(run, study, width, lr, held, seeds, reports[lr]) for lr in rates]
    scores = np.array([[number(None if row["diverged"] else row["test_acc"]) for row in t.rows] for t in trials]).T
    lr = choose(rates, scores)
    rows = candidates(width, "learning_rate", "network", rates, scores, lr)
    found: dict[str, list] = {"initial": [], "final": [], "infinite": []}
    if lr is not None:
        chosen, every = trials[rates.index(lr)], dict.fromkeys(KINDS, ridges)
        for s, seed in enumerate(seeds if width <= KERNEL_SEEDS_UP_TO else seeds[:1]):
            work = functools.partial(ends, study, width, chosen, s, held, every)
            for kind, values in run.kept(f"{chosen.name}_kernels_{seed}", work).items():
                found[kind].append(values)
    if study.main.limit != "mup":  # which has no kernel limit
        name = f"tuning_infinite_{study.main.limit}_w{width}"
        found["infinite"].append(run.kept(name, lambda: regressions(infinite(study, width), held, ridges)))
    best: dict[str, float | None] = dict.fromkeys(KINDS)
    for kind, values in found.items():
        if values:
            scores = np.array([[number(accuracy(bits, len(held.test.y))) for bits in row] for row in values])
            best[kind] = choose(ridges, scores)
            rows += candidates(width, "ridge", f"{kind} kernel", ridges, scores, best[kind])
    return rows, best, lr


def candidates(
    width: int, what: str, of: str, values: Sequence[float], scores: np.ndarray, chosen: float | None
) -> list[dict[str, Any]]:
    """Make rows of tuning.csv: each candidate with its mean accuracy on the held-out images, and the chosen one."""
    rows = []
    for value, own in zip(values, scores.T, strict=True):
        row = {"width": width, "tuned": what, "of": of, "value": value, "held_out_acc": finite(own.mean())}
        rows.append(row | {"num_seeds": len(own), "num_lost": int(np.isnan(own).sum()), "chosen": int(value == chosen)})
    return rows


def compare(
    run: records.Run, study: Any, width: int, lr: float | None, ridges: dict[str, float | None], report: Any
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Train and regress on all training images with what was chosen -> rows of tuned.csv and correct.csv by seed.

    All accuracies are of all test images. The final kernel is the tuned network's.
    """
    blank = ("learning_rate", "diverged", "train_acc", "test_acc", "train_loss", "test_loss", "relative_movement")
    rows = [{"width": width, "seed": seed} | dict.fromkeys((*blank, "bits")) for seed in study.seeds]
    own_ridges: dict[str, Sequence[float | None]] = {kind: [ridge] for kind, ridge in ridges.items()}
    unseen: dict[str, list[str | None]] = {kind: [None] for kind in KINDS}
    if study.main.limit != "mup":
        name = f"tuned_infinite_{study.main.limit}_w{width}"
        work = functools.partial(regressions, infinite(study, width), study.dataset, own_ridges["infinite"])
        unseen["infinite"] = run.kept(name, work)
    trial = None
    if lr is not None:
        trial = run_trial(run, study, width, lr, study.dataset, study.seeds, report)
        rows = trial.rows
    images, found = len(study.dataset.test.y), []
    right: dict[str, list[str]] = {name: [] for name in ("test_acc", *(f"kernel_acc_{kind}" for kind in KINDS))}
    for s, row in enumerate(rows):
        own = dict(unseen)
        if trial is not None and (width <= KERNEL_SEEDS_UP_TO or s == 0):
            work = functools.partial(ends, study, width, trial, s, study.dataset, own_ridges)
            own |= run.kept(f"{trial.name}_kernels_{row['seed']}", work)
        bits = {f"kernel_acc_{kind}": own[kind][0] for kind in KINDS}
        for name, each in ({"test_acc": row["bits"]} | bits).items():
            right[name].append(each or "")
        cells = {f"ridge_{kind}": ridges[kind] for kind in KINDS}
        cells |= {name: accuracy(each, images) for name, each in bits.items()}
        found.append(study.main._asdict() | {name: row[name] for name in ("width", "seed", *blank)} | cells)
    correct = []
    for name, own_bits in right.items():
        correct += packed_rows(named(name, width, tuned=True), study.seeds, own_bits, images)
    return found, correct
