"""The store: no network is trained twice, none passes for another, and whatever happens it ends with the same bits."""

import dataclasses
import os
import shutil
import signal
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import data, ensemble, io, models, records, train
from ntkgen.ensemble import programs
from ntkgen.records import _networks, _run_folder

ROOT = Path(__file__).resolve().parents[2]
MODEL, CONFIG, SEEDS = models.MLP(2, 2), train.Config(epochs=2, batch_size=16), [0, 1]


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", num_train=32)


@pytest.fixture
def epochs(monkeypatch):
    """The epochs that are trained; a call empties the list."""
    done, train_epoch = [], programs.train_epoch

    def counted(*args):
        done.append(int(args[4]))
        return train_epoch(*args)

    def taken() -> list[int]:
        found = done[:]
        done.clear()
        return found

    monkeypatch.setattr(programs, "train_epoch", counted)
    return taken


def opened(out, study="one", **options):
    return records.open_run(out, study, "digits", {"a": 1}, **options)


def fit(run, dataset, *, model=MODEL, config=CONFIG, seeds=SEEDS, name="net", **options):
    return run.fit(name, model, dataset, config, seeds, **options)


def bits(result) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves((result.variables, result.history, result.probes))]


def trained(out, dataset, study="one", force=False, **options) -> tuple[list[bytes], records.StoredNetwork]:
    with opened(out, study, force=force) as run:
        return bits(fit(run, dataset, **options)), run.networks["net"]


def test_a_network_of_two_runs_is_trained_once(tmp_path, digits, epochs):
    one, network = trained(tmp_path, digits)
    assert epochs() == [0, 1]
    for study in ("one", "two"):
        again, other = trained(tmp_path, digits, study)
        assert epochs() == [] and again == one and other.folder == network.folder
    with opened(tmp_path, "three") as run:
        assert bits(fit(run, digits, name="first")) == bits(fit(run, digits, name="second")) == one
        links = [run.folder / "checkpoints" / name for name in ("first", "second")]
    assert epochs() == [] and [path.resolve() for path in links] == [network.training.resolve()] * 2
    assert network.folder == tmp_path / "networks" / network.folder.name and not list(tmp_path.rglob("*.tmp"))


def test_what_makes_no_difference_makes_none(tmp_path, digits, epochs):
    _, network = trained(tmp_path, digits)
    epochs()
    copy = dataclasses.replace(digits, train=data.Split(np.array(digits.train.x), np.array(digits.train.y)), seed=7)
    for more in ({"progress": lambda *_: None}, {"seeds": 2}, {"seeds": np.arange(2)}, {"seeds": (0, 1)},
                 {"init": None, "options": ensemble.Options()},
                 {"config": train.Config(epochs=2, batch_size=np.int64(16), momentum=0.9)},
                 {"model": models.MLP(2, depth=2)}):  # fmt: skip
        assert trained(tmp_path, digits, **more)[1].folder == network.folder, more
    assert trained(tmp_path, copy)[1].folder == network.folder
    assert epochs() == []


def halves(dataset):
    """Other images under the digest of all, as `dataclasses.replace` leaves it."""
    return dataclasses.replace(dataset, train=data.Split(dataset.train.x[::-1], dataset.train.y))


def start(dataset):
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    return jax.vmap(lambda key: MODEL.init(key, dataset.train.x[:1]))(keys)


DIFFERENT = {
    "seeds": lambda d: {"seeds": [0, 2]},
    "the order of seeds": lambda d: {"seeds": [1, 0]},
    "fewer seeds, whose rounding may differ": lambda d: {"seeds": [0]},
    "rate": lambda d: {"config": train.Config(epochs=2, batch_size=16, learning_rate=0.02)},
    "epochs": lambda d: {"config": train.Config(epochs=3, batch_size=16)},
    "loss": lambda d: {"config": train.Config(epochs=2, batch_size=16, loss=lambda o, y: jnp.sum(o**2, -1))},
    "network": lambda d: {"model": models.MLP(3, 2)},
    "training images": lambda d: {"dataset": halves(d)},
    "test labels": lambda d: {"dataset": dataclasses.replace(d, test=d.test._replace(y=d.test.y[::-1]))},
    "dtype of images": lambda d: {"dataset": dataclasses.replace(
        d, test=d.test._replace(x=d.test.x.astype("bfloat16")))},
    "start": lambda d: {"init": start(d)},
    "probes": lambda d: {"probes": ([1], lambda params: jnp.zeros(()))},
    "metrics": lambda d: {"options": ensemble.Options(evaluate_at=[2])},
    "strategy": lambda d: {"options": ensemble.Options("sequential")},
}  # fmt: skip


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_makes_a_difference_is_trained_anew(tmp_path, digits, epochs, name):
    before, network = trained(tmp_path, digits)
    epochs()
    more = DIFFERENT[name](digits)
    _, other = trained(tmp_path, more.pop("dataset", digits), **more)
    assert other.folder != network.folder and len(epochs()) >= 2
    assert trained(tmp_path, digits)[0] == before
    assert epochs() == []


