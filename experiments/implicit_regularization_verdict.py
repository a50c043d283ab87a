"""What the tests of the implicit-regularization study decide about H1 and H2, relation by relation, and the words."""

from collections.abc import Sequence
from typing import Any

from implicit_regularization_arms import SHARPNESS
from implicit_regularization_tables import FORMS, MATCHED, PRIMARY, Study, over_targets

from ntkgen import stats
from ntkgen.studies import tables

SEEN, NOT_SEEN = "seen", "not seen"
FORM_WORDS = {"raw": "", "loss": " at matched training loss", "temperature": " at matched logit temperature"}


def judge(study: Study, tests: list[dict[str, Any]], curves: list[dict[str, Any]]) -> dict[str, Any]:
    """Make verdict.json: for every relation of H1 and H2 "seen", "not seen" or "undecided (why)", with its numbers.

    Args:
      study: the tables.
      tests: of `Study.tests`.
      curves: of `Study.equal_losses`, a row for each comparison.
    """
    alpha = study.config["alpha"]
    by = {(row["family"], row["metric"], row["first"], row["second"]): row for row in tests + curves}
    one: list[dict[str, Any]] = []
    two: list[dict[str, Any]] = []
    controls: list[dict[str, Any]] = []
    trends, associations = over_targets(study.trends()), over_targets(study.associations())
    for sweep, arms in study.sweeps.items():
        first, last, equal = arms[0], arms[-1], f", equal {sweep}"
        small, large = (f"batch {study.batch(name)}" for name in (first, last))
        row = by[f"accuracy{equal}", "test_acc", first, last]
        one.append(relation(f"{small} generalizes better than {large}{equal}", row, +1, alpha))
        one += [_trend(row, alpha) for row in trends if (row["sweep"], row["metric"]) == (sweep, "test_acc")]
        for form, metric in ((form, metric) for form in FORMS for metric in PRIMARY if metric in study.metrics(form)):
            case = (sweep, metric, form)
            words = f"{large} is sharper than {small} by the {SHARPNESS[metric]}{FORM_WORDS[form]}{equal}"
            if form == "raw":
                row = by[f"sharpness, raw{equal}", f"log10_{metric}", first, last]
                apart = [name for name in (first, last) if not study.comparable(name)]
                two.append(relation(words, row, -1, alpha, apart))
            else:
                two.append(curve(words, by[f"{form}{equal}", metric, first, last], -1, alpha))
            same = lambda row, case=case: (row["sweep"], row["metric"], row["form"]) == case  # noqa: E731
            two += [_trend(row, alpha) for row in filter(same, trends)]
            two += [_associated(row, alpha) for row in filter(same, associations)]
    within = f", within {study.config['margin_points']:g} points"
    for other in dict.fromkeys((*study.sweep[:1], f"sgd{study.config['reference']}")):
        row = by["adam", "test_acc", "adam", other]
        one.append(_same(f"Adam generalizes like {other}{within}", row, alpha))
    for name, other in study.controls():
        row = by["controls", "test_acc", name, other]
        one.append(relation(f"{name} generalizes better than {other}", row, +1, alpha))
        one.append(_same(f"{name} generalizes like {other}{within}", row, alpha))
        for form in MATCHED:
            words = f"{name} is flatter than {other} by the {SHARPNESS['eigenvalue']}{FORM_WORDS[form]}"
            controls.append(curve(words, by[f"controls, {form}", "eigenvalue", name, other], -1, alpha))
    return {
        "alpha": alpha,
        "margin_points": study.config["margin_points"],
        "margin_log10": study.config["margin_log10"],
        "not_comparable": [name for name in study.arms if not study.comparable(name)],
        "H1": one,
        "H2": two + controls,
    }


def curve(words: str, row: dict[str, Any], sign: int, alpha: float) -> dict[str, Any]:
    """Decide a relation at equal loss from all losses that both arms reach, two at least.

    "seen": the difference first - second has the stated sign at each of them, significantly; "not seen": it has the
    other sign at each, significantly, or it is within the margin at each. p-values are adjusted over the relations.
    """
    names = ("num_targets", "lowest", "highest", "num_pairs", "margin", "sign")
    found: dict[str, Any] = {"relation": words} | {name: row[name] for name in names}
    found |= {"p": row["adjusted"], "equivalence_p": row["equivalence_adjusted"]}
    ratios = ""
    if row["lowest"] is not None:  # of the arm that the relation calls sharper over the other
        low, high = sorted(10.0 ** (sign * row[end]) for end in ("lowest", "highest"))
        ratios = f"; ratios {low:.3g} to {high:.3g}"
    if row["undecided"]:
        verdict = f"undecided ({row['undecided']}{ratios})"
    elif row["adjusted"] <= alpha:
        verdict = SEEN if row["sign"] == sign else f"{NOT_SEEN} (the opposite is)"
    elif row["equivalence_adjusted"] <= alpha:
        verdict = f"{NOT_SEEN} (equal within {row['margin']:g} at every loss)"
    else:
        verdict = f"undecided ({row['num_targets']} losses{ratios})"
    return found | {"verdict": verdict}


