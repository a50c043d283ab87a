"""Tables that all studies make: means with intervals, families of tests between arms, which images are right.

Longer than 350 lines for its docstrings and examples, 50 % of it.
"""

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from ntkgen import stats

ENDS = ("mean", "std", "boot_low", "boot_high", "t_low", "t_high")


def columns(name: str, values: Any) -> dict[str, float | None]:
    """Return `name`_mean, _std and both 95 % intervals of values (seeds,), NaN for a lost seed; None where all are.

    Example:
      >>> from ntkgen.studies import tables
      >>> found = tables.columns("acc", [96.0, 98.0, float("nan")])
      >>> found["acc_mean"], sorted(found)
      (97.0, ['acc_boot_high', 'acc_boot_low', 'acc_mean', 'acc_std', 'acc_t_high', 'acc_t_low'])
    """
    values = np.asarray(values, float)
    if not np.isfinite(values).any():
        return dict.fromkeys(f"{name}_{end}" for end in ENDS)
    values = np.where(np.isfinite(values), values, np.nan)
    summary = stats.mean_std(values)
    boot, t = (stats.interval(values, method, on_too_few="nan") for method in ("bootstrap", "t"))
    numbers = (summary.mean, summary.std, boot.low, boot.high, t.low, t.high)
    return {f"{name}_{end}": number for end, number in zip(ENDS, numbers, strict=True)}


