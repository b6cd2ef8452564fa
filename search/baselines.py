"""What every search measures before it proposes anything: the dense model, uniform configurations, probes.

Names are for people and carry no data: ``uniform-B`` is every linear inside the blocks in integers of B bits by the
first method that has this width, embedding, head and cache as they are; ``uniform-B-METHOD`` the same by another, and
``uniform-B-FORMAT`` in a format with a name of its own;
``-embeddingN`` has embedding and head at N bits; ``-kv8`` has an 8-bit cache. Probes are ``pruned-...`` alone,
``pruned-...-uniform-B``, and ``sparse-...``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from paretune.spaces.choice import LayerChoice
from paretune.spaces.configuration import DENSE_CONFIG
from paretune.spaces.named_formats import name_of
from paretune.spaces.pruned_sizes import PRUNED_KINDS
from paretune.spaces.result import Uniform
from paretune.spaces.space import Parameter, Point, SearchSpace


@dataclass(frozen=True)
class Named:
    """A point with a name, and what it is made of where it is a uniform configuration."""

    name: str
    point: Point
    uniform: Uniform | None = None


def uniform_configurations(space: SearchSpace) -> list[Named]:
    """Every width by every method, embedding width and cache. The first of each width is plain; these come first."""
    plain: dict[int, Named] = {}
    others: list[Named] = []
    labels = _labels(space)
    for bits, methods in _kinds(space).items():
        for method, embedding, kv in product(methods, _embedding_widths(space), (16, 8)):
            point = space.uniform(bits, method, embedding, kv)
            if point is None or not space.ruling(point):
                continue
            named = method != methods[0] or "/" in method
            name = f"uniform-{bits}" + (f"-{labels[method]}" if named else "")
            name += f"-embedding{embedding}" if embedding != 16 else ""
            name += f"-kv{kv}" if kv != 16 else ""
            made = Uniform(
                bits=bits, method=method, embedding_bits=embedding, kv_bits=kv, plain=bits not in plain
            )
            if made.plain:
                plain[bits] = Named(name, point, made)
            else:
                others.append(Named(name, point, made))
    return _distinct(space, [*plain.values(), *others])


def probes(space: SearchSpace) -> list[Named]:
    """Each pruned size alone and at plain 8 and 4 bits; zeros in every group at 16, 8 and 4 bits."""
    found: list[Named] = []
    dense, kinds = space.origin(), _kinds(space)
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
    shares = {bits: _sparse(space, bits) for bits in (16, 8, 4)}
    widest = next((bits for bits, points in shares.items() if points), 16)
    for bits, points in shares.items():
        # Every share at the widest width, where nothing else does harm; the largest alone at the others.
        for share in sorted(points)[-1:] if bits != widest else sorted(points):
            suffix = f"-uniform-{bits}" if bits < 16 else ""
            found.append(Named(f"sparse-{100 * share:g}{suffix}", points[share]))
    return _distinct(space, found)


def marginals(space: SearchSpace, ranked: Mapping[int, Sequence[str]] | None = None) -> list[Named]:
    """One group changed from the origin, at its three smallest widths; and the cache.

    Args:
        space: of the search.
        ranked: methods and named formats by width, the one that did least harm when everything had it first. Where
            methods differ much, a group's sensitivity is told by the method that it will be given: the first of these
            that the group is offered. The first that it is offered if left out.
    """
    origin, found = space.origin(), []
    for index, parameter in enumerate(space.parameters):
        for choice in _marginal_choices(parameter, ranked or {}):
            if choice != origin[index]:
                label = getattr(parameter.choices[choice], "name", str(parameter.choices[choice]))
                point = (*origin[:index], choice, *origin[index + 1 :])
                found.append(Named(f"marginal-{parameter.name}-{label}", point))
    return _distinct(space, found)


def _marginal_choices(parameter: Parameter, ranked: Mapping[int, Sequence[str]]) -> list[int]:
    if parameter.kind == "kv":
        return list(range(len(parameter.choices)))
    offered: dict[int, dict[str, int]] = {}
    for place, choice in enumerate(parameter.choices):
        if isinstance(choice, LayerChoice) and choice.sparsity is None and not choice.weight.dense:
            offered.setdefault(choice.weight.num_bits, {}).setdefault(choice.kind, place)
    return [
        next((kinds[kind] for kind in ranked.get(bits, ()) if kind in kinds), next(iter(kinds.values())))
        for bits, kinds in sorted(offered.items())[:3]
    ]


def ranked_kinds(uniform: Mapping[tuple[int, str], float]) -> dict[int, list[str]]:
    """By width the methods and named formats, least loss first; ``uniform`` is loss by (bits, kind)."""
    found: dict[int, list[str]] = {}
    for bits, kind in sorted(uniform, key=lambda key: uniform[key]):
        found.setdefault(bits, []).append(kind)
    return found


def _kinds(space: SearchSpace) -> dict[int, list[str]]:
    """Methods and named formats of every width inside the blocks, widths ascending."""
    found: dict[int, dict[str, None]] = {}
    for choice in _inside(space):
        if not choice.weight.dense:
            found.setdefault(choice.weight.num_bits, {})[choice.kind] = None
    return {bits: list(found[bits]) for bits in sorted(found)}


def _labels(space: SearchSpace) -> dict[str, str]:
    """What methods and named formats are called in names of rows: a format without its method, if it has one alone."""
    made: dict[str, dict[str, str]] = {}
    for choice in _inside(space):
        made.setdefault(name_of(choice) or choice.kind, {})[choice.kind] = choice.method
    return {
        kind: (name if len(kinds) == 1 else f"{name}-{method}").replace("/", "-") if "/" in kind else kind
        for name, kinds in made.items()
        for kind, method in kinds.items()
    }


def _embedding_widths(space: SearchSpace) -> list[int]:
    embedding = [g for g in space.parameters if g.group is not None and g.group.kind != "linear"]
    widths = {c.weight.num_bits for g in embedding for c in g.choices if isinstance(c, LayerChoice)}
    return sorted(widths | {16}, reverse=True)


def _inside(space: SearchSpace) -> list[LayerChoice]:
    inside = [g for g in space.parameters if g.group is not None and g.group.kind == "linear"]
    return [c for g in inside for c in g.choices if isinstance(c, LayerChoice) and c.sparsity is None]


def _sparse(space: SearchSpace, bits: int) -> dict[float, Point]:
    """The shares of zeros that every group inside the blocks offers at this width, and their points."""
    offered = {
        index: {
            choice.sparsity.fraction: k
            for k, choice in reversed(list(enumerate(parameter.choices)))
            if isinstance(choice, LayerChoice) and choice.sparsity and choice.weight.num_bits == bits
        }
        for index, parameter in enumerate(space.parameters)
        if parameter.group is not None and parameter.group.kind == "linear"
    }
    shares = set.intersection(*(set(known) for known in offered.values())) if offered else set()
    return {
        share: tuple(offered[i][share] if i in offered else choice for i, choice in enumerate(space.origin()))
        for share in shares
    }


def _distinct(space: SearchSpace, named: list[Named]) -> list[Named]:
    found: dict[str, Named] = {}
    for entry in named:
        digest = space.decode(entry.point).digest
        if digest != DENSE_CONFIG.digest:
            found.setdefault(digest, entry)
    return list(found.values())
