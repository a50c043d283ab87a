"""What the double-descent study prints and draws."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ntkgen import paper, plotting
from ntkgen.studies import _answers, curves, tables
from ntkgen.studies.base import Derived, Prepared, Rows, Tables
from ntkgen.studies.double_descent._config import Config
from ntkgen.studies.double_descent._tables import Table, judge, summarise

SEEDS_AS_LINES = 5  # more would hide each other, and have quantiles that say something


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make summary, comparison, the table by epoch and the verdict from runs.csv."""
    config, table = prepared.config, Table(found["runs"])
    right = tables.correctness(found["correct"])
    summary, verdicts = summarise(table), judge(table, config.criterion, right)
    derived = {
        "summary": summary,
        "comparison": beside_published(config, summary, table.counts),
        "epochs": by_epoch(table),
    }
    text, short = words(config, summary, verdicts), answer(config, summary, verdicts)
    return Derived(derived, verdicts, text, answer=short)


def by_epoch(table: Table) -> Rows:
    """Make the table behind the epoch-wise figure: mean errors in percent by size and epoch.

    With t-intervals of the mean, and a tenth and nine tenths of the seeds.
    """
    rows = []
    for c, count in enumerate(table.counts):
        for k, size in enumerate(table.sizes):
            errors = {split: curves.curve(table.epochs, table.error[split][c, k].T) for split in ("test", "train")}
            seeds = {split: curves.quantiles(table.epochs, table.error[split][c, k].T) for split in errors}
            for e, epoch in enumerate(table.epochs):
                row: dict[str, Any] = {"num_train": count, "size": size, "epoch": epoch}
                for split, values in errors.items():
                    row |= {
                        f"{split}_error_{end}": round(getattr(values, end)[e], 4) for end in ("mean", "low", "high")
                    }
                    row |= {f"{split}_error_q10": round(seeds[split].low[e], 4)}
                    row |= {f"{split}_error_q90": round(seeds[split].high[e], 4)}
                rows.append(row)
    return rows


def published(config: Config, count: int) -> dict[int, dict[str, float | None]]:
    """Return the paper's rows if this run follows its protocol: clean labels, and its number of images where known."""
    key = config.model, config.dataset
    other_network = config.depth not in (None, 4) or bool(config.affine_norm)
    if config.label_noise or other_network or paper.DOUBLE_DESCENT_EXAMPLES.get(key, count) != count:
        return {}
    return paper.DOUBLE_DESCENT.get(key, {})


def beside_published(config: Config, summary: Rows, counts: list[int]) -> Rows:
    """Make comparison.csv: published accuracies beside ours, with t-intervals."""
    rows = []
    for count in counts:
        ours = {
            row["size"]: {
                f"{split}_acc": tuple(row[f"{split}_acc_{end}"] for end in ("mean", "t_low", "t_high"))
                for split in ("train", "test")
            }
            for row in summary
            if row["num_train"] == count
        }
        known = {size: published(config, count).get(size, {}) for size in ours}
        rows += [{"num_train": count, **row} for row in paper.compare(known, ours)]
    return rows


