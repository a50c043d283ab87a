"""Does full-batch gradient descent end where its step is just stable (Cohen et al. 2021, arXiv:2103.00065)?

Gradient descent on a quadratic diverges where the sharpness, the top Hessian eigenvalue, exceeds 2 / rate. Networks
become sharper as they learn until they reach that bound, and with squared loss stay there. The study trains one
network by full batches at constant rates, without momentum, and follows the sharpness in units of the bound. Two rates
are the control: a sharpness that the network and the data alone decide would not follow the bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkgen.studies import base, datasets, options, runner
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.options import setting

if TYPE_CHECKING:  # what takes seconds to import stands in the functions that need it: --help is quick
    from ntkgen import data, records, train

LOSSES = {"mse": "squared loss", "cross_entropy": "cross-entropy"}
PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(rates=(0.2, 0.4), num_seeds=3, epochs=1_000, width=64, points=16),
    "small": dict(rates=(0.05, 0.1), num_seeds=3, epochs=2_000, width=64, num_train=1_000, points=21),
    "paper": dict(rates=(0.05, 0.1), num_seeds=5, epochs=10_000, width=200, num_train=5_000, points=41),
}
LAST = 1 / 3  # of the snapshots: where training ends, the mean of them decides
MARGIN_LOG10 = 0.1  # at the bound: within a factor of 1.26 of it, fixed before any run
ALPHA = 0.05


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen.studies import edge_of_stability
      >>> edge_of_stability.Config(rates=(0.1, 0.2), num_seeds=3).seeds
      [0, 1, 2]
    """

    rates: tuple[float, ...] = setting(options.Numbers(options.POSITIVE), "Learning rates. Default: the preset's.")
    losses: tuple[str, ...] = setting(options.Choices(tuple(LOSSES)), "What is minimised.", default=tuple(LOSSES))
    width: int = setting(options.COUNT, "Hidden width of the MLP. Default: the preset's.", group="network")
    depth: int = setting(options.DEPTH, "Dense layers.", default=3, group="network")
    points: int = setting(
        options.POINTS, "Epochs at which the sharpness is measured, evenly spaced.", group="measurement"
    )


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Example:
      >>> from ntkgen.studies import edge_of_stability
      >>> config = edge_of_stability.resolve("quick", {"rates": (0.1,)})
      >>> config.dataset, config.rates
      ('digits', (0.1,))

    Raises:
      ValueError: a network other than the MLP, no loss, or more points than epochs.
    """
    dataset = base.choose_dataset(preset, given)
    if given.get("model", "mlp") != "mlp":
        raise ValueError(f"model: expected mlp, the network of this study, got {given['model']}")
    options.refuse(given, base.foreign_to_network("mlp"))
    values = base.overlay({"label_noise": 0.0, **PRESETS[preset]}, given)
    if "num_train" not in given:
        values["num_train"] = datasets.choose_num_train(dataset, preset, values.get("num_train"))
    config = Config(**{**values, "dataset": dataset, "model": "mlp"})
    if not config.losses:
        raise ValueError(f"losses: expected at least one of {', '.join(LOSSES)}, got none")
    if config.points > config.epochs:
        raise ValueError(f"points: expected at most the {config.epochs} epochs, got {config.points}")
    return config


def prepare(config: Config, data_dir: Any) -> "tuple[dict[str, Any], tuple[Any, data.Dataset]]":
    """Load the data and check the settings; returns what they add to the record, and network and data.

    Example:
      >>> from ntkgen.studies import edge_of_stability
      >>> facts, (model, dataset) = edge_of_stability.prepare(edge_of_stability.resolve("quick", {"width": 4}), None)
      >>> facts["num_train"], model.width
      (1297, 4)
    """
    from ntkgen import models, train

    dataset = datasets.load(config, data_dir)
    model = models.MLP(config.width, config.depth, dataset.num_classes)
    for loss, rate in arms(config):
        train.Program.of(model, training(config, loss, rate), dataset.num_train)
    facts = {"num_train": dataset.num_train, "data_digest": dataset.digest, **datasets.source_facts(dataset)}
    return facts, (model, dataset)


def arms(config: Config) -> list[tuple[str, float]]:
    """Return (loss, rate) of every arm.

    Example:
      >>> from ntkgen.studies import edge_of_stability
      >>> edge_of_stability.arms(edge_of_stability.resolve("quick", {"losses": ("mse",)}))
      [('mse', 0.2), ('mse', 0.4)]
    """
    return [(loss, rate) for loss in config.losses for rate in config.rates]


def training(config: Config, loss: str, rate: float) -> "train.Config":
    """Return how one arm is trained.

    Example:
      >>> from ntkgen.studies import edge_of_stability
      >>> found = edge_of_stability.training(edge_of_stability.resolve("quick", {}), "mse", 0.2)
      >>> found.optimizer, found.momentum, found.schedule
      ('gd', 0.0, 'constant')
    """
    from ntkgen import train

    return train.Config(config.epochs, 1, rate, "gd", 0.0, "constant", loss=loss)


def measured(run: "records.Run", prepared: Prepared) -> dict[str, Rows]:
    """Train every arm and follow its sharpness; returns tracking.csv, a row for each arm, seed and snapshot."""
    import jax
    import jax.numpy as jnp

    from ntkgen import ensemble, measure, models, pruning, records, train

    config, (model, dataset) = prepared.config, prepared.more
    keys = jax.vmap(train.measurement_key)(jnp.asarray(config.seeds))
    epochs = tuple(sorted({round(float(epoch)) for epoch in np.linspace(0, config.epochs, config.points)}))
    sample, rows = (dataset.train.x, dataset.train.y), []
    given: dict[str, Any] = {"probes": (epochs, pruning.snapshot)}
    given |= {"options": ensemble.Options(evaluate_at=epochs[1:])}
    jobs = [
        (f"{loss}_{rate:g}", model, dataset, training(config, loss, rate), config.seeds) for loss, rate in arms(config)
    ]
    for job in jobs[1:]:
        run.ahead(*job, **given)
    with records.Progress([1.0] * len(jobs), len(config.seeds), config.epochs) as progress:
        for index, ((loss, rate), job) in enumerate(zip(arms(config), jobs, strict=True)):
            result = run.fit(*job, **given, progress=progress.part(index, f"{LOSSES[loss]}, rate {rate:g}"))
            snapshots = [jax.tree.map(lambda leaf, e=e: leaf[:, e], result.probes) for e in range(len(epochs))]
            networks = [(models.apply_fn(model, variables), variables["params"]) for variables in snapshots]
            track = measure.track(networks, keys, sample, loss=train.per_example(loss), rates=[rate] * len(epochs))
            for s, seed in enumerate(config.seeds):
                for e, epoch in enumerate(epochs):
                    row = {"loss": loss, "rate": rate, "seed": seed, "epoch": epoch}
                    row |= {"train_loss": float(track.loss[s, e]), "eigenvalue": float(track.value[s, e])}
                    row |= {"residual": float(track.residual[s, e]), "converged": int(track.converged[s, e])}
                    row |= {"of_bound": float(track.value[s, e] / track.threshold[e])}
                    rows.append(row | {"diverged": int(result.diverged[s])})
    return {"tracking": rows}


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Summarise the sharpness of every arm, and decide whether it ends at the bound.

    An arm is at the edge where the mean of the last third, in log10 of the bound, is equivalent to zero within
    `MARGIN_LOG10` (TOST over seeds, the false discovery rate held over all arms).

    Example:
      >>> from ntkgen.studies import base, edge_of_stability
      >>> config = edge_of_stability.resolve("quick", {"rates": (0.2,), "losses": ("mse",)})
      >>> row = {"loss": "mse", "rate": "0.2", "train_loss": "0.1", "converged": "1", "diverged": "0"}
      >>> rows = [{**row, "seed": str(seed), "epoch": str(epoch), "of_bound": of_bound, "eigenvalue": "10"}
      ...         for seed in range(3) for epoch, of_bound in ((0, "0.5"), (500, "1.01"), (1000, "0.99"))]
      >>> derived = edge_of_stability.derive(base.Prepared(config, {}, "quick", {}, None), {"tracking": rows})
      >>> derived.verdict[0]["decision"]
      'seen'
    """
    from ntkgen.studies import tables

    seeds = _by_seed(prepared.config, found["tracking"])
    summary = tables.summarise(seeds, ["loss", "rate"], ["start", "highest", "last", "log10_last"])
    tests = _tests(prepared.config, seeds)
    verdict = [_claim(row, own) for row, own in zip(tests, summary, strict=True)]
    lines = [f"{'loss':>14} {'rate':>6} {'at the start':>18} {'highest':>18} {'last third':>18}  at 2 / rate?"]
    for row, own in zip(tests, summary, strict=True):
        cells = " ".join(f"{tables.cell(own, metric):>18}" for metric in ("start", "highest", "last"))
        lines.append(f"{LOSSES[row['loss']]:>14} {row['rate']:>6g} {cells}  {row['decision']}")
    lines.append("The sharpness in units of 2 / rate, with 95 % intervals over seeds.")
    answer = ["Is the sharpness 2 / rate in the last third of training? In units of it:"]
    for row, own in zip(tests[:8], summary, strict=False):
        word = row["decision"].partition(" (")[0]
        answer.append(f"  {LOSSES[row['loss']]}, rate {row['rate']:g}: {tables.cell(own, 'last')}, {word}")
    if len(tests) > 8:
        answer.append(f"  {len(tests) - 8} arms more")
    return Derived({"summary": summary, "tests": tests}, verdict, "\n".join(lines), answer="\n".join(answer))


