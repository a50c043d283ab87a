"""The control of every claim of the tangent-kernel study: another of its claims that changes one thing."""

from collections.abc import Mapping
from typing import Any

from ntkgen.studies import relations
from ntkgen.studies.ntk_regime._claims import EQUAL, TUNED, WidthClaim
from ntkgen.studies.ntk_regime._kernels import KINDS, arm_name
from ntkgen.studies.ntk_regime._tables import decisive
from ntkgen.studies.relations import NO_CONTROL

Tested = Mapping[WidthClaim, Mapping[str, Any]]  # of `_claims.test_claims`
LINEARISED, DRIFT = "linear_test_acc", "log10 drift"
# Metric -> that of its control: equal accuracy and a kernel that stays; movement in the same time and to the same loss.
OTHER = {LINEARISED: DRIFT, DRIFT: LINEARISED, "log10 absolute_movement": "log10 matched_absolute_movement"}


def of_claim(claim: WidthClaim, tested: Tested) -> str:
    """Return the control of a claim, and what it gave.

    Of a regression at the given rate and ridge it is the comparison after tuning, and the other way round. Of equal
    accuracy of the linearised network it is whether the kernel stayed. An exponent at the end of training has the one
    at equal loss, and there a line has the other lines, one of them that of a lazy network of these very widths.
    """
    if (kind := kernel_of(claim)) is not None:
        others = [one for one in tested if kernel_of(one) == kind and (one.at == TUNED) != (claim.at == TUNED)]
        others.sort(key=lambda one: (one.largest != claim.largest, -(one.largest or 0)))
        absent = "in this run: not compared at the given rate" if claim.at == TUNED else "in this run: --tune adds it"
        return _gave(others[:1], tested, absent)
    if claim.metric in OTHER:
        own = [one for one in tested if (one.metric, one.series) == (OTHER[claim.metric], claim.series)]
        return _gave(own, tested, f"in this run: {OTHER[claim.metric].removeprefix('log10 ')} was not measured")
    fits = [one for one in tested if _fit(one) == _fit(claim) and one is not claim]
    if claim.at == "end" != decisive(claim.series):
        others = [one for one in fits if one.at != "end" and one.claim == claim.claim]
    else:
        others = [one for one in fits if claim.line and one.line and one.at == claim.at]
    return _gave(others, tested, "in this study")


def kernel_of(claim: WidthClaim) -> str | None:
    """Return the kind of kernel with whose regression a claim compares the network; None for other claims."""
    tuned, width = claim.at == TUNED, claim.largest or ""
    network = arm_name("test_acc" if tuned else "kernel_acc_network", width, tuned=tuned)
    kinds = {arm_name(f"kernel_acc_{kind}", width, tuned=tuned): kind for kind in KINDS}
    sides = claim.first, claim.second
    return next((kinds[side] for side in sides if side in kinds), None) if network in sides else None


def _fit(claim: WidthClaim) -> tuple[Any, ...]:
    return claim.series, claim.metric, claim.smallest, claim.largest


def _gave(others: list[WidthClaim], tested: Tested, absent: str) -> str:
    words = []
    for one in others:
        row = tested[one]
        effect, low, high = (row[name] for name in ("difference", "low", "high"))
        p = row["equivalence_adjusted" if one.sign == EQUAL and row.get("equivalent") else "paired_adjusted"]
        asked = one.claim if one.at in ("end", TUNED) else f"{one.claim}, at {one.at}"
        words.append(relations.control(asked, row["decision"], effect, low, high, p=p))
    return "; ".join(words) or f"{NO_CONTROL} {absent}"
