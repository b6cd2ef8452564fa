"""Local search on a model of the loss: rounds of moves that better one parameter and pay with others.

What a point is worth is the volume that it adds to a front, taken over budgets, which lie evenly in the logarithms of
costs. To each belongs the least loss within it; a point saves log loss in every budget that it keeps. The mean over
budgets is its worth, so any number of costs is worked on at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr
from scipy.stats import qmc

from paretune.search.additive import NEGLIGIBLE
from paretune.search.loss_model import LossModel, Thought
from paretune.spaces.space import Point

_BUDGETS = 256
_ROUNDS = 4
_SLOTS, _KEPT = 96, 2
_TRIES = 8
_THIRD = 0.35
"""How often a move has a third change."""


@dataclass(frozen=True)
class Front:
    """Members of a front, and points that they beat.

    Attributes:
        costs: float64 ``(points, costs)``.
        losses: float64 ``(points,)``, logarithms.
    """

    costs: np.ndarray
    losses: np.ndarray

    def __add__(self, other: Front) -> Front:
        return Front(np.concatenate([self.costs, other.costs]), np.concatenate([self.losses, other.losses]))

    def within(self, budgets: np.ndarray) -> np.ndarray:
        """The least log loss within each budget ``(budgets, costs)``; the largest of all where nothing is."""
        found: np.ndarray = np.where(keeps(self.costs, budgets), self.losses[:, None], self.losses.max()).min(
            axis=0
        )
        return found

    @property
    def useful(self) -> np.ndarray:
        """Which points lose more than next to nothing."""
        found: np.ndarray = self.losses >= self.losses.max() + np.log(NEGLIGIBLE)
        return found

    def budgets(self, random: np.random.Generator) -> np.ndarray:
        """``(budgets, costs)`` from the cheapest point to the dearest that loses more than next to nothing."""
        low, high = self.costs[self.useful].min(axis=0), self.costs[self.useful].max(axis=0)
        if self.costs.shape[1] == 1:
            evenly = np.linspace(0, 1, _BUDGETS)[:, None]
        else:
            evenly = qmc.Sobol(self.costs.shape[1], rng=random).random(2 * _BUDGETS)
        found: np.ndarray = low + evenly * (high - low) if (low <= 0).any() else low * (high / low) ** evenly
        return found


def keeps(costs: np.ndarray, budgets: np.ndarray) -> np.ndarray:
    """Whether points ``(points, costs)`` keep budgets ``(budgets, costs)``, bool ``(points, budgets)``."""
    allowed = budgets + 1e-12 * np.abs(budgets)
    found: np.ndarray = np.all(costs[:, None] <= allowed[None], axis=2)
    return found


@dataclass(frozen=True)
class Ground:
    """One shape, within which points are moved.

    Attributes:
        costs: float64 ``(cells, costs)``, what every entry of the model adds.
        rest: float64 ``(costs,)``, of everything else.
        open: cells that may be chosen and that no other of their parameter beats.
    """

    costs: np.ndarray
    rest: np.ndarray
    open: np.ndarray

    def of(self, thought: Thought) -> np.ndarray:
        """Costs of points, ``(points, costs)``."""
        found: np.ndarray = self.rest + self.costs[thought.cells].sum(axis=1)
        return found


@dataclass(frozen=True)
class Pool:
    """Points that may be proposed: costs, expected log losses, standard deviations of these, and the points."""

    costs: np.ndarray
    means: np.ndarray
    deviations: np.ndarray
    points: list[Point]

    def __add__(self, other: Pool) -> Pool:
        return Pool(
            np.concatenate([self.costs, other.costs]),
            np.concatenate([self.means, other.means]),
            np.concatenate([self.deviations, other.deviations]),
            self.points + other.points,
        )


@dataclass(frozen=True)
class LocalSearch:
    """What a search goes by.

    Attributes:
        model: of the loss.
        front: that was measured, and what is pending as it is expected.
        budgets: float64 ``(budgets, costs)``.
        best: float64 ``(budgets,)``, the front's log loss within each.
        random: the source of chance.
    """

    model: LossModel
    front: Front
    budgets: np.ndarray
    best: np.ndarray
    random: np.random.Generator

    def around(self, pool: Thought, ground: Ground, moves: int) -> Pool:
        """What rounds of so many moves lead to; the best in each slot of the cost axis are moved from again."""
        model, spans = self.model, np.ptp(self.budgets, axis=0)
        scale = self.random.dirichlet(np.ones(len(spans))) / np.where(spans > 0, spans, 1.0)
        for _ in range(_ROUNDS if len(ground.open) and moves else 0):
            starts = pool[self.random.integers(len(pool.sums), size=moves)]
            pool = _pooled(pool, model.moved(starts, self._moves(ground, starts.cells)))
            costs, means = ground.of(pool), model.mean(pool)
            pool = pool[_best_of_slots(costs @ scale, self._worth(costs, means))]
        return Pool(ground.of(pool), model.mean(pool), model.deviation(pool), model.points(pool))

    def _worth(self, costs: np.ndarray, means: np.ndarray) -> np.ndarray:
        """Volume that points add if they come true; less than none where they add none."""
        saved = np.maximum(self.best - means[:, None], 0.0) * keeps(costs, self.budgets)
        found: np.ndarray = saved.mean(axis=1) + 1e-6 * np.minimum(self.front.within(costs) - means, 0.0)
        return found

    def _moves(self, ground: Ground, cells: np.ndarray) -> np.ndarray:
        """New cells ``(points, 3)``: one drawn freely, one or two that change the loss the other way if any does."""
        flat, parameters = self.model.flat, self.model.parameters
        drawn = self.random.choice(ground.open, size=(len(cells), _TRIES))
        change = flat[drawn] - flat[np.take_along_axis(cells, parameters[drawn], axis=1)]
        other = (change * change[:, :1]) < 0
        rows = np.arange(len(cells))
        second = np.argmax(other, axis=1)  # the first itself where there is none
        other[rows, second] = False
        third = np.where(self.random.random(len(cells)) < _THIRD, np.argmax(other, axis=1), 0)
        return np.column_stack([drawn[:, 0], drawn[rows, third], drawn[rows, second]])


def expected_improvement(best: np.ndarray, means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Expected fall of normal numbers below ``best`` (Jones et al., 1998); arrays are broadcast."""
    scaled = (best - means) / deviations
    density = np.exp(-0.5 * np.square(scaled)) / np.sqrt(2 * np.pi)
    found: np.ndarray = deviations * (scaled * ndtr(scaled) + density)
    return found


def _pooled(first: Thought, second: Thought) -> Thought:
    """Both, each point once."""
    parts = [(getattr(first, name), getattr(second, name)) for name in ("cells", "sums", "linear")]
    both = Thought(*map(np.concatenate, parts))
    # Rows by a random sum of theirs, which tells any two apart and is much faster than comparing rows.
    factors = np.random.default_rng(0).integers(1, 2**62, both.cells.shape[1])
    return both[np.sort(np.unique(both.cells @ factors, return_index=True)[1])]


def _best_of_slots(costs: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """Places of those that are worth most in each slot of the cost axis."""
    slots = np.searchsorted(np.linspace(costs.min(), costs.max(), _SLOTS + 1)[1:-1], costs)
    order = np.lexsort((-worth, slots))
    rank = np.arange(len(order)) - np.searchsorted(slots[order], slots[order])
    kept: np.ndarray = order[rank < _KEPT]
    return kept
