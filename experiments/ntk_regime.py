"""Do wide networks train as kernels?

Hypothesis H3; section V-E.

    python experiments/ntk_regime.py --preset=quick          # embedded digits, about a minute on two cores
    python experiments/ntk_regime.py --preset=small          # 2,000 images of MNIST, widths 32 ... 256
    python experiments/ntk_regime.py                         # the published widths 32 ... 4096 on 5,000 images
    python experiments/ntk_regime.py --lr=0.01 --widths=32,64,128,256,512 --noextras     # the appendix's rate

Trains MLPs of growing width and measures relative parameter movement (the paper's proxy), and what it stands for: how
far the tangent kernel itself moves, its alignment with the labels, and how well kernels and the linearised network
predict, each beside the network. With --tune networks and kernel regression are compared once more, with a rate and a
ridge chosen on held-out training images at every width. The extras fit the exponents in other limits of the width and
with squared loss.
"""

import contextlib
from pathlib import Path
from typing import Any

import common
from absl import flags
from ntk_regime_figures import draw
from ntk_regime_measure import LOSSES, Arm
from ntk_regime_parts import Study, measure
from ntk_regime_tables import (
    ARM,
    LAYERED,
    SUMMARISED,
    Runs,
    compare_with_paper,
    exponent_table,
    fit_exponents,
    judge,
    make_tests,
)
from ntk_regime_tuned_tables import KINDS, summarise_tuned, tuned_tests, who_predicts_better
from ntk_regime_tuning import measure as tune

from ntkgen import ensemble, models, paper, records, train
from ntkgen.data import SOURCES
from ntkgen.studies.tables import cell, correctness, cross, summarise

FLAGS = flags.FLAGS
common.define_shared(tuple(SOURCES))
flags.DEFINE_enum("subset", "random", ("random", "first"), "Which training images: a seeded draw, or the first ones.")
common.define(common.COUNTS, "widths", None, "Hidden widths. Default: the preset's.")
common.define(common.DEPTH, "depth", 4, "Dense layers, the output layer included.")
common.define(
    common.POSITIVE,
    "lr",
    None,
    "Learning rate of the standard network of width 32; other parametrisations start equally fast there. Default: the "
    "preset's; recovered by search (BUILD_NOTES.md) is 0.005 with paper, the appendix's is 0.01.",
)
common.define(common.COUNT, "batch_size", 128, "Examples a step.")
flags.DEFINE_enum("optimizer", "sgd", train.OPTIMIZERS, "sgd has momentum; gd takes full-batch steps.")
common.define(common.MOMENTUM, "momentum", None, "Of sgd and gd. Default: 0.9 for sgd, 0 for gd.")
flags.DEFINE_enum("schedule", "cosine", train.SCHEDULES, "Of the learning rate, by the epoch.")
flags.DEFINE_enum("loss", "cross_entropy", LOSSES, "What is minimised; mse is half the squared error.")
flags.DEFINE_enum("parametrization", "standard", models.PARAMETRIZATIONS, "Of the main networks; see models.MLP.")
flags.DEFINE_boolean("lr_over_width", False, "Rate x 128 / width: the standard parametrisation's kernel limit.")
flags.DEFINE_enum("vary", "both", train.VARY, "What differs between seeds: initialisation, batch order or both.")
flags.DEFINE_enum("strategy", "auto", ensemble.STRATEGIES, "How seeds are trained together.")
common.define(common.COUNT, "probe_images", 200, "Test images on which the kernel is followed, a seeded draw.")
common.define(common.COUNT, "kernel_test", 2_000, "Test images on which kernels predict, a seeded draw.")
common.define(common.NOT_NEGATIVE, "ridge", 1e-3, "Of kernel regression, in units of the kernel's mean diagonal.")
common.define(common.COUNTS, "kernel_widths", None, "Widths of kernel regression. Default: all.")
common.define(common.COUNTS, "linearised_widths", None, "Widths of the linearised network. Default: those up to 1024.")
common.define(common.COUNT, "linearised_seeds", 3, "Seeds of the linearised network, at most num_seeds.")
flags.DEFINE_boolean(
    "tune", None, "Compare networks and kernels with rate and ridge chosen on held-out training images. Default: not "
    "with quick."
)  # fmt: skip
common.define(
    common.POSITIVES,
    "tuned_rates",
    (0.005, 0.01, 0.02, 0.05, 0.1, 0.2),
    "Candidates for the rate, in the unit of --lr.",
)
common.define(
    common.POSITIVES, "tuned_ridges", (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), "Candidates for the ridge, as with --ridge."
)
common.define(common.COUNTS, "tuned_widths", None, "Widths at which both are chosen. Default: those up to 1024.")
common.define(common.COUNT, "tuning_seeds", 3, "Seeds of the choice, at most num_seeds; all are compared.")
flags.DEFINE_boolean("extras", None, "Train other limits and losses too. Default: not with quick or adam.")
common.define(common.COUNTS, "extra_widths", None, "Widths of the extras. Default: those up to 1024.")
common.define(common.COUNT, "extra_seeds", 3, "Seeds of the extras, at most num_seeds.")
common.define(common.POSITIVE, "target_cross_entropy", 0.6, "Training loss in nats at which movement is matched.")
common.define(common.POSITIVE, "target_mse", 0.25, "The same for half the squared error.")

