"""A results folder without any training: three studies, two of them twice, one unfinished, and a `reproduce`."""

import json
import os
from pathlib import Path

from ntkgen import io, plotting, records
from ntkgen.plotting import Curve

VERSIONS = {"ntkgen": "0.1.0", "python": "3.11.7", "jax": "0.10.2", "numpy": "2.4.6"}
SUMMARY = [
    {
        "size": size, "num_seeds": 3, "num_diverged": 0, "test_acc_mean": 90.0 + size / 7, "test_acc_std": 0.5,
        "test_acc_boot_low": 89.5, "test_acc_boot_high": 90.5, "test_acc_t_low": 89.0, "test_acc_t_high": 93.123456,
    }
    for size in (8, 16, 32)
]  # fmt: skip
COMPARISON = [
    {"setting": 8, "metric": "test_acc", "published": 89.7, "ours": 89.8, "low": 89.1, "high": 90.5,
     "difference": 0.1, "inside": True},
    {"setting": 32, "metric": "test_acc", "published": 95.4, "ours": 94.0, "low": 93.1, "high": 94.5,
     "difference": -1.4, "inside": False},
    {"setting": 64, "metric": "test_acc", "published": None, "ours": 94.0, "low": 93.1, "high": 94.5,
     "difference": None, "inside": None},
    {"setting": 128, "metric": "test_acc", "published": 96.0, "ours": None, "low": None, "high": None,
     "difference": None, "inside": None},
]  # fmt: skip
CLAIMS = [
    {"id": "H1", "claim": "Small batches generalize better, α < 5 % & more", "decision": "seen", "effect": 1.65,
     "unit": "points", "low": 1.52, "high": 1.78, "test": "paired t-test", "p": 1e-5,
     "control": "equal updates instead of equal epochs", "run": "implicit_regularization/mnist-b",
     "found": "both seen"},
    {"id": "RQ3", "claim": "Flat minima <generalize> better", "decision": "not seen", "effect": 0.8,
     "unit": "ratio large / small", "low": 0.5, "high": 1.2, "test": "equivalence", "p": 0.01,
     "control": "equal loss", "run": "loss_landscape/mnist-c", "found": ""},
    {"id": "H4", "claim": "Test error peaks at the threshold", "decision": "undecided", "effect": None, "unit": "",
     "low": None, "high": None, "test": "", "p": None, "control": "", "run": "", "found": ""},
]  # fmt: skip
PUBLISHED = [
    {"source": "table V-A", "study": "double_descent mlp",
     "setting": "width 8", "metric": "test_acc", "published": 89.7, "ours": 89.8, "low": 89.1,
     "high": 90.5, "status": "within", "why": "", "run": "double_descent/mnist-a"},
    {"source": "table V-B", "study": "implicit",
     "setting": "batch 32", "metric": "gap", "published": 14.48, "ours": None, "low": None,
     "high": None, "status": "not comparable", "why": "trained on MNIST, not on CIFAR-10", "run": ""},
]  # fmt: skip
STATEMENTS = [
    {"source": "section VI-A", "statement": "Accuracy is monotonic in batch size.",
     "tables_say": "84.72 at 128, 84.74 at 256", "ours": ""},
]  # fmt: skip
PLAN = [{"study": "double_descent", "estimated_seconds": 60, "seconds": 75.5}]
VERDICT = {
    "answers": {
        "top": {"about": "top eigenvalue", "unit": "ratio large / small", "difference": 2.5, "low": 1.5, "high": 4.0,
                "paired_adjusted": 0.001, "equivalence_adjusted": 0.9, "answer": "seen",
                "words": "seen, 2.5 [1.5, 4] (larger for the large batch)",
                "detectable": 1.5},
        "trace": {"about": "trace", "unit": "ratio", "answer": "undecided", "words": "undecided (one seed)"},
    },
    "verdict": "top eigenvalue: seen",
    "comparable": True,
}  # fmt: skip


def figure(title):
    curve = Curve([1, 10, 100], [3.0, 2.0, 1.0], [2.0, 1.0, 0.5], [4.0, 3.0, 1.5])
    return plotting.sample_wise({"4": curve, "8": curve}, title, "width")


def write_run(root, study, name, *, tables=None, verdict=None, formats=("png",), finished=True, age=0, **about):
    """Write a run folder; more of `about` replaces entries of config.json."""
    folder = Path(root) / study / name
    folder.mkdir(parents=True)
    config = {"dataset": name.split("-")[0], "model": "mlp", "epochs": 80, "num_seeds": 3, "lr": 0.05,
              "num_train": 10_000, "widths": [8, 16, 32],
              "momentum": 0.9, "label_noise": 0.0, "numerics": {"xla_flags": {}}}  # fmt: skip
    record = {"study": study, "dataset": config["dataset"], "config": config, "versions": VERSIONS,
              "device": {"platform": "cpu", "kind": "cpu", "count": 1}, "numerics": {}, "commit": "c" * 40,
              "source": "abc",
              "command": {"preset": "quick", "given": {"epochs": 80, "widths": [8, 16, 32]}}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps({**record, **about}))
    for table, rows in (tables or {}).items():
        records.write_table(folder / f"{table}.csv", rows)
    if verdict is not None:
        (folder / "verdict.json").write_text(json.dumps(verdict))
    for kind in formats:
        plotting.save(figure(f"{study} <σ & α>, 3 seeds"), folder / f"model_wise.{kind}")
    if finished:
        sums = {path.name: io.sha256_bytes(path.read_bytes()) for path in folder.iterdir()}
        (folder / "finished.json").write_text(json.dumps(sums))
    for path in folder.iterdir():
        os.utime(path, (1_700_000_000 - age, 1_700_000_000 - age))
    return folder


def write_results(root, reproduce=True):
    """Write the whole folder and return it."""
    root = Path(root)
    (root / "networks" / "0123").mkdir(parents=True)
    long = [
        {"size": i % 7, "seed": i, "test_acc": 90 + i / 1e3, "residual": 1e-5 * i, "converged": 1} for i in range(5_000)
    ]
    peak = [{"num_train": 1000, "verdict": "test error peaks near the threshold", "peak": {"size": 32, "rise": 4.2}}]
    tables = {"runs": long, "summary": SUMMARY, "comparison": COMPARISON}
    write_run(root, "double_descent", "mnist-a", tables=tables, verdict=peak, formats=("png", "svg", "pdf"))
    write_run(root, "double_descent", "digits-old", tables={"summary": SUMMARY}, verdict=peak, age=1000, command=None)
    write_run(root, "loss_landscape", "mnist-c", tables={"summary": SUMMARY}, verdict=VERDICT)
    write_run(root, "my_own_study", "digits-d", formats=(), finished=False)
    if reproduce:
        tables = {"claims": CLAIMS, "published": PUBLISHED, "statements": STATEMENTS, "plan": PLAN}
        write_run(root, "reproduce", "quick-e", tables=tables, formats=())
    return root