def _by_seed(config: Config, rows: Any) -> Rows:
    """Return the sharpness of every network, in units of the bound: None where it is not known at every snapshot."""
    from ntkgen.studies import tables

    found = []
    for loss, rate in arms(config):
        for seed in config.seeds:
            key = (loss, rate, seed)
            own = [row for row in rows if (row["loss"], float(row["rate"]), int(row["seed"])) == key]
            course = np.array([tables.number(row["of_bound"]) for row in own])
            last = course[-max(1, round(LAST * len(course))) :]
            known = all(row["diverged"] == "0" and row["converged"] == "1" for row in own) and (course > 0).all()
            values = (course[0], course.max(), last.mean(), np.log10(last).mean()) if known else [None] * 4
            names = ("start", "highest", "last", "log10_last")
            found.append({"loss": loss, "rate": rate, "seed": seed, **dict(zip(names, values, strict=True))})
    return found


def _tests(config: Config, seeds: Rows) -> Rows:
    """Return the test of every arm, with its decision."""
    from ntkgen import stats

    found: Rows = []
    for loss, rate in arms(config):
        logs = [row["log10_last"] for row in seeds if (row["loss"], row["rate"]) == (loss, rate)]
        values = np.array([log for log in logs if log is not None])
        row: dict[str, Any] = {"loss": loss, "rate": rate, "num_seeds": len(values), "margin": MARGIN_LOG10}
        if len(values) > 1:
            same = stats.equivalence(values, np.zeros_like(values), MARGIN_LOG10)
            row |= {"difference": same.mean_difference, "equivalence_p": same.pvalue, "detectable": same.detectable}
            apart = stats.paired(values, np.zeros_like(values))
            row |= {"low": apart.low, "high": apart.high, "pvalue": apart.pvalue}
        found.append(row)
    known = [row for row in found if row["num_seeds"] > 1]
    for name in ("equivalence_p", "pvalue"):
        for row, value in zip(known, stats.false_discovery([row[name] for row in known])[1], strict=True):
            row[name] = float(value)
    for row in found:
        decision = stats.Decision(stats.UNDECIDED, f"{row['num_seeds']} seeds; a test needs two")
        if row in known:
            decision = stats.decide_equal(
                row["difference"], row["pvalue"], row["equivalence_p"], margin=MARGIN_LOG10, alpha=ALPHA,
                detectable=row["detectable"],
            )  # fmt: skip
        row["decision"] = str(decision)
    return found


