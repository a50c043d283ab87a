"""What the implicit-regularization study derives from its measured tables, and how a terminal shows it."""

from typing import Any

from ntkgen.studies import _answers, tables
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.implicit_regularization import _claims, _tables
from ntkgen.studies.implicit_regularization._arms import Sizes, planned_arms
from ntkgen.studies.implicit_regularization._config import SHOWN
from ntkgen.studies.implicit_regularization._tables import ArmTables
from ntkgen.studies.implicit_regularization._verdict import judge


def derive(prepared: Prepared, measured: Tables) -> Derived:
    """Make all tables that follow from the measured ones, and the verdict; of some arms the comparison alone."""
    found, sizes = ArmTables(prepared.config, measured), prepared.more.sizes
    comparison = _tables.comparison(found, sizes)
    if found.arms.keys() != {arm.name for arm in planned_arms(prepared.config, sizes)}:
        short = f"{len(found.arms)} arms are measured, not all of the study: no verdict yet"
        return Derived({"comparison": comparison}, None, comparison_text(found, comparison), False, answer=short)
    tests = _claims.difference_tests(found)
    curves, points = _claims.equal_loss_tests(found)
    trends, associations = _claims.trends(found), _claims.associations(found)
    verdict = judge(found, tests, curves, _claims.over_targets(trends), _claims.over_targets(associations))
    summary = _tables.summary(found)
    derived = {
        "summary": summary,
        "comparison": comparison,
        "tests": list(tests.values()),
        "equal_loss": list(curves.values()),
        "equal_loss_curves": _flat(points),
        "trends": _flat(trends),
        "associations": _flat(associations),
        "matched_summary": _tables.matched_summary(found),
    }
    short = short_answer(found, sizes, summary, verdict)
    return Derived(derived, verdict, answer_text(found, sizes, summary, verdict), answer=short)


def short_answer(found: ArmTables, sizes: Sizes, summary: Rows, verdict: dict[str, Any]) -> str:
    """Return how many relations of each hypothesis are seen, and the first of them, in at most nine lines."""
    config, lines = found.config, []
    for name, about in (("H1", "small batches generalize better"), ("H2", "sharper minima generalize worse")):
        lines.append(f"{name}, {about}: {len(verdict[name])} relations")
        lines += _answers.by_word(((row["relation"], row["verdict"]) for row in verdict[name]), "  ")
    lines += _answers.diverged(summary)
    about = f"{config.network_name} on {config.dataset}, {sizes.images:,} examples, {len(found.seeds)} seeds"
    return "\n".join([*lines, about])


def _flat(rows: dict[Any, Rows]) -> Rows:
    return [row for own in rows.values() for row in own]


def comparison_text(found: ArmTables, comparison: Rows) -> str:
    """Return the rows of comparison.csv as text."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = [f"{'arm':>22} {'metric':>10} {'published':>9} {'ours':>7} 95 % t-interval, {len(found.seeds)} seeds"]
    for row in comparison:
        published, ours, low, high = (text(row[name]) for name in ("published", "ours", "low", "high"))
        lines.append(f"{row['setting']:>22} {row['metric']:>10} {published:>9} {ours:>7} [{low}, {high}]")
    return "\n".join(lines)


def answer_text(found: ArmTables, sizes: Sizes, summary: Rows, verdict: dict[str, Any]) -> str:
    """Return the table and what is decided as text."""
    config = found.config
    title = f"{config.network_name} on {config.dataset}, {sizes.images:,} examples"
    lines = [f"{title}; {len(found.seeds)} seeds, 95 % t-intervals; sharpness as log10, * not at interpolation"]
    lines.append(
        f"{'arm':>15} {'steps':>7} {'rate':>7} {'train %':>8} {'test %':>22} {'published':>9} "
        f"{'eigenvalue':>22} {'at loss ' + format(SHOWN['loss'], 'g'):>22} {'adaptive':>22}"
    )
    known = _tables.published(config, sizes)
    for row in summary:
        name = row["arm"]
        train = "lost" if row["train_acc_mean"] is None else f"{row['train_acc_mean']:.2f}"
        published = known.get(name, {}).get("test_acc")
        sharpness = ("log10_eigenvalue", "log10_eigenvalue_at_loss", "log10_average_adaptive")
        marked = name if row["comparable"] else f"{name}*"
        lines.append(
            f"{marked:>15} {row['steps']:>7} {float(row['base_rate']):>7g} {train:>8} "
            f"{tables.cell(row, 'test_acc'):>22} {'-' if published is None else published:>9} "
            + " ".join(f"{tables.cell(row, column):>22}" for column in sharpness)
        )
    for name in ("H1", "H2"):
        decided = [entry for entry in verdict[name] if not entry["verdict"].startswith("undecided")]
        lines += [f"{name}: {entry['relation']}: {entry['verdict']}" for entry in decided]
        lines.append(f"{name}: {len(verdict[name]) - len(decided)} of {len(verdict[name])} relations undecided")
    lines.append("verdict.json has the undecided relations too, each with its reason or the effect it could detect")
    return "\n".join(lines)
