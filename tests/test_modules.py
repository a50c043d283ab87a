"""Networks of other people: their training switches, dropout, statistics, tokens and losses, as published."""

import inspect
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ntkgen import ensemble, functions, models, train
from ntkgen.train import _optimizers, _run

RNG = np.random.default_rng(0)
N, CLASSES = 12, 3
VMAP = ensemble.Options("vmap")
X = RNG.normal(2, 3, size=(N, 5)).astype(np.float32)
Y = np.arange(N) % CLASSES


def fit(model, x=X, y=Y, *, epochs=2, loss="cross_entropy", seeds=1, **kwargs):
    split = SimpleNamespace(x=x, y=y)
    config = train.Config(epochs, 4, 0.05, loss=loss)
    return ensemble.fit(model, SimpleNamespace(train=split, test=split), config, seeds, options=VMAP, **kwargs)


def of_seed(tree, seed=0):
    return jax.tree.map(lambda leaf: leaf[seed], tree)


# Training switches


def train_required(self, x, train):
    return train


def train_on(self, x, train=True):
    return train


def training_keyword(self, x, *, training):
    return training


def is_training_off(self, x, is_training=False):
    return is_training


def deterministic_required(self, x, deterministic):
    return not deterministic


def deterministic_keyword(self, x, *, deterministic=True):
    return not deterministic


def use_running_average_off(self, x, use_running_average=False):
    return not use_running_average


def two_switches(self, x, train, *, deterministic):
    assert train != deterministic
    return train


SIGNATURES = (
    train_required, train_on, training_keyword, is_training_off, deterministic_required, deterministic_keyword,
    use_running_average_off, two_switches,
)  # fmt: skip


class Normed(nn.Module):
    """Batch norm and dropout behind a switch of any name and default."""

    training: bool

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=not self.training, momentum=0.9)(nn.Dense(4)(x))
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not self.training)(x))


def switched(signature):
    """A module with the signature's switch, around `Normed`."""
    source = signature

    def call(self, x, *args, **kwargs):
        return Normed(source(self, x, *args, **kwargs), name="net")(x)

    call.__signature__ = inspect.signature(signature)
    return type("Switched", (nn.Module,), {"__call__": nn.compact(call), "__module__": __name__})()


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.__name__)
def test_every_switch_is_set_in_training_and_in_evaluation(signature):
    model, x = switched(signature), jnp.asarray(X)
    variables = functions.init(model, jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["net"]["BatchNorm_0"]["mean"], np.zeros(4))
    plain = {name: tree["net"] for name, tree in variables.items()}
    evaluated = models.apply_fn(model, variables)(variables["params"], x)
    np.testing.assert_array_equal(evaluated, Normed(False).apply(plain, x))
    names, _, _ = functions.trace_training(model, variables, x)
    assert names == ("dropout",)
    _, state = functions.forward_train(model, variables, x, {"dropout": jax.random.key(1)})
    hidden = X @ np.asarray(plain["params"]["Dense_0"]["kernel"])
    mean = state["batch_stats"]["net"]["BatchNorm_0"]["mean"]
    np.testing.assert_allclose(mean, 0.1 * hidden.mean(0), rtol=1e-5)


