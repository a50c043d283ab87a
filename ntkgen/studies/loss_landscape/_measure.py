"""Data and networks of the loss-landscape study, their training, and the parts that are measured on them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from ntkgen import data, ensemble, models, records, train
from ntkgen.measure import correct
from ntkgen.studies import base, datasets, tables
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.loss_landscape import _rows
from ntkgen.studies.loss_landscape._config import ARMS, Config
from ntkgen.studies.loss_landscape._instruments import Instruments, MeasurementSizes, Solutions

EVALUATIONS = 12  # of loss and accuracy along training
INTERPOLATES = 99.9  # percent of training accuracy


class TwoArms(NamedTuple):
    """What is trained and measured: network, data, training by arm, sizes of all measurements."""

    model: Any
    num_params: int
    dataset: data.Dataset
    trainings: dict[str, train.Config]
    sizes: MeasurementSizes


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], TwoArms]:
    """Load the data and check everything that can be wrong; returns what they add to the record, and both arms.

    Raises:
      ValueError: a setting does not fit the data or the machine.
    """
    dataset = datasets.load(config, data_dir)
    model = base.network(config, config.size, num_classes=dataset.num_classes)
    num_params = models.num_params(model, dataset.train.x.shape[1:])
    ensemble.check_fits(num_params, f"{config.size_name}: {config.model} {config.size}")
    trainings = {}
    for arm, (batch_size, learning_rate) in config.arms.items():
        trainings[arm] = train.Config(
            epochs=config.epochs, batch_size=batch_size, learning_rate=learning_rate, schedule=config.schedule
        )
        if batch_size > dataset.num_train:
            raise ValueError(f"{arm}: expected at most the {dataset.num_train} training examples, got {batch_size}")
    sizes = MeasurementSizes.of(config, model, dataset.num_train)
    facts = {
        "num_train": dataset.num_train,
        "num_params": num_params,
        "data_digest": dataset.digest,
        **datasets.source_facts(dataset),
        "measurements": dataclasses.asdict(sizes),
    }
    return facts, TwoArms(model, num_params, dataset, trainings, sizes)


def measure(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Train both arms and measure every network.

    Returns:
      "runs", a row for each network; "correct", the test images that it classifies right; "matched", its sharpness at
      equal losses; its "eigenvalues" and spectral "density"; "perturbation", "lines" and "plane", the loss around it.
    """
    config, both = prepared.config, prepared.more
    results = train_arms(run, both, config)
    found = measure_parts(run, both, results, config.seeds)
    right = []
    for arm, result in results.items():
        f, test = models.apply_fn(both.model, result.variables), both.dataset.test
        hits = correct(f, result.variables["params"], test.x, test.y)
        right += tables.correct_rows(arm, config.seeds, hits, result.diverged)
    return {**found, "runs": run_rows(prepared, results, found["runs"]), "correct": right}


def train_arms(run: records.Run, both: TwoArms, config: Config) -> dict[str, ensemble.Result]:
    """Train both arms, all seeds of each."""
    evaluate_at = sorted({max(1, config.epochs * i // EVALUATIONS) for i in range(1, EVALUATIONS + 1)})
    options = ensemble.Options(evaluate_at=evaluate_at)
    jobs = [(arm, both.model, both.dataset, training, config.seeds) for arm, training in both.trainings.items()]
    for job in jobs[1:]:
        run.ahead(*job, options=options)
    results = {}
    with records.Progress([1.0] * len(ARMS), len(config.seeds), config.epochs) as progress:
        for index, (arm, *given) in enumerate(jobs):
            report = progress.part(index, arm.replace("_", " "))
            results[arm] = run.fit(arm, *given, progress=report, options=options)
    return results


def measure_parts(
    run: records.Run, both: TwoArms, results: dict[str, ensemble.Result], seeds: list[int]
) -> dict[str, Rows]:
    """Measure every network, in parts that are kept; returns name -> rows."""
    instruments = Instruments(both.model, both.trainings[ARMS[0]], both.dataset, both.sizes)
    trained = {arm: Solutions.of(result.variables, seeds) for arm, result in results.items()}
    parts: list[tuple[str, Callable[..., dict[str, Rows]], tuple[Any, ...]]] = []
    for group in instruments.groups(len(seeds)):
        own = seeds[group]
        name = f"seeds_{own[0]}_{own[-1]}"
        some = {arm: solutions.take(group) for arm, solutions in trained.items()}
        for arm, solutions in some.items():
            parts.append((f"{arm}_{name}_curvature", _rows.curvature_rows, (arm, own, solutions)))
            parts.append((f"{arm}_{name}_around", _rows.around_rows, (arm, own, solutions)))
        parts.append((f"between_{name}", _rows.between_rows, (own, *some.values())))
    for arm, solutions in trained.items():
        parts.append((f"{arm}_surface", _rows.surface_rows, (arm, seeds[:1], solutions.take(slice(0, 1)))))
    found: dict[str, Rows] = {}
    with records.Progress([1.0] * len(parts), 1, 1, unit="measured") as progress:
        for index, (name, measured, given) in enumerate(parts):

            def work(each: Any = (index, name, measured, given)) -> Any:
                index, name, measured, given = each
                rows = measured(instruments, *given)
                progress.measured(index, name.replace("_", " "))
                return rows

            for table, rows in run.kept(name, work).items():
                found.setdefault(table, []).extend(rows)
    return found


def run_rows(prepared: Prepared, results: dict[str, ensemble.Result], measured: Rows) -> Rows:
    """Make runs.csv: training and measurements of every network."""
    config, num_train = prepared.config, prepared.more.dataset.num_train
    found = {(row["arm"], row["seed"]): row for row in measured}
    rows = []
    for arm, (batch_size, learning_rate) in config.arms.items():
        for s, seed in enumerate(config.seeds):
            last = {name: float(values[s, -1]) for name, values in results[arm].history.items()}
            train_acc, test_acc = 100 * last["train_accuracy"], 100 * last["test_accuracy"]
            rows.append(
                {
                    "arm": arm,
                    "batch_size": batch_size,
                    "learning_rate": learning_rate,
                    "seed": seed,
                    "steps": config.epochs * -(-num_train // batch_size),
                    "train_loss": last["train_loss"],
                    "train_acc": train_acc,
                    "test_loss": last["test_loss"],
                    "test_acc": test_acc,
                    "gap": train_acc - test_acc,
                    "diverged": int(results[arm].diverged[s]),
                    "interpolates": int(train_acc >= INTERPOLATES),
                    **{name: value for name, value in found[arm, seed].items() if name not in ("arm", "seed")},
                }
            )
    return rows
