"""Training and measurement of the tangent-kernel study, a group of seeds at a time; each is kept, and done once."""

import functools
from collections.abc import Callable
from typing import Any

from ntkgen import ensemble, records
from ntkgen.linearize import Linearized
from ntkgen.studies import tables
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.ntk_regime import _tuning
from ntkgen.studies.ntk_regime._config import LIMITS, LOSSES, OWN, WidthSeries
from ntkgen.studies.ntk_regime._kernels import (
    SEEDS_UP_TO,
    accuracy,
    arm_name,
    infinite_width,
    network_bits,
    tangent_regressions,
    test_bits,
)
from ntkgen.studies.ntk_regime._materials import Materials, SeedGroup, flow_time, parametrization, snapshots
from ntkgen.studies.ntk_regime._paths import final, follow, matched
from ntkgen.studies.ntk_regime._probes import by_seed, kernel_probe, moved

NAMES = ("loss", "limit", "width", "num_params", "seed", "epoch")  # columns that name a row come first
KERNEL_METRICS = ("kernel_acc_network", "kernel_acc_initial", "kernel_acc_final")


def measure(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Do every part that is not done yet.

    Returns:
      "runs", a row for each network; "drift", a row for each of its snapshots; "analytic", predictions of
      infinite-width kernels; "correct", the test images that networks and regressions classify right; with tuning
      "tuning" and "tuned", see `_tuning.measure_tuned`.
    """
    config, materials = prepared.config, prepared.more
    networks: dict[tuple, dict[str, Any]] = {}
    linear: dict[tuple, dict[str, Any]] = {}
    paths: dict[tuple, Rows] = {}
    right: dict[tuple[str, int], dict[int, str | None]] = {}
    groups = materials.groups()
    # Dispatch costs what some 50,000 parameters do (CPU).
    costs = [(50_000 + materials.num_params(each.width)) * (3 if each.linearised else 1) for each in groups]
    for group in groups[1:]:
        run.ahead(**_job(materials, group))
    with records.Progress(costs, [len(each.seeds) for each in groups], config.epochs) as progress:
        for index, group in enumerate(groups):
            found = measure_group(run, materials, group, progress.part(index, group.name))
            for metric, seed, bits in found["right"]:
                right.setdefault((metric, group.width), {})[seed] = bits
            keys = [(group.series, group.width, seed) for seed in group.seeds]
            (linear if group.linearised else networks).update(zip(keys, found["runs"], strict=True))
            paths |= zip(keys, found["paths"], strict=False)
    for key, row in networks.items():
        row |= {f"linear_{name}": linear.get(key, {}).get(name) for name in ("train_acc", "test_acc")}
        row |= matched(paths[key], config.targets[row["loss"]])
    analytic, infinite = measure_infinite(run, materials)
    for width, digits in infinite.items():
        right["kernel_acc_infinite", width] = dict.fromkeys(config.seeds, digits)
    correct = []
    for (metric, width), own in right.items():
        images = materials.kernel_images if metric.startswith("kernel_acc") else materials.dataset.test
        found_bits = [own.get(seed) or "" for seed in config.seeds]
        correct += tables.packed_rows(arm_name(metric, width), config.seeds, found_bits, len(images.y))
    rows = {
        "runs": [names_first(row) for row in networks.values()],
        "drift": [names_first(row) for path in paths.values() for row in path],
        "analytic": analytic,
    }
    if config.tune:
        more = _tuning.measure_tuned(run, materials)
        correct += more.pop("correct")
        rows |= more
    return rows | {"correct": correct}


def names_first(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row whose first columns name it."""
    first = [name for name in NAMES if name in row]
    return {name: row[name] for name in (*first, *(name for name in row if name not in first))}


def _job(materials: Materials, group: SeedGroup) -> dict[str, Any]:
    """Return the arguments of a group's fit.

    Movement is probed at the snapshots, kernels at half of them and at the start.
    """
    model = materials.network(group.width, group.series.limit)
    training = materials.training(group.series, group.width)
    snaps, kernel_snaps = snapshots(training.epochs)
    options = ensemble.Options(
        strategy=materials.config.strategy,
        chunk=len(group.seeds),
        evaluate_at=(training.epochs,) if group.linearised else snaps,
    )
    given: dict[str, Any] = {"name": group.name, "dataset": materials.dataset, "config": training, "options": options}
    given |= {"model": Linearized(model) if group.linearised else model, "seeds": list(group.seeds)}
    if not group.linearised:
        given["probes"] = ((snaps, moved), ((0, *kernel_snaps), kernel_probe(model, materials.probe_images.x)))
    return given


def measure_group(run: records.Run, materials: Materials, group: SeedGroup, report: Any) -> dict[str, list[Any]]:
    """Train one group and measure its networks; what is there already is read.

    Returns:
      A row of runs.csv and the rows of drift.csv for each seed as `runs` and `paths` (none if linearised), and as
      `right` (accuracy's column, seed, digits) of what the main networks classify right.
    """
    trained = functools.cache(lambda: run.fit(**_job(materials, group), progress=report))
    found = run.kept(group.name, lambda: measure_trained(materials, group, trained()))
    if group.linearised:
        return found
    for s, row in enumerate(found["runs"]):
        row |= dict.fromkeys(KERNEL_METRICS)
        first_only = group.width > SEEDS_UP_TO and row["seed"] != materials.config.seed
        main = group.series == materials.config.main
        if not main or group.width not in materials.config.kernel_widths or first_only:
            continue
        work = functools.partial(regress_with_ends, materials, group, trained, s)
        bits = run.kept(f"kernels_{group.name}_{row['seed']}", work)
        row |= {name: accuracy(each, len(materials.kernel_images.y)) for name, each in bits.items()}
        found["right"] += [(name, row["seed"], each) for name, each in bits.items()]
    return found


def measure_trained(materials: Materials, group: SeedGroup, result: ensemble.Result) -> dict[str, list[Any]]:
    """Return what `measure_group` does, without kernel regression."""
    model = materials.network(group.width, group.series.limit)
    right: list[tuple[str, int, str]] = []
    if group.series == materials.config.main:
        metric, own = ("linear_test_acc", Linearized(model)) if group.linearised else ("test_acc", model)
        bits = test_bits(own, result, materials.dataset)
        right = [(metric, seed, each) for seed, each in zip(group.seeds, bits, strict=True)]
    where = {**group.series._asdict(), "width": group.width}
    rate = {"learning_rate": materials.training(group.series, group.width).learning_rate}
    rows = [
        where | {"seed": seed, "diverged": int(result.diverged[s])} | rate | final(result, s)
        for s, seed in enumerate(group.seeds)
    ]
    if group.linearised:
        return {"runs": rows, "paths": [], "right": right}
    probes, classes = materials.probe_images.y, materials.dataset.num_classes
    paths = follow(result, *snapshots(materials.config.epochs), probes, classes)
    paths = [[where | {"seed": seed} | each for each in path] for seed, path in zip(group.seeds, paths, strict=True)]
    for row, path in zip(rows, paths, strict=True):
        row["num_params"] = materials.num_params(group.width)
        row |= {name: value for name, value in path[-1].items() if name not in (*row, "epoch")}
        row["label_alignment_initial"] = path[0]["label_alignment"]
    return {"runs": rows, "paths": paths, "right": right}


def regress_with_ends(
    materials: Materials, group: SeedGroup, trained: Callable[[], ensemble.Result], s: int
) -> dict[str, str | None]:
    """Return which images a network and regression with its initial and final kernel classify right."""
    model, images = materials.network(group.width, group.series.limit), materials.kernel_images
    before, after = (by_seed(tree["params"])[s] for tree in (trained().initial, trained().variables))
    regress = functools.partial(
        tangent_regressions, model, dataset=materials.dataset, images=images, ridges=[materials.config.ridge]
    )
    (initial,), (last,) = regress(before), regress(after)
    return {
        "kernel_acc_initial": initial,
        "kernel_acc_final": last,
        "kernel_acc_network": network_bits(model, after, images),
    }


def measure_infinite(run: records.Run, materials: Materials) -> tuple[Rows, dict[int, str | None]]:
    """Compute what the infinite-width kernels predict: accuracy, and the movement of lazy networks.

    Returns:
      The rows of analytic.csv, and width -> which images the regression classifies right, by `tables.pack`.
    """
    config, images = materials.config, len(materials.kernel_images.y)
    rows: Rows = []
    right: dict[int, str | None] = {}
    if config.limit == OWN:  # no infinite-width kernel is known
        return [dict.fromkeys(ANALYTIC)], right
    for kind in ("standard", "ntk"):  # there is no kernel limit under muP
        limits = [limit for limit in LIMITS if parametrization(limit) == kind]
        for width in sorted({*config.widths, *config.extra_widths}):
            own = config.limit in limits and width in config.kernel_widths
            lazy = config.extras and width in config.extra_widths
            if not own and not lazy:
                continue
            flows = config.optimizer != "adam"  # which takes another path than gradient flow
            timed = limits if lazy else [config.limit] if flows and config.loss == "mse" else []
            times = {
                limit: flow_time(materials.training(WidthSeries("mse", limit), width), materials.dataset.num_train)
                for limit in timed
            }
            losses = LOSSES if lazy else (config.loss,) if flows else ()
            work = functools.partial(
                infinite_width,
                kind,
                width,
                config.depth,
                materials.dataset,
                materials.kernel_images if own else None,
                config.ridge,
                times,
                {loss: config.targets[loss] for loss in losses},
            )
            found = run.kept(f"analytic_{kind}_w{width}", work)
            if own:
                right[width] = found["right"]
            for limit in limits if lazy else [config.limit]:
                said = found["lazy"].get(limit, {"movement": None, "loss": None})
                rows.append({
                    "limit": limit,
                    "width": width,
                    "flow_time": times.get(limit),
                    "ridge": config.ridge,
                    "num_test": images,
                    "kernel_acc_infinite": accuracy(found["right"], images) if limit == config.limit else None,
                    "lazy_movement": said["movement"],
                    "lazy_train_loss": said["loss"],
                    "mean_diagonal": found["mean_diagonal"],
                    **{f"lazy_matched_{loss}": found["matched"].get(loss) for loss in LOSSES},
                })  # fmt: skip
    return rows or [dict.fromkeys(ANALYTIC)], right


# Columns of analytic.csv, where there is nothing to say.
ANALYTIC: tuple[str, ...] = ("limit", "width", "flow_time", "ridge", "num_test", "kernel_acc_infinite", "lazy_movement")
ANALYTIC += ("lazy_train_loss", "mean_diagonal", *(f"lazy_matched_{loss}" for loss in LOSSES))
