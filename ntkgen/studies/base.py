"""What a study is: a typed config and four pure steps.

config -> prepared (data, networks, training) -> measured tables -> derived tables and a verdict -> figures. Only
`measure` trains, measures and writes; it asks the run folder what is there already. `runner.run` walks the steps.

Longer than 350 lines for its docstrings and examples, 46 % of it.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ntkgen
from ntkgen.studies import datasets, options
from ntkgen.studies.options import setting

if TYPE_CHECKING:  # the command line is checked before JAX is imported
    from ntkgen import records, train

PRESETS = ("quick", "small", "paper")
EMBEDDED = datasets.EMBEDDED
NETWORKS = {"mlp": "MLP", "cnn": "CNN", "transformer": "Transformer"}  # by the flag's value, as a title says it
MOST_EPOCHS = 10**8  # of all seeds of a network; a number is kept for each

Rows = list[dict[str, Any]]  # as measured or derived
Tables = dict[str, list[dict[str, str]]]  # as read back from CSV: every cell is text


@dataclass(frozen=True)
class Config:
    """Settings that all studies share. A study adds its own fields.

    A default of None stands for the preset's value; `Study.resolve` returns a config where it is filled in.

    Example:
      >>> from ntkgen.studies import base
      >>> base.Config(num_seeds=3, seed=10).seeds
      [10, 11, 12]
    """

    dataset: str = setting(
        datasets.DATASET,
        "What to train on; a file has x_train, y_train, x_test, y_test. Default: mnist; digits with quick.",
        group="data",
    )
    num_train: Any = setting(
        options.COUNT, "Training examples, a seeded random subset. Default: the preset's.", unit="images", group="data"
    )
    label_noise: float = setting(
        options.PROBABILITY, "Probability that a training label is replaced by a wrong one.", group="data"
    )
    data_seed: int = setting(
        options.SEED, "Seed of the data: subset, label noise, draws of test images.", default=0, group="data"
    )
    model: str = setting(
        options.Choice(tuple(NETWORKS)), "Network. Default: cnn for images in colour, else mlp.", group="network"
    )
    blocks: int | None = setting(options.COUNT, "Blocks of the transformer. Default: the preset's.", group="network")
    heads: int | None = setting(
        options.COUNT, "Heads of the transformer's attention; they divide its width. Default: the preset's.",
        group="network",
    )  # fmt: skip
    patch: int | None = setting(
        options.COUNT, "Side of the transformer's patches. Default: a quarter of the image's longer side.",
        unit="pixels", group="network",
    )  # fmt: skip
    num_seeds: int = setting(options.SEEDS, "Seeds of every network. Default: the preset's.")
    seed: int = setting(options.SEED, "First seed of the runs: initialisation, batch order, measurements.", default=0)
    epochs: int = setting(options.EPOCHS, "Passes over the training set. Default: the preset's.", unit="epochs")

    @property
    def seeds(self) -> list[int]:
        """Return the seeds of the runs."""
        return list(range(self.seed, self.seed + self.num_seeds))

    @property
    def network_name(self) -> str:
        """Return the kind of network as a title says it."""
        return NETWORKS[self.model]


@dataclass(frozen=True)
class Prepared:
    """A config with everything that was checked and loaded for it.

    Example:
      >>> from ntkgen.studies import base
      >>> prepared = base.Prepared(base.Config(dataset="digits"), {"num_train": 100}, "quick", {}, None)
      >>> prepared.record()["num_train"], prepared.record()["dataset"]
      (100, 'digits')

    Attributes:
      config: the complete config.
      facts: what the data and networks add to the record, JSON types only (number of images, digest, parameters).
      preset: the preset's name.
      given: the settings that the user gave.
      more: what the study itself needs (datasets, networks, training).
    """

    config: Any
    facts: dict[str, Any]
    preset: str
    given: dict[str, Any]
    more: Any

    def record(self) -> dict[str, Any]:
        """Return the resolved config as JSON types: what names the run folder."""
        known = options.settings(type(self.config))
        plain = {name: getattr(self.config, name) for name, setting in known.items() if setting.identifies}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        plain = {name: str(value) if isinstance(value, str) else value for name, value in plain.items()}
        return {name: value for name, value in {**plain, **self.facts}.items() if value is not None}


@dataclass(frozen=True)
class Derived:
    """What follows from the measured tables by arithmetic.

    Example:
      >>> from ntkgen.studies import base
      >>> base.Derived({"summary": [{"width": 4, "test_acc_mean": 97.0}]}, {"peak": "seen"}, "a peak is seen").complete
      True

    Attributes:
      tables: name -> rows; those without rows are not written.
      verdict: what is decided, JSON types.
      text: the whole report in words; the run folder has it as report.txt.
      complete: False where the measured tables are a part of the study: its verdict and figures are not made, and the
        run is not finished.
      failed: in one line, what went wrong in a part whose loss left the others whole. The run is then not finished: the
        same command tries that part again. "" for nothing.
      answer: the text in five to ten lines, verdicts first: what a terminal shows unless `--verbose` asks for the text.
        "" where the text is as short.
    """

    tables: dict[str, Rows]
    verdict: Any
    text: str
    complete: bool = True
    failed: str = ""
    answer: str = ""


@dataclass(frozen=True)
class Study:
    """One study.

    Example:
      >>> from ntkgen import studies
      >>> studies.double_descent.STUDY.question
      'Does test error fall again beyond the interpolation threshold?'

    Attributes:
      name: of folder, command and module.
      question: in one line.
      config: its settings.
      resolve: (preset, given) -> the complete config.
      prepare: (config, data_dir) -> (facts, more), see `Prepared`; finds everything that can be wrong.
      measure: (run, prepared) -> name -> rows; trains and measures, keeping finished parts in the run.
      derive: (prepared, tables) -> `Derived`; pure.
      figures: (prepared, tables, derived) -> (name, figure) one by one.
      tables: names of the measured tables, without which a run is not finished.
      optional: names of measured tables that only some settings make.
    """

    name: str
    question: str
    config: type[Config]
    resolve: Callable[[str, dict[str, Any]], Any]
    prepare: Callable[[Any, Any], tuple[dict[str, Any], Any]]
    measure: "Callable[[records.Run, Prepared], Mapping[str, Rows]]"
    derive: Callable[[Prepared, Tables], Derived]
    figures: Callable[[Prepared, Tables, Derived], Iterator[tuple[str, Any]]]
    tables: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def code(self) -> list[str | Path]:
        """Return the modules and files whose code makes the measured tables, for `records.open_run`."""
        script = Path(ntkgen.__file__).parent.parent / "experiments" / f"{self.name}.py"
        return [self.measure.__module__, *([script] if script.exists() else [])]


def later(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a module that is imported when it is first called: what measures needs JAX, flags do not.

    Example:
      >>> from ntkgen.studies import base
      >>> stem = base.later("posixpath", "basename")
      >>> stem("results/double_descent"), stem.__module__
      ('double_descent', 'posixpath')
    """

    def call(*args: Any, **given: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*args, **given)

    call.__module__ = module  # whose code `Study.code` names
    return call


