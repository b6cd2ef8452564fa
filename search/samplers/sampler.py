"""The role that every sampler plays: told what was measured, it proposes what to measure next; and what it sees."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from paretune.spaces.space import Point, SearchSpace


@dataclass(frozen=True)
class Observation:
    """One scored candidate.

    Attributes:
        point: of the candidate.
        values: all to be minimised: what is lost to the origin of the space on the same windows, then costs (those
            to be maximised are negated), in the order of the problem's objectives.
        tokens: how many tokens of the search text stand behind the loss.
        violations: one number per limit, feasible at or below 0.
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


class Sampler(ABC):
    """Proposes points.

    What it proposes depends on its seed, the number of the trial, what it was told, in that order, and its state:
    a killed search is resumed by telling a new one the records and handing it the state of the old. Nothing is asked
    for again.

    Attributes:
        name: registered name.
        uses_marginals: whether the study measures marginals for it before it is asked.
        ends: what it means that it proposes nothing: every point was proposed, or it expects nothing better of any
            that is left.
    """

    name: ClassVar[str]
    uses_marginals: ClassVar[bool] = False
    ends: ClassVar[Literal["exhausted", "converged"]] = "exhausted"

    def __init__(self, problem: Problem, seed: int) -> None:
        self.problem = problem
        self.seed = seed

    @abstractmethod
    def tell(self, observation: Observation) -> None:
        """Learn from a scored candidate, whoever proposed it (baselines, probes and marginals too)."""

    @abstractmethod
    def propose(self, trial: int) -> Point | None:
        """A legal point for trial number ``trial``; ``None`` when it has nothing new to propose."""

    def state(self) -> dict[str, Any]:
        """What it needs to go on besides what it is told, as JSON; points are lists of indices."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027 -- most samplers have no state
        """Go on from the :meth:`state` of another, once everything is told that the other was told."""

    def random(self, trial: int) -> np.random.Generator:
        """The random numbers of one trial."""
        return np.random.default_rng([self.seed, trial])
