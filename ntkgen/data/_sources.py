"""The data sets that have a name: published images in a folder of the user, and two that need no files.

A source returns decoded arrays as it has them; `load` makes a data set of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from ntkgen.data._embedded import digits, mnist1d
from ntkgen.data._folders import CIFAR_FORMATS, MNIST_FORMATS, InFolder
from ntkgen.data._raw import Raw


class Source(NamedTuple):
    """How to get one data set: `read(data_dir)` returns (Raw, version); pixels / `scale` lie in [0, 1]."""

    read: Callable[[Any], tuple[Raw, str]]
    scale: float
    num_classes: int = 10


# A further source is a line here: a function of data_dir that returns (Raw, version).
SOURCES: dict[str, Source] = {
    "mnist": Source(InFolder("mnist", (28, 28, 1), 60_000, 10_000, formats=MNIST_FORMATS), scale=255),
    "fashion_mnist": Source(InFolder("fashion_mnist", (28, 28, 1), 60_000, 10_000, formats=MNIST_FORMATS), scale=255),
    "cifar10": Source(InFolder("cifar10", (32, 32, 3), 50_000, 10_000, formats=CIFAR_FORMATS), scale=255),
    "cifar100": Source(InFolder("cifar100", (32, 32, 3), 50_000, 10_000, 100, CIFAR_FORMATS), 255, num_classes=100),
    "digits": Source(digits, scale=16),
    "mnist1d": Source(mnist1d, scale=1),
}
