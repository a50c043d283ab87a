"""Every study with a transformer: tiny whole runs, what they leave out, and what they refuse."""

import pytest

from ntkgen import models, studies
from ntkgen.studies import base

# Four patches, one block, and the same steps in all studies: most programs are compiled once.
NETWORK = dict(model="transformer", heads=2, patch=4, num_train=70, num_seeds=2, epochs=2)
RUNS = {
    "double_descent": dict(widths=(4,), blocks=1, batch_size=32),
    "ntk_regime": dict(
        widths=(4,), blocks=1, batch_size=32, probe_images=4, kernel_test=6, linearised_widths=(4,), linearised_seeds=1
    ),
    "lottery_ticket": dict(
        width=4, blocks=1, batch_size=32, keep=(100, 50), arms=("ticket", "reinit_fan_in"), barrier_arms="none",
        measure_at=(50,), hessian_samples=20, matched_loss=2.0,
    ),
    "mechanisms": dict(
        widths=(4,), depths=(1,), batch_sizes=(32,), rates=(0.05, 0.07, 0.1, 0.15), label_noise=(0.0,), replicates=1,
        stop_loss=2.28, measures=("fit", "norms", "margins"), calibrations=4,
    ),
    "implicit_regularization": dict(width=4, blocks=1, batch_sizes=(32, 64), reference=32, snapshots=1),
    "loss_landscape": dict(
        width=4, blocks=1, small_batch=32, large_batch=64, line_points=5, plane_points=3, hessian_samples=20,
        many_samples=30, matched_loss=(2.0,),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run a study: name -> (results, everything it said)."""

    def run(name):
        said = []
        given = {**NETWORK, **RUNS[name]}
        found = getattr(studies, name).run(
            preset="quick", **given, out_dir=tmp_path_factory.mktemp(name), say=said.append
        )
        assert not found.failed and found.figures
        return found, "\n".join(map(str, said))

    return run


def no_published_value(found):
    assert not [row for row in found.tables.get("comparison", []) if row["published"] not in ("", None)]


def test_double_descent(ran):
    found, said = ran("double_descent")
    assert "Transformer on digits" in said
    count = models.num_params(models.Transformer(4, 1, 2, 4), (8, 8, 1))
    assert {row["num_params"] for row in found.tables["runs"]} == {str(count)}
    no_published_value(found)


def test_ntk_regime(ran):
    found, said = ran("ntk_regime")
    assert "infinite-width kernel, lazy movement, theory: not defined for this network" in said
    (none,) = found.tables["analytic"]
    assert set(none.values()) <= {"", None}
    for row in found.tables["runs"]:
        assert row["limit"] == "own" and float(row["movement_block0"]) > 0 and float(row["relative_movement"]) > 0
    drifts = [float(row["drift"]) for row in found.tables["drift"] if row["drift"] and row["epoch"] == "2"]
    assert len(drifts) == 2 and min(drifts) > 0
    assert not [row for row in found.tables["tests"] if row["line"]]
    no_published_value(found)


@pytest.mark.slow  # trains masked networks, and compiles curvature among the kept weights
def test_lottery_ticket(ran):
    found, said = ran("lottery_ticket")
    assert "overlap after matching units: not defined for this network" in said
    layers = {row["layer"] for row in found.tables["sparsity"]}
    assert layers == {"embed/kernel", "head/kernel"} | {
        f"block0/{name}/kernel" for name in ("query", "key", "value", "out", "up", "down")
    }
    half = [row for row in found.tables["sparsity"] if (row["arm"], row["keep_percent"]) == ("ticket", "50")]
    size, kept = (sum(int(row[name]) for row in half) for name in ("size", "kept"))
    assert kept == size // 2
    assert all(float(row["eigenvalue"]) for row in found.tables["measures"])
    kinds = {row["kind"] for row in found.tables["overlaps"]}
    assert "other initialisation" in kinds and not [kind for kind in kinds if "matched" in kind]


def test_mechanisms(ran):
    found, said = ran("mechanisms")
    assert "not defined for these networks: what rescaled layers change, " in said
    assert "what rescaled layers change, log_spectral_product, log_frobenius_product" in found.text
    lacking = found.verdict["not_defined"]
    assert "log_path_norm" in lacking and "log_param_norm" not in lacking
    assert not [row for row in found.tables["associations"] if row["measure"] == "log_path_norm"]
    assert [row for row in found.tables["associations"] if row["measure"] == "log_param_norm"]


@pytest.mark.slow  # compiles sharpness and curvature of two batch sizes
def test_implicit_regularization(ran):
    found, said = ran("implicit_regularization")
    assert "Transformer on digits" in said
    assert all(float(row["eigenvalue"]) for row in found.tables["runs"])
    no_published_value(found)


@pytest.mark.slow  # compiles ten measurements
def test_loss_landscape(ran):
    found, _ = ran("loss_landscape")
    assert "Transformer 4 (" in found.text
    assert all(float(row["eigenvalue"]) for row in found.tables["runs"])
    no_published_value(found)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("double_descent", {"depth": 3}, "depth: expected no such setting with --model=transformer, got 3"),
        ("double_descent", {"widths": (4, 6), "heads": 4}, "widths: expected a multiple of the 4 heads, got 6"),
        ("loss_landscape", {"patch": 3}, "patch: expected a side that divides the image's 8 x 8 pixels, got 3"),
        ("loss_landscape", {"width": 5}, "width: expected a multiple of the 2 heads, got 5"),
        ("implicit_regularization", {"channels": 4}, "channels: expected no such setting with --model=transformer"),
        ("ntk_regime", {"parametrization": "ntk"}, "parametrization: expected no such setting with --model=transf"),
        ("ntk_regime", {"extras": True}, "extras: expected no such setting with --model=transformer, got True"),
        ("mechanisms", {"blocks": 1}, "blocks: expected no such setting with --depths, whose values are the blocks"),
        ("lottery_ticket", {"model": "mlp"}, "heads: expected no such setting with --model=mlp, got 2"),
        ("ntk_regime", {"model": "mlp"}, "heads: expected no such setting with --model=mlp, got 2"),
        ("mechanisms", {"model": "mlp"}, "heads: expected no such setting with --model=mlp, got 2"),
        ("reproduce", {}, "model: expected no such setting with reproduce, where each study has its own"),
    ],
)
def test_what_it_refuses(name, given, words, tmp_path):
    with pytest.raises(ValueError, match=f"^{words}"):
        getattr(studies, name).run(
            preset="quick", model=given.get("model", "transformer"), heads=given.get("heads", 2),
            **{key: value for key, value in given.items() if key not in ("model", "heads")},
            out_dir=tmp_path / "out", say=lambda _: None,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("preset", base.PRESETS)
@pytest.mark.parametrize("name", list(RUNS))
def test_every_preset_resolves(name, preset):
    config = getattr(studies, name).STUDY.resolve(preset, {"model": "transformer"})
    size = config.widths[0] if hasattr(config, "widths") else config.width
    depth = config.depths[0] if hasattr(config, "depths") else None
    assert base.network(config, size, depth).heads == config.heads
