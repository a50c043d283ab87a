"""How often do this package's tests find something where there is nothing, and how often what there is?

    python experiments/reliability.py                    # 1,000 data sets a truth; eight minutes of one core
    python experiments/reliability.py --preset=quick     # 40 data sets a truth, seconds

Simulates at least twenty truths without the effect for each test: association over arms, peak, equivalence (a true
difference of the margin), trend (Page's test), and differences of accuracy, paired over seeds and crossed over seeds
and images; also the answer from a curve over losses. Every test is made at 5 %. Beside them truths with the effect,
for the power. Writes <figures_dir>/reliability.csv: test, truth, kind ("null" or "effect"), design, data sets,
rejections, rate, and the 95 % binomial interval (Clopper-Pearson). Exit status 1 if such an interval at 99.9 % lies
above 5 % for a truth without the effect.
"""

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from scipy import stats as scipy_stats

from ntkgen import cli, records, stats
from ntkgen.studies import options

FLAGS = flags.FLAGS
flags.DEFINE_enum("preset", "paper", ("quick", "paper"), "quick: 40 data sets a truth. paper: 1,000.")
cli.define_flag("seed", options.SEED, 0, "Of the simulations.")
flags.DEFINE_string("figures_dir", "figures", "Where the table goes.")

ALPHA = 0.05
COUNTS = {"quick": 40, "paper": 1000}
SPREADS = (0.0, 1.0, 2.0, 4.0, 10.0)  # of arms, in deviations of a seed


class Truth(NamedTuple):
    """Draws one data set and makes the test: reject(rng) -> bool."""

    test: str
    truth: str
    effect: bool
    design: str
    reject: Callable[[np.random.Generator], bool]


def association() -> Iterator[Truth]:
    """Arms differ in accuracy and in sharpness: independently, or with a rank correlation of -1."""
    for arms, seeds, spread in itertools.product((5, 7, 9), (3, 5), SPREADS):
        for effect in (False, True) if spread else (False,):

            def reject(rng: Any, arms: int = arms, seeds: int = seeds, spread: float = spread,
                       effect: bool = effect) -> bool:  # fmt: skip
                effects = spread * rng.standard_normal((2, arms))
                if effect:
                    effects[1] = -effects[0]
                data = effects[:, None] + rng.standard_normal((2, seeds, arms))
                return stats.association(*data, num_permutations=999).pvalue <= ALPHA

            words = "opposite effects of arms" if effect else "independent effects of arms"
            yield Truth("association", f"{words}, spread {spread:g}", effect, f"{arms} arms, {seeds} seeds", reject)


PEAKS: dict[str, np.ndarray] = {  # label noise: digits quick preset; MNIST at 20 %, 4,000 images
    "digits, 20 % label noise": np.array([11.4, 8.3, 11.6, 14.8, 13.9, 10.9, 9.5]),
    "MNIST, 20 % label noise": np.array(
        [38.46, 21.30, 20.49, 21.67, 24.07, 23.13, 21.07, 19.54, 18.23, 17.15, 15.73, 14.88]
    ),
}
MNIST_SD = np.array([12.39, 1.36, 1.05, 0.62, 0.45, 0.71, 0.34, 0.85, 0.24, 0.29, 0.31, 0.27])


