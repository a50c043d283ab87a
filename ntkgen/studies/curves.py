"""Curves for figures: means over seeds with intervals. Apart from `tables`, which measuring code imports."""

from typing import Any

import numpy as np

from ntkgen import plotting
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
