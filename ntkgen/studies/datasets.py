"""What a study's data set may be: a known name, or an .npz file of the user.

The command line is checked before JAX is imported, so `data`, which needs it, is imported for files alone.
"""

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ntkgen import choices
from ntkgen.studies import options

if TYPE_CHECKING:
    from ntkgen import data

EMBEDDED = ("digits", "mnist1d")
QUICK_IMAGES = 1_300  # of a file of the user, with quick; digits has as many


def is_file(dataset: Any) -> bool:
    """Return whether a data set is a file of the user, a `data.NpzFile`.

    Example:
      >>> from ntkgen import data
      >>> from ntkgen.studies import datasets
      >>> datasets.is_file("digits"), datasets.is_file(data.NpzFile("moons.npz"))
      (False, True)
    """
    if type(dataset) is str or not isinstance(dataset, str):
        return False
    from ntkgen import data

    return isinstance(dataset, data.NpzFile)


@dataclass(frozen=True)
class DatasetName(options.Choice):
    """The name of a data set, or the path of an .npz file, which becomes a `data.NpzFile`.

    Example:
      >>> from ntkgen.studies import datasets
      >>> check = datasets.DatasetName(("mnist", "digits"))
      >>> check.parse("digits"), check.parse("folder/moons.npz")
      ('digits', 'moons')
    """

    @property
    def expected(self) -> str:
        """Return the choices, in words."""
        return f"{super().expected}, or the path of an .npz file"

    def parse(self, value: Any) -> str:
        """Return the name; the file is looked at later, by `choose_dataset`."""
        if is_file(value) or isinstance(value, os.PathLike) or (isinstance(value, str) and value.endswith(".npz")):
            from ntkgen import data

            return data.NpzFile(value)
        return super().parse(value)


DATASET = DatasetName(choices.DATASETS)


def choose_num_train(dataset: Any, preset: str, value: Any) -> Any:
    """Return the number of training examples of a preset, as the data set has them; None for all.

    Embedded data are small and taken whole. Of a file, quick takes at most QUICK_IMAGES, and other presets what they
    say, or all where there are fewer.

    Example:
      >>> from ntkgen.studies import datasets
      >>> datasets.choose_num_train("digits", "paper", 10_000), datasets.choose_num_train("mnist", "paper", 10_000)
      (None, 10000)
    """
    if dataset in EMBEDDED:
        return None
    if not is_file(dataset):
        return value
    several = isinstance(value, tuple)
    wanted = max(value) if several else value
    if preset == "quick":
        wanted = min(wanted or QUICK_IMAGES, QUICK_IMAGES)
    if wanted is None or wanted >= dataset.num_train:
        return None
    return (wanted,) if several else wanted


def load(config: Any, data_dir: Any, **other: Any) -> "data.Dataset":
    """Return the data set of a study's settings.

    Example:
      >>> from ntkgen.studies import base, datasets
      >>> config = base.Config(dataset="digits", num_train=100, label_noise=0.0)
      >>> datasets.load(config, None).num_train, datasets.load(config, None, num_train=50).num_train
      (100, 50)

    Args:
      config: with `dataset`, `num_train`, `label_noise` and `data_seed`.
      data_dir: where files are looked for; None for the usual places.
      **other: arguments of `data.load` in the place of the config's, or beside them.

    Raises:
      ValueError: the data set cannot be had, or a setting does not fit it.
    """
    from ntkgen import data

    own = {"num_train": config.num_train, "label_noise": config.label_noise, "seed": config.data_seed}
    return data.load(config.dataset, data_dir=data_dir, **{**own, **other})


def source_facts(dataset: "data.Dataset") -> dict[str, Any]:
    """Return what a record says of a data set beside its digest: the format of its files, where they are not TFDS's.

    Example:
      >>> from ntkgen import data
      >>> from ntkgen.studies import datasets
      >>> datasets.source_facts(data.load("digits"))
      {}
    """
    from ntkgen import data

    return {"data_format": dataset.version} if dataset.version in data.FILE_FORMATS else {}
