"""What the tests of the implicit-regularization study decide about H1 and H2, claim by claim."""

from collections.abc import Mapping, Sequence
from typing import Any

from ntkgen import stats
from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED, Decision
from ntkgen.studies import relations
from ntkgen.studies.base import Rows
from ntkgen.studies.implicit_regularization import _claims, _controls
from ntkgen.studies.implicit_regularization._claims import FORM_WORDS, Ordering, SharpnessClaim
from ntkgen.studies.implicit_regularization._config import FORMS, PRIMARY, PROTOCOL, SHARPNESS
from ntkgen.studies.implicit_regularization._tables import ArmTables
from ntkgen.studies.relations import NO_CONTROL, Relation

Row = Mapping[str, Any]
ALPHA = PROTOCOL.alpha


def judge(
    found: ArmTables,
    tests: Mapping[Relation, Row],
    curves: Mapping[SharpnessClaim, Row],
    trends: Mapping[Ordering, Row],
    associations: Mapping[Ordering, Row],
) -> dict[str, Any]:
    """Make verdict.json: for every claim of H1 and H2 "seen", "not seen" or "undecided (why)", with its numbers.

    Args:
      found: the tables.
      tests: of `_claims.difference_tests`.
      curves: of `_claims.equal_loss_tests`, a row for each claim.
      trends: of `_claims.over_targets`.
      associations: likewise.
    """

    def decide_form(pair: tuple[str, str], form: str) -> dict[str, Any]:
        if form == "raw":
            claim = _claims.control_claim(*pair)
            return decide_difference(claim, tests[claim])
        flatter = _claims.control_sharpness_claim(form, *pair)
        return decide_at_equal_loss(flatter, curves[flatter])

    one: Rows = []
    controls: Rows = []
    swept: _controls.Swept = {}
    for sweep, arms in found.sweeps.items():
        ends = arms[0], arms[-1]
        accuracy, claim = Ordering(sweep, "test_acc", "raw"), _claims.accuracy_claim(found, sweep, *ends)
        swept["ends", accuracy] = decide_difference(claim, tests[claim])
        swept["trend", accuracy] = decide_trend(trends[accuracy])
        for form, metric in ((form, metric) for form in FORMS for metric in PRIMARY if metric in found.metrics(form)):
            ordering = Ordering(sweep, metric, form)
            sharper = _claims.sharpness_claim(found, sweep, metric, form, *ends)
            if form == "raw":
                apart = [name for name in ends if not found.comparable(name)]
                swept["ends", ordering] = decide_difference(sharper, tests[sharper], apart)
            else:
                swept["ends", ordering] = decide_at_equal_loss(sharper, curves[sharper])
            swept["trend", ordering] = decide_trend(trends[ordering])
            swept["association", ordering] = decide_association(associations[ordering])
    within = f", within {PROTOCOL.margin_points:g} points"
    for other in dict.fromkeys((*found.sweep[:1], f"sgd{found.config.reference}")):
        claim = _claims.adam_claim(other)
        equal = decide_equality(f"Adam generalizes like {other}{within}", claim, tests[claim])
        one.append(equal | {"control": f"{NO_CONTROL}: Adam's rate is not tuned"})
    referring = {(*pair, form): decide_form(pair, form) for pair in found.referring() for form in FORMS}
    for (name, other, form), entry in referring.items():
        said = {"control": _controls.of_arm(name, other, form, referring)}
        if form == "raw":
            claim = _claims.control_claim(name, other)
            equal = decide_equality(f"{name} generalizes like {other}{within}", claim, tests[claim])
            one += [entry | said, equal | said]
        else:
            controls.append(entry | said)
    for (kind, ordering), entry in swept.items():
        entry["control"] = _controls.of_sweep(kind, ordering, swept, referring)
    of_accuracy = [entry for (_, ordering), entry in swept.items() if ordering.metric == "test_acc"]
    of_sharpness = [entry for (_, ordering), entry in swept.items() if ordering.metric != "test_acc"]
    return {
        "alpha": ALPHA,
        "margin_points": PROTOCOL.margin_points,
        "margin_log10": PROTOCOL.margin_log10,
        "not_comparable": [name for name in found.arms if not found.comparable(name)],
        "H1": of_accuracy + one,
        "H2": of_sharpness + controls,
    }


