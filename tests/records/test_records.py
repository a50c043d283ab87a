"""Run folders, tidy tables and checkpoints, whole and damaged."""

import copy
import dataclasses
import json
import math
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntkgen import data, ensemble, io, models, records, train
from ntkgen.linearize import linearize
from ntkgen.records import _checkpoints, _identity, _networks, _run_folder

CONFIG = {"sizes": [4, 8], "lr": 0.05, "label_noise": 0.2, "momentum": None, "nested": {"affine": False, "name": "mlp"}}


def opened(tmp_path, config=CONFIG, **options):
    return records.open_run(tmp_path / "results", "study", "digits", config, **options)


def refused(call) -> str:
    """The one line of a refusal."""
    with pytest.raises(records.RecordError) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).startswith("out_dir: ")
    return str(caught.value)


def enter(manager):
    with manager:
        pass


# Folders


def test_config_json_says_what_was_run_with_what(tmp_path):
    with opened(tmp_path) as run:
        assert not run.finished
        found = json.loads((run.folder / "config.json").read_text())
    assert (found["study"], found["dataset"]) == ("study", "digits")
    device = {"platform": jax.default_backend(), "count": jax.local_device_count()}
    assert found["config"] == {**CONFIG, "device": device, "numerics": records.numerics()}
    assert found["numerics"] == records.numerics()
    assert found["device"] == {**device, "kind": jax.local_devices()[0].device_kind}
    assert found["versions"]["jax"] == jax.__version__ and found["versions"]["numpy"] == np.__version__
    assert {"ntkgen", "python", "flax", "optax", "orbax-checkpoint", "scipy", "jaxlib"} <= set(found["versions"])
    assert found["commit"] is None or re.fullmatch("[0-9a-f]{40}(-dirty)?", found["commit"])
    assert run.folder == tmp_path / "results" / "study" / f"digits-{io.config_hash(found['config'])}"


LEAVES = [("sizes", 1), ("lr",), ("label_noise",), ("momentum",), ("nested", "affine"), ("nested", "name")]
VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | st.text(max_size=3) | st.just([4])


@given(st.sampled_from(LEAVES), VALUES)
def test_any_changed_value_changes_the_folder(where, value):
    changed = copy.deepcopy(CONFIG)
    *path, last = where
    holder = changed
    for key in path:
        holder = holder[key]
    same = holder[last] == value and type(holder[last]) is type(value)
    holder[last] = value
    assert (io.config_hash(changed) == io.config_hash(CONFIG)) == same


@given(st.text(max_size=5), VALUES)
def test_an_added_setting_changes_the_folder(name, value):
    assert (io.config_hash({name: value, **CONFIG}) == io.config_hash(CONFIG)) == (name in CONFIG)


def test_equal_configs_share_a_folder_and_different_ones_do_not(tmp_path):
    with opened(tmp_path) as run, opened(tmp_path, dict(reversed(CONFIG.items()), lr=0.01)) as other:
        assert run.folder != other.folder and run.folder.parent == other.folder.parent
    with opened(tmp_path, dict(reversed(CONFIG.items()))) as again:
        assert again.folder == run.folder


def test_the_device_count_is_part_of_the_config(tmp_path, monkeypatch):
    with opened(tmp_path) as run:
        pass
    monkeypatch.setattr(_run_folder, "device", lambda: {"platform": "cpu", "kind": "cpu", "count": 8})
    with opened(tmp_path) as other:
        assert other.folder != run.folder


def edit(folder: Path, change) -> None:
    path = folder / "config.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["config"].update(lr=0.01), ["another config"]),
        (lambda c: c["config"].pop("momentum"), ["another config"]),
        (lambda c: c["versions"].update(jax="0.0.1"), ["jax 0.0.1", jax.__version__]),
        (lambda c: c["versions"].update(ntkgen="9.9"), ["ntkgen 9.9"]),
        (lambda c: c["versions"].pop("numpy"), ["numpy None", np.__version__]),
    ],
    ids=["value", "missing value", "jax", "ntkgen", "missing version"],
)
def test_a_folder_of_another_config_or_version_is_refused(tmp_path, change, words):
    with opened(tmp_path) as run:
        run.write_table("runs.csv", [{"a": 1}])
    edit(run.folder, change)
    before = {path: path.read_bytes() for path in run.folder.iterdir()}
    message = refused(lambda: enter(opened(tmp_path)))
    assert all(word in message for word in [*words, str(run.folder), "--force"])
    assert {path: path.read_bytes() for path in run.folder.iterdir()} == before
    with opened(tmp_path, force=True) as run:
        assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "config.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\xfe", b'{"config": {}}', b'{"config": {}, "versions": 3}']
)
def test_a_damaged_config_is_refused(tmp_path, content):
    with opened(tmp_path) as run:
        pass
    (run.folder / "config.json").write_bytes(content)
    message = refused(lambda: enter(opened(tmp_path)))
    assert "config.json is damaged" in message and "--force" in message


