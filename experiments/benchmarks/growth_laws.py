"""What the rows of `growth.py` say: slopes, where a curve bends, and why, in sentences; and the figures of them."""

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ntkgen import plotting

BEND = 0.3  # change of the slope from which a curve is said to bend
NEAR = 0.15  # slopes that differ by less count as equal
FLAT = 1.2  # largest over smallest memory of a curve that is called flat
FAST = 0.5  # of a large matrix product's speed, from which products are said to dominate
AXES = {
    "seeds": ("Seeds", "seeds", "weights of all seeds"),
    "width": ("Width", "width", "weights"),
    "samples": ("Samples of a tangent kernel", "samples", "kernel"),
}

Row = dict[str, Any]


class Slope(NamedTuple):
    """A slope in log-log: the median of those of single turns, and their range."""

    value: float
    low: float
    high: float


class Piece(NamedTuple):
    """A piece of a curve between two of its points (both included), and its slope."""

    first: int
    last: int
    slope: Slope


class Points:
    """One curve: arrays over its points (k,), and each turn's seconds, (turns, k)."""

    def __init__(self, rows: Sequence[Row]) -> None:
        """Take the rows of one curve, without those that sat out."""
        self.rows = [row for row in rows if row["turns"]]
        self.x, self.seconds, self.gflop, self.memory, self.counted = (
            np.array([float(row[name]) for row in self.rows])
            for name in ("x", "seconds", "gflop", "peak_gib", "counted_gib")
        )
        turns = [[float(value) for value in str(row["all_seconds"]).split()] for row in self.rows]
        # Points of one turn share the machine's state; a slow point has fewer turns.
        self.turns = np.array([own[: min(map(len, turns))] for own in turns]).T
        self.before = statistics.median(float(row["baseline_gib"]) for row in self.rows)
        self.speed = float(self.rows[0]["peak_gflops"])

    @property
    def share(self) -> np.ndarray:
        """Return the speed of each point's counted operations, in that of a large matrix product."""
        return self.gflop / self.seconds / self.speed

    def slope(self, first: int, last: int) -> Slope:
        """Return the slope of the seconds between two points (both included), fitted to each turn."""
        own = slice(first, last + 1)
        found = [slope_of(self.x[own], turn[own]) for turn in self.turns]
        return Slope(statistics.median(found), min(found), max(found))

    def pieces(self) -> list[Piece]:
        """Return the curve in one piece, or in two where it bends by more than the turns differ."""
        last = len(self.x) - 1
        bend = bend_of(self.x, self.seconds)
        if bend is not None:
            before, after = self.slope(0, bend), self.slope(bend, last)
            if before.high < after.low or after.high < before.low:
                return [Piece(0, bend, before), Piece(bend, last, after)]
        return [Piece(0, last, self.slope(0, last))]


