"""The verdicts of the double-descent study: what they claim, when they refuse, and how often they are wrong."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats as scipy_stats

from ntkgen.studies.double_descent import _tables as tables

SIZES = [4, 8, 16, 32, 64, 128, 256, 512]
PARAMS = np.array([100 * size for size in SIZES])
# Training error: interpolation between sizes 32 and 64.
TRAINING = np.array([30.0, 20.0, 10.0, 3.0, 0.5, 0.0, 0.0, 0.0])


def table(test, training=TRAINING, diverged=None):
    """A table of one number of examples and one epoch from test errors (seeds, sizes)."""
    seeds, sizes = test.shape
    shape = (1, sizes, seeds)
    diverged = np.zeros(shape, bool) if diverged is None else diverged
    error = {
        "train": np.broadcast_to(np.asarray(training)[None, :, None, None], (*shape, 1)).copy(),
        "test": np.asarray(test, float).T[None, :, :, None].copy(),
    }
    for values in error.values():
        values[diverged] = np.nan
    return SimpleNamespace(
        counts=[1000], sizes=SIZES[:sizes], seeds=list(range(seeds)), epochs=[1], params=PARAMS[:sizes],
        error=error, diverged=diverged,
    )  # fmt: skip


def noisy(mean, seeds, sd, rng):
    return np.asarray(mean) + rng.standard_normal((seeds, 1)) + sd * rng.standard_normal((seeds, len(mean)))


def judge(test, **options):
    return tables.judge(table(test, **options), 0.01)[0]


@pytest.mark.parametrize("seeds", [3, 5])
def test_flat_truths_are_called_anything_at_most_one_time_in_twenty(seeds):
    """The whole way from tables to words; one-sided binomial bound at 99.9 % for 400 studies."""
    rng = np.random.default_rng(seeds)
    studies = 400
    verdicts = [judge(noisy(np.full(8, 10.0), seeds, 0.5, rng)) for _ in range(studies)]
    allowed = scipy_stats.binom.ppf(0.999, studies, 0.05)
    peaks = sum("peaks near" in v["verdict"] or "raised near" in v["verdict"] for v in verdicts)
    falls = sum("beyond it test error falls" in v["verdict"] for v in verdicts)
    assert peaks <= allowed / 2  # measured at most 1 %
    assert falls <= allowed
    assert all(v["threshold"]["first_size_below"] == 64 for v in verdicts)


def test_a_peak_at_the_threshold_is_seen():
    rng = np.random.default_rng(0)
    verdict = judge(noisy([12, 8, 9, 13, 14, 10, 8, 7], 4, 0.4, rng))
    assert verdict["verdict"] == "test error peaks near the threshold; beyond it test error falls"
    assert verdict["peak"]["highest_size"] == 64
    assert verdict["peak"]["adjusted"] >= verdict["peak"]["pvalue"]
    assert (verdict["peak"]["decision"], verdict["beyond"]["decision"]) == ("seen", "seen")
    assert verdict["peak"]["control"].endswith("highest at size 64: seen")
    assert "a peak before it, at size 64; " in verdict["beyond"]["control"]


def test_the_flank_of_a_higher_peak_elsewhere_is_no_peak_near_the_threshold():
    """Raised against a smaller and the largest size, yet the summit lies far below the threshold."""
    rng = np.random.default_rng(0)
    verdict = judge(noisy([8, 20, 18, 15, 13, 11, 9, 7], 5, 0.2, rng))
    assert "peaks near" not in verdict["verdict"]
    assert verdict["peak"]["highest_size"] == 8
    assert verdict["peak"]["control"].endswith("highest at size 8: not seen")


def test_monotone_improvement_falls_without_a_peak():
    rng = np.random.default_rng(0)
    verdict = judge(noisy([20, 15, 12, 9, 7, 6, 5, 4], 5, 0.2, rng))
    assert verdict["verdict"] == (
        "test error has no peak that the test can see near the threshold; beyond it test error falls"
    )


def test_a_rise_beyond_the_threshold_is_called_a_rise():
    rng = np.random.default_rng(0)
    assert judge(noisy([20, 15, 12, 9, 7, 8, 9, 11], 5, 0.2, rng))["verdict"].endswith("beyond it test error rises")


@pytest.mark.parametrize(
    ("training", "words"),
    [(np.full(8, 5.0), "no size interpolates"), (np.zeros(8), "lies below the smallest")],
)
def test_no_verdict_without_a_threshold(training, words):
    verdict = judge(np.full((3, 8), 10.0), training=training)
    assert verdict["verdict"].startswith("undecided") and words in verdict["verdict"]
    assert "peak" not in verdict


def test_one_seed_decides_nothing():
    assert judge(np.array([[12, 8, 9, 13, 14, 10, 8, 7.0]]))["verdict"].startswith("undecided")


def test_a_size_at_which_every_seed_diverged_is_left_out():
    rng = np.random.default_rng(0)
    test = noisy([12, 8, 9, 13, 14, 10, 8, 7], 4, 0.4, rng)
    diverged = np.zeros((1, 8, 4), bool)
    diverged[0, 0] = True
    verdict = judge(test, diverged=diverged)
    assert verdict["verdict"].startswith("test error peaks") and verdict["num_seeds"] == 4


def test_a_diverged_seed_is_left_out_and_counted():
    rng = np.random.default_rng(0)
    diverged = np.zeros((1, 8, 4), bool)
    diverged[0, 3, 1] = True
    assert judge(noisy([12, 8, 9, 13, 14, 10, 8, 7], 4, 0.4, rng), diverged=diverged)["num_seeds"] == 3
