"""Scales of formats that are not integers: how they are stored, and which are best.

The types: the model's dtype, float32, E4M3 under one float32 factor a matrix (NVFP4; NVIDIA 2025, "Pretraining
large language models with NVFP4", arXiv:2509.25149), and E8M0 (Microscaling, arXiv:2310.10537). Arithmetic of
compressed-tensors: what min-max gives here is bit for bit what it gives there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from paretune.compressors.float_rounding import LARGEST_E2M1, LARGEST_E4M3, power_of_two_scales, round_e4m3
from paretune.compressors.quantizers.affine import chunks, round_scales
from paretune.compressors.quantizers.blocks import from_blocks
from paretune.compressors.quantizers.numbers import Numbers
from paretune.compressors.quantizers.quantized_weight import QuantizedWeight
from paretune.spaces.formats import WeightFormat

_CLIPPING = {4: torch.linspace(1.0, 0.6, 17).tolist(), 8: torch.linspace(1.0, 0.55, 10).tolist()}
"""Shares of the extreme weight that are tried as the largest number: beyond half of it the binade repeats."""
_POWERS = (1.0, 0.5, 2.0)


@dataclass(frozen=True)
class ScaleType:
    """How the scales of one matrix are stored.

    Attributes:
        weight_format: that they belong to.
        dtype: of the model's scales.
        global_scale: float32 ``(1,)`` for E4M3 scales.
    """

    weight_format: WeightFormat
    dtype: torch.dtype
    global_scale: torch.Tensor | None

    @classmethod
    def of(cls, weight: torch.Tensor, weight_format: WeightFormat, dtype: torch.dtype) -> ScaleType:
        """For a whole matrix ``weight``."""
        if weight_format.scale != "fp8":
            return cls(weight_format, dtype, None)
        largest = weight.abs().max().to(torch.float32)
        # Scales times this factor use the range of E4M3; a matrix of zeros needs none.
        found = torch.where(largest > 0, LARGEST_E4M3 * LARGEST_E2M1 / largest, torch.ones_like(largest))
        return cls(
            weight_format, dtype, torch.where(found.isfinite(), found, torch.ones_like(found)).reshape(1)
        )

    def stored(self, scales: torch.Tensor) -> torch.Tensor:
        """Scales in the dtype they are stored in."""
        kind = self.weight_format.scale
        if kind == "fp8" and self.global_scale is not None:
            found = round_e4m3(scales * self.global_scale)
            tiny = torch.finfo(torch.float8_e4m3fn).eps
            return torch.where(found.to(torch.float32) == 0, tiny, found.to(torch.float32)).to(
                torch.float8_e4m3fn
            )
        if kind == "exponent":
            return scales.to(torch.float8_e8m0fnu)
        return round_scales(scales, torch.float32 if kind == "float32" else self.dtype).to(
            torch.float32 if kind == "float32" else self.dtype
        )

    def effective(self, stored: torch.Tensor) -> torch.Tensor:
        """What numbers are multiplied by, float32."""
        scales = stored.to(torch.float32)
        return scales if self.global_scale is None else scales / self.global_scale

    def reaching(self, largest: torch.Tensor, numbers: Numbers) -> torch.Tensor:
        """Scales that map ``largest`` to the largest number, not yet rounded (E8M0: rounded)."""
        if self.weight_format.scale == "exponent":
            return power_of_two_scales(largest, self.weight_format.num_bits)
        return largest / numbers.largest

    def offers(self, groups: torch.Tensor, numbers: Numbers) -> list[torch.Tensor]:
        """Stored scales to choose from, ``(groups,)`` each, the one without clipping first."""
        reach = self.reaching(groups.abs().amax(dim=1), numbers)
        if self.weight_format.scale == "exponent":
            return [self.stored(reach * power) for power in _POWERS]
        return [self.stored(reach * share) for share in _CLIPPING[8 if numbers.float8 else 4]]


def best_scales(groups: torch.Tensor, scale_type: ScaleType, numbers: Numbers) -> torch.Tensor:
    """Of the offers the stored scales of least squared error, group by group; the earlier one wins a tie."""
    parts = []
    for part in chunks(groups):
        offers = scale_type.offers(groups[part], numbers)
        errors = torch.stack([_error(groups[part], scale_type.effective(offer), numbers) for offer in offers])
        best = errors.argmin(dim=0, keepdim=True)
        # Gathered as bytes: indexing is not defined for every narrow dtype.
        whole = torch.stack([offer.to(torch.float32) for offer in offers])
        parts.append(whole.gather(0, best)[0])
    return torch.cat(parts).to(scale_type.stored(parts[0][:1]).dtype)


def _error(groups: torch.Tensor, scales: torch.Tensor, numbers: Numbers) -> torch.Tensor:
    wide = scales.unsqueeze(-1)
    difference = numbers.decode(numbers.encode(groups / wide)).mul_(wide).sub_(groups)
    found: torch.Tensor = torch.linalg.vecdot(difference, difference)
    return found


def scaled_weight(
    weight: torch.Tensor, groups: torch.Tensor, stored: torch.Tensor, scale_type: ScaleType, numbers: Numbers
) -> QuantizedWeight:
    """The weight under these scales.

    Args:
        weight: ``(rows, columns)``.
        groups: the same, one group a row.
        stored: scales of the groups, in their dtype.
        scale_type: of the scales.
        numbers: of the codes.
    """
    rows, columns = weight.shape
    size, tall = scale_type.weight_format.group_size or columns, scale_type.weight_format.block_rows or rows
    wide = scale_type.effective(stored).unsqueeze(-1)
    codes = torch.cat([numbers.encode(groups[part] / wide[part]) for part in chunks(groups)])
    return QuantizedWeight(
        codes=from_blocks(codes, weight.shape, tall, size),
        scales=stored.view(-(-rows // tall), -(-columns // size)),
        zeros=None,
        group_size=size,
        block_rows=tall,
        levels=numbers.levels,
        float8=numbers.float8,
        global_scales=scale_type.global_scale,
    )
