"""Do sparse subnetworks with their original initialisation train as well as the whole network?

Hypothesis H5; sections IV-G and V-F.

    python experiments/lottery_ticket.py --preset=quick           # embedded digits, about a minute on two cores
    python experiments/lottery_ticket.py --dataset=mnist --num_train=10000
    python experiments/lottery_ticket.py --dataset=cifar10 --preset=small       # two hours on two cores
    python experiments/lottery_ticket.py --dataset=cifar10        # the published protocol; wants a GPU

Iterative magnitude pruning for all seeds at once, from 100 % of the weights down, against controls that share seeds and
batch orders: the ticket's mask with weights drawn anew, random masks, rewinding to an early epoch, one-shot pruning. At
chosen levels curvature, sharpness and stability are measured; the tickets' overlap and profile at all of them.
"""

import contextlib
from pathlib import Path
from typing import Any

import common
import numpy as np
import tables
from absl import flags
from lottery_ticket_arms import ARMS, Lab, train_all, trainings
from lottery_ticket_config import define_flags, prepare, resolve, same_protocol, stem
from lottery_ticket_figures import draw
from lottery_ticket_measures import (
    BARRIER,
    DRAWS,
    LANCZOS_STEPS,
    LANCZOS_TOLERANCE,
    LINE,
    MEASURED,
    RHO,
    measure,
    overlaps,
)
from lottery_ticket_tables import (
    RELATIONS,
    finals,
    overlap_tests,
    relations,
    summarise,
    summarise_overlaps,
    tests,
)

from ntkgen import data, paper, pruning, records, train
from ntkgen.progress import Progress

FLAGS = flags.FLAGS
define_flags()

TABLES = ("runs", "measures", "sparsity", "overlaps")


def work(run: records.Run, config: dict[str, Any], model: Any, dataset: data.Dataset, training: train.Config) -> None:
    """Train and measure everything; write the tidy tables."""
    seeds = list(range(config["seed"], config["seed"] + config["num_seeds"]))
    names = trainings(config)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    masks = {}
    with Progress([1.0] * len(names), len(seeds), training.epochs) as progress:
        lab = Lab(run, model, dataset, training, seeds, config, lambda name: progress.part(names.index(name), name))
        for trained in train_all(lab):
            at = {"arm": trained.arm, "keep_percent": trained.keep}
            found["runs"] += run_rows(at, seeds, config["evaluate_at"], trained.result)
            found["sparsity"] += sparsity_rows(at, seeds, pruning.layers_of("masks", trained.masks, lab.prunable))
            if trained.arm in ("ticket", "other_order"):
                masks[trained.arm, trained.keep] = trained.masks
            if trained.keep in config["measure_at"] and trained.arm != "other_order":
                found["measures"] += measure_rows(at, seeds, config, measure(lab, trained))
        found["overlaps"] = overlaps(lab, masks)
    for name, rows in found.items():
        if rows:
            run.write_table(f"{name}.csv", rows)
    run.write_json("layout.json", lab.layouts)


def run_rows(at: dict[str, Any], seeds: list[int], epochs: list[int], result: Any) -> list[dict[str, Any]]:
    """Make the rows of runs.csv of one training: the epochs that were measured, accuracies and gap in percent."""
    rows = []
    for s, seed in enumerate(seeds):
        for epoch in epochs:
            now = {name: float(history[s, epoch - 1]) for name, history in result.history.items()}
            train_acc, test_acc = (100 * now[f"{split}_accuracy"] for split in ("train", "test"))
            row = at | {"seed": seed, "epoch": epoch, "learning_rate": now["learning_rate"]}
            row |= {"train_loss": now["train_loss"], "train_acc": train_acc}
            row |= {"test_loss": now["test_loss"], "test_acc": test_acc, "diverged": int(result.diverged[s])}
            rows.append(row)
    return rows


