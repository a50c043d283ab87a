"""Three words for what a test says, and no fourth: seen, not seen, undecided."""

from typing import NamedTuple

SEEN, NOT_SEEN, UNDECIDED = "seen", "not seen", "undecided"


class Decision(NamedTuple):
    """What is decided about a claim, and why.

    Example:
      >>> from ntkgen import stats
      >>> str(stats.Decision(stats.UNDECIDED, "two seeds"))
      'undecided (two seeds)'

    Attributes:
      word: "seen", "not seen" or "undecided".
      why: what qualifies it, such as the effect that could have been found; "" for nothing.
    """

    word: str
    why: str = ""

    def __str__(self) -> str:
        """Return `word (why)`."""
        return f"{self.word} ({self.why})" if self.why else self.word


def decide(
    difference: float,
    pvalue: float,
    *,
    sign: int,
    alpha: float,
    equivalence_p: float | None = None,
    margin: float | None = None,
    detectable: float | None = None,
) -> Decision:
    """Return whether a difference has the claimed sign.

    "seen": the test rejects and the sign is the claimed one. "not seen": it rejects and the sign is the other, or the
    equivalence test rejects. Otherwise "undecided", with the effect that the test could have found.

    Args:
      difference: first - second.
      pvalue: of the test of no difference, adjusted over its family.
      sign: +1 or -1, the claimed one.
      alpha: level of both tests.
      equivalence_p: of the test of equivalence, adjusted; None where it was not made.
      margin: of the equivalence, fixed beforehand.
      detectable: the smallest difference that the test finds with 80 % power.

    Example:
      >>> str(decide(0.4, 0.01, sign=+1, alpha=0.05))
      'seen'
      >>> str(decide(0.4, 0.2, sign=+1, alpha=0.05, detectable=0.7))
      'undecided (detectable effect 0.7)'
    """
    if pvalue <= alpha:
        return Decision(SEEN) if difference * sign > 0 else Decision(NOT_SEEN, "the opposite is")
    if equivalence_p is not None and equivalence_p <= alpha:
        return Decision(NOT_SEEN, f"equal within {margin:g}")
    return Decision(UNDECIDED, "" if detectable is None else f"detectable effect {detectable:.2g}")


def decide_equal(
    difference: float, pvalue: float, equivalence_p: float, *, margin: float, alpha: float,
    detectable: float | None = None,
) -> Decision:  # fmt: skip
    """Return whether two arms are equal within a margin.

    "not seen": they differ significantly and by more than the margin. Arguments as `decide`.

    Example:
      >>> str(decide_equal(0.1, 0.3, 0.01, margin=0.5, alpha=0.05))
      'seen'
    """
    if equivalence_p <= alpha:
        return Decision(SEEN)
    if pvalue <= alpha and abs(difference) > margin:
        return Decision(NOT_SEEN)
    return Decision(UNDECIDED, "" if detectable is None else f"detectable effect {detectable:.2g}")
