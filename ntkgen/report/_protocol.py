"""What the studies are called, the published protocol as far as the paper gives it, and where a run departs from it."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ntkgen import paper
from ntkgen.report._contents import Setting


class About(NamedTuple):
    """Title, question and place in the paper of a study."""

    title: str
    question: str
    section: str


STUDIES = {
    "reproduce": About("The paper, number by number", "Which published numbers and claims hold?", "whole paper"),
    "mechanisms": About(
        "All mechanisms on the same networks",
        "Which measure predicts generalization when the other hyperparameters are held fixed?",
        "RQ1 to RQ6",
    ),
    "double_descent": About(
        "Double descent", "Does test error fall again beyond the interpolation threshold?", "sections V-A and V-D, H4"
    ),
    "implicit_regularization": About(
        "Implicit regularization", "Does the noise of small batches make networks generalize?", "section V-B, H1"
    ),
    "loss_landscape": About(
        "Loss landscape", "Do small batches find flatter minima than large ones?", "section V-C, H2"
    ),
    "ntk_regime": About("Tangent-kernel regime", "Do wide networks approach the kernel regime?", "section V-E, H3"),
    "lottery_ticket": About(
        "Lottery tickets", "Do pruned networks keep their accuracy from their own initialisation?", "section V-F, H5"
    ),
    "edge_of_stability": About(
        "Edge of stability", "Does full-batch gradient descent end where its step is just stable?", "not in the paper"
    ),
    "learning_rate": About("Learning rate", "How sensitive is a network to its learning rate?", "not in the paper"),
}
BESIDE = ("learning_rate", "edge_of_stability")  # studies that no published result needs
# Studies that a report misses where they are absent.
EXPECTED = tuple(name for name in STUDIES if name not in BESIDE)

# Section IV-D and appendix A, for every study.
GENERAL: dict[str, Any] = {
    "num_seeds": 5, "optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "batch_size": 128, "lr": 0.01,
    "weight_decay": 0.0, "label_noise": 0.0,
}  # fmt: skip
# Section V, by study and (network, data set). Epochs: "60-80 depending on experiment"; None where it is not said.
OWN: dict[tuple[str, str, str], dict[str, Any]] = {
    ("double_descent", "mlp", "mnist"): {
        "depth": 4, "widths": list(paper.DOUBLE_DESCENT["mlp", "mnist"]), "epochs": "60-80",
        "num_train": paper.DOUBLE_DESCENT_EXAMPLES["mlp", "mnist"],
    },
    ("double_descent", "cnn", "cifar10"): {
        "channels": list(paper.DOUBLE_DESCENT["cnn", "cifar10"]), "epochs": "60-80", "num_train": None,
    },
    ("implicit_regularization", "cnn", "cifar10"): {"epochs": paper.IMPLICIT_EPOCHS, "num_train": None},
    ("loss_landscape", "cnn", "cifar10"): {
        "epochs": "60-80", "small_batch": 32, "large_batch": 1024, "num_train": None,
        "hessian_samples": paper.LOSS_LANDSCAPE_SAMPLES,
    },
    ("ntk_regime", "mlp", "mnist"): {
        "depth": 4, "widths": list(paper.NTK), "epochs": "60-80", "num_train": paper.NTK_EXAMPLES,
    },
    ("lottery_ticket", "cnn", "cifar10"): {"epochs": paper.LOTTERY_TICKET_EPOCHS, "num_train": None},
}  # fmt: skip
LOST = "The paper's text does not give it, or lost it."
NOTES = {
    "lr": "The appendix gives 0.01 at batch 128. With it the MLP studies miss the tables: their rates were searched.",
    "label_noise": "The paper trains on clean labels.",
    "epochs": "The paper says 60-80, depending on the experiment.",
}
ALWAYS = (
    ("intervals", "bootstrap, 1,000 samples", "t-intervals; the bootstrap is in summary.csv"),
    (
        "tests",
        "two-tailed Welch at 5 %",
        "paired by seed, false discoveries controlled; equivalence needs its own test",
    ),
)
NETWORKS = {"double_descent": ("mlp", "mnist"), "ntk_regime": ("mlp", "mnist")}


def about(study: str) -> About:
    """Return what is known of a study; one of the user's own is known by its name."""
    return STUDIES.get(study, About(study.replace("_", " ").capitalize(), "", "no part of the paper"))


def settings(study: str, config: Mapping[str, Any]) -> tuple[Setting, ...]:
    """Return the protocol of a run beside the published one, first what differs; empty for what the paper has not."""
    if study not in STUDIES or study in ("reproduce", "mechanisms", *BESIDE):
        return ()
    network, data = NETWORKS.get(study, ("cnn", "cifar10"))
    if (study, config.get("model"), config.get("dataset")) in OWN:
        network, data = config["model"], config["dataset"]
    published = {"model": network, "dataset": data, **GENERAL, **OWN[study, network, data]}
    rows = []
    for name, value in published.items():
        if name not in config:
            continue
        ours = config[name]
        same = None if value is None else _same(value, ours)
        note = (LOST if value is None else NOTES.get(name, "")) if same is not True else ""
        rows.append(Setting(name, "not given" if value is None else _words(value), _words(ours), same, note))
    rows.sort(key=lambda row: {False: 0, None: 1, True: 2}[row.same])
    return (*rows, *(Setting(name, theirs, ours, False) for name, theirs, ours in ALWAYS))


def _same(published: Any, ours: Any) -> bool:
    if published == "60-80":
        return isinstance(ours, int) and 60 <= ours <= 80
    if isinstance(ours, list) and not isinstance(published, list):
        return ours == [published]
    return published == ours


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
