"""What the tangent-kernel study claims: each claim with its two sides, its margin, and where it is made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkgen import stats
from ntkgen.studies import relations, tables
from ntkgen.studies.base import Rows
from ntkgen.studies.ntk_regime._config import WidthSeries
from ntkgen.studies.ntk_regime._kernels import KINDS, arm_name
from ntkgen.studies.ntk_regime._tables import LINES, NetworkTable, by_width, decisive, series_of
from ntkgen.studies.tables import number

ALPHA = 0.05
# Fixed before the runs: what counts as no difference.
EXPONENT_MARGIN = 0.1  # a fifth of the distance between the two lines
LEVEL_MARGIN = 0.05  # of log10 of a movement: twelve percent
ACCURACY_MARGIN = stats.ACCURACY
ALIGNMENT_MARGIN = 0.02
SMALL_DRIFT = 0.1  # relative kernel drift below which a network counts as training as a kernel
GIVEN = "at the given rate and ridge"  # which nobody tuned for accuracy
TUNED = "tuned on held-out images"
LAZY_HERE = {"mse": "lazy at these widths and this time", "cross_entropy": "lazy at these widths and this loss"}
EQUAL, GREATER, LESS = 0, +1, -1  # signs
KINDS_OF_CLAIM = {EQUAL: "equal", GREATER: "greater", LESS: "less"}  # as tests.csv has them
FAMILY = "H3"
# About the main networks: what is claimed of two metrics, their sign and margin.
MAIN_CLAIMS = (
    ("training aligns the kernel with the labels", "label_alignment", "label_alignment_initial", GREATER,
     ALIGNMENT_MARGIN),
    ("the linearised network is as accurate as the network", "linear_test_acc", "test_acc", EQUAL, ACCURACY_MARGIN),
    (f"regression with the initial kernel is as accurate as the network, {GIVEN}", "kernel_acc_initial",
     "kernel_acc_network", EQUAL, ACCURACY_MARGIN),
    (f"regression with the final kernel is as accurate as the network, {GIVEN}", "kernel_acc_final",
     "kernel_acc_network", EQUAL, ACCURACY_MARGIN),
    ("the final kernel predicts better than the initial one", "kernel_acc_final", "kernel_acc_initial", GREATER,
     ACCURACY_MARGIN),
    (f"regression with the infinite-width kernel is as accurate as the network, {GIVEN}", "kernel_acc_network",
     "kernel_acc_infinite", EQUAL, ACCURACY_MARGIN),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class WidthClaim(relations.Relation):
    """A claim about one series of networks; a sign of 0 claims that the two sides are equal within the margin.

    Attributes:
      series: the networks.
      at: when: after all epochs ("end"), at the matched loss, or after tuning.
      smallest: smallest width that it is about; None where a fit has none.
      largest: the largest.
      line: the line whose exponent is claimed; "" for other claims.
    """

    series: WidthSeries
    at: str
    smallest: int | None
    largest: int | None
    line: str = ""


Sides = tuple[np.ndarray, np.ndarray]  # what is compared, each (seeds,)
Claims = dict[WidthClaim, Sides]


def against_number(
    claim: str, metric: str, sign: int, margin: float | None, measured: np.ndarray, reference: float, **where: Any
) -> Claims:
    """Return the claim that measured (seeds,) lies at, above or below a number."""
    found = WidthClaim(claim, FAMILY, metric, "measured", "reference", sign, margin, **where)
    return {found: (measured, np.full(len(measured), reference))}


def exponent_claims(fits: Rows, main: WidthSeries) -> Claims:
    """Return what is claimed of every series' exponents: the lines of theory, and that they fall with the width."""
    spans = ("loss", "limit", "metric", "smallest", "largest")
    lazy = {tuple(row[name] for name in spans): row["exponent"] for row in fits if row["at"] == "lazy"}
    found: Claims = {}
    for fit in fits:
        series, metric = series_of(fit), fit["metric"]
        own = series == main and fit["at"] == "end"
        if metric == "norm_initial" or not (own or fit["at"] == decisive(series)):
            continue
        lines = dict(LINES.get(metric, {})) if series.limit in ("fixed", "over_width") else {}
        if series.limit == "mup" and metric == "absolute_movement":
            lines = {"constant movement": 0.0}  # features move by as much as ever, in a few directions
        null = lazy.get(tuple(fit[name] for name in spans))
        if null is not None and not (own and series.loss == "cross_entropy"):  # whose end is at no matched loss
            lines[LAZY_HERE[series.loss]] = null
        where = {"series": series, "at": fit["at"], "smallest": fit["smallest"], "largest": fit["largest"]}
        words = metric.replace("_", " ")
        per_seed = fit["per_seed"] if len(fit["per_seed"]) else np.array([np.nan])
        for line, value in lines.items():
            text = f"{words} goes like width^{value:.2f} ({line})"
            found |= against_number(text, metric, EQUAL, EXPONENT_MARGIN, per_seed, value, **where, line=line)
        if metric != "absolute_movement":
            text = f"{words} falls with width (fitted exponent below zero)"
            found |= against_number(text, metric, LESS, EXPONENT_MARGIN, per_seed, 0.0, **where)
    return found


