"""The command line of a run.

config.json holds the preset and the settings that the user gave, as the run began: with them the command is exact. A
folder that was made before they were kept has the resolved settings alone. Its command lists all of those that a flag
can hold, and says so.
"""

import shlex
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

NO_FLAGS = ("device", "numerics", "data_digests", "sizes")


def command(about: Mapping[str, Any], formats: Collection[str], out_dir: Path) -> tuple[str, bool]:
    """Return the command that makes a run and its figures, and whether it repeats what was typed.

    Args:
      about: config.json.
      formats: of the figures that are there.
      out_dir: the results folder.
    """
    given, exact = _given(about)
    flags = [f"--{name}={_flag(value)}" for name, value in given.items()]
    if set(formats) - {"png"}:
        flags.append(f"--format={','.join(sorted(formats, key=('png', 'svg', 'pdf').index))}")
    words = ["ntkgen", str(about["study"]), *flags, f"--out_dir={out_dir}"]
    return " ".join(map(shlex.quote, words)), exact


def _given(about: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    kept = about.get("command")
    if isinstance(kept, dict) and isinstance(kept.get("given"), dict) and isinstance(kept.get("preset"), str):
        preset = {} if kept["preset"] == "paper" else {"preset": kept["preset"]}
        return {**preset, **kept["given"]}, True
    plain = {name: value for name, value in about["config"].items() if name not in NO_FLAGS}
    return {name: value for name, value in plain.items() if not isinstance(value, dict) and value != []}, False


def _flag(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_flag, value)) or "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
