"""Work ahead of its need: in order, waited for, left out at the end; and compilations of a run's networks."""

import threading

import pytest

from ntkgen import data, ensemble, models, records, train
from ntkgen.records._ahead import Ahead


def test_pieces_are_done_in_order_and_waited_for():
    done, ahead = [], Ahead()
    for name in "abc":
        ahead.submit(name, lambda name=name: done.append(name))
    for piece in ahead._pieces.values():
        piece.result(10)
    ahead.wait("b")
    ahead.wait("unknown")
    ahead.close()
    assert done == ["a", "b", "c"]


def test_what_has_not_begun_is_left_out_and_errors_stay_where_they_are():
    done, go, ahead = [], threading.Event(), Ahead()
    ahead.submit("first", lambda: go.wait(10) and 1 / 0)
    ahead.submit("second", lambda: done.append("second"))
    ahead.wait("second")  # cancels it
    go.set()
    ahead.wait("first")
    ahead.close()
    assert not done


@pytest.fixture
def compiled(monkeypatch):
    names = []
    monkeypatch.setattr(ensemble, "precompile", lambda model, *_, **given: names.append((model.width, set(given))))
    return names


def test_a_network_of_the_store_is_not_compiled(tmp_path, compiled):
    digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
    for force, expected in ((False, [4]), (False, []), (True, [4])):
        compiled.clear()
        with records.open_run(tmp_path, "study", "digits", {}, force=force) as run:
            given = "mlp4", models.MLP(4, depth=2), digits, config, 2
            run.ahead(*given, progress=print, options=ensemble.Options())
            run._ahead._pieces["mlp4"].result(60)
            run.fit(*given)
        assert [width for width, _ in compiled] == expected
        assert all(names == {"options"} for _, names in compiled)


def test_no_two_networks_share_what_is_compiled(tmp_path, compiled):
    digits, config = data.load("digits", num_train=32), train.Config(epochs=1, batch_size=16)
    with records.open_run(tmp_path, "study", "digits", {}) as run:
        for width in (4, 5):
            run.ahead(f"mlp{width}", models.MLP(width, depth=2), digits, config, 2)
        for piece in run._ahead._pieces.values():
            piece.result(60)
    assert [width for width, _ in compiled] == [4, 5]
    with pytest.raises(RuntimeError):
        run.ahead("mlp6", models.MLP(6, depth=2), digits, config, 2)  # the run is over
