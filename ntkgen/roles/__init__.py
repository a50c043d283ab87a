"""The role of every leaf of params: kernel, bias, scale or embedding; its output units and stacked layers.

Use `of` to decide by names and shapes, and `from_model` where the module is at hand. An ambiguous leaf is refused; the
user then names its axes.
"""

from ntkgen.roles._roles import ROLES, check_decided, from_model, given, of, tree_name
from ntkgen.roles._rules import Leaf

__all__ = [
    "ROLES",
    "Leaf",
    "check_decided",
    "from_model",
    "given",
    "of",
    "tree_name",
]