def test_other_numerics_versions_and_code_are_another_network(tmp_path, digits, epochs, monkeypatch):
    found = [trained(tmp_path, digits)[1].folder]
    with jax.default_matmul_precision("bfloat16"):
        found.append(trained(tmp_path, digits)[1].folder)
    with jax.enable_x64(True):
        found.append(trained(tmp_path, digits)[1].folder)
    for name, value in (("versions", lambda: {"jax": "0"}), ("source", lambda *code: "other"),
                        ("device", lambda: {"platform": "cpu", "kind": "cpu", "count": 8})):  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(_networks, name, value)
            found.append(trained(tmp_path, digits)[1].folder)
    assert len(set(found)) == len(found) == 6 and len(epochs()) == 12


def test_a_probe_is_known_by_what_it_computes(tmp_path, digits, epochs):
    def probe(factor):
        return [2], lambda params: factor * jax.tree.leaves(params)[0].sum()

    one, network = trained(tmp_path, digits, probes=probe(1.0))
    assert trained(tmp_path, digits, probes=probe(1.0))[0] == one and epochs() == [0, 1]
    two, other = trained(tmp_path, digits, probes=probe(2.0))
    assert two != one and other.folder != network.folder and epochs() == [0, 1]


def checkpoint_file(network: records.StoredNetwork) -> Path:
    return network.training / str(CONFIG.epochs) / "manifest.ocdbt"


def test_a_damaged_checkpoint_is_set_aside_and_trained_anew(tmp_path, digits, epochs):
    before, network = trained(tmp_path, digits)
    checkpoint_file(network).write_bytes(b"")
    with pytest.warns(UserWarning, match="set aside as damaged-2"):
        after, other = trained(tmp_path, digits, "two")
    assert after == before and other.folder == network.folder and epochs() == [0, 1, 0, 1]
    assert trained(tmp_path, digits)[0] == before and epochs() == []


def test_forced_it_is_trained_and_measured_once_more(tmp_path, digits, epochs):
    before, network = trained(tmp_path, digits)
    network.kept("norm", lambda: 1, code="ntkgen.measure")
    times = checkpoint_file(network).stat().st_mtime_ns
    epochs()
    with opened(tmp_path, force=True) as run:
        assert bits(fit(run, digits)) == before and epochs() == [0, 1]
        assert run.networks["net"].kept("norm", lambda: 2, code="ntkgen.measure") == 2
        assert bits(fit(run, digits)) == bits(fit(run, digits, name="again")) == before and epochs() == []
        assert run.networks["again"].kept("norm", lambda: 3, code="ntkgen.measure") == 2
    assert checkpoint_file(network).stat().st_mtime_ns > times
    assert trained(tmp_path, digits)[0] == before and epochs() == []


def test_forced_it_waits_for_who_holds_the_network(tmp_path, digits, monkeypatch):
    """What another process trains is not taken from under it."""
    before, network = trained(tmp_path, digits)
    waits, found = threading.Event(), []
    monkeypatch.setattr(_networks.time, "sleep", lambda _: waits.set())
    monkeypatch.setattr(_networks.warnings, "warn", lambda *_, **__: None)
    thread = threading.Thread(target=lambda: found.append(trained(tmp_path, digits, "two", force=True)[0]))
    with io.lock(network.folder):
        thread.start()
        assert waits.wait(60) and checkpoint_file(network).exists()
    thread.join(120)
    assert found == [before]


