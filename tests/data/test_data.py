"""Tests of ntkgen.data: embedded data, a tiny TFDS folder written here, and real data.

The real-data tests need NTKGEN_DATA_DIR to hold mnist and cifar10.
"""

import dataclasses
import io as bytesio
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkgen import data, io
from ntkgen.data import _dataset, _raw, _tfds

REAL = os.environ.get("NTKGEN_DATA_DIR", "")
COUNTS = {"train": 23, "test": 10}
FAST = settings(max_examples=15, deadline=None)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """An own, empty cache for every test, and no data folder but the one a test gives."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(folder))
    for variable in ("NTKGEN_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return folder


# --- A tiny TFDS folder, written without TensorFlow


def example(image: np.ndarray, label: int) -> bytes:
    """Serialise one image the way tfds does: a tf.train.Example with a PNG and an int64."""
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    png = bytesio.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(png, "PNG")
    proto = tf_example_pb2.Example()
    proto.features.feature["image"].bytes_list.value.append(png.getvalue())
    proto.features.feature["label"].int64_list.value.append(label)
    return proto.SerializeToString()


def write_shard(path: Path, records: list[bytes]) -> None:
    """Write one ArrayRecord file."""
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def tiny_arrays(shape=(28, 28, 1)) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Random images and labels for each split."""
    rng = np.random.default_rng(0)
    return {
        split: (rng.integers(0, 256, (n, *shape), dtype=np.uint8), rng.integers(0, 10, n))
        for split, n in COUNTS.items()
    }


