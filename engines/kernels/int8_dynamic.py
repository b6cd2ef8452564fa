"""``int8-dynamic``: 8-bit weights times inputs that are rounded to 8 bits by token, summed in int32.

The W8A8 of compressed-tensors: symmetric codes with one scale a row of the weight and one a row of the input
(largest magnitude / 127), multiplied by ``torch._int_mm``.
"""

from __future__ import annotations

import torch

from paretune.engines.kernels.kernel import LayerWeight, LinearKernel, Operands

_HALF_OF_STEPS = 127.5
"""As compressed-tensors: both signs reach the same magnitude."""


class Int8DynamicKernel(LinearKernel):
    """Exact up to float32 rounding: integer products have no error of their own."""

    name = "int8-dynamic"
    tolerance = 1e-5

    def refusal(self, n: int, k: int, group_size: int | None) -> str:
        """Refuse groups: sums over a row are taken in integers."""
        del n
        if group_size is not None and group_size != k:
            return "8-bit inputs need weights with one scale a channel"
        return ""

    def pack(self, weight: LayerWeight) -> Operands:
        """``codes`` int8 ``(n, k)``, ``scales`` float32 ``(n,)``."""
        found = weight.codes(self.name)
        return {"codes": found.codes.contiguous(), "scales": found.scales.to(torch.float32).view(-1)}

    def run(self, inputs: torch.Tensor, operands: Operands) -> torch.Tensor:
        """See :meth:`LinearKernel.run`."""
        exact = inputs.to(torch.float32)
        steps = exact.abs().amax(dim=-1, keepdim=True) / _HALF_OF_STEPS
        steps = torch.where(steps == 0, torch.ones_like(steps), steps)
        codes = (exact / steps).round_().clamp_(-128, 127).to(torch.int8)
        product = torch._int_mm(codes, operands["codes"].t()).to(torch.float32)
        return product.mul_(steps).mul_(operands["scales"]).to(inputs.dtype)
