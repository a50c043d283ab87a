"""The study as a user runs it: what it writes, what it refuses, and going on after a kill.

Every run is a process, a fork of one that has imported everything; the run that others are compared with is a process
of its own. A compilation cache that they share saves most of their time; whether it was filled makes no difference to a
single byte, as the comparisons below show.
"""

import ast
import io as bytesio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from ntkgen import cli, io, paper, records, studies, train
from ntkgen.studies import options

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / "experiments" / "double_descent.py"
# Scripts with a command line; workers of benchmarks have none.
SCRIPTS = sorted(path for path in STUDY.parent.rglob("*.py") if re.search(r"cli\.(main|script)\(", path.read_text()))
TINY = ["--dataset=digits", "--depth=2", "--num_seeds=2", "--batch_size=64"]
SIZES, COUNTS, EPOCHS = (4, 8, 16), (150, 300), 3
SWEEP = [*TINY, "--nopad_widths", "--widths=4,8,16", "--num_train=150,300", f"--epochs={EPOCHS}", "--criterion=0.7"]

# Runs a study with a checkpoint after every epoch. LOG gets a line for each epoch trained; KILL is where the process
# kills itself, as `kill -9` would at that moment; HOLD is where it stops and waits for ever.
WRAPPER = """
import os, runpy, signal, sys, time
from pathlib import Path
from ntkgen import ensemble, io, records
from ntkgen.records import _run_folder
from ntkgen.records._checkpoints import SUMS
import orbax.checkpoint as ocp

script, log, kill, hold = sys.argv[1], *(os.environ.get(name, "") for name in ("LOG", "KILL", "HOLD"))
_run_folder.EVERY_SECONDS = 0.0
records.Run.checkpointer.__defaults__ = (0.0,)
saves, part = [0], [None]

def event(name):
    if name == kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if name == hold:
        print("holding", flush=True)
        time.sleep(600)

def note(text):
    if log:
        with open(log, "a") as file:
            file.write(text + "\\n")

fit, save, write, replace = records.Run.fit, records.Checkpointer.save, io.atomic_write, os.replace
finalize = ocp.StandardCheckpointHandler.finalize

def named_fit(self, name, *args, **kwargs):
    part[0] = name
    return fit(self, name, *args, **kwargs)

def counted_save(self, epoch, tree, *, final):
    saves[0] += 1
    note(f"{part[0] or self.folder.name} {epoch}")
    event(f"before save {saves[0]}")
    save(self, epoch, tree, final=final)
    event(f"after save {saves[0]}")

def marked_finalize(self, *args, **kwargs):  # Orbax has written everything, under its temporary name
    event(f"within save {saves[0]}")
    finalize(self, *args, **kwargs)

def marked_write(path, data):
    path = Path(path)
    event(f"before {path.name} {saves[0]}" if path.name == SUMS else f"before {path.name}")
    write(path, data)

def marked_replace(one, two, **kwargs):
    event(f"within {Path(two).name}")
    replace(one, two, **kwargs)

records.Checkpointer.save, io.atomic_write, os.replace = counted_save, marked_write, marked_replace
records.Run.fit, ocp.StandardCheckpointHandler.finalize = named_fit, marked_finalize
sys.argv = sys.argv[1:]
sys.path[0] = os.path.dirname(script)
runpy.run_path(script, run_name="__main__")
"""


@pytest.fixture(scope="module")
def run(environment, forks, tmp_path_factory):
    """Run the study: run(*flags, out=..., log=..., kill=...), in a fork, or in a process of its own if `alone`."""
    wrapper = tmp_path_factory.mktemp("wrapper") / "wrapper.py"
    wrapper.write_text(WRAPPER)
    elsewhere = tmp_path_factory.mktemp("elsewhere")

    def call(*flags, out: Path, wrapped: bool = True, start: bool = False, alone: bool = False, **more):
        command = [*([wrapper] if wrapped else []), STUDY, "--verbose", *flags, f"--out_dir={out}"]
        settings = {"env": environment | {name.upper(): str(value) for name, value in more.items()}, "cwd": elsewhere}
        if start:
            return forks.start(*command, **settings)
        if alone:
            done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=600, **settings)
        else:
            done = forks.run(*command, **settings)
        assert not list(elsewhere.iterdir())
        return done

    return call


def folder_of(out: Path, dataset: str = "digits") -> Path:
    """The one run folder below an output folder."""
    (folder,) = (out / "double_descent").iterdir()
    assert re.fullmatch(f"{dataset}-[0-9a-f]{{12}}", folder.name)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file outside checkpoints/, dot files but for the lock included."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    named = {str(path.relative_to(folder)): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if not name.startswith("checkpoints/")}


def checkpoints(folder: Path) -> dict[str, np.ndarray]:
    """Every array of every checkpoint, by its place; links to the store are followed."""
    import orbax.checkpoint as ocp

    arrays = {}
    for path in sorted((folder / "checkpoints").glob("*/*")):
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
            shapes = reader.metadata(path).item_metadata.tree
            target = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()}
            leaves = reader.restore(path, args=ocp.args.StandardRestore(target))
        arrays.update({f"{path.parent.name}/{path.name}/{name}": np.asarray(leaf) for name, leaf in leaves.items()})
    return arrays


