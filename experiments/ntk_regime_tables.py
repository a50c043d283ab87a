"""The tables of the tangent-kernel study: exponents of the width, tests against the lines of theory, verdict.

A little over 350 lines: what is fitted, tested and said must agree in names and widths, and is read together.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ntk_regime_measure import Arm, named

from ntkgen import measure, paper, stats
from ntkgen.studies import tables
from ntkgen.studies.tables import number

ALPHA = 0.05
# Fixed before the runs: what counts as no difference.
EXPONENT_MARGIN = 0.1  # a fifth of the distance between the two lines
LEVEL_MARGIN = 0.05  # of log10 of a movement: twelve percent
ACCURACY_MARGIN = stats.ACCURACY
GIVEN = "at the given rate and ridge"  # which nobody tuned for accuracy
SMALL_DRIFT = 0.1  # relative kernel drift below which a network counts as training as a kernel
ALIGNMENT_MARGIN = 0.02
ASKED = {"relative_movement": 4.0, "test_acc": 1.2}  # agreement with the paper: percent, and points

SCALED = ("relative_movement", "absolute_movement", "norm_initial", "drift", "misalignment")
LAYERED = ("movement", "norm")  # of each layer: columns movement_dense0 ...
MEASURED = ("measured", "reference")  # names of what is compared with a number
ALONG = tuple(name for name in SCALED if name != "norm_initial")  # what training changes, and so has a matched loss
ENDS = ("train_acc", "test_acc", "train_loss", "test_loss", *SCALED)
BESIDE = ("label_alignment_initial", "label_alignment", "kernel_acc_network", "kernel_acc_initial", "kernel_acc_final")
SUMMARISED = (*ENDS, *BESIDE, "linear_train_acc", "linear_test_acc", "matched_epoch", *(f"matched_{m}" for m in ALONG))
ARM = ("loss", "limit")

# Squared loss is compared after all epochs, cross-entropy, which never ends, where the training loss is the same.
LAZY_HERE = {"mse": "lazy at these widths and this time", "cross_entropy": "lazy at these widths and this loss"}
# In the standard parametrisation, for ever wider networks: movement that is constant, over a norm like sqrt(width);
# and the lazy limit. At finite widths and times a lazy network's exponents differ: `_lazy`.
LINES = {"relative_movement": {"constant movement": -0.5, "lazy": -1.0},
         "absolute_movement": {"constant movement": 0.0, "lazy": -0.5}}  # fmt: skip


def matched(rows: Sequence[dict[str, Any]], target: float) -> dict[str, float | None]:
    """Interpolate one network's movement and drift to the first time its training loss is at the target.

    Between the snapshots around it, in the logarithms of loss and value; kernels have fewer snapshots than movement.

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


def compare_with_paper(summary: Sequence[dict[str, Any]], known: dict[int, Any]) -> list[dict[str, Any]]:
    """Make comparison.csv: published movement and accuracy beside ours, and whether they agree as closely as asked."""
    ours = {
        row["width"]: {name: tuple(row[f"{name}_{end}"] for end in ("mean", "t_low", "t_high")) for name in ASKED}
        for row in summary
    }
    rows = []
    for row in paper.compare({width: known.get(width, {}) for width in ours}, ours):
        relative = row["metric"] == "relative_movement"
        off = row["difference"]
        if relative and off is not None:
            off = 100 * off / row["published"]
        asked = ASKED[row["metric"]]
        row |= {"deviation": off, "unit": "percent" if relative else "points", "asked": asked}
        rows.append(row | {"within": None if off is None else bool(abs(off) <= asked)})
    return rows


class Runs:
    """runs.csv as arrays, by arm and metric: (seed, width), NaN where something is missing."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        """Sort the rows."""
        self.arms = list(dict.fromkeys(Arm(row["loss"], row["limit"]) for row in rows))
        self.rows = rows
        self.cells = {(Arm(row["loss"], row["limit"]), int(row["width"]), int(row["seed"])): row for row in rows}

    def axis(self, arm: Arm) -> tuple[list[int], list[int]]:
        """Give an arm's seeds and widths."""
        keys = [key for key in self.cells if key[0] == arm]
        return sorted({key[2] for key in keys}), sorted({key[1] for key in keys})

    def values(self, arm: Arm, metric: str, widths: Sequence[int] | None = None) -> np.ndarray:
        """Give a metric as (seed, width)."""
        seeds, own = self.axis(arm)
        widths = own if widths is None else widths
        blank = {metric: None}
        return np.array([[number(self.cells.get((arm, w, s), blank)[metric]) for w in widths] for s in seeds], float)


