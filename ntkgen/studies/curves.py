"""Curves for figures: means over seeds with intervals. Apart from `tables`, which measuring code imports."""

from typing import Any

import numpy as np

from ntkgen import choices, plotting
from ntkgen.studies.tables import columns, number


def curve(x: Any, values: np.ndarray) -> plotting.Curve:
    """Mean and t-interval over seeds of values (k, seeds); NaN where no seed is left, a bare mean where one is.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import curves
      >>> found = curves.curve([8, 16], np.array([[1.0, 3.0], [2.0, 2.0]]))
      >>> list(found.mean)
      [2.0, 2.0]
    """
    points = [columns("y", each) for each in np.asarray(values, float)]
    ends = ([number(p[f"y_{end}"]) for p in points] for end in ("mean", "t_low", "t_high"))
    return plotting.Curve(list(x), *ends)


def quantiles(x: Any, values: np.ndarray) -> plotting.Curve:
    """Return the mean over seeds, with a tenth and nine tenths of the seeds as ends; seeds that diverged are left out.

    Example:
      >>> import numpy as np
      >>> from ntkgen.studies import curves
      >>> found = curves.quantiles([1], np.arange(11.0)[None])
      >>> float(found.mean[0]), float(found.low[0]), float(found.high[0])
      (5.0, 1.0, 9.0)

    Args:
      x: positions (k,).
      values: (k, seeds), NaN where a seed diverged.
    """
    rows = [row[np.isfinite(row)] for row in np.asarray(values, float)]
    ends = [[float(np.quantile(row, share)) if row.size else np.nan for row in rows] for share in (0.1, 0.9)]
    return plotting.Curve(list(x), [float(row.mean()) if row.size else np.nan for row in rows], *ends)


def called(dataset: str) -> str:
    """Return a data set's name as people write it.

    Example:
      >>> from ntkgen.studies import curves
      >>> curves.called("cifar10"), curves.called("digits")
      ('CIFAR-10', 'digits')
    """
    return choices.DATASET_NAMES.get(dataset, dataset)
