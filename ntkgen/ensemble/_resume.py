"""What made a checkpoint, in words, so that no run goes on from another's; and the folder that stands for one.

`records`, which builds on this package, has the checkpoints and the progress bar. It is imported only where a caller
asks for them by a path or by `progress=True`.
"""

import contextlib
import dataclasses
import importlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ntkgen import functions, io, train
from ntkgen.typing import PyTree

PLAIN = (bool, int, float, str, type(None))


def keeper(checkpoint: Any) -> Any:
    """Return the checkpoints of a folder, or what was given if it is no path.

    Raises:
      ValueError: it keeps nothing.
    """
    if isinstance(checkpoint, str | os.PathLike):
        return importlib.import_module("ntkgen.records").Checkpointer(Path(checkpoint))
    if checkpoint is not None and not all(hasattr(checkpoint, name) for name in ("restore", "save", "scope")):
        raise ValueError(f"checkpoint: expected a folder or a records.Checkpointer, got {type(checkpoint).__name__}")
    return checkpoint


@contextlib.contextmanager
def reporter(progress: Any, num_seeds: int, epochs: int) -> Iterator[Callable | None]:
    """Yield what is called after each epoch: a bar for True, nothing for False.

    Raises:
      ValueError: it cannot be called.
    """
    if progress is True:
        with importlib.import_module("ntkgen.records").Progress([1.0], num_seeds, epochs) as bar:
            yield bar.part(0, "fit")
        return
    if progress is not None and progress is not False and not callable(progress):
        raise ValueError(f"progress: expected True, or a function of (seeds, epoch, metrics), got {progress!r}")
    yield progress or None


def made_by(model: Any, config: train.Config, words: dict[str, Any], trees: dict[str, PyTree]) -> dict[str, str]:
    """Return what decides a run, name -> a value or a digest: equal in another process that is given the same.

    A function or an optimizer object is told by its name alone.

    Args:
      model: the network.
      config: how it is trained.
      words: other settings.
      trees: arrays, of which a digest is kept.
    """
    bare = functions.bare(model)
    fields = dataclasses.fields(bare) if dataclasses.is_dataclass(bare) else ()
    found = {"model": type(bare).__name__} | {name: _word(value) for name, value in words.items()}
    found |= {f"model.{each.name}": _word(getattr(bare, each.name, None)) for each in fields if each.name != "parent"}
    found |= {each.name: _word(getattr(config, each.name)) for each in dataclasses.fields(config)}
    for name, tree in trees.items():
        leaves = jax.tree.leaves(tree)
        found[name] = io.digest({str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}) if leaves else "none"
    return found


def _word(value: Any) -> str:
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple | list) and all(isinstance(each, PLAIN) for each in value):
        return repr(list(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):  # a loss with class weights, a gradient of SAM
        fields = ", ".join(
            f"{each.name}={_word(getattr(value, each.name, None))}" for each in dataclasses.fields(value)
        )
        return f"{type(value).__qualname__}({fields})"
    return str(getattr(value, "__qualname__", type(value).__qualname__))