def fit_exponents(
    runs: Runs, analytic: Sequence[dict[str, Any]], spans: dict[Arm, Iterable[int]], known: dict[int, Any]
) -> list[dict[str, Any]]:
    """Fit powers of the width, a fit for each seed.

    Args:
      runs: the measured networks.
      analytic: rows of analytic.csv, of which the lazy predictions' exponents are made (`at` lazy, by `_lazy`).
      spans: narrower ranges of widths to fit an arm over once more; of three widths or more.
      known: published relative movement by width; may be empty.

    Returns:
      Rows with `per_seed`, the exponents (seeds,); exponent None where fewer than three widths or no seed is left.
    """
    rows: list[dict[str, Any]] = []
    seen: set[tuple] = set()
    for arm in runs.arms:
        _, widths = runs.axis(arm)
        narrow = tuple(spans.get(arm, ()))
        for span in dict.fromkeys([tuple(widths), narrow if len(narrow) > 2 else tuple(widths)]):
            for prefix, at in (("", "end"), ("matched_", "matched loss")):
                for metric in SCALED if not prefix else ALONG:
                    fit = power(span, runs.values(arm, prefix + metric, span))
                    key = (arm, at, metric, fit["smallest"], fit["largest"])
                    if key in seen:  # the wider span lost the widths that the narrower one leaves out
                        continue
                    seen.add(key)
                    rows.append({**arm._asdict(), "at": at, "metric": metric} | fit)
                    if fit["exponent"] is not None and at == ("end" if arm.loss == "mse" else "matched loss"):
                        rows += _lazy(runs, arm, metric, fit, analytic)
    if len(known) >= 3:
        published = np.array([[each["relative_movement"] for each in known.values()]])
        rows.append({"loss": "cross_entropy", "limit": "fixed", "at": "published", "metric": "relative_movement"}
                    | power(tuple(known), published))  # fmt: skip
    return rows