def figures(prepared: Prepared, found: Tables, derived: Derived) -> Iterator[tuple[str, Any]]:
    """Draw the model-wise, epoch-wise and, with several numbers of examples, sample-wise figures."""
    config, table = prepared.config, Table(found["runs"])
    unit = "channels" if config.model == "cnn" else "width"
    noise = f", {config.label_noise:.0%} label noise" if config.label_noise else ""
    about = f"{config.network_name} on {curves.called(config.dataset)}{noise}, {config.schedule} rate"
    about += f", {len(table.seeds)} seeds"
    intervals = ", 95% t-intervals"
    said = tables.diverged(lost(table), lambda row: f"{unit} {row['size']}")
    noisy = config.label_noise > 0
    for c, count in enumerate(table.counts):
        suffix = f"_n{count}" if len(table.counts) > 1 else ""
        final = {split: curves.curve(table.params, error[c, :, :, -1]) for split, error in table.error.items()}
        threshold = derived.verdict[c].get("threshold", {})
        line = None
        if threshold.get("params") is not None:
            low, high = (np.nan if threshold[end] is None else threshold[end] for end in ("low", "high"))
            line = threshold["params"], low, high
        yield (
            f"model_wise{suffix}",
            plotting.model_wise(
                final["test"],
                final["train"],
                table.sizes,
                unit,
                f"{about}{intervals}\n{count:,} examples{said}",
                line,
                published_points(table, published(config, count)),
                noisy_labels=noisy,
            ),
        )
        by_size, seeds = along_training(table, c)
        shown = "thin lines: seeds" if seeds else "bands: a tenth to nine tenths of the seeds"
        yield (
            f"epoch_wise{suffix}",
            plotting.epoch_wise(
                by_size, f"{about}, {count:,} examples; {shown}{said}", unit, seeds=seeds, noisy_labels=noisy
            ),
        )
    if len(table.counts) > 1:
        by_count = {
            str(size): curves.curve(table.counts, table.error["test"][:, k, :, -1])
            for k, size in enumerate(table.sizes)
        }
        yield "sample_wise", plotting.sample_wise(by_count, f"{about}{intervals}{said}", unit)


def along_training(
    table: Table, c: int
) -> tuple[dict[str, tuple[plotting.Curve, plotting.Curve]], dict[str, tuple[np.ndarray, np.ndarray]] | None]:
    """Return by size the errors against epochs, and those of the seeds where these are few enough for lines.

    The bands of more seeds are their middle four fifths. An interval of the mean over three seeds is wider than all of
    them together, so the intervals of several sizes would hide each other.
    """
    chosen = [k for k in range(len(table.sizes)) if k in spread(len(table.sizes))]
    pairs = {
        str(table.sizes[k]): tuple(
            curves.quantiles(table.epochs, table.error[split][c, k].T) for split in ("test", "train")
        )
        for k in chosen
    }
    few = len(table.seeds) <= SEEDS_AS_LINES
    lines = {str(table.sizes[k]): (table.error["test"][c, k], table.error["train"][c, k]) for k in chosen}
    return pairs, lines if few else None  # type: ignore[return-value]


def lost(table: Table) -> Rows:
    """Return a row for each size and seed that says whether it diverged."""
    return [
        {"size": size, "seed": seed, "diverged": int(table.diverged[c, k, s])}
        for c, _ in enumerate(table.counts)
        for k, size in enumerate(table.sizes)
        for s, seed in enumerate(table.seeds)
    ]


def published_points(table: Table, rows: dict[int, dict[str, float | None]]) -> dict[str, tuple[list, list]]:
    """Return the published errors by split: numbers of parameters, errors in percent."""
    points = {}
    for split in ("test", "train"):
        known = [
            (params, 100 - value)
            for params, size in zip(table.params, table.sizes, strict=True)
            if (value := rows.get(size, {}).get(f"{split}_acc")) is not None
        ]
        points[split] = ([p for p, _ in known], [e for _, e in known])
    return points


def spread(count: int, most: int = 6) -> set[int]:
    """Choose at most so many of 0 ... count - 1, the ends included."""
    return {round(i) for i in np.linspace(0, count - 1, min(count, most))}


