"""Data sets as standardised arrays, with seeded subsets and seeded label noise.

Use `load` to read one by name (`SOURCES` lists the names) or from an .npz file, and `from_arrays` to make one of arrays
that you have.
"""

from ntkgen.data._dataset import Dataset, Split
from ntkgen.data._load import from_arrays, load
from ntkgen.data._npz import NpzFile
from ntkgen.data._raw import FILE_FORMATS, DataError
from ntkgen.data._sources import SOURCES

__all__ = [
    "FILE_FORMATS",
    "SOURCES",
    "DataError",
    "Dataset",
    "NpzFile",
    "Split",
    "from_arrays",
    "load",
]
