"""Narrow floating-point numbers: E4M3 (8 bits), E2M1 (4 bits) and the scales of block formats.

Sources: Micikevicius et al. 2022, "FP8 formats for deep learning" (arXiv:2209.05433); the OCP Microscaling
specification 1.0 (Rouhani et al. 2023, arXiv:2310.10537) for E2M1 and E8M0. Ties go to the even code, as in
compressed-tensors and in hardware; numbers beyond the largest become the largest.
"""

from __future__ import annotations

import torch

LARGEST_E4M3 = 448.0
LARGEST_E2M1 = 6.0
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
_TIES_UP = (False, True, False, True, False, True, False)
"""Whether a number in the middle goes to the upper neighbour: the one whose code is even."""
_LARGEST_EXPONENT = {4: 2, 8: 8}
"""Exponent of the largest power of two that E2M1 and E4M3 hold."""
_QUARTER = 1 << 21
"""A quarter of a binade, in units of the last bit of a float32."""


def round_e4m3(values: torch.Tensor) -> torch.Tensor:
    """Nearest E4M3 numbers, as ``torch.float8_e4m3fn``."""
    return values.clamp(-LARGEST_E4M3, LARGEST_E4M3).to(torch.float8_e4m3fn)


def e2m1_codes(values: torch.Tensor) -> torch.Tensor:
    """Nearest E2M1 numbers as int8 codes: the four bits (sign, two of exponent, one of mantissa), sign-extended.

    Codes 0 to 7 are the numbers 0 to 6, codes -8 to -1 the same numbers negated.
    """
    size = values.abs()
    code = torch.zeros_like(values, dtype=torch.int8)
    for middle, up in zip(_MIDDLES, _TIES_UP, strict=True):
        code += (size >= middle) if up else (size > middle)
    # A negative number that rounds to nothing is plain zero: one code for one number.
    return torch.where((values < 0) & (code > 0), code - 8, code)


def e2m1_numbers(codes: torch.Tensor) -> torch.Tensor:
    """The float32 numbers of int8 codes."""
    table = torch.tensor([*(-x for x in _E2M1), *_E2M1], device=codes.device)
    return table[codes.to(torch.int64) + 8]


def round_e2m1(values: torch.Tensor) -> torch.Tensor:
    """Nearest E2M1 numbers, in float32."""
    return e2m1_numbers(e2m1_codes(values))


def power_of_two_scales(largest: torch.Tensor, num_bits: int) -> torch.Tensor:
    """E8M0 scales, float32: ``2^(exponent of the largest magnitude - largest exponent of the numbers)``.

    A magnitude of at least 1.75 times its power takes the next one (7 / 4 of the largest power is the largest number
    of E4M3, and nearer to 8 / 4 than to the largest of E2M1), as in compressed-tensors.

    Args:
        largest: magnitudes, at least 0.
        num_bits: 4 (E2M1) or 8 (E4M3).
    """
    bits = largest.to(torch.float32).view(torch.int32)
    exponent = (((bits + _QUARTER) >> 23) & 0xFF) - 127
    power = (exponent - _LARGEST_EXPONENT[num_bits]).clamp(-127, 127)
    scales = torch.ldexp(torch.ones_like(largest, dtype=torch.float32), power)
    return torch.where(largest > 0, scales, torch.ones_like(scales))
