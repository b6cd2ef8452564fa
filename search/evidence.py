"""What a list of observations says about single parameters, uniform configurations, zeros and pruned models."""

from __future__ import annotations

from dataclasses import replace

from paretune.search.additive import is_size_parameter, pruned_of
from paretune.search.observation import Observation, Problem
from paretune.search.sensitivity import Marginal
from paretune.spaces.choice import LayerChoice
from paretune.spaces.space import Point


class Evidence:
    """Sorts observations by what their points change from the dense model.

    Qualities are kept as sensitivity: what is lost to the dense model, which has to be told first. That of a KL is
    the KL; a perplexity or an agreement does not begin at 0, and would not add up over groups.

    Attributes:
        marginals: one parameter changed.
        uniform: sensitivity by (bits, method), every group inside the blocks changed alike and nothing else.
        sparse: sensitivity with zeros in every group and all widths at 16 bits.
        pruned_sizes: base point of a pruned size -> sensitivity of it alone; the whole model has 0.
        whole: candidates of the whole model, for the refinement of a table.
        observations: everything told; the first of the values is the sensitivity.
        seen: digests of everything told that was read on as much text as the dense model. What was read on less,
            as marginals are, may be proposed: it could be on the front.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._dense = problem.space.dense()
        self._dense_quality = 0.0
        self._dense_tokens = 0
        self.marginals: list[Marginal] = []
        self.uniform: dict[tuple[int, str], float] = {}
        self.sparse: float | None = None
        self.pruned_sizes: dict[Point, float] = {self._dense: 0.0}
        self.whole: list[Observation] = []
        self.observations: list[Observation] = []
        self.seen: set[str] = set()

    def add(self, observation: Observation) -> None:
        """Take note."""
        point, (quality, *costs) = observation.point, observation.values
        if point == self._dense:
            self._dense_quality, self._dense_tokens = quality, observation.tokens
        if observation.broken or observation.tokens >= self._dense_tokens:
            self.seen.add(self._problem.space.decode(point).digest)
        if observation.broken:
            return
        sensitivity = quality - self._dense_quality
        observation = replace(observation, values=(sensitivity, *costs))
        changed = [i for i, (a, b) in enumerate(zip(point, self._dense, strict=True)) if a != b]
        self.observations.append(observation)
        if not changed:
            return
        if pruned_of(self._problem, point) == pruned_of(self._problem, self._dense):
            self._add_whole(observation, changed)
        elif all(is_size_parameter(self._problem, index) for index in changed):
            self.pruned_sizes[point] = sensitivity

    def _add_whole(self, observation: Observation, changed: list[int]) -> None:
        point, sensitivity = observation.point, observation.values[0]
        if len(changed) == 1:
            self.marginals.append(Marginal(changed[0], point[changed[0]], sensitivity))
            return
        self.whole.append(observation)
        choice = self._shared_choice(point)
        if choice is None:
            return
        if choice.sparsity is None:
            self.uniform.setdefault((choice.weight.num_bits, choice.kind), sensitivity)
        elif choice.weight.dense:
            self.sparse = sensitivity

    def _shared_choice(self, point: Point) -> LayerChoice | None:
        """The choice that all groups inside the blocks share while everything else is dense."""
        inside: set[LayerChoice] = set()
        for parameter, choice, dense in zip(self._problem.space.parameters, point, self._dense, strict=True):
            value = parameter.choices[choice]
            if (
                parameter.group is not None
                and parameter.group.kind == "linear"
                and isinstance(value, LayerChoice)
            ):
                inside.add(value)
            elif choice != dense:
                return None
        return inside.pop() if len(inside) == 1 else None
