"""The learning rate of every batch size, chosen on held-out training images: a control for the table's rates."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ntkgen import data, ensemble, records, train
from ntkgen.studies import tuning
from ntkgen.studies.base import Rows
from ntkgen.studies.implicit_regularization import _arms
from ntkgen.studies.implicit_regularization._config import PROTOCOL, Config

FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # of the rate that the scaling gives a batch size
LARGEST_FACTOR = 64.0  # up to which rates are doubled while the last one tried is the best
SEEDS = 2  # that are trained at each rate, at most


def facts(config: Config) -> dict[str, Any]:
    """Return what the choice adds to the record: nothing where no rate is chosen."""
    if "tuned" not in config.controls:
        return {}
    return {
        "rate_choice": {
            "factors": list(FACTORS),
            "largest_factor": LARGEST_FACTOR,
            "seeds": SEEDS,
            "held_out": 1 / tuning.HELD_OUT,
        }
    }


def check(config: Config, sizes: _arms.Sizes) -> None:
    """Check that every batch fits into what is left beside the held-out images.

    Raises:
      ValueError: it does not.
    """
    left = sizes.images - sizes.images // tuning.HELD_OUT
    if "tuned" in config.controls and max(sizes.batch_sizes) > left:
        expected = f"batches of at most the {left} images beside those held out for tuned"
        raise ValueError(f"controls: expected {expected}, got {max(sizes.batch_sizes)}")


def try_rates(run: records.Run, config: Config, network: Any, dataset: data.Dataset, sizes: _arms.Sizes) -> Rows:
    """Train every batch size at every rate on a part of the images; returns a row for each, accuracies in percent.

    `FACTORS` are tried, and larger rates while the largest is the best. `chosen` is 1 for the rate with the highest
    mean accuracy on the held-out images; `at_the_end` where it is the smallest or largest of those tried.
    """
    held, seeds, rows = tuning.hold_out(dataset), config.seeds[:SEEDS], []

    def accuracy(batch: int, rate: float) -> np.ndarray:
        training = train.Config(config.epochs, batch, rate, "sgd", PROTOCOL.momentum)
        last = ensemble.Options(evaluate_at=[config.epochs])
        result = run.fit(f"tune_sgd{batch}_{rate:g}", network, held, training, seeds, options=last)
        return np.where(result.diverged, np.nan, 100 * result.history["test_accuracy"][:, -1])

    for batch in sizes.batch_sizes:
        base = _arms.rate(config, batch)
        rates = [factor * base for factor in FACTORS]
        accuracies = [accuracy(batch, rate) for rate in rates]
        while (chosen := tuning.choose(rates, np.stack(accuracies, 1))) == rates[-1] < LARGEST_FACTOR * base:
            rates.append(2 * rates[-1])
            accuracies.append(accuracy(batch, rates[-1]))
        for rate, own in zip(rates, accuracies, strict=True):
            row: dict[str, Any] = {"batch": batch, "learning_rate": rate, "num_seeds": len(seeds)}
            row |= {"held_out_acc": None if np.isnan(own).any() else float(own.mean())}
            row |= {"chosen": int(rate == chosen), "at_the_end": int(rate == chosen and rate in (rates[0], rates[-1]))}
            rows.append(row)
    return rows


def chosen(rows: Rows) -> Mapping[int, float]:
    """Return batch size -> the rate that was chosen, the smallest tried where every rate lost a seed."""
    found: dict[int, float] = {}
    for row in rows:
        batch = int(row["batch"])
        if batch not in found or int(row["chosen"]):
            found[batch] = float(row["learning_rate"])
    return found
