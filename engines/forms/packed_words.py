"""Codes in words of 32 bits, and scales in float16, as GPTQ and AWQ store them.

Codes of 2, 3, 4 or 8 bits lie from the lowest bit up, across words. Three bits do not divide a word: 32 codes fill
three of them, and two codes lie across a border (GPTQModel 7.6, ``PackableQuantLinear.pack_block``: the continuous
layout, not the planar one).
"""

from __future__ import annotations

import math

import torch

from paretune.compressors.quantizers import QuantizedWeight
from paretune.spaces.errors import EngineError

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


def half_scales(path: str, found: QuantizedWeight) -> torch.Tensor:
    """The scales as float16 ``(groups, rows)``, with the same numbers.

    A bfloat16 number has fewer digits than float16 and a wider range, so all but the smallest ones are the same in
    both. A group without a number other than zero may have any scale.

    Raises:
        EngineError: a scale that matters has no such number.
    """
    scales = found.scales.cpu()
    half = scales.to(torch.float16)
    lost = half.to(torch.float32) != scales.to(torch.float32)
    if bool(lost.any()):
        codes = found.codes.cpu().view(len(scales), -1, found.group_size)
        zeros = torch.zeros_like(codes[..., 0]) if found.zeros is None else found.zeros.cpu()
        used = (codes != zeros.unsqueeze(-1)).any(dim=-1)
        if bool((lost & used).any()):
            worst = float(scales[lost & used].abs().to(torch.float32).min())
            raise EngineError(
                f"scale {worst:.4g} of {path}",
                "has no equal among the numbers of float16, which the form stores",
                "Export it as compressed-tensors, or leave this linear at 16 bits",
            )
        half = half.nan_to_num(0.0, 0.0, 0.0)
    return half.t().contiguous()
