"""Restrictions of a search space, for the whole model and by layer pattern, as a run file writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from pydantic import Field, field_validator, model_validator

from paretune.spaces.choice import Pattern
from paretune.spaces.errors import SpaceError
from paretune.spaces.legality import FusedGroup
from paretune.spaces.methods import find_method
from paretune.spaces.named_formats import find_choice
from paretune.spaces.schema import Frozen

WIDTHS = (2, 3, 4, 5, 6, 8, 16)
"""Bits that a weight can be given; 16 leaves it as it is, whatever type the checkpoint stores."""
CACHE_WIDTHS = (16, 8, "8-fp", "8-ggml", 4, 2)
"""What the cache may be, widest first; ``8-fp`` is E4M3, ``8-ggml`` is q8_0 of llama.cpp.

4 and 2 bits are a study: no server has them.
"""
SMALLEST_GROUP = 8
LARGEST_GROUP = 1 << 20


def _items(**schema: Any) -> Any:
    """JSON schema of a list's entries."""
    return {"items": schema}


def _check_widths(bits: Sequence[int], what: str, allowed: Sequence[int]) -> tuple[int, ...]:
    """``bits`` in ascending order, once each.

    Raises:
        SpaceError: empty, or a width that is not allowed.
    """
    shown = ", ".join(map(str, allowed))
    for width in bits:
        if width not in allowed:
            raise SpaceError(f"{what} of {width} bits", f"must be one of {shown}", "Use only these widths")
    if not bits:
        raise SpaceError(f"no width for {what}", "at least one must be allowed", f"Use some of {shown}")
    return tuple(sorted(set(bits)))


def _check_sparsity(shares: Sequence[float]) -> tuple[float, ...]:
    for share in shares:
        if not (math.isfinite(share) and 0.0 <= share < 1.0):
            raise SpaceError(f"sparsity {share}", "must lie in [0, 1)", "Use e.g. 0.5, and 0 for no zeros")
    if not shares:
        raise SpaceError("no sparsity", "at least one must be allowed", "Use 0 for layers without zeros")
    return tuple(sorted(set(shares)))


def _check_methods(methods: Sequence[str]) -> tuple[str, ...]:
    if not methods or "none" in methods or any(not name.strip() for name in methods):
        raise SpaceError(
            f"methods {list(methods)}", "must name quantizers", "E.g. rtn, hqq; 16 bits need no method"
        )
    for name in methods:
        find_method(name)
    return tuple(dict.fromkeys(methods))


def _check_formats(names: Sequence[str]) -> tuple[str, ...]:
    for name in names:
        find_choice(name)
    return tuple(dict.fromkeys(names))


def group_sizes(asked: int | Sequence[int] | None) -> tuple[int | None, ...]:
    """What a run file says of group sizes, once each; ``None`` is one scale a channel, which it calls 0 or null.

    Raises:
        SpaceError: a size that no container has, or none.
    """
    sizes = (asked,) if asked is None or isinstance(asked, int) else tuple(asked)
    for size in sizes:
        if size and (not SMALLEST_GROUP <= size <= LARGEST_GROUP or size % SMALLEST_GROUP):
            raise SpaceError(
                f"group size {size}",
                f"must be a multiple of {SMALLEST_GROUP} of at most {LARGEST_GROUP}",
                "Use 32, 64 or 128, or one scale a channel",
            )
    if not sizes:
        raise SpaceError("no group size", "at least one must be allowed", "Use some of 128, 64, 32, and 0")
    return tuple(dict.fromkeys(size or None for size in sizes))


