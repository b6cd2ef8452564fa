"""``int4``: packed 4-bit codes multiplied by bf16 inputs, scaled by row and group.

``torch._weight_int4pack_mm_for_cpu`` takes unsigned codes and computes ``(q - 8) * scale + zero`` for groups
of 32 to 256; scales and zeros are in the dtype of the inputs. bf16, because its float32 variant is a
reference loop. A row with one scale repeats it over groups that the kernel knows.
"""

from __future__ import annotations

import torch

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands
from paretune.engines.selection import int4_refusal

_GROUPS = (256, 128, 64, 32)
_MIDDLE = 8


class Int4Kernel(LinearKernel):
    """Symmetric, or with an integer zero point (folded into the kernel's own zero, rounded to bf16)."""

    name = "int4"
    tolerance = 1e-2

    def refusal(self, n: int, k: int, group_size: int | None) -> str:
        """Refuse shapes that the packing has no tiles for."""
        return int4_refusal(n, k, group_size)

    def pack(self, weight: LayerWeight) -> Operands:
        """``codes`` in the kernel's own layout, ``scales_and_zeros`` bf16 ``(groups, n, 2)``."""
        found = weight.codes(self.name)
        columns = found.codes.shape[1]
        repeat = found.group_size // _inner_group(found.group_size)
        scales = found.scales.to(torch.float32)
        shifts = torch.zeros_like(scales) if found.zeros is None else -scales * found.zeros.to(torch.float32)
        both = torch.stack([scales, shifts], dim=-1).to(torch.bfloat16)
        both = both.repeat_interleave(repeat, dim=1).transpose(0, 1).contiguous()
        unsigned = (found.codes.to(torch.int32) + _MIDDLE).view(-1, columns).contiguous()
        return {
            "codes": torch._convert_weight_to_int4pack_for_cpu(unsigned, 1),
            "scales_and_zeros": both,
        }

    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """See :meth:`LinearKernel.run`."""
        scales = operands["scales_and_zeros"]
        size = inputs.shape[-1] // scales.shape[0]
        rounded = inputs.to(torch.bfloat16)
        product = torch._weight_int4pack_mm_for_cpu(rounded, operands["codes"], size, scales)
        return product.to(inputs.dtype)


def _inner_group(size: int) -> int:
    """The largest of the kernel's groups that divides ``size``; 0 if there is none."""
    return next((group for group in _GROUPS if size % group == 0), 0)
