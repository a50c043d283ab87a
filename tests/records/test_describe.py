"""Descriptions of what made a network: equal in every process, different for everything that differs."""

import functools
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ntkgen import ensemble, io, measure, models, records, train

ROOT = Path(__file__).resolve().parents[2]

# Everything that a description may meet; ONE and the others are changed below, one at a time.
SCRIPT = """
import functools, json, sys
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax
import helper_of_this_test as helper
from ntkgen import models, records, train

FACTOR = 2.0

def scaled(x):
    return FACTOR * x

def twice(function):
    @functools.wraps(function)
    def wrapper(*args):
        return 2 * function(*args)
    return wrapper

def closed(array):
    return lambda outputs, targets: jnp.sum((outputs - targets) ** 2 * array, -1)

def recursive(n, deep=3):
    return 1 if n == 0 else deep * recursive(n - 1)

def chosen(name):
    return name in {"mse", "cross_entropy", "hinge", "both", "neither"}

@jax.custom_jvp
def clipped(x):
    return jnp.clip(x, -1, 1)

@clipped.defjvp
def clipped_jvp(primals, tangents):
    return clipped(*primals), 3.0 * tangents[0]

class Block(nn.Module):
    width: int
    gain = 1.5

    def setup(self):
        self.dense = nn.Dense(self.width)

    @property
    def scale(self):
        return 0.5

    @staticmethod
    def act(x):
        return jnp.tanh(x)

    def __call__(self, x):
        return self.gain * self.scale * self.act(self.dense(x))

class Net(nn.Module):
    width: int = 4
    act: object = nn.relu

    @nn.compact
    def __call__(self, x, train=False):
        x = Block(self.width)(x.reshape(len(x), -1))
        return nn.Dense(10, kernel_init=nn.initializers.he_normal())(self.act(helper.shift(x)))

def by_both(a, b=1):
    return a + b

VALUES = {
    "flax": Net(8), "flax function": Net(8, jnp.tanh), "mlp": models.MLP(8, 3), "cnn": models.CNN(4),
    "partial": functools.partial(scaled, 3, y={"a": 1}), "closure": closed(jnp.arange(3.0)),
    "lambda": lambda x: scaled(x) + 1, "global": scaled, "recursive": recursive, "set": chosen,
    "decorated": twice(scaled), "rule": clipped, "adam": optax.adam(1e-3),
    "chain": optax.chain(optax.clip(1.0), optax.sgd(optax.cosine_decay_schedule(0.1, 9))),
    "jit": jax.jit(scaled), "vmap": jax.vmap(scaled), "module": helper.shift, "signature": by_both,
    "config": train.Config(epochs=3, loss=closed(np.ones(2))), "sets": {"b", "a", "c"},
    "dict": {"b": 1, "a": [None, 2.5]},
    "key": jax.random.key(3), "dtype": np.dtype("float32"), "kind": jnp.bfloat16,
}
if __name__ == "__main__":
    print(json.dumps({name: records.describe(value) for name, value in VALUES.items()}, sort_keys=True))
"""
HELPER = "OFFSET = 0.25\n\ndef shift(x):\n    return x + OFFSET\n\ndef unused(x):\n    return x\n"


def described(folder: Path, script: str = SCRIPT, helper: str = HELPER, seed: str = "0") -> dict[str, str]:
    """What another process says of VALUES: name -> text."""
    folder.mkdir(exist_ok=True)
    (folder / "script.py").write_text(script)
    (folder / "helper_of_this_test.py").write_text(helper)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, folder / "script.py"], env=environment, capture_output=True, text=True,
                          timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {name: io.canonical_json(value) for name, value in json.loads(done.stdout).items()}


def test_processes_say_the_same_wherever_they_run(tmp_path):
    one, two, three = (described(tmp_path / seed, seed=seed) for seed in "012")
    assert one == two == three
    assert len(set(one.values())) == len(one)
    assert not [name for name, text in one.items() if " at 0x" in text or str(ROOT) in text]


