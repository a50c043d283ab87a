"""Do sparse subnetworks with their original initialisation train as well as the whole network?

Hypothesis H5; sections IV-G and V-F.

    python experiments/lottery_ticket.py --preset=quick           # embedded digits, about a minute on two cores
    python experiments/lottery_ticket.py --dataset=mnist --num_train=10000
    python experiments/lottery_ticket.py --dataset=cifar10 --preset=small       # two hours on two cores
    python experiments/lottery_ticket.py --dataset=cifar10        # the published protocol; wants a GPU

Iterative magnitude pruning for all seeds at once, from 100 % of the weights down, against arms that share seeds and
batch orders: rewinding to an early epoch, one-shot pruning, and controls. These change the mask, the values or their
scale, most of them one alone (Zhou et al. 2019; the table is in `lottery_ticket_controls.py`). At chosen levels
curvature and sharpness are measured, as trained and at equal loss, and stability; the tickets' overlap and profile at
all of them.
"""

import contextlib
from pathlib import Path
from typing import Any

import common
import numpy as np
from absl import flags
from lottery_ticket_arms import Lab, Trained, begins, train_all, trainings
from lottery_ticket_config import define_flags, prepare, resolve, stem
from lottery_ticket_controls import ARMS
from lottery_ticket_figures import draw
from lottery_ticket_measures import (
    BARRIER,
    DRAWS,
    LANCZOS_STEPS,
    LANCZOS_TOLERANCE,
    LINE,
    MEASURED,
    RHO,
    at_start,
    measure_networks,
)
from lottery_ticket_overlap import overlaps
from lottery_ticket_report import compare, published_differences, show
from lottery_ticket_tables import finals, label, overlap_tests, summarise, summarise_overlaps, tests
from lottery_ticket_verdict import by_level, curvature, mask_or_values, one_change, relations

from ntkgen import data, models, pruning, records, train
from ntkgen.measure import correct
from ntkgen.records import Progress
from ntkgen.studies import tables as common_tables

FLAGS = flags.FLAGS
define_flags()

TABLES = ("runs", "measures", "sparsity", "correct", "overlaps")


def work(run: records.Run, config: dict[str, Any], model: Any, dataset: data.Dataset, training: train.Config) -> None:
    """Train and measure everything; write the tidy tables."""
    seeds = list(range(config["seed"], config["seed"] + config["num_seeds"]))
    names = trainings(config)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
    masks: dict[tuple[str, float], tuple[Any, np.ndarray]] = {}
    with Progress([1.0] * len(names), len(seeds), training.epochs) as progress:
        lab = Lab(run, model, dataset, training, seeds, config, lambda name: progress.part(names.index(name), name))
        for trained in train_all(lab):
            at = {"arm": trained.arm, "keep_percent": trained.keep}
            begun = 0 if trained.keep == 100 else begins(config, trained.arm)
            found["runs"] += run_rows(at, seeds, begun, config["evaluate_at"], at_start(lab, trained), trained)
            found["sparsity"] += sparsity_rows(at, seeds, pruning.layers_of("masks", trained.masks, lab.prunable))
            found["correct"] += correct_rows(lab, trained)
            if trained.arm in ("ticket", "other_order"):
                masks[trained.arm, trained.keep] = trained.masks, trained.void
            if trained.keep in config["measure_at"] and trained.arm != "other_order":
                found["measures"] += measure_rows(at, seeds, config, measure_networks(lab, trained))
        found["overlaps"] = overlaps(lab, masks)
    for name, rows in found.items():
        if rows:
            run.write_table(f"{name}.csv", rows)
    run.write_json("layout.json", lab.layouts)


def correct_rows(lab: Lab, trained: Trained) -> list[dict[str, Any]]:
    """Make the rows of correct.csv of one training: which test images its final networks classify right."""
    variables, test = trained.result.variables, lab.dataset.test
    right = correct(models.apply_fn(lab.model, variables), variables["params"], test.x, test.y)
    return common_tables.correct_rows(label((trained.arm, trained.keep)), lab.seeds, right, trained.lost)


