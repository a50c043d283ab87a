"""What a measurement is, and how it is taken of all seeds of an arm."""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ntkgen import functions, models, train
from ntkgen.measure._seeds import alive_seeds, each_seed
from ntkgen.typing import Array, Loss, PyTree


class Trained(NamedTuple):
    """Trained networks of one model, one for each seed.

    Attributes:
      model: the network.
      variables: trained, every leaf leads with the seed axis (S,).
      initial: variables before the first step, likewise.
      keys: (S,) what measurements draw from, such as `jax.vmap(train.measurement_key)(seeds)`.
      loss: (outputs, targets) -> (n,), what the networks were trained with; a function of a module.
    """

    model: Any
    variables: PyTree
    initial: PyTree
    keys: Array
    loss: Loss = train.cross_entropy

    @classmethod
    def of(cls, model: Any, result: Any, config: train.Config, seeds: int | Sequence[int]) -> "Trained":
        """Return the networks of `result = ensemble.fit(model, dataset, config, seeds)`, with their loss.

        Raises:
          ValueError: the result has another number of seeds.
        """
        own = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
        if len(own) != len(result.diverged):
            raise ValueError(f"seeds: expected the {len(result.diverged)} of the result, got {len(own)}")
        keys = jax.vmap(train.measurement_key)(jnp.asarray(own))
        return cls(model, result.variables, result.initial, keys, train.per_example(config.loss))


class Network(NamedTuple):
    """One trained network: its variables, those before the first step, and a key of its own for this measurement."""

    variables: PyTree
    initial: PyTree
    key: Array


class Examples(NamedTuple):
    """Training and test examples: inputs (n, ...), an array or a dict or tuple of such, and targets (n, ...)."""

    x: PyTree
    y: PyTree
    x_test: PyTree
    y_test: PyTree


Columns = Mapping[str, Any]  # name -> scalar


def nothing_undefined(model: Any, loss: Loss) -> dict[str, str]:
    """Return that all columns are defined, for every network and loss."""
    return {}


@dataclass(frozen=True)
class Measurement:
    """One measurement of a trained network.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> from ntkgen import measure, models, train
      >>> def largest_bias(network, examples, *, model, loss):
      ...     return {"bias": jnp.abs(network.variables["params"]["dense0"]["bias"]).max()}
      >>> largest = measure.Measurement("largest_bias", "Largest bias of the first layer.", {"bias": "1"}, largest_bias)
      >>> model, keys = models.MLP(4, depth=2, num_classes=2), jax.random.split(jax.random.key(0), 3)
      >>> variables = jax.vmap(lambda key: models.init(model, key, (3,)))(keys)
      >>> split = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int))
      >>> trained, data = measure.Trained(model, variables, variables, keys), SimpleNamespace(train=split, test=split)
      >>> measure.take(largest, trained, data)["bias"].shape
      (3,)

    Attributes:
      name: such as "sharpness".
      definition: what is measured, with formula and source.
      columns: column -> unit. The first is the value; others are further values or say how good they are.
      function: of one network, (network, examples, *, model, loss, **options) -> {column: scalar array}, with a
        `Network` and `Examples`; a function of a module, since compiled programs are found by it.
      options: hashable settings of the function and their defaults.
      direction: column -> +1 where larger is claimed to generalize worse, -1 better, 0 where nothing is claimed;
        columns that are not given have 0.
      host_driven: the function compiles its parts itself (see `each_seed`).
      batched: the function may run under `vmap`; otherwise seeds go one after another, on the host.
      undefined: (model, loss) -> {column: reason} of what is NaN for such networks.
    """

    name: str
    definition: str
    columns: Mapping[str, str]
    function: Callable[..., Columns]
    options: Mapping[str, Any] = field(default_factory=dict)
    direction: Mapping[str, int] = field(default_factory=dict)
    host_driven: bool = False
    batched: bool = True
    undefined: Callable[[Any, Loss], dict[str, str]] = nothing_undefined

    def __post_init__(self) -> None:
        """Complete the directions, after a check."""
        strange = sorted(set(self.direction) - set(self.columns))
        if strange or not set(self.direction.values()) <= {-1, 0, 1}:
            raise ValueError(f"direction: expected columns with -1, 0 or 1, got {dict(self.direction)}")
        object.__setattr__(self, "direction", dict.fromkeys(self.columns, 0) | dict(self.direction))


