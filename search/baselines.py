"""What every search measures before it proposes anything: the dense model, uniform configurations, probes.

Names: ``uniform-B`` is every linear inside the blocks at B bits by the first method (or named format) that has this
width, embedding, head and cache as they are; ``uniform-B-METHOD`` the same by another; ``-outerN`` has embedding and
head at N bits; ``-kv8`` has an 8-bit cache. Probes are ``student-...`` alone, ``student-...-uniform-B``, and
``sparse-...``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spaces.choice import SiteChoice
from spaces.space import Genome, SearchSpace
from spaces.students import STUDENT_KINDS


@dataclass(frozen=True)
class Named:
    """A genome with a name."""

    name: str
    genome: Genome


def uniform_configurations(space: SearchSpace) -> list[Named]:
    """Every width by every method, outer width and cache. Plain ones first."""
    plain: list[Named] = []
    others: list[Named] = []
    outer = _outer_widths(space)
    for bits, methods in _kinds(space).items():
        for method in methods:
            for outside in outer:
                for kv in (16, 8):
                    genome = space.uniform(bits, method, outside, kv)
                    if genome is None or not space.ruling(genome):
                        continue
                    name = f"uniform-{bits}" + (
                        f"-{method.replace('/', '-')}" if method != methods[0] else ""
                    )
                    name += f"-outer{outside}" if outside != 16 else ""
                    name += f"-kv{kv}" if kv != 16 else ""
                    (plain if name == f"uniform-{bits}" else others).append(Named(name, genome))
    return _distinct(space, plain + others)


def probes(space: SearchSpace) -> list[Named]:
    """Each student size alone and at plain 8 and 4 bits; zeros in every group at 16, 8 and 4 bits."""
    found: list[Named] = []
    dense, kinds = space.dense(), _kinds(space)
    bases = [("", dense)] + [
        (f"-uniform-{bits}", genome)
        for bits in (8, 4)
        if bits in kinds and (genome := space.uniform(bits, kinds[bits][0])) is not None
    ]
    for index, gene in enumerate(space.genes):
        if gene.kind in STUDENT_KINDS:
            for choice in range(1, len(gene.choices)):
                for suffix, base in bases:
                    genome = (*base[:index], choice, *base[index + 1 :])
                    if space.ruling(genome):
                        found.append(Named(f"student-{space.student(genome).name}{suffix}", genome))
    for bits in (16, 8, 4):
        sparse = _sparse(space, bits)
        if sparse is not None:
            share, genome = sparse
            suffix = f"-uniform-{bits}" if bits < 16 else ""
            found.append(Named(f"sparse-{100 * share:g}{suffix}", genome))
    return _distinct(space, found)


def marginals(space: SearchSpace, best: Mapping[int, str] | None = None) -> list[Named]:
    """One group changed from the dense model, at three widths; and the cache.

    Args:
        space: of the search.
        best: method or named format by width: the one that did least harm when everything had it. Where methods
            differ much, a group's damage is told by the method that it will be given. The first if left out.
    """
    dense, found = space.dense(), []
    kinds = {bits: methods[0] for bits, methods in _kinds(space).items()} | dict(best or {})
    for index, gene in enumerate(space.genes):
        for choice in _marginal_choices(space, index, kinds):
            genome = (*dense[:index], choice, *dense[index + 1 :])
            value = gene.choices[choice]
            label = getattr(value, "name", str(value))
            found.append(Named(f"marginal-{gene.name}-{label}", genome))
    return _distinct(space, found)


def _marginal_choices(space: SearchSpace, index: int, kinds: Mapping[int, str]) -> list[int]:
    gene = space.genes[index]
    if gene.kind == "kv":
        return list(range(1, len(gene.choices)))
    if gene.kind != "site":
        return []
    plain = {
        choice.weight.num_bits: k
        for k, choice in reversed(list(enumerate(gene.choices)))
        if isinstance(choice, SiteChoice) and choice.sparsity is None and not choice.weight.dense
        if choice.kind == kinds.get(choice.weight.num_bits, choice.kind)
    }
    return [plain[bits] for bits in sorted(plain)[:3]]


def best_kinds(uniform: Mapping[tuple[int, str], float]) -> dict[int, str]:
    """By width the method or named format of least damage; ``uniform`` is damage by (bits, kind)."""
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


def _outer_widths(space: SearchSpace) -> list[int]:
    outer = [g for g in space.genes if g.group is not None and g.group.kind != "linear"]
    widths = {c.weight.num_bits for g in outer for c in g.choices if isinstance(c, SiteChoice)}
    return sorted(widths | {16}, reverse=True)


def _inside(space: SearchSpace) -> list[SiteChoice]:
    inside = [g for g in space.genes if g.group is not None and g.group.kind == "linear"]
    return [c for g in inside for c in g.choices if isinstance(c, SiteChoice) and c.sparsity is None]


def _sparse(space: SearchSpace, bits: int) -> tuple[float, Genome] | None:
    """The largest share of zeros that every group inside the blocks offers at this width, and its genome."""
    inside = [i for i, g in enumerate(space.genes) if g.group is not None and g.group.kind == "linear"]
    offered = [
        {
            choice.sparsity.fraction: k
            for k, choice in reversed(list(enumerate(space.genes[index].choices)))
            if isinstance(choice, SiteChoice) and choice.sparsity and choice.weight.num_bits == bits
        }
        for index in inside
    ]
    shares = set.intersection(*(set(known) for known in offered)) if offered else set()
    if not shares:
        return None
    genome = list(space.dense())
    for index, known in zip(inside, offered, strict=True):
        genome[index] = known[max(shares)]
    return max(shares), tuple(genome)


def _distinct(space: SearchSpace, named: list[Named]) -> list[Named]:
    found: dict[str, Named] = {}
    dense = space.decode(space.dense()).digest
    for entry in named:
        digest = space.decode(entry.genome).digest
        if digest != dense:
            found.setdefault(digest, entry)
    return list(found.values())