def choose_dataset(preset: str, given: Mapping[str, Any]) -> str:
    """Return the data set that was given, or the preset's; quick needs embedded data, or a file.

    Example:
      >>> from ntkgen.studies import base
      >>> base.choose_dataset("quick", {}), base.choose_dataset("paper", {"dataset": "cifar10"})
      ('digits', 'cifar10')

    Raises:
      ValueError: quick with data that are not embedded, or a file that is no data set.
    """
    name: Any = given.get("dataset") or ("digits" if preset == "quick" else "mnist")
    if datasets.is_file(name):
        name.check()
        return name
    if preset == "quick" and name not in EMBEDDED:
        raise ValueError(f"dataset: expected embedded data ({', '.join(EMBEDDED)}) with --preset=quick, got {name}")
    return name


def choose_model(dataset: Any, given: Mapping[str, Any]) -> str:
    """Return the network that was given, or the data set's own: cnn for images in colour, else mlp.

    Example:
      >>> from ntkgen.studies import base
      >>> base.choose_model("cifar10", {}), base.choose_model("cifar10", {"model": "mlp"})
      ('cnn', 'mlp')

    Raises:
      ValueError: a CNN or a transformer for examples of a file that are no images, or a CNN for images below 8 x 8.
    """
    if datasets.is_file(dataset):
        shape = dataset.shape
        images = len(shape) == 3 and min(shape[:2]) >= 8
        model = given.get("model")
        if (model == "cnn" and not images) or (model == "transformer" and len(shape) != 3):
            raise ValueError(f"model: expected mlp for examples of shape {shape} in {dataset.path}, got {model}")
        colour = images and shape[2] == 3
    else:
        colour = dataset in ("cifar10", "cifar100")
    return given.get("model") or ("cnn" if colour else "mlp")


