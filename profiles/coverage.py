"""Every operation that a search space can ask for, so that a table covers it before the search starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from engines.operation import Operation
from profiles.harness import distinct_operations
from spaces.configuration import CompressionConfig
from spaces.space import Genome, SearchSpace
from spaces.target import Workload

if TYPE_CHECKING:
    from engines.profiled_engine import ProfiledEngine


def space_operations(engine: ProfiledEngine, space: SearchSpace, workload: Workload) -> tuple[Operation, ...]:
    """Distinct operations of every choice of every gene, for the whole model and for each cut of it.

    The shape of a product depends on one direction of a cut by itself (heads or channels), so cuts are taken
    one at a time; attention depends on heads and on the format of the cache, so each cut meets each format.
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
    for base in _caches_and_cuts(space, dense):
        for choice in range(widest):
            genomes[_everywhere(space, base, choice)] = None
    return [space.decode(genome) for genome in genomes if space.ruling(genome)]


def _caches_and_cuts(space: SearchSpace, dense: Genome) -> Iterator[Genome]:
    cache = space.index("kv")
    cuts = [i for i, gene in enumerate(space.genes) if gene.kind not in ("site", "kv")]
    for form in range(space.sizes[cache]):
        base = _replaced(dense, cache, form)
        yield base
        for cut in cuts:
            yield from (_replaced(base, cut, index) for index in range(space.sizes[cut]))


def _replaced(genome: Genome, gene: int, choice: int) -> Genome:
    return (*genome[:gene], choice, *genome[gene + 1 :])


def _everywhere(space: SearchSpace, base: Genome, choice: int) -> Genome:
    """``base`` with every group at its choice of this index, or its last."""
    sites = set(space.site_genes)
    return tuple(min(choice, space.sizes[i] - 1) if i in sites else index for i, index in enumerate(base))
