"""Scores, masks that keep exactly k weights, iterative pruning around a training function, overlap of masks.

Use `magnitude_masks` for one mask and `iterative_pruning` for lottery tickets; `sparse_init` has the controls that
change one thing about a ticket.
"""

from ntkgen.pruning._iterative import iterative_pruning, rewinding, snapshot
from ntkgen.pruning._masks import apply_masks, full_masks, magnitude_masks, shuffle_masks
from ntkgen.pruning._overlap import overlap
from ntkgen.pruning._prunable import SCOPES, Prunable, is_kernel, kernels, layers_of
from ntkgen.pruning._sparse_init import match_std, scale_to_kept_fan_in, shuffle_values
from ntkgen.pruning._unit_matching import match_units, permute_units

__all__ = [
    "SCOPES",
    "Prunable",
    "apply_masks",
    "full_masks",
    "is_kernel",
    "iterative_pruning",
    "kernels",
    "layers_of",
    "magnitude_masks",
    "match_std",
    "match_units",
    "overlap",
    "permute_units",
    "rewinding",
    "scale_to_kept_fan_in",
    "shuffle_masks",
    "shuffle_values",
    "snapshot",
]
