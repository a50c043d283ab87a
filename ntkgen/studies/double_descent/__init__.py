"""Does test error fall again beyond the interpolation threshold? Hypothesis H4; sections V-A and V-D.

Trains every width (MLP) or channel count (CNN) for several seeds, finds the interpolation threshold from the *training*
error, and tests whether test error peaks near it and falls beyond it. Model-wise and epoch-wise always; sample-wise
when `num_train` is a list.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.double_descent import _config
from ntkgen.studies.double_descent._config import Config

__all__ = ["STUDY", "Config", "run"]

STUDY = base.Study(
    name="double_descent",
    question="Does test error fall again beyond the interpolation threshold?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.double_descent._measure", "prepare"),
    measure=base.later("ntkgen.studies.double_descent._measure", "measure"),
    derive=base.later("ntkgen.studies.double_descent._report", "derive"),
    figures=base.later("ntkgen.studies.double_descent._report", "figures"),
    tables=("runs", "correct"),
)
run = runner.of(STUDY)
