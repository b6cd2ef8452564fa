"""What codes of formats that are not integers stand for: E4M3, E2M1, the quantiles of NF4, learned levels.

NF4: Dettmers et al. 2023 (arXiv:2305.14314), appendix E, whose sixteen numbers are given here to the digits of the
paper; E4M3 and E2M1: :mod:`paretune.compressors.float_rounding`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paretune.compressors.float_rounding import (
    LARGEST_E2M1,
    LARGEST_E4M3,
    e2m1_codes,
    e2m1_numbers,
    round_e4m3,
)
from paretune.spaces.errors import FormatError
from paretune.spaces.formats import WeightFormat

NORMAL_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The numbers of NF4 (Dettmers et al. 2023, appendix E)."""


@dataclass(frozen=True)
class Numbers:
    """The numbers of a format, before scales.

    Attributes:
        largest: magnitude that the extreme weight of a group is mapped to.
        float8: whether codes are E4M3.
        levels: ``(1, 2^b)``, from the smallest code up; ``None`` for E4M3.
        floating: whether they are E2M1 or E4M3, whose own rounding is used.
    """

    largest: float
    float8: bool
    levels: torch.Tensor | None
    floating: bool

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        """Nearest codes, int8."""
        if self.float8:
            return round_e4m3(values).view(torch.int8)
        if self.floating:
            return e2m1_codes(values)
        if self.levels is None:
            raise TypeError("a codebook has levels")
        return nearest_levels(values, self.levels[0])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Their numbers, float32."""
        if self.float8:
            return codes.view(torch.float8_e4m3fn).to(torch.float32)
        if self.levels is None:
            raise TypeError("a codebook has levels")
        return self.levels[0][codes.to(torch.int32) + self.levels.shape[1] // 2]


def numbers_of(weight_format: WeightFormat, device: torch.device) -> Numbers:
    """The numbers of a format whose codes mean the same in every weight.

    Raises:
        FormatError: its levels are learned, or it is an integer.
    """
    if weight_format.number_type == "float" and weight_format.num_bits == 8:
        return Numbers(LARGEST_E4M3, float8=True, levels=None, floating=True)
    if weight_format.number_type == "float" and weight_format.num_bits == 4:
        codes = torch.arange(-8, 8, device=device, dtype=torch.int8)
        return Numbers(LARGEST_E2M1, float8=False, levels=e2m1_numbers(codes).unsqueeze(0), floating=True)
    if weight_format.codebook == "normal":
        levels = torch.tensor([NORMAL_LEVELS], device=device)
        return Numbers(1.0, float8=False, levels=levels, floating=False)
    raise FormatError(
        f"format {weight_format.name}",
        "has no numbers of its own",
        "Use FP8, FP4 or NF4, or a method that learns",
    )


def fixed_levels(weight_format: WeightFormat, device: torch.device) -> torch.Tensor | None:
    """The levels of a format that every weight shares; ``None`` for integers, E4M3 and learned levels."""
    if weight_format.number_type == "int" or weight_format.codebook in ("row", "layer"):
        return None
    return numbers_of(weight_format, device).levels


def nearest_levels(values: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """Codes of the nearest of ascending ``levels``, int8; of two equally near the lower one.

    Args:
        values: any shape, or ``(rows, columns)`` with a row of levels each.
        levels: ``(2^b,)`` or ``(rows, 2^b)``, ascending.
    """
    middles = (levels[..., 1:] + levels[..., :-1]) / 2
    if levels.ndim == 1:
        places = torch.bucketize(values, middles, out_int32=True)
    else:
        places = torch.searchsorted(middles.contiguous(), values.contiguous(), out_int32=True)
    return (places - levels.shape[-1] // 2).to(torch.int8)
