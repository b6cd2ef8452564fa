"""Restrictions of a search space by site pattern, as a run file writes them."""

from __future__ import annotations

from fnmatch import fnmatchcase

from pydantic import field_validator

from spaces.errors import SpaceError
from spaces.formats import integer_format
from spaces.legality import FusedGroup
from spaces.schema import Frozen


class SiteRule(Frozen):
    """What the groups whose name or site matches ``pattern`` may be; the last matching rule wins.

    Attributes:
        pattern: shell pattern over group names (``blocks.0.*``) and site names (``*.down_proj``).
        bits: allowed widths, 16 for untouched; ``None`` leaves them as they are.
        methods: allowed quantizers.
        sparsity: allowed shares of zeros, 0 for none.
    """

    pattern: str
    bits: tuple[int, ...] | None = None
    methods: tuple[str, ...] | None = None
    sparsity: tuple[float, ...] | None = None

    def matches(self, group: FusedGroup) -> bool:
        """Whether the rule speaks of this group."""
        return any(fnmatchcase(name, self.pattern) for name in (group.name, *group.sites))


class Restrictions(Frozen):
    """What a user allows. The defaults are the whole space.

    Attributes:
        bits: widths of linears inside the blocks; 16 leaves a site as it is.
        outer_bits: widths of embedding and head.
        group_size: weights that share a scale; ``None``: one scale a channel.
        methods: quantizers.
        sparsity: shares of zeros; 0 prunes nothing.
        sparsity_pattern, sparsity_criterion: how zeros are chosen.
        kv_bits: widths of the cache.
        blocks, kv_heads, ffn_channels: how many may be kept; empty: a default ladder of the model's own.
        rules: by site pattern, on top of the above.
    """

    bits: tuple[int, ...] = (2, 3, 4, 5, 6, 8, 16)
    outer_bits: tuple[int, ...] = (4, 6, 8, 16)
    group_size: int | None = 128
    methods: tuple[str, ...] = ("rtn", "hqq")
    sparsity: tuple[float, ...] = (0.0, 0.5)
    sparsity_pattern: str = "unstructured"
    sparsity_criterion: str = "wanda"
    kv_bits: tuple[int, ...] = (16, 8)
    blocks: tuple[int, ...] = ()
    kv_heads: tuple[int, ...] = ()
    ffn_channels: tuple[int, ...] = ()
    rules: tuple[SiteRule, ...] = ()

    @field_validator("bits", "outer_bits")
    @classmethod
    def _widths(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        for width in bits:
            if width != 16:
                integer_format(width)
        if not bits:
            raise SpaceError("no width", "at least one width must be allowed", "E.g. bits: [4, 8]")
        return tuple(sorted(set(bits)))

    def rule(self, group: FusedGroup) -> SiteRule:
        """The effective rule of one group."""
        bits = self.bits if group.kind == "linear" else self.outer_bits
        sparsity = self.sparsity if group.kind == "linear" else (0.0,)
        rule = SiteRule(pattern="*", bits=bits, methods=self.methods, sparsity=sparsity)
        for extra in self.rules:
            if extra.matches(group):
                given = {key: value for key, value in dict(extra).items() if value is not None}
                rule = rule.model_copy(update=given)
        return rule

    def check(self, groups: tuple[FusedGroup, ...]) -> None:
        """Refuse rules that match nothing.

        Raises:
            SpaceError: a pattern without a match.
        """
        for rule in self.rules:
            if not any(rule.matches(group) for group in groups):
                raise SpaceError(
                    f"site pattern {rule.pattern!r}",
                    "matches no group and no site of this model",
                    "`paretune inspect MODEL` lists both",
                )
