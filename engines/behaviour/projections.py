"""What attention of one block projects from its input: keys, values, and the look of the last token.

The arithmetic is that of ``LlamaAttention`` (transformers) and of its relatives with norms of queries and
keys; rotary positions are those of Su et al. 2021 (arXiv:2104.09864) in the half-split layout.
"""

from __future__ import annotations

from typing import Any

import torch

Angles = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of every token's position, ``(1 or batch, tokens, head_dim)``."""


def keys_and_values(block: Any, hidden: torch.Tensor, angles: Angles) -> tuple[torch.Tensor, torch.Tensor]:
    """What the block would cache, ``(batch, heads, tokens, width)``, of ``(batch, tokens, hidden_size)``."""
    normed = block.input_layernorm(hidden)
    values = _heads(block.self_attn, "v", normed)
    return _rotated(_heads(block.self_attn, "k", normed), angles), values


def last_token_attention(block: Any, hidden: torch.Tensor, angles: Angles) -> torch.Tensor:
    """Attention that the last token pays to each, float32 ``(batch, tokens)``, mean over heads; sums to 1.

    Args:
        block: a decoder block with full attention.
        hidden: its input, ``(batch, tokens, hidden_size)``, from the first token of the sequence on.
        angles: of all tokens.
    """
    attention = block.self_attn
    normed = block.input_layernorm(hidden)
    keys = _rotated(_heads(attention, "k", normed), angles)
    last = (angles[0][:, -1:], angles[1][:, -1:])
    queries = _rotated(_heads(attention, "q", normed[:, -1:]), last)
    keys = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1)
    scores = (queries @ keys.transpose(2, 3)).to(torch.float32) * attention.scaling
    return torch.as_tensor(scores.softmax(dim=-1).mean(dim=1)[:, 0])


def _heads(attention: Any, which: str, normed: torch.Tensor) -> torch.Tensor:
    """Projection ``q``, ``k`` or ``v`` of normed inputs, ``(batch, heads, tokens, head_dim)``."""
    projected = getattr(attention, f"{which}_proj")(normed)
    states = projected.view(*normed.shape[:-1], -1, attention.head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    return torch.as_tensor(states if norm is None else norm(states)).transpose(1, 2)


def _rotated(states: torch.Tensor, angles: Angles) -> torch.Tensor:
    cosines, sines = (angle.unsqueeze(1) for angle in angles)
    first, second = states.chunk(2, dim=-1)
    return torch.as_tensor(states * cosines + torch.cat((-second, first), dim=-1) * sines)
