"""The published tables (arXiv:2604.07603v1), as data, and our numbers beside them.

Accuracies are in percent. None marks a value that the paper's text no longer shows; a value computed from other
published ones is named in the comment beside it.
"""

import math
from collections.abc import Mapping
from typing import Any

SOURCE = "arXiv:2604.07603v1"

# Sections V-A and V-E: learned numbers of the MLP 784-w-w-w-10 by width, and of the CNN by base channels.
MLP_PARAMS = {
    8: 6514,
    16: 13274,
    32: 27562,
    64: 59210,
    128: 134794,
    256: 335114,
    512: 932362,
    1024: 2913290,
    2048: 10020874,
    4096: 36818954,
}
CNN_PARAMS = {4: 72990, 8: 152082, 16: 337050, 32: 814122, 64: 2196810, 96: 4150890}

# Section V-A, accuracies by width or channels. Test accuracies come from sections V-D and VI-C: width 8 is 100 minus
# the error of 10.3, channels 8 is 100 minus 72.4.
DOUBLE_DESCENT: dict[tuple[str, str], dict[int, dict[str, float | None]]] = {
    ("mlp", "mnist"): {
        8: {"train_acc": 97.1, "test_acc": 89.7},
        16: {"train_acc": 99.9, "test_acc": None},
        32: {"train_acc": 100.0, "test_acc": 95.4},
        64: {"train_acc": 100.0, "test_acc": None},
        128: {"train_acc": 100.0, "test_acc": None},
        256: {"train_acc": 100.0, "test_acc": None},
        512: {"train_acc": 100.0, "test_acc": None},
        1024: {"train_acc": 100.0, "test_acc": 96.9},
    },
    ("cnn", "cifar10"): {
        4: {"train_acc": 39.8, "test_acc": None},
        8: {"train_acc": 45.8, "test_acc": 27.6},
        16: {"train_acc": 90.7, "test_acc": None},
        32: {"train_acc": 100.0, "test_acc": None},
        64: {"train_acc": 99.9, "test_acc": None},
        96: {"train_acc": 99.9, "test_acc": 72.0},
    },
}


# Section IV-B; the CNN's number of images is lost.
DOUBLE_DESCENT_EXAMPLES = {("mlp", "mnist"): 10_000}


def compare(published: Mapping[int, Mapping[str, float | None]], ours: Mapping[int, Mapping[str, Any]]) -> list[dict]:
    """Put our numbers beside the published ones.

    Args:
      published: {setting: {metric: value or None}}.
      ours: {setting: {metric: (mean, low, high)}}, the ends of a confidence interval, in the same unit.

    Returns:
      A row for each setting and metric that either side has: setting, metric, published, ours, low, high,
      difference (ours - published), and inside (whether the interval holds the published value); None where a side,
      or the interval, is missing.
    """
    rows = []
    for setting in sorted({*published, *ours}):
        theirs, own = published.get(setting, {}), ours.get(setting, {})
        for metric in sorted({*theirs, *own}):
            value = theirs.get(metric)
            mean, low, high = own.get(metric, (None, None, None))
            both = value is not None and mean is not None
            bounded = both and not (math.isnan(low) or math.isnan(high))  # one seed has no interval
            rows.append(
                {
                    "setting": setting,
                    "metric": metric,
                    "published": value,
                    "ours": mean,
                    "low": low,
                    "high": high,
                    "difference": mean - value if both else None,
                    "inside": low <= value <= high if bounded else None,
                }
            )
    return rows


# Section V-C: a CNN on CIFAR-10, one model of each batch size, 30 power iterations on 1,000 training images.
LOSS_LANDSCAPE: dict[int, dict[str, float | None]] = {
    32: {"test_acc": 85.78, "top_eigenvalue": 0.19},
    1024: {"test_acc": 84.17, "top_eigenvalue": 2.24, "eigenvalue_ratio": 11.8},
}
LOSS_LANDSCAPE_SAMPLES, LOSS_LANDSCAPE_ITERATIONS = 1_000, 30
