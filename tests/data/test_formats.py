"""Tests of the original files of MNIST, Fashion-MNIST and CIFAR, small ones written here, and of .npz files."""

import copy
import dataclasses
import gzip
import io as bytesio
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ntkgen import data
from ntkgen.data._pickle import restricted_load

COUNTS = (10, 4)  # five batches of two
NAMES = ("mnist", "fashion_mnist", "cifar10", "cifar100")


@pytest.fixture(autouse=True)
def small(tmp_path_factory, monkeypatch):
    """The published data sets have a few images here; no cache and no folder but a test's own."""
    monkeypatch.setenv("NTKGEN_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
    for variable in ("NTKGEN_DATA_DIR", "TFDS_DATA_DIR"):
        monkeypatch.delenv(variable, raising=False)
    for name in NAMES:
        source = data.SOURCES[name]
        read = dataclasses.replace(source.read, num_train=COUNTS[0], num_test=COUNTS[1])
        monkeypatch.setitem(data.SOURCES, name, source._replace(read=read))


def arrays(name: str) -> tuple[np.ndarray, ...]:
    """Images and labels of both splits."""
    rng = np.random.default_rng(len(name))
    read = data.SOURCES[name].read
    return tuple(
        array
        for count in COUNTS
        for array in (
            rng.integers(0, 256, (count, *read.shape), dtype=np.uint8),
            rng.integers(0, read.num_classes, count).astype(np.uint8),
        )
    )


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 2048 + array.ndim, *array.shape) + array.tobytes()


