"""A table of losses that learns: an entry per choice, what sums of entries leave unexplained, what it is made from."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np

from paretune.search.samplers.problem import Observation, Problem
from paretune.spaces.space import Point

FLOOR = 1e-9
"""The least loss that is told from none."""
_FEWEST_OBSERVATIONS, _MOST_OBSERVATIONS = 8, 384


class Evidence:
    """Sorts observations by what their points change from the origin.

    Attributes:
        marginals: loss with one parameter changed, by (parameter, choice); the last reading counts.
        pruned_sizes: base point of a shape -> loss of it alone; that of the origin has 0.
        whole: candidates of the origin's shape, for the refinement of a table.
        observations: everything told.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.origin = problem.origin
        self._read: dict[Hashable, int] = {}
        self._most = 0
        self._broken: set[Hashable] = set()
        self.marginals: dict[tuple[int, int], float] = {}
        self.pruned_sizes: dict[Point, float] = {self.origin: 0.0}
        self.whole: list[Observation] = []
        self.observations: list[Observation] = []

    def add(self, observation: Observation) -> None:
        """Keep an observation where it belongs."""
        point, loss = observation.point, observation.values[0]
        key = self.problem.key(point)
        if observation.broken:
            self._broken.add(key)
            return
        self._most = max(observation.tokens, self._most)
        self._read[key] = max(observation.tokens, self._read.get(key, 0))
        self.observations.append(observation)
        changed = [i for i, (a, b) in enumerate(zip(point, self.origin, strict=True)) if a != b]
        if not changed:
            return
        if self.problem.shape_of(point) == self.problem.shape_of(self.origin):
            if len(changed) == 1:
                self.marginals[changed[0], point[changed[0]]] = loss
            else:
                self.whole.append(observation)
                self.add_whole(observation)
        elif all(map(self.problem.is_shape, changed)):
            self.pruned_sizes[point] = loss

    def add_whole(self, observation: Observation) -> None:
        """Learn more of a candidate of the origin's shape that changes several parameters."""

    def is_read(self, point: Point) -> bool:
        """Whether a point was read on as much text as any: what was read on less could still be on the front."""
        key = self.problem.key(point)
        tokens = self._read.get(key)
        return key in self._broken or (tokens is not None and tokens >= self._most)

    @property
    def compared(self) -> list[Observation]:
        """What was read on the most text, which alone is compared; everything where none of that was told."""
        return [o for o in self.observations if o.tokens == self._most]


class LossTable:
    """Predicted loss of every (parameter, choice).

    Args:
        prior: float64 ``(choices,)`` per parameter.

    Attributes:
        prior: as it was given.
        flat_prior: the same of all parameters in a row.
        flat: the corrected entries.
        offsets: where each parameter begins in ``flat``.
    """

    def __init__(self, prior: Sequence[np.ndarray]) -> None:
        self.prior = list(prior)
        self.offsets = np.cumsum([0, *(len(p) for p in self.prior[:-1])]).astype(np.int64)
        self.flat_prior = np.concatenate(self.prior)
        self.flat = self.flat_prior
        self._residual: Residual | None = None

    def refine(self, observations: Sequence[Observation]) -> None:
        """Correct the entries, and fit the trend, on candidates of the origin's shape.

        Args:
            observations: those that matter most first; a few hundred are taken.
        """
        used = [o for o in observations if FLOOR < o.values[0] < math.inf][:_MOST_OBSERVATIONS]
        cells = self.cells([o.point for o in used])
        sums = self.flat_prior[cells].sum(axis=1)
        useful = sums > FLOOR
        if useful.sum() < _FEWEST_OBSERVATIONS:
            return
        logs, losses = np.log(sums[useful]), np.log([o.values[0] for o in used])[useful]
        shares = np.zeros((len(logs), len(self.flat_prior)))
        np.put_along_axis(shares, cells[useful], self.flat_prior[cells[useful]] / sums[useful, None], axis=1)
        tokens = np.array([max(o.tokens, 1) for o in used], dtype=np.float64)[useful]
        # A mean over windows is the noisier the fewer there are.
        noise = _NOISE * np.sqrt(tokens.max() / tokens)
        self._residual = Residual(logs, shares, losses - logs, noise)
        self.flat = self.flat_prior * self._residual.factors

    def cells(self, points: Sequence[Point] | np.ndarray) -> np.ndarray:
        """Places of points' entries in :attr:`flat`, int64 ``(points, parameters)``."""
        return np.asarray(points, dtype=np.int64).reshape(-1, len(self.prior)) + self.offsets

    def predict(self, points: Sequence[Point] | np.ndarray, more: float | np.ndarray = 0.0) -> np.ndarray:
        """Loss of points, ``(points,)``.

        Args:
            points: of the origin's shape, or of another whose own loss is ``more``.
            more: added to the sums.
        """
        return self.predict_sums(self.flat[self.cells(points)].sum(axis=1) + more)

    def predict_sums(self, sums: np.ndarray) -> np.ndarray:
        """Loss that sums of corrected entries stand for."""
        found: np.ndarray = np.maximum(sums, FLOOR)
        return found if self._residual is None else found * np.exp(self._residual.trend(np.log(found)))

    @property
    def entries(self) -> list[np.ndarray]:
        """The corrected entries, one array per parameter."""
        ends = [*self.offsets[1:], len(self.flat)]
        return [self.flat[a:b] for a, b in zip(self.offsets, ends, strict=True)]

    @property
    def parameters(self) -> np.ndarray:
        """The parameter of every entry, int64 ``(cells,)``."""
        return np.repeat(np.arange(len(self.prior)), [len(p) for p in self.prior])


