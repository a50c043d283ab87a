"""The tables of the double-descent study: final accuracies with intervals, the threshold, and the verdict on a peak."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkgen import stats
from ntkgen.studies import relations, tables

NEAR = 4.0  # sizes within this factor of the threshold, in parameters, count as near it
ALPHA = 0.05


class Table:
    """runs.csv as arrays: metric -> (num_train, size, seed, epoch), NaN for diverged seeds."""

    def __init__(self, rows: list[dict[str, str]]) -> None:
        """Sort the rows of the tidy table into arrays."""
        axes = {name: sorted({int(row[name]) for row in rows}) for name in ("num_train", "size", "seed", "epoch")}
        self.counts, self.sizes, self.seeds, self.epochs = axes.values()
        params = {int(row["size"]): int(row["num_params"]) for row in rows}
        self.params = np.array([params[size] for size in self.sizes])
        place = {name: {value: i for i, value in enumerate(values)} for name, values in axes.items()}
        shape = tuple(len(values) for values in axes.values())
        self.error = {split: np.full(shape, np.nan) for split in ("train", "test")}
        self.diverged = np.zeros(shape[:3], bool)
        for row in rows:
            at = tuple(place[name][int(row[name])] for name in place)
            self.diverged[at[:3]] |= row["diverged"] == "1"
            for split in self.error:
                self.error[split][at] = 100 - float(row[f"{split}_acc"])
        for values in self.error.values():
            values[self.diverged] = np.nan


def summarise(table: Table) -> list[dict[str, Any]]:
    """Make summary.csv: for each number of examples and size the final accuracies in percent, with intervals."""
    rows = []
    for c, count in enumerate(table.counts):
        for k, size in enumerate(table.sizes):
            row: dict[str, Any] = {
                "num_train": count,
                "size": size,
                "num_params": int(table.params[k]),
                "params_per_example": float(table.params[k] / count),
                "num_seeds": len(table.seeds),
                "num_diverged": int(table.diverged[c, k].sum()),
            }
            for split, error in table.error.items():
                final = 100 - error[c, k, :, -1]
                row |= tables.columns(f"{split}_acc", final)  # None where every seed diverged
            mean_by_epoch = (
                table.error["test"][c, k][~table.diverged[c, k]].mean(0) if not row["num_diverged"] else None
            )
            row |= {"best_epoch": None, "best_epoch_test_acc": None}
            if mean_by_epoch is not None:
                best = int(mean_by_epoch.argmin())
                row |= {"best_epoch": table.epochs[best], "best_epoch_test_acc": float(100 - mean_by_epoch[best])}
            rows.append(row)
    return rows


def arm_name(count: int, size: int) -> str:
    """Name the networks of one size and number of examples in correct.csv."""
    return f"size {size}, {count} examples"


def judge(table: Table, criterion: float, right: Mapping[str, np.ndarray] | None = None) -> list[dict[str, Any]]:
    """Find the threshold from training error, test for a peak near it and a fall beyond it; by numbers of examples.

    All p-values of the study are one family: `adjusted` controls its false discovery rate, and decides. With `right`,
    of `tables.correctness`, the fall has an interval over seeds and test images too.
    """
    verdicts = [_measure(table, c, criterion, right or {}) for c in range(len(table.counts))]
    tests = [verdict[name] for verdict in verdicts for name in ("peak", "beyond") if name in verdict]
    if tests:
        _, adjusted = stats.false_discovery([test["pvalue"] for test in tests])
        for test, value in zip(tests, adjusted, strict=True):
            test["adjusted"] = float(value)
    for verdict in verdicts:
        if "verdict" not in verdict:
            verdict["verdict"] = _words(verdict)
            _decide(verdict)
        else:
            verdict["control"] = f"{relations.NO_CONTROL}: nothing was tested"
    return verdicts


def _decide(verdict: dict[str, Any]) -> None:
    """Add to peak and fall the claim, its decision, and the control that could have overturned it."""
    peak, beyond, count = verdict["peak"], verdict.get("beyond"), f"{verdict['num_train']} examples"
    rises = {"claim": f"test error peaks near the threshold, {count}", "unit": "points of test error"}
    rises["decision"] = stats.SEEN if peak["adjusted"] <= ALPHA else stats.UNDECIDED
    rises["test"] = "peak test against curves without a peak"
    near = stats.SEEN if peak["highest_is_near"] else stats.NOT_SEEN
    asked = f"no higher error elsewhere, beyond the best smaller network; highest at size {peak['highest_size']}"
    peak |= rises | {"control": relations.control(asked, near)}
    if beyond is not None:
        falls = {"claim": f"test error falls beyond the threshold, {count}", "unit": rises["unit"]}
        falls["decision"] = stats.decide(beyond["fall"], beyond["adjusted"], sign=+1, alpha=ALPHA).word
        falls["test"] = "paired t-test by seed"
        asked = f"a peak before it, at size {peak['size']}; a fall from no peak is no second descent"
        control = relations.control(asked, peak["decision"], peak["rise"], unit=peak["unit"], p=peak["adjusted"])
        beyond |= falls | {"control": control}


def _measure(table: Table, c: int, criterion: float, right: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Measure threshold, peak and fall for one number of examples; says so under `verdict` where it cannot."""
    alive = ~table.diverged[c].all(1)  # a size at which every seed diverged has no error to compare
    params, sizes = table.params[alive], [size for size, kept in zip(table.sizes, alive, strict=True) if kept]
    training, test = (table.error[split][c, alive, :, -1].T for split in ("train", "test"))  # (seed, size)
    used = int((~np.isnan(test).any(1)).sum())
    verdict: dict[str, Any] = {"num_train": table.counts[c], "criterion": criterion, "alpha": ALPHA, "num_seeds": used}
    if len(sizes) < 2 or not used:
        return verdict | {"verdict": "undecided: needs two sizes, and one seed that diverges at none of them"}
    found = stats.threshold(params, training / 100, criterion)
    verdict["threshold"] = {
        "params": _finite(found.value),
        "low": _finite(found.low),
        "high": _finite(found.high),
        "params_per_example": _finite(found.value / table.counts[c]),
        "num_never": found.num_never,
        "num_at_smallest": found.num_at_smallest,
        "first_size_below": None if found.index is None else sizes[found.index],
    }
    if found.index is None:
        return verdict | {"verdict": "undecided: no size interpolates; raise the sizes or the epochs"}
    if not np.isfinite(found.value):
        return verdict | {"verdict": "undecided: every size interpolates, so the threshold lies below the smallest"}
    near = (params >= found.value / NEAR) & (params <= found.value * NEAR)
    verdict["sizes_near_threshold"] = [size for size, inside in zip(sizes, near, strict=True) if inside]
    if used < 2 or len(sizes) < 3 or not near[1:-1].any():
        return verdict | {
            "verdict": "undecided: a test needs two seeds, three sizes, and one of them near the threshold"
        }
    peak = stats.peak_test(test, near)
    # Being above a smaller and the largest size makes no peak of a place on the flank of a higher one elsewhere.
    mean = np.nanmean(test, axis=0)
    valley = int(mean[: peak.location].argmin())
    top = valley + int(mean[valley:].argmax())
    verdict["peak"] = {
        "size": sizes[peak.location],
        "rise": peak.rise,
        "fall": peak.fall,
        "pvalue": peak.pvalue,
        "highest_size": sizes[top],
        "highest_is_near": bool(near[top]),
    }
    if found.index < len(sizes) - 1:
        fall = stats.falls_beyond(test, found.index)
        verdict["beyond"] = {
            "from_size": sizes[found.index],
            "to_size": sizes[-1],
            "fall": fall.mean_difference,
            "low": fall.low,
            "high": fall.high,
            "pvalue": fall.pvalue,
        }
        small, large = (right.get(arm_name(table.counts[c], size)) for size in (sizes[found.index], sizes[-1]))
        if small is not None and large is not None:
            crossed = stats.crossed(large, small)
            verdict["beyond"] |= {
                "crossed_low": _finite(100 * crossed.low),
                "crossed_high": _finite(100 * crossed.high),
            }
    return verdict


def _words(verdict: dict[str, Any]) -> str:
    peak, beyond = verdict["peak"], verdict.get("beyond")
    if peak["adjusted"] > ALPHA:
        words = "test error has no peak that the test can see near the threshold"
    elif peak["highest_is_near"]:
        words = "test error peaks near the threshold"
    else:
        words = f"test error is raised near the threshold, but highest elsewhere, at size {peak['highest_size']}"
    if beyond is None:
        return words + "; no larger size shows what follows"
    if beyond["adjusted"] > ALPHA:
        return words + "; beyond it test error does not change measurably"
    return words + f"; beyond it test error {'falls' if beyond['fall'] > 0 else 'rises'}"


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
