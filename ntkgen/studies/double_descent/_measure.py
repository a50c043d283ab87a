"""Data and networks of the double-descent study, and their training."""

from typing import Any, NamedTuple

from ntkgen import data, ensemble, models, records, train
from ntkgen.measure import correct
from ntkgen.studies import base, tables
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.datasets import load, source_facts
from ntkgen.studies.double_descent._config import Config
from ntkgen.studies.double_descent._tables import arm_name


class Sweep(NamedTuple):
    """What is trained: training, number of examples -> data, size -> number of parameters."""

    training: train.Config
    datasets: dict[int, data.Dataset]
    num_params: dict[int, int]


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], Sweep]:
    """Load the data and check everything that can be wrong; returns what they add to the record, and the sweep.

    Raises:
      ValueError: a setting does not fit the data or the machine.
    """
    training = base.training(config)
    loaded = [load(config, data_dir, num_train=count) for count in config.num_train or (None,)]
    datasets = {dataset.num_train: dataset for dataset in sorted(loaded, key=lambda each: each.num_train)}
    params = {}
    for size in config.sizes:
        model = base.network(config, size, num_classes=loaded[0].num_classes)
        params[size] = models.num_params(model, loaded[0].train.x.shape[1:])
        ensemble.check_fits(params[size], f"{config.size_name}: {config.model} {size}")
        for count in datasets:
            train.Program.of(model, training, count)
    facts = {
        "num_train": list(datasets),
        "momentum": training.momentum,
        "data_digests": [dataset.digest for dataset in datasets.values()],
        **source_facts(loaded[0]),
    }
    return facts, Sweep(training, datasets, params)


def measure(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Train every size on every number of examples.

    Returns:
      "runs", tidy rows by seed and epoch, accuracies in percent; "correct", the test images that the final networks
      classify right.
    """
    config, sweep = prepared.config, prepared.more
    rows, right, layouts = [], [], {}
    parts = [(count, sizes) for count in sweep.datasets for sizes in config.programs(sweep.num_params, count)]
    # Of a seed's epoch. Dispatch costs what some 50,000 parameters do (CPU), and a program's sizes share it.
    costs = [count * (50_000 / len(sizes) + sweep.num_params[sizes[-1]]) for count, sizes in parts]
    seeds = [len(config.seeds) * len(sizes) for _, sizes in parts]
    jobs = [_job(config, sweep, *part) for part in parts]
    for job in jobs[1:]:
        run.ahead(**job.fit)
    with records.Progress(costs, seeds, config.epochs) as progress:
        for index, ((count, sizes), job) in enumerate(zip(parts, jobs, strict=True)):
            label = f"{config.model} {_span(sizes)}, {count} examples"
            result = run.fit(**job.fit, progress=progress.part(index, label))
            layouts[job.fit["name"]] = result.strategy
            dataset = sweep.datasets[count]
            for size, own in ({sizes[0]: result} if job.padded is None else job.padded.split(result)).items():
                model = base.network(config, size, num_classes=dataset.num_classes)
                f = models.apply_fn(model, own.variables)
                hits = correct(f, own.variables["params"], dataset.test.x, dataset.test.y)
                right += tables.correct_rows(arm_name(count, size), config.seeds, hits, own.diverged)
                about = {"num_train": count, "size": size, "num_params": sweep.num_params[size]}
                rows += _rows(about, config, own)
    run.write_json("layout.json", layouts)
    return {"runs": rows, "correct": right}


class _Job(NamedTuple):
    """The arguments of `Run.fit`, and how several widths were made one network, or None."""

    fit: dict[str, Any]
    padded: ensemble.Padded | None


def _span(sizes: list[int]) -> str:
    """Return the sizes of one program in short: 8, or 4-64."""
    return f"{sizes[0]}" + (f"-{sizes[-1]}" if len(sizes) > 1 else "")


def _job(config: Config, sweep: Sweep, count: int, sizes: list[int]) -> _Job:
    """Make the arguments of the fit of one or several sizes on a number of examples."""
    dataset = sweep.datasets[count]

    def network(size: int) -> Any:
        return base.network(config, size, num_classes=dataset.num_classes)

    name = f"{config.model}{_span(sizes)}_n{count}"
    given: dict[str, Any] = {"dataset": dataset, "config": sweep.training}
    given["options"] = ensemble.Options(config.strategy, evaluate_at=config.evaluate_at)
    if len(sizes) == 1:
        return _Job({"name": name, "model": network(sizes[0]), "seeds": config.seeds, **given}, None)
    padded = ensemble.Padded.of(network, sizes, dataset, sweep.training, config.seeds)
    return _Job({"name": name, "model": padded.model, "seeds": padded.seeds, "init": padded.init, **given}, padded)


def _rows(about: dict[str, Any], config: Config, result: ensemble.Result) -> Rows:
    """Make the rows of one size, by seed and measured epoch."""
    rows = []
    for s, seed in enumerate(config.seeds):
        for epoch in config.evaluate_at:
            at = {name: float(values[s, epoch - 1]) for name, values in result.history.items()}
            row = about | {"seed": seed, "epoch": epoch, "learning_rate": at["learning_rate"]}
            for split in ("train", "test"):
                row |= {f"{split}_loss": at[f"{split}_loss"], f"{split}_acc": 100 * at[f"{split}_accuracy"]}
            rows.append(row | {"diverged": int(result.diverged[s])})
    return rows
