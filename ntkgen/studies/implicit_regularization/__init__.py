"""Which minima does SGD find? Batch size, flatness and generalization, with the controls that could tell why.

Hypotheses H1 and H2; section V-B. Trains the published configurations (SGD with batches of 32 ... 2048, Adam,
full-batch GD) and controls that change one thing at a time: equal numbers of updates, GD with a tuned rate, injected
gradient noise, SAM. Every network's sharpness is measured raw, at matched training loss along training, and at matched
logit temperature.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.implicit_regularization import _config
from ntkgen.studies.implicit_regularization._config import Config

__all__ = ["STUDY", "Config", "run"]

STUDY = base.Study(
    name="implicit_regularization",
    question="Do small batches find flatter minima that generalize better?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.implicit_regularization._measure", "prepare"),
    measure=base.later("ntkgen.studies.implicit_regularization._measure", "measure"),
    derive=base.later("ntkgen.studies.implicit_regularization._report", "derive"),
    figures=base.later("ntkgen.studies.implicit_regularization._figures", "figures"),
    tables=_config.TABLES,
    optional=("tuning", "rates"),
)
run = runner.of(STUDY)