def succeeded(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """An uninterrupted run: (folder, standard output, log)."""
    out = tmp_path_factory.mktemp("whole") / "results"
    log = out.parent / "log"
    done = run(*SWEEP, out=out, log=log, alone=True)
    stdout = succeeded(done)
    assert done.stderr.splitlines()[-2].startswith("36/36 seeds x epochs, mlp 16, 300 examples, epoch 3/3, loss ")
    return folder_of(out), stdout, log.read_text().splitlines()


# What a run writes


def test_a_run_writes_these_files_and_no_others(whole):
    folder, stdout, _ = whole
    pictures = [f"{kind}_n{count}.png" for kind in ("epoch_wise", "model_wise") for count in COUNTS]
    tables = [
        "comparison.csv",
        "config.json",
        "correct.csv",
        "epochs.csv",
        "finished.json",
        "layout.json",
        "report.txt",
        "runs.csv",
        "summary.csv",
        "verdict.json",
    ]
    assert sorted(contents(folder)) == sorted([*tables, *pictures, "sample_wise.png"])
    for path in folder.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 20_000
        assert str(path) in stdout
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == sorted(
        f"mlp{size}_n{count}" for size in SIZES for count in COUNTS)  # fmt: skip
    assert all([p.name for p in path.iterdir()] == [str(EPOCHS)] for path in (folder / "checkpoints").iterdir())
    # Each leads to a network of its own in the store, which says what made it.
    store = folder.parent.parent / "networks"
    trained = {path.resolve() for path in (folder / "checkpoints").iterdir()}
    assert trained == {path / "training" for path in store.iterdir()} and len(trained) == len(SIZES) * len(COUNTS)
    assert all(not os.path.isabs(os.readlink(path)) for path in (folder / "checkpoints").iterdir())
    for path in store.iterdir():
        assert sorted(p.name for p in path.iterdir()) == [".lock", "network.json", "training"]
        assert path.name == io.config_hash(json.loads((path / "network.json").read_text()))


def test_config_json_holds_every_setting(whole):
    config = json.loads((whole[0] / "config.json").read_text())["config"]
    assert config == {
        "dataset": "digits", "model": "mlp", "widths": [4, 8, 16], "num_train": [150, 300], "num_seeds": 2, "seed": 0,
        "data_seed": 0,
        "epochs": 3, "depth": 2, "lr": 0.05, "batch_size": 64, "optimizer": "sgd", "momentum": 0.9, "criterion": 0.7,
        "schedule": "cosine", "weight_decay": 0.0, "vary": "both", "label_noise": 0.0, "strategy": "auto",
        "evaluate": "some", "pad_widths": False,
        "data_digests": config["data_digests"], "device": config["device"], "numerics": config["numerics"],
    }  # fmt: skip
    assert len(set(config["data_digests"])) == 2


def test_runs_csv_is_tidy(whole):
    rows = records.read_table(whole[0] / "runs.csv")
    assert list(rows[0]) == [
        "num_train", "size", "num_params", "seed", "epoch", "learning_rate", "train_loss", "train_acc", "test_loss",
        "test_acc", "diverged"]  # fmt: skip
    keys = [tuple(int(row[name]) for name in ("num_train", "size", "seed", "epoch")) for row in rows]
    assert sorted(keys) == [(n, size, seed, epoch + 1) for n in COUNTS for size in SIZES for seed in range(2)
                            for epoch in range(EPOCHS)]  # fmt: skip
    for row in rows:
        size, epoch = int(row["size"]), int(row["epoch"])
        assert int(row["num_params"]) == 65 * size + 10 * (size + 1) and row["diverged"] == "0"
        rate = train.learning_rate_at(epoch - 1, base=0.05, epochs=EPOCHS, schedule="cosine")
        assert float(row["learning_rate"]) == rate
        for split, examples in (("train", int(row["num_train"])), ("test", 500)):
            correct = float(row[f"{split}_acc"]) * examples / 100
            assert 0 <= correct <= examples and correct == pytest.approx(round(correct), abs=1e-3)
            assert 0 < float(row[f"{split}_loss"]) < 5
    last = {key: float(row["test_acc"]) for key, row in zip(keys, rows, strict=True) if key[3] == EPOCHS}
    assert last[300, 16, 0, EPOCHS] > 30 and last[300, 16, 0, EPOCHS] != last[300, 16, 1, EPOCHS]


def test_summary_and_comparison_follow_from_runs_csv(whole):
    rows = records.read_table(whole[0] / "runs.csv")
    summary = records.read_table(whole[0] / "summary.csv")
    compared = records.read_table(whole[0] / "comparison.csv")
    assert [(int(row["num_train"]), int(row["size"])) for row in summary] == [(n, s) for n in COUNTS for s in SIZES]
    for row in summary:
        for split in ("train", "test"):
            final = [float(r[f"{split}_acc"]) for r in rows if r["num_train"] == row["num_train"]
                     and r["size"] == row["size"] and r["epoch"] == str(EPOCHS)]  # fmt: skip
            mean, half = np.mean(final), 12.706204736432095 * abs(final[0] - final[1]) / 2  # t(0.975, 1) s / sqrt(2)
            found = [float(row[f"{split}_acc_{name}"]) for name in ("mean", "std", "t_low", "t_high")]
            assert found == pytest.approx([mean, np.std(final, ddof=1), mean - half, mean + half])
            low, high = (float(row[f"{split}_acc_boot_{end}"]) for end in ("low", "high"))
            assert min(final) - 1e-9 <= low <= high <= max(final) + 1e-9
            (beside,) = (r for r in compared if r["num_train"] == row["num_train"] and r["setting"] == row["size"]
                         and r["metric"] == f"{split}_acc")  # fmt: skip
            assert beside["ours"] == row[f"{split}_acc_mean"] and beside["low"] == row[f"{split}_acc_t_low"]
            assert beside["published"] == beside["difference"] == beside["inside"] == ""
        assert float(row["params_per_example"]) == int(row["num_params"]) / int(row["num_train"])
    assert len(compared) == 2 * len(summary)


def test_the_verdict_is_printed_and_kept(whole):
    folder, stdout, _ = whole
    verdicts = json.loads((folder / "verdict.json").read_text())
    assert [verdict["num_train"] for verdict in verdicts] == list(COUNTS)
    for verdict in verdicts:
        assert f"verdict: {verdict['verdict']}\n" in stdout
        assert f"MLP on digits, {verdict['num_train']} examples" in stdout
    # With 70 % as the criterion 150 examples are "interpolated" within these sizes, and the test is made; 300 are by
    # the smallest already, and it is not.
    assert {"params", "low", "high", "num_never"} <= set(verdicts[0]["threshold"])
    assert 0 < verdicts[0]["peak"]["pvalue"] <= 1 and verdicts[0]["peak"]["size"] == 8
    assert verdicts[1]["verdict"].startswith("undecided") and "peak" not in verdicts[1]


def test_a_cnn_of_one_seed_draws_into_another_folder(run, tmp_path):
    figures = tmp_path / "figures"
    flags = ["--dataset=digits", "--model=cnn", "--channels=1", "--num_seeds=1", "--epochs=1", "--num_train=128"]
    stdout = succeeded(run(*flags, f"--figures_dir={figures}", out=tmp_path / "results", wrapped=False))
    folder = folder_of(tmp_path / "results")
    assert not list(folder.glob("*.png")) and "[one seed]" in stdout and "verdict: undecided" in stdout
    given = "num_train128_modelcnn_num_seeds1_epochs1_channels1"
    stem = f"double_descent_digits_{given}_{folder.name.removeprefix('digits-')[:8]}"
    tables = ("comparison", "epochs", "summary")
    assert sorted(path.name for path in figures.iterdir()) == sorted([
        *(f"{stem}_{name}.csv" for name in tables), f"{stem}_epoch_wise.png", f"{stem}_model_wise.png"])  # fmt: skip
    for name in tables:
        assert (figures / f"{stem}_{name}.csv").read_bytes() == (folder / f"{name}.csv").read_bytes()
    (row,) = records.read_table(folder / "summary.csv")
    assert row["size"] == "1" and row["test_acc_t_low"] == "nan" and float(row["test_acc_mean"]) >= 0


def test_mnist1d_runs(run, tmp_path):
    flags = ["--dataset=mnist1d", "--widths=4,8", "--depth=2", "--num_seeds=2", "--epochs=1", "--num_train=500"]
    stdout = succeeded(run(*flags, "--optimizer=adam", "--lr=0.001", out=tmp_path / "results", wrapped=False))
    folder = folder_of(tmp_path / "results", "mnist1d")
    assert (folder / "model_wise.png").exists() and "MLP on mnist1d" in stdout
    assert len(records.read_table(folder / "runs.csv")) == 4


def test_a_sweep_that_diverges_says_so_and_ends_well(run, tmp_path):
    flags = [*TINY, "--widths=4,8,16", "--num_train=150", "--epochs=2", "--lr=1e30"]
    stdout = succeeded(run(*flags, out=tmp_path / "results", wrapped=False))
    folder = folder_of(tmp_path / "results")
    assert stdout.count("2 diverged") == 3 and stdout.count("all lost") == 6 and "verdict: undecided" in stdout
    assert {row["diverged"] for row in records.read_table(folder / "runs.csv")} == {"1"}
    for row in records.read_table(folder / "summary.csv"):
        assert row["num_diverged"] == "2" and row["test_acc_mean"] == row["train_acc_t_low"] == ""
    assert (folder / "finished.json").exists()


def test_real_mnist_stands_beside_the_published_table(run, tmp_path, real_data):
    flags = ["--dataset=mnist", f"--data_dir={real_data}", "--widths=8,9", "--num_seeds=2"]
    succeeded(run(*flags, "--epochs=1", out=tmp_path / "results", wrapped=False))
    folder = folder_of(tmp_path / "results", "mnist")
    rows = {(r["setting"], r["metric"]): r for r in records.read_table(folder / "comparison.csv")}
    known = paper.DOUBLE_DESCENT["mlp", "mnist"][8]
    for metric, value in known.items():
        row = rows["8", metric]
        assert float(row["published"]) == value
        assert float(row["difference"]) == float(row["ours"]) - value
        assert row["inside"] == str(float(row["low"]) <= value <= float(row["high"]))
        assert rows["9", metric]["published"] == ""


# What it refuses


def write_shard(path: Path, image: np.ndarray) -> None:
    """Write an ArrayRecord file that holds one image of class 3."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    png = bytesio.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
    example = tf_example_pb2.Example()
    example.features.feature["image"].bytes_list.value.append(png.getvalue())
    example.features.feature["label"].int64_list.value.append(3)
    writer = ArrayRecordWriter(str(path), "group_size:1")
    writer.write(example.SerializeToString())
    writer.close()


def broken_data(root: Path) -> dict[str, Path]:
    """Data folders that are not what they should be."""
    folders = {name: root / name for name in ("missing", "empty", "no version", "truncated", "another shape")}
    folders["empty"].mkdir(parents=True)
    (folders["no version"] / "mnist").mkdir(parents=True)
    for name, shape in (("truncated", (28, 28, 1)), ("another shape", (32, 32, 3))):
        folder = folders[name] / "mnist" / "3.0.1"
        folder.mkdir(parents=True)
        splits = [
            {"name": split, "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
             "shardLengths": ["1", str(count - 1)], "numBytes": "1"}
            for split, count in (("train", 60_000), ("test", 10_000))
        ]  # fmt: skip
        info = {"name": "mnist", "version": "3.0.1", "fileFormat": "array_record", "splits": splits}
        (folder / "dataset_info.json").write_text(json.dumps(info))
        prefix = "tensorflow_datasets.core.features."
        image = {"shape": {"dimensions": [str(d) for d in shape]}, "dtype": "uint8", "encodingFormat": "png"}
        features = {
            "image": {"pythonClassName": prefix + "image_feature.Image", "image": image},
            "label": {"pythonClassName": prefix + "class_label_feature.ClassLabel", "classLabel": {"numClasses": "10"}},
        }
        top = {"pythonClassName": prefix + "features_dict.FeaturesDict", "featuresDict": {"features": features}}
        (folder / "features.json").write_text(json.dumps(top))
        shard = folder / "mnist-train.array_record-00000-of-00002"
        write_shard(shard, np.zeros(shape, np.uint8))
        if name == "truncated":
            shard.write_bytes(shard.read_bytes()[:-100])
    return folders


WHOLE = "expected a whole number from 1 to 1000000000"
RANGES = {
    "epochs": "expected a whole number from 1 to 1000000",
    "depth": "expected a whole number from 2 to 100",
    "num_seeds": "expected a whole number from 1 to 10000",
}
LISTED = f"each {WHOLE.removeprefix('expected ')}"
RANGES |= {"widths": LISTED, "num_train": LISTED}
NUMBERS = [(f"--{flag}={value}", flag, RANGES.get(flag, WHOLE), value)
           for flag in ("widths", "epochs", "num_seeds", "batch_size", "num_train", "depth")
           for value in ("0", "-1", "many", "1.5", "nan", "", "9" * 400)]  # fmt: skip
# (flag, words that the line must hold); each is added to a command line that is fine without it.
REFUSED = [
    *NUMBERS,
    ("--dataset=imagenet", "dataset", "expected one of mnist, fashion_mnist, cifar10, cifar100, digits", "imagenet"),
    ("--preset=huge", "preset", "expected one of quick, small, paper", "huge"),
    ("--model=cmn", "model", "did you mean cnn?"),
    ("--model=resnet", "model", "expected one of mlp, cnn, transformer", "resnet"),
    ("--figures_dir=@file", "figures_dir", "cannot write in @file"),
    ("--widths=999999999", "--widths: mlp 999999999", "the device has"),
    ("--num_seeds=10000 --epochs=1000000", "--num_seeds: expected at most 100 with 1000000 epochs, got 10000"),
    ("--out_dir=", "out_dir", "expected the name of a folder, got ''"),
    ("--figures_dir=", "figures_dir", "expected the name of a folder, got ''"),
    ("--out_dir=@dangling", "out_dir", "@dangling is a link to nowhere, which does not exist"),
    ("--out_dir=@dangling/below", "out_dir", "@dangling is a link to nowhere, which does not exist"),
    ("--data_seed=-1", "data_seed", "expected a whole number from 0 to 1000000000", "-1"),
    ("--optimizer=lion", "optimizer", "expected one of sgd, adam, gd", "lion"),
    ("--schedule=step", "schedule", "expected one of cosine, constant", "step"),
    ("--vary=nothing", "vary", "expected one of both, init, order", "nothing"),
    ("--strategy=pmap", "strategy", "expected one of auto, vmap, sequential", "pmap"),
    ("--widths=4,0", "widths", LISTED, "4,0"),
    ("--widths=4,,8", "widths", LISTED, "4,,8"),
    ("--widths=4,4", "widths", "expected distinct numbers", "4,4"),
    ("--batch_size=1298", "--batch_size: expected at most the 1297 training examples", "got 1298"),
    ("--num_train=1298", "--num_train: expected at most 1297, all of digits", "got 1298"),
    ("--num_train=200,1298", "--num_train: expected at most 1297, all of digits", "got 1298"),
    ("--num_train=32", "batch_size", "expected at most the 32 training examples", "got 64"),
    *((f"--label_noise={value}", "label_noise", "expected a number in [0, 1)", value)
      for value in ("1", "-0.1", "nan", "inf", "some", "")),
    *((f"--lr={value}", "lr", "expected a positive number", value) for value in ("0", "-1", "nan", "inf", "fast", "")),
    ("--momentum=1", "momentum", "expected a number in [0, 1)", "1"),
    ("--weight_decay=-1", "weight_decay", "expected a number of at least 0", "-1"),
    ("--criterion=0", "criterion", "expected a number between 0 and 1", "0"),
    *((f"--seed={value}", "seed", "expected a whole number from 0 to 1000000000", value)
      for value in ("-1", "4294967296", "x")),
    ("--channels=4", "--channels", "expected no such setting with --model=mlp"),
    ("--model=cnn", "--widths", "expected no such setting with --model=cnn", "got (4, 8)"),
    ("--optimizer=adam --momentum=0.5", "--momentum", "expected no such setting with --optimizer=adam", "got 0.5"),
    ("--preset=quick --dataset=mnist", "--dataset: expected embedded data (digits, mnist1d)", "=quick, got mnist"),
    ("--force=perhaps", "force", "expected true or false", "perhaps"),
    ("--affine_norm=perhaps", "affine_norm", "expected true or false", "perhaps"),
    ("--noforce=1", "noforce=1", "does not take an argument"),
    ("--wdiths=4", "'wdiths'", "Did you mean: widths"),
    ("stray", "expected flags only", "got 'stray'"),
    ("--dataset=mnist --data_dir=@missing", "mnist", "there is no folder @missing (data_dir)", "mnist.npz"),
    ("--dataset=mnist --data_dir=@empty", "found no mnist in @empty (data_dir)", "mnist.npz"),
    ("--dataset=mnist --data_dir=@no version", "found no mnist in @no version", "(TFDS, array_record)"),
    ("--dataset=mnist --data_dir=@truncated", "@truncated", "mnist-train.array_record-00000-of-00002"),
    ("--dataset=mnist --data_dir=@another shape", "@another shape", "expected images (28, 28, 1)", "got (32, 32, 3)"),
    ("--out_dir=@file", "out_dir", "cannot write in @file: Not a directory"),
    ("--out_dir=@file/below", "out_dir", "cannot write in @file: Not a directory"),
    ("--out_dir=/proc/results", "out_dir", "cannot write in /proc"),
]  # fmt: skip


def as_flags(text: str) -> list[str]:
    return re.split(" (?=--)", text)


@pytest.fixture(scope="module")
def refusals(forks, environment, tmp_path_factory):
    """Return a function that runs a refused command line, and one that puts real paths into words.

    Each test runs its own line: workers may share them.
    """
    base = tmp_path_factory.mktemp("refused")
    places = {f"@{name}": str(path) for name, path in broken_data(base / "data").items()} | {
        "@file": str(base / "file"),
        "@dangling": str(base / "dangling"),
    }
    (base / "file").write_text("mine")
    (base / "dangling").symlink_to("nowhere")
    before = {path: path.lstat().st_mtime_ns for path in base.rglob("*")}

    def placed(text: str) -> str:
        for name, path in places.items():
            text = text.replace(name, path)
        return text

    def refused(flags: str) -> tuple[int, str, str]:
        out = [] if "--out_dir" in flags else [f"--out_dir={base / 'out'}"]
        command = [*TINY, "--widths=4,8", "--epochs=1", *out, *as_flags(placed(flags))]
        (found,) = drive(forks, environment, base, [command])
        after = {path: path.lstat().st_mtime_ns for path in base.rglob("*")}
        assert after == before  # nothing was written, anywhere
        return found

    return refused, placed


def drive(forks, environment, folder: Path, commands: list[list[str]]) -> list[tuple[int, str, str]]:
    """Run the study with many command lines: [(code, stdout, stderr)]."""
    runs = [forks.run(STUDY, *command, env=environment, cwd=folder) for command in commands]
    return [(done.returncode, done.stdout, done.stderr) for done in runs]


@pytest.mark.parametrize(("flags", "words"), [(flags, words) for flags, *words in REFUSED],
                         ids=[f"{i} {flags[:40]}" for i, (flags, *_) in enumerate(REFUSED)])  # fmt: skip
def test_bad_input_ends_in_one_line(refusals, flags, words):
    refused, placed = refusals
    code, out, err = refused(flags)
    assert code == 2, err
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n"), err
    for word in words:
        assert placed(word) in err, err


def test_a_good_command_line_is_not_refused(forks, environment, tmp_path):
    # What the refused ones have in common is not what they are refused for.
    command = [*TINY, "--widths=4,8", "--num_train=150", "--epochs=1", f"--out_dir={tmp_path / 'out'}"]
    ((code, out, err),) = drive(forks, environment, tmp_path, [command])
    assert code == 0 and "verdict: " in out, err
    assert (folder_of(tmp_path / "out") / "finished.json").exists()


def test_bad_input_in_a_process_of_its_own(run, tmp_path):
    flags = ["--dataset=mnist", "--data_dir=/nonexistent"]
    done = run(*TINY, *flags, out=tmp_path / "results", wrapped=False, alone=True)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
    assert not (tmp_path / "results").exists()


def test_a_folder_of_another_config_or_version_is_refused(whole, forks, environment, tmp_path):
    changes = {
        "another config": lambda c: c["config"].update(lr=1.0),
        "jax 0.0.1": lambda c: c["versions"].update(jax="0.0.1"),
        "is damaged": lambda c: c.pop("versions"),
    }
    commands = []
    for name, change in changes.items():
        shutil.copytree(whole[0].parent.parent, tmp_path / name)
        path = folder_of(tmp_path / name) / "config.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
        commands.append([*SWEEP, f"--out_dir={tmp_path / name}"])
    before = {name: contents(tmp_path / name) for name in changes}
    for name, (code, out, err) in zip(changes, drive(forks, environment, tmp_path, commands), strict=True):
        assert (code, out, err.count("\n")) == (2, "", 1), err
        assert name in err and "--force" in err and str(folder_of(tmp_path / name)) in err
        assert contents(tmp_path / name) == before[name]


# Help


def defined_flags(script: Path) -> set[str]:
    """Names of the flags of a study, or that a script defines."""
    if script.stem in studies.NAMES:
        return {*options.settings(getattr(studies, script.stem).STUDY.config), *cli.SHARED}
    calls = [node for node in ast.walk(ast.parse(script.read_text())) if isinstance(node, ast.Call)]
    names = {}
    for call in calls:
        function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        if function.startswith("DEFINE_") or function == "define_flag":
            strings = [argument.value for argument in call.args[:2] if isinstance(argument, ast.Constant)]
            names[next(iter(strings), None)] = None
    return {name for name in names if isinstance(name, str)}


def test_all_scripts_are_looked_at():
    names = {path.relative_to(STUDY.parent).as_posix() for path in SCRIPTS}
    assert {f"{name}.py" for name in studies.NAMES} <= names
    assert {"reliability.py", *(f"benchmarks/{name}.py" for name in ("curvature", "ntk", "training"))} <= names


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_help_is_complete(script, forks, environment, tmp_path):
    done = forks.run(script, "--help", env=environment, cwd=tmp_path)
    packaged = script.stem in studies.NAMES
    assert done.returncode in ((0,) if packaged else (0, 1)) and "Traceback" not in done.stderr, done.stderr
    names = defined_flags(script)
    assert len(names) >= 3
    for name in sorted(names):
        # Indented two, the flag, for an enum its values, and then words.
        assert re.search(rf"^  --(\[no\])?{name}: (<[^>]*>: )?\w", done.stdout, re.MULTILINE), f"--{name} lacks help"
    about = ast.get_docstring(ast.parse(script.read_text())).splitlines()[0]
    if packaged:
        question = getattr(studies, script.stem).STUDY.question
        assert about.startswith(question) and done.stdout.startswith(f"{question}\n")
        assert set(options.GROUPS) <= set(re.findall(r"^(\w+):$", done.stdout, re.MULTILINE))
    else:
        assert about in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", studies.NAMES)
def test_every_setting_says_what_it_is(name):
    study = getattr(studies, name).STUDY
    for field, setting in options.settings(study.config).items():
        assert (
            setting.help[0].isalpha()
            and setting.help.endswith(".")
            and setting.group in options.GROUPS
            and setting.group != "output"
        ), field
        assert setting.check.kind and setting.check.expected and "\n" not in setting.help, field
        default = getattr(study.config(), field)
        written = ",".join(map(str, default)) or "none" if isinstance(default, tuple) else str(default)
        assert default is None or setting.check.parse(default) == setting.check.parse(written) == default, field


def test_the_console_command_lists_the_studies_and_runs_them(forks, environment, tmp_path):
    def command(*arguments):
        return forks.run("-m", "ntkgen", *arguments, env=environment, cwd=tmp_path)

    for arguments in ([], ["--help"], ["-h"], ["help"]):
        done = command(*arguments)
        assert (done.returncode, done.stderr) == (0, "")
        for name in studies.NAMES:
            assert re.search(rf"^  {name} +{re.escape(getattr(studies, name).STUDY.question)}$", done.stdout, re.M)
    help_of_script = forks.run(STUDY, "--help", env=environment, cwd=tmp_path)
    done = command("double_descent", "--help")
    assert (done.returncode, done.stdout) == (0, help_of_script.stdout)
    done = command("double_descnt", "--preset=quick")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "expected a study, one of " in done.stderr and done.stderr.endswith("did you mean double_descent?\n")
    done = command("double_descent", "--preset=quick", "--epochs=0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "--epochs=0" in done.stderr
    assert not list(tmp_path.iterdir())
    flags = [*TINY, "--widths=4", "--num_train=100", "--epochs=1", "--out_dir=out"]
    done = subprocess.run([sys.executable, "-m", "ntkgen", "double_descent", *flags], env=environment, cwd=tmp_path,
                          capture_output=True, text=True, timeout=600)  # fmt: skip
    assert done.returncode == 0 and "verdict: " in done.stdout, done.stderr
    assert (folder_of(tmp_path / "out") / "finished.json").exists()


def test_help_names_what_the_design_promises(environment):
    shared = "dataset data_dir num_train num_seeds seed data_seed epochs preset out_dir figures_dir label_noise force"
    assert set(shared.split()) <= defined_flags(STUDY)


# Going on


def same_as(whole: Path, folder: Path) -> None:
    """Hold a folder against the uninterrupted run's: files byte for byte, arrays of checkpoints exactly."""
    one, two = contents(whole), contents(folder)
    assert sorted(one) == sorted(two)
    assert [name for name in one if one[name] != two[name]] == []
    arrays, found = checkpoints(whole), checkpoints(folder)
    assert sorted(arrays) == sorted(found) and len(arrays) > 6 * 5
    for name, array in arrays.items():
        assert array.dtype == found[name].dtype and array.shape == found[name].shape
        assert array.tobytes() == found[name].tobytes(), name


# Where the process dies, call after call in one folder: 6 parts of 3 epochs, a save after each.
KILLS = [
    "before network.json",
    "before save 1",  # nothing but config.json is there
    "after save 2",  # in the middle of the first part
    "within save 2",  # epoch 1 of the second part is written, but still under Orbax's temporary name
    "before sha256.json 2",  # renamed, without its checksums
    "after save 3",
    "within runs.csv",  # everything is trained, the table is in its temporary file
    "before verdict.json",
    "within finished.json",
]


def test_killed_again_and_again_it_ends_as_if_it_never_was(run, whole, tmp_path):
    out, log = tmp_path / "results", tmp_path / "log"
    warned = 0
    for kill in KILLS:
        done = run(*SWEEP, out=out, log=log, kill=kill)
        assert done.returncode == -signal.SIGKILL, (kill, done.stderr)
        warned += done.stderr.count("is damaged")
        assert not (folder_of(out) / "finished.json").exists()
    done = run(*SWEEP, out=out, log=log)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.replace(str(out), "") == whole[1].replace(str(whole[0].parent.parent), "")
    warned += done.stderr.count("is damaged")
    assert warned == 1  # the one without checksums
    aside = list(folder_of(out).glob("checkpoints/*/damaged-*"))
    assert len(aside) == 1 and not list(out.rglob("*.tmp"))
    shutil.rmtree(aside[0])
    same_as(whole[0], folder_of(out))
    # Of 18 epochs three were lost, to the first, third and fourth kill; they were done again, and no others.
    trained = log.read_text().splitlines()
    assert sorted(set(trained)) == sorted(whole[2])
    assert len(trained) == len(whole[2]) + 3


def test_widths_in_one_program_are_the_same_to_rounding_and_resume_bit_for_bit(run, whole, tmp_path):
    flags = [*(flag for flag in SWEEP if flag != "--nopad_widths"), "--num_train=300"]  # the last one counts
    results = {}
    for name in ("one", "two"):
        out, log = tmp_path / name, tmp_path / f"{name}.log"
        if name == "two":
            assert run(*flags, out=out, log=log, kill="after save 2").returncode == -signal.SIGKILL
        succeeded(run(*flags, out=out, log=log))
        assert log.read_text().splitlines() == [f"mlp4-16_n300 {e + 1}" for e in range(EPOCHS)]
        results[name] = contents(folder_of(out))
    assert results["one"] == results["two"]
    alone, together = (records.read_table(folder / "runs.csv") for folder in (whole[0], folder_of(tmp_path / "one")))
    alone = [row for row in alone if row["num_train"] == "300"]
    for one, other in zip(alone, together, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=1e-3)
        assert [one[name] for name in ("num_train", "size", "seed")] == [
            other[name] for name in ("num_train", "size", "seed")
        ]


def test_killed_from_outside_it_goes_on(run, whole, tmp_path):
    out = tmp_path / "results"
    child = run(*SWEEP, out=out, start=True)
    deadline = time.monotonic() + 120
    while not list(out.glob("double_descent/*/checkpoints/mlp4_n300/2/sha256.json")):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    child.communicate()
    assert not (folder_of(out) / "runs.csv").exists()
    done = run(*SWEEP, out=out)
    assert done.returncode == 0, done.stderr
    for aside in folder_of(out).glob("checkpoints/*/damaged-*"):  # if it hit between a rename and its checksums
        shutil.rmtree(aside)
    same_as(whole[0], folder_of(out))


def test_a_finished_run_is_not_done_again_unless_forced(run, whole, tmp_path):
    out, log = tmp_path / "results", tmp_path / "log"
    shutil.copytree(whole[0].parent.parent, out)
    folder = folder_of(out)
    tables = [path for path in folder.iterdir() if path.suffix in (".csv", ".json")]
    times = {path: path.stat().st_mtime_ns for path in tables}
    done = run(*SWEEP, out=out, log=log, kill="before runs.csv")
    stdout = succeeded(done)
    assert done.stderr == f"{folder} is finished; --force repeats it\n"
    assert stdout.replace(str(out), "") == whole[1].replace(str(whole[0].parent.parent), "")
    assert not log.exists() and {path: path.stat().st_mtime_ns for path in tables} == times
    same_as(whole[0], folder)

    (folder / "runs.csv").write_text("spoilt")
    (folder / "leftover").write_text("of an older version")
    done = run(*SWEEP, "--force", out=out, log=log)
    succeeded(done)
    assert "is finished" not in done.stderr and log.read_text().splitlines() == whole[2]
    same_as(whole[0], folder)


def test_a_finished_run_is_drawn_anew_by_another_code_and_stays_finished(run, whole, tmp_path):
    """What follows from the measured tables is made anew; a kill on the way does not cost the run."""
    out = tmp_path / "results"
    shutil.copytree(whole[0].parent.parent, out, symlinks=True)
    folder = folder_of(out)
    config = json.loads((folder / "config.json").read_text())
    config["source"] = "0" * 12
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "summary.csv").write_text("as another version made it\n")
    sums = json.loads((folder / "finished.json").read_text())
    sums |= {name: io.sha256_bytes((folder / name).read_bytes()) for name in ("config.json", "summary.csv")}
    (folder / "finished.json").write_text(json.dumps(sums, indent=2, sort_keys=True) + "\n")
    assert run(*SWEEP, out=out, kill="before model_wise_n150.png").returncode == -signal.SIGKILL
    done = run(*SWEEP, out=out)
    assert done.returncode == 0 and "made by another version of the code" in done.stderr, done.stderr
    assert "is finished" in done.stderr
    assert (folder / "summary.csv").read_bytes() == (whole[0] / "summary.csv").read_bytes()


