"""The search space: one categorical a fused group, and a few for the model as a whole.

A genome is a tuple of choice indices, one a gene, in the order of :attr:`SearchSpace.genes`. Only what the
engine can load is in the space, so every genome decodes to a legal configuration, or the space says why a
student size and a choice do not go together (:meth:`SearchSpace.ruling`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from spaces.choice import UNTOUCHED, SiteChoice, Sparsity
from spaces.configuration import WHOLE, CompressionConfig, Student
from spaces.errors import ConfigurationError, SpaceError
from spaces.formats import KVFormat, integer_format
from spaces.legality import LEGAL, FusedGroup, Legality, Ruling
from spaces.model import ModelSpec
from spaces.patterns import Restrictions
from spaces.students import student_ladders

Genome = tuple[int, ...]
GeneKind = Literal["site", "kv", "blocks", "kv_heads", "ffn_channels"]


@dataclass(frozen=True)
class Gene:
    """One categorical.

    Attributes:
        name: the group's name, or ``kv``, ``student.blocks``, ``student.kv_heads``, ``student.ffn_channels``.
        kind: what the choices are.
        choices: :class:`SiteChoice`, :class:`KVFormat`, or kept counts (``None``: everything).
        group: for ``site`` genes.
    """

    name: str
    kind: GeneKind
    choices: tuple[SiteChoice | KVFormat | int | None, ...]
    group: FusedGroup | None = None


class SearchSpace:
    """All legal configurations of a model for an engine on a device.

    Args:
        spec: the model.
        legality: of the engine on the device.
        restrictions: what the user allows.
        block_order: block indices, least important first: which blocks a smaller student loses.

    Raises:
        SpaceError: a group is left without a choice, or a pattern matches nothing.
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
        self.groups = legality.groups(spec)
        self.restrictions.check(self.groups)
        self.block_order = tuple(range(spec.blocks)[::-1]) if block_order is None else tuple(block_order)
        self.refused: dict[str, str] = {}
        self.genes: tuple[Gene, ...] = (*map(self._site_gene, self.groups), *self._model_genes())

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

    # -- genomes and configurations ---------------------------------------------------------------------------

    def decode(self, genome: Sequence[int]) -> CompressionConfig:
        """The configuration of a genome; groups of blocks that the student lacks are left out."""
        self._check_genome(genome)
        student = self.student(genome)
        sites: dict[str, SiteChoice] = {}
        kv = KVFormat()
        for gene, index in zip(self.genes, genome, strict=True):
            choice = gene.choices[index]
            if gene.group is not None and isinstance(choice, SiteChoice):
                if student.blocks is None or gene.group.block is None or gene.group.block in student.blocks:
                    sites.update(dict.fromkeys(gene.group.sites, choice))
            elif isinstance(choice, KVFormat):
                kv = choice
        return CompressionConfig(sites=sites, kv=kv, student=student)

    def encode(self, config: CompressionConfig) -> Genome:
        """The genome of a configuration of this space (groups of cut blocks take their dense choice or the first).

        Raises:
            ConfigurationError: the configuration is not in the space.
        """
        return tuple(self._encode_gene(gene, config) for gene in self.genes)

    def student(self, genome: Sequence[int]) -> Student:
        """The student size of a genome."""
        counts: dict[str, int | None] = {}
        for gene, index in zip(self.genes, genome, strict=True):
            if gene.kind in ("blocks", "kv_heads", "ffn_channels"):
                value = gene.choices[index]
                counts[gene.kind] = value if isinstance(value, int) else None
        blocks = counts.get("blocks")
        if all(value is None for value in counts.values()):
            return WHOLE
        return Student(
            blocks=None if blocks is None else self.kept_blocks(blocks),
            kv_heads=counts.get("kv_heads"),
            ffn_channels=counts.get("ffn_channels"),
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
            if gene.group is not None and isinstance(choice, SiteChoice):
                verdict = self.legality.choice(self.spec, gene.group, choice, student)
                if not verdict:
                    return verdict
        return LEGAL

    # -- named genomes ----------------------------------------------------------------------------------------

    def dense(self) -> Genome:
        """Everything as it is; the widest choice where 16 bits are not allowed."""
        return tuple(self._widest(gene) for gene in self.genes)

    def uniform(self, bits: int, method: str, outer_bits: int = 16, kv_bits: int = 16) -> Genome | None:
        """Every group inside the blocks at one width; ``None`` if some group does not offer it."""
        genome = list(self.dense())
        for i, gene in enumerate(self.genes):
            if gene.kind == "site":
                inside = gene.group is not None and gene.group.kind == "linear"
                wanted = self._find(gene, bits if inside else outer_bits, method)
            elif gene.kind == "kv":
                wanted = next(
                    (k for k, c in enumerate(gene.choices) if c == KVFormat(num_bits=kv_bits)), None
                )  # type: ignore[arg-type]
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

    # -- construction -----------------------------------------------------------------------------------------

    def _site_gene(self, group: FusedGroup) -> Gene:
        rule = self.restrictions.rule(group)
        legal: list[SiteChoice] = []
        reasons: list[str] = []
        for choice in self._candidates(rule.bits or (), rule.methods or (), rule.sparsity or (0.0,)):
            ruling = self.legality.choice(self.spec, group, choice, WHOLE)
            if ruling:
                legal.append(choice)
            else:
                reasons.append(ruling.reason)
                self.refused[f"{group.name}: {choice.name}"] = ruling.reason
        if not legal:
            raise SpaceError(
                f"group {group.name}",
                f"no allowed format is legal for {self.legality.engine} ({'; '.join(dict.fromkeys(reasons))})",
                "Allow more widths (16 is always legal) or another group size",
            )
        return Gene(group.name, "site", tuple(legal), group)

    def _candidates(
        self, bits: Sequence[int], methods: Sequence[str], sparsities: Sequence[float]
    ) -> list[SiteChoice]:
        found: list[SiteChoice] = []
        for fraction in sparsities:
            sparsity = self._sparsity(fraction)
            for width in bits:
                if width == 16:
                    found.append(SiteChoice(sparsity=sparsity))
                    continue
                for method in methods if sparsity is None else methods[:1]:
                    # A half-quadratic zero point needs an asymmetric container; rounding to nearest does not.
                    weight = integer_format(width, self.restrictions.group_size, symmetric=method != "hqq")
                    found.append(SiteChoice(weight=weight, sparsity=sparsity, method=method))
        return found

    def _sparsity(self, fraction: float) -> Sparsity | None:
        if fraction == 0.0:
            return None
        return Sparsity.model_validate(
            {
                "fraction": fraction,
                "pattern": self.restrictions.sparsity_pattern,
                "criterion": self.restrictions.sparsity_criterion,
            }
        )

    def _model_genes(self) -> list[Gene]:
        genes = []
        kvs = [KVFormat.model_validate({"num_bits": bits}) for bits in self.restrictions.kv_bits]
        kvs = [kv for kv in kvs if self._note(f"kv: {kv.name}", self.legality.kv(self.spec, kv))]
        genes.append(Gene("kv", "kv", tuple(kvs or [KVFormat()])))
        for kind, counts in student_ladders(self.spec, self.restrictions).items():
            legal: list[int | None] = [
                count
                for count in counts
                if self._note(
                    f"student.{kind}={count}", self.legality.student(self.spec, self._cut(kind, count))
                )
            ]
            genes.append(Gene(f"student.{kind}", kind, (None, *legal)))
        return genes

    def _cut(self, kind: str, count: int) -> Student:
        value = self.kept_blocks(count) if kind == "blocks" else count
        return Student.model_validate({kind: value})

    def _note(self, what: str, ruling: Ruling) -> bool:
        if not ruling:
            self.refused[what] = ruling.reason
        return bool(ruling)

    # -- details ----------------------------------------------------------------------------------------------

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
        if gene.group is not None:
            if not config.keeps_block(gene.group.block):
                return self._widest(gene)
            wanted: object = config.choice(gene.group.sites[0])
            if any(config.choice(site) != wanted for site in gene.group.sites):
                raise ConfigurationError(
                    f"group {gene.name}", "its sites must share a choice", "Choose for the group"
                )
        elif gene.kind == "kv":
            wanted = config.kv
        else:
            kept = getattr(config.student, gene.kind)
            wanted = len(kept) if isinstance(kept, tuple) else kept
        if wanted not in gene.choices:
            shown = getattr(wanted, "name", wanted)
            raise ConfigurationError(
                f"{gene.name} = {shown}", "is not in the space", "`paretune inspect` lists choices"
            )
        return gene.choices.index(wanted)  # type: ignore[arg-type]

    @staticmethod
    def _widest(gene: Gene) -> int:
        if gene.kind != "site":
            return 0
        bits = [
            c.weight.num_bits - (0.5 if c.sparsity else 0) for c in gene.choices if isinstance(c, SiteChoice)
        ]
        return bits.index(max(bits))

    @staticmethod
    def _find(gene: Gene, bits: int, method: str) -> int | None:
        for k, choice in enumerate(gene.choices):
            if isinstance(choice, SiteChoice) and choice.sparsity is None and choice.activation is None:
                if bits == 16 and choice == UNTOUCHED:
                    return k
                if choice.weight.num_bits == bits and choice.method == method:
                    return k
        return None