PRESETS: dict[str, dict[str, Any]] = {
    "paper": dict(widths=tuple(paper.NTK), num_train=paper.NTK_EXAMPLES, num_seeds=5, epochs=60, lr=0.005),
    # As many steps as with paper.
    "small": dict(widths=(32, 64, 128, 256), num_train=2_000, num_seeds=3, epochs=150, lr=0.005),
    "quick": dict(widths=(16, 32, 64, 128), num_train=None, num_seeds=3, epochs=60, lr=0.05),
}
SAME = ("depth", "batch_size", "optimizer", "schedule", "loss", "parametrization", "lr_over_width", "vary", "strategy")
SAME += ("subset", "probe_images", "kernel_test", "ridge", "seed", "data_seed", "target_cross_entropy", "target_mse")


def resolve() -> dict[str, Any]:
    """Turn flags into the complete configuration of the study."""
    dataset = common.dataset()
    preset = {**PRESETS[FLAGS.preset], "label_noise": 0.0}
    if dataset in common.EMBEDDED:
        preset["num_train"] = None
    adam = FLAGS.optimizer == "adam"
    foreign = common.foreign_to_optimizer()
    foreign |= {"lr_over_width": f"--parametrization={FLAGS.parametrization}"} if limit_of_flags() == "" else {}
    common.refuse(foreign)
    if adam and (limit_of_flags() != "fixed" or FLAGS.extras):
        raise ValueError(
            "--optimizer: expected sgd or gd, whose rates the limits of the width are made for, got adam"
            " with --parametrization, --lr_over_width or --extras"
        )
    config = common.chosen(preset) | {name: FLAGS[name].value for name in SAME}
    config["extras"] = (FLAGS.preset != "quick" and not adam) if FLAGS.extras is None else FLAGS.extras
    widths = config["widths"] = list(config["widths"])
    tune_too = FLAGS.preset != "quick" if FLAGS.tune is None else FLAGS.tune
    if not tune_too:
        common.refuse(dict.fromkeys(("tuned_rates", "tuned_ridges", "tuned_widths", "tuning_seeds"), "no --tune"))
    limits = {"kernel_widths": widths[-1], "linearised_widths": 1024, "extra_widths": 1024}
    limits["tuned_widths"] = 1024 if tune_too else 0
    for name, largest in limits.items():
        given = FLAGS[name].value
        config[name] = [w for w in widths if w <= largest] if given is None else list(given)
    if config["extras"] and not config["extra_widths"]:
        if FLAGS.extras:
            raise ValueError(f"--extras: expected some --widths of up to 1024, or --extra_widths, got widths {widths}")
        config["extras"] = False
    if FLAGS.tune and not config["tuned_widths"]:
        raise ValueError(f"--tune: expected some --widths of up to 1024, or --tuned_widths, got widths {widths}")
    for name in ("kernel_widths", "linearised_widths", "tuned_widths"):
        if not set(config[name]) <= set(widths):
            raise ValueError(f"--{name}: expected some of the widths {widths}, got {config[name]}")
    for name in ("tuned_rates", "tuned_ridges"):
        config[name] = list(FLAGS[name].value)
    for name in ("linearised_seeds", "extra_seeds", "tuning_seeds"):
        config[name] = min(FLAGS[name].value, config["num_seeds"])
    return {"dataset": dataset, "momentum": FLAGS.momentum, **config}