class Residual(nn.Module):
    """A small residual network with Flax's batch norm and signature."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        def conv_norm(x, features):
            x = nn.Conv(features, (3, 3), use_bias=False)(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)

        x = nn.relu(conv_norm(x, 4))
        x = nn.relu(x + conv_norm(nn.relu(conv_norm(x, 4)), 4))
        return nn.Dense(CLASSES)(x.mean((1, 2)))


def test_a_residual_network_trains_with_its_batch_statistics():
    images = RNG.normal(1, 2, (N, 6, 6, 2)).astype(np.float32)
    result, model = fit(Residual(), images, epochs=1), Residual()
    assert result.history["train_loss"].shape == (1, 1)
    # By hand: three steps of SGD with momentum from the same start, in the same order.
    variables = of_seed(result.initial)
    velocity = jax.tree.map(jnp.zeros_like, variables["params"])
    order = np.asarray(train.batch_order(train.run_keys(0).order, 0, N))

    @jax.jit
    def slope(variables, x, y):
        def loss(params):
            logits, state = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
            return -jnp.mean(jnp.sum(jax.nn.one_hot(y, CLASSES) * jax.nn.log_softmax(logits), -1)), state

        return jax.grad(loss, has_aux=True)(variables["params"])

    for batch in order.reshape(3, 4):
        gradient, state = slope(variables, images[batch], Y[batch])
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - 0.05 * v, variables["params"], velocity)
        variables = {"params": params, **state}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), of_seed(result.variables), variables
    )


# Dropout


class Dropped(nn.Module):
    """A network with dropout."""

    @nn.compact
    def __call__(self, x, train: bool):
        return nn.Dense(CLASSES)(nn.Dropout(0.5, deterministic=not train)(nn.relu(nn.Dense(16)(x))))


class Stopped(Exception):
    """The run was killed."""


class Memory:
    """A checkpoint in memory, which kills the run after an epoch if asked to."""

    def __init__(self, kill_after=None):
        self.kill_after, self.kept = kill_after, None

    def restore(self, like):
        return self.kept

    def save(self, epoch, tree, *, final):
        self.kept = epoch, jax.tree.map(np.array, tree)
        if epoch == self.kill_after:
            raise Stopped

    def scope(self, name):
        return self


def test_dropout_repeats_resumes_and_differs_between_seeds():
    start = {"params": of_seed(fit(Dropped(), epochs=1).initial)["params"]}
    same = jax.tree.map(lambda leaf: np.stack([leaf] * 2), start)
    whole = fit(Dropped(), epochs=3, seeds=[0, 1], init=same)
    memory = Memory(kill_after=2)
    with pytest.raises(Stopped):
        fit(Dropped(), epochs=3, seeds=[0, 1], init=same, checkpoint=memory)
    memory.kill_after = None
    resumed = fit(Dropped(), epochs=3, seeds=[0, 1], init=same, checkpoint=memory)
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)
    np.testing.assert_array_equal(resumed.history["train_loss"], whole.history["train_loss"])
    one, other = (jax.tree.leaves(of_seed(whole.variables, seed)) for seed in (0, 1))
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


class Probe:
    """An update that evaluates the loss twice at the same weights and gives the outcome as the gradient."""

    def __call__(self, loss, params, batch, key):
        (first, state), (second, _) = loss(params, batch), loss(params, batch)
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, 10.0 * (first - second) + first), params), state


def test_each_step_has_its_own_mask_and_an_update_sees_one_of_them():
    def body(self, x, train=False):
        scale = self.param("scale", nn.initializers.ones, ())
        return scale * 0 + nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(x), 8)))

    model = type("Mask", (nn.Module,), {"__call__": nn.compact(body), "__module__": __name__})()
    loss = lambda outputs, y: outputs @ (2.0 ** jnp.arange(8))  # noqa: E731 each mask has its own loss
    program = train.Program.of(model, train.Config(1, 2, 1.0, momentum=0.0, loss=loss), 6, Probe())
    program = program._replace(rngs=("dropout",))
    state, seen = train.TrainState({"params": {"scale": jnp.zeros(())}}, _optimizers.make("sgd", 0.0, 0.0).init({})), []
    order = train.run_keys(0).order
    noise = jax.random.fold_in(jax.random.fold_in(order, _run.MODEL_NOISE), 0)
    for step in range(4):
        rngs = functions.step_rngs(("dropout",), jax.random.fold_in(noise, step))
        batch = train.Batch(jnp.zeros((2, 1)), jnp.zeros(2))
        new = train.train_step(program, state, batch, jnp.asarray(1.0), None, jax.random.key(5), rngs=rngs)
        want = loss(model.apply(state.variables, batch.x, True, rngs=rngs), None).mean()
        np.testing.assert_allclose(-new.variables["params"]["scale"], want, rtol=1e-6)  # nothing of the difference
        seen.append(float(want))
    assert len(set(seen)) == 4


def test_sam_and_dropout_train_together():
    assert np.isfinite(fit(Dropped(), epochs=1, update=ensemble.sam(0.1)).history["train_loss"]).all()


# Tokens, other losses, other modules


class Language(nn.Module):
    """A causal transformer of one block with attention dropout."""

    @nn.compact
    def __call__(self, tokens, *, deterministic=True):
        x = nn.Embed(7, 8)(tokens)
        mask = nn.make_causal_mask(tokens)
        x = x + nn.MultiHeadDotProductAttention(2, dropout_rate=0.1)(x, mask=mask, deterministic=deterministic)
        return nn.Dense(7)(nn.LayerNorm()(x))


def test_a_language_model_is_scored_at_every_token():
    tokens, labels = RNG.integers(0, 7, (2, N, 5))
    assert models.num_params(Language(), (5,), jnp.int32) == 7 * 8 + 4 * (8 * 8 + 8) + 2 * 8 + 8 * 7 + 7
    result = fit(Language(), tokens, labels)
    logits = np.asarray(Language().apply(of_seed(result.variables), tokens), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.mean([log_p[i, t, labels[i, t]] for i in range(N) for t in range(5)])
    np.testing.assert_allclose(result.history["train_loss"][0, -1], loss, rtol=1e-5)
    np.testing.assert_allclose(result.history["test_accuracy"][0, -1], np.mean(logits.argmax(-1) == labels), rtol=1e-6)


class Autoencoder(nn.Module):
    """A variational autoencoder: noise of its own name in training, the mean in evaluation; three outputs."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        h = nn.relu(nn.Dense(8)(x))
        mean, log_std = nn.Dense(2)(h), nn.Dense(2)(h)
        z = mean + jnp.exp(log_std) * jax.random.normal(self.make_rng("noise"), mean.shape) if train else mean
        return nn.Dense(5)(nn.relu(nn.Dense(8)(z))), mean, log_std


