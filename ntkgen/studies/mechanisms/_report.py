"""What the joint study decides, says and draws."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ntkgen import measure, plotting, stats
from ntkgen.studies import _answers, relations, tables
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.curves import called
from ntkgen.studies.mechanisms import _analysis
from ntkgen.studies.mechanisms._analysis import ALPHA, OVERALL, PARTIAL, PSI
from ntkgen.studies.tables import number

# Columns of the figure, as people write them, one or two for each mechanism.
SHOWN = {
    "eigenvalue": "top Hessian eigenvalue", "trace": "Hessian trace", "average_adaptive": "average adaptive sharpness",
    "worst_adaptive": "worst-case adaptive sharpness", "rise_0.05": "rise under noise, σ = 0.05",
    "eigenvalue_at_0.03": "eigenvalue at equal loss", "average_adaptive_at_0.03": "adaptive sharpness at equal loss",
    "gradient_variance": "gradient variance", "distance": "distance from initialisation",
    "relative_distance": "relative distance", "kernel_alignment": "kernel alignment with labels",
    "log_spectral_product": "product of spectral norms", "log_path_norm": "path norm",
    "log_spectral_product_over_margin": "spectral norms over margin", "margin_tenth": "margin, 10th percentile",
    "margin_normalised": "normalised margin", "pac_bayes_flatness": "PAC-Bayes flatness",
    "pac_bayes_bound": "PAC-Bayes bound", "log10_params": "number of parameters",
    "log10_keep": "weights it needs (pruning)",
}  # fmt: skip
NAMES = {
    "batch_size": "batch size", "rate": "rate", "width": "width", "depth": "depth", "optimizer": "optimizer",
    "weight_decay": "weight decay", "label_noise": "label noise",
}  # fmt: skip
LEVELS = 3  # of label noise, from which on measures are drawn against it
UNCHANGED = 0.01  # relative change under rescaling that counts as none


def directions() -> dict[str, int]:
    """Return column -> +1 where larger is claimed to generalize worse, -1 where better."""
    return {column: sign for each in measure.MEASUREMENTS.values() for column, sign in each.direction.items() if sign}


def decide(row: dict[str, Any], sign: int) -> stats.Decision:
    """Return whether an association with the gap has the claimed sign."""
    if row["value"] in (None, "") or row["adjusted"] in (None, ""):
        return stats.Decision(stats.UNDECIDED, row["undecided"])
    return stats.decide(number(row["value"]), number(row["adjusted"]), sign=sign, alpha=ALPHA)


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make the answer: a row for each measure, its associations, their decisions, and whether rescaling changes it."""
    claims = directions()
    by = {(row["measure"], row["kind"]): row for row in found["associations"]}
    kinds = list(dict.fromkeys(row["kind"] for row in found["associations"]))
    largest: dict[str, float] = {}
    for one in found["rescaling"]:
        if one["change"] not in ("", None):
            largest[one["column"]] = max(largest.get(one["column"], 0.0), number(one["change"]))
    answer: Rows = []
    for name in dict.fromkeys(row["measure"] for row in found["associations"]):
        change = largest.get(name)
        row: dict[str, Any] = {"measure": name, "claimed_sign": claims[name]}
        row |= {"rescaling_changes_it": None if change is None else int(change > UNCHANGED)}
        for kind in kinds:
            row |= {kind: by[name, kind]["value"] if (name, kind) in by else None}
        for kind in (OVERALL, PSI, PARTIAL):
            row |= {f"{kind}: decision": str(decide(by[name, kind], claims[name]))}
        answer.append(row)
    answer.sort(key=lambda row: -row["claimed_sign"] * (number(row[PSI]) if row[PSI] not in ("", None) else 0.0))
    networks = found["networks"]
    nulls = {row["kind"]: row["holds"] == "1" for row in found["calibration"] if number(row["planted"]) == 0}

    def decided(kind: str, word: str) -> list[str]:
        return [row["measure"] for row in answer if row[f"{kind}: decision"].startswith(word)]

    verdict = {
        "num_networks": len(networks),
        "num_reached": sum(row["reached"] == "1" for row in networks),
        "outcome": _analysis.OUTCOME,
        "alpha": ALPHA,
        "seen_with_others_fixed": decided(PSI, stats.SEEN),
        "opposite_with_others_fixed": decided(PSI, stats.NOT_SEEN),
        "seen_beyond_hyperparameters": decided(PARTIAL, stats.SEEN),
        "unchanged_by_rescaling": [row["measure"] for row in answer if row["rescaling_changes_it"] == 0],
        "not_defined": without_value(found),
        "measures": [claim_of(row, by, found) for row in answer],
        "curvature_and_width": curvature_and_width(found),
        "path": _analysis.path(_analysis.Measured(networks)),
        "false_positives_hold": [kind for kind, holds in nulls.items() if holds],
        "false_positives_do_not": [kind for kind, holds in nulls.items() if not holds],
    }
    return Derived({"answer": answer}, verdict, words(answer, verdict, found), answer=short_answer(answer, verdict))


