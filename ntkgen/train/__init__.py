"""One training run as pure functions: configuration, losses, optimizers, one epoch, evaluation.

Use `Config` to say how to train; `ensemble.fit` does it for many seeds. The losses are for the instruments too.
"""

from ntkgen.train._losses import LOSSES, cross_entropy, is_integer, per_example
from ntkgen.train._optimizers import OPTIMIZERS, SCALINGS, SCHEDULES, TABLE, scaled_learning_rate
from ntkgen.train._run import (
    VARY,
    Batch,
    Config,
    Program,
    TrainState,
    Update,
    evaluate,
    init_state,
    measurement_key,
    run_keys,
    train_epoch,
)

__all__ = [
    "LOSSES",
    "OPTIMIZERS",
    "SCALINGS",
    "SCHEDULES",
    "TABLE",
    "VARY",
    "Batch",
    "Config",
    "Program",
    "TrainState",
    "Update",
    "cross_entropy",
    "evaluate",
    "init_state",
    "is_integer",
    "measurement_key",
    "per_example",
    "run_keys",
    "scaled_learning_rate",
    "train_epoch",
]
