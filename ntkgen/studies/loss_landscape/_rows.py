"""The rows of the loss-landscape study's tables, a function for each part that is kept on its own.

Every row says on how many samples, with which batch-norm statistics, and how exactly it was measured.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from ntkgen import measure
from ntkgen.studies.base import Rows
from ntkgen.studies.loss_landscape._instruments import Instruments, Solutions


def curvature_rows(instruments: Instruments, arm: str, seeds: Sequence[int], solutions: Solutions) -> dict[str, Rows]:
    """Measure eigenvalues, density, trace and adaptive sharpness, also at the matched temperatures."""
    s = instruments.sizes
    slices = (instruments.whole.x[i : i + s.chunk] for i in range(0, len(instruments.whole.y), s.chunk))
    logits = np.concatenate([instruments.logits(solutions, x) for x in slices], axis=1)
    tops = {}
    for name, top in (("power", instruments.power), ("top", instruments.top)):
        tops[name], tops[f"{name}_many"] = top(solutions, instruments.few), top(solutions, instruments.many)
    sharp = instruments.sharpness(solutions, instruments.few)
    pairs, density = instruments.pairs(solutions, instruments.few), instruments.density(solutions, instruments.few)
    tables: dict[str, Rows] = {"runs": [], "eigenvalues": [], "density": []}
    tables["matched"] = [
        row for target in s.matched_losses for row in _matched_rows(instruments, arm, seeds, solutions, logits, target)
    ]
    for i, seed in enumerate(seeds):
        who = {"arm": arm, "seed": seed}
        row: dict[str, Any] = {**who, "samples": s.samples, "many_samples": s.many_samples}
        row |= {"batch_norm": "frozen" if instruments.has_state else "none", "precision": "highest"}
        for name, eigen in tops.items():
            row |= {f"{name}_{part}": float(values[i].item()) for part, values in eigen.items()}
        row["trace"] = instruments.dim * float(density.moments[i][0])
        row["trace_error"] = instruments.dim * float(density.moment_errors[i][0])
        row["trace_matvecs"] = int(density.num_matvecs[i])
        row |= _adaptive_cells(sharp, i)
        tables["runs"].append(row)
        tables["eigenvalues"] += [
            {
                **who,
                "rank": rank + 1,
                "value": float(pairs["value"][i][rank]),
                "residual": float(pairs["residual"][i][rank]),
                "converged": int(pairs["converged"][i][rank]),
                "matvecs": int(pairs["matvecs"][i]),
                "samples": s.samples,
            }
            for rank in range(s.pairs)
        ]
        tables["density"] += [
            {**who, "probe": probe, "node": float(node), "weight": float(weight)}
            for probe in range(s.probes)
            for node, weight in zip(density.nodes[i][probe], density.weights[i][probe], strict=True)
        ]
    return tables


def _matched_rows(
    instruments: Instruments, arm: str, seeds: Sequence[int], solutions: Solutions, logits: np.ndarray, target: float
) -> Rows:
    """Measure top eigenvalue and adaptive sharpness at the temperature that brings the whole training set to a loss."""
    labels = jnp.asarray(instruments.whole.y)
    betas = [1 / float(measure.outputs_temperature(one, labels, target=target)) for one in logits]
    matched = solutions._replace(beta=jnp.asarray(betas, solutions.beta.dtype))
    top, sharp = instruments.top(matched, instruments.few), instruments.sharpness(matched, instruments.few)
    rows = []
    for i, seed in enumerate(seeds):
        row: dict[str, Any] = {"arm": arm, "seed": seed, "target": target, "inverse_temperature": betas[i]}
        row |= {f"top_{part}": float(values[i].item()) for part, values in top.items()}
        rows.append(row | _adaptive_cells(sharp, i) | {"samples": instruments.sizes.samples})
    return rows


def _adaptive_cells(sharp: dict[str, Any], i: int) -> dict[str, float]:
    columns = {}
    for kind, result in sharp.items():
        columns[f"adaptive_{kind}"] = float(result.increase[i])
        columns[f"adaptive_{kind}_error"] = float(result.standard_error[i])
    return columns


def around_rows(instruments: Instruments, arm: str, seeds: Sequence[int], solutions: Solutions) -> dict[str, Rows]:
    """Measure perturbation curves (frozen statistics) and the loss along a filter-normalised line (refitted)."""
    sensitivity = instruments.perturbed(solutions, instruments.whole)
    line = instruments.line(solutions, (instruments.splits, instruments.few))
    tables: dict[str, Rows] = {"perturbation": [], "lines": []}
    for i, seed in enumerate(seeds):
        for kind, sigmas in instruments.sizes.strengths.items():
            found = sensitivity[kind]
            tables["perturbation"] += [
                {
                    "kind": kind,
                    "arm": arm,
                    "seed": seed,
                    "sigma": sigma,
                    "draw": draw,
                    "baseline": float(found.baseline[i]),
                    "train_loss": float(found.values[i][k][draw]),
                    "samples": len(instruments.whole.y),
                    "batch_norm": "frozen" if instruments.has_state else "none",
                }
                for k, sigma in enumerate(sigmas)
                for draw in range(instruments.sizes.draws)
            ]
        tables["lines"] += _point_rows(instruments, "line", arm, seed, instruments.line_steps, line[i])
    return tables


def surface_rows(instruments: Instruments, arm: str, seeds: Sequence[int], solutions: Solutions) -> dict[str, Rows]:
    """Measure the loss over a filter-normalised plane, statistics refitted at every point."""
    values = instruments.plane(solutions, (instruments.splits, instruments.few))
    rows = []
    for i, seed in enumerate(seeds):
        for a, line in zip(instruments.plane_steps, values[i], strict=True):
            points = _point_rows(instruments, "plane", arm, seed, instruments.plane_steps, line)
            rows += [{"first": float(a)} | point for point in points]
    return {"plane": rows}


def between_rows(instruments: Instruments, seeds: Sequence[int], small: Solutions, large: Solutions) -> dict[str, Rows]:
    """Measure the loss from the small-batch to the large-batch solution of a seed, statistics refitted."""
    values = instruments.between((small.params, large.params), (instruments.splits, instruments.few))
    rows = []
    for i, seed in enumerate(seeds):
        rows += _point_rows(instruments, "interpolation", "between", seed, instruments.between_steps, values[i])
    return {"lines": rows}


def _point_rows(instruments: Instruments, kind: str, arm: str, seed: int, steps: np.ndarray, values: Any) -> Rows:
    """Make rows from (steps, 4): loss and accuracy on training and test examples."""
    return [
        {
            "kind": kind,
            "arm": arm,
            "seed": seed,
            "step": float(step),
            "train_loss": float(train_loss),
            "train_error": 100 * (1 - float(train_accuracy)),
            "test_loss": float(test_loss),
            "test_error": 100 * (1 - float(test_accuracy)),
            "train_examples": len(instruments.splits[0].y),
            "test_examples": len(instruments.splits[1].y),
            "batch_norm": "refitted" if instruments.has_state else "none",
        }
        for step, (train_loss, train_accuracy, test_loss, test_accuracy) in zip(steps, np.asarray(values), strict=True)
    ]
