"""Which hidden unit of one network is which of another: matching by weights, and reordering.

Hidden units may change places without changing the function, so two networks can only be compared weight by weight
once their units are matched (Ainsworth et al. 2023, weight matching). Networks are chains: every layer's outputs feed
the next layer's inputs. A layer holds a dense kernel (in, out) or a convolution kernel (height, width, in, out), the
bias (out,) if any, and may be followed by a normalisation with one number for each unit. A dense layer behind a
convolution takes its flattened outputs (height, width, channel), channels last. Networks with a residual path are not
covered. Everything runs on the host.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize

from ntkgen import tree
from ntkgen.typing import PyTree

MAX_SWEEPS = 100  # of the coordinate ascent in `match_units`; each raises a bounded objective, a handful suffices


class _Layer(NamedTuple):
    """A layer in the shape that all kinds share: kernel (positions, in, out), vectors (out,) by (owner, name)."""

    kernel: np.ndarray
    shape: tuple[int, ...]  # of the kernel as it came
    vectors: dict[tuple[str, str], np.ndarray]


def match_units(
    params: PyTree, other: PyTree, layers: Sequence[str], norms: Mapping[str, str] | None = None
) -> list[np.ndarray]:
    """Find the order of the other network's hidden units that brings its params nearest to those of the first.

    Maximises the inner product of all params over one permutation for each hidden layer (Ainsworth et al. 2023,
    algorithm 1). A forward pass over the layers, each matched by its incoming weights alone (the inputs need no
    matching), is the start; then each layer in turn is matched exactly given its neighbours, until nothing improves.
    The result is a local maximum.

    Example:
      >>> import numpy as np
      >>> from ntkgen import pruning
      >>> params = {
      ...     "hidden": {"kernel": np.array([[1.0, 5.0]]), "bias": np.zeros(2)},
      ...     "head": {"kernel": np.array([[2.0], [3.0]]), "bias": np.zeros(1)},
      ... }
      >>> swapped = pruning.permute_units(params, [np.array([1, 0])], ["hidden", "head"])
      >>> [order.tolist() for order in pruning.match_units(params, swapped, ["hidden", "head"])]
      [[1, 0]]

    Args:
      params: {layer: {"kernel", "bias"}}, no seed axis, see the module's text; params of the normalisations beside.
      other: params of the same structure.
      layers: names of all layers in the order of the forward pass, the output layer last.
      norms: layer -> name of the normalisation behind it.

    Returns:
      For each hidden layer the permutation (units,) that `permute_units` applies to `other`, and to its masks.

    Raises:
      ValueError: the params are not such a chain of layers, differ in structure, or are not finite.
    """
    a, b = _chain("params", params, layers, norms), _chain("other", other, layers, norms)
    tree.check_like("other", other, params)
    identity = [np.arange(layer.kernel.shape[-1]) for layer in a]
    order = list(identity)  # the output layer's stays the identity

    def gain(i: int, outgoing: bool) -> np.ndarray:
        """Inner products (units, units) of layer i's units, given the neighbours' current order."""
        own = b[i].kernel if i == 0 else b[i].kernel[:, order[i - 1]]
        total = _products(a[i].kernel.reshape(-1, len(order[i])), own.reshape(-1, len(order[i])))
        for name, vector in a[i].vectors.items():
            total = total + np.outer(vector, b[i].vectors[name])
        if outgoing:
            following = [layer.kernel.transpose(0, 2, 1) for layer in (a[i + 1], b[i + 1])]  # (positions, out, in)
            following[1] = following[1][:, order[i + 1]]
            total = total + _products(*(kernel.reshape(-1, len(order[i])) for kernel in following))
        return total

    def assign(products: np.ndarray) -> np.ndarray:
        return scipy.optimize.linear_sum_assignment(products, maximize=True)[1]

    hidden = range(len(layers) - 1)
    for i in hidden:
        order[i] = assign(gain(i, outgoing=False))
    for _ in range(MAX_SWEEPS):
        improved = False
        for i in hidden:
            products = gain(i, outgoing=True)
            new = assign(products)
            step = products[identity[i], new].sum() - products[identity[i], order[i]].sum()
            if step > 1e-12 * np.abs(products).max():  # beyond rounding, or ties would be swapped for ever
                order[i], improved = new, True
        if not improved:
            break
    return order[:-1]


def permute_units(
    params: PyTree, permutations: Sequence[np.ndarray], layers: Sequence[str], norms: Mapping[str, str] | None = None
) -> PyTree:
    """Reorder the hidden units: params, which compute the same function afterwards, or masks.

    With batch norm the running statistics must follow, see `permute_statistics`.

    Example:
      >>> import numpy as np
      >>> from ntkgen import pruning
      >>> params = {
      ...     "hidden": {"kernel": np.array([[1.0, 5.0]]), "bias": np.zeros(2)},
      ...     "head": {"kernel": np.array([[2.0], [3.0]]), "bias": np.zeros(1)},
      ... }
      >>> swapped = pruning.permute_units(params, [np.array([1, 0])], ["hidden", "head"])
      >>> swapped["hidden"]["kernel"].tolist(), swapped["head"]["kernel"].tolist()
      ([[5.0, 1.0]], [[3.0], [2.0]])

    Args:
      params: as `match_units` takes them, or masks of the same structure.
      permutations: for each hidden layer an array (units,); new unit u is old unit permutation[u].
      layers: names of all layers in the order of the forward pass.
      norms: layer -> name of the normalisation behind it.

    Returns:
      The same structure with permuted numpy arrays.

    Raises:
      ValueError: params is not such a chain of layers, or the permutations do not fit it.
    """
    chain = _chain("params", params, layers, norms, numbers=False)
    units = [layer.kernel.shape[-1] for layer in chain[:-1]]
    if [sorted(np.asarray(p).tolist()) for p in permutations] != [list(range(n)) for n in units]:
        raise ValueError(f"permutations: expected one each of {units} units, got {[len(p) for p in permutations]}")
    for i, permutation in enumerate(permutations):
        vectors = {name: vector[permutation] for name, vector in chain[i].vectors.items()}
        chain[i] = chain[i]._replace(kernel=chain[i].kernel[..., permutation], vectors=vectors)
        chain[i + 1] = chain[i + 1]._replace(kernel=chain[i + 1].kernel[:, permutation])
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, layer in zip(layers, chain, strict=True):
        found.setdefault(name, {})["kernel"] = layer.kernel.reshape(layer.shape)
        for (owner, vector), values in layer.vectors.items():
            found.setdefault(owner, {})[vector] = values
    return found


def permute_statistics(
    statistics: PyTree, permutations: Sequence[np.ndarray], layers: Sequence[str], norms: Mapping[str, str]
) -> PyTree:
    """Reorder what normalisations keep for each unit (`batch_stats`), as `permute_units` does the params.

    Example:
      >>> import numpy as np
      >>> from ntkgen import pruning
      >>> statistics = {"norm": {"mean": np.array([1.0, 5.0])}}
      >>> swapped = pruning.permute_statistics(statistics, [np.array([1, 0])], ["hidden", "head"], {"hidden": "norm"})
      >>> swapped["norm"]["mean"].tolist()
      [5.0, 1.0]

    Args:
      statistics: {norm: {name: (units,)}}.
      permutations: as in `permute_units`.
      layers: as in `permute_units`.
      norms: layer -> name of the normalisation behind it.

    Returns:
      The same structure with permuted numpy arrays.

    Raises:
      ValueError: the statistics are not those of the normalisations.
    """
    orders = {norms[layer]: order for layer, order in zip(layers, permutations, strict=False) if layer in norms}
    if set(statistics) != set(orders):
        raise ValueError(f"statistics: expected those of {sorted(orders)}, got {sorted(statistics)}")
    for norm, leaves in statistics.items():
        shapes = {name: np.shape(leaf) for name, leaf in leaves.items()}
        if set(shapes.values()) != {np.shape(orders[norm])}:
            raise ValueError(f"statistics: expected {len(orders[norm])} numbers each in {norm}, got {shapes}")
    return {
        norm: {name: np.asarray(leaf)[orders[norm]] for name, leaf in own.items()} for norm, own in statistics.items()
    }


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of all columns of a with all of b."""
    return a.T @ b