def level_claims(networks: NetworkTable, analytic: Sequence[Mapping[str, Any]]) -> Claims:
    """Return the claims that networks moved as far as a lazy network, at the largest width that has both.

    For the same time (squared loss), and to the same training loss: a network that moves as far as a lazy one in the
    same time, but to a lower loss, is none.
    """
    found: Claims = {}
    for series in networks.series:
        kinds = [("matched loss", "matched_absolute_movement", f"lazy_matched_{series.loss}", "width and loss")]
        if series.loss == "mse":
            kinds.insert(0, ("end", "absolute_movement", "lazy_movement", "width and time"))
        for at, metric, column, what in kinds:
            lazy = by_width(analytic, series.limit, column)
            own = {width: networks.metric(series, metric, [width])[:, 0] for width in networks.axes(series)[1]}
            both = [width for width in own if lazy.get(width, 0) > 0 and np.isfinite(own[width]).sum() > 1]
            if not both:
                continue
            width = max(both)
            found |= against_number(
                f"absolute movement is that of a lazy network of this {what}", f"log10 {metric}", EQUAL, LEVEL_MARGIN,
                np.log10(own[width]), np.log10(lazy[width]), series=series, at=at, smallest=width, largest=width,
            )  # fmt: skip
    return found


def main_claims(networks: NetworkTable, main: WidthSeries, analytic: Sequence[Mapping[str, Any]]) -> Claims:
    """Return the claims about the main networks, each at the largest width that has the measurement."""
    seeds, widths = networks.axes(main)
    infinite = by_width(analytic, main.limit, "kernel_acc_infinite")
    beside_all = np.array([infinite.get(width, np.nan) for width in widths])

    def side(metric: str) -> np.ndarray:
        if metric == "kernel_acc_infinite":  # one kernel for all seeds
            return np.broadcast_to(beside_all, (len(seeds), len(widths)))
        return networks.metric(main, metric)

    def largest(own: np.ndarray, beside: np.ndarray) -> int | None:
        pairs = (~np.isnan(own - beside)).sum(0)
        return max((i for i in range(len(widths)) if pairs[i] >= 2), default=None)

    def where(first: int, last: int) -> dict[str, Any]:
        return {"series": main, "at": "end", "smallest": widths[first], "largest": widths[last]}

    found: Claims = {}
    drift = side("drift")
    moved, still = np.log10(np.where(drift > 0, drift, np.nan)), float(np.log10(SMALL_DRIFT))
    at = largest(moved, np.full(drift.shape, still))
    if at is not None:
        text = "the kernel moves by less than a tenth"
        found |= against_number(text, "log10 drift", LESS, None, moved[:, at], still, **where(at, at))
    for text, metric, other, sign, margin in MAIN_CLAIMS:
        own, beside = side(metric), side(other)
        at = largest(own, beside)
        if at is not None:
            names = arm_name(metric, widths[at]), arm_name(other, widths[at])
            claim = WidthClaim(text, FAMILY, metric, *names, sign, margin, **where(at, at))
            found[claim] = own[:, at], beside[:, at]
    if len(widths) > 1:
        accuracy = side("test_acc")
        names = arm_name("test_acc", widths[-1]), arm_name("test_acc", widths[0])
        text = "test accuracy rises with width"
        claim = WidthClaim(text, FAMILY, "test_acc", *names, GREATER, ACCURACY_MARGIN, **where(0, -1))
        found[claim] = accuracy[:, -1], accuracy[:, 0]
    return found


def tuned_claims(tuned: Sequence[Mapping[str, Any]]) -> Claims:
    """Return the claims that the tuned network and each tuned kernel regression are equal, at every width."""
    found: Claims = {}
    for width in dict.fromkeys(row["width"] for row in tuned):
        own = [row for row in tuned if row["width"] == width]
        network = np.array([number(row["test_acc"]) for row in own])
        for kind in KINDS:
            kernel = np.array([number(row[f"kernel_acc_{kind}"]) for row in own])
            if np.isfinite(kernel).any():
                claim = WidthClaim(
                    f"network and regression with the {kind} kernel are equally accurate at width {width}, both tuned",
                    "H3, tuned",
                    f"test_acc - kernel_acc_{kind}",
                    arm_name("test_acc", width, tuned=True),
                    arm_name(f"kernel_acc_{kind}", width, tuned=True),
                    EQUAL,
                    ACCURACY_MARGIN,
                    series=series_of(own[0]),
                    at=TUNED,
                    smallest=int(width),
                    largest=int(width),
                )
                found[claim] = network, kernel
    return found


def test_claims(claims: Claims) -> dict[WidthClaim, dict[str, Any]]:
    """Test each claim by seeds, and decide it: rows of tests.csv, without the columns that name the claim.

    Within each family differences are adjusted together, and so are equivalences.
    """
    rows: Rows = []
    for claim, sides in claims.items():
        pair = claim.first, claim.second
        rows += tables.paired_tests(
            claim.family, claim.metric, dict(zip(pair, sides, strict=True)), [pair], claim.margin
        )
    for claim, row in zip(claims, tables.adjust_equivalence(tables.adjust(rows)), strict=True):
        if row["equivalence_p"] is not None:
            row["equivalent"] = bool(row["equivalence_adjusted"] <= ALPHA)
        row["decision"] = decide(claim, row).word
    return dict(zip(claims, rows, strict=True))


def decide(claim: WidthClaim, row: Mapping[str, Any]) -> stats.Decision:
    """Return what the test of a claim decides; where equality is claimed, any difference that is shown denies it."""
    if claim.sign != EQUAL or row["undecided"]:
        return relations.decide(claim, row, ALPHA)
    if row["equivalent"]:
        return stats.Decision(stats.SEEN)
    return stats.Decision(stats.NOT_SEEN if row["paired_adjusted"] <= ALPHA else stats.UNDECIDED)


def test_rows(tested: Mapping[WidthClaim, Mapping[str, Any]]) -> Rows:
    """Make tests.csv: all tests of the study and what they say."""
    return [
        {
            "question": claim.claim,
            "kind": KINDS_OF_CLAIM[claim.sign],
            **claim.series._asdict(),
            "at": claim.at,
            "smallest": claim.smallest,
            "largest": claim.largest,
            "line": claim.line,
            **row,
        }
        for claim, row in tested.items()
    ]