def write_tfds(root: Path, name: str, version: str = "3.0.1", shape=(28, 28, 1), shards: int = 2) -> Path:
    """Write a prepared TFDS folder and return the folder of its version."""
    folder = root / name / version
    folder.mkdir(parents=True)
    splits = []
    for split, (x, y) in tiny_arrays(shape).items():
        parts = np.array_split(np.arange(len(y)), shards)
        for i, rows in enumerate(parts):
            path = folder / f"{name}-{split}.array_record-{i:05d}-of-{shards:05d}"
            write_shard(path, [example(x[row], int(y[row])) for row in rows])
        splits.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(rows)) for rows in parts],
                "numBytes": "1",
            }
        )
    info = {"name": name, "version": version, "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    prefix = "tensorflow_datasets.core.features."
    dimensions = {"dimensions": [str(d) for d in shape]}
    features = {
        "image": {
            "pythonClassName": prefix + "image_feature.Image",
            "image": {"shape": dimensions, "dtype": "uint8", "encodingFormat": "png"},
        },
        "label": {
            "pythonClassName": prefix + "class_label_feature.ClassLabel",
            "classLabel": {"numClasses": "10"},
        },
    }
    top = {"pythonClassName": prefix + "features_dict.FeaturesDict", "featuresDict": {"features": features}}
    (folder / "features.json").write_text(json.dumps(top))
    return folder


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A data folder with a tiny fashion_mnist, of which `load` expects just these counts; no network."""

    def no_network(*args, **kwargs):
        raise AssertionError("tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    source = data.SOURCES["fashion_mnist"]
    read = dataclasses.replace(source.read, num_train=COUNTS["train"], num_test=COUNTS["test"])
    monkeypatch.setitem(data.SOURCES, "fashion_mnist", source._replace(read=read))
    write_tfds(tmp_path, "fashion_mnist")
    return tmp_path


def refused(capfd, *names: str, **arguments) -> str:
    """Load, expect one line that holds all of `names`, and nothing on the terminal; return it."""
    start = time.monotonic()
    with pytest.raises(data.DataError) as caught:
        data.load("fashion_mnist", **arguments)
    message = str(caught.value)
    assert time.monotonic() - start < 10
    assert "\n" not in message
    assert len(message) < 600
    for name in names:
        assert name in message
    assert isinstance(caught.value, ValueError)
    error = caught.value
    assert error.__context__ is None or error.__suppress_context__  # no foreign tracebacks behind it
    out, err = capfd.readouterr()
    assert out == "" and re.fullmatch("(decoding fashion_mnist .*\n)?", err)
    return message


def test_tfds_folder_is_read_exactly(tiny, monkeypatch):
    """Images and labels arrive in order, across shards, standardised; the newest version is taken."""
    shutil.copytree(tiny / "fashion_mnist" / "3.0.1", tiny / "fashion_mnist" / "3.0.0")
    (tiny / "fashion_mnist" / "10.0.0.incompleteABC").mkdir()
    monkeypatch.setenv("NTKGEN_DATA_DIR", str(tiny))
    dataset = data.load("fashion_mnist")
    assert dataset.version == "3.0.1"
    for split, (x, y) in tiny_arrays().items():
        got = getattr(dataset, split)
        assert isinstance(got.x, jax.Array)
        assert isinstance(got.y, jax.Array)
        assert (got.x.dtype, got.y.dtype) == (jnp.float32, jnp.int32)
        np.testing.assert_array_equal(got.y, y)
        pixels = (np.asarray(got.x) * dataset.std + dataset.mean) * 255
        np.testing.assert_allclose(pixels, x, atol=1e-3)
    np.testing.assert_allclose(dataset.train.x.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(dataset.train.x.std(), 1, atol=1e-5)
    assert "tensorflow" not in sys.modules


def test_decoding_is_announced_once(tiny, monkeypatch, capfd):
    """On standard error, with the folder that keeps it; the second load says nothing."""
    monkeypatch.setenv("HOME", str(tiny))
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(tiny / "kept"))
    said = "decoding fashion_mnist (33 images), once; kept in ~/kept\n"
    for expected in (said, ""):
        data.load("fashion_mnist", data_dir=tiny)
        assert capfd.readouterr() == ("", expected)


def test_only_the_wish_for_opencv_is_silenced(caplog):
    """And only while tfds decodes: other lines, and later ones, come through."""
    logger = logging.getLogger("absl")
    with _tfds._quiet_tfds():
        logger.warning("OpenCV is not installed.")
        logger.warning("something else")
    logger.warning("OpenCV, later")
    assert [record.getMessage() for record in caplog.records] == ["something else", "OpenCV, later"]


@pytest.mark.parametrize("shape", [(14, 14, 1), (28, 28, 3)])
def test_wrong_shape_is_refused(tiny, capfd, shape, cache):
    """A folder of other images is named with what was expected and what came."""
    shutil.rmtree(tiny / "fashion_mnist")
    write_tfds(tiny, "fashion_mnist", shape=shape)
    message = refused(capfd, "fashion_mnist-train", "(28, 28, 1)", data_dir=tiny)
    assert str(shape) in message
    assert os.listdir(cache) == []


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (lambda: example(np.zeros((1, 28, 1), np.uint8), 3), "got (1, 28, 1)"),  # would broadcast
        (lambda: example(np.zeros((28, 28, 1), np.uint8), 10), "expected labels 0 to 9, got 10"),
        (lambda: example(np.zeros((28, 28, 1), np.uint8), -1), "expected labels 0 to 9, got -1"),
        (lambda: b"garbage", "cannot decode"),
        (lambda: b"", "cannot decode"),
    ],
)
def test_one_bad_record_is_refused(tiny, capfd, record, reason):
    """A record that passes the file's checksums but holds something else is refused, with its file."""
    path = tiny / "fashion_mnist" / "3.0.1" / "fashion_mnist-test.array_record-00001-of-00002"
    good = example(np.zeros((28, 28, 1), np.uint8), 3)
    write_shard(path, [good, good, record(), good, good])
    refused(capfd, str(path), reason, data_dir=tiny)


DAMAGES = {
    "empty": lambda content: b"",
    "first half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "one byte long": lambda content: content + b"x",
    "zeros": lambda content: bytes(len(content)),
    "garbage": lambda content: np.random.default_rng(0).bytes(len(content)),
    "bad start": lambda content: bytes(4000) + content[4000:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_damaged_file_is_named(tiny, capfd, cache, damage, split):
    """However a file was damaged: one line that names it, and nothing is cached."""
    path = tiny / "fashion_mnist" / "3.0.1" / f"fashion_mnist-{split}.array_record-00001-of-00002"
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    refused(capfd, str(path), data_dir=tiny)
    assert os.listdir(cache) == []


def test_missing_shard_pipe_and_folder_in_its_place(tiny, capfd):
    """What is no file is not waited for."""
    path = tiny / "fashion_mnist" / "3.0.1" / "fashion_mnist-train.array_record-00000-of-00002"
    path.unlink()
    refused(capfd, str(path), "no such file", data_dir=tiny)
    os.mkfifo(path)
    refused(capfd, str(path), "no such file", data_dir=tiny)
    path.unlink()
    path.mkdir()
    refused(capfd, str(path), "no such file", data_dir=tiny)


@pytest.mark.parametrize("extra", [-1, 1])
def test_wrong_count_in_a_file(tiny, capfd, extra):
    """A whole file with too few or too many records is refused; tfds would ignore the surplus."""
    path = tiny / "fashion_mnist" / "3.0.1" / "fashion_mnist-test.array_record-00000-of-00002"
    write_shard(path, [example(np.zeros((28, 28, 1), np.uint8), 3)] * (5 + extra))
    refused(capfd, str(path), f"expected 5 records, got {5 + extra}", data_dir=tiny)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda info: info["splits"][0].update(shardLengths=["12", "10"]),
            "expected training images 23, got 22",
        ),
        (lambda info: info["splits"].pop(), "expected test images 10, got 0"),
        (lambda info: info.update(name="mnist"), "expected name fashion_mnist, got mnist"),
        (
            lambda info: info.update(fileFormat="tfrecord"),
            "expected fileFormat array_record, got tfrecord; `tfds build",
        ),
        (lambda info: info.clear(), "is not the description of a TFDS data set"),
    ],
)
def test_wrong_description_is_refused(tiny, capfd, change, reason):
    """The folder's own description must be that of the data set asked for."""
    path = tiny / "fashion_mnist" / "3.0.1" / "dataset_info.json"
    info = json.loads(path.read_text())
    change(info)
    path.write_text(json.dumps(info))
    refused(capfd, str(path), reason, data_dir=tiny)


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe"])
def test_unreadable_description_is_refused(tiny, capfd, name, content):
    """Missing, empty or garbled JSON files."""
    path = tiny / "fashion_mnist" / "3.0.1" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    refused(capfd, str(path.parent), data_dir=tiny)


