"""What cannot be searched is refused before anything is measured: unknown metrics, limits that nothing meets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from itertools import product

from paretune.search.scoring import has, value_of
from paretune.spaces.cache_format import KVFormat
from paretune.spaces.configuration import CompressionConfig
from paretune.spaces.errors import LimitError, LimitTextError, SpaceError
from paretune.spaces.limits import Limit
from paretune.spaces.measurement import Measurement
from paretune.spaces.pruned_sizes import PRUNED_KINDS
from paretune.spaces.size import kv_cache_bytes
from paretune.spaces.space import Point, SearchSpace
from paretune.spaces.target import Workload

_SIZES = ("weight_bytes", "memory_bytes", "average_bits")


def check_measured(
    objectives: tuple[str, ...],
    limits: tuple[Limit, ...],
    quality: Collection[str],
    costs: Collection[str],
    untimed: str = "",
) -> None:
    """Refuse an objective or a limit that no candidate would have a value of.

    Args:
        objectives: metric names, quality first.
        limits: of the search.
        quality: metrics that are read with the model.
        costs: metrics that are computed or predicted; the latter with ``_predicted`` in their names.
        untimed: why times are not predicted, where they are not.

    Raises:
        SpaceError: an objective is neither read nor computed.
        LimitTextError: the metric of a limit is neither.
    """
    known = ", ".join([*quality, *(name.removesuffix("_predicted") for name in costs)])
    remedy = f"Take one of {known}"

    def rule(metric: str) -> str:
        why = untimed if metric in ("ttft_s", "tpot_s") else ""
        return "has no value during this search" + (f": {why}" if why else "")

    for place, metric in enumerate(objectives):
        if not (metric in quality if place == 0 else has(costs, metric)):
            raise SpaceError(f"objective {metric}", rule(metric), remedy)
    for limit in limits:
        if limit.metric not in quality and not has(costs, limit.metric):
            raise LimitTextError(f"limit {limit.text}", f"its metric {rule(limit.metric)}", remedy)


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
    found = [costs(space.decode(point)) for point in smallest(space)]
    for limit in limits:
        reached = [value_of(cost, limit.metric) for cost in found if has(cost, limit.metric)]
        if limit.operator == "<=" and reached and limit.metric not in _SIZES and min(reached) > limit.bound:
            reached.append(_least(space, costs, limit.metric))
        if limit.operator == "<=" and reached and min(reached) > limit.bound:
            raise LimitError(
                f"limit {limit.text}",
                f"no configuration of the space meets it; the nearest meets {limit.loosened(min(reached))}",
                f"Allow that, or smaller widths or pruned models ({space.spec.source})",
            )


def smallest(space: SearchSpace) -> list[Point]:
    """The points of fewest bytes, one per legal pruned size."""
    pruned_sizes = [i for i, parameter in enumerate(space.parameters) if parameter.kind in PRUNED_KINDS]
    origin = space.origin()
    found = []
    for chosen in product(*(range(len(space.parameters[i].choices)) for i in pruned_sizes)):
        point = list(origin)
        for index, choice in zip(pruned_sizes, chosen, strict=True):
            point[index] = choice
        pruned = space.pruned(point)
        for index, parameter in enumerate(space.parameters):
            if parameter.kind == "kv":
                caches = [
                    CompressionConfig(kv=c, pruned=pruned)
                    for c in parameter.choices
                    if isinstance(c, KVFormat)
                ]
                sizes = [kv_cache_bytes(space.spec, config, Workload()) for config in caches]
                point[index] = sizes.index(min(sizes))
            elif parameter.group is not None and pruned.keeps_block(parameter.group.block):
                point[index] = _narrowest(space.choice_bytes(parameter, pruned), origin[index])
        if space.ruling(tuple(point)):
            found.append(tuple(point))
    return found or [origin]


def _narrowest(sizes: tuple[int | None, ...], otherwise: int) -> int:
    known = [size for size in sizes if size is not None]
    return sizes.index(min(known)) if known else otherwise


def _least(
    space: SearchSpace, costs: Callable[[CompressionConfig], Mapping[str, Measurement]], metric: str
) -> float:
    """The least predicted time: in every pruned size the choice of each parameter that is fastest alone, together.

    A narrow format can be slower than a wide one, so the fewest bytes say nothing about times. A time is taken to
    add up over parameters; what a pruned model's shapes refuse is refused parameter by parameter.
    """

    def time(point: Point) -> float:
        return value_of(costs(space.decode(point)), metric) if space.ruling(point) else float("inf")

    least = time(space.origin())
    for base in smallest(space):
        fastest = list(base)
        for index, parameter in enumerate(space.parameters):
            if parameter.kind not in PRUNED_KINDS:
                changed = [
                    (*base[:index], choice, *base[index + 1 :]) for choice in range(len(parameter.choices))
                ]
                alone = [time(point) for point in changed]
                fastest[index] = alone.index(min(alone))
        least = min(least, time(tuple(fastest)))
    return least