def test_an_error_within_is_not_taken_for_a_held_network(tmp_path):
    network = records.StoredNetwork(tmp_path / "net")
    with pytest.raises(io.HeldError, match="another"), network.held():
        raise io.HeldError("another")
    with io.lock(network.folder):
        pass


@pytest.mark.parametrize("with_store", [True, False])
def test_a_copied_run_folder_goes_on_from_its_own_copy(tmp_path, digits, epochs, with_store):
    before, network = trained(tmp_path / "out", digits)
    shutil.copytree(tmp_path / "out" / "one", tmp_path / "copy" / "one")  # links are followed
    if with_store:
        shutil.copytree(network.folder, tmp_path / "copy" / "networks" / network.folder.name)
        checkpoint_file(records.StoredNetwork(tmp_path / "copy" / "networks" / network.folder.name)).write_bytes(b"")
    shutil.rmtree(tmp_path / "out")
    epochs()
    with opened(tmp_path / "copy") as run:
        assert bits(fit(run, digits)) == before and epochs() == []
        assert (run.folder / "checkpoints" / "net").is_dir() and not (run.folder / "checkpoints" / "net").is_symlink()
        assert run.networks["net"].kept("norm", lambda: 1.5, code="ntkgen.measure") == 1.5
    with opened(tmp_path / "copy") as run:
        fit(run, digits)
        assert run.networks["net"].kept("norm", pytest.fail, code="ntkgen.measure") == 1.5
    assert (tmp_path / "copy" / "networks").exists() == with_store
    # Forced, it belongs to the store again.
    assert trained(tmp_path / "copy", digits, force=True)[0] == before
    assert epochs() == [0, 1] and next((tmp_path / "copy" / "one").glob("*/checkpoints/net")).is_symlink()


def test_a_results_folder_that_moves_takes_its_links_along(tmp_path, digits, epochs):
    before, _ = trained(tmp_path / "out", digits)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert next((tmp_path / "moved" / "one").glob("*/checkpoints/net/2")).exists()
    epochs()
    assert trained(tmp_path / "moved", digits)[0] == before and epochs() == []


def test_links_lead_to_the_store_where_a_study_lies_on_another_disk(tmp_path, digits):
    (tmp_path / "deep" / "disk").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "one").symlink_to(tmp_path / "deep" / "disk")
    _, network = trained(tmp_path / "out", digits)
    (link,) = (tmp_path / "deep" / "disk").glob("*/checkpoints/net")
    assert link.resolve() == network.training.resolve() and (link / "2").exists()


class Opaque:
    """An update that another process could not find again."""

    def __call__(self, loss, params, batch, key):
        return jax.grad(loss, has_aux=True)(params, batch)


def test_a_network_without_a_description_is_the_runs_own(tmp_path, digits, epochs):
    update = Opaque()
    with opened(tmp_path) as run:
        fit(run, digits)  # a link of this name was left by another network
        epochs()
        before = bits(fit(run, digits, update=update))
        assert not (run.folder / "checkpoints" / "net").is_symlink() and epochs() == [0, 1]
        assert run.networks["net"].kept("norm", lambda: 1.5, code="ntkgen.measure") == 1.5
    with opened(tmp_path) as run:
        assert bits(fit(run, digits, update=update)) == before and epochs() == []
        assert run.networks["net"].kept("norm", pytest.fail, code="ntkgen.measure") == 1.5
    assert len(list((tmp_path / "networks").iterdir())) == 1


# Values


def test_values_are_known_by_name_options_and_measuring_code(tmp_path, monkeypatch):
    network, made = records.StoredNetwork(tmp_path / "net"), []

    def kept(name="norm", code="ntkgen.measure", **options):
        made.clear()
        value = network.kept(name, lambda: made.append(1) or {"x": [len(options), name]}, code=code, **options)
        assert value == {"x": [len(options), name]}
        return bool(made)

    assert kept() and not kept()
    assert kept("other") and kept(count=3) and kept(count=4) and kept(count=3.0) and kept(code="ntkgen.spectrum")
    assert kept(x=np.zeros(3, np.float32)) and kept(x=np.zeros(4)) and kept(x=np.zeros(3, np.float32), count=3)
    assert not kept(count=3, x=jnp.zeros(3, float))
    assert not kept(count=3) and not kept(x=np.zeros(3, np.float32)) and not kept(code="ntkgen.spectrum")
    monkeypatch.setattr(_networks, "source", lambda code: "of another version")
    assert kept() and not kept()
    monkeypatch.undo()
    assert not kept()
    with pytest.raises(TypeError, match="no description"):
        kept(file=iter([]))