def test_nothing_found_says_where_and_what_to_do(tmp_path, monkeypatch, capfd, cache):
    """Each place that can be looked in is named; tfds is not even imported for it, and nothing is written."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    help_ = ("fashion_mnist/<version> (TFDS", "train-images-idx3-ubyte", "fashion_mnist.npz", "--dataset=digits")
    missing = tmp_path / "missing"
    refused(capfd, f"there is no folder {missing}", "(data_dir)", *help_, data_dir=missing)
    refused(capfd, f"found no fashion_mnist in {tmp_path}", *help_, data_dir=tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(capfd, str(tmp_path / "tensorflow_datasets"), "the default TFDS folder", *help_)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "a"))
    refused(capfd, str(tmp_path / "a"), "$TFDS_DATA_DIR", *help_)
    monkeypatch.setenv("NTKGEN_DATA_DIR", str(tmp_path / "b"))
    refused(capfd, str(tmp_path / "b"), "$NTKGEN_DATA_DIR", *help_)
    (tmp_path / "fashion_mnist").write_text("a file where a folder should be")
    refused(capfd, f"found no fashion_mnist in {tmp_path}", data_dir=tmp_path)
    assert os.listdir(cache) == []
    assert sorted(os.listdir(tmp_path)) == ["fashion_mnist"]


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("fashion_mnist", "tensorflow_datasets", "tensorflow-datasets"),
        ("fashion_mnist", "array_record.python", "array_record"),
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("mnist1d", "mnist1d.data", "mnist1d"),
    ],
)
def test_missing_package_says_which(tiny, monkeypatch, name, module, package):
    """One line with the command that installs it."""
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "array_record.python.array_record_data_source", raising=False)
    with pytest.raises(data.DataError, match=rf"^{name}: .*pip install .*{package}[^\n]*$"):
        data.load(name, data_dir=tiny)


# --- The cache


def forbid_decoding(monkeypatch):
    """From here on, only the cache can answer."""
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)


def test_cache_answers_without_decoding_until_the_source_changes(tiny, cache, monkeypatch):
    """The second load needs no tfds and gives the same; a touched file makes it decode again."""
    first = data.load("fashion_mnist", data_dir=tiny)
    assert len(os.listdir(cache)) == 1
    with monkeypatch.context() as patch:
        forbid_decoding(patch)
        second = data.load("fashion_mnist", data_dir=tiny)
        assert second.digest == first.digest
        np.testing.assert_array_equal(second.train.x, first.train.x)
        os.utime(tiny / "fashion_mnist" / "3.0.1" / "features.json", ns=(1, 1))
        with pytest.raises(data.DataError, match="pip install"):
            data.load("fashion_mnist", data_dir=tiny)
    assert data.load("fashion_mnist", data_dir=tiny).digest == first.digest


def raw() -> _raw.Raw:
    """A few arrays to cache."""
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 256, (9, 4, 4, 1), dtype=np.uint8), rng.integers(0, 10, 9)
    return _raw.Raw(x[:6], y[:6], x[6:], y[6:])


@FAST
@given(st.data())
def test_damaged_cache_never_gives_wrong_data(tmp_path_factory, draw):
    """Cut or overwritten anywhere, a cache gives the right arrays, with a warning if it was rebuilt."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NTKGEN_CACHE_DIR", str(folder))
        _raw.cached("key", raw)
        path = folder / "key.npz"
        good = path.read_bytes()
        start = draw.draw(st.integers(0, len(good) - 1))
        if draw.draw(st.booleans()):
            path.write_bytes(good[:start])
        else:
            patch_bytes = draw.draw(st.binary(min_size=1, max_size=40))
            path.write_bytes(good[:start] + patch_bytes + good[start + len(patch_bytes) :])
        made = []
        with pytest.MonkeyPatch.context() as inner:
            warned = []
            inner.setattr(_raw.warnings, "warn", lambda text, **_: warned.append(text))
            got = _raw.cached("key", lambda: made.append(1) or raw())
        assert len(warned) == len(made)
        for a, b in zip(got, raw(), strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == b.dtype


def test_damaged_cache_is_repaired_with_a_warning(tiny, cache):
    """One warning, the right data, and a good file afterwards."""
    first = data.load("fashion_mnist", data_dir=tiny)
    (path,) = cache.iterdir()
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.warns(UserWarning, match="damaged and will be built anew"):
        assert data.load("fashion_mnist", data_dir=tiny).digest == first.digest
    assert path.read_bytes() == good


def test_checksum_covers_arrays_that_numpy_would_accept(cache):
    """A well-formed file with other pixels is noticed: only the checksum can."""
    _raw.cached("key", raw)
    with np.load(cache / "key.npz") as file:
        arrays = dict(file)
    arrays["train_x"] = arrays["train_x"] ^ 1
    np.savez(cache / "key.npz", **arrays)
    with pytest.warns(UserWarning, match="checksum does not match"):
        np.testing.assert_array_equal(_raw.cached("key", raw).train_x, raw().train_x)


def test_unwritable_cache_is_only_a_warning(tiny, monkeypatch, tmp_path_factory):
    """The cache lies beneath a file, where not even root can write."""
    blocker = tmp_path_factory.mktemp("blocked") / "file"
    blocker.touch()
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(blocker / "cache"))
    with pytest.warns(UserWarning, match="cannot keep the decoded fashion_mnist") as caught:
        dataset = data.load("fashion_mnist", data_dir=tiny)
    assert len(caught) == 1
    assert dataset.num_train == COUNTS["train"]