def evidence(outputs, x):
    decoded, mean, log_std = outputs
    divergence = 0.5 * jnp.sum(mean**2 + jnp.exp(2 * log_std) - 2 * log_std - 1, -1)
    return 0.5 * jnp.sum((decoded - x) ** 2, -1) + divergence


def test_a_loss_may_be_a_function_of_any_outputs_and_targets():
    x = (X - 2) / 3
    result = fit(Autoencoder(), x, x, epochs=15, loss=evidence)
    loss = result.history["train_loss"][0]
    want = np.mean(evidence(Autoencoder().apply(of_seed(result.variables), x, train=False), x))
    np.testing.assert_allclose(loss[-1], want, rtol=1e-5)
    assert loss[-1] < loss[0] and not result.diverged[0]
    assert np.isnan(result.history["train_accuracy"]).all()


def test_targets_may_be_a_tree_and_a_function_may_diverge():
    model, y = models.MLP(4, 2, CLASSES), {"label": Y, "weight": np.full(N, 1e30, np.float32)}
    loss = lambda outputs, y: y["weight"] * train.cross_entropy(outputs, y["label"])  # noqa: E731
    assert fit(model, y=y, loss=loss, epochs=3).diverged[0]


def test_what_is_sown_is_dropped_and_a_counter_of_steps_is_carried():
    def body(self, x, train=False):
        self.sow("norms", "x", jnp.sum(x))
        steps = self.variable("steps", "n", lambda: jnp.zeros((), jnp.int32))
        if train:
            steps.value += 1
        return nn.Dense(CLASSES)(x)

    model = type("Counts", (nn.Module,), {"__call__": nn.compact(body), "__module__": __name__})()
    variables = fit(model).variables
    assert set(variables) == {"params", "steps"} and variables["steps"]["n"].tolist() == [6]