def _claim(row: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Return the claim that an arm ends at the bound.

    The control is the sharpness at the start: where it is at the bound already, training did not bring it there.

    Args:
      row: of tests.csv.
      own: of summary.csv.
    """
    from ntkgen import stats
    from ntkgen.studies import relations

    start, low, high = (own[f"start_{end}"] for end in ("mean", "t_low", "t_high"))
    word = stats.UNDECIDED
    if high is not None and not low <= 1 <= high:
        word = stats.SEEN if high < 1 else stats.NOT_SEEN
    numbers = {name: row.get(name) for name in ("difference", "low", "high", "equivalence_p", "pvalue", "detectable")}
    return {
        "claim": f"{LOSSES[row['loss']]}, rate {row['rate']:g}: the sharpness ends at 2 / rate",
        "decision": row["decision"],
        **numbers,
        "unit": "log10 of sharpness x rate / 2",
        "control": relations.control("below 2 / rate at the start", word, start, low, high, "of 2 / rate"),
    }


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw the sharpness in units of 2 / rate along training, a panel for each loss.

    Example:
      >>> from ntkgen.studies import base, edge_of_stability
      >>> config = edge_of_stability.resolve("quick", {"rates": (0.2,), "losses": ("mse",)})
      >>> rows = [{"loss": "mse", "rate": "0.2", "seed": str(seed), "epoch": epoch, "of_bound": "0.9"}
      ...         for seed in range(3) for epoch in ("0", "1000")]
      >>> prepared = base.Prepared(config, {}, "quick", {}, None)
      >>> [name for name, figure in edge_of_stability.figures(prepared, {"tracking": rows}, None)]
      ['sharpness']
    """
    from ntkgen import plotting
    from ntkgen.studies import curves, tables

    config = prepared.config
    rows = tables.summarise(found["tracking"], ["loss", "rate", "epoch"], ["of_bound"])

    def curve(loss: str, rate: float) -> "plotting.Curve":
        own = [row for row in rows if (row["loss"], float(row["rate"])) == (loss, rate)]
        ends = ([tables.number(row[f"of_bound_{end}"]) for row in own] for end in ("mean", "t_low", "t_high"))
        return plotting.Curve([float(row["epoch"]) for row in own], *ends)

    ends = plotting.Curve([0.0, float(config.epochs)], *([1.0, 1.0] for _ in range(3)))
    parts = {
        f"sharpness × rate / 2, {LOSSES[loss]}": {
            **{f"rate {rate:g}": curve(loss, rate) for rate in config.rates}, "bound": ends,
        }
        for loss in config.losses
    }  # fmt: skip
    title = (
        f"Full-batch gradient descent, MLP {config.width} on {curves.called(config.dataset)}, {len(config.seeds)} seeds"
    )
    yield "sharpness", plotting.panels(parts, "epoch (one step each)", title, linear=True)


STUDY = base.Study(
    "edge_of_stability", "Does full-batch gradient descent end where its step is just stable?", Config, resolve,
    prepare, measured, derive, figures, ("tracking",),
)  # fmt: skip
run = runner.of(STUDY)
