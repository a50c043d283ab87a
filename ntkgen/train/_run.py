"""One training run as pure functions: configuration, state, one epoch, evaluation. Everything is for one seed.

Longer than 350 lines for its docstrings and examples, 38 % of it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import functions, models
from ntkgen.choices import VARY
from ntkgen.train import _losses, _optimizers
from ntkgen.typing import Array, Loss, PyTree

# update(loss, params, batch, key) -> (gradient, new model state); loss(params, batch, weights=None) -> (mean, state).
# `ntkgen/ensemble/_gradients.py` documents the methods that an update may have.
Update = Callable[..., tuple[PyTree, PyTree]]

EVAL_BATCH = 500  # rows per evaluation step: activations of the widest networks stay near cache size
# Folded into the order key for `update`'s randomness, beside the epochs. An epoch's own key is spent on its
# permutation, and whatever is folded into a spent key may repeat the bits that were drawn from it.
NOISE = 2**31 - 1
MODEL_NOISE = 2**31 - 2  # the same for what the network draws itself: dropout
MAX_EPOCHS = 10**7  # histories of 400 MB a seed; far below the two constants above
# Children of a seed's key: initialisation and batch order (`run_keys`), and what is measured afterwards.
INIT, ORDER, MEASUREMENT = 0, 1, 2


@dataclass(frozen=True)
class Config:
    """The choices that define a training run; checked when made.

    Example:
      >>> from ntkgen import train
      >>> config = train.Config(epochs=2, batch_size=32, learning_rate=0.1)
      >>> config.optimizer, [round(config.rate(epoch), 3) for epoch in range(2)]
      ('sgd', [0.1, 0.05])
      >>> train.Config(epochs=0)
      Traceback (most recent call last):
          ...
      ValueError: epochs: expected a whole number from 1 to 10,000,000, got 0

    Attributes:
      epochs: passes over the training set, at most `MAX_EPOCHS`.
      batch_size: examples a step; the last step of an epoch takes what is left. Ignored by "gd".
      learning_rate: initial rate of the schedule; or a function of the step, 0, 1, ... over all epochs, such as optax's
        schedules. None means 0.01 for an optimizer by name; an optax object has its own rate.
      optimizer: "sgd", "adam" or "gd" (full batch); or an optax object, such as `optax.adamw(1e-3)` or an
        `optax.chain` with gradient clipping.
      momentum: of sgd and gd; None means 0.9 for sgd (appendix A) and 0 for gd.
      schedule: "cosine" (stepped once an epoch) or "constant"; ignored where the rate goes by the step.
      weight_decay: L2 coefficient of an optimizer by name; the paper uses none.
      loss: "cross_entropy" (class labels, or probabilities), "mse" (half the squared distance to real targets, or to
        the one-hot vectors of class labels), or a function (outputs, targets) -> (n,) of any outputs and targets.
      vary: what differs between seeds: "init", "order" (of the batches) or "both" (section IV-D).
      stop_loss: a run ends after the first epoch whose training loss is at most this; None trains all epochs. Networks
        are then compared at equal loss, not after equal epochs (Jiang et al. 2020, section 4).

    Raises:
      ValueError: a value is outside its range; the message names it.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float | Callable[[Any], Any] | None = None
    optimizer: str | Any = "sgd"
    momentum: float | None = None
    schedule: str = "cosine"
    weight_decay: float = 0.0
    loss: str | Loss = "cross_entropy"
    vary: str = "both"
    stop_loss: float | None = None

    def __post_init__(self) -> None:
        """Check every value and resolve the default momentum."""
        functions.whole("epochs", self.epochs, MAX_EPOCHS)
        functions.whole("batch_size", self.batch_size)
        if _optimizers.is_transformation(self.optimizer):
            self._check_alone()
        else:
            _check_choice("optimizer", self.optimizer, _optimizers.OPTIMIZERS, " or an optax object")
        _check_choice("schedule", self.schedule, _optimizers.SCHEDULES)
        if not callable(self.loss) or functions.hashable(self.loss) is not self.loss:
            _check_choice("loss", self.loss, tuple(_losses.LOSSES), " or a hashable function")
        _check_choice("vary", self.vary, VARY)
        if self.momentum is None:
            object.__setattr__(self, "momentum", 0.9 if self.optimizer == "sgd" else 0.0)
        if self.learning_rate is None and isinstance(self.optimizer, str):
            object.__setattr__(self, "learning_rate", 0.01)
        if callable(self.learning_rate):
            _check_schedule(self.learning_rate)
        elif self.learning_rate is not None:
            expected = "a positive number or a function of the step"
            _check_number("learning_rate", self.learning_rate, expected, lambda v: v > 0)
            object.__setattr__(self, "learning_rate", float(self.learning_rate))
        _check_number("momentum", self.momentum, "a number in [0, 1)", lambda v: 0 <= v < 1)
        _check_number("weight_decay", self.weight_decay, "a number of at least 0", lambda v: v >= 0)
        if self.stop_loss is not None:
            _check_number("stop_loss", self.stop_loss, "a positive number", lambda v: v > 0)
            object.__setattr__(self, "stop_loss", float(self.stop_loss))
        for name, kind in (
            ("epochs", int),
            ("batch_size", int),
            ("momentum", float),
            ("weight_decay", float),
        ):
            object.__setattr__(self, name, kind(getattr(self, name)))  # NumPy's numbers would be other programs

    def _check_alone(self) -> None:
        """Check that an optax object stands alone, and can be hashed."""
        if functions.hashable(self.optimizer) is not self.optimizer:
            raise ValueError("optimizer: expected an optax object of hashable functions, got one that cannot be hashed")
        nothing: dict[str, tuple[Any, ...]] = {"learning_rate": (None,), "momentum": (None, 0), "weight_decay": (0,)}
        for name, values in nothing.items():
            if getattr(self, name) not in values:
                expected = f"{name}: expected none with an optax object, which has its own"
                raise ValueError(f"{expected}, got {functions.short(getattr(self, name))}")

    def rate(self, epoch: int) -> float:
        """Give the learning rate of epoch 0 ... epochs - 1; NaN where it goes by the step."""
        if not isinstance(self.learning_rate, float):
            return math.nan
        return _optimizers.learning_rate_at(epoch, base=self.learning_rate, epochs=self.epochs, schedule=self.schedule)


