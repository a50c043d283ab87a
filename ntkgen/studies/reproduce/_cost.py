"""What a study is expected to take, in processor seconds: on two cores it takes half to all of that.

Training costs products (weights times images, forward and back), steps, and a compilation for each program, one for
each shape of a network and its batch. Measuring costs products too: so many passes over its images for each network.
The rest (imports, compiling the measurements, tests and figures) is a constant of each study.

The constants were measured on two cores (x86, JAX 0.11 without a GPU), one study after another with its quick preset on
digits, and with single networks of width 32 to 512. A GPU is faster; this does not know how much.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ntkgen import models
from ntkgen.studies import datasets

# 25 epochs of width 512: 0.45 s for 3.7e9 products. A CNN of 4 to 32 channels: about half an
# hour of two cores for 6.3e12 (double_descent, small, CIFAR-10).
PER_PRODUCT = {"mlp": 1.3e-10, "cnn": 5.5e-10}
PER_STEP = 3e-5  # of one seed: 25 epochs of 41 steps, three seeds, width 32: 0.09 s
PER_PROGRAM = {"mlp": 2.5, "cnn": 11.0}  # first call less the second
IMAGES = {
    "digits": (8, 8, 1), "mnist1d": (40, 1, 1), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1),
    "cifar10": (32, 32, 3), "cifar100": (32, 32, 3),
}  # fmt: skip
# What a study takes where its networks cost nothing, and the passes over its images that measure one network. Both are
# fitted to the quick run; larger networks were compared with rough times of a few long runs only, to a factor of two.
FIXED = {
    "double_descent": 12.0, "implicit_regularization": 40.0, "loss_landscape": 40.0, "ntk_regime": 75.0,
    "lottery_ticket": 22.0, "mechanisms": 52.0,
}  # fmt: skip
PASSES = {
    "double_descent": 0, "implicit_regularization": 180, "loss_landscape": 1_000, "ntk_regime": 100,
    "lottery_ticket": 60, "mechanisms": 2_000,
}  # fmt: skip
STOPS_AFTER = 0.25  # of the epochs that networks trained to a loss may take
LEAST_PRODUCTS = 3_000.0  # a smaller network costs as much as this


class Training(NamedTuple):
    """One program: all seeds of one network with one batch size.

    Attributes:
      model: "mlp" or "cnn".
      products: weights times positions, for one image.
      images: training images.
      batch: images a step.
      epochs: passes over them.
      seeds: networks.
      measured: how many networks are measured afterwards, or along it; None for all seeds.
      programs: compilations.
    """

    model: str
    products: float
    images: int
    batch: int
    epochs: float
    seeds: int
    measured: int | None = None
    programs: int = 1


def seconds(study: str, config: Any, facts: Mapping[str, Any]) -> float:
    """Return what a study is expected to take.

    Args:
      study: its name.
      config: its complete config.
      facts: what its data and networks add to the record, as its `prepare` returns them.
    """
    found = FIXED[study]
    for one in TRAININGS[study](config, facts):
        work = one.epochs * one.seeds
        steps = work * math.ceil(one.images / one.batch)
        products = work * one.images * max(one.products, LEAST_PRODUCTS)
        found += PER_PROGRAM[one.model] * one.programs + PER_STEP * steps + PER_PRODUCT[one.model] * products
        measured = one.seeds if one.measured is None else one.measured
        samples = min(one.images, 1_000)
        found += PASSES[study] * measured * samples * max(one.products, LEAST_PRODUCTS) * PER_PRODUCT[one.model]
    return found


def products(config: Any, size: int, depth: int = 4) -> float:
    """Return the weights of a network, each as often as an image uses it."""
    shape = config.dataset.shape if datasets.is_file(config.dataset) else IMAGES[config.dataset]
    if config.model == "mlp":
        return models.num_params(models.MLP(size, depth), shape)
    positions, c = shape[0] * shape[1], size
    pairs = ((shape[2], c, c, 1), (c, 2 * c, 2 * c, 4), (2 * c, 4 * c, 4 * c, 16))  # in, middle, out, pooled
    kernels = sum(9 * (a * b + b * out) * positions / pooled for a, b, out, pooled in pairs)
    return kernels + 4 * c * (positions / 64) * 256 + 2_560


def _count(facts: Mapping[str, Any]) -> int:
    number = facts["num_train"]
    return number if isinstance(number, int) else max(number)


def _double_descent(config: Any, facts: Mapping[str, Any]) -> Iterator[Training]:
    for count in facts["num_train"]:
        costs = {size: int(products(config, size, config.depth or 4)) for size in config.sizes}
        for sizes in config.programs(costs, count):
            seeds = config.num_seeds * len(sizes)
            yield Training(config.model, costs[sizes[-1]], count, config.batch_size, config.epochs, seeds)


def _implicit_regularization(config: Any, facts: Mapping[str, Any]) -> Iterator[Training]:
    images = _count(facts)
    cost = products(config, config.width if config.model == "mlp" else config.channels)
    times = config.snapshots * config.num_seeds

    def arm(batch: int, epochs: float) -> Training:
        return Training(config.model, cost, images, min(batch, images), epochs, config.num_seeds, times)

    longer = {batch: config.epochs * batch / config.reference for batch in facts["batch_sizes"]}
    full = config.epochs * images / config.reference  # as many updates as the reference makes
    yield from (arm(batch, config.epochs) for batch in facts["batch_sizes"])
    yield from (arm(config.reference, config.epochs), arm(images, config.epochs))  # Adam, GD
    if config.match != "epochs" or "steps" in config.controls:
        yield from (arm(batch, epochs) for batch, epochs in longer.items() if batch > config.reference)
    for name, count in (("gd", 3), ("noise", 6)):
        yield from (arm(images, full) for _ in range(count if name in config.controls else 0))
    yield from (arm(config.reference, 2 * config.epochs) for name in ("sam",) if name in config.controls)
    yield from (arm(images, config.epochs) for name in ("plain",) if name in config.controls)


def _loss_landscape(config: Any, facts: Mapping[str, Any]) -> Iterator[Training]:
    cost, images = products(config, config.size), _count(facts)
    for steps in config.arms.values():
        yield Training(config.model, cost, images, steps.batch_size, config.epochs, config.num_seeds)


def _ntk_regime(config: Any, facts: Mapping[str, Any]) -> Iterator[Training]:
    images = _count(facts)

    def series(widths: Any, seeds: int, times: int = 1, measured: int | None = None) -> Iterator[Training]:
        for width in widths:
            cost = products(config, width, config.depth)
            yield from [Training("mlp", cost, images, config.batch_size, config.epochs, seeds, measured)] * times

    yield from series(config.widths, config.num_seeds)
    yield from series(config.linearised_widths or (), config.linearised_seeds or 0)
    if config.tune:  # every rate of the choice, then all seeds
        yield from series(config.tuned_widths or (), config.tuning_seeds or 0, len(config.tuned_rates), 0)
        yield from series(config.tuned_widths or (), config.num_seeds)
    if config.extras:  # three other limits, and all four with squared loss
        yield from series(config.extra_widths or (), config.extra_seeds or 0, 7)


def _lottery_ticket(config: Any, facts: Mapping[str, Any]) -> Iterator[Training]:
    cost, images, seeds = products(config, config.size, config.depth or 4), _count(facts), config.num_seeds
    levels, measured = len(config.keep) - 1, len(config.measure_at)
    for index, arm in enumerate(config.arms):
        trainings = levels + (arm == "ticket")
        again = measured if arm in config.barrier_arms else 0  # another training each, for stability
        epochs = config.epochs * (trainings + again)
        # Two programs train all levels of all arms.
        yield Training(
            config.model, cost, images, config.batch_size, epochs, seeds, seeds * measured, 0 if index else 2
        )


def _mechanisms(config: Any, facts: Mapping[str, Any]) -> Iterator[Training]:
    compiled: set[tuple] = set()  # rates and data are no part of a program
    for arm in config.arms:
        cost, epochs = products(config, arm.width, arm.depth), config.epochs * STOPS_AFTER * (1 + arm.label_noise)
        seeds = config.num_seeds * config.replicates
        program = (arm.batch_size, arm.width, arm.depth, arm.optimizer, arm.weight_decay)
        new = int(program not in compiled)
        compiled.add(program)
        yield Training(config.model, cost, _count(facts), arm.batch_size, epochs, seeds, programs=new)


TRAININGS: dict[str, Callable[[Any, Mapping[str, Any]], Iterator[Training]]] = {
    "double_descent": _double_descent,
    "implicit_regularization": _implicit_regularization,
    "loss_landscape": _loss_landscape,
    "ntk_regime": _ntk_regime,
    "lottery_ticket": _lottery_ticket,
    "mechanisms": _mechanisms,
}
