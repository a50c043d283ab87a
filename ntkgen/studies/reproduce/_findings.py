"""What the studies found, one finding a question, read from their tables of tests and their verdicts.

The claims (`_claims`) are made of these.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ntkgen import paper, stats
from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED, Decision
from ntkgen.studies import mechanisms
from ntkgen.studies.reproduce import _questions as asked
from ntkgen.studies.reproduce._questions import EXPONENT, POINTS, Finding, Question
from ntkgen.studies.reproduce._read import FinishedRun
from ntkgen.studies.tables import number

ALPHA = 0.05


def findings_of(run: FinishedRun) -> list[Finding]:
    """Return what a finished run answers."""
    return READERS[run.study](run)


def cell(row: Mapping[str, Any], name: str) -> float | None:
    """Return a number of a table or a verdict; None for an empty cell, NaN or a missing column."""
    value = number(row.get(name))
    return value if math.isfinite(value) else None


def _finding(question: Question, run: FinishedRun, decision: Decision, **more: Any) -> Finding:
    return Finding(question, decision.word, decision.why, run=run.name, **more)


def _paired(
    question: Question,
    run: FinishedRun,
    row: Mapping[str, Any],
    sign: int,
    unit: str,
    scale: Callable[[float], float] = float,
    test: str = "paired t, adjusted",
) -> Finding:
    """Return the finding of a row of tests.csv: the claim is that the difference has a sign (first - second).

    The effect is shown with the claimed sign positive, where `scale` does not make a ratio of it.
    """
    ends = [cell(row, name) for name in ("difference", "low", "high")]
    pvalue = cell(row, "paired_adjusted")
    if ends[0] is None or pvalue is None:
        return _finding(question, run, Decision(UNDECIDED, row.get("undecided") or "not tested"), unit=unit, test=test)
    decision = stats.decide(
        ends[0], pvalue, sign=sign, alpha=ALPHA, equivalence_p=cell(row, "equivalence_adjusted"),
        margin=cell(row, "margin"), detectable=cell(row, "detectable"),
    )  # fmt: skip
    effect, low, high = (None if value is None else scale(sign * value) for value in ends)
    if sign < 0:
        low, high = high, low
    return _finding(question, run, decision, effect=effect, unit=unit, low=low, high=high, test=test, p=pvalue)


def _equal_loss(question: Question, run: FinishedRun, row: Mapping[str, Any], sign: int, base: float) -> Finding:
    """Return the finding of a row of equal_loss.csv; the interval holds the ratios at all losses."""
    ends = sorted(base ** (sign * v) for v in (cell(row, "lowest"), cell(row, "highest")) if v is not None)
    shown: dict[str, Any] = {"unit": "ratio of eigenvalues, range over the losses", "test": "all losses, adjusted"}
    if ends:
        shown |= {"low": ends[0], "high": ends[-1]}
    pvalue, side = cell(row, "adjusted"), cell(row, "sign")
    if pvalue is None or side is None:
        return _finding(question, run, Decision(UNDECIDED, row.get("undecided") or "not tested"), **shown)
    decision = stats.decide(
        side,
        pvalue,
        sign=sign,
        alpha=ALPHA,
        equivalence_p=cell(row, "equivalence_adjusted"),
        margin=cell(row, "margin"),
    )
    return _finding(question, run, decision, p=pvalue, **shown)


def _implicit_regularization(run: FinishedRun) -> list[Finding]:
    batch = {row["arm"]: int(row["batch"]) for row in run.table("summary")}
    tests, curves = run.table("tests"), run.table("equal_loss")

    def widest(rows: Sequence[Mapping[str, str]], family: str, metric: str) -> Mapping[str, str] | None:
        own = [row for row in rows if (row["family"], row["metric"]) == (family, metric)]
        return max(own, key=lambda row: batch[row["second"]] / batch[row["first"]], default=None)

    found = []
    for question, sweep in ((asked.ACCURATE, "epochs"), (asked.ACCURATE_UPDATES, "updates")):
        if row := widest(tests, f"accuracy, equal {sweep}", "test_acc"):
            found.append(_paired(question, run, row, +1, f"{POINTS}, {row['first']} - {row['second']}"))
    if row := widest(tests, "sharpness, raw, equal epochs", "log10_eigenvalue"):
        unit = f"ratio of eigenvalues, {row['second']} / {row['first']}"
        one = _paired(asked.SHARPER_BATCH, run, row, -1, unit, lambda value: 10.0**value)
        if row["comparable"] != "1":
            why = "not all networks reached interpolation, so their minima are not compared"
            one = Finding(one.question, UNDECIDED, why, one.effect, unit, one.low, one.high, one.test, one.p, one.run)
        found.append(one)
    if row := widest(curves, "loss, equal epochs", "eigenvalue"):
        found.append(_equal_loss(asked.SHARPER_BATCH_EQUAL, run, row, -1, 10.0))
    return found


def _loss_landscape(run: FinishedRun) -> list[Finding]:
    tests = {row["question"]: row for row in run.table("tests")}
    curves = {row["question"]: row for row in run.table("equal_loss")}
    return [
        _paired(asked.SHARPER, run, tests["raw"], +1, "ratio of eigenvalues, large / small batch", math.exp),
        _paired(asked.WORSE, run, tests["accuracy"], -1, f"{POINTS}, small - large batch"),
        _equal_loss(asked.SHARPER_EQUAL, run, curves["matched"], +1, math.e),
    ]


def _ntk_regime(run: FinishedRun) -> list[Finding]:
    main = run.config["loss"], "fixed"
    rows = [row for row in run.table("tests") if (row["loss"], row["limit"]) == main]

    def given(
        question: Question, row: Mapping[str, str], unit: str, scale: Callable[[float], float] = float
    ) -> Finding:
        ends = (cell(row, name) for name in ("difference", "low", "high"))
        effect, low, high = (None if value is None else scale(value) for value in ends)
        equal = row["kind"] == "equal"
        shown: dict[str, Any] = {"effect": effect, "unit": unit, "low": low, "high": high}
        shown["test"] = "equivalence, adjusted" if equal else "paired t, adjusted"
        shown["p"] = cell(row, "equivalence_adjusted" if equal else "paired_adjusted")
        where = f"width {row['largest']}" if question is not asked.LAZY else f"widths to {row['largest']}, {row['at']}"
        return _finding(question, run, Decision(row["decision"], row["undecided"] or where), **shown)

    found = []
    for question, metric, kind, unit, scale in (
        (asked.LINEARISED, "linear_test_acc", "equal", f"{POINTS}, linearised - network", float),
        (asked.STILL, "log10 drift", "less", "relative drift of the kernel", lambda value: 0.1 * 10.0**value),
        (asked.KERNEL, "kernel_acc_initial", "equal", f"{POINTS}, kernel - network", float),
    ):
        own = [row for row in rows if (row["metric"], row["kind"], row["family"]) == (metric, kind, "H3")]
        if own:
            found.append(given(question, max(own, key=lambda row: int(row["largest"])), unit, scale))
    lines = [row for row in rows if (row["metric"], row["line"]) == ("absolute_movement", "lazy")]
    if lines:
        widest = max(lines, key=lambda row: (row["at"] != "end", int(row["largest"]) / int(row["smallest"])))
        found.append(given(asked.LAZY, widest, f"{EXPONENT}, less that of the lazy limit"))
    tuned = [row for row in rows if row["metric"] == "test_acc - kernel_acc_initial"]
    if tuned:
        row = max(tuned, key=lambda row: int(row["largest"]))
        found.append(given(asked.KERNEL_TUNED, row, f"{POINTS}, network - kernel"))
    return found


def _double_descent(run: FinishedRun) -> list[Finding]:
    verdict = max(run.verdict, key=lambda one: one["num_train"])
    peak, beyond = verdict.get("peak"), verdict.get("beyond")
    fall: dict[str, Any] = {"unit": "points of test error", "test": "paired t, adjusted"}
    if beyond is None:
        words = "no larger size shows what follows" if peak else verdict["verdict"].removeprefix("undecided: ")
        found = [_finding(asked.FALL, run, Decision(UNDECIDED, words), **fall)]
    else:
        decision = stats.decide(beyond["fall"], beyond["adjusted"], sign=+1, alpha=ALPHA)
        ends = {"effect": beyond["fall"], "low": cell(beyond, "low"), "high": cell(beyond, "high")}
        found = [_finding(asked.FALL, run, decision, p=beyond["adjusted"], **ends, **fall)]
    rise: dict[str, Any] = {
        "unit": "points of test error above the best smaller network",
        "test": "peak test, adjusted",
    }
    if peak is None:
        words = verdict["verdict"].removeprefix("undecided: ")
        return [*found, _finding(asked.PEAK, run, Decision(UNDECIDED, words), **rise)]
    above = peak["adjusted"] <= ALPHA
    decision = Decision(SEEN if above else UNDECIDED, f"at size {peak['size']}")
    found.append(_finding(asked.PEAK, run, decision, effect=peak["rise"], p=peak["adjusted"], **rise))
    near = Decision(SEEN if peak["highest_is_near"] else NOT_SEEN, f"highest at size {peak['highest_size']}")
    return [*found, _finding(asked.HIGHEST, run, near, test="means, no test")]


def _lottery_ticket(run: FinishedRun) -> list[Finding]:
    found = []
    known = {asked.TENTH: (-paper.TICKET_LOSS, -1.0), asked.REDRAWN: (paper.REINIT_LOSS, 1.0)}
    for question, (published, sign) in known.items():
        row = next((row for row in run.verdict["relations"] if row["published"] == published), None)
        if row is None:
            continue
        word, _, why = row["verdict"].partition(": ")
        ends = [None if (value := cell(row, name)) is None else sign * value for name in ("difference", "low", "high")]
        if sign < 0:
            ends = [ends[0], ends[2], ends[1]]
        unit = f"{POINTS}, {'lost' if sign < 0 else 'original - drawn anew'}"
        shown = dict(zip(("effect", "low", "high"), ends, strict=True)) | {"unit": unit}
        seen_by = cell(row, "adjusted_against" if word == NOT_SEEN else "adjusted_for")
        found.append(_finding(question, run, Decision(word, why), test="one-sided t, adjusted", p=seen_by, **shown))
    for question, change, first, second in (
        (asked.VALUES, "values", "ticket 10%", "shuffled 10%"),
        (asked.MASK, "mask", "shuffled 10%", "random_layer_shuffled 10%"),
    ):
        for row in run.verdict["one_change"]:
            if (row["changes"], row["first"], row["second"]) == (change, first, second):
                found.append(_paired(question, run, row, +1, f"{POINTS}, {first} - {second}"))
    return found


def _mechanisms(run: FinishedRun) -> list[Finding]:
    rows = {(row["measure"], row["kind"]): row for row in run.table("associations")}
    found = []
    for question, measure in ((asked.EIGENVALUE, "eigenvalue"), (asked.ADAPTIVE, "average_adaptive")):
        if row := rows.get((measure, mechanisms.PSI)):
            found.append(_association(question, run, row))
    answer = run.table("answer")
    both = [
        row
        for row in answer
        if all(row[f"{kind}: decision"].startswith(SEEN) for kind in (mechanisms.PSI, mechanisms.PARTIAL))
    ]
    best = max(both, key=lambda row: abs(number(row[mechanisms.PSI])), default=None)
    some = f"{len(both)} of {len(answer)} measures"
    if best is not None:
        one = _association(asked.BEYOND_SETTINGS, run, rows[best["measure"], mechanisms.PSI])
        why = f"{some}; strongest: {best['measure']}"
        found.append(
            Finding(
                asked.BEYOND_SETTINGS, SEEN, why, one.effect, one.unit, one.low, one.high, one.test, one.p, run.name
            )
        )
    else:
        found.append(Finding(asked.BEYOND_SETTINGS, UNDECIDED, some, run=run.name))
    null = [
        row
        for row in run.table("calibration")
        if number(row["planted"]) == 0 and row["kind"] in (mechanisms.PSI, mechanisms.PARTIAL)
    ]
    if null:
        worst = max(null, key=lambda row: number(row["rate"]))
        word = SEEN if all(row["holds"] == "1" for row in null) else NOT_SEEN
        ends = {"effect": cell(worst, "rate"), "low": cell(worst, "low"), "high": cell(worst, "high")}
        why = f"{worst['permutations']} permutations"
        found.append(
            _finding(asked.NULL, run, Decision(word, why), unit="false positives at 5 %", test="permutations", **ends)
        )
    return found


def _association(question: Question, run: FinishedRun, row: Mapping[str, str]) -> Finding:
    shown: dict[str, Any] = {"unit": "mean Kendall tau with the gap", "test": "permutations, adjusted"}
    shown |= {"effect": cell(row, "value"), "low": cell(row, "low"), "high": cell(row, "high")}
    value, pvalue = cell(row, "value"), cell(row, "adjusted")
    if value is None or pvalue is None:
        return _finding(question, run, Decision(UNDECIDED, row["undecided"] or "not tested"), **shown)
    return _finding(question, run, stats.decide(value, pvalue, sign=+1, alpha=ALPHA), p=pvalue, **shown)


READERS: dict[str, Callable[[FinishedRun], list[Finding]]] = {
    asked.DD: _double_descent,
    asked.IR: _implicit_regularization,
    asked.LL: _loss_landscape,
    asked.NTK: _ntk_regime,
    asked.LT: _lottery_ticket,
    asked.ALL: _mechanisms,
}


def finding_rows(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return findings as rows of a table."""
    return [
        {"study": one.question.study, "claim": one.question.claim}
        | {field.name: getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "question"}
        for one in found
    ]


def finding_from_row(row: Mapping[str, str]) -> Finding:
    """Read a row of `finding_rows`, cells as text."""
    values: dict[str, Any] = {name: row[name] for name in ("decision", "why", "unit", "test", "run")}
    values |= {name: cell(row, name) for name in ("effect", "low", "high", "p")}
    return Finding(Question(row["study"], row["claim"]), **values)
