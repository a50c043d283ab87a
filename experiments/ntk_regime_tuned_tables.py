"""The tables of the comparison after tuning: accuracies of networks and kernel regressions, tests, and a summary."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ntk_regime_measure import Arm, named
from ntk_regime_tables import ACCURACY_MARGIN, ARM, Runs, make_test

from ntkgen.studies import tables
from ntkgen.studies.tables import number

KINDS = ("initial", "final", "infinite")  # of kernels; the last is the analytic one
TUNED = "tuned on held-out images"


def tuned_tests(tuned: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test the tuned network against each tuned kernel regression, at every width; a family of their own."""
    found = []
    for width in dict.fromkeys(row["width"] for row in tuned):
        own = [row for row in tuned if row["width"] == width]
        where = {name: own[0][name] for name in ARM} | {"at": TUNED, "smallest": int(width), "largest": int(width)}
        network = np.array([number(row["test_acc"]) for row in own])
        for kind in KINDS:
            kernel = np.array([number(row[f"kernel_acc_{kind}"]) for row in own])
            if np.isfinite(kernel).any():
                question = (
                    f"network and regression with the {kind} kernel are equally accurate at width {width}, both tuned"
                )
                metric = f"test_acc - kernel_acc_{kind}"
                names = named("test_acc", width, tuned=True), named(f"kernel_acc_{kind}", width, tuned=True)
                found.append(
                    make_test(
                        question,
                        "equal",
                        network,
                        kernel,
                        ACCURACY_MARGIN,
                        metric,
                        "H3, tuned",
                        names,
                        **where,
                        line="",
                    )
                )
    return found


def summarise_tuned(tuned: Sequence[dict[str, Any]], runs: Runs) -> list[dict[str, Any]]:
    """Make tuned_summary.csv: accuracies after equal tuning, beside the network's and its linearisation's at --lr."""
    keys = (*ARM, "width", "learning_rate", *(f"ridge_{kind}" for kind in KINDS))
    metrics = ("train_acc", "test_acc", *(f"kernel_acc_{kind}" for kind in KINDS), "relative_movement")
    rows = tables.summarise(tuned, keys, metrics)
    for row in rows:
        arm, width = Arm(row["loss"], row["limit"]), [int(row["width"])]
        for name, metric in (("given_rate_test_acc", "test_acc"), ("linear_test_acc", "linear_test_acc")):
            row |= tables.columns(name, runs.values(arm, metric, width)[:, 0])
    return rows


def who_predicts_better(tests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sum the comparisons after tuning up in words: a statement for each kind of kernel."""
    found = []
    for metric in dict.fromkeys(row["metric"] for row in tests if row["at"] == TUNED):
        widths: dict[str, list[str]] = {}
        own = [row for row in tests if row["at"] == TUNED and row["metric"] == metric]
        for row in own:
            better = "network better" if row["paired_p"] is not None and row["difference"] > 0 else "kernel better"
            words = {"seen": f"equivalent within {ACCURACY_MARGIN:g} points", "not seen": better}
            widths.setdefault(words.get(row["decision"], "undecided"), []).append(str(row["largest"]))
        said = "; ".join(f"{words} at {', '.join(each)}" for words, each in widths.items())
        where = {name: own[0][name] for name in (*ARM, "at")} | {"largest": own[-1]["largest"], "metric": metric}
        found.append({"question": "which predicts better, both tuned?", **where, "decision": said})
    return found
