"""Which minima does SGD find? Batch size, flatness and generalization, with the controls that could tell why.

Hypotheses H1 and H2; section V-B.

    python experiments/implicit_regularization.py --preset=quick           # embedded digits, about a minute
    python experiments/implicit_regularization.py --dataset=mnist          # nine configurations and every control
    python experiments/implicit_regularization.py --dataset=cifar10 --preset=small
    python experiments/implicit_regularization.py --dataset=cifar10 --controls=plain --only=gd,gd_plain

Trains the published configurations (SGD with batches of 32 ... 2048, Adam, full-batch GD) and controls that change one
thing at a time: equal numbers of updates, GD with a tuned rate, injected gradient noise, SAM. Every network's
sharpness is measured raw, at matched training loss along training, and at matched logit temperature.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import common
import implicit_regularization_arms as arms
import implicit_regularization_measures as measures
import implicit_regularization_tables as tables
from absl import flags
from implicit_regularization_figures import draw
from implicit_regularization_verdict import judge, show

from ntkgen import data, ensemble, models, paper, records, train
from ntkgen.data import SOURCES
from ntkgen.records import Progress

FLAGS = flags.FLAGS
common.define_shared(tuple(SOURCES))
MATCHES = ("epochs", "steps", "both")
TRACKS = ("all", "light")
flags.DEFINE_enum("model", None, ("mlp", "cnn"), "Network. Default: cnn for cifar10, else mlp.")
common.define(common.COUNT, "width", None, "Hidden width of the MLP. Default: the preset's.")
common.define(common.COUNT, "channels", None, "Base channels of the CNN. Default: the preset's.")
common.define(common.COUNTS, "batch_sizes", None, "Of the SGD configurations. Default: the preset's.")
flags.DEFINE_enum("lr_scaling", "table", train.SCALINGS, "Learning rate of SGD by batch size; table is the published.")
common.define(common.POSITIVE, "lr", 0.01, "Learning rate at --reference, for scalings other than table.")
common.define(common.COUNT, "reference", 128, "Batch size whose updates, rate and noise the controls match.")
flags.DEFINE_enum(
    "match",
    "epochs",
    MATCHES,
    "What SGD configurations have in common: epochs (the published protocol), steps (the updates of --reference), or "
    "both sets of runs.",
)
common.define(
    common.Names(*arms.CONTROLS),
    "controls",
    None,
    "steps: larger batches at --reference's updates. gd: full batch, its updates, tuned rate. plain: the published "
    "full batch, no momentum. noise: full and largest batch at its updates and rate, without noise, with noise drawn "
    "afresh at every step, with noise that sums to zero over its epochs. sam: at --reference. Default: the preset's.",
)
flags.DEFINE_list(
    "only",
    [],
    "Train and measure these arms (named as in runs.csv), print them beside the published values, and stop. They are "
    "kept: the same command without --only does the rest.",
)
common.define(common.POSITIVE, "sam_rho", 0.05, "Radius of SAM.")
common.define(common.COUNT, "curvature_samples", 1000, "Training examples behind every measurement (the first).")
common.define(common.POINTS, "snapshots", None, "Epochs along training that are measured. Default: the preset's.")
flags.DEFINE_enum(
    "track", None, TRACKS, "Measures along training: all, or light, without traces and worst cases. Default: preset's."
)

BATCHES = tuple(train.TABLE)
# None for num_train: all there are.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "mlp"): dict(
        width=128, num_train=10_000, num_seeds=5, epochs=30, batch_sizes=BATCHES, controls=arms.CONTROLS,
        snapshots=12, track="all", label_noise=0.0,
    ),
    # Channels and number of images are lost; 85 % within 80 epochs take all images, and 32 channels fit the text.
    ("paper", "cnn"): dict(
        channels=32, num_train=None, num_seeds=5, epochs=80, batch_sizes=BATCHES, controls=(), snapshots=12,
        track="all", label_noise=0.0,
    ),
    ("small", "mlp"): dict(
        width=128, num_train=2_000, num_seeds=3, epochs=30, batch_sizes=(32, 128, 512), controls=arms.CONTROLS,
        snapshots=8, track="all", label_noise=0.0,
    ),
    ("small", "cnn"): dict(
        channels=8, num_train=5_000, num_seeds=3, epochs=60, batch_sizes=(32, 128, 512, 2048), controls=(),
        snapshots=6, track="light", label_noise=0.0,
    ),
    ("quick", "mlp"): dict(
        width=64, num_train=None, num_seeds=3, epochs=200, batch_sizes=(32, 128, 512), controls=("sam",), snapshots=6,
        track="all", label_noise=0.0,
    ),
    ("quick", "cnn"): dict(
        channels=2, num_train=None, num_seeds=2, epochs=10, batch_sizes=(32, 128, 512), controls=(), snapshots=3,
        track="light", label_noise=0.0,
    ),
}  # fmt: skip


def resolve() -> dict[str, Any]:
    """Turn flags into the complete configuration of the study."""
    dataset = common.dataset()
    model = FLAGS.model or ("cnn" if dataset == "cifar10" else "mlp")
    foreign = {"channels" if model == "mlp" else "width": f"--model={model}"}
    foreign |= {"lr": "--lr_scaling=table"} if FLAGS.lr_scaling == "table" else {}
    common.refuse(foreign)
    preset = PRESETS[FLAGS.preset, model]
    if common.own_size(dataset):
        preset = {**preset, "num_train": None}
    config = common.chosen(preset)
    for name in ("seed", "data_seed", "lr_scaling", "reference", "match", "curvature_samples"):
        config[name] = FLAGS[name].value
    if FLAGS.lr_scaling != "table":
        config["lr"] = FLAGS.lr
    if "sam" in config["controls"]:
        config["sam_rho"] = FLAGS.sam_rho
    return {"dataset": dataset, "model": model, **config, **arms.PROTOCOL, **tables.FIXED}


def prepare(config: dict[str, Any]) -> tuple[Any, data.Dataset]:
    """Check everything that can be wrong before anything is written."""
    dataset = data.load(
        config["dataset"],
        data_dir=FLAGS.data_dir,
        num_train=config["num_train"],
        label_noise=config["label_noise"],
        seed=config["data_seed"],
    )
    count = config["num_train"] = dataset.num_train
    config["data_digest"] = dataset.digest
    if not FLAGS["batch_sizes"].present:  # a preset's batches are for its own number of images
        config["batch_sizes"] = tuple(size for size in config["batch_sizes"] if size <= count)
    for name in ("batch_sizes", "controls"):
        config[name] = list(config[name])
    config["gd_images"] = min(paper.IMPLICIT_GD_IMAGES, count)
    if not 3 <= config["curvature_samples"] <= config["gd_images"]:
        expected = f"3 to {config['gd_images']}, the images that full-batch GD sees"
        if FLAGS["curvature_samples"].present:
            raise ValueError(f"--curvature_samples: expected {expected}, got {config['curvature_samples']}")
        config["curvature_samples"] = config["gd_images"]
    if config["reference"] not in config["batch_sizes"]:
        listed = ",".join(map(str, config["batch_sizes"]))
        raise ValueError(f"--reference: expected one of --batch_sizes={listed}, got {config['reference']}")
    network = models.MLP(config["width"]) if config["model"] == "mlp" else models.CNN(config["channels"])
    shape = dataset.train.x.shape[1:]
    config["num_params"] = models.num_params(network, shape)
    config["unmoved"] = models.cancelled(network)  # no effect on the function: adaptive sharpness leaves them alone
    size = "width" if config["model"] == "mlp" else "channels"
    ensemble.check_fits(config["num_params"], f"--{size}: {config['model']} {config[size]}")
    plan = arms.build(config, config["gd_grid"][0])
    for arm in plan:
        if arm.noise and arm.batch <= arm.noise:
            expected = f"batches of more than the {arm.noise} of --reference"
            raise ValueError(f"--controls=noise: expected {expected}, got {arm.batch} in {arm.name}")
        train.Program.of(network, arm.training, arm.images, arm.update)
    names = [arm.name for arm in plan]
    unknown = [name for name in FLAGS.only if name not in names]
    if unknown:
        raise ValueError(f"--only: expected some of {', '.join(names)}, got {unknown[0]}")
    return network, dataset


def tune(run: records.Run, config: dict[str, Any], network: Any, dataset: data.Dataset) -> float:
    """Choose GD's learning rate by final training loss: first seed, a part of the updates; written as tuning.csv."""

    def work() -> list[dict[str, Any]]:
        rows = []
        for rate in config["gd_grid"]:
            training = arms.tuning(config, rate)
            result = ensemble.fit(
                network,
                dataset,
                training,
                [config["seed"]],
                evaluate_at=[training.epochs],
                checkpoint=run.checkpointer(f"tune_{rate:g}"),
            )
            loss, accuracy = (float(result.history[f"train_{name}"][0, -1]) for name in ("loss", "accuracy"))
            rows.append({"learning_rate": rate, "steps": training.epochs, "seed": config["seed"], "train_loss": loss})
            rows[-1] |= {"train_acc": 100 * accuracy, "diverged": int(result.diverged[0])}
        kept = [row["train_loss"] for row in rows if not row["diverged"]]
        for row in rows:
            row["chosen"] = int(bool(kept) and not row["diverged"] and row["train_loss"] == min(kept))
        return rows

    rows = run.kept("tuning", work)
    run.write_table("tuning.csv", rows)
    return min((row["learning_rate"] for row in rows if row["chosen"]), default=min(config["gd_grid"]))


