"""What the reproduction derives from the measured tables, says and draws."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ntkgen import paper, plotting
from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED
from ntkgen.studies import _answers
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.reproduce import _claims, _published, _statements
from ntkgen.studies.reproduce._config import STUDIES
from ntkgen.studies.reproduce._findings import finding_from_row
from ntkgen.studies.reproduce._published import NOT_COMPARABLE, OUTSIDE, WITHIN
from ntkgen.studies.tables import number

# Metrics whose ratio says more than their difference.
RATIOS = ("relative_movement", "top_eigenvalue", "movement_fall_percent")
TABLES = {
    "double_descent mlp": "V-A, V-D: MLP", "double_descent cnn": "V-A, V-D: CNN",
    "implicit_regularization": "V-B: batch sizes", "loss_landscape": "V-C: loss landscape",
    "ntk_regime": "V-E: widths", "lottery_ticket": "V-F: lottery tickets",
}  # fmt: skip
WORDS = {
    "test_acc": "test accuracy", "train_acc": "training accuracy", "gap": "gap",
    "relative_movement": "movement", "top_eigenvalue": "top eigenvalue",
    "movement_fall_percent": "fall of movement",
}  # fmt: skip


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make published.csv, statements.csv, claims.csv and plan.csv, and say what is decided."""
    parts, ours = found["parts"], found["ours"]
    answers = [finding_from_row(row) for row in found["findings"]]
    reasons = why_missing(prepared.config.studies, parts)
    published = _published.compare_all(ours, prepared.more.parameters, reasons)
    statements = _statements.contradicted(_statements.OurSide(ours, answers))
    claims = _claims.judge(answers, reasons)
    failed = [f"{row['part']} failed: {row['failed']}" for row in parts if row["failed"]]
    verdict = {
        "published": _published.counts(published),
        "claims": {row["id"]: row["decision"] for row in claims},
        "statements": len(statements),
        "failed": failed,
    }
    derived = {"published": published, "statements": statements, "claims": claims, "plan": plan(parts)}
    again = f"{'; '.join(failed)}; the same command tries again" if failed else ""
    short = short_answer(prepared, parts, verdict, claims)
    return Derived(derived, verdict, words(prepared, parts, verdict, claims), failed=again, answer=short)


def why_missing(chosen: Sequence[str], parts: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return study -> why it has no numbers, for those that were not run or failed."""
    names = dict.fromkeys((*STUDIES, *(experiment.partition(" ")[0] for experiment in paper.PROTOCOLS), "mechanisms"))
    reasons = {name: f"{name} was not run" for name in names if name not in chosen}
    for row in parts:
        if row["failed"]:
            reasons[row["study"]] = f"{row['study']} failed: {row['failed']}"
    return reasons


def plan(parts: Sequence[Mapping[str, Any]]) -> Rows:
    """Make plan.csv: what each study was expected to take, and took; None where it was finished before."""
    rows = []
    for row in parts:
        estimated = number(row["estimated_seconds"])
        seconds, cpu = (None if row[name] in ("", None) else number(row[name]) for name in ("seconds", "cpu_seconds"))
        shown: dict[str, Any] = {"study": row["part"], "estimated_seconds": estimated, "seconds": seconds}
        shown |= {"ratio": None if cpu is None else cpu / estimated, "cpu_seconds": cpu}
        rows.append(shown | {"run": row["run"], "note": row["note"], "failed": row["failed"]})
    return rows


def graded(counts: Mapping[str, int]) -> str:
    """Return how many numbers have each status, in words."""
    return ", ".join(f"{count} {word}" for word, count in counts.items())


def short_answer(
    prepared: Prepared, parts: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], claims: Rows
) -> str:
    """Write the claims by decision and how many published numbers come out again, in at most ten lines."""
    config = prepared.config
    lines = []
    for word in (SEEN, NOT_SEEN, UNDECIDED):
        names = [row["id"] for row in claims if row["decision"] == word]
        lines.append(_answers.listed(f"claims {word} ({len(names)})", names))
    lines += [f"published {name}: {graded(own)}" for name, own in verdict["published"].items()]
    lines.append(f"statements that the paper's own tables contradict: {verdict['statements']}")
    lines += verdict["failed"][:3]
    about = f"{len(parts)} runs of {len(config.studies)} studies, preset {config.size}, data: {config.dataset}"
    return "\n".join([*lines, about])


def words(prepared: Prepared, parts: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any], claims: Rows) -> str:
    """Write what was found as text, in at most 25 lines."""
    config = prepared.config
    lines = [
        f"{len(parts)} runs of {len(config.studies)} studies, preset {config.size}, data: {config.dataset}",
        *(f"published {name}: {graded(own)}" for name, own in verdict["published"].items()),
        f"statements that the paper's own tables contradict: {verdict['statements']} (statements.csv)",
        f"claims: {SEEN}, {NOT_SEEN} or {UNDECIDED}; {_claims.RULE}",
    ]
    for row in claims:
        size = "" if row["effect"] is None else f": {row['effect']:.3g}"
        if size and row["low"] is not None and row["high"] is not None:
            size += f" [{row['low']:.3g}, {row['high']:.3g}]"
        unit = f" {row['unit']}" if size else ""
        lines.append(f"{row['id']:4} {row['decision']:9} {row['claim']}{size}{unit}")
    lines += verdict["failed"][:4]
    spent = [(number(row["cpu_seconds"]), number(row["estimated_seconds"])) for row in parts if row["cpu_seconds"]]
    if spent:
        took, expected = (sum(column) for column in zip(*spent, strict=True))
        lines.append(f"processor time: {took:.0f} s, expected {expected:.0f} s (plan.csv)")
    return "\n".join(lines)


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw published numbers against ours, grouped by table; what the paper prints twice is drawn once."""
    seen: set[tuple[str, str, str]] = set()
    differences: dict[str, list[plotting.reproduce.Against]] = {}
    ratios: dict[str, list[plotting.reproduce.Against]] = {}
    for row in derived.tables["published"]:
        drawn = row["status"] in (WITHIN, OUTSIDE, NOT_COMPARABLE) and row["metric"] in WORDS
        if not drawn or row["ours"] is None or row["published"] is None or not math.isfinite(row["ours"]):
            continue
        name = row["study"], row["setting"], row["metric"]
        if name in seen:
            continue
        seen.add(name)
        ratio = row["metric"] in RATIOS
        ends = (row["ours"], *(math.nan if row[end] is None else row[end] for end in ("low", "high")))
        value, low, high = (end / row["published"] if ratio else end - row["published"] for end in ends)
        if ratio and not value > 0:
            continue
        label = f"{row['setting']}, {WORDS[row['metric']]}"
        group = (ratios if ratio else differences).setdefault(TABLES[row["study"]], [])
        group.append(plotting.reproduce.Against(label, value, low, high, row["status"]))
    config = prepared.config
    title = f"Published numbers against ours, 95% t-intervals; preset {config.size}, data: {config.dataset}\n"
    title += f"results: {graded(derived.verdict['published']['results'])}"
    yield "published", plotting.reproduce.against_published(differences, ratios, title)