def test_default_cache_is_in_the_user_cache_folder(monkeypatch, tmp_path):
    """The environment variable first, then XDG's, then ~/.cache."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NTKGEN_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert io.cache_dir() == tmp_path / ".cache" / "ntkgen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert io.cache_dir() == tmp_path / "xdg" / "ntkgen"


def _build(barrier, queue):
    barrier.wait()
    queue.put([array.tobytes() for array in _raw.cached("key", raw)])


def test_two_processes_building_at_once(cache):
    """Both get the data, and the file they leave is good."""
    context = multiprocessing.get_context("spawn")  # JAX has threads here, which fork does not survive
    barrier, queue = context.Barrier(2), context.Queue()
    children = [context.Process(target=_build, args=(barrier, queue)) for _ in range(2)]
    for child in children:
        child.start()
    got = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert got == [[array.tobytes() for array in raw()]] * 2
    assert os.listdir(cache) == ["key.npz"]

    def must_not_build():
        raise AssertionError("the cache is not good")

    _raw.cached("key", must_not_build)


# --- Subsets, noise, standardisation

SEEDS = st.integers(0, 2**64)
SIZES = st.integers(1, 1297)
NOISE = st.floats(0, 1, exclude_max=True)


def test_digits_shapes_and_fixed_split():
    """1,297 training and 500 test images that together are scikit-learn's, in one fixed order."""
    from sklearn.datasets import load_digits

    dataset = data.load("digits")
    assert dataset.train.x.shape == (1297, 8, 8, 1)
    assert dataset.test.x.shape == (500, 8, 8, 1)
    assert dataset.mean.shape == dataset.std.shape == (1,)
    assert dataset.num_classes == 10
    pixels = np.concatenate([dataset.train.x, dataset.test.x]) * dataset.std + dataset.mean
    ours = np.rint(pixels * 16).astype(int).reshape(1797, 64)
    labels = np.concatenate([dataset.train.y, dataset.test.y])
    theirs = load_digits()
    rows = np.column_stack([ours, labels]).tolist()
    assert sorted(rows) == sorted(np.column_stack([theirs.data.astype(int), theirs.target]).tolist())
    # Published figures rest on this split: it may not move, with seed or release.
    assert dataset.train.y[:10].tolist() == [9, 1, 5, 2, 2, 1, 9, 8, 4, 3]
    assert dataset.test.y[:10].tolist() == [2, 8, 2, 6, 6, 7, 1, 9, 8, 5]


