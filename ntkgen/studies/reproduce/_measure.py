"""Runs the studies one after another, and reads what each found."""

import contextlib
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from ntkgen import io, models, paper, records, studies
from ntkgen.studies import base, options, runner
from ntkgen.studies.base import Prepared, Rows
from ntkgen.studies.reproduce import _cost
from ntkgen.studies.reproduce._config import Config, Part
from ntkgen.studies.reproduce._findings import finding_rows, findings_of
from ntkgen.studies.reproduce._ours import numbers_of
from ntkgen.studies.reproduce._read import FinishedRun


class Planned(NamedTuple):
    """What is run: parts, what each is expected to take, where data are, and our counts of the paper's networks.

    Attributes:
      parts: in order.
      seconds: expected for each.
      data_dir: of prepared data sets; None for the usual places.
      parameters: "mlp 8" -> number of parameters.
    """

    parts: tuple[Part, ...]
    seconds: tuple[float, ...]
    data_dir: Any
    parameters: dict[str, int]


def study_of(part: Part) -> base.Study:
    """Return the study of a part."""
    return getattr(studies, part.study).STUDY


def prepare(config: Config, data_dir: Any) -> tuple[dict[str, Any], Planned]:
    """Check every part as its study does; returns their configs' hashes, which name the run, and the plan.

    Raises:
      ValueError: a setting does not fit a study, its data or the machine.
    """
    parts, hashes, seconds = config.parts, {}, []
    for part in parts:
        try:
            own = prepared_part(part, data_dir)
        except ValueError as error:
            raise ValueError(f"{error} (in {part.name})") from None
        hashes[part.name] = io.config_hash(own.record())
        seconds.append(_cost.seconds(part.study, own.config, own.facts))
    return {"parts": hashes}, Planned(parts, tuple(seconds), data_dir, count_parameters())


def prepared_part(part: Part, data_dir: Any) -> Prepared:
    """Return a part's complete config and what its data and networks add to it, without the data.

    Raises:
      ValueError: a setting does not fit the study, its data or the machine.
    """
    study = study_of(part)
    values = options.checked(study.config, part.settings)
    config = study.resolve(part.preset, values)
    facts, _ = study.prepare(config, data_dir)
    return Prepared(config, facts, part.preset, values, None)


def count_parameters() -> dict[str, int]:
    """Return "mlp 8" -> the number of parameters, of every network in the paper."""
    found = {f"mlp {w}": models.num_params(models.MLP(w), (28, 28, 1)) for w in paper.MLP_PARAMS}
    return found | {f"cnn {c}": models.num_params(models.CNN(c), (32, 32, 3)) for c in paper.CNN_PARAMS}


def measure(run: records.Run, prepared: Prepared) -> dict[str, Rows]:
    """Run every part, those that are finished excepted.

    Returns:
      "parts", a row for each: what it took, its run, and in one line why it failed; "ours", our number for each
      published one; "findings", what the studies decided.
    """
    plan: Planned = prepared.more
    parts, ours, findings = [], [], []
    say(announcement(plan))
    for index, (part, seconds) in enumerate(zip(plan.parts, plan.seconds, strict=True)):
        say(f"{index + 1} of {len(plan.parts)}: {part.name}, {duration(seconds)}")
        row: dict[str, Any] = {"part": part.name, "study": part.study, "preset": part.preset}
        row |= {"dataset": part.settings["dataset"], "estimated_seconds": seconds}
        row |= {"seconds": None, "cpu_seconds": None, "run": "", "note": "", "failed": ""}
        trouble = run.folder / f"failed_{part.name}.txt"
        try:
            done, took = run_part(run, part, plan.data_dir)
            mine, answers = numbers_of(done), finding_rows(findings_of(done))
        except Exception as error:  # the other studies go on; an interruption is none
            row["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            trouble.write_text(traceback.format_exc())
            say(f"{part.name} failed: {row['failed']} ({trouble} has more)")
        else:
            trouble.unlink(missing_ok=True)
            ours += [asdict(one) for one in mine]
            findings += answers
            row |= took | {"run": done.name}
        parts.append(row)
    tables = {"parts": parts, "ours": ours, "findings": findings}
    return {name: rows for name, rows in tables.items() if rows}


def run_part(run: records.Run, part: Part, data_dir: Any) -> tuple[FinishedRun, dict[str, Any]]:
    """Run one study in the same results folder, or read it; returns its run and what it took."""
    results = run.folder.parent.parent
    took: dict[str, Any] = {"seconds": None, "cpu_seconds": None, "note": "finished before"}
    with runner.opened(study_of(part), part.preset, out_dir=results, data_dir=data_dir, **part.settings) as ready:
        done = FinishedRun(part.study, ready.run.folder)
        if not ready.run.finished:
            begun = any((done.folder / name).exists() for name in ("parts", "checkpoints"))
            with clock() as took:
                failed = runner.work(ready, say=lambda text: None).failed
            if failed:
                raise RuntimeError(failed)
            took["note"] = "the rest of a run that was begun before" if begun else ""
    return done, run.kept(f"took_{part.name}", lambda: took)


@contextlib.contextmanager
def clock() -> Iterator[dict[str, Any]]:
    """Yield a record that has the time that passed, and the processor's, once the block is left."""
    took: dict[str, Any] = {}
    wall, cpu = time.monotonic(), time.process_time()
    yield took
    took |= {"seconds": time.monotonic() - wall, "cpu_seconds": time.process_time() - cpu}


def announcement(plan: Planned) -> str:
    """Return what will take how long."""
    each = ", ".join(f"{part.name} {duration(s)}" for part, s in zip(plan.parts, plan.seconds, strict=True))
    return f"{duration(sum(plan.seconds))} of processor time, less where there are several cores: {each}"


def duration(seconds: float) -> str:
    """Return a time in round words."""
    if seconds < 90:
        return f"about {max(1, round(seconds / 5)) * 5:.0f} seconds"
    if seconds < 5_400:
        return f"about {seconds / 60:.0f} minutes"
    return f"about {seconds / 3_600:.1f} hours"


def say(words: str) -> None:
    """Write a line for the terminal, apart from the answer."""
    print(words, file=sys.stderr, flush=True)
