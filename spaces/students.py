"""Which sizes a student may have: the ladder that a model offers by default, or the one that a user names."""

from __future__ import annotations

from typing import Literal

from spaces.errors import SpaceError
from spaces.model import ModelSpec
from spaces.patterns import Restrictions

StudentKind = Literal["blocks", "kv_heads", "ffn_channels"]


def student_ladders(spec: ModelSpec, restrictions: Restrictions) -> dict[StudentKind, tuple[int, ...]]:
    """How many blocks, key-value heads and FFN channels may be kept, besides all of them; descending.

    By default: down to three quarters of the blocks, half of the key-value heads, and three quarters and half
    of the FFN channels where these are multiples of 64.

    Raises:
        SpaceError: a count that the model does not have.
    """
    return {
        "blocks": _ladder("blocks", restrictions.blocks, spec.blocks, _default_blocks(spec)),
        "kv_heads": _ladder("key-value heads", restrictions.kv_heads, spec.kv_heads, _default_heads(spec)),
        "ffn_channels": _ladder(
            "FFN channels", restrictions.ffn_channels, spec.ffn_size, _default_channels(spec)
        ),
    }


def _ladder(what: str, asked: tuple[int, ...], full: int, default: tuple[int, ...]) -> tuple[int, ...]:
    for count in asked:
        if not 1 <= count <= full:
            raise SpaceError(f"{count} {what}", f"the model has {full}", f"Keep between 1 and {full}")
    return tuple(sorted({c for c in asked or default if c < full}, reverse=True))


def _default_blocks(spec: ModelSpec) -> tuple[int, ...]:
    step = max(1, spec.blocks // 16)
    return tuple(range(spec.blocks - step, max(1, 3 * spec.blocks // 4) - 1, -step))


def _default_heads(spec: ModelSpec) -> tuple[int, ...]:
    return (spec.kv_heads // 2,) if spec.kv_heads % 2 == 0 else ()


def _default_channels(spec: ModelSpec) -> tuple[int, ...]:
    counts = (3 * spec.ffn_size // 4, spec.ffn_size // 2)
    return tuple(c for c in counts if c % 64 == 0 and c > 0)
