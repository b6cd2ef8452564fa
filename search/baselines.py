"""What every search measures before it proposes anything: the dense model, uniform configurations, probes.

Names: ``uniform-B`` is every linear inside the blocks at B bits by the first method (or named format) that has this
width, embedding, head and cache as they are; ``uniform-B-METHOD`` the same by another; ``-embeddingN`` has embedding
and head at N bits; ``-kv8`` has an 8-bit cache. Probes are ``pruned-...`` alone, ``pruned-...-uniform-B``, and
``sparse-...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from paretune.spaces.choice import LayerChoice
from paretune.spaces.pruned_sizes import PRUNED_KINDS
from paretune.spaces.space import Point, SearchSpace


@dataclass(frozen=True)
class Named:
    """A point with a name."""

    name: str
    point: Point


def uniform_configurations(space: SearchSpace) -> list[Named]:
    """Every width by every method, embedding width and cache. Plain ones first."""
    plain: list[Named] = []
    others: list[Named] = []
    embedding = _embedding_widths(space)
    for bits, methods in _kinds(space).items():
        for method in methods:
            for outside in embedding:
                for kv in (16, 8):
                    point = space.uniform(bits, method, outside, kv)
                    if point is None or not space.ruling(point):
                        continue
                    name = f"uniform-{bits}" + (
                        f"-{method.replace('/', '-')}" if method != methods[0] else ""
                    )
                    name += f"-embedding{outside}" if outside != 16 else ""
                    name += f"-kv{kv}" if kv != 16 else ""
                    (plain if name == f"uniform-{bits}" else others).append(Named(name, point))
    return _distinct(space, plain + others)


def probes(space: SearchSpace) -> list[Named]:
    """Each pruned size alone and at plain 8 and 4 bits; zeros in every group at 16, 8 and 4 bits."""
    found: list[Named] = []
    dense, kinds = space.dense(), _kinds(space)
    bases = [("", dense)] + [
        (f"-uniform-{bits}", point)
        for bits in (8, 4)
        if bits in kinds and (point := space.uniform(bits, kinds[bits][0])) is not None
    ]
    for index, parameter in enumerate(space.parameters):
        if parameter.kind in PRUNED_KINDS:
            for choice in range(1, len(parameter.choices)):
                for suffix, base in bases:
                    point = (*base[:index], choice, *base[index + 1 :])
                    if space.ruling(point):
                        found.append(Named(f"pruned-{space.pruned(point).name}{suffix}", point))
    for bits in (16, 8, 4):
        sparse = _sparse(space, bits)
        if sparse is not None:
            share, point = sparse
            suffix = f"-uniform-{bits}" if bits < 16 else ""
            found.append(Named(f"sparse-{100 * share:g}{suffix}", point))
    return _distinct(space, found)


def marginals(space: SearchSpace, best: Mapping[int, str] | None = None) -> list[Named]:
    """One group changed from the dense model, at three widths; and the cache.

    Args:
        space: of the search.
        best: method or named format by width: the one that did least harm when everything had it. Where methods
            differ much, a group's sensitivity is told by the method that it will be given. The first if left out.
    """
    dense, found = space.dense(), []
    kinds = {bits: methods[0] for bits, methods in _kinds(space).items()} | dict(best or {})
    for index, parameter in enumerate(space.parameters):
        for choice in _marginal_choices(space, index, kinds):
            point = (*dense[:index], choice, *dense[index + 1 :])
            value = parameter.choices[choice]
            label = getattr(value, "name", str(value))
            found.append(Named(f"marginal-{parameter.name}-{label}", point))
    return _distinct(space, found)


def _marginal_choices(space: SearchSpace, index: int, kinds: Mapping[int, str]) -> list[int]:
    parameter = space.parameters[index]
    if parameter.kind == "kv":
        return list(range(1, len(parameter.choices)))
    if parameter.kind != "layer":
        return []
    plain = {
        choice.weight.num_bits: k
        for k, choice in reversed(list(enumerate(parameter.choices)))
        if isinstance(choice, LayerChoice) and choice.sparsity is None and not choice.weight.dense
        if choice.kind == kinds.get(choice.weight.num_bits, choice.kind)
    }
    return [plain[bits] for bits in sorted(plain)[:3]]


def best_kinds(uniform: Mapping[tuple[int, str], float]) -> dict[int, str]:
    """By width the method or named format of least sensitivity; ``uniform`` is sensitivity by (bits, kind)."""
    found: dict[int, str] = {}
    for bits, kind in sorted(uniform, key=lambda key: uniform[key]):
        found.setdefault(bits, kind)
    return found


def _kinds(space: SearchSpace) -> dict[int, list[str]]:
    """Methods and named formats of every width inside the blocks, widths ascending."""
    found: dict[int, dict[str, None]] = {}
    for choice in _inside(space):
        if not choice.weight.dense:
            found.setdefault(choice.weight.num_bits, {})[choice.kind] = None
    return {bits: list(found[bits]) for bits in sorted(found)}


def _embedding_widths(space: SearchSpace) -> list[int]:
    embedding = [g for g in space.parameters if g.group is not None and g.group.kind != "linear"]
    widths = {c.weight.num_bits for g in embedding for c in g.choices if isinstance(c, LayerChoice)}
    return sorted(widths | {16}, reverse=True)


def _inside(space: SearchSpace) -> list[LayerChoice]:
    inside = [g for g in space.parameters if g.group is not None and g.group.kind == "linear"]
    return [c for g in inside for c in g.choices if isinstance(c, LayerChoice) and c.sparsity is None]


def _sparse(space: SearchSpace, bits: int) -> tuple[float, Point] | None:
    """The largest share of zeros that every group inside the blocks offers at this width, and its point."""
    inside = [i for i, g in enumerate(space.parameters) if g.group is not None and g.group.kind == "linear"]
    offered = [
        {
            choice.sparsity.fraction: k
            for k, choice in reversed(list(enumerate(space.parameters[index].choices)))
            if isinstance(choice, LayerChoice) and choice.sparsity and choice.weight.num_bits == bits
        }
        for index in inside
    ]
    shares = set.intersection(*(set(known) for known in offered)) if offered else set()
    if not shares:
        return None
    point = list(space.dense())
    for index, known in zip(inside, offered, strict=True):
        point[index] = known[max(shares)]
    return max(shares), tuple(point)


def _distinct(space: SearchSpace, named: list[Named]) -> list[Named]:
    found: dict[str, Named] = {}
    dense = space.decode(space.dense()).digest
    for entry in named:
        digest = space.decode(entry.point).digest
        if digest != dense:
            found.setdefault(digest, entry)
    return list(found.values())