def summarise(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """Make a summary: for each combination of keys, in order of appearance, the metrics over the seeds.

    Example:
      >>> from ntkgen.studies import tables
      >>> rows = [{"width": 4, "seed": 0, "acc": "96.0"}, {"width": 4, "seed": 1, "acc": "98.0"}]
      >>> (row,) = tables.summarise(rows, keys=["width"], metrics=["acc"])
      >>> row["width"], row["num_seeds"], row["acc_mean"]
      (4, 2, 97.0)

    Args:
      rows: tidy rows, one for each seed, cells numbers or their text; empty cells and None count as lost.
      keys: columns that name an arm.
      metrics: columns to summarise.

    Returns:
      A row for each arm: the keys, num_seeds, and `columns` of each metric.
    """
    arms: dict[tuple, list[Mapping[str, Any]]] = {}
    for row in rows:
        arms.setdefault(tuple(row[key] for key in keys), []).append(row)
    found = []
    for arm, members in arms.items():
        summary: dict[str, Any] = dict(zip(keys, arm, strict=True)) | {"num_seeds": len(members)}
        for metric in metrics:
            summary |= columns(metric, [number(row[metric]) for row in members])
        found.append(summary)
    return found


def number(cell: Any) -> float:
    """Read a cell: text or number; NaN for an empty one.

    Example:
      >>> from ntkgen.studies import tables
      >>> tables.number("0.5"), tables.number("")
      (0.5, nan)
    """
    return float("nan") if cell in (None, "") else float(cell)


def paired_tests(
    family: str, metric: str, values: Mapping[str, Any], pairs: Sequence[tuple[str, str]], margin: float | None = None
) -> list[dict[str, Any]]:
    """Test the difference of a metric between pairs of arms, paired by seed and by Welch.

    Example:
      >>> from ntkgen.studies import tables
      >>> values = {"sgd": [97.0, 97.2, 97.1], "gd": [95.0, 95.1, 95.2]}
      >>> (row,) = tables.paired_tests("accuracy", "test_acc", values, [("sgd", "gd")], margin=0.5)
      >>> round(row["difference"], 3), row["equivalent"]
      (2.0, False)

    Args:
      family: name of the family, within which `adjust` controls the false discovery rate.
      metric: what is compared.
      values: arm -> (seeds,), NaN for a lost seed; all arms in the same order of seeds.
      pairs: (first, second); the difference is first - second.
      margin: also test equivalence within +-margin, in the metric's unit, fixed beforehand.

    Returns:
      A row for each pair that two seeds support; with `undecided` naming the reason where they do not.
    """
    rows = []
    for first, second in pairs:
        a, b = (np.asarray(values[arm], float) for arm in (first, second))
        a, b = (np.where(np.isfinite(x), x, np.nan) for x in (a, b))
        row: dict[str, Any] = {"family": family, "metric": metric, "first": first, "second": second}
        row |= dict.fromkeys(
            ("difference", "low", "high", "paired_p", "welch_p", "paired_adjusted", "welch_adjusted", "num_pairs")
        )
        row |= dict.fromkeys(("margin", "equivalence_p", "equivalent", "detectable"), None)
        row["undecided"] = ""
        if (num_pairs := int((~np.isnan(a - b)).sum())) < 2:
            rows.append(row | {"num_pairs": num_pairs, "undecided": f"{num_pairs} pairs; a test needs two"})
            continue
        paired, welch = stats.paired(a, b), stats.welch(a, b)
        row |= {"difference": paired.mean_difference, "low": paired.low, "high": paired.high, "num_pairs": num_pairs}
        row |= {"paired_p": paired.pvalue, "welch_p": welch.pvalue}
        spread = float(np.nanstd(a - b, ddof=1))
        row["detectable"] = stats.minimum_detectable_effect(spread, num_pairs)
        if margin is not None:
            same = stats.equivalence(a, b, margin)
            row |= {"margin": margin, "equivalence_p": same.pvalue, "equivalent": same.equivalent}
        rows.append(row)
    return rows


def correct_rows(arm: str, seeds: Sequence[int], right: np.ndarray, lost: np.ndarray) -> list[dict[str, Any]]:
    """Make correct.csv: which test images each final network classifies right.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import tables
      >>> tables.correct_rows("sgd", [0], np.array([[True, False, False, False, True]]), lost=np.array([False]))
      [{'arm': 'sgd', 'images': 5, 'seed': 0, 'bits': '88'}]

    Args:
      arm: its name.
      seeds: in order.
      right: booleans (seeds, images).
      lost: seeds that diverged (seeds,).

    Returns:
      A row for each seed; `bits` has the images in order as hexadecimal digits, most significant bit first. It is empty
      for a lost seed.
    """
    bits = ["" if gone else pack(row) for row, gone in zip(right, lost, strict=True)]
    return packed_rows(arm, seeds, bits, right.shape[1])


def packed_rows(arm: str, seeds: Sequence[int], bits: Sequence[str], images: int) -> list[dict[str, Any]]:
    """Make the rows of `correct_rows` of what `pack` wrote.

    Example:
      >>> from ntkgen.studies import tables
      >>> tables.packed_rows("sgd", [0], ["88"], images=5)
      [{'arm': 'sgd', 'images': 5, 'seed': 0, 'bits': '88'}]
    """
    about = {"arm": arm, "images": images}
    return [{**about, "seed": seed, "bits": text} for seed, text in zip(seeds, bits, strict=True)]


def pack(right: np.ndarray) -> str:
    """Write booleans (images,) as hexadecimal digits, most significant bit first.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import tables
      >>> tables.pack(np.array([True, False, False, False, True]))
      '88'
    """
    return np.packbits(right).tobytes().hex()


def unpack(bits: str, images: int) -> np.ndarray:
    """Read what `pack` wrote: 0 and 1 (images,).

    Example:
      >>> from ntkgen.studies import tables
      >>> tables.unpack("88", images=5).tolist()
      [1, 0, 0, 0, 1]
    """
    return np.unpackbits(np.frombuffer(bytes.fromhex(bits), np.uint8), count=images)


def correctness(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Read the rows of `correct_rows`: arm -> 0 and 1 (seeds, images), NaN for a lost seed.

    Example:
      >>> from ntkgen.studies import tables
      >>> tables.correctness([{"arm": "sgd", "seed": "0", "images": "5", "bits": "88"}])["sgd"].tolist()
      [[1.0, 0.0, 0.0, 0.0, 1.0]]
    """
    arms: dict[str, list[np.ndarray]] = {}
    for row in rows:
        count = int(row["images"])
        right = unpack(row["bits"], count).astype(float) if row["bits"] else np.full(count, np.nan)
        arms.setdefault(row["arm"], []).append(right)
    return {arm: np.stack(found) for arm, found in arms.items()}


def cross(
    rows: Sequence[dict[str, Any]], right: Mapping[str, np.ndarray], metrics: Collection[str] = ("test_acc",)
) -> None:
    """Add to rows of `compare` of test accuracy in percent the interval over seeds and test images, in points.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import tables
      >>> accuracies = {"sgd": [75.0, 100.0], "gd": [50.0, 75.0]}
      >>> rows = tables.paired_tests("accuracy", "test_acc", accuracies, [("sgd", "gd")])
      >>> a, b = np.array([[1, 1, 0, 1], [1, 1, 1, 1]]), np.array([[1, 0, 0, 1], [1, 0, 1, 1]])
      >>> tables.cross(rows, {"sgd": a, "gd": b})
      >>> sorted(name for name in rows[0] if "crossed" in name)
      ['crossed_high', 'crossed_low', 'crossed_p']

    Args:
      rows: those of another metric get None.
      right: of `correctness`; an arm without it gets None.
      metrics: that are differences of accuracy.
    """
    for row in rows:
        row |= dict.fromkeys(("crossed_low", "crossed_high", "crossed_p"))
        a, b = right.get(row["first"]), right.get(row["second"])
        if row["metric"] not in metrics or a is None or b is None or row["difference"] is None:
            continue
        found = stats.crossed(a, b)
        row |= {"crossed_low": 100 * found.low, "crossed_high": 100 * found.high, "crossed_p": found.pvalue}


def adjust(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Fill in the p-values adjusted within each family (Benjamini and Hochberg), for both tests; returns all rows.

    Example:
      >>> from ntkgen.studies import tables
      >>> rows = [{"family": "accuracy", "paired_p": p, "welch_p": p} for p in (0.01, 0.04)]
      >>> [row["paired_adjusted"] for row in tables.adjust(rows)]
      [0.02, 0.04]
    """
    rows = list(rows)
    for _, members in itertools.groupby(sorted(rows, key=lambda row: row["family"]), key=lambda row: row["family"]):
        tested = [row for row in members if row["paired_p"] is not None]
        for kind in ("paired", "welch") if tested else ():
            _, adjusted = stats.false_discovery([row[f"{kind}_p"] for row in tested])
            for row, value in zip(tested, adjusted, strict=True):
                row[f"{kind}_adjusted"] = float(value)
    return rows


def at_equal_loss(
    about: Mapping[str, Any], a: Any, b: Any, targets: Sequence[float], margin: float
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Compare two arms at equal loss over all targets: one row that decides, and one for each target that does not.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import tables
      >>> a, b = np.array([[1.0, 1.1, 1.2], [2.0, 2.1, 2.2]]), np.array([[0.0, 0.2, 0.1], [1.0, 1.1, 1.1]])
      >>> row, each = tables.at_equal_loss({"family": "sharpness"}, a, b, targets=[0.1, 0.01], margin=0.5)
      >>> round(row["pvalue"], 3), len(each)
      (0.003, 2)

    Args:
      about: columns that both kinds of rows begin with; `family` for `adjust_single`.
      a: logarithms (targets, seeds), NaN where a target is not reached.
      b: likewise; differences are a - b.
      targets: losses, as text and order of the rows.
      margin: of the equivalence.

    Returns:
      The row, with the p-values of `stats.over_targets`, to be adjusted; and a row for each target, which has the
      difference and its interval and no p-value.
    """
    found = stats.over_targets(a, b, margin)
    known = found.difference[np.isfinite(found.difference)]
    tested = not found.undecided
    row = dict(about) | {"num_targets": found.num_targets}
    row |= {"lowest": float(known.min()) if known.size else None, "highest": float(known.max()) if known.size else None}
    row |= {"sign": found.sign, "pvalue": found.pvalue if tested else None, "adjusted": None}
    row |= {"equivalence_p": found.equivalence_p if tested else None, "equivalence_adjusted": None}
    row |= {"margin": margin, "num_pairs": found.num_pairs, "undecided": found.undecided}
    ends = {name: getattr(found, name) for name in ("difference", "low", "high")}
    points = [
        dict(about)
        | {"target": target}
        | {name: float(values[t]) if np.isfinite(values[t]) else None for name, values in ends.items()}
        for t, target in enumerate(targets)
    ]
    return row, points


def adjust_single(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjust the p-values of one family, as `adjusted`; rows without one stay as they are. Returns all rows.

    Example:
      >>> from ntkgen.studies import tables
      >>> rows = [{"family": "sharpness", "pvalue": p} for p in (0.01, 0.04)]
      >>> [row["adjusted"] for row in tables.adjust_single(rows)]
      [0.02, 0.04]
    """
    tested = [row for row in rows if row["pvalue"] is not None]
    if tested:
        _, adjusted = stats.false_discovery([row["pvalue"] for row in tested])
        for row, value in zip(tested, adjusted, strict=True):
            row["adjusted"] = float(value)
    return rows


def adjust_equivalence(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adjust the equivalence tests' p-values within each family, as `equivalence_adjusted`; returns all rows.

    Example:
      >>> from ntkgen.studies import tables
      >>> rows = [{"family": "accuracy", "equivalence_p": p} for p in (0.01, 0.04)]
      >>> [row["equivalence_adjusted"] for row in tables.adjust_equivalence(rows)]
      [0.02, 0.04]
    """
    for row in rows:
        row["equivalence_adjusted"] = None
    for family in dict.fromkeys(row["family"] for row in rows):
        own = [row for row in rows if row["family"] == family and row["equivalence_p"] is not None]
        if own:
            _, adjusted = stats.false_discovery([row["equivalence_p"] for row in own])
            for row, value in zip(own, adjusted, strict=True):
                row["equivalence_adjusted"] = float(value)
    return rows


def diverged(rows: Sequence[Mapping[str, Any]], name: Callable[[Mapping[str, Any]], str], most: int = 4) -> str:
    """Write a line for a figure's title that says of which arms seeds diverged; empty where none did.

    Example:
      >>> from ntkgen.studies import tables
      >>> rows = [{"rate": 0.1, "seed": 0, "diverged": 0}, {"rate": 0.9, "seed": 0, "diverged": 1}]
      >>> tables.diverged(rows, lambda row: f"rate {row['rate']}").strip()
      'diverged: rate 0.9 (1 of 1 seeds)'

    Args:
      rows: a row for each arm and seed, or several of the same; "diverged" is 0 or 1.
      name: of the row's arm.
      most: arms that are named; the others are counted.
    """
    seeds: dict[str, dict[int, bool]] = {}
    for row in rows:
        own = seeds.setdefault(name(row), {})
        own[int(row["seed"])] = own.get(int(row["seed"]), False) or str(row["diverged"]) == "1"
    found = [f"{arm} ({sum(own.values())} of {len(own)} seeds)" for arm, own in seeds.items() if any(own.values())]
    if not found:
        return ""
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return f"\ndiverged: {', '.join(found[:most])}{more}"


def cell(row: Mapping[str, Any], metric: str, digits: int = 2) -> str:
    """Print `mean [low, high]` by the t-interval of a summary row; says where no seed or one is left.

    Example:
      >>> from ntkgen.studies import tables
      >>> tables.cell({"num_seeds": 2, **tables.columns("acc", [96.0, 98.0])}, "acc")
      '97.00 [84.29, 109.71]'
    """
    mean, low, high = (row[f"{metric}_{end}"] for end in ("mean", "t_low", "t_high"))
    if mean is None:
        return "all lost"
    ends = f"[{low:.{digits}f}, {high:.{digits}f}]" if np.isfinite(low) else "[one seed]"
    return f"{mean:.{digits}f} {ends}"