def _check_choice(name: str, value: Any, choices: tuple[str, ...], more: str = "") -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}{more}, got {functions.short(value)}")


def _check_schedule(schedule: Callable[[Any], Any]) -> None:
    expected = "learning_rate: expected a hashable function of the step that gives one number"
    if functions.hashable(schedule) is not schedule:
        raise ValueError(f"{expected}, got one that cannot be hashed")
    try:
        found = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), np.int32))
    except Exception as error:
        raise ValueError(f"{expected}, got {type(error).__name__}: {str(error).splitlines()[0]}") from error
    if getattr(found, "shape", ()) != () or not hasattr(found, "dtype"):
        raise ValueError(f"{expected}, got {functions.short(found)}")


def _check_number(name: str, value: Any, expected: str, ok: Callable[[float], bool]) -> None:
    real = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    try:
        good = real and math.isfinite(value) and ok(value)
    except (OverflowError, TypeError):  # an int beyond all floats, a complex number
        good = False
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {functions.short(value)}")


class Program(NamedTuple):
    """What a compiled step depends on. Hashable, and free of epochs and rates: changing those compiles nothing.

    `rngs` names the keys that the network draws from in training ("dropout"), see `functions.trace_training`. `code`
    tells programs apart whose functions read other values from outside; see `ensemble.fit`.

    Example:
      >>> from ntkgen import models, train
      >>> short, long = train.Config(epochs=1, batch_size=4), train.Config(epochs=9, batch_size=4, learning_rate=0.2)
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> train.Program.of(model, short, num_train=8) == train.Program.of(model, long, num_train=8)
      True
    """

    model: nn.Module
    batch_size: int
    optimizer: str | Any
    momentum: float
    weight_decay: float
    loss: str | Loss
    update: Update | None = None
    rngs: tuple[str, ...] = ()
    code: Any = None

    @classmethod
    def of(cls, model: nn.Module, config: Config, num_train: int, update: Update | None = None) -> "Program":
        """Take the static part of a configuration."""
        batch_size = num_train if config.optimizer == "gd" else config.batch_size
        if batch_size > num_train:
            raise ValueError(f"batch_size: expected at most the {num_train} training examples, got {batch_size}")
        check = getattr(update, "check_batch_size", None)
        if check is not None:
            check(batch_size)
        assert config.momentum is not None  # resolved by Config
        static, optimizer = functions.hashable(model), config.optimizer
        if callable(config.learning_rate):
            settings = config.momentum, config.weight_decay, config.learning_rate
            optimizer = _optimizers.with_schedule(config.optimizer, *settings)
        return cls(static, batch_size, optimizer, config.momentum, config.weight_decay, config.loss, update)

    def direction(self) -> Any:
        """Build the optimizer, without its learning rate; an optax object is returned as it is."""
        if not isinstance(self.optimizer, str):
            return self.optimizer
        return _optimizers.make(self.optimizer, self.momentum, self.weight_decay)