def choose_preset(
    presets: Mapping[tuple[str, str], dict[str, Any]], preset: str, given: Mapping[str, Any], sizes: str
) -> dict[str, Any]:
    """Return the values of a study that trains one kind of network: its preset's, overlaid with what the user gave.

    Example:
      >>> presets = {("quick", "mlp"): {"width": 8, "num_seeds": 2, "epochs": 3}}
      >>> choose_preset(presets, "quick", {"epochs": 5}, "width")["epochs"]
      5

    Args:
      presets: (preset, network) -> values.
      preset: the preset's name.
      given: the user's settings.
      sizes: the setting that holds the size of MLP and transformer, "width" or "widths"; the CNN's is "channels".

    Raises:
      ValueError: settings that contradict each other.
    """
    dataset = choose_dataset(preset, given)
    model = choose_model(dataset, given)
    values = dict(presets[preset, model])
    values["num_train"] = datasets.choose_num_train(dataset, preset, values.get("num_train"))
    options.refuse(given, foreign_to_network(model, sizes))
    options.refuse(given, foreign_to_optimizer(given.get("optimizer")))
    values = overlay(values, given) | {"dataset": dataset, "model": model}
    if model == "cnn":
        values["affine_norm"] = bool(values.get("affine_norm"))
    return values


def foreign_to_network(model: str, sizes: str = "") -> dict[str, str]:
    """Name the settings that mean nothing to a kind of network, for `options.refuse`.

    Example:
      >>> from ntkgen.studies import base
      >>> list(base.foreign_to_network("mlp")), list(base.foreign_to_network("transformer"))
      (['channels', 'affine_norm', 'blocks', 'heads', 'patch'], ['channels', 'affine_norm', 'depth'])

    Args:
      model: the network's flag.
      sizes: the setting that holds the size of MLP and transformer, if the CNN's is another one.
    """
    of_cnn, of_transformer = ("channels", "affine_norm"), ("blocks", "heads", "patch")
    others = {
        "mlp": (*of_cnn, *of_transformer),
        "cnn": (*([sizes] if sizes else []), "depth", *of_transformer),
        "transformer": (*of_cnn, "depth"),
    }
    return {name: f"--model={model}" for name in others[model]}


def network(config: Any, size: int, depth: int | None = None, num_classes: int = 10) -> Any:
    """Return the network of a study's settings.

    Example:
      >>> from ntkgen.studies import base
      >>> base.network(base.Config(model="mlp"), size=8, depth=2).depth
      2

    Args:
      config: with `model` and what it needs: `blocks`, `heads` and `patch`, or `affine_norm`.
      size: width, or the CNN's base channels.
      depth: Dense layers of the MLP, blocks of the transformer. Default: the config's; the paper's 4 for an MLP.
      num_classes: outputs.

    Raises:
      ValueError: the heads do not divide the width; the message names the setting.
    """
    from ntkgen import models

    if config.model == "mlp":
        return models.MLP(size, depth or getattr(config, "depth", None) or 4, num_classes)
    if config.model == "cnn":
        return models.CNN(size, num_classes, bool(getattr(config, "affine_norm", False)))
    try:
        return models.Transformer(size, depth or config.blocks, config.heads, config.patch, num_classes)
    except ValueError as error:
        name = "widths" if hasattr(config, "widths") else "width"
        raise ValueError(str(error).replace("width:", f"{name}:", 1)) from None


def overlay(preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Overlay a preset's values with what the user gave.

    Example:
      >>> from ntkgen.studies import base
      >>> base.overlay({"epochs": 10, "num_seeds": 5}, {"epochs": 3})
      {'epochs': 3, 'num_seeds': 5}

    Raises:
      ValueError: more seeds and epochs than a record can hold.
    """
    found = {**preset, **given}
    most = MOST_EPOCHS // found["epochs"]
    if found["num_seeds"] > most:
        raise ValueError(f"num_seeds: expected at most {most} with {found['epochs']} epochs, got {found['num_seeds']}")
    return found


def foreign_to_optimizer(optimizer: str | None) -> dict[str, str]:
    """Name the settings that mean nothing to an optimizer, for `options.refuse`.

    Example:
      >>> from ntkgen.studies import base
      >>> base.foreign_to_optimizer("adam"), base.foreign_to_optimizer("sgd")
      ({'momentum': '--optimizer=adam'}, {})
    """
    return {"adam": {"momentum": "--optimizer=adam"}, "gd": {"batch_size": "--optimizer=gd"}}.get(optimizer or "", {})


def training(config: Any, **more: Any) -> "train.Config":
    """Return the training configuration of a study whose fields have the usual names.

    Example:
      >>> from ntkgen import studies
      >>> from ntkgen.studies import base
      >>> config = base.training(studies.double_descent.Config(epochs=3, lr=0.05))
      >>> config.epochs, config.learning_rate, config.optimizer
      (3, 0.05, 'sgd')

    Raises:
      ValueError: a value is refused; the message names the setting.
    """
    from ntkgen import train

    names = ("epochs", "batch_size", "optimizer", "momentum", "schedule", "weight_decay", "vary")
    given = {name: getattr(config, name) for name in names if hasattr(config, name)}
    try:
        return train.Config(**{"learning_rate": config.lr, **given, **more})
    except ValueError as error:
        raise ValueError(str(error).replace("learning_rate:", "lr:", 1)) from None