def write_idx(folder: Path, name: str, packed: bool = False, dot: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    x, y, x_test, y_test = arrays(name)
    for split, images, labels in (("train", x, y), ("t10k", x_test, y_test)):
        for part, array in ((f"{split}-images-idx3", images[..., 0]), (f"{split}-labels-idx1", labels)):
            content = idx(array)
            stem = part.replace("-idx", ".idx") if dot else part
            path = folder / f"{stem}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(content) if packed else content)


def write_npz(path: Path, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    x, y, x_test, y_test = arrays(name)
    np.savez(path, x_train=x[..., 0], y_train=y, x_test=x_test[..., 0], y_test=y_test)


def python2(images: np.ndarray, labels: list[int], key: bytes) -> bytes:
    """Pickle as Python 2 and an old NumPy did, opcode by opcode; the original files are such."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R("
    dtype += number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    content = b"T" + struct.pack("<i", images.nbytes) + images.tobytes()
    shape = b"(" + b"".join(map(number, images.shape)) + b"t"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R("
    array += number(1) + shape + dtype + b"\x89" + content + b"tb"
    listed = b"](" + b"".join(map(number, labels)) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(key) + listed + b"u."


def cifar_files(name: str, form: str) -> dict[str, bytes]:
    """The files of one layout: relative path -> content."""
    x, y, x_test, y_test = arrays(name)
    ten = name == "cifar10"
    end = ".bin" if form == "binary" else ""
    train = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    parts = [*zip(train, np.array_split(np.arange(COUNTS[0]), len(train)), strict=True)]
    batches = {part: (x[rows], y[rows]) for part, rows in parts} | {"test_batch" if ten else "test": (x_test, y_test)}
    folder = {"python": "batches-py" if ten else "python", "binary": "batches-bin" if ten else "binary"}[form]
    files = {}
    for part, (images, labels) in batches.items():
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        if form == "python":
            content = python2(rows, labels.tolist(), b"labels" if ten else b"fine_labels")
        else:
            bytes_before = [labels] if ten else [labels * 0 + 7, labels]
            content = np.column_stack([*bytes_before, rows]).tobytes()
        files[f"{name.replace('cifar', 'cifar-')}-{folder}/{part}{end}"] = content
    return files


def write_cifar(root: Path, name: str, form: str, packed: bool = False) -> None:
    root.mkdir(parents=True, exist_ok=True)
    files = cifar_files(name, form)
    if not packed:
        for relative, content in files.items():
            (root / relative).parent.mkdir(exist_ok=True)
            (root / relative).write_bytes(content)
        return
    with tarfile.open(root / f"{name.replace('cifar', 'cifar-')}-{form}.tar.gz", "w:gz") as archive:
        for relative, content in files.items():
            member = tarfile.TarInfo(relative)
            member.size = len(content)
            archive.addfile(member, bytesio.BytesIO(content))


def assert_read(name: str, root: Path, version: str) -> data.Dataset:
    dataset = data.load(name, data_dir=root)
    assert dataset.version == version
    x, y, x_test, y_test = arrays(name)
    for split, images, labels in ((dataset.train, x, y), (dataset.test, x_test, y_test)):
        np.testing.assert_array_equal(split.y, labels)
        np.testing.assert_allclose((np.asarray(split.x) * dataset.std + dataset.mean) * 255, images, atol=1e-3)
    return dataset


def refused(name: str, root: Path, *words: str) -> str:
    with pytest.raises(data.DataError) as caught:
        data.load(name, data_dir=root)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    for word in words:
        assert word in message, message
    return message


PLACES = {"mnist": ("", "mnist", "MNIST/raw", "mnist/raw"), "fashion_mnist": ("FashionMNIST/raw", "fashion-mnist", "")}


@pytest.mark.parametrize(("name", "place"), [(name, place) for name, places in PLACES.items() for place in places])
def test_idx(tmp_path, capfd, name, place):
    """Wherever people keep them, in the order of the files; nothing is said, as nothing takes long."""
    write_idx(tmp_path / place, name, packed=place == "mnist", dot=place == "mnist/raw")
    assert_read(name, tmp_path, "idx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", PLACES)
def test_keras(tmp_path, name):
    write_npz(tmp_path / f"{name}.npz", name)
    keras = assert_read(name, tmp_path, "npz")
    write_idx(tmp_path / "other", name)
    assert data.load(name, data_dir=tmp_path / "other").digest == keras.digest  # the same bytes in the same order


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar(tmp_path, name, form, packed):
    write_cifar(tmp_path, name, form, packed)
    assert_read(name, tmp_path, form)
    if packed:
        assert len(os.listdir(tmp_path)) == 1  # nothing is unpacked on disk


def test_newer_pickles_are_read():
    """Of Python 3, in every protocol, with text as keys; columns first too."""
    x = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for protocol in (2, 3, 4, 5):
        for order in "CF":
            content = pickle.dumps({"data": np.array(x, order=order), "labels": [1, 2, 3]}, protocol)
            found = restricted_load(content)
            np.testing.assert_array_equal(found["data"], x)
            assert found["labels"] == [1, 2, 3]
    long = np.array([1, 70_000], ">i4")
    np.testing.assert_array_equal(restricted_load(pickle.dumps({"y": long}, 2))["y"], long)


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize(
    "value",
    [
        lambda path: Call(os.system, f"touch {path}"),
        lambda path: {b"data": Call(open, path, "w")},
        lambda path: [Call(eval, f"open({path!r}, 'w')")],
        lambda path: Call(np.save, path, 1),
        lambda path: Call(getattr, Path(path), "touch"),
    ],
)
def test_a_pickle_calls_nothing(tmp_path, value, protocol):
    path = tmp_path / "written"
    content = pickle.dumps(value(str(path)), protocol)
    with pytest.raises(data.DataError, match="expected plain values and arrays in the pickle, got a call of "):
        restricted_load(content)
    assert not path.exists()
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "data_batch_1").write_bytes(content)
    for name in (*(f"data_batch_{i}" for i in range(2, 6)), "test_batch"):
        (folder / name).write_bytes(b"")
    refused("cifar10", tmp_path, str(folder / "data_batch_1"), "got a call of")
    assert not path.exists()


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
BYTE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"garbage",
        b"\x80\x02" + ARRAY + b"(K\x01(K\x7ft" + BYTE + b"\x89U\x02xxtb.",  # more numbers than bytes
        b"\x80\x02" + ARRAY + b"(K\x01(J\xff\xff\xff\xfft" + BYTE + b"\x89U\x00tb.",  # a negative size
        b"\x80\x02" + ARRAY + b"(K\x01(K\x01tcnumpy\ndtype\nU\x01OK\x00K\x01\x87R\x89U\x08xxxxxxxxtb.",  # addresses
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x08__call__K\x01sb.",  # a stand-in that is changed
        b"\x80\x02cnumpy\nndarray\nK\x01\x85R.",  # an array type that is called
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00bz2\x86R.",
        b"\x80\x02cbuiltins\nlist\n.",
        b"\x80\x02r\xff\xff\xff\xff.",
    ],
)
def test_damaged_pickles_are_refused(content):
    with pytest.raises(data.DataError) as caught:
        restricted_load(content)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 250


def spoil(path: Path, change) -> str:
    packed = path.suffix == ".gz"
    content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    content = change(content)
    path.write_bytes(gzip.compress(content) if packed else content)
    return str(path)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("part", "change", "reason"),
    [
        ("images-idx3", lambda c: c[:-1], "expected 7856 bytes, got 7855"),
        ("images-idx3", lambda c: c + b"x", "expected 7856 bytes, got more"),
        ("images-idx3", lambda c: b"", "expected the magic number 2051 (IDX images), got 0 bytes"),
        ("images-idx3", lambda c: b"\0\0\x0d\x03" + c[4:], "expected the magic number 2051 (IDX images), got 3331"),
        ("labels-idx1", lambda c: b"\0\0\x08\x03" + c[4:], "expected the magic number 2049 (IDX labels), got 2051"),
        ("images-idx3", lambda c: c[:7] + b"\x09" + c[8:], "expected the shape (10, 28, 28), got (9, 28, 28)"),
        ("labels-idx1", lambda c: c[:7] + b"\x09" + c[8:-1], "expected the shape (10,), got (9,)"),
        ("labels-idx1", lambda c: c[:-1] + b"\x0a", "expected labels 0 to 9, got 10"),
    ],
)
def test_damaged_idx_is_refused(tmp_path, packed, part, change, reason):
    write_idx(tmp_path, "mnist", packed)
    path = spoil(tmp_path / f"train-{part}-ubyte{'.gz' if packed else ''}", change)
    refused("mnist", tmp_path, path if "labels 0" not in reason else str(tmp_path), reason)


def test_cut_and_missing_idx(tmp_path):
    write_idx(tmp_path, "mnist", packed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-20], whole[: len(whole) // 2], whole[:3], b"\x1f\x8bgarbage"):
        path.write_bytes(content)
        refused("mnist", tmp_path, f"cannot decode {path}")
    path.unlink()
    refused("mnist", tmp_path, f"there is no t10k-images-idx3-ubyte, or with .gz, in {tmp_path}")
    path.mkdir()
    refused("mnist", tmp_path, "there is no t10k-images-idx3-ubyte")


def test_the_other_mnist_is_recognised(tmp_path):
    """Fashion-MNIST has files of the same names and sizes; asked for as mnist, its labels give it away."""
    write_idx(tmp_path, "mnist")
    labels = np.array([9, 0, 0, 3, 0, 2, 7, 2, 5, 5], np.uint8)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    refused("mnist", tmp_path, "holds fashion_mnist, by its first labels; expected mnist")
    data.load("fashion_mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("x_test"), "expected arrays x_train, y_train, x_test, y_test, got x_train, y_test, y_train"),
        (lambda a: a.update(x_train=a["x_train"][:9]), "expected 10 images and labels, got 9 images, 10 labels"),
        (lambda a: a.update(y_train=a["y_train"][:9]), "expected 10 images and labels, got 10 images, 9 labels"),
        (lambda a: a.update(x_train=a["x_train"][:, :27]), "expected images (28, 28, 1) uint8, got (27, 28, 1) uint8"),
        (lambda a: a.update(x_train=a["x_train"] / 255), "expected images (28, 28, 1) uint8, got (28, 28, 1) float64"),
        (lambda a: a.update(y_train=a["y_train"] + 10), "expected labels 0 to 9, got"),
        (lambda a: a.update(y_train=a["y_train"] - 20.0), "expected labels (n,), got (10,) float64"),
        (lambda a: a.update(y_train=np.array([Call(os.system, "false")] * 10)), "cannot decode"),
    ],
)
def test_wrong_keras_file_is_refused(tmp_path, change, reason):
    path = tmp_path / "mnist.npz"
    write_npz(path, "mnist")
    content = dict(np.load(path))
    change(content)
    np.savez(path, **content)
    refused("mnist", tmp_path, str(path), reason)


@pytest.mark.parametrize("form", ["python", "binary"])
def test_damaged_cifar_is_refused(tmp_path, form):
    """Cut, swapped and missing batches, and images without labels."""
    write_cifar(tmp_path, "cifar10", form)
    (folder,) = tmp_path.iterdir()
    end = "" if form == "python" else ".bin"
    path = folder / f"data_batch_3{end}"
    whole = path.read_bytes()
    reasons = {
        whole[:-1]: "cannot read the pickle" if form == "python" else "expected records of 3073 bytes, got 6145",
        b"": "cannot read the pickle" if form == "python" else "expected records of 3073 bytes, got 0",
    }
    one = np.zeros((1, 3072), np.uint8)
    if form == "python":
        reasons |= {
            python2(one, [1, 2], b"labels"): "expected a label for each image, got 1 images, 2 labels",
            python2(one, [1], b"fine_labels"): "expected data and labels, got no labels",
            python2(one[:, 1:], [1], b"labels"): "expected data (n, 3072) uint8, got ndarray (1, 3071) uint8",
            pickle.dumps({"data": one, "labels": [1.5]}): "expected a list of whole numbers as labels, got list",
            pickle.dumps([1, 2]): "expected a pickled dict, got list",
        }
    for content, reason in reasons.items():
        path.write_bytes(content)
        refused("cifar10", tmp_path, str(path), reason)
    wrong = {
        "expected 10 images and labels, got 9 images": (one, [1]),
        "expected labels 0 to 9, got 10": (np.zeros((2, 3072), np.uint8), [1, 10]),
    }
    for reason, (images, labels) in wrong.items():
        rows = np.column_stack([np.array(labels, np.uint8), images]).tobytes()
        path.write_bytes(python2(images, labels, b"labels") if form == "python" else rows)
        refused("cifar10", tmp_path, str(folder), reason)
    path.unlink()
    refused("cifar10", tmp_path, f"there is no file {path}")


def test_damaged_archive_is_refused(tmp_path):
    write_cifar(tmp_path, "cifar10", "python", packed=True)
    path = tmp_path / "cifar-10-python.tar.gz"
    whole = path.read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2], whole[:-8000]):
        path.write_bytes(content)
        refused("cifar10", tmp_path, str(path))
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("cifar-10-batches-py/data_batch_1"))
    refused("cifar10", tmp_path, f"there is no data_batch_2 in {path}")
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(member)
    refused("cifar10", tmp_path, f"there is no data_batch_1 in {path}")


def test_a_folder_too_deep_or_too_high_is_corrected(tmp_path):
    write_idx(tmp_path / "a" / "MNIST" / "raw", "mnist")
    write_cifar(tmp_path / "a", "cifar10", "python")
    root = f"did you mean --data_dir={tmp_path / 'a'}?"
    refused("mnist", tmp_path, f"found no mnist in {tmp_path} (data_dir)", root)
    refused("cifar10", tmp_path / "a" / "MNIST", root)
    refused("cifar10", tmp_path / "a" / "MNIST" / "raw", root)
    refused("cifar10", tmp_path / "a" / "cifar-10", "there is no folder", root)
    file = tmp_path / "a" / "cifar-10-batches-py" / "data_batch_1"
    refused("cifar10", file, f"{file} is no folder", "did you mean --data_dir=")
    version = tmp_path / "tfds" / "fashion_mnist" / "3.0.1"
    version.mkdir(parents=True)
    for folder in (version, version.parent, tmp_path):
        refused("fashion_mnist", folder, f"did you mean --data_dir={tmp_path / 'tfds'}?")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_says_what_is_read(tmp_path, monkeypatch, name):
    """Every format is named, and none of them needs TensorFlow."""
    folder = tmp_path / "1" / "2" / "3"
    folder.mkdir(parents=True)
    (folder / "MNIST" / "raw").mkdir(parents=True)
    (folder / "cifar-10-batches-py").mkdir()
    wanted = ["train-images-idx3-ubyte", f"{name}.npz"] if "mnist" in name else [f"cifar-{name[5:]}-python.tar.gz"]
    message = refused(name, folder, f"{name}/<version> (TFDS", "--dataset=digits", *wanted)
    assert "did you mean" not in message


# --- Files of the user


@pytest.fixture
def moons(tmp_path):
    """A small file of 12 colours."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (30, 9, 8, 3), dtype=np.uint8), np.arange(30) % 12
    path = tmp_path / "two moons.npz"
    np.savez(path, x=x[:20], y=y[:20], x_test=x[20:], y_test=y[20:])
    return path


def test_npz_of_the_user(moons):
    """By path, by name and with options; the folder and the file's name make no difference to the digest."""
    dataset = data.load(moons, num_train=15, label_noise=0.5, seed=1)
    assert (dataset.name, dataset.version, dataset.num_classes, dataset.num_train) == ("two_moons", "npz", 12, 15)
    assert dataset.train.x.shape == (15, 9, 8, 3) and dataset.num_flipped > 0
    again = data.load(data.NpzFile(str(moons)), num_train=15, label_noise=0.5, seed=1)
    assert again.digest == dataset.digest
    other = moons.rename(moons.with_name("mnist.npz"))
    renamed = data.load(str(other), num_train=15, label_noise=0.5, seed=1)
    assert (renamed.name, renamed.digest) == ("mnist_npz", dataset.digest)


def test_the_name_of_a_file_is_text_that_knows_its_path(moons):
    name = data.NpzFile(moons)
    assert (name, name.path, name.num_train, name.shape) == ("two_moons", moons, 20, (9, 8, 3))
    for copied in (copy.deepcopy(name), pickle.loads(pickle.dumps(name)), data.NpzFile(name)):
        assert (copied, copied.path) == ("two_moons", moons)
    assert data.NpzFile("...npz") == "data" and data.NpzFile("a/cifar10.npz") == "cifar10_npz"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda a: a.pop("y"), "expected arrays x_train, y_train, x_test, y_test, got x, x_test, y_test"),
        (lambda a: a.update(y=a["y"][:19]), "expected a label for each training example, got 20 examples and labels"),
        (lambda a: a.update(y_test=a["y_test"][1:]), "expected a label for each test example, got 10 examples"),
        (lambda a: a.update(x_test=a["x_test"][:, 1:]), "expected test examples of shape (9, 8, 3), got (8, 8, 3)"),
        (lambda a: a.update(x=a["x"].reshape(-1)), "expected examples (n, d), (n, h, w) or (n, h, w, c), got shape"),
        (lambda a: a.update(y=a["y"] - 1), "y_train: expected labels 0, 1, 2, ..., got -1 ... 10"),
        (lambda a: a.update(y=a["y"] / 2, y_test=a["y_test"] / 2), "y_train: expected class labels, integers (n,)"),
        (lambda a: a.update(y=a["y"].astype(str)), "y_train: expected real numbers, got dtype <U"),
        (lambda a: a.update(x=a["x"] * np.nan, x_test=a["x_test"] / 1), "x_train: expected finite numbers, got NaN"),
        (lambda a: a.update(y=np.array([Call(os.system, "false")] * 20)), "cannot decode"),
        (lambda a: a.update(y=a["y"] + 10**6), "y_train: expected at most 100000 classes"),
    ],
)
def test_wrong_npz_of_the_user_is_refused(moons, change, reason):
    """Half of it by the headers alone, before anything is loaded."""
    content = dict(np.load(moons))
    change(content)
    np.savez(moons, **content)

    def both():
        data.NpzFile(moons).check()
        data.load(moons)

    with pytest.raises(data.DataError) as caught:
        both()
    assert str(caught.value).startswith("dataset: ") and reason in str(caught.value) and "\n" not in str(caught.value)


def test_damaged_npz_of_the_user_is_refused(moons, tmp_path):
    whole = moons.read_bytes()
    for content in (b"", b"garbage", whole[: len(whole) // 2], whole[:100]):
        moons.write_bytes(content)
        for use in (data.load, lambda path: data.NpzFile(path).check()):
            with pytest.raises(data.DataError, match=r"^dataset: cannot decode .*two moons.npz: \w+: .*$"):
                use(moons)
    with pytest.raises(data.DataError, match=r"^dataset: there is no file .*none.npz$"):
        data.load(tmp_path / "none.npz")