def test_force_removes_everything(tmp_path):
    with opened(tmp_path) as run:
        run.write_table("runs.csv", [{"a": 1}])
        run.checkpointer("mlp4", 0.0).save(1, {"a": np.ones(2)}, final=True)
        run.finish()
    with opened(tmp_path, force=True) as run:
        assert not run.finished
        assert sorted(path.name for path in run.folder.iterdir()) == [".lock", "config.json"]


@pytest.mark.parametrize("below", ["", "sub", "sub/sub"])
def test_a_file_in_the_way_is_refused(tmp_path, below):
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / below
    message = refused(lambda: enter(records.open_run(out, "study", "digits", CONFIG)))
    assert f"cannot write in {tmp_path / 'file'}: Not a directory" in message
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_that_takes_no_files_is_refused():
    # /proc refuses even root, whom permissions do not stop.
    assert "cannot write in /proc" in refused(lambda: enter(records.open_run("/proc", "study", "digits", CONFIG)))


def test_a_folder_with_an_impossible_name_is_refused(tmp_path):
    name = tmp_path / ("x" * 300)
    assert "File name too long" in refused(lambda: enter(records.open_run(name, "study", "digits", CONFIG)))


def test_a_link_to_nowhere_is_refused(tmp_path):
    (tmp_path / "results").symlink_to("nowhere")
    assert "is a link to nowhere, which does not exist" in refused(lambda: enter(opened(tmp_path)))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", ["", os.fsdecode(b"r\xff")], ids=["empty", "not UTF-8"])
def test_a_name_that_no_folder_should_have_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert "expected" in refused(lambda: enter(records.open_run(name, "study", "digits", CONFIG)))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not stop root")
def test_a_read_only_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in refused(lambda: enter(opened(tmp_path)))


def test_a_folder_in_use_names_its_holder(forks, tmp_path):
    with opened(tmp_path) as run:
        pass
    code = "import sys, time; from ntkgen import io\n"
    code += "with io.lock(sys.argv[1]): print(1, flush=True); time.sleep(60)"
    child = forks.start("-c", code, run.folder)
    try:
        assert child.stdout.readline() == "1\n"
        message = refused(lambda: enter(opened(tmp_path, force=True)))
    finally:
        child.kill()
        child.communicate()
    assert f"process {child.pid};" in message and str(run.folder) in message
    assert (run.folder / "config.json").exists()  # --force touches nothing that is in use
    enter(opened(tmp_path))


# Tables


def test_tables_keep_every_digit_and_every_kind_of_nothing(tmp_path):
    third = np.float32(1) / np.float32(3)
    rows = [
        {"name": "a,b", "n": 3, "x": 0.1 + 0.2, "y": third, "z": None, "flag": True},
        {"name": 'quo"te\nline', "n": np.int64(4), "x": math.nan, "y": np.float64(-0.0), "z": math.inf, "flag": None},
    ]
    path = records.write_table(tmp_path / "t.csv", rows)
    found = records.read_table(path)
    assert [list(row) for row in found] == [list(rows[0])] * 2
    assert [row["name"] for row in found] == ["a,b", 'quo"te\nline']
    assert float(found[0]["x"]) == 0.1 + 0.2 and np.float32(found[0]["y"]) == third
    assert (found[0]["z"], found[0]["n"], found[1]["n"], found[0]["flag"], found[1]["flag"]) == (
        "",
        "3",
        "4",
        "True",
        "",
    )
    assert found[1]["x"] == "nan" and found[1]["z"] == "inf" and found[1]["y"] == "-0.0"
    assert b"\r" not in path.read_bytes()


