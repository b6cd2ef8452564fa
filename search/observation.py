"""What a sampler sees: the problem, and candidates that were scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from paretune.spaces.space import Point, SearchSpace


@dataclass(frozen=True)
class Observation:
    """One scored candidate.

    Attributes:
        point: of the candidate.
        values: objectives, all to be minimised (maximised ones are negated), in the order of the problem.
        tokens: how many tokens of the search text stand behind the quality.
        violations: one number a limit, feasible at or below 0.
        broken: the candidate has no quality, and the first of the values is NaN: not to be learned from, nor proposed
            again.
    """

    point: Point
    values: tuple[float, ...]
    tokens: int = 0
    violations: tuple[float, ...] = ()
    broken: bool = False

    @property
    def feasible(self) -> bool:
        """Whether it has a quality and every limit is met."""
        return not self.broken and all(violation <= 0 for violation in self.violations)


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        space: of points.
        objectives: metric names; the first is the quality, the others are costs.
        cost_of: exact costs of a point by objective, to be minimised; microseconds to milliseconds.
        admissible: whether a point is legal and its costs are within the limits, before quality is paid for.
    """

    space: SearchSpace
    objectives: tuple[str, ...]
    cost_of: Callable[[Point], Mapping[str, float]]
    admissible: Callable[[Point], bool]
