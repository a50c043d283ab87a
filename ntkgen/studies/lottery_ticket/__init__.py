"""Do sparse subnetworks with their original initialisation train as well as the whole network?

Hypothesis H5; sections IV-G and V-F. Iterative magnitude pruning for all seeds at once, from 100 % of the weights down,
against arms that share seeds and batch orders: rewinding to an early epoch, one-shot pruning, and controls. These
change the mask, the values or their scale, most of them one alone (Zhou et al. 2019). At chosen levels curvature and
sharpness are measured, as trained and at equal loss, and stability; the tickets' overlap and profile at all of them.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.lottery_ticket import _config
from ntkgen.studies.lottery_ticket._config import Config

__all__ = ["STUDY", "Config", "run"]

STUDY = base.Study(
    name="lottery_ticket",
    question="Do sparse subnetworks with their original initialisation train as well as the whole network?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.lottery_ticket._measure", "prepare"),
    measure=base.later("ntkgen.studies.lottery_ticket._measure", "measure_all"),
    derive=base.later("ntkgen.studies.lottery_ticket._report", "derive"),
    figures=base.later("ntkgen.studies.lottery_ticket._figures", "figures"),
    tables=("runs", "measures", "sparsity", "correct"),
    optional=("overlaps",),
)
run = runner.of(STUDY)