def test_mnist1d_is_the_authors_default_and_leaves_the_global_generators_alone(cache, monkeypatch):
    """4,000 + 1,000 signals; the global streams go on as if nothing had happened; cached."""
    np.random.seed(7)
    random.seed(7)
    dataset = data.load("mnist1d")
    np.testing.assert_array_equal(np.random.random(3), np.random.RandomState(7).random(3))
    assert random.random() == random.Random(7).random()
    assert dataset.train.x.shape == (4000, 40, 1, 1)
    assert dataset.test.x.shape == (1000, 40, 1, 1)
    np.testing.assert_allclose(dataset.mean, 0, atol=0.01)  # the generator centres train and test together
    np.testing.assert_allclose(dataset.std, 1, atol=0.01)
    assert np.bincount(np.concatenate([dataset.train.y, dataset.test.y])).tolist() == [500] * 10
    monkeypatch.setitem(sys.modules, "mnist1d.data", None)
    assert data.load("mnist1d").digest == dataset.digest


@FAST
@given(SEEDS, SIZES, SIZES, NOISE)
def test_subsets_are_nested_with_their_labels(seed, a, b, noise):
    """With one seed the smaller subset is the beginning of the larger, noisy labels included."""
    small, large = (data.load("digits", num_train=n, seed=seed, label_noise=noise) for n in sorted((a, b)))
    n = min(a, b)
    assert len(small.train.y) == small.num_train == n
    np.testing.assert_array_equal(small.train.x, large.train.x[:n])
    np.testing.assert_array_equal(small.train.y, large.train.y[:n])
    np.testing.assert_array_equal(small.mean, large.mean)  # of the full training set, whatever the subset


