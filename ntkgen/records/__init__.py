"""Run folders that can go on after a kill: tables, checkpoints, provenance, progress.

Use `open_run` to hold the folder of one configuration, `write_table` and `read_table` for its CSV files, and
`Checkpointer` as the argument `checkpoint` of `ensemble.fit`. Stored arrays carry checksums.
"""

from ntkgen.records._checkpoints import Checkpointer, DamagedError, StorageError
from ntkgen.records._progress import Progress
from ntkgen.records._provenance import numerics, versions
from ntkgen.records._run_folder import RecordError, Run, check_writable, open_run, read_table, write_table

__all__ = [
    "Checkpointer",
    "DamagedError",
    "Progress",
    "RecordError",
    "Run",
    "StorageError",
    "check_writable",
    "numerics",
    "open_run",
    "read_table",
    "versions",
    "write_table",
]