def words(config: Config, summary: Rows, verdicts: list[dict[str, Any]]) -> str:
    """Write the table and the verdicts as text."""
    lines = []
    unit = "channels" if config.model == "cnn" else "width"
    for verdict in verdicts:
        count = verdict["num_train"]
        rows = published(config, count)
        lines.append(f"\n{config.network_name} on {config.dataset}, {count:,} examples; percent, 95 % t-intervals")
        lines.append(
            f"{unit:>8} {'parameters':>11} {'per example':>11} "
            f"{'train':>21} {'published':>9} {'test':>21} {'published':>9}"
        )
        for row in (row for row in summary if row["num_train"] == count):
            cells = []
            for split in ("train", "test"):
                known = rows.get(row["size"], {}).get(f"{split}_acc")
                cells += [tables.cell(row, f"{split}_acc"), "-" if known is None else f"{known:.1f}"]
            lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
            lines.append(
                f"{row['size']:>8} {row['num_params']:>11,} {row['params_per_example']:>11.2f} "
                f"{cells[0]:>21} {cells[1]:>9} {cells[2]:>21} {cells[3]:>9}{lost}"
            )
        found = verdict.get("threshold")
        if found:
            lines.append(
                f"interpolation threshold (training error {100 * verdict['criterion']:g} %): {_threshold_words(found)}"
            )
        if "peak" in verdict:
            peak = verdict["peak"]
            lines.append(
                f"peak near it: at {unit} {peak['size']} test error is {peak['rise']:+.2f} points against the best "
                f"smaller and {peak['fall']:+.2f} against the largest network, p = {peak['pvalue']:.4f}, "
                f"adjusted {peak['adjusted']:.4f}"
            )
        if "beyond" in verdict:
            fall = verdict["beyond"]
            lines.append(
                f"beyond it: test error changes by {-fall['fall']:+.2f} points "
                f"[{-fall['high']:+.2f}, {-fall['low']:+.2f}] from {unit} {fall['from_size']} to {fall['to_size']}, "
                f"paired p = {fall['pvalue']:.2g}, adjusted {fall['adjusted']:.2g}"
            )
            if fall.get("crossed_low") is not None:
                lines.append(
                    f"  over seeds and test images [{-fall['crossed_high']:+.2f}, {-fall['crossed_low']:+.2f}]"
                )
        lines.append(f"verdict: {verdict['verdict']}")
    return "\n".join(lines)


def answer(config: Config, summary: Rows, verdicts: list[dict[str, Any]]) -> str:
    """Write the verdicts, and with one number of examples the numbers behind them, in at most ten lines."""
    unit, lines = "channels" if config.model == "cnn" else "width", []
    for verdict in verdicts:
        which = f"{verdict['num_train']:,} examples: " if len(verdicts) > 1 else "verdict: "
        lines.append(f"{which}{verdict['verdict']}")
    if len(verdicts) > 1:
        return "\n".join(lines[:9] + ([f"and {len(lines) - 9} numbers of examples more"] if len(lines) > 9 else []))
    verdict = verdicts[0]
    first, last = summary[0], summary[-1]
    about = f"{config.network_name} on {config.dataset}, {verdict['num_train']:,} examples"
    lines += [f"{about}; mean test accuracy in percent, 95 % t-intervals"]
    lines += [f"  {unit} {row['size']}: {tables.cell(row, 'test_acc')}" for row in (first, last)]
    lines += _answers.diverged(summary)
    if found := verdict.get("threshold"):
        lines.append(f"threshold: {_threshold_words(found)}")
    if "peak" in verdict:
        peak = verdict["peak"]
        lines.append(
            f"peak near it: {peak['rise']:+.2f} points at {unit} {peak['size']}, adjusted p {peak['adjusted']:.2g}"
        )
    if "beyond" in verdict:
        fall = verdict["beyond"]
        lines.append(
            f"beyond it: {-fall['fall']:+.2f} points [{-fall['high']:+.2f}, {-fall['low']:+.2f}] of test error, "
            f"adjusted p {fall['adjusted']:.2g}"
        )
    return "\n".join(lines)


def _threshold_words(found: dict[str, Any]) -> str:
    words = []
    if found["params"] is not None:
        ends = "" if found["low"] is None else f" [{found['low']:,.0f}, {found['high']:,.0f}]"
        words.append(f"{found['params']:,.0f}{ends} parameters, {found['params_per_example']:.2f} per example")
    if found["num_at_smallest"]:
        words.append(f"{found['num_at_smallest']} seeds are below it at the smallest size already")
    if found["num_never"]:
        words.append(f"{found['num_never']} seeds never reach it")
    return "; ".join(words)
