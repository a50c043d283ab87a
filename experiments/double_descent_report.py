"""What the double-descent study prints and draws."""

from pathlib import Path
from typing import Any

import numpy as np
import tables
from double_descent_tables import Table

from ntkgen import paper, plotting


def published(config: dict[str, Any], count: int) -> dict[int, dict[str, float | None]]:
    """Give the paper's rows if this run follows its protocol: clean labels, and its number of images where known."""
    key = config["model"], config["dataset"]
    other_network = config.get("depth", 4) != 4 or config.get("affine_norm", False)
    if config["label_noise"] or other_network or paper.DOUBLE_DESCENT_EXAMPLES.get(key, count) != count:
        return {}
    return paper.DOUBLE_DESCENT.get(key, {})


def draw(folder: Path, prefix: str, config: dict[str, Any], table: Table, verdicts: list[dict[str, Any]]) -> list[Path]:
    """Draw the model-wise, epoch-wise and, with several numbers of examples, sample-wise figures."""
    unit = "width" if config["model"] == "mlp" else "channels"
    noise = f", {config['label_noise']:.0%} label noise" if config["label_noise"] else ""
    about = (
        f"{config['model'].upper()} on {config['dataset']}{noise}, {config['schedule']} rate, {len(table.seeds)} seeds"
    )
    about += ", 95% t-intervals"
    lost = [
        {"size": size, "seed": seed, "diverged": int(table.diverged[c, k, s])}
        for c, _ in enumerate(table.counts)
        for k, size in enumerate(table.sizes)
        for s, seed in enumerate(table.seeds)
    ]
    about += tables.diverged(lost, lambda row: f"{unit} {row['size']}")
    paths = []
    for c, count in enumerate(table.counts):
        suffix = f"_n{count}" if len(table.counts) > 1 else ""
        final = {split: tables.curve(table.params, error[c, :, :, -1]) for split, error in table.error.items()}
        rows = published(config, count)
        points = {}
        for split in ("test", "train"):
            known = [
                (table.params[k], 100 - rows[size][f"{split}_acc"])
                for k, size in enumerate(table.sizes)
                if rows.get(size, {}).get(f"{split}_acc") is not None
            ]
            points[split] = ([p for p, _ in known], [e for _, e in known])
        found = verdicts[c].get("threshold", {})
        line = None
        if found.get("params") is not None:
            line = tuple(np.nan if found[end] is None else found[end] for end in ("params", "low", "high"))
        figure = plotting.model_wise(
            final["test"], final["train"], table.sizes, unit, f"{about}\n{count:,} examples", line, points
        )
        paths.append(plotting.save(figure, folder / f"{prefix}model_wise{suffix}.png"))
        curves = {
            str(size): tuple(tables.curve(table.epochs, table.error[split][c, k].T) for split in ("test", "train"))
            for k, size in enumerate(table.sizes)
            if k in spread(len(table.sizes))
        }
        figure = plotting.epoch_wise(curves, f"{about}, {count:,} examples", unit)
        paths.append(plotting.save(figure, folder / f"{prefix}epoch_wise{suffix}.png"))
    if len(table.counts) > 1:
        curves = {
            str(size): tables.curve(table.counts, table.error["test"][:, k, :, -1])
            for k, size in enumerate(table.sizes)
        }
        figure = plotting.sample_wise(curves, about, unit)
        paths.append(plotting.save(figure, folder / f"{prefix}sample_wise.png"))
    return paths


def spread(count: int, most: int = 6) -> set[int]:
    """Choose at most so many of 0 ... count - 1, the ends included."""
    return {round(i) for i in np.linspace(0, count - 1, min(count, most))}


def show(config: dict[str, Any], summary: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> None:
    """Print the table and the verdicts."""
    unit = "width" if config["model"] == "mlp" else "channels"
    for verdict in verdicts:
        count = verdict["num_train"]
        rows = published(config, count)
        print(f"\n{config['model'].upper()} on {config['dataset']}, {count:,} examples; percent, 95 % t-intervals")
        print(
            f"{unit:>8} {'parameters':>11} {'per example':>11} "
            f"{'train':>21} {'published':>9} {'test':>21} {'published':>9}"
        )
        for row in (row for row in summary if row["num_train"] == count):
            cells = []
            for split in ("train", "test"):
                known = rows.get(row["size"], {}).get(f"{split}_acc")
                cells += [tables.cell(row, f"{split}_acc"), "-" if known is None else f"{known:.1f}"]
            lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
            print(
                f"{row['size']:>8} {row['num_params']:>11,} {row['params_per_example']:>11.2f} "
                f"{cells[0]:>21} {cells[1]:>9} {cells[2]:>21} {cells[3]:>9}{lost}"
            )
        found = verdict.get("threshold")
        if found:
            print(
                f"interpolation threshold (training error {100 * verdict['criterion']:g} %): {_threshold_words(found)}"
            )
        if "peak" in verdict:
            peak = verdict["peak"]
            print(
                f"peak near it: at {unit} {peak['size']} test error is {peak['rise']:+.2f} points against the best "
                f"smaller and {peak['fall']:+.2f} against the largest network, p = {peak['pvalue']:.4f}, "
                f"adjusted {peak['adjusted']:.4f}"
            )
        if "beyond" in verdict:
            fall = verdict["beyond"]
            print(
                f"beyond it: test error changes by {-fall['fall']:+.2f} points "
                f"[{-fall['high']:+.2f}, {-fall['low']:+.2f}] from {unit} {fall['from_size']} to {fall['to_size']}, "
                f"paired p = {fall['pvalue']:.2g}, adjusted {fall['adjusted']:.2g}"
            )
            if fall.get("crossed_low") is not None:
                print(f"  over seeds and test images [{-fall['crossed_high']:+.2f}, {-fall['crossed_low']:+.2f}]")
        print(f"verdict: {verdict['verdict']}")


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
