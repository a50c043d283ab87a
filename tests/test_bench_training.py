"""The count of compiled programs that the benchmark of training reports."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))

import bench_training


def test_every_compilation_is_counted_and_nothing_else():
    before = bench_training.compilations()
    fn = jax.jit(jax.vmap(lambda x: x**3 - 5 * x))
    x = jnp.arange(6.0).reshape(2, 3)
    start = bench_training.compilations()
    fn(x)
    assert bench_training.compilations() == start + 1 > before
    fn(x + 0.0)
    after = bench_training.compilations()
    fn(x)
    assert bench_training.compilations() == after
    fn(jnp.zeros((2, 5)))
    assert bench_training.compilations() > after


def test_a_new_level_compiles_nothing_where_the_first_did(monkeypatch):
    monkeypatch.setitem(bench_training.EXAMPLES, "mlp", 300)
    ours = bench_training.Ours("mlp", 4, "vmap", 2, keep=bench_training.KEEP)
    assert ours.compiled > 2 and ours.new_level() == 0
    ours.layout = ours.layout._replace(strategy="sequential")  # what it would look like if it did
    assert ours.new_level() > 0
