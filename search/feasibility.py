"""Limits that no configuration of a space meets are refused before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product

from search.scoring import has, value_of
from spaces.configuration import CompressionConfig
from spaces.errors import LimitError
from spaces.limits import Limit
from spaces.measurement import Measurement
from spaces.space import Genome, SearchSpace

_STUDENT = ("blocks", "kv_heads", "ffn_channels")


def check_feasible(
    space: SearchSpace,
    costs: Callable[[CompressionConfig], Mapping[str, Measurement]],
    limits: tuple[Limit, ...],
) -> None:
    """Refuse an upper limit on a cost that even the smallest configurations exceed.

    Raises:
        LimitError: names the limit and the nearest value that the space reaches.
    """
    if not limits:
        return
    found = [costs(space.decode(genome)) for genome in smallest(space)]
    for limit in limits:
        reached = [value_of(cost, limit.metric) for cost in found if has(cost, limit.metric)]
        if limit.operator == "<=" and reached and min(reached) > limit.bound:
            raise LimitError(
                f"limit {limit.text}",
                f"no configuration of the space meets it; the nearest has {min(reached):.6g}",
                f"Allow at least that, or smaller widths or students ({space.spec.source})",
            )


def smallest(space: SearchSpace) -> list[Genome]:
    """The genomes of fewest bytes, one a legal student size."""
    options = [
        range(len(gene.choices)) if gene.kind in _STUDENT else range(1)
        for gene in space.genes
        if gene.group is None and gene.kind != "kv"
    ]
    student_genes = [i for i, gene in enumerate(space.genes) if gene.kind in _STUDENT]
    narrow = [_narrowest(space, i) for i in range(len(space.genes))]
    found = []
    for chosen in product(*options):
        genome = list(narrow)
        for index, choice in zip(student_genes, chosen, strict=True):
            genome[index] = choice
        if space.ruling(tuple(genome)):
            found.append(tuple(genome))
    return found or [space.dense()]


def _narrowest(space: SearchSpace, index: int) -> int:
    gene = space.genes[index]
    if gene.kind == "kv":
        return len(gene.choices) - 1
    if gene.group is None:
        return 0
    sizes = space.choice_bytes(gene)
    return sizes.index(min(size for size in sizes if size is not None))
