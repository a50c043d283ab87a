"""Figures from tables. Nothing is computed while drawing.

Use `save` to write a figure as PNG, SVG or PDF; `title_of` reads the title of such a PNG, `smaller` takes colours out
of it. The modules named like a study draw that study; double descent is drawn by `model_wise`, `epoch_wise` and
`sample_wise`; `panels` draws curves of anything. Figures belong to no display: a notebook keeps its backend.
"""

from ntkgen.plotting import implicit_regularization, loss_landscape, lottery_ticket, mechanisms, ntk_regime, reproduce
from ntkgen.plotting._files import FORMATS, save, smaller, title_of
from ntkgen.plotting._style import (
    COLOURS,
    STYLE,
    Curve,
    band,
    epoch_wise,
    model_wise,
    panels,
    sample_wise,
    subplots,
)

__all__ = [
    "COLOURS",
    "FORMATS",
    "STYLE",
    "Curve",
    "band",
    "epoch_wise",
    "implicit_regularization",
    "loss_landscape",
    "lottery_ticket",
    "mechanisms",
    "model_wise",
    "ntk_regime",
    "panels",
    "reproduce",
    "sample_wise",
    "save",
    "smaller",
    "subplots",
    "title_of",
]
