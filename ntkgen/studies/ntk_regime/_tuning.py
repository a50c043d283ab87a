"""Networks and kernels compared after equal tuning: learning rate and ridge are chosen on held-out training images.

A fifth of the training images is held out. Networks are trained on the rest at every rate of a grid, kernels are
regressed on the rest with every ridge of a grid. The value with the highest mean accuracy on the held-out images is
chosen, one for each width. Then networks are trained and kernels are regressed on all training images with that value,
and only then the test images are looked at.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ntkgen import data, ensemble, records, tree
from ntkgen.studies import tuning
from ntkgen.studies.base import Rows
from ntkgen.studies.ntk_regime._config import OWN
from ntkgen.studies.ntk_regime._kernels import (
    KINDS,
    SEEDS_UP_TO,
    accuracy,
    arm_name,
    infinite_kernel,
    regressions,
    tangent_regressions,
    test_bits,
)
from ntkgen.studies.ntk_regime._materials import WIDE, Images, Materials, parametrization
from ntkgen.studies.ntk_regime._paths import final, finite
from ntkgen.studies.ntk_regime._probes import by_seed
from ntkgen.studies.tables import number, packed_rows
from ntkgen.typing import PyTree

Digits = dict[str, list[str | None]]  # kind of kernel -> for each ridge, which images are right
TRAINED = ("learning_rate", "diverged", "train_acc", "test_acc", "train_loss", "test_loss", "relative_movement")


class RateTrial(NamedTuple):
    """Networks of one width, trained at one rate.

    Attributes:
      name: of its files.
      rows: final losses and accuracies (percent), and which test images are right (`bits`), one row for each seed;
        test images are the held-out ones when the data set is that of `tuning.hold_out`.
      params: params(s, start) -> parameters of the seed at index s, after training or at the start.
    """

    name: str
    rows: Rows
    params: Callable[[int, bool], PyTree]


class TunedWidth(NamedTuple):
    """What was chosen for one width: rows of tuning.csv, the rate in the unit of --lr, {kind of kernel: ridge}."""

    rows: Rows
    lr: float | None
    ridges: dict[str, float | None]


def measure_tuned(run: records.Run, materials: Materials) -> dict[str, Rows]:
    """Tune and compare at every width.

    Returns:
      "tuning", a row for each candidate; "tuned", a row for each network and its kernels; "correct", the test images
      that they classify right.
    """
    config = materials.config
    stages = [(width, each) for width in config.tuned_widths for each in (*config.tuned_rates, None)]
    costs = [materials.num_params(width) + 50_000 for width, _ in stages]
    counts = [config.num_seeds if each is None else config.tuning_seeds for _, each in stages]
    found: dict[str, Rows] = {"tuning": [], "tuned": [], "correct": []}
    with records.Progress(costs, counts, config.epochs) as progress:
        for width in config.tuned_widths:
            reports = {
                each: progress.part(stages.index((width, each)), f"tuning, width {width}")
                for each in (*config.tuned_rates, None)
            }
            chosen = tune_width(run, materials, width, reports)
            tuned, correct = compare_tuned(run, materials, width, chosen, reports[None])
            for name, rows in (("tuning", chosen.rows), ("tuned", tuned), ("correct", correct)):
                found[name] += rows
    return found


def run_trial(
    run: records.Run, materials: Materials, width: int, lr: float, seeds: Sequence[int], held: bool, report: Any
) -> RateTrial:
    """Train the main networks of a width at a rate; what is there already is read.

    Args:
      run: where results and networks are kept.
      materials: data and networks.
      width: hidden units.
      lr: rate, in the unit of --lr: the limit of the width may change it.
      seeds: which are trained.
      held: train on the rest of the training images and evaluate on those held out, not on all and the test images.
      report: called after every epoch.
    """
    main, dataset = materials.config.main, fitted(materials, held)
    stage = "tuning" if held else "tuned"
    name = "_".join([stage, *main, f"w{width}", f"lr{lr:g}", f"s{seeds[0]}-{seeds[-1]}"])
    model, training = materials.network(width), materials.training(main, width, lr)

    @functools.cache
    def trained() -> ensemble.Result:
        return run.fit(
            name,
            model,
            dataset,
            training,
            list(seeds),
            options=ensemble.Options(
                strategy=materials.config.strategy,
                chunk=1 if materials.num_params(width) > WIDE else len(seeds),
                evaluate_at=(training.epochs,),
            ),
            progress=report,
        )

    def params(s: int, start: bool) -> PyTree:
        return by_seed((trained().initial if start else trained().variables)["params"])[s]

    def rows() -> Rows:
        result, found = trained(), []
        bits = test_bits(model, result, dataset)
        for s, seed in enumerate(seeds):
            row: dict[str, Any] = {"width": width, "seed": seed, "learning_rate": training.learning_rate}
            row |= {"diverged": int(result.diverged[s]), "bits": bits[s]} | final(result, s)
            start = params(s, True)
            distance = tree.norm(tree.axpy(-1.0, start, params(s, False))) / tree.norm(start)
            found.append(row | {"relative_movement": finite(distance)})
        return found

    return RateTrial(name, run.kept(name, rows), params)


def fitted(materials: Materials, held: bool) -> data.Dataset:
    """Return what is trained on and tested with: to choose, or to compare."""
    if not held:
        return materials.dataset
    assert materials.held is not None  # there is tuning
    return materials.held


def regress_trial(
    run: records.Run, materials: Materials, width: int, trial: RateTrial, s: int, held: bool,
    ridges: dict[str, Sequence[float | None]],
) -> Digits:  # fmt: skip
    """Return `regressions` with the tangent kernel of one network before and after training; read if it is there."""
    dataset = fitted(materials, held)

    def work() -> Digits:
        model, images = materials.network(width), Images(*dataset.test)
        return {
            kind: tangent_regressions(model, trial.params(s, start), dataset, images, ridges[kind])
            for kind, start in (("initial", True), ("final", False))
        }

    return run.kept(f"{trial.name}_kernels_{trial.rows[s]['seed']}", work)


def regress_infinite(
    run: records.Run, materials: Materials, width: int, held: bool, ridges: Sequence[float | None]
) -> list[str | None] | None:
    """Return `regressions` with the infinite-width kernel, read if it is there; None where none is known."""
    config, dataset = materials.config, fitted(materials, held)
    if config.limit in ("mup", OWN):
        return None
    kernel = infinite_kernel(width, config.depth, parametrization(config.limit))
    name = f"{'tuning' if held else 'tuned'}_infinite_{config.limit}_w{width}"
    return run.kept(name, lambda: regressions(kernel, dataset, Images(*dataset.test), ridges))


def tune_width(run: records.Run, materials: Materials, width: int, reports: dict[Any, Any]) -> TunedWidth:
    """Choose rate and ridges of one width on the held-out images."""
    config = materials.config
    seeds, rates, ridges = config.seeds[: config.tuning_seeds], config.tuned_rates, config.tuned_ridges
    trials = [run_trial(run, materials, width, lr, seeds, True, reports[lr]) for lr in rates]
    scores = np.array([[number(None if row["diverged"] else row["test_acc"]) for row in t.rows] for t in trials]).T
    lr = tuning.choose(rates, scores)
    rows = candidate_rows(width, "learning_rate", "network", rates, scores, lr)
    found: dict[str, list[list[str | None]]] = {kind: [] for kind in KINDS}
    if lr is not None:
        best = trials[rates.index(lr)]
        for s in range(len(seeds) if width <= SEEDS_UP_TO else 1):
            for kind, digits in regress_trial(
                run, materials, width, best, s, True, dict.fromkeys(KINDS, ridges)
            ).items():
                found[kind].append(digits)
    infinite = regress_infinite(run, materials, width, True, ridges)
    if infinite is not None:
        found["infinite"].append(infinite)
    chosen: dict[str, float | None] = dict.fromkeys(KINDS)
    images = len(fitted(materials, True).test.y)
    for kind, by_seed_digits in found.items():
        if by_seed_digits:
            scores = np.array([[number(accuracy(bits, images)) for bits in digits] for digits in by_seed_digits])
            chosen[kind] = tuning.choose(ridges, scores)
            rows += candidate_rows(width, "ridge", f"{kind} kernel", ridges, scores, chosen[kind])
    return TunedWidth(rows, lr, chosen)


def candidate_rows(
    width: int, what: str, of: str, candidates: Sequence[float], scores: np.ndarray, chosen: float | None
) -> Rows:
    """Return rows of tuning.csv: each candidate with its mean accuracy on the held-out images, and the chosen one."""
    rows = []
    for value, own in zip(candidates, scores.T, strict=True):
        row = {"width": width, "tuned": what, "of": of, "value": value, "held_out_acc": finite(own.mean())}
        rows.append(row | {"num_seeds": len(own), "num_lost": int(np.isnan(own).sum()), "chosen": int(value == chosen)})
    return rows


def compare_tuned(
    run: records.Run, materials: Materials, width: int, chosen: TunedWidth, report: Any
) -> tuple[Rows, Rows]:
    """Train and regress on all training images with what was chosen -> rows of tuned.csv and correct.csv by seed.

    All accuracies are of all test images. The final kernel is the tuned network's.
    """
    config, images = materials.config, len(materials.dataset.test.y)
    rows: Rows = [{"width": width, "seed": seed} | dict.fromkeys((*TRAINED, "bits")) for seed in config.seeds]
    ridges: dict[str, Sequence[float | None]] = {kind: [ridge] for kind, ridge in chosen.ridges.items()}
    none: Digits = {kind: [None] for kind in KINDS}
    none["infinite"] = regress_infinite(run, materials, width, False, ridges["infinite"]) or [None]
    trial = None
    if chosen.lr is not None:
        trial = run_trial(run, materials, width, chosen.lr, config.seeds, False, report)
        rows = trial.rows
    found: Rows = []
    right: dict[str, list[str]] = {name: [] for name in ("test_acc", *(f"kernel_acc_{kind}" for kind in KINDS))}
    for s, row in enumerate(rows):
        digits = dict(none)
        if trial is not None and (width <= SEEDS_UP_TO or s == 0):
            digits |= regress_trial(run, materials, width, trial, s, False, ridges)
        bits = {f"kernel_acc_{kind}": digits[kind][0] for kind in KINDS}
        for name, each in ({"test_acc": row["bits"]} | bits).items():
            right[name].append(each or "")
        cells = {f"ridge_{kind}": chosen.ridges[kind] for kind in KINDS}
        cells |= {name: accuracy(each, images) for name, each in bits.items()}
        found.append(config.main._asdict() | {name: row[name] for name in ("width", "seed", *TRAINED)} | cells)
    correct: Rows = []
    for name, own_bits in right.items():
        correct += packed_rows(arm_name(name, width, tuned=True), config.seeds, own_bits, images)
    return found, correct
