"""Arms of a factorial design: levels, groups and pairs of arms that differ in one hyperparameter.

Public as `ntkgen.stats.design`.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Real
from typing import NamedTuple

import numpy as np

from ntkgen.stats._check import check


class Factor(NamedTuple):
    """One hyperparameter with at least two levels, and the arms that differ in it alone.

    ``codes`` (arms,) is the index of an arm's level. ``groups`` (arms,) numbers the groups of arms that agree in all
    other hyperparameters; an arm without such a partner has -1. ``first`` and ``second`` (pairs,) are the two arms of
    every pair within a group, the lower level first, and ``pair_groups`` (pairs,) is the group of the pair.
    """

    name: str
    levels: tuple
    codes: np.ndarray
    groups: np.ndarray
    first: np.ndarray
    second: np.ndarray
    pair_groups: np.ndarray


@dataclass(frozen=True, eq=False)
class Design:
    """Settings of all arms with their groups and pairs, computed once for many measurements."""

    num_arms: int
    factors: tuple[Factor, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the hyperparameters that vary, in the order of the settings."""
        return tuple(factor.name for factor in self.factors)

    def factor(self, name: str) -> Factor:
        """Return the hyperparameter of this name.

        Raises:
          ValueError: no hyperparameter of this name varies.
        """
        check(name in self.names, f"hyperparameter: expected one of {self.names}, got {name!r}")
        return self.factors[self.names.index(name)]

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """Both arms of every pair of arms."""
        first, second = np.triu_indices(self.num_arms, 1)
        return first, second

    def dummies(self, order: int = 1) -> np.ndarray:
        """Return the columns of a linear model of the hyperparameters, shape (arms, columns), the constant first.

        Order 1 has main effects, order 2 also all products of two hyperparameters. Columns may depend linearly on
        others, as they do in a partial factorial.
        """
        check(order in (1, 2), f"order: expected 1 or 2, got {order}")
        main = [(factor.codes[:, None] == np.arange(1, len(factor.levels))).astype(float) for factor in self.factors]
        parts = [np.ones((self.num_arms, 1)), *main]
        if order == 2:
            for i, one in enumerate(main):
                parts += [(one[:, :, None] * other[:, None]).reshape(len(one), -1) for other in main[:i]]
        return np.concatenate(parts, 1)


Settings = Design | Sequence[Mapping[str, Hashable]]


def design(settings: Settings) -> Design:
    """Return the design of a population of arms: its levels, and the arms that differ in one hyperparameter alone.

    Make it once and pass it wherever settings are asked for. A hyperparameter with a single value is left out.

    Example:
      >>> plan = design([{"width": w, "rate": r} for w in (64, 128) for r in (0.1, 0.2, 0.4)])
      >>> plan.names, plan.factor("rate").levels, plan.factor("width").groups.tolist()
      (('width', 'rate'), (0.1, 0.2, 0.4), [0, 1, 2, 0, 1, 2])

    Args:
      settings: for each arm a mapping from hyperparameter to value, all with the same names; the values are hashable.
        The design may be a full or a partial factorial. Numbers are ordered by size, other values as they come.

    Returns:
      The design. Given a design, that one.

    Raises:
      ValueError: no arms, names that differ, or two arms with the same settings (their runs belong in one arm).
    """
    if isinstance(settings, Design):
        return settings
    check(len(settings) > 0, "settings: expected at least one arm, got none")
    names = list(settings[0])
    for arm, setting in enumerate(settings):
        check(set(setting) == set(names), f"settings: expected {names} in every arm, got {list(setting)} in arm {arm}")
    levels = [_levels([setting[name] for setting in settings]) for name in names]
    index = [{value: code for code, value in enumerate(values)} for values in levels]
    codes = np.array(
        [[index[k][setting[name]] for k, name in enumerate(names)] for setting in settings], dtype=int
    ).reshape(len(settings), len(names))
    seen: dict[tuple, int] = {}
    for arm, row in enumerate(map(tuple, codes.tolist())):
        same = seen.setdefault(row, arm)
        check(same == arm, f"settings: expected different settings, got the same in arms {same} and {arm}")
    varied = [k for k, values in enumerate(levels) if len(values) > 1]
    factors = tuple(_factor(names[k], tuple(levels[k]), codes, k) for k in varied)
    return Design(len(settings), factors)


def _levels(values: list) -> list:
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if all(isinstance(value, Real) for value in distinct) else distinct


def _factor(name: str, levels: tuple, codes: np.ndarray, column: int) -> Factor:
    others = np.delete(codes, column, 1)
    _, labels, sizes = np.unique(others, axis=0, return_inverse=True, return_counts=True)
    labels = labels.reshape(-1)
    kept = sizes > 1
    numbers = np.where(kept, np.cumsum(kept) - 1, -1)
    groups, own = numbers[labels], codes[:, column]
    same = (groups[:, None] == groups[None]) & (groups[:, None] >= 0) & (own[:, None] < own[None])
    first, second = np.nonzero(same)
    return Factor(name, levels, own, groups, first, second, groups[first])
