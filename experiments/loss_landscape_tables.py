"""The tables of the loss-landscape study: summary, tests between the arms, comparison with the paper, and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import paper, plotting, spectrum, stats
from ntkgen.studies import tables
from ntkgen.studies.tables import number

ARMS = ("small_batch", "large_batch")
ALPHA = 0.05
INTERPOLATES = 99.9  # percent of training accuracy
# Smallest differences that would matter: a factor in curvature (the paper claims 11.8), points of accuracy.
FACTOR, POINTS = 10**stats.SHARPNESS, stats.ACCURACY
DENSITY_POINTS, DENSITY_WIDTH = 400, 0.012  # of the figure; standard deviation as a share of the range

# question -> (column of runs.csv, logarithmic, what is asked)
QUESTIONS = {
    "raw": ("top_value", True, "top eigenvalue"),
    "raw_many": ("top_many_value", True, "top eigenvalue on more samples"),
    "power_iteration": ("power_value", True, "top eigenvalue by the paper's power iteration"),
    "adaptive_worst": ("adaptive_worst", True, "worst-case adaptive sharpness"),
    "adaptive_average": ("adaptive_average", True, "average adaptive sharpness"),
    "trace": ("trace", True, "trace"),
    "accuracy": ("test_acc", False, "test accuracy"),
}
# question -> (column of matched.csv, what is asked); at equal training loss, by temperature
MATCHED = {
    "matched": ("top_value", "top eigenvalue at equal loss"),
    "adaptive_worst_matched": ("adaptive_worst", "worst-case adaptive sharpness at equal loss"),
    "adaptive_average_matched": ("adaptive_average", "average adaptive sharpness at equal loss"),
}
METRICS = ("train_loss", "train_acc", "test_loss", "gap", "steps", *(column for column, _, _ in QUESTIONS.values()))


def measured(row: Mapping[str, Any], column: str) -> float:
    """Read a measurement; NaN where the seed diverged, or where the eigenvalue was to converge and did not."""
    converged = column.replace("_value", "_converged")
    unfinished = column.startswith("top") and number(row[converged]) != 1
    return float("nan") if number(row.get("diverged", 0)) or unfinished else number(row[column])


def values(runs: Sequence[Mapping[str, Any]], column: str, log: bool = False) -> dict[str, np.ndarray]:
    """Give a column by arm (seeds,), NaN for what was lost; with `log` also for what is not positive."""
    found = {}
    for arm in ARMS:
        rows = sorted((row for row in runs if row["arm"] == arm), key=lambda row: int(row["seed"]))
        x = np.array([measured(row, column) for row in rows])
        found[arm] = np.log(np.where(x > 0, x, np.nan)) if log else x
    return found


def targets(matched: Sequence[Mapping[str, Any]]) -> list[float]:
    """List the losses of matched.csv, from the highest."""
    return sorted({number(row["target"]) for row in matched}, reverse=True)


def summarise(runs: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make summary.csv: means with intervals, and how many seeds diverged, interpolate, and converged.

    The columns at equal loss end with it: `top_value_at_0.1`.
    """
    kept = [{**row, **{name: measured(row, name) for name in METRICS}} for row in runs]
    summary = tables.summarise(kept, ("arm", "batch_size", "learning_rate"), METRICS)
    for row in summary:
        members = [run for run in runs if run["arm"] == row["arm"]]
        for name in ("diverged", "interpolates", *(c for c in members[0] if c.endswith("_converged"))):
            row[f"num_{name}"] = int(sum(number(run[name]) for run in members))
        for target in targets(matched):
            own = [one for one in matched if one["arm"] == row["arm"] and number(one["target"]) == target]
            row[f"num_temperature_found_at_{target:g}"] = sum(
                np.isfinite(number(x["inverse_temperature"])) for x in own
            )
            row[f"num_top_converged_at_{target:g}"] = int(sum(number(one["top_converged"]) for one in own))
            for column, _ in MATCHED.values():
                row |= tables.columns(f"{column}_at_{target:g}", values(own, column)[row["arm"]])
    return summary


