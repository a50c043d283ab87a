"""Figures from tables. Nothing is computed while drawing.

Use `save` to write a figure as PNG, SVG or PDF; `title_of` reads the title of such a PNG, `smaller` takes colours out
of it. The modules named like a study draw that study; double descent is drawn by `model_wise`, `epoch_wise` and
`sample_wise`; `panels` draws curves of anything, `growth` what a computation costs against its size. Figures belong to
no display: a notebook keeps its backend.

Every figure has three widths: "screen", and for a paper "column" (3.3 inches) and "double" (6.9 inches), which have no
title, letters of 7 and 8 points and panels (a), (b) ... Give `width=` to the function, or draw inside `at_width`.
"""

from ntkgen.plotting import (
    growth,
    implicit_regularization,
    loss_landscape,
    lottery_ticket,
    mechanisms,
    ntk_regime,
    reproduce,
)
from ntkgen.plotting._double_descent import epoch_wise, model_wise, sample_wise
from ntkgen.plotting._files import FORMATS, save, smaller, title_of
from ntkgen.plotting._page import STYLE, WIDTHS, at_width, subplots
from ntkgen.plotting._style import COLOURS, Curve, band, panels

__all__ = [
    "COLOURS",
    "FORMATS",
    "STYLE",
    "WIDTHS",
    "Curve",
    "at_width",
    "band",
    "epoch_wise",
    "growth",
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
