"""What observations say: which were read, which change one parameter alone, which are one shape with nothing else."""

from __future__ import annotations

from collections.abc import Hashable

from paretune.search.samplers.problem import Observation, Problem
from paretune.spaces.space import Point


class Evidence:
    """Sorts observations by what their points change from the origin.

    Attributes:
        marginals: loss with one parameter changed, by (parameter, choice); the last reading counts.
        shapes: base point of a shape (all else as in the origin) -> loss of it alone; that of the origin has 0.
        candidates: what changes several parameters, and is learned from.
        observations: everything told.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.origin = problem.origin
        self._read: dict[Hashable, int] = {}
        self._most = 0
        self._broken: set[Hashable] = set()
        self.marginals: dict[tuple[int, int], float] = {}
        self.shapes: dict[Point, float] = {self.origin: 0.0}
        self.candidates: list[Observation] = []
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
        if all(map(self.problem.is_shape, changed)):
            self.shapes[point] = loss
        elif len(changed) == 1:
            self.marginals[changed[0], point[changed[0]]] = loss
        else:
            self.candidates.append(observation)
            self.add_candidate(observation)

    def add_candidate(self, observation: Observation) -> None:
        """Learn more of a candidate that changes several parameters."""

    def is_read(self, point: Point) -> bool:
        """Whether a point was read on as much text as any: what was read on less could still be on the front."""
        key = self.problem.key(point)
        tokens = self._read.get(key)
        return key in self._broken or (tokens is not None and tokens >= self._most)

    @property
    def compared(self) -> list[Observation]:
        """What was read on the most text, which alone is compared; everything where none of that was told."""
        return [o for o in self.observations if o.tokens == self._most]
