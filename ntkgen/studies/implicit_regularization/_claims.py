"""What the implicit-regularization study claims, and its tests: differences, equal loss, trends, associations.

Each claim is an object. The verdict finds a test by its claim.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import stats as scipy_stats

from ntkgen import stats
from ntkgen.studies import relations, tables
from ntkgen.studies.base import Rows
from ntkgen.studies.implicit_regularization._config import FORMS, MATCHED, PRIMARY, PROTOCOL, SHARPNESS
from ntkgen.studies.implicit_regularization._tables import ArmTables
from ntkgen.studies.relations import Relation

FORM_WORDS = {"raw": "", "loss": " at matched training loss", "temperature": " at matched logit temperature"}


@dataclass(frozen=True)
class SharpnessClaim(Relation):
    """A claim about sharpness as trained ("raw"), or at equal loss, decided from all losses that both arms reach.

    Attributes:
      form: one of `FORMS`.
    """

    form: str = "raw"


class Ordering(NamedTuple):
    """A question about all arms of a sweep: does a metric, in a form, go with batch size or with accuracy?"""

    sweep: str
    metric: str
    form: str


def accuracy_claim(found: ArmTables, sweep: str, first: str, second: str) -> Relation:
    """Return the claim that the first arm of a sweep generalizes better than the second."""
    claim = f"batch {found.batch(first)} generalizes better than batch {found.batch(second)}, equal {sweep}"
    return Relation(claim, f"accuracy, equal {sweep}", "test_acc", first, second, +1, PROTOCOL.margin_points)


def sharpness_claim(found: ArmTables, sweep: str, metric: str, form: str, first: str, second: str) -> SharpnessClaim:
    """Return the claim that the second arm of a sweep is sharper than the first."""
    claim = f"batch {found.batch(second)} is sharper than batch {found.batch(first)}"
    family = f"{'sharpness, raw' if form == 'raw' else form}, equal {sweep}"
    return _sharpness(claim, f", equal {sweep}", family, metric, form, first, second)


def control_claim(name: str, other: str) -> Relation:
    """Return the claim that a control generalizes better than an arm that it refers to."""
    claim = f"{name} generalizes better than {other}"
    return Relation(claim, "controls", "test_acc", name, other, +1, PROTOCOL.margin_points)


def control_sharpness_claim(form: str, name: str, other: str) -> SharpnessClaim:
    """Return the claim that a control is flatter than an arm that it refers to."""
    family = "controls" if form == "raw" else f"controls, {form}"
    return _sharpness(f"{name} is flatter than {other}", "", family, "eigenvalue", form, name, other)


def adam_claim(other: str) -> Relation:
    """Return the claim that Adam generalizes better than an arm."""
    claim = f"Adam generalizes better than {other}"
    return Relation(claim, "adam", "test_acc", "adam", other, +1, PROTOCOL.margin_points)


def _sharpness(start: str, end: str, family: str, metric: str, form: str, first: str, second: str) -> SharpnessClaim:
    claim = f"{start} by the {SHARPNESS[metric]}{FORM_WORDS[form]}{end}"
    name = f"log10_{metric}" if form == "raw" else metric
    return SharpnessClaim(claim, family, name, first, second, -1, PROTOCOL.margin_log10, form=form)


def difference_tests(found: ArmTables) -> dict[Relation, dict[str, Any]]:
    """Return the rows of tests.csv by claim: paired and Welch tests, adjusted within families; first - second.

    Sharpness is compared as log10. Families: accuracy of each sweep; its sharpness as trained; controls against
    their references; Adam. Sharpness at equal loss is in `equal_loss_tests`. `crossed_low` and `crossed_high` are the
    interval of a difference of accuracies over seeds and test images.
    """
    claims: list[Relation] = []
    for sweep, arms in found.sweeps.items():
        claims += [accuracy_claim(found, sweep, *pair) for pair in _pairs(arms)]
        claims += [sharpness_claim(found, sweep, name, "raw", *pair) for name in SHARPNESS for pair in _pairs(arms)]
    claims += [control_claim(*pair) for pair in found.referring()]
    claims += [control_sharpness_claim("raw", *pair) for pair in found.referring()]
    claims += [adam_claim(other) for other in dict.fromkeys((f"sgd{found.config.reference}", *found.sweep[:1]))]
    values = {"test_acc": {arm: found.by_seed(arm, "test_acc") for arm in found.arms}}
    for metric in SHARPNESS:
        values[f"log10_{metric}"] = {arm: found.log_sharpness(arm, metric) for arm in found.arms}
    tests = relations.test(claims, values)
    tables.cross(list(tests.values()), found.correct)
    for row in tests.values():
        row["comparable"] = int(found.comparable(row["first"]) and found.comparable(row["second"]))
        row["equivalence_adjusted"] = row.pop("equivalence_adjusted")  # the last column
    return tests


def equal_loss_tests(
    found: ArmTables,
) -> tuple[dict[SharpnessClaim, dict[str, Any]], dict[SharpnessClaim, Rows]]:
    """Return the rows of equal_loss.csv and those of equal_loss_curves.csv, by claim.

    The first has a row for each claim, decided from all targets that both arms reach (`stats.over_targets`); p-values
    are adjusted within the families. The second has a row for each target, with its interval and no p-value, since no
    single target decides.
    """
    claims = [
        sharpness_claim(found, sweep, metric, form, *pair)
        for sweep, arms in found.sweeps.items()
        for form in MATCHED
        for metric in found.metrics(form)
        for pair in _pairs(arms)
    ]
    claims += [control_sharpness_claim(form, *pair) for form in MATCHED for pair in found.referring()]
    both = {claim: at_every_loss(found, claim) for claim in claims}
    rows = {claim: row for claim, (row, _) in both.items()}
    for family in dict.fromkeys(claim.family for claim in claims):
        own = [row for claim, row in rows.items() if claim.family == family]
        tables.adjust_single(own)
        tables.adjust_equivalence(own)
    return rows, {claim: points for claim, (_, points) in both.items()}


def at_every_loss(found: ArmTables, claim: SharpnessClaim) -> tuple[dict[str, Any], Rows]:
    """Return what `tables.at_equal_loss` finds for a claim: its row, not adjusted, and a row for each target."""
    targets = found.targets(claim.form)
    a, b = (
        np.stack([found.log_sharpness(arm, claim.metric, claim.form, target) for target in targets])
        for arm in (claim.first, claim.second)
    )
    about = {name: getattr(claim, name) for name in ("family", "form", "metric", "first", "second")}
    return tables.at_equal_loss(about, a, b, targets, PROTOCOL.margin_log10)


def trends(found: ArmTables) -> dict[Ordering, Rows]:
    """Return the rows of trends.csv: Page's exact test that accuracy falls, or sharpness rises, with larger batches.

    Seeds are its blocks. It tests equal ranks against a monotone order with at least one strict step, so it is no
    proof that every step goes that way: `steps_in_order` counts the means that do. At equal loss there is a row for
    each target; `over_targets` decides from all of them.
    """
    cases = [("test_acc", "raw"), *((metric, form) for form in FORMS for metric in found.metrics(form))]
    orderings = [Ordering(sweep, *case) for sweep in found.sweeps for case in cases]
    return {one: [_trend(found, one, target) for target in found.targets(one.form)] for one in orderings}


def _trend(found: ArmTables, ordering: Ordering, target: float | None) -> dict[str, Any]:
    """Test that sharpness rises, or that accuracy falls, over the arms that may be compared."""
    arms = _fit_to_compare(found, ordering, target)
    row: dict[str, Any] = {**ordering._asdict(), "target": target}
    row |= {"arms": " ".join(arms), "num_arms": len(arms), "num_seeds": None, "statistic": None, "pvalue": None}
    row |= {"steps_in_order": None}
    if len(arms) < 3:
        return row
    values = _columns(found, arms, ordering, target)
    values = -values if ordering.metric == "test_acc" else values
    kept = values[np.isfinite(values).all(1)]
    row["num_seeds"] = len(kept)
    if len(kept) < 2:
        return row
    result = scipy_stats.page_trend_test(kept, method="exact")
    order = int((np.diff(kept.mean(0)) > 0).sum())
    return row | {"statistic": result.statistic, "pvalue": float(result.pvalue), "steps_in_order": order}


def associations(found: ArmTables) -> dict[Ordering, Rows]:
    """Return the rows of associations.csv: accuracy with each sharpness in each form, over arms (`stats.association`).

    At equal loss there is a row for each target; `over_targets` decides from all of them.
    """
    orderings = [
        Ordering(sweep, metric, form)
        for sweep in found.sweeps
        for form in FORMS
        for metric in PRIMARY
        if metric in found.metrics(form)
    ]
    return {one: [_association(found, one, target) for target in found.targets(one.form)] for one in orderings}


def _association(found: ArmTables, ordering: Ordering, target: float | None) -> dict[str, Any]:
    arms = _fit_to_compare(found, ordering, target)
    row: dict[str, Any] = {**ordering._asdict(), "target": target}
    row |= {"num_arms": len(arms), "num_seeds": None, "tau": None, "pvalue": None}
    if len(arms) < 2:
        return row
    accuracy = _columns(found, arms, ordering._replace(metric="test_acc", form="raw"), None)
    sharpness = _columns(found, arms, ordering, target)
    if not np.isfinite(accuracy + sharpness).all(1).any():
        return row
    result = stats.association(accuracy, sharpness)
    row |= {"num_arms": result.num_arms, "num_seeds": result.n, "tau": result.tau}
    return row | {"pvalue": None if result.undecided else result.pvalue}


def over_targets(found: Mapping[Ordering, Rows]) -> dict[Ordering, dict[str, Any]]:
    """Reduce what `trends` or `associations` found to a row for each ordering, p-values adjusted over all of them.

    At equal loss p is the largest over the targets at which the test could be made, at least two of them, and 1 if tau
    changes its sign there (intersection-union). The numbers beside it are those of the target with the largest p.
    """
    decided = {}
    for ordering, rows in found.items():
        tested = [row for row in rows if row["pvalue"] is not None]
        if len(tested) < (1 if ordering.form == "raw" else stats.LEAST):
            best = max(rows, key=lambda row: row["num_arms"])
            decided[ordering] = best | {"pvalue": None, "adjusted": None, "num_targets": len(tested)}
            continue
        worst = max(tested, key=lambda row: row["pvalue"])
        agree = len({np.sign(row.get("tau", 1.0)) for row in tested}) == 1
        pvalue = worst["pvalue"] if agree else 1.0
        decided[ordering] = worst | {"pvalue": pvalue, "adjusted": None, "num_targets": len(tested)}
    tables.adjust_single(list(decided.values()))
    return decided


def _fit_to_compare(found: ArmTables, ordering: Ordering, target: float | None) -> list[str]:
    """Return a sweep's arms whose sharpness may be compared: at interpolation, or at the level with every seed."""
    arms = found.sweeps[ordering.sweep]
    if ordering.metric == "test_acc":
        return arms
    if ordering.form == "raw":
        return [name for name in arms if found.comparable(name)]
    return [name for name in arms if found.reaches(ordering.metric, ordering.form, name, target)]


def _columns(found: ArmTables, arms: Sequence[str], ordering: Ordering, target: float | None) -> np.ndarray:
    """Return accuracy, or log10 of a sharpness, (seeds, arms)."""
    if ordering.metric == "test_acc":
        return np.stack([found.by_seed(arm, "test_acc") for arm in arms], 1)
    return np.stack([found.log_sharpness(arm, ordering.metric, ordering.form, target) for arm in arms], 1)


def _pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return neighbours, and the first with the last."""
    return [*itertools.pairwise(arms), *([(arms[0], arms[-1])] if len(arms) > 2 else [])]