def train_and_measure(run: records.Run, config: dict[str, Any], network: Any, dataset: data.Dataset) -> None:
    """Train every arm (or those of --only) and measure its networks; the tables of an arm that is done are kept."""
    tuned = "gd" in config["controls"] and (not FLAGS.only or "gd_tuned" in FLAGS.only)
    rate = tune(run, config, network, dataset) if tuned else config["gd_grid"][0]
    plan = [arm for arm in arms.build(config, rate) if not FLAGS.only or arm.name in FLAGS.only]
    seeds = list(range(config["seed"], config["seed"] + config["num_seeds"]))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in measures.TABLES}
    with Progress([arm.images for arm in plan], len(seeds), [arm.training.epochs for arm in plan]) as progress:
        for index, arm in enumerate(plan):

            def work(arm: arms.Arm = arm, index: int = index) -> dict[str, list[dict[str, Any]]]:
                own = dataset
                if arm.images < dataset.num_train:
                    split = data.Split(*(leaf[: arm.images] for leaf in dataset.train))
                    own = dataclasses.replace(dataset, train=split)
                result = ensemble.fit(
                    network,
                    own,
                    arm.training,
                    seeds,
                    update=arm.update,
                    probes=(arm.snapshots, arms.snapshot),
                    evaluate_at=arm.snapshots[1:],
                    checkpoint=run.checkpointer(arm.name),
                    progress=progress.part(index, arm.name),
                )
                return measures.measure_arm(config, arm, network, own, seeds, result)

            for name, rows in run.kept(f"arm_{arm.name}", work).items():
                found[name] += rows
    run.write_json("arms.json", {arm.name: arm.describe() for arm in plan})
    for name, rows in found.items():
        run.write_table(name, rows)


