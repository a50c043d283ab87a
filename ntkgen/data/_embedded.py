"""Two data sets that need no files."""

import importlib.metadata
import random
from typing import Any

import numpy as np

from ntkgen.data._raw import Raw, cached, needs


def digits(data_dir: Any) -> tuple[Raw, str]:
    """scikit-learn's 1,797 digits of 8 x 8; the test set is the first 500 of a permutation fixed for ever."""
    del data_dir  # embedded
    with needs("digits", "scikit-learn"):
        version = importlib.metadata.version("scikit-learn")

    def shuffled() -> Raw:
        with needs("digits", "scikit-learn"):
            from sklearn.datasets import load_digits
        bunch = load_digits()
        # The source has no split, and other people wrote its end than its beginning, so it is shuffled.
        # RandomState, since its stream is frozen (NEP 19); default_rng's is not.
        order = np.random.RandomState(0).permutation(len(bunch.target))
        x, y = bunch.images.astype(np.uint8)[order, :, :, None], bunch.target[order]
        return Raw(x[500:], y[500:], x[:500], y[:500])

    # Kept, since importing scikit-learn takes as long as importing JAX.
    return cached(f"digits-{version}", shuffled), f"sklearn-{version}"


def mnist1d(data_dir: Any) -> tuple[Raw, str]:
    """MNIST-1D (Greydanus and Kobak 2024) with its authors' defaults: 4,000 + 1,000 signals of length 40."""
    del data_dir  # embedded
    with needs("mnist1d", "mnist1d"):
        version = importlib.metadata.version("mnist1d")

    def generate() -> Raw:
        with needs("mnist1d", "mnist1d"):
            from mnist1d.data import make_dataset
        numpy_state, python_state = np.random.get_state(), random.getstate()
        try:
            made = make_dataset()  # seeds the global generators, which belong to the caller
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
        x, x_test = (made[k].astype(np.float32)[:, :, None, None] for k in ("x", "x_test"))
        return Raw(x, made["y"].astype(np.int64), x_test, made["y_test"].astype(np.int64))

    return cached(f"mnist1d-{version}", generate), version
