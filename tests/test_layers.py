"""The order of the packages, what they hide, one owner for each dependency, and an import that is quick and quiet."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import ntkgen

ROOT = Path(__file__).resolve().parent.parent
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "ntkgen").rglob("*.py"))}
SCRIPTS = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "experiments").rglob("*.py"))}

# A package or module imports only from those before it. Some of these are still to come.
ORDER = (
    "typing choices tree io memory stats paper functions roles models data linearize train ensemble "
    "curvature spectrum landscape ntk kernels pruning measure records plotting report studies cli __main__"
).split()
# They take functions and pytrees, so that they serve any network.
INSTRUMENTS = ("linearize", "curvature", "spectrum", "landscape", "ntk", "kernels", "pruning")

OWNERS = {
    "flax": {"functions", "roles", "models", "ensemble", "ntk"},
    "optax": {"train"},
    "matplotlib": {"plotting"},
    "PIL": {"plotting"},
    "orbax": {"records"},
    "tqdm": {"records"},
    "filelock": {"records"},
    "tensorflow_datasets": {"data"},
    "array_record": {"data"},
    "sklearn": {"data"},
    "mnist1d": {"data"},
    "jinja2": {"report"},
    "absl": {"cli"},
    "torch": set(),  # tests/ and experiments/ only
    "tensorflow": set(),
    "experiments": set(),
    "tests": set(),
}
# Files that name flax's types in signatures, and call nothing of it: a test below holds them to that.
ANNOTATION_ONLY = {"ntkgen/ensemble/_fit.py", "ntkgen/ensemble/programs.py", "ntkgen/train/_run.py"}
OPTIONAL = ("tensorflow_datasets", "tensorflow", "torch", "sklearn", "mnist1d", "array_record")


def imports(source: str) -> set[tuple[str, bool]]:
    """Dotted names that a file imports, and whether that happens inside a function; names of other packages are cut."""
    found = set()

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.update((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            own = node.module.split(".")[0] == "ntkgen"
            names = {f"{node.module}.{alias.name}" for alias in node.names} if own else {node.module}
            found.update((name, inside) for name in names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


def package(file: str) -> str:
    """ntkgen/ntk/_plan.py -> ntk, ntkgen/tree.py -> tree, ntkgen/__init__.py -> __init__."""
    return file.split("/")[1].removesuffix(".py")


def own(file: str) -> set[str]:
    """What a file imports of ntkgen, as dotted names without the first."""
    found = imports((FILES | SCRIPTS)[file].read_text())
    return {name.split(".", 1)[1] for name, _ in found if name.startswith("ntkgen.")}


def test_the_parser_sees_every_form():
    source = """
import ntkgen, ntkgen.io
from ntkgen import data as d, models
from ntkgen.train import Config
if True:
    import os.path
def f():
    class A:
        def g(self):
            from tensorflow_datasets import load
