"""Which of the paper's numbers come out again, and which of its claims hold? The paper in one command.

Runs the five studies and the joint one in the same results folder, those that are finished excepted. Then it puts every
published number beside ours, every statement that the published tables contradict beside what they say, and decides
hypotheses H1 to H5 and questions RQ1 to RQ6, each with the control that could overturn it.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.reproduce import _config
from ntkgen.studies.reproduce._config import STUDIES, Config

__all__ = ["STUDIES", "STUDY", "Config", "run"]

STUDY = base.Study(
    name="reproduce",
    question="Which of the paper's numbers come out again, and which of its claims hold?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.reproduce._measure", "prepare"),
    measure=base.later("ntkgen.studies.reproduce._measure", "measure"),
    derive=base.later("ntkgen.studies.reproduce._report", "derive"),
    figures=base.later("ntkgen.studies.reproduce._report", "figures"),
    tables=("parts", "findings"),
    optional=("ours",),
)
run = runner.of(STUDY)
