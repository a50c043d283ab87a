"""Are the minima that large batches find sharper, and does that depend on how sharpness is measured?

Hypotheses H1 and H2; sections IV-E and V-C.

Trains a small and a large batch for several seeds and measures every network: the top eigenvalue of the Hessian by the
paper's 30 power iterations and by Lanczos, on the paper's 1,000 samples and on more; ten eigenpairs, trace and spectral
density; the loss under random perturbation; adaptive sharpness, which does not change when weights are rescaled.
Curvature falls with the loss. So eigenvalue and sharpness are measured at equal training losses too, by logit
temperature. Lines and surfaces around the solutions, and lines between them, are measured last. The verdict says in
which measures a difference is seen.
"""

from ntkgen.studies import base, runner
from ntkgen.studies.loss_landscape import _config
from ntkgen.studies.loss_landscape._config import Config

__all__ = ["STUDY", "Config", "run"]

STUDY = base.Study(
    name="loss_landscape",
    question="Are the minima that large batches find sharper, and does that depend on how sharpness is measured?",
    config=Config,
    resolve=_config.resolve,
    prepare=base.later("ntkgen.studies.loss_landscape._measure", "prepare"),
    measure=base.later("ntkgen.studies.loss_landscape._measure", "measure"),
    derive=base.later("ntkgen.studies.loss_landscape._report", "derive"),
    figures=base.later("ntkgen.studies.loss_landscape._report", "figures"),
    tables=("runs", "correct", "matched", "eigenvalues", "density", "perturbation", "lines", "plane"),
)
run = runner.of(STUDY)