class LayerRule(Frozen):
    """What the groups whose name or layer matches ``pattern`` may be; the last matching rule wins.

    What is left out stays as it is for the whole model.

    Attributes:
        pattern: shell pattern over group names (``blocks.0.*``) and layer names (``*.down_proj``).
        bits: allowed widths, 16 for untouched.
        methods: allowed quantizers.
        sparsity: allowed shares of zeros, 0 for none.
        group_size: weights that share a scale, one size or several; 0: one scale a channel.
        formats: allowed named formats, besides the widths.
    """

    pattern: str = Field(description="Shell pattern over group names and layer names.", min_length=1)
    bits: tuple[int, ...] | None = Field(
        None,
        description="Allowed widths; 16 leaves a layer as it is.",
        json_schema_extra={"examples": [[4, 8]]},
    )
    methods: tuple[str, ...] | None = Field(None, description="Allowed quantizers.")
    sparsity: tuple[float, ...] | None = Field(None, description="Allowed shares of zeros, in [0, 1).")
    group_size: int | tuple[int, ...] | None = Field(
        None, description="Weights that share a scale, one size or several; 0 is one scale a channel."
    )
    formats: tuple[str, ...] | None = Field(None, description="Allowed formats by name, besides the widths.")

    @model_validator(mode="after")
    def _consistent(self) -> LayerRule:
        if self.bits is not None:
            _check_widths(self.bits, f"weights of {self.pattern!r}", WIDTHS)
        if self.methods is not None:
            _check_methods(self.methods)
        if self.sparsity is not None:
            _check_sparsity(self.sparsity)
        group_sizes(self.group_size)
        _check_formats(self.formats or ())
        restricted = (self.bits, self.methods, self.sparsity, self.group_size, self.formats)
        if all(value is None for value in restricted):
            raise SpaceError(
                f"rule for {self.pattern!r}",
                "must restrict something",
                "Add bits, methods, sparsity, group_size or formats",
            )
        return self

    def matches(self, group: FusedGroup) -> bool:
        """Whether the rule speaks of this group."""
        return any(fnmatchcase(name, self.pattern) for name in (group.name, *group.layers))


class GroupRule(Frozen):
    """What one group may be, after every rule was heeded; the first group size that is legal is the usual one."""

    bits: tuple[int, ...]
    methods: tuple[str, ...]
    sparsity: tuple[float, ...]
    group_sizes: tuple[int | None, ...]
    formats: tuple[str, ...] = ()


