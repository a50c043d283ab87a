"""What becomes of networks along training: loss, movement, and the kernel's drift and alignment."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ntkgen import ensemble, kernels, measure
from ntkgen.studies.tables import number

CHANGES = ("drift", "misalignment", "label_alignment")
SCALED = ("relative_movement", "absolute_movement", "norm_initial", "drift", "misalignment")
ALONG = tuple(name for name in SCALED if name != "norm_initial")  # what training changes, and so has a matched loss


def finite(value: Any) -> float | None:
    """Return a number for JSON; None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def final(result: ensemble.Result, s: int) -> dict[str, Any]:
    """Return a seed's final losses, and accuracies in percent."""
    last = {name: float(values[s, -1]) for name, values in result.history.items()}
    found = {}
    for split in ("train", "test"):
        found[f"{split}_loss"] = finite(last[f"{split}_loss"])
        found[f"{split}_acc"] = finite(100 * last[f"{split}_accuracy"])
    return found


def follow(
    result: ensemble.Result, snaps: Sequence[int], kernel_snaps: Sequence[int], probe_y: jax.Array, classes: int
) -> list[list[dict[str, Any]]]:
    """Return for each seed a row for each snapshot, the start included: loss, movement, what became of the kernel."""
    at = {epoch: i for i, epoch in enumerate((0, *kernel_snaps))}
    movement, gram = result.probes
    targets = np.eye(classes)[np.asarray(probe_y)]
    found = []
    for s in range(len(gram)):
        rows = []
        for e, epoch in enumerate((0, *snaps)):
            row: dict[str, Any] = {"epoch": epoch, "train_loss": None}
            if epoch:
                row["train_loss"] = finite(result.history["train_loss"][s, epoch - 1])
            layers = {name: np.asarray(pairs[s, max(e - 1, 0)], float) for name, pairs in movement.items()}
            distance = float(np.linalg.norm([pair[0] for pair in layers.values()])) if epoch else 0.0
            norm = float(np.linalg.norm([pair[1] for pair in layers.values()]))
            row |= {"norm_initial": norm, "absolute_movement": finite(distance)}
            row["relative_movement"] = finite(distance / norm)
            row |= {f"movement_{name}": finite(pair[0]) if epoch else 0.0 for name, pair in layers.items()}
            row |= {f"norm_{name}": finite(pair[1]) for name, pair in layers.items()}
            known = changes(gram[s, at[epoch]], gram[s, 0], targets) if epoch in at else dict.fromkeys(CHANGES)
            rows.append(row | known)
        found.append(rows)
    return found


def changes(gram: np.ndarray, initial: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Return a kernel's drift, relative and as 1 - centred alignment, and its alignment with the labels.

    None where it is not known (a network that has diverged) or not defined: a network all of whose units died has a
    constant kernel, of which centring leaves nothing.
    """
    found: dict[str, float | None] = dict.fromkeys(CHANGES)
    if not (np.isfinite(gram).all() and np.isfinite(initial).all()):
        return found
    found["drift"] = kernels.drift(gram, initial)
    if np.ptp(gram) > 0 and np.ptp(initial) > 0:
        found["misalignment"] = max(1 - kernels.alignment(gram, initial), 0.0)  # 1 - 1 may round below zero
        found["label_alignment"] = kernels.target_alignment(gram, targets)
    return found


def matched(rows: Sequence[dict[str, Any]], target: float) -> dict[str, float | None]:
    """Return one network's movement and drift at the first time its training loss is at the target.

    Interpolated between the snapshots around it, in the logarithms of loss and value; kernels have fewer snapshots
    than movement.

    Args:
      rows: its snapshots in order, the start first; None for what a snapshot lacks.
      target: training loss.

    Returns:
      matched_epoch and matched values; None throughout where the loss is never reached, or was at the first snapshot
      already, before which it is not known.
    """
    found: dict[str, float | None] = {}
    for name in ("epoch", *ALONG):
        own = [row for row in rows if np.isfinite(number(row[name]))]
        losses, values = ([number(row[column]) for row in own] for column in ("train_loss", name))
        value = measure.at_loss(losses, values, target).value  # the start has no loss, and gives none
        found[f"matched_{name}"] = value if np.isfinite(value) else None
    return found
