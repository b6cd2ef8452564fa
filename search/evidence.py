"""What a list of observations says about single genes, uniform configurations, zeros and students."""

from __future__ import annotations

from dataclasses import replace

from search.additive import is_student_gene, student_of
from search.damage import Marginal
from search.observation import Observation, Problem
from spaces.choice import SiteChoice
from spaces.space import Genome


class Evidence:
    """Sorts observations by what their genomes change from the dense model.

    Qualities are kept as damage: what is lost to the dense model, which has to be told first. That of a KL is
    the KL; a perplexity or an agreement does not begin at 0, and would not add up over groups.

    Attributes:
        marginals: one gene changed.
        uniform: damage by (bits, method), every group inside the blocks changed alike and nothing else.
        sparse: damage with zeros in every group and all widths at 16 bits.
        students: base genome of a student size -> damage of it alone; the whole model has 0.
        whole: candidates of the whole model, for the refinement of a table.
        observations: everything told; the first of the values is the damage.
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
        self.students: dict[Genome, float] = {self._dense: 0.0}
        self.whole: list[Observation] = []
        self.observations: list[Observation] = []
        self.seen: set[str] = set()

    def add(self, observation: Observation) -> None:
        """Take note."""
        genome, (quality, *costs) = observation.genome, observation.values
        if genome == self._dense:
            self._dense_quality, self._dense_tokens = quality, observation.tokens
        if observation.tokens >= self._dense_tokens:
            self.seen.add(self._problem.space.decode(genome).digest)
        damage = quality - self._dense_quality
        observation = replace(observation, values=(damage, *costs))
        changed = [i for i, (a, b) in enumerate(zip(genome, self._dense, strict=True)) if a != b]
        self.observations.append(observation)
        if not changed:
            return
        if student_of(self._problem, genome) == student_of(self._problem, self._dense):
            self._add_whole(observation, changed)
        elif all(is_student_gene(self._problem, index) for index in changed):
            self.students[genome] = damage

    def _add_whole(self, observation: Observation, changed: list[int]) -> None:
        genome, damage = observation.genome, observation.values[0]
        if len(changed) == 1:
            self.marginals.append(Marginal(changed[0], genome[changed[0]], damage))
            return
        self.whole.append(observation)
        choice = self._shared_choice(genome)
        if choice is None:
            return
        if choice.sparsity is None:
            self.uniform.setdefault((choice.weight.num_bits, choice.kind), damage)
        elif choice.weight.dense:
            self.sparse = damage

    def _shared_choice(self, genome: Genome) -> SiteChoice | None:
        """The choice that all groups inside the blocks share while everything else is dense."""
        inside: set[SiteChoice] = set()
        for gene, choice, dense in zip(self._problem.space.genes, genome, self._dense, strict=True):
            value = gene.choices[choice]
            if gene.group is not None and gene.group.kind == "linear" and isinstance(value, SiteChoice):
                inside.add(value)
            elif choice != dense:
                return None
        return inside.pop() if len(inside) == 1 else None
