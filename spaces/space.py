"""The search space: one categorical a fused group, and a few for the model as a whole.

A genome is a tuple of choice indices, one a gene, in the order of :attr:`SearchSpace.genes`. Only what the
engine can load is in the space, so every genome decodes to a legal configuration, or the space says why a
student size and a choice do not go together (:meth:`SearchSpace.ruling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from spaces.cache_format import KVFormat
from spaces.choice import SiteChoice
from spaces.configuration import WHOLE, CompressionConfig, Student
from spaces.errors import ConfigurationError, FormatError, SpaceError
from spaces.genes import Gene, GeneBuilder, GeneKind
from spaces.groups import whole_blocks
from spaces.legality import LEGAL, Legality, Ruling
from spaces.methods import closure_ruling
from spaces.model import ModelSpec
from spaces.patterns import Restrictions
from spaces.size import site_bytes
from spaces.students import STUDENT_KINDS

__all__ = ["Gene", "GeneKind", "Genome", "SearchSpace"]

Genome = tuple[int, ...]
_REMEMBERED = 1024
"""Decoded genomes kept at hand: a candidate is decoded when it is proposed, named, costed and told."""


class SearchSpace:
    """All legal configurations of a model for an engine on a device.

    Args:
        spec: the model.
        legality: of the engine on the device.
        restrictions: what the user allows.
        block_order: block indices, least important first: which blocks a smaller student loses.

    Attributes:
        groups: the engine's partition of the sites; a block that a method may scale is one group.
        genes: one categorical a group, then ``kv`` and the three of the student size; hidden channels where
            they are offered.
        refused: what is not in the space, and why.

    Raises:
        SpaceError: a group is left without a choice, a pattern matches nothing, a student size that the user
            names cannot be had, or ``block_order`` is no order of the blocks.
    """

    def __init__(
        self,
        spec: ModelSpec,
        legality: Legality,
        restrictions: Restrictions | None = None,
        block_order: Sequence[int] | None = None,
    ) -> None:
        self.spec = spec
        self.legality = legality
        self.restrictions = restrictions or Restrictions()
        engine_groups = legality.groups(spec)
        self.restrictions.check(engine_groups)
        ruled = whole_blocks(engine_groups, self.restrictions)
        self.groups = tuple(group for group, _ in ruled)
        self.block_order = tuple(range(spec.blocks)[::-1] if block_order is None else block_order)
        if sorted(self.block_order) != list(range(spec.blocks)):
            raise SpaceError(
                f"block order {self.block_order}",
                f"must name each of {spec.blocks} blocks once",
                "Use the order that the bank gives",
            )
        builder = GeneBuilder(spec, legality, self.restrictions, self.kept_blocks)
        self.genes: tuple[Gene, ...] = (
            *(builder.site(group, rule) for group, rule in ruled),
            builder.cache(),
            *builder.students(),
        )
        self.refused = builder.refused
        self._decoded: dict[tuple[int, ...], CompressionConfig] = {}

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of each gene."""
        return tuple(len(gene.choices) for gene in self.genes)

    @cached_property
    def site_genes(self) -> tuple[int, ...]:
        """Indices of the genes that choose for a group."""
        return tuple(i for i, gene in enumerate(self.genes) if gene.kind == "site")

    def index(self, name: str) -> int:
        """Position of the gene called ``name``."""
        for i, gene in enumerate(self.genes):
            if gene.name == name:
                return i
        raise SpaceError(
            f"gene {name!r}", "is not part of the space", f"Genes: {', '.join(g.name for g in self.genes)}"
        )

    def choice_bytes(self, gene: Gene, student: Student = WHOLE) -> tuple[int | None, ...]:
        """Stored bytes of a group (all its sites, containers included) for each choice of its gene.

        ``None`` where the student's shapes refuse the format.
        """
        if gene.group is None:
            raise SpaceError(f"gene {gene.name}", "chooses for no group", "Ask for a gene of kind site")
        sites = [self.spec.linear(name) for name in gene.group.sites]
        found: list[int | None] = []
        for choice in gene.choices:
            if isinstance(choice, SiteChoice):
                if not closure_ruling(choice, student):
                    found.append(None)
                    continue
                config = CompressionConfig(sites={site.name: choice for site in sites}, student=student)
                try:
                    found.append(sum(site_bytes(self.spec, site, config).total for site in sites))
                except FormatError:
                    found.append(None)
        return tuple(found)

    # -- genomes and configurations --------------------------------------------------------------------------

    def decode(self, genome: Sequence[int]) -> CompressionConfig:
        """The configuration of a genome; groups of blocks that the student lacks are left out."""
        key = tuple(genome)
        if key not in self._decoded:
            if len(self._decoded) >= _REMEMBERED:
                self._decoded.clear()
            self._decoded[key] = self._decode(key)
        return self._decoded[key]

    def _decode(self, genome: Genome) -> CompressionConfig:
        self._check_genome(genome)
        student = self.student(genome)
        sites: dict[str, SiteChoice] = {}
        kv = KVFormat()
        for gene, index in zip(self.genes, genome, strict=True):
            choice = gene.choices[index]
            if gene.group is not None and isinstance(choice, SiteChoice):
                if student.keeps_block(gene.group.block):
                    sites.update(dict.fromkeys(gene.group.sites, choice))
            elif isinstance(choice, KVFormat):
                kv = choice
        return CompressionConfig(sites=sites, kv=kv, student=student)

    def encode(self, config: CompressionConfig) -> Genome:
        """The genome of a configuration of this space; groups of cut blocks take their widest choice.

        Raises:
            ConfigurationError: the configuration is not in the space.
        """
        genome = tuple(self._encode_gene(gene, config) for gene in self.genes)
        if self.student(genome) != config.student:
            raise ConfigurationError(
                f"student {config.student.name} of blocks {config.student.blocks}",
                f"the space keeps {self.student(genome).blocks} and ranks by {WHOLE.ranking}",
                "Use a space with the block order that the student was cut by",
            )
        known = {site for group in self.groups for site in group.sites}
        for site in config.sites:
            if site not in known:
                raise ConfigurationError(
                    f"site {site!r}", "belongs to no group", "`paretune inspect` lists them"
                )
        return genome

    def student(self, genome: Sequence[int]) -> Student:
        """The student size of a genome."""
        counts: dict[str, int | None] = {}
        for gene, index in zip(self.genes, genome, strict=True):
            if gene.kind in STUDENT_KINDS:
                value = gene.choices[index]
                counts[gene.kind] = value if isinstance(value, int) else None
        blocks = counts.get("blocks")
        if all(value is None for value in counts.values()):
            return WHOLE
        return Student(
            blocks=None if blocks is None else self.kept_blocks(blocks),
            kv_heads=counts.get("kv_heads"),
            ffn_channels=counts.get("ffn_channels"),
            hidden=counts.get("hidden"),
        )

    def kept_blocks(self, count: int) -> tuple[int, ...]:
        """The ``count`` most important blocks, ascending."""
        return tuple(sorted(self.block_order[self.spec.blocks - count :]))

    def ruling(self, genome: Sequence[int]) -> Ruling:
        """Whether the whole candidate is legal (a student's shapes may refuse a group size)."""
        student = self.student(genome)
        if student.whole:
            return LEGAL
        verdict = self.legality.student(self.spec, student)
        if not verdict:
            return verdict
        for i in self.site_genes:
            gene, choice = self.genes[i], self.genes[i].choices[genome[i]]
            if gene.group is None or not isinstance(choice, SiteChoice):
                continue
            if student.keeps_block(gene.group.block):
                verdict = closure_ruling(choice, student)
                if verdict:
                    verdict = self.legality.choice(self.spec, gene.group, choice, student)
                if not verdict:
                    return verdict
        return LEGAL

    # -- named genomes ---------------------------------------------------------------------------------------

    def dense(self) -> Genome:
        """Everything as it is; the widest choice where 16 bits are not allowed."""
        return tuple(gene.widest() for gene in self.genes)

    def uniform(self, bits: int, kind: str, outer_bits: int = 16, kv_bits: int = 16) -> Genome | None:
        """Every group inside the blocks at one width; ``None`` if some group does not offer it.

        Args:
            bits: of the weights.
            kind: method, or :attr:`SiteChoice.kind` of a named format.
            outer_bits: of embedding and head, by the same method.
            kv_bits: of the cache.
        """
        genome = list(self.dense())
        cache = [
            kv_bits == c.num_bits for c in self.genes[self.index("kv")].choices if isinstance(c, KVFormat)
        ]
        for i, gene in enumerate(self.genes):
            if gene.group is not None:
                wanted = gene.find(bits if gene.group.kind == "linear" else outer_bits, kind)
            elif gene.kind == "kv":
                wanted = cache.index(True) if any(cache) else None
            else:
                continue
            if wanted is None:
                return None
            genome[i] = wanted
        return tuple(genome)

    def random(self, rng: np.random.Generator) -> Genome:
        """A legal genome, uniform over the genes."""
        for _ in range(1000):
            genome = tuple(int(rng.integers(size)) for size in self.sizes)
            if self.ruling(genome):
                return genome
        raise SpaceError(
            "1000 random candidates", "none was legal", "Allow fewer student sizes or other group sizes"
        )

    # -- details ---------------------------------------------------------------------------------------------

    def _check_genome(self, genome: Sequence[int]) -> None:
        if len(genome) != len(self.genes) or any(
            not 0 <= g < n for g, n in zip(genome, self.sizes, strict=True)
        ):
            raise ConfigurationError(
                f"genome of {len(genome)} genes",
                f"must hold one index a gene, below {self.sizes}",
                "Make genomes with encode, random or uniform",
            )

    def _encode_gene(self, gene: Gene, config: CompressionConfig) -> int:
        wanted: SiteChoice | KVFormat | int | None
        if gene.group is not None:
            if not config.keeps_block(gene.group.block):
                return gene.widest()
            wanted = config.choice(gene.group.sites[0])
            choices = [config.choice(site) for site in gene.group.sites]
            if any(choice is not wanted and choice != wanted for choice in choices):
                raise ConfigurationError(
                    f"group {gene.name}", "its sites must share a choice", "Choose for the group"
                )
        elif gene.kind == "kv":
            wanted = config.kv
        else:
            kept = getattr(config.student, gene.kind)
            wanted = len(kept) if isinstance(kept, tuple) else kept
        position = gene.position(wanted)
        if position is None:
            shown = getattr(wanted, "name", wanted)
            raise ConfigurationError(
                f"{gene.name} = {shown}", "is not in the space", "`paretune inspect` lists choices"
            )
        return position
