"""Formats of the key-value cache."""

from __future__ import annotations

from typing import Literal

from spaces.schema import Frozen


class KVFormat(Frozen):
    """How keys (after rotary embedding) and values are kept in the cache.

    8 bits: symmetric integers, one scale a token and head, in the model's dtype.
    """

    num_bits: Literal[16, 8] = 16

    @property
    def name(self) -> str:
        """``kv16`` or ``kv8``."""
        return f"kv{self.num_bits}"

    def stored_bytes(self, heads: int, head_dim: int, dtype_bytes: int = 2) -> int:
        """Bytes of keys and values of one token in one block."""
        if self.num_bits == 16:
            return 2 * heads * head_dim * dtype_bytes
        return 2 * heads * (head_dim + dtype_bytes)
