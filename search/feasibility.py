"""What cannot be searched is refused before anything is measured: unknown metrics, limits that nothing meets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import product

from search.scoring import has, value_of
from spaces.configuration import CompressionConfig
from spaces.errors import LimitError, SpaceError
from spaces.limits import Limit
from spaces.measurement import Measurement
from spaces.space import Genome, SearchSpace
from spaces.students import STUDENT_KINDS

_SIZES = ("weight_bytes", "memory_bytes", "average_bits")


def check_measured(
    objectives: tuple[str, ...],
    limits: tuple[Limit, ...],
    quality: Collection[str],
    costs: Mapping[str, Measurement],
) -> None:
    """Refuse an objective or a limit that no candidate would have a value of.

    Args:
        objectives: metric names, quality first.
        limits: of the search.
        quality: metrics that are read with the model.
        costs: of any configuration.

    Raises:
        SpaceError: an objective is neither read nor computed.
        LimitError: the metric of a limit is neither.
    """
    known = ", ".join([*quality, *(name.removesuffix("_predicted") for name in costs)])
    remedy = f"Take one of {known}; times need an engine whose kernels were timed"
    for place, metric in enumerate(objectives):
        if not (metric in quality if place == 0 else has(costs, metric)):
            raise SpaceError(f"objective {metric}", "has no value during this search", remedy)
    for limit in limits:
        if limit.metric not in quality and not has(costs, limit.metric):
            raise LimitError(f"limit {limit.text}", "its metric has no value during this search", remedy)


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
        if limit.operator == "<=" and reached and limit.metric not in _SIZES and min(reached) > limit.bound:
            reached.append(_least(space, costs, limit.metric))
        if limit.operator == "<=" and reached and min(reached) > limit.bound:
            raise LimitError(
                f"limit {limit.text}",
                f"no configuration of the space meets it; the nearest meets {limit.loosened(min(reached))}",
                f"Allow that, or smaller widths or students ({space.spec.source})",
            )


def smallest(space: SearchSpace) -> list[Genome]:
    """The genomes of fewest bytes, one a legal student size."""
    students = [i for i, gene in enumerate(space.genes) if gene.kind in STUDENT_KINDS]
    dense = space.dense()
    found = []
    for chosen in product(*(range(len(space.genes[i].choices)) for i in students)):
        genome = list(dense)
        for index, choice in zip(students, chosen, strict=True):
            genome[index] = choice
        student = space.student(genome)
        for index, gene in enumerate(space.genes):
            if gene.kind == "kv":
                genome[index] = len(gene.choices) - 1
            elif gene.group is not None and student.keeps_block(gene.group.block):
                genome[index] = _narrowest(space.choice_bytes(gene, student), dense[index])
        if space.ruling(tuple(genome)):
            found.append(tuple(genome))
    return found or [dense]


def _narrowest(sizes: tuple[int | None, ...], otherwise: int) -> int:
    known = [size for size in sizes if size is not None]
    return sizes.index(min(known)) if known else otherwise


def _least(
    space: SearchSpace, costs: Callable[[CompressionConfig], Mapping[str, Measurement]], metric: str
) -> float:
    """The least predicted time: in every student size the choice of each gene that is fastest alone, together.

    A narrow format can be slower than a wide one, so the fewest bytes say nothing about times. A time is taken to
    add up over genes; what a student's shapes refuse is refused gene by gene.
    """

    def time(genome: Genome) -> float:
        return value_of(costs(space.decode(genome)), metric) if space.ruling(genome) else float("inf")

    least = time(space.dense())
    for base in smallest(space):
        fastest = list(base)
        for index, gene in enumerate(space.genes):
            if gene.kind not in STUDENT_KINDS:
                changed = [(*base[:index], choice, *base[index + 1 :]) for choice in range(len(gene.choices))]
                alone = [time(genome) for genome in changed]
                fastest[index] = alone.index(min(alone))
        least = min(least, time(tuple(fastest)))
    return least
