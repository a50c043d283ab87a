"""The control of every claim of the implicit-regularization study: what changes one thing, and what it gave."""

from collections.abc import Mapping
from typing import Any

from ntkgen.studies import relations
from ntkgen.studies.implicit_regularization._claims import FORM_WORDS, Ordering
from ntkgen.studies.implicit_regularization._config import MATCHED
from ntkgen.studies.implicit_regularization._tables import UPDATES
from ntkgen.studies.relations import NO_CONTROL

Entry = Mapping[str, Any]  # of the verdict
Swept = dict[tuple[str, Ordering], dict[str, Any]]  # by "ends", "trend" or "association"
Referring = Mapping[tuple[str, str, str], Entry]  # (arm, arm that it refers to, form)


def of_sweep(kind: str, ordering: Ordering, swept: Swept, referring: Referring) -> str:
    """Return the control of a claim about batch sizes.

    Of sharpness as trained it is the same claim at equal loss; of the others the same claim at equal updates. At equal
    updates rates still differ: there it is the largest batch at the reference's rate.
    """
    if ordering.metric != "test_acc" and ordering.form == "raw":
        others = {form: swept.get((kind, ordering._replace(form=form))) for form in MATCHED}
        return _said({FORM_WORDS[form].strip(): entry for form, entry in others.items()}, "--track=all has equal loss")
    if ordering.sweep != UPDATES:
        again = swept.get((kind, ordering._replace(sweep=UPDATES)))
        return _said({"": again}, "--controls=steps adds equal updates")
    if kind == "association":
        return f"{NO_CONTROL}: batch size moves both sides; ntkgen mechanisms holds the other settings fixed"
    if ordering.metric not in ("test_acc", "eigenvalue"):
        return f"{NO_CONTROL}: at equal rates the eigenvalue alone is compared"
    # An arm that refers to the reference alone, and that others refer to: those in which noise is injected.
    own = {arm: entry for (arm, _, form), entry in referring.items() if form == ordering.form}
    pairs = [(arm, other) for arm, other, form in referring if form == ordering.form]
    bases = {other for _, other in pairs}
    quiet = [arm for arm, _ in pairs if arm in bases and sum(arm == each for each, _ in pairs) == 1]
    return _said({"": own[quiet[-1]] if quiet else None}, "--controls=noise adds equal rates")


def of_arm(name: str, other: str, form: str, referring: Referring) -> str:
    """Return the control of an arm that is one itself: an arm that changes one thing more, and so refers to it.

    Beside an arm without gradient noise it is the one with injected noise, beside that the one whose noise sums to
    zero over an epoch.
    """
    further = next((arm for arm, reference, _ in referring if reference == name), None)
    if further is None:
        return f"{NO_CONTROL}: {name} is itself a control of the batch sizes"
    return _said({"": referring[further, other, form]})


def _said(changed: Mapping[str, Entry | None], absent: str = "") -> str:
    """Return what the controls gave, or how a run has them; one of no name has its relation's words."""
    words = []
    for what, entry in changed.items():
        if entry is not None:
            effect, low, high = (entry.get(name) for name in ("difference", "low", "high"))
            p = None if "p = " in entry["verdict"] else entry.get("p", entry.get("adjusted"))
            asked = what or entry["relation"]
            words.append(relations.control(asked, entry["verdict"], effect, low, high, entry.get("unit", ""), p))
    return "; ".join(words) or f"{NO_CONTROL} in this run: {absent}"
