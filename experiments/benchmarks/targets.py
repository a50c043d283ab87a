"""What the benchmarks aim at, in one place, and what came out, read from their rows alone.

A row is a dict, of numbers as a benchmark made them or of text as its CSV file holds them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

Row = dict[str, Any]
LIBRARIES = ("PyHessian", "hessian-eigenthings")  # whose eigenvalues ours are compared with
TOP = ("top, power", "top, Lanczos")  # the ways to one eigenvalue
RESIDUAL = 1e-3  # that eigenvalues are solved to; a solver above it gave up


@dataclass(frozen=True)
class Target:
    """A bound on one figure of a benchmark.

    Attributes:
      section: the benchmark.
      case: name of the network or kernel, or a pattern of it.
      what: the figure, a key of what the section's function below returns.
      least: the smallest value that meets it, or None.
      most: the largest, or None.
      unit: behind a value, such as " s".
    """

    section: str
    case: str
    what: str
    least: float | None = None
    most: float | None = None
    unit: str = ""

    def met(self, value: float) -> bool:
        """Return whether a value is within the bounds."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    @property
    def wanted(self) -> str:
        """Return the bound in words."""
        least = "" if self.least is None else f"at least {self.least:g}{self.unit}"
        most = "" if self.most is None else f"at most {self.most:g}{self.unit}"
        return " and ".join(filter(None, (least, most)))


class Found(NamedTuple):
    """A measured value, and what a reader must know of it, such as that a solver gave up."""

    value: float
    note: str = ""


class Outcome(NamedTuple):
    """A target, the case that it was measured in, and the value; None where it was not measured."""

    target: Target
    case: str
    found: Found | None

    @property
    def missed(self) -> bool:
        """Return whether the value is beyond its bound; one that was not measured is not."""
        return self.found is not None and not self.target.met(self.found.value)


BEST, PRODUCTS = "the fastest other's time / ours, top eigenvalue", "products, Lanczos / power iteration"
TEN = "the fastest other's time / ours, ten pairs to one residual"
THREE, HVP, LINEAR = (
    "PyHessian's time for three / ours for ten",
    "gradients a product",
    "gradients a product, linearised",
)
PYTORCH, ORACLE, SECONDS, MEMORY = "times PyTorch's speed", "times the Jacobian's speed", "seconds", "peak memory"
STRUCTURED, FIRST, DIFFERENCE = (
    "times neural-tangents' speed",
    "first call / neural-tangents'",
    "difference from neural-tangents",
)
SEEDS = "five seeds, unrolled, in times one"

# Seconds and GiB of kernels were measured once on a two-core machine, with a sketch of the method.
KERNELS: dict[str, tuple[float | None, float]] = {
    "mlp256n200": (0.06, 0.36),
    "mlp1024n200": (0.30, 0.48),
    "mlp64n1000": (0.7, 0.74),
    "mlp256n1000": (1.3, 0.82),
    "mlp1024n1000": (4.6, 0.96),
    "mlp4096n1000": (None, 3.0),
    "mlp1024n5000trace": (None, 4.0),
    "cnn16n200": (None, 2.0),
}
AGAINST_STRUCTURED = ("mlp256n200", "mlp64n1000", "mlp256n1000", "mlp1024n1000")
TARGETS = (
    Target("training", "mlp256", PYTORCH, least=1.8),
    Target("training", "cnn16", PYTORCH, least=1.0),
    Target("training", "cnn32", PYTORCH, least=1.0),
    Target("curvature", "*", PRODUCTS, most=0.5),
    Target("curvature", "mlp*", BEST, least=1.3),
    Target("curvature", "cnn*", BEST, least=2.0),
    Target("curvature", "cnn*", TEN, least=1.5),
    Target("curvature", "*", THREE, least=1.0),
    Target("curvature", "mlp*", LINEAR, most=1.7),
    Target("curvature", "cnn*", HVP, most=2.0),
    *(Target("ntk", case, SECONDS, most=s, unit=" s") for case, (s, _) in KERNELS.items() if s is not None),
    *(Target("ntk", case, MEMORY, most=gib, unit=" GiB") for case, (_, gib) in KERNELS.items()),
    Target("ntk", "cnn16n200", ORACLE, least=3.0),
    *(Target("ntk", case, STRUCTURED, least=5.0) for case in AGAINST_STRUCTURED),
    *(Target("ntk", case, DIFFERENCE, most=1e-6) for case in AGAINST_STRUCTURED),  # six digits
    Target("ntk", "mlp256n200", FIRST, most=1.0),
    Target("seed_axis", "cnn32", SEEDS, most=2.5),
)


