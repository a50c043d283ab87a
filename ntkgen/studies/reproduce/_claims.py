"""Hypotheses H1 to H5 and research questions RQ1 to RQ6: what decides each, and the control that could overturn it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ntkgen.stats import NOT_SEEN, SEEN, UNDECIDED
from ntkgen.studies import relations
from ntkgen.studies.base import Rows
from ntkgen.studies.reproduce import _questions as asked
from ntkgen.studies.reproduce._questions import Finding, Question

RULE = "seen: everything is seen, the control too; not seen: something is not; else undecided"


@dataclass(frozen=True)
class PaperClaim:
    """A hypothesis or a research question.

    Attributes:
      id: as in the paper, section III.
      claim: what "seen" means here, in words.
      needs: what must be seen.
      control: what could overturn it although all that is needed is seen.
    """

    id: str
    claim: str
    needs: tuple[Question, ...]
    control: Question


CLAIMS = (
    PaperClaim(
        "H1", "SGD with small batches generalizes better, and not because it makes more updates",
        (asked.ACCURATE,), asked.ACCURATE_UPDATES,
    ),
    PaperClaim(
        "H2", "the sharper minimum of the large batch generalizes worse, and is sharper at equal loss too",
        (asked.SHARPER, asked.WORSE), asked.SHARPER_EQUAL,
    ),
    PaperClaim(
        "H3", "a wide network is as accurate as its linearisation, and its kernel stays where it was",
        (asked.LINEARISED,), asked.STILL,
    ),
    PaperClaim(
        "H4", "test error falls beyond the interpolation threshold, after a peak near it", (asked.FALL,), asked.PEAK
    ),
    PaperClaim(
        "H5", "a ticket needs its original weights, and not their scale alone", (asked.REDRAWN,), asked.VALUES
    ),
    PaperClaim(
        "RQ1", "larger networks generalize better, and a measure predicts the gap beyond all settings",
        (asked.FALL, asked.BEYOND_SETTINGS), asked.NULL,
    ),
    PaperClaim(
        "RQ2", "small batches select flatter minima, at equal loss too", (asked.SHARPER_BATCH,),
        asked.SHARPER_BATCH_EQUAL,
    ),
    PaperClaim(
        "RQ3", "flatter networks generalize better, all else fixed, by a measure that rescaling does not change",
        (asked.EIGENVALUE,), asked.ADAPTIVE,
    ),
    PaperClaim(
        "RQ4", "the initial kernel explains the network's accuracy, after equal tuning too", (asked.KERNEL,),
        asked.KERNEL_TUNED,
    ),
    PaperClaim(
        "RQ5", "test error has a second descent: a peak near the threshold, a fall beyond it, nothing higher elsewhere",
        (asked.PEAK, asked.FALL), asked.HIGHEST,
    ),
    PaperClaim(
        "RQ6", "a tenth of the weights is nearly enough, and which weights matters", (asked.TENTH,), asked.MASK
    ),
)  # fmt: skip


def all_of(words: Sequence[str]) -> str:
    """Return "seen" if all are, "not seen" if one is not, else "undecided"."""
    if NOT_SEEN in words:
        return NOT_SEEN
    return SEEN if words and all(word == SEEN for word in words) else UNDECIDED


def judge(found: Sequence[Finding], reasons: Mapping[str, str]) -> Rows:
    """Make claims.csv: every hypothesis and question with the finding that decides it, and its control.

    The numbers are those of the first finding that makes the decision what it is.

    Args:
      found: of all studies. Where several runs answer one question, all of them count.
      reasons: study -> why it has no findings, in words.
    """
    rows = []
    for claim in CLAIMS:
        needed = [one for question in claim.needs for one in _answers(question, found, reasons)]
        controls = _answers(claim.control, found, reasons)
        decision = all_of([one.decision for one in (*needed, *controls)])
        own = all_of([one.decision for one in needed])
        shown = next((one for one in needed if one.decision == own), needed[0])
        words = "; ".join(f"{_named(one, needed)}: {one.decision}{_why(one)}" for one in needed)
        row: dict[str, Any] = {"id": claim.id, "claim": claim.claim, "decision": decision}
        row |= {"effect": shown.effect, "unit": shown.unit, "low": shown.low, "high": shown.high}
        row |= {"test": shown.test, "p": shown.p, "control": "; ".join(_sentence(one) for one in controls)}
        row |= {"run": " ".join(dict.fromkeys(one.run for one in (*needed, *controls) if one.run))}
        rows.append(row | {"found": words, "rule": RULE})
    return rows


def _answers(question: Question, found: Sequence[Finding], reasons: Mapping[str, str]) -> list[Finding]:
    own = [one for one in found if one.question == question]
    why = reasons.get(question.study, f"{question.study} did not measure it with these settings")
    return own or [Finding(question, UNDECIDED, why)]


def _named(one: Finding, among: Sequence[Finding]) -> str:
    """Return what was asked, with the run where several answer it."""
    again = sum(other.question == one.question for other in among) > 1
    return f"{one.question.claim} [{one.run}]" if again else one.question.claim


def _why(one: Finding) -> str:
    return f" ({one.why})" if one.why else ""


def _sentence(one: Finding) -> str:
    """Return a control and what it gave, in words."""
    decision = f"{one.decision} ({one.why})" if one.why else one.decision
    return relations.control(one.question.claim, decision, one.effect, one.low, one.high, one.unit, one.p)