def peak() -> Iterator[Truth]:
    """Curves without a peak whose seeds differ up to a hundredfold more at some sizes."""

    def rejecting(mean: np.ndarray, sd: Any, seeds: int, window: Any) -> Callable:
        return lambda rng: stats.peak_test(mean + sd * rng.standard_normal((seeds, len(mean))), window).pvalue <= ALPHA

    for (sizes, window), seeds in itertools.product(((6, range(1, 4)), (12, range(3, 8))), (3, 5)):
        j, middle = np.arange(sizes), window[len(window) // 2]
        means = {
            "flat": np.zeros(sizes),
            "step down at the end": 1000.0 * (j < sizes - 1),
            "rise, then flat": 1000.0 * (j > 0),
            "fall to a plateau": np.maximum(10.0 * (middle - j), 0),
        }
        spreads: dict[str, Any] = {
            "equal spreads": np.ones(sizes),
            "spreads falling 30-fold": np.geomspace(30, 1, sizes),
        }
        for ratio in (3, 10, 30, 100):
            spreads[f"{ratio}-fold in the window's middle"] = np.where(j == middle, ratio, 1.0)
        spreads["30-fold in all the window"] = np.where(np.isin(j, window), 30.0, 1.0)
        spreads["30-fold at both ends and in the middle"] = np.where(np.isin(j, (0, middle, sizes - 1)), 30.0, 1.0)
        for (curve, mean), (spread, sd) in itertools.product(means.items(), spreads.items()):
            design = f"{sizes} sizes, {seeds} seeds"
            yield Truth("peak", f"{curve}, {spread}", False, design, rejecting(mean, sd, seeds, window))
    digits, mnist = PEAKS.values()
    for seeds, sd in ((3, 0.8), (5, 0.8), (5, 1.5)):
        reject = rejecting(digits, sd, seeds, range(2, 5))
        yield Truth("peak", f"{next(iter(PEAKS))}, deviation {sd:g}", True, f"7 sizes, {seeds} seeds", reject)
    for seeds in (3, 5):
        reject = rejecting(mnist, MNIST_SD, seeds, range(2, 9))
        yield Truth("peak", list(PEAKS)[1], True, f"12 sizes, {seeds} seeds", reject)


def equivalence() -> Iterator[Truth]:
    """Pairs that differ by just the margin, which is not equivalent; and by nothing."""
    cases = itertools.product((3, 5), (0.1, 0.3, 1.0, 3.0), ("equal", "larger in one arm"), (1.0, -1.0, 0.0))
    for seeds, sd, spread, side in cases:

        def reject(rng: Any, seeds: int = seeds, sd: float = sd, spread: str = spread, side: float = side) -> bool:
            scale = sd * np.array([[1.0], [1.0 if spread == "equal" else 3.0]])
            a, b = rng.standard_normal((1, seeds)) + scale * rng.standard_normal((2, seeds))
            return stats.within(a + side, b, 1.0) <= ALPHA

        truth = f"difference {side:g} margins, deviation {sd:g}, {spread}"
        yield Truth("equivalence", truth, side == 0, f"{seeds} seeds", reject)


def over_losses() -> Iterator[Truth]:
    """A curve over losses: a difference at all but one of them is none; nor is equality at all but one."""
    cases = itertools.product((2, 4), (3, 5), (0.0, 0.5, 0.9), ("difference", "equivalence"), (0.0, 0.1, 1.0))
    for losses, seeds, correlation, kind, others in cases:

        def reject(rng: Any, losses: int = losses, seeds: int = seeds, correlation: float = correlation,
                   kind: str = kind, others: float = others) -> bool:  # fmt: skip
            noise = np.sqrt(correlation) * rng.standard_normal((2, 1, seeds))
            noise = 0.1 * (noise + np.sqrt(1 - correlation) * rng.standard_normal((2, losses, seeds)))
            one = 0.0 if kind == "difference" else 0.1
            truth = np.array([one, *[others] * (losses - 1)])[:, None]
            found = stats.over_targets(noise[0] + truth, noise[1], 0.1)
            return (found.pvalue if kind == "difference" else found.equivalence_p) <= ALPHA

        if kind == "difference" or others < 1.0:
            truth = f"{kind} at all losses but one, there {others:g}, correlation {correlation:g}"
            yield Truth("curve over losses", truth, False, f"{losses} losses, {seeds} seeds", reject)
    for losses, seeds in itertools.product((2, 4), (3, 5)):

        def find(rng: Any, losses: int = losses, seeds: int = seeds) -> bool:
            a, b = 0.05 * rng.standard_normal((2, losses, seeds))
            return stats.over_targets(a + 0.3, b, 0.1).pvalue <= ALPHA

        yield Truth("curve over losses", "a factor of 2 at every loss", True, f"{losses} losses, {seeds} seeds", find)


def trend() -> Iterator[Truth]:
    """Page's test over arms in order, seeds as blocks: exchangeable arms, of several laws, and a slope."""
    laws: dict[str, Callable] = {
        "normal": lambda rng, shape: rng.standard_normal(shape),
        "heavy tails": lambda rng, shape: rng.standard_t(2, shape),
        "skewed": lambda rng, shape: rng.exponential(size=shape),
        "rounded, with ties": lambda rng, shape: np.round(rng.standard_normal(shape)),
    }
    for (law, draw), arms, seeds in itertools.product(laws.items(), (3, 5, 7), (3, 5)):
        for slope in (0.0, 0.5):

            def reject(rng: Any, draw: Callable = draw, arms: int = arms, seeds: int = seeds,
                       slope: float = slope) -> bool:  # fmt: skip
                data = 3 * rng.standard_normal((seeds, 1)) + draw(rng, (seeds, arms)) + slope * np.arange(arms)
                return scipy_stats.page_trend_test(data, method="exact").pvalue <= ALPHA

            truth = f"{'slope of half a deviation' if slope else 'no trend'}, {law}"
            yield Truth("trend", truth, bool(slope), f"{arms} arms, {seeds} seeds", reject)


def paired() -> Iterator[Truth]:
    """Differences over seeds alone: the same mean, and one a deviation and a half away."""
    cases = itertools.product((3, 5), (0.0, 1.0, 10.0), ("normal", "uniform", "heavy tails"), (1.0, 10.0), (0.0, 1.5))
    for seeds, shared, law, ratio, shift in cases:

        def reject(rng: Any, seeds: int = seeds, shared: float = shared, law: str = law, ratio: float = ratio,
                   shift: float = shift) -> bool:  # fmt: skip
            draw = {"normal": rng.standard_normal, "heavy tails": lambda shape: rng.standard_t(3, shape)}
            noise = draw.get(law, lambda shape: rng.uniform(-1.7, 1.7, shape))((2, seeds))
            a, b = shared * rng.standard_normal((1, seeds)) + noise * [[1.0], [ratio]]
            return stats.paired(a + shift * np.hypot(1, ratio), b).pvalue <= ALPHA

        what = "1.5 deviations" if shift else "no difference"
        truth = f"{what}, {law}, spreads 1 and {ratio:g}, seeds' effect {shared:g}"
        yield Truth("paired", truth, shift > 0, f"{seeds} seeds", reject)


def crossed() -> Iterator[Truth]:
    """Accuracies of two arms with images that suit one or the other, and seeds that do: equal over all of both."""
    cases = itertools.product((3, 5), (200, 1000), (0.0, 1.0, 2.0), (0.0, 0.1, 0.5), (0.0, 0.5))
    for seeds, images, image, seed, shift in cases:

        def reject(rng: Any, seeds: int = seeds, images: int = images, image: float = image, seed: float = seed,
                   shift: float = shift) -> bool:  # fmt: skip
            shared = rng.standard_normal(images)
            latent = image * (0.9 * shared + 0.44 * rng.standard_normal((2, 1, images)))
            latent = latent + seed * rng.standard_normal((2, seeds, 1)) + rng.standard_normal((2, seeds, images))
            a, b = latent + 1.5 * np.sqrt(image**2 + 1) + [[[shift]], [[0.0]]] > 0
            return stats.crossed(a, b).pvalue <= ALPHA

        what = "better by 0.5 in the latent" if shift else "no difference"
        truth = f"{what}, images {image:g}, seeds {seed:g}"
        yield Truth("crossed", truth, shift > 0, f"{seeds} seeds, {images} images", reject)


TESTS = (association, peak, equivalence, over_losses, trend, paired, crossed)


def simulate(count: int, seed: int) -> list[dict[str, Any]]:
    """Make the table; every truth draws from a stream of its own."""
    rows: list[dict[str, Any]] = []
    for number, truth in enumerate(one for test in TESTS for one in test()):
        if truth.test not in {row["test"] for row in rows}:
            print(f"simulating {truth.test}", file=sys.stderr, flush=True)
        rng = np.random.default_rng([seed, number])
        hits = sum(bool(truth.reject(rng)) for _ in range(count))
        low, high = scipy_stats.binomtest(hits, count).proportion_ci(0.95)
        row: dict[str, Any] = {"test": truth.test, "truth": truth.truth, "kind": "effect" if truth.effect else "null"}
        row |= {"design": truth.design, "data_sets": count, "rejections": hits}
        rows.append(row | {"rate": hits / count, "low": float(low), "high": float(high)})
    return rows


def worst(rows: list[dict[str, Any]]) -> str:
    """Summarise as text: for each test its truths without the effect, the highest rate, and the power."""
    lines = [
        f"{'test':20} {'truths':>6}  highest rate at 5 % [95 % interval], where; power over truths with the effect"
    ]
    for test in dict.fromkeys(row["test"] for row in rows):
        nulls, effects = ([row for row in rows if (row["test"], row["kind"]) == (test, kind)]
                          for kind in ("null", "effect"))  # fmt: skip
        top = max(nulls, key=lambda row: row["rate"])
        rates = [row["rate"] for row in effects]
        lines.append(
            f"{test:20} {len(nulls):6}  {top['rate']:.3f} [{top['low']:.3f}, {top['high']:.3f}], {top['truth']}, "
            f"{top['design']}; {min(rates):.2f} to {max(rates):.2f} over {len(rates)}"
        )
    return "\n".join(lines)


def too_high(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """List the truths without the effect whose rate lies above the level beyond chance."""
    return [
        row
        for row in rows
        if row["kind"] == "null"
        and scipy_stats.binomtest(row["rejections"], row["data_sets"]).proportion_ci(0.999)[0] > ALPHA
    ]


def main() -> None:
    """Simulate, print and write."""
    with cli.user_errors(FLAGS):
        records.check_writable(FLAGS.figures_dir, "figures_dir")
    rows = simulate(COUNTS[FLAGS.preset], FLAGS.seed)
    Path(FLAGS.figures_dir).mkdir(parents=True, exist_ok=True)
    path = records.write_table(Path(FLAGS.figures_dir) / "reliability.csv", rows)
    print(worst(rows))
    for row in too_high(rows):
        print(f"above {ALPHA:.0%}: {row['test']}, {row['truth']}, {row['design']}: {row['rate']:.3f}")
    print(path)
    sys.exit(1 if too_high(rows) else 0)


if __name__ == "__main__":
    cli.script(main)
