"""The order of the modules, one owner for each dependency, and an import that is quick and needs nothing optional."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = {path.stem: path for path in sorted((ROOT / "ntkgen").glob("*.py"))}

# A module imports only from modules before it. Some of these are still to come.
ORDER = (
    "tree io require association crossed stats margins ranks peaks equal_loss paper conv norm modules models "
    "objectives optim sources data directional linearize train checks updates seedaxis ensemble frozen independence "
    "curvature krylov multiplicity spectrum role_rules roles landscape symmetry measure sharpness gradient_noise "
    "loss_matching ntk_layers ntk_activations ntk_factors ntk_cost ntk_checks ntk kernels lazy prunable pruning "
    "sparse_init tickets connectivity overlap matching provenance checkpoints records progress plotting "
    "plotting_sharpness plotting_landscape plotting_ntk plotting_tickets report"
).split()

OWNERS = {
    "flax": {"checks", "models", "modules", "ntk_layers", "roles"},
    "optax": {"optim", "train"},
    "matplotlib": {"plotting", "plotting_sharpness", "plotting_landscape", "plotting_ntk", "plotting_tickets"},
    "orbax": {"checkpoints"},
    "tqdm": {"progress"},
    "tensorflow_datasets": {"sources"},
    "array_record": {"sources"},
    "sklearn": {"sources"},
    "mnist1d": {"sources"},
    "absl": set(),  # experiments/ only
    "torch": set(),  # tests/ and experiments/ only
    "tensorflow": set(),
    "experiments": set(),
    "common": set(),
    "tests": set(),
}
# Modules that name flax's types in signatures, and call nothing of it: a test below holds them to that.
ANNOTATION_ONLY = {"flax": {"ensemble", "train"}}
OPTIONAL = ("tensorflow_datasets", "tensorflow", "torch", "sklearn", "mnist1d", "array_record")


def imports(source: str) -> set[tuple[str, bool]]:
    """Dotted names that a module imports, and whether that happens inside a function."""
    found = set()

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.update((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = (
                {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "ntkgen" else {node.module}
            )
            found.update((name, inside) for name in names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(source), False)
    return found


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
        ("ntkgen.train", False), ("os.path", False), ("tensorflow_datasets", True),
    }  # fmt: skip


def test_every_module_has_its_place():
    assert set(MODULES) - {"__init__"} <= set(ORDER)
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_imports_only_from_above(name):
    own = {
        imported.split(".")[1] for imported, _ in imports(MODULES[name].read_text()) if imported.startswith("ntkgen.")
    }
    allowed = set() if name == "__init__" else set(ORDER[: ORDER.index(name)])
    assert own <= allowed, f"{name} imports {sorted(own - allowed)}, which come after it"


@pytest.mark.parametrize("name", MODULES)
def test_dependencies_have_one_owner(name):
    for imported, inside in imports(MODULES[name].read_text()):
        package = imported.split(".")[0]
        if package in OWNERS:
            allowed = OWNERS[package] | ANNOTATION_ONLY.get(package, set())
            assert name in allowed, f"{name} imports {imported}, which belongs to {sorted(allowed)}"
        if package in OPTIONAL:
            assert inside, f"{name} imports {imported} at its top: it must work without"


@pytest.mark.parametrize("name", sorted(ANNOTATION_ONLY["flax"]))
def test_flax_is_there_for_annotations_only(name):
    module = ast.parse(MODULES[name].read_text())
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
    assert used, f"{name} no longer needs flax: take it off the list"
    assert not [node.lineno for node in used if id(node) not in annotated]


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
    code = "import sys, time; t = time.perf_counter(); import ntkgen; print(time.perf_counter() - t)\n"
    done = fresh(code + "print('jax' in sys.modules)")
    seconds, jax = done.stdout.split()
    assert float(seconds) < 2 and jax == "False", done.stderr


@pytest.mark.parametrize("modules", ["ntkgen", "ntkgen.data, ntkgen.ensemble, ntkgen.records, ntkgen.plotting"])
def test_import_works_without_the_optional_packages(modules):
    done = fresh(BLOCK + f"import {modules}\nprint('imported')")
    assert done.stdout == "imported\n", done.stderr


def test_a_missing_package_ends_in_one_line_that_names_it():
    done = fresh(
        BLOCK + "import ntkgen.data\ntry: ntkgen.data.load('digits')\nexcept ntkgen.data.DataError as e: print(e)"
    )
    assert "pip install scikit-learn" in done.stdout and done.stdout.count("\n") == 1, done.stderr
