"""What the tangent-kernel study trains: data, draws of images, networks and their rates."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ntkgen import data, ensemble, kernels, models, train
from ntkgen.studies import base, datasets, tuning
from ntkgen.studies.ntk_regime._config import LIMITS, LOSSES, Config, WidthSeries

BASE_WIDTH = models.MUP_BASE_WIDTH  # where NTK and muP networks start as fast as the standard one at the given rate
RATE_WIDTH = 128  # where a rate over the width is the given one; anchored at 64, width 1024 ends short of the loss
WIDE = 5_000_000  # parameters beyond which seeds are trained one by one
KERNEL_SNAPSHOTS = 8
TARGET_STREAM = 7  # of the study's draws of test images, beside those of the data


class SeedGroup(NamedTuple):
    """Seeds that are trained together; linearised or not."""

    series: WidthSeries
    width: int
    seeds: tuple[int, ...]
    linearised: bool = False

    @property
    def name(self) -> str:
        """Return the name of its files."""
        words = [*self.series, f"w{self.width}", f"s{self.seeds[0]}-{self.seeds[-1]}"]
        return "_".join(["linearised", *words] if self.linearised else words)


class Images(NamedTuple):
    """Images with labels: x (n, h, w, c), y (n,)."""

    x: jax.Array
    y: jax.Array


@dataclass(frozen=True)
class Materials:
    """Data and networks of one config.

    Attributes:
      config: the settings.
      dataset: what is trained on.
      held: of `tuning.hold_out`; None without tuning.
      probe_images: test images on which kernels are followed.
      kernel_images: test images on which kernels predict.
      ntk_speed: of `ntk_speed`; None for networks other than the MLP, which has no parametrisations.
    """

    config: Config
    dataset: data.Dataset
    held: data.Dataset | None
    probe_images: Images
    kernel_images: Images
    ntk_speed: float | None

    def network(self, width: int, limit: str | None = None) -> Any:
        """Return the network of a width and limit; the main networks' limit by default."""
        if self.config.model != "mlp":
            return base.network(self.config, width, num_classes=self.dataset.num_classes)
        kind = parametrization(limit or self.config.limit)
        return models.MLP(width, self.config.depth, self.dataset.num_classes, kind)

    def num_params(self, width: int) -> int:
        """Return a network's number of parameters, the same in every limit."""
        return models.num_params(self.network(width), self.dataset.train.x.shape[1:])

    def training(self, series: WidthSeries, width: int, lr: float | None = None) -> train.Config:
        """Return how networks of one width are trained, at the config's rate or another one in its unit."""
        own = rate(self.config.lr if lr is None else lr, series.limit, width, self.ntk_speed)
        return base.training(self.config, learning_rate=own, loss=series.loss)

    def groups(self) -> list[SeedGroup]:
        """Return what is trained at the given rate, in order."""
        config, found = self.config, []
        for width in config.widths:
            wide = self.num_params(width) > WIDE
            together = [(seed,) for seed in config.seeds] if wide else [tuple(config.seeds)]
            found += [SeedGroup(config.main, width, seeds) for seeds in together]
            if width in config.linearised_widths:
                few = tuple(config.seeds[: config.linearised_seeds])
                found.append(SeedGroup(config.main, width, few, linearised=True))
        if config.extras:
            few = tuple(config.seeds[: config.extra_seeds])
            others = [each for loss in LOSSES for limit in LIMITS if (each := WidthSeries(loss, limit)) != config.main]
            found += [SeedGroup(series, width, few) for series in others for width in config.extra_widths]
        return found


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], Materials]:
    """Load the data and check everything that can be wrong; returns what they add to the record, and the materials.

    Raises:
      ValueError: a setting does not fit the data or the machine.
    """
    dataset = datasets.load(config, data_dir, subset=config.subset)
    probes, tests = (
        draw_test(dataset, count, config.data_seed, stream)
        for stream, count in enumerate((config.probe_images, config.kernel_test))
    )
    held = tuning.hold_out(dataset) if config.tuned_widths else None
    speed = ntk_speed(probes.x, config.depth) if config.model == "mlp" else None
    found = Materials(config, dataset, held, probes, tests, speed)
    for group in found.groups():
        training = found.training(group.series, group.width)
        ensemble.check_fits(found.num_params(group.width), f"widths: width {group.width}")
        train.Program.of(found.network(group.width, group.series.limit), training, dataset.num_train)
    training = found.training(config.main, config.widths[0])
    if held is not None:
        train.Program.of(found.network(config.widths[0]), training, held.num_train)
    facts = {
        "num_train": dataset.num_train,
        "data_digest": dataset.digest,
        **datasets.source_facts(dataset),
        "momentum": training.momentum,
        "probe_images": len(probes.y),
        "kernel_test": len(tests.y),
        "ntk_speed": found.ntk_speed,
    }
    return facts, found


def draw_test(dataset: data.Dataset, count: int, seed: int, stream: int) -> Images:
    """Return so many test images at most, in the test set's order."""
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(TARGET_STREAM, stream)))
    rows = np.sort(generator.permutation(dataset.test.y.shape[0])[:count])
    return Images(dataset.test.x[rows], dataset.test.y[rows])


def parametrization(limit: str) -> str:
    """Return the parametrisation that a limit needs."""
    return limit if limit in ("ntk", "mup") else "standard"


def rate(lr: float, limit: str, width: int, speed: float | None) -> float:
    """Return a width's learning rate; `lr` is the standard network's, at `RATE_WIDTH` if it goes like 1/width."""
    return lr * {"over_width": RATE_WIDTH / width, "ntk": speed or 1.0}.get(limit, 1.0)


def ntk_speed(x: jax.Array, depth: int) -> float:
    """Return how much smaller the tangent kernel is in the NTK parametrisation: ratio of traces at the base width.

    With the rate multiplied by it, outputs of the two networks begin to move equally fast (on average over x).
    """
    traces = [
        np.trace(kernels.infinite_mlp(x, width=BASE_WIDTH, depth=depth, parametrization=name).ntk)
        for name in ("standard", "ntk")
    ]
    return float(f"{traces[0] / traces[1]:.6g}")  # part of the run's name: rounding depends on the number of threads


def snapshots(epochs: int, count: int = KERNEL_SNAPSHOTS) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return epochs from 1 to the last, evenly on a logarithmic scale: 2 count - 1 for movement, half for kernels."""
    spread = [round(epoch) for epoch in np.geomspace(1, epochs, 2 * count - 1)]
    return tuple(sorted(set(spread))), tuple(sorted(set(spread[::2])))


def flow_time(training: train.Config, num_train: int) -> float:
    """Return the time that gradient flow on the mean loss takes for what (momentum) SGD of this schedule does."""
    assert training.momentum is not None  # resolved by Config
    batch = num_train if training.optimizer == "gd" else training.batch_size
    rates = sum(training.rate(epoch) for epoch in range(training.epochs))
    return rates * math.ceil(num_train / batch) / (1 - training.momentum)
