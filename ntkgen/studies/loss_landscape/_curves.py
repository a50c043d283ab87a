"""The measured tables of the loss-landscape study as arrays and curves: by arm, for tests and figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import plotting, spectrum
from ntkgen.studies import curves
from ntkgen.studies.loss_landscape._config import ARMS
from ntkgen.studies.tables import number

KINDS = ("absolute", "filter_relative")  # of perturbation
DENSITY_POINTS, DENSITY_WIDTH = 400, 0.012  # of the figure; standard deviation as a share of the range


def measured(row: Mapping[str, Any], column: str) -> float:
    """Return a measurement; NaN where the seed diverged, or where the eigenvalue was to converge and did not."""
    converged = column.replace("_value", "_converged")
    unfinished = column.startswith("top") and number(row[converged]) != 1
    return float("nan") if number(row.get("diverged", 0)) or unfinished else number(row[column])


def by_arm(runs: Sequence[Mapping[str, Any]], column: str, log: bool = False) -> dict[str, np.ndarray]:
    """Return a column by arm (seeds,), NaN for what was lost; with `log` its logarithm, NaN too if not positive."""
    found = {}
    for arm in ARMS:
        rows = sorted((row for row in runs if row["arm"] == arm), key=lambda row: int(row["seed"]))
        x = np.array([measured(row, column) for row in rows])
        found[arm] = np.log(np.where(x > 0, x, np.nan)) if log else x
    return found


def losses_of(matched: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the losses of matched.csv, from the highest."""
    return sorted({number(row["target"]) for row in matched}, reverse=True)


def perturbed(
    rows: Sequence[Mapping[str, Any]], kind: str
) -> tuple[list[float], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Return sigmas and, by arm, the loss (sigmas, seeds) averaged over draws, and without perturbation, likewise."""
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
    """Return geometric mean and interval over seeds of positive y (k, seeds), for logarithmic axes."""
    found = curves.curve(x, np.log(np.where(y > 0, y, np.nan)))
    return plotting.Curve(found.x, *(np.exp(np.asarray(line, float)) for line in found[1:]))


def along(rows: Sequence[Mapping[str, Any]], kind: str, arm: str, column: str) -> tuple[list[float], np.ndarray]:
    """Return the steps of a line and a column (steps, seeds)."""
    rows = [row for row in rows if row["kind"] == kind and row["arm"] == arm]
    steps = sorted({number(row["step"]) for row in rows})
    cells = {(number(row["step"]), int(row["seed"])): number(row[column]) for row in rows}
    seeds = sorted({seed for _, seed in cells})
    return steps, np.array([[cells[step, seed] for seed in seeds] for step in steps])


def surface_of(rows: Sequence[Mapping[str, Any]], arm: str, column: str) -> tuple[list[float], np.ndarray]:
    """Return the steps of a surface, and a column (steps, steps), the first direction down."""
    rows = [row for row in rows if row["arm"] == arm]
    steps = sorted({number(row["step"]) for row in rows})
    cells = {(number(row["first"]), number(row["step"])): number(row[column]) for row in rows}
    return steps, np.array([[cells[a, b] for b in steps] for a in steps])


def densities(rows: Sequence[Mapping[str, Any]]) -> dict[str, plotting.Curve]:
    """Smooth every seed's spectral density on one grid; returns the mean over seeds with its interval, by arm."""
    nodes = np.array([number(row["node"]) for row in rows])
    nodes = nodes[np.isfinite(nodes)]  # of networks that did not diverge
    low, high = (nodes.min(), nodes.max()) if nodes.size else (0.0, 1.0)
    width = DENSITY_WIDTH * (high - low)
    grid: Any = np.linspace(low - 4 * width, high + 4 * width, DENSITY_POINTS)
    found = {}
    for arm in ARMS:
        cells: dict[int, dict[int, list[tuple[float, float]]]] = {}
        for row in rows:
            if row["arm"] == arm:
                probes = cells.setdefault(int(row["seed"]), {})
                probes.setdefault(int(row["probe"]), []).append((number(row["node"]), number(row["weight"])))
        by_seed = []
        for probes in cells.values():
            pairs: Any = np.array(list(probes.values()))  # (probes, steps, 2)
            rest: Any = [np.empty(0)] * 7  # of a density, which drawing does not use
            quadrature = spectrum.Density(pairs[..., 0], pairs[..., 1], *rest)
            by_seed.append(np.asarray(spectrum.smooth(quadrature, grid, width)))
        found[arm] = curves.curve(grid, np.array(by_seed).T)
    return found


def eigenvalues(
    runs: Sequence[Mapping[str, Any]], matched: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, tuple[np.ndarray, plotting.Curve]]]:
    """Return every seed's eigenvalues by label and arm, with their geometric mean and interval."""
    few, many = (int(runs[0][name]) for name in ("samples", "many_samples"))
    columns = {
        f"power iteration\n{few:,} samples": "power_value",
        f"Lanczos\n{few:,} samples": "top_value",
        f"Lanczos\n{many:,} samples": "top_many_value",
    }
    values = {label: by_arm(runs, column) for label, column in columns.items()}
    for target in losses_of(matched):
        own = [row for row in matched if number(row["target"]) == target]
        values[f"Lanczos, at\nloss {target:g}"] = by_arm(own, "top_value")
    return {label: {arm: (x, geometric([0.0], x[None])) for arm, x in arms.items()} for label, arms in values.items()}