def claim_of(answer: dict[str, Any], by: dict[tuple[str, str], dict[str, str]], found: Tables) -> dict[str, Any]:
    """Return the claim that a measure predicts the gap with all else fixed, with what could have overturned it.

    Args:
      answer: its row of answer.csv.
      by: rows of associations.csv by measure and kind.
      found: the measured tables.
    """
    name = answer["measure"]
    fixed, partial = by[name, PSI], by[name, PARTIAL]
    numbers = {key: _known(fixed[key]) for key in ("value", "low", "high", "adjusted")}
    said = relations.control(
        "beyond what the settings say", answer[f"{PARTIAL}: decision"], _known(partial["value"]),
        unit="partial correlation", p=_known(partial["adjusted"]),
    )  # fmt: skip
    controls = [said]
    changes = {0: "rescaled layers do not change it", 1: "rescaled layers change it"}
    controls += [changes[answer["rescaling_changes_it"]]] if answer["rescaling_changes_it"] is not None else []
    for null in found["calibration"]:
        if null["kind"] == PSI and number(null["planted"]) == 0:
            level = "" if null["holds"] == "1" else ", too many"
            controls.append(f"with permuted gaps {number(null['rate']):.1%} are seen at a level of {ALPHA:.0%}{level}")
    return {
        "claim": f"{SHOWN.get(name, name)} goes with the gap as claimed, all else fixed",
        "decision": answer[f"{PSI}: decision"],
        **numbers,
        "unit": "mean Kendall tau",
        "test": "permutations, adjusted for false discoveries",
        "claimed_sign": answer["claimed_sign"],
        "control": "; ".join(controls),
    }


def _known(cell: Any) -> float | None:
    return None if cell in (None, "") else number(cell)


def curvature_and_width(found: Tables) -> list[dict[str, Any]]:
    """Return the effect of each step in width on the top eigenvalue (log10), all else equal.

    Its control is the same step's effect on average adaptive sharpness, which rescaled layers do not change.
    """
    names = ("from", "to", "effect", "low", "high", "adjusted", "num_groups")
    steps = [row for row in found["effects"] if row["hyperparameter"] == "width"]
    adaptive = {(row["from"], row["to"]): row for row in steps if row["column"] == "average_adaptive"}
    claims = []
    for row in (each for each in steps if each["column"] == "eigenvalue"):
        one = adaptive.get((row["from"], row["to"]))
        control = f"{relations.NO_CONTROL} in this run: average adaptive sharpness was not measured"
        if one is not None:
            effect, low, high, p = (_known(one[name]) for name in ("effect", "low", "high", "adjusted"))
            asked = "average adaptive sharpness falls too, which rescaled layers do not change"
            control = relations.control(asked, str(_effect(one, -1)), effect, low, high, one["scale"], p)
        ends = {name: number(row[name]) for name in names}
        words = f"the top Hessian eigenvalue falls from width {ends['from']:g} to {ends['to']:g}, all else fixed"
        said = {"claim": words, "decision": str(_effect(row, -1)), "unit": row["scale"], "control": control}
        claims.append(ends | said)
    return claims


def _effect(row: dict[str, Any], sign: int) -> stats.Decision:
    if row["adjusted"] in ("", None):
        return stats.Decision(stats.UNDECIDED, row["undecided"])
    return stats.decide(number(row["effect"]), number(row["adjusted"]), sign=sign, alpha=ALPHA)


def words(answer: Rows, verdict: dict[str, Any], found: Tables) -> str:
    """Write the answer as text."""
    lines = [
        _population_words(verdict),
        f"{'measure':34} {'claim':>5} {'overall':>8} {'fixed':>8} {'partial':>8}  with all other hyperparameters fixed",
    ]
    for row in answer:
        cells = " ".join(
            f"{'' if row[k] in ('', None) else format(number(row[k]), '+.2f'):>8}" for k in (OVERALL, PSI, PARTIAL)
        )
        lines.append(f"{row['measure']:34} {row['claimed_sign']:>+5d} {cells}  {row[f'{PSI}: decision']}")
    lines.append(_fixed_words(answer, verdict))
    for one in verdict["curvature_and_width"]:
        lines.append(
            f"width {one['from']:g} to {one['to']:g} changes log10 of the top eigenvalue by {one['effect']:+.2f} "
            f"[{one['low']:+.2f}, {one['high']:+.2f}]; that it falls: {one['decision']}"
        )
    if verdict["not_defined"]:
        lines.append(f"not defined for these networks: {', '.join(verdict['not_defined'])}")
    return "\n".join([*lines, _path_words(verdict)])


