"""What the tangent-kernel study derives from its measured tables, and says."""

from dataclasses import dataclass
from typing import Any

from ntkgen.studies import _answers, tables
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.ntk_regime._claims import (
    exponent_claims,
    level_claims,
    main_claims,
    test_claims,
    test_rows,
    tuned_claims,
)
from ntkgen.studies.ntk_regime._config import OWN
from ntkgen.studies.ntk_regime._kernels import KINDS
from ntkgen.studies.ntk_regime._tables import (
    NetworkTable,
    compare_with_paper,
    exponent_rows,
    fit_exponents,
    published,
    series_of,
    summarise_networks,
    summarise_tuned,
)
from ntkgen.studies.ntk_regime._verdict import judge
from ntkgen.studies.tables import cell

NOT_DEFINED = "infinite-width kernel, lazy movement, theory: not defined for this network"


@dataclass(frozen=True)
class Findings:
    """What tests, report and figures begin with.

    Attributes:
      networks: runs.csv.
      fits: of `fit_exponents`.
      known: the paper's rows by width; empty for another protocol.
    """

    networks: NetworkTable
    fits: Rows
    known: dict[int, dict[str, Any]]

    @classmethod
    def of(cls, prepared: Prepared, found: Tables) -> "Findings":
        """Compute them from the measured tables."""
        config, networks = prepared.config, NetworkTable(found["runs"])
        known = published(config, prepared.more.dataset.num_train)
        narrower = {}
        if config.extras:
            narrower = {config.main: [width for width in config.widths if width in config.extra_widths]}
        return cls(networks, fit_exponents(networks, found["analytic"], narrower, known), known)


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make summaries, comparison, exponents, tests and the verdict."""
    main, findings = prepared.config.main, Findings.of(prepared, found)
    claims = exponent_claims(findings.fits, main) | level_claims(findings.networks, found["analytic"])
    claims |= main_claims(findings.networks, main, found["analytic"]) | tuned_claims(found["tuned"])
    tested = test_claims(claims)
    rows = list(tested.values())
    # The arms' names say what is compared.
    tables.cross(rows, tables.correctness(found["correct"]), metrics={row["metric"] for row in rows})
    summary = summarise_networks(found["runs"])
    derived = {
        "summary": summary,
        "tuned_summary": summarise_tuned(found["tuned"], findings.networks),
        "comparison": compare_with_paper([row for row in summary if series_of(row) == main], findings.known),
        "exponents": exponent_rows(findings.fits),
        "tests": test_rows(tested),
    }
    verdict = judge(tested)
    text = "\n".join(report_lines(prepared, findings, derived, verdict))
    return Derived(derived, verdict, text, answer=short_answer(prepared, findings, summary, verdict))


def short_answer(prepared: Prepared, findings: Findings, summary: Rows, verdict: Rows) -> str:
    """Return which statements about the main networks are seen, and their exponents, in at most ten lines."""
    config, main = prepared.config, prepared.config.main._asdict()
    ours = [said for said in verdict if all(said[name] == value for name, value in main.items())]
    lines = ["statements about the main networks"]
    lines += _answers.by_word(((said["question"], said["decision"]) for said in ours), "  ")
    lines += [
        f"which predicts better, both tuned: {said['decision']}"
        for said in ours
        if said["question"].startswith("which pr")
    ][:1]
    fits = [row for row in findings.fits if row["exponent"] is not None and row["at"] == "end"]
    lines += [
        f"{row['metric'].replace('_', ' ')}: exponent of the width {row['exponent']:.2f} "
        f"[{row['low']:.2f}, {row['high']:.2f}], {row['smallest']} to {row['largest']}"
        for row in fits
        if {name: row[name] for name in main} == main
    ][:4]
    lines += _answers.diverged(summary)
    lines += [NOT_DEFINED] if config.limit == OWN else []
    about = f"{config.network_name} on {config.dataset}, {images_words(prepared)}, {config.num_seeds} seeds"
    return "\n".join([*lines, about])


def images_words(prepared: Prepared) -> str:
    """Return what was trained on, in words."""
    dataset = prepared.more.dataset
    which = {"all": "all", "random": "a random", "first": "the first"}[dataset.subset]
    return f"{which} {dataset.num_train:,} images"


def report_lines(prepared: Prepared, findings: Findings, derived: dict[str, Rows], verdict: Rows) -> list[str]:
    """Return the tables, the exponents and the statements as lines of text."""
    config = prepared.config
    lines = [
        f"\n{config.network_name} on {config.dataset}, {images_words(prepared)}, {config.loss}, {config.limit}, "
        f"rate {config.lr:g}; 95 % t-intervals"
    ]
    heads = ("relative movement", "published", "test accuracy", "published", "kernel drift", "1 - alignment")
    lines.append(f"{'width':>6} " + " ".join(f"{head:>{9 if head == 'published' else 23}}" for head in heads))
    for row in (row for row in derived["summary"] if series_of(row) == config.main):
        paper_row = findings.known.get(row["width"], {})
        cells = []
        for name, digits in (("relative_movement", 4), ("test_acc", 2), ("drift", 4), ("misalignment", 4)):
            cells.append(f"{cell(row, name, digits):>23}")
            if name in ("relative_movement", "test_acc"):
                cells.append(f"{paper_row.get(name) or '-':>9}")
        lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
        lines.append(f"{row['width']:>6} " + " ".join(cells) + lost)
    if derived["tuned_summary"]:
        lines += tuned_lines(config.lr, bool(findings.known), derived["tuned_summary"])
    lines.append("\nexponents of the width")
    lines += [
        f"  {row['loss']}, {row['limit']}, {row['at']}: {row['metric']} {row['exponent']:.3f} "
        f"[{row['low']:.3f}, {row['high']:.3f}], widths {row['smallest']}-{row['largest']}"
        for row in findings.fits
        if row["exponent"] is not None
    ]
    if config.limit == OWN:
        lines.append(NOT_DEFINED)
    return [*lines, "\nstatements", *map(statement_line, verdict)]


def tuned_lines(lr: float, published_lr: bool, tuned: Rows) -> list[str]:
    """Return test accuracies of networks and kernels after equal tuning, beside those at the given rate."""
    given = f"rate {lr:g}" + (" (published movement)" if published_lr else "")
    heads = (given, "linearised, that rate", "network, tuned", *(f"{kind} kernel" for kind in KINDS))
    lines = ["\nrate and ridge chosen on held-out training images; accuracy on all test images"]
    lines.append(f"{'width':>6} " + " ".join(f"{head:>31}" for head in heads))
    for row in tuned:
        cells = [cell(row, "given_rate_test_acc"), cell(row, "linear_test_acc")]
        for name, chosen in (("test_acc", "learning_rate"), *((f"kernel_acc_{k}", f"ridge_{k}") for k in KINDS)):
            at = f" at {float(row[chosen]):g}" if row[chosen] != "" else ""
            cells.append(cell(row, name) + at)
        lines.append(f"{row['width']:>6} " + " ".join(f"{each:>31}" for each in cells))
    return lines


def statement_line(said: dict[str, Any]) -> str:
    """Return one statement of the verdict as a line."""
    what = f"{said['metric']}, widths to {said['largest']}: " if "metric" in said else ""
    unsure = f" (detectable: {said['detectable']:.3g})" if said.get("detectable") is not None else ""
    where = f"{said['loss']}, {said['limit']}, {said['at']}"
    return f"  [{where}] {what}{said['question']} - {said['decision']}{unsure}"
