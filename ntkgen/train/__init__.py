"""One training run as pure functions: configuration, losses, optimizers, one epoch, evaluation.

Use `Config` to say how to train; `ensemble.fit` then trains many seeds. The losses are for the instruments too. Use
`train_epoch` and `evaluate` for a loop of your own over a single run.
"""

from ntkgen.train._losses import (
    LOSSES,
    WeightedCrossEntropy,
    correct,
    cross_entropy,
    is_classification,
    is_integer,
    per_example,
    squared_error,
)
from ntkgen.train._optimizers import OPTIMIZERS, SCALINGS, SCHEDULES, TABLE, learning_rate_at, scaled_learning_rate
from ntkgen.train._run import (
    VARY,
    Batch,
    Config,
    Keys,
    Program,
    TrainState,
    Update,
    batch_order,
    evaluate,
    init_state,
    measurement_key,
    run_keys,
    train_epoch,
    train_epochs,
    train_step,
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
    "Keys",
    "Program",
    "TrainState",
    "Update",
    "WeightedCrossEntropy",
    "batch_order",
    "correct",
    "cross_entropy",
    "evaluate",
    "init_state",
    "is_classification",
    "is_integer",
    "learning_rate_at",
    "measurement_key",
    "per_example",
    "run_keys",
    "scaled_learning_rate",
    "squared_error",
    "train_epoch",
    "train_epochs",
    "train_step",
]