def tests(runs: Sequence[Mapping[str, Any]], perturbation: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make tests.csv: large against small batch in every measure; p-values adjusted within each of two families."""
    pair = [("large_batch", "small_batch")]
    rows = []
    for question, (column, log, _) in QUESTIONS.items():
        margin = float(np.log(FACTOR)) if log else POINTS
        name = f"log {column}" if log else column
        (row,) = tables.compare("measures", name, values(runs, column, log), pair, margin)
        rows.append({"question": question, **row})
    for kind in ("absolute", "filter_relative"):
        sigmas, losses = perturbed(perturbation, kind)
        for k, sigma in enumerate(sigmas):
            rise = {arm: (losses[arm][0] - losses[arm][1])[k] for arm in ARMS}
            (row,) = tables.compare("perturbation", f"increase of the loss, {kind} sigma {sigma:g}", rise, pair)
            rows.append({"question": f"perturbation_{kind}", **row})
    rows = tables.adjust(rows)
    equivalence = [row for row in rows if row["equivalence_p"] is not None]
    adjusted = stats.false_discovery([row["equivalence_p"] for row in equivalence])[1] if equivalence else []
    rows = [{**row, "equivalence_adjusted": None} for row in rows]
    for row, value in zip((row for row in rows if row["equivalence_p"] is not None), adjusted, strict=True):
        row["equivalence_adjusted"] = float(value)
    return rows


def equal_losses(matched: Sequence[Mapping[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make equal_loss.csv and equal_loss_curves.csv: large against small batch, over all losses and at each.

    Natural logarithms. One row for each measure decides, from all losses that both arms reach; p-values are adjusted
    over the measures. The rows at single losses have intervals and no p-value.
    """
    rows, points = [], []
    levels = targets(matched)
    for question, (column, _) in MATCHED.items():
        at = [values([row for row in matched if number(row["target"]) == t], column, log=True) for t in levels]
        large, small = (np.stack([one[arm] for one in at]) for arm in ("large_batch", "small_batch"))
        about = {"family": "equal loss", "question": question, "first": "large_batch", "second": "small_batch"}
        row, curve = tables.at_equal_loss(about, large, small, levels, float(np.log(FACTOR)))
        rows.append(row)
        points += curve
    return tables.adjust_equivalence(tables.adjust_single(rows)), points


def judge(
    runs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], curves: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Make verdict.json: is the difference seen, not seen or undecided, in each measure.

    "Seen" needs the paired test, "not seen" the equivalence test, both adjusted for the false discovery rate; else it
    is undecided, with the effect that so many seeds would have shown at 80 % power.
    """
    answers: dict[str, Any] = {}
    for row in rows:
        if row["question"] in QUESTIONS:
            answers[row["question"]] = _answer(row, *QUESTIONS[row["question"]][1:])
    for row in curves:
        answers[row["question"]] = _over_losses(row, MATCHED[row["question"]][1])
    lost = int(sum(number(run["power_converged"]) != 1 for run in runs))
    answers["power_iteration"]["words"] += f"; {lost} of {len(runs)} networks not converged" if lost else ""
    below = {arm: int(sum(not number(run["interpolates"]) for run in runs if run["arm"] == arm)) for arm in ARMS}
    sensitive = [row for row in rows if row["family"] == "perturbation" and row["question"].endswith("absolute")]
    larger = sum(_significant(row) and row["difference"] > 0 for row in sensitive)
    smaller = sum(_significant(row) and row["difference"] < 0 for row in sensitive)
    words = "; ".join(f"{answers[name]['about']}: {answers[name]['words']}" for name in (*QUESTIONS, *MATCHED))
    return {
        "answers": answers,
        "below_interpolation": below,
        "comparable": not any(below.values()),
        "perturbation": {"sigmas": len(sensitive), "large_more_sensitive": larger, "small_more_sensitive": smaller},
        "verdict": words,
    }


def _significant(row: Mapping[str, Any]) -> bool:
    return row["paired_adjusted"] is not None and row["paired_adjusted"] <= ALPHA


def _answer(row: Mapping[str, Any], log: bool, about: str) -> dict[str, Any]:
    found: dict[str, Any] = {"about": about, "unit": "ratio large / small" if log else "points, large - small"}
    if row["difference"] is None:
        return found | {"answer": "undecided", "words": f"undecided ({row['undecided']})"}
    scale = np.exp if log else float
    for name in ("difference", "low", "high", "margin", "detectable"):
        found[name] = float(scale(row[name]))
    found |= {name: row[name] for name in ("num_pairs", "paired_adjusted", "welch_adjusted", "equivalence_adjusted")}
    size = f"{found['difference']:.3g} [{found['low']:.3g}, {found['high']:.3g}]"
    equivalent = row["equivalence_adjusted"] <= ALPHA
    if _significant(row):
        answer, tail = "seen", f"larger for the {'large' if row['difference'] > 0 else 'small'} batch"
        tail += f", but equivalent within {found['margin']:.3g}" if equivalent else ""
    elif equivalent:
        answer, tail = "not seen", f"equivalent within {found['margin']:.3g}"
    else:
        answer, tail = "undecided", f"{found['num_pairs']} pairs would have shown {found['detectable']:.3g}"
    return found | {"answer": answer, "words": f"{answer}, {size} ({tail})"}


def _over_losses(row: Mapping[str, Any], about: str) -> dict[str, Any]:
    """Answer from all losses: seen, or not, only where every one of them says so."""
    found: dict[str, Any] = {"about": about, "unit": "ratio large / small"}
    found |= {name: row[name] for name in ("num_targets", "num_pairs", "adjusted", "equivalence_adjusted")}
    found["margin"] = float(np.exp(row["margin"]))
    size = ""
    if row["lowest"] is not None:
        found |= {name: float(np.exp(row[name])) for name in ("lowest", "highest")}
        size = f"ratios {found['lowest']:.3g} to {found['highest']:.3g} at {row['num_targets']} losses"
    if row["undecided"]:
        return found | {"answer": "undecided", "words": f"undecided ({row['undecided']}{'; ' * bool(size)}{size})"}
    equivalent = row["equivalence_adjusted"] <= ALPHA
    if row["adjusted"] <= ALPHA:
        answer, tail = "seen", f"larger for the {'large' if row['sign'] > 0 else 'small'} batch at every loss"
        tail += f", but equivalent within {found['margin']:.3g}" if equivalent else ""
    elif equivalent:
        answer, tail = "not seen", f"equivalent within {found['margin']:.3g} at every loss"
    else:
        answer, tail = "undecided", "no answer that holds at every loss"
    return found | {"answer": answer, "words": f"{answer}, {size} ({tail})"}


def compare(runs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]], same: bool) -> list[dict[str, Any]]:
    """Make comparison.csv: ours beside the published values where the protocol is the `same`, else alone."""
    ours: dict[int, dict[str, Any]] = {}
    for arm in ARMS:
        batch = next(int(run["batch_size"]) for run in runs if run["arm"] == arm)
        accuracy = tables.columns("x", values(runs, "test_acc")[arm])
        eigenvalue = tables.columns("x", values(runs, "power_value")[arm])
        ours[batch] = {
            name: tuple(found[f"x_{end}"] for end in ("mean", "t_low", "t_high"))
            for name, found in (("test_acc", accuracy), ("top_eigenvalue", eigenvalue))
        }
    ratio = next(row for row in rows if row["question"] == "power_iteration")
    if ratio["difference"] is not None:
        ours[batch]["eigenvalue_ratio"] = tuple(float(np.exp(ratio[name])) for name in ("difference", "low", "high"))
    return paper.compare(paper.LOSS_LANDSCAPE if same else {}, ours)


# --- Curves of the figures


def perturbed(
    rows: Sequence[Mapping[str, Any]], kind: str
) -> tuple[list[float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Give sigmas and, by arm, the loss (sigmas, seeds) averaged over draws, and without perturbation, likewise."""
    rows = [row for row in rows if row["kind"] == kind]
    sigmas = sorted({number(row["sigma"]) for row in rows})
    found = {}
    for arm in ARMS:
        cells: dict[tuple[float, int], list[tuple[float, float]]] = {}
        for row in rows:
            if row["arm"] == arm:
                at = number(row["sigma"]), int(row["seed"])
                cells.setdefault(at, []).append((number(row["train_loss"]), number(row["baseline"])))
        seeds = sorted({seed for _, seed in cells})
        means = np.array([[np.mean(cells[sigma, seed], 0) for seed in seeds] for sigma in sigmas])
        found[arm] = means[..., 0], means[..., 1]
    return sigmas, found


def geometric(x: Sequence[float], y: np.ndarray) -> plotting.Curve:
    """Geometric mean and interval over seeds of positive y (k, seeds), for logarithmic axes."""
    found = tables.curve(x, np.log(np.where(y > 0, y, np.nan)))
    return plotting.Curve(found.x, *(np.exp(np.asarray(line, float)) for line in found[1:]))


def along(rows: Sequence[Mapping[str, Any]], kind: str, arm: str, column: str) -> tuple[list[float], np.ndarray]:
    """Give the steps of a line and a column (steps, seeds)."""
    rows = [row for row in rows if row["kind"] == kind and row["arm"] == arm]
    steps = sorted({number(row["step"]) for row in rows})
    cells = {(number(row["step"]), int(row["seed"])): number(row[column]) for row in rows}
    seeds = sorted({seed for _, seed in cells})
    return steps, np.array([[cells[step, seed] for seed in seeds] for step in steps])


def surface(rows: Sequence[Mapping[str, Any]], arm: str, column: str) -> tuple[list[float], np.ndarray]:
    """Give the steps of a surface, and a column (steps, steps), the first direction down."""
    rows = [row for row in rows if row["arm"] == arm]
    steps = sorted({number(row["step"]) for row in rows})
    cells = {(number(row["first"]), number(row["step"])): number(row[column]) for row in rows}
    return steps, np.array([[cells[a, b] for b in steps] for a in steps])


def densities(rows: Sequence[Mapping[str, Any]]) -> dict[str, plotting.Curve]:
    """Smooth every seed's spectral density on one grid; give the mean over seeds with its interval, by arm."""
    nodes = np.array([number(row["node"]) for row in rows])
    nodes = nodes[np.isfinite(nodes)]  # of networks that did not diverge
    low, high = (nodes.min(), nodes.max()) if nodes.size else (0.0, 1.0)
    width = DENSITY_WIDTH * (high - low)
    grid = np.linspace(low - 4 * width, high + 4 * width, DENSITY_POINTS)
    found = {}
    for arm in ARMS:
        cells: dict[int, dict[int, list[tuple[float, float]]]] = {}
        for row in rows:
            if row["arm"] == arm:
                probes = cells.setdefault(int(row["seed"]), {})
                probes.setdefault(int(row["probe"]), []).append((number(row["node"]), number(row["weight"])))
        curves = []
        for probes in cells.values():
            pairs = np.array(list(probes.values()))  # (probes, steps, 2)
            quadrature = spectrum.Density(pairs[..., 0], pairs[..., 1], *[np.empty(0)] * 7)
            curves.append(np.asarray(spectrum.smooth(quadrature, grid, width)))
        found[arm] = tables.curve(grid, np.array(curves).T)
    return found


def points(
    runs: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, tuple[np.ndarray, plotting.Curve]]]:
    """Give every seed's eigenvalues by label and arm, with their geometric mean and interval."""
    few, many = (int(runs[0][name]) for name in ("samples", "many_samples"))
    columns = {
        f"power iteration\n{few:,} samples": "power_value",
        f"Lanczos\n{few:,} samples": "top_value",
        f"Lanczos\n{many:,} samples": "top_many_value",
    }
    measured = {label: values(runs, column) for label, column in columns.items()}
    for target in targets(matched):
        own = [row for row in matched if number(row["target"]) == target]
        measured[f"Lanczos, at\nloss {target:g}"] = values(own, "top_value")
    found = {}
    for label, by_arm in measured.items():
        found[label] = {arm: (x, geometric([0.0], x[None])) for arm, x in by_arm.items()}
    return found