def _chain(
    argument: str, params: PyTree, layers: Sequence[str], norms: Mapping[str, str] | None, numbers: bool = True
) -> list[_Layer]:
    """Take a network apart into its layers, after a check; in float64 unless `numbers` is False."""
    norms = norms or {}
    # A normalisation without params (the paper's) has no entry among them.
    names = {*layers, *(norm for norm in norms.values() if norm in params)}
    if len(set(layers)) < len(layers) or set(params) != names or not set(norms) <= set(layers):
        raise ValueError(f"layers: expected the names {sorted(params)} of {argument}, each once, got {list(layers)}")
    chain: list[_Layer] = []
    inputs, flattens = None, False
    for layer in layers:
        owners = [layer, *([norms[layer]] if norms.get(layer) in params else [])]
        vectors = {
            (owner, name): np.asarray(leaf, np.float64 if numbers else None)
            for owner in owners
            for name, leaf in params[owner].items()
        }
        kernel = vectors.pop((layer, "kernel"), np.zeros(()))
        shape = kernel.shape
        own = sorted(name for owner, name in vectors if owner == layer)
        fits = len(shape) in (2, 4) and own in ([], ["bias"])
        fits = fits and all(vector.shape == shape[-1:] for vector in vectors.values())
        if fits and inputs is not None:
            # Only a dense layer behind a convolution sees each unit at several places.
            after_flattening = flattens and len(shape) == 2 and shape[0] % inputs == 0
            fits = after_flattening or (shape[-2] == inputs and (len(shape) == 2 or flattens))
        if not fits:
            shapes = {"kernel": shape, **{name: vector.shape for (_, name), vector in vectors.items()}}
            needed = f"({inputs or 'in'}, out)"
            raise ValueError(f"{argument}: expected {layer} to hold a kernel {needed} and a bias (out,), got {shapes}")
        if numbers and not all(np.isfinite(leaf).all() for leaf in (kernel, *vectors.values())):
            raise ValueError(f"{argument}: expected finite weights, got others in {layer}")
        chain.append(_Layer(kernel.reshape(-1, inputs or shape[-2], shape[-1]), shape, vectors))
        inputs, flattens = shape[-1], len(shape) == 4
    return chain
