"""Every study with a transformer: tiny whole runs, what they leave out, and what they refuse."""

import csv
import json

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
        width=4, blocks=1, batch_size=32, keep=(100, 50), arms=("ticket", "reinit_fan_in", "rewound"),
        measure_at=(100, 50), barrier_arms=("ticket",), rewind_epoch=1, hessian_samples=20, matched_loss=2.0,
    ),
    "mechanisms": dict(
        widths=(4,), depths=(1,), batch_sizes=(32, 64), rates=(0.05, 0.1), label_noise=(0.0,), replicates=1,
        stop_loss=2.28, measures=("fit", "norms", "margins", "capacity"), calibrations=4,
    ),
    "implicit_regularization": dict(width=4, blocks=1, batch_sizes=(32, 64), reference=32, snapshots=1),
    "loss_landscape": dict(
        width=4, blocks=1, small_batch=32, large_batch=64, line_points=5, plane_points=3, hessian_samples=20,
        many_samples=30, matched_loss=(2.0,),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run a study once: name -> (results, everything it said)."""
    found = {}

    def run(name):
        if name not in found:
            said = []
            folder = tmp_path_factory.mktemp(name)
            given = {**NETWORK, **RUNS[name]}
            found[name] = getattr(studies, name).run(preset="quick", **given, out_dir=folder, say=said.append), said
        return found[name]

    return run


@pytest.mark.parametrize("name", list(RUNS))
def test_it_runs(name, ran):
    results, said = ran(name)
    print(name, results, said)