def described_here(script: str = SCRIPT, helper: str = HELPER) -> dict[str, str]:
    """What this process says of VALUES, as modules of its own."""
    modules = {name: types.ModuleType(name) for name in ("helper_of_this_test", "script_of_this_test")}
    with pytest.MonkeyPatch.context() as patch:
        for (name, module), code in zip(modules.items(), (helper, script), strict=True):
            patch.setitem(sys.modules, name, module)
            exec(code, vars(module))
        return {name: text(value) for name, value in modules["script_of_this_test"].VALUES.items()}


def text(value) -> str:
    return io.canonical_json(records.describe(value))


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    return described_here()


# (text in the script or its helper, what it becomes) -> what says something else then.
CHANGES = {
    "a closed-over array": ("jnp.arange(3.0)", "jnp.arange(3.0) + 1e-6", {"closure"}),
    "a global": ("FACTOR = 2.0", "FACTOR = 3.0", {"partial", "lambda", "global", "decorated", "jit", "vmap"}),
    "a global function": ("return FACTOR * x", "return x * FACTOR",
                          {"partial", "lambda", "global", "decorated", "jit", "vmap"}),
    "a default": ("deep=3", "deep=4", {"recursive"}),
    "a constant": ("if n == 0", "if n == 1", {"recursive"}),
    "a constant in a set": ('"hinge"', '"huber"', {"set"}),
    "what a decorator does": ("2 * function", "3 * function", {"decorated"}),
    "a rule of differentiation": ("3.0 * tangents", "4.0 * tangents", {"rule"}),
    "an attribute of a class": ("gain = 1.5", "gain = 2.5", {"flax", "flax function"}),
    "a property": ("return 0.5", "return 0.25", {"flax", "flax function"}),
    "a static method": ("return jnp.tanh(x)", "return jnp.sin(x)", {"flax", "flax function"}),
    "a method": ("nn.Dense(10,", "nn.Dense(9,", {"flax", "flax function"}),
    "a helper's global": ("OFFSET = 0.25", "OFFSET = 0.5", {"flax", "flax function", "module"}),
    "the signature": ("def by_both(a, b=1):", "def by_both(a, *, b=1):", {"signature"}),
    "which module a name is": ("jnp.clip(x, -1, 1)", "np.clip(x, -1, 1)", {"rule"}),
    "what a module's name is": ("this_test as helper", "this_test as helper, numpy as jnp; jnp.bfloat16 = np.float16",
                               {"closure", "rule", "flax", "flax function", "config", "kind"}),
    "hyperparameters": ("optax.adam(1e-3)", "optax.adam(1e-4)", {"adam"}),
    "a schedule": ("cosine_decay_schedule(0.1, 9)", "cosine_decay_schedule(0.1, 8)", {"chain"}),
    "a comment": ("FACTOR = 2.0", "FACTOR = 2.0  # two", set()),
    "lines": ("FACTOR = 2.0", "\n\nFACTOR = 2.0", set()),
    "what is not used": ("def unused(x):\n    return x", "def unused(x):\n    return x + 1", set()),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_is_said_and_nothing_else(said, change):
    old, new, differing = CHANGES[change]
    assert (SCRIPT + HELPER).count(old) == 1
    found = described_here(SCRIPT.replace(old, new), HELPER.replace(old, new))
    assert {name for name in said if found[name] != said[name]} == differing


class Bound:
    def __call__(self, x):
        return x


def updated(factor):
    """An object that looks like the function within."""

    class Scaled:
        def __call__(self, x):
            return factor * x

    return functools.update_wrapper(Scaled(), jnp.tanh)


REFUSED = {
    "callable": Bound(), "method": Bound().__call__, "updated": updated(2.0), "path": Path("x"), "iterator": iter([]),
    "generator": np.random.default_rng(0), "its method": np.random.default_rng(0).normal, "complex": 1j,
    "ufunc of Python": np.frompyfunc(len, 1, 1), "objects": np.array([object()]), "in a list": [Bound()],
    "in a set": {"a": {Bound()}}, "in a partial": functools.partial(len, Bound()),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_lasting_description_is_refused(name):
    with pytest.raises(TypeError):
        text(REFUSED[name])
    assert text(updated) and text(Bound) and text(object())  # the code, the class and a sentinel have one


def test_an_open_file_is_refused_wherever_it_hides(tmp_path):
    with open(tmp_path / "file", "w") as file:
        for value in (file, file.write, [file], lambda: file, functools.partial(print, file=file)):
            with pytest.raises(TypeError, match="has no description that lasts"):
                records.describe(value)


def test_a_function_that_imports_what_is_not_installed_is_refused():
    def loss(outputs, targets):
        import helper_of_this_test

        return helper_of_this_test.shift(outputs)

    with pytest.raises(TypeError, match="imports 'helper_of_this_test' when it runs"):
        records.describe(loss)

    def fine(outputs, targets):
        import numpy

        return numpy.sum(outputs)

    records.describe(fine)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, True), (1, 1.0), (0.0, -0.0), ("1", 1), (None, "None"), ([1], [1, 1]), ([[1], 2], [[1, 2]]), ({}, []),
        ({"a": 1}, {"a": 2}), ({"a": 1}, {"b": 1}), (np.float32(1), np.float64(1)), (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2), np.zeros(2, int)), (np.array([0.0]), np.array([-0.0])), (np.nan, np.inf),
        (jax.nn.relu, jax.nn.gelu), (jnp.tanh, np.tanh), (len, min), (nn.relu, nn.Dense), (nn.Dense(3), nn.Dense(4)),
        (nn.Dense(3), nn.Dense(3, dtype=jnp.bfloat16)), (models.MLP(4, 2), models.MLP(4, 3)),
        (lambda *a: a, lambda a: a), (lambda a: a, lambda b: b), (lambda: 1, lambda: 2),
        (lambda: (1, "a"), lambda: (1, "b")), (jax.jit(len), len),
        (functools.partial(len), functools.partial(len, 1)), ("".join, "x".join), ("".join, "".split),
        (jax.ShapeDtypeStruct((2,), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)),
        (optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)), (jax.random.key(0), jax.random.key(1)),
        (train.Config(epochs=1), train.Config(epochs=2)), (jax.vmap(len), jax.vmap(len, in_axes=1)),
    ],
)  # fmt: skip
def test_different_things_say_different_things(one, two):
    assert text(one) != text(two) and text(one) == text(one) and text(two) == text(two)


