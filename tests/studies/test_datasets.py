"""Studies on an .npz file of the user: names, choice of network, outputs, and what is not compared."""

import json

import numpy as np
import pytest

from ntkgen import cli, data, paper, studies
from ntkgen.studies import base, datasets, runner

CLASSES = 12
STUDIES = [name for name in studies.NAMES if name != "reproduce"]


def write(path, shape, count=1_500, classes=CLASSES):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (count + 60, *shape), dtype=np.uint8), np.arange(count + 60) % classes
    np.savez(path, x_train=x[:count], y_train=y[:count], x_test=x[count:], y_test=y[count:])
    return path


class Stop(Exception):
    """The first fit of a study, which is not done."""


class NoRun:
    """A run that hands back the network of the first fit."""

    def fit(self, name, model, dataset, *rest, **given):
        raise Stop(model, dataset)

    def kept(self, name, make):
        return make()

    def ahead(self, name, model, dataset, config, seeds, **given):
        """Compile nothing; the arguments are those of `fit`."""


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """1,500 training examples of 5 features and 12 classes."""
    return data.NpzFile(write(tmp_path_factory.mktemp("data") / "mnist.npz", (5,)))


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_trains_a_network_of_the_classes_that_the_file_has(features, name):
    """And records the file's name, format and digest, not its path."""
    study = getattr(studies, name).STUDY
    config = study.resolve("quick", {"dataset": features, "num_seeds": 1})
    facts, more = study.prepare(config, None)
    prepared = base.Prepared(config, facts, "quick", {}, more)
    with pytest.raises(Stop) as caught:
        study.measure(NoRun(), prepared)
    model, dataset = caught.value.args
    assert (model.num_classes, dataset.num_classes, config.model) == (CLASSES, CLASSES, "mlp")
    assert dataset.num_train == {"mechanisms": 200}.get(name, datasets.QUICK_IMAGES)
    record = json.loads(json.dumps(prepared.record()))
    assert record["dataset"] == "mnist_npz" and record["data_format"] == "npz"
    assert dataset.digest in json.dumps(record) and str(features.path.parent) not in json.dumps(record)


def test_names_of_embedded_data_record_what_they_did():
    """The folders of earlier runs keep their names: no new entry."""
    study = studies.learning_rate.STUDY
    config = study.resolve("quick", {})
    assert set(study.prepare(config, None)[0]) == {"num_train", "data_digest"}


@pytest.mark.parametrize(
    ("shape", "model"), [((8, 8, 3), "cnn"), ((7, 8, 3), "mlp"), ((28, 28), "mlp"), ((9, 9, 2), "mlp"), ((192,), "mlp")]
)
def test_the_shape_chooses_the_network(tmp_path, shape, model):
    file = data.NpzFile(write(tmp_path / "images.npz", shape, count=3))
    assert base.choose_model(file, {}) == model
    if len(shape) > 1 and min(shape[:2]) >= 8:
        assert base.choose_model(file, {"model": "cnn"}) == "cnn"
    else:
        with pytest.raises(ValueError, match=r"^model: expected mlp for examples of shape .*, got cnn$"):
            base.choose_model(file, {"model": "cnn"})
    if len(shape) == 1:
        with pytest.raises(ValueError, match=r"^model: expected mlp for examples of shape .*, got transformer$"):
            base.choose_model(file, {"model": "transformer"})


def test_presets_take_what_a_file_has(features, tmp_path):
    few = data.NpzFile(write(tmp_path / "few.npz", (5,), count=100))
    found = [
        datasets.choose_num_train(file, preset, value)
        for file in (few, features)
        for preset, value in (
            ("paper", 10_000),
            ("paper", 50),
            ("paper", None),
            ("paper", (10_000,)),
            ("quick", None),
            ("quick", 200),
        )
    ]
    assert found == [None, 50, None, None, None, None, None, 50, None, None, 1_300, 200]
    assert studies.double_descent.STUDY.resolve("quick", {"dataset": features}).num_train == (1_300,)
    assert studies.lottery_ticket.STUDY.resolve("quick", {"dataset": features, "num_train": 70}).num_train == 70


def test_published_numbers_are_for_published_data(features):
    """A file has its own name whatever it is called, so no table of the paper stands beside it."""
    names = {data.NpzFile(f"{name}.npz") for name in (*data.SOURCES, "published")}
    known = {dataset for _, dataset in paper.DOUBLE_DESCENT} | set(data.SOURCES) | {"published"}
    assert len(names) == len(known) and not names & known


def test_the_run_folder_of_a_file(tmp_path, features):
    """It has the file's stem; the recorded command has its path; the same content is the same run."""
    given = dict(preset="quick", out_dir=tmp_path, rates=(0.05,), width=4, num_train=200)
    found = []
    for path in (features.path, tmp_path / "elsewhere" / "mnist.npz"):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(features.path.read_bytes())
        with runner.opened(studies.learning_rate.STUDY, dataset=path, **given) as ready:
            found.append(ready.run.folder)
    assert found[0] == found[1] and found[0].name.startswith("mnist_npz-")
    written = json.loads((found[0] / "config.json").read_text())
    assert written["dataset"] == "mnist_npz" and written["command"]["given"]["dataset"] == str(features.path)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("@none.npz", "--dataset: there is no file @none.npz"),
        ("@damaged.npz", "--dataset: cannot decode @damaged.npz: BadZipFile: File is not a zip file"),
        ("@short.npz", "--dataset: @short.npz: expected a label for each training example, got 5 examples and labels"),
        ("@negative.npz", "--dataset: @negative.npz: y_train: expected labels 0, 1, 2, ..., got -1 ... "),
        ("@folder.npz", "--dataset: cannot decode @folder.npz: IsADirectoryError: Is a directory"),
        (
            "mnits",
            "expected one of mnist, fashion_mnist, cifar10, cifar100, digits, mnist1d, or the path of an .npz file",
        ),
    ],
)
def test_a_file_that_is_no_dataset_ends_in_one_line(tmp_path, capsys, flag, message):
    (tmp_path / "damaged.npz").write_bytes(b"no zip")
    (tmp_path / "folder.npz").mkdir()
    whole = dict(np.load(write(tmp_path / "short.npz", (3,), count=5)))
    np.savez(tmp_path / "negative.npz", **{**whole, "y_train": whole["y_train"].astype(int) - 1})
    np.savez(tmp_path / "short.npz", **{**whole, "y_train": whole["y_train"][:4]})
    with pytest.raises(SystemExit) as ended:
        command = [
            "learning_rate.py",
            f"--dataset={flag.replace('@', f'{tmp_path}/')}",
            f"--out_dir={tmp_path / 'out'}",
        ]
        cli.run_study(studies.learning_rate.STUDY, command)
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and out == "" and err.count("\n") == 1
    assert message.replace("@", f"{tmp_path}/") in err
    assert not (tmp_path / "out").exists()
