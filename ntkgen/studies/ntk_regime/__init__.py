"""Do wide networks train as kernels? Hypothesis H3; section V-E.

Trains MLPs of growing width and measures relative parameter movement (the paper's proxy), and what it stands for: how
far the tangent kernel itself moves, its alignment with the labels, and how well kernels and the linearised network
predict, each beside the network. With `tune` networks and kernel regression are compared once more, with a rate and a
ridge chosen on held-out training images at every width. The extras fit the exponents in other limits of the width and
with squared loss.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.ntk_regime import _config
from ntkgen.studies.ntk_regime._config import Config

__all__ = ["STUDY", "Config", "run"]

STUDY = base.Study(
    name="ntk_regime",
    question="Do wide networks train as kernels?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.ntk_regime._materials", "prepare"),
    measure=base.later("ntkgen.studies.ntk_regime._measure", "measure"),
    derive=base.later("ntkgen.studies.ntk_regime._report", "derive"),
    figures=base.later("ntkgen.studies.ntk_regime._figures", "figures"),
    tables=("runs", "drift", "analytic", "correct"),
    optional=("tuning", "tuned"),
)
run = runner.of(STUDY)