@FAST
@given(SEEDS, NOISE, NOISE)
def test_noise_never_keeps_the_label_and_grows_monotonically(seed, p, q):
    """A flipped label is wrong; more noise flips those and others; images and test labels stay."""
    clean = data.load("digits")
    weak, strong = (data.load("digits", label_noise=level, seed=seed) for level in sorted((p, q)))
    np.testing.assert_array_equal(weak.train.x, clean.train.x)
    np.testing.assert_array_equal(strong.test.y, clean.test.y)
    flipped = np.asarray(weak.train.y != clean.train.y)
    assert weak.num_flipped == flipped.sum()
    np.testing.assert_array_equal(weak.train.y[flipped], strong.train.y[flipped])
    # A binomial 6 sigma away from its mean, in 30 draws, would be a bug.
    assert abs(flipped.sum() - 1297 * min(p, q)) <= 6 * np.sqrt(1297 * 0.25)
    assert set(np.unique(strong.train.y)) <= set(range(10))


def test_noise_is_uniform_over_the_wrong_classes():
    """All nine wrong classes are equally likely, the true one never comes (chi-square, 80 dof)."""
    y = np.repeat(np.arange(10), 9_000)
    noisy = _dataset._flip_labels(y, 1.0, 10, seed=0)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (y, noisy), 1)
    assert np.trace(counts) == 0
    off_diagonal = counts[~np.eye(10, dtype=bool)]
    assert ((off_diagonal - 1000) ** 2 / 1000).sum() < 150  # its 99.9999 % point is 148


@FAST
@given(SEEDS, SIZES, NOISE)
def test_same_arguments_same_data(seed, n, noise):
    """Deterministic to the bit, and the digest says so."""
    one, two = (data.load("digits", num_train=n, seed=seed, label_noise=noise) for _ in range(2))
    np.testing.assert_array_equal(one.train.x, two.train.x)
    np.testing.assert_array_equal(one.train.y, two.train.y)
    assert one.digest == two.digest


def test_digest_tells_data_apart():
    """Everything that changes what is trained on changes the digest; a seed that selects nothing does not."""
    variants = [
        {},
        {"num_train": 100},
        {"num_train": 100, "seed": 1},
        {"num_train": 100, "subset": "first"},
        {"num_train": 1297},
        {"label_noise": 0.1},
        {"label_noise": 0.1, "seed": 1},
        {"label_noise": 0.2},
    ]
    assert len({data.load("digits", **v).digest for v in variants}) == len(variants)
    assert data.load("digits", seed=1).digest == data.load("digits").digest


def test_subset_first_keeps_the_order_of_the_source():
    """The first n are the first n of the whole; a random subset of all is a permutation of it."""
    everything = data.load("digits")
    first = data.load("digits", num_train=100, subset="first", seed=3)
    np.testing.assert_array_equal(first.train.x, everything.train.x[:100])
    assert (first.subset, everything.subset) == ("first", "all")
    shuffled = data.load("digits", num_train=1297, seed=3)
    assert not np.array_equal(shuffled.train.y, everything.train.y)
    assert sorted(shuffled.train.y.tolist()) == sorted(everything.train.y.tolist())
    np.testing.assert_array_equal(shuffled.test.x, everything.test.x)


def test_subset_and_noise_streams_are_fixed():
    """Published runs name a seed: what it selects may not change with a release."""
    dataset = data.load("digits", num_train=8, label_noise=0.5, seed=0)
    assert dataset.train.y.tolist() == [5, 8, 6, 8, 1, 0, 4, 4]
    assert dataset.num_flipped == 2