@given(st.lists(st.floats(), min_size=1))
def test_floats_come_back_bit_for_bit(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "floats.csv"
    records.write_table(path, [{"x": value} for value in values])
    found = np.array([float(row["x"]) for row in records.read_table(path)])
    np.testing.assert_array_equal(found, values)
    finite = ~np.isnan(values)
    np.testing.assert_array_equal(np.signbit(found[finite]), np.signbit(np.array(values)[finite]))


def test_tables_refuse_no_rows_and_unknown_columns(tmp_path):
    with pytest.raises(ValueError, match=r"t\.csv: expected at least one row"):
        records.write_table(tmp_path / "t.csv", [])
    with pytest.raises(ValueError, match="b"):
        records.write_table(tmp_path / "t.csv", [{"a": 1}, {"a": 1, "b": 2}])
    assert not (tmp_path / "t.csv").exists()


# The end of a run


def finished_run(tmp_path):
    with opened(tmp_path) as run:
        run.write_table("runs.csv", [{"a": 1.5}])
        run.write_json("verdict.json", [{"b": None}])
        (run.folder / "figure.png").write_bytes(b"png")
        run.checkpointer("mlp4", 0.0).save(1, {"a": np.ones(2)}, final=True)
        run.finish()
        assert run.finished
    return run.folder


def test_finished_json_holds_the_checksums(tmp_path):
    folder = finished_run(tmp_path)
    sums = json.loads((folder / "finished.json").read_text())
    assert sorted(sums) == ["config.json", "figure.png", "runs.csv", "verdict.json"]
    assert all(io.sha256_bytes((folder / name).read_bytes()) == value for name, value in sums.items())
    with opened(tmp_path) as run:
        assert run.finished
    (folder / "figure.png").write_bytes(b"drawn by another matplotlib")
    with opened(tmp_path) as run:
        assert run.finished


def test_the_numerics_are_part_of_the_config(tmp_path, monkeypatch):
    with opened(tmp_path) as run:
        pass
    with jax.threefry_partitionable(not jax.config.jax_threefry_partitionable), opened(tmp_path) as other:
        assert other.folder != run.folder
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true --xla_dump_to=dumped")
    with opened(tmp_path) as fast:
        assert fast.folder not in (run.folder, other.folder)
        found = json.loads((fast.folder / "config.json").read_text())["numerics"]["xla_flags"]
    assert found == {"--xla_cpu_enable_fast_math": "true"}  # a dump changes no number
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    with opened(tmp_path) as slow:
        assert slow.folder != fast.folder


def test_numerics_say_what_jax_was_told(x64):
    assert records.numerics()["jax_enable_x64"] is True
    assert records.numerics()["jax_default_prng_impl"] == "threefry2x32"
    with jax.enable_x64(False), jax.default_matmul_precision("bfloat16"):
        assert records.numerics()["jax_enable_x64"] is False
        assert records.numerics()["jax_default_matmul_precision"] == "bfloat16"


def test_the_modules_of_a_study_are_part_of_the_code(tmp_path):
    module = tmp_path / "study.py"
    module.write_text("MARGIN = 1\n")
    with opened(tmp_path, code=[module]):
        pass
    with opened(tmp_path, code=[module]):
        pass
    module.write_text("MARGIN = 2\n")
    assert "another version of the code began" in refused(lambda: enter(opened(tmp_path, code=[module])))
    with opened(tmp_path, code=[module], force=True) as run:
        run.finish()
    module.write_text("MARGIN = 3\n")
    with pytest.warns(UserWarning, match="made by another version"), opened(tmp_path, code=[module]) as run:
        assert run.finished


@pytest.mark.parametrize(
    "content", [{}, {"config.json": "sum"}, {"runs.csv": "sum"}, {"config.json": 0, "runs.csv": 1}]
)
def test_a_finished_json_that_does_not_name_the_tables_is_no_finished_run(tmp_path, content):
    folder = finished_run(tmp_path)
    own = json.loads((folder / "finished.json").read_text())
    filled = {name: own[name] if value == "sum" else value for name, value in content.items()}
    (folder / "finished.json").write_text(json.dumps(filled))
    with pytest.warns(UserWarning, match="not as the run left it"), opened(tmp_path, tables=["runs.csv"]) as run:
        assert not run.finished


@pytest.mark.parametrize(
    ("name", "content"),
    [("runs.csv", b"a\n1.25\n"), ("runs.csv", None), ("verdict.json", b""), ("finished.json", b""),
     ("finished.json", b"[]x"), ("finished.json", b'["runs.csv"]'), ("finished.json", b"[1]")],
)  # fmt: skip
def test_a_run_whose_tables_were_changed_is_finished_anew(tmp_path, name, content):
    folder = finished_run(tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.warns(UserWarning, match="not as the run left it"), opened(tmp_path) as run:
        assert not run.finished
        assert run.checkpointer("mlp4").restore({"a": np.zeros(2)}) is not None  # the training is not lost


# Values that are computed once

VALUE = {"rows": [{"z": 0.1 + 0.2, "a": math.nan, "n": 3, "text": "x,y", "nothing": None}], "more": [math.inf, -0.0]}


def never():
    raise AssertionError("computed again")


def test_a_kept_value_is_computed_once_and_comes_back_as_it_was(tmp_path):
    with opened(tmp_path) as run:
        first = run.kept("part", lambda: VALUE)
        again = run.kept("part", never)
    for found in (first, again):
        assert repr(found) == repr(VALUE)  # every digit, NaN, the sign of zero, and the order of columns
    assert names(run.folder / "parts") == ["part.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("0.30000000000000004", "0.8"),
        lambda text: text.replace('"n": 3', '"n": 4'),
        lambda text: text.replace("NaN", "0.0"),
        lambda text: text.replace("x,y", "x,z"),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "{}",
        lambda text: "[]",
        lambda text: '{"value": {}}',
        lambda text: '{"value": {}, "sha256": "0"}',
    ],
)
def test_a_damaged_value_is_set_aside_and_computed_anew(tmp_path, change):
    with opened(tmp_path) as run:
        run.kept("part", lambda: VALUE)
        path = run.folder / "parts" / "part.json"
        changed = change(path.read_text())
        assert changed != path.read_text()
        (path.parent / "damaged-part.json").write_text("of an earlier day")
        path.write_text(changed)
        with pytest.warns(UserWarning, match=r"part\.json is damaged .*set aside as damaged-part.json-2") as caught:
            found = run.kept("part", lambda: VALUE)
        assert len(caught) == 1 and "\n" not in str(caught[0].message)
        assert repr(found) == repr(run.kept("part", never)) == repr(VALUE)
        assert (path.parent / "damaged-part.json").read_text() == "of an earlier day"
        assert (path.parent / "damaged-part.json-2").read_text() == changed


def test_the_value_of_one_part_does_not_pass_for_anothers(tmp_path):
    with opened(tmp_path) as run:
        run.kept("one", lambda: [1])
        shutil.copy(run.folder / "parts" / "one.json", run.folder / "parts" / "two.json")
        with pytest.warns(UserWarning, match="checksum does not match"):
            assert run.kept("two", lambda: [2]) == [2]


MOMENT = [OSError(24, "Too many open files"), OSError(12, "Cannot allocate memory"), OSError(5, "Input/output error"),
          MemoryError("no memory")]  # fmt: skip


@pytest.fixture(params=MOMENT, ids=lambda error: str(error))
def failing_reads(request, monkeypatch):
    """While it is switched on, no file can be read: switch(True)."""
    read = Path.read_bytes
    state = {"on": False}

    def failing(path):
        if state["on"]:
            raise request.param
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    return lambda on: state.update(on=on)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_error_of_the_moment_changes_nothing(tmp_path, failing_reads):
    folder = finished_run(tmp_path)
    with opened(tmp_path) as run:
        run.kept("part", lambda: [1])
    before = everything(folder)
    failing_reads(True)
    keeper = records.Checkpointer(folder / "checkpoints" / "mlp4")
    for call in (
        lambda: enter(opened(tmp_path)),
        lambda: run.kept("part", never),
        lambda: keeper.restore({"a": np.zeros(2)}),
    ):
        with warnings.catch_warnings(), pytest.raises((OSError, MemoryError)):
            warnings.simplefilter("error")
            call()
    failing_reads(False)
    assert everything(folder) == before
    assert run.kept("part", never) == [1] and keeper.restore({"a": np.zeros(2)})[0] == 1


def test_an_intact_checkpoint_that_orbax_cannot_read_stays(damaged, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: too many open files")

    before = everything(damaged)
    monkeypatch.setattr(_checkpoints.ocp.StandardCheckpointHandler, "restore", fail)
    with pytest.raises(records.StorageError, match=r"cannot read the intact checkpoint .*3: RESOURCE_EXHAUSTED"):
        records.Checkpointer(damaged).restore(tree(0))
    assert everything(damaged) == before


def test_a_checkpoint_that_the_disk_does_not_take_is_an_error_of_the_moment(damaged, monkeypatch):
    def fail(*args, **kwargs):
        raise ExceptionGroup("many", [ValueError("No space left\non device")])

    monkeypatch.setattr(_checkpoints.ocp.StandardCheckpointHandler, "save", fail)
    with pytest.raises(records.StorageError, match=r"cannot write the checkpoint .*: No space left on device"):
        records.Checkpointer(damaged, 0.0).save(4, tree(4), final=True)
    monkeypatch.undo()
    assert records.Checkpointer(damaged).restore(tree(0))[0] == 3


# Checkpoints


class State(NamedTuple):
    variables: dict
    opt_state: object


class Inner(NamedTuple):
    trace: object


def tree(epoch: int):
    """What an ensemble keeps: nested tuples and dictionaries, many dtypes, scalars, an empty array, None."""
    rng = np.random.default_rng(epoch)
    params = {
        "dense": {"kernel": jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32), "bias": rng.normal(size=(2, 4))}
    }
    numbers = [np.int32(epoch), rng.random((2, 2)) < 0.5, np.arange(3, dtype=np.uint8), np.array([2**60 + epoch])]
    special = np.array([np.nan, -0.0, np.inf, 1e-320])
    half = rng.normal(size=3).astype(jnp.bfloat16)
    return (State({"params": params}, (Inner(half), None)), {"loss": special}, numbers, np.zeros((2, 0), np.float32))


def same(one, two) -> bool:
    """Whether two trees are equal in structure, dtype, shape and every bit."""
    if jax.tree.structure(one) != jax.tree.structure(two):
        return False
    pairs = [(np.asarray(a), np.asarray(b)) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the checkpoints of epochs 2 and 3; tests copy it before they damage it."""
    folder = tmp_path_factory.mktemp("saved") / "mlp4"
    keeper = records.Checkpointer(folder, 0.0)
    for epoch in (1, 2, 3):
        keeper.save(epoch, tree(epoch), final=False)
    return folder


@pytest.fixture
def damaged(saved, tmp_path) -> Path:
    shutil.copytree(saved, tmp_path / "mlp4")
    return tmp_path / "mlp4"


def test_what_comes_back_is_what_went_in(saved):
    assert names(saved) == ["2", "3"]
    epoch, found = records.Checkpointer(saved).restore(tree(0))
    assert epoch == 3 and same(found, tree(3)) and not same(found, tree(2))
    assert all(type(leaf) is np.ndarray and leaf.flags.writeable for leaf in jax.tree.leaves(found))


def test_nothing_saved_is_nothing_restored(tmp_path):
    keeper = records.Checkpointer(tmp_path / "none")
    assert keeper.restore(tree(0)) is None
    assert not (tmp_path / "none").exists()


def test_the_final_state_is_kept_alone_and_however_fresh_the_last_is(tmp_path):
    keeper = records.Checkpointer(tmp_path / "a", 0.0)
    keeper.save(1, tree(1), final=False)
    keeper.every_seconds = 1000.0
    keeper.save(2, tree(2), final=False)
    assert names(tmp_path / "a") == ["1"]  # the first is fresh
    keeper.save(3, tree(3), final=True)
    assert names(tmp_path / "a") == ["3"]
    assert keeper.restore(tree(0))[0] == 3


def test_epochs_are_ordered_as_numbers(tmp_path):
    keeper = records.Checkpointer(tmp_path / "a", 0.0)
    for epoch in (9, 10, 11):
        keeper.save(epoch, tree(epoch), final=False)
    assert names(tmp_path / "a") == ["10", "11"]
    assert keeper.restore(tree(0))[0] == 11


def test_parts_do_not_meet(tmp_path):
    keeper = records.Checkpointer(tmp_path / "a", 0.0)
    keeper.scope("seeds_0_1").save(1, tree(1), final=False)
    keeper.scope("seeds_2_3").save(2, tree(2), final=False)
    assert keeper.restore(tree(0)) is None
    assert [keeper.scope(name).restore(tree(0))[0] for name in ("seeds_0_1", "seeds_2_3")] == [1, 2]
    assert keeper.scope("seeds_0_1").every_seconds == 0.0


def flip(position):
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[int(position * (len(content) - 1))] ^= 0x10
        path.write_bytes(bytes(content))

    return change


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGES = {"flipped first": flip(0), "flipped mid": flip(0.5), "flipped last": flip(1), "truncated": truncate,
           "deleted": Path.unlink}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_in_any_file_is_set_aside_and_the_one_before_used(saved, tmp_path, damage, capfd):
    files = sorted(path.relative_to(saved) for path in (saved / "3").rglob("*") if path.is_file())
    assert len(files) > 5
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(saved, folder)
        DAMAGES[damage](folder / file)
        with pytest.warns(UserWarning, match="damaged .*set aside as damaged-3") as caught:
            epoch, found = records.Checkpointer(folder).restore(tree(0))
        assert epoch == 2 and same(found, tree(2)), file
        assert len(caught) == 1 and "\n" not in str(caught[0].message) and str(folder / "3") in str(caught[0].message)
        assert names(folder) == ["2", "damaged-3"]
    assert capfd.readouterr().err == ""  # Orbax's threads have nothing to add


def test_damage_that_the_checksums_of_files_would_miss_is_found_by_that_of_arrays(damaged):
    shutil.rmtree(damaged / "3")
    (damaged / "2").rename(damaged / "3")  # intact, but not the state of epoch 3
    with pytest.warns(UserWarning, match="checksum of its arrays"):
        assert records.Checkpointer(damaged).restore(tree(0)) is None


@pytest.mark.parametrize(
    "history",
    [{"loss": np.zeros(9)}, {"loss": np.zeros((4, 1))}, {"loss": np.zeros(4, np.float32)}, {},
     {"loss": np.zeros(4), "more": np.zeros(4)}],
    ids=["longer", "shape", "dtype", "leaf less", "leaf more"],
)  # fmt: skip
def test_a_state_of_another_form_is_not_bent_into_this_one(damaged, history):
    first, _, *rest = tree(0)
    with pytest.warns(UserWarning, match="damaged"):
        assert records.Checkpointer(damaged).restore((first, history, *rest)) is None


def test_nothing_intact_is_nothing_restored_and_saving_goes_on(damaged):
    for epoch in "23":
        (damaged / epoch / "manifest.ocdbt").unlink()
    keeper = records.Checkpointer(damaged, 0.0)
    with pytest.warns(UserWarning) as caught:
        assert keeper.restore(tree(0)) is None
    assert len(caught) == 2
    keeper.save(1, tree(1), final=False)
    assert keeper.restore(tree(0))[0] == 1
    keeper.save(3, tree(3), final=False)
    (damaged / "3" / "_METADATA").unlink()
    with pytest.warns(UserWarning, match="set aside as damaged-3-2"):  # beside the one set aside before
        assert keeper.restore(tree(0))[0] == 1
    assert names(damaged) == ["1", "damaged-2", "damaged-3", "damaged-3-2"]


def test_a_half_written_checkpoint_does_not_count_and_does_not_stay(damaged):
    for epoch in (4, 5):  # the next save may take the same name or another
        shutil.copytree(damaged / "3", damaged / f"{epoch}.orbax-checkpoint-tmp")
    keeper = records.Checkpointer(damaged, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a killed save is no damage
        assert keeper.restore(tree(0))[0] == 3
    keeper.save(4, tree(4), final=False)
    epoch, found = keeper.restore(tree(0))
    assert epoch == 4 and same(found, tree(4))
    assert names(damaged) == ["3", "4"]


def test_a_checkpoint_without_its_checksums_is_not_trusted(damaged):
    # Killed between Orbax's rename and ours.
    (damaged / "3" / _checkpoints.SUMS).unlink()
    with pytest.warns(UserWarning):
        assert records.Checkpointer(damaged).restore(tree(0))[0] == 2


@pytest.fixture
def made_up(tmp_path, monkeypatch) -> Path:
    """The folder of a package of this test alone, which counts as ours."""
    monkeypatch.setattr(_identity, "PACKAGE", f"package_{tmp_path.name}")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / _identity.PACKAGE
    (folder / "deep").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


def test_the_digest_of_the_code_covers_the_modules_that_it_imports_and_no_others(made_up):
    name = made_up.name
    texts = {
        "study.py": f"import {name}.a",
        "a.py": f"from {name} import deep",
        "deep/__init__.py": f"def f():\n    from {name}.deep.b import X",  # where it is used
        "deep/b.py": "X = 1",
        "deep/c.py": "Y = 1",  # nothing imports it
    }
    files = [made_up / file for file in texts]
    for file, text in zip(files, texts.values(), strict=True):
        file.write_text(text)
    found = [records.source(f"{name}.study")]
    for file in files:
        file.write_text(file.read_text() + "\n# changed")
        found.append(records.source(f"{name}.study"))
    *different, last = found
    assert len(set(different)) == len(different) == 5 and last == different[-1]
    (made_up / "deep" / "b.py").write_text(f"X = 1\nfrom {name}.deep.c import Y")
    found.append(records.source(f"{name}.study"))
    (made_up / "deep" / "c.py").write_text("Y = 2")
    found.append(records.source(f"{name}.study"))
    assert len(set(found)) == 7
    # A file stands for itself alone.
    script = made_up.parent / "study.py"
    script.write_text(f"import {name}.a")
    before = records.source(script), records.source(script, f"{name}.study")
    (made_up / "a.py").write_text("")
    assert records.source(script) == before[0] and records.source(script, f"{name}.study") != before[1]
    script.write_text("")
    assert records.source(script) != before[0]


def test_the_digest_of_the_code_follows_attributes_of_the_package(made_up):
    for name in ("used", "unused"):
        (made_up / f"{name}.py").write_text("")
    (made_up / "study.py").write_text(f"import {made_up.name} as it\nit.used.f()")
    found = [records.source(f"{made_up.name}.study")]
    for name in ("unused", "used"):
        (made_up / f"{name}.py").write_text("1")
        found.append(records.source(f"{made_up.name}.study"))
    assert found[0] == found[1] != found[2]


def test_what_trains_does_not_depend_on_what_measures_or_draws():
    names = {name for name, _ in _identity._files(("ntkgen.ensemble",))}
    assert {"ntkgen.ensemble", "ntkgen.ensemble._fit", "ntkgen.ensemble.programs", "ntkgen.train._run"} <= names
    parts = {name.split(".")[1] for name in names}
    assert not parts & {"measure", "plotting", "studies", "records", "stats", "ntk", "landscape", "cli"}


def test_a_run_that_other_code_began_is_refused_and_a_finished_one_is_shown_with_a_warning(tmp_path, monkeypatch):
    with records.open_run(tmp_path, "study", "data", {"a": 1}) as run:
        run.write_table("runs.csv", [{"a": 1}])
    monkeypatch.setattr(_run_folder, "source", lambda *code: "another")
    with (
        pytest.raises(records.RecordError, match="another version of the code began"),
        records.open_run(tmp_path, "study", "data", {"a": 1}),
    ):
        pass
    monkeypatch.undo()
    with records.open_run(tmp_path, "study", "data", {"a": 1}) as run:
        run.finish()
    monkeypatch.setattr(_run_folder, "source", lambda *code: "another")
    with (
        pytest.warns(UserWarning, match="made by another version of the code"),
        records.open_run(tmp_path, "study", "data", {"a": 1}) as run,
    ):
        assert run.finished


def test_a_probe_is_known_by_the_source_of_its_function_and_what_it_returns(monkeypatch):
    """A function of this package may lie outside of what trains: its name alone would hide that it changed."""
    probe = ensemble.OnHost(linearize, {"norm": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    before = _identity.describe(probe)
    assert json.loads(json.dumps(before)) == before == _identity.describe(probe)
    wider = ensemble.OnHost(linearize, {"norm": jax.ShapeDtypeStruct((2, 4), jnp.float32)})
    assert _identity.describe(wider) != before
    source = _identity.source
    monkeypatch.setattr(_identity, "source", lambda *code: "changed" if "ntkgen.linearize" in code else source(*code))
    assert _identity.describe(probe) != before


def test_networks_of_other_images_are_other_networks():
    dataset = data.load("digits", num_train=20)
    fewer = dataclasses.replace(dataset, train=data.Split(dataset.train.x[:10], dataset.train.y[:10]))
    made_by = [_networks.identity(models.MLP(4, 2), each, train.Config(1), [0], {}) for each in (dataset, fewer)]
    assert fewer.digest == dataset.digest and made_by[0] != made_by[1]
    assert made_by[0] == _networks.identity(
        models.MLP(4, 2), data.load("digits", num_train=20), train.Config(1), [0], {}
    )