def limit_of_flags() -> str:
    """Name the limit that the main networks follow; empty where the flags contradict each other."""
    if FLAGS.parametrization != "standard":
        return "" if FLAGS.lr_over_width else FLAGS.parametrization
    return "over_width" if FLAGS.lr_over_width else "fixed"


def published(config: dict[str, Any], main: Arm) -> dict[int, dict[str, float | None]]:
    """Give the paper's rows if this run follows its protocol, whatever the rate and the draw of images."""
    same = config["depth"] == 4 and config["num_train"] == paper.NTK_EXAMPLES and not config["label_noise"]
    if config["dataset"] != "mnist" or not same or main != Arm("cross_entropy", "fixed"):
        return {}
    return {width: row for width, row in paper.NTK.items() if width in config["widths"]}


def images(study: Study) -> str:
    """Say what was trained on."""
    which = {"all": "all", "random": "a random", "first": "the first"}[study.dataset.subset]
    return f"{which} {study.dataset.num_train:,} images"


def show_tuned(study: Study, fair: list[dict[str, Any]]) -> None:
    """Print test accuracies of networks and kernels after equal tuning, beside those at the given rate."""
    given = f"rate {study.config['lr']:g}" + (" (published movement)" if published(study.config, study.main) else "")
    print("\nrate and ridge chosen on held-out training images; accuracy on all test images")
    heads = (given, "linearised, that rate", "network, tuned", *(f"{kind} kernel" for kind in KINDS))
    print(f"{'width':>6} " + " ".join(f"{head:>31}" for head in heads))
    for row in fair:
        cells = [cell(row, "given_rate_test_acc"), cell(row, "linear_test_acc")]
        for name, chosen in (("test_acc", "learning_rate"), *((f"kernel_acc_{k}", f"ridge_{k}") for k in KINDS)):
            at = f" at {float(row[chosen]):g}" if row[chosen] != "" else ""
            cells.append(cell(row, name) + at)
        print(f"{row['width']:>6} " + " ".join(f"{each:>31}" for each in cells))


def show(
    study: Study,
    summary: list[dict[str, Any]],
    exponents: list[dict[str, Any]],
    fair: list[dict[str, Any]],
    said: list[dict],
) -> None:
    """Print the tables, the exponents and the statements."""
    config, known = study.config, published(study.config, study.main)
    print(f"\nMLP on {config['dataset']}, {images(study)}, {study.main.loss}, {study.main.limit}, rate "
          f"{config['lr']:g}; 95 % t-intervals")  # fmt: skip
    heads = ("relative movement", "published", "test accuracy", "published", "kernel drift", "1 - alignment")
    print(f"{'width':>6} " + " ".join(f"{head:>23}" if head != "published" else f"{head:>9}" for head in heads))
    for row in (row for row in summary if all(row[name] == getattr(study.main, name) for name in ARM)):
        paper_row = known.get(row["width"], {})
        cells = []
        for name, digits in (("relative_movement", 4), ("test_acc", 2), ("drift", 4), ("misalignment", 4)):
            cells.append(f"{cell(row, name, digits):>23}")
            if name in ("relative_movement", "test_acc"):
                cells.append(f"{paper_row.get(name) or '-':>9}")
        lost = f"  {row['num_diverged']} diverged" if row["num_diverged"] else ""
        print(f"{row['width']:>6} " + " ".join(cells) + lost)
    if fair:
        show_tuned(study, fair)
    print("\nexponents of the width")
    for row in exponents:
        if row["exponent"] is not None:
            print(f"  {row['loss']}, {row['limit']}, {row['at']}: {row['metric']} {row['exponent']:.3f} "
                  f"[{row['low']:.3f}, {row['high']:.3f}], widths {row['smallest']}-{row['largest']}")  # fmt: skip
    print("\nstatements")
    for each in said:
        where = f"{each['loss']}, {each['limit']}, {each['at']}"
        what = f"{each['metric']}, widths to {each['largest']}: " if "metric" in each else ""
        unsure = f" (detectable: {each['detectable']:.3g})" if each.get("detectable") is not None else ""
        print(f"  [{where}] {what}{each['question']} - {each['decision']}{unsure}")


WRITTEN = ("runs.csv", "drift.csv", "analytic.csv", "summary.csv", "comparison.csv", "exponents.csv", "tests.csv")
WRITTEN += ("correct.csv", "verdict.json")


