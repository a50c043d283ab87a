"""The arms of the implicit-regularization study: what is trained, and what each is compared with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ntkgen import ensemble, paper, train
from ntkgen.studies.implicit_regularization._config import PROTOCOL, AsManyAsFit, Config


class Sizes(NamedTuple):
    """What the number of training images decides.

    Attributes:
      images: training images.
      full_batch: images of the published full batch, the first ones.
      batch_sizes: of the SGD configurations.
      samples: training images behind every measurement, the first ones.
    """

    images: int
    full_batch: int
    batch_sizes: tuple[int, ...]
    samples: int


def sizes(config: Config, images: int) -> Sizes:
    """Return the sizes for a number of training images.

    Raises:
      ValueError: a setting asks for more images than there are, or for a reference that is not trained.
    """
    full_batch = min(paper.IMPLICIT_GD_IMAGES, images)
    batches = tuple(config.batch_sizes)
    if isinstance(config.batch_sizes, AsManyAsFit):
        batches = tuple(size for size in batches if size <= images)
    samples = min(1000, full_batch) if config.curvature_samples is None else config.curvature_samples
    if config.curvature_samples is not None and not 3 <= samples <= full_batch:
        raise ValueError(
            f"curvature_samples: expected 3 to {full_batch}, the images that full-batch GD sees, got {samples}"
        )
    if config.reference not in batches:
        listed = ",".join(map(str, batches))
        raise ValueError(f"reference: expected one of --batch_sizes={listed}, got {config.reference}")
    if max(batches) > images:
        raise ValueError(f"batch_sizes: expected at most the {images} training examples, got {max(batches)}")
    return Sizes(images, full_batch, batches, samples)


@dataclass(frozen=True)
class TrainingArm:
    """One configuration.

    Attributes:
      name: unique; of its networks and its rows.
      group: "sgd" (the sweep of batch sizes at equal epochs), "steps" (at equal updates), "tuned" (at rates chosen for
        each), "adam", "gd", "control".
      training: what to do.
      images: training images, the first of the data set.
      snapshots: epochs that are kept and measured, 0 first.
      update: replaces the gradient.
      noise: batch size whose gradient noise is injected.
      zero_sum: whether that noise sums to zero over an epoch of such batches.
      references: arms that it is compared with.
    """

    name: str
    group: str
    training: train.Config
    images: int
    snapshots: tuple[int, ...]
    update: train.Update | None = None
    noise: int | None = None
    zero_sum: bool = False
    references: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """Return the examples in a step."""
        return self.images if self.training.optimizer == "gd" else self.training.batch_size

    @property
    def steps(self) -> int:
        """Return the updates in all."""
        return self.training.epochs * math.ceil(self.images / self.batch)

    def describe(self) -> dict[str, Any]:
        """Return the columns that say what the arm is."""
        noise = f"noise{self.noise}" + ("_zero_sum" if self.zero_sum else "")
        return {
            "group": self.group,
            "optimizer": self.training.optimizer,
            "batch": self.batch,
            "images": self.images,
            "epochs": self.training.epochs,
            "steps": self.steps,
            "base_rate": self.training.learning_rate,
            "momentum": self.training.momentum,
            "update": "" if self.update is None else "sam" if self.noise is None else noise,
            "references": " ".join(self.references),
        }


def planned_arms(
    config: Config,
    sizes: Sizes,
    tuned_rate: float = PROTOCOL.gd_grid[0],
    own_rates: Mapping[int, float] | None = None,
) -> list[TrainingArm]:
    """Return the arms of a config, in the order in which they are trained.

    Args:
      config: complete.
      sizes: of `sizes`.
      tuned_rate: of the full batch with a tuned rate.
      own_rates: batch size -> its tuned rate. Default: the table's.

    Raises:
      ValueError: a batch size that the table of rates does not have, or a rate that is no number.
    """
    count, reference, controls = sizes.images, config.reference, config.controls
    target = updates_of_reference(config, count)
    base = f"sgd{reference}"

    def arm(
        name: str, group: str, epochs: int, batch: int, lr: float, optimizer: str = "sgd",
        momentum: float | None = PROTOCOL.momentum, images: int = count, **more: Any,
    ) -> TrainingArm:  # fmt: skip
        try:
            training = train.Config(epochs, min(batch, count), lr, optimizer, momentum)
        except ValueError as error:
            raise ValueError(str(error).replace("learning_rate:", "lr:", 1)) from None
        return TrainingArm(name, group, training, images, _snapshots(epochs, config.snapshots), **more)

    def matched(batch: int) -> int:
        return max(1, round(target / math.ceil(count / batch)))

    everywhere = config.match != "steps"
    found = [
        arm(f"sgd{size}", "sgd", config.epochs, size, rate(config, size))
        for size in sizes.batch_sizes
        if everywhere or size == reference
    ]
    for size in sizes.batch_sizes:
        if size != reference and (config.match != "epochs" or ("steps" in controls and size > reference)):
            own = (f"sgd{size}",) if everywhere else ()
            same = (matched(size), size, rate(config, size))
            found.append(arm(f"sgd{size}_steps", "steps", *same, references=(base, *own)))
    if "tuned" in controls:
        for size in sizes.batch_sizes:
            own = (f"sgd{size}",) if everywhere else ()
            tuned = rate(config, size) if own_rates is None else own_rates[size]
            found.append(arm(f"sgd{size}_tuned", "tuned", config.epochs, size, tuned, references=own))
    adam = (config.epochs, reference, PROTOCOL.adam_lr, "adam", None)
    found.append(arm("adam", "adam", *adam, references=(base,)))
    full_batch = (config.epochs, count, PROTOCOL.gd_lr, "gd")
    found.append(arm("gd", "gd", *full_batch, images=sizes.full_batch))
    if "plain" in controls:
        found.append(arm("gd_plain", "gd", *full_batch, momentum=0.0, images=sizes.full_batch))
    if "gd" in controls:
        found.append(arm("gd_tuned", "control", target, count, tuned_rate, "gd", references=(base,)))
    if "noise" in controls:
        largest = max(sizes.batch_sizes)
        cases = [("gd", count, "gd")]  # name, batch size, optimizer
        cases += [(f"sgd{largest}", largest, "sgd")] if largest > reference else []
        for name, size, optimizer in cases:
            quiet = f"{name}_quiet"
            alike = (matched(size), size, rate(config, reference), optimizer)
            found.append(arm(quiet, "control", *alike, references=(base,)))
            beside: tuple[str, ...] = (base, quiet)
            for noisy, zero_sum in ((f"{name}_noise", False), (f"{name}_noise_zero_sum", True)):
                update = ensemble.injected_noise(reference, zero_sum)
                noise: dict[str, Any] = {
                    "update": update,
                    "noise": reference,
                    "zero_sum": zero_sum,
                    "references": beside,
                }
                found.append(arm(noisy, "control", *alike, **noise))
                beside = (*beside, noisy)
    if config.sam_rho is not None:
        sam: dict[str, Any] = {"update": ensemble.sam(config.sam_rho), "references": (base,)}
        found.append(arm("sam", "control", config.epochs, reference, rate(config, reference), **sam))
    return found


def rate(config: Config, batch: int) -> float:
    """Return SGD's learning rate at a batch size.

    Raises:
      ValueError: the published table has no such batch size.
    """
    if config.lr is not None:
        return train.scaled_learning_rate(batch, base=config.lr, base_batch=config.reference, scaling=config.lr_scaling)
    try:
        return train.scaled_learning_rate(batch)
    except ValueError as error:
        raise ValueError(str(error).replace("batch_size:", "batch_sizes:", 1)) from None


def updates_of_reference(config: Config, images: int) -> int:
    """Return the updates that the reference batch size makes in the study's epochs."""
    return config.epochs * math.ceil(images / config.reference)


def tuning(config: Config, images: int, rate: float) -> train.Config:
    """Return the short full-batch training that judges a learning rate."""
    steps = max(1, round(PROTOCOL.tune_share * updates_of_reference(config, images)))
    return train.Config(steps, 1, rate, "gd", PROTOCOL.momentum)


def _snapshots(epochs: int, count: int) -> tuple[int, ...]:
    """Return the start and up to count - 1 epochs, evenly on a logarithmic scale, the first and last included."""
    chosen = {round(float(epoch)) for epoch in np.geomspace(1, epochs, max(count - 1, 1))} | {epochs}
    return (0, *sorted(chosen))
