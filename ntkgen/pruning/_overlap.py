"""What two tickets share, layer by layer, beside what independent ones would."""

from typing import NamedTuple

import numpy as np
import scipy.stats

from ntkgen import tree
from ntkgen.pruning import _masks
from ntkgen.pruning._prunable import split_layers
from ntkgen.typing import PyTree


class Overlap(NamedTuple):
    """What two tickets share in one layer.

    Attributes:
      jaccard: weights kept by both / kept by either; NaN where neither keeps any.
      chance: expectation of the Jaccard index for two independent, uniformly random masks of these counts.
      chance_std: its standard deviation.
      size: weights of the layer.
      kept: weights kept by the first and by the second ticket.
    """

    jaccard: float
    chance: float
    chance_std: float
    size: int
    kept: tuple[int, int]


def overlap(
    masks: PyTree, other: PyTree, *, prunable: _masks.Prunable = _masks.is_kernel, roles: PyTree | None = None
) -> dict[str, Overlap]:
    """Compare two tickets layer by layer; runs on the host.

    Example:
      >>> import numpy as np
      >>> from ntkgen import pruning
      >>> one, other = ({"kernel": np.array([kept], bool)} for kept in ([1, 1, 0, 0], [1, 0, 1, 0]))
      >>> found = pruning.overlap(one, other)["kernel"]
      >>> round(found.jaccard, 3), round(found.chance, 3), found.kept
      (0.333, 0.389, (2, 2))

    Args:
      masks: one network's masks, no seed axis.
      other: masks of the same structure.
      prunable: which leaves count as layers.
      roles: what the leaves are, default `roles.of(masks)`; stacked layers count each by itself.

    Returns:
      For each layer, by name, the overlap beside its chance level.

    Raises:
      ValueError: the structures differ, or nothing is prunable.
    """
    tree.check_like("other", other, masks)
    layers = split_layers("masks", masks, prunable, roles)
    others = split_layers("other", other, prunable, roles)
    found = {}
    for name in layers:
        a, b = (np.asarray(named[name]).astype(bool) for named in (layers, others))
        kept, both = (int(a.sum()), int(b.sum())), int((a & b).sum())
        jaccard = both / (sum(kept) - both) if any(kept) else float("nan")
        found[name] = Overlap(jaccard, *jaccard_chance(a.size, *kept), a.size, kept)
    return found


def jaccard_chance(size: int, kept: int, other: int) -> tuple[float, float]:
    """Return expectation and standard deviation of the Jaccard index of two independent random subsets.

    The intersection i is hypergeometric, the index i / (kept + other - i). Both moments are sums over its
    distribution, cut off twelve standard deviations from the mean.

    Example:
      >>> from ntkgen import pruning
      >>> expectation, std = pruning.jaccard_chance(size=4, kept=2, other=2)
      >>> round(expectation, 3), round(std, 3)
      (0.389, 0.299)

    Args:
      size: of the set.
      kept: elements of the one subset.
      other: elements of the other.

    Returns:
      (expectation, standard deviation); NaN for two empty subsets.
    """
    if kept + other == 0:
        return float("nan"), float("nan")
    mean = kept * other / size
    reach = 12 * np.sqrt(mean * (1 - kept / size) * (1 - other / size) * size / max(size - 1, 1)) + 1
    low, high = max(0, kept + other - size, int(mean - reach)), min(kept, other, int(mean + reach) + 1)
    both = np.arange(low, high + 1)
    weight = scipy.stats.hypergeom.pmf(both, size, kept, other)
    weight /= weight.sum()
    index = both / (kept + other - both)
    chance = float(weight @ index)
    return chance, float(np.sqrt(weight @ (index - chance) ** 2))
