"""Every operation that a search space can ask for, so that a table covers it before the search starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engines.operation import Operation
from profiles.harness import distinct_operations
from spaces.configuration import CompressionConfig
from spaces.space import Genome, SearchSpace
from spaces.target import Workload

if TYPE_CHECKING:
    from engines.engine import Engine


def space_operations(engine: Engine, space: SearchSpace, workload: Workload) -> tuple[Operation, ...]:
    """Distinct operations of every choice of every gene, for the whole model and for each cut of it.

    Shapes depend on each direction of a cut by itself (heads, channels), so cuts are taken one at a time.
    Candidates that the space rules out are left out.
    """
    found: list[Operation] = []
    for config in _configurations(space):
        found += engine.operations(space.spec, config, workload)
    return distinct_operations(found)


def _configurations(space: SearchSpace) -> list[CompressionConfig]:
    dense = space.dense()
    widest = max(space.sizes)
    genomes: dict[Genome, None] = {}
    for other, gene in enumerate(space.genes):
        for index in range(len(gene.choices)) if gene.kind != "site" else ():
            base = (*dense[:other], index, *dense[other + 1 :])
            for choice in range(widest):
                genomes[_everywhere(space, base, choice)] = None
    return [space.decode(genome) for genome in genomes if space.ruling(genome)]


def _everywhere(space: SearchSpace, base: Genome, choice: int) -> Genome:
    """``base`` with every group at its choice of this index, or its last."""
    sites = set(space.site_genes)
    return tuple(min(choice, space.sizes[i] - 1) if i in sites else index for i, index in enumerate(base))
