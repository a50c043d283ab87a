"""What the lottery-ticket study derives from its measured tables, and prints."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ntkgen import paper
from ntkgen.studies import _answers, tables
from ntkgen.studies.base import Derived, Prepared, Tables
from ntkgen.studies.lottery_ticket._comparisons import overlap_tests, tests
from ntkgen.studies.lottery_ticket._config import PRESETS, Config
from ntkgen.studies.lottery_ticket._controls import ARMS, WHOLE
from ntkgen.studies.lottery_ticket._published import PUBLISHED_FOR, RELATIONS, compare_with_paper, test_published
from ntkgen.studies.lottery_ticket._tables import at_of, finals, summarise, summarise_overlaps
from ntkgen.studies.lottery_ticket._verdict import by_level, curvature, gave, mask_or_values, one_change

NOT_DEFINED = "overlap after matching units: not defined for this network"


def derive(prepared: Prepared, found: Tables) -> Derived:
    """Make the tables that follow from the measured ones, and the verdict."""
    config, num_train = prepared.config, prepared.facts["num_train"]
    rows = finals(found["runs"], found["measures"], config.loss_threshold)
    summary, tested, published = summarise(rows, found["sparsity"]), tests(rows), test_published(rows)
    verdict = {
        "relations": [row | {"control": gave(RELATIONS[claim].control, tested)} for claim, row in published.items()],
        "levels": by_level(tested, config.keep),
        "one_change": one_change(rows, tested, config.keep),
        "mask_or_values": mask_or_values(tested, config.keep),
        "curvature": curvature(rows, tested, config.matched_loss),
    }
    compared = list(tested.values())
    tables.cross(compared, tables.correctness(found["correct"]))
    derived = {
        "arms": [{"arm": arm, **ARMS[arm]._asdict()} for arm in config.arms],
        "summary": summary,
        "tests": compared + overlap_tests(found["overlaps"]),
        "overlap_summary": summarise_overlaps(found["overlaps"]),
        "comparison": compare_with_paper(config.arms, summary, published, same_protocol(config, num_train)),
    }
    text = "\n".join(_lines(config, num_train, summary, verdict))
    return Derived(derived, verdict, text, answer="\n".join(_short_lines(config, num_train, summary, verdict)))


def same_protocol(config: Config, num_train: int) -> bool:
    """Return whether the published accuracies belong beside this run's: CIFAR-10, 32 channels, 60 epochs, all images.

    And SGD, whatever its rate, with tickets pruned level by level.
    """
    return (
        (config.dataset, config.model, config.optimizer) == ("cifar10", "cnn", "sgd")
        and not (config.label_noise or config.one_shot or config.affine_norm)
        and config.channels == PRESETS["paper", "cnn"]["channels"]
        and config.epochs == paper.LOTTERY_TICKET_EPOCHS
        and num_train == 50_000
    )


def _lines(
    config: Config, num_train: int, summary: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the table and the verdicts, line by line."""
    yield (
        f"\n{config.network_name} on {config.dataset}, {num_train:,} examples, "
        f"{config.num_seeds} seeds; test accuracy in percent, 95 % t-intervals"
    )
    to_loss = f"epochs to loss {config.loss_threshold:g}"
    yield f"{'arm':43} {'kept':>5} {'test':>21} {'train':>8} {'gap':>7} {to_loss:>20}"
    for row in sorted(summary, key=lambda row: list(ARMS).index(row["arm"])):
        train_acc, gap, epochs = (row[f"{name}_mean"] for name in ("train_acc", "gap", "epochs_to_loss"))
        reached = "never" if epochs is None else f"{epochs:.1f} ({row['num_reached_loss']} of {row['num_seeds']})"
        lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
        name = "whole network" if at_of(row) == WHOLE else ARMS[row["arm"]].label
        cells = ["-" if value is None else f"{value:.2f}" for value in (train_acc, gap)]
        yield (
            f"{name:43} {row['keep_percent']:>5g} {tables.cell(row, 'test_acc'):>21} {cells[0]:>8} {cells[1]:>7} "
            f"{reached:>20}{lost}"
        )
    every = "every epoch" if config.model == "mlp" else f"epochs {', '.join(map(str, config.evaluate_at))}"
    yield f"epochs to the loss: mean of the seeds that reach it; losses are measured at the start and after {every}"
    for row in summary:
        if row["layers_emptied"]:
            yield f"emptied by the mask: {ARMS[row['arm']].label} {row['keep_percent']:g} %: {row['layers_emptied']}"
        if row["num_unmatched"]:
            yield (
                f"no temperature brings the sample to {config.matched_loss:g} nats: {ARMS[row['arm']].label} "
                f"{row['keep_percent']:g} %, {row['num_unmatched']} of {row['num_seeds']} seeds"
            )
    if config.model == "transformer":
        yield NOT_DEFINED
    yield "\npublished relations"
    yield from map(_relation_line, verdict["relations"])
    yield "\naccuracy less that of the whole network, points"
    yield from (_level_line(row["first"], row) for row in verdict["levels"])
    yield from _one_change_lines(verdict["one_change"], verdict["mask_or_values"])
    if verdict["curvature"]["comparisons"]:
        yield from _curvature_lines(verdict["curvature"])