# -- what the sum leaves unexplained -------------------------------------------------------------------------

_LEVEL = 0.7
_TREND = 0.7
_LENGTH = 1.0
"""Of the trend, in units of log sum: it may turn once in a factor of e."""
_SPREAD = 0.6
"""Log standard deviation of an entry around its prior."""
_NOISE = 0.05
"""Log standard deviation of the longest readings."""
_MOST_FACTOR = 3.0
"""In logarithm."""


class Residual:
    """The log ratio of a measured loss to its sum of entries, by a Gaussian process.

    The ratio is a constant, a smooth trend along the logarithm of the sum (large perturbations do more harm together
    than apart), and a correction of every entry that acts through the entry's share of the sum: Bayesian linear
    regression in its dual form (Rasmussen and Williams 2006, chapter 2). The corrections are turned into factors of the
    entries, so that the sum stays additive and can be minimised exactly; that is the posterior mean only where they are
    small, and factors are bounded. The trend is then fitted again along the corrected sum: what is predicted depends on
    nothing else, so wherever it rises with that sum the exact front of the sum is the front of the prediction.

    Args:
        logs: of the sums, ``(n,)``.
        shares: of entries, ``(n, entries)``.
        ratios: logarithms, ``(n,)``.
        noise: standard deviation of each, ``(n,)``.

    Attributes:
        factors: of every entry, ``(entries,)``.
    """

    def __init__(
        self, logs: np.ndarray, shares: np.ndarray, ratios: np.ndarray, noise: float | np.ndarray = _NOISE
    ) -> None:
        kernel = _LEVEL**2 + _smooth(logs, logs) + _SPREAD**2 * (shares @ shares.T)
        variance = np.broadcast_to(np.square(noise), logs.shape)
        weights = np.linalg.solve(kernel + np.diag(variance), ratios)
        self.factors = np.exp(np.clip(_SPREAD**2 * (weights @ shares), -_MOST_FACTOR, _MOST_FACTOR))
        corrected = np.log1p(np.maximum(shares @ (self.factors - 1), -1 + 1e-12))
        self._logs, rest = logs + corrected, ratios - corrected
        self._weights = np.linalg.solve(
            _LEVEL**2 + _smooth(self._logs, self._logs) + np.diag(variance + _SCATTER**2), rest
        )

    def trend(self, logs: np.ndarray) -> np.ndarray:
        """Log ratio at corrected sums whose logarithms are ``logs`` ``(m,)``."""
        found: np.ndarray = (_LEVEL**2 + _smooth(logs, self._logs)) @ self._weights
        return found


_SCATTER = 0.1
"""Log standard deviation of candidates around the trend once entries are corrected."""


def _smooth(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    difference: np.ndarray = (first[:, None] - second[None, :]) / _LENGTH
    return _TREND**2 * np.exp(-0.5 * difference**2)
