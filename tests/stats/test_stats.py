"""Statistics: against scipy, at their edges, and by simulation (coverage, power)."""

import warnings

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from ntkgen import stats

rows = hnp.arrays(float, st.integers(2, 8), elements=st.integers(-50, 50).map(float))
fast = hypothesis.settings(max_examples=40, deadline=None, derandomize=True)


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


# Mean, standard deviation, intervals


def test_mean_std_is_the_sample_estimate():
    x = normal(0, 5)
    assert stats.mean_std(x) == pytest.approx((np.mean(x), np.std(x, ddof=1), 5, 0))


def test_mean_std_counts_nans_and_flags_one_value():
    assert stats.mean_std([1.0, np.nan, 3.0]) == pytest.approx((2.0, np.sqrt(2), 2, 1))
    mean, std, n, num_nan = stats.mean_std([7.0, np.nan])
    assert (mean, n, num_nan) == (7.0, 1, 1) and np.isnan(std)


def test_mean_std_of_identical_values_is_exact():
    assert stats.mean_std([0.1] * 6) == (0.1, 0.0, 6, 0)  # numpy sums these to 0.6 and a bit


@pytest.mark.parametrize("level", [0.5, 0.95])
def test_t_interval_is_scipys(level):
    x = normal(1, 5)
    expected = scipy.stats.t.interval(level, 4, np.mean(x), scipy.stats.sem(x))
    assert stats.interval(x, "t", level)[:2] == pytest.approx(expected)


def test_bootstrap_interval_is_scipys_percentile_bootstrap_up_to_monte_carlo():
    x = normal(2, 20)
    theirs = scipy.stats.bootstrap((x,), np.mean, n_resamples=50_000, method="percentile", rng=1)
    ours = stats.interval(x, num_resamples=50_000)
    assert ours[:2] == pytest.approx(tuple(theirs.confidence_interval), abs=0.03 * np.std(x))
    assert (ours.method, ours.level, ours.n, ours.num_nan) == ("bootstrap", 0.95, 20, 0)


def test_bootstrap_depends_on_its_seed_alone():
    x = normal(3, 5)
    assert stats.interval(x, seed=4) == stats.interval(x, seed=4)
    assert stats.interval(x, seed=4)[:2] != stats.interval(x, seed=5)[:2]


@pytest.mark.parametrize("method", ["bootstrap", "t"])
def test_interval_at_the_edges(method):
    assert stats.interval([0.1] * 5, method)[:2] == (0.1, 0.1)
    with_nan = stats.interval([1.0, np.nan, 2.0, 4.0], method)
    assert with_nan[:2] == stats.interval([1.0, 2.0, 4.0], method)[:2]
    assert (with_nan.n, with_nan.num_nan) == (3, 1)
    with pytest.raises(ValueError, match="needs at least 2"):
        stats.interval([1.0], method)
    one = stats.interval([1.0], method, on_too_few="nan")
    assert np.isnan(one.low) and np.isnan(one.high) and one.n == 1


@fast
@hypothesis.given(rows, st.sampled_from(["bootstrap", "t"]), st.integers(-9, 9), st.sampled_from([0.25, 3.0]))
def test_interval_moves_with_shift_and_scale_and_ignores_order(x, method, shift, scale):
    low, high = stats.interval(x, method)[:2]
    assert low <= np.mean(x) + 1e-9 and np.mean(x) - 1e-9 <= high
    moved = stats.interval(scale * x + shift, method)[:2]
    assert moved == pytest.approx((scale * low + shift, scale * high + shift), abs=1e-9)
    assert stats.interval(np.random.default_rng(0).permutation(x), method)[:2] == (low, high)


@pytest.mark.parametrize(("method", "coverage", "tolerance"), [("bootstrap", 0.835, 0.015), ("t", 0.95, 0.01)])
def test_coverage_with_five_seeds(method, coverage, tolerance):
    # 5,000 samples: standard errors 0.005 and 0.003.
    ends = np.array([stats.interval(x, method, seed=i)[:2] for i, x in enumerate(normal(5, 5000, 5))])
    covered = np.mean((ends[:, 0] <= 0) & (ends[:, 1] >= 0))
    print(f"{method}: covered {covered:.4f}")
    assert covered == pytest.approx(coverage, abs=tolerance)


# Tests of a difference


def test_welch_and_paired_are_scipys():
    a, b = normal(6, 5), normal(7, 5) + 0.7
    for ours, theirs in (
        (stats.welch(a[:4], b), scipy.stats.ttest_ind(a[:4], b, equal_var=False)),
        (stats.paired(a, b), scipy.stats.ttest_rel(a, b)),
    ):
        assert ours[:3] == pytest.approx((theirs.statistic, theirs.pvalue, theirs.df))
        assert ours[4:6] == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert stats.welch(a[:4], b)[6:] == (4, 5, 0)
    assert stats.paired(a, b).mean_difference == pytest.approx(np.mean(a - b))