def test_statistics_are_those_of_float64():
    """Per channel, over several blocks, against plain NumPy; a constant channel is divided by one."""
    x = np.random.default_rng(0).integers(0, 256, (2001, 3, 2, 3), dtype=np.uint8)
    x[..., 1] = 7
    mean, std = _dataset._channel_stats(x, 255)
    scaled = x / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std[[0, 2]], scaled.std((0, 1, 2))[[0, 2]], rtol=1e-6)
    assert std[1] == 1
    split = _dataset._split(x, np.zeros(2001, np.int64), 255, mean, std)
    np.testing.assert_allclose(split.x, (scaled - mean) / std, atol=1e-5)
    np.testing.assert_allclose(split.x[..., 1], 0, atol=1e-7)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_train": 0}, "num_train: expected an integer of at least 1, got 0"),
        ({"num_train": -5}, "num_train: .*got -5"),
        ({"num_train": 10.0}, "num_train: .*got 10.0"),
        ({"num_train": "10"}, "num_train: .*got '10'"),
        ({"num_train": True}, "num_train: .*got True"),
        ({"num_train": 1298}, "num_train: expected at most 1297, all of digits, got 1298"),
        ({"label_noise": 1.0}, r"label_noise: expected a number in \[0, 1\), got 1.0"),
        ({"label_noise": -0.1}, "label_noise: .*got -0.1"),
        ({"label_noise": float("nan")}, "label_noise: .*got nan"),
        ({"label_noise": "0.1"}, "label_noise: .*got '0.1'"),
        ({"label_noise": None}, "label_noise: .*got None"),
        ({"seed": -1}, "seed: expected an integer of at least 0, got -1"),
        ({"seed": 0.5}, "seed: .*got 0.5"),
        ({"subset": "last"}, "subset: expected 'random' or 'first', got 'last'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    """With what was expected and what came."""
    with pytest.raises(ValueError, match=message):
        data.load("digits", **arguments)


def test_numpy_numbers_are_welcome():
    """A sweep's np.int64 and np.float64 serve, and come back as plain numbers that JSON takes."""
    dataset = data.load("digits", num_train=np.int64(10), seed=np.int32(1), label_noise=np.float64(0.1))
    record = {k: getattr(dataset, k) for k in ("num_train", "seed", "label_noise", "num_flipped", "digest")}
    assert json.loads(json.dumps(record)) == record


def test_unknown_name_lists_the_known():
    """All of them."""
    with pytest.raises(ValueError, match=r"cifar100, digits, mnist1d, or the path of an \.npz file, got 'imagenet'"):
        data.load("imagenet")


# --- Real data


@pytest.mark.skipif(not REAL, reason="NTKGEN_DATA_DIR is not set: no real MNIST and CIFAR-10 to read")
@pytest.mark.parametrize(
    ("name", "shape", "num_train", "mean", "std"),
    [
        ("mnist", (28, 28, 1), 60_000, [0.1307], [0.3081]),
        ("cifar10", (32, 32, 3), 50_000, [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]),
    ],
)
def test_real_data(shared_cache, monkeypatch, name, shape, num_train, mean, std):
    """Counts, the constants everybody uses, all classes, and nested subsets of the real thing."""
    if not (Path(REAL) / name).is_dir():
        pytest.skip(f"no {name} in NTKGEN_DATA_DIR")
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(shared_cache))  # decoding takes half a minute
    large = data.load(name, data_dir=REAL, num_train=2_000, label_noise=0.1, seed=5)
    assert large.test.x.shape == (10_000, *shape)
    np.testing.assert_allclose(large.mean, mean, atol=5.1e-5)
    np.testing.assert_allclose(large.std, std, atol=5.1e-5)
    assert 100 < large.num_flipped < 300
    if name == "cifar10":
        assert np.bincount(large.test.y).tolist() == [1000] * 10
    small = data.load(name, data_dir=REAL, num_train=500, label_noise=0.1, seed=5)
    np.testing.assert_array_equal(small.train.x, large.train.x[:500])
    np.testing.assert_array_equal(small.train.y, large.train.y[:500])
    with pytest.raises(ValueError, match=f"expected at most {num_train}"):
        data.load(name, data_dir=REAL, num_train=num_train + 1)
