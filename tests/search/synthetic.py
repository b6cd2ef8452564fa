"""A problem whose quality is known at once: sensitivities that add up, and small interactions of neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from paretune.search.baselines import marginals, probes, uniform_configurations
from paretune.search.candidates import Candidates
from paretune.search.pareto import hypervolume
from paretune.search.samplers import Kind
from paretune.search.samplers.problem import Observation
from paretune.search.sensitivity import SpaceEvidence
from paretune.search.space_problem import SpaceProblem
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import LayerChoice
from paretune.spaces.model import ModelSpec
from paretune.spaces.patterns import LayerRule, Restrictions
from paretune.spaces.size import dense_bytes, weight_bytes
from paretune.spaces.space import Point, SearchSpace
from tests.fakes import FakeLegality, tiny_spec


@dataclass
class Synthetic:
    """Minimise sensitivity and bytes of a model without weights.

    Attributes:
        restrictions: of the space.
        most_bytes: a limit on the weights.
        bytes_are_known: whether the limit can be judged before the quality (else it is found out by scoring).
    """

    spec: ModelSpec
    restrictions: Restrictions
    most_bytes: float | None = None
    bytes_are_known: bool = True

    @cached_property
    def space(self) -> SearchSpace:
        return SearchSpace(self.spec, FakeLegality(), self.restrictions)

    @cached_property
    def sensitivities(self) -> list[np.ndarray]:
        """One array a parameter, one sensitivity a choice; parameters differ by four orders of magnitude in
        importance."""
        random = np.random.default_rng(0)
        found = []
        for parameter in self.space.parameters:
            importance = 10 ** random.uniform(-2, 2)
            found.append(np.array([importance * _distance(choice) for choice in parameter.choices]))
        return found

    def quality(self, point: Point) -> float:
        single = np.array([d[c] for d, c in zip(self.sensitivities, point, strict=True)])
        return float(single.sum() + 0.1 * np.sqrt(single[1:] * single[:-1]).sum()) + 1e-6

    def cost_of(self, point: Point) -> dict[str, float]:
        return {"weight_bytes": float(weight_bytes(self.spec, self.space.decode(point)))}

    def violation(self, point: Point) -> float:
        return self.cost_of(point)["weight_bytes"] - (self.most_bytes or 0.0)

    def admissible(self, point: Point) -> bool:
        known = self.most_bytes is not None and self.bytes_are_known
        return bool(self.space.ruling(point)) and not (known and self.violation(point) > 0)

    @property
    def problem(self) -> SpaceProblem:
        return SpaceProblem(self.space, ("kl", "weight_bytes"), self.cost_of, self.admissible)

    def observe(self, point: Point) -> Observation:
        limits = () if self.most_bytes is None else (self.violation(point),)
        values = (self.quality(point), self.cost_of(point)["weight_bytes"])
        return Observation(point, values, tokens=1024, violations=limits)

    def first(self, *, with_marginals: bool) -> list[Observation]:
        """What a study measures before it asks a sampler."""
        named = uniform_configurations(self.space) + probes(self.space)
        named += marginals(self.space) if with_marginals else []
        return [self.observe(point) for point in (self.space.origin(), *(n.point for n in named))]

    def told(self, *, with_marginals: bool) -> SpaceEvidence:
        """The same, told."""
        evidence = self.problem.evidence()
        for observation in self.first(with_marginals=with_marginals):
            evidence.add(observation)
        return evidence

    def search(self, kind: Kind, seed: int, trials: int) -> tuple[list[Observation], Candidates]:
        """Everything that was told, first configurations first, and the sampler that was told it."""
        told = self.first(with_marginals=kind.uses_marginals)
        sampler = Candidates(self.problem, kind, seed)
        for observation in told:
            sampler.tell(observation)
        for trial in range(trials):
            point = sampler.ask(trial)
            if point is None:
                break
            told.append(self.observe(point))
            sampler.tell(told[-1])
        return told, sampler

    def volume(self, told: list[Observation]) -> float:
        """Hypervolume over the logarithm of the sensitivity, in decades, and the share of the dense bytes."""
        dense = dense_bytes(self.spec)
        points = [(np.log10(o.values[0]), o.values[1] / dense) for o in told if o.feasible]
        return hypervolume(np.array(points), (3.0, 1.05))


def small_problem(
    most_bytes: float | None = None, *, bytes_are_known: bool = True, blocks: int = 3
) -> Synthetic:
    """Four widths of four groups a block and all pruned sizes, some of which the group size forbids."""
    restrictions = Restrictions(
        bits=(2, 4, 8, 16), embedding_bits=(8, 16), group_size=64, methods=("rtn",), sparsity=(0.0,),
        ffn_channels=(192, 160),
    )  # fmt: skip
    return Synthetic(tiny_spec(blocks=blocks), restrictions, most_bytes, bytes_are_known)


def exhaustible_problem() -> Synthetic:
    """A space of few points: the groups of one FFN, and the cache."""
    restrictions = Restrictions(
        bits=(4, 16), embedding_bits=(16,), group_size=64, methods=("rtn",), sparsity=(0.0,),
        blocks=(1,), kv_heads=(2,), ffn_channels=(256,),
        rules=(LayerRule(pattern="*.self_attn.*", bits=(16,)),),
    )  # fmt: skip
    return Synthetic(tiny_spec(blocks=1), restrictions)


def _distance(choice: LayerChoice | KVFormat | int | None) -> float:
    if isinstance(choice, LayerChoice):
        return 0.0 if choice.weight.dense else float(4.0**-choice.weight.num_bits)
    if isinstance(choice, KVFormat):
        return 4.0 ** -(choice.num_bits + 2) if choice.num_bits < 16 else 0.0
    return 0.0 if choice is None else 0.05
