"""What is thought to be lost by points: sums of one entry per choice, and a Gaussian process over what they leave.

The process is of the log ratio of a loss to its sum of entries (Rasmussen and Williams 2006, chapter 2): a level, a
smooth trend along the logarithm of the sum (large perturbations do more harm together than apart), and a correction of
every entry, which acts through the entry's share of the sum. Corrections become factors of the entries, for exact
fronts of sums; they are the posterior mean only where they are small, and factors are bounded.

Own code, not a library's: the prediction of a move from a point to its neighbour costs the change of two sums, where a
kernel that is given points anew costs hundreds of products.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from paretune.search.samplers.problem import Observation, Problem
from paretune.spaces.space import Point

FLOOR = 1e-9
"""The least loss that is told from none."""
_FEWEST, _MOST = 8, 384
_LEVEL = 0.7
_TREND, _LENGTH = 0.7, 2.0
"""The length is in units of log sum: the trend may turn once in a factor of e squared."""
_SPREADS, _NOISES = (0.05, 0.1, 0.2, 0.4, 0.8), (0.003, 0.01, 0.03, 0.1)
"""Log standard deviations that are tried: of entries around their prior, and of the longest readings. The likeliest are
taken (Rasmussen and Williams 2006, section 5.4)."""
_FITTED = 192
_MOST_FACTOR = 3.0
"""In logarithm."""


@dataclass
class Thought:
    """Points and what their predictions are made of.

    Attributes:
        cells: int64 ``(points, parameters + 1)``, places of their entries; the last is that of the shape.
        sums: float64 ``(points,)``, of entries.
        linear: float64 ``(points,)``, of entries times corrections.
    """

    cells: np.ndarray
    sums: np.ndarray
    linear: np.ndarray

    def __getitem__(self, places: np.ndarray) -> Thought:
        return Thought(self.cells[places], self.sums[places], self.linear[places])


class LossModel:
    """Predictions from a prior and observations.

    Args:
        problem: what is searched.
        prior: float64 ``(choices,)`` per parameter, the expected loss of each choice alone.
        own: loss of every known shape alone, by its base point.
        observations: that it learns from, those that matter most first; a few hundred are taken.

    Attributes:
        offsets: where each parameter's entries begin in a row of all.
        parameters: the parameter of every entry.
        flat: corrected entries of all parameters in a row, then those of the shapes.
    """

    def __init__(
        self,
        problem: Problem,
        prior: Sequence[np.ndarray],
        own: Mapping[Point, float],
        observations: Sequence[Observation],
    ) -> None:
        self._problem = problem
        self._shapes = {problem.shape_of(base): place for place, base in enumerate(own)}
        self._bases = list(own)
        rows = [*prior, np.maximum(list(own.values()), 0.0)]
        lengths = [len(row) for row in rows]
        self.offsets = np.cumsum([0, *lengths[:-1]]).astype(np.int64)
        self.parameters = np.repeat(np.arange(len(rows)), lengths)
        self._prior = self.flat = np.concatenate(rows)
        self._corrections = np.zeros(len(self._prior))
        self._learned = False
        used = [o for o in observations if FLOOR < o.values[0] < math.inf and self.knows(o.point)]
        if len(used) >= _FEWEST:
            self._learn(used[:_MOST])

    def _learn(self, used: list[Observation]) -> None:
        cells = self.cells([o.point for o in used])
        sums = np.maximum(self._prior[cells].sum(axis=1), FLOOR)
        self._logs = np.log(sums)
        self._shares = np.zeros((len(used), len(self._prior)))
        np.put_along_axis(self._shares, cells, self._prior[cells] / sums[:, None], axis=1)
        ratios = np.log([o.values[0] for o in used]) - self._logs
        tokens = np.array([max(o.tokens, 1) for o in used], dtype=np.float64)
        noise = np.diag(tokens.max() / tokens)  # a mean over windows is the noisier the fewer there are
        fixed, entries = _smooth(self._logs, self._logs), self._shares @ self._shares.T
        self._spread, error = _likeliest(fixed, entries, noise, ratios)
        self._factor = cho_factor(fixed + self._spread**2 * entries + error**2 * noise)
        weights = cho_solve(self._factor, ratios)
        self._corrections = self._spread**2 * (weights @ self._shares)
        self.flat = self._prior * np.exp(np.clip(self._corrections, -_MOST_FACTOR, _MOST_FACTOR))
        self._grid = np.linspace(self._logs.min() - 3, self._logs.max() + 3, 200)
        self._trend = _smooth(self._grid, self._logs) @ weights
        self._learned = True

    @property
    def entries(self) -> list[np.ndarray]:
        """The corrected entries, one array per parameter."""
        return np.split(self.flat, self.offsets[1:])[:-1]

    @property
    def own(self) -> dict[Point, float]:
        """The corrected loss of every shape alone, by its base point."""
        return dict(zip(self._bases, self.flat[self.offsets[-1] :].tolist(), strict=True))

    def knows(self, point: Point) -> bool:
        """Whether the loss of the point's shape is known."""
        return self._problem.shape_of(point) in self._shapes

    def cells(self, points: Sequence[Point]) -> np.ndarray:
        """Places of points' entries in a row of all, int64 ``(points, parameters + 1)``."""
        shapes = [self._shapes[self._problem.shape_of(point)] for point in points]
        return (
            np.column_stack([np.array(points, dtype=np.int64), np.array(shapes, dtype=np.int64)])
            + self.offsets
        )

    def think(self, cells: np.ndarray) -> Thought:
        """What predictions of points with these entries are made of."""
        entries = self._prior[cells]
        return Thought(cells, entries.sum(axis=1), (entries * self._corrections[cells]).sum(axis=1))

    def moved(self, base: Thought, cells: np.ndarray) -> Thought:
        """Where moves lead from as many points.

        Args:
            base: the points.
            cells: int64 ``(points, changes)``, new entries; one that the point has already changes nothing.
        """
        found = Thought(base.cells.copy(), base.sums.copy(), base.linear.copy())
        rows = np.arange(len(cells))
        for column in cells.T:
            parameters = self.parameters[column]
            old = found.cells[rows, parameters]
            found.sums += self._prior[column] - self._prior[old]
            found.linear += (
                self._prior[column] * self._corrections[column] - self._prior[old] * self._corrections[old]
            )
            found.cells[rows, parameters] = column
        return found

    def points(self, thought: Thought) -> list[Point]:
        """The points themselves."""
        return list(map(tuple, (thought.cells - self.offsets)[:, :-1].tolist()))

    def mean(self, thought: Thought) -> np.ndarray:
        """Expected log loss, ``(points,)``."""
        sums = np.maximum(thought.sums, FLOOR)
        logs: np.ndarray = np.log(sums)
        if not self._learned:
            return logs
        found: np.ndarray = logs + np.interp(logs, self._grid, self._trend) + thought.linear / sums
        return found

    def deviation(self, thought: Thought) -> np.ndarray:
        """Standard deviation of the log loss, ``(points,)``."""
        if not self._learned:
            return np.full(len(thought.sums), _LEVEL)
        sums = np.maximum(thought.sums, FLOOR)
        shares = np.zeros((len(sums), len(self._prior)))
        np.put_along_axis(shares, thought.cells, self._prior[thought.cells] / sums[:, None], axis=1)
        kernel = _smooth(np.log(sums), self._logs) + self._spread**2 * (shares @ self._shares.T)
        whole = _LEVEL**2 + _TREND**2 + self._spread**2 * np.square(shares).sum(axis=1)
        left = whole - (kernel * cho_solve(self._factor, kernel.T).T).sum(axis=1)
        found: np.ndarray = np.sqrt(np.maximum(left, 1e-8))
        return found


def _smooth(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    difference: np.ndarray = (first[:, None] - second[None, :]) / _LENGTH
    return _LEVEL**2 + _TREND**2 * np.exp(-0.5 * difference**2)


def _likeliest(
    fixed: np.ndarray, entries: np.ndarray, noise: np.ndarray, ratios: np.ndarray
) -> tuple[float, float]:
    """The spread and the error under which the ratios are likeliest, one after the other, on those that matter most."""
    some = slice(_FITTED)

    @cache
    def unlikely(spread: float, error: float) -> float:
        kernel = (fixed + spread**2 * entries + error**2 * noise)[some, some]
        factor, lower = cho_factor(kernel)
        return float(
            0.5 * ratios[some] @ cho_solve((factor, lower), ratios[some]) + np.log(np.diag(factor)).sum()
        )

    error = _NOISES[1]
    for _ in range(2):
        spread = min(_SPREADS, key=lambda spread: unlikely(spread, error))
        error = min(_NOISES, key=lambda error: unlikely(spread, error))
    return spread, error