def test_equal_things_say_the_same():
    def make(c):
        def loss(outputs, targets):
            return c * jnp.sum(outputs - targets, -1)

        return loss

    assert text(make(2.0)) == text(make(2.0)) != text(make(3.0))
    assert text({"b": 1, "a": 2}) == text({"a": 2, "b": 1})
    assert text(np.arange(4.0).reshape(2, 2).T) == text(np.ascontiguousarray(np.arange(4.0).reshape(2, 2).T))
    assert text(jnp.arange(3)) == text(np.arange(3, dtype=np.int32))
    assert text(nn.Dense(3)) == text(nn.Dense(3))


def test_functions_that_refer_to_each_other_are_described():
    def even(n, step=1):
        return n == 0 or odd(n - step)

    def odd(n, step=1):
        return n != 0 and even(n - step)

    assert text(even) == text(even) and "again" in text(even)
    first = text(even)
    odd.__defaults__ = (2,)
    assert text(even) != first


def test_functions_of_this_package_are_their_module_and_those_of_studies_what_they_do(monkeypatch):
    from ntkgen.studies import tables

    assert records.describe(measure.correct)["source"] == records.source(measure.correct.__module__)
    assert "code" not in records.describe(measure.correct)
    assert "code" in records.describe(tables.pack) and "source" not in records.describe(tables.pack)


def test_a_probe_on_the_host_is_described():
    def kernel(params, context):
        return params["a"] @ params["a"].T

    one, two = (ensemble.OnHost(kernel, jax.ShapeDtypeStruct((n, n), jnp.float32)) for n in (2, 3))
    assert text(one) != text(two) and text(one) == text(ensemble.OnHost(kernel, one.like))
