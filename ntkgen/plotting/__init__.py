"""Figures: style and file formats here, one module a study. Nothing is computed while drawing."""

from ntkgen.plotting import implicit_regularization, loss_landscape, lottery_ticket, ntk_regime
from ntkgen.plotting._style import COLOURS, STYLE, Curve, band, epoch_wise, model_wise, sample_wise, save, subplots

__all__ = [
    "COLOURS",
    "STYLE",
    "Curve",
    "band",
    "epoch_wise",
    "implicit_regularization",
    "loss_landscape",
    "lottery_ticket",
    "model_wise",
    "ntk_regime",
    "sample_wise",
    "save",
    "subplots",
]