def decide_at_equal_loss(claim: SharpnessClaim, row: Row) -> dict[str, Any]:
    """Return what is decided at equal loss from all losses that both arms reach, two at least.

    "seen": the difference first - second has the stated sign at each of them, significantly; "not seen": it has the
    other sign at each, significantly, or it is within the margin at each. p-values are adjusted over the claims.
    """
    names = ("num_targets", "lowest", "highest", "num_pairs", "margin", "sign")
    entry: dict[str, Any] = {"relation": claim.claim} | {name: row[name] for name in names}
    entry |= {
        "unit": "log10, the highest over the losses",
        "p": row["adjusted"],
        "equivalence_p": row["equivalence_adjusted"],
    }
    ratios = ""
    if row["lowest"] is not None:  # of the arm that the claim calls sharper over the other
        low, high = sorted(10.0 ** (claim.sign * row[end]) for end in ("lowest", "highest"))
        ratios = f"; ratios {low:.3g} to {high:.3g}"
    if row["undecided"]:
        decision = Decision(UNDECIDED, f"{row['undecided']}{ratios}")
    elif row["adjusted"] <= ALPHA:
        decision = Decision(SEEN) if row["sign"] == claim.sign else Decision(NOT_SEEN, "the opposite is")
    elif row["equivalence_adjusted"] <= ALPHA:
        decision = Decision(NOT_SEEN, f"equal within {row['margin']:g} at every loss")
    else:
        decision = Decision(UNDECIDED, f"{row['num_targets']} losses{ratios}")
    return entry | {"verdict": str(decision)}


def decide_difference(claim: Relation, row: Row, apart: Sequence[str] = ()) -> dict[str, Any]:
    """Return what is decided about a difference, by the adjusted paired test and that of equivalence.

    `apart` names arms of which some seed did not get to interpolation: nothing is decided with them.
    """
    names = ("difference", "low", "high", "num_pairs", "detectable", "comparable", "crossed_low", "crossed_high")
    entry: dict[str, Any] = {"relation": claim.claim} | {name: row[name] for name in names}
    entry |= {"unit": "points" if claim.metric == "test_acc" else "log10"}
    entry |= {"p": row["paired_adjusted"], "equivalence_p": row["equivalence_adjusted"]}
    decision = relations.decide(claim, row, ALPHA)
    if apart:
        decision = Decision(UNDECIDED, f"not comparable: {', '.join(apart)}")
    low, high = row["crossed_low"], row["crossed_high"]
    if decision.word == SEEN and low is not None and low <= 0 <= high:
        decision = Decision(SEEN, f"on these test images; over images too [{low:.2f}, {high:.2f}]")
    return entry | {"verdict": str(decision)}


def decide_equality(words: str, claim: Relation, row: Row) -> dict[str, Any]:
    """Return whether two arms are equivalent; "not seen" if they differ significantly, and by more than the margin."""
    entry = decide_difference(claim, row) | {"relation": words}
    if row["undecided"]:
        return entry
    decision = stats.decide_equal(
        row["difference"], row["paired_adjusted"], row["equivalence_adjusted"], margin=row["margin"], alpha=ALPHA,
        detectable=row["detectable"],
    )  # fmt: skip
    return entry | {"verdict": str(decision)}


def decide_trend(row: Row) -> dict[str, Any]:
    """Return what is decided about an order by batch size, of a row of `over_targets`."""
    what = "test accuracy falls" if row["metric"] == "test_acc" else f"{SHARPNESS[row['metric']]} rises"
    claim = f"{what} with batch size, Page's exact trend test{FORM_WORDS[row['form']]}, equal {row['sweep']}"
    names = ("statistic", "pvalue", "adjusted", "steps_in_order", "num_arms", "num_seeds", "num_targets")
    if row["adjusted"] is None:
        decision = Decision(UNDECIDED, _too_few(row))
    elif row["adjusted"] > ALPHA:
        decision = Decision(UNDECIDED, f"p = {row['adjusted']:.2g}")
    else:
        strict = row["steps_in_order"] == row["num_arms"] - 1
        decision = Decision(SEEN, "" if strict else f"but only {row['steps_in_order']} of its steps")
    return {"relation": claim, **{name: row[name] for name in names}, "verdict": str(decision)}


def decide_association(row: Row) -> dict[str, Any]:
    """Return what is decided about accuracy and sharpness over arms, of a row of `over_targets`."""
    words = f"flatter generalizes better over these batch sizes, by the {SHARPNESS[row['metric']]}"
    if row["adjusted"] is None:
        needs = "; needs five" if row["num_arms"] < stats.LEAST_ARMS else ""
        decision = Decision(UNDECIDED, f"{_too_few(row)}{needs}")
    elif row["adjusted"] > ALPHA:
        decision = Decision(UNDECIDED, f"tau {row['tau']:.2f}, p = {row['adjusted']:.2g}")
    else:
        decision = Decision(SEEN) if row["tau"] < 0 else Decision(NOT_SEEN, "the opposite is")
    claim = f"{words}{FORM_WORDS[row['form']]}, equal {row['sweep']}"
    return {"relation": claim, **row, "verdict": str(decision)}


def _too_few(row: Row) -> str:
    words = f"{row['num_arms']} arms, {row['num_seeds'] or 0} seeds"
    return words if row["form"] == "raw" else f"{words} at the best of the losses, {row['num_targets']} losses tested"
