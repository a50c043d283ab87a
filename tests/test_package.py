"""What an installed ntkgen consists of: every module and data file, and a console command that exists."""

import fnmatch
import importlib
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILES = [
    path.relative_to(ROOT / "ntkgen").as_posix()
    for path in sorted((ROOT / "ntkgen").rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
]


def test_every_folder_with_modules_is_a_package():
    folders = {Path(file).parent for file in FILES if file.endswith(".py")}
    assert len(folders) > 10 and not [
        folder for folder in folders if not (ROOT / "ntkgen" / folder / "__init__.py").exists()
    ]


def test_every_other_file_is_package_data():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["ntkgen"]
    others = [file for file in FILES if not file.endswith(".py")]
    assert "py.typed" in others
    assert not [file for file in others if not any(fnmatch.fnmatch(file, pattern) for pattern in patterns)]


def test_the_console_command_exists():
    module, _, name = PROJECT["project"]["scripts"]["ntkgen"].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