def test_a_damaged_value_is_made_anew_and_nan_survives(tmp_path):
    network = records.StoredNetwork(tmp_path / "net")
    value = {"sharpness": [float("nan"), 1 / 3, None, "text", float("inf")]}
    assert repr(network.kept("norm", lambda: value, code="ntkgen.measure")) == repr(value)
    assert repr(network.kept("norm", pytest.fail, code="ntkgen.measure")) == repr(value)
    (path,) = (network.folder / "values").iterdir()
    path.write_text(path.read_text().replace("NaN", "0.5"))
    with pytest.warns(UserWarning, match="set aside as damaged-norm-"):
        assert repr(network.kept("norm", lambda: value, code="ntkgen.measure")) == repr(value)
    assert repr(network.kept("norm", pytest.fail, code="ntkgen.measure")) == repr(value)


# Processes

PROGRAM = """
import os, signal, sys
from ntkgen import data, ensemble, models, records, train
from ntkgen.records import _networks, _run_folder

out, study, act = sys.argv[1:]
_run_folder.EVERY_SECONDS, _networks.WAIT_SECONDS = 0.0, 0.05
save, train_epoch, trained = records.Checkpointer.save, ensemble.programs.train_epoch, []

def saved(self, epoch, tree, *, final):
    if act == "kill before":
        os.kill(os.getpid(), signal.SIGKILL)
    save(self, epoch, tree, final=final)
    if act == "kill after":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "hold" and epoch == 1:
        print("holding", flush=True)
        sys.stdin.readline()

def counted(*args):
    trained.append(int(args[4]))
    return train_epoch(*args)

records.Checkpointer.save, ensemble.programs.train_epoch = saved, counted
with records.open_run(out, study, "digits", {"a": 1}) as run:
    dataset = data.load("digits", num_train=32)
    run.fit("net", models.MLP(2, 2), dataset, train.Config(epochs=2, batch_size=16), [0, 1])
print(trained, flush=True)
"""


@pytest.fixture
def program(forks):
    """Start PROGRAM in a fork: program(out, study, act), with the numerics of conftest.py."""
    numerics = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "JAX_NUMPY_RANK_PROMOTION": "raise"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **numerics}
    return lambda out, study, act="": forks.start("-c", PROGRAM, out, study, act, env=environment)


@pytest.mark.parametrize(("act", "left"), [("kill before", [0, 1]), ("kill after", [1])])
def test_killed_while_it_trains_another_study_goes_on(tmp_path, digits, epochs, program, act, left):
    before, _ = trained(tmp_path / "whole", digits)
    epochs()
    killed = program(tmp_path / "out", "one", act)
    assert killed.wait(300) == -signal.SIGKILL, killed.stderr.read()
    killed.communicate()
    after, _ = trained(tmp_path / "out", digits, "two")
    assert after == before and epochs() == left
    assert trained(tmp_path / "out", digits)[0] == before and epochs() == []


def test_the_second_of_two_processes_waits_and_then_reads(tmp_path, digits, epochs, program):
    first = program(tmp_path, "one", "hold")
    second = None
    try:
        assert first.stdout.readline() == "holding\n", first.stderr.read()
        second = program(tmp_path, "two")
        line = ""
        while "waiting" not in line:
            line = second.stderr.readline()
            assert line, "the second did not wait"
        assert "waiting for the same network to be trained" in line and f"process {first.pid}" in line
        assert second.poll() is None
        first.stdin.write("go on\n")
        first.stdin.flush()
        assert first.communicate(timeout=300)[0] == "[0, 1]\n"
        out, err = second.communicate(timeout=300)
        assert out == "[]\n" and second.returncode == 0, err
    finally:
        for child in (first, second):
            if child is not None and child.poll() is None:
                child.kill()
                child.communicate()
    trained(tmp_path, digits)
    assert epochs() == [] and len(os.listdir(tmp_path / "networks")) == 1


def test_checkpoints_come_at_the_pace_of_the_run_folder():
    assert _run_folder.EVERY_SECONDS == 20.0 and _networks.WAIT_SECONDS == 1.0
