"""What is compiled ahead is what `fit` runs: it compiles none of its programs again."""

import jax
import jax.numpy as jnp
import pytest

from ntkgen import data, ensemble, models, train

OWN = {"init", "start", "train_epoch", "evaluate", "compiled"}  # the last is a probe


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", num_train=40)


def norm(params):
    return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def programs(caplog):
    """Return which programs of a fit were compiled."""
    words = [record.getMessage() for record in caplog.records]
    done = "Finished XLA compilation of jit("
    return OWN & {word.partition(done)[2].partition(")")[0] for word in words if done in word}


@pytest.mark.parametrize(
    "model, more",
    [
        (models.MLP(5, depth=2), {"options": ensemble.Options(evaluate_at=(2,)), "probes": ((0, 2), norm)}),
        (models.MLP(4, depth=2), {"options": ensemble.Options("sequential", chunk=2)}),
        (models.MLP(6, depth=2), {"update": ensemble.sam(0.05)}),
    ],
)
def test_fit_compiles_no_program_again(digits, caplog, model, more):
    config = train.Config(epochs=2, batch_size=16, learning_rate=0.05)
    with jax.log_compiles():
        ensemble.precompile(model, digits, config, 2, **more)
        ahead = programs(caplog)
        caplog.clear()
        ensemble.fit(model, digits, config, 2, **more)
    assert ahead == OWN - (set() if "probes" in more else {"compiled"})
    assert not programs(caplog)


def test_arguments_are_refused_as_fit_refuses_them(digits):
    with pytest.raises(ValueError, match="seeds: expected at least one, distinct"):
        ensemble.precompile(models.MLP(4, depth=2), digits, train.Config(epochs=1), [1, 1])
