"""The configurations of the implicit-regularization study."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntkgen import ensemble, train

CONTROLS = ("steps", "gd", "plain", "noise", "sam")

# Fixed beforehand, and part of every run's config.
PROTOCOL: dict[str, Any] = {
    "momentum": 0.9,
    "adam_lr": 0.001,
    "gd_lr": 0.001,  # of the published full batch; momentum as above, in one of two readings of section V-B
    "gd_grid": [0.01, 0.02, 0.05, 0.1, 0.2, 0.5],  # of the tuned control, with the reference's momentum
    "tune_share": 0.25,  # of the control's updates, spent on each rate of the grid
    "tolerance": 1e-3,
    "lanczos_steps": 100,
    "power_iterations": 30,  # section IV-E
    "trace_probes": 18,
    "sigma": 0.01,  # of the one perturbation that stands for the curve, absolute
    "relative_sigma": 0.05,
    "average_rho": 0.1,
    "worst_rho": 0.5,
    "loss_targets": [0.1, 0.03, 0.01, 0.003],  # nats, on the curvature samples; also of the temperature
}
# Column of runs.csv, tracking.csv and matched.csv -> what it is called in a figure.
SHARPNESS = {
    "eigenvalue": "top Hessian eigenvalue",
    "trace": "Hessian trace",
    "average_adaptive": "average adaptive sharpness",
    "worst_adaptive": "worst-case adaptive sharpness",
    "perturbation": "loss increase under weight noise",
    "relative_perturbation": "loss increase under filter-relative noise",
}


@dataclass(frozen=True)
class Arm:
    """One configuration.

    Attributes:
      name: unique; of its folder and its rows.
      group: "sgd" (the sweep of batch sizes at equal epochs), "steps" (at equal updates), "adam", "gd", "control".
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
        """Examples in a step."""
        return self.images if self.training.optimizer == "gd" else self.training.batch_size

    @property
    def steps(self) -> int:
        """Updates in all."""
        return self.training.epochs * math.ceil(self.images / self.batch)

    def describe(self) -> dict[str, Any]:
        """Give the columns that say what the arm is."""
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


def build(config: dict[str, Any], tuned_rate: float) -> list[Arm]:
    """List the arms of a configuration, in the order in which they are trained.

    Raises:
      ValueError: a batch size that the table of rates does not have, or that the images do not fill.
    """
    count, reference, sizes = config["num_train"], config["reference"], config["batch_sizes"]
    target = updates_of_reference(config)
    base = f"sgd{reference}"
    controls = config["controls"]

    def rate(batch: int) -> float:
        base_rate = {"base": config["lr"], "base_batch": reference} if "lr" in config else {}
        return train.scaled_learning_rate(batch, scaling=config["lr_scaling"], **base_rate)

    def arm(name: str, group: str, epochs: int, batch: int, lr: float, optimizer: str = "sgd", **more: Any) -> Arm:
        momentum = {} if optimizer == "adam" else {"momentum": more.pop("momentum", config["momentum"])}
        training = train.Config(epochs, min(batch, count), lr, optimizer, **momentum)
        return Arm(name, group, training, more.pop("images", count), _snapshots(epochs, config["snapshots"]), **more)

    def matched(batch: int) -> int:
        return max(1, round(target / math.ceil(count / batch)))

    too_large = [size for size in sizes if size > count]
    if too_large:
        raise ValueError(f"--batch_sizes: expected at most the {count} training examples, got {too_large[0]}")
    everywhere = config["match"] != "steps"
    found = [
        arm(f"sgd{size}", "sgd", config["epochs"], size, rate(size))
        for size in sizes
        if everywhere or size == reference
    ]
    for size in sizes:
        if size != reference and (config["match"] != "epochs" or ("steps" in controls and size > reference)):
            beside = (base, f"sgd{size}") if everywhere else (base,)
            found.append(arm(f"sgd{size}_steps", "steps", matched(size), size, rate(size), references=beside))
    full_batch = (config["epochs"], count, config["gd_lr"], "gd")
    found += [
        arm("adam", "adam", config["epochs"], reference, config["adam_lr"], "adam", references=(base,)),
        arm("gd", "gd", *full_batch, images=config["gd_images"]),
    ]
    if "plain" in controls:
        found.append(arm("gd_plain", "gd", *full_batch, momentum=0.0, images=config["gd_images"]))
    if "gd" in controls:
        found.append(arm("gd_tuned", "control", target, count, tuned_rate, "gd", references=(base,)))
    if "noise" in controls:
        largest = max(sizes)
        cases = [("gd", count, "gd")]
        cases += [(f"sgd{largest}", largest, "sgd")] if largest > reference else []
        for name, size, optimizer in cases:
            quiet = f"{name}_quiet"
            same = (matched(size), size, rate(reference), optimizer)
            found.append(arm(quiet, "control", *same, references=(base,)))
            beside = (base, quiet)
            for noisy, zero_sum in ((f"{name}_noise", False), (f"{name}_noise_zero_sum", True)):
                update = ensemble.injected_noise(reference, zero_sum)
                noise = {"update": update, "noise": reference, "zero_sum": zero_sum, "references": beside}
                found.append(arm(noisy, "control", *same, **noise))
                beside = (*beside, noisy)
    if "sam" in controls:
        sam = ensemble.sam(config["sam_rho"])
        found.append(
            arm("sam", "control", config["epochs"], reference, rate(reference), update=sam, references=(base,))
        )
    return found


def updates_of_reference(config: dict[str, Any]) -> int:
    """Count the updates that the reference batch size makes in the study's epochs."""
    return config["epochs"] * math.ceil(config["num_train"] / config["reference"])


def tuning(config: dict[str, Any], rate: float) -> train.Config:
    """Give the short full-batch training that judges a learning rate."""
    steps = max(1, round(config["tune_share"] * updates_of_reference(config)))
    return train.Config(steps, 1, rate, "gd", config["momentum"])


def _snapshots(epochs: int, count: int) -> tuple[int, ...]:
    """Choose the start and up to count - 1 epochs, evenly on a logarithmic scale, the first and last included."""
    chosen = {round(float(epoch)) for epoch in np.geomspace(1, epochs, max(count - 1, 1))} | {epochs}
    return (0, *sorted(chosen))


def snapshot(params: Any, context: ensemble.Context) -> dict[str, Any]:
    """Keep a network; a probe of `ensemble.fit`."""
    return {"params": params, **context.model_state}