def slope_of(x: np.ndarray, y: np.ndarray) -> float:
    """Return the slope of log y on log x, by least squares."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def bend_of(x: np.ndarray, y: np.ndarray) -> int | None:
    """Return the inner point where two straight lines in log-log meet best; None where their slopes hardly differ."""
    u, v = np.log(x), np.log(y)
    best: tuple[float, int, float] | None = None
    for index in range(1, len(x) - 1):
        columns = np.stack([np.ones_like(u), u, np.maximum(u - u[index], 0.0)], 1)
        found = np.linalg.lstsq(columns, v, rcond=None)[0]
        error = float(np.sum((columns @ found - v) ** 2))
        if best is None or error < best[0]:
            best = error, index, float(found[2])
    return best[1] if best is not None and abs(best[2]) >= BEND else None


def why(points: Points, piece: Piece) -> str:
    """Return what a piece's slope comes from, by its arithmetic's slope and speed."""
    own = slice(piece.first, piece.last + 1)
    arithmetic, share = slope_of(points.x[own], points.gflop[own]), points.share[own]
    speed = f"at {100 * share[0]:.0f} to {100 * share[-1]:.0f} % of a large matrix product's speed"
    if share.min() >= FAST:
        return f"matrix products dominate (slope of the arithmetic {arithmetic:.1f}, {speed})"
    if piece.slope.value < arithmetic - NEAR:
        return (
            f"part of the cost does not grow with the arithmetic, whose slope is {arithmetic:.1f}: calls and small "
            f"products ({speed})"
        )
    if piece.slope.value > arithmetic + NEAR:
        return f"time grows faster than the arithmetic, whose slope is {arithmetic:.1f}: memory traffic ({speed})"
    return f"time follows the arithmetic, whose slope is {arithmetic:.1f}, {speed}"


def slope_text(slope: Slope) -> str:
    """Return a slope with the range of its turns."""
    return f"{slope.value:.2f} [{slope.low:.2f}, {slope.high:.2f}]"


def sentences(axis: str, name: str, points: Points) -> list[str]:
    """Return a sentence for each piece of a curve, and one on its memory."""
    unit = "" if axis == "width" else f" {AXES[axis][1]}"
    name = f"{name[0].upper()}{name[1:]}"
    found = [
        f"{name}, {AXES[axis][1]} {points.x[piece.first]:g} to {points.x[piece.last]:g}: "
        f"slope {slope_text(piece.slope)}; {why(points, piece)}."
        for piece in points.pieces()
    ]
    return [*found, f"{name}, memory: {memory_text(points, unit, AXES[axis][2])}."]


def memory_text(points: Points, unit: str, counted: str) -> str:
    """Return what peak memory consists of, and where its curve bends."""
    added = points.memory - points.before
    text = f"{points.before:.2f} GiB before the computation, which adds {added.min():.2f} to {added.max():.2f} GiB"
    if points.memory.max() < FLAT * points.memory.min():
        return f"{text}; the curve is nearly flat, since what grows is small beside that"
    slopes = np.diff(np.log(points.memory)) / np.diff(np.log(points.x))
    text += f"; the slope goes from {slopes[0]:.1f} to {slopes[-1]:.1f}"
    over = np.flatnonzero(added > points.before)
    if len(over):
        text += f", since from {points.x[over[0]]:g}{unit} on more is added than was there"
    else:
        text += ", since what was there is the larger part everywhere"
    return f"{text}; at the end {added[-1] / points.counted[-1]:.1f} times the {counted} ({points.counted[-1]:.2g} GiB)"


def curves(rows: Iterable[Row], axis: str) -> dict[str, Points]:
    """Return the curves of one axis by name; a curve without two measured points is left out."""
    own = [row for row in rows if row["axis"] == axis]
    found = {name: Points([row for row in own if row["series"] == name])
             for name in dict.fromkeys(row["series"] for row in own)
             if sum(bool(row["turns"]) for row in own if row["series"] == name) >= 2}  # fmt: skip
    return found


def draw(rows: Sequence[Row], axis: str, path: Path) -> Path:
    """Write the figure of one axis and return its path."""
    costs = {}
    for name, points in curves(rows, axis).items():
        low, high, first = ([float(row[key]) for row in points.rows]
                            for key in ("seconds_min", "seconds_max", "first_seconds"))  # fmt: skip
        label = f"{name}: slope {slope_text(points.pieces()[-1].slope)}"
        if len(points.pieces()) > 1:
            label += f" from {points.x[points.pieces()[-1].first]:g} on"
        local = np.diff(np.log(points.seconds)) / np.diff(np.log(points.x))
        costs[label] = plotting.growth.Cost(
            plotting.Curve(list(points.x), list(points.seconds), low, high), first,
            list(points.gflop / points.speed), list(points.memory), list(local), points.before,
        )  # fmt: skip
    what = {"seeds": "An epoch of many seeds", "width": "An epoch of one MLP", "samples": "An exact tangent kernel"}
    figure = plotting.growth.cost(costs, AXES[axis][1], f"{what[axis]}: cost against {AXES[axis][1]}")
    return plotting.save(figure, path)