def take(
    measurement: Measurement, trained: Trained, data: Any, *, strategy: str = "auto", **options: Any
) -> dict[str, np.ndarray]:
    """Return a measurement of every seed, column -> (S,) float64.

    Compiled programs serve all networks of equal model, shapes and options. Matrix products run in the highest
    precision.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from types import SimpleNamespace
      >>> from ntkgen import measure, models, train
      >>> model, keys = models.MLP(4, depth=2, num_classes=2), jax.random.split(jax.random.key(0), 3)
      >>> variables = jax.vmap(lambda key: models.init(model, key, (3,)))(keys)
      >>> trained = measure.Trained(model, jax.tree.map(lambda leaf: 2 * leaf, variables), variables, keys)
      >>> split = train.Batch(jnp.ones((8, 3)), jnp.zeros(8, int))
      >>> found = measure.take(measure.MEASUREMENTS["movement"], trained, SimpleNamespace(train=split, test=split))
      >>> found["relative_distance"].round(3).tolist()
      [1.0, 1.0, 1.0]

    Args:
      measurement: what to measure.
      trained: the networks.
      data: with .train and .test, each with .x and .y.
      strategy: as in `each_seed`.
      **options: in place of the measurement's defaults.

    Returns:
      The columns in the measurement's order. A seed with a number that is not finite has NaN in all of them.

    Raises:
      ValueError: an option is unknown, or changes the columns.
    """
    strange = sorted(set(options) - set(measurement.options))
    if strange:
        raise ValueError(f"{measurement.name}: expected options of {sorted(measurement.options)}, got {strange}")
    own = zlib.crc32(measurement.name.encode())  # measurements draw independently of each other
    keys = jax.vmap(lambda key: jax.random.fold_in(key, own))(trained.keys)
    networks = Network(trained.variables, trained.initial, keys)
    alive = alive_seeds((networks,))
    if not alive.any():
        return {name: np.full(len(alive), np.nan) for name in measurement.columns}
    settings = {**measurement.options, **options}
    settings |= {"model": functions.hashable(trained.model), "loss": trained.loss}
    examples = jax.tree.map(jnp.asarray, Examples(data.train.x, data.train.y, data.test.x, data.test.y))
    with jax.default_matmul_precision("highest"):
        found = each_seed(
            measurement.function,
            (networks,),
            (examples,),
            settings,
            host_driven=measurement.host_driven or not measurement.batched,
            strategy=strategy if measurement.batched else "sequential",
        )
    if set(found) != set(measurement.columns):
        names = ", ".join(measurement.columns)
        raise ValueError(
            f"{measurement.name}: expected the columns {names}, got {', '.join(found)}; for "
            "others make a measurement: measure.sharpness_at, perturbation_at or prunability_at"
        )
    return {name: np.where(alive, np.asarray(found[name], np.float64), np.nan) for name in measurement.columns}


def function_of(network: Network, model: Any) -> tuple[Callable, PyTree]:
    """Return f(params, x) and the params of a trained network."""
    return models.apply_fn(model, network.variables), network.variables["params"]


def first(x: PyTree, count: int | None) -> PyTree:
    """Return the first examples of an array or a tree of arrays; all where count is None."""
    return jax.tree.map(lambda leaf: leaf[:count], x)


def outputs(f: Callable, params: PyTree, x: PyTree, chunk: int = 1000) -> Array:
    """Return f(params, x), some examples at once: memory does not grow with their number."""
    num = len(jax.tree.leaves(x)[0])
    whole = num // chunk * chunk
    if num <= chunk:
        return f(params, x)
    parts = jax.tree.map(lambda leaf: leaf[:whole].reshape(-1, chunk, *leaf.shape[1:]), x)
    found = jax.lax.map(lambda part: f(params, part), parts)
    found = found.reshape(whole, *found.shape[2:])
    rest = jax.tree.map(lambda leaf: leaf[whole:], x)
    return found if whole == num else jnp.concatenate([found, f(params, rest)])


def percent_correct(f: Callable, params: PyTree, x: PyTree, y: Array) -> Array:
    """Return the percentage of examples that are classified right -> ()."""
    return 100 * jnp.mean(train.correct(outputs(f, params, x), y))
