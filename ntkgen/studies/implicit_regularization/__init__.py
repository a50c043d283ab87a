"""Which minima does SGD find? Batch size, flatness and generalization, with the controls that could tell why.

Hypotheses H1 and H2; section V-B. Trains the published configurations (SGD with batches of 32 ... 2048, Adam,
full-batch GD) and controls that change one thing at a time: equal numbers of updates, GD with a tuned rate, injected
gradient noise, SAM. Every network's sharpness is measured raw, at matched training loss along training, and at matched
logit temperature.
"""

import functools

from ntkgen.studies import base, runner
from ntkgen.studies.implicit_regularization import _config, _figures, _measure, _report, _sharpness
from ntkgen.studies.implicit_regularization._config import Config

__all__ = ["STUDY", "Config", "run"]

STUDY = base.Study(
    name="implicit_regularization",
    question="Do small batches find flatter minima that generalize better?",
    config=Config,
    resolve=_config.resolve,
    prepare=_measure.prepare,
    measure=_measure.measure,
    derive=_report.derive,
    figures=_figures.figures,
    tables=_sharpness.TABLES,
    optional=("tuning",),
)
run = functools.partial(runner.run, STUDY)