def run_rows(
    at: dict[str, Any],
    seeds: list[int],
    begun: int,
    epochs: list[int],
    start: tuple[np.ndarray, np.ndarray],
    trained: Trained,
) -> list[dict[str, Any]]:
    """Make the rows of runs.csv of one training: its start, and the epochs that were measured; accuracies in percent.

    At the start, where `begun` epochs are behind a rewound ticket, the training set alone is looked at. `diverged` are
    also networks whose masks were cut from one that had.
    """
    result, lost = trained.result, trained.lost
    rows = []
    for s, seed in enumerate(seeds):
        row = at | {"seed": seed, "epoch": begun, "learning_rate": None}
        row |= {"train_loss": float(start[0][s]), "train_acc": float(100 * start[1][s])}
        rows.append(row | {"test_loss": None, "test_acc": None, "diverged": int(lost[s])})
        for epoch in epochs:
            if epoch <= begun:
                continue
            now = {name: float(history[s, epoch - 1]) for name, history in result.history.items()}
            train_acc, test_acc = (100 * now[f"{split}_accuracy"] for split in ("train", "test"))
            row = at | {"seed": seed, "epoch": epoch, "learning_rate": now["learning_rate"]}
            row |= {"train_loss": now["train_loss"], "train_acc": train_acc}
            row |= {"test_loss": now["test_loss"], "test_acc": test_acc, "diverged": int(lost[s])}
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
    norm, line_norm = ("frozen", "estimated anew") if config["model"] == "cnn" else ("none", "none")
    how = {"samples": config["hessian_samples"], "weights": "kept", "batch_norm": norm, "precision": "highest"}
    how |= {"lanczos_steps": LANCZOS_STEPS, "tolerance": LANCZOS_TOLERANCE, "rho": RHO, "draws": DRAWS}
    how |= {"line_points": len(LINE), "line_batch_norm": line_norm, "matched_target": config["matched_loss"]}
    return [
        at | {"seed": seed} | {name: float(found[name][s]) for name in (*MEASURED, *BARRIER)} | how
        for s, seed in enumerate(seeds)
    ]


WRITTEN = ("runs.csv", "layout.json", "sparsity.csv", "correct.csv", "summary.csv", "comparison.csv", "verdict.json")


def main() -> None:
    """Run the study."""
    with contextlib.ExitStack() as stack:
        with common.user_errors():
            config = resolve()
            common.check_folders()
            model, dataset, training = prepare(config)
            run = stack.enter_context(common.open_run("lottery_ticket", config, WRITTEN))
        if run.finished:
            print(f"{run.folder} is finished; --force does it again")
        else:
            work(run, config, model, dataset, training)
        read = {
            name: records.read_table(path) if (path := run.folder / f"{name}.csv").exists() else [] for name in TABLES
        }
        rows = finals(read["runs"], read["measures"], config["loss_threshold"])
        summary, tested = summarise(rows, read["sparsity"]), tests(rows)
        found = relations(rows, published_differences())
        verdict = {
            "relations": found,
            "levels": by_level(tested),
            "one_change": one_change(rows, tested, config["keep"]),
            "mask_or_values": mask_or_values(tested, config["keep"]),
            "curvature": curvature(rows, tested, config["matched_loss"]),
        }
        # Also of a finished run: they follow from the measured tables by arithmetic, and may follow better today.
        run.write_table("arms.csv", [{"arm": arm, **ARMS[arm]._asdict()} for arm in config["arms"]])
        run.write_table("summary.csv", summary)
        common_tables.cross(tested, common_tables.correctness(read["correct"]))
        tested += overlap_tests(read["overlaps"])
        for name, table in (("tests", tested), ("overlap_summary", summarise_overlaps(read["overlaps"]))):
            if table:
                run.write_table(f"{name}.csv", table)
        run.write_table("comparison.csv", compare(config, summary, found))
        run.write_json("verdict.json", verdict)
        show(config, summary, verdict)
        if FLAGS.figures_dir is None:
            paths = draw(run.folder, "", config, rows, run)
        else:
            figures, name = Path(FLAGS.figures_dir), common.figure_name(run, stem(config))
            paths = draw(figures, f"{name}_", config, rows, run)
            paths.append(records.write_table(figures / f"{name}.csv", summary))
        run.finish()
        print("\n" + "\n".join(str(path) for path in [run.folder, *paths]))


if __name__ == "__main__":
    common.run(main)
