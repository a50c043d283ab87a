"""What a finished run of a study left behind, read from its folder."""

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ntkgen import paper, records


@dataclass(frozen=True)
class FinishedRun:
    """A run folder of one study.

    Attributes:
      study: its name.
      folder: the run folder.
    """

    study: str
    folder: Path

    @property
    def name(self) -> str:
        """Return study and folder, as tables name the run."""
        return f"{self.study}/{self.folder.name}"

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """Return the resolved settings, with what data and networks added to them."""
        return json.loads((self.folder / "config.json").read_text())["config"]

    @functools.cached_property
    def verdict(self) -> Any:
        """Return what the study decided."""
        return json.loads((self.folder / "verdict.json").read_text())

    def table(self, name: str) -> list[dict[str, str]]:
        """Return the rows of a table, cells as text; none where the study did not make it."""
        path = self.folder / f"{name}.csv"
        return records.read_table(path) if path.exists() else []

    @property
    def experiment(self) -> str:
        """Return the published experiment that this run repeats, a key of `paper.PROTOCOLS`, or the study's name."""
        named = f"{self.study} {self.config.get('model')}"
        return named if named in paper.PROTOCOLS else self.study


def other_than_published(run: FinishedRun, without: Sequence[str] = (), most: int = 3) -> str:
    """Return where a run departs from what the paper fixes, `without` some settings; "" where it does not."""
    published, read = paper.PROTOCOLS.get(run.experiment, {}), paper.READINGS.get(run.experiment, ())
    found = [
        f"{name} {_text(ours)}, not {_text(theirs)}{' (our reading)' * (name in read)}"
        for name, theirs in published.items()
        if name not in without and not _same(ours := setting_of(run.config, name), theirs)
    ]
    return "; ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "")


def setting_of(config: Mapping[str, Any], name: str) -> Any:
    """Return a setting, of a record within the config where the name has a dot; a list of one is its item."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, paper.Range):
        return isinstance(ours, int | float) and theirs.low <= ours <= theirs.high
    return ours == theirs


def _text(value: Any) -> str:
    if isinstance(value, paper.Range):
        return f"{value.low:g} to {value.high:g}"
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
