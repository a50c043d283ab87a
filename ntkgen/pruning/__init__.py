"""Scores, masks that keep exactly k weights, iterative pruning around a training function, overlap of masks.

Use `magnitude_masks` for one mask, `masks_from_scores` with `snip` and other scores, and `iterative_pruning` for
lottery tickets. `shuffle_masks`, `shuffle_values`, `match_std` and `scale_to_kept_fan_in` make controls, each of which
changes one thing about a ticket. Use `overlap` to compare masks, after `match_units` where two networks do not share
their initialisation.
"""

from ntkgen.pruning._iterative import (
    Level,
    Ranking,
    Schedule,
    Score,
    Train,
    TrainedLevel,
    iterative_pruning,
    rewinding,
    snapshot,
)
from ntkgen.pruning._masks import (
    apply_masks,
    full_masks,
    gradient_magnitude,
    keep_count,
    magnitude,
    magnitude_masks,
    masks_from_scores,
    random,
    shuffle_masks,
    snip,
    sparsity_profile,
    weight_change,
)
from ntkgen.pruning._overlap import Overlap, jaccard_chance, overlap
from ntkgen.pruning._prunable import SCOPES, Prunable, is_kernel, kernels, layers_of
from ntkgen.pruning._sparse_init import match_std, scale_to_kept_fan_in, shuffle_values
from ntkgen.pruning._unit_matching import match_units, permute_statistics, permute_units

__all__ = [
    "SCOPES",
    "Level",
    "Overlap",
    "Prunable",
    "Ranking",
    "Schedule",
    "Score",
    "Train",
    "TrainedLevel",
    "apply_masks",
    "full_masks",
    "gradient_magnitude",
    "is_kernel",
    "iterative_pruning",
    "jaccard_chance",
    "keep_count",
    "kernels",
    "layers_of",
    "magnitude",
    "magnitude_masks",
    "masks_from_scores",
    "match_std",
    "match_units",
    "overlap",
    "permute_statistics",
    "permute_units",
    "random",
    "rewinding",
    "scale_to_kept_fan_in",
    "shuffle_masks",
    "shuffle_values",
    "snapshot",
    "snip",
    "sparsity_profile",
    "weight_change",
]
