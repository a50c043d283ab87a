"""What the lottery-ticket study prints, and its numbers beside the published ones."""

from collections.abc import Mapping, Sequence
from typing import Any

from lottery_ticket_config import same_protocol
from lottery_ticket_controls import ARMS
from lottery_ticket_verdict import RELATIONS

from ntkgen import paper
from ntkgen.studies import tables

PUBLISHED_FOR = "CNN on CIFAR-10"


def published_differences() -> dict[int, float]:
    """Give the published differences in points, by index of the relation; the text has lost the others."""
    ticket, whole, reinit = (_published(*arm) for arm in (("ticket", 10), ("ticket", 100), ("reinit", 10)))
    return {2: round(ticket - whole, 2), 3: round(ticket - reinit, 2)}


def published_losses() -> dict[str, tuple[list[float], list[float]]]:
    """Give the published differences to the whole network: arm -> percents of the weights, points."""
    whole = _published("ticket", 100)
    return {arm: ([10.0], [round(_published(arm, 10) - whole, 2)]) for arm in ("ticket", "reinit")}


def _published(arm: str, keep: int) -> float:
    value = paper.LOTTERY_TICKET[arm][keep]["test_acc"]
    assert value is not None
    return value


def compare(
    config: Mapping[str, Any], summary: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Make comparison.csv: published accuracies (by the same protocol) and differences beside ours.

    A published value is of `published_for`; whether our interval holds it is only asked of the same protocol.
    """
    same = same_protocol(config)
    rows = []
    for arm in config["arms"]:
        ours = {
            row["keep_percent"]: {"test_acc": tuple(row[f"test_acc_{end}"] for end in ("mean", "t_low", "t_high"))}
            for row in summary
            if row["arm"] == arm
        }
        known = paper.LOTTERY_TICKET.get(arm, {}) if same else {}
        rows += [{"arm": arm, **row} for row in paper.compare({k: known.get(k, {}) for k in ours}, ours)]
    for row, pair in zip(found, RELATIONS.values(), strict=True):
        theirs, mean = row["published"], row.get("difference")
        both = theirs is not None and mean is not None
        rows.append(
            {
                "arm": " - ".join(f"{arm} {keep}%" for arm, keep in pair), "setting": "difference",
                "metric": "test_acc", "published": theirs, "ours": mean, "low": row.get("low"),
                "high": row.get("high"), "difference": mean - theirs if both else None,
                "inside": row["low"] <= theirs <= row["high"] if both and same else None,
            }
        )  # fmt: skip
    for row in rows:
        row["published_for"] = "" if row["published"] is None else PUBLISHED_FOR
    return rows


def show(config: Mapping[str, Any], summary: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]) -> None:
    """Print the table and the verdicts."""
    print(
        f"\n{config['model'].upper()} on {config['dataset']}, {config['num_train']:,} examples, "
        f"{config['num_seeds']} seeds; test accuracy in percent, 95 % t-intervals"
    )
    print(
        f"{'arm':43} {'kept':>5} {'test':>21} {'train':>8} {'gap':>7} "
        f"{'epochs to loss ' + format(config['loss_threshold'], 'g'):>20}"
    )
    for row in sorted(summary, key=lambda row: list(ARMS).index(row["arm"])):
        train_acc, gap, epochs = (row[f"{name}_mean"] for name in ("train_acc", "gap", "epochs_to_loss"))
        reached = "never" if epochs is None else f"{epochs:.1f} ({row['num_reached_loss']} of {row['num_seeds']})"
        lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
        name = "whole network" if (row["arm"], row["keep_percent"]) == ("ticket", 100) else ARMS[row["arm"]].label
        cells = ["-" if value is None else f"{value:.2f}" for value in (train_acc, gap)]
        print(
            f"{name:43} {row['keep_percent']:>5g} {tables.cell(row, 'test_acc'):>21} {cells[0]:>8} {cells[1]:>7} "
            f"{reached:>20}{lost}"
        )
    every = "every epoch" if config["model"] == "mlp" else f"epochs {', '.join(map(str, config['evaluate_at']))}"
    print(f"epochs to the loss: mean of the seeds that reach it; losses are measured at the start and after {every}")
    for row in summary:
        if row["layers_emptied"]:
            print(f"emptied by the mask: {ARMS[row['arm']].label} {row['keep_percent']:g} %: {row['layers_emptied']}")
        if row["num_unmatched"]:
            print(
                f"no temperature brings the sample to {config['matched_loss']:g} nats: {ARMS[row['arm']].label} "
                f"{row['keep_percent']:g} %, {row['num_unmatched']} of {row['num_seeds']} seeds"
            )
    print("\npublished relations")
    for row in verdict["relations"]:
        _show_relation(row)
    print("\naccuracy less that of the whole network, points")
    for row in verdict["levels"]:
        _show_level(row["first"], row)
    _show_one_change(verdict["one_change"], verdict["mask_or_values"])
    _show_curvature(verdict["curvature"])


def _show_relation(row: Mapping[str, Any]) -> None:
    theirs = "" if row["published"] is None else f" (published for a {PUBLISHED_FOR} {row['published']:+.2f})"
    ours = ""
    if "difference" in row:
        ours = (
            f": {row['difference']:+.2f} points [{row['low']:+.2f}, {row['high']:+.2f}]{theirs}, "
            f"adjusted p for {row['adjusted_for']:.2g}, against {row['adjusted_against']:.2g}"
        )
    note = f" ({row['note']}, adjusted p {row['adjusted_better']:.2g})" if "note" in row else ""
    print(f"{row['claim']}{ours}; {row['verdict']}{note}")


def _show_one_change(pairs: Sequence[Mapping[str, Any]], worth: Sequence[Mapping[str, Any]]) -> None:
    """Print the pairs of arms that differ in one thing alone, and what mask and values are worth."""
    if pairs:
        print("\none thing changed, test accuracy of the first less that of the second, points")
    for row in pairs:
        arms = f"{row['first'].rsplit(' ', 1)[0]} - {row['second']}"
        _show_level(f"{row['changes']}: {arms} ({row['first_acc']:.2f} - {row['second_acc']:.2f} %)", row)
    if worth:
        print("\nthe mask alone, at equal scale, less the values alone, points")
    for row in worth:
        forms = "; ".join(
            f"{form['first'].rsplit(' ', 1)[0]}: {form['verdict']}"
            if form["difference"] is None
            else f"{form['first'].rsplit(' ', 1)[0]}: {form['difference']:+.2f} [{form['low']:+.2f}, "
            f"{form['high']:+.2f}], adjusted p {form['paired_adjusted']:.2g}"
            for form in row["forms"]
        )
        print(f"{row['keep_percent']:g} %: {row['verdict']} ({forms})")


def _show_level(name: str, row: Mapping[str, Any]) -> None:
    if row["difference"] is None:
        print(f"{name:14} {row['verdict']}")
        return
    same = row["called_equivalent_up_to"]
    power = "not even equal means" if same is None else f"true differences up to {same:.2f}"
    print(
        f"{name:14} {row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], adjusted p of a "
        f"difference {row['paired_adjusted']:.2g}, of equivalence {row['equivalence_adjusted']:.2g}: {row['verdict']} "
        f"(80 % power at alpha {row['detectable_alpha']:.2g}: finds {row['detectable']:.2f} or more, calls {power} "
        "equivalent)"
    )


def _show_curvature(found: Mapping[str, Any]) -> None:
    """Print both forms of a comparison in one line, where the matched form was measured in two pairs."""
    if not found["comparisons"]:
        return
    forms = found["forms"]
    print(f"\ncurvature, the first over the second\nas trained: {forms['as trained']}\nmatched: {forms['matched']}")
    beside: dict[tuple, dict[str, Mapping[str, Any]]] = {}
    for row in found["comparisons"]:
        beside.setdefault((row["metric"], row["first"], row["second"]), {})[row["form"]] = row
    unmeasured = 0
    for (metric, first, second), both in beside.items():
        matched = both.get("matched")
        if matched is None or matched["factor"] is None:
            unmeasured += 1
            continue
        raw = both.get("as trained")
        before = "" if raw is None or raw["factor"] is None else (
            f" (as trained {raw['factor']:.2f}, at losses {raw['first_loss']:.2g} and {raw['second_loss']:.2g})"
        )  # fmt: skip
        print(
            f"{metric} of {first} over {second}: matched {matched['factor']:.2f} [{matched['low']:.2f}, "
            f"{matched['high']:.2f}]{before}"
        )
    if unmeasured:
        print(f"{unmeasured} comparisons not measured at matched temperature in two pairs; verdict.json has them")