def sparsity_rows(at: dict[str, Any], seeds: list[int], layers: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the rows of sparsity.csv: weights kept in each layer."""
    kept = {layer: np.asarray(mask).reshape(len(seeds), -1) for layer, mask in layers.items()}
    return [
        at | {"seed": seed, "layer": layer, "size": mask.shape[1], "kept": int(mask[s].sum()),
              "kept_percent": float(100 * mask[s].mean())}
        for s, seed in enumerate(seeds)
        for layer, mask in kept.items()
    ]  # fmt: skip


def measure_rows(
    at: dict[str, Any], seeds: list[int], config: dict[str, Any], found: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Make the rows of measures.csv, each number with how it was made."""
    how = {"samples": config["hessian_samples"], "weights": "kept", "batch_norm": "frozen", "precision": "highest"}
    how |= {"lanczos_steps": LANCZOS_STEPS, "tolerance": LANCZOS_TOLERANCE, "rho": RHO, "draws": DRAWS}
    how |= {"line_points": len(LINE), "line_batch_norm": "estimated anew"}
    return [
        at | {"seed": seed} | {name: float(found[name][s]) for name in (*MEASURED, *BARRIER)} | how
        for s, seed in enumerate(seeds)
    ]


def published_differences() -> dict[int, float]:
    """Give the published differences in points, by index of the relation; the text has lost the others."""
    known = paper.LOTTERY_TICKET
    ticket, whole, reinit = known["ticket"][10], known["ticket"][100], known["reinit"][10]
    accuracies = [row["test_acc"] for row in (ticket, whole, reinit)]
    assert None not in accuracies
    return {2: round(accuracies[0] - accuracies[1], 2), 3: round(accuracies[0] - accuracies[2], 2)}


def compare(config: dict[str, Any], summary: list[dict[str, Any]], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make comparison.csv: published accuracies (by the same protocol) and differences beside ours."""
    rows = []
    for arm in config["arms"]:
        ours = {
            row["keep_percent"]: {"test_acc": tuple(row[f"test_acc_{end}"] for end in ("mean", "t_low", "t_high"))}
            for row in summary
            if row["arm"] == arm
        }
        known = paper.LOTTERY_TICKET.get(arm, {}) if same_protocol(config) else {}
        rows += [{"arm": arm, **row} for row in paper.compare({k: known.get(k, {}) for k in ours}, ours)]
    for row, pair in zip(found, RELATIONS.values(), strict=True):
        theirs, mean = row["published"], row.get("difference")
        both = theirs is not None and mean is not None
        rows.append(
            {
                "arm": " - ".join(f"{arm} {keep}%" for arm, keep in pair), "setting": "difference",
                "metric": "test_acc", "published": theirs, "ours": mean, "low": row.get("low"),
                "high": row.get("high"), "difference": mean - theirs if both else None,
                "inside": row["low"] <= theirs <= row["high"] if both else None,
            }
        )  # fmt: skip
    return rows


def show(config: dict[str, Any], summary: list[dict[str, Any]], found: list[dict[str, Any]]) -> None:
    """Print the table and the verdicts."""
    print(
        f"\n{config['model'].upper()} on {config['dataset']}, {config['num_train']:,} examples, "
        f"{config['num_seeds']} seeds; test accuracy in percent, 95 % t-intervals"
    )
    print(
        f"{'arm':32} {'kept':>5} {'test':>21} {'train':>8} {'gap':>7} "
        f"{'epochs to loss ' + format(config['loss_threshold'], 'g'):>20}"
    )
    for row in sorted(summary, key=lambda row: list(ARMS).index(row["arm"])):
        train_acc, gap, epochs = (row[f"{name}_mean"] for name in ("train_acc", "gap", "epochs_to_loss"))
        reached = "never" if epochs is None else f"{epochs:.1f} ({row['num_reached_loss']} of {row['num_seeds']})"
        lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
        name = "whole network" if (row["arm"], row["keep_percent"]) == ("ticket", 100) else ARMS[row["arm"]]
        cells = ["-" if value is None else f"{value:.2f}" for value in (train_acc, gap)]
        print(
            f"{name:32} {row['keep_percent']:>5g} {tables.cell(row, 'test_acc'):>21} {cells[0]:>8} {cells[1]:>7} "
            f"{reached:>20}{lost}"
        )
    print(f"losses are measured after epochs {', '.join(map(str, config['evaluate_at']))}")
    for row in found:
        theirs = "" if row["published"] is None else f" (published on CIFAR-10 {row['published']:+.2f})"
        ours = ""
        if "difference" in row:
            ours = (
                f": {row['difference']:+.2f} points [{row['low']:+.2f}, {row['high']:+.2f}]{theirs}, "
                f"adjusted p for {row['adjusted_for']:.2g}, against {row['adjusted_against']:.2g}"
            )
        print(f"{row['claim']}{ours}; {row['verdict']}")


def main() -> None:
    """Run the study."""
    with contextlib.ExitStack() as stack:
        with common.user_errors():
            config = resolve()
            if FLAGS.figures_dir is not None:
                records.check_writable(FLAGS.figures_dir, "figures_dir")
            model, dataset, training = prepare(config)
            run = stack.enter_context(
                records.open_run(FLAGS.out_dir, "lottery_ticket", config["dataset"], config, force=FLAGS.force)
            )
        if run.finished:
            print(f"{run.folder} is finished; --force does it again")
        else:
            work(run, config, model, dataset, training)
        read = {
            name: records.read_table(path) if (path := run.folder / f"{name}.csv").exists() else [] for name in TABLES
        }
        rows = finals(read["runs"], read["measures"], config["loss_threshold"])
        summary, found = summarise(rows), relations(rows, published_differences())
        if not run.finished:
            run.write_table("summary.csv", summary)
            tested = [*tests(rows), *overlap_tests(read["overlaps"])]
            for name, table in (("tests", tested), ("overlap_summary", summarise_overlaps(read["overlaps"]))):
                if table:
                    run.write_table(f"{name}.csv", table)
            run.write_table("comparison.csv", compare(config, summary, found))
            run.write_json("verdict.json", found)
        show(config, summary, found)
        if FLAGS.figures_dir is None:
            paths = draw(run.folder, "", config, rows, run)
        else:
            figures, name = Path(FLAGS.figures_dir), stem(config)
            paths = draw(figures, f"{name}_", config, rows, run)
            paths.append(records.write_table(figures / f"{name}.csv", summary))
        if not run.finished:
            run.finish()
        print("\n" + "\n".join(str(path) for path in [run.folder, *paths]))


if __name__ == "__main__":
    common.run(main)
