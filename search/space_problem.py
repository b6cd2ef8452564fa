"""A search space as a problem of samplers: groups, the cache, and the pruned sizes that decide what the others cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from paretune.search.evidence import Evidence
from paretune.search.samplers.problem import Problem
from paretune.search.sensitivity import SensitivityPrior, SpaceEvidence
from paretune.spaces.pruned_sizes import PRUNED_KINDS
from paretune.spaces.space import Point, SearchSpace


class SpaceProblem(Problem):
    """What is searched.

    Args:
        space: of points.
        objectives: metric names; the first is the quality, the others are costs.
        cost_of: exact costs of a point by objective, to be minimised; microseconds to milliseconds.
        admissible: whether a point is legal and its costs are within the limits, before quality is paid for.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: tuple[str, ...],
        cost_of: Callable[[Point], Mapping[str, float]],
        admissible: Callable[[Point], bool],
    ) -> None:
        self.space = space
        self.objectives = objectives
        self.names = tuple(parameter.name for parameter in space.parameters)
        self.choices = tuple(tuple(range(size)) for size in space.sizes)
        self._cost_of, self._admissible = cost_of, admissible
        self._prior: tuple[tuple[dict[Any, float], ...], list[np.ndarray]] | None = None
        self._shape = [parameter.kind in PRUNED_KINDS for parameter in space.parameters]

    @property
    def origin(self) -> Point:
        """The widest choice of every parameter."""
        return self.space.origin()

    def cost_of(self, point: Point) -> Mapping[str, float]:
        """See :class:`Problem`."""
        return self._cost_of(point)

    def admissible(self, point: Point) -> bool:
        """See :class:`Problem`."""
        return self._admissible(point)

    def legal(self, point: Point) -> bool:
        """See :class:`Problem`."""
        return bool(self.space.ruling(point))

    def key(self, point: Point) -> str:
        """Digest of the configuration: groups of cut blocks are not part of it."""
        return self.space.decode(point).digest

    def is_shape(self, index: int) -> bool:
        """Whether the parameter decides the size of the pruned model."""
        return self._shape[index]

    def is_open(self, index: int, base: Point) -> bool:
        """Whether the pruned model has the group that the parameter chooses for."""
        group = self.space.parameters[index].group
        return group is None or self.space.pruned(base).keeps_block(group.block)

    def draw(self, random: np.random.Generator) -> Point:
        """See :class:`Problem`."""
        return self.space.random(random)

    def evidence(self) -> SpaceEvidence:
        """See :class:`Problem`."""
        return SpaceEvidence(self, self.space)

    def prior(self, evidence: Evidence) -> list[np.ndarray]:
        """Marginals; where there are none, what uniform configurations showed."""
        uniform, sparse = (
            (evidence.uniform, evidence.sparse) if isinstance(evidence, SpaceEvidence) else ({}, {})
        )
        known = {**evidence.marginals}, {**uniform}, sparse
        if self._prior is None or self._prior[0] != known:
            self._prior = known, SensitivityPrior(self.space, *known).entries
        return self._prior[1]

    def additive_costs(self, metric: str, base: Point) -> tuple[list[np.ndarray], float]:
        """See :class:`Problem`. Exact for bytes; of a predicted time the difference that one parameter makes alone."""
        pruned = self.space.pruned(base)
        whole = float(self.cost_of(base)[metric])
        found, chosen = [], 0.0
        for index, parameter in enumerate(self.space.parameters):
            if self.is_shape(index) or not self.is_open(index, base):
                cost = np.zeros(len(parameter.choices))
            elif metric == "weight_bytes" and parameter.group is not None:
                cost = np.array(self.space.choice_bytes(parameter, pruned), dtype=np.float64)
            else:
                changed = [(*base[:index], c, *base[index + 1 :]) for c in range(len(parameter.choices))]
                cost = np.array([self._cost(metric, point) for point in changed]) - whole
            found.append(cost)
            chosen += float(cost[base[index]])
        return found, whole - chosen

    def _cost(self, metric: str, point: Point) -> float:
        """NaN for what the pruned size refuses."""
        return float(self.cost_of(point)[metric]) if self.legal(point) else float("nan")
