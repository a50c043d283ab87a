"""What `ensemble.fit` checks before anything is compiled: data, network, targets and loss fit each other.

Arrays are checked on the host, once a fit. The network and the loss are traced (`jax.eval_shape`), which computes
nothing. What does not fit is refused by one line that begins with the argument.

Longer than 350 lines for its docstrings and examples, 25 % of it.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import functions, models, train
from ntkgen.linearize import Linearized
from ntkgen.train import Batch, Config, Program, Update, evaluate, init_state, train_epoch
from ntkgen.typing import Loss, PyTree

# Layers that multiply or normalise their inputs: integers there are pixels that nobody has scaled.
_ARITHMETIC = (
    nn.Dense, nn.DenseGeneral, nn.Einsum, nn.Conv, nn.ConvLocal, nn.ConvTranspose, nn.BatchNorm, nn.LayerNorm,
    nn.GroupNorm, nn.RMSNorm, nn.InstanceNorm,
)  # fmt: skip
_SWITCH = f"an argument of its call named {', '.join(functions.SWITCHES)}"


def prepare(
    model: Any, dataset: Any, config: Config, update: Update | None, init: PyTree | None
) -> tuple[Program, PyTree, Batch, Batch]:
    """Check the arguments of a fit against each other.

    Args:
      model: the network.
      dataset: with .train and .test, each with .x and .y.
      config: what to do.
      update: replaces the gradient, or None.
      init: variables that take the place of fresh ones, or None; only their dtypes matter here.

    Returns:
      The static program, one seed's variables as shapes, and both splits as they are trained on.

    Raises:
      ValueError: something does not fit; one line that begins with the argument.
    """
    models.adapt(model)
    if init is not None and not isinstance(init, Mapping):
        raise ValueError(f"init: expected variables, a dict with params, got {type(init).__name__}")
    data, test = batch("dataset.train", dataset.train), batch("dataset.test", dataset.test)
    ours, theirs = (jax.tree.map(lambda leaf: leaf.shape[1:], each.x) for each in (data, test))
    if ours != theirs:
        raise ValueError(f"dataset.test.x: expected examples of shape {ours}, got {theirs}")
    program = Program.of(model, config, data.size, update)
    call(program.model, data.x)
    with naming("model", f"expected a network of x {_words(data.x)}, got"):
        first = jax.tree.map(lambda leaf: like(leaf, 1), data.x)
        shapes = jax.eval_shape(lambda key, x: functions.init(program.model, key, x), jax.random.key(0), first)
    given = shapes
    if init is not None:
        given = {**shapes, "params": init.get("params", shapes["params"])}
    data, test = narrowed((data, test), given)
    seen = network(program.model, shapes, jax.tree.map(lambda leaf: like(leaf, program.batch_size), data.x))
    for index, vocabulary in seen.vocabulary.items():
        tokens("dataset.train.x", jax.tree.leaves(data.x)[index], vocabulary)
        tokens("dataset.test.x", jax.tree.leaves(test.x)[index], vocabulary)
    data = data._replace(y=targets("dataset.train.y", data.y, seen.outputs, config.loss))
    test = test._replace(y=targets("dataset.test.y", test.y, seen.outputs, config.loss))
    loss(program, seen, data.y, program.batch_size)
    optimizer(program, shapes["params"])
    program = program._replace(rngs=seen.rngs)
    return program._replace(code=code(program, shapes, data)), shapes, data, test


def splits(dataset: Any, test: Any) -> Any:
    """Return an object with .train and .test: the dataset, or one of two pairs of arrays (x, y).

    Args:
      dataset: what `fit` is given.
      test: the test set beside a pair, else None.

    Raises:
      ValueError: it is neither, or there is no test set, or there are two.
    """
    if hasattr(dataset, "train") and hasattr(dataset, "test"):
        if test is not None:
            raise ValueError("test: expected none beside a dataset with a test set of its own, got one")
        return dataset
    if not isinstance(dataset, tuple | list) or len(dataset) != 2:
        got = f"{len(dataset)} of them" if isinstance(dataset, tuple | list) else type(dataset).__name__
        raise ValueError(f"dataset: expected a data.Dataset, or a pair of arrays (x, y), got {got}")
    if not isinstance(test, tuple | list) or len(test) != 2:
        got = "none" if test is None else type(test).__name__
        raise ValueError(f"test: expected the test set, a pair of arrays (x, y), beside a pair as dataset, got {got}")
    return Splits(Batch(*dataset), Batch(*test))


class Splits(NamedTuple):
    """A training set and a test set of arrays."""

    train: Batch
    test: Batch


def batch(name: str, split: Any) -> Batch:
    """Return inputs and targets of one split as arrays.

    Args:
      name: "dataset.train" or "dataset.test".
      split: anything with .x and .y; each may be a dict or tuple of arrays.

    Returns:
      The same numbers, arrays (n, ...); booleans as integers.

    Raises:
      ValueError: no example, unequal lengths, no numbers, or floats that are not finite.
    """
    x = _arrays(f"{name}.x", split.x)
    for leaf in jax.tree.leaves(x):
        if not leaf.ndim or not len(leaf):
            raise ValueError(f"{name}.x: expected at least one example, got shape {leaf.shape}")
    if not jax.tree.leaves(x):
        raise ValueError(f"{name}.x: expected at least one example, got none")
    found = Batch(x, None)
    for leaf in jax.tree.leaves(x):
        if len(leaf) != found.size:
            raise ValueError(f"{name}.x: expected {found.size} examples in every input, got shape {leaf.shape}")
    if not jax.tree.leaves(split.y):
        raise ValueError(f"{name}.y: expected one target for each of {found.size} inputs, got none")
    y = _arrays(f"{name}.y", split.y)
    for leaf in jax.tree.leaves(y):
        if leaf.shape[:1] != (found.size,):
            raise ValueError(f"{name}.y: expected one target for each of {found.size} inputs, got shape {leaf.shape}")
    return found._replace(y=y)


def _arrays(name: str, value: Any) -> Any:
    """Return a dict or tuple of arrays, or one array."""
    nested = isinstance(value, dict | tuple)
    return jax.tree.map(lambda leaf: _array(name, leaf), value) if nested else _array(name, value)


def _words(x: Any) -> str:
    """Return dtype and shape of the inputs in words."""
    found = jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape)}", x)
    return found if isinstance(found, str) else functions.short(found)


def _array(name: str, value: Any) -> Any:
    if isinstance(value, dict) or value is None:
        raise ValueError(f"{name}: expected an array, got {type(value).__name__}")
    try:
        array = value if isinstance(value, jax.Array) else np.asarray(value)
    except (ValueError, TypeError):
        raise ValueError(f"{name}: expected an array, got {functions.short(value)}") from None
    if jnp.issubdtype(array.dtype, jnp.bool_):
        return array.astype(np.int32)
    if jnp.issubdtype(array.dtype, jnp.integer):
        return array
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name}: expected real numbers, got dtype {array.dtype}")
    # The extremes tell (NaN wins in both), without a copy of the size of the data.
    if array.size and not (np.isfinite(np.min(array)) and np.isfinite(np.max(array))):
        raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    return array


def narrowed(data: PyTree, variables: PyTree) -> PyTree:
    """Return float64 data as float32, unless a param is float64: the params say in what precision a run computes."""
    if any(leaf.dtype == np.float64 for leaf in jax.tree.leaves(variables["params"])):
        return data
    return jax.tree.map(lambda leaf: _single(leaf) if leaf.dtype == np.float64 else leaf, data)


def _single(leaf: Any) -> Any:
    with np.errstate(over="ignore"):
        single = leaf.astype(np.float32)
    if leaf.size and not (np.isfinite(np.min(single)) and np.isfinite(np.max(single))):
        raise ValueError(
            "dataset: expected numbers that float32 holds, got larger ones; scale them, or use jax_enable_x64"
        )
    return single


@contextlib.contextmanager
def naming(argument: str, what: str) -> Iterator[None]:
    """Turn whatever is raised inside into one line of ValueError that begins with the argument."""
    try:
        yield
    except Exception as error:
        text = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(f"{argument}: {what}: {type(error).__name__}: {text}") from error


class TracedNetwork(NamedTuple):
    """What tracing has shown of a network.

    Attributes:
      outputs: of one batch in evaluation mode, as shapes and dtypes.
      train_outputs: the same in training mode.
      rngs: names of the keys that it draws from in training.
      vocabulary: of each input that itself, unchanged, is looked up in `nn.Embed` tables, by its place among the
        leaves: rows of the smallest table.
    """

    outputs: PyTree
    train_outputs: PyTree
    rngs: tuple[str, ...]
    vocabulary: dict[int, int]


def tokens(name: str, x: Any, vocabulary: int) -> None:
    """Refuse tokens outside a table: Flax gives NaN for them, and counts negative ones from its end.

    Raises:
      ValueError: naming the split and the range.
    """
    low, high = (int(f(x)) for f in (np.min, np.max)) if x.size else (0, 0)
    if low < 0 or high >= vocabulary:
        raise ValueError(f"{name}: expected tokens from 0 to {vocabulary - 1}, as num_embeddings, got {low} ... {high}")


def call(model: Any, x: Any) -> None:
    """Check that a network can be called with its inputs and training switches alone.

    Raises:
      ValueError: its call has another argument without a default.
    """
    if not isinstance(functions.bare(model), nn.Module):
        return
    known = functions.parameters(model)
    positional, named = functions.spread(known, x)
    missing = [name for name in functions.needed(known)[len(positional) :] if name not in named]
    if missing:
        raise ValueError(
            f"model: expected a call with x and training switches, got {missing[0]} without a default; give several "
            "inputs as a tuple or dict, or make the network of functions by models.from_functions(init, apply)"
        )


def network(model: Any, variables: PyTree, x: Any) -> TracedNetwork:
    """Trace a network in evaluation and in training mode, and refuse what would be trained wrongly.

    Args:
      model: the network.
      variables: its collections, as shapes and dtypes.
      x: inputs of one batch, as shape and dtype.

    Returns:
      Its outputs and what it draws.

    Raises:
      ValueError: no training switch that we know beside batch statistics or dropout; random numbers or updates in
        evaluation mode; a collection that changes its shapes in a step; integer inputs that a layer multiplies.
    """
    raw: list[str] = []
    embedded: list[str] = []
    inputs: list[Any] = []
    tables: dict[int, int] = {}
    dropout: list[str] = []
    norms: list[str] = []

    def watch(next_call: Any, args: tuple, kwargs: dict, context: Any) -> Any:
        layer = context.module
        kind = type(layer).__name__
        if context.method_name == "__call__":
            if isinstance(layer, _ARITHMETIC) and args and _is_integer_array(args[0]):
                raw.append(kind)
            if isinstance(layer, nn.Embed):
                embedded.append(kind)
                for index in (i for i, own in enumerate(inputs) if args and args[0] is own):
                    tables[index] = min(layer.num_embeddings, tables.get(index, layer.num_embeddings))
            if _dropout_rate(layer) > 0:
                dropout.append(kind)
            if isinstance(layer, nn.BatchNorm):
                norms.append(kind)
        return next_call(*args, **kwargs)

    def evaluate(variables: PyTree, x: Any) -> Any:
        inputs.extend(jax.tree.leaves(x))
        return functions.Evaluation(model)(
            {k: v for k, v in variables.items() if k != "params"}, variables["params"], x
        )

    try:
        with nn.intercept_methods(watch):
            outputs = jax.eval_shape(evaluate, variables, x)
    except flax.errors.InvalidRngError as error:
        raise ValueError(f"model: expected no random numbers in evaluation mode; {_needs(model)}") from error
    except flax.errors.ModifyScopeVariableError as error:
        changed = str(error).splitlines()[0].split(" (http")[0]
        raise ValueError(f"model: expected no updates in evaluation mode; {_needs(model)}: {changed}") from error
    except Exception as error:
        with naming("model", f"expected a network of x {_words(x)}, got"):
            raise error
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(x)]
    if raw:
        integer = next((dtype for dtype in dtypes if jnp.issubdtype(dtype, jnp.integer)), dtypes[0])
        raise ValueError(
            f"dataset.train.x: expected floating inputs, got {integer}, which {raw[0]} multiplies; "
            "scale them first, such as x / 255"
        )
    if jnp.uint8 in dtypes and not embedded:  # bytes are pixels, whoever multiplies them
        raise ValueError("dataset.train.x: expected floating inputs, got uint8; scale them first, such as x / 255")
    statistics = ["BatchNorm"] if "batch_stats" in variables else norms
    can_train = functions.switches(model, True) or isinstance(
        functions.bare(model), Linearized
    )  # which says it does not
    if (dropout or statistics) and not can_train:
        raise ValueError(f"model: expected a training switch for its {(dropout + statistics)[0]}; {_needs(model)}")
    with naming("model", "expected a network that can be applied in training mode, got"):
        rngs, train_outputs, state = functions.trace_training(model, variables, x)
    for name, before in variables.items():
        if name != "params" and _shapes(before) != _shapes(state.get(name)):
            raise ValueError(f"model: expected collections of fixed shapes, got {name}, which a step changes")
    return TracedNetwork(outputs, train_outputs, rngs, tables)


def _is_integer_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray) and train.is_integer(value)


def _dropout_rate(layer: Any) -> float:
    rate = layer.rate if isinstance(layer, nn.Dropout) else getattr(layer, "dropout_rate", 0)
    return rate if isinstance(rate, int | float) else 0


def _needs(model: Any) -> str:
    found = functions.switches(model, True)
    return f"it has {', '.join(found)}" if found else f"give it {_SWITCH}; or use models.from_functions"


def _shapes(tree: PyTree) -> Any:
    return jax.tree.structure(tree), [leaf.shape for leaf in jax.tree.leaves(tree)]


def targets(name: str, y: Any, outputs: PyTree, loss: str | Loss) -> Any:
    """Return targets in the shape that the loss compares with the outputs.

    Args:
      name: "dataset.train.y" or "dataset.test.y".
      y: targets, checked by `batch`.
      outputs: of one batch (b, ...), as shapes and dtypes.
      loss: its name, or a function, which takes any targets as they are.

    Returns:
      Labels without a last axis of one; real targets in the shape of the outputs.

    Raises:
      ValueError: labels outside 0 ... k - 1, a shape or a dtype that does not fit the outputs.
    """
    if isinstance(loss, train.WeightedCrossEntropy):
        loss = "cross_entropy"
    if callable(loss):
        return y
    if not hasattr(y, "dtype"):
        raise ValueError(f"{name}: expected an array for loss {loss!r}, got {type(y).__name__}")
    if not isinstance(outputs, jax.ShapeDtypeStruct):
        kind = type(outputs).__name__
        raise ValueError(f"model: expected one array of outputs for loss {loss!r}, got {kind}; make loss a function")
    shape = outputs.shape[1:]  # of one example
    return _labels(name, y, shape) if train.is_integer(y) else _real(name, y, shape, loss)


def _labels(name: str, y: Any, shape: tuple[int, ...]) -> Any:
    if not shape or shape[-1] < 2:
        raise ValueError(
            f"{name}: expected real targets, such as y.astype(float), for a network of one output, got class labels "
            f"({y.dtype}); for classes give the network an output for each, or make loss a function"
        )
    if y.shape[1:] == (*shape[:-1], 1):
        y = y.reshape(y.shape[:-1])
    if y.shape[1:] != shape[:-1]:
        raise ValueError(
            f"{name}: expected class labels of shape {_each(shape[:-1])} or real targets of shape {_each(shape)} for "
            f"these outputs, got {y.dtype} of shape {y.shape}"
        )
    low, high = (int(f(y)) for f in (np.min, np.max)) if y.size else (0, 0)
    if low < 0 or high >= shape[-1]:
        raise ValueError(f"{name}: expected labels from 0 to {shape[-1] - 1}, as outputs, got {low} ... {high}")
    return y


def _real(name: str, y: Any, shape: tuple[int, ...], loss: str) -> Any:
    one = math.prod(shape) == math.prod(y.shape[1:]) == 1
    if y.shape[1:] != shape and not (one and loss == "mse"):
        labels = f"integer labels of shape {_each(shape[:-1])} or " if shape[-1:] > (1,) else ""
        raise ValueError(
            f"{name}: expected {labels}real targets of shape {_each(shape)} for these outputs, got {y.dtype} of shape "
            f"{y.shape}"
        )
    if loss == "cross_entropy":
        total = np.sum(np.asarray(y, np.float64), -1) if shape else np.zeros(1)
        if shape[-1:] <= (1,) or np.min(y) < 0 or not np.allclose(total, 1.0, atol=1e-3):
            raise ValueError(
                f"{name}: expected integer labels, or probabilities of at least two classes that sum to 1, for "
                f"cross_entropy, got {y.dtype} of shape {y.shape}"
            )
    return y.reshape(len(y), *shape)


def _each(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(["n", *map(str, shape)]) + ("" if shape else ",") + ")"


def loss(program: Program, seen: TracedNetwork, y: Any, size: int) -> None:
    """Check that a loss gives one real number for each example of a batch, in evaluation and in training.

    Args:
      program: with the loss, a name or a function.
      seen: the network's outputs for a batch.
      y: all targets (n, ...).
      size: examples of the batch.

    Raises:
      ValueError: it does not.
    """
    rows = jax.tree.map(lambda leaf: like(leaf, size), y)
    for outputs in (seen.outputs, seen.train_outputs):
        with naming("loss", "expected a function (outputs, targets) -> (n,), got"):
            losses = jax.eval_shape(train.per_example(program.loss), outputs, rows)
        found = getattr(losses, "shape", type(losses).__name__)
        if found != (size,) or not jnp.issubdtype(losses.dtype, jnp.floating):
            raise ValueError(f"loss: expected one real number for each example, shape ({size},), got {found}")


def optimizer(program: Program, params: PyTree) -> None:
    """Check that an optax object makes a step of gradient and params alone.

    Raises:
      ValueError: it does not.
    """
    if isinstance(program.optimizer, str):
        return

    def step(params: PyTree) -> PyTree:
        made = program.direction()
        return made.update(params, made.init(params), params)[0]

    with naming("optimizer", "expected an optax object that takes gradients and params, got"):
        added = jax.eval_shape(step, params)
    if _shapes(added) != _shapes(params):
        raise ValueError("optimizer: expected updates in the shapes of the params, got others")


def code(program: Program, variables: PyTree, data: Batch) -> Any:
    """Return a digest of a training step and an evaluation, with all that functions of the user read from outside.

    JAX finds compiled programs by the identity of network, loss and update. Without this, a number that one of them
    reads from outside and that was replaced would stay what it was in an earlier fit. None for the package's own.
    """
    own = isinstance(functions.bare(program.model), models.MLP | models.CNN | models.Transformer)
    named = isinstance(program.loss, str) and isinstance(program.optimizer, str)
    if own and named and program.update is None:
        return None

    def both(variables: PyTree, seed: Any, rate: Any, batch: Batch) -> PyTree:
        state = init_state(program, variables)
        trained = train_epoch(program, state, jax.random.key(seed), jnp.asarray(0), rate, batch)
        return trained, evaluate(program, variables, batch)

    batch = jax.tree.map(lambda leaf: like(leaf, program.batch_size), data)
    return functions.fingerprint(both, variables, 0, jnp.float32(0.0), batch)


def like(array: Any, size: int) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of a batch of `size` rows of an array, as JAX will hold it."""
    return jax.ShapeDtypeStruct((size, *array.shape[1:]), jax.dtypes.canonicalize_dtype(array.dtype))