def test_welch_with_one_constant_side():
    a, b = np.full(5, 100.0), 99 + normal(8, 5)
    assert stats.welch(a, b).pvalue == pytest.approx(scipy.stats.ttest_1samp(b, 100).pvalue)


@pytest.mark.parametrize("test", [stats.welch, stats.paired])
def test_zero_variance_is_defined(test):
    equal = test([100.0] * 5, [100.0] * 5)
    assert (equal.statistic, equal.pvalue, equal.low, equal.high) == (0, 1, 0, 0)
    lower = test([0.1] * 3, [0.2] * 3)
    assert (lower.statistic, lower.pvalue) == (-np.inf, 0)
    assert lower.low == lower.mean_difference == lower.high == -0.1


def test_paired_differences_equal_up_to_rounding_have_zero_variance():
    a = np.array([0.1, 0.2, 0.3])
    assert np.ptp((a + 0.1) - a) > 0
    assert stats.paired(a + 0.1, a).statistic == np.inf
    assert stats.paired(a * 3 / 3, (a / 7) * 7).pvalue == 1


def test_paired_drops_and_counts_nan_pairs():
    result = stats.paired([1.0, np.nan, 3.0, 4.0], [0.0, 1.0, np.nan, 2.0])
    assert (result.n_a, result.n_b, result.num_nan, result.mean_difference) == (2, 2, 2, 1.5)


@fast
@hypothesis.given(rows, st.integers(-9, 9), st.sampled_from([0.25, 3.0]), st.sampled_from(["welch", "paired"]))
def test_tests_ignore_units_and_order_and_change_sign_when_swapped(a, shift, scale, name):
    test = getattr(stats, name)
    b = np.roll(a, 1) ** 2 / 7
    result, order = test(a, b), np.random.default_rng(0).permutation(len(a))
    assert test(a[order], b[order]) == result
    assert test(b, a)[:2] == pytest.approx((-result.statistic, result.pvalue))
    moved = test(scale * a + shift, scale * b + shift)
    assert moved[:3] == pytest.approx(result[:3])
    assert moved[3:6] == pytest.approx(tuple(scale * np.array(result[3:6])), abs=1e-9)


# Equivalence and power


@pytest.mark.parametrize("is_paired", [True, False])
def test_equivalence_is_two_one_sided_tests(is_paired):
    a, b, margin = normal(9, 6), normal(10, 6), 1.3

    def test(x, y, **options):
        if is_paired:
            return scipy.stats.ttest_rel(x, y, **options)
        return scipy.stats.ttest_ind(x, y, equal_var=False, **options)

    above = test(a + margin, b, alternative="greater").pvalue
    below = test(a - margin, b, alternative="less").pvalue
    result = stats.equivalence(a, b, margin, paired=is_paired)
    assert result.pvalue == pytest.approx(max(above, below))
    assert (result.low, result.high) == pytest.approx(tuple(test(a, b).confidence_interval(0.90)))
    if is_paired:
        assert result.detectable == stats.minimum_detectable_effect(np.std(a - b, ddof=1), 6)


@fast
@hypothesis.given(rows, st.sampled_from([0.5, 2.0, 8.0]), st.booleans())
def test_equivalent_exactly_when_the_interval_lies_inside_the_margin(a, margin, is_paired):
    result = stats.equivalence(a, np.roll(a, 1) + 0.3, margin, paired=is_paired)
    inside = max(abs(result.low), abs(result.high)) < margin
    assert result.equivalent == inside


def test_equivalence_without_variance():
    inside, outside = (
        stats.equivalence([1.0] * 3, [1.2] * 3, 0.5),
        stats.equivalence([1.0] * 3, [2.0] * 3, 0.5),
    )
    assert (inside.pvalue, inside.equivalent, inside.detectable) == (0, True, 0)
    assert (outside.pvalue, outside.equivalent) == (1, False)


@pytest.mark.parametrize(("n", "is_paired"), [(2, True), (3, True), (5, True), (5, False)])
def test_detectable_effect_has_the_stated_power_in_simulation(n, is_paired):
    effect = stats.minimum_detectable_effect(2.0, n, paired=is_paired)
    a, b = 2 * normal(11, n, 20_000) + effect, 2 * normal(12, n, 20_000)
    test = scipy.stats.ttest_1samp(a, 0) if is_paired else scipy.stats.ttest_ind(a, b)
    assert np.mean(test.pvalue <= 0.05) == pytest.approx(0.8, abs=3 * 0.0029)  # three standard errors


def test_detectable_effect_matches_the_textbook():
    # Cohen (1988), table 2.4.1: n = 64 per group finds d = 0.5 with 80 % power.
    assert stats.minimum_detectable_effect(1.0, 64, paired=False) == pytest.approx(0.5, abs=0.002)
    assert stats.minimum_detectable_effect(0.0, 5) == 0


def test_false_discovery_is_benjamini_hochberg():
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.6])
    rejected, adjusted = stats.false_discovery(p)
    np.testing.assert_allclose(adjusted, [0.025, 0.05, 0.05, 0.025, 0.6])  # p_(i) m / i, made monotone, by hand
    np.testing.assert_array_equal(rejected, adjusted <= 0.05)