class TrainState(NamedTuple):
    """What an epoch carries: the network's variables and the optimizer's buffers."""

    variables: dict[str, Any]
    opt_state: PyTree


class Batch(NamedTuple):
    """One step's examples: inputs x and targets y, each (b, ...) or a dict or tuple of such arrays."""

    x: Any
    y: Any

    @property
    def size(self) -> int:
        """Return the number of examples."""
        return jax.tree.leaves(self.x)[0].shape[0]


class Keys(NamedTuple):
    """A run's two sources of randomness."""

    init: Array
    order: Array


def run_keys(seed: int | Array, vary: str = "both") -> Keys:
    """Derive a run's keys from its seed; the source that does not vary is seed 0's for every run.

    Example:
      >>> from ntkgen import train
      >>> one, other = (train.run_keys(seed, vary="order") for seed in (1, 2))
      >>> bool(one.init == other.init), bool(one.order == other.order)
      (True, False)
    """
    # Multiplied, not chosen: for an array of seeds each `vary` is then the same program.
    sources = seed * int(vary != "order"), seed * int(vary != "init")
    children = zip(sources, (INIT, ORDER), strict=True)
    return Keys(*(jax.random.fold_in(jax.random.key(source), child) for source, child in children))


def measurement_key(seed: int | Array) -> Array:
    """Give the key of all that is drawn to measure a run's network: probes, perturbations, starts of Lanczos.

    It is a child of the seed's key, as those of `run_keys` are. The seed's key itself would not do: splitting it gives
    the very keys that initialisation and batch order were drawn from.

    Example:
      >>> from ntkgen import train
      >>> key, keys = train.measurement_key(3), train.run_keys(3)
      >>> bool(key == keys.init), bool(key == keys.order)
      (False, False)
    """
    return jax.random.fold_in(jax.random.key(seed), MEASUREMENT)


def batch_order(order_key: Array, epoch: int | Array, num_train: int) -> Array:
    """Give the order (num_train,) in which epoch 0, 1, ... visits the examples.

    Example:
      >>> from ntkgen import train
      >>> order = train.batch_order(train.run_keys(0).order, epoch=0, num_train=8)
      >>> sorted(order.tolist())
      [0, 1, 2, 3, 4, 5, 6, 7]
    """
    return jax.random.permutation(jax.random.fold_in(order_key, epoch), num_train)


def init_state(program: Program, variables: dict[str, Any], mask: PyTree | None = None) -> TrainState:
    """Start from given variables, masked if there is a mask (pytree like params; 1 keeps an entry).

    Example:
      >>> import jax
      >>> from ntkgen import models, train
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> state = train.init_state(program, models.init(model, jax.random.key(0), (3,)))
      >>> jax.tree.map(lambda leaf: leaf.shape, state.variables["params"]["dense0"])
      {'bias': (4,), 'kernel': (3, 4)}
    """
    if mask is not None:
        variables = {**variables, "params": _masked(variables["params"], mask)}
    return TrainState(variables, program.direction().init(variables["params"]))


def _masked(tree: PyTree, mask: PyTree) -> PyTree:
    # Chosen, not multiplied: zero times the infinity of a diverging seed is not zero.
    return jax.tree.map(lambda leaf, keep: jnp.where(keep != 0, leaf, jnp.zeros((), leaf.dtype)), tree, mask)


def _within(loss: Callable, mask: PyTree | None) -> Callable:
    """Restrict a loss to the kept weights: an update may look at other weights than those that training has."""
    if mask is None:
        return loss
    return lambda params, batch, weights=None: loss(_masked(params, mask), batch, weights)


