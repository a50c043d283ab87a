"""What the tangent-kernel study decides: every claim, the line that movement follows, and which predicts better."""

from typing import Any

import numpy as np

from ntkgen import stats
from ntkgen.studies.base import Rows
from ntkgen.studies.ntk_regime import _controls
from ntkgen.studies.ntk_regime._claims import ACCURACY_MARGIN, EQUAL, TUNED, WidthClaim
from ntkgen.studies.ntk_regime._controls import Tested


def judge(tested: Tested) -> Rows:
    """Make verdict.json: every claim with its decision, then what follows from several of them."""
    return [*statements(tested), *lines_followed(tested), *who_predicts_better(tested)]


def statements(tested: Tested) -> Rows:
    """Return what is decided about every claim."""
    found = []
    for claim, row in tested.items():
        said: dict[str, Any] = {"question": claim.claim, **claim.series._asdict(), "at": claim.at}
        said |= {"smallest": claim.smallest, "largest": claim.largest}
        said |= {name: row[name] for name in ("decision", "difference", "low", "high", "margin")}
        said |= {"adjusted": row["paired_adjusted"], "equivalence_adjusted": row["equivalence_adjusted"]}
        said["detectable"] = row["detectable"] if row["decision"] == stats.UNDECIDED else None
        if row["undecided"]:
            said["reason"] = row["undecided"]
        said["control"] = _controls.of_claim(claim, tested)
        found.append({key: _plain(value) for key, value in said.items()})
    return found


def lines_followed(tested: Tested) -> Rows:
    """Return for each fit the line that its movement follows."""
    fits: dict[tuple, dict[str, str]] = {}
    for claim, row in tested.items():
        if claim.line and claim.sign == EQUAL:
            fit = claim.series, claim.at, claim.largest, claim.metric
            fits.setdefault(fit, {})[claim.line] = row["decision"]
    found = []
    for (series, at, largest, metric), decisions in fits.items():
        seen = [line for line, word in decisions.items() if word == stats.SEEN]
        if len(seen) > 1:
            follows = f"cannot be told apart: {', '.join(seen)}"
        elif seen:
            follows = seen[0]
        else:
            follows = "neither" if set(decisions.values()) == {stats.NOT_SEEN} else stats.UNDECIDED
        where = {**series._asdict(), "at": at, "largest": largest, "metric": metric}
        each = "; ".join(f"{line}: {word}" for line, word in decisions.items())
        found.append({"question": "which line does it follow?", **where, "decision": follows, "control": each})
    return found


def who_predicts_better(tested: Tested) -> Rows:
    """Sum the comparisons after tuning up in words: a statement for each kind of kernel."""
    kernels: dict[str, list[WidthClaim]] = {}
    for claim in tested:
        if claim.at == TUNED:
            kernels.setdefault(claim.metric, []).append(claim)
    found = []
    for metric, claims in kernels.items():
        widths: dict[str, list[str]] = {}
        for claim in claims:
            row = tested[claim]
            better = "network better" if row["paired_p"] is not None and row["difference"] > 0 else "kernel better"
            words = {stats.SEEN: f"equivalent within {ACCURACY_MARGIN:g} points", stats.NOT_SEEN: better}
            widths.setdefault(words.get(row["decision"], stats.UNDECIDED), []).append(str(claim.largest))
        said = "; ".join(f"{words} at {', '.join(each)}" for words, each in widths.items())
        where = {**claims[0].series._asdict(), "at": TUNED, "largest": claims[-1].largest, "metric": metric}
        entry = {"question": "which predicts better, both tuned?", **where, "decision": said}
        found.append(entry | {"control": _controls.of_claim(claims[-1], tested)})
    return found


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and NaN into what JSON has."""
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
