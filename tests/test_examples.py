"""Every public function and class has an example in its docstring, and pytest finds every example to run it."""

import ast
import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in (ROOT / "ntkgen").rglob("*.py")}
MODULES = sorted(name.removesuffix(".__init__") for name in FILES if not name.endswith(".__main__"))
PUBLIC = [name for name in MODULES if not any(part.startswith("_") for part in name.split("."))]

# What carries the results or the arguments of a function, and that function, whose example shows it.
SHOWN_BY = {
    "data": {"Dataset": "load", "Split": "load"},
    "ensemble": {"Context": "OnHost", "Layout": "plan", "Result": "fit"},
    "functions": {"Function": "freeze"},
    "io": {"LockedError": "HeldError"},
    "kernels": {
        "Arrival": "arrival", "Flow": "flow_movement", "InfiniteWidth": "infinite_mlp", "Spectrum": "spectrum",
    },
    "landscape": {
        "Barrier": "error_barrier", "Sensitivity": "perturbation", "Sharpness": "average_adaptive_sharpness",
    },
    "measure": {
        "Examples": "Measurement", "Flatness": "flatness", "Matched": "at_loss", "Network": "Measurement",
        "NoiseScale": "noise_scale", "Passage": "passage", "Spectral": "spectral", "Track": "track", "Trained": "take",
    },
    "models": {"Affine": "effective_layers"},
    "ntk": {"Plan": "plan"},
    "paper": {"PublishedNumber": "published_numbers"},
    "plotting.growth": {"Cost": "cost"},
    "plotting.lottery_ticket": {"Panel": "measures"},
    "plotting.ntk_regime": {"Dot": "exponents", "Line": "regime"},
    "plotting.reproduce": {"Against": "against_published"},
    "pruning": {"Level": "iterative_pruning", "Overlap": "overlap", "TrainedLevel": "iterative_pruning"},
    "records": {"StoredNetwork": "Networks", "Run": "open_run"},
    "report": {"Contents": "collect", "Run": "collect"},
    "spectrum": {"Density": "density", "Eigen": "lanczos", "Estimate": "trace"},
    "stats": {
        "Association": "association", "Crossed": "crossed", "Design": "design", "Effect": "effects",
        "Environment": "robust_sign_error", "Equivalence": "equivalence", "Factor": "design",
        "Granulated": "granulated", "Granule": "granulated", "Information": "conditional_information",
        "Interval": "interval", "Mediation": "mediation", "OverTargets": "over_targets", "Overall": "kendall_overall",
        "Partial": "partial_association", "Path": "mediation", "PeakTest": "peak_test", "PowerLaw": "power_law_fit",
        "SignError": "robust_sign_error", "Summary": "mean_std", "TestResult": "paired", "Threshold": "threshold",
    },
    "studies.options": {"Check": "Number", "Setting": "setting"},
    "studies.runner": {"Opened": "opened", "Results": "run", "draw": "run", "work": "run"},
    "train": {"Batch": "train_step", "Keys": "run_keys", "TrainState": "init_state"},
}  # fmt: skip

# What no short example can show, and why.
WITHOUT = {
    "cli.script": "absl keeps the flags of a process; the benchmarks use it",
    "paper.Range": "two numbers",
    "records.DamagedError": "it takes a damaged file",
    "records.StorageError": "it takes a failing disk",
    "report.Claim": "a row of a report",
    "report.Figure": "a row of a report",
    "report.Published": "a row of a report",
    "report.Quality": "a row of a report",
    "report.Setting": "a row of a report",
    "report.Statement": "a row of a report",
    "studies.learning_rate.measured": "trains; `studies.runner.run` shows it",
    "studies.edge_of_stability.measured": "trains; `studies.runner.run` shows it",
}


def public(module: str) -> dict[str, object]:
    """Return the public functions and classes of a module: those of `__all__`, or all that it defines."""
    found = vars(importlib.import_module(module))
    names = found.get("__all__") or [
        name for name, value in found.items() if getattr(value, "__module__", "") == module and name[0] != "_"
    ]
    named = {name: getattr(importlib.import_module(module), name) for name in names}
    return {
        name: value
        for name, value in named.items()
        if (inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value)) or hasattr(value, "__wrapped__"))
        and value.__module__.startswith("ntkgen")
    }


def has_example(value: object) -> bool:
    return ">>>" in (value.__doc__ or "")


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_function_and_class_has_an_example(module):
    short = module.removeprefix("ntkgen.")
    shown, names = SHOWN_BY.get(short, {}), public(module)
    without = [name for name, value in names.items() if not has_example(value)]
    allowed = {name.rpartition(".")[2] for name in WITHOUT if name.rpartition(".")[0] == short} | set(shown)
    assert sorted(without) == sorted(allowed)  # nothing is excused that has an example by now
    assert all(has_example(names[name]) for name in shown.values())


def test_every_excuse_is_of_a_public_module():
    modules = {module.removeprefix("ntkgen.") for module in PUBLIC}
    assert modules >= set(SHOWN_BY) | {name.rpartition(".")[0] for name in WITHOUT}


@pytest.mark.parametrize("module", MODULES)
def test_every_example_is_found(module):
    """`doctest` passes over what it does not take for a function, without a word."""
    path = FILES.get(module) or FILES[f"{module}.__init__"]
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "body")]
    documented = [node for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module)]
    written = [node for node in documented if ">>>" in (ast.get_docstring(node) or "")]
    found = doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(module))
    assert len([test for test in found if test.examples]) == len(written)
