"""The published tables (arXiv:2604.07603v1) as data.

Use `compare` to put our numbers beside the published ones. A value that the paper's text lost is None.
"""

from ntkgen.paper._tables import (
    CNN_PARAMS,
    DOUBLE_DESCENT,
    DOUBLE_DESCENT_EXAMPLES,
    IMPLICIT_EPOCHS,
    IMPLICIT_GD_IMAGES,
    IMPLICIT_REGULARIZATION,
    LOSS_LANDSCAPE,
    LOSS_LANDSCAPE_ITERATIONS,
    LOSS_LANDSCAPE_SAMPLES,
    LOTTERY_TICKET,
    LOTTERY_TICKET_EPOCHS,
    MLP_PARAMS,
    NTK,
    NTK_EXAMPLES,
    SOURCE,
    compare,
)

__all__ = [
    "CNN_PARAMS",
    "DOUBLE_DESCENT",
    "DOUBLE_DESCENT_EXAMPLES",
    "IMPLICIT_EPOCHS",
    "IMPLICIT_GD_IMAGES",
    "IMPLICIT_REGULARIZATION",
    "LOSS_LANDSCAPE",
    "LOSS_LANDSCAPE_ITERATIONS",
    "LOSS_LANDSCAPE_SAMPLES",
    "LOTTERY_TICKET",
    "LOTTERY_TICKET_EPOCHS",
    "MLP_PARAMS",
    "NTK",
    "NTK_EXAMPLES",
    "SOURCE",
    "compare",
]