def train_step(
    program: Program,
    state: TrainState,
    batch: Batch,
    rate: Array,
    mask: PyTree | None,
    key: Array | None,
    draws: PyTree | None = None,
    rngs: dict[str, Array] | None = None,
) -> TrainState:
    """Take one step of the optimizer on one batch.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models, train
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> state = train.init_state(program, models.init(model, jax.random.key(0), (3,)))
      >>> batch = train.Batch(jnp.ones((4, 3)), jnp.zeros(4, int))
      >>> after = train.train_step(program, state, batch, jnp.array(0.1), mask=None, key=None)
      >>> loss = [float(train.evaluate(program, one.variables, batch)[0]) for one in (state, after)]
      >>> loss[1] < loss[0]
      True

    Args:
      program: static choices.
      state: variables and buffers before the step.
      batch: examples of the step.
      rate: learning rate, scalar.
      mask: pytree like params or None. Masking the gradient keeps pruned weights *and* their momentum at
        exactly zero in every optimizer, since they start there. An update sees the loss of the kept weights alone.
      key: this step's randomness, for `program.update`; None without one.
      draws: what `program.update.epoch_draws` gave the examples of the batch, if the update has that method.
      rngs: a key for each name in `program.rngs`, the same wherever an update evaluates the loss in this step.

    Returns:
      The state after the step.
    """
    per_example = _losses.per_example(program.loss)
    params = state.variables["params"]
    statistics = {name: value for name, value in state.variables.items() if name != "params"}

    def loss(params: PyTree, batch: Batch, weights: Array | None = None) -> tuple[Array, dict[str, Any]]:
        outputs, new = models.forward_train(program.model, {"params": params, **statistics}, batch.x, rngs)
        losses = per_example(outputs, batch.y)
        model_state = jax.tree.map(lambda leaf, old: leaf.astype(old.dtype), new, statistics)
        return jnp.mean(losses if weights is None else losses * weights), model_state

    if program.update is None:
        gradient, model_state = jax.grad(loss, has_aux=True)(params, batch)
    else:
        more = () if draws is None else (draws,)
        gradient, model_state = program.update(_within(loss, mask), params, batch, key, *more)
    if mask is not None:
        gradient = _masked(gradient, mask)
    direction, opt_state = program.direction().update(gradient, state.opt_state, params)
    if isinstance(program.optimizer, str):
        params = jax.tree.map(lambda p, d: p - rate.astype(p.dtype) * d, params, direction)
    else:  # the rate and the sign are its own; what it adds to pruned weights is not taken
        added = direction if mask is None else _masked(direction, mask)
        params = jax.tree.map(lambda p, d: (p + d).astype(p.dtype), params, added)
    return TrainState({"params": params, **model_state}, opt_state)


def train_epoch(
    program: Program,
    state: TrainState,
    order_key: Array,
    epoch: Array,
    rate: Array,
    data: Batch,
    mask: PyTree | None = None,
) -> TrainState:
    """Pass once over the training set, the last partial batch included.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models, train
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> state = train.init_state(program, models.init(model, jax.random.key(0), (3,)))
      >>> examples = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int))
      >>> after = train.train_epoch(program, state, train.run_keys(0).order, jnp.array(0), jnp.array(0.5), examples)
      >>> loss, accuracy = train.evaluate(program, after.variables, examples)
      >>> float(accuracy)
      1.0

    Args:
      program: static choices.
      state: state at the start of the epoch.
      order_key: the run's key for batch orders, and (as other children) for what `update` and dropout draw in each
        step; the epoch is folded in, then the step, so that a resumed run repeats them.
      epoch: 0-based, scalar integer.
      rate: the epoch's learning rate, scalar.
      data: the whole training set, x (n, ...), y (n, ...).
      mask: pytree like params or None.

    Returns:
      The state at the end of the epoch.
    """
    return train_epochs(program, [state], [order_key], epoch, rate, data, [mask])[0]


def train_epochs(
    program: Program,
    states: Sequence[TrainState],
    order_keys: Sequence[Array],
    epoch: Array,
    rate: Array,
    data: Batch,
    masks: Sequence[PyTree | None],
) -> list[TrainState]:
    """Pass once over the training set with several seeds, step by step: each step trains one after another.

    Their steps do not depend on each other, and stand side by side in one program: a compiler may run them together.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models, train
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> state = train.init_state(program, models.init(model, jax.random.key(0), (3,)))
      >>> examples = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int))
      >>> keys = [train.run_keys(seed).order for seed in range(2)]
      >>> len(train.train_epochs(program, [state] * 2, keys, jnp.array(0), jnp.array(0.5), examples, [None] * 2))
      2

    Args:
      program: static choices.
      states: states at the start of the epoch, one for each seed; the other sequences are as long.
      order_keys: the seeds' keys for batch orders, see `train_epoch`.
      epoch: 0-based, scalar integer.
      rate: the epoch's learning rate, scalar.
      data: the whole training set, the same for all seeds.
      masks: a pytree like params or None for each seed.

    Returns:
      The states at the end of the epoch.
    """
    num_train = data.size
    steps, rest = divmod(num_train, program.batch_size)
    walks = [_Walk.of(program, key, epoch, num_train) for key in order_keys]

    def step(states: Sequence[TrainState], i: Array, rows: Sequence[Array]) -> list[TrainState]:
        return [
            walk.step(program, state, i, own, rate, data, mask)
            for walk, state, own, mask in zip(walks, states, rows, masks, strict=True)
        ]

    full = [walk.order[: steps * program.batch_size].reshape(steps, program.batch_size) for walk in walks]
    trained, _ = jax.lax.scan(lambda s, xs: (step(s, *xs), None), list(states), (jnp.arange(steps), full))
    if rest:
        trained = step(trained, jnp.asarray(steps), [walk.order[steps * program.batch_size :] for walk in walks])
    return trained


