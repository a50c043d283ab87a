"""Data sets as standardised arrays, with seeded subsets and seeded label noise. `load` reads them by name."""

from ntkgen.data._dataset import Dataset, Split, load
from ntkgen.data._sources import SOURCES, DataError

__all__ = [
    "SOURCES",
    "DataError",
    "Dataset",
    "Split",
    "load",
]
