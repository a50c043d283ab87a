"""The edge of stability: what is decided, how often wrongly, and one whole run."""

import numpy as np
import pytest

from ntkgen import studies
from ntkgen.studies import base, edge_of_stability

RATES, SEEDS = (0.1, 0.2), 3


def prepared():
    given = {"rates": RATES, "num_seeds": SEEDS, "epochs": 10, "points": 4}
    return base.Prepared(edge_of_stability.resolve("quick", given), {}, "quick", {}, None)


def tracking(last, diverged=None):
    """Rows whose last two snapshots are last[arm][seed] of the bound; the start is at half of it."""
    rows = []
    for arm, (loss, rate) in enumerate(edge_of_stability.arms(prepared().config)):
        for seed in range(SEEDS):
            for epoch, value in enumerate((0.5, 1.1, last[arm][seed], last[arm][seed])):
                row = {"loss": loss, "rate": rate, "seed": seed, "epoch": epoch, "train_loss": 0.1, "residual": 1e-4}
                row |= {"eigenvalue": value * 2 / rate, "of_bound": value, "converged": 1}
                rows.append({k: str(v) for k, v in (row | {"diverged": int((arm, seed) == diverged)}).items()})
    return rows


def test_each_word():
    at, below, wide, lost = [0.99, 1.0, 1.02], [0.3, 0.31, 0.29], [0.5, 1.0, 1.9], [1.0, 1.01, 0.99]
    found = edge_of_stability.derive(prepared(), {"tracking": tracking([at, below, wide, lost], diverged=(3, 1))})
    words = [row["decision"].split()[0] for row in found.tables["tests"]]
    assert words == ["seen", "not", "undecided", "seen"]
    assert [row["decision"].split()[0] for row in found.verdict] == words
    assert {row["control"].partition(" (")[0] for row in found.verdict} == {"below 2 / rate at the start: seen"}
    assert found.verdict[0]["low"] < found.verdict[0]["difference"] < found.verdict[0]["high"]
    assert found.tables["tests"][3]["num_seeds"] == 2  # a diverged seed is left out
    assert found.tables["summary"][1]["last_mean"] == pytest.approx(0.3)
    assert found.tables["summary"][0]["highest_mean"] == pytest.approx(1.1)


def test_at_the_margin_the_edge_is_rarely_seen():
    """All arms end a factor of 10^0.1 below the bound: any that is called at the edge is a false positive."""
    draw, wrong, trials = np.random.default_rng(0), 0, 150
    for _ in range(trials):
        last = 10 ** draw.normal(-edge_of_stability.MARGIN_LOG10, 0.05, (4, SEEDS))
        rows = edge_of_stability._by_seed(prepared().config, tracking(last))
        wrong += any(row["decision"] == "seen" for row in edge_of_stability._tests(prepared().config, rows))
    assert wrong / trials <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / trials)


def test_a_whole_run(tmp_path):
    found = studies.edge_of_stability.run(
        preset="quick", out_dir=tmp_path, num_train=100, width=4, epochs=4, points=3, rates=RATES, losses=("mse",)
    )
    rows = found.tables["tracking"].to_rows()
    assert len(rows) == 2 * SEEDS * 3
    for row in rows:
        ratio = float(row["eigenvalue"]) * float(row["rate"]) / 2
        assert float(row["of_bound"]) == pytest.approx(ratio, rel=1e-4) and row["converged"] in (1, "1")
    first = {float(row["train_loss"]) for row in rows if row["epoch"] in (0, "0") and row["seed"] in (0, "0")}
    assert len(first) == 1  # both rates begin with the same network
    assert list(found.figures) == ["sharpness"]


@pytest.mark.parametrize(
    ("given", "words"),
    [({"model": "cnn"}, "model: expected mlp"), ({"points": 50, "epochs": 20}, "points: expected at most the 20")],
)
def test_refusals(given, words):
    with pytest.raises(ValueError, match=words):
        edge_of_stability.resolve("quick", given)
