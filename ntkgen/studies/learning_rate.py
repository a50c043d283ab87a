"""How sensitive is a network to its learning rate? An example of a study of one's own.

Trains one network at many rates, several seeds each, and finds the rates whose test accuracy is within half a point of
the best, the first rate at which seeds diverge, and the top Hessian eigenvalue against the stability bound 2 / rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ntkgen.studies import base, datasets, options, runner
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.options import setting

if TYPE_CHECKING:  # what takes seconds to import stands in the functions that need it: --help is quick
    from ntkgen import data, plotting, records, train

RATES = tuple(float(f"{rate:.3g}") for rate in np.geomspace(0.001, 3.0, 11))
PRESETS: dict[str, dict[str, Any]] = {
    "quick": dict(rates=RATES[::2], num_seeds=3, epochs=20, width=32),
    "small": dict(rates=RATES, num_seeds=3, epochs=20, width=64, num_train=2_000),
    "paper": dict(rates=RATES, num_seeds=5, epochs=30, width=256, num_train=10_000),
}
METRICS = ("train_acc", "test_acc", "eigenvalue")


@dataclass(frozen=True)
class Config(base.Config):
    """Settings of the study; see `base.Config` for the shared ones.

    Example:
      >>> from ntkgen.studies import learning_rate
      >>> learning_rate.Config(rates=(0.1, 0.2), num_seeds=3).seeds
      [0, 1, 2]
    """

    rates: tuple[float, ...] = setting(options.Numbers(options.POSITIVE), "Learning rates. Default: the preset's.")
    width: int = setting(
        options.COUNT, "Width of the MLP or the transformer; base channels of the CNN.", group="network"
    )
    batch_size: int = setting(options.COUNT, "Examples a step.", default=128)
    hessian_samples: int = setting(options.COUNT, "Images of the Hessian.", default=500, group="measurement")


def resolve(preset: str, given: dict[str, Any]) -> Config:
    """Return the complete config of a preset and what the user gave.

    Example:
      >>> from ntkgen.studies import learning_rate
      >>> config = learning_rate.resolve("quick", {"rates": (0.1,)})
      >>> config.dataset, config.rates
      ('digits', (0.1,))
    """
    dataset = base.choose_dataset(preset, given)
    model = base.choose_model(dataset, given)
    options.refuse(given, base.foreign_to_network(model))
    own = {"label_noise": 0.0, **PRESETS[preset], **({"blocks": 2, "heads": 4} if model == "transformer" else {})}
    values = base.overlay(own, given)
    if "num_train" not in given:
        values["num_train"] = datasets.choose_num_train(dataset, preset, values.get("num_train"))
    return Config(**{**values, "dataset": dataset, "model": model})


def prepare(config: Config, data_dir: Any) -> "tuple[dict[str, Any], tuple[Any, data.Dataset]]":
    """Load the data and check the settings; returns what they add to the record, and network and data.

    Example:
      >>> from ntkgen.studies import learning_rate
      >>> facts, (model, dataset) = learning_rate.prepare(learning_rate.resolve("quick", {"width": 4}), None)
      >>> facts["num_train"], model.width
      (1297, 4)
    """
    from ntkgen import train

    dataset = datasets.load(config, data_dir)
    model = base.network(config, config.width, num_classes=dataset.num_classes)
    for rate in config.rates:
        train.Program.of(model, training(config, rate), dataset.num_train)
    facts = {"num_train": dataset.num_train, "data_digest": dataset.digest, **datasets.source_facts(dataset)}
    return facts, (model, dataset)


def training(config: Config, rate: float) -> "train.Config":
    """Return how one arm is trained.

    Example:
      >>> from ntkgen.studies import learning_rate
      >>> learning_rate.training(learning_rate.resolve("quick", {"epochs": 3}), rate=0.2).learning_rate
      0.2
    """
    from ntkgen import train

    return train.Config(config.epochs, config.batch_size, rate)


def measured(run: "records.Run", prepared: Prepared) -> dict[str, Rows]:
    """Train every rate; returns the rows of runs.csv, one for each rate and seed, accuracies in percent."""
    import jax
    import jax.numpy as jnp

    from ntkgen import measure, models, records, train

    config, (model, dataset) = prepared.config, prepared.more
    keys = jax.vmap(train.measurement_key)(jnp.asarray(config.seeds))
    sample = dataset.train.x[: config.hessian_samples], dataset.train.y[: config.hessian_samples]
    rows = []
    with records.Progress([1.0] * len(config.rates), len(config.seeds), config.epochs) as progress:
        for index, rate in enumerate(config.rates):
            report = progress.part(index, f"rate {rate:g}")
            result = run.fit(f"rate{rate:g}", model, dataset, training(config, rate), config.seeds, progress=report)
            progress.measuring(index, f"rate {rate:g}")
            f, params = models.apply_fn(model, result.variables), result.variables["params"]
            start = measure.each_seed(measure.random_start, (keys, params))
            given = {"loss": train.cross_entropy}
            top = measure.each_seed(measure.spectral, (f, params, start, keys), sample, given, host_driven=True).top
            for s, seed in enumerate(config.seeds):
                accuracy = {
                    f"{split}_acc": 100 * result.history[f"{split}_accuracy"][s, -1] for split in ("train", "test")
                }
                quality = {"residual": float(top.residual[s]), "converged": int(top.converged[s])}
                row = {"rate": rate, "seed": seed, **accuracy, "eigenvalue": float(top.value[s]), **quality}
                rows.append(row | {"diverged": int(result.diverged[s])})
    return {"runs": rows}


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make the summary by rate, and find plateau, best rate and where seeds diverge.

    Example:
      >>> from ntkgen.studies import base, learning_rate
      >>> config = learning_rate.resolve("quick", {"rates": (0.1, 0.5)})
      >>> row = {"train_acc": "99", "test_acc": "97", "eigenvalue": "8", "diverged": "0"}
      >>> rows = [{**row, "rate": rate, "seed": seed} for rate in ("0.1", "0.5") for seed in ("0", "1")]
      >>> derived = learning_rate.derive(base.Prepared(config, {}, "quick", {}, None), {"runs": rows})
      >>> derived.verdict["plateau"], derived.tables["summary"][1]["stability_bound"]
      ([0.1, 0.5], 4.0)
    """
    from ntkgen import stats
    from ntkgen.studies import tables

    rates = prepared.config.rates
    kept = [row | {name: "" for name in METRICS if row["diverged"] == "1"} for row in found["runs"]]
    summary = tables.summarise(kept, ["rate"], METRICS)
    lost = [sum(row["diverged"] == "1" for row in found["runs"] if float(row["rate"]) == rate) for rate in rates]
    for row, count in zip(summary, lost, strict=True):
        row |= {"num_diverged": count, "stability_bound": 2 / float(row["rate"])}
    means = np.array([tables.number(row["test_acc_mean"]) for row in summary])
    verdict: dict[str, Any] = {"diverges_from": next((r for r, n in zip(rates, lost, strict=True) if n), None)}
    if np.isfinite(means).any():
        good = [rate for rate, mean in zip(rates, means, strict=True) if mean >= np.nanmax(means) - stats.ACCURACY]
        best = rates[int(np.nanargmax(means))]
        verdict |= {"best_rate": best, "plateau": [min(good), max(good)], "margin_points": stats.ACCURACY}
    lines = [f"{'rate':>8} {'train %':>22} {'test %':>22} {'top eigenvalue':>22} {'2 / rate':>9} diverged"]
    for row in summary:
        cells = " ".join(f"{tables.cell(row, metric):>22}" for metric in METRICS)
        lines.append(f"{float(row['rate']):>8g} {cells} {row['stability_bound']:>9.3g} {row['num_diverged']:>8}")
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in verdict.items() if value is not None)
    answer = ["no rate trains"]
    if "best_rate" in verdict:
        best = tables.cell(summary[rates.index(verdict["best_rate"])], "test_acc")
        answer = [f"best rate {verdict['best_rate']:g}: test accuracy {best} %, 95 % t-interval"]
        low, high = verdict["plateau"]
        answer.append(f"within {stats.ACCURACY:g} points of it: rates {low:g} to {high:g}")
    first = verdict["diverges_from"]
    answer.append("no seed diverges" if first is None else f"seeds diverge from rate {first:g} on")
    return Derived({"summary": summary}, verdict, "\n".join([*lines, said]), answer="\n".join(answer))


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw accuracy and the top eigenvalue, with its bound, against the rate.

    Example:
      >>> from ntkgen.studies import base, learning_rate
      >>> config = learning_rate.resolve("quick", {"rates": (0.1, 0.5)})
      >>> row = {"train_acc": "99", "test_acc": "97", "eigenvalue": "8", "diverged": "0"}
      >>> rows = [{**row, "rate": rate, "seed": seed} for rate in ("0.1", "0.5") for seed in ("0", "1")]
      >>> prepared = base.Prepared(config, {}, "quick", {}, None)
      >>> derived = learning_rate.derive(prepared, {"runs": rows})
      >>> [name for name, figure in learning_rate.figures(prepared, {"runs": rows}, derived)]
      ['rates']
    """
    from ntkgen import plotting
    from ntkgen.studies import curves, tables

    config, summary = prepared.config, derived.tables["summary"]

    def curve(metric: str) -> "plotting.Curve":
        ends = ([tables.number(row[f"{metric}_{end}"]) for row in summary] for end in ("mean", "t_low", "t_high"))
        return plotting.Curve(list(config.rates), *ends)

    bound = [row["stability_bound"] for row in summary]
    bounds = plotting.Curve(list(config.rates), bound, bound, bound)
    parts = {
        "accuracy (%)": {"test": curve("test_acc"), "training": curve("train_acc")},
        "eigenvalue (nats / weight²)": {"top Hessian eigenvalue": curve("eigenvalue"), "2 / learning rate": bounds},
    }
    title = f"{config.network_name} on {curves.called(config.dataset)}, {len(config.seeds)} seeds, 95% t-intervals"
    yield "rates", plotting.panels(parts, "learning rate", title, log=list(parts)[1:])


STUDY = base.Study(
    "learning_rate", "How sensitive is a network to its learning rate?", Config, resolve, prepare, measured, derive,
    figures, ("runs",),
)  # fmt: skip
run = runner.of(STUDY)