def written(config: dict[str, Any]) -> tuple[str, ...]:
    """Name the files of a finished run."""
    return (*WRITTEN, "tuning.csv", "tuned.csv", "tuned_summary.csv") if config["tuned_widths"] else WRITTEN


def main() -> None:
    """Run the study."""
    with contextlib.ExitStack() as stack:
        with common.user_errors():
            config = resolve()
            common.check_folders()
            study = Study(config, limit_of_flags(), FLAGS.data_dir)
            run = stack.enter_context(common.open_run("ntk_regime", config, written(config)))
        if run.finished:
            print(f"{run.folder} is finished; --force does it again")
        else:
            *measured, right = measure(run, study)
            for name, rows in zip(("runs.csv", "drift.csv", "analytic.csv"), measured, strict=True):
                run.write_table(name, rows)
            if config["tuned_widths"]:
                *compared, more = tune(run, study)
                for name, rows in zip(("tuning.csv", "tuned.csv"), compared, strict=True):
                    run.write_table(name, rows)
                right += more
            run.write_table("correct.csv", right)
        tuned = records.read_table(run.folder / "tuned.csv") if config["tuned_widths"] else []
        rows, analytics = (records.read_table(run.folder / name) for name in ("runs.csv", "analytic.csv"))
        layered = [f"{name}_dense{i}" for i in range(config["depth"]) for name in LAYERED]
        summarised = (*SUMMARISED, *layered)
        summary = summarise([row | {"width": int(row["width"])} for row in rows], (*ARM, "width"), summarised)
        for row in summary:
            own = [each for each in rows if all(each[name] == str(row[name]) for name in (*ARM, "width"))]
            row["num_diverged"] = sum(int(each["diverged"]) for each in own)
            row["num_kernel_seeds"] = sum(each["kernel_acc_initial"] != "" for each in own)
            row["num_linear_seeds"] = sum(each["linear_test_acc"] != "" for each in own)
        runs, known = Runs(rows), published(config, study.main)
        narrower = (
            {study.main: [w for w in config["widths"] if w in config["extra_widths"]]} if config["extras"] else {}
        )
        fits = fit_exponents(runs, analytics, narrower, known)
        tests = make_tests(runs, fits, study.main, analytics, tuned_tests(tuned))
        right = correctness(records.read_table(run.folder / "correct.csv"))
        cross(tests, right, metrics={row["metric"] for row in tests})  # the arms' names say what is compared
        fair = summarise_tuned(tuned, runs)
        said = judge(tests) + who_predicts_better(tests)
        if not run.finished:
            run.write_table("summary.csv", summary)
            if fair:
                run.write_table("tuned_summary.csv", fair)
            beside = [row for row in summary if Arm(row["loss"], row["limit"]) == study.main]
            run.write_table("comparison.csv", compare_with_paper(beside, known))
            run.write_table("exponents.csv", exponent_table(fits))
            run.write_table("tests.csv", tests)
            run.write_json("verdict.json", said)
        show(study, summary, fits, fair, said)
        folder = run.folder if FLAGS.figures_dir is None else Path(FLAGS.figures_dir)
        prefix = "" if FLAGS.figures_dir is None else f"{common.figure_name(run, stem(config))}_"
        paths = draw(folder, prefix, config, images(study), study.main, runs, fits, analytics, known, fair)
        if FLAGS.figures_dir is not None:
            paths.append(records.write_table(folder / f"{prefix}summary.csv", summary))
            paths.append(records.write_table(folder / f"{prefix}exponents.csv", exponent_table(fits)))
            if fair:
                paths.append(records.write_table(folder / f"{prefix}tuned.csv", fair))
        if not run.finished:
            run.finish()
        print("\n" + "\n".join(str(path) for path in [run.folder, *paths]))


def stem(config: dict[str, Any]) -> str:
    """Name the figures after what a reader would want to tell apart."""
    parts = ["ntk_regime", config["dataset"]] + ([FLAGS.preset] if FLAGS.preset != "paper" else [])
    for name in ("lr", "loss", "parametrization", "lr_over_width", "subset", "num_train", "epochs", "depth",
                 "optimizer", "schedule", "vary", "label_noise"):  # fmt: skip
        if FLAGS[name].present:
            value = config[name]
            parts.append(f"{name}{value:g}" if isinstance(value, float) else f"{name}{value}")
    return "_".join(parts).replace("num_train", "n").replace("label_noise", "noise")


if __name__ == "__main__":
    common.run(main)
