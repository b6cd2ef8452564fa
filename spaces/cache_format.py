"""Formats of the key-value cache.

Numbers of 8 bits are what servers keep: INT8 as a launch option, FP8 with static scales as a checkpoint says it
(compressed-tensors' ``kv_cache_scheme``: 8 bits, float, symmetric, strategy ``tensor``, not dynamic; vLLM reads one
scale for keys and one for values a layer, 1 where the checkpoint has none). 4 and 2 bits are asymmetric as in KIVI
(Liu et al. 2024, arXiv:2402.02750). KIVI groups keys by channel over 32 tokens and keeps the newest tokens whole until
a group is full; here keys are grouped as values are, 32 channels of one token. Then what is read back of a token
depends on that token alone: windows may slide, prompts may come in parts, and scoring a text at once is exactly what a
cache filled token by token gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Literal

from pydantic import Field, model_validator

from paretune.spaces.errors import ConfigurationError, FormatError
from paretune.spaces.schema import Frozen

CACHE_GROUP = 32
"""Channels of a token and head that share a scale (and at 4 and 2 bits a minimum); the last group may be shorter."""
FLOAT16_BYTES = 2


def cache_groups(head_dim: int) -> int:
    """Groups of one token and head."""
    return -(-head_dim // CACHE_GROUP)


class KVFormat(Frozen):
    """How keys (after rotary embedding) and values are kept in the cache.

    * 8 bits, ``int``: symmetric, one scale a token and head, in the model's dtype.
    * 8 bits, ``float``: E4M3 under one static scale for keys and one for values. The scales are parameters of the
      model: they take no room in the cache.
    * 8 bits, ``ggml``: its block type q8_0, which llama.cpp keeps on request (``--cache-type-k``): symmetric integers,
      a float16 scale for every :data:`CACHE_GROUP` channels.
    * 4 and 2 bits: asymmetric integers, codes packed; a scale and a minimum in the model's dtype for every
      :data:`CACHE_GROUP` channels.

    Attributes:
        num_bits: of one number; where blocks differ, the smallest of all.
        number_type: what a code of 8 bits means.
        key_scale, value_scale: of floating-point numbers, positive.
        layers: where blocks differ, the format of every block of the dense model; made by :meth:`layered`.
    """

    num_bits: Literal[16, 8, 4, 2] = 16
    # Left out of the JSON while plain, so that digests of configurations without them are what they always were.
    number_type: Literal["int", "float", "ggml"] = Field("int", exclude_if=lambda value: value == "int")
    key_scale: float = Field(1.0, exclude_if=lambda value: value == 1.0)
    value_scale: float = Field(1.0, exclude_if=lambda value: value == 1.0)
    layers: tuple[KVFormat, ...] = Field((), exclude_if=lambda value: not value)

    @model_validator(mode="after")
    def _consistent(self) -> KVFormat:
        if self.number_type != "int" and self.num_bits != 8:
            raise FormatError(
                f"cache of {self.num_bits} bits with numbers of type {self.number_type}",
                "E4M3 (float) and q8_0 (ggml) have 8 bits",
                "Use num_bits=8, or int",
            )
        scales = (self.key_scale, self.value_scale)
        if not all(math.isfinite(scale) and scale > 0 for scale in scales):
            raise FormatError(f"scales {scales} of a cache", "must be positive and finite", "Use peak / 448")
        if scales != (1.0, 1.0) and self.number_type != "float":
            raise FormatError(
                f"static scales of a {self.num_bits}-bit integer cache",
                "integers have a scale a token",
                "Leave key_scale and value_scale out, or use number_type='float'",
            )
        if self.layers:
            self._check_layers()
        return self

    def _check_layers(self) -> None:
        if any(layer.layers for layer in self.layers) or len(set(self.layers)) == 1:
            raise FormatError(
                f"{len(self.layers)} formats of blocks",
                "must be plain, and differ",
                "Write equal ones as one format; KVFormat.layered does",
            )
        fewest = min(layer.num_bits for layer in self.layers)
        if (self.num_bits, self.number_type, self.key_scale, self.value_scale) != (fewest, "int", 1.0, 1.0):
            raise FormatError(
                f"a cache {self.num_bits} bits wide with blocks of its own",
                f"says the smallest width, {fewest}, and leaves everything else to the blocks",
                "Make it with KVFormat.layered",
            )

    @classmethod
    def layered(cls, formats: Sequence[KVFormat]) -> KVFormat:
        """One format a block of the dense model; the format itself where all are equal.

        Raises:
            FormatError: no format, or one that is layered itself.
        """
        if len(set(formats)) == 1 and not formats[0].layers:
            return formats[0]
        if not formats:
            raise FormatError("a cache without formats", "every block needs one", "Give one a block")
        return cls(num_bits=min(f.num_bits for f in formats), layers=tuple(formats))

    @classmethod
    def named(cls, word: int | str) -> KVFormat:
        """The format that a run file calls 16, 8, 4, 2, ``8-fp`` or ``8-ggml``."""
        if word == "8-fp":
            return cls(num_bits=8, number_type="float")
        if word == "8-ggml":
            return cls(num_bits=8, number_type="ggml")
        return cls.model_validate({"num_bits": word})

    def block(self, index: int) -> KVFormat:
        """The format of one block of the dense model.

        Raises:
            ConfigurationError: formats were given block by block, and not for this one.
        """
        if not self.layers:
            return self
        if not 0 <= index < len(self.layers):
            self.check_blocks(index + 1)
        return self.layers[index]

    def check_blocks(self, blocks: int) -> None:
        """Refuse formats of another number of blocks than the dense model has.

        Raises:
            ConfigurationError: the counts differ.
        """
        if self.layers and len(self.layers) != blocks:
            raise ConfigurationError(
                f"a cache with formats of {len(self.layers)} blocks",
                f"the model has {blocks}",
                "Give one a block of the dense model, cut or not",
            )

    @property
    def name(self) -> str:
        """``kv16``, ``kv8``, ``kv8-fp``, ``kv8-ggml``, ``kv4``, ``kv2``; by block e.g. ``kv-2x16-4x4``."""
        if not self.layers:
            return f"kv{self._word}"
        runs = [(word, len(list(run))) for word, run in groupby(layer._word for layer in self.layers)]
        if len(runs) == 1:
            return f"kv{runs[0][0]}"
        return f"kv-{'-'.join(f'{count}x{word}' for word, count in runs)}"

    @property
    def _word(self) -> str:
        if self.number_type != "float":
            return "8-ggml" if self.number_type == "ggml" else str(self.num_bits)
        return "8-fp" if self.key_scale == self.value_scale == 1.0 else "8-fp-scaled"

    def stored_bytes(self, heads: int, head_dim: int, dtype_bytes: int = 2) -> int:
        """Bytes of keys and values of one token in one block.

        Raises:
            ConfigurationError: blocks differ; ask :meth:`block` first.
        """
        if self.layers:
            raise ConfigurationError(f"bytes of {self.name}", "blocks differ", "Ask for one block's format")
        if self.num_bits == 16:
            return 2 * heads * head_dim * dtype_bytes
        if self.number_type == "float":
            return 2 * heads * head_dim
        if self.number_type == "ggml":
            return 2 * heads * (head_dim + cache_groups(head_dim) * FLOAT16_BYTES)
        if self.num_bits == 8:
            return 2 * heads * (head_dim + dtype_bytes)
        return 2 * heads * (-(-head_dim * self.num_bits // 8) + cache_groups(head_dim) * 2 * dtype_bytes)