def outcomes(section: str, rows: Sequence[Row]) -> list[Outcome]:
    """Return the targets of a benchmark and what its rows hold; one with a pattern stands for every case that fits."""
    measured = FIGURES[section](rows) if rows and section in FIGURES else {}
    cases = list(dict.fromkeys(case for case, _ in measured))
    found = []
    for target in (target for target in TARGETS if target.section == section):
        fit = [case for case in cases if fnmatchcase(case, target.case)]
        found += [Outcome(target, case, measured.get((case, target.what))) for case in fit or [target.case]]
    return found


def say(section: str, rows: Sequence[Row]) -> None:
    """Print the targets of the measured cases, and whether they are met."""
    for target, case, found in outcomes(section, rows):
        if found is None:
            continue
        word = "met" if target.met(found.value) else "MISSED"
        print(
            f"target {word}: {case}, {target.what}: {found.value:.3g}{target.unit}, wanted {target.wanted}{found.note}"
        )


def training(rows: Sequence[Row]) -> dict[tuple[str, str], Found]:
    """Return how many times PyTorch's speed ours is, by the strategy that `fit` chooses."""
    own = [row for row in rows if not int(row["masked"]) and int(row["chosen"]) and row["speedup"] not in ("", None)]
    return {(row["case"], PYTORCH): Found(float(row["speedup"])) for row in own}


def curvature(rows: Sequence[Row]) -> dict[tuple[str, str], Found]:
    """Return ratios to PyHessian and power iteration, and gradients a product."""
    found: dict[tuple[str, str], Found] = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        by = {(row["library"], row["what"]): row for row in rows if row["case"] == case}
        ours, power = by["ntkgen", "top, Lanczos"], by["ntkgen", "top, power"]
        many = [row for (library, what), row in by.items() if library == "ntkgen" and what.endswith("Lanczos")]
        found[case, PRODUCTS] = Found(float(ours["matvecs"]) / float(power["matvecs"]), gave_up(power))
        found[case, HVP] = Found(float(by["ntkgen", "hvp"]["gradients"]))
        found[case, LINEAR] = Found(float(by["ntkgen", "hvp, linearised"]["gradients"]))
        for (library, what), row in by.items():
            if library == "PyHessian" and what == "top 3, deflated":
                found[case, THREE] = Found(float(row["seconds"]) / float(many[-1]["seconds"]))
        solved = [row for row in by.values() if row["library"] in LIBRARIES and row["what"].startswith("top")]
        for name, own, wanted in ((BEST, ours, TOP), (TEN, many[-1], (many[-1]["what"],))):
            times = [float(row["seconds"]) for row in solved if row["what"] in wanted and not gave_up(row)]
            if times:
                found[case, name] = Found(min(times) / float(own["seconds"]))
    return found


def gave_up(row: Row) -> str:
    """Return a note on a solver that did not reach its residual."""
    return "" if float(row["residual"]) <= RESIDUAL else "; power iteration gave up"


def ntk(rows: Sequence[Row]) -> dict[tuple[str, str], Found]:
    """Return seconds and GiB of our kernels, and how they compare with the Jacobian's and neural-tangents'."""
    found: dict[tuple[str, str], Found] = {}
    timed = [row for row in rows if not row["absent"]]
    first = {row["case"]: float(row["first_seconds"]) for row in timed if row["way"] == "ours"}
    for row in timed:
        if row["way"] == "ours":
            found[row["case"], SECONDS] = Found(float(row["seconds"]))
            found[row["case"], MEMORY] = Found(float(row["peak_gib"]))
        if row["way"] == "jacobian":
            found[row["case"], ORACLE] = Found(float(row["speedup"]))
        if row["way"] == "neural-tangents":
            found[row["case"], STRUCTURED] = Found(float(row["speedup"]))
            found[row["case"], FIRST] = Found(first[row["case"]] / float(row["first_seconds"]))
            found[row["case"], DIFFERENCE] = Found(float(row["difference"]))
    return found


def seed_axis(rows: Sequence[Row]) -> dict[tuple[str, str], Found]:
    """Return the times that five seeds take, in times one, by `strategy="unrolled"`."""
    own = [row for row in rows if row["variant"] == "unrolled+nhwc+concurrent" and row["to_one"]]
    return {(f"cnn{row['channels']}", SEEDS): Found(float(row["to_one"])) for row in own}


FIGURES: dict[str, Callable[[Sequence[Row]], dict[tuple[str, str], Found]]] = {
    "training": training,
    "curvature": curvature,
    "ntk": ntk,
    "seed_axis": seed_axis,
}