"""
    assert imports(source) == {
        ("ntkgen", False), ("ntkgen.io", False), ("ntkgen.data", False), ("ntkgen.models", False),
        ("ntkgen.train.Config", False), ("os.path", False), ("tensorflow_datasets", True),
    }  # fmt: skip


def test_every_package_has_its_place():
    assert {package(file) for file in FILES} - {"__init__"} <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("file", FILES)
def test_imports_only_from_above(file):
    name = package(file)
    used = {imported.split(".")[0] for imported in own(file)} - {name}
    allowed = set() if name == "__init__" else set(ORDER[: ORDER.index(name)])
    if name in INSTRUMENTS:
        allowed -= {"models", "data", "train", "ensemble"}
    assert used <= allowed, f"{file} imports {sorted(used - allowed)}, which come after it"


@pytest.mark.parametrize("file", [*FILES, *SCRIPTS])
def test_what_a_package_hides_is_nobody_elses(file):
    others = {imported for imported in own(file) if file in SCRIPTS or imported.split(".")[0] != package(file)}
    assert not {imported for imported in others if any(part.startswith("_") for part in imported.split("."))}


@pytest.mark.parametrize("file", FILES)
def test_dependencies_have_one_owner(file):
    for imported, inside in imports(FILES[file].read_text()):
        dependency = imported.split(".")[0]
        if dependency in OWNERS and not (dependency == "flax" and file in ANNOTATION_ONLY):
            allowed = OWNERS[dependency]
            assert package(file) in allowed, f"{file} imports {imported}, which belongs to {sorted(allowed)}"
        if dependency in OPTIONAL:
            assert inside, f"{file} imports {imported} at its top: it must work without"


@pytest.mark.parametrize("file", sorted(ANNOTATION_ONLY))
def test_flax_is_there_for_annotations_only(file):
    module = ast.parse(FILES[file].read_text())
    annotations = [
        getattr(node, field)
        for node in ast.walk(module)
        for field in ("annotation", "returns")
        if getattr(node, field, None) is not None
    ]
    annotated = {id(part) for annotation in annotations for part in ast.walk(annotation)}
    names = {
        (alias.asname or alias.name).split(".")[0]
        for node in ast.walk(module)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if "flax" in (alias.name if isinstance(node, ast.Import) else node.module)
    }
    used = [node for node in ast.walk(module) if isinstance(node, ast.Name) and node.id in names]
    assert used, f"{file} no longer needs flax: take it off the list"
    assert not [node.lineno for node in used if id(node) not in annotated]


@pytest.mark.parametrize("name", ntkgen.__all__)
def test_a_face_says_what_there_is(name):
    module = importlib.import_module(f"ntkgen.{name}")
    assert module.__doc__
    if hasattr(module, "__path__"):
        assert len(module.__doc__.split("\n\n")) > 1, "when to use what"
        assert module.__all__ and all(hasattr(module, public) for public in module.__all__)
        assert not [public for public in module.__all__ if public.startswith("_")]


def test_dir_shows_modules_and_public_names_only():
    assert set(ntkgen.__all__) == {package(file) for file in FILES} - {"__init__", "__main__"}
    assert dir(ntkgen) == sorted([*ntkgen.__all__, "__version__"])


@pytest.mark.parametrize("name", ["nothing", "_tests", "__wrapped__", "importlib_metadata"])
def test_unknown_names_are_no_attributes(name):
    with pytest.raises(AttributeError, match=f"^module 'ntkgen' has no attribute '{name}'$"):
        getattr(ntkgen, name)


BLOCK = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {OPTIONAL}:
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Block())
"""


def fresh(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_import_is_quick_and_drags_nothing_in():
    code = "import sys, time; t = time.process_time(); import ntkgen; print(time.process_time() - t)\n"
    done = fresh(code + "print('jax' in sys.modules, 'numpy' in sys.modules)")
    seconds, jax, numpy = done.stdout.split()
    assert float(seconds) < 0.3 and jax == numpy == "False", done.stderr


def test_the_command_line_is_checked_before_anything_slow_is_imported():
    code = """
import contextlib, io, sys
from ntkgen import cli, studies
for name in studies.NAMES:
    for flag in ("--help", "--epochs=many", "--seeed=1"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
            cli.run_study(getattr(studies, name).STUDY, [name, flag])
        assert said.getvalue()
slow = ("jax", "flax", "optax", "orbax", "scipy", "matplotlib", "sklearn", "filelock")
print([name for name in slow if name in sys.modules])
"""
    done = fresh(code)
    assert done.stdout == "[]\n", done.stderr


def test_names_that_settings_may_have_are_those_of_their_packages():
    from ntkgen import choices, data, measure

    assert choices.DATASETS == tuple(data.SOURCES) and choices.MEASUREMENTS == tuple(measure.MEASUREMENTS)


def test_importing_plotting_leaves_matplotlib_alone():
    code = "import matplotlib; matplotlib.use('svg'); before = dict(matplotlib.rcParams)\n"
    code += "import sys, ntkgen.plotting\n"
    done = fresh(code + "print(dict(matplotlib.rcParams) == before, 'matplotlib.pyplot' in sys.modules)")
    assert done.stdout == "True False\n", done.stderr


@pytest.mark.parametrize("modules", ["ntkgen", "ntkgen.data, ntkgen.ensemble, ntkgen.records, ntkgen.plotting"])
def test_import_works_without_the_optional_packages(modules):
    done = fresh(BLOCK + f"import {modules}\nprint('imported')")
    assert done.stdout == "imported\n", done.stderr


def test_a_missing_package_ends_in_one_line_that_names_it(tmp_path):
    code = f"import os\nos.environ['NTKGEN_CACHE_DIR'] = {str(tmp_path)!r}\n"  # where no digits are kept
    code += BLOCK + "import ntkgen.data\n"
    done = fresh(code + "try: ntkgen.data.load('digits')\nexcept ntkgen.data.DataError as e: print(e)")
    assert "pip install scikit-learn" in done.stdout and done.stdout.count("\n") == 1, done.stderr
