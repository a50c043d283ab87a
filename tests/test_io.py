"""Tests of ntkgen.io."""

import json
import os
import stat
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ntkgen import io

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
ARRAYS = hnp.arrays(
    st.sampled_from([np.uint8, np.int32, np.float32, np.float64, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path):
    """The new content is there, alone in its folder, with the permissions the umask grants."""
    path = tmp_path / "a.bin"
    io.atomic_write(path, b"old")
    umask = os.umask(0o027)
    try:
        io.atomic_write(path, b"new")
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_atomic_write_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch, call):
    """A full disk or a failed rename leaves the old content and no temporary file."""
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def fail(*args):
        raise OSError("disk full")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="disk full"):
        io.atomic_write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_atomic_write_from_many_threads_never_shows_a_mixture(tmp_path):
    """Readers during a storm of writers see one writer's content, whole."""
    path = tmp_path / "a.bin"
    contents = [bytes([i]) * 50_000 for i in range(4)]
    io.atomic_write(path, contents[0])

    def write(content):
        for _ in range(5):
            io.atomic_write(path, content)

    threads = [threading.Thread(target=write, args=(c,)) for c in contents]
    for thread in threads:
        thread.start()
    seen = [path.read_bytes()]
    while any(thread.is_alive() for thread in threads):
        seen.append(path.read_bytes())
    assert set(seen) <= set(contents)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_sha256_bytes_known_value():
    """The value of FIPS 180-4 for "abc"."""
    assert io.sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@given(ARRAYS, ARRAYS)
def test_digest_sees_content_and_not_its_arrangement(a, b):
    """Order of the mapping, memory layout and byte order make no difference."""
    same = {"b": b.copy(order="F"), "a": a.astype(a.dtype.newbyteorder(">"))}
    assert io.digest({"a": a, "b": b}) == io.digest(same)


@given(ARRAYS.filter(lambda a: a.size > 0), st.data())
def test_digest_sees_every_byte(a, data):
    """Flipping one bit anywhere changes it."""
    changed = bytearray(a.tobytes())
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1
    other = np.frombuffer(bytes(changed), a.dtype).reshape(a.shape)
    assert io.digest({"a": a}) != io.digest({"a": other})


def test_digest_sees_names_dtypes_shapes_and_boundaries():
    """Arrays with the same bytes, in the same order, differ by everything else."""
    x = np.arange(4, dtype=np.int32)
    variants = [
        {"x": x},
        {"y": x},
        {"x": x.view(np.uint32)},
        {"x": x.reshape(2, 2)},
        {"x": x.reshape(4, 1)},
        {"x": x[:2], "y": x[2:]},
        {"x": x[:3], "y": x[3:]},
        {"x": x, "y": x[:0]},
    ]
    assert len({io.digest(v) for v in variants}) == len(variants)


def test_digest_refuses_objects():
    """Addresses are no content."""
    with pytest.raises(TypeError, match="'names' holds Python objects"):
        io.digest({"names": np.array([None, "a"], dtype=object)})


def test_digest_is_the_same_in_every_release():
    """Written records and caches carry digests: changing the definition breaks them."""
    arrays = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "y": np.array([1, 2], np.int32)}
    assert io.digest(arrays).startswith("6d3f9341d682c63f")
    assert io.config_hash({"width": 8, "lr": 0.05, "seeds": (0, 1)}) == "085c5088e5bf"


@given(JSON)
def test_canonical_json_gives_the_value_back(value):
    """Nothing is lost, and writing again gives the same text."""
    text = io.canonical_json(value)
    assert json.loads(text) == value
    assert io.canonical_json(json.loads(text)) == text


@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=5))
def test_canonical_json_does_not_depend_on_order(config):
    """Neither does the hash, which is 12 hex digits."""
    shuffled = dict(reversed(config.items()))
    assert io.canonical_json(shuffled) == io.canonical_json(config)
    assert io.config_hash(shuffled) == io.config_hash(config)
    assert len(io.config_hash(config)) == 12
    assert int(io.config_hash(config), 16) >= 0


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"a": {"b": float("nan")}}, ValueError, r"value\['a'\]\['b'\] is nan"),
        ([1.0, -np.inf], ValueError, r"value\[1\] is -inf"),
        ({"a": np.int64(3)}, TypeError, r"value\['a'\] is int64"),
        ({"a": (1, np.zeros(2))}, TypeError, r"value\['a'\]\[1\] is ndarray"),
        ({1: "a"}, TypeError, "has the key 1; expected a string"),
        ({None: "a"}, TypeError, "has the key None"),
        ({"a": {1, 2}}, TypeError, r"value\['a'\] is set"),
    ],
)
def test_canonical_json_says_what_is_wrong_and_where(value, error, message):
    """Values that JSON cannot hold, or would silently change, are refused by name."""
    with pytest.raises(error, match=message):
        io.canonical_json(value)


def test_lock_names_folder_and_holder_and_ends_with_the_body(tmp_path):
    """A second holder is refused in one line while the first is inside, and welcome after."""
    folder = tmp_path / "results" / "run"
    with io.lock(folder):
        with pytest.raises(io.LockedError) as caught:
            with io.lock(folder):
                pass
        assert str(folder) in str(caught.value)
        assert f"process {os.getpid()};" in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(KeyError), io.lock(folder):
        raise KeyError  # an error inside lets go, too
    with io.lock(folder):
        pass


def test_lock_of_a_killed_process_is_free(forks, tmp_path):
    """A process that had no chance to clean up leaves no stale lock; while it lives, its pid is named."""
    code = "import sys, time; from ntkgen import io\n"
    code += "with io.lock(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    child = forks.start("-c", code, tmp_path)
    try:
        assert child.stdout.readline() == "1\n"
        with pytest.raises(io.LockedError, match=f"process {child.pid};"), io.lock(tmp_path):
            pass
    finally:
        child.kill()
        child.communicate()
    with io.lock(tmp_path):
        pass


@pytest.mark.parametrize("link", ["symbolic", "hard", "fifo", "folder"])
def test_lock_leaves_other_files_alone(tmp_path, link):
    """A lock file that is another file's name too is refused, and what it leads to stays as it is."""
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    path = folder / ".lock"
    make = {
        "symbolic": lambda: path.symlink_to(victim),
        "hard": lambda: path.hardlink_to(victim),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }
    make[link]()
    with pytest.raises(io.LockedError, match="is a link or no file; remove it"), io.lock(folder):
        pass
    assert victim.read_text() == "precious"
    path.rmdir() if link == "folder" else path.unlink()
    with io.lock(folder):
        assert path.read_text() == str(os.getpid())
    assert victim.read_text() == "precious"