@pytest.mark.parametrize("symlinks", [True, False], ids=["the store's", "its own copy"])
def test_a_damaged_checkpoint_costs_only_what_it_held(run, whole, tmp_path, symlinks):
    out, log = tmp_path / "results", tmp_path / "log"
    shutil.copytree(whole[0].parent.parent, out, symlinks=symlinks)
    folder = folder_of(out)
    (folder / "runs.csv").unlink()  # so that the run is not finished
    manifest = folder / "checkpoints" / "mlp8_n300" / str(EPOCHS) / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:20])
    done = run(*SWEEP, out=out, log=log)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "runs.csv" in done.stderr and "set aside as damaged-3" in done.stderr
    assert log.read_text().splitlines() == [f"mlp8_n300 {epoch + 1}" for epoch in range(EPOCHS)]
    shutil.rmtree(folder / "checkpoints" / "mlp8_n300" / "damaged-3")
    same_as(whole[0], folder)


def test_two_processes_do_not_share_a_folder(run, forks, environment, tmp_path):
    flags = [*TINY, "--widths=4,8,16", "--num_train=150", f"--epochs={EPOCHS}"]
    first = run(*flags, out=tmp_path, hold="after save 1", start=True)
    try:
        assert first.stdout.readline() == "holding\n", first.stderr.read()
        before = contents(tmp_path)
        commands = [[*flags, *more, f"--out_dir={tmp_path}"] for more in ([], ["--force"])]
        for code, out, err in drive(forks, environment, tmp_path, commands):
            assert (code, out, err.count("\n")) == (2, "", 1), err
            assert f"out_dir: {folder_of(tmp_path)} is in use by process {first.pid};" in err
        assert contents(tmp_path) == before
        with pytest.raises(io.LockedError), io.lock(folder_of(tmp_path)):
            pass
    finally:
        first.kill()
        first.communicate()


def test_the_checks_above_can_fail(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "copy")
    same_as(whole[0], tmp_path / "copy")
    for name in ("summary.csv", "sample_wise.png"):
        content = (tmp_path / "copy" / name).read_bytes()
        (tmp_path / "copy" / name).write_bytes(content[:-1] + b" ")
        with pytest.raises(AssertionError):
            same_as(whole[0], tmp_path / "copy")
        (tmp_path / "copy" / name).write_bytes(content)
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / "mlp4_n150")
    with pytest.raises(AssertionError):
        same_as(whole[0], tmp_path / "copy")