def _short_lines(
    config: Config, num_train: int, summary: Sequence[Mapping[str, Any]], verdict: Mapping[str, Any]
) -> Iterator[str]:
    """Yield the published relations, what tickets lose, and which single changes are seen to matter."""
    for row in verdict["relations"]:
        words = row["verdict"]
        yield f"{row['claim']}: {words if words.endswith('not trained') else _answers.first_clause(words)}"
    tickets = [row for row in verdict["levels"] if row["first"].startswith("ticket ") and row["difference"] is not None]
    if tickets:
        shown = [f"{row['first'].split()[-1]} {row['difference']:+.2f}" for row in tickets]
        yield _answers.listed("tickets less the whole network, points", shown)
    higher: dict[str, list[str]] = {}
    for row in verdict["one_change"]:
        if row["verdict"].startswith("higher"):
            pair = f"{_without_level(row['first'])} - {_without_level(row['second'])}"
            higher.setdefault(pair, []).append(row["first"].split()[-1])
    seen = [f"{pair} at {' '.join(levels)}" for pair, levels in higher.items()]
    yield _answers.listed("one thing changed, and higher", seen, "; ")
    yield from _answers.diverged(summary)
    if config.model == "transformer":
        yield NOT_DEFINED
    yield f"{config.network_name} on {config.dataset}, {num_train:,} examples, {config.num_seeds} seeds"


def _relation_line(row: Mapping[str, Any]) -> str:
    theirs = "" if row["published"] is None else f" (published for a {PUBLISHED_FOR} {row['published']:+.2f})"
    ours = ""
    if "difference" in row:
        ours = (
            f": {row['difference']:+.2f} points [{row['low']:+.2f}, {row['high']:+.2f}]{theirs}, "
            f"adjusted p for {row['adjusted_for']:.2g}, against {row['adjusted_against']:.2g}"
        )
    note = f" ({row['note']}, adjusted p {row['adjusted_better']:.2g})" if "note" in row else ""
    return f"{row['claim']}{ours}; {row['verdict']}{note}"


def _one_change_lines(pairs: Sequence[Mapping[str, Any]], worth: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the pairs of arms that differ in one thing alone, and what mask and values are worth."""
    if pairs:
        yield "\none thing changed, test accuracy of the first less that of the second, points"
    for row in pairs:
        arms = f"{_without_level(row['first'])} - {row['second']}"
        yield _level_line(f"{row['changes']}: {arms} ({row['first_acc']:.2f} - {row['second_acc']:.2f} %)", row)
    if worth:
        yield "\nthe mask alone, at equal scale, less the values alone, points"
    for row in worth:
        forms = "; ".join(
            f"{_without_level(form['first'])}: {form['verdict']}"
            if form["difference"] is None
            else f"{_without_level(form['first'])}: {form['difference']:+.2f} [{form['low']:+.2f}, "
            f"{form['high']:+.2f}], adjusted p {form['paired_adjusted']:.2g}"
            for form in row["forms"]
        )
        yield f"{row['keep_percent']:g} %: {row['verdict']} ({forms})"


def _without_level(label: str) -> str:
    return label.rpartition(" ")[0]


def _level_line(name: str, row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return f"{name:14} {row['verdict']}"
    same = row["called_equivalent_up_to"]
    power = "not even equal means" if same is None else f"true differences up to {same:.2f}"
    return (
        f"{name:14} {row['difference']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}], adjusted p of a "
        f"difference {row['paired_adjusted']:.2g}, of equivalence {row['equivalence_adjusted']:.2g}: {row['verdict']} "
        f"(80 % power at alpha {row['detectable_alpha']:.2g}: finds {row['detectable']:.2f} or more, calls {power} "
        "equivalent)"
    )


def _curvature_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield both forms of a comparison in one line, where the matched form was measured in two pairs."""
    forms = found["forms"]
    yield f"\ncurvature, the first over the second\nas trained: {forms['as trained']}\nmatched: {forms['matched']}"
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
        yield (
            f"{metric} of {first} over {second}: matched {matched['factor']:.2f} [{matched['low']:.2f}, "
            f"{matched['high']:.2f}]{before}"
        )
    if unmeasured:
        yield f"{unmeasured} comparisons not measured at matched temperature in two pairs; verdict.json has them"