def _lazy(
    runs: Runs, arm: Arm, metric: str, fit: dict[str, Any], analytic: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Fit what the movement of lazy networks would be at a fit's own widths and time or loss; nothing for others.

    Gradient flow with the analytic kernel, on the squared loss for the time trained, on the cross-entropy down to the
    matched loss. Relative movement is divided by the networks' initial norms.
    """
    if metric not in LINES or arm.limit == "mup":
        return []
    column = "lazy_movement" if arm.loss == "mse" else "lazy_matched_cross_entropy"
    own = {int(row["width"]): number(row[column]) for row in analytic if row["limit"] == arm.limit}
    widths = fit["used"]
    lazy = np.array([[own.get(width, np.nan) for width in widths]])
    if not (lazy > 0).all():  # zero: a loss that a lazy network begins with
        return []
    if metric == "relative_movement":
        lazy = lazy / np.nanmean(runs.values(arm, "norm_initial", widths), 0)
    return [{**arm._asdict(), "at": "lazy", "metric": metric} | power(widths, lazy)]


def power(widths: Sequence[int], values: np.ndarray) -> dict[str, Any]:
    """Fit values (seed, width) like a power of the width, over the widths that no seed lost; the others are counted.

    A seed that has nothing at all (it diverged everywhere) takes part in neither.
    """
    values = np.where(values > 0, values, np.nan)
    kept = ~np.isnan(values[~np.isnan(values).all(1)]).any(0)
    used = np.array(widths)[kept]
    row: dict[str, Any] = {"smallest": None, "largest": None, "num_widths": int(kept.sum())}
    row |= {"num_widths_lost": int((~kept).sum()), "num_seeds": 0, "num_seeds_lost": len(values)}
    row |= dict.fromkeys(("exponent", "low", "high", "prefactor", "r2", "method"))
    if len(used) < 3 or np.isnan(values).all():
        return row | {"per_seed": np.array([])}
    fit = stats.power_law_fit(used, values[:, kept])
    row |= {
        "used": used.tolist(),
        "smallest": int(used[0]),
        "largest": int(used[-1]),
        "num_seeds": fit.n,
        "num_seeds_lost": fit.num_nan,
    }
    return row | fit._asdict() | {"per_seed": fit.per_seed}


def exponent_table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make exponents.csv of `fit_exponents`."""
    kept = [{key: value for key, value in row.items() if key not in ("n", "num_nan", "used")} for row in rows]
    return [row | {"per_seed": " ".join(repr(float(each)) for each in row["per_seed"])} for row in kept]


def make_test(
    question: str, kind: str, values: Any, other: Any, margin: float | None, metric: str, family: str = "H3",
    names: tuple[str, str] = MEASURED, **where: Any,
) -> dict[str, Any]:  # fmt: skip
    (row,) = tables.compare(family, metric, dict(zip(names, (values, other), strict=True)), [names], margin)
    return {"question": question, "kind": kind, **where} | row


def _exponent_tests(fits: Sequence[dict[str, Any]], main: Arm) -> list[dict[str, Any]]:
    """Test every arm's exponents against the lines: cross-entropy at matched loss, squared loss at the end."""
    spans = ("loss", "limit", "metric", "smallest", "largest")
    lazy = {tuple(row[name] for name in spans): row["exponent"] for row in fits if row["at"] == "lazy"}
    found = []
    for fit in fits:
        arm, metric = Arm(fit["loss"], fit["limit"]), fit["metric"]
        own = arm == main and fit["at"] == "end"
        if fit["at"] not in ("end", "matched loss") or metric == "norm_initial":
            continue
        if not own and fit["at"] != ("end" if arm.loss == "mse" else "matched loss"):
            continue
        standard = arm.limit in ("fixed", "over_width")
        lines = dict(LINES.get(metric, {})) if standard else {}
        if arm.limit == "mup" and metric == "absolute_movement":
            lines = {"constant movement": 0.0}  # features move by as much as ever, in a few directions
        null = lazy.get(tuple(fit[name] for name in spans))
        if null is not None and not (own and arm.loss == "cross_entropy"):  # whose end is at no matched loss
            lines[LAZY_HERE[arm.loss]] = null
        where = {**arm._asdict(), "at": fit["at"], "smallest": fit["smallest"], "largest": fit["largest"]}
        words = metric.replace("_", " ")
        for line, value in lines.items():
            question = f"{words} goes like width^{value:.2f} ({line})"
            per_seed = fit["per_seed"] if len(fit["per_seed"]) else np.array([np.nan])
            reference = np.full(len(per_seed), value)
            found.append(make_test(question, "equal", per_seed, reference, EXPONENT_MARGIN, metric, **where, line=line))
        if metric != "absolute_movement":
            per_seed = fit["per_seed"] if len(fit["per_seed"]) else np.array([np.nan])
            zero = np.zeros(len(per_seed))
            question = f"{words} falls with width (fitted exponent below zero)"
            found.append(make_test(question, "less", per_seed, zero, EXPONENT_MARGIN, metric, **where, line=""))
    return found


def _level_tests(runs: Runs, analytic: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test how far networks moved against a lazy network's movement, at the largest width that has both.

    For the same time (squared loss), and to the same training loss: a network that moves as far as a lazy one in the
    same time, but to a lower loss, is none.
    """
    found = []
    for arm in runs.arms:
        kinds = [("matched loss", "matched_absolute_movement", f"lazy_matched_{arm.loss}", "width and loss")]
        if arm.loss == "mse":
            kinds.insert(0, ("end", "absolute_movement", "lazy_movement", "width and time"))
        for at, metric, column, what in kinds:
            lazy = {int(row["width"]): number(row[column]) for row in analytic if row["limit"] == arm.limit}
            own = {width: runs.values(arm, metric, [width])[:, 0] for width in runs.axis(arm)[1]}
            both = [width for width in own if lazy.get(width, 0) > 0 and np.isfinite(own[width]).sum() > 1]
            if not both:
                continue
            largest = max(both)
            where = {**arm._asdict(), "at": at, "smallest": largest, "largest": largest, "line": ""}
            question = f"absolute movement is that of a lazy network of this {what}"
            values, other = np.log10(own[largest]), np.full(len(own[largest]), np.log10(lazy[largest]))
            found.append(make_test(question, "equal", values, other, LEVEL_MARGIN, f"log10 {metric}", **where))
    return found


def _width_tests(runs: Runs, main: Arm, analytic: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Test the networks of the main arm, each at the largest width that has the measurement."""
    _, widths = runs.axis(main)
    everywhere = {"loss": main.loss, "limit": main.limit, "at": "end", "line": ""}
    found = []
    infinite = {int(row["width"]): number(row["kernel_acc_infinite"]) for row in analytic if row["limit"] == main.limit}

    def add(question: str, kind: str, metric: str, other: str | float, margin: float | None, log: bool = False) -> None:
        own = runs.values(main, metric)
        if other == "kernel_acc_infinite":
            beside = np.broadcast_to([infinite.get(width, np.nan) for width in widths], own.shape)
        else:
            beside = runs.values(main, other) if isinstance(other, str) else np.full(own.shape, other)
        own, beside = (np.log10(np.where(x > 0, x, np.nan)) if log else x for x in (own, beside))
        pairs = (~np.isnan(own - beside)).sum(0)
        at = max((i for i in range(len(widths)) if pairs[i] >= 2), default=None)
        if at is None:
            return
        where = everywhere | {"smallest": widths[at], "largest": widths[at]}
        name = f"log10 {metric}" if log else metric
        names = (named(metric, widths[at]), named(other, widths[at])) if isinstance(other, str) else MEASURED
        found.append(make_test(question, kind, own[:, at], beside[:, at], margin, name, names=names, **where))

    add("the kernel moves by less than a tenth", "less", "drift", SMALL_DRIFT, None, log=True)
    add("training aligns the kernel with the labels", "greater", "label_alignment", "label_alignment_initial",
        ALIGNMENT_MARGIN)  # fmt: skip
    add("the linearised network is as accurate as the network", "equal", "linear_test_acc", "test_acc",
        ACCURACY_MARGIN)  # fmt: skip
    for which in ("initial", "final"):
        add(f"regression with the {which} kernel is as accurate as the network, {GIVEN}", "equal",
            f"kernel_acc_{which}", "kernel_acc_network", ACCURACY_MARGIN)  # fmt: skip
    add("the final kernel predicts better than the initial one", "greater", "kernel_acc_final", "kernel_acc_initial",
        ACCURACY_MARGIN)  # fmt: skip
    add(f"regression with the infinite-width kernel is as accurate as the network, {GIVEN}", "equal",
        "kernel_acc_network", "kernel_acc_infinite", ACCURACY_MARGIN)  # fmt: skip
    if len(widths) > 1:
        accuracy = runs.values(main, "test_acc")
        where = everywhere | {"smallest": widths[0], "largest": widths[-1]}
        found.append(make_test("test accuracy rises with width", "greater", accuracy[:, -1], accuracy[:, 0],
                           ACCURACY_MARGIN, "test_acc",
                           names=(named("test_acc", widths[-1]), named("test_acc", widths[0])), **where))  # fmt: skip
    return found


def make_tests(
    runs: Runs,
    fits: Sequence[dict[str, Any]],
    main: Arm,
    analytic: Sequence[dict[str, Any]],
    more: Sequence[dict[str, Any]] = (),
) -> list[dict[str, Any]]:
    """Make tests.csv: all tests of the study and what they say.

    Within each family differences are adjusted together, and so are equivalences. `more` are tests of other families.
    """
    tests = [*_exponent_tests(fits, main), *_level_tests(runs, analytic), *_width_tests(runs, main, analytic)]
    rows = tables.adjust_equivalence(tables.adjust([*tests, *more]))
    for row in rows:
        if row["equivalence_p"] is not None:
            row["equivalent"] = bool(row["equivalence_adjusted"] <= ALPHA)
    return [row | {"decision": decide(row)} for row in rows]


def decide(row: dict[str, Any]) -> str:
    """Say seen, not seen or undecided, from the adjusted p-values.

    "equal" is seen when the difference is shown to be within the margin; "less" and "greater" when a difference is
    shown and larger than nothing, and not seen when it is shown to be within the margin or on the other side.
    """
    if row["paired_p"] is None:
        return "undecided"
    differs, same = row["paired_adjusted"] <= ALPHA, bool(row["equivalent"])
    if row["kind"] == "equal":
        return "seen" if same else "not seen" if differs else "undecided"
    if differs:
        return "seen" if (row["difference"] < 0) == (row["kind"] == "less") else "not seen"
    return "not seen" if same else "undecided"


def judge(tests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Make verdict.json: every statement with its decision, and for each arm the line that its movement follows."""
    names = ("question", *ARM, "at", "smallest", "largest", "decision", "difference", "low", "high", "margin")
    statements = []
    for row in tests:
        said = {name: row[name] for name in names}
        said |= {"adjusted": row["paired_adjusted"], "equivalence_adjusted": row["equivalence_adjusted"]}
        said["detectable"] = row["detectable"] if row["decision"] == "undecided" else None
        if row["undecided"]:
            said["reason"] = row["undecided"]
        statements.append({key: _plain(value) for key, value in said.items()})
    lined = [row for row in tests if row["line"] and row["kind"] == "equal"]
    keys = list(dict.fromkeys((row["loss"], row["limit"], row["at"], row["largest"], row["metric"]) for row in lined))
    for key in keys:
        own = [r for r in lined if (r["loss"], r["limit"], r["at"], r["largest"], r["metric"]) == key]
        seen = [row["line"] for row in own if row["decision"] == "seen"]
        if len(seen) > 1:
            follows = f"cannot be told apart: {', '.join(seen)}"
        elif seen:
            follows = seen[0]
        else:
            follows = "neither" if all(row["decision"] == "not seen" for row in own) else "undecided"
        named = dict(zip(("loss", "limit", "at", "largest", "metric"), key, strict=True))
        statements.append({"question": "which line does it follow?", **named, "decision": follows})
    return statements


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and NaN into what JSON has."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