class WithAttributes(nn.Module):
    """A module that Python cannot hash."""

    mean: np.ndarray
    widths: list

    @nn.compact
    def __call__(self, x):
        x = x - self.mean
        for width in self.widths:
            x = nn.relu(nn.Dense(width)(x))
        return nn.Dense(CLASSES)(x)


def test_unhashable_modules_train_and_changed_attributes_are_seen():
    model = WithAttributes(np.zeros((1, 5), np.float32), [4])
    first = fit(model)
    loss = np.mean(train.cross_entropy(model.apply(of_seed(first.variables), X), jnp.asarray(Y)))
    np.testing.assert_allclose(first.history["train_loss"][0, -1], loss, rtol=1e-5)
    f = jax.jit(lambda f, params: f(params, X))
    before = f(models.apply_fn(model, first.variables), of_seed(first.variables)["params"])
    model.mean[:] = 5
    after = f(models.apply_fn(model, first.variables), of_seed(first.variables)["params"])
    np.testing.assert_allclose(after, model.apply(of_seed(first.variables), X), rtol=1e-4, atol=1e-5)
    assert not np.allclose(before, after)
    assert not np.allclose(fit(model).history["train_loss"], first.history["train_loss"])


@pytest.mark.usefixtures("x64")
def test_float64_data_train_as_float32_ones_do_with_params_of_float32():
    result = [fit(switched(train_on), X.astype(dtype), epochs=1) for dtype in (np.float64, np.float32)]
    for a, b in zip(*(jax.tree.leaves(each.variables) for each in result), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b)


# Statistics for other weights


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.99, 0.9999])
@pytest.mark.parametrize("axis", [-1, 1])
def test_refitted_statistics_of_flax_are_the_mean_of_those_of_the_batches(momentum, axis):
    rest = tuple(i for i in (0, 1, 2) if i != axis % 3)
    model = type("Norm", (nn.Module,), {"__call__": nn.compact(lambda self, x, train: nn.BatchNorm(
        not train, momentum=momentum, axis=axis, name="norm")(x)), "__module__": __name__})()  # fmt: skip
    x = RNG.normal(2, 3, size=(13, 4, 3)).astype(np.float32)
    variables = functions.init(model, jax.random.key(0), jnp.asarray(x))
    variables["batch_stats"] = jax.tree.map(lambda leaf: leaf + 7, variables["batch_stats"])
    found = models.refit_statistics(model, variables, jnp.asarray(x), 6)["batch_stats"]["norm"]
    batches = x[:6], x[6:12]
    np.testing.assert_allclose(found["mean"], np.mean([batch.mean(rest) for batch in batches], 0), rtol=1e-4)
    np.testing.assert_allclose(found["var"], np.mean([batch.var(rest) for batch in batches], 0), rtol=1e-4)


def test_statistics_that_are_no_averages_are_refused_and_constants_stay():
    def body(self, x, train):
        total = self.variable("batch_stats", "total", jnp.ones, ())
        if train and not self.is_initializing():
            total.value = self.factor * total.value
        return nn.Dense(CLASSES)(x)

    net = type("Net", (nn.Module,), {"__annotations__": {"factor": float}, "__call__": nn.compact(body),
               "__module__": __name__})  # fmt: skip
    x = jnp.asarray(X)
    variables = functions.init(net(1.0), jax.random.key(0), x)
    assert models.refit_statistics(net(1.0), variables, x, 4)["batch_stats"]["total"] == 1
    with pytest.raises(ValueError, match=r"^model: expected running averages as batch statistics, got total"):
        models.refit_statistics(net(2.0), variables, x, 4)
    traced = jax.jit(lambda variables: models.refit_statistics(net(2.0), variables, x, 4))(variables)
    assert np.isnan(traced["batch_stats"]["total"])