class _Walk(NamedTuple):
    """One seed's order (n,) of the examples in an epoch, and its randomness: step keys are folded from these."""

    order: Array
    noise_key: Array
    model_key: Array
    draws: PyTree | None

    @classmethod
    def of(cls, program: Program, order_key: Array, epoch: Array, num_train: int) -> "_Walk":
        """Draw the order, and what the update draws for the whole epoch."""
        order = batch_order(order_key, epoch, num_train)
        all_epochs = jax.random.fold_in(order_key, NOISE)
        noise_key, draws = jax.random.fold_in(all_epochs, epoch), None
        model_key = jax.random.fold_in(jax.random.fold_in(order_key, MODEL_NOISE), epoch)
        epoch_draws = getattr(program.update, "epoch_draws", None)
        if epoch_draws is not None:  # its key is that of an epoch which never comes
            draws = epoch_draws(jax.random.fold_in(all_epochs, NOISE), epoch, num_train, program.batch_size)
        return cls(order, noise_key, model_key, draws)

    def step(
        self, program: Program, state: TrainState, i: Array, rows: Array, rate: Array, data: Batch, mask: PyTree | None
    ) -> TrainState:
        """Take step i, on the examples that rows (b,) name."""
        key = None if program.update is None else jax.random.fold_in(self.noise_key, i)
        rngs = functions.step_rngs(program.rngs, jax.random.fold_in(self.model_key, i))
        batch, own = (jax.tree.map(lambda leaf: jnp.take(leaf, rows, 0), each) for each in (data, self.draws))
        return train_step(program, state, batch, rate, mask, key, own, rngs)


def _at_least_single(leaf: Any) -> Any:
    half = jnp.issubdtype(jnp.result_type(leaf), jnp.floating) and jnp.finfo(jnp.result_type(leaf)).bits < 32
    return leaf.astype(jnp.float32) if half else leaf


def evaluate(program: Program, variables: dict[str, Any], data: Batch) -> tuple[Array, Array]:
    """Return mean loss and accuracy (a fraction) over a dataset in evaluation mode.

    Both are NaN where outputs are not finite, and accuracy where targets are no class labels (`train.correct`).

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from ntkgen import models, train
      >>> model = models.MLP(4, depth=2, num_classes=2)
      >>> program = train.Program.of(model, train.Config(epochs=1, batch_size=4), num_train=8)
      >>> zeros = jax.tree.map(jnp.zeros_like, models.init(model, jax.random.key(0), (3,)))
      >>> loss, accuracy = train.evaluate(program, zeros, train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int)))
      >>> round(float(loss), 3)  # log 2: both classes are equally likely
      0.693
    """
    per_example = _losses.per_example(program.loss)
    f = models.apply_fn(program.model, variables)
    num = data.size

    def sums(start: Array | int, size: int) -> Array:
        x, y = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size), data)
        outputs = f(variables["params"], x)
        # Half precision counts to 256 (bfloat16) or 2,048: sums are taken in float32, as the losses of the outputs are.
        outputs = jax.tree.map(_at_least_single, outputs)
        return jnp.stack([jnp.sum(_at_least_single(per_example(outputs, y))), jnp.sum(_losses.correct(outputs, y))])

    steps, rest = divmod(num, EVAL_BATCH)
    total = jnp.zeros(2)
    if steps:
        parts = jax.lax.map(lambda i: sums(i * EVAL_BATCH, EVAL_BATCH), jnp.arange(steps))
        total = parts.sum(0)
    if rest:
        total = total + sums(steps * EVAL_BATCH, rest)
    loss, accuracy = total / num
    return loss, accuracy
