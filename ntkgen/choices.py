"""What settings may be, and the numbers that were fixed once for all studies.

The command line is made from this alone, before JAX is imported. Each name belongs to the package that says what it
means and has it too, such as `train.OPTIMIZERS`.

Example:
  >>> from ntkgen import choices, train
  >>> choices.OPTIMIZERS, choices.OPTIMIZERS is train.OPTIMIZERS
  (('sgd', 'adam', 'gd'), True)
"""

DATASETS = ("mnist", "fashion_mnist", "cifar10", "cifar100", "digits", "mnist1d")  # keys of `data.SOURCES`
# As people write them, for titles.
DATASET_NAMES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST", "mnist1d": "MNIST-1D"}
DATASET_NAMES |= {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
PARAMETRIZATIONS = ("standard", "ntk", "mup")  # models
OPTIMIZERS = ("sgd", "adam", "gd")  # train
SCHEDULES = ("cosine", "constant")
SCALINGS = ("fixed", "linear", "sqrt", "table")
VARY = ("both", "init", "order")
STRATEGIES = ("auto", "vmap", "sequential", "unrolled")  # ensemble
SCOPES = ("global", "layer")  # pruning
# Keys of `measure.MEASUREMENTS`.
MEASUREMENTS = (
    "fit",
    "sharpness",
    "adaptive_sharpness",
    "perturbation",
    "sharpness_at_loss",
    "gradient_noise",
    "movement",
    "kernel",
    "features",
    "norms",
    "margins",
    "pac_bayes",
    "capacity",
    "prunability",
)

# Learning rate of a batch size, by the table of section V-B. It is neither linear nor square-root scaling of 0.01 at
# batch 128.
RATE_OF_BATCH = {32: 0.005, 64: 0.0075, 128: 0.01, 256: 0.02, 512: 0.04, 1024: 0.08, 2048: 0.10}

# Smallest differences that matter, the same in every study and fixed before any run; of `stats`.
ACCURACY = 0.5  # points
SHARPNESS = 0.1  # of log10, any measure of sharpness: a factor of 1.26