def stem(config: dict[str, Any]) -> str:
    """Name the figures after what a reader would want to tell apart."""
    parts = ["implicit_regularization", config["dataset"]]
    if config["model"] != ("cnn" if config["dataset"] == "cifar10" else "mlp"):
        parts.append(config["model"])
    parts += [FLAGS.preset] if FLAGS.preset != "paper" else []
    for name in ("num_train", "epochs", "width", "channels", "label_noise", "match", "lr_scaling"):
        if name in FLAGS and FLAGS[name].present and name in config:
            parts.append(f"{name}{config[name]}")
    return "_".join(parts).replace("num_train", "n").replace("label_noise", "noise")


def show_comparison(study: tables.Study) -> str:
    """Write the rows of comparison.csv as text."""

    def text(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    lines = [f"{'arm':>22} {'metric':>10} {'published':>9} {'ours':>7} 95 % t-interval, {len(study.seeds)} seeds"]
    for row in study.comparison():
        published, ours, low, high = (text(row[name]) for name in ("published", "ours", "low", "high"))
        lines.append(f"{row['setting']:>22} {row['metric']:>10} {published:>9} {ours:>7} [{low}, {high}]")
    return "\n".join(lines)


WRITTEN = (*measures.TABLES, "arms.json", "summary.csv", "comparison.csv", "tests.csv", "verdict.json")


def main() -> None:
    """Run the study."""
    with contextlib.ExitStack() as stack:
        with common.user_errors():
            config = resolve()
            common.check_folders()
            network, dataset = prepare(config)
            run = stack.enter_context(common.open_run("implicit_regularization", config, WRITTEN))
        if run.finished:
            print(f"{run.folder} is finished; --force does it again")
        else:
            train_and_measure(run, config, network, dataset)
        some = bool(FLAGS.only) and not run.finished
        read = {name: records.read_table(run.folder / name) for name in measures.TABLES}
        study = tables.Study(config, *(read[name] for name in measures.TABLES))
        if some:
            run.write_table("comparison.csv", study.comparison())
            print(f"{show_comparison(study)}\n\n{run.folder}")
            return
        tests = study.tests()
        relations, curves = study.equal_losses()
        verdict = judge(study, tests, relations)
        # Also of a finished run: they follow from the measured tables by arithmetic, and may follow better today.
        run.write_table("summary.csv", study.summary())
        run.write_table("comparison.csv", study.comparison())
        run.write_table("tests.csv", tests)
        rest = {"equal_loss": relations, "equal_loss_curves": curves, "trends": study.trends()}
        rest |= {"associations": study.associations(), "matched_summary": study.matched_summary()}
        for name, rows in rest.items():
            if rows:  # none with a single batch size and without controls
                run.write_table(f"{name}.csv", rows)
        run.write_json("verdict.json", verdict)
        print(show(study, verdict))
        if FLAGS.figures_dir is None:
            paths = draw(study, run.folder, "")
        else:
            folder, name = Path(FLAGS.figures_dir), common.figure_name(run, stem(config))
            paths = draw(study, folder, f"{name}_")
            paths.append(records.write_table(folder / f"{name}.csv", study.summary()))
            paths.append(records.write_table(folder / f"{name}_equal_loss.csv", study.matched_summary()))
        run.finish()
        print("\n" + "\n".join(str(path) for path in [run.folder, *paths]))


if __name__ == "__main__":
    common.run(main)
