"""Every operation that a search space can ask for, so that a table covers it before the search starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from paretune.engines.operation import Operation
from paretune.profiles.harness import distinct_operations
from paretune.spaces.configuration import DENSE_CONFIG, CompressionConfig
from paretune.spaces.space import Point, SearchSpace
from paretune.spaces.target import Workload

if TYPE_CHECKING:
    from paretune.engines.profiled_engine import ProfiledEngine


def space_operations(engine: ProfiledEngine, space: SearchSpace, workload: Workload) -> tuple[Operation, ...]:
    """Distinct operations of every choice of every parameter, for the whole model and for each cut of it.

    The shape of a product depends on one direction of a cut by itself (heads or channels), so cuts are taken
    one at a time; attention depends on heads and on the format of the cache, so each cut meets each format.
    Candidates that the space rules out are left out.
    """
    found: list[Operation] = []
    for config in _configurations(space):
        found += engine.operations(space.spec, config, workload)
    return distinct_operations(found)


def _configurations(space: SearchSpace) -> list[CompressionConfig]:
    origin = space.origin()
    widest = max(space.sizes)
    points: dict[Point, None] = {}
    for base in _caches_and_cuts(space, origin):
        for choice in range(widest):
            points[_everywhere(space, base, choice)] = None
    return [DENSE_CONFIG, *(space.decode(point) for point in points if space.ruling(point))]


def _caches_and_cuts(space: SearchSpace, dense: Point) -> Iterator[Point]:
    cache = space.index("kv")
    cuts = [i for i, parameter in enumerate(space.parameters) if parameter.kind not in ("layer", "kv")]
    for form in range(space.sizes[cache]):
        base = _replaced(dense, cache, form)
        yield base
        for cut in cuts:
            yield from (_replaced(base, cut, index) for index in range(space.sizes[cut]))


def _replaced(point: Point, parameter: int, choice: int) -> Point:
    return (*point[:parameter], choice, *point[parameter + 1 :])


def _everywhere(space: SearchSpace, base: Point, choice: int) -> Point:
    """``base`` with every group at its choice of this index, or its last."""
    layers = set(space.layer_parameters)
    return tuple(min(choice, space.sizes[i] - 1) if i in layers else index for i, index in enumerate(base))
