"""What a sampler searches, and what it is told: categoricals whose costs add up, and one loss that is measured."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.spaces.space import Point

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

    from paretune.search.evidence import Evidence

_TRIES = 200
_ENUMERABLE = 4096


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


class Problem(ABC):
    """Parameters with finitely many choices, one loss that is measured, costs that are known.

    A point holds one index per parameter. Parameters of the *shape* decide what the choices of all others cost, and
    which of them are open: those of a pruned size. Within one shape costs add up, or nearly.

    Attributes:
        names: of the parameters, as Optuna's studies know them.
        choices: values of every parameter, as Optuna's studies know them.
        objectives: names; the first is the loss, the others are costs.
        reference: value of the loss that nothing can be better than.
        signs: per objective, 1 where the study minimises it, -1 where it maximises it.
    """

    names: tuple[str, ...]
    choices: tuple[tuple[Any, ...], ...]
    objectives: tuple[str, ...]
    reference: float = 0.0

    @property
    @abstractmethod
    def origin(self) -> Point:
        """The point that loses least: marginals depart from it."""

    @abstractmethod
    def cost_of(self, point: Point) -> Mapping[str, float]:
        """Costs by objective, to be minimised; microseconds to milliseconds."""

    @abstractmethod
    def additive_costs(self, metric: str, base: Point) -> tuple[list[np.ndarray], float]:
        """What every choice of every parameter adds to a cost within the shape of ``base``, and the rest.

        One array per parameter, NaN for what the shape refuses.
        """

    @abstractmethod
    def evidence(self) -> Evidence:
        """An empty collection of observations, which knows what they say about single choices."""

    @abstractmethod
    def prior(self, evidence: Evidence) -> list[np.ndarray]:
        """What every choice of every parameter is thought to lose alone, before candidates are learned from."""

    @property
    def signs(self) -> tuple[int, ...]:
        """See the attribute."""
        return (1,) * len(self.objectives)

    def admissible(self, point: Point) -> bool:
        """Whether a point is legal and its costs are within the limits, before its loss is paid for."""
        return self.legal(point)

    def legal(self, point: Point) -> bool:  # noqa: ARG002 -- where nothing is forbidden
        """Whether the choices go together."""
        return True

    def key(self, point: Point) -> Hashable:
        """Points of one key are one candidate."""
        return point

    def is_shape(self, index: int) -> bool:  # noqa: ARG002 -- where all have one shape
        """Whether the parameter decides the shape."""
        return False

    def is_open(self, index: int, base: Point) -> bool:  # noqa: ARG002 -- where all have one shape
        """Whether a parameter makes a difference within the shape of ``base``."""
        return True

    def shape_of(self, point: Point) -> Point:
        """The choices that decide the shape."""
        return tuple([point[place] for place in self._shape_places])

    @cached_property
    def _shape_places(self) -> list[int]:
        return [index for index in range(len(self.names)) if self.is_shape(index)]

    @property
    def costs(self) -> tuple[str, ...]:
        """Names of the costs; one that is always 0 where a study has the loss alone."""
        return self.objectives[1:] or ("nothing",)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each parameter."""
        return tuple(map(len, self.choices))

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Parameters that leave a choice, for Optuna."""
        from optuna.distributions import CategoricalDistribution

        return {
            name: CategoricalDistribution(choices)
            for name, choices in zip(self.names, self.choices, strict=True)
            if len(choices) > 1
        }

    def parameters(self, point: Point) -> dict[str, Any]:
        """A point as Optuna's trials have it."""
        rows = zip(self.names, self.choices, point, strict=True)
        return {name: choices[choice] for name, choices, choice in rows if len(choices) > 1}

    def point(self, parameters: Mapping[str, Any]) -> Point | None:
        """The point of a trial; ``None`` where it lacks a parameter or has another choice."""
        try:
            return tuple(
                [
                    0 if len(places) == 1 else places[parameters[name]]
                    for name, places in zip(self.names, self._places, strict=True)
                ]
            )
        except KeyError:
            return None

    @cached_property
    def _places(self) -> list[dict[Any, int]]:
        return [{choice: place for place, choice in enumerate(choices)} for choices in self.choices]

    def draw(self, random: np.random.Generator) -> Point:
        """A legal point, uniform over the parameters."""
        return tuple(int(random.integers(size)) for size in self.sizes)


def random_point(problem: Problem, seen: Collection[Hashable], random: np.random.Generator) -> Point | None:
    """A legal point whose key is not in ``seen``; ``None`` when there is none left.

    An admissible one where a bounded number of draws finds one, else the first that breaks only limits. Small
    spaces are drawn from without replacement, so that none of their points is missed.
    """
    beyond_limits: Point | None = None
    for point in _draws(problem, random):
        if problem.key(point) in seen or not problem.legal(point):
            continue
        if problem.admissible(point):
            return point
        beyond_limits = beyond_limits or point
    return beyond_limits


def _draws(problem: Problem, random: np.random.Generator) -> Iterator[Point]:
    if math.prod(problem.sizes) <= _ENUMERABLE:
        points = list(product(*map(range, problem.sizes)))
        yield from (points[int(index)] for index in random.permutation(len(points)))
    else:
        yield from (problem.draw(random) for _ in range(_TRIES))
