"""Codes of 2, 3, 4 or 8 bits in words of 32, as GPTQ and AWQ store them: from the lowest bit up, across words.

Three bits do not divide a word: 32 codes fill three of them, and two codes lie across a border (GPTQModel 7.6,
``PackableQuantLinear.pack_block``: the continuous layout, not the planar one).
"""

from __future__ import annotations

import math

import torch

WORD = 32
_WORD_BITS = (1 << WORD) - 1


def pack_rows(codes: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Codes of consecutive rows share a word.

    Args:
        codes: whole numbers from 0 on, ``(rows, columns)``; 32 divides ``rows * num_bits``.
        num_bits: of a code.

    Returns:
        int32 ``(rows * num_bits / 32, columns)``.

    Raises:
        ValueError: the codes do not fill words.
    """
    rows, columns = codes.shape
    together = math.lcm(WORD, num_bits) // num_bits
    if rows % together:
        raise ValueError(f"{rows} codes of {num_bits} bits do not fill words")
    bundles = codes.view(-1, together, columns)
    words = torch.zeros(len(bundles), together * num_bits // WORD, columns, dtype=torch.int64)
    for place in range(together):
        word, shift = divmod(place * num_bits, WORD)
        values = bundles[:, place].to(torch.int64)
        words[:, word] |= values << shift & _WORD_BITS
        if shift + num_bits > WORD:
            words[:, word + 1] |= values >> WORD - shift
    signed = words - (words >> WORD - 1 << WORD)
    return signed.to(torch.int32).view(-1, columns)


def pack_columns(codes: torch.Tensor, num_bits: int) -> torch.Tensor:
    """Codes of consecutive columns share a word: int32 ``(rows, columns * num_bits / 32)``."""
    return pack_rows(codes.t().contiguous(), num_bits).t().contiguous()
