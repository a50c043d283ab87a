"""Data sets as standardised arrays, with seeded subsets and seeded label noise.

Use `load` to read one by name; `SOURCES` lists the names.
"""

from ntkgen.data._dataset import Dataset, Split, load
from ntkgen.data._sources import SOURCES, DataError

__all__ = [
    "SOURCES",
    "DataError",
    "Dataset",
    "Split",
    "load",
]