# Power law


def test_power_law_of_one_seed_is_linear_regression():
    x = np.array([2.0, 3.0, 10.0, 40.0])
    y = 3 * x**-0.5 * np.exp(0.1 * normal(13, 4))
    theirs = scipy.stats.linregress(np.log(x), np.log(y))
    half = theirs.stderr * scipy.stats.t.ppf(0.975, 2)
    fit = stats.power_law_fit(x, y)
    assert fit[:3] == pytest.approx((theirs.slope, theirs.slope - half, theirs.slope + half))
    assert (fit.prefactor, fit.r2) == pytest.approx((np.exp(theirs.intercept), theirs.rvalue**2))
    assert (fit.method, fit.n) == ("regression", 1)


def test_power_law_of_many_seeds_takes_the_interval_over_seeds():
    x = np.array([1.0, 2.0, 4.0, 8.0])
    y = np.exp(0.1 * normal(14, 5, 4)) * x**2
    y = np.vstack([y, [np.nan, 1, 1, 1]])
    slopes = [np.polyfit(np.log(x), np.log(row), 1)[0] for row in y[:5]]
    fit = stats.power_law_fit(x, y)
    np.testing.assert_allclose(fit.per_seed, slopes)
    assert (fit.low, fit.high) == pytest.approx(stats.interval(slopes, "t")[:2])
    assert (fit.exponent, fit.method, fit.n, fit.num_nan) == (pytest.approx(np.mean(slopes)), "seeds", 5, 1)


def test_power_law_of_a_constant_is_exact():
    fit = stats.power_law_fit([1, 2, 4], [5, 5, 5])
    assert (fit.exponent, fit.prefactor, fit.r2) == pytest.approx((0, 5, 1))


@fast
@hypothesis.given(st.floats(0.1, 10), st.floats(0.1, 10))
def test_power_law_exponent_ignores_units(scale_x, scale_y):
    x, y = np.array([1.0, 2.0, 5.0, 9.0]), np.exp(normal(15, 3, 4))
    fit, moved = stats.power_law_fit(x, y), stats.power_law_fit(scale_x * x, scale_y * y)
    assert moved[:3] == pytest.approx(fit[:3])
    assert moved.prefactor == pytest.approx(fit.prefactor * scale_y / scale_x**fit.exponent)


# Refusals


REFUSED = [
    ("x: expected shape", lambda: stats.mean_std([[1.0]])),
    ("x: needs at least 1", lambda: stats.mean_std([np.nan])),
    ("x: needs at least 1", lambda: stats.interval([], on_too_few="nan")),
    ("x: expected finite", lambda: stats.mean_std([1.0, np.inf])),
    ("method", lambda: stats.interval([1, 2], "bca")),
    ("level", lambda: stats.interval([1, 2], level=95)),
    ("num_resamples", lambda: stats.interval([1, 2], num_resamples=0)),
    ("on_too_few", lambda: stats.interval([1, 2], on_too_few="ignore")),
    ("a: needs at least 2", lambda: stats.welch([1.0, np.nan], [1, 2])),
    ("b: needs at least 2", lambda: stats.welch([1, 2], [1.0])),
    ("equal lengths", lambda: stats.paired([1, 2], [1, 2, 3])),
    ("needs at least 2", lambda: stats.paired([1.0, np.nan, 3], [np.nan, 1, 2])),
    ("infinity", lambda: stats.paired([np.inf, 1.0, 2], [1, 2, 3])),
    ("infinity", lambda: stats.paired([np.inf, 1.0, 2], [np.inf, 2, 3])),
    ("margin", lambda: stats.equivalence([1, 2], [1, 2], 0)),
    ("alpha", lambda: stats.equivalence([1, 2], [1, 2], 1, alpha=0.5)),
    ("std", lambda: stats.minimum_detectable_effect(np.nan, 5)),
    ("n: needs", lambda: stats.minimum_detectable_effect(1.0, 1)),
    ("power", lambda: stats.minimum_detectable_effect(1.0, 5, power=0.05)),
    ("pvalues", lambda: stats.false_discovery([0.1, np.nan])),
    ("pvalues", lambda: stats.false_discovery([0.1, 1.1])),
    ("pvalues", lambda: stats.false_discovery([])),
    ("x: needs at least 3", lambda: stats.power_law_fit([1, 2], [1, 2])),
    ("x: needs at least 2 distinct", lambda: stats.power_law_fit([2, 2, 2], [1, 2, 3])),
    ("x: expected positive", lambda: stats.power_law_fit([0, 1, 2], [1, 2, 3])),
    ("y: expected positive", lambda: stats.power_law_fit([1, 2, 3], [1, 0, 3])),
    ("y: expected shape", lambda: stats.power_law_fit([1, 2, 3], [1, 2])),
    ("y: needs at least 1", lambda: stats.power_law_fit([1, 2, 3], [1, 2, np.nan])),
]


@pytest.mark.parametrize(("message", "call"), REFUSED, ids=range(len(REFUSED)))
def test_refuses(message, call):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value)
