"""Run folders that can go on after a kill: tables, checkpoints, provenance, progress.

Use `open_run` to hold the folder of one configuration, `write_table` and `read_table` for its CSV files, and
`Checkpointer` as the argument `checkpoint` of `ensemble.fit`. A run's `fit` takes trained networks from the store, so
that none is trained twice. Whatever is stored carries checksums.
"""

from ntkgen.records._checkpoints import Checkpointer, DamagedError, StorageError
from ntkgen.records._compilation_cache import Compilations, compilation_cache
from ntkgen.records._identity import describe, source
from ntkgen.records._networks import Networks, StoredNetwork
from ntkgen.records._progress import Progress
from ntkgen.records._provenance import commit, numerics, versions
from ntkgen.records._run_folder import RecordError, Run, check_writable, open_run, read_table, write_table

__all__ = [
    "Checkpointer",
    "Compilations",
    "DamagedError",
    "Networks",
    "Progress",
    "RecordError",
    "Run",
    "StorageError",
    "StoredNetwork",
    "check_writable",
    "commit",
    "compilation_cache",
    "describe",
    "numerics",
    "open_run",
    "read_table",
    "source",
    "versions",
    "write_table",
]
