"""Are the minima that large batches find sharper, and does that depend on how sharpness is measured?

Hypotheses H1 and H2; sections IV-E and V-C.

    python experiments/loss_landscape.py --preset=quick          # embedded digits, about a minute on two cores
    python experiments/loss_landscape.py --dataset=mnist         # MLP 128 on 10,000 images, some minutes
    python experiments/loss_landscape.py --dataset=cifar10 --preset=small      # CNN 8 on 5,000 images, over an hour

Trains a small and a large batch for several seeds and measures both on every network: the top eigenvalue of the
Hessian by the paper's 30 power iterations and by Lanczos, on the paper's 1,000 samples and on more; ten eigenpairs,
trace and spectral density; the loss under random perturbation; adaptive sharpness, which rescaling weights leaves
alone; and, since curvature falls with the loss level itself, eigenvalue and sharpness at logit temperatures that
bring all networks to the same training losses. Then lines and surfaces around the solutions, and the way from one to
the other. The verdict says in which measures the difference is seen.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import common
import loss_landscape_rows
import loss_landscape_tables as study
from absl import flags
from loss_landscape_measure import Instruments, Network, Settings, networks, take
from loss_landscape_report import draw, same_protocol, show

from ntkgen import data, ensemble, landscape, models, paper, records, train
from ntkgen.data import SOURCES
from ntkgen.measure import correct
from ntkgen.records import Progress
from ntkgen.studies import tables

FLAGS = flags.FLAGS
common.define_shared(tuple(SOURCES))
flags.DEFINE_enum("model", None, ("mlp", "cnn"), "Network. Default: cnn for cifar10, else mlp.")
common.define(common.COUNT, "width", None, "Hidden width of the MLP. Default: the preset's.")
common.define(common.COUNT, "channels", None, "Base channels of the CNN. Default: the preset's.")
common.define(common.COUNT, "small_batch", 32, "Examples a step of the first arm.")
common.define(common.COUNT, "large_batch", 1024, "Examples a step of the second arm.")
common.define(common.POSITIVE, "small_lr", None, "Learning rate of the first arm. Default: the published table's.")
common.define(common.POSITIVE, "large_lr", None, "Learning rate of the second arm. Default: the published table's.")
flags.DEFINE_enum("schedule", "cosine", train.SCHEDULES, "Of the learning rate, by the epoch.")
common.define(common.COUNT, "hessian_samples", 1_000, "Training examples of the Hessian; the paper's number.")
common.define(common.COUNT, "many_samples", 4_096, "Training examples on which the top eigenvalue is measured again.")
common.define(
    common.POSITIVES,
    "matched_loss",
    (0.01, 0.03, 0.1),
    "Training cross-entropies (nats) at which all networks are compared, comma-separated; they decide together.",
)
common.define(common.POINTS, "line_points", None, "Points of each line. Default: the preset's.")
common.define(common.POINTS, "plane_points", None, "Points along each side of a surface. Default: the preset's.")

# Epochs and images of section V-C are not given; 80 and all images are those of section V-B, whose accuracies agree.
PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("paper", "cnn"): dict(channels=32, num_train=None, num_seeds=5, epochs=80, line_points=41, plane_points=25),
    ("paper", "mlp"): dict(width=128, num_train=10_000, num_seeds=5, epochs=100, line_points=41, plane_points=25),
    ("small", "cnn"): dict(channels=8, num_train=5_000, num_seeds=3, epochs=60, line_points=21, plane_points=15),
    ("small", "mlp"): dict(width=64, num_train=4_000, num_seeds=3, epochs=30, line_points=21, plane_points=25),
    ("quick", "mlp"): dict(width=64, num_train=None, num_seeds=5, epochs=150, line_points=21, plane_points=25),
    ("quick", "cnn"): dict(channels=2, num_train=None, num_seeds=2, epochs=40, line_points=13, plane_points=5),
}
EVALUATIONS = 12  # of loss and accuracy along training
EXAMPLES = 2_000  # of training and of test set behind every point of a CNN's lines and surfaces; an MLP takes 10,000


def resolve() -> dict[str, Any]:
    """Turn flags into the complete configuration of the study."""
    dataset = common.dataset()
    model = FLAGS.model or ("cnn" if dataset == "cifar10" else "mlp")
    common.refuse({"channels" if model == "mlp" else "width": f"--model={model}"})
    preset = PRESETS[FLAGS.preset, model]
    if common.own_size(dataset):
        preset = {**preset, "num_train": None}
    config = common.chosen(preset)
    config["size"] = config.pop("channels" if model == "cnn" else "width")
    for name in ("seed", "data_seed", "schedule", "hessian_samples", "many_samples", "matched_loss"):
        config[name] = FLAGS[name].value
    config["matched_loss"] = list(config["matched_loss"])
    config["label_noise"] = FLAGS.label_noise or 0.0
    for arm in ("small", "large"):
        batch, rate = FLAGS[f"{arm}_batch"].value, FLAGS[f"{arm}_lr"].value
        if rate is None and batch not in train.TABLE:
            known = ", ".join(map(str, train.TABLE))
            raise ValueError(f"--{arm}_batch: expected one of the table's {known}, or --{arm}_lr too, got {batch}")
        config[f"{arm}_batch"], config[f"{arm}_lr"] = batch, rate or train.scaled_learning_rate(batch)
    if config["small_batch"] >= config["large_batch"]:
        raise ValueError(f"--large_batch: expected more than the small batch's {config['small_batch']}, got {batch}")
    if config["line_points"] % 4 != 1 or config["line_points"] < 5:  # then both solutions are points of the line
        raise ValueError(f"--line_points: expected 5, 9, 13, ... (one more than a 4k), got {config['line_points']}")
    if config["plane_points"] % 2 == 0 or config["plane_points"] < 3:
        raise ValueError(f"--plane_points: expected an odd number of at least 3, got {config['plane_points']}")
    return {"dataset": dataset, "model": model, **config}


def prepare(config: dict[str, Any]) -> tuple[Any, data.Dataset, dict[str, train.Config], Settings]:
    """Check everything that can be wrong before anything is written."""
    dataset = data.load(
        config["dataset"],
        data_dir=FLAGS.data_dir,
        num_train=config["num_train"],
        label_noise=config["label_noise"],
        seed=config["data_seed"],
    )
    config["num_train"], config["data_digest"] = dataset.num_train, dataset.digest
    cnn = config["model"] == "cnn"
    model = models.CNN(config["size"]) if cnn else models.MLP(config["size"])
    config["num_params"] = models.num_params(model, dataset.train.x.shape[1:])
    flag = "channels" if cnn else "width"
    ensemble.check_fits(config["num_params"], f"--{flag}: {config['model']} {config['size']}")
    trainings = {}
    for arm in study.ARMS:
        short = arm.removesuffix("_batch")
        trainings[arm] = train.Config(
            epochs=config["epochs"],
            batch_size=config[arm],
            learning_rate=config[f"{short}_lr"],
            schedule=config["schedule"],
        )
        if config[arm] > dataset.num_train:
            raise ValueError(f"--{arm}: expected at most the {dataset.num_train} training examples, got {config[arm]}")
    settings = Settings(
        samples=min(config["hessian_samples"], dataset.num_train),
        many_samples=min(config["many_samples"], dataset.num_train),
        chunk=1024 if cnn else 4096,
        power_iters=paper.LOSS_LANDSCAPE_ITERATIONS,
        top_iters=100,
        pairs=10,
        pairs_iters=200,
        probes=3 if cnn else 5,
        steps=40,
        sigmas=landscape.SIGMAS,
        relative_sigmas=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0),
        draws=landscape.SAMPLES,
        average_rho=0.1,
        average_draws=20,
        worst_rho=0.5,
        worst_steps=20,
        unmoved=tuple(models.cancelled(model)),
        matched_losses=tuple(config["matched_loss"]),
        line_points=config["line_points"],
        plane_points=config["plane_points"],
        examples=EXAMPLES if cnn else 10_000,
    )
    config["settings"] = {name: list(v) if isinstance(v, tuple) else v for name, v in settings._asdict().items()}
    return model, dataset, trainings, settings


def train_all(
    run: records.Run, model: Any, dataset: data.Dataset, trainings: dict[str, train.Config], seeds: list[int]
) -> dict[str, ensemble.Result]:
    """Train both arms, all seeds of each."""
    epochs = next(iter(trainings.values())).epochs
    measured = sorted({max(1, epochs * i // EVALUATIONS) for i in range(1, EVALUATIONS + 1)})
    results = {}
    with Progress([1.0] * len(trainings), len(seeds), epochs) as progress:
        for index, (arm, training) in enumerate(trainings.items()):
            results[arm] = ensemble.fit(
                model,
                dataset,
                training,
                seeds,
                checkpoint=run.checkpointer(arm),
                progress=progress.part(index, arm.replace("_", " ")),
                evaluate_at=measured,
            )
    return results


def measure_all(
    run: records.Run, instruments: Instruments, results: dict[str, ensemble.Result], seeds: list[int]
) -> dict[str, list[dict[str, Any]]]:
    """Measure every network; what is finished is kept, and not measured again after a kill."""
    found: dict[str, list[dict[str, Any]]] = {}

    def part(name: str, compute: Callable[..., Any], *args: Any) -> None:
        def work() -> Any:
            begun = time.monotonic()
            rows = compute(*args)
            print(f"measured {name.replace('_', ' ')}, {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
            return rows

        for table, rows in run.kept(name, work).items():
            found.setdefault(table, []).extend(rows)

    nets = {arm: networks(result.variables, seeds) for arm, result in results.items()}
    for rows in instruments.groups(len(seeds)):
        own: Sequence[int] = seeds[rows]
        name = f"seeds_{own[0]}_{own[-1]}"
        some: dict[str, Network] = {arm: take(nets[arm], rows) for arm in study.ARMS}
        for arm in study.ARMS:
            part(f"{arm}_{name}_curvature", loss_landscape_rows.curvature, instruments, arm, own, some[arm])
            part(f"{arm}_{name}_around", loss_landscape_rows.around, instruments, arm, own, some[arm])
        part(f"between_{name}", loss_landscape_rows.between, instruments, own, *(some[arm] for arm in study.ARMS))
    for arm in study.ARMS:
        part(f"{arm}_surface", loss_landscape_rows.surface, instruments, arm, seeds[:1], take(nets[arm], slice(0, 1)))
    return found


def correct_rows(
    model: Any, dataset: data.Dataset, results: dict[str, ensemble.Result], seeds: list[int]
) -> list[dict[str, Any]]:
    """Make the rows of correct.csv: which test images the networks of each arm classify right."""
    rows = []
    for arm, result in results.items():
        f, test = models.apply_fn(model, result.variables), dataset.test
        right = correct(f, result.variables["params"], test.x, test.y)
        rows += tables.correct_rows(arm, seeds, right, result.diverged)
    return rows


def run_rows(
    config: dict[str, Any], results: dict[str, ensemble.Result], measured: list[dict[str, Any]], seeds: list[int]
) -> list[dict[str, Any]]:
    """Make runs.csv: training and measurements of every network."""
    found = {(row["arm"], row["seed"]): row for row in measured}
    rows = []
    for arm in study.ARMS:
        history, batch = results[arm].history, config[arm]
        for s, seed in enumerate(seeds):
            last = {name: float(values[s, -1]) for name, values in history.items()}
            train_acc, test_acc = 100 * last["train_accuracy"], 100 * last["test_accuracy"]
            rows.append(
                {
                    "arm": arm,
                    "batch_size": batch,
                    "learning_rate": config[arm.replace("_batch", "_lr")],
                    "seed": seed,
                    "steps": config["epochs"] * -(-config["num_train"] // batch),
                    "train_loss": last["train_loss"],
                    "train_acc": train_acc,
                    "test_loss": last["test_loss"],
                    "test_acc": test_acc,
                    "gap": train_acc - test_acc,
                    "diverged": int(results[arm].diverged[s]),
                    "interpolates": int(train_acc >= study.INTERPOLATES),
                    **{name: value for name, value in found[arm, seed].items() if name not in ("arm", "seed")},
                }
            )
    return rows


def stem(config: dict[str, Any]) -> str:
    """Name the figures after what a reader would want to tell apart."""
    parts = ["loss_landscape", config["dataset"]]
    if config["model"] != ("cnn" if config["dataset"] == "cifar10" else "mlp"):
        parts.append(config["model"])
    parts += [FLAGS.preset] if FLAGS.preset != "paper" else []
    for name in ("label_noise", "num_train", "epochs", "width", "channels", "small_batch", "large_batch", "schedule"):
        if FLAGS[name].present:
            parts.append(f"{name}{FLAGS[name].value}")
    return "_".join(parts)


NAMES = ("runs", "correct", "matched", "eigenvalues", "density", "perturbation", "lines", "plane")
DERIVED = ("summary", "tests", "equal_loss", "equal_loss_curves", "comparison")
WRITTEN = (*(f"{name}.csv" for name in (*NAMES, *DERIVED)), "verdict.json")


def main() -> None:
    """Run the study."""
    with contextlib.ExitStack() as stack:
        with common.user_errors():
            config = resolve()
            common.check_folders()
            model, dataset, trainings, settings = prepare(config)
            run = stack.enter_context(common.open_run("loss_landscape", config, WRITTEN))
        if run.finished:
            print(f"{run.folder} is finished; --force does it again")
        else:
            seeds = list(range(config["seed"], config["seed"] + config["num_seeds"]))
            results = train_all(run, model, dataset, trainings, seeds)
            instruments = Instruments(model, trainings["small_batch"], dataset, settings)
            measured = measure_all(run, instruments, results, seeds)
            measured["runs"] = run_rows(config, results, measured["runs"], seeds)
            measured["correct"] = correct_rows(model, dataset, results, seeds)
            for name in NAMES:
                run.write_table(f"{name}.csv", measured[name])
        found = {name: records.read_table(run.folder / f"{name}.csv") for name in NAMES}
        summary = study.summarise(found["runs"], found["matched"])
        rows = study.tests(found["runs"], found["perturbation"])
        tables.cross(rows, tables.correctness(found["correct"]))
        curves, points = study.equal_losses(found["matched"])
        verdict = study.judge(found["runs"], rows, curves)
        if not run.finished:
            run.write_table("summary.csv", summary)
            run.write_table("tests.csv", rows)
            run.write_table("equal_loss.csv", curves)
            run.write_table("equal_loss_curves.csv", points)
            run.write_table("comparison.csv", study.compare(found["runs"], rows, same_protocol(config)))
            run.write_json("verdict.json", verdict)
        show(config, summary, verdict)
        if FLAGS.figures_dir is None:
            paths = draw(run.folder, "", config, found)
        else:
            folder, name = Path(FLAGS.figures_dir), common.figure_name(run, stem(config))
            paths = draw(folder, f"{name}_", config, found)
            paths.append(records.write_table(folder / f"{name}.csv", summary))
            paths.append(records.write_table(folder / f"{name}_tests.csv", rows))
            paths.append(records.write_table(folder / f"{name}_equal_loss.csv", points))
        if not run.finished:
            run.finish()
        print("\n" + "\n".join(str(path) for path in [run.folder, *paths]))


if __name__ == "__main__":
    common.run(main)
