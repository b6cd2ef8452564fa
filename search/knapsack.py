"""The exact front of an additive model: for every total cost, the smallest total sensitivity.

Each parameter picks one choice; costs and sensitivities add up. That is the multiple-choice knapsack problem (Sinha and
Zoltners, 1979), solved for all budgets at once by dynamic programming on the grid that all cost differences
share. Bytes are integers with a large common divisor, so the grid is exact; where it would be too long it is
coarsened by rounding to the nearest level, and :attr:`AdditiveFront.exact` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MOST_CELLS = 30_000_000
"""Parameters x grid levels: one byte each, and a few passes over them."""


@dataclass(frozen=True)
class AdditiveFront:
    """Every non-dominated total, ascending in cost.

    Attributes:
        costs: float64 ``(members,)``, totals of the members' choices; rounded on a coarsened grid.
        sensitivities: float64 ``(members,)``, descending.
        exact: whether the grid held every cost difference exactly.
    """

    costs: np.ndarray
    sensitivities: np.ndarray
    exact: bool
    _picked: np.ndarray
    _levels: np.ndarray
    _steps: tuple[np.ndarray, ...]
    _kept: tuple[np.ndarray, ...]

    def __len__(self) -> int:
        return len(self.costs)

    def points(self, members: np.ndarray) -> np.ndarray:
        """The choice of every parameter for some members, int64 ``(members, parameters)``."""
        levels = self._levels[members].astype(np.int64)
        chosen = np.zeros((len(levels), len(self._steps)), dtype=np.int64)
        for parameter in range(len(self._steps) - 1, -1, -1):
            picks = self._picked[parameter, levels]
            chosen[:, parameter] = self._kept[parameter][picks]
            levels -= self._steps[parameter][picks]
        return chosen


def exact_front(
    costs: Sequence[np.ndarray], sensitivities: Sequence[np.ndarray], most_cells: int = MOST_CELLS
) -> AdditiveFront:
    """All non-dominated (total cost, total sensitivity) of one choice a parameter.

    Args:
        costs: float64 or int64 ``(choices,)`` a parameter; integers for an exact grid.
        sensitivities: float64 ``(choices,)`` a parameter.
        most_cells: parameters x grid levels above which the grid is coarsened.
    """
    kept = tuple(
        _undominated(cost, sensitivity) for cost, sensitivity in zip(costs, sensitivities, strict=True)
    )
    cheap = [np.asarray(cost, dtype=np.float64)[k] for cost, k in zip(costs, kept, strict=True)]
    sensitivity = [
        np.asarray(sensitivity, dtype=np.float64)[k]
        for sensitivity, k in zip(sensitivities, kept, strict=True)
    ]
    steps, unit, exact = _grid([cost - cost.min() for cost in cheap], most_cells)
    best, picked = _sweep(steps, sensitivity)
    levels = _front_levels(best)
    totals = sum(float(cost.min()) for cost in cheap) + unit * levels
    return AdditiveFront(totals, best[levels], exact, picked, levels, tuple(steps), kept)


def _undominated(cost: np.ndarray, sensitivity: np.ndarray) -> np.ndarray:
    """Indices of the choices that no other choice of the parameter beats in both."""
    order = np.lexsort((sensitivity, cost))
    lowest, kept = np.inf, []
    for index in order:
        if sensitivity[index] < lowest:
            lowest = sensitivity[index]
            kept.append(int(index))
    return np.array(kept, dtype=np.int64)


def _grid(differences: list[np.ndarray], most_cells: int) -> tuple[list[np.ndarray], float, bool]:
    """Cost differences in whole steps of a common grid, the step, and whether that is exact."""
    span = sum(float(difference.max()) for difference in differences)
    whole = all(np.array_equal(difference, np.rint(difference)) for difference in differences)
    unit = float(np.gcd.reduce(np.concatenate(differences).astype(np.int64))) if whole else 0.0
    most = max(16, most_cells // max(1, len(differences)))
    if span == 0.0:
        return [np.zeros(len(difference), dtype=np.int64) for difference in differences], 0.0, True
    if unit and span / unit <= most:
        return [(difference / unit).astype(np.int64) for difference in differences], unit, True
    unit = span / (most // 2)
    return [np.rint(difference / unit).astype(np.int64) for difference in differences], unit, False


def _sweep(steps: list[np.ndarray], sensitivities: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Smallest sensitivity at exactly every level, and the choice of each parameter that reaches it."""
    levels = 1 + sum(int(step.max()) for step in steps)
    best = np.full(levels, np.inf)
    best[0] = 0.0
    most = max(len(step) for step in steps)
    picked = np.zeros((len(steps), levels), dtype=np.int8 if most <= 128 else np.int16)
    top = 0
    for parameter, (step, sensitivity) in enumerate(zip(steps, sensitivities, strict=True)):
        reached = best[: top + 1].copy()
        best[: top + 1] = np.inf
        top += int(step.max())
        for choice, (shift, loss) in enumerate(zip(step, sensitivity, strict=True)):
            window = best[shift : shift + len(reached)]
            better = reached + loss < window
            window[better] = (reached + loss)[better]
            picked[parameter, shift : shift + len(reached)][better] = choice
    return best, picked


def _front_levels(best: np.ndarray) -> np.ndarray:
    """Levels whose sensitivity is below that of every cheaper level."""
    running = np.minimum.accumulate(best)
    first = np.concatenate([[True], running[1:] < running[:-1]]) & np.isfinite(best)
    return np.flatnonzero(first)
