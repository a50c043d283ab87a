"""Our numbers where the paper has one, read from the tables of a finished run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ntkgen import paper
from ntkgen.studies.reproduce._read import FinishedRun, other_than_published, setting_of
from ntkgen.studies.tables import number


@dataclass(frozen=True)
class OurNumber:
    """One measured number, under the names of `paper.PublishedNumber`.

    Attributes:
      experiment: the published experiment that it belongs to, a key of `paper.PROTOCOLS`.
      setting: what it is measured on.
      metric: what is measured.
      ours: the mean over seeds; None where it was not measured or every seed was lost.
      low: lower end of its 95 % interval; None or NaN where one seed has none.
      high: upper end.
      differs: where the run departs from the published protocol; "" where it does not.
      run: study and folder.
    """

    experiment: str
    setting: str
    metric: str
    ours: float | None
    low: float | None
    high: float | None
    differs: str
    run: str


Value = tuple[str, str, Any, Any, Any]  # setting, metric, ours, low, high; cells as text or numbers


def numbers_of(run: FinishedRun) -> list[OurNumber]:
    """Return all numbers of a run that stand beside published ones; none of a study that has none."""
    reader = READERS.get(run.study)
    if reader is None:
        return []
    differs, experiment = other_than_published(run), run.experiment
    apart = {}
    if run.config.get("gd_images") == paper.IMPLICIT_GD_IMAGES:  # the published full batch, of whatever training set
        apart = {"gd": other_than_published(run, without=("num_train", "lr_scaling"))}
    found = [
        OurNumber(
            experiment,
            setting,
            metric,
            _number(ours),
            _number(low),
            _number(high),
            apart.get(setting, differs),
            run.name,
        )
        for setting, metric, ours, low, high in reader(run)
    ]
    for published in paper.published_numbers():
        if published.kind == paper.SETTING and published.study == experiment and published.metric == "setting":
            value = setting_of(run.config, published.setting)
            if isinstance(value, list):  # how many strengths, say
                value = len(value)
            found.append(OurNumber(experiment, published.setting, "setting", value, None, None, differs, run.name))
    return found


def _number(cell: Any) -> float | None:
    return None if cell in (None, "") else number(cell)


def _ends(row: Any) -> tuple[Any, Any, Any]:
    return row["ours"], row["low"], row["high"]


def _turned(row: dict[str, Any], scale: Callable[[float], float]) -> tuple[float | None, ...]:
    """Return the ends of an interval under a map that falls, so that they change places."""
    mean, low, high = (_number(row[name]) for name in ("ours", "low", "high"))
    return tuple(None if value is None else scale(value) for value in (mean, high, low))


def _double_descent(run: FinishedRun) -> Iterator[Value]:
    rows = run.table("comparison")
    largest = max((int(row["num_train"]) for row in rows), default=0)
    for row in (row for row in rows if int(row["num_train"]) == largest):
        setting = f"{'width' if run.config['model'] == 'mlp' else 'channels'} {row['setting']}"
        yield setting, row["metric"], *_ends(row)
        if row["metric"] == "test_acc":
            mean, low, high = _turned(row, lambda accuracy: 100 - accuracy)
            yield setting, "test_error", mean, low, high


def _implicit_regularization(run: FinishedRun) -> Iterator[Value]:
    for row in run.table("comparison"):
        yield row["setting"], row["metric"], *_ends(row)
    for row in run.table("summary"):
        yield row["arm"], "lr", row["base_rate"], None, None
        yield row["arm"], "batch", row["batch"], None, None
    for row in run.table("tests"):
        if row["family"] == "accuracy, equal epochs":
            yield f"{row['first']} - {row['second']}", "test_acc", row["difference"], row["low"], row["high"]


def _loss_landscape(run: FinishedRun) -> Iterator[Value]:
    rows = run.table("comparison")
    batches = sorted({int(row["setting"]) for row in rows})
    for row in rows:
        if row["metric"] == "eigenvalue_ratio":
            yield f"batch {batches[-1]} / batch {batches[0]}", "top_eigenvalue", *_ends(row)
        else:
            yield f"batch {row['setting']}", row["metric"], *_ends(row)
    for row in run.table("tests"):  # large - small; the paper gives small - large
        if row["question"] == "accuracy":
            ends = {"ours": row["difference"], "low": row["low"], "high": row["high"]}
            mean, low, high = _turned(ends, lambda points: -points)
            yield f"batch {batches[0]} - batch {batches[-1]}", "test_acc", mean, low, high


def _ntk_regime(run: FinishedRun) -> Iterator[Value]:
    for row in run.table("comparison"):
        yield f"width {row['setting']}", row["metric"], *_ends(row)
    for row in run.table("exponents"):
        main = (row["loss"], row["limit"], row["at"]) == (run.config["loss"], "fixed", "end")
        if main and row["metric"] == "relative_movement" and row["exponent"] != "":
            ends = {"ours": row["exponent"], "low": row["low"], "high": row["high"]}
            mean, low, high = _turned(ends, lambda exponent: 100 * (1 - 2**exponent))
            yield "twice the width", "movement_fall_percent", mean, low, high
            return  # the first fit is over all widths


def _lottery_ticket(run: FinishedRun) -> Iterator[Value]:
    for row in run.table("comparison"):
        if row["setting"] != "difference":
            yield f"{row['arm']} {float(row['setting']):g}%", row["metric"], *_ends(row)
            continue
        first, _, second = row["arm"].partition(" - ")
        if (first, second) == ("ticket 10%", "ticket 100%"):  # the paper gives the loss
            mean, low, high = _turned(row, lambda points: -points)
            yield f"{second} - {first}", "test_acc", mean, low, high
        else:
            yield row["arm"], "test_acc", *_ends(row)


READERS: dict[str, Callable[[FinishedRun], Iterator[Value]]] = {
    "double_descent": _double_descent,
    "implicit_regularization": _implicit_regularization,
    "loss_landscape": _loss_landscape,
    "ntk_regime": _ntk_regime,
    "lottery_ticket": _lottery_ticket,
}