def short_answer(answer: Rows, verdict: dict[str, Any]) -> str:
    """Write which measures predict the gap, and what is found of the path to it, in at most nine lines."""
    lines = [_fixed_words(answer, verdict)]
    for word, key in (("as claimed", "seen_with_others_fixed"), ("the other way", "opposite_with_others_fixed")):
        if verdict[key]:
            lines.append(_answers.listed(f"  {word}, the strongest first", verdict[key]))
    both = verdict["seen_beyond_hyperparameters"]
    lines.append(_answers.listed("  beyond what the settings say", both))
    for one in verdict["curvature_and_width"][:2]:
        size = f"{one['effect']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]"
        lines.append(f"width {one['from']:g} to {one['to']:g}: log10 of the top eigenvalue {size}, {one['decision']}")
    lines.append(_path_words(verdict))
    if verdict["false_positives_do_not"]:
        lines.append(_answers.listed("false positives exceed what the test says", verdict["false_positives_do_not"]))
    if verdict["not_defined"]:
        lines.append(_answers.listed("not defined for these networks", verdict["not_defined"]))
    return "\n".join([*lines, _population_words(verdict)])


def _population_words(verdict: dict[str, Any]) -> str:
    return f"{verdict['num_networks']} networks, {verdict['num_reached']} reached the loss; outcome: generalization gap"


def _fixed_words(answer: Rows, verdict: dict[str, Any]) -> str:
    seen, opposite = verdict["seen_with_others_fixed"], verdict["opposite_with_others_fixed"]
    return (
        f"with all else fixed {len(seen)} of {len(answer)} measures predict the gap as claimed, {len(opposite)} the "
        "other way"
    )


def _path_words(verdict: dict[str, Any]) -> str:
    path = verdict["path"]
    against = path.get("undecided") or "; ".join(path["refuted"]) or "nothing that was measured"
    return f"batch size -> noise -> curvature -> gap: against it speaks {against}"


def without_value(found: Tables) -> list[str]:
    """Return what has no number for any network, such as the norms of layers that are not known."""
    rescaling = [] if any(row["column"] for row in found["rescaling"]) else ["what rescaled layers change"]
    return rescaling + [
        column for column in directions()
        if column in found["networks"][0] and not any(np.isfinite(number(row[column])) for row in found["networks"])
    ]  # fmt: skip


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw the answer, and the false positives and the power of its tests."""
    config = prepared.config
    claims = directions()
    by = {(row["measure"], row["kind"]): row for row in found["associations"]}
    order = [row["measure"] for row in derived.tables["answer"] if row["measure"] in SHOWN]
    factors = [name for name in NAMES if any(row["kind"] == name for row in found["associations"])]
    columns = {OVERALL: "overall", PSI: "mean, others\nfixed", PARTIAL: "beyond the\nsettings"}
    summaries = list(columns.items())
    columns |= {name: NAMES[name] for name in factors}
    cells = []
    for name in order:
        line = []
        for kind in columns:
            row = by.get((name, kind), {"value": None, "adjusted": None})
            significant = row["adjusted"] not in (None, "") and number(row["adjusted"]) <= ALPHA
            line.append((claims[name] * number(row["value"]), significant))
        cells.append(line)
    about = f"{config.network_name} on {called(config.dataset)}, "
    about += f"{derived.verdict['num_reached']} networks at training loss {config.stop_loss:g}"
    title = f"Does it predict the generalization gap as claimed?\n{about}"
    yield "answer", plotting.mechanisms.answer([SHOWN[name] for name in order], list(columns.values()), cells, 2, title)
    rates: dict[str, plotting.Curve] = {}
    for kind, label in summaries:
        rows = [row for row in found["calibration"] if row["kind"] == kind]
        if rows:
            ends = ([100 * number(row[end]) for row in rows] for end in ("rate", "low", "high"))
            rates[label.replace("\n", " ")] = plotting.Curve([number(row["planted"]) for row in rows], *ends)
    yield (
        "calibration",
        plotting.mechanisms.calibration(rates, 100 * ALPHA, f"{config.calibrations} permutations of arms"),
    )
    if len(config.label_noise) >= LEVELS:
        about += f"; means of {config.replicates * config.num_seeds}, 95% t-intervals"
        yield "over_noise", plotting.mechanisms.over_noise(_over_noise(config, found["networks"]), about)


def _over_noise(config: Any, networks: list[dict[str, str]]) -> dict[str, plotting.Curve]:
    """Return label -> mean and t-interval over networks that reached the loss, against wrong labels in percent."""
    levels = sorted(config.label_noise)
    panels = {}
    for column, label in {"gap": "generalization gap (points)", "epochs": "epochs to the loss", **SHOWN}.items():
        if column not in networks[0] or column == "log10_params":  # the grid's, not the training's
            continue
        values = [
            [number(row[column]) for row in networks if row["reached"] == "1" and float(row["label_noise"]) == level]
            for level in levels
        ]
        kept = [np.array([value for value in own if np.isfinite(value)]) for own in values]
        if any(map(len, kept)):
            ends = [tables.columns("x", own) if len(own) > 1 else {} for own in kept]
            curves = ([number(one.get(f"x_{end}")) for one in ends] for end in ("mean", "t_low", "t_high"))
            panels[label] = plotting.Curve([100 * level for level in levels], *curves)
    return panels
