"""The questions that the studies answer, as objects, and what an answer looks like."""

from dataclasses import dataclass
from typing import NamedTuple

POINTS, EXPONENT = "points of test accuracy", "exponent of the width"


class Question(NamedTuple):
    """What a study is asked.

    Attributes:
      study: that answers it.
      claim: what "seen" means, in words.
    """

    study: str
    claim: str


IR, LL, NTK, DD, LT, ALL = (
    "implicit_regularization", "loss_landscape", "ntk_regime", "double_descent", "lottery_ticket", "mechanisms",
)  # fmt: skip
ACCURATE = Question(IR, "the smallest batch generalizes better than the largest after as many epochs")
ACCURATE_UPDATES = Question(IR, "a smaller batch generalizes better than the largest after as many updates")
SHARPER_BATCH = Question(IR, "the largest batch's minimum has a larger top eigenvalue than the smallest batch's")
SHARPER_BATCH_EQUAL = Question(IR, "it has a larger top eigenvalue at equal training loss too")
SHARPER = Question(LL, "the large batch's minimum has a larger top eigenvalue")
WORSE = Question(LL, "the large batch generalizes worse")
SHARPER_EQUAL = Question(LL, "the large batch's minimum has a larger top eigenvalue at equal training loss")
LINEARISED = Question(NTK, "the linearised network is as accurate as the network")
STILL = Question(NTK, "the kernel moves by less than a tenth")
LAZY = Question(NTK, "movement falls with the width as in the lazy limit")
KERNEL = Question(NTK, "regression with the initial kernel is as accurate as the network, nothing tuned")
KERNEL_TUNED = Question(NTK, "regression with the initial kernel is as accurate as the network, both tuned")
FALL = Question(DD, "test error falls beyond the interpolation threshold")
PEAK = Question(DD, "test error has a peak near the interpolation threshold")
HIGHEST = Question(DD, "the highest error of larger networks lies near the threshold, not elsewhere")
REDRAWN = Question(LT, "at 10 % weights drawn anew do worse than the original ones")
VALUES = Question(LT, "at 10 % the original values do better than the same values shuffled (same mask, same scale)")
TENTH = Question(LT, "10 % of the weights lose less than 1.2 points")
MASK = Question(LT, "at 10 % the ticket's mask does better than a random one (same values, same scale)")
EIGENVALUE = Question(ALL, "the top eigenvalue predicts the gap, all other hyperparameters fixed")
ADAPTIVE = Question(ALL, "sharpness that rescaling does not change predicts the gap, all other hyperparameters fixed")
BEYOND_SETTINGS = Question(ALL, "some measure predicts the gap with hyperparameters fixed and beyond them")
NULL = Question(ALL, "the tests find nothing where gaps are permuted among the networks")


@dataclass(frozen=True)
class Finding:
    """One answer.

    Attributes:
      question: of which study.
      decision: "seen", "not seen" or "undecided".
      why: what qualifies it.
      effect: its size; None where there is none.
      unit: of the effect.
      low: lower end of its interval.
      high: upper end.
      test: how it was decided.
      p: of the test, adjusted over its family.
      run: study and folder.
    """

    question: Question
    decision: str
    why: str = ""
    effect: float | None = None
    unit: str = ""
    low: float | None = None
    high: float | None = None
    test: str = ""
    p: float | None = None
    run: str = ""
