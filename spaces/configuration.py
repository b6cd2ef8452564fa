"""One candidate: what happens to every layer, and what is decided for the model as a whole."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import Field, field_validator, model_validator

from paretune.spaces.cache_format import KVFormat
from paretune.spaces.choice import UNTOUCHED, LayerChoice
from paretune.spaces.errors import ConfigurationError
from paretune.spaces.schema import Document, Frozen, sha256_of


class PrunedShape(Frozen):
    """The size of the model that is kept; ``None`` everywhere is the whole model.

    Attributes:
        blocks: indices of the kept blocks in the dense model, ascending.
        kv_heads: key-value heads kept in every block, each with its query heads; the bank's statistics say which,
            block by block.
        ffn_channels: feed-forward channels kept in every block, likewise.
        hidden: channels of the residual stream kept, the same ones in the whole model.
    """

    blocks: tuple[int, ...] | None = None
    kv_heads: int | None = None
    ffn_channels: int | None = None
    hidden: int | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _consistent(self) -> PrunedShape:
        blocks = self.blocks
        if blocks is not None and (not blocks or list(blocks) != sorted(set(blocks)) or blocks[0] < 0):
            raise ConfigurationError(
                f"kept blocks {blocks}", "must be distinct, ascending and not empty", "Sort them"
            )
        for value, what in (
            (self.kv_heads, "key-value heads"),
            (self.ffn_channels, "FFN channels"),
            (self.hidden, "hidden channels"),
        ):
            if value is not None and value < 1:
                raise ConfigurationError(
                    f"{value} {what}", "at least one must be kept", "Use a positive number"
                )
        return self

    def keeps_block(self, block: int | None) -> bool:
        """Whether something in this block (``None``: outside the blocks) is part of the pruned model."""
        return block is None or self.blocks is None or block in self.blocks

    @property
    def whole(self) -> bool:
        """Whether nothing is cut."""
        counts = (self.blocks, self.kv_heads, self.ffn_channels, self.hidden)
        return all(count is None for count in counts)

    @property
    def name(self) -> str:
        """E.g. ``whole``, ``blocks5-ffn256``."""
        parts = []
        if self.blocks is not None:
            parts.append(f"blocks{len(self.blocks)}")
        if self.kv_heads is not None:
            parts.append(f"kvheads{self.kv_heads}")
        if self.ffn_channels is not None:
            parts.append(f"ffn{self.ffn_channels}")
        if self.hidden is not None:
            parts.append(f"hidden{self.hidden}")
        return "-".join(parts) or "whole"


WHOLE = PrunedShape()


class CompressionConfig(Document):
    """A compression configuration, keyed by layer name (the module path in ``transformers``).

    Layers that are not named stay as they are; naming an untouched layer changes nothing, so such entries are
    dropped and the digest stays canonical. The embedding and the head are layers like any other; tied ones
    must agree.

    Attributes:
        layers: choice by layer name.
        kv: format of the key-value cache.
        pruned: size of the model that is kept.
        rounded_experts: whether quantized experts are expanded in the dtype of their scales, and not in float32. It is
            not chosen: an engine says so of what it computes (``Engine.executed_config``).
    """

    layers: dict[str, LayerChoice] = Field(default_factory=dict)
    kv: KVFormat = KVFormat()
    pruned: PrunedShape = WHOLE
    rounded_experts: bool = Field(False, exclude_if=lambda value: not value)

    @field_validator("layers")
    @classmethod
    def _canonical(cls, layers: dict[str, LayerChoice]) -> dict[str, LayerChoice]:
        return {name: layers[name] for name in sorted(layers) if not layers[name].untouched}

    @cached_property
    def digest(self) -> str:
        """Hexadecimal SHA-256 of the canonical JSON."""
        return sha256_of(self.model_dump(mode="json"))

    def choice(self, layer: str) -> LayerChoice:
        """What happens to ``layer``."""
        return self.layers.get(layer, UNTOUCHED)

    def keeps_block(self, block: int | None) -> bool:
        """Whether a layer of this block (``None``: outside the blocks) is part of the candidate."""
        return self.pruned.keeps_block(block)

    def replaced(self, **changes: Any) -> CompressionConfig:
        """A copy with other fields, validated again."""
        return CompressionConfig.model_validate({**self.fields(), **changes})

    def __hash__(self) -> int:
        return hash(self.digest)


DENSE_CONFIG = CompressionConfig()
"""The model as it is: the row ``dense``."""