class Restrictions(Frozen):
    """What a user allows. The defaults are the whole space.

    Attributes:
        bits: widths of linears inside the blocks; 16 leaves a layer as it is.
        embedding_bits: widths of embedding and head.
        group_size: weights that share a scale, one size or several in order of preference: the first that is legal
            for a layer goes with every method, the others with the first method alone, and finer ones up to 4 bits.
            ``None``: one scale a channel.
        methods: quantizers; sparse layers use the first of them alone.
        formats: named formats of linears inside the blocks, besides the widths; ``NAME/METHOD`` names a quantizer.
        embedding_formats: named formats of embedding and head, besides the widths.
        fallback_formats: named formats of layers for which none below 8 bits is legal of those that are named.
        sparsity: shares of zeros; 0 prunes nothing. Embedding and head are not pruned.
        sparsity_pattern, sparsity_criterion: how zeros are chosen.
        kv_bits: widths of the cache.
        blocks, kv_heads, ffn_channels: how many may be kept, besides all; empty: a default ladder of the
            model's own. The full count alone forbids smaller pruned models.
        hidden: how many hidden channels may be kept, besides all; empty: no fewer.
        rules: by layer pattern, on top of the above.
    """

    bits: tuple[int, ...] = Field(
        WIDTHS,
        description="Widths of linears inside the blocks; 16 leaves a layer as it is.",
        json_schema_extra=_items(type="integer", enum=list(WIDTHS)),
    )
    embedding_bits: tuple[int, ...] = Field(
        (4, 6, 8, 16),
        description="Widths of embedding and head; tied ones move together.",
        json_schema_extra=_items(type="integer", enum=list(WIDTHS)),
    )
    group_size: int | tuple[int, ...] | None = Field(
        128,
        description="Weights of a row that share a scale; null is one scale a channel. Several: a choice per layer, "
        "0 is one scale a channel.",
        json_schema_extra={"examples": [[128, 64, 32, 0]]},
    )
    methods: tuple[str, ...] = Field(("weighted", "hqq", "gptq"), description="Quantizers by name.")
    formats: tuple[str, ...] = Field(
        (),
        description="Formats by name besides the widths, e.g. fp8-channel, nvfp4, w8a8-dynamic, nf4/minmax.",
    )
    embedding_formats: tuple[str, ...] = Field(
        (),
        description="Formats by name of embedding and head, besides the widths.",
        exclude_if=lambda value: not value,
    )
    fallback_formats: tuple[str, ...] = Field(
        (),
        description="Formats by name of layers for which none of the above is legal below 8 bits.",
        exclude_if=lambda value: not value,
    )
    sparsity: tuple[float, ...] = Field(
        (0.0, 0.5),
        description="Shares of zeros; 0 prunes nothing.",
        json_schema_extra=_items(type="number", minimum=0, exclusiveMaximum=1),
    )
    sparsity_pattern: Pattern = Field("unstructured", description="Which zeros a pruner may choose.")
    sparsity_criterion: str = Field("wanda", description="Pruner by name.", min_length=1)
    kv_bits: tuple[int | str, ...] = Field(
        (16, 8),
        description="Widths of the key-value cache; 8-fp is E4M3, 8-ggml is q8_0 of llama.cpp.",
        json_schema_extra={"items": {"enum": list(CACHE_WIDTHS)}},
    )
    blocks: tuple[int, ...] = Field((), description="How many blocks may be kept; empty: a default ladder.")
    kv_heads: tuple[int, ...] = Field((), description="How many key-value heads may be kept in a block.")
    ffn_channels: tuple[int, ...] = Field((), description="How many FFN channels may be kept in a block.")
    hidden: tuple[int, ...] = Field(
        (),
        description="How many hidden channels may be kept, the same in every block; empty: all.",
        exclude_if=lambda value: not value,
    )
    rules: tuple[LayerRule, ...] = Field(
        (), description="Restrictions by layer pattern; the last match wins."
    )

    @field_validator("bits", "embedding_bits")
    @classmethod
    def _widths(cls, bits: tuple[int, ...]) -> tuple[int, ...]:
        return _check_widths(bits, "weights", WIDTHS)

    @field_validator("kv_bits")
    @classmethod
    def _cache_widths(cls, bits: tuple[int | str, ...]) -> tuple[int | str, ...]:
        if not bits or any(word not in CACHE_WIDTHS for word in bits):
            raise SpaceError(
                f"the key-value cache of {', '.join(map(str, bits)) or 'no'} bits",
                f"at least one must be allowed, of {', '.join(map(str, CACHE_WIDTHS))}",
                "Use only these widths; 8-fp is E4M3, 8-ggml is q8_0 of llama.cpp",
            )
        return tuple(word for word in CACHE_WIDTHS if word in bits)

    @field_validator("sparsity")
    @classmethod
    def _shares(cls, sparsity: tuple[float, ...]) -> tuple[float, ...]:
        return _check_sparsity(sparsity)

    @field_validator("methods")
    @classmethod
    def _quantizers(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        return _check_methods(methods)

    @field_validator("formats", "embedding_formats", "fallback_formats")
    @classmethod
    def _named(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        return _check_formats(formats)

    @model_validator(mode="after")
    def _consistent(self) -> Restrictions:
        group_sizes(self.group_size)
        if self.group_size == 0:
            raise SpaceError("group size 0", "must be positive", "Use null for one scale a channel")
        if self.sparsity_pattern != "unstructured" and any(s not in (0.0, 0.5) for s in self.sparsity):
            raise SpaceError(
                f"sparsity {list(self.sparsity)} in pattern {self.sparsity_pattern}",
                "an N:M pattern here is half zeros",
                "Use 0 and 0.5, or the pattern unstructured",
            )
        return self

    def rule(self, group: FusedGroup) -> GroupRule:
        """The effective rule of one group."""
        inside = group.kind == "linear"
        found: dict[str, Any] = {
            "bits": self.bits if inside else self.embedding_bits,
            "methods": self.methods,
            "sparsity": self.sparsity if inside else (0.0,),
            "group_size": 0 if self.group_size is None else self.group_size,
            "formats": self.formats if inside else self.embedding_formats,
        }
        for extra in self.rules:
            if extra.matches(group):
                found |= {
                    key: value for key, value in extra.fields().items() if value is not None and key in found
                }
        return GroupRule(group_sizes=group_sizes(found.pop("group_size")), **found)

    def check(self, groups: tuple[FusedGroup, ...]) -> None:
        """Refuse rules that match nothing.

        Raises:
            SpaceError: a pattern without a match.
        """
        for rule in self.rules:
            if not any(rule.matches(group) for group in groups):
                raise SpaceError(
                    f"layer pattern {rule.pattern!r}",
                    "matches no group and no layer of this model",
                    "`paretune inspect MODEL` lists both",
                )
