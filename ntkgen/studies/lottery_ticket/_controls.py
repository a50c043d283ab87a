"""The arms of the lottery-ticket study, what each changes, and how the controls' starting weights are made.

A ticket is a mask, values at its places, and their scale. A control that changes two of these shows nothing about
either. So controls come in pairs that differ in one thing alone (`COMPARISONS`); most are of Zhou et al. (2019).
"""

import functools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax

    from ntkgen import pruning
    from ntkgen.typing import PyTree


class ArmAtLevel(NamedTuple):
    """One arm at one level.

    Attributes:
      arm: a key of `ARMS`.
      keep: percent of the weights kept.
    """

    arm: str
    keep: float

    @property
    def label(self) -> str:
        """Return its name in tables of tests."""
        return f"{self.arm} {self.keep:g}%"

    @property
    def part(self) -> str:
        """Return the name of its training."""
        return f"{self.arm}_{self.keep:g}"


WHOLE = ArmAtLevel("ticket", 100)  # at 100 % all arms are the whole network


class ArmRecipe(NamedTuple):
    """What an arm is made of: its name in figures and printed tables, and its mask, values and scale."""

    label: str
    mask: str
    values: str
    scale: str


TICKET, LAYER_COUNTS, TOTAL = "the ticket's", "random, layer counts kept", "random, total kept"
OWN, SHUFFLED, NEW = "initialisation", "ticket's, shuffled", "drawn anew"
SURVIVORS, DENSE, STD, FAN_IN = "survivors'", "dense", "survivors' std", "kept fan-in"

# Values drawn anew are the same draws in all arms of a seed, biases included, times the factor that gives the scale.
# A random mask does not depend on the values: under it the initialisation is as good as a new draw.
ARMS = {
    "ticket": ArmRecipe("ticket", TICKET, OWN, SURVIVORS),
    "rewound": ArmRecipe("rewound ticket", "its own", "of the rewind epoch", SURVIVORS),
    "one_shot": ArmRecipe("one-shot pruning", "its own", OWN, SURVIVORS),
    "shuffled": ArmRecipe("ticket's mask, its values shuffled", TICKET, SHUFFLED, SURVIVORS),
    "reinit": ArmRecipe("ticket's mask, drawn anew, dense scale", TICKET, NEW, DENSE),
    "reinit_std": ArmRecipe("ticket's mask, drawn anew, survivors' std", TICKET, NEW, STD),
    "reinit_fan_in": ArmRecipe("ticket's mask, drawn anew, kept fan-in", TICKET, NEW, FAN_IN),
    "random_layer": ArmRecipe("random mask, layer counts, dense scale", LAYER_COUNTS, OWN, DENSE),
    "random_layer_shuffled": ArmRecipe("random mask, layer counts, ticket's values", LAYER_COUNTS, SHUFFLED, SURVIVORS),
    "random_layer_fan_in": ArmRecipe("random mask, layer counts, kept fan-in", LAYER_COUNTS, NEW, FAN_IN),
    "random": ArmRecipe("random mask, total count, dense scale", TOTAL, OWN, DENSE),
    "random_shuffled": ArmRecipe("random mask, total count, ticket's values", TOTAL, SHUFFLED, SURVIVORS),
    "random_fan_in": ArmRecipe("random mask, total count, kept fan-in", TOTAL, NEW, FAN_IN),
    "other_order": ArmRecipe("ticket, other batch order", "its own", OWN, SURVIVORS),
}
CHAINS = ("rewound", "one_shot", "other_order")  # prune for themselves
CONTROLS = tuple(arm for arm in ARMS if arm != "ticket" and arm not in CHAINS)  # made from each ticket

# What changes -> pairs of arms that differ in this alone. Masks are compared at equal scale: with the same values, and
# with the same rule for the scale.
COMPARISONS = {
    "values": (("ticket", "shuffled"),),
    "scale": (
        ("reinit_std", "reinit"),
        ("reinit_fan_in", "reinit"),
        ("random_layer_fan_in", "random_layer"),
        ("random_fan_in", "random"),
    ),
    "mask": (("shuffled", "random_layer_shuffled"), ("reinit_fan_in", "random_layer_fan_in")),
    "layer counts": (("random_layer_fan_in", "random_fan_in"),),
}


class ControlKeys(NamedTuple):
    """A key of every seed for its random masks, and one for the order of shuffled values."""

    masks: "jax.Array"
    values: "jax.Array"


def control_start(
    arm: str,
    ticket: "PyTree",
    initial: "PyTree",
    redrawn: "PyTree",
    keys: ControlKeys,
    prunable: "pruning.Prunable",
) -> "tuple[PyTree, PyTree]":
    """Return what a control's training begins with.

    Args:
      arm: one of `CONTROLS`.
      ticket: the ticket's masks, with a leading seed axis like all trees here.
      initial: variables of the ticket's initialisation.
      redrawn: variables of another draw.
      keys: of every seed.
      prunable: which leaves are pruned.

    Returns:
      (variables, masks); pruned weights are zero.
    """
    import jax

    from ntkgen import pruning

    _, mask, values, scale = ARMS[arm]
    scope = "global" if mask == TOTAL else "layer"
    masks = ticket
    if mask != TICKET:
        masks = jax.vmap(functools.partial(pruning.shuffle_masks, scope=scope, prunable=prunable))(keys.masks, ticket)
    variables = redrawn if values == NEW else initial
    params = variables["params"]
    if values == SHUFFLED:
        shuffle = functools.partial(pruning.shuffle_values, scope=scope, prunable=prunable)
        params = jax.vmap(shuffle)(keys.values, params, ticket, masks)
    elif scale == STD:
        params = jax.vmap(functools.partial(pruning.match_std, prunable=prunable))(params, initial["params"], masks)
    elif scale == FAN_IN:
        params = jax.vmap(functools.partial(pruning.scale_to_kept_fan_in, prunable=prunable))(params, masks)
    return {**variables, "params": pruning.apply_masks(params, masks)}, masks