def relation(words: str, row: dict[str, Any], sign: int, alpha: float, apart: Sequence[str] = ()) -> dict[str, Any]:
    """Decide whether a difference first - second has the stated sign, by the adjusted paired test.

    "not seen": the opposite is significant, or equivalence within the margin is. `apart` names arms of which some seed
    did not get to interpolation: nothing is decided with them.
    """
    found: dict[str, Any] = {"relation": words}
    found |= {key: row[key] for key in ("difference", "low", "high", "num_pairs", "detectable", "comparable")}
    found |= {"p": row["paired_adjusted"], "equivalence_p": row["equivalence_adjusted"]}
    found |= {key: row[key] for key in ("crossed_low", "crossed_high")}
    if apart:
        verdict = f"undecided (not comparable: {', '.join(apart)})"
    elif row["undecided"]:
        verdict = f"undecided ({row['undecided']})"
    elif row["paired_adjusted"] <= alpha:
        verdict = SEEN if row["difference"] * sign > 0 else f"{NOT_SEEN} (the opposite is)"
    elif row["equivalence_adjusted"] is not None and row["equivalence_adjusted"] <= alpha:
        verdict = f"{NOT_SEEN} (equal within {row['margin']:g})"
    else:
        verdict = f"undecided (detectable effect {row['detectable']:.2g})"
    ends = found["crossed_low"], found["crossed_high"]
    if verdict == SEEN and ends[0] is not None and ends[0] <= 0 <= ends[1]:
        verdict = f"{SEEN} (on these test images; over images too [{ends[0]:.2f}, {ends[1]:.2f}])"
    return found | {"verdict": verdict}


def _same(words: str, row: dict[str, Any], alpha: float) -> dict[str, Any]:
    """Decide whether two arms are equivalent; "not seen" if they differ significantly, and by more than the margin."""
    found = relation(words, row, +1, alpha)
    if row["undecided"]:
        return found
    if row["equivalence_adjusted"] <= alpha:
        verdict = SEEN
    elif row["paired_adjusted"] <= alpha and abs(row["difference"]) > row["margin"]:
        verdict = NOT_SEEN
    else:
        verdict = f"undecided (detectable effect {row['detectable']:.2g})"
    return found | {"verdict": verdict}


def _trend(row: dict[str, Any], alpha: float) -> dict[str, Any]:
    what = "test accuracy falls" if row["metric"] == "test_acc" else f"{SHARPNESS[row['metric']]} rises"
    found = {
        "relation": f"{what} with batch size, Page's exact trend test{FORM_WORDS[row['form']]}, equal {row['sweep']}"
    }
    names = ("statistic", "pvalue", "adjusted", "steps_in_order", "num_arms", "num_seeds", "num_targets")
    found |= {key: row[key] for key in names}
    if row["adjusted"] is None:
        return found | {"verdict": f"undecided ({_too_few(row)})"}
    if row["adjusted"] > alpha:
        return found | {"verdict": f"undecided (p = {row['adjusted']:.2g})"}
    strict = row["steps_in_order"] == row["num_arms"] - 1
    return found | {"verdict": SEEN if strict else f"{SEEN} (but only {row['steps_in_order']} of its steps)"}


def _associated(found: dict[str, Any], alpha: float) -> dict[str, Any]:
    words = f"flatter generalizes better over these batch sizes, by the {SHARPNESS[found['metric']]}"
    row = {"relation": f"{words}{FORM_WORDS[found['form']]}, equal {found['sweep']}", **found}
    if found["adjusted"] is None:
        needs = "; needs five" if found["num_arms"] < stats.LEAST_ARMS else ""
        verdict = f"undecided ({_too_few(found)}{needs})"
    elif found["adjusted"] > alpha:
        verdict = f"undecided (tau {found['tau']:.2f}, p = {found['adjusted']:.2g})"
    else:
        verdict = SEEN if found["tau"] < 0 else f"{NOT_SEEN} (the opposite is)"
    return row | {"verdict": verdict}


def _too_few(row: dict[str, Any]) -> str:
    words = f"{row['num_arms']} arms, {row['num_seeds'] or 0} seeds"
    return words if row["form"] == "raw" else f"{words} at the best of the losses, {row['num_targets']} losses tested"


def show(study: Study, verdict: dict[str, Any]) -> str:
    """Write the table and what is decided as text."""
    config = study.config
    title = f"{config['model'].upper()} on {config['dataset']}, {config['num_train']:,} examples"
    lines = [f"{title}; {len(study.seeds)} seeds, 95 % t-intervals; sharpness as log10, * not at interpolation"]
    lines.append(
        f"{'arm':>15} {'steps':>7} {'rate':>7} {'train %':>8} {'test %':>22} {'published':>9} "
        f"{'eigenvalue':>22} {'at loss ' + format(config['shown_targets']['loss'], 'g'):>22} {'adaptive':>22}"
    )
    known = study.published()
    for row in study.summary():
        name = row["arm"]
        train = "lost" if row["train_acc_mean"] is None else f"{row['train_acc_mean']:.2f}"
        published = known.get(name, {}).get("test_acc")
        cells = [tables.cell(row, f"log10_{metric}") for metric in ("eigenvalue", "eigenvalue_at_loss")]
        cells.append(tables.cell(row, "log10_average_adaptive"))
        marked = name if row["comparable"] else f"{name}*"
        lines.append(
            f"{marked:>15} {row['steps']:>7} {float(row['base_rate']):>7g} {train:>8} "
            f"{tables.cell(row, 'test_acc'):>22} {'-' if published is None else published:>9} "
            + " ".join(f"{cell:>22}" for cell in cells)
        )
    for name in ("H1", "H2"):
        decided = [one for one in verdict[name] if not one["verdict"].startswith("undecided")]
        lines += [f"{name}: {one['relation']}: {one['verdict']}" for one in decided]
        lines.append(f"{name}: {len(verdict[name]) - len(decided)} of {len(verdict[name])} relations undecided")
    lines.append("verdict.json has the undecided relations too, each with its reason or the effect it could detect")
    return "\n".join(lines)
